/* Single elements of arrays whose type is known only at run time: for reference code and for the odd element, not for loops
 * that matter. */
#ifndef RAGFAST_ELEMENTS_H
#define RAGFAST_ELEMENTS_H

#include "core/assumptions.h"

#include <math.h>
#include <string.h>

static inline size_t ragfast_element_size(ragfast_dtype dtype) {
    return dtype == RAGFAST_F64 ? 8 : dtype == RAGFAST_F32 ? 4 : 2;
}

static inline double ragfast_element(const void *x, size_t i, ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return ((const double *)x)[i];
    if (dtype == RAGFAST_F32) return ((const float *)x)[i];
    const uint32_t bits = ((const uint16_t *)x)[i];
    if (dtype == RAGFAST_BF16) {
        const uint32_t wide = bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
    const uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    double magnitude = exponent ? ldexp(1024 + fraction, (int)exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) magnitude = fraction ? NAN : INFINITY;
    return bits >> 15 ? -magnitude : magnitude;
}

/* To nearest, ties to even, by way of float32 for the 16-bit types, as the kernels round. A NaN stays one. */
static inline void ragfast_put_element(void *out, size_t i, double x, ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) {
        ((double *)out)[i] = x;
        return;
    }
    const float single = (float)x;
    if (dtype == RAGFAST_F32) {
        ((float *)out)[i] = single;
        return;
    }
    uint32_t bits, half;
    memcpy(&bits, &single, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    if (single != single)
        half = dtype == RAGFAST_BF16 ? 0x7fc0 : 0x7e00;
    else if (dtype == RAGFAST_BF16)
        half = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    else if (fabsf(single) >= 65520)
        half = sign | 0x7c00;
    else if (fabsf(single) < 0x1p-14f)
        half = sign | (uint32_t)lrint(fabs((double)single) * 0x1p24);
    else
        half = sign | (((bits & 0x7fffffff) - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
    ((uint16_t *)out)[i] = (uint16_t)half;
}

#endif
