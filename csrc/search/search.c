/* Exact top-k: a scan with rigorous error bounds, in float32 (scan_f32.c) or of codes (scan_i8.c), then float64 scores of
 * the few that the bounds cannot exclude.
 *
 * Each query keeps a threshold, a lower bound on its K-th best score so far; a document of which an upper bound is below the
 * threshold cannot be among the best K, every other one is kept, and nothing is ever truncated.
 *
 * Documents go through in blocks that fit the second-level cache; threads take chunks of blocks and keep candidates apart,
 * sharing only the thresholds. A threshold that another thread has not seen yet costs a few candidates, never a result. */
#include "core/dispatch.h"
#include "core/elements.h"
#include "core/fpenv.h"
#include "core/platform.h"
#include "core/pool.h"
#include "core/rows.h"
#include "ragfast/runtime.h"
#include "search/rescore.h"
#include "search/scan_f32.h"
#include "search/scan_f64.h"
#include "search/scan_i8.h"
#include "search/state.h"
#include "search/topk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    BLOCK_BYTES = 256 << 10, /* documents of a block: it, its packed copy and the next block share a 1 MB cache */
    CHUNK_BYTES = 4 << 20,   /* documents a thread takes at a time, as float32 */
    GROUP_BYTES = 64 << 20, /* candidates and group thresholds of the queries that one pass over the documents serves */
    EXACT_MAX_DOCS = 64,    /* up to here scanning first saves nothing */
    EXACT_MAX_QUERIES = 2,  /* and of rows that are read one by one anyway, up to here */
    EXTRA_FLOAT32 = 64,     /* candidates beyond k that a query may hold on a worker */
    EXTRA_UNPACKED = 256,
    EXTRA_PACKED = 1024,
    MIN_GROUP_THRESHOLDS = 16,
    MIN_CODED = 4000, /* documents from which codes repay preparing queries and looking twice; and for one query */
    MIN_CODED_ONE = 1000,
    MAPPED_SHARE = 4,      /* by which mapped segments need fewer queries to repay unpacking */
    INLINE_WORK = 1 << 20, /* multiplications below which waking a thread costs more than it brings */
    MAX_DIM = 1 << 20
};

/* ---- documents against the group of queries ---------------------------------------------------------------------- */

/* Norms of float32 documents that came without, and so have not been checked either. */
static int find_norms(search *s, const doc_block *block, float *norms) {
    size_t dim = s->docs->dim;
    for (size_t j = 0; j < block->n_docs; j++) {
        size_t row = ragfast_row_of(block, j);
        const float *vector = (const float *)s->docs->vectors + row * dim;
        norms[j] = 0;
        if (!ragfast_is_allowed(s->docs, row)) continue; /* whatever it holds */
        double squared = s->kernels->inner_f64_f32(vector, vector, dim);
        if (!isfinite(squared)) return 0;
        norms[j] = ragfast_norm_rounded_up(squared);
    }
    return 1;
}

static void prefetch_rows(const search *s, const doc_block *block) {
    for (size_t j = 0; j < block->n_docs && s->docs->mapped; j++)
        ragfast_prefetch_row(s, s->docs, ragfast_row_of(block, j));
}

static int rows_checksum_ok(search *s, const doc_block *block) {
    for (size_t j = 0; j < block->n_docs && s->docs->row_sums; j++) {
        size_t row = ragfast_row_of(block, j);
        if (ragfast_is_allowed(s->docs, row) && !ragfast_row_checksum_ok(s, s->segment, row)) return 0;
    }
    return 1;
}

/* One block without codes. */
static void run_block(search *s, const doc_block *block, size_t worker) {
    const ragfast_docs *docs = s->docs;
    search_worker *w = &s->workers[worker];
    if (block->rows || s->exact_only) prefetch_rows(s, block);
    if (!rows_checksum_ok(s, block)) return; /* before they are called infinite: damaged ones may be */
    int checked = docs->dtype == RAGFAST_F64 || docs->norms || find_norms(s, block, w->block_norms);
    for (size_t j = 0; j < block->n_docs && docs->dtype == RAGFAST_F64; j++) /* listed where not all are allowed */
        checked &= ragfast_all_finite((const double *)docs->vectors + ragfast_row_of(block, j) * docs->dim, docs->dim);
    if (!checked) {
        ragfast_fail(s, RAGFAST_ERROR_NONFINITE_DOC);
        return;
    }
    if (s->exact_only) {
        ragfast_scan_f64(s, block, worker);
        return;
    }
    for (size_t i = 0; i < w->n_listed; i++) w->slots[w->listed[i]].by_float32 += block->n_docs;
    ragfast_scan_f32(s, block, worker);
}

/* Queries that codes do not repay, from this chunk on by float32. Returns how many are left to the codes. */
static size_t list_disabled(search *s, search_worker *w) {
    size_t before = w->n_listed;
    for (size_t q = 0; q < s->n_queries; q++) {
        if (w->is_listed[q] || !atomic_load_explicit(&s->codes_disabled[q], memory_order_relaxed)) continue;
        w->is_listed[q] = 1;
        w->listed[w->n_listed++] = (uint32_t)q;
    }
    if (w->n_listed > before) ragfast_lay_out_listed(s, w);
    return s->n_queries - w->n_listed;
}

static void run_chunk(void *context, size_t chunk, size_t worker) {
    search *s = context;
    search_worker *w = &s->workers[worker];
    /* Neighbours are often alike. Codes go through in strides, so that a threshold comes to know all kinds of documents soon. */
    size_t first = chunk * s->chunk_stride % s->n_chunks * s->chunk_docs;
    size_t end = ragfast_min(s->docs->n_docs, first + s->chunk_docs);
    if (first < s->n_warmup_rows) first = ragfast_min(s->n_warmup_rows, end);
    if (s->coded && first < end) {
        if (list_disabled(s, w)) ragfast_scan_i8(s, first, end, worker);
        if (!w->n_listed) return;
    }
    while (first < end && atomic_load_explicit(&s->status, memory_order_relaxed) == RAGFAST_OK) {
        doc_block block;
        if (s->listed) {
            block = ragfast_list_rows(s->docs, w->rows, s->block_docs, &first, end);
            if (block.n_docs == 0) break;
        } else {
            block = (doc_block){.first = first, .n_docs = ragfast_min(end - first, s->block_docs)};
            first += block.n_docs;
            size_t to_come = s->n_workers == 1 ? s->docs->n_docs - first : end - first;
            block.n_next = ragfast_min(to_come, s->block_docs);
        }
        run_block(s, &block, worker);
    }
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static void write_results(const search *s, size_t q, const ragfast_candidate *best, size_t n) {
    double *scores = s->scores + q * s->k_out;
    int64_t *doc_ids = s->doc_ids + q * s->k_out;
    for (size_t i = 0; i < s->k_out; i++) {
        scores[i] = i < n ? best[i].lower : -INFINITY;
        doc_ids[i] = i < n ? best[i].id : -1;
    }
    if (!s->doc_logprobs) return;
    double *logprobs = s->doc_logprobs + q * s->k_out, sum = 0;
    for (size_t i = 0; i < n; i++) {
        logprobs[i] = (scores[i] - scores[0]) / s->temperature;
        if (i > 0) sum += exp(logprobs[i]); /* the best one's 1 stays apart: log p near 0 keeps its digits */
    }
    double log_sum = log1p(sum);
    for (size_t i = 0; i < s->k_out; i++) logprobs[i] = i < n ? logprobs[i] - log_sum : -INFINITY;
}

static void finish_query(void *context, size_t q, size_t worker) {
    (void)worker;
    search *s = context;
    query_slot total;
    write_results(s, q, ragfast_candidates_of(s, q, 0), ragfast_take_best(s, q, &total));
    if (s->stats) s->stats[q] = (ragfast_query_stats){total.rescored, total.by_codes, total.by_float32};
}

/* ---- the group of queries ---------------------------------------------------------------------------------------- */

static ragfast_status prepare_queries(search *s) {
    size_t dim = s->segments->dim;
    for (size_t q = 0; q < s->n_queries; q++) {
        if (s->segments->dtype == RAGFAST_F64) {
            const double *query = (const double *)s->queries + q * dim;
            if (!ragfast_all_finite(query, dim)) return RAGFAST_ERROR_NONFINITE_QUERY;
        } else {
            const float *query = (const float *)s->queries + q * dim;
            double squared = s->kernels->inner_f64_f32(query, query, dim);
            if (!isfinite(squared)) return RAGFAST_ERROR_NONFINITE_QUERY;
            s->query_norms[q] = sqrt(squared) * (1 + 0x1p-36);
            s->query_squares[q] = squared;
        }
        atomic_init(&s->thresholds[q], -INFINITY);
    }
    for (size_t i = 0; i < s->n_workers; i++) memset(s->workers[i].slots, 0, s->n_queries * sizeof(query_slot));
    for (size_t i = 0; i < s->n_queries * s->n_workers * s->n_group_thresholds; i++)
        s->group_thresholds[i] = (group_threshold){.group = -1};
    s->prepared = NULL;
    s->seen = 0;
    return RAGFAST_OK;
}

static int is_same_transform(const ragfast_codes *a, const ragfast_codes *b) {
    return a->center == b->center && a->weight == b->weight && a->rotation == b->rotation && a->prefix == b->prefix &&
           a->rotation_error == b->rotation_error;
}

/* The first rows in float64, for a threshold before candidate buffers are full; not where segments before have set it. */
static void score_warmup_rows(search *s) {
    const ragfast_docs *docs = s->docs;
    search_worker *w = &s->workers[0];
    int wanted = 0;
    for (size_t q = 0; q < s->n_queries; q++) {
        for (size_t i = 0; i < s->n_workers && s->segment > 0 && ragfast_threshold_of(s, q) == -INFINITY; i++)
            ragfast_raise_threshold(s, q, i);
        wanted |= ragfast_threshold_of(s, q) == -INFINITY;
    }
    size_t n = 0;
    while (wanted && n < s->k && s->n_warmup_rows < docs->n_docs) {
        n += (size_t)__builtin_popcount(ragfast_present(docs, s->n_warmup_rows / PANEL, 0, docs->n_docs));
        s->n_warmup_rows = ragfast_min(s->n_warmup_rows + PANEL, docs->n_docs);
    }
    for (size_t first = 0, end = s->n_warmup_rows; first < end;) {
        doc_block block = {.first = first, .n_docs = end - first};
        if (docs->allowed)
            block = ragfast_list_rows(docs, w->rows, s->block_docs, &first, end);
        else
            first = end;
        prefetch_rows(s, &block);
        if (!rows_checksum_ok(s, &block)) return;
        ragfast_scan_f64(s, &block, 0);
    }
    for (size_t q = 0; q < s->n_queries && s->n_warmup_rows > 0; q++) {
        if (!atomic_load(&s->codes_disabled[q])) w->slots[q].by_codes += n;
        ragfast_raise_threshold(s, q, 0);
    }
}

/* ---- the segment ------------------------------------------------------------------------------------------------- */

/* Whether codes serve this segment at all; queries that they turn out not to serve leave them on the way. n_queries of the
 * whole search: all groups of queries decide alike, as room was made for. */
static int codes_serve(const ragfast_docs *docs, size_t n_queries, size_t k) {
    const ragfast_codes *codes = docs->codes;
    if (!codes || docs->dim > RAGFAST_MAX_CODE_DIM || docs->dtype == RAGFAST_F64 || !docs->norms) return 0;
    if (codes->always || docs->mapped) return 1;
    return docs->n_docs >= (n_queries == 1 ? MIN_CODED_ONE : MIN_CODED) && k <= docs->n_docs / 64;
}

/* Codes are in memory and rows memory-mapped: what only the upper six bits let through is looked at by all eight, where a level has
 * such tiles, before its row is read. */
static int refines_by_all_bits(const search *s, const ragfast_docs *docs) {
    return docs->mapped && s->kernels->code_mask == 0xff;
}

/* From so many queries on all panels are unpacked at once; of mapped segments sooner, where the high plane would let most of
 * them through to be refined: docs/design.md. */
static size_t unpack_min_queries_of(const search *s, const ragfast_docs *docs) {
    return refines_by_all_bits(s, docs) ? s->kernels->unpack_min_queries / MAPPED_SHARE
                                        : s->kernels->unpack_min_queries;
}

static size_t common_divisor(size_t a, size_t b) { return b ? common_divisor(b, a % b) : a; }

/* A stride that visits all of n, any few of them in a row far apart. */
static size_t stride_over(size_t n) {
    size_t stride = n * 5 / 8 + 1;
    while (common_divisor(n, stride) > 1) stride++;
    return stride;
}

/* How the segment is cut for threads: chunks of so many rows, of which this many take part. */
static size_t rows_of_chunk(const search *s, size_t n_rows, size_t n_allowed, size_t n_threads, size_t chunk_bytes) {
    if (n_rows <= s->block_docs) return s->block_docs; /* the divisions are a twentieth of the smallest searches */
    size_t n_blocks = n_allowed / s->block_docs + 1;   /* chunks of some blocks each, but a few for every thread */
    size_t block_bytes = s->block_docs * s->segments->dim * sizeof(float);
    size_t blocks = ragfast_min(chunk_bytes / block_bytes, n_blocks / 8 / n_threads);
    size_t rows = (blocks > 1 ? blocks : 1) * s->block_docs;
    if (n_allowed < n_rows) rows = (size_t)((double)rows / (double)(n_allowed + 1) * (double)n_rows) / PANEL * PANEL;
    return rows > s->block_docs ? rows : s->block_docs;
}

static size_t count_chunks(size_t n_rows, size_t chunk_docs) {
    return n_rows <= chunk_docs ? n_rows > 0 : (n_rows + chunk_docs - 1) / chunk_docs;
}

/* Small ones let thresholds and the policy learn sooner, long ones suit a prefix: docs/design.md. */
static size_t chunk_bytes_of(const search *s, size_t n_queries) {
    return s->unpacked ? CHUNK_BYTES / 4 : s->coded && n_queries <= 4 ? CHUNK_BYTES * 4 : CHUNK_BYTES;
}

/* Rows from a list are read alone, panels with all that they hold; but rows here and there come half as fast as what lies in
 * a row. Cost in bytes a document, to which the arithmetic of each query adds: an element of float32 the time of 1/4 byte, of
 * codes of 1/16. */
static int list_is_cheaper(const search *s, size_t n_panels) {
    const ragfast_docs *docs = s->docs;
    double n_queries = (double)s->n_queries, rows = (double)s->n_allowed, panels = (double)n_panels * PANEL;
    double row = 2 * (double)ragfast_element_size(docs->dtype), n_scanned = 1;
    if (!s->coded) return rows * row < panels * row / 2;
    if (docs->mapped) return 0; /* the codes are in memory */
    if (docs->codes->prefix > 0) n_scanned = (double)docs->codes->prefix / (double)docs->dim + 0.1;
    return rows * (row + n_queries / 4) <
           panels * n_scanned * (s->unpacked ? 1 + n_queries / 16 : 0.75 + n_queries / 16);
}

/* Chooses the way, and prepares workers and queries for it. */
static void begin_segment(search *s, size_t segment) {
    const ragfast_docs *docs = s->docs = &s->segments[segment];
    s->segment = (uint32_t)segment;
    size_t n_panels;
    s->n_allowed = ragfast_count_allowed(docs, 0, docs->n_docs, &n_panels);
    s->coded = codes_serve(docs, s->n_all_queries, s->k);
    s->unpacked = s->coded && s->n_queries >= unpack_min_queries_of(s, docs);
    s->refine_all_bits = refines_by_all_bits(s, docs);
    s->exact_only =
        docs->dtype == RAGFAST_F64 || s->n_allowed <= EXACT_MAX_DOCS || s->k >= (s->seen + s->n_allowed) / 2;
    s->listed = docs->allowed && (s->exact_only || (docs->norms && list_is_cheaper(s, n_panels)));
    /* A listed row of few queries is scored while the next ones come from memory: a scan first would save nothing. */
    if (s->listed && s->n_queries <= EXACT_MAX_QUERIES) s->exact_only = 1;
    if (s->exact_only || s->listed) s->coded = s->unpacked = 0;
    s->chunk_docs = rows_of_chunk(s, docs->n_docs, s->n_allowed, s->n_workers, chunk_bytes_of(s, s->n_queries));
    s->n_chunks = count_chunks(docs->n_docs, s->chunk_docs);
    s->chunk_stride = s->coded ? stride_over(s->n_chunks) : 1;
    s->n_warmup_rows = 0;
    for (size_t i = 0; i < s->n_workers; i++) {
        search_worker *w = &s->workers[i];
        w->n_listed = 0;
        if (s->coded) {
            memset(w->is_listed, 0, s->n_queries);
            size_t unit = s->unpacked ? s->kernels->code_groups * RAGFAST_GROUP_DIM : RAGFAST_GROUP_DIM;
            w->use_prefix = docs->codes->prefix > 0 && docs->codes->prefix % unit == 0;
            w->chunks_until_prefix = w->n_waiting = 0;
            w->prefix_backoff = 1;
        } else if (!s->exact_only) {
            for (size_t q = 0; q < s->n_queries; q++) w->listed[w->n_listed++] = (uint32_t)q;
            ragfast_lay_out_listed(s, w);
        }
    }
    if (!s->coded) return;
    if (!s->prepared || !is_same_transform(s->prepared, docs->codes)) ragfast_prepare_codes(s);
    s->prepared = docs->codes;
    score_warmup_rows(s);
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

/* Carves the scratch block; returns the bytes it takes. With block NULL nothing is written but sizes. There are buffers for any
 * scan that a segment may take: memory that is not touched costs nothing. */
static size_t lay_out(search *s, char *block, size_t group) {
    size_t used = 0, dim = s->segments->dim, row = ragfast_padded(dim);
    int scans = s->needs_scan_buffers, coded = s->needs_code_buffers, lists = 0, norms = 0;
    int wide = s->segments->dtype != RAGFAST_F32;
    for (size_t i = 0; i < s->n_segments; i++) {
        lists |= s->segments[i].allowed != NULL;
        norms |= s->segments[i].norms == NULL;
    }
#define CARVE(field, count)                                                                                            \
    do {                                                                                                               \
        if (block) field = (void *)(block + used);                                                                     \
        used += ((count) * sizeof *(field) + 63) / 64 * 64;                                                            \
    } while (0)
    CARVE(s->candidates, group * s->n_workers * s->capacity);
    CARVE(s->group_thresholds, group * s->n_workers * s->n_group_thresholds);
    CARVE(s->thresholds, group);
    CARVE(s->query_norms, group);
    CARVE(s->query_squares, group);
    CARVE(s->code_queries, coded ? group : 0);
    CARVE(s->query_codes, coded ? group * row : 0);
    CARVE(s->interleaved_codes, coded ? ragfast_query_code_bytes(s, group, RAGFAST_TILE_QUERIES) : 0);
    CARVE(s->packed_codes,
          s->needs_unpacked_buffers ? ragfast_query_code_bytes(s, group, s->kernels->code_queries) : 0);
    CARVE(s->query_scratch, coded ? 2 * dim : 0);
    CARVE(s->codes_disabled, coded ? group : 0);
    CARVE(s->workers, s->n_workers);
    search_worker unused, *w = &unused;
    for (size_t i = 0; i < s->n_workers; i++) {
        if (block) w = &s->workers[i];
        CARVE(w->slots, group);
        CARVE(w->listed, scans ? group : 0);
        CARVE(w->scan_queries, scans ? ragfast_scan_queries_size(s, group) : 0);
        CARVE(w->packed_docs, scans ? s->block_docs * dim : 0);
        CARVE(w->wide_docs, scans && (wide || lists) ? s->block_docs * dim : 0);
        CARVE(w->block_norms, norms || lists ? s->block_docs : 0);
        CARVE(w->rows, lists ? s->block_docs : 0);
        CARVE(w->is_listed, coded ? group : 0);
        CARVE(w->panel_codes, s->needs_unpacked_buffers ? ragfast_query_code_bytes(s, PANEL, 1) : 0);
        CARVE(w->refine_codes, s->needs_unpacked_buffers && s->any_mapped ? ragfast_query_code_bytes(s, PANEL, 1) : 0);
        CARVE(w->code_thresholds, coded ? group : 0);
        CARVE(w->refine_thresholds, coded ? group : 0);
        CARVE(w->waiting, coded ? RAGFAST_MAX_REFINEMENTS : 0);
        if (block && s->needs_unpacked_buffers) memset(w->panel_codes, 0, ragfast_query_code_bytes(s, PANEL, 1));
        if (block && s->needs_unpacked_buffers && s->any_mapped)
            memset(w->refine_codes, 0, ragfast_query_code_bytes(s, PANEL, 1));
    }
#undef CARVE
    return used;
}

static int is_valid(const ragfast_docs *segments, size_t n_segments) {
    for (size_t i = 0; i < n_segments; i++) {
        const ragfast_docs *docs = &segments[i];
        if (docs->n_docs >= (size_t)1 << 31 || (!docs->norms && docs->dtype > RAGFAST_F64) || docs->first_id < 0 ||
            docs->dim != segments->dim || docs->dtype != segments->dtype ||
            !docs->half_squares != !segments->half_squares ||
            (docs->half_squares && docs->codes && docs->codes->prefix > 0))
            return 0;
    }
    return 1;
}

/* Sizes that all segments and groups of queries share. */
static void plan(search *s, size_t n_queries, size_t n_docs, size_t n_threads) {
    size_t dim = s->segments->dim, n_chunks = 1;
    s->n_all_queries = n_queries;
    s->block_docs = BLOCK_BYTES / (dim * sizeof(float)) / PANEL * PANEL;
    if (s->block_docs < PANEL) s->block_docs = PANEL;
    for (size_t i = 0; i < s->n_segments; i++) {
        const ragfast_docs *docs = &s->segments[i];
        size_t n = docs->n_docs;
        s->any_mapped |= docs->mapped;
        int scanned = !(docs->dtype == RAGFAST_F64 || n <= EXACT_MAX_DOCS || (s->n_segments == 1 && s->k >= n / 2));
        s->needs_scan_buffers |= scanned;
        s->coded = scanned && codes_serve(docs, n_queries, s->k);
        s->unpacked = s->coded && n_queries >= unpack_min_queries_of(s, docs);
        s->needs_code_buffers |= s->coded;
        s->needs_unpacked_buffers |= s->unpacked || (s->coded && refines_by_all_bits(s, docs));
        size_t chunk = rows_of_chunk(s, n, n, n_threads, chunk_bytes_of(s, n_queries));
        size_t chunks = count_chunks(n, chunk);
        if (chunks > n_chunks) n_chunks = chunks;
    }
    if (s->any_mapped) s->page_bytes = ragfast_page_bytes();
    s->n_workers = ragfast_min(ragfast_min(n_threads, RAGFAST_MAX_THREADS), n_chunks);
    /* The bounds of codes are wide: where candidates may wait until the threshold has risen, most are never read. From a
     * mapped medium the memory repays itself with many queries too: a sixth fewer bytes read. */
    size_t extra = s->needs_unpacked_buffers && !s->any_mapped ? EXTRA_UNPACKED
                   : s->needs_code_buffers                     ? EXTRA_PACKED
                                                               : EXTRA_FLOAT32;
    if (extra < (s->needs_code_buffers ? 4 : 1) * s->k) extra = (s->needs_code_buffers ? 4 : 1) * s->k;
    s->capacity = s->k + extra;
    if (s->capacity > n_docs + 1) s->capacity = n_docs + 1;
    if (s->max_per_group) s->n_group_thresholds = s->k > MIN_GROUP_THRESHOLDS ? s->k : MIN_GROUP_THRESHOLDS;
}

ragfast_status ragfast_search(double *scores, int64_t *doc_ids, double *doc_logprobs, ragfast_query_stats *stats,
                              ragfast_place *corrupt, const void *queries, size_t n_queries,
                              const ragfast_docs *segments, size_t n_segments, const ragfast_constraints *constraints,
                              size_t k, double temperature, const ragfast_options *options) {
    ragfast_call call;
    size_t dim = segments->dim, n_docs = 0;
    if (k < 1 || dim < 1 || dim > MAX_DIM || n_segments < 1 || n_segments >= (size_t)1 << 31 || !(temperature > 0) ||
        ragfast_begin_call(&call, options) != RAGFAST_OK || n_queries > SIZE_MAX / 1024 / (k + dim) ||
        !is_valid(segments, n_segments))
        return RAGFAST_ERROR_ARGUMENT;
    if (stats) memset(stats, 0, n_queries * sizeof *stats);
    if (n_queries == 0) return RAGFAST_OK;
    for (size_t i = 0; i < n_segments; i++) n_docs += segments[i].n_docs;

    double roundings = (double)(dim + 8) * 0x1p-24;
    search s = {.kernels = ragfast_current_kernels(),
                .segments = segments,
                .n_segments = n_segments,
                .k = ragfast_min(k, n_docs ? n_docs : 1),
                .k_out = k,
                .max_per_group = constraints ? constraints->max_per_group : 0,
                .l2 = segments->half_squares != NULL,
                .temperature = temperature,
                .gamma = roundings / (1 - roundings),
                .underflow = (double)(dim + 8) * 0x1p-149,
                .corrupt_is_known = ATOMIC_FLAG_INIT};
    int is_small = (double)n_queries * (double)n_docs * (double)dim < INLINE_WORK;
    plan(&s, n_queries, n_docs, ragfast_worker_count(&call, is_small, SIZE_MAX));

    /* As many queries a pass as memory allows, in even groups. */
    size_t query_bytes = s.capacity * sizeof(ragfast_candidate) + s.n_group_thresholds * sizeof(group_threshold);
    size_t group = GROUP_BYTES / (s.n_workers * query_bytes);
    if (group < 1) group = 1;
    size_t n_groups = (n_queries + group - 1) / group;
    group = (n_queries + n_groups - 1) / n_groups;

    char *block = malloc(lay_out(&s, NULL, group) + 64);
    if (!block) return RAGFAST_ERROR_MEMORY;
    lay_out(&s, block + (64 - (uintptr_t)block % 64), group);

    ragfast_fp_state caller_fp = ragfast_fp_enter();
    size_t element = segments->dtype == RAGFAST_F64 ? sizeof(double) : sizeof(float);
    for (size_t q = 0; q < n_queries && atomic_load(&s.status) == RAGFAST_OK; q += group) {
        s.queries = (const char *)queries + q * dim * element;
        s.excluded_groups = constraints && constraints->excluded_groups ? constraints->excluded_groups + q : NULL;
        s.n_queries = ragfast_min(n_queries - q, group);
        s.scores = scores + q * k;
        s.doc_ids = doc_ids + q * k;
        s.doc_logprobs = doc_logprobs ? doc_logprobs + q * k : NULL;
        s.stats = stats ? stats + q : NULL;
        ragfast_status status = prepare_queries(&s);
        if (status != RAGFAST_OK) ragfast_fail(&s, status);
        for (size_t i = 0; i < n_segments && atomic_load(&s.status) == RAGFAST_OK; i++) {
            begin_segment(&s, i);
            ragfast_parallel_for(&call, run_chunk, &s, s.n_chunks, s.n_workers);
            if (ragfast_end_call(&call) != RAGFAST_OK) ragfast_fail(&s, RAGFAST_ERROR_CANCELLED);
            s.seen += s.n_allowed;
        }
        if (atomic_load(&s.status) == RAGFAST_OK)
            ragfast_parallel_for(&call, finish_query, &s, s.n_queries, s.n_workers);
        if (ragfast_end_call(&call) != RAGFAST_OK) ragfast_fail(&s, RAGFAST_ERROR_CANCELLED);
    }
    ragfast_fp_leave(caller_fp);
    free(block);
    if (corrupt) *corrupt = s.corrupt;
    return (ragfast_status)atomic_load(&s.status);
}
