# The bindings between NumPy and csrc: arrays come in checked (arrays.py), each function allocates its outputs, releases
# the GIL, makes one C call and turns its status into an exception. One module, which includes its subjects: a class
# stands above those that name it.
cimport numpy as np
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memset

import numpy as np

from ragfast._core.c_ragfast cimport *

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


include "bindings/machine.pxi"
include "bindings/codes.pxi"
include "bindings/documents.pxi"
include "bindings/search.pxi"
include "bindings/checksums.pxi"
include "bindings/marginal.pxi"
include "bindings/nll.pxi"
include "bindings/gather.pxi"
include "bindings/decoding.pxi"
