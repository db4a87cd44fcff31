# The border between NumPy and csrc: arrays come in checked (arrays.py), each function allocates its outputs, releases
# the GIL, makes one C call and turns its status into an exception.
cimport numpy as np
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memset

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


cpdef bint is_plain(x, int type_num, int ndim):
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


cdef const double *half_squares_of(np.ndarray half_squares, np.ndarray vectors) except? NULL:
    """Those of vectors (N,D), plain float64 (N,), or NULL."""
    if half_squares is None:
        return NULL
    if not is_plain(half_squares, np.NPY_DOUBLE, 1) or np.PyArray_DIM(half_squares, 0) != np.PyArray_DIM(vectors, 0):
        raise ValueError(f"half_squares: expected a plain float64 array ({np.PyArray_DIM(vectors, 0)},), got "
                         f"{half_squares.dtype} {np.shape(half_squares)}")
    return <const double *>np.PyArray_DATA(half_squares)


cdef class Codes:
    """Room for int8 codes of n_docs documents, of y = rotation ((x - center) weight); ragfast.h, ragfast_codes."""

    cdef ragfast_codes c
    cdef readonly Py_ssize_t nbytes, n_docs
    cdef Py_ssize_t n_groups, dim  # dim 0: what n_groups allow
    cdef readonly Py_ssize_t n_encoded  # documents, the first ones
    cdef readonly bint half_squares  # of those encoded: for searches by distance
    cdef object arrays
    cdef bint writable

    def __init__(self, size_t n_docs, size_t dim, np.ndarray center, np.ndarray weight, np.ndarray rotation,
                 double rotation_error, size_t prefix, bint always):
        if self.arrays is not None:
            raise TypeError("codes: these have their room already, which searches may be reading")
        cdef size_t high, low, bounds
        ragfast_codes_size(&high, &low, &bounds, n_docs, dim)
        self.take(n_docs, (dim + 15) // 16, dim, on_line(high), on_line(low), on_line(bounds), center, weight, rotation,
                  rotation_error, prefix, always)
        self.writable = True

    @staticmethod
    def over(np.ndarray high not None, np.ndarray low not None, np.ndarray bounds not None, np.ndarray center,
             np.ndarray weight, np.ndarray rotation, double rotation_error, size_t prefix, bint always,
             bint half_squares=False):
        """Codes that exist: the planes and bounds of `planes`, read-only ones too, as they lie; half_squares says whether they
        were encoded with such. They are of as many documents as they have panels for, and cannot be encoded any more."""
        cdef Codes codes = Codes.__new__(Codes)
        if not is_plain(high, np.NPY_UINT8, 1) or not is_plain(low, np.NPY_UINT8, 1):
            raise ValueError("codes: expected planes that are plain uint8 arrays of one axis")
        if not is_plain(bounds, np.NPY_FLOAT, 3) or np.PyArray_DIM(bounds, 1) != 5 or np.PyArray_DIM(bounds, 2) != 32:
            raise ValueError("codes: expected bounds that are a plain float32 array (panels,5,32), got "
                             f"{bounds.dtype} {np.shape(bounds)}")
        cdef size_t n_panels = np.PyArray_DIM(bounds, 0), high_size = np.PyArray_SIZE(high)
        cdef size_t low_size = np.PyArray_SIZE(low), n_groups = high_size // (384 * n_panels) if n_panels else 0
        if high_size != 384 * n_panels * n_groups or low_size != 128 * n_panels * n_groups:
            raise ValueError(f"codes: expected planes of 384 and 128 bytes for each of {n_panels} panels and 16 elements, "
                             f"got {high_size} and {low_size}")
        cdef size_t dim = 0
        for x in (center, weight, rotation):
            if x is not None:
                dim = len(x)
        if dim and n_panels and (dim + 15) // 16 != n_groups:
            raise ValueError(f"codes: expected planes of {dim} elements a document, got {high_size} bytes for {n_panels} "
                             "panels")
        codes.take(32 * n_panels, n_groups, dim, high, low, bounds, center, weight, rotation, rotation_error, prefix, always)
        codes.n_encoded = codes.n_docs
        codes.half_squares = half_squares
        return codes

    cdef take(self, size_t n_docs, size_t n_groups, size_t dim, np.ndarray high_plane, np.ndarray low_plane,
              np.ndarray all_bounds, np.ndarray center, np.ndarray weight, np.ndarray rotation, double rotation_error,
              size_t prefix, bint always):
        for name, x, ndim in (("center", center, 1), ("weight", weight, 1), ("rotation", rotation, 2)):
            if x is not None and (not is_plain(x, np.NPY_FLOAT, ndim) or np.shape(x) != (dim,) * ndim):
                raise ValueError(f"codes: expected {name} as a plain float32 array {(dim,) * ndim}, got {x.dtype} {np.shape(x)}")
        if prefix % 16 or (n_groups and prefix >= 16 * n_groups):  # without panels, nobody knows D
            raise ValueError(f"codes: expected a prefix that is a multiple of 16 and below D, got {prefix}")
        if not 0 <= rotation_error < 0.01:
            raise ValueError(f"codes: expected a rotation_error from 0 to below 0.01, got {rotation_error}")
        self.n_groups = n_groups
        cdef size_t high = np.PyArray_NBYTES(high_plane), low = np.PyArray_NBYTES(low_plane)
        cdef size_t bounds = np.PyArray_NBYTES(all_bounds)
        self.n_docs = n_docs
        self.dim = dim
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

    cdef bint fits(self, Py_ssize_t dim) noexcept:
        """Whether rows of dim elements may be what these are codes of."""
        return (self.n_docs == 0 or (dim + 15) // 16 == self.n_groups) and (self.dim == 0 or dim == self.dim) and \
            (self.c.prefix == 0 or <Py_ssize_t>self.c.prefix < dim)

    @property
    def prefix(self):
        return self.c.prefix

    @property
    def planes(self):
        """The high and the low plane, uint8, and the bounds, float32 (panels,5,32), as codes.h has them."""
        high, low, bounds = self.arrays[:3]
        return high, low, bounds.view(np.float32).reshape(-1, 5, 32)

    def __reduce__(self):
        raise TypeError("codes are made anew by the index that a copy belongs to")

    def encode(self, np.ndarray vectors not None, size_t first, bint bfloat16, int n_threads,
               np.ndarray half_squares=None):
        """Documents from first on; vectors (n_docs,D) plain, finite, float32 or the bits of 16-bit floats; half_squares (n_docs,)
        for searches by distance, of codes without a prefix."""
        cdef const double *squares = half_squares_of(half_squares, vectors)
        if not self.writable:
            raise ValueError("codes: these are read-only, of documents encoded before")
        if np.PyArray_DIM(vectors, 0) > self.n_docs or not self.fits(np.PyArray_DIM(vectors, 1)):
            raise ValueError(f"vectors: expected at most the {self.n_docs} rows of {self.dim} that there is room for, got "
                             f"{np.shape(vectors)}")
        if first > <size_t>self.n_encoded:
            raise ValueError(f"first: expected at most {self.n_encoded}, the documents encoded before, got {first}")
        if self.n_encoded and self.half_squares != (half_squares is not None):
            raise ValueError(f"half_squares: expected {'some' if self.half_squares else 'none'}, as for the documents before")
        cdef size_t n_docs = np.PyArray_DIM(vectors, 0), dim = np.PyArray_DIM(vectors, 1)
        cdef ragfast_dtype dtype = rows_dtype(vectors, bfloat16)
        cdef const void *data = np.PyArray_DATA(vectors)
        cdef ragfast_status status
        with nogil:
            status = ragfast_encode(&self.c, data, squares, dtype, first, n_docs, dim, n_threads)
        check(status)
        self.half_squares = half_squares is not None
        self.n_encoded = max(self.n_encoded, <Py_ssize_t>n_docs)


class CorruptDocument(ValueError):
    """The bytes of a document are not those that its checksum was made of: row ``row`` of segment ``segment``."""

    def __init__(self, segment, row):
        super().__init__(segment, row)
        self.segment = segment
        self.row = row

    def __str__(self):
        return f"row {self.row} of segment {self.segment} holds other bytes than its checksum was made of"


cdef inline np.ndarray plain_of(x, str name, int type_num, str type_name, np.npy_intp n):
    """x, if it is a plain array (n,) of that type, or None."""
    if x is not None and (not is_plain(x, type_num, 1) or np.PyArray_DIM(x, 0) != n):
        got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else repr(type(x))
        raise ValueError(f"{name}: expected a plain {type_name} array ({n},), got {got}")
    return x


cdef object KEEP = object()


cdef class Docs:
    """A segment as C sees it; ragfast.h, ragfast_docs. Plain arrays, read-only ones too, which it keeps alive: vectors (N,D)
    float32, float64 or the bits of 16-bit floats; norms (N,) float32, ids (N,) int64, codes of at least N documents, allowed
    (N / 32 rounded up,) uint32 bits, groups (N,) int32, half_squares (N,) float64, row_sums (N,) uint32, each or None.

    Nothing of it ever changes; ``changed`` gives another one over the same arrays."""

    cdef ragfast_docs c
    cdef readonly np.ndarray vectors
    cdef readonly Codes codes
    cdef object held, given

    def __init__(self, np.ndarray vectors not None, norms=None, ids=None, Codes codes=None, *, bint bfloat16=False,
                 int64_t first_id=0, allowed=None, groups=None, half_squares=None, row_sums=None, bint far=False):
        if self.vectors is not None:
            raise TypeError("docs: these never change")
        cdef int type_num = np.PyArray_TYPE(vectors)
        if type_num not in (np.NPY_FLOAT, np.NPY_DOUBLE, np.NPY_FLOAT16, np.NPY_UINT16) or not is_plain(vectors, type_num, 2):
            raise ValueError("vectors: expected a plain array (N,D) of float32, float64 or the bits of 16-bit floats, got "
                             f"{vectors.dtype} {np.shape(vectors)}")
        cdef np.npy_intp n = np.PyArray_DIM(vectors, 0), dim = np.PyArray_DIM(vectors, 1)
        if codes is not None and (codes.n_docs < n or not codes.fits(dim)):
            raise ValueError(f"codes: expected those of at least {n} documents of {dim} elements, got {codes.n_docs} of "
                             f"{codes.dim or 16 * codes.n_groups}")
        if codes is not None and codes.n_encoded < n:
            raise ValueError(f"codes: expected {n} documents or more to be encoded, got {codes.n_encoded}")
        if codes is not None and n and codes.half_squares != (half_squares is not None):
            raise ValueError(f"codes: expected those of documents encoded {'without' if half_squares is None else 'with'} "
                             "half_squares")
        if first_id < 0:
            raise ValueError(f"first_id: expected 0 or more, got {first_id}")
        self.vectors = vectors
        self.codes = codes
        self.c.vectors = np.PyArray_DATA(vectors)
        self.c.codes = NULL if codes is None else &codes.c
        self.c.n_docs = n
        self.c.dim = dim
        self.c.dtype = rows_dtype(vectors, bfloat16)
        self.c.first_id = first_id
        self.c.far = far
        cdef np.ndarray a = plain_of(norms, "norms", np.NPY_FLOAT, "float32", n)
        self.c.norms = NULL if a is None else <const float *>np.PyArray_DATA(a)
        a = plain_of(ids, "ids", np.NPY_INT64, "int64", n)
        self.c.ids = NULL if a is None else <const int64_t *>np.PyArray_DATA(a)
        a = plain_of(half_squares, "half_squares", np.NPY_DOUBLE, "float64", n)
        self.c.half_squares = NULL if a is None else <const double *>np.PyArray_DATA(a)
        a = plain_of(row_sums, "row_sums", np.NPY_UINT32, "uint32", n)
        self.c.row_sums = NULL if a is None else <const uint32_t *>np.PyArray_DATA(a)
        self.held = norms, ids, half_squares, row_sums
        self.take(allowed, groups)

    cdef take(self, allowed, groups):
        cdef np.npy_intp n = self.c.n_docs
        cdef np.ndarray a = plain_of(allowed, "allowed", np.NPY_UINT32, "uint32", (n + 31) // 32)
        self.c.allowed = NULL if a is None else <const uint32_t *>np.PyArray_DATA(a)
        a = plain_of(groups, "groups", np.NPY_INT32, "int32", n)
        self.c.groups = NULL if a is None else <const int32_t *>np.PyArray_DATA(a)
        self.given = allowed, groups

    def changed(self, *, allowed=KEEP, groups=KEEP):
        """The same documents with other bits, or other groups."""
        cdef Docs other = Docs.__new__(Docs)
        other.c = self.c
        other.vectors = self.vectors
        other.codes = self.codes
        other.held = self.held
        other.take(self.given[0] if allowed is KEEP else allowed, self.given[1] if groups is KEEP else groups)
        return other

    def __len__(self):
        return self.c.n_docs

    def __reduce__(self):
        raise TypeError("a segment as C sees it cannot be pickled or copied")


cdef check_search(np.ndarray queries, tuple docs, np.ndarray excluded):
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
    if excluded is not None:
        plain_of(excluded, "excluded", np.NPY_INT32, "int32", np.PyArray_DIM(queries, 0))


def search(np.ndarray queries not None, tuple docs not None, Py_ssize_t k, double temperature, int n_threads,
           int out_type, np.ndarray excluded=None, Py_ssize_t at_most=0):
    """(B,D) plain, float32, or float64 where the documents are; docs, segments (Docs,) of one D and dtype; excluded (B,)
    int32 groups, negative for none, or None; at_most documents of a group, 0 for any number."""
    check_search(queries, docs, excluded)
    if k < 1 or at_most < 0:
        raise ValueError(f"expected k of 1 or more and at_most of 0 or more, got {k} and {at_most}")
    cdef np.npy_intp shape[2]
    cdef np.npy_intp stats_shape[2]
    stats_shape[0] = shape[0] = np.PyArray_DIM(queries, 0)
    stats_shape[1] = 3
    shape[1] = k
    cdef np.ndarray scores = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray logprobs = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef np.ndarray doc_ids = np.PyArray_EMPTY(2, shape, np.NPY_INT64, 0)
    cdef np.ndarray counts = np.PyArray_EMPTY(2, stats_shape, np.NPY_INT64, 0)
    cdef ragfast_docs few[8]
    cdef ragfast_docs *segments = few
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
    cdef ragfast_rules rules
    rules.excluded = NULL if excluded is None else <const int32_t *>np.PyArray_DATA(excluded)
    rules.at_most = at_most
    cdef ragfast_place corrupt
    cdef size_t n_queries = shape[0]
    cdef const void *queries_data = np.PyArray_DATA(queries)
    cdef double *scores_data = <double *>np.PyArray_DATA(scores)
    cdef double *logprobs_data = <double *>np.PyArray_DATA(logprobs)
    cdef int64_t *ids_data = <int64_t *>np.PyArray_DATA(doc_ids)
    cdef ragfast_query_stats *counts_data = <ragfast_query_stats *>np.PyArray_DATA(counts)
    cdef ragfast_status status
    with nogil:
        status = ragfast_search(scores_data, ids_data, logprobs_data, counts_data, &corrupt, queries_data, n_queries,
                                segments, n_segments, &rules, k, temperature, n_threads)
        if segments != few:
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


def half_squares(np.ndarray vectors not None, bint bfloat16, int n_threads):
    """(N,D) as in search -> half the squared norms (N,), float64."""
    cdef np.npy_intp n_rows = np.PyArray_DIM(vectors, 0)
    cdef size_t dim = np.PyArray_DIM(vectors, 1)
    cdef np.ndarray out = np.PyArray_EMPTY(1, &n_rows, np.NPY_DOUBLE, 0)
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef ragfast_dtype dtype = rows_dtype(vectors, bfloat16)
    cdef const void *data = np.PyArray_DATA(vectors)
    cdef ragfast_status status
    with nogil:
        status = ragfast_half_squares(out_data, data, n_rows, dim, dtype, n_threads)
    check(status)
    return out


# ---- checksums: XXH64 with seed 0


cdef class Checksum:
    """The checksum of bytes that come in pieces. Of one thread at a time."""

    cdef ragfast_checksum_state state

    def __cinit__(self):
        ragfast_checksum_begin(&self.state)

    def update(self, data):
        """The next bytes: anything contiguous that offers its buffer, arrays of any type among them."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        with nogil:
            ragfast_checksum_update(&self.state, view.buf, view.len)
        PyBuffer_Release(&view)

    @property
    def value(self):
        return ragfast_checksum_end(&self.state)

    def __reduce__(self):
        raise TypeError("a checksum under way cannot be pickled or copied")


def checksum(data):
    """Of all bytes of something contiguous that offers its buffer."""
    cdef Py_buffer view
    cdef uint64_t value
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    with nogil:
        value = ragfast_checksum(view.buf, view.len)
    PyBuffer_Release(&view)
    return value


def row_sums(np.ndarray rows not None, int n_threads=0):
    """(N,...) contiguous, of any type -> the low 32 bits of the checksum of each row's bytes, (N,) uint32."""
    if np.PyArray_NDIM(rows) < 1 or not np.PyArray_IS_C_CONTIGUOUS(rows):
        raise ValueError("rows: expected a contiguous array of rows")
    cdef np.npy_intp n_rows = np.PyArray_DIM(rows, 0)
    cdef size_t row_bytes = np.PyArray_NBYTES(rows) // n_rows if n_rows else 0
    cdef np.ndarray sums = np.PyArray_EMPTY(1, &n_rows, np.NPY_UINT32, 0)
    cdef uint32_t *sums_data = <uint32_t *>np.PyArray_DATA(sums)
    cdef const void *data = np.PyArray_DATA(rows)
    cdef ragfast_status status
    with nogil:
        status = ragfast_row_sums(sums_data, data, n_rows, row_bytes, n_threads)
    check(status)
    return sums


# ---- log-sum-exp and marginalization


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


# ---- logits


cdef double *doubles(np.ndarray a) noexcept:
    """The data of a plain float64 array, or NULL for None."""
    return NULL if a is None else <double *>np.PyArray_DATA(a)


cdef np.ndarray empty_doubles(bint wanted, np.ndarray like, int ndim):
    """float64 of the first ndim axes of an array, or None."""
    return np.PyArray_EMPTY(ndim, np.PyArray_DIMS(like), np.NPY_DOUBLE, 0) if wanted else None


def target_logprobs(np.ndarray logits not None, np.ndarray targets not None, bint bfloat16, bint with_lse,
                    bint with_sums, int n_threads):
    """(n_rows,V) plain floats or the bits of 16-bit floats, (n_rows,) int64 below V -> float64 (n_rows,), and of that
    shape the LSE of each row and the sum over v of log p(v), or None."""
    cdef np.ndarray logprobs = empty_doubles(True, targets, 1)
    cdef np.ndarray lse = empty_doubles(with_lse, targets, 1), sums = empty_doubles(with_sums, targets, 1)
    cdef double *logprobs_data = doubles(logprobs)
    cdef double *lse_data = doubles(lse)
    cdef double *sums_data = doubles(sums)
    cdef const void *logits_data = np.PyArray_DATA(logits)
    cdef const int64_t *targets_data = <const int64_t *>np.PyArray_DATA(targets)
    cdef size_t n_rows = np.PyArray_DIM(logits, 0), vocab = np.PyArray_DIM(logits, 1)
    cdef ragfast_dtype dtype = rows_dtype(logits, bfloat16)
    cdef ragfast_status status
    with nogil:
        status = ragfast_target_logprobs(logprobs_data, lse_data, sums_data, logits_data, targets_data, n_rows, vocab,
                                         dtype, n_threads)
    check(status)
    return logprobs, lse, sums


def target_grad(np.ndarray out not None, np.ndarray logits not None, np.ndarray targets not None,
                np.ndarray lse not None, np.ndarray scale not None, np.ndarray shift, bint bfloat16, int n_threads):
    """Into out (n_rows,V), which may be logits: the gradient of what target_logprobs gives; ragfast.h. lse, scale and
    shift (n_rows,) plain float64, shift or None."""
    cdef void *out_data = np.PyArray_DATA(out)
    cdef const void *logits_data = np.PyArray_DATA(logits)
    cdef const int64_t *targets_data = <const int64_t *>np.PyArray_DATA(targets)
    cdef const double *lse_data = doubles(lse)
    cdef const double *scale_data = doubles(scale)
    cdef const double *shift_data = doubles(shift)
    cdef size_t n_rows = np.PyArray_DIM(logits, 0), vocab = np.PyArray_DIM(logits, 1)
    cdef ragfast_dtype dtype = rows_dtype(logits, bfloat16)
    cdef ragfast_status status
    with nogil:
        status = ragfast_target_grad(out_data, logits_data, targets_data, lse_data, scale_data, shift_data, n_rows,
                                     vocab, dtype, n_threads)
    check(status)


def rag_nll(np.ndarray scores not None, np.ndarray doc_scores not None, np.ndarray targets not None,
            np.ndarray weights, np.ndarray lse, np.ndarray logits_grad, bint bfloat16, bint by_token, bint as_hf,
            bint skip_first, bint lse_known, bint with_posterior, bint with_docs_grad, bint with_tokens_grad,
            double temperature, double label_smoothing, int n_threads):
    """Plain arrays: scores, either logits (B,K,T,V), floats or the bits of 16-bit ones, or token_logprobs (B,K,T) float64;
    doc_scores (B,K) float64, targets (B,T) int64. weights (B,) float64 or None. lse (B,K,T) float64, written, or
    read if lse_known, or None. logits_grad as logits, which it may be, or None.

    -> float64: nll (B,), and or None: the posterior (B,K), by token (B,K,T), the gradients of doc_scores and of
    token_logprobs."""
    cdef bint of_logits = np.PyArray_NDIM(scores) == 4
    cdef np.ndarray nll = empty_doubles(True, doc_scores, 1)
    cdef np.ndarray posterior = empty_doubles(with_posterior, scores, 3 if by_token else 2)
    cdef np.ndarray docs_grad = empty_doubles(with_docs_grad, doc_scores, 2)
    cdef np.ndarray tokens_grad = empty_doubles(with_tokens_grad, scores, 3)
    cdef ragfast_answers answers
    answers.logits = np.PyArray_DATA(scores) if of_logits else NULL
    answers.token_logprobs = NULL if of_logits else doubles(scores)
    answers.doc_scores = doubles(doc_scores)
    answers.targets = <const int64_t *>np.PyArray_DATA(targets)
    answers.n_queries = np.PyArray_DIM(scores, 0)
    answers.n_docs = np.PyArray_DIM(scores, 1)
    answers.n_tokens = np.PyArray_DIM(scores, 2)
    answers.vocab = np.PyArray_DIM(scores, 3) if of_logits else 1
    answers.dtype = rows_dtype(scores, bfloat16)
    cdef ragfast_loss loss
    loss.by_token = by_token
    loss.temperature = temperature
    loss.label_smoothing = label_smoothing
    loss.as_hf = as_hf
    loss.skip_first = skip_first
    loss.weights = doubles(weights)
    cdef ragfast_nll_out out
    out.nll = doubles(nll)
    out.posterior = doubles(posterior)
    out.doc_scores_grad = doubles(docs_grad)
    out.token_logprobs_grad = doubles(tokens_grad)
    out.logits_grad = NULL if logits_grad is None else np.PyArray_DATA(logits_grad)
    out.lse = doubles(lse)
    out.lse_known = lse_known
    cdef ragfast_status status
    with nogil:
        status = ragfast_rag_nll(&out, &answers, &loss, n_threads)
    check(status)
    return nll, posterior, docs_grad, tokens_grad


# ---- chosen documents, shards


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
    cdef np.ndarray scores = np.PyArray_EMPTY(2, np.PyArray_DIMS(rows), np.NPY_DOUBLE, 0)
    cdef ragfast_docs docs = docs_of(vectors, bfloat16)
    docs.half_squares = half_squares_of(half_squares, vectors)
    cdef size_t n_queries = np.PyArray_DIM(rows, 0), k = np.PyArray_DIM(rows, 1)
    cdef double *scores_data = <double *>np.PyArray_DATA(scores)
    cdef const void *queries_data = np.PyArray_DATA(queries)
    cdef const int64_t *rows_data = <const int64_t *>np.PyArray_DATA(rows)
    cdef ragfast_status status
    with nogil:
        status = ragfast_gather_scores(scores_data, queries_data, rows_data, n_queries, k, &docs, n_threads)
    check(status)
    return narrowed(scores) if out_type == np.NPY_FLOAT else scores


def gather_scores_grad(np.ndarray grad not None, np.ndarray vectors not None, np.ndarray rows not None, int n_threads,
                       int out_type, bint bfloat16):
    """grad and rows (B,K), plain float64 and int64 below N, (N,D) as in search -> (B,D)."""
    cdef ragfast_docs docs = docs_of(vectors, bfloat16)
    cdef np.npy_intp shape[2]
    shape[0] = np.PyArray_DIM(rows, 0)
    shape[1] = docs.dim
    cdef np.ndarray out = np.PyArray_EMPTY(2, shape, np.NPY_DOUBLE, 0)
    cdef size_t n_queries = shape[0], k = np.PyArray_DIM(rows, 1)
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef const double *grad_data = <const double *>np.PyArray_DATA(grad)
    cdef const int64_t *rows_data = <const int64_t *>np.PyArray_DATA(rows)
    cdef ragfast_status status
    with nogil:
        status = ragfast_gather_scores_grad(out_data, grad_data, rows_data, n_queries, k, &docs, n_threads)
    check(status)
    return narrowed(out) if out_type == np.NPY_FLOAT else out


def merge_topk(np.ndarray scores not None, np.ndarray ids not None, Py_ssize_t k):
    """(S,B,K) plain float64 and int64 -> (B,k) of each; ValueError for lists that are not sorted."""
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


# ---- decoding, divergence, keys


def marginalize_step(np.ndarray logits not None, np.ndarray doc_logprobs not None, bint bfloat16, Py_ssize_t n_best,
                     int n_threads):
    """(...,K,V) plain floats of 64, 32 or 16 bits (bfloat16 as uint16) and (...,K) plain float64 -> the mixture (...,V); with
    n_best > 0 values and ids (...,n_best) instead. float64 for float64 logits, else float32."""
    cdef int ndim = np.PyArray_NDIM(doc_logprobs) - 1
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
    cdef ragfast_status status
    with nogil:
        status = ragfast_marginalize_step(out, best, best_ids, logits_data, docs_data, n, n_docs, vocab, dtype, n_best,
                                          n_threads)
    check(status)
    return (values, ids) if n_best else values


def kl(np.ndarray p not None, np.ndarray q not None, double p_temperature, double q_temperature, bint with_p_grad,
       bint with_q_grad, int n_threads):
    """KL(softmax(p / p_temperature) || softmax(q / q_temperature)) of (...,K) plain float64, two of one shape: (...,), and
    each gradient (...,K) or None."""
    cdef int ndim = np.PyArray_NDIM(p) - 1
    cdef size_t n_rows = product_of(p, ndim), n = np.PyArray_DIM(p, ndim)
    cdef np.ndarray out = empty_like(p, ndim)
    cdef np.ndarray p_grad = empty_like(p, ndim + 1) if with_p_grad else None
    cdef np.ndarray q_grad = empty_like(p, ndim + 1) if with_q_grad else None
    cdef double *out_data = <double *>np.PyArray_DATA(out)
    cdef double *p_grad_data = <double *>np.PyArray_DATA(p_grad) if with_p_grad else NULL
    cdef double *q_grad_data = <double *>np.PyArray_DATA(q_grad) if with_q_grad else NULL
    cdef const double *p_data = <const double *>np.PyArray_DATA(p)
    cdef const double *q_data = <const double *>np.PyArray_DATA(q)
    cdef ragfast_status status
    with nogil:
        status = ragfast_kl(out_data, p_grad_data, q_grad_data, p_data, q_data, n_rows, n, p_temperature,
                            q_temperature, n_threads)
    check(status)
    return out, p_grad, q_grad


def keyed_logsumexp(np.ndarray x not None, np.ndarray keys not None, Py_ssize_t n_keys, int n_threads):
    """(...,n) plain float64 and int64, keys below n_keys -> (...,n_keys) float64."""
    cdef int ndim = np.PyArray_NDIM(x) - 1
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
    cdef ragfast_status status
    with nogil:
        status = ragfast_keyed_logsumexp(out_data, x_data, keys_data, n_rows, n, n_keys, n_threads)
    check(status)
    return out


# ---- what the machine can do


def burn(str arithmetic, Py_ssize_t rounds):
    """Does nothing but "float32" multiply-adds or "int8" products, at the level in use on the calling thread, for time
    proportional to rounds. Returns how many multiplications and additions that were."""
    if arithmetic not in ("float32", "int8"):
        raise ValueError(f"arithmetic: expected 'float32' or 'int8', got {arithmetic!r}")
    if rounds < 0:
        raise ValueError(f"rounds: expected 0 or more, got {rounds}")
    cdef ragfast_arithmetic which = RAGFAST_FLOAT32 if arithmetic == "float32" else RAGFAST_INT8
    cdef uint64_t operations
    cdef size_t n_rounds = rounds
    cdef ragfast_status status
    with nogil:
        status = ragfast_burn(&operations, which, n_rounds)
    check(status)
    return operations


def read(np.ndarray x not None):
    """Reads the bytes of a contiguous array once. Returns the sum modulo 2**64 of its 8-byte words."""
    if not np.PyArray_IS_C_CONTIGUOUS(x):
        raise ValueError("x: expected a contiguous array")
    cdef const void *data = np.PyArray_DATA(x)
    cdef size_t n_bytes = np.PyArray_NBYTES(x)
    cdef uint64_t checksum
    with nogil:
        checksum = ragfast_read(data, n_bytes)
    return checksum
