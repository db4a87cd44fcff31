# Scores of chosen documents; top-k of shards.


cdef ragfast_docs docs_of(np.ndarray vectors, bint bfloat16) noexcept:
    """Plain (N,D), as in search, without norms, ids and codes."""
    cdef ragfast_docs docs
    memset(&docs, 0, sizeof(ragfast_docs))
    docs.vectors = np.PyArray_DATA(vectors)
    docs.n_docs = np.PyArray_DIM(vectors, 0)
    docs.dim = np.PyArray_DIM(vectors, 1)
    docs.dtype = rows_dtype(vectors, bfloat16)
    return docs


def gather_scores(np.ndarray queries not None, np.ndarray vectors not None, np.ndarray rows not None, int n_threads,
                  int out_type, bint bfloat16, np.ndarray half_squares=None):
    """(B,D) and (N,D) as in search, rows (B,K) int64 below N -> (B,K); with half_squares (N,) minus the squared distances."""
    require(vectors, "vectors", 2, 2, FLOATS)
    require(queries, "queries", 2, 2, DOUBLE if types_of(vectors) == DOUBLE else SINGLE)
    require_axes(queries, "queries", 1, vectors, 1, 1)
    require(rows, "rows", 2, 2, INDEX)
    require_axes(rows, "rows", 0, queries, 0, 1)
    cdef np.ndarray scores = np.PyArray_EMPTY(2, np.PyArray_DIMS(rows), np.NPY_DOUBLE, 0)
    cdef ragfast_docs docs = docs_of(vectors, bfloat16)
    docs.half_squares = half_squares_of(half_squares, vectors)
    cdef size_t n_queries = np.PyArray_DIM(rows, 0), k = np.PyArray_DIM(rows, 1)
    cdef double *scores_data = <double *>np.PyArray_DATA(scores)
    cdef const void *queries_data = np.PyArray_DATA(queries)
    cdef const int64_t *rows_data = <const int64_t *>np.PyArray_DATA(rows)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_gather_scores(scores_data, queries_data, rows_data, n_queries, k, &docs, &options)
    check(status)
    return narrowed(scores) if out_type == np.NPY_FLOAT else scores


def gather_scores_grad(np.ndarray grad not None, np.ndarray vectors not None, np.ndarray rows not None, int n_threads,
                       int out_type, bint bfloat16):
    """grad and rows (B,K), plain float64 and int64 below N, (N,D) as in search -> (B,D)."""
    require(vectors, "vectors", 2, 2, FLOATS)
    require(rows, "rows", 2, 2, INDEX)
    require(grad, "grad", 2, 2, DOUBLE)
    require_axes(grad, "grad", 0, rows, 0, 2)
    cdef ragfast_docs docs = docs_of(vectors, bfloat16)
    cdef np.npy_intp shape[2]
    shape[0] = np.PyArray_DIM(rows, 0)
    shape[1] = docs.dim
    cdef np.ndarray out = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef size_t n_queries = shape[0], k = np.PyArray_DIM(rows, 1)
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef const double *grad_data = <const double *>np.PyArray_DATA(grad)
    cdef const int64_t *rows_data = <const int64_t *>np.PyArray_DATA(rows)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_gather_scores_grad(out_data, grad_data, rows_data, n_queries, k, &docs, &options)
    check(status)
    return narrowed(out) if out_type == np.NPY_FLOAT else out


def merge_topk(np.ndarray scores not None, np.ndarray ids not None, Py_ssize_t k):
    """(S,B,K) plain float64 and int64 -> (B,k) of each; ValueError for lists that are not sorted."""
    require(scores, "scores", 3, 3, DOUBLE)
    require(ids, "ids", 3, 3, INDEX)
    require_axes(ids, "ids", 0, scores, 0, 3)
    cdef np.npy_intp shape[2]
    shape[0] = np.PyArray_DIM(scores, 1)
    shape[1] = k
    cdef np.ndarray best = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray best_ids = np.PyArray_EMPTY(2, shape, np.NPY_INT64, 0)
    cdef size_t n_lists = np.PyArray_DIM(scores, 0), n_queries = shape[0], n_in = np.PyArray_DIM(scores, 2)
    cdef double *best_data = <double *>np.PyArray_DATA(best)
    cdef int64_t *best_ids_data = <int64_t *>np.PyArray_DATA(best_ids)
    cdef const double *scores_data = <const double *>np.PyArray_DATA(scores)
    cdef const int64_t *ids_data = <const int64_t *>np.PyArray_DATA(ids)
    cdef ragfast_status status
    with nogil:
        status = ragfast_merge_topk(best_data, best_ids_data, scores_data, ids_data, n_lists, n_queries, n_in, k)
    check(status)
    return best, best_ids
