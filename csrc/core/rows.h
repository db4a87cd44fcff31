/* Rows of vectors: widening to float32, norms, the layout that packed tiles take. */
#ifndef RAGFAST_ROWS_H
#define RAGFAST_ROWS_H

#include "core/kernels.h"

#include <math.h>
#include <string.h>

/* Document `row` as float32: where it lies, or widened to out (D). */
const float *ragfast_widened(const ragfast_kernels *kernels, float *out, const void *vectors, ragfast_dtype dtype,
                             size_t row, size_t dim);

/* Rows (n,D) as tile_packed_f32 has queries: (n / TILE_QUERIES rounded up, D, TILE_QUERIES), absent ones zero. */
void ragfast_interleave_f32(float *out, const float *rows, size_t n, size_t dim);

/* The least float32 that is not below x >= 0, or NaN. Every other x rounds down: neither a branch nor a call of nextafterf. */
static inline float ragfast_rounded_up(double x) {
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits += (double)f < x;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* An upper bound in float32 of a norm, from its square in float64. Inline: a one-shot search calls it for each document. */
static inline float ragfast_norm_rounded_up(double squared) {
    /* The factor covers the rounding of the sum (D <= 2^20) and of the root. */
    return ragfast_rounded_up(sqrt(squared) * (1 + 0x1p-36));
}

static inline int ragfast_all_finite(const double *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

#endif
