/* What float64 scores share beside their loops, which the level's file defines as the first two functions here. dtype and l2
 * are constants wherever these are inlined. Contracts: core/kernels.h. */
#ifndef RAGFAST_SCORE_VECTOR_H
#define RAGFAST_SCORE_VECTOR_H

#include "kernels/elements_vector.h"

INLINE double inner(const void *a, const void *b, size_t dim, const ragfast_dtype dtype);
INLINE void score_rows(double *out, const void *query, const void *const *rows, size_t n, const void *const *ahead,
                       size_t n_ahead, size_t dim, const ragfast_dtype dtype, const int l2);

static double LEVEL(inner_f64_f32)(const float *a, const float *b, size_t dim) { return inner(a, b, dim, RAGFAST_F32); }
static double LEVEL(inner_f64_f64)(const double *a, const double *b, size_t dim) {
    return inner(a, b, dim, RAGFAST_F64);
}

static void LEVEL(score_rows)(double *out, const void *query, const void *const *rows, size_t n,
                              const void *const *ahead, size_t n_ahead, size_t dim, ragfast_dtype dtype, int l2) {
    switch (dtype) {
#define CASE(type)                                                                                                     \
    case type:                                                                                                         \
        if (l2)                                                                                                        \
            score_rows(out, query, rows, n, ahead, n_ahead, dim, type, 1);                                             \
        else                                                                                                           \
            score_rows(out, query, rows, n, ahead, n_ahead, dim, type, 0);                                             \
        break;
        CASE(RAGFAST_F32) CASE(RAGFAST_F64) CASE(RAGFAST_F16) CASE(RAGFAST_BF16)
#undef CASE
    }
}

INLINE void widen(float *out, const uint16_t *x, size_t n, const ragfast_dtype dtype) {
    size_t i = 0;
    for (; i + LANES_F32 <= n; i += LANES_F32) vec_store_f32(out + i, load_f32(x, i, dtype));
    const lanes_f32 rest = first_f32(n % LANES_F32);
    if (i < n) vec_store_first_f32(out + i, rest, load_first_f32(x, i, rest, dtype));
}

static void LEVEL(widen_f16)(float *out, const uint16_t *x, size_t n) { widen(out, x, n, RAGFAST_F16); }
static void LEVEL(widen_bf16)(float *out, const uint16_t *x, size_t n) { widen(out, x, n, RAGFAST_BF16); }

INLINE void fill_score(ragfast_kernels *table) {
    table->inner_f64_f32 = LEVEL(inner_f64_f32);
    table->inner_f64_f64 = LEVEL(inner_f64_f64);
    table->score_rows = LEVEL(score_rows);
    table->widen_f16 = LEVEL(widen_f16);
    table->widen_bf16 = LEVEL(widen_bf16);
}

#endif
