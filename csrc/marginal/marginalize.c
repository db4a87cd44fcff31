/* Log-sum-exp, log-softmax and marginalization over documents.
 *
 * Every LSE is top + log_rest, top being the maximum and log_rest = log1p(sum of the other exp(v - top)), so that a sum
 * ruled by one term keeps its accuracy. A float32 row is first summed in float32; where the result is too near 0 to bear
 * float32's error it is summed again in float64 (row_lse.c). */
#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/elements.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "marginal/row_lse.h"
#include "ragfast/marginal.h"

#include <float.h>
#include <math.h>

enum {
    STACK_DOCS = 64,          /* joint log-probabilities of one query held at a time */
    TOKEN_COLS = 8192,        /* target tokens of one query that are one piece of work */
    INLINE_WORK = 200 * 1000, /* elements below which waking a thread costs more than it brings */
    PIECE_WORK = 64 * 1024    /* elements that a thread takes at a time */
};

/* Parts of a job: a contiguous range of rows or queries, and of target tokens. */
typedef struct job {
    const ragfast_kernels *kernels;
    ragfast_dtype dtype;
    char *out, *posterior;
    const char *x, *doc_logprobs; /* x: rows, or token_logprobs */
    size_t n_rows, n_docs, n_cols;
    size_t rows_each, cols_each; /* of a piece */
    void (*run)(const struct job *j, size_t row, size_t col, size_t n);
} job;

/* x into an array of the type of the job. */
static void store(const job *j, void *out, size_t i, double x) {
    if (j->dtype == RAGFAST_F32)
        ((float *)out)[i] = (float)x;
    else
        ((double *)out)[i] = x;
}

static int has_sums(ragfast_dtype dtype) { return dtype == RAGFAST_F32 || dtype == RAGFAST_F64; }

static void run_piece(void *context, size_t piece, size_t worker) {
    (void)worker;
    const job *j = context;
    size_t pieces_per_row = (j->n_cols + j->cols_each - 1) / j->cols_each;
    if (pieces_per_row == 0) pieces_per_row = 1;
    size_t first = piece / pieces_per_row * j->rows_each, col = piece % pieces_per_row * j->cols_each;
    size_t last = ragfast_min(first + j->rows_each, j->n_rows);
    for (size_t row = first; row < last; row++) j->run(j, row, col, ragfast_min(j->cols_each, j->n_cols - col));
}

/* work: elements in a row. Rows are whole unless split_cols. */
static ragfast_status run_job(job *j, size_t work, int split_cols, ragfast_call *call) {
    ragfast_fp_state saved = ragfast_fp_enter();
    j->kernels = ragfast_current_kernels();
    j->cols_each = split_cols ? ragfast_min(TOKEN_COLS, j->n_cols) : j->n_cols;
    if (j->cols_each == 0) j->cols_each = 1;
    size_t pieces_per_row = j->n_cols ? (j->n_cols + j->cols_each - 1) / j->cols_each : 1;
    j->rows_each = pieces_per_row > 1 || work >= PIECE_WORK ? 1 : PIECE_WORK / (work + 1) + 1;
    size_t n_pieces = (j->n_rows + j->rows_each - 1) / j->rows_each * pieces_per_row;
    int alone = work == 0 || j->n_rows < INLINE_WORK / work;
    ragfast_parallel_for(call, run_piece, j, n_pieces, ragfast_worker_count(call, alone, n_pieces));
    ragfast_fp_leave(saved);
    return ragfast_end_call(call);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void logsumexp_row(const job *j, size_t row, size_t col, size_t n) {
    (void)col;
    (void)n;
    const char *x = j->x + row * j->n_cols * ragfast_element_size(j->dtype);
    double lse;
    if (j->n_cols <= RAGFAST_SHORT_ROW || !ragfast_fast_lse(j->kernels, &lse, NULL, x, j->n_cols, NAN, j->dtype) ||
        fabs(lse) < RAGFAST_FAST_RESULT) {
        ragfast_lse terms = ragfast_careful_lse(j->kernels, x, j->n_cols, j->dtype);
        lse = terms.top + terms.log_rest;
        if (fabs(lse) < terms.log_rest / 16) { /* what careful lost of log_rest would be seen */
            terms = ragfast_exact_lse(j->kernels, x, j->n_cols, j->dtype);
            lse = terms.top + terms.log_rest;
        }
    }
    store(j, j->out, row, lse);
}

static void log_softmax_row(const job *j, size_t row, size_t col, size_t n) {
    (void)col;
    (void)n;
    size_t first = row * j->n_cols;
    const char *x = j->x + first * ragfast_element_size(j->dtype);
    double top = NAN, lse;
    if (j->n_cols > RAGFAST_SHORT_ROW && j->dtype == RAGFAST_F32)
        top = ragfast_row_max(j->kernels, x, j->n_cols, j->dtype);
    ragfast_lse terms;
    if (j->n_cols > RAGFAST_SHORT_ROW && isfinite(top) &&
        ragfast_fast_lse(j->kernels, &lse, NULL, x, j->n_cols, top, j->dtype) && lse - top >= RAGFAST_FAST_RESULT)
        terms = (ragfast_lse){top, lse - top}; /* no element of the output is nearer to 0 than this */
    else
        terms = ragfast_careful_lse(j->kernels, x, j->n_cols, j->dtype);
    if (terms.top == -INFINITY) terms.top = 0; /* -inf - 0, or NaN */
    if (j->dtype == RAGFAST_F32)
        j->kernels->subtract_f32((float *)j->out + first, (const float *)(const void *)x, j->n_cols, (float)terms.top,
                                 terms.log_rest);
    else
        j->kernels->subtract_f64((double *)j->out + first, (const double *)(const void *)x, j->n_cols, terms.top,
                                 terms.log_rest);
}

static ragfast_status run_rows(void *out, const void *x, size_t n_rows, size_t n_cols, ragfast_dtype dtype,
                               const ragfast_options *options, void (*run)(const job *, size_t, size_t, size_t)) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || !has_sums(dtype) || n_rows > RAGFAST_MAX_ELEMENTS ||
        ragfast_product(n_rows, n_cols) > RAGFAST_MAX_ELEMENTS)
        return RAGFAST_ERROR_ARGUMENT;
    if (n_rows == 0 || (n_cols == 0 && run == log_softmax_row)) return RAGFAST_OK;
    if (n_cols == 0) x = out; /* an empty array may be NULL, and C does not define NULL + 0 */
    job j = {.dtype = dtype, .out = out, .x = x, .n_rows = n_rows, .n_cols = n_cols, .run = run};
    return run_job(&j, n_cols, 0, &call);
}

ragfast_status ragfast_logsumexp(void *out, const void *x, size_t n_rows, size_t n_cols, ragfast_dtype dtype,
                                 const ragfast_options *options) {
    return run_rows(out, x, n_rows, n_cols, dtype, options, logsumexp_row);
}

ragfast_status ragfast_log_softmax(void *out, const void *x, size_t n_rows, size_t n_cols, ragfast_dtype dtype,
                                   const ragfast_options *options) {
    return run_rows(out, x, n_rows, n_cols, dtype, options, log_softmax_row);
}

/* ---- documents --------------------------------------------------------------------------------------------------- */

/* Eight partial sums, which the baseline's vectors hold, in one order whatever the level. */
#define SUM(name, type)                                                                                                \
    static double name(const type *x, size_t n) {                                                                      \
        double lanes[8] = {0};                                                                                         \
        size_t i = 0;                                                                                                  \
        for (; i + 8 <= n; i += 8)                                                                                     \
            for (size_t l = 0; l < 8; l++) lanes[l] += x[i + l];                                                       \
        for (; i < n; i++) lanes[i % 8] += x[i];                                                                       \
        return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));      \
    }
SUM(sum_f32, float)
SUM(sum_f64, double)

/* log p(z) + log p(y|z) of `n` documents from `first`. */
static void joint_logprobs(const job *j, double *joint, size_t query, size_t first, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t doc = query * j->n_docs + first + i;
        if (j->dtype == RAGFAST_F32)
            joint[i] = (double)((const float *)j->doc_logprobs)[doc] +
                       sum_f32((const float *)j->x + doc * j->n_cols, j->n_cols);
        else
            joint[i] =
                ((const double *)j->doc_logprobs)[doc] + sum_f64((const double *)j->x + doc * j->n_cols, j->n_cols);
    }
}

/* LSE of two; each log_rest must be accurate near 0. */
static ragfast_lse lse_of_both(ragfast_lse a, ragfast_lse b) {
    if (b.top > a.top) {
        ragfast_lse swapped = a;
        a = b;
        b = swapped;
    }
    if (!isfinite(a.top))
        return (ragfast_lse){a.top, a.log_rest + b.log_rest}; /* 0 or NaN, but for b finite under +inf */
    return (ragfast_lse){a.top, log1p(expm1(a.log_rest) + exp(b.top - a.top + b.log_rest))};
}

static void sequence_row(const job *j, size_t query, size_t col, size_t n_tokens) {
    (void)col;
    (void)n_tokens;
    double joint[STACK_DOCS];
    ragfast_lse total = {-INFINITY, 0};
    for (size_t first = 0; first < j->n_docs; first += STACK_DOCS) {
        size_t n = ragfast_min(STACK_DOCS, j->n_docs - first);
        joint_logprobs(j, joint, query, first, n);
        ragfast_lse some = ragfast_careful_lse(j->kernels, joint, n, RAGFAST_F64);
        total = first ? lse_of_both(total, some) : some;
    }
    store(j, j->out, query, total.top + total.log_rest);
    if (!j->posterior) return;
    if (total.top == -INFINITY) total.top = 0; /* exp(-inf), or NaN */
    for (size_t first = 0; first < j->n_docs; first += STACK_DOCS) {
        size_t n = ragfast_min(STACK_DOCS, j->n_docs - first);
        if (j->n_docs > STACK_DOCS) joint_logprobs(j, joint, query, first, n);
        for (size_t i = 0; i < n; i++) {
            double weight = exp(joint[i] - total.top - total.log_rest);
            store(j, j->posterior, query * j->n_docs + first + i, weight);
        }
    }
}

static void token_row(const job *j, size_t query, size_t token, size_t n) {
    size_t size = ragfast_element_size(j->dtype), first = query * j->n_docs * j->n_cols + token;
    void *out = j->out + (query * j->n_cols + token) * size;
    void *posterior = j->posterior ? j->posterior + first * size : NULL;
    const void *docs = j->doc_logprobs + query * j->n_docs * size, *tokens = j->x + first * size;
    if (j->dtype == RAGFAST_F32)
        j->kernels->mix_f32(out, posterior, docs, tokens, j->n_docs, n, j->n_cols);
    else
        j->kernels->mix_f64(out, posterior, docs, tokens, j->n_docs, n, j->n_cols);
}

/* run: of whole queries, or of some of their tokens where split_tokens. */
static ragfast_status marginalize(void *out, void *posterior, const void *doc_logprobs, const void *token_logprobs,
                                  size_t n_queries, size_t n_docs, size_t n_tokens, ragfast_dtype dtype,
                                  const ragfast_options *options, int split_tokens,
                                  void (*run)(const job *, size_t, size_t, size_t)) {
    ragfast_call call;
    const size_t n_joint = ragfast_product(n_queries, n_docs);
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || !has_sums(dtype) || n_docs == 0 ||
        n_joint > RAGFAST_MAX_ELEMENTS || ragfast_product(n_joint, n_tokens) > RAGFAST_MAX_ELEMENTS)
        return RAGFAST_ERROR_ARGUMENT;
    if (n_queries == 0 || (n_tokens == 0 && split_tokens)) return RAGFAST_OK;
    if (n_tokens == 0) token_logprobs = doc_logprobs; /* not read; it may be NULL, and C does not define NULL + 0 */
    job j = {.dtype = dtype,
             .out = out,
             .posterior = posterior,
             .x = token_logprobs,
             .doc_logprobs = doc_logprobs,
             .n_rows = n_queries,
             .n_docs = n_docs,
             .n_cols = n_tokens,
             .run = run};
    return run_job(&j, n_docs * (n_tokens + !split_tokens), split_tokens, &call);
}

ragfast_status ragfast_marginalize_sequence(void *out, void *posterior, const void *doc_logprobs,
                                            const void *token_logprobs, size_t n_queries, size_t n_docs,
                                            size_t n_tokens, ragfast_dtype dtype, const ragfast_options *options) {
    return marginalize(out, posterior, doc_logprobs, token_logprobs, n_queries, n_docs, n_tokens, dtype, options, 0,
                       sequence_row);
}

ragfast_status ragfast_marginalize_token(void *out, void *posterior, const void *doc_logprobs,
                                         const void *token_logprobs, size_t n_queries, size_t n_docs, size_t n_tokens,
                                         ragfast_dtype dtype, const ragfast_options *options) {
    return marginalize(out, posterior, doc_logprobs, token_logprobs, n_queries, n_docs, n_tokens, dtype, options, 1,
                       token_row);
}
