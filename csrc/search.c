/* Exact top-k: a scan with rigorous error bounds, in float32 (scan_float32.c) or of codes (scan_codes.c), then float64 scores of
 * the few that the bounds cannot exclude.
 *
 * Each query keeps a floor, a lower bound on its K-th best score so far; a document of which an upper bound is below the
 * floor cannot be among the best K, every other one is kept, and nothing is ever truncated.
 *
 * Documents go through in blocks that fit the second-level cache; threads take chunks of blocks and keep candidates apart,
 * sharing only the floors. A floor that another thread has not seen yet costs a few candidates, never a result. */
#include "search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    BLOCK_BYTES = 256 << 10, /* documents of a block: it, its packed copy and the next block share a 1 MB cache */
    CHUNK_BYTES = 4 << 20,   /* documents a thread takes at a time, as float32 */
    GROUP_BYTES = 64 << 20,  /* candidates of the queries that one pass over the documents serves */
    EXACT_MAX_DOCS = 64,     /* up to here scanning first saves nothing */
    ROOM_FLOAT32 = 64,       /* candidates beyond k that a query may hold on a worker */
    ROOM_MANY = 256,
    ROOM_FEW = 1024,
    MIN_CODED = 4000, /* documents from which codes repay preparing queries and looking twice; and for one query */
    MIN_CODED_ONE = 1000,
    INLINE_WORK = 1 << 20, /* multiplications below which waking a thread costs more than it brings */
    MAX_DIM = 1 << 20
};

static float norm_rounded_up(double squared) {
    double norm = sqrt(squared) * (1 + 0x1p-36); /* covers the rounding of the sum (D <= 2^20) and of the root */
    float f = (float)norm;
    return (double)f < norm ? nextafterf(f, INFINITY) : f;
}

static void raise_floor(search *s, size_t q, double floor) {
    double seen = ragfast_floor_of(s, q);
    while (floor > seen && !atomic_compare_exchange_weak_explicit(&s->floors[q], &seen, floor, memory_order_relaxed,
                                                                  memory_order_relaxed)) {
    }
}

static void fail(search *s, ragfast_status status) {
    atomic_store_explicit(&s->status, (int)status, memory_order_relaxed);
}

const float *ragfast_widened(const ragfast_kernels *kernels, float *out, const void *vectors, ragfast_dtype dtype,
                             size_t row, size_t dim) {
    if (dtype == RAGFAST_F32) return (const float *)vectors + row * dim;
    (dtype == RAGFAST_F16 ? kernels->widen_f16 : kernels->widen_bf16)(out, (const uint16_t *)vectors + row * dim, dim);
    return out;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

static double exact_score(search *s, size_t q, size_t row) {
    size_t dim = s->docs->dim;
    const float *query = (const float *)s->queries + q * dim;
    const void *vectors = s->docs->vectors;
    switch (s->docs->dtype) {
    case RAGFAST_F32: return s->kernels->inner_f64_f32(query, (const float *)vectors + row * dim, dim);
    case RAGFAST_F16: return s->kernels->inner_f64_f16(query, (const uint16_t *)vectors + row * dim, dim);
    case RAGFAST_BF16: return s->kernels->inner_f64_bf16(query, (const uint16_t *)vectors + row * dim, dim);
    case RAGFAST_F64: break;
    }
    double score =
        s->kernels->inner_f64_f64((const double *)s->queries + q * dim, (const double *)vectors + row * dim, dim);
    if (!isfinite(score)) fail(s, RAGFAST_ERROR_OVERFLOW);
    return score;
}

/* Rows lie anywhere: each is fetched while those before it are scored, into the second-level cache, as the first has too
 * few places for lines on their way (3 to 8 % of 512 queries over the glosses). GCC drops calls of a function that only
 * prefetches unless it is inlined. */
static inline __attribute__((always_inline)) void fetch_row(const search *s, size_t row) {
    size_t bytes = s->docs->dim * ragfast_element_size(s->docs->dtype);
    const char *line = (const char *)s->docs->vectors + row * bytes;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(line + i, 0, 2);
}

static void rescore(search *s, size_t q, query_slot *slot, ragfast_candidate *items, size_t n) {
    enum { AHEAD = 3 };
    for (size_t i = 0; i < n && i < AHEAD; i++)
        if (!items[i].exact) fetch_row(s, items[i].row);
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n && !items[i + AHEAD].exact) fetch_row(s, items[i + AHEAD].row);
        if (items[i].exact) continue;
        items[i].lower = items[i].upper = exact_score(s, q, items[i].row);
        items[i].exact = 1;
        slot->rescored++;
    }
}

/* Drops what cannot be among the best k of n, raising the floor by what is there. Returns how many stay. */
static size_t drop_below_floor(search *s, size_t q, ragfast_candidate *items, size_t n) {
    if (n < s->k) return n;
    ragfast_select_best(items, n, s->k);
    raise_floor(s, q, items[s->k - 1].lower);
    double floor = ragfast_floor_of(s, q);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (items[i].upper >= floor) items[kept++] = items[i];
    return kept;
}

/* Scores those that should be above the floor: it rises to where it belongs, and most of the others go without being read. */
static size_t drop_by_likely(search *s, size_t q, query_slot *slot, ragfast_candidate *items, size_t n) {
    double floor = ragfast_floor_of(s, q);
    size_t n_likely = 0;
    for (size_t i = 0; i < n; i++)
        if (!items[i].exact && items[i].lower / 2 + items[i].upper / 2 >= floor)
            ragfast_swap(&items[i], &items[n_likely++]);
    rescore(s, q, slot, items, n_likely);
    return drop_below_floor(s, q, items, n);
}

/* Makes room in a reservoir, by the cheapest means that does: by the bounds alone; by float64 scores of the likeliest; and
 * where bounds cannot tell enough candidates apart (near-duplicates, huge norms) by scores of all, of which k are enough. */
void ragfast_settle(search *s, size_t q, size_t worker) {
    query_slot *slot = &s->workers[worker].slots[q];
    ragfast_candidate *items = s->candidates + (q * s->n_workers + worker) * s->capacity;
    size_t room = s->capacity - s->k;
    slot->likely = 0;
    slot->count = drop_below_floor(s, q, items, slot->count);
    if (slot->count > s->k + room / 2) slot->count = drop_by_likely(s, q, slot, items, slot->count);
    if (slot->count <= s->k + room / 4 * 3) return;
    rescore(s, q, slot, items, slot->count);
    slot->count = ragfast_min(drop_below_floor(s, q, items, slot->count), s->k);
}

void ragfast_add_candidate(search *s, size_t q, size_t worker, ragfast_candidate candidate) {
    query_slot *slot = &s->workers[worker].slots[q];
    s->candidates[(q * s->n_workers + worker) * s->capacity + slot->count++] = candidate;
    if (slot->count == s->capacity) ragfast_settle(s, q, worker);
}

/* ---- documents against the group of queries ---------------------------------------------------------------------- */

static void score_all(search *s, size_t first, size_t n_docs, size_t worker) {
    for (size_t q = 0; q < s->n_queries; q++) {
        for (size_t row = first; row < first + n_docs; row++) {
            double score = exact_score(s, q, row);
            if (score >= ragfast_floor_of(s, q))
                ragfast_add_candidate(s, q, worker,
                                      (ragfast_candidate){score, score, ragfast_id_of(s, row), (uint32_t)row, 1});
        }
        s->workers[worker].slots[q].rescored += n_docs;
    }
}

static int all_finite(const double *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

/* Norms of float32 documents that came without, and so have not been checked either. */
static int find_norms(search *s, size_t first, size_t n_docs, float *norms) {
    size_t dim = s->docs->dim;
    const float *docs = (const float *)s->docs->vectors + first * dim;
    for (size_t j = 0; j < n_docs; j++) {
        double squared = s->kernels->inner_f64_f32(docs + j * dim, docs + j * dim, dim);
        if (!isfinite(squared)) return 0;
        norms[j] = norm_rounded_up(squared);
    }
    return 1;
}

/* One block without codes. n_next documents after it will be asked for by the same worker, if anything is. */
static void run_block(search *s, size_t first, size_t n_docs, size_t n_next, size_t worker) {
    size_t dim = s->docs->dim;
    int checked = s->docs->dtype == RAGFAST_F64
                      ? all_finite((const double *)s->docs->vectors + first * dim, n_docs * dim)
                      : s->docs->norms || find_norms(s, first, n_docs, s->workers[worker].block_norms);
    if (!checked)
        fail(s, RAGFAST_ERROR_NONFINITE_DOC);
    else if (s->exact_only)
        score_all(s, first, n_docs, worker);
    else
        ragfast_scan_float32(s, first, n_docs, n_next, worker);
}

/* Queries that codes do not repay, from this chunk on by float32. Returns how many are left to the codes. */
static size_t list_given_up(search *s, search_worker *w) {
    size_t before = w->n_listed;
    for (size_t q = 0; q < s->n_queries; q++) {
        if (w->is_listed[q] || !atomic_load_explicit(&s->given_up[q], memory_order_relaxed)) continue;
        w->is_listed[q] = 1;
        w->listed[w->n_listed++] = (uint32_t)q;
    }
    if (w->n_listed > before) ragfast_lay_out_listed(s, w);
    return s->n_queries - w->n_listed;
}

static void run_chunk(void *context, size_t chunk, size_t worker) {
    search *s = context;
    search_worker *w = &s->workers[worker];
    /* Neighbours are often alike. Codes go through in leaps, so that a floor comes to know all kinds of documents soon. */
    size_t first = chunk * s->chunk_step % s->n_chunks * s->chunk_docs;
    size_t end = ragfast_min(s->docs->n_docs, first + s->chunk_docs);
    if (first < s->n_seeds) first = ragfast_min(s->n_seeds, end);
    if (s->coded && first < end) {
        if (list_given_up(s, w)) ragfast_scan_codes(s, first, end, worker);
        if (!w->n_listed) return;
    }
    while (first < end && atomic_load_explicit(&s->status, memory_order_relaxed) == RAGFAST_OK) {
        size_t n_docs = ragfast_min(end - first, s->block_docs);
        size_t to_come = (s->n_workers == 1 ? s->docs->n_docs : end) - first - n_docs;
        run_block(s, first, n_docs, ragfast_min(to_come, s->block_docs), worker);
        first += n_docs;
    }
}

/* ---- results ------------------------------------------------------------------------------------------------------ */

static void write_results(const search *s, size_t q, const ragfast_candidate *best) {
    double *scores = s->scores + q * s->k_out;
    int64_t *doc_ids = s->doc_ids + q * s->k_out;
    for (size_t i = 0; i < s->k_out; i++) {
        scores[i] = i < s->k ? best[i].lower : -INFINITY;
        doc_ids[i] = i < s->k ? best[i].id : -1;
    }
    if (!s->doc_logprobs) return;
    double *logprobs = s->doc_logprobs + q * s->k_out, sum = 0;
    for (size_t i = 0; i < s->k; i++) {
        logprobs[i] = (scores[i] - scores[0]) / s->temperature;
        if (i > 0) sum += exp(logprobs[i]); /* the best one's 1 stays apart: log p near 0 keeps its digits */
    }
    double log_sum = log1p(sum);
    for (size_t i = 0; i < s->k_out; i++) logprobs[i] = i < s->k ? logprobs[i] - log_sum : -INFINITY;
}

/* One query: the candidates of all workers together, float64 scores for those that the last floor leaves, the best k. */
static void finish_query(void *context, size_t q, size_t worker) {
    (void)worker;
    search *s = context;
    ragfast_candidate *items = s->candidates + q * s->n_workers * s->capacity;
    query_slot total = {0};
    for (size_t w = 0; w < s->n_workers; w++) {
        const query_slot *slot = &s->workers[w].slots[q];
        memmove(items + total.count, items + w * s->capacity, slot->count * sizeof *items);
        total.count += slot->count;
        total.rescored += slot->rescored;
        total.by_codes += slot->by_codes;
    }
    size_t n = total.count;
    if (n < s->k) return; /* a block gave up: the status says why */
    n = drop_below_floor(s, q, items, n);
    n = drop_by_likely(s, q, &total, items, n);
    rescore(s, q, &total, items, n);
    ragfast_select_best(items, n, s->k);
    ragfast_sort_best(items, s->k);
    write_results(s, q, items);
    if (s->stats) s->stats[q] = (ragfast_query_stats){total.rescored, total.by_codes};
}

/* ---- the group of queries ---------------------------------------------------------------------------------------- */

static ragfast_status prepare_queries(search *s) {
    size_t dim = s->docs->dim;
    for (size_t q = 0; q < s->n_queries; q++) {
        if (s->docs->dtype == RAGFAST_F64) {
            if (!all_finite((const double *)s->queries + q * dim, dim)) return RAGFAST_ERROR_NONFINITE_QUERY;
        } else {
            const float *query = (const float *)s->queries + q * dim;
            double squared = s->kernels->inner_f64_f32(query, query, dim);
            if (!isfinite(squared)) return RAGFAST_ERROR_NONFINITE_QUERY;
            s->query_norms[q] = sqrt(squared) * (1 + 0x1p-36);
        }
        atomic_init(&s->floors[q], -INFINITY);
    }
    for (size_t i = 0; i < s->n_workers; i++) {
        search_worker *w = &s->workers[i];
        memset(w->slots, 0, s->n_queries * sizeof *w->slots);
        w->n_listed = 0;
        if (s->coded) {
            memset(w->is_listed, 0, s->n_queries);
            size_t step = s->many ? s->kernels->code_groups * RAGFAST_GROUP_DIM : RAGFAST_GROUP_DIM;
            w->use_prefix = s->docs->codes->prefix > 0 && s->docs->codes->prefix % step == 0;
            w->chunks_without = w->n_waiting = 0;
            w->patience = 1;
        } else if (!s->exact_only) {
            for (size_t q = 0; q < s->n_queries; q++) w->listed[w->n_listed++] = (uint32_t)q;
            ragfast_lay_out_listed(s, w);
        }
    }
    if (s->coded) {
        ragfast_prepare_codes(s);
        score_all(s, 0, s->n_seeds, 0);
        for (size_t q = 0; q < s->n_queries; q++) { /* the floor of the seeds, before the reservoir is full */
            ragfast_candidate *items = s->candidates + q * s->n_workers * s->capacity;
            query_slot *slot = &s->workers[0].slots[q];
            if (!atomic_load(&s->given_up[q])) slot->by_codes = s->n_seeds;
            slot->count = drop_below_floor(s, q, items, slot->count);
        }
    }
    return RAGFAST_OK;
}

/* Carves the scratch block; returns the bytes it takes. With block NULL nothing is written but sizes. */
static size_t lay_out(search *s, char *block, size_t group) {
    size_t used = 0, dim = s->docs->dim, row = ragfast_padded(dim);
    int scans = !s->exact_only;
#define CARVE(field, count)                                                                                            \
    do {                                                                                                               \
        if (block) field = (void *)(block + used);                                                                     \
        used += ((count) * sizeof *(field) + 63) / 64 * 64;                                                            \
    } while (0)
    CARVE(s->candidates, group * s->n_workers * s->capacity);
    CARVE(s->floors, group);
    CARVE(s->query_norms, group);
    CARVE(s->code_queries, s->coded ? group : 0);
    CARVE(s->query_codes, s->coded ? group * row : 0);
    CARVE(s->interleaved_codes, s->coded ? ragfast_query_code_bytes(s, group, RAGFAST_TILE_QUERIES) : 0);
    CARVE(s->packed_codes, s->many ? ragfast_query_code_bytes(s, group, s->kernels->code_queries) : 0);
    CARVE(s->query_scratch, s->coded ? 2 * dim : 0);
    CARVE(s->given_up, s->coded ? group : 0);
    CARVE(s->workers, s->n_workers);
    search_worker unused, *w = &unused;
    for (size_t i = 0; i < s->n_workers; i++) {
        if (block) w = &s->workers[i];
        CARVE(w->slots, group);
        CARVE(w->listed, scans ? group : 0);
        CARVE(w->scan_queries, scans ? ragfast_scan_queries_size(s, group) : 0);
        CARVE(w->packed_docs, scans ? s->block_docs * dim : 0);
        CARVE(w->wide_docs, scans && s->docs->dtype != RAGFAST_F32 ? s->block_docs * dim : 0);
        CARVE(w->block_norms, s->docs->norms ? 0 : s->block_docs);
        CARVE(w->is_listed, s->coded ? group : 0);
        CARVE(w->panel_codes, s->many ? ragfast_query_code_bytes(s, PANEL, 1) : 0);
        CARVE(w->thresholds, s->coded ? group : 0);
        CARVE(w->whole_thresholds, s->coded ? group : 0);
        CARVE(w->waiting, s->coded ? RAGFAST_SECOND_LOOKS : 0);
        if (block && s->many) memset(w->panel_codes, 0, ragfast_query_code_bytes(s, PANEL, 1));
    }
#undef CARVE
    return used;
}

/* Whether codes serve this search at all; queries that they turn out not to serve leave them on the way. */
static int codes_serve(const ragfast_docs *docs, size_t n_queries, size_t k) {
    const ragfast_codes *codes = docs->codes;
    if (!codes || docs->dim > RAGFAST_MAX_CODE_DIM || docs->dtype == RAGFAST_F64 || !docs->norms) return 0;
    if (codes->always) return 1;
    return docs->n_docs >= (n_queries == 1 ? MIN_CODED_ONE : MIN_CODED) && k <= docs->n_docs / 64;
}

static size_t common_divisor(size_t a, size_t b) { return b ? common_divisor(b, a % b) : a; }

/* A step that visits all of n, any few of them in a row far apart. */
static size_t leap(size_t n) {
    size_t step = n * 5 / 8 + 1;
    while (common_divisor(n, step) > 1) step++;
    return step;
}

ragfast_status ragfast_search(double *scores, int64_t *doc_ids, double *doc_logprobs, ragfast_query_stats *stats,
                              const void *queries, size_t n_queries, const ragfast_docs *docs, size_t k,
                              double temperature, int n_threads) {
    size_t n_docs = docs->n_docs, dim = docs->dim;
    if (k < 1 || dim < 1 || dim > MAX_DIM || n_docs >= (size_t)1 << 31 || !(temperature > 0) || n_threads < 0 ||
        n_queries > SIZE_MAX / 1024 / (k + dim) || (!docs->norms && docs->dtype > RAGFAST_F64))
        return RAGFAST_ERROR_ARGUMENT;
    if (stats) memset(stats, 0, n_queries * sizeof *stats);
    if (n_queries == 0) return RAGFAST_OK;

    double roundings = (double)(dim + 8) * 0x1p-24;
    search s = {.kernels = ragfast_current_kernels(),
                .docs = docs,
                .k = ragfast_min(k, n_docs),
                .k_out = k,
                .temperature = temperature,
                .gamma = roundings / (1 - roundings),
                .underflow = (double)(dim + 8) * 0x1p-149};
    if (n_docs == 0) {
        s.scores = scores, s.doc_ids = doc_ids, s.doc_logprobs = doc_logprobs;
        for (size_t q = 0; q < n_queries; q++) write_results(&s, q, NULL);
    }
    s.exact_only = docs->dtype == RAGFAST_F64 || n_docs <= EXACT_MAX_DOCS || s.k >= n_docs / 2;
    s.coded = !s.exact_only && codes_serve(docs, n_queries, s.k);
    s.many = s.coded && n_queries >= s.kernels->code_many;
    s.block_docs = BLOCK_BYTES / (dim * sizeof(float)) / PANEL * PANEL;
    if (s.block_docs < PANEL) s.block_docs = PANEL;
    if (n_threads == 0) n_threads = ragfast_get_num_threads();
    if ((double)n_queries * (double)n_docs * (double)dim < INLINE_WORK) n_threads = 1;
    size_t n_blocks = n_docs / s.block_docs + 1; /* chunks of some blocks each, but a few for every thread */
    /* Small ones let floors and judgement learn sooner, long ones suit a prefix: docs/design.md. */
    size_t chunk_bytes = s.many ? CHUNK_BYTES / 4 : s.coded && n_queries <= 4 ? CHUNK_BYTES * 4 : CHUNK_BYTES;
    size_t blocks = ragfast_min(chunk_bytes / (s.block_docs * dim * sizeof(float)), n_blocks / 8 / (size_t)n_threads);
    s.chunk_docs = (blocks > 1 ? blocks : 1) * s.block_docs;
    size_t n_chunks = (n_docs + s.chunk_docs - 1) / s.chunk_docs;
    s.n_chunks = n_chunks;
    s.chunk_step = s.coded ? leap(n_chunks) : 1;
    s.n_workers = ragfast_min(ragfast_min((size_t)n_threads, RAGFAST_MAX_THREADS), n_chunks ? n_chunks : 1);
    /* The bounds of codes are wide: where candidates may wait until the floor has risen, most are never read. */
    size_t room = s.many ? ROOM_MANY : s.coded ? ROOM_FEW : ROOM_FLOAT32;
    if (room < (s.coded ? 4 : 1) * s.k) room = (s.coded ? 4 : 1) * s.k;
    s.capacity = s.k + room;
    if (s.capacity > n_docs + 1) s.capacity = n_docs + 1;
    if (s.coded) s.n_seeds = ragfast_min((s.k + PANEL - 1) / PANEL * PANEL, n_docs);

    /* As many queries a pass as memory allows, in even groups. */
    size_t group = GROUP_BYTES / (s.capacity * s.n_workers * sizeof(ragfast_candidate));
    if (group < 1) group = 1;
    size_t n_groups = (n_queries + group - 1) / group;
    group = (n_queries + n_groups - 1) / n_groups;

    char *block = malloc(lay_out(&s, NULL, group) + 64);
    if (!block) return RAGFAST_ERROR_MEMORY;
    lay_out(&s, block + (64 - (uintptr_t)block % 64), group);

    ragfast_fp_state caller_fp = ragfast_fp_enter();
    size_t element = docs->dtype == RAGFAST_F64 ? sizeof(double) : sizeof(float);
    for (size_t q = 0; q < n_queries && atomic_load(&s.status) == RAGFAST_OK; q += group) {
        s.queries = (const char *)queries + q * dim * element;
        s.n_queries = ragfast_min(n_queries - q, group);
        s.scores = scores + q * k;
        s.doc_ids = doc_ids + q * k;
        s.doc_logprobs = doc_logprobs ? doc_logprobs + q * k : NULL;
        s.stats = stats ? stats + q : NULL;
        ragfast_status status = prepare_queries(&s);
        if (status != RAGFAST_OK) fail(&s, status);
        if (status != RAGFAST_OK || n_docs == 0) continue;
        ragfast_parallel_for(run_chunk, &s, n_chunks, (int)s.n_workers);
        ragfast_parallel_for(finish_query, &s, s.n_queries, (int)s.n_workers);
    }
    ragfast_fp_leave(caller_fp);
    free(block);
    return (ragfast_status)atomic_load(&s.status);
}

/* ---- norms -------------------------------------------------------------------------------------------------------- */

enum { NORM_CHUNK = 256 };

typedef struct norms_job {
    const ragfast_kernels *kernels;
    float *norms;
    const void *rows;
    size_t n_rows, dim;
    ragfast_dtype dtype;
    float *wide; /* (workers, D), where rows are of 16 bits */
    atomic_size_t bad_row;
} norms_job;

static void norm_chunk(void *context, size_t chunk, size_t worker) {
    norms_job *job = context;
    size_t end = ragfast_min(job->n_rows, (chunk + 1) * NORM_CHUNK);
    for (size_t i = chunk * NORM_CHUNK; i < end; i++) {
        const float *row =
            ragfast_widened(job->kernels, job->wide + worker * job->dim, job->rows, job->dtype, i, job->dim);
        double squared = job->kernels->inner_f64_f32(row, row, job->dim);
        job->norms[i] = norm_rounded_up(squared);
        if (isfinite(squared)) continue; /* no float32 square overflows float64 */
        size_t seen = atomic_load(&job->bad_row);
        while (i < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, i)) {
        }
    }
}

ragfast_status ragfast_row_norms(float *norms, size_t *bad_row, const void *rows, size_t n_rows, size_t dim,
                                 ragfast_dtype dtype, int n_threads) {
    if (dim < 1 || dim > MAX_DIM || n_threads < 0 || dtype == RAGFAST_F64) return RAGFAST_ERROR_ARGUMENT;
    if (n_threads == 0) n_threads = ragfast_get_num_threads();
    if (n_rows * dim < INLINE_WORK) n_threads = 1;
    if (n_threads > RAGFAST_MAX_THREADS) n_threads = RAGFAST_MAX_THREADS;
    float *wide = dtype == RAGFAST_F32 ? NULL : malloc((size_t)n_threads * dim * sizeof(float));
    if (!wide && dtype != RAGFAST_F32) return RAGFAST_ERROR_MEMORY;
    norms_job job = {.kernels = ragfast_current_kernels(),
                     .norms = norms,
                     .rows = rows,
                     .n_rows = n_rows,
                     .dim = dim,
                     .dtype = dtype,
                     .wide = wide};
    atomic_init(&job.bad_row, SIZE_MAX);
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    ragfast_parallel_for(norm_chunk, &job, (n_rows + NORM_CHUNK - 1) / NORM_CHUNK, n_threads);
    ragfast_fp_leave(caller_fp);
    free(wide);
    *bad_row = atomic_load(&job.bad_row);
    return *bad_row == SIZE_MAX ? RAGFAST_OK : RAGFAST_ERROR_NONFINITE_DOC;
}

/* ---- conversions -------------------------------------------------------------------------------------------------- */

/* Not inlined: the compiler knows nothing of the environment and could move a conversion out of the bracket. */
__attribute__((noinline)) static void narrow(float *out, const double *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (float)x[i];
}

__attribute__((noinline)) static void widen(double *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = x[i];
}

void ragfast_narrow(float *out, const double *x, size_t n) {
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    narrow(out, x, n);
    ragfast_fp_leave(caller_fp);
}

void ragfast_widen(double *out, const float *x, size_t n) {
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    widen(out, x, n);
    ragfast_fp_leave(caller_fp);
}
