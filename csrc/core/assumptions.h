/* What the code assumes of the compiler and the machine, checked when it is compiled. */
#ifndef RAGFAST_ASSUMPTIONS_H
#define RAGFAST_ASSUMPTIONS_H

#include "ragfast/status.h"

#include <float.h>
#include <limits.h>

_Static_assert(CHAR_BIT == 8, "bytes of 8 bits");
_Static_assert(-1 == ~0, "two's complement");
_Static_assert((-1 >> 1) == -1, "right shifts keep the sign");
_Static_assert(sizeof(size_t) >= 8,
               "sizes of 64 bits: products such as documents x dimensions are formed before they are checked");
_Static_assert(sizeof(float) == 4 && FLT_RADIX == 2 && FLT_MANT_DIG == 24 && FLT_MAX_EXP == 128, "IEEE binary32");
_Static_assert(sizeof(double) == 8 && DBL_MANT_DIG == 53 && DBL_MAX_EXP == 1024, "IEEE binary64");
_Static_assert(FLT_EVAL_METHOD == 0, "no excess precision: each operation is rounded to its type");
/* Tables of kernels are indexed by the type of the elements (ragfast_kernels.sum_exp). */
_Static_assert(RAGFAST_F32 == 0 && RAGFAST_F64 == 1 && RAGFAST_F16 == 2 && RAGFAST_BF16 == 3, "ragfast_dtype");
_Static_assert(RAGFAST_OK == 0, "a status is true where a call failed");

#endif
