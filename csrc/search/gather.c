/* Scores of chosen documents, and their gradient. The rows lie anywhere, each a few lines of memory that no hardware
 * foresees: they are fetched while those before them are worked on, and the bytes of the rows are the limit. */
#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/elements.h"
#include "core/fpenv.h"
#include "core/kernels.h"
#include "core/pool.h"
#include "core/rows.h"
#include "ragfast/runtime.h"
#include "ragfast/search.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum {
    BATCH = RAGFAST_SCORED_ROWS,
    AHEAD_BYTES = 8 << 10, /* of a gradient, asked for before they are needed; scores fetch the next batch */
    MAX_AHEAD = 32,        /* rows, where they are short */
    MAX_FETCH = 8 << 10,   /* bytes of one row; the rest of a longer one the hardware foresees */
    CHUNK_BYTES = 256 << 10,
    INLINE_WORK = 1 << 20, /* multiplications below which waking a thread costs more than it brings */
    MAX_BLOCK = 1024,      /* columns of a gradient at a time: sums, and a row widened, in the first-level cache */
    MIN_BLOCK = 64,
    MAX_DIM = 1 << 20
};

typedef struct gather {
    ragfast_call call;
    size_t n_workers;
    const ragfast_kernels *kernels;
    const ragfast_docs *docs;
    const int64_t *rows; /* (B,K) */
    size_t k, n_pairs, row_bytes, ahead;

    double *scores;      /* (B,K) */
    const void *queries; /* (B,D) */
    size_t chunk_pairs;
    atomic_int status;

    double *out;        /* (B,D) */
    const double *grad; /* (B,K) */
    size_t block, n_blocks;
} gather;

static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

static ragfast_status prepare(gather *g, const ragfast_docs *docs, const int64_t *rows, size_t n_queries, size_t k,
                              const ragfast_options *options) {
    size_t dim = docs->dim;
    if (ragfast_begin_call(&g->call, options) != RAGFAST_OK || dim < 1 || dim > MAX_DIM ||
        docs->n_docs >= (size_t)1 << 31 || !ragfast_is_dtype(docs->dtype) ||
        ragfast_product(n_queries, k) > RAGFAST_MAX_ELEMENTS || ragfast_product(n_queries, dim) > RAGFAST_MAX_ELEMENTS)
        return RAGFAST_ERROR_ARGUMENT;
    g->kernels = ragfast_current_kernels();
    g->docs = docs;
    g->rows = rows;
    g->k = k;
    g->n_pairs = n_queries * k;
    g->row_bytes = dim * ragfast_element_size(docs->dtype);
    g->ahead = ragfast_min(ceil_div(AHEAD_BYTES, g->row_bytes), MAX_AHEAD);
    for (size_t p = 0; p < g->n_pairs; p++)
        if (rows[p] >= (int64_t)docs->n_docs) return RAGFAST_ERROR_ARGUMENT;
    g->n_workers = ragfast_worker_count(&g->call, (double)g->n_pairs * (double)dim < INLINE_WORK, SIZE_MAX);
    return RAGFAST_OK;
}

/* Asks for n columns of the row of pair p from `column` on. Into the second-level cache: the first one has so few
 * places for lines on their way that a row would fill them and stop the work meanwhile. Always inline: GCC takes a
 * function that does nothing but prefetch for one without effects, and drops calls of it. */
static inline __attribute__((always_inline)) void fetch(const gather *g, size_t p, size_t column, size_t n) {
    if (g->rows[p] < 0) return;
    size_t element = ragfast_element_size(g->docs->dtype), bytes = ragfast_min(n * element, MAX_FETCH);
    const char *first = (const char *)g->docs->vectors + (size_t)g->rows[p] * g->row_bytes + column * element;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(first + i, 0, 2);
    __builtin_prefetch(first + bytes - 1, 0, 2); /* rows seldom begin on a line */
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

static int queries_are_finite(const gather *g, size_t n_queries) {
    size_t dim = g->docs->dim;
    if (g->docs->dtype == RAGFAST_F64) return ragfast_all_finite(g->queries, n_queries * dim);
    for (size_t q = 0; q < n_queries; q++) {
        const float *query = (const float *)g->queries + q * dim;
        if (!isfinite(g->kernels->inner_f64_f32(query, query, dim))) return 0;
    }
    return 1;
}

/* Of several failures the one that stands first in the list of statuses, whichever thread finds its own first. */
static void fail(gather *g, ragfast_status status) {
    int seen = atomic_load_explicit(&g->status, memory_order_relaxed);
    while ((seen == RAGFAST_OK || seen > (int)status) &&
           !atomic_compare_exchange_weak_explicit(&g->status, &seen, (int)status, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
}

/* The next pairs from *from on that have a document, up to as many of one query as are scored at a time. The others have
 * theirs. */
static size_t list_pairs(const gather *g, size_t *pairs, const void **vectors, size_t *from, size_t end) {
    size_t n = 0;
    for (; *from < end && n < BATCH && (n == 0 || pairs[0] / g->k == *from / g->k); ++*from) {
        g->scores[*from] = -INFINITY;
        if (g->rows[*from] < 0) continue;
        pairs[n] = *from;
        vectors[n++] = (const char *)g->docs->vectors + (size_t)g->rows[*from] * g->row_bytes;
    }
    return n;
}

/* The query is finite: a sum that is not tells of the document, or that float64 overflowed. */
static void score_chunk(void *context, size_t chunk, size_t worker) {
    (void)worker;
    gather *g = context;
    ragfast_dtype dtype = g->docs->dtype;
    size_t dim = g->docs->dim, query_bytes = dim * (dtype == RAGFAST_F64 ? sizeof(double) : sizeof(float));
    size_t from = chunk * g->chunk_pairs, end = ragfast_min(from + g->chunk_pairs, g->n_pairs);
    size_t pairs[2][BATCH];
    const void *vectors[2][BATCH];
    size_t now = 0, count[2] = {list_pairs(g, pairs[0], vectors[0], &from, end)};
    for (; count[now] > 0; now = !now) {
        double scores[BATCH];
        count[!now] = list_pairs(g, pairs[!now], vectors[!now], &from, end);
        size_t n_ahead = g->row_bytes > MAX_FETCH ? 0 : count[!now];
        const void *query = (const char *)g->queries + pairs[now][0] / g->k * query_bytes;
        g->kernels->score_rows(scores, query, vectors[now], count[now], vectors[!now], n_ahead, dim, dtype,
                               g->docs->half_squares != NULL);
        for (size_t i = 0; i < count[now]; i++) {
            g->scores[pairs[now][i]] = scores[i];
            if (!isfinite(scores[i]))
                fail(g, dtype == RAGFAST_F64 && ragfast_all_finite(vectors[now][i], dim) ? RAGFAST_ERROR_OVERFLOW
                                                                                         : RAGFAST_ERROR_NONFINITE_DOC);
        }
    }
}

ragfast_status ragfast_gather_scores(double *scores, const void *queries, const int64_t *rows, size_t n_queries,
                                     size_t k, const ragfast_docs *docs, const ragfast_options *options) {
    gather g = {.scores = scores, .queries = queries};
    ragfast_status status = prepare(&g, docs, rows, n_queries, k, options);
    if (status != RAGFAST_OK) return status;
    g.chunk_pairs = ceil_div(CHUNK_BYTES, g.row_bytes);

    ragfast_fp_state caller_fp = ragfast_fp_enter();
    if (queries_are_finite(&g, n_queries))
        ragfast_parallel_for(&g.call, score_chunk, &g, ceil_div(g.n_pairs, g.chunk_pairs), g.n_workers);
    else
        fail(&g, RAGFAST_ERROR_NONFINITE_QUERY);
    ragfast_fp_leave(caller_fp);
    status = ragfast_end_call(&g.call);
    return status == RAGFAST_OK ? (ragfast_status)atomic_load(&g.status) : status;
}

/* ---- their gradient ---------------------------------------------------------------------------------------------- */

/* Columns of one query. Each is a sum of its own in the order of k, so that no split of them changes a bit. A document
 * without weight would add 0: it is not read. */
static void grad_chunk(void *context, size_t chunk, size_t worker) {
    (void)worker;
    const gather *g = context;
    const ragfast_kernels *kernels = g->kernels;
    ragfast_dtype dtype = g->docs->dtype;
    size_t dim = g->docs->dim, q = chunk / g->n_blocks, column = chunk % g->n_blocks * g->block;
    size_t n = ragfast_min(g->block, dim - column), first = q * g->k, end = first + g->k;
    double *out = g->out + q * dim + column;
    float wide[MAX_BLOCK];
    memset(out, 0, n * sizeof *out);
    for (size_t p = first; p < ragfast_min(first + g->ahead, end); p++) fetch(g, p, column, n);
    for (size_t p = first; p < end; p++) {
        if (p + g->ahead < end) fetch(g, p + g->ahead, column, n);
        double weight = g->grad[p];
        if (g->rows[p] < 0 || weight == 0) continue;
        size_t at = (size_t)g->rows[p] * dim + column;
        if (dtype == RAGFAST_F64) {
            kernels->add_scaled_f64(out, weight, (const double *)g->docs->vectors + at, n);
        } else if (dtype == RAGFAST_F32) {
            kernels->add_scaled_f32(out, weight, (const float *)g->docs->vectors + at, n);
        } else {
            (dtype == RAGFAST_F16 ? kernels->widen_f16
                                  : kernels->widen_bf16)(wide, (const uint16_t *)g->docs->vectors + at, n);
            kernels->add_scaled_f32(out, weight, wide, n);
        }
    }
}

ragfast_status ragfast_gather_scores_grad(double *out, const double *grad, const int64_t *rows, size_t n_queries,
                                          size_t k, const ragfast_docs *docs, const ragfast_options *options) {
    gather g = {.out = out, .grad = grad};
    ragfast_status status = prepare(&g, docs, rows, n_queries, k, options);
    if (status != RAGFAST_OK || n_queries == 0) return status;
    size_t wanted = ceil_div(g.n_workers, n_queries); /* blocks, for each thread to have one */
    g.block = ceil_div(ceil_div(docs->dim, wanted), MIN_BLOCK) * MIN_BLOCK;
    g.block = ragfast_min(g.block, MAX_BLOCK);
    g.n_blocks = ceil_div(docs->dim, g.block);

    ragfast_fp_state caller_fp = ragfast_fp_enter();
    ragfast_parallel_for(&g.call, grad_chunk, &g, n_queries * g.n_blocks, g.n_workers);
    ragfast_fp_leave(caller_fp);
    return ragfast_end_call(&g.call);
}
