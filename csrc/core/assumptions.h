/* What the code assumes of the compiler and the machine, checked when it is compiled. */
#ifndef RAGFAST_ASSUMPTIONS_H
#define RAGFAST_ASSUMPTIONS_H

#include "ragfast/status.h"

#include <float.h>
#include <limits.h>
#include <stdint.h>

/* Bounds and checks rely on NaN, infinities, signed zeros and on each operation as it is written. */
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) ||                               \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "ragfast must not be compiled with -ffast-math or parts of it"
#endif

_Static_assert(CHAR_BIT == 8, "bytes of 8 bits");
_Static_assert(-1 == ~0, "two's complement");
_Static_assert((-1 >> 1) == -1, "right shifts keep the sign");
_Static_assert(sizeof(size_t) == 8 && sizeof(void *) == 8 && SIZE_MAX == UINT64_MAX,
               "sizes of 64 bits: bounded factors, such as 2^31 documents x 2^20 dimensions, are multiplied unchecked");
_Static_assert(sizeof(int) == 4, "int of 32 bits");
_Static_assert(sizeof(float) == 4 && FLT_RADIX == 2 && FLT_MANT_DIG == 24 && FLT_MAX_EXP == 128, "IEEE binary32");
_Static_assert(sizeof(double) == 8 && DBL_MANT_DIG == 53 && DBL_MAX_EXP == 1024, "IEEE binary64");
_Static_assert((float)1e-45 > 0 && 4.9406564584124654e-324 > 0, "denormals");
_Static_assert(FLT_EVAL_METHOD == 0, "no excess precision: each operation is rounded to its type");
/* Tables of kernels are indexed by the type of the elements (ragfast_kernels.sum_exp). */
_Static_assert(RAGFAST_F32 == 0 && RAGFAST_F64 == 1 && RAGFAST_F16 == 2 && RAGFAST_BF16 == 3, "ragfast_dtype");
_Static_assert(RAGFAST_OK == 0, "a status is true where a call failed");

#endif
