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


cdef class SearchStats:
    """How a search was done: why it was as fast or as slow as it was.

    ``n_docs`` is N; ``rescored`` (B,) int64 counts the documents whose float64 score was calculated for each query,
    ``by_codes`` (B,) int64 those that went through the int8 codes, the others having gone through the float32 scan;
    ``prefix`` is the number of leading dimensions of a code that are looked at first, 0 for all at once.
    ``path`` (B,) says the same in words: "int8", "int8, then float32" where the codes did not repay themselves, "float32", or
    "float64" where every document was scored in full.
    """

    cdef readonly Py_ssize_t n_docs, prefix
    cdef object counts

    def __init__(self, Py_ssize_t n_docs, Py_ssize_t prefix, counts):
        self.n_docs = n_docs
        self.prefix = prefix
        self.counts = counts

    @property
    def rescored(self):
        return self.counts[..., 0]

    @property
    def by_codes(self):
        return self.counts[..., 1]

    @property
    def path(self):
        exact, coded = self.rescored >= self.n_docs, self.by_codes
        return np.select([coded == self.n_docs, coded > 0, exact], ["int8", "int8, then float32", "float64"], "float32")

    def __repr__(self):
        return (f"SearchStats(n_docs={self.n_docs}, path={self.path.tolist()}, rescored={self.rescored.tolist()}, "
                f"by_codes={self.by_codes.tolist()}, prefix={self.prefix})")

    def __getitem__(self, i):
        return SearchStats(self.n_docs, self.prefix, self.counts[i])

    def __reduce__(self):
        return SearchStats, (self.n_docs, self.prefix, self.counts)


cdef class Hits:
    """What a search found, best first: ``scores``, ``ids`` and ``logprobs``, each (B,K), or (K,) of a single query.

    ``scores`` are inner products, ``ids`` int64, ``logprobs`` = log_softmax(scores / temperature) over K, which is
    log p(z|x) of Lewis et al. 2020, section 2.2. Where fewer than K documents exist the rest of a row is -inf, -1, -inf.
    ``stats`` says how the search was done, a :class:`SearchStats`, or None. Unpacks as ``scores, ids``.
    """

    cdef readonly object scores, ids, logprobs, stats

    def __init__(self, scores, ids, logprobs, stats=None):
        self.scores = scores
        self.ids = ids
        self.logprobs = logprobs
        self.stats = stats

    def __iter__(self):
        return iter((self.scores, self.ids))

    def __repr__(self):
        return f"Hits(scores={self.scores!r}, ids={self.ids!r}, logprobs={self.logprobs!r})"

    def __reduce__(self):
        return Hits, (self.scores, self.ids, self.logprobs, self.stats)


cdef np.ndarray on_line(size_t n_bytes):
    """n_bytes of memory, zero, that begin on a cache line."""
    memory = np.zeros(n_bytes + 64, np.uint8)
    cdef size_t address = <size_t>np.PyArray_DATA(memory)
    return memory[-address % 64:][:n_bytes]


cdef ragfast_dtype rows_dtype(np.ndarray rows, bint bfloat16) noexcept:
    cdef int type_num = np.PyArray_TYPE(rows)
    if type_num == np.NPY_FLOAT:
        return RAGFAST_F32
    if type_num == np.NPY_DOUBLE:
        return RAGFAST_F64
    return RAGFAST_BF16 if bfloat16 else RAGFAST_F16


cdef class Codes:
    """Room for int8 codes of n_docs documents, of y = rotation ((x - center) weight); ragfast.h, ragfast_codes."""

    cdef ragfast_codes c
    cdef readonly Py_ssize_t nbytes
    cdef object arrays

    def __init__(self, size_t n_docs, size_t dim, np.ndarray center, np.ndarray weight, np.ndarray rotation,
                 double rotation_error, size_t prefix, bint always):
        cdef size_t high, low, bounds
        ragfast_codes_size(&high, &low, &bounds, n_docs, dim)
        cdef np.ndarray high_plane = on_line(high), low_plane = on_line(low), all_bounds = on_line(bounds)
        self.arrays = high_plane, low_plane, all_bounds, center, weight, rotation  # kept alive
        self.nbytes = high + low + bounds
        self.c.high = <uint8_t *>np.PyArray_DATA(high_plane)
        self.c.low = <uint8_t *>np.PyArray_DATA(low_plane)
        self.c.bounds = np.PyArray_DATA(all_bounds)
        self.c.center = NULL if center is None else <const float *>np.PyArray_DATA(center)
        self.c.weight = NULL if weight is None else <const float *>np.PyArray_DATA(weight)
        self.c.rotation = NULL if rotation is None else <const float *>np.PyArray_DATA(rotation)
        self.c.rotation_error = rotation_error
        self.c.prefix = prefix
        self.c.always = always

    @property
    def prefix(self):
        return self.c.prefix

    @property
    def planes(self):
        """The high and the low plane, uint8, and the bounds, float32 (panels,5,32), as codes.h has them: for the tests."""
        high, low, bounds = self.arrays[:3]
        return high, low, bounds.view(np.float32).reshape(-1, 5, 32)

    def __reduce__(self):
        raise TypeError("codes are made anew by the index that a copy belongs to")

    def encode(self, np.ndarray vectors not None, size_t first, bint bfloat16, int n_threads):
        """Documents from first on; vectors (n_docs,D) plain, finite, float32 or the bits of 16-bit floats."""
        cdef size_t n_docs = np.PyArray_DIM(vectors, 0), dim = np.PyArray_DIM(vectors, 1)
        cdef ragfast_dtype dtype = rows_dtype(vectors, bfloat16)
        cdef const void *data = np.PyArray_DATA(vectors)
        cdef ragfast_status status
        with nogil:
            status = ragfast_encode(&self.c, data, dtype, first, n_docs, dim, n_threads)
        check(status)


def search(np.ndarray queries not None, np.ndarray vectors not None, np.ndarray norms, np.ndarray ids, Codes codes,
           Py_ssize_t k, double temperature, int n_threads, int out_type, bint bfloat16):
    """(B,D) and (N,D) plain arrays of one type, float32 or float64, or float32 and the bits of 16-bit floats; norms (N,)
    float32 or None, ids (N,) int64 or None, codes of all documents or None."""
    cdef np.npy_intp shape[2]
    cdef np.npy_intp stats_shape[2]
    stats_shape[0] = shape[0] = np.PyArray_DIM(queries, 0)
    stats_shape[1] = 2
    shape[1] = k
    cdef np.ndarray scores = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray logprobs = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray doc_ids = np.PyArray_EMPTY(2, shape, np.NPY_INT64, 0)
    cdef np.ndarray counts = np.PyArray_EMPTY(2, stats_shape, np.NPY_INT64, 0)
    cdef ragfast_docs docs
    docs.vectors = np.PyArray_DATA(vectors)
    docs.norms = NULL if norms is None else <const float *>np.PyArray_DATA(norms)
    docs.ids = NULL if ids is None else <const int64_t *>np.PyArray_DATA(ids)
    docs.codes = NULL if codes is None else &codes.c
    docs.n_docs = np.PyArray_DIM(vectors, 0)
    docs.dim = np.PyArray_DIM(vectors, 1)
    docs.dtype = rows_dtype(vectors, bfloat16)
    cdef size_t n_queries = shape[0]
    cdef const void *queries_data = np.PyArray_DATA(queries)
    cdef double *scores_data = <double *>np.PyArray_DATA(scores)
    cdef double *logprobs_data = <double *>np.PyArray_DATA(logprobs)
    cdef int64_t *ids_data = <int64_t *>np.PyArray_DATA(doc_ids)
    cdef ragfast_query_stats *counts_data = <ragfast_query_stats *>np.PyArray_DATA(counts)
    cdef ragfast_status status
    with nogil:
        status = ragfast_search(scores_data, ids_data, logprobs_data, counts_data, queries_data, n_queries, &docs, k,
                                temperature, n_threads)
    check(status)
    stats = SearchStats(docs.n_docs, 0 if codes is None else codes.c.prefix, counts)
    if out_type == np.NPY_FLOAT:
        return Hits(narrowed(scores), doc_ids, narrowed(logprobs), stats)
    return Hits(scores, doc_ids, logprobs, stats)


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


def row_norms(np.ndarray rows not None, bint bfloat16, int n_threads):
    """Norms (N,) float32 rounded up, and the first row that is not finite, or None. Rows as in Codes.encode."""
    cdef np.npy_intp n_rows = np.PyArray_DIM(rows, 0)
    cdef size_t dim = np.PyArray_DIM(rows, 1)
    cdef np.ndarray norms = np.PyArray_EMPTY(1, &n_rows, np.NPY_FLOAT, 0)
    cdef float *norms_data = <float *>np.PyArray_DATA(norms)
    cdef ragfast_dtype dtype = rows_dtype(rows, bfloat16)
    cdef const void *rows_data = np.PyArray_DATA(rows)
    cdef size_t bad_row = 0
    cdef ragfast_status status
    with nogil:
        status = ragfast_row_norms(norms_data, &bad_row, rows_data, n_rows, dim, dtype, n_threads)
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
