/* The status that a call returns, and the element types of arrays. */
#ifndef RAGFAST_STATUS_H
#define RAGFAST_STATUS_H

#include "ragfast/version.h"

#include <stddef.h>
#include <stdint.h>

RAGFAST_BEGIN_DECLARATIONS

typedef enum ragfast_status {
    RAGFAST_OK = 0,
    RAGFAST_ERROR_MEMORY,          /* the scratch block could not be had */
    RAGFAST_ERROR_ARGUMENT,        /* a size or scalar is outside its stated range, or sizes overflow */
    RAGFAST_ERROR_UNKNOWN_ISA,     /* no level of that name in this build */
    RAGFAST_ERROR_UNAVAILABLE_ISA, /* the level exists; this CPU or operating system lacks it */
    RAGFAST_ERROR_NONFINITE_QUERY, /* a query holds NaN or an infinity */
    RAGFAST_ERROR_NONFINITE_DOC,   /* a document holds NaN or an infinity */
    RAGFAST_ERROR_OVERFLOW,        /* a score of float64 inputs overflows (float32 inputs cannot) */
    RAGFAST_ERROR_CORRUPT_DOC,     /* the bytes of a document are not those that its checksum was made of */
    RAGFAST_ERROR_WRONG_KERNEL,    /* the level exists and this CPU runs it, but a kernel failed its test */
    RAGFAST_ERROR_ZERO_QUERY,      /* cosines were asked for, and a query is zero: it has no direction */
    RAGFAST_ERROR_CANCELLED        /* the poll callback of the options stopped the call, or forked the process */
} ragfast_status;

RAGFAST_API const char *ragfast_strerror(ragfast_status status);

/* The two of 16 bits are stored forms of documents, as uint16_t; their values are meant wherever this header says vector. */
typedef enum ragfast_dtype { RAGFAST_F32 = 0, RAGFAST_F64 = 1, RAGFAST_F16 = 2, RAGFAST_BF16 = 3 } ragfast_dtype;

RAGFAST_END_DECLARATIONS
#endif
