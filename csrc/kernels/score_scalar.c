/* The reference for every score_<isa>.c: float64 scores, to the bit. Contracts: ../internal.h. */
#include "../internal.h"

#include <string.h>

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* binary16: sign, 5 bits of exponent biased by 15, 10 of fraction. Moved to where float32 has its own, the number is too
 * small by 2^(127 - 15), denormals included; infinity and NaN want all bits of the exponent. */
static void widen_f16_scalar(float *out, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(x[i] & 0x8000) << 16, rest = x[i] & 0x7fff, bits;
        float magnitude = from_bits(rest << 13) * 0x1p112f;
        memcpy(&bits, &magnitude, sizeof bits);
        out[i] = from_bits(sign | bits | (rest >= 0x7c00 ? 0xffu << 23 : 0));
    }
}

/* A bfloat16 is the upper half of the float32 of the same value. */
static void widen_bf16_scalar(float *out, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = from_bits((uint32_t)x[i] << 16);
}

/* Elements first <= i < first + n of a row as float64. */
static void read(double *out, const void *row, size_t first, size_t n, ragfast_dtype dtype) {
    float wide[16];
    switch (dtype) {
    case RAGFAST_F64: memcpy(out, (const double *)row + first, n * sizeof *out); return;
    case RAGFAST_F32: memcpy(wide, (const float *)row + first, n * sizeof *wide); break;
    case RAGFAST_F16: widen_f16_scalar(wide, (const uint16_t *)row + first, n); break;
    case RAGFAST_BF16: widen_bf16_scalar(wide, (const uint16_t *)row + first, n); break;
    }
    for (size_t i = 0; i < n; i++) out[i] = wide[i];
}

/* The inner product, or where l2 the squared distance. */
static double lanes_of(const void *a, const void *b, size_t dim, ragfast_dtype dtype, int l2) {
    double lanes[16] = {0}, x[16], y[16];
    for (size_t first = 0; first < dim; first += 16) {
        size_t n = ragfast_min(dim - first, 16);
        read(x, a, first, n, dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32);
        read(y, b, first, n, dtype);
        for (size_t l = 0; l < n; l++) lanes[l] += l2 ? (x[l] - y[l]) * (x[l] - y[l]) : x[l] * y[l];
    }
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
        double sum = lanes_of(query, rows[j], dim, dtype, l2);
        out[j] = l2 ? 0 - sum : sum;
    }
}

void ragfast_score_fill_scalar(ragfast_kernels *table) {
    table->inner_f64_f32 = inner_f64_f32_scalar;
    table->inner_f64_f64 = inner_f64_f64_scalar;
    table->score_rows = score_rows_scalar;
    table->widen_f16 = widen_f16_scalar;
    table->widen_bf16 = widen_bf16_scalar;
}
