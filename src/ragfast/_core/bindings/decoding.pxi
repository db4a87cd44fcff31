# Decoding, divergence, log-sum-exp by key.


def marginalize_step(np.ndarray logits not None, np.ndarray doc_logprobs not None, bint bfloat16, Py_ssize_t n_best,
                     int n_threads):
    """(...,K,V) plain floats of 64, 32 or 16 bits (bfloat16 as uint16) and (...,K) plain float64 -> the mixture (...,V); with
    n_best > 0 values and ids (...,n_best) instead. float64 for float64 logits, else float32."""
    require(doc_logprobs, "doc_logprobs", 1, 63, DOUBLE)
    cdef int ndim = np.PyArray_NDIM(doc_logprobs) - 1
    require(logits, "logits", ndim + 2, ndim + 2, FLOATS)
    require_axes(doc_logprobs, "doc_logprobs", 0, logits, 0, ndim + 1)
    cdef size_t n = product_of(doc_logprobs, ndim)
    cdef size_t n_docs = np.PyArray_DIM(logits, ndim), vocab = np.PyArray_DIM(logits, ndim + 1)
    cdef ragfast_dtype dtype = rows_dtype(logits, bfloat16)
    cdef np.npy_intp shape[64]
    cdef int i
    for i in range(ndim):
        shape[i] = np.PyArray_DIM(doc_logprobs, i)
    shape[ndim] = n_best if n_best else vocab
    cdef np.ndarray values = np.PyArray_EMPTY(
        ndim + 1, shape, np.NPY_DOUBLE if dtype == RAGFAST_F64 else np.NPY_FLOAT, 0)
    cdef np.ndarray ids = np.PyArray_EMPTY(ndim + 1, shape, np.NPY_INT64, 0) if n_best else None
    cdef void *out = NULL if n_best else np.PyArray_DATA(values)
    cdef void *best = np.PyArray_DATA(values) if n_best else NULL
    cdef int64_t *best_ids = <int64_t *>np.PyArray_DATA(ids) if n_best else NULL
    cdef const void *logits_data = np.PyArray_DATA(logits)
    cdef const double *docs_data = <const double *>np.PyArray_DATA(doc_logprobs)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_marginalize_step(out, best, best_ids, logits_data, docs_data, n, n_docs, vocab, dtype, n_best,
                                          &options)
    check(status)
    return (values, ids) if n_best else values


def kl(np.ndarray p not None, np.ndarray q not None, double p_temperature, double q_temperature, bint with_p_grad,
       bint with_q_grad, int n_threads):
    """KL(softmax(p / p_temperature) || softmax(q / q_temperature)) of (...,K) plain float64, two of one shape: (...,), and
    each gradient (...,K) or None."""
    require(p, "p", 1, 64, DOUBLE)
    cdef int ndim = np.PyArray_NDIM(p) - 1
    require(q, "q", ndim + 1, ndim + 1, DOUBLE)
    require_axes(q, "q", 0, p, 0, ndim + 1)
    cdef size_t n_rows = product_of(p, ndim), n = np.PyArray_DIM(p, ndim)
    cdef np.ndarray out = empty_like(p, ndim)
    cdef np.ndarray p_grad = empty_like(p, ndim + 1) if with_p_grad else None
    cdef np.ndarray q_grad = empty_like(p, ndim + 1) if with_q_grad else None
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef double *p_grad_data = <double *>np.PyArray_DATA(p_grad) if with_p_grad else NULL
    cdef double *q_grad_data = <double *>np.PyArray_DATA(q_grad) if with_q_grad else NULL
    cdef const double *p_data = <const double *>np.PyArray_DATA(p)
    cdef const double *q_data = <const double *>np.PyArray_DATA(q)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_kl(out_data, p_grad_data, q_grad_data, p_data, q_data, n_rows, n, p_temperature,
                            q_temperature, &options)
    check(status)
    return out, p_grad, q_grad


def segment_logsumexp(np.ndarray x not None, np.ndarray keys not None, Py_ssize_t n_keys, int n_threads):
    """(...,n) plain float64 and int64, keys below n_keys -> (...,n_keys) float64."""
    require(x, "x", 1, 64, DOUBLE)
    cdef int ndim = np.PyArray_NDIM(x) - 1
    require(keys, "keys", ndim + 1, ndim + 1, INDEX)
    require_axes(keys, "keys", 0, x, 0, ndim + 1)
    cdef size_t n_rows = product_of(x, ndim), n = np.PyArray_DIM(x, ndim)
    cdef np.npy_intp shape[64]
    cdef int i
    for i in range(ndim):
        shape[i] = np.PyArray_DIM(x, i)
    shape[ndim] = n_keys
    cdef np.ndarray out = np.PyArray_EMPTY(ndim + 1, shape, np.NPY_DOUBLE, 0)
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef const double *x_data = <const double *>np.PyArray_DATA(x)
    cdef const int64_t *keys_data = <const int64_t *>np.PyArray_DATA(keys)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_segment_logsumexp(out_data, x_data, keys_data, n_rows, n, n_keys, &options)
    check(status)
    return out
