# The border between NumPy and csrc: arrays come in checked (arrays.py), each function allocates its outputs, releases
# the GIL, makes one C call and turns its status into an exception.
cimport numpy as np

import numpy as np

from ragfast.c_ragfast cimport *

np.import_array()


cdef int check(ragfast_status status) except -1:
    if status == RAGFAST_OK:
        return 0
    message = ragfast_strerror(status).decode()
    if status == RAGFAST_ERROR_MEMORY:
        raise MemoryError(message)
    raise ValueError(message)


def is_plain(x, int type_num, int ndim):
    """True if C can read x as it lies: an ndarray of that type and rank, contiguous, aligned, in native byte order."""
    if not np.PyArray_CheckExact(x):
        return False
    cdef np.ndarray a = x
    return np.PyArray_NDIM(a) == ndim and np.PyArray_TYPE(a) == type_num and np.PyArray_ISCARRAY_RO(a)


# ---- instruction-set levels and threads


def isa():
    return ragfast_isa().decode()


def known_isas():
    return [ragfast_isa_name(i).decode() for i in range(ragfast_isa_count())]


def available_isas():
    return [ragfast_isa_name(i).decode() for i in range(ragfast_isa_count()) if ragfast_isa_available(i)]


def set_isa(str name):
    encoded = name.encode()
    check(ragfast_set_isa(encoded))


def get_num_threads():
    return ragfast_get_num_threads()


def set_num_threads(int n):
    ragfast_set_num_threads(n)


# ---- retrieval


cdef class Hits:
    """What a search found, best first: ``scores``, ``ids`` and ``logprobs``, each (B,K), or (K,) of a single query.

    ``scores`` are inner products, ``ids`` int64, ``logprobs`` = log_softmax(scores / temperature) over K, which is
    log p(z|x) of Lewis et al. 2020, section 2.2. Where fewer than K documents exist the rest of a row is -inf, -1, -inf.
    Unpacks as ``scores, ids``.
    """

    cdef readonly object scores, ids, logprobs

    def __init__(self, scores, ids, logprobs):
        self.scores = scores
        self.ids = ids
        self.logprobs = logprobs

    def __iter__(self):
        return iter((self.scores, self.ids))

    def __repr__(self):
        return f"Hits(scores={self.scores!r}, ids={self.ids!r}, logprobs={self.logprobs!r})"

    def __reduce__(self):
        return Hits, (self.scores, self.ids, self.logprobs)


def search(np.ndarray queries not None, np.ndarray vectors not None, np.ndarray norms, np.ndarray ids, Py_ssize_t k,
           double temperature, int n_threads, int out_type):
    """(B,D) and (N,D) plain arrays of one type, float32 or float64; norms (N,) float32 or None, ids (N,) int64 or None."""
    cdef np.npy_intp shape[2]
    shape[0] = np.PyArray_DIM(queries, 0)
    shape[1] = k
    cdef np.ndarray scores = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray logprobs = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray doc_ids = np.PyArray_EMPTY(2, shape, np.NPY_INT64, 0)
    cdef ragfast_docs docs
    docs.vectors = np.PyArray_DATA(vectors)
    docs.norms = NULL if norms is None else <const float *>np.PyArray_DATA(norms)
    docs.ids = NULL if ids is None else <const int64_t *>np.PyArray_DATA(ids)
    docs.n_docs = np.PyArray_DIM(vectors, 0)
    docs.dim = np.PyArray_DIM(vectors, 1)
    docs.dtype = RAGFAST_F32 if np.PyArray_TYPE(vectors) == np.NPY_FLOAT else RAGFAST_F64
    cdef size_t n_queries = shape[0]
    cdef const void *queries_data = np.PyArray_DATA(queries)
    cdef double *scores_data = <double *>np.PyArray_DATA(scores)
    cdef double *logprobs_data = <double *>np.PyArray_DATA(logprobs)
    cdef int64_t *ids_data = <int64_t *>np.PyArray_DATA(doc_ids)
    cdef ragfast_status status
    with nogil:
        status = ragfast_search(scores_data, ids_data, logprobs_data, NULL, queries_data, n_queries, &docs, k,
                                temperature, n_threads)
    check(status)
    if out_type == np.NPY_FLOAT:
        return Hits(narrowed(scores), doc_ids, narrowed(logprobs))
    return Hits(scores, doc_ids, logprobs)


def narrowed(np.ndarray x not None):
    """A plain float64 array as float32. Unlike astype it does not depend on the caller's floating-point environment."""
    cdef np.ndarray out = np.PyArray_EMPTY(np.PyArray_NDIM(x), np.PyArray_DIMS(x), np.NPY_FLOAT, 0)
    ragfast_narrow(<float *>np.PyArray_DATA(out), <const double *>np.PyArray_DATA(x), np.PyArray_SIZE(x))
    return out


def widened(np.ndarray x not None):
    """A plain float32 array as float64, likewise."""
    cdef np.ndarray out = np.PyArray_EMPTY(np.PyArray_NDIM(x), np.PyArray_DIMS(x), np.NPY_DOUBLE, 0)
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef const float *x_data = <const float *>np.PyArray_DATA(x)
    cdef size_t n = np.PyArray_SIZE(x)
    with nogil:
        ragfast_widen(out_data, x_data, n)
    return out


def row_norms(np.ndarray rows not None, int n_threads):
    """Norms (N,) float32 rounded up, and the first row that is not finite, or None."""
    cdef np.npy_intp n_rows = np.PyArray_DIM(rows, 0)
    cdef size_t dim = np.PyArray_DIM(rows, 1)
    cdef np.ndarray norms = np.PyArray_EMPTY(1, &n_rows, np.NPY_FLOAT, 0)
    cdef float *norms_data = <float *>np.PyArray_DATA(norms)
    cdef const float *rows_data = <const float *>np.PyArray_DATA(rows)
    cdef size_t bad_row = 0
    cdef ragfast_status status
    with nogil:
        status = ragfast_row_norms(norms_data, &bad_row, rows_data, n_rows, dim, n_threads)
    if status == RAGFAST_ERROR_NONFINITE_DOC:
        return norms, bad_row
    check(status)
    return norms, None


# ---- log-sum-exp and marginalization


def is_plain_floats(x):
    """As is_plain, for float32 or float64 of any rank but 0."""
    if not np.PyArray_CheckExact(x):
        return False
    cdef np.ndarray a = x
    return (np.PyArray_NDIM(a) > 0 and np.PyArray_TYPE(a) in (np.NPY_FLOAT, np.NPY_DOUBLE)
            and np.PyArray_ISCARRAY_RO(a))


cdef ragfast_dtype dtype_of(np.ndarray a) noexcept:
    return RAGFAST_F32 if np.PyArray_TYPE(a) == np.NPY_FLOAT else RAGFAST_F64


cdef np.ndarray empty_like(np.ndarray a, int ndim):
    """Of the first ndim axes and the type of a."""
    return np.PyArray_EMPTY(ndim, np.PyArray_DIMS(a), np.PyArray_TYPE(a), 0)


cdef size_t product_of(np.ndarray a, int ndim) noexcept:
    cdef size_t product = 1
    for i in range(ndim):
        product *= np.PyArray_DIM(a, i)
    return product


def logsumexp(np.ndarray x not None, int n_threads):
    """(...,V) plain float32 or float64 -> (...,)."""
    cdef int ndim = np.PyArray_NDIM(x) - 1
    cdef np.ndarray out = empty_like(x, ndim)
    cdef size_t n_rows = product_of(x, ndim), n_cols = np.PyArray_DIM(x, ndim)
    cdef ragfast_dtype dtype = dtype_of(x)
    cdef const void *x_data = np.PyArray_DATA(x)
    cdef void *out_data = np.PyArray_DATA(out)
    cdef ragfast_status status
    with nogil:
        status = ragfast_logsumexp(out_data, x_data, n_rows, n_cols, dtype, n_threads)
    check(status)
    return out[()]


def log_softmax(np.ndarray x not None, int n_threads):
    """(...,V) plain float32 or float64 -> (...,V)."""
    cdef int ndim = np.PyArray_NDIM(x) - 1
    cdef np.ndarray out = empty_like(x, ndim + 1)
    cdef size_t n_rows = product_of(x, ndim), n_cols = np.PyArray_DIM(x, ndim)
    cdef ragfast_dtype dtype = dtype_of(x)
    cdef const void *x_data = np.PyArray_DATA(x)
    cdef void *out_data = np.PyArray_DATA(out)
    cdef ragfast_status status
    with nogil:
        status = ragfast_log_softmax(out_data, x_data, n_rows, n_cols, dtype, n_threads)
    check(status)
    return out


def marginalize(np.ndarray doc_logprobs not None, np.ndarray token_logprobs not None, bint by_token,
                bint with_posterior, int n_threads):
    """(...,K), (...,K,T), plain and of one type -> (...,T) by token, else (...,); and the posterior (...,K[,T]) or None."""
    cdef int ndim = np.PyArray_NDIM(doc_logprobs) - 1
    cdef size_t n_queries = product_of(doc_logprobs, ndim)
    cdef size_t n_docs = np.PyArray_DIM(token_logprobs, ndim), n_tokens = np.PyArray_DIM(token_logprobs, ndim + 1)
    cdef ragfast_dtype dtype = dtype_of(doc_logprobs)
    cdef np.npy_intp shape[64]
    cdef int i
    for i in range(ndim):
        shape[i] = np.PyArray_DIM(doc_logprobs, i)
    shape[ndim] = n_tokens
    cdef np.ndarray out = np.PyArray_EMPTY(ndim + by_token, shape, np.PyArray_TYPE(doc_logprobs), 0)
    cdef np.ndarray posterior = None
    if with_posterior:
        posterior = empty_like(token_logprobs if by_token else doc_logprobs, ndim + 1 + by_token)
    cdef void *out_data = np.PyArray_DATA(out)
    cdef void *posterior_data = np.PyArray_DATA(posterior) if with_posterior else NULL
    cdef const void *docs_data = np.PyArray_DATA(doc_logprobs)
    cdef const void *tokens_data = np.PyArray_DATA(token_logprobs)
    cdef ragfast_status status
    with nogil:
        if by_token:
            status = ragfast_marginalize_token(out_data, posterior_data, docs_data, tokens_data, n_queries, n_docs,
                                               n_tokens, dtype, n_threads)
        else:
            status = ragfast_marginalize_sequence(out_data, posterior_data, docs_data, tokens_data, n_queries, n_docs,
                                                  n_tokens, dtype, n_threads)
    check(status)
    return out[()], posterior
