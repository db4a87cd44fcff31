#include "search/scan_segment.h"

#include "core/pool.h"
#include "core/rows.h"
#include "search/code_queries.h"
#include "search/rescore.h"
#include "search/scan_f32.h"
#include "search/scan_f64.h"
#include "search/scan_i8.h"
#include "search/stop.h"
#include "search/topk.h"

#include <math.h>
#include <string.h>

/* ---- a block without codes --------------------------------------------------------------------------------------- */

/* Norms of float32 documents that came without, and so have not been checked either. */
static int find_norms(search *s, const doc_block *block, float *norms) {
    const ragfast_docs *docs = s->segment->docs;
    size_t dim = s->plan->dim;
    for (size_t j = 0; j < block->n_docs; j++) {
        size_t row = ragfast_row_of(block, j);
        const float *vector = (const float *)docs->vectors + row * dim;
        norms[j] = 0;
        if (!ragfast_is_allowed(docs, row)) continue; /* whatever it holds */
        double squared = s->plan->kernels->inner_f64_f32(vector, vector, dim);
        if (!isfinite(squared)) return 0;
        norms[j] = ragfast_norm_rounded_up(squared);
    }
    return 1;
}

/* To have the rows of a block, whatever is done with them. */
static size_t reading_work(const ragfast_docs *docs, const doc_block *block) {
    if (!docs->mapped) return RAGFAST_ROW_WORK;
    return block->n_docs * (block->rows ? RAGFAST_MAPPED_WORK : docs->dim * RAGFAST_STREAMED_WORK);
}

static void prefetch_rows(const search *s, const doc_block *block) {
    const ragfast_docs *docs = s->segment->docs;
    for (size_t j = 0; j < block->n_docs && docs->mapped; j++) ragfast_prefetch_row(s, docs, ragfast_row_of(block, j));
}

static int rows_checksum_ok(search *s, const doc_block *block) {
    const ragfast_docs *docs = s->segment->docs;
    for (size_t j = 0; j < block->n_docs && docs->row_sums; j++) {
        size_t row = ragfast_row_of(block, j);
        if (ragfast_is_allowed(docs, row) && !ragfast_row_checksum_ok(s, s->segment->number, row)) return 0;
    }
    return 1;
}

static void run_block(search *s, const doc_block *block, size_t worker) {
    const ragfast_docs *docs = s->segment->docs;
    search_worker *w = &s->workers[worker];
    if (block->rows || s->segment->scan == RAGFAST_BY_SCORES) prefetch_rows(s, block);
    if (!rows_checksum_ok(s, block)) return; /* before they are called infinite: damaged ones may be */
    int checked = docs->dtype == RAGFAST_F64 || docs->norms || find_norms(s, block, w->block_norms);
    for (size_t j = 0; j < block->n_docs && docs->dtype == RAGFAST_F64; j++) /* listed where not all are allowed */
        checked &= ragfast_all_finite((const double *)docs->vectors + ragfast_row_of(block, j) * docs->dim, docs->dim);
    if (!checked) {
        ragfast_fail(s, RAGFAST_ERROR_NONFINITE_DOC);
        return;
    }
    if (s->segment->scan == RAGFAST_BY_SCORES) {
        ragfast_scan_f64(s, block, worker);
        return;
    }
    for (size_t i = 0; i < w->n_listed; i++) w->slots[w->listed[i]].by_float32 += block->n_docs;
    ragfast_scan_f32(s, block, worker);
}

/* ---- a chunk ----------------------------------------------------------------------------------------------------- */

/* Moves queries for which the codes keep too many candidates to the float32 scan, from this chunk on. Returns how many are left to the codes. */
static size_t list_disabled(search *s, size_t worker) {
    search_worker *w = &s->workers[worker];
    size_t before = w->n_listed;
    for (size_t q = 0; q < s->queries.n; q++) {
        if (w->is_listed[q] || !atomic_load_explicit(&s->shared.codes_disabled[q], memory_order_relaxed)) continue;
        w->is_listed[q] = 1;
        w->listed[w->n_listed++] = (uint32_t)q;
    }
    if (w->n_listed > before) ragfast_lay_out_listed(s, worker);
    return s->queries.n - w->n_listed;
}

/* The next block of rows *first <= i < end; empty if there is none. */
static doc_block next_block(const search *s, search_worker *w, size_t *first, size_t end) {
    const search_plan *plan = s->plan;
    const ragfast_docs *docs = s->segment->docs;
    if (s->segment->lists_rows) return ragfast_list_rows(docs, w->rows, plan->block_docs, first, end);
    doc_block block = {.first = *first, .n_docs = ragfast_min(end - *first, plan->block_docs)};
    *first += block.n_docs;
    size_t to_come = plan->n_workers == 1 ? docs->n_docs - *first : end - *first;
    block.n_next = ragfast_min(to_come, plan->block_docs);
    return block;
}

static void run_chunk(void *context, size_t chunk, size_t worker) {
    search *s = context;
    search_worker *w = &s->workers[worker];
    const segment_plan *segment = s->segment;
    size_t first = chunk * segment->chunk_stride % segment->n_chunks * segment->chunk_docs;
    size_t end = ragfast_min(segment->docs->n_docs, first + segment->chunk_docs);
    if (first < s->n_warmup_rows) first = ragfast_min(s->n_warmup_rows, end);
    if (ragfast_stopped_after(s, worker, RAGFAST_ROW_WORK)) return;
    if (ragfast_is_coded(segment) && first < end) {
        if (list_disabled(s, worker)) ragfast_scan_i8(s, first, end, worker);
        if (!w->n_listed || ragfast_status_of(s) != RAGFAST_OK) return;
    }
    while (first < end) {
        doc_block block = next_block(s, w, &first, end);
        if (block.n_docs == 0) return;
        run_block(s, &block, worker);
        if (ragfast_stopped_after(s, worker, reading_work(segment->docs, &block))) return;
    }
}

/* ---- the segment ------------------------------------------------------------------------------------------------- */

/* Whether some query has no threshold yet, though segments before may have candidates enough. */
static int needs_warmup(search *s) {
    int needed = 0;
    for (size_t q = 0; q < s->queries.n; q++) {
        for (size_t i = 0; i < s->plan->n_workers && s->segment->number > 0 && ragfast_threshold_of(s, q) == -INFINITY;
             i++)
            ragfast_raise_threshold(s, q, i);
        needed |= ragfast_threshold_of(s, q) == -INFINITY;
        if (ragfast_stopped_after(s, 0, s->plan->capacity)) return 0;
    }
    return needed;
}

/* The first rows in float64, for a threshold before candidate buffers are full; not where segments before have set it. */
static void score_warmup_rows(search *s) {
    const segment_plan *segment = s->segment;
    search_worker *w = &s->workers[0];
    if (!needs_warmup(s)) return;
    s->n_warmup_rows = segment->n_warmup_rows;
    for (size_t first = 0, end = s->n_warmup_rows; first < end;) {
        doc_block block = {.first = first, .n_docs = end - first};
        if (segment->docs->allowed)
            block = ragfast_list_rows(segment->docs, w->rows, s->plan->block_docs, &first, end);
        else
            first = end;
        prefetch_rows(s, &block);
        if (!rows_checksum_ok(s, &block)) return;
        ragfast_scan_f64(s, &block, 0);
        if (ragfast_stopped_after(s, 0, reading_work(segment->docs, &block))) return;
    }
    for (size_t q = 0; q < s->queries.n && s->n_warmup_rows > 0; q++) {
        if (ragfast_stopped_after(s, 0, s->plan->capacity)) return;
        if (!atomic_load(&s->shared.codes_disabled[q])) w->slots[q].by_codes += segment->n_warmup_allowed;
        ragfast_raise_threshold(s, q, 0);
    }
}

/* Every worker as the first chunk wants it. */
static void begin_workers(search *s) {
    for (size_t i = 0; i < s->plan->n_workers; i++) {
        search_worker *w = &s->workers[i];
        w->n_listed = 0;
        if (ragfast_is_coded(s->segment)) {
            memset(w->is_listed, 0, s->queries.n);
            w->use_prefix = s->segment->tries_prefix;
            w->chunks_until_prefix = w->n_waiting = 0;
            w->prefix_backoff = 1;
        } else if (s->segment->scan == RAGFAST_BY_FLOAT32) {
            for (size_t q = 0; q < s->queries.n; q++) w->listed[w->n_listed++] = (uint32_t)q;
            ragfast_lay_out_listed(s, i);
        }
    }
}

void ragfast_scan_segment(search *s, const segment_plan *segment) {
    s->segment = segment;
    s->n_warmup_rows = 0;
    begin_workers(s);
    if (ragfast_is_coded(segment)) {
        if (segment->new_transform) ragfast_code_queries(s);
        if (ragfast_status_of(s) == RAGFAST_OK) score_warmup_rows(s);
    }
    if (ragfast_status_of(s) != RAGFAST_OK) return;
    ragfast_parallel_for(s->call, run_chunk, s, segment->n_chunks, s->plan->n_workers);
    ragfast_search_has_stopped(s); /* which chunks may have been left out for */
}
