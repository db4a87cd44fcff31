# The int8 codes of documents.


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
    """Buffers for int8 codes of n_docs documents, of y = rotation ((x - center) weight); ragfast/search.h, ragfast_codes."""

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
            raise TypeError("codes: already initialized; searches may be reading these buffers")
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
        if prefix % 16 or (n_groups and prefix >= 16 * n_groups):  # without panels D is unknown
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
        """The high and the low plane, uint8, and the bounds, float32 (panels,5,32), as i8_layout.h has them."""
        high, low, bounds = self.arrays[:3]
        return high, low, bounds.view(np.float32).reshape(-1, 5, 32)

    def __reduce__(self):
        raise TypeError("codes are made anew by the index that a copy belongs to")

    def encode(self, np.ndarray vectors not None, size_t first, bint bfloat16, int n_threads,
               np.ndarray half_squares=None):
        """Documents from first on; vectors (n_docs,D) plain, finite, float32 or the bits of 16-bit floats; half_squares (n_docs,)
        for searches by distance, of codes without a prefix."""
        require(vectors, "vectors", 2, 2, FLOATS)
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
        cdef ragfast_options options = options_of(n_threads)
        cdef ragfast_status status
        with nogil:
            status = ragfast_encode(&self.c, data, squares, dtype, first, n_docs, dim, &options)
        check(status)
        self.half_squares = half_squares is not None
        self.n_encoded = max(self.n_encoded, <Py_ssize_t>n_docs)
