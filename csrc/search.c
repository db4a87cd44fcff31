/* Exact top-k: a float32 scan with a rigorous error bound, then float64 scores of the few that the bound cannot exclude.
 *
 * For every (query q, document d) the scan's score s differs from the float64 score by at most
 *     error(q,d) = gamma |q||d| + underflow          (gamma_n = n u / (1 - n u), u = 2^-24, n = D + 8 roundings)
 * by the standard bound on an inner product in any order of summation (Higham, Accuracy and Stability of Numerical
 * Algorithms, 3.1) and Cauchy-Schwarz. Each query keeps a floor, a lower bound on its K-th best score so far; a document
 * whose s + error is below the floor cannot be among the best K, every other one is kept, and nothing is ever truncated.
 *
 * Documents go through in blocks that fit the second-level cache; threads take chunks of blocks and keep candidates apart,
 * sharing only the floors. A floor that another thread has not seen yet costs a few candidates, never a result. */
#include "candidates.h"
#include "internal.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    BLOCK_BYTES = 256 << 10, /* documents of a block: it, its packed copy and the next block share a 1 MB cache */
    CHUNK_BYTES = 4 << 20,   /* documents a thread takes at a time */
    GROUP_BYTES = 64 << 20,  /* candidates of the queries that one pass over the documents serves */
    PACK_MIN_QUERIES = RAGFAST_ROWS_QUERIES, /* from here transposing the documents repays itself: docs/design.md */
    PACK_MIN_QUERIES_NARROW = 16,            /* and here where a row is too short to repay summing across lanes */
    NARROW_DIM = 256,
    EXACT_MAX_DOCS = 64,   /* up to here scanning first saves nothing */
    INLINE_WORK = 1 << 20, /* multiplications below which waking a thread costs more than it brings */
    MAX_DIM = 1 << 20
};

typedef struct search {
    const ragfast_kernels *kernels;
    const ragfast_docs *docs;
    const char *queries; /* of the group */
    size_t n_queries;    /* of the group */
    size_t k;            /* min(K, N) */
    int exact_only;      /* no scan: float64 documents, or too few to repay one */
    int packed;
    size_t tile_queries; /* that one kernel call takes */
    size_t block_docs;   /* that the caches hold */
    size_t chunk_docs;   /* that a worker takes at a time: some blocks */
    size_t n_workers;
    double gamma, underflow;

    size_t capacity;               /* candidates a query may hold on one worker: k and as many again */
    ragfast_candidate *candidates; /* (group, workers, capacity) */
    size_t *counts;                /* (group, workers) */
    _Atomic double *floors;        /* (group,) */
    double *query_norms;           /* (group,) */
    float *scan_queries;           /* as the kernels want them: (group / TILE, D, TILE), or (group, padded D) */
    float *packed_docs;            /* (workers, block_docs, D) */
    float *block_norms;            /* (workers, block_docs) where the caller has none */

    double *scores; /* outputs of the group */
    int64_t *doc_ids;
    double *doc_logprobs;
    size_t k_out;
    double temperature;
    atomic_int status;
    _Atomic uint64_t rescored;
} search;

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

/* An upper bound on |scan - float64 score|, infinite where a partial sum of the scan may overflow. The factor covers the
 * rounding of this expression, of s +- error, and of the float64 score itself: each is below 1e-8 of gamma |q||d|. */
static double scan_error(const search *s, double query_norm, double doc_norm) {
    double size = query_norm * doc_norm;
    return size < FLT_MAX / 4 ? s->gamma * size * (1 + 1e-6) + s->underflow : INFINITY;
}

/* A float32 not above x, where x is in range or infinite; beyond the range infinity will do, since a panel of which the
 * error is finite has no score there. Cheaper than nextafterf, which a tile would call for each query. */
static float rounded_down(double x) { return (float)(x - fabs(x) * 0x1p-23 - 0x1p-149); }

static float norm_rounded_up(double squared) {
    double norm = sqrt(squared) * (1 + 0x1p-36); /* covers the rounding of the sum (D <= 2^20) and of the root */
    float f = (float)norm;
    return (double)f < norm ? nextafterf(f, INFINITY) : f;
}

static double current_floor(const search *s, size_t q) {
    return atomic_load_explicit(&s->floors[q], memory_order_relaxed);
}

static void raise_floor(search *s, size_t q, double floor) {
    double seen = current_floor(s, q);
    while (floor > seen && !atomic_compare_exchange_weak_explicit(&s->floors[q], &seen, floor, memory_order_relaxed,
                                                                  memory_order_relaxed)) {
    }
}

static void fail(search *s, ragfast_status status) {
    atomic_store_explicit(&s->status, (int)status, memory_order_relaxed);
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

static double exact_score(search *s, size_t q, size_t row) {
    size_t dim = s->docs->dim;
    if (s->docs->dtype == RAGFAST_F32)
        return s->kernels->inner_f64_f32((const float *)s->queries + q * dim,
                                         (const float *)s->docs->vectors + row * dim, dim);
    double score = s->kernels->inner_f64_f64((const double *)s->queries + q * dim,
                                             (const double *)s->docs->vectors + row * dim, dim);
    if (!isfinite(score)) fail(s, RAGFAST_ERROR_OVERFLOW);
    return score;
}

static void rescore(search *s, size_t q, ragfast_candidate *items, size_t n) {
    uint64_t rescored = 0;
    for (size_t i = 0; i < n; i++) {
        if (items[i].exact) continue;
        items[i].lower = items[i].upper = exact_score(s, q, items[i].row);
        items[i].exact = 1;
        rescored++;
    }
    atomic_fetch_add_explicit(&s->rescored, rescored, memory_order_relaxed);
}

/* Drops what cannot be among the best k of n, raising the floor by what is there. Returns how many stay. */
static size_t drop_below_floor(search *s, size_t q, ragfast_candidate *items, size_t n) {
    if (n < s->k) return n;
    ragfast_select_best(items, n, s->k);
    raise_floor(s, q, items[s->k - 1].lower);
    double floor = current_floor(s, q);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (items[i].upper >= floor) items[kept++] = items[i];
    return kept;
}

/* Makes room in a full reservoir: by the bounds, and where they cannot tell enough candidates apart (near-duplicates,
 * huge norms) by their float64 scores, of which k are enough. */
static size_t settle(search *s, size_t q, ragfast_candidate *items, size_t n) {
    n = drop_below_floor(s, q, items, n);
    if (n <= s->k + (s->capacity - s->k) / 2) return n;
    rescore(s, q, items, n);
    ragfast_select_best(items, n, s->k);
    raise_floor(s, q, items[s->k - 1].lower);
    return s->k;
}

static void add_candidate(search *s, size_t q, size_t worker, ragfast_candidate candidate) {
    size_t slot = q * s->n_workers + worker;
    ragfast_candidate *items = s->candidates + slot * s->capacity;
    items[s->counts[slot]++] = candidate;
    if (s->counts[slot] == s->capacity) s->counts[slot] = settle(s, q, items, s->capacity);
}

static int64_t id_of(const search *s, size_t row) { return s->docs->ids ? s->docs->ids[row] : (int64_t)row; }

/* ---- one block of documents against the group of queries --------------------------------------------------------- */

static void exact_block(search *s, size_t first, size_t n_docs, size_t worker) {
    for (size_t q = 0; q < s->n_queries; q++) {
        for (size_t row = first; row < first + n_docs; row++) {
            double score = exact_score(s, q, row);
            if (score >= current_floor(s, q))
                add_candidate(s, q, worker, (ragfast_candidate){score, score, id_of(s, row), (uint32_t)row, 1});
        }
    }
    atomic_fetch_add_explicit(&s->rescored, s->n_queries * n_docs, memory_order_relaxed);
}

static void add_hits(search *s, size_t q, size_t worker, uint32_t hits, const float *scores, const float *norms,
                     size_t first) {
    for (; hits; hits &= hits - 1) {
        size_t j = (size_t)__builtin_ctz(hits);
        double error = scan_error(s, s->query_norms[q], norms[j]);
        double score = isinf(error) ? 0 : scores[j]; /* an overflowed score says nothing: -inf to inf is kept */
        if (score + error >= current_floor(s, q))
            add_candidate(
                s, q, worker,
                (ragfast_candidate){score - error, score + error, id_of(s, first + j), (uint32_t)(first + j), 0});
    }
}

/* Tiles outside, panels inside: a tile's queries stay in the first-level cache for the whole block. Each packed tile
 * fetches its share of the next block, of which packing reads 16 rows side by side: no hardware foresees that. */
static void scan_block(search *s, const float *docs, const float *norms, size_t first, size_t n_docs, size_t n_next,
                       size_t worker) {
    size_t dim = s->docs->dim, n_panels = (n_docs + PANEL - 1) / PANEL, tile = s->tile_queries;
    float *packed_docs = s->packed_docs + worker * s->block_docs * dim;
    float panel_norms[BLOCK_BYTES / (sizeof(float) * PANEL) + 1];
    for (size_t p = 0; p < n_panels; p++) {
        size_t n = ragfast_min(n_docs - p * PANEL, PANEL);
        panel_norms[p] = 0;
        for (size_t j = 0; j < n; j++) panel_norms[p] = fmaxf(panel_norms[p], norms[p * PANEL + j]);
        if (s->packed) s->kernels->pack_docs_f32(packed_docs + p * PANEL * dim, docs + p * PANEL * dim, n, dim);
    }
    const char *ahead = (const char *)(docs + n_docs * dim), *end = (const char *)(docs + (n_docs + n_next) * dim);
    size_t n_tiles = (s->n_queries + tile - 1) / tile * n_panels;
    size_t share = ragfast_min(((size_t)(end - ahead) / 64 + n_tiles - 1) / n_tiles, dim); /* lines */
    for (size_t q = 0; q < s->n_queries; q += tile) {
        size_t n_queries = ragfast_min(s->n_queries - q, tile);
        for (size_t p = 0; p < n_panels; p++) {
            float scores[RAGFAST_ROWS_QUERIES * PANEL], thresholds[RAGFAST_ROWS_QUERIES];
            uint32_t hits[RAGFAST_ROWS_QUERIES];
            size_t n = ragfast_min(n_docs - p * PANEL, PANEL);
            for (size_t i = 0; i < n_queries; i++)
                thresholds[i] =
                    rounded_down(current_floor(s, q + i) - scan_error(s, s->query_norms[q + i], panel_norms[p]));
            if (s->packed) {
                size_t n_ahead = ragfast_min(share, (size_t)(end - ahead) / 64);
                s->kernels->tile_packed_f32(scores, hits, s->scan_queries + q * dim, n_queries,
                                            packed_docs + p * PANEL * dim, n, dim, thresholds, ahead, n_ahead);
                ahead += 64 * n_ahead;
            } else {
                s->kernels->tile_rows_f32(scores, hits, s->scan_queries + q * ragfast_padded(dim), n_queries,
                                          docs + p * PANEL * dim, n, dim, thresholds);
            }
            for (size_t i = 0; i < n_queries; i++)
                if (hits[i])
                    add_hits(s, q + i, worker, hits[i], scores + i * PANEL, norms + p * PANEL, first + p * PANEL);
        }
    }
}

static int all_finite(const double *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

/* n_next documents after the block will be asked for by the same worker, if anything is. */
static void run_block(search *s, size_t first, size_t n_docs, size_t n_next, size_t worker) {
    size_t dim = s->docs->dim;
    if (s->docs->dtype == RAGFAST_F64) {
        if (!all_finite((const double *)s->docs->vectors + first * dim, n_docs * dim))
            fail(s, RAGFAST_ERROR_NONFINITE_DOC);
        else
            exact_block(s, first, n_docs, worker);
        return;
    }
    const float *docs = (const float *)s->docs->vectors + first * dim;
    const float *norms = s->docs->norms ? s->docs->norms + first : NULL;
    if (!norms) {
        float *found = s->block_norms + worker * s->block_docs;
        for (size_t j = 0; j < n_docs; j++) {
            double squared = s->kernels->inner_f64_f32(docs + j * dim, docs + j * dim, dim);
            if (!isfinite(squared)) {
                fail(s, RAGFAST_ERROR_NONFINITE_DOC);
                return;
            }
            found[j] = norm_rounded_up(squared);
        }
        norms = found;
    }
    if (s->exact_only)
        exact_block(s, first, n_docs, worker);
    else
        scan_block(s, docs, norms, first, n_docs, n_next, worker);
}

static void run_chunk(void *context, size_t chunk, size_t worker) {
    search *s = context;
    size_t first = chunk * s->chunk_docs;
    size_t end = ragfast_min(s->docs->n_docs, first + s->chunk_docs);
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
    size_t n = 0;
    for (size_t w = 0; w < s->n_workers; w++) {
        memmove(items + n, items + w * s->capacity, s->counts[q * s->n_workers + w] * sizeof *items);
        n += s->counts[q * s->n_workers + w];
    }
    if (n < s->k) return; /* a block gave up: the status says why */
    n = drop_below_floor(s, q, items, n);
    rescore(s, q, items, n);
    ragfast_select_best(items, n, s->k);
    ragfast_sort_best(items, s->k);
    write_results(s, q, items);
}

/* ---- the group of queries ---------------------------------------------------------------------------------------- */

static size_t scan_queries_size(const search *s, size_t n_queries) {
    return s->exact_only ? 0
           : s->packed   ? (n_queries + TILE - 1) / TILE * TILE * s->docs->dim
                         : n_queries * ragfast_padded(s->docs->dim);
}

static void lay_out_queries(search *s) {
    size_t dim = s->docs->dim;
    memset(s->scan_queries, 0, scan_queries_size(s, s->n_queries) * sizeof(float));
    for (size_t q = 0; q < s->n_queries; q++) {
        const float *query = (const float *)s->queries + q * dim;
        if (!s->packed) memcpy(s->scan_queries + q * ragfast_padded(dim), query, dim * sizeof(float));
        for (size_t e = 0; s->packed && e < dim; e++)
            s->scan_queries[(q / TILE * dim + e) * TILE + q % TILE] = query[e];
    }
}

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
    memset(s->counts, 0, s->n_queries * s->n_workers * sizeof *s->counts);
    if (!s->exact_only) lay_out_queries(s);
    return RAGFAST_OK;
}

/* Carves the scratch block; returns the bytes it takes. With block NULL nothing is written but sizes. */
static size_t lay_out(search *s, char *block, size_t group) {
    size_t used = 0, dim = s->docs->dim;
#define CARVE(field, count)                                                                                            \
    do {                                                                                                               \
        if (block) s->field = (void *)(block + used);                                                                  \
        used += ((count) * sizeof *s->field + 63) / 64 * 64;                                                           \
    } while (0)
    CARVE(candidates, group * s->n_workers * s->capacity);
    CARVE(counts, group * s->n_workers);
    CARVE(floors, group);
    CARVE(query_norms, group);
    CARVE(scan_queries, scan_queries_size(s, group));
    CARVE(packed_docs, s->packed ? s->n_workers * s->block_docs * dim : 0);
    CARVE(block_norms, s->docs->norms ? 0 : s->n_workers * s->block_docs);
#undef CARVE
    return used;
}

ragfast_status ragfast_search(double *scores, int64_t *doc_ids, double *doc_logprobs, ragfast_search_stats *stats,
                              const void *queries, size_t n_queries, const ragfast_docs *docs, size_t k,
                              double temperature, int n_threads) {
    size_t n_docs = docs->n_docs, dim = docs->dim;
    if (k < 1 || dim < 1 || dim > MAX_DIM || n_docs >= (size_t)1 << 31 || !(temperature > 0) || n_threads < 0 ||
        n_queries > SIZE_MAX / 1024 / (k + dim))
        return RAGFAST_ERROR_ARGUMENT;
    if (stats) *stats = (ragfast_search_stats){0};
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
    s.block_docs = BLOCK_BYTES / (dim * sizeof(float)) / PANEL * PANEL;
    if (s.block_docs < PANEL) s.block_docs = PANEL;
    if (n_threads == 0) n_threads = ragfast_get_num_threads();
    if ((double)n_queries * (double)n_docs * (double)dim < INLINE_WORK) n_threads = 1;
    size_t n_blocks = n_docs / s.block_docs + 1; /* chunks of some blocks each, but a few for every thread */
    size_t blocks = ragfast_min(CHUNK_BYTES / (s.block_docs * dim * sizeof(float)), n_blocks / 8 / (size_t)n_threads);
    s.chunk_docs = (blocks > 1 ? blocks : 1) * s.block_docs;
    size_t n_chunks = (n_docs + s.chunk_docs - 1) / s.chunk_docs;
    s.n_workers = ragfast_min(ragfast_min((size_t)n_threads, RAGFAST_MAX_THREADS), n_chunks ? n_chunks : 1);
    s.capacity = s.k + (s.k > 64 ? s.k : 64);
    if (s.capacity > n_docs + 1) s.capacity = n_docs + 1;

    /* As many queries a pass as memory allows, in even groups. */
    size_t group = GROUP_BYTES / (s.capacity * s.n_workers * sizeof(ragfast_candidate));
    if (group < 1) group = 1;
    size_t n_groups = (n_queries + group - 1) / group;
    group = (n_queries + n_groups - 1) / n_groups;
    s.packed = !s.exact_only && group >= (dim < NARROW_DIM ? PACK_MIN_QUERIES_NARROW : PACK_MIN_QUERIES);
    s.tile_queries = s.packed ? TILE : RAGFAST_ROWS_QUERIES;

    char *block = malloc(lay_out(&s, NULL, group) + 64);
    if (!block) return RAGFAST_ERROR_MEMORY;
    lay_out(&s, block + (64 - (uintptr_t)block % 64), group);

    ragfast_fp_state caller_fp = ragfast_fp_enter();
    size_t element = docs->dtype == RAGFAST_F32 ? sizeof(float) : sizeof(double);
    for (size_t q = 0; q < n_queries && atomic_load(&s.status) == RAGFAST_OK; q += group) {
        s.queries = (const char *)queries + q * dim * element;
        s.n_queries = ragfast_min(n_queries - q, group);
        s.scores = scores + q * k;
        s.doc_ids = doc_ids + q * k;
        s.doc_logprobs = doc_logprobs ? doc_logprobs + q * k : NULL;
        ragfast_status status = prepare_queries(&s);
        if (status != RAGFAST_OK) fail(&s, status);
        if (status != RAGFAST_OK || n_docs == 0) continue;
        ragfast_parallel_for(run_chunk, &s, n_chunks, (int)s.n_workers);
        ragfast_parallel_for(finish_query, &s, s.n_queries, (int)s.n_workers);
    }
    ragfast_fp_leave(caller_fp);
    free(block);
    if (stats) stats->rescored = atomic_load(&s.rescored);
    return (ragfast_status)atomic_load(&s.status);
}

/* ---- norms -------------------------------------------------------------------------------------------------------- */

enum { NORM_CHUNK = 256 };

typedef struct norms_job {
    const ragfast_kernels *kernels;
    float *norms;
    const float *rows;
    size_t n_rows, dim;
    atomic_size_t bad_row;
} norms_job;

static void norm_chunk(void *context, size_t chunk, size_t worker) {
    (void)worker;
    norms_job *job = context;
    size_t end = ragfast_min(job->n_rows, (chunk + 1) * NORM_CHUNK);
    for (size_t i = chunk * NORM_CHUNK; i < end; i++) {
        const float *row = job->rows + i * job->dim;
        double squared = job->kernels->inner_f64_f32(row, row, job->dim);
        job->norms[i] = norm_rounded_up(squared);
        if (isfinite(squared)) continue; /* no float32 square overflows float64 */
        size_t seen = atomic_load(&job->bad_row);
        while (i < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, i)) {
        }
    }
}

ragfast_status ragfast_row_norms(float *norms, size_t *bad_row, const float *rows, size_t n_rows, size_t dim,
                                 int n_threads) {
    if (dim < 1 || dim > MAX_DIM || n_threads < 0) return RAGFAST_ERROR_ARGUMENT;
    norms_job job = {.kernels = ragfast_current_kernels(), .norms = norms, .rows = rows, .n_rows = n_rows, .dim = dim};
    atomic_init(&job.bad_row, SIZE_MAX);
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    ragfast_parallel_for(norm_chunk, &job, (n_rows + NORM_CHUNK - 1) / NORM_CHUNK,
                         n_rows * dim < INLINE_WORK ? 1 : n_threads);
    ragfast_fp_leave(caller_fp);
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
