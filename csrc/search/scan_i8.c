/* The scan of codes: documents whose upper bound in integers reaches the query's threshold become candidates.
 *
 * For query codes z^ and document codes c, Z . Y and z^ . c differ by at most |Z||Y - c| + |Z - z^||c| (Cauchy-Schwarz
 * twice); a prefix of the elements leaves out at most |Z beyond||Y beyond|. docs/exactness.md has the proof, and numbers
 * the inequalities that are named here. */
#include "search/scan_i8.h"

#include "search/code_queries.h"
#include "search/stop.h"
#include "search/topk.h"

#include <float.h>
#include <math.h>

enum { PANEL = RAGFAST_PANEL_DOCS, TILE = RAGFAST_TILE_QUERIES };

static const double unit_roundoff = 0x1p-24;

/* What the high plane's middle, 126.5, and the whole code's, 128, add to a dot for each unit of a query's code. */
static double middle_of(uint8_t mask) { return mask == 0xff ? 128 : 126.5; }

/* ---- thresholds --------------------------------------------------------------------------------------------------- */

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
                                    .tail = (float)(s->plan->l2 ? -(1 - 16 * unit_roundoff) / q->unit : tail * up)};
}

static void set_thresholds(search *s, search_worker *w, size_t q) {
    const code_query *query = &s->coded.queries[q];
    int unpacked = s->segment->scan == RAGFAST_BY_UNPACKED_CODES, refines_all_bits = s->segment->refines_all_bits;
    double threshold = ragfast_scan_threshold(s, q), middle = middle_of(unpacked ? s->plan->kernels->code_mask : 0xfc);
    if (w->is_listed[q]) { /* never a hit: an infinite residual adds */
        w->code_thresholds[q] = w->refine_thresholds[q] = (ragfast_code_threshold){.offset = INFINITY, .norm = -1};
        return;
    }
    w->code_thresholds[q] = w->use_prefix ? threshold_of(s, query, threshold, middle, query->prefix_sum, query->tail)
                                          : threshold_of(s, query, threshold, middle, query->sum, 0);
    if (w->use_prefix || refines_all_bits)
        w->refine_thresholds[q] =
            threshold_of(s, query, threshold, middle_of(refines_all_bits ? 0xff : 0xfc), query->sum, 0);
}

/* ---- hits -------------------------------------------------------------------------------------------------------- */

/* (S) in double for documents that the kernel let through, by all elements of codes under this mask. */
static void add_hits(search *s, size_t q, size_t worker, uint32_t hits, const int32_t *dots, uint8_t mask,
                     size_t panel) {
    const code_query *query = &s->coded.queries[q];
    const ragfast_code_bounds *bounds = (const ragfast_code_bounds *)s->segment->docs->codes->bounds + panel;
    const float *residuals = mask == 0xff ? bounds->residual : bounds->high_residual;
    search_worker *w = &s->workers[worker];
    query_slot *slot = &w->slots[q];
    double before = ragfast_threshold_of(s, q), offset = middle_of(mask) * query->sum;
    size_t n_hits = 0;
    for (; hits; hits &= hits - 1) {
        size_t j = (size_t)__builtin_ctz(hits), row = panel * PANEL + j;
        double unit = query->unit / bounds->scale[j];
        double middle = query->base + unit * (dots[j] - offset);
        double error = query->base_error + 1e-12 * fabs(middle) +
                       unit * (query->norm * residuals[j] + query->residual * bounds->norm[j]) * (1 + 1e-9);
        if (isinf(residuals[j])) error = INFINITY;
        ragfast_outcome outcome = ragfast_offer(s, q, worker, row, middle, error);
        slot->hits += outcome != RAGFAST_DROPPED;
        slot->likely += outcome == RAGFAST_LIKELY;
        n_hits++;
    }
    w->work += n_hits * RAGFAST_HIT_WORK;
    /* By the bounds alone the threshold will rise; of a group it may not, and looking in vain costs the whole candidate buffer. */
    if (slot->likely >= (s->plan->max_per_group ? s->plan->capacity / 4 : s->plan->k)) ragfast_prune(s, q, worker);
    if (ragfast_threshold_of(s, q) > before) set_thresholds(s, w, q);
}

/* The query alone against all elements of the panel's high plane. */
static void refine_panel(search *s, size_t worker, const refinement *at) {
    search_worker *w = &s->workers[worker];
    size_t n_groups = ragfast_code_groups(s->plan->dim), stride = n_groups * RAGFAST_GROUP_HIGH, q = at->q;
    const ragfast_codes *codes = s->segment->docs->codes;
    const int8_t *tile = s->coded.interleaved + q / TILE * TILE * n_groups * RAGFAST_GROUP_DIM;
    int32_t dots[PANEL];
    uint32_t hits;
    size_t found = s->plan->kernels->tile_high(dots, &hits, tile + q % TILE * 4, 1, codes->high + at->panel * stride,
                                               stride, (const ragfast_code_bounds *)codes->bounds + at->panel, 1,
                                               n_groups, &w->refine_thresholds[q]);
    if (found == 0 && (hits & at->hits)) add_hits(s, q, worker, hits & at->hits, dots, 0xfc, at->panel);
}

/* Mapped vectors: by all eight bits, of panels that are unpacked once for the queries that wait for them side by side. */
static void refine_by_all_bits(search *s, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_kernels *kernels = s->plan->kernels;
    const ragfast_codes *codes = s->segment->docs->codes;
    size_t dim = s->plan->dim, n_groups = ragfast_code_groups(dim), tile = kernels->code_queries, unpacked = SIZE_MAX;
    for (size_t i = 0, n; i < w->n_waiting; i += n) {
        const refinement *waiting = &w->waiting[i];
        size_t panel = waiting->panel, first = waiting->q / tile * tile,
               n_queries = ragfast_min(s->queries.n - first, tile);
        for (n = 1; i + n < w->n_waiting && waiting[n].panel == panel && waiting[n].q / tile * tile == first;) n++;
        if (panel != unpacked)
            kernels->unpack_codes(w->refine_codes, codes->high + panel * n_groups * RAGFAST_GROUP_HIGH,
                                  codes->low + panel * n_groups * RAGFAST_GROUP_LOW, n_groups);
        unpacked = panel;
        int32_t dots[RAGFAST_MAX_CODE_QUERIES * PANEL];
        uint32_t hits[RAGFAST_MAX_CODE_QUERIES];
        kernels->tile_codes(dots, hits, s->coded.packed + first * ragfast_query_code_bytes(s->plan, 1, 1), n_queries,
                            w->refine_codes, (const ragfast_code_bounds *)codes->bounds + panel, n_groups,
                            w->refine_thresholds + first, (const char *)w->refine_codes, 0);
        for (size_t j = 0; j < n; j++) {
            uint32_t found = hits[waiting[j].q - first] & waiting[j].hits;
            if (found) add_hits(s, waiting[j].q, worker, found, dots + (waiting[j].q - first) * PANEL, 0xff, panel);
        }
        if (ragfast_stopped_after(s, worker, n_queries * PANEL * dim)) return;
    }
}

static void refine_waiting(search *s, size_t worker) {
    search_worker *w = &s->workers[worker];
    if (s->segment->refines_all_bits) refine_by_all_bits(s, worker);
    for (size_t i = 0; i < w->n_waiting && !s->segment->refines_all_bits; i++) {
        refine_panel(s, worker, &w->waiting[i]);
        if (ragfast_stopped_after(s, worker, PANEL * s->plan->dim)) break;
    }
    w->n_waiting = 0;
}

/* Inlined by force: GCC drops calls of a function that only prefetches. */
static inline __attribute__((always_inline)) void fetch_panel(const uint8_t *planes, size_t first, size_t end) {
    for (size_t i = first; i < end; i += 64) __builtin_prefetch((const char *)planes + i, 0, 2);
}

/* The groups of elements that the scan compares. */
static size_t scanned_groups(const search *s, const search_worker *w) {
    return w->use_prefix ? s->segment->prefix_groups : ragfast_code_groups(s->plan->dim);
}

/* (P), (H): a prefix or the high plane let these through. They wait until what it lacks has come from memory. */
static void wait_for_panel(search *s, size_t q, size_t worker, uint32_t hits, size_t panel) {
    search_worker *w = &s->workers[worker];
    if (w->n_waiting == 0 || w->waiting[w->n_waiting - 1].panel != panel) {
        const ragfast_codes *codes = s->segment->docs->codes;
        size_t n_groups = ragfast_code_groups(s->plan->dim);
        fetch_panel(codes->high + panel * n_groups * RAGFAST_GROUP_HIGH, scanned_groups(s, w) * RAGFAST_GROUP_HIGH,
                    n_groups * RAGFAST_GROUP_HIGH);
        if (s->segment->refines_all_bits)
            fetch_panel(codes->low + panel * n_groups * RAGFAST_GROUP_LOW, 0, n_groups * RAGFAST_GROUP_LOW);
    }
    w->pairs_refined++;
    w->waiting[w->n_waiting++] = (refinement){(uint32_t)q, hits, panel};
    if (w->n_waiting == RAGFAST_MAX_REFINEMENTS) refine_waiting(s, worker);
}

static void take_hits(search *s, size_t q, size_t worker, uint32_t hits, const int32_t *dots, uint8_t mask,
                      size_t panel) {
    const segment_plan *segment = s->segment;
    if (s->workers[worker].is_listed[q]) return; /* the float32 scan has it: never twice, whatever a kernel says */
    if (s->workers[worker].use_prefix || (segment->refines_all_bits && segment->scan == RAGFAST_BY_PACKED_CODES))
        wait_for_panel(s, q, worker, hits, panel);
    else
        add_hits(s, q, worker, hits, dots, mask, panel);
}

/* ---- panels against queries -------------------------------------------------------------------------------------- */

/* Panels begin <= p < panels_end, of rows first <= i < end, against a tile of queries from q on. Nonzero: the search stops. */
static int scan_tile(search *s, size_t q, size_t begin, size_t panels_end, size_t first, size_t end, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_docs *docs = s->segment->docs;
    const ragfast_codes *codes = docs->codes;
    size_t n_groups = ragfast_code_groups(s->plan->dim), stride = n_groups * RAGFAST_GROUP_HIGH;
    size_t n_scanned = scanned_groups(s, w), n = ragfast_min(s->queries.n - q, TILE);
    size_t panel_work = n * PANEL * n_scanned * RAGFAST_GROUP_DIM;
    const ragfast_kernels *kernels = s->plan->kernels;
    const int8_t *queries = s->coded.interleaved + q * n_groups * RAGFAST_GROUP_DIM;
    for (size_t p = begin, run_end = begin, from; p < panels_end; p++) {
        int32_t dots[TILE * PANEL];
        uint32_t hits[TILE];
        if (p >= run_end) {
            p = ragfast_next_allowed(docs, p, panels_end);
            run_end = ragfast_end_of_run(docs, p, panels_end);
            w->pairs_scanned += n * (run_end - p);
            if (p == panels_end) break;
        }
        from = p;
        p += kernels->tile_high(dots, hits, queries, n, codes->high + p * stride, stride,
                                (const ragfast_code_bounds *)codes->bounds + p, run_end - p, n_scanned,
                                w->code_thresholds + q);
        if (p < run_end) {
            uint32_t allowed = ragfast_present(docs, p, first, end);
            for (size_t i = 0; i < n; i++)
                if (hits[i] & allowed) take_hits(s, q + i, worker, hits[i] & allowed, dots + i * PANEL, 0xfc, p);
        } else {
            p--; /* at the panel after the run, which is none of it */
        }
        if (ragfast_stopped_after(s, worker, (p + 1 - from) * panel_work)) return 1;
    }
    return 0;
}

/* Few queries, from the high plane. Blocks outside, tiles of queries inside, runs of panels inside the kernel. */
static void scan_packed(search *s, size_t first, size_t end, size_t worker) {
    size_t n_panels = (end + PANEL - 1) / PANEL, block = s->segment->block_panels;
    for (size_t b = first / PANEL, block_end; b < n_panels; b = block_end) {
        block_end = n_panels - b > block ? b + block : n_panels;
        for (size_t q = 0; q < s->queries.n; q += TILE)
            if (scan_tile(s, q, b, block_end, first, end, worker)) return;
    }
}

/* A panel that is asked for while another one is worked on: lines of its high plane, then of its low plane. */
typedef struct next_panel {
    const uint8_t *high, *low;
    size_t high_lines, low_lines, fetched;
} next_panel;

/* The next lines, at most n of them; *n becomes how many. */
static const char *next_lines(next_panel *next, size_t *n) {
    size_t from = next->fetched, is_low = from >= next->high_lines, end = next->high_lines;
    if (is_low) end += next->low_lines;
    *n = ragfast_min(end - from, *n);
    next->fetched += *n;
    return (const char *)(is_low ? next->low + 64 * (from - next->high_lines) : next->high + 64 * from);
}

/* The unpacked panel against all queries. Nonzero: the search stops. */
static int scan_unpacked_panel(search *s, size_t panel, uint32_t allowed, next_panel *next, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_kernels *kernels = s->plan->kernels;
    const ragfast_code_bounds *bounds = (const ragfast_code_bounds *)s->segment->docs->codes->bounds + panel;
    size_t tile = kernels->code_queries, row = ragfast_query_code_bytes(s->plan, 1, 1),
           n_scanned = scanned_groups(s, w);
    size_t n_tiles = (s->queries.n + tile - 1) / tile;
    size_t share = (next->high_lines + next->low_lines + n_tiles - 1) / n_tiles;
    for (size_t q = 0; q < s->queries.n; q += tile) {
        int32_t dots[RAGFAST_MAX_CODE_QUERIES * PANEL];
        uint32_t hits[RAGFAST_MAX_CODE_QUERIES];
        size_t n = ragfast_min(s->queries.n - q, tile), lines = share;
        const char *ahead = next_lines(next, &lines);
        kernels->tile_codes(dots, hits, s->coded.packed + q * row, n, w->panel_codes, bounds, n_scanned,
                            w->code_thresholds + q, ahead, lines);
        for (size_t i = 0; i < n; i++)
            if (hits[i] & allowed)
                take_hits(s, q + i, worker, hits[i] & allowed, dots + i * PANEL, kernels->code_mask, panel);
        if (ragfast_stopped_after(s, worker, n * PANEL * n_scanned * RAGFAST_GROUP_DIM)) return 1;
    }
    return 0;
}

/* Many queries: a panel is unpacked to the first-level cache and meets them all there, while they stream from the second;
 * tiles fetch the next panel's planes, a share each. */
static void scan_unpacked(search *s, size_t first, size_t end, size_t worker) {
    search_worker *w = &s->workers[worker];
    const ragfast_kernels *kernels = s->plan->kernels;
    const ragfast_docs *docs = s->segment->docs;
    size_t n_groups = ragfast_code_groups(s->plan->dim), n_scanned = scanned_groups(s, w);
    size_t high_bytes = n_groups * RAGFAST_GROUP_HIGH, low_bytes = n_groups * RAGFAST_GROUP_LOW;
    size_t n_panels = (end + PANEL - 1) / PANEL, all_panels = (docs->n_docs + PANEL - 1) / PANEL, next;
    for (size_t p = ragfast_next_allowed(docs, first / PANEL, n_panels); p < n_panels; p = next) {
        next = ragfast_next_allowed(docs, p + 1, n_panels);
        const uint8_t *high = docs->codes->high, *low = docs->codes->low;
        kernels->unpack_codes(w->panel_codes, high + p * high_bytes, low + p * low_bytes, n_scanned);
        next_panel ahead = {.high = high, .low = low};
        if (next < all_panels) {
            ahead.high += next * high_bytes;
            ahead.low += next * low_bytes;
            ahead.high_lines = n_scanned * RAGFAST_GROUP_HIGH / 64;
            ahead.low_lines = kernels->code_mask == 0xff ? n_scanned * RAGFAST_GROUP_LOW / 64 : 0;
        }
        if (scan_unpacked_panel(s, p, ragfast_present(docs, p, first, end), &ahead, worker)) return;
        w->pairs_scanned += s->queries.n;
    }
}

/* ---- policy ------------------------------------------------------------------------------------------------------- */

/* To refine costs all elements again, for a single query: three times its share of a tile. At first thresholds are low
 * and there are many, so that a prefix which does not pay is tried again, each time after longer. */
static void update_prefix_policy(const search *s, search_worker *w) {
    if (w->pairs_scanned == 0) return; /* no panel of the chunk had a document that is allowed */
    if (!w->use_prefix) {
        w->use_prefix = w->chunks_until_prefix > 0 && --w->chunks_until_prefix == 0;
        return;
    }
    double refined = (double)w->pairs_refined / (double)w->pairs_scanned;
    if (s->segment->prefix_part + s->segment->refine_cost * refined <= 0.95) {
        w->prefix_backoff = 1;
    } else {
        w->use_prefix = 0;
        w->chunks_until_prefix = w->prefix_backoff;
        w->prefix_backoff *= 2;
    }
}

/* Queries of which too many documents are hits leave the codes: plan.c has the limits. */
static void update_policy(search *s, search_worker *w) {
    const segment_plan *segment = s->segment;
    for (size_t q = 0; q < s->queries.n; q++) {
        const query_slot *slot = &w->slots[q];
        double many = segment->hits_always + fmax(segment->hits_least, segment->hits_part * (double)slot->by_codes);
        if (!w->is_listed[q] && (double)(slot->rescored - slot->unscanned + slot->hits / 8) > many)
            atomic_store_explicit(&s->shared.codes_disabled[q], 1, memory_order_relaxed);
    }
    update_prefix_policy(s, w);
}

void ragfast_scan_i8(search *s, size_t first, size_t end, size_t worker) {
    search_worker *w = &s->workers[worker];
    const segment_plan *segment = s->segment;
    int unpacked = segment->scan == RAGFAST_BY_UNPACKED_CODES;
    size_t n_panels, n_allowed = ragfast_count_allowed(segment->docs, first, end, &n_panels);
    w->pairs_scanned = w->pairs_refined = 0;
    for (size_t q = 0; q < s->queries.n; q++) {
        set_thresholds(s, w, q); /* other workers may have raised thresholds */
        if (!w->is_listed[q]) w->slots[q].by_codes += n_allowed;
    }
    w->in_codes = unpacked || segment->refines_all_bits;
    if (w->in_codes) s->plan->kernels->begin_codes();
    (unpacked ? scan_unpacked : scan_packed)(s, first, end, worker);
    refine_waiting(s, worker);
    if (w->in_codes) s->plan->kernels->end_codes();
    w->in_codes = 0;
    update_policy(s, w);
}
