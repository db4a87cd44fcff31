# Instruction-set levels, threads, and what the machine can do.


def isa():
    return ragfast_isa().decode()


def known_isas():
    return [ragfast_isa_name(i).decode() for i in range(ragfast_isa_count())]


def available_isas():
    return [ragfast_isa_name(i).decode() for i in range(ragfast_isa_count()) if ragfast_isa_available(i)]


def wrong_kernels():
    """By level, the kernel that gave a wrong answer: first of the level that has it, then of those that include it."""
    names = {}
    for i in range(ragfast_isa_count()):
        kernel = ragfast_isa_wrong_kernel(i)
        if kernel != NULL:
            names[ragfast_isa_name(i).decode()] = kernel.decode()
    return names


def set_isa(str name):
    encoded = name.encode()
    check(ragfast_set_isa(encoded))


def get_num_threads():
    return ragfast_get_num_threads()


def set_num_threads(int n):
    ragfast_set_num_threads(n)


def peak_operations(str arithmetic, Py_ssize_t rounds):
    """Does nothing but "float32" multiply-adds or "int8" products, at the level in use on the calling thread, for time
    proportional to rounds. Returns how many multiplications and additions that were."""
    if arithmetic not in ("float32", "int8"):
        raise ValueError(f"arithmetic: expected 'float32' or 'int8', got {arithmetic!r}")
    if rounds < 0:
        raise ValueError(f"rounds: expected 0 or more, got {rounds}")
    cdef peak_arithmetic which = PEAK_FLOAT32 if arithmetic == "float32" else PEAK_INT8
    cdef uint64_t operations
    cdef size_t n_rounds = rounds
    cdef ragfast_status status
    with nogil:
        status = c_peak_operations(&operations, which, n_rounds)
    check(status)
    return operations


def peak_read(np.ndarray x not None):
    """Reads the bytes of a contiguous array once. Returns the sum modulo 2**64 of its 8-byte words."""
    if not np.PyArray_IS_C_CONTIGUOUS(x):
        raise ValueError("x: expected a contiguous array")
    cdef const void *data = np.PyArray_DATA(x)
    cdef size_t n_bytes = np.PyArray_NBYTES(x)
    cdef uint64_t checksum
    cdef ragfast_status status
    with nogil:
        status = c_peak_read(&checksum, data, n_bytes)
    check(status)
    return checksum
