# Log-sum-exp and marginalization.


cpdef bint is_plain_floats(x):
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
    require(x, "x", 1, 64, SINGLE | DOUBLE)
    cdef int ndim = np.PyArray_NDIM(x) - 1
    cdef np.ndarray out = empty_like(x, ndim)
    cdef size_t n_rows = product_of(x, ndim), n_cols = np.PyArray_DIM(x, ndim)
    cdef ragfast_dtype dtype = dtype_of(x)
    cdef const void *x_data = np.PyArray_DATA(x)
    cdef void *out_data = np.PyArray_DATA(out)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_logsumexp(out_data, x_data, n_rows, n_cols, dtype, &options)
    check(status)
    return out[()]


def log_softmax(np.ndarray x not None, int n_threads):
    """(...,V) plain float32 or float64 -> (...,V)."""
    require(x, "x", 1, 64, SINGLE | DOUBLE)
    cdef int ndim = np.PyArray_NDIM(x) - 1
    cdef np.ndarray out = empty_like(x, ndim + 1)
    cdef size_t n_rows = product_of(x, ndim), n_cols = np.PyArray_DIM(x, ndim)
    cdef ragfast_dtype dtype = dtype_of(x)
    cdef const void *x_data = np.PyArray_DATA(x)
    cdef void *out_data = np.PyArray_DATA(out)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_log_softmax(out_data, x_data, n_rows, n_cols, dtype, &options)
    check(status)
    return out


cdef bint go_together(doc_logprobs, token_logprobs):
    """Whether C can read both as they lie: plain, of one type, (...,K) with K of 1 or more, and (...,K,T)."""
    if not (is_plain_floats(doc_logprobs) and is_plain_floats(token_logprobs)):
        return False
    cdef np.ndarray docs = doc_logprobs, tokens = token_logprobs
    cdef int ndim = np.PyArray_NDIM(docs)
    if np.PyArray_TYPE(docs) != np.PyArray_TYPE(tokens) or np.PyArray_NDIM(tokens) != ndim + 1:
        return False
    for i in range(ndim):
        if np.PyArray_DIM(docs, i) != np.PyArray_DIM(tokens, i):
            return False
    return np.PyArray_DIM(docs, ndim - 1) > 0


def marginalize(docs, tokens, bint by_token, bint with_posterior, int n_threads):
    """(...,K), (...,K,T), plain and of one type -> (...,T) by token, else (...,); and the posterior (...,K[,T]) or None.
    None alone if they are not so: checking them here, once, is half the time of a small call."""
    if not go_together(docs, tokens):
        return None
    cdef np.ndarray doc_logprobs = docs, token_logprobs = tokens
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
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        if by_token:
            status = ragfast_marginalize_token(out_data, posterior_data, docs_data, tokens_data, n_queries, n_docs,
                                               n_tokens, dtype, &options)
        else:
            status = ragfast_marginalize_sequence(out_data, posterior_data, docs_data, tokens_data, n_queries, n_docs,
                                                  n_tokens, dtype, &options)
    check(status)
    return out[()], posterior
