/* The reference for every score_<isa>.c: float64 scores, to the bit. Contracts: core/kernels.h. */
#include "core/kernels.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* binary16: sign, 5 bits of exponent biased by 15, 10 of fraction. Moved to where float32 has its own, the number is too
 * small by 2^(127 - 15), denormals included; infinity and NaN want all bits of the exponent. */
INLINE float value_of_f16(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = x & 0x7fff, bits;
    float magnitude = from_bits(rest << 13) * 0x1p112f;
    memcpy(&bits, &magnitude, sizeof bits);
    return from_bits(sign | bits | (rest >= 0x7c00 ? 0xffu << 23 : 0));
}

/* A bfloat16 is the upper half of the float32 of the same value. */
INLINE float value_of_bf16(uint16_t x) { return from_bits((uint32_t)x << 16); }

static void widen_f16_scalar(float *out, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = value_of_f16(x[i]);
}

static void widen_bf16_scalar(float *out, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = value_of_bf16(x[i]);
}

INLINE double element(const void *row, size_t i, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return ((const double *)row)[i];
    if (dtype == RAGFAST_F32) return (double)((const float *)row)[i];
    uint16_t x = ((const uint16_t *)row)[i];
    return (double)(dtype == RAGFAST_F16 ? value_of_f16(x) : value_of_bf16(x));
}

INLINE double term(const void *a, const void *b, size_t i, const ragfast_dtype dtype, const int l2) {
    double x = element(a, i, dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32), y = element(b, i, dtype);
    return l2 ? (x - y) * (x - y) : x * y;
}

/* The inner product, or where l2 the squared distance; dtype and l2 are constants where inlined. */
INLINE double lanes_of(const void *a, const void *b, size_t dim, const ragfast_dtype dtype, const int l2) {
    double lanes[16] = {0};
    size_t i = 0;
    for (; i + 16 <= dim; i += 16)
        for (size_t l = 0; l < 16; l++) lanes[l] += term(a, b, i + l, dtype, l2);
    for (; i < dim; i++) lanes[i % 16] += term(a, b, i, dtype, l2);
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

static double inner_f64_f32_scalar(const float *a, const float *b, size_t dim) {
    return lanes_of(a, b, dim, RAGFAST_F32, 0);
}

static double inner_f64_f64_scalar(const double *a, const double *b, size_t dim) {
    return lanes_of(a, b, dim, RAGFAST_F64, 0);
}

static void score_rows_scalar(double *out, const void *query, const void *const *rows, size_t n,
                              const void *const *ahead, size_t n_ahead, size_t dim, ragfast_dtype dtype, int l2) {
    (void)ahead, (void)n_ahead; /* nothing here is fast enough to wait for memory */
    for (size_t j = 0; j < n; j++) {
        switch (dtype) {
#define CASE(type)                                                                                                     \
    case type: out[j] = l2 ? 0 - lanes_of(query, rows[j], dim, type, 1) : lanes_of(query, rows[j], dim, type, 0); break;
            CASE(RAGFAST_F32) CASE(RAGFAST_F64) CASE(RAGFAST_F16) CASE(RAGFAST_BF16)
#undef CASE
        }
    }
}

void ragfast_score_fill_scalar(ragfast_kernels *table) {
    table->inner_f64_f32 = inner_f64_f32_scalar;
    table->inner_f64_f64 = inner_f64_f64_scalar;
    table->score_rows = score_rows_scalar;
    table->widen_f16 = widen_f16_scalar;
    table->widen_bf16 = widen_bf16_scalar;
}
