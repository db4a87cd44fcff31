/* The reference for every dot_<isa>.c: what each kernel must compute, in plain C. Contracts: core/kernels.h. */
#include "core/kernels.h"

#include <string.h>

enum { PANEL = RAGFAST_PANEL_DOCS, TILE = RAGFAST_TILE_QUERIES };

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
    table->tile_rows_f32 = tile_rows_f32_scalar;
    table->pack_docs_f32 = pack_docs_f32_scalar;
    table->tile_packed_f32 = tile_packed_f32_scalar;
    table->add_scaled_f32 = add_scaled_f32_scalar;
    table->add_scaled_f64 = add_scaled_f64_scalar;
}
