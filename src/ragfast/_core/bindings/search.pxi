# Retrieval: what a search finds and how.


cdef class SearchStats:
    """How a search was done: why it was as fast or as slow as it was.

    ``n_docs`` is N; ``rescored`` (B,) int64 counts the documents whose float64 score was calculated for each query,
    ``by_codes`` (B,) int64 those that went through the int8 codes, ``by_float32`` (B,) int64 those that went through the
    float32 scan; ``prefix`` is the number of leading dimensions of a code that are looked at first, 0 for all at once.
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
    def by_float32(self):
        return self.counts[..., 2]

    @property
    def path(self):
        coded, scanned = self.by_codes > 0, self.by_float32 > 0
        return np.select([coded & scanned, coded, scanned], ["int8, then float32", "int8", "float32"], "float64")

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


class CorruptDocument(ValueError):
    """The bytes of a document are not those that its checksum was made of: row ``row`` of segment ``segment``."""

    def __init__(self, segment, row):
        super().__init__(segment, row)
        self.segment = segment
        self.row = row

    def __str__(self):
        return f"row {self.row} of segment {self.segment} holds other bytes than its checksum was made of"


cdef check_search(np.ndarray queries, tuple docs, np.ndarray excluded_groups):
    """That C reads nothing beyond an array."""
    if not docs:
        raise ValueError("docs: expected one segment or more")
    for x in docs:
        if not isinstance(x, Docs):
            raise TypeError(f"docs: expected segments (Docs), got {type(x)!r}")
    cdef Docs first = docs[0], one
    for one in docs:
        if one.c.dim != first.c.dim or one.c.dtype != first.c.dtype:
            raise ValueError("docs: expected segments of one dimension and dtype")
    cdef int type_num = np.NPY_DOUBLE if first.c.dtype == RAGFAST_F64 else np.NPY_FLOAT
    if not is_plain(queries, type_num, 2) or <size_t>np.PyArray_DIM(queries, 1) != first.c.dim:
        raise ValueError(f"queries: expected a plain array (B,{first.c.dim}) of "
                         f"{'float64' if type_num == np.NPY_DOUBLE else 'float32'}, got {queries.dtype} {np.shape(queries)}")
    if excluded_groups is not None:
        plain_of(excluded_groups, "excluded_groups", np.NPY_INT32, "int32", np.PyArray_DIM(queries, 0))


def search(np.ndarray queries not None, tuple docs not None, Py_ssize_t k, double temperature, int n_threads,
           int out_type, np.ndarray excluded_groups=None, Py_ssize_t max_per_group=0, bint cosine=False):
    """(B,D) plain, float32, or float64 where the documents are; docs, segments (Docs,) of one D and dtype; excluded_groups (B,)
    int32 groups, negative for none, or None; max_per_group documents of a group, 0 for any number. cosine divides scores by the
    lengths of the queries."""
    check_search(queries, docs, excluded_groups)
    if k < 1 or max_per_group < 0:
        raise ValueError(f"expected k of 1 or more and max_per_group of 0 or more, got {k} and {max_per_group}")
    cdef np.npy_intp shape[2]
    cdef np.npy_intp stats_shape[2]
    stats_shape[0] = shape[0] = np.PyArray_DIM(queries, 0)
    stats_shape[1] = 3
    shape[1] = k
    cdef np.ndarray scores = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray logprobs = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray doc_ids = np.PyArray_EMPTY(2, shape, np.NPY_INT64, 0)
    cdef np.ndarray counts = np.PyArray_EMPTY(2, stats_shape, np.NPY_INT64, 0)
    cdef ragfast_docs on_stack[8]
    cdef ragfast_docs *segments = on_stack
    cdef size_t n_segments = len(docs), i, n_docs = 0, prefix = 0
    cdef Docs one
    if n_segments > 8:
        segments = <ragfast_docs *>PyMem_RawMalloc(n_segments * sizeof(ragfast_docs))
        if segments == NULL:
            raise MemoryError()
    for i in range(n_segments):
        one = docs[i]
        segments[i] = one.c
        n_docs += one.c.n_docs
        if one.c.codes != NULL and one.c.codes.prefix > prefix:
            prefix = one.c.codes.prefix
    cdef ragfast_constraints constraints
    constraints.excluded_groups = NULL if excluded_groups is None else <const int32_t *>np.PyArray_DATA(excluded_groups)
    constraints.max_per_group = max_per_group
    cdef ragfast_place corrupt
    cdef size_t n_queries = shape[0]
    cdef const void *queries_data = np.PyArray_DATA(queries)
    cdef double *scores_data = <double *>np.PyArray_DATA(scores)
    cdef double *logprobs_data = <double *>np.PyArray_DATA(logprobs)
    cdef int64_t *ids_data = <int64_t *>np.PyArray_DATA(doc_ids)
    cdef ragfast_query_stats *counts_data = <ragfast_query_stats *>np.PyArray_DATA(counts)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_search(scores_data, ids_data, logprobs_data, counts_data, &corrupt, queries_data, n_queries,
                                segments, n_segments, &constraints, k, cosine, temperature, &options)
        if segments != on_stack:
            PyMem_RawFree(segments)
    if status == RAGFAST_ERROR_CORRUPT_DOC:
        raise CorruptDocument(corrupt.segment, corrupt.row)
    check(status)
    stats = SearchStats(n_docs, prefix, counts)
    if out_type == np.NPY_FLOAT:
        return Hits(narrowed(scores), doc_ids, narrowed(logprobs), stats)
    return Hits(scores, doc_ids, logprobs, stats)


def narrowed(np.ndarray x not None):
    """A plain float64 array as float32. Unlike astype it does not depend on the caller's floating-point environment."""
    require(x, "x", 0, 64, DOUBLE)
    cdef np.ndarray out = np.PyArray_EMPTY(np.PyArray_NDIM(x), np.PyArray_DIMS(x), np.NPY_FLOAT, 0)
    ragfast_narrow(<float *>np.PyArray_DATA(out), <const double *>np.PyArray_DATA(x), np.PyArray_SIZE(x))
    return out


def widened(np.ndarray x not None):
    """A plain float32 array as float64, similarly."""
    require(x, "x", 0, 64, SINGLE)
    cdef np.ndarray out = np.PyArray_EMPTY(np.PyArray_NDIM(x), np.PyArray_DIMS(x), np.NPY_DOUBLE, 0)
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef const float *x_data = <const float *>np.PyArray_DATA(x)
    cdef size_t n = np.PyArray_SIZE(x)
    with nogil:
        ragfast_widen(out_data, x_data, n)
    return out
