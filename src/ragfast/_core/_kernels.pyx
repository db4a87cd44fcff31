# The bindings between NumPy and csrc: arrays come in checked (arrays.py), each function allocates its outputs, releases
# the GIL, makes one C call and turns its status into an exception. One module, which includes its subjects: a class
# stands above those that name it.
cimport numpy as np
import os
import threading

from cpython.exc cimport PyErr_Occurred
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memset

import numpy as np

from ragfast._core.c_ragfast cimport *

np.import_array()


cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # leaves the exception where it is: Cython's own declaration raises it

cdef unsigned long main_thread = 0  # where Python runs signal handlers


def _find_main_thread():
    global main_thread
    main_thread = threading.main_thread().ident


_find_main_thread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_find_main_thread)


cdef int run_signal_handlers(void *unused) noexcept with gil:
    """The poll callback of calls on the main thread: 1, with the exception set, if a handler raised one."""
    return PyErr_CheckSignals() != 0


cdef inline ragfast_options options_of(int n_threads) noexcept:
    """Those of a call. It handles signals while it runs, as Python code does, if this is the main thread."""
    cdef ragfast_options options
    options.n_threads = n_threads
    options.poll = NULL
    if PyThread_get_thread_ident() == main_thread:
        options.poll = run_signal_handlers
    options.context = NULL
    return options


cdef int check(ragfast_status status) except -1:
    if status == RAGFAST_OK:
        return 0
    if status == RAGFAST_ERROR_CANCELLED and PyErr_Occurred():
        return -1
    message = ragfast_strerror(status).decode()
    if status == RAGFAST_ERROR_MEMORY:
        raise MemoryError(message)
    if status == RAGFAST_ERROR_CANCELLED:
        raise RuntimeError("a signal handler forked this process in the middle of a call, which the child cannot complete")
    raise ValueError(message)


cpdef bint is_plain(x, int type_num, int ndim):
    """True if C can read x as it lies: an ndarray of that type and rank, contiguous, aligned, in native byte order."""
    if not np.PyArray_CheckExact(x):
        return False
    cdef np.ndarray a = x
    return np.PyArray_NDIM(a) == ndim and np.PyArray_TYPE(a) == type_num and np.PyArray_ISCARRAY_RO(a)


cdef enum:  # element types that a function takes
    SINGLE = 1
    DOUBLE = 2
    HALF = 4  # float16, or bfloat16 as uint16
    INDEX = 8  # int64
    FLOATS = SINGLE | DOUBLE | HALF


cdef int types_of(np.ndarray a) noexcept:
    cdef int type_num = np.PyArray_TYPE(a)
    if type_num == np.NPY_FLOAT:
        return SINGLE
    if type_num == np.NPY_DOUBLE:
        return DOUBLE
    if type_num == np.NPY_FLOAT16 or type_num == np.NPY_UINT16:
        return HALF
    return INDEX if np.PyArray_ISSIGNED(a) and np.PyArray_ISINTEGER(a) and np.PyArray_ITEMSIZE(a) == 8 else 0


cdef int require(np.ndarray a, str name, int min_ndim, int max_ndim, int types) except -1:
    """ValueError unless C can read the array as it lies, with that many axes and one of these element types."""
    cdef int ndim = np.PyArray_NDIM(a)
    if ndim < min_ndim or ndim > max_ndim or not types_of(a) & types or not np.PyArray_ISCARRAY_RO(a):
        raise ValueError(f"{name}: must be a contiguous, aligned array of the right type with {min_ndim} or more axes, at most "
                         f"{max_ndim}; got {a.dtype} {np.shape(a)}")
    return 0


cdef int require_axes(np.ndarray a, str name, int first, np.ndarray b, int first_of_b, int n) except -1:
    """ValueError unless n axes of a, from `first` on, are as long as those of b from `first_of_b` on."""
    cdef int i
    for i in range(n):
        if np.PyArray_DIM(a, first + i) != np.PyArray_DIM(b, first_of_b + i):
            raise ValueError(f"{name}: does not fit the other arrays; got the shapes {np.shape(a)} and {np.shape(b)}")
    return 0


cdef int require_output(np.ndarray a, str name, np.ndarray like) except -1:
    """ValueError unless C can write the array, which has the type and the shape of `like`, a plain one."""
    if np.PyArray_TYPE(a) != np.PyArray_TYPE(like) or not np.PyArray_ISCARRAY(a) or np.shape(a) != np.shape(like):
        raise ValueError(f"{name}: must be a writable, contiguous array {np.shape(like)} of {like.dtype}; got {a.dtype} "
                         f"{np.shape(a)}")
    return 0


include "bindings/machine.pxi"
include "bindings/codes.pxi"
include "bindings/documents.pxi"
include "bindings/search.pxi"
include "bindings/checksums.pxi"
include "bindings/marginal.pxi"
include "bindings/nll.pxi"
include "bindings/gather.pxi"
include "bindings/decoding.pxi"
