# Segments as C sees them, and what is made of their rows once.


cdef inline np.ndarray plain_of(x, str name, int type_num, str type_name, np.npy_intp n):
    """x, if it is a plain array (n,) of that type, or None."""
    if x is not None and (not is_plain(x, type_num, 1) or np.PyArray_DIM(x, 0) != n):
        got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else repr(type(x))
        raise ValueError(f"{name}: expected a plain {type_name} array ({n},), got {got}")
    return x


cdef object KEEP = object()


cdef class Docs:
    """A segment as C sees it; ragfast/search.h, ragfast_docs. Plain arrays, read-only ones too, which it keeps alive: vectors (N,D)
    float32, float64 or the bits of 16-bit floats; norms (N,) float32, ids (N,) int64, codes of at least N documents, allowed
    (N / 32 rounded up,) uint32 bits, groups (N,) int32, half_squares (N,) float64, row_sums (N,) uint32, each or None.

    Nothing of it ever changes; ``changed`` gives another one over the same arrays."""

    cdef ragfast_docs c
    cdef readonly np.ndarray vectors
    cdef readonly Codes codes
    cdef object held, given

    def __init__(self, np.ndarray vectors not None, norms=None, ids=None, Codes codes=None, *, bint bfloat16=False,
                 int64_t first_id=0, allowed=None, groups=None, half_squares=None, row_sums=None, bint mapped=False):
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
        self.c.mapped = mapped
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


def measure_rows(np.ndarray rows not None, bint bfloat16, bint with_half_squares, int n_threads, np.ndarray copy=None):
    """Rows (N,D), plain, float32, float64 or the bits of 16-bit floats, each of which is read once -> norms (N,) float32,
    rounded up, or None of float64 rows; |row|^2 / 2 (N,) float64, or None; and the first row that is not finite, or None.
    copy, of the same type and shape, becomes a copy of them."""
    cdef int type_num = np.PyArray_TYPE(rows)
    if type_num not in (np.NPY_FLOAT, np.NPY_DOUBLE, np.NPY_FLOAT16, np.NPY_UINT16) or not is_plain(rows, type_num, 2):
        raise ValueError(f"rows: expected a plain array (N,D) of floats, got {rows.dtype} {np.shape(rows)}")
    if copy is not None and not (is_plain(copy, type_num, 2) and np.PyArray_ISWRITEABLE(copy) and
                                 np.shape(copy) == np.shape(rows)):
        raise ValueError(f"copy: expected a plain writable array {np.shape(rows)} of {rows.dtype}, got {copy.dtype} "
                         f"{np.shape(copy)}")
    cdef np.npy_intp n_rows = np.PyArray_DIM(rows, 0)
    cdef size_t dim = np.PyArray_DIM(rows, 1)
    cdef np.ndarray norms = None, half_squares = None
    cdef float *norms_data = NULL
    if type_num != np.NPY_DOUBLE:
        norms = np.PyArray_EMPTY(1, &n_rows, np.NPY_FLOAT, 0)
        norms_data = <float *>np.PyArray_DATA(norms)
    if with_half_squares:
        half_squares = np.PyArray_EMPTY(1, &n_rows, np.NPY_DOUBLE, 0)
    cdef double *half_squares_data = <double *>np.PyArray_DATA(half_squares) if with_half_squares else NULL
    cdef void *copy_data = NULL if copy is None else np.PyArray_DATA(copy)
    cdef ragfast_dtype dtype = rows_dtype(rows, bfloat16)
    cdef const void *rows_data = np.PyArray_DATA(rows)
    cdef size_t bad_row = 0
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_measure_rows(norms_data, half_squares_data, copy_data, &bad_row, rows_data, n_rows, dim, dtype,
                                      &options)
    if status == RAGFAST_ERROR_NONFINITE_DOC:
        return norms, half_squares, bad_row
    check(status)
    return norms, half_squares, None
