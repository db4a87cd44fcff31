# Checksums: XXH64 with seed 0.


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
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_row_sums(sums_data, data, n_rows, row_bytes, &options)
    check(status)
    return sums
