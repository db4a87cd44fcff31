#include "search/plan.h"

#include "core/dispatch.h"
#include "core/elements.h"
#include "core/platform.h"
#include "search/candidate.h"
#include "search/segment.h"

#include <math.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    CHUNK_BYTES = 4 << 20, /* documents a thread takes at a time, as float32 */
    PASS_BYTES = 64 << 20, /* candidates and group thresholds of the queries that one pass over the documents serves */
    EXACT_MAX_DOCS = 64,   /* up to here scanning first saves nothing */
    EXACT_MAX_QUERIES = 2, /* and of rows that are read one by one anyway, up to here */
    EXTRA_FLOAT32 = 64,    /* candidates beyond k that a query may hold on a worker */
    EXTRA_UNPACKED = 256,
    EXTRA_PACKED = 1024,
    MIN_GROUP_THRESHOLDS = 16,
    MIN_CODED = 4000, /* documents from which a scan of codes is faster than float32; and for one query */
    MIN_CODED_ONE = 1000,
    MAPPED_SHARE = 4,                        /* mapped segments are unpacked from so many times fewer queries */
    INLINE_WORK = 1 << 20,                   /* multiplications below which waking a thread costs more than it brings */
    PACK_MIN_QUERIES = RAGFAST_ROWS_QUERIES, /* from here transposing the documents is faster: docs/design.md */
    PACK_MIN_QUERIES_NARROW = 16,            /* and here if rows are short, as summing across lanes then costs more */
    NARROW_DIM = 256,
    HIGH_BLOCK_BYTES = 128 << 10, /* of the high plane: several tiles of queries meet it in the second-level cache */
    MIN_HITS_FOR_POLICY = 256     /* and 8 K: until thresholds have risen, much is a hit */
};

/* ---- codes or not ------------------------------------------------------------------------------------------------ */

/* Whether codes serve this segment at all; queries that they turn out not to serve leave them on the way. */
static int codes_serve(const search_plan *plan, const ragfast_docs *docs) {
    if (!docs->codes) return 0;
    if (docs->codes->always || docs->mapped) return 1;
    return docs->n_docs >= (plan->n_queries == 1 ? MIN_CODED_ONE : MIN_CODED) && plan->k <= docs->n_docs / 64;
}

/* Codes are in memory and rows memory-mapped: what only the upper six bits let through is looked at by all eight, where a level has
 * such tiles, before its row is read. */
static int refines_by_all_bits(const search_plan *plan, const ragfast_docs *docs) {
    return docs->mapped && plan->kernels->code_mask == 0xff;
}

/* From so many queries on all panels are unpacked at once; of mapped segments sooner, where the high plane would let most of
 * them through to be refined: docs/design.md. */
static size_t unpack_min_queries_of(const search_plan *plan, const ragfast_docs *docs) {
    size_t queries = plan->kernels->unpack_min_queries;
    return refines_by_all_bits(plan, docs) ? queries / MAPPED_SHARE : queries;
}

/* Rows from a list are read alone, panels with all that they hold; but rows here and there come half as fast as what lies in
 * a row. Cost in bytes a document, to which the arithmetic of each query adds: an element of float32 the time of 1/4 byte, of
 * codes of 1/16. */
static int list_is_cheaper(const search_plan *plan, const segment_plan *segment, segment_scan scan, size_t n_panels) {
    const ragfast_docs *docs = segment->docs;
    double n_queries = (double)plan->pass_queries, rows = (double)segment->n_allowed, panels = (double)n_panels * PANEL;
    double row = 2 * (double)ragfast_element_size(docs->dtype), n_scanned = 1;
    if (scan == RAGFAST_BY_FLOAT32) return rows * row < panels * row / 2;
    if (docs->mapped) return 0; /* the codes are in memory */
    if (docs->codes->prefix > 0) n_scanned = (double)docs->codes->prefix / (double)docs->dim + 0.1;
    return rows * (row + n_queries / 4) <
           panels * n_scanned * (scan == RAGFAST_BY_UNPACKED_CODES ? 1 + n_queries / 16 : 0.75 + n_queries / 16);
}

static void choose_scan(const search_plan *plan, segment_plan *segment, size_t n_before, size_t n_panels) {
    const ragfast_docs *docs = segment->docs;
    segment_scan scan = RAGFAST_BY_FLOAT32;
    if (docs->dtype == RAGFAST_F64 || segment->n_allowed <= EXACT_MAX_DOCS ||
        plan->k >= (n_before + segment->n_allowed) / 2)
        scan = RAGFAST_BY_SCORES;
    else if (codes_serve(plan, docs))
        scan = plan->pass_queries >= unpack_min_queries_of(plan, docs) ? RAGFAST_BY_UNPACKED_CODES
                                                                       : RAGFAST_BY_PACKED_CODES;
    segment->lists_rows =
        docs->allowed && (scan == RAGFAST_BY_SCORES || (docs->norms && list_is_cheaper(plan, segment, scan, n_panels)));
    /* A listed row of few queries is scored while the next ones come from memory: a scan first would save nothing. */
    if (segment->lists_rows && scan != RAGFAST_BY_SCORES)
        scan = plan->pass_queries <= EXACT_MAX_QUERIES ? RAGFAST_BY_SCORES : RAGFAST_BY_FLOAT32;
    segment->scan = scan;
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

static size_t common_divisor(size_t a, size_t b) { return b ? common_divisor(b, a % b) : a; }

/* A stride that visits all of n, any few of them in a row far apart. */
static size_t stride_over(size_t n) {
    size_t stride = n * 5 / 8 + 1;
    while (common_divisor(n, stride) > 1) stride++;
    return stride;
}

/* Rows of a chunk, of which some take part: some blocks, but a few chunks for every thread. Small ones let thresholds and
 * the policy learn sooner, long ones suit a prefix: docs/design.md. */
static size_t rows_of_chunk(const search_plan *plan, const segment_plan *segment) {
    size_t n_rows = segment->docs->n_docs, n_allowed = segment->n_allowed, block = plan->block_docs;
    if (n_rows <= block) return block; /* the divisions are a twentieth of the smallest searches */
    size_t chunk_bytes = CHUNK_BYTES;
    if (segment->scan == RAGFAST_BY_UNPACKED_CODES) chunk_bytes = CHUNK_BYTES / 4;
    if (segment->scan == RAGFAST_BY_PACKED_CODES && plan->pass_queries <= 4) chunk_bytes = CHUNK_BYTES * 4;
    size_t n_blocks = n_allowed / block + 1, block_bytes = block * plan->dim * sizeof(float);
    size_t blocks = ragfast_min(chunk_bytes / block_bytes, n_blocks / 8 / plan->n_workers);
    size_t rows = (blocks > 1 ? blocks : 1) * block;
    if (n_allowed < n_rows) rows = (size_t)((double)rows / (double)(n_allowed + 1) * (double)n_rows) / PANEL * PANEL;
    return rows > block ? rows : block;
}

static size_t count_chunks(size_t n_rows, size_t chunk_docs) {
    return n_rows <= chunk_docs ? n_rows > 0 : (n_rows + chunk_docs - 1) / chunk_docs;
}

/* ---- the segment ------------------------------------------------------------------------------------------------- */

/* A candidate costs a row from memory, which a float32 scan of few queries reads for all of them together, and of many
 * queries repays with arithmetic. Where more than this part become candidates, codes cost more than they save. But falling back
 * costs all that is left of the segment, and at first, while thresholds are low, much is a candidate: a twentieth of the rows is
 * never too many, and of short rows, which the float32 scan has soon done with, fewer. From a mapped medium a candidate costs a
 * page more than its bytes, and a sixteenth of that part of the rows is not too many. */
static void plan_falling_back(const search_plan *plan, segment_plan *segment, size_t n_before) {
    const ragfast_docs *docs = segment->docs;
    double several = (double)ragfast_min(plan->pass_queries, 16), part = 0.5 / several;
    double dim = (double)plan->dim, row_bytes = dim * (double)ragfast_element_size(docs->dtype);
    if (docs->mapped) part = row_bytes / (row_bytes + (double)plan->page_bytes) / several;
    double least = docs->mapped ? part / 16 : 0.05 * fmin(1, dim / 256);
    segment->hits_always = (double)(MIN_HITS_FOR_POLICY + 8 * plan->k);
    segment->hits_least = least * ((double)(n_before + segment->n_allowed) / (double)plan->n_workers);
    segment->hits_part = part;
}

static int is_same_transform(const ragfast_codes *a, const ragfast_codes *b) {
    return a->center == b->center && a->weight == b->weight && a->rotation == b->rotation && a->prefix == b->prefix &&
           a->rotation_error == b->rotation_error;
}

static void plan_codes(const search_plan *plan, segment_plan *segment, size_t n_before, const ragfast_codes *before) {
    const ragfast_docs *docs = segment->docs;
    const ragfast_codes *codes = docs->codes;
    int is_packed = segment->scan == RAGFAST_BY_PACKED_CODES;
    size_t unit = (is_packed ? 1 : plan->kernels->code_groups) * RAGFAST_GROUP_DIM;
    segment->new_transform = !before || !is_same_transform(before, codes);
    segment->refines_all_bits = refines_by_all_bits(plan, docs);
    segment->tries_prefix = codes->prefix > 0 && codes->prefix % unit == 0;
    segment->prefix_groups = codes->prefix / RAGFAST_GROUP_DIM;
    segment->prefix_part = (double)codes->prefix / (double)plan->dim;
    segment->refine_cost = plan->pass_queries > 2 ? 3 : 1.2;
    size_t tile = ragfast_min(plan->pass_queries, TILE);
    segment->block_panels = RAGFAST_STOP_WORK / (tile * PANEL * plan->dim) + 1;
    if (plan->pass_queries > TILE) {
        size_t cached = HIGH_BLOCK_BYTES / (ragfast_code_groups(plan->dim) * RAGFAST_GROUP_HIGH) + 1;
        segment->block_panels = ragfast_min(segment->block_panels, cached);
    }
    while (segment->n_warmup_allowed < plan->k && segment->n_warmup_rows < docs->n_docs) {
        uint32_t present = ragfast_present(docs, segment->n_warmup_rows / PANEL, 0, docs->n_docs);
        segment->n_warmup_allowed += (size_t)__builtin_popcount(present);
        segment->n_warmup_rows = ragfast_min(segment->n_warmup_rows + PANEL, docs->n_docs);
    }
    plan_falling_back(plan, segment, n_before);
}

static void note_needs(search_plan *plan, const segment_plan *segment) {
    const ragfast_docs *docs = segment->docs;
    int scans = segment->scan != RAGFAST_BY_SCORES, gathers = scans && segment->lists_rows;
    plan->needs_scan |= scans;
    plan->needs_wide |= gathers || (scans && docs->dtype != RAGFAST_F32);
    plan->needs_norms |= gathers || (!docs->norms && docs->dtype != RAGFAST_F64);
    plan->needs_rows |= segment->lists_rows || (ragfast_is_coded(segment) && docs->allowed);
    if (!ragfast_is_coded(segment)) return;
    plan->needs_codes = 1;
    plan->needs_unpacked |= segment->scan == RAGFAST_BY_UNPACKED_CODES;
    plan->needs_refined |= segment->refines_all_bits;
}

static void plan_segments(search_plan *plan, segment_plan *segments) {
    size_t n_before = 0;
    const ragfast_codes *before = NULL;
    for (size_t i = 0; i < plan->n_segments; i++) {
        segment_plan *segment = &segments[i];
        const ragfast_docs *docs = &plan->docs[i];
        size_t n_panels;
        *segment = (segment_plan){.docs = docs, .number = (uint32_t)i, .chunk_stride = 1};
        segment->n_allowed = ragfast_count_allowed(docs, 0, docs->n_docs, &n_panels);
        choose_scan(plan, segment, n_before, n_panels);
        segment->chunk_docs = rows_of_chunk(plan, segment);
        segment->n_chunks = count_chunks(docs->n_docs, segment->chunk_docs);
        if (ragfast_is_coded(segment)) {
            /* Neighbours are often alike. In strides a threshold comes to know all kinds of documents soon. */
            segment->chunk_stride = stride_over(segment->n_chunks);
            plan_codes(plan, segment, n_before, before);
            before = docs->codes;
        }
        note_needs(plan, segment);
        n_before += segment->n_allowed;
    }
    plan->segments = segments;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

/* The bounds of codes are wide: where candidates may wait until the threshold has risen, most are never read. From a
 * mapped medium the memory repays itself with many queries too: a sixth fewer bytes read. */
static size_t capacity_of(const search_plan *plan, size_t n_docs) {
    int any_coded = 0;
    for (size_t i = 0; i < plan->n_segments; i++) any_coded |= codes_serve(plan, &plan->docs[i]);
    size_t extra = EXTRA_FLOAT32, several = any_coded ? 4 : 1;
    if (any_coded)
        extra =
            plan->n_queries >= plan->kernels->unpack_min_queries && !plan->any_mapped ? EXTRA_UNPACKED : EXTRA_PACKED;
    if (extra < several * plan->k) extra = several * plan->k;
    return ragfast_min(plan->k + extra, n_docs + 1);
}

/* As many queries a pass as memory allows, in even passes. */
static size_t pass_queries_of(const search_plan *plan) {
    size_t query_bytes =
        plan->capacity * sizeof(ragfast_candidate) + plan->n_group_thresholds * sizeof(group_threshold);
    size_t most = PASS_BYTES / (plan->n_workers * query_bytes);
    if (most < 1) most = 1;
    size_t n_passes = (plan->n_queries + most - 1) / most;
    return (plan->n_queries + n_passes - 1) / n_passes;
}

void ragfast_plan_search(search_plan *plan, segment_plan *segments, const search_arguments *a,
                         const ragfast_call *call) {
    const ragfast_docs *docs = a->segments;
    size_t dim = docs->dim, n_docs = 0, most_blocks = 0;
    double roundings = (double)(dim + 8) * 0x1p-24;
    *plan = (search_plan){.kernels = ragfast_current_kernels(),
                          .docs = docs,
                          .n_segments = a->n_segments,
                          .n_queries = a->n_queries,
                          .dim = dim,
                          .dtype = docs->dtype,
                          .l2 = docs->half_squares != NULL,
                          .cosine = a->cosine != 0,
                          .query_bytes = dim * (docs->dtype == RAGFAST_F64 ? sizeof(double) : sizeof(float)),
                          .max_per_group = a->constraints ? a->constraints->max_per_group : 0,
                          .gamma = roundings / (1 - roundings),
                          .underflow = (double)(dim + 8) * 0x1p-149,
                          .pack_min_queries = dim < NARROW_DIM ? PACK_MIN_QUERIES_NARROW : PACK_MIN_QUERIES};
    plan->block_docs = RAGFAST_BLOCK_BYTES / (dim * sizeof(float)) / PANEL * PANEL;
    if (plan->block_docs < PANEL) plan->block_docs = PANEL;
    for (size_t i = 0; i < a->n_segments; i++) {
        size_t blocks = count_chunks(docs[i].n_docs, plan->block_docs);
        n_docs += docs[i].n_docs;
        plan->any_mapped |= docs[i].mapped != 0;
        if (blocks > most_blocks) most_blocks = blocks;
    }
    if (plan->any_mapped) plan->page_bytes = ragfast_page_bytes();
    plan->k = ragfast_min(a->k, n_docs ? n_docs : 1);
    if (plan->max_per_group) plan->n_group_thresholds = plan->k > MIN_GROUP_THRESHOLDS ? plan->k : MIN_GROUP_THRESHOLDS;
    int is_small = (double)a->n_queries * (double)n_docs * (double)dim < INLINE_WORK;
    plan->n_workers = ragfast_worker_count(call, is_small, most_blocks);
    plan->capacity = capacity_of(plan, n_docs);
    plan->pass_queries = pass_queries_of(plan);
    plan_segments(plan, segments);
}
