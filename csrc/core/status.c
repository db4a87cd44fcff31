#include "ragfast/status.h"

#include "core/assumptions.h"

const char *ragfast_version(void) { return RAGFAST_VERSION; }

const char *ragfast_strerror(ragfast_status status) {
    switch (status) {
    case RAGFAST_OK: return "no error";
    case RAGFAST_ERROR_MEMORY: return "out of memory for the scratch block of this call";
    case RAGFAST_ERROR_ARGUMENT: return "a size or scalar is outside its range";
    case RAGFAST_ERROR_UNKNOWN_ISA: return "no instruction-set level of that name in this build";
    case RAGFAST_ERROR_UNAVAILABLE_ISA: return "this CPU or operating system lacks that instruction-set level";
    case RAGFAST_ERROR_WRONG_KERNEL:
        return "a kernel of that instruction-set level, or of one that it includes, gives wrong results on this "
               "machine";
    case RAGFAST_ERROR_NONFINITE_QUERY: return "a query holds NaN or an infinity";
    case RAGFAST_ERROR_NONFINITE_DOC: return "a document holds NaN or an infinity";
    case RAGFAST_ERROR_OVERFLOW: return "an inner product of float64 values overflows float64";
    case RAGFAST_ERROR_CORRUPT_DOC: return "a document holds other bytes than its checksum was made of";
    case RAGFAST_ERROR_ZERO_QUERY: return "a query holds zeros only, and so has no cosines";
    case RAGFAST_ERROR_CANCELLED: return "the poll callback cancelled the call";
    }
    return "unknown status";
}
