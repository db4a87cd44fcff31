/* What the inner products of several levels share: see dot_<level>.c for their blocks of registers. Contracts: core/kernels.h. */
#ifndef RAGFAST_DOT_VECTOR_H
#define RAGFAST_DOT_VECTOR_H

#include <math.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    AHEAD_BYTES =
        16384 /* of a scan by rows, the latency of memory times its bandwidth several times over; less is slower at small D */
};

/* acc[i][j] += q[i][e + l] doc[j][l] for each lane l; n_queries is a constant wherever this is inlined. */
INLINE void add_products(vec_f32 acc[][4], const float *const q[], size_t e, const vec_f32 doc[4],
                         const size_t n_queries) {
#pragma GCC unroll 4
    for (size_t i = 0; i < n_queries; i++) {
        const vec_f32 query = vec_load_f32(q[i] + e);
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) acc[i][j] = vec_fma_f32(query, doc[j], acc[i][j]);
    }
}

/* Two vectors of a panel's documents by n_queries packed queries, a constant wherever this is inlined: per element of D two
 * loads, n broadcasts, 2n FMAs, and no lane ever crosses. Lines ahead are fetched one a step: in a burst they would stall the
 * arithmetic until they arrive. */
INLINE void packed_products(vec_f32 low[], vec_f32 high[], const float *q, const float *d, const size_t n_queries,
                            size_t dim, const char *ahead, size_t n_ahead) {
#pragma GCC unroll 12
    for (size_t i = 0; i < n_queries; i++) low[i] = high[i] = (vec_f32){0};
    for (size_t e = 0; e < dim; e++) {
        const vec_f32 doc_low = vec_load_f32(d + e * PANEL), doc_high = vec_load_f32(d + e * PANEL + LANES_F32);
        __builtin_prefetch((const char *)((uintptr_t)ahead + 64 * ragfast_min(e, n_ahead)), 0, 2);
#pragma GCC unroll 12
        for (size_t i = 0; i < n_queries; i++) {
            const vec_f32 query = vec_set_f32(q[e * TILE + i]);
            low[i] = vec_fma_f32(query, doc_low, low[i]);
            high[i] = vec_fma_f32(query, doc_high, high[i]);
        }
    }
}

static void LEVEL(add_scaled_f32)(double *acc, double weight, const float *x, size_t n) {
    const vec_f64 w = vec_set_f64(weight);
    size_t i = 0;
    for (; i + LANES_F64 <= n; i += LANES_F64)
        vec_store_f64(acc + i, vec_fma_f64(w, vec_load_widened(x + i), vec_load_f64(acc + i)));
    for (; i < n; i++) acc[i] = fma(weight, (double)x[i], acc[i]);
}

static void LEVEL(add_scaled_f64)(double *acc, double weight, const double *x, size_t n) {
    const vec_f64 w = vec_set_f64(weight);
    size_t i = 0;
    for (; i + LANES_F64 <= n; i += LANES_F64)
        vec_store_f64(acc + i, vec_fma_f64(w, vec_load_f64(x + i), vec_load_f64(acc + i)));
    for (; i < n; i++) acc[i] = fma(weight, x[i], acc[i]);
}

#endif
