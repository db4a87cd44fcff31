/* The scan of codes: documents whose upper bound in integers reaches the query's threshold become candidates.
 *
 * For query codes z^ and document codes c, Z . Y and z^ . c differ by at most |Z||Y - c| + |Z - z^||c| (Cauchy-Schwarz
 * twice); a prefix of the elements leaves out at most |Z beyond||Y beyond|. docs/exactness.md has the proof, and numbers
 * the inequalities that are named here. */
#include "search/scan_i8.h"

#include "core/elements.h"
#include "search/quantize.h"
#include "search/topk.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    HIGH_BLOCK_BYTES = 128 << 10, /* of the high plane: several tiles of queries meet it in the second-level cache */
    MIN_HITS_FOR_POLICY = 256,    /* and 8 K: until thresholds have risen, much is a hit */
};

static const double unit_roundoff = 0x1p-24;

/* What the high plane's middle, 126.5, and the whole code's, 128, add to a dot for each unit of a query's code. */
static double middle_of(uint8_t mask) { return mask == 0xff ? 128 : 126.5; }

size_t ragfast_query_code_bytes(const search *s, size_t n_queries, size_t tile) {
    size_t unit = RAGFAST_GROUP_DIM * s->kernels->code_groups;
    return (n_queries + tile - 1) / tile * tile * ((s->segments->dim + unit - 1) / unit * unit);
}

/* ---- queries ----------------------------------------------------------------------------------------------------- */

/* (Q): the factors of a document's bound. */
static void prepare_query(search *s, size_t q, size_t n_groups) {
    const ragfast_kernels *kernels = s->kernels;
    const ragfast_codes *codes = s->docs->codes;
    size_t dim = s->docs->dim, prefix = codes->prefix;
    const float *query = (const float *)s->queries + q * dim;
    code_query *out = &s->code_queries[q];
    float *z = s->query_scratch;
    int8_t *packed = s->query_codes + q * n_groups * RAGFAST_GROUP_DIM;
    double residual, scale = ragfast_code_query(kernels, (uint8_t *)packed, z, &residual, query, dim, codes, z + dim);
    *out = (code_query){0};
    memset(packed + (scale > 0 ? dim : 0), 0, n_groups * RAGFAST_GROUP_DIM - (scale > 0 ? dim : 0));
    if (!(scale > 0)) {
        atomic_store_explicit(&s->codes_disabled[q], 1, memory_order_relaxed);
        return;
    }
    for (size_t e = 0; e < dim; e++) {
        packed[e] = (int8_t)((int)(uint8_t)packed[e] - 128);
        out->sum += packed[e];
        if (e < prefix) out->prefix_sum += packed[e];
    }
    double norm = sqrt(kernels->inner_f64_f32(z, z, dim)) * scale * (1 + 1e-9), error = codes->rotation_error;
    if (codes->center) {
        double center = sqrt(kernels->inner_f64_f32(codes->center, codes->center, dim));
        out->base = kernels->inner_f64_f32(query, codes->center, dim);
        out->base_error = 1e-10 * s->query_norms[q] * center;
    }
    out->unit = 1 / scale;
    out->norm = norm * (1 + 1e-6 + 4 * error);
    out->residual = residual + norm * (16 * unit_roundoff + 4 * error);
    if (prefix) out->tail = sqrt(kernels->inner_f64_f32(z + prefix, z + prefix, dim - prefix)) * scale * (1 + 1e-6);
}

void ragfast_prepare_codes(search *s) {
    size_t n_groups = ragfast_code_groups(s->docs->dim);
    for (size_t q = 0; q < s->n_queries; q++) {
        atomic_init(&s->codes_disabled[q], 0);
        prepare_query(s, q, n_groups);
    }
    ragfast_interleave_codes(s->interleaved_codes, s->query_codes, s->n_queries, n_groups);
    if (s->needs_unpacked_buffers)
        s->kernels->pack_query_codes(s->packed_codes, s->query_codes, s->n_queries, n_groups);
}

/* (T): in float32, lowered by what rounding there may add. 7 units cover the conversion of each coefficient, its product and
 * four additions; the dot's own conversion is monotone. */
static ragfast_code_threshold threshold_of(const search *s, const code_query *q, double threshold, double middle,
                                           double sum, double tail) {
    const double up = 1 + 16 * unit_roundoff;
    double height = (threshold - q->base - q->base_error) / q->unit, offset = middle * sum;
    height -= 16 * unit_roundoff * fabs(height);
    if (height > FLT_MAX) height = FLT_MAX; /* a threshold beyond the range of float32 is above every dot as well */
    return (ragfast_code_threshold){.offset = (float)(offset - 16 * unit_roundoff * fabs(offset) - 1),
                                    .score = (float)height,
                                    .norm = (float)(q->norm * up),
                                    .residual = (float)(q->residual * up),
                                    /* (L6): tails are half squares, which add to what a dot must reach. */
                                    .tail = (float)(s->l2 ? -(1 - 16 * unit_roundoff) / q->unit : tail * up)};
}

static void set_thresholds(search *s, search_worker *w, size_t q) {
    const code_query *query = &s->code_queries[q];
    double threshold = ragfast_scan_threshold(s, q), middle = middle_of(s->unpacked ? s->kernels->code_mask : 0xfc);
    if (w->is_listed[q]) { /* never a hit: an infinite residual adds */
        w->code_thresholds[q] = w->refine_thresholds[q] = (ragfast_code_threshold){.offset = INFINITY, .norm = -1};
        return;
    }
    w->code_thresholds[q] = w->use_prefix ? threshold_of(s, query, threshold, middle, query->prefix_sum, query->tail)
                                          : threshold_of(s, query, threshold, middle, query->sum, 0);
    if (w->use_prefix || s->refine_all_bits)
        w->refine_thresholds[q] =
            threshold_of(s, query, threshold, middle_of(s->refine_all_bits ? 0xff : 0xfc), query->sum, 0);
}

/* ---- hits -------------------------------------------------------------------------------------------------------- */

/* (S) in double for documents that the kernel let through, by all elements of codes under this mask. */
static void add_hits(search *s, size_t q, size_t worker, uint32_t hits, const int32_t *dots, uint8_t mask,
                     size_t panel) {
    const code_query *query = &s->code_queries[q];
    const ragfast_code_bounds *bounds = (const ragfast_code_bounds *)s->docs->codes->bounds + panel;
    const float *residuals = mask == 0xff ? bounds->residual : bounds->high_residual;
    search_worker *w = &s->workers[worker];
    double before = ragfast_threshold_of(s, q), offset = middle_of(mask) * query->sum;
    for (; hits; hits &= hits - 1) {
        size_t j = (size_t)__builtin_ctz(hits), row = panel * PANEL + j;
        double unit = query->unit / bounds->scale[j];
        double middle = query->base + unit * (dots[j] - offset);
        double error = query->base_error + 1e-12 * fabs(middle) +
                       unit * (query->norm * residuals[j] + query->residual * bounds->norm[j]) * (1 + 1e-9);
        if (isinf(residuals[j])) error = INFINITY;
        ragfast_outcome outcome = ragfast_offer(s, q, worker, row, middle, error);
        w->slots[q].hits += outcome != RAGFAST_DROPPED;
        w->slots[q].likely += outcome == RAGFAST_LIKELY;
    }
    /* By the bounds alone the threshold will rise; of a group it may not, and looking in vain costs the whole candidate buffer. */
    if (w->slots[q].likely >= (s->max_per_group ? s->capacity / 4 : s->k)) ragfast_prune(s, q, worker);
    if (ragfast_threshold_of(s, q) > before) set_thresholds(s, w, q);
}

/* The query alone against all elements of the panel's high plane. */
static void refine_panel(search *s, size_t worker, const refinement *at) {
    search_worker *w = &s->workers[worker];
    size_t n_groups = ragfast_code_groups(s->docs->dim), stride = n_groups * RAGFAST_GROUP_HIGH, q = at->q;
    const ragfast_codes *codes = s->docs->codes;
    const int8_t *tile = s->interleaved_codes + q / TILE * TILE * n_groups * RAGFAST_GROUP_DIM;
    int32_t dots[PANEL];
    uint32_t hits;
    size_t found = s->kernels->tile_high(dots, &hits, tile + q % TILE * 4, 1, codes->high + at->panel * stride, stride,
                                         (const ragfast_code_bounds *)codes->bounds + at->panel, 1, n_groups,
                                         &w->refine_thresholds[q]);
    if (found == 0 && (hits & at->hits)) add_hits(s, q, worker, hits & at->hits, dots, 0xfc, at->panel);
}

/* Mapped vectors: by all eight bits, of panels that are unpacked once for the queries that wait for them side by side. */
static void refine_by_all_bits(search *s, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_kernels *kernels = s->kernels;
    const ragfast_codes *codes = s->docs->codes;
    size_t n_groups = ragfast_code_groups(s->docs->dim), tile = kernels->code_queries, unpacked = SIZE_MAX;
    for (size_t i = 0, n; i < w->n_waiting; i += n) {
        const refinement *waiting = &w->waiting[i];
        size_t panel = waiting->panel, first = waiting->q / tile * tile;
        for (n = 1; i + n < w->n_waiting && waiting[n].panel == panel && waiting[n].q / tile * tile == first;) n++;
        if (panel != unpacked)
            kernels->unpack_codes(w->refine_codes, codes->high + panel * n_groups * RAGFAST_GROUP_HIGH,
                                  codes->low + panel * n_groups * RAGFAST_GROUP_LOW, n_groups);
        unpacked = panel;
        int32_t dots[RAGFAST_MAX_CODE_QUERIES * PANEL];
        uint32_t hits[RAGFAST_MAX_CODE_QUERIES];
        kernels->tile_codes(dots, hits, s->packed_codes + first * ragfast_query_code_bytes(s, 1, 1),
                            ragfast_min(s->n_queries - first, tile), w->refine_codes,
                            (const ragfast_code_bounds *)codes->bounds + panel, n_groups, w->refine_thresholds + first,
                            (const char *)w->refine_codes, 0);
        for (size_t j = 0; j < n; j++) {
            uint32_t found = hits[waiting[j].q - first] & waiting[j].hits;
            if (found) add_hits(s, waiting[j].q, worker, found, dots + (waiting[j].q - first) * PANEL, 0xff, panel);
        }
    }
}

static void refine_waiting(search *s, size_t worker) {
    search_worker *w = &s->workers[worker];
    if (s->refine_all_bits) refine_by_all_bits(s, worker);
    for (size_t i = 0; i < w->n_waiting && !s->refine_all_bits; i++) refine_panel(s, worker, &w->waiting[i]);
    w->n_waiting = 0;
}

/* Inlined by force: GCC drops calls of a function that only prefetches. */
static inline __attribute__((always_inline)) void fetch_panel(const uint8_t *planes, size_t first, size_t end) {
    for (size_t i = first; i < end; i += 64) __builtin_prefetch((const char *)planes + i, 0, 2);
}

/* (P), (H): a prefix or the high plane let these through. They wait until what it lacks has come from memory. */
static void wait_for_panel(search *s, size_t q, size_t worker, uint32_t hits, size_t panel) {
    search_worker *w = &s->workers[worker];
    if (w->n_waiting == 0 || w->waiting[w->n_waiting - 1].panel != panel) {
        const ragfast_codes *codes = s->docs->codes;
        size_t n_groups = ragfast_code_groups(s->docs->dim);
        size_t n_scanned = w->use_prefix ? codes->prefix / RAGFAST_GROUP_DIM : n_groups;
        fetch_panel(codes->high + panel * n_groups * RAGFAST_GROUP_HIGH, n_scanned * RAGFAST_GROUP_HIGH,
                    n_groups * RAGFAST_GROUP_HIGH);
        if (s->refine_all_bits)
            fetch_panel(codes->low + panel * n_groups * RAGFAST_GROUP_LOW, 0, n_groups * RAGFAST_GROUP_LOW);
    }
    w->pairs_refined++;
    w->waiting[w->n_waiting++] = (refinement){(uint32_t)q, hits, panel};
    if (w->n_waiting == RAGFAST_MAX_REFINEMENTS) refine_waiting(s, worker);
}

static void take_hits(search *s, size_t q, size_t worker, uint32_t hits, const int32_t *dots, uint8_t mask,
                      size_t panel) {
    if (s->workers[worker].is_listed[q]) return; /* the float32 scan has it: never twice, whatever a kernel says */
    if (s->workers[worker].use_prefix || (s->refine_all_bits && !s->unpacked))
        wait_for_panel(s, q, worker, hits, panel);
    else
        add_hits(s, q, worker, hits, dots, mask, panel);
}

/* ---- panels against queries -------------------------------------------------------------------------------------- */

/* Few queries, from the high plane. Blocks outside, tiles of queries inside, runs of panels inside the kernel. */
static void scan_packed(search *s, size_t first, size_t end, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_codes *codes = s->docs->codes;
    size_t n_groups = ragfast_code_groups(s->docs->dim), stride = n_groups * RAGFAST_GROUP_HIGH;
    size_t n_scanned = w->use_prefix ? codes->prefix / RAGFAST_GROUP_DIM : n_groups;
    size_t block = s->n_queries <= TILE ? SIZE_MAX : HIGH_BLOCK_BYTES / stride + 1;
    size_t n_panels = (end + PANEL - 1) / PANEL;
    for (size_t b = first / PANEL, block_end; b < n_panels; b = block_end) {
        block_end = n_panels - b > block ? b + block : n_panels;
        for (size_t q = 0; q < s->n_queries; q += TILE) {
            size_t n = ragfast_min(s->n_queries - q, TILE);
            const int8_t *queries = s->interleaved_codes + q * n_groups * RAGFAST_GROUP_DIM;
            for (size_t p = b, run_end = b; p < block_end; p++) {
                int32_t dots[TILE * PANEL];
                uint32_t hits[TILE];
                if (p >= run_end) {
                    p = ragfast_next_allowed(s->docs, p, block_end);
                    run_end = ragfast_end_of_run(s->docs, p, block_end);
                    w->pairs_scanned += n * (run_end - p);
                    if (p == block_end) break;
                }
                p += s->kernels->tile_high(dots, hits, queries, n, codes->high + p * stride, stride,
                                           (const ragfast_code_bounds *)codes->bounds + p, run_end - p, n_scanned,
                                           w->code_thresholds + q);
                if (p >= run_end) { /* at the panel after the run, which is none of it */
                    p--;
                    continue;
                }
                uint32_t allowed = ragfast_present(s->docs, p, first, end);
                for (size_t i = 0; i < n; i++)
                    if (hits[i] & allowed) take_hits(s, q + i, worker, hits[i] & allowed, dots + i * PANEL, 0xfc, p);
            }
        }
    }
}

/* Many queries: a panel is unpacked to the first-level cache and meets them all there, while they stream from the second;
 * tiles fetch the next panel's planes, a share each. */
static void scan_unpacked(search *s, size_t first, size_t end, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_kernels *kernels = s->kernels;
    const ragfast_codes *codes = s->docs->codes;
    size_t n_groups = ragfast_code_groups(s->docs->dim), tile = kernels->code_queries;
    size_t n_scanned = w->use_prefix ? codes->prefix / RAGFAST_GROUP_DIM : n_groups;
    size_t n_panels = (end + PANEL - 1) / PANEL, row = ragfast_query_code_bytes(s, 1, 1);
    size_t high_lines = n_scanned * RAGFAST_GROUP_HIGH / 64;
    size_t low_lines = kernels->code_mask == 0xff ? n_scanned * RAGFAST_GROUP_LOW / 64 : 0;
    size_t n_tiles = (s->n_queries + tile - 1) / tile, share = (high_lines + low_lines + n_tiles - 1) / n_tiles;
    size_t next;
    for (size_t p = ragfast_next_allowed(s->docs, first / PANEL, n_panels); p < n_panels; p = next) {
        next = ragfast_next_allowed(s->docs, p + 1, n_panels);
        const uint8_t *high = codes->high + p * n_groups * RAGFAST_GROUP_HIGH;
        const uint8_t *low = codes->low + p * n_groups * RAGFAST_GROUP_LOW;
        kernels->unpack_codes(w->panel_codes, high, low, n_scanned);
        uint32_t allowed = ragfast_present(s->docs, p, first, end);
        size_t fetched = 0; /* lines, of the high plane and then of the low one */
        const char *next_high = (const char *)high + (next - p) * n_groups * RAGFAST_GROUP_HIGH;
        const char *next_low = (const char *)low + (next - p) * n_groups * RAGFAST_GROUP_LOW;
        for (size_t q = 0; q < s->n_queries; q += tile) {
            int32_t dots[RAGFAST_MAX_CODE_QUERIES * PANEL];
            uint32_t hits[RAGFAST_MAX_CODE_QUERIES];
            size_t n = ragfast_min(s->n_queries - q, tile);
            const char *ahead =
                fetched < high_lines ? next_high + 64 * fetched : next_low + 64 * (fetched - high_lines);
            size_t lines = (fetched < high_lines ? high_lines : high_lines + low_lines) - fetched;
            lines = ragfast_min(lines, share);
            fetched += lines;
            kernels->tile_codes(dots, hits, s->packed_codes + q * row, n, w->panel_codes,
                                (const ragfast_code_bounds *)codes->bounds + p, n_scanned, w->code_thresholds + q,
                                ahead, lines);
            for (size_t i = 0; i < n; i++)
                if (hits[i] & allowed)
                    take_hits(s, q + i, worker, hits[i] & allowed, dots + i * PANEL, kernels->code_mask, p);
        }
        w->pairs_scanned += s->n_queries;
    }
}

/* To refine costs all elements again, for a single query: three times its share of a tile. At first thresholds are low
 * and there are many, so that a prefix which does not pay is tried again, each time after longer. */
static void update_prefix_policy(const search *s, search_worker *w) {
    if (w->pairs_scanned == 0) return; /* no panel of the chunk had a document that is allowed */
    if (!w->use_prefix) {
        w->use_prefix = w->chunks_until_prefix > 0 && --w->chunks_until_prefix == 0;
        return;
    }
    double prefix = (double)s->docs->codes->prefix / (double)s->docs->dim, again = s->n_queries > 2 ? 3 : 1.2;
    if (prefix + again * (double)w->pairs_refined / (double)w->pairs_scanned <= 0.95) {
        w->prefix_backoff = 1;
    } else {
        w->use_prefix = 0;
        w->chunks_until_prefix = w->prefix_backoff;
        w->prefix_backoff *= 2;
    }
}

/* A candidate costs a row from memory, which a float32 scan of few queries reads for all of them together, and of many
 * queries repays with arithmetic. Where more than this part become candidates, codes cost more than they save. But falling back
 * costs all that is left of the segment, and at first, while thresholds are low, much is a candidate: a twentieth of the rows is
 * never too many, and of short rows, which the float32 scan has soon done with, fewer. From a mapped medium a candidate costs a
 * page more than its bytes, and a sixteenth of that part of the rows is not too many. */
static void update_policy(search *s, search_worker *w) {
    double several = (double)ragfast_min(s->n_queries, 16), part = 0.5 / several;
    double dim = (double)s->docs->dim, row_bytes = dim * (double)ragfast_element_size(s->docs->dtype);
    if (s->docs->mapped) part = row_bytes / (row_bytes + (double)s->page_bytes) / several;
    double least = s->docs->mapped ? part / 16 : 0.05 * fmin(1, dim / 256);
    least *= (double)(s->seen + s->n_allowed) / (double)s->n_workers;
    for (size_t q = 0; q < s->n_queries; q++) {
        const query_slot *slot = &w->slots[q];
        double many = (double)(MIN_HITS_FOR_POLICY + 8 * s->k) + fmax(least, part * (double)slot->by_codes);
        if (!w->is_listed[q] && (double)(slot->rescored - slot->unscanned + slot->hits / 8) > many)
            atomic_store_explicit(&s->codes_disabled[q], 1, memory_order_relaxed);
    }
    update_prefix_policy(s, w);
}

void ragfast_scan_i8(search *s, size_t first, size_t end, size_t worker) {
    search_worker *w = &s->workers[worker];
    size_t n_panels, n_allowed = ragfast_count_allowed(s->docs, first, end, &n_panels);
    w->pairs_scanned = w->pairs_refined = 0;
    for (size_t q = 0; q < s->n_queries; q++) {
        set_thresholds(s, w, q); /* other workers may have raised thresholds */
        if (!w->is_listed[q]) w->slots[q].by_codes += n_allowed;
    }
    if (s->unpacked || s->refine_all_bits) s->kernels->begin_codes();
    (s->unpacked ? scan_unpacked : scan_packed)(s, first, end, worker);
    refine_waiting(s, worker);
    if (s->unpacked || s->refine_all_bits) s->kernels->end_codes();
    update_policy(s, w);
}
