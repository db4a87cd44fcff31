/* The float32 scan: one block of documents against the listed queries, with a rigorous error bound, (F).
 *
 * For every (query q, document d) the scan's score s differs from the float64 score by at most
 *     error(q,d) = gamma |q||d| + underflow          (gamma_n = n u / (1 - n u), u = 2^-24, n = D + 8 roundings)
 * by the standard bound on an inner product in any order of summation (Higham, Accuracy and Stability of Numerical
 * Algorithms, 3.1) and Cauchy-Schwarz. */
#include "search.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    PACK_MIN_QUERIES = RAGFAST_ROWS_QUERIES, /* from here transposing the documents repays itself: docs/design.md */
    PACK_MIN_QUERIES_NARROW = 16,            /* and here where a row is too short to repay summing across lanes */
    NARROW_DIM = 256,
    MAX_BLOCK_PANELS = 1 << 12
};

static int is_packed(const search *s, size_t n_queries) {
    return n_queries >= (s->docs->dim < NARROW_DIM ? PACK_MIN_QUERIES_NARROW : PACK_MIN_QUERIES);
}

/* An upper bound on |scan - float64 score|, infinite where a partial sum of the scan may overflow. The factor covers the
 * rounding of this expression, of s +- error, and of the float64 score itself: each is below 1e-8 of gamma |q||d|. */
static double scan_error(const search *s, double query_norm, double doc_norm) {
    double size = query_norm * doc_norm;
    return size < FLT_MAX / 4 ? s->gamma * size * (1 + 1e-6) + s->underflow : INFINITY;
}

/* A float32 not above x, where x is in range or infinite; beyond the range infinity will do, since a panel of which the
 * error is finite has no score there. Cheaper than nextafterf, which a tile would call for each query. */
static float rounded_down(double x) { return (float)(x - fabs(x) * 0x1p-23 - 0x1p-149); }

size_t ragfast_scan_queries_size(const search *s, size_t n_queries) {
    size_t tiled = (n_queries + TILE - 1) / TILE * TILE * s->docs->dim, rows = n_queries * ragfast_padded(s->docs->dim);
    return tiled > rows ? tiled : rows;
}

void ragfast_interleave_f32(float *out, const float *rows, size_t n, size_t dim) {
    memset(out, 0, (n + TILE - 1) / TILE * TILE * dim * sizeof(float));
    for (size_t i = 0; i < n; i++)
        for (size_t e = 0; e < dim; e++) out[(i / TILE * dim + e) * TILE + i % TILE] = rows[i * dim + e];
}

void ragfast_lay_out_listed(const search *s, search_worker *w) {
    size_t dim = s->docs->dim, row = ragfast_padded(dim);
    const float *queries = (const float *)s->queries;
    int packed = is_packed(s, w->n_listed);
    memset(w->scan_queries, 0, ragfast_scan_queries_size(s, w->n_listed) * sizeof(float));
    for (size_t i = 0; i < w->n_listed; i++) {
        const float *query = queries + w->listed[i] * dim;
        if (!packed) memcpy(w->scan_queries + i * row, query, dim * sizeof(float));
        for (size_t e = 0; packed && e < dim; e++) w->scan_queries[(i / TILE * dim + e) * TILE + i % TILE] = query[e];
    }
}

static void add_hits(search *s, size_t q, size_t worker, uint32_t hits, const float *scores, const float *norms,
                     size_t first) {
    for (; hits; hits &= hits - 1) {
        size_t j = (size_t)__builtin_ctz(hits);
        double error = scan_error(s, s->query_norms[q], norms[j]);
        double score = isinf(error) ? 0 : scores[j]; /* an overflowed score says nothing: -inf to inf is kept */
        if (score + error >= ragfast_floor_of(s, q))
            ragfast_add_candidate(s, q, worker,
                                  (ragfast_candidate){score - error, score + error, ragfast_id_of(s, first + j),
                                                      (uint32_t)(first + j), 0});
    }
}

/* The block as float32; documents of 16 bits are widened once and then scanned as often as there are tiles. */
static const float *block_as_f32(search *s, search_worker *w, size_t first, size_t n_docs) {
    const ragfast_docs *docs = s->docs;
    if (docs->dtype == RAGFAST_F32) return (const float *)docs->vectors + first * docs->dim;
    const uint16_t *narrow = (const uint16_t *)docs->vectors + first * docs->dim;
    (docs->dtype == RAGFAST_F16 ? s->kernels->widen_f16 : s->kernels->widen_bf16)(w->wide_docs, narrow,
                                                                                  n_docs * docs->dim);
    return w->wide_docs;
}

/* Tiles outside, panels inside: a tile's queries stay in the first-level cache for the whole block. Each packed tile
 * fetches its share of the next block, of which packing reads 16 rows side by side: no hardware foresees that. */
void ragfast_scan_float32(search *s, size_t first, size_t n_docs, size_t n_next, size_t worker) {
    search_worker *w = &s->workers[worker];
    size_t dim = s->docs->dim, n_panels = (n_docs + PANEL - 1) / PANEL;
    int packed = is_packed(s, w->n_listed);
    size_t tile = packed ? TILE : RAGFAST_ROWS_QUERIES;
    const float *docs = block_as_f32(s, w, first, n_docs);
    const float *norms = s->docs->norms ? s->docs->norms + first : w->block_norms;
    float panel_norms[MAX_BLOCK_PANELS];
    for (size_t p = 0; p < n_panels; p++) {
        size_t n = ragfast_min(n_docs - p * PANEL, PANEL);
        panel_norms[p] = 0;
        for (size_t j = 0; j < n; j++) panel_norms[p] = fmaxf(panel_norms[p], norms[p * PANEL + j]);
        if (packed) s->kernels->pack_docs_f32(w->packed_docs + p * PANEL * dim, docs + p * PANEL * dim, n, dim);
    }
    size_t row_bytes = dim * ragfast_element_size(s->docs->dtype);
    const char *ahead = (const char *)s->docs->vectors + (first + n_docs) * row_bytes,
               *end = ahead + n_next * row_bytes;
    size_t n_tiles = (w->n_listed + tile - 1) / tile * n_panels;
    size_t share = ragfast_min(((size_t)(end - ahead) / 64 + n_tiles - 1) / n_tiles, dim); /* lines */
    for (size_t i = 0; i < w->n_listed; i += tile) {
        size_t n_queries = ragfast_min(w->n_listed - i, tile);
        const uint32_t *q = w->listed + i;
        for (size_t p = 0; p < n_panels; p++) {
            float scores[RAGFAST_ROWS_QUERIES * PANEL], thresholds[RAGFAST_ROWS_QUERIES];
            uint32_t hits[RAGFAST_ROWS_QUERIES];
            size_t n = ragfast_min(n_docs - p * PANEL, PANEL);
            for (size_t x = 0; x < n_queries; x++)
                thresholds[x] =
                    rounded_down(ragfast_floor_of(s, q[x]) - scan_error(s, s->query_norms[q[x]], panel_norms[p]));
            if (packed) {
                size_t n_ahead = ragfast_min(share, (size_t)(end - ahead) / 64);
                s->kernels->tile_packed_f32(scores, hits, w->scan_queries + i * dim, n_queries,
                                            w->packed_docs + p * PANEL * dim, n, dim, thresholds, ahead, n_ahead);
                ahead += 64 * n_ahead;
            } else {
                s->kernels->tile_rows_f32(scores, hits, w->scan_queries + i * ragfast_padded(dim), n_queries,
                                          docs + p * PANEL * dim, n, dim, thresholds);
            }
            for (size_t x = 0; x < n_queries; x++)
                if (hits[x])
                    add_hits(s, q[x], worker, hits[x], scores + x * PANEL, norms + p * PANEL, first + p * PANEL);
        }
    }
}
