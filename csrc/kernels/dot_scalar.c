/* The reference for every dot_<isa>.c: what each kernel must compute, in plain C. Contracts: ../internal.h. */
#include "../internal.h"

#include <string.h>

enum { PANEL = RAGFAST_PANEL_DOCS, TILE = RAGFAST_TILE_QUERIES };

static double sum_lanes(double lanes[16]) {
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

static double inner_f64_f32_scalar(const float *a, const float *b, size_t dim) {
    double lanes[16] = {0};
    size_t i = 0;
    for (; i + 16 <= dim; i += 16)
        for (size_t l = 0; l < 16; l++) lanes[l] += (double)a[i + l] * (double)b[i + l];
    for (; i < dim; i++) lanes[i % 16] += (double)a[i] * (double)b[i];
    return sum_lanes(lanes);
}

static double inner_f64_f64_scalar(const double *a, const double *b, size_t dim) {
    double lanes[16] = {0};
    size_t i = 0;
    for (; i + 16 <= dim; i += 16)
        for (size_t l = 0; l < 16; l++) lanes[l] += a[i + l] * b[i + l];
    for (; i < dim; i++) lanes[i % 16] += a[i] * b[i];
    return sum_lanes(lanes);
}

static double distance_f64_f32_scalar(const float *a, const float *b, size_t dim) {
    double lanes[16] = {0};
    for (size_t i = 0; i < dim; i++) {
        double difference = (double)a[i] - (double)b[i];
        lanes[i % 16] += difference * difference;
    }
    return sum_lanes(lanes);
}

static double distance_f64_f64_scalar(const double *a, const double *b, size_t dim) {
    double lanes[16] = {0};
    for (size_t i = 0; i < dim; i++) lanes[i % 16] += (a[i] - b[i]) * (a[i] - b[i]);
    return sum_lanes(lanes);
}

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

static inline double inner_16_bits(const float *a, const uint16_t *b, size_t dim,
                                   void (*widen)(float *, const uint16_t *, size_t)) {
    enum { PART = 128 }; /* a multiple of the lanes */
    double lanes[16] = {0};
    float wide[PART];
    for (size_t first = 0; first < dim; first += PART) {
        size_t n = ragfast_min(dim - first, PART), i = 0;
        widen(wide, b + first, n);
        for (; i + 16 <= n; i += 16)
            for (size_t l = 0; l < 16; l++) lanes[l] += (double)a[first + i + l] * (double)wide[i + l];
        for (; i < n; i++) lanes[i % 16] += (double)a[first + i] * (double)wide[i];
    }
    return sum_lanes(lanes);
}

static double inner_f64_f16_scalar(const float *a, const uint16_t *b, size_t dim) {
    return inner_16_bits(a, b, dim, widen_f16_scalar);
}

static double inner_f64_bf16_scalar(const float *a, const uint16_t *b, size_t dim) {
    return inner_16_bits(a, b, dim, widen_bf16_scalar);
}

static inline double distance_16_bits(const float *a, const uint16_t *b, size_t dim,
                                      void (*widen)(float *, const uint16_t *, size_t)) {
    double lanes[16] = {0};
    for (size_t first = 0; first < dim; first += 16) {
        float wide[16];
        size_t n = ragfast_min(dim - first, 16);
        widen(wide, b + first, n);
        for (size_t l = 0; l < n; l++) {
            double difference = (double)a[first + l] - (double)wide[l];
            lanes[l] += difference * difference;
        }
    }
    return sum_lanes(lanes);
}

static double distance_f64_f16_scalar(const float *a, const uint16_t *b, size_t dim) {
    return distance_16_bits(a, b, dim, widen_f16_scalar);
}

static double distance_f64_bf16_scalar(const float *a, const uint16_t *b, size_t dim) {
    return distance_16_bits(a, b, dim, widen_bf16_scalar);
}

static uint32_t hits_of(const float *scores, size_t n_docs, float threshold) {
    uint32_t hits = 0;
    for (size_t j = 0; j < n_docs; j++) hits |= (uint32_t)!(scores[j] < threshold) << j; /* NaN is a hit */
    return hits;
}

static void tile_rows_f32_scalar(float *scores, uint32_t *hits, const float *queries, size_t n_queries,
                                 const float *docs, size_t n_docs, size_t dim, const float *thresholds) {
    for (size_t i = 0; i < n_queries; i++) {
        for (size_t j = 0; j < n_docs; j++) {
            const float *q = queries + i * ragfast_padded(dim), *d = docs + j * dim;
            float lanes[8] = {0}, sum = 0;
            size_t e = 0;
            for (; e + 8 <= dim; e += 8)
                for (size_t l = 0; l < 8; l++) lanes[l] += q[e + l] * d[e + l];
            for (; e < dim; e++) sum += q[e] * d[e];
            for (size_t l = 0; l < 8; l++) sum += lanes[l];
            scores[i * PANEL + j] = sum;
        }
        hits[i] = hits_of(scores + i * PANEL, n_docs, thresholds[i]);
    }
}

static void pack_docs_f32_scalar(float *packed_docs, const float *docs, size_t n_docs, size_t dim) {
    for (size_t e = 0; e < dim; e++)
        for (size_t j = 0; j < PANEL; j++) packed_docs[e * PANEL + j] = j < n_docs ? docs[j * dim + e] : 0.0f;
}

static void tile_packed_f32_scalar(float *scores, uint32_t *hits, const float *packed_queries, size_t n_queries,
                                   const float *packed_docs, size_t n_docs, size_t dim, const float *thresholds,
                                   const char *ahead, size_t n_ahead) {
    (void)ahead, (void)n_ahead; /* nothing here is fast enough to wait for memory */
    for (size_t i = 0; i < n_queries; i++) {
        float *out = scores + i * PANEL;
        for (size_t j = 0; j < PANEL; j++) out[j] = 0;
        for (size_t e = 0; e < dim; e++)
            for (size_t j = 0; j < PANEL; j++) out[j] += packed_queries[e * TILE + i] * packed_docs[e * PANEL + j];
        hits[i] = hits_of(out, n_docs, thresholds[i]);
    }
}

static void add_scaled_f32_scalar(double *acc, double weight, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) acc[i] += weight * (double)x[i];
}

static void add_scaled_f64_scalar(double *acc, double weight, const double *x, size_t n) {
    for (size_t i = 0; i < n; i++) acc[i] += weight * x[i];
}

void ragfast_dot_fill_scalar(ragfast_kernels *table) {
    table->inner_f64_f32 = inner_f64_f32_scalar;
    table->inner_f64_f64 = inner_f64_f64_scalar;
    table->inner_f64_f16 = inner_f64_f16_scalar;
    table->inner_f64_bf16 = inner_f64_bf16_scalar;
    table->distance_f64_f32 = distance_f64_f32_scalar;
    table->distance_f64_f64 = distance_f64_f64_scalar;
    table->distance_f64_f16 = distance_f64_f16_scalar;
    table->distance_f64_bf16 = distance_f64_bf16_scalar;
    table->widen_f16 = widen_f16_scalar;
    table->widen_bf16 = widen_bf16_scalar;
    table->tile_rows_f32 = tile_rows_f32_scalar;
    table->pack_docs_f32 = pack_docs_f32_scalar;
    table->tile_packed_f32 = tile_packed_f32_scalar;
    table->add_scaled_f32 = add_scaled_f32_scalar;
    table->add_scaled_f64 = add_scaled_f64_scalar;
}
