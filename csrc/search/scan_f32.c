/* The float32 scan: one block of documents against the listed queries, with a rigorous error bound, (F).
 *
 * For every (query q, document d) the scan's score s differs from the float64 score by at most
 *     error(q,d) = gamma |q||d| + underflow          (gamma_n = n u / (1 - n u), u = 2^-24, n = D + 8 roundings)
 * by the standard bound on an inner product in any order of summation (Higham, Accuracy and Stability of Numerical
 * Algorithms, 3.1) and Cauchy-Schwarz. */
#include "search/scan_f32.h"

#include "core/elements.h"
#include "core/rows.h"
#include "search/stop.h"
#include "search/topk.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { PANEL = RAGFAST_PANEL_DOCS, TILE = RAGFAST_TILE_QUERIES };

/* An upper bound on |scan - float64 score|, infinite where a partial sum of the scan may overflow. The factor covers the
 * rounding of this expression, of s +- error, and of the float64 score itself: each is below 1e-8 of gamma |q||d|. */
static double scan_error(const search_plan *plan, double query_norm, double doc_norm) {
    double size = query_norm * doc_norm;
    return size < FLT_MAX / 4 ? plan->gamma * size * (1 + 1e-6) + plan->underflow : INFINITY;
}

/* A float32 not above x, where x is in range or infinite; beyond the range infinity will do, since a panel of which the
 * error is finite has no score there. Cheaper than nextafterf, which a tile would call for each query. */
static float rounded_down(double x) { return (float)(x - fabs(x) * 0x1p-23 - 0x1p-149); }

size_t ragfast_scan_queries_size(const search_plan *plan, size_t n_queries) {
    size_t tiled = (n_queries + TILE - 1) / TILE * TILE * plan->dim, rows = n_queries * ragfast_padded(plan->dim);
    return tiled > rows ? tiled : rows;
}

void ragfast_lay_out_listed(search *s, size_t worker) {
    search_worker *w = &s->workers[worker];
    size_t dim = s->plan->dim, row = ragfast_padded(dim);
    const float *queries = (const float *)s->queries.vectors;
    int packed = w->n_listed >= s->plan->pack_min_queries;
    memset(w->scan_queries, 0, ragfast_scan_queries_size(s->plan, w->n_listed) * sizeof(float));
    for (size_t i = 0; i < w->n_listed; i++) {
        const float *query = queries + w->listed[i] * dim;
        if (!packed) memcpy(w->scan_queries + i * row, query, dim * sizeof(float));
        for (size_t e = 0; packed && e < dim; e++) w->scan_queries[(i / TILE * dim + e) * TILE + i % TILE] = query[e];
        if (ragfast_stopped_after(s, worker, dim)) return;
    }
}

static void add_hits(search *s, size_t q, size_t worker, uint32_t hits, const float *scores, const float *norms,
                     const doc_block *block, size_t first) {
    const search_plan *plan = s->plan;
    double query_norm = s->queries.norms[q];
    size_t n_hits = 0;
    for (; hits; hits &= hits - 1, n_hits++) {
        size_t j = (size_t)__builtin_ctz(hits);
        double error = scan_error(plan, query_norm, norms[j]); /* an overflowed score says nothing: it is infinite */
        ragfast_offer(s, q, worker, ragfast_row_of(block, first + j), scores[j], error);
    }
    s->workers[worker].work += n_hits * RAGFAST_HIT_WORK;
}

/* Listed rows, each fetched while those before it are copied; what the scan reads then lies together, as often as it does. */
static const float *gather_rows(search *s, search_worker *w, const doc_block *block) {
    enum { AHEAD = 4 };
    const ragfast_docs *docs = s->segment->docs;
    size_t dim = docs->dim, row_bytes = dim * ragfast_element_size(docs->dtype);
    for (size_t j = 0; j < block->n_docs; j++) {
        if (j + AHEAD < block->n_docs) {
            const char *ahead = (const char *)docs->vectors + block->rows[j + AHEAD] * row_bytes;
            for (size_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(ahead + i, 0, 2);
        }
        size_t row = block->rows[j];
        float *out = w->wide_docs + j * dim;
        const float *wide = ragfast_widened(s->plan->kernels, out, docs->vectors, docs->dtype, row, dim);
        if (wide != out) memcpy(out, wide, row_bytes);
        w->block_norms[j] = docs->norms[row];
    }
    return w->wide_docs;
}

/* The block as float32; documents of 16 bits are widened once and then scanned as often as there are tiles. */
static const float *block_as_f32(search *s, search_worker *w, const doc_block *block) {
    const ragfast_docs *docs = s->segment->docs;
    if (block->rows) return gather_rows(s, w, block);
    if (docs->dtype == RAGFAST_F32) return (const float *)docs->vectors + block->first * docs->dim;
    const uint16_t *narrow = (const uint16_t *)docs->vectors + block->first * docs->dim;
    const ragfast_kernels *kernels = s->plan->kernels;
    (docs->dtype == RAGFAST_F16 ? kernels->widen_f16 : kernels->widen_bf16)(w->wide_docs, narrow,
                                                                            block->n_docs * docs->dim);
    return w->wide_docs;
}

/* Tiles outside, panels inside: a tile's queries stay in the first-level cache for the whole block. Each packed tile
 * fetches its share of the next block, of which packing reads 16 rows side by side: no hardware foresees that. */
void ragfast_scan_f32(search *s, const doc_block *block, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_kernels *kernels = s->plan->kernels;
    const ragfast_docs *segment = s->segment->docs;
    size_t first = block->first, n_docs = block->n_docs, dim = s->plan->dim, n_panels = (n_docs + PANEL - 1) / PANEL;
    int packed = w->n_listed >= s->plan->pack_min_queries, l2 = s->plan->l2;
    size_t tile = packed ? TILE : RAGFAST_ROWS_QUERIES;
    const float *docs = block_as_f32(s, w, block);
    const float *norms = segment->norms && !block->rows ? segment->norms + first : w->block_norms;
    float panel_norms[RAGFAST_MAX_BLOCK_PANELS];
    double panel_halves[RAGFAST_MAX_BLOCK_PANELS]; /* the least half square */
    uint32_t allowed[RAGFAST_MAX_BLOCK_PANELS];
    for (size_t p = 0; p < n_panels; p++) {
        size_t n = ragfast_min(n_docs - p * PANEL, PANEL);
        allowed[p] = block->rows ? UINT32_MAX : ragfast_present(segment, first / PANEL + p, first, first + n_docs);
        panel_norms[p] = 0;
        for (size_t j = 0; j < n; j++) { /* not fmaxf, which is a call: one-shot searches have little more to do */
            float norm = norms[p * PANEL + j];
            panel_norms[p] = norm > panel_norms[p] ? norm : panel_norms[p];
        }
        panel_halves[p] = l2 ? INFINITY : 0;
        for (size_t j = 0; l2 && j < n; j++) {
            double half = segment->half_squares[ragfast_row_of(block, p * PANEL + j)];
            panel_halves[p] = half < panel_halves[p] ? half : panel_halves[p];
        }
        if (packed && allowed[p])
            kernels->pack_docs_f32(w->packed_docs + p * PANEL * dim, docs + p * PANEL * dim, n, dim);
    }
    size_t row_bytes = dim * ragfast_element_size(segment->dtype);
    const char *ahead = (const char *)segment->vectors + (first + n_docs) * row_bytes,
               *end = ahead + block->n_next * row_bytes;
    size_t n_tiles = (w->n_listed + tile - 1) / tile * n_panels;
    size_t share = ragfast_min(((size_t)(end - ahead) / 64 + n_tiles - 1) / n_tiles, dim); /* lines */
    for (size_t i = 0; i < w->n_listed; i += tile) {
        size_t n_queries = ragfast_min(w->n_listed - i, tile);
        const uint32_t *q = w->listed + i;
        for (size_t p = 0; p < n_panels; p++) {
            float scores[RAGFAST_ROWS_QUERIES * PANEL], thresholds[RAGFAST_ROWS_QUERIES];
            uint32_t hits[RAGFAST_ROWS_QUERIES];
            size_t n = ragfast_min(n_docs - p * PANEL, PANEL);
            if (!allowed[p]) continue;
            for (size_t x = 0; x < n_queries; x++) /* (L4): without half squares that term is 0 */
                thresholds[x] = rounded_down(ragfast_scan_threshold(s, q[x]) + (1 - 1e-11) * panel_halves[p] -
                                             scan_error(s->plan, s->queries.norms[q[x]], panel_norms[p]));
            if (packed) {
                size_t n_ahead = ragfast_min(share, (size_t)(end - ahead) / 64);
                kernels->tile_packed_f32(scores, hits, w->scan_queries + i * dim, n_queries,
                                         w->packed_docs + p * PANEL * dim, n, dim, thresholds, ahead, n_ahead);
                ahead += 64 * n_ahead;
            } else {
                kernels->tile_rows_f32(scores, hits, w->scan_queries + i * ragfast_padded(dim), n_queries,
                                       docs + p * PANEL * dim, n, dim, thresholds);
            }
            for (size_t x = 0; x < n_queries; x++)
                if (hits[x] & allowed[p])
                    add_hits(s, q[x], worker, hits[x] & allowed[p], scores + x * PANEL, norms + p * PANEL, block,
                             p * PANEL);
            if (ragfast_stopped_after(s, worker, n_queries * n * (dim + RAGFAST_PAIR_WORK))) return;
        }
    }
}
