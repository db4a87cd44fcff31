/* -log p(y|x) from logits, with gradients: Lewis et al. 2020, section 2.
 *
 * Three steps, over blocks of queries so that the logits of a block are still in the caches when their gradient is written:
 *   score_row                  a row of logits is read once: log p(y_t | x, z, y_<t) and the LSE of the row;
 *   mix_sequence, mix_tokens   over documents: the loss, the posterior, the gradient of doc_scores, what each row weighs;
 *   grad_row                   weight (softmax - onehot), the row read once more.
 * Nothing of the size of the logits is stored; only a few numbers a row.
 *
 * Label smoothing e: the loss is (1 - e) nll + e smooth.
 *   RAG-Sequence  smooth = -LSE_z(log p_z + sum_t mean_v log p(v | x, z, y_<t)): an answer whose tokens are as likely as
 *                 tokens are on average, under the prior once.
 *   RAG-Token     smooth = -sum_t mean_v LSE_z(log p_z + log p(v | x, z, y_<t)): cross-entropy of the mixture.
 * as_hf is RAG-Sequence as transformers' RagSequenceForGeneration.get_nll has it: the prior stands at position 1, so it is
 * lost where that is not scored, and smooth is -LSE_z(V log p_z + sum_t sum_v log p(v | x, z, y_<t)) / V. */
#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/elements.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "marginal/row_lse.h"
#include "ragfast/marginal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_BYTES = 8 << 20,    /* of logits between score_row and grad_row, if a block may be so small */
    STREAM_BYTES = 8 << 20,   /* of gradient, from which on it will not be in the caches when it is wanted */
    INLINE_WORK = 200 * 1000, /* elements below which waking a thread costs more than it brings */
    PIECE_WORK = 64 * 1024,   /* elements that a thread takes at a time */
    MIX_WORK = 8192           /* elements that mix_columns widens at a time */
};

#define LARGE 256.0 /* of an LSE: from here on V of them would drown the sum of log-probabilities */

typedef struct rows {
    ragfast_call *call;
    const ragfast_kernels *kernels;
    const char *logits;
    const int64_t *targets; /* of plain rows */
    size_t vocab, row_size; /* of one row, in bytes */
    ragfast_dtype dtype;
    double *logprobs, *lse, *sums; /* sums may be NULL */
    int lse_known;
    char *grad;            /* may be the logits */
    double *scale, *shift; /* see ragfast_target_grad; shift may be NULL */
    int stream;
    /* Of answers; 0 for plain rows: */
    const ragfast_answers *answers;
    size_t first_query, first_token, n_tokens; /* of the block */
    double *doc_logprobs;                      /* (B,K) */
    double *vocab_sums;                        /* (B,K,T) sum over v of the posterior of a document at v */
    double *smooth;                            /* (B,T) */
    double smooth_weight;                      /* e / V; with weights (B,) or NULL: */
    const double *weights;
    double *worker_scratch; /* (workers, worker_size): a struct columns each */
    size_t worker_size;
    size_t n, each; /* rows of the block, and of a piece */
    void (*run)(const struct rows *r, size_t i, size_t worker);
} rows;

/* ---- rows of logits ------------------------------------------------------------------------------------------------ */

static void score_row(const rows *r, size_t row, size_t target) {
    const char *x = r->logits + row * r->row_size;
    const double of_target = ragfast_element(x, target, r->dtype);
    double plain = 0, lse;
    if (r->lse_known && !r->sums) {
        r->logprobs[row] = r->lse[row] == -INFINITY ? -INFINITY : of_target - r->lse[row];
        return;
    }
    int fast = r->vocab > RAGFAST_SHORT_ROW &&
               ragfast_fast_lse(r->kernels, &lse, r->sums ? &plain : NULL, x, r->vocab, NAN, r->dtype);
    if (fast && fabs(of_target - lse) >= RAGFAST_FAST_RESULT) {
        r->logprobs[row] = of_target - lse;
        if (r->sums && fabs(lse) < LARGE)
            r->sums[row] = plain - (double)r->vocab * lse;
        else if (r->sums) /* that difference would have the rounding of large sums */
            r->sums[row] = ragfast_row_sum(r->kernels, x, r->vocab, lse, r->dtype);
    } else {
        ragfast_lse terms = ragfast_careful_lse(r->kernels, x, r->vocab, r->dtype);
        lse = terms.top + terms.log_rest;
        if (terms.top == -INFINITY) terms.top = 0; /* -inf, not NaN */
        r->logprobs[row] = (of_target - terms.top) - terms.log_rest;
        if (r->sums)
            r->sums[row] =
                ragfast_row_sum(r->kernels, x, r->vocab, terms.top, r->dtype) - (double)r->vocab * terms.log_rest;
    }
    if (r->lse) r->lse[row] = lse;
}

/* The gradient of a row; target < 0: none. */
static void grad_row(const rows *r, size_t row, int64_t target) {
    char *out = r->grad + row * r->row_size;
    const char *x = r->logits + row * r->row_size;
    const double scale = r->scale[row], shift = r->shift ? r->shift[row] : 0;
    if (scale == 0 && shift == 0) {
        memset(out, 0, r->row_size);
        return;
    }
    const double total = scale + (double)r->vocab * shift, lse = r->lse[row];
    const double of_target = target < 0 ? 0 : ragfast_element(x, (size_t)target, r->dtype);
    r->kernels->softmax_grad[r->dtype](out, x, r->vocab, lse, total, shift, r->stream);
    if (target < 0) return;
    /* p - 1 by expm1, which keeps what a rounded p near 1 has lost */
    const double p_less_1 = expm1(of_target - lse);
    ragfast_put_element(out, (size_t)target, scale * p_less_1 + shift * ((double)r->vocab * (p_less_1 + 1) - 1),
                        r->dtype);
}

static void run_piece(void *context, size_t piece, size_t worker) {
    const rows *r = context;
    size_t last = ragfast_min((piece + 1) * r->each, r->n);
    for (size_t i = piece * r->each; i < last; i++) r->run(r, i, worker);
}

/* run(i) for i < n, each of `work` elements. */
static void run_all(rows *r, void (*run)(const rows *, size_t, size_t), size_t n, size_t work) {
    r->run = run;
    r->n = n;
    r->each = work >= PIECE_WORK ? 1 : PIECE_WORK / (work + 1) + 1;
    const int alone = work == 0 || n < INLINE_WORK / work;
    const size_t n_pieces = (n + r->each - 1) / r->each;
    ragfast_parallel_for(r->call, run_piece, r, n_pieces, ragfast_worker_count(r->call, alone, n_pieces));
}

static void score_plain(const rows *r, size_t i, size_t worker) {
    (void)worker;
    if (r->targets[i] >= 0) {
        score_row(r, i, (size_t)r->targets[i]);
        return;
    }
    r->logprobs[i] = 0;
    if (r->lse) r->lse[i] = 0;
    if (r->sums) r->sums[i] = 0;
}

static void grad_plain(const rows *r, size_t i, size_t worker) {
    (void)worker;
    grad_row(r, i, r->targets[i]);
}

static int targets_are_below(const int64_t *targets, size_t n, size_t vocab) {
    for (size_t i = 0; i < n; i++)
        if (targets[i] >= 0 && (uint64_t)targets[i] >= vocab) return 0;
    return 1;
}

/* run of each row, for rows that are no answers. */
static ragfast_status run_plain(rows *r, void (*run)(const rows *, size_t, size_t), size_t n_rows,
                                const ragfast_options *options) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || !ragfast_is_dtype(r->dtype) ||
        n_rows > RAGFAST_MAX_ELEMENTS || ragfast_product(n_rows, r->vocab) > RAGFAST_MAX_ELEMENTS ||
        !targets_are_below(r->targets, n_rows, r->vocab))
        return RAGFAST_ERROR_ARGUMENT;
    if (n_rows == 0 || (r->vocab == 0 && run == grad_plain)) return RAGFAST_OK;
    r->call = &call;
    r->kernels = ragfast_current_kernels();
    r->row_size = r->vocab * ragfast_element_size(r->dtype);
    r->stream = r->grad && r->grad != r->logits && n_rows * r->row_size >= STREAM_BYTES;
    ragfast_fp_state saved = ragfast_fp_enter();
    run_all(r, run, n_rows, r->vocab);
    ragfast_fp_leave(saved);
    return ragfast_end_call(&call);
}

ragfast_status ragfast_target_logprobs(double *logprobs, double *lse, double *sums, const void *logits,
                                       const int64_t *targets, size_t n_rows, size_t vocab, ragfast_dtype dtype,
                                       const ragfast_options *options) {
    rows r = {.logits = logits,
              .targets = targets,
              .vocab = vocab,
              .dtype = dtype,
              .logprobs = logprobs,
              .lse = lse,
              .sums = sums};
    return run_plain(&r, score_plain, n_rows, options);
}

ragfast_status ragfast_target_grad(void *out, const void *logits, const int64_t *targets, const double *lse,
                                   const double *scale, const double *shift, size_t n_rows, size_t vocab,
                                   ragfast_dtype dtype, const ragfast_options *options) {
    rows r = {.logits = logits,
              .targets = targets,
              .vocab = vocab,
              .dtype = dtype,
              .lse = (double *)lse, /* grad_row only reads these three */
              .grad = out,
              .scale = (double *)scale,
              .shift = (double *)shift};
    return run_plain(&r, grad_plain, n_rows, options);
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

/* Row i of the block, of (query, document, token) in this order, as a row of all logits; and its query, document, token. */
static size_t row_of(const rows *r, size_t i, size_t *query, size_t *doc, size_t *token) {
    const ragfast_answers *a = r->answers;
    *token = r->first_token + i % r->n_tokens;
    *doc = i / r->n_tokens % a->n_docs;
    *query = r->first_query + i / r->n_tokens / a->n_docs;
    return (*query * a->n_docs + *doc) * a->n_tokens + *token;
}

static int is_missing(const ragfast_answers *a, size_t query, size_t doc) {
    return a->doc_scores[query * a->n_docs + doc] == -INFINITY;
}

static void score_answer(const rows *r, size_t i, size_t worker) {
    (void)worker;
    size_t query, doc, token, row = row_of(r, i, &query, &doc, &token);
    const int64_t target = r->answers->targets[query * r->answers->n_tokens + token];
    if (target >= 0 && !is_missing(r->answers, query, doc)) {
        score_row(r, row, (size_t)target);
        return;
    }
    r->logprobs[row] = 0;
    if (!r->lse_known) r->lse[row] = 0;
    if (r->sums) r->sums[row] = 0;
}

static void grad_answer(const rows *r, size_t i, size_t worker) {
    (void)worker;
    size_t query, doc, token, row = row_of(r, i, &query, &doc, &token);
    grad_row(r, row, r->answers->targets[query * r->answers->n_tokens + token]);
}

/* The mixture at every v of one target token: i counts (query, token) of the block. Columns go through in float64, since a mixture
 * may be as near to certainty as it likes. */
typedef struct columns {
    double *x, *posterior, *mixture, *offsets; /* (K,cols), (K,cols), (cols,), (K,) */
    size_t query, token, cols;
} columns;

static columns columns_of(const rows *r, size_t i, size_t worker) {
    const ragfast_answers *a = r->answers;
    double *scratch = r->worker_scratch + worker * r->worker_size;
    size_t cols = MIX_WORK / a->n_docs ? MIX_WORK / a->n_docs : 1;
    columns c = {.x = scratch,
                 .posterior = scratch + a->n_docs * cols,
                 .mixture = scratch + 2 * a->n_docs * cols,
                 .query = r->first_query + i / r->n_tokens,
                 .token = r->first_token + i % r->n_tokens,
                 .cols = cols};
    c.offsets = c.mixture + cols;
    for (size_t k = 0; k < a->n_docs; k++) {
        const size_t doc = c.query * a->n_docs + k;
        const double lse = r->lse[doc * a->n_tokens + c.token]; /* -inf: it predicts nothing */
        c.offsets[k] = is_missing(a, c.query, k) || lse == -INFINITY ? -INFINITY : r->doc_logprobs[doc] - lse;
    }
    return c;
}

/* Columns from v on: x (K,n), their mixture and the posterior at each. */
static void mix_columns(const rows *r, const columns *c, size_t v, size_t n) {
    const ragfast_answers *a = r->answers;
    for (size_t k = 0; k < a->n_docs; k++) {
        const char *x = r->logits + ((c->query * a->n_docs + k) * a->n_tokens + c->token) * r->row_size;
        const int missing = is_missing(a, c->query, k);
        for (size_t j = 0; j < n; j++) c->x[k * n + j] = missing ? 0 : ragfast_element(x, v + j, r->dtype);
    }
    r->kernels->mix_f64(c->mixture, c->posterior, c->offsets, c->x, a->n_docs, n, n);
}

static void smooth_token(const rows *r, size_t i, size_t worker) {
    const ragfast_answers *a = r->answers;
    columns c = columns_of(r, i, worker);
    const size_t at = c.query * a->n_tokens + c.token;
    if (a->targets[at] < 0) return;
    double smooth = 0;
    for (size_t v = 0; v < r->vocab; v += c.cols) {
        const size_t n = ragfast_min(c.cols, r->vocab - v);
        mix_columns(r, &c, v, n);
        for (size_t j = 0; j < n; j++) smooth -= c.mixture[j];
        for (size_t k = 0; k < a->n_docs; k++) {
            double sum = 0;
            for (size_t j = 0; j < n; j++) sum += c.posterior[k * n + j];
            r->vocab_sums[(c.query * a->n_docs + k) * a->n_tokens + c.token] += sum;
        }
    }
    r->smooth[at] = smooth;
}

/* (scale + shift R) softmax - scale onehot - shift rho, rho being the posterior at v and R its sum over v. */
static void grad_smooth_token(const rows *r, size_t i, size_t worker) {
    const ragfast_answers *a = r->answers;
    columns c = columns_of(r, i, worker);
    const int64_t target = a->targets[c.query * a->n_tokens + c.token];
    const double shift = r->smooth_weight * (r->weights ? r->weights[c.query] : 1);
    for (size_t v = 0; v < r->vocab; v += c.cols) {
        const size_t n = ragfast_min(c.cols, r->vocab - v);
        if (target >= 0) mix_columns(r, &c, v, n);
        for (size_t k = 0; k < a->n_docs; k++) {
            const size_t row = (c.query * a->n_docs + k) * a->n_tokens + c.token;
            char *out = r->grad + row * r->row_size;
            if (target < 0 || is_missing(a, c.query, k) || r->lse[row] == -INFINITY) {
                memset(out + v * (r->row_size / r->vocab), 0, n * (r->row_size / r->vocab));
                continue;
            }
            double *x = c.x + k * n, total = r->scale[row] + shift * r->vocab_sums[row];
            for (size_t j = 0; j < n; j++) x[j] = x[j] > r->lse[row] ? 0 : x[j] - r->lse[row]; /* NaN stays */
            r->kernels->exp_f64(x, x, n);
            for (size_t j = 0; j < n; j++) {
                double g = total * x[j] - shift * c.posterior[k * n + j];
                if ((int64_t)(v + j) == target) g -= r->scale[row];
                ragfast_put_element(out, v + j, g, r->dtype);
            }
        }
    }
}

/* ---- over documents ------------------------------------------------------------------------------------------------ */

/* p = softmax(joint) over n, 0 where nothing is possible; returns the LSE. p may be joint. */
static double softmax(const ragfast_kernels *kernels, double *p, const double *joint, size_t n) {
    ragfast_lse terms = ragfast_careful_lse(kernels, joint, n, RAGFAST_F64);
    const double lse = terms.top + terms.log_rest;
    for (size_t i = 0; i < n; i++) p[i] = lse == -INFINITY ? 0 : exp((joint[i] - terms.top) - terms.log_rest);
    return lse;
}

typedef struct mixing {
    rows *rows; /* what they hold of all (b,k,t), and the weights that are written for them */
    const ragfast_loss *loss;
    const ragfast_nll_out *out;
    double *posteriors;            /* (B,K,T), RAG-Token: of the block's tokens */
    double *prior, *joint, *r, *u; /* (K,) each, of one query */
    double *mixture, *possible;    /* (T,) each */
} mixing;

static void fill_priors(mixing *m) {
    const ragfast_answers *a = m->rows->answers;
    for (size_t b = 0; b < a->n_queries; b++) {
        double *logprobs = m->rows->doc_logprobs + b * a->n_docs;
        const double *scores = a->doc_scores + b * a->n_docs, top = m->rows->kernels->max_f64(scores, a->n_docs);
        /* Less the best one, which changes no probability, so that a small temperature overflows nothing. */
        for (size_t k = 0; k < a->n_docs; k++)
            logprobs[k] = scores[k] == top ? (top == -INFINITY ? top : 0) : (scores[k] - top) / m->loss->temperature;
        ragfast_lse terms = ragfast_careful_lse(m->rows->kernels, logprobs, a->n_docs, RAGFAST_F64);
        if (terms.top == -INFINITY) terms.top = 0;
        for (size_t k = 0; k < a->n_docs; k++) logprobs[k] = (logprobs[k] - terms.top) - terms.log_rest;
    }
}

static void mix_sequence(mixing *m, size_t query) {
    const ragfast_answers *a = m->rows->answers;
    const size_t n_docs = a->n_docs, n_tokens = a->n_tokens;
    const int64_t *targets = ragfast_offset(a->targets, query * n_tokens * sizeof *targets);
    const double *doc_logprobs = m->rows->doc_logprobs + query * n_docs;
    const double e = m->loss->label_smoothing, weight = m->loss->weights ? m->loss->weights[query] : 1;
    const int has_prior = !m->loss->as_hf || (n_tokens > 1 && targets[1] >= 0);
    const double vocab = (double)a->vocab, prior_times = m->loss->as_hf ? vocab : 1;
    const double sums_times = m->loss->as_hf ? 1 : 1 / vocab, smooth_times = m->loss->as_hf ? 1 / vocab : 1;
    for (size_t k = 0; k < n_docs; k++) {
        const size_t first = (query * n_docs + k) * n_tokens;
        const int missing = doc_logprobs[k] == -INFINITY;
        double sum = 0, smooth = 0;
        for (size_t t = 0; t < n_tokens && !missing; t++) {
            if (targets[t] < 0) continue;
            if (t > 0 || !m->loss->skip_first) sum += m->rows->logprobs[first + t];
            if (m->rows->sums) smooth += m->rows->sums[first + t];
        }
        m->prior[k] = exp(doc_logprobs[k]);
        m->joint[k] = missing ? -INFINITY : sum + (has_prior ? doc_logprobs[k] : 0);
        m->u[k] = missing ? -INFINITY : sums_times * smooth + (has_prior ? prior_times * doc_logprobs[k] : 0);
    }
    const double lse = softmax(m->rows->kernels, m->r, m->joint, n_docs);
    const double smooth_lse = e > 0 ? softmax(m->rows->kernels, m->u, m->u, n_docs) : 0;
    m->out->nll[query] = e > 0 ? (1 - e) * -lse + e * smooth_times * -smooth_lse : -lse;
    for (size_t k = 0; k < n_docs; k++) {
        const double r = m->r[k], u = e > 0 ? m->u[k] : 0;
        const int missing = doc_logprobs[k] == -INFINITY;
        if (m->out->posterior) m->out->posterior[query * n_docs + k] = r;
        if (m->out->doc_scores_grad) {
            double grad = 0; /* of a loss that is infinite: 0 */
            if (lse != -INFINITY) grad += (1 - e) * (m->prior[k] - r);
            if (e > 0 && smooth_lse != -INFINITY) grad += e * (m->prior[k] - u);
            m->out->doc_scores_grad[query * n_docs + k] =
                missing || !has_prior ? 0 : weight * grad / m->loss->temperature;
        }
        for (size_t t = 0; t < n_tokens && m->rows->scale; t++) {
            const size_t row = (query * n_docs + k) * n_tokens + t;
            const int scored = targets[t] >= 0 && !missing;
            m->rows->scale[row] = scored && (t > 0 || !m->loss->skip_first) ? weight * (1 - e) * r : 0;
            if (m->rows->shift) m->rows->shift[row] = scored ? weight * e * u / vocab : 0;
        }
    }
}

/* Tokens first to first + n of a query; what it adds up over tokens was set to 0 before the first. */
static void mix_tokens(mixing *m, size_t query, size_t first, size_t n) {
    const ragfast_answers *a = m->rows->answers;
    const size_t n_docs = a->n_docs, n_tokens = a->n_tokens, start = query * n_docs * n_tokens + first;
    const int64_t *targets = ragfast_offset(a->targets, query * n_tokens * sizeof *targets);
    const double *doc_logprobs = m->rows->doc_logprobs + query * n_docs;
    const double e = m->loss->label_smoothing, weight = m->loss->weights ? m->loss->weights[query] : 1;
    m->rows->kernels->mix_f64(m->mixture + first, m->posteriors + start, doc_logprobs, m->rows->logprobs + start,
                              n_docs, n, n_tokens);
    for (size_t t = first; t < first + n; t++) {
        if (targets[t] < 0) continue;
        const double smooth = e > 0 ? e / (double)a->vocab * m->rows->smooth[query * n_tokens + t] : 0;
        m->out->nll[query] += (1 - e) * -m->mixture[t] + smooth;
    }
    for (size_t t = first; t < first + n && e > 0; t++) { /* V, less each v that no document allows */
        m->possible[t] = 0;
        for (size_t k = 0; k < n_docs; k++)
            m->possible[t] += m->rows->vocab_sums[(query * n_docs + k) * n_tokens + t] / (double)a->vocab;
    }
    for (size_t k = 0; k < n_docs; k++) {
        const int missing = doc_logprobs[k] == -INFINITY;
        const double prior = exp(doc_logprobs[k]);
        double grad = 0;
        for (size_t t = first; t < first + n; t++) {
            const size_t row = (query * n_docs + k) * n_tokens + t;
            const int scored = targets[t] >= 0 && !missing, possible = m->mixture[t] != -INFINITY;
            const double r = scored ? m->posteriors[row] : 0;
            if (scored && possible) grad += (1 - e) * (prior - r);
            if (scored && e > 0) grad += e * (prior * m->possible[t] - m->rows->vocab_sums[row] / (double)a->vocab);
            if (m->out->posterior) m->out->posterior[row] = r;
            if (m->rows->scale) m->rows->scale[row] = weight * (1 - e) * r;
        }
        if (m->out->doc_scores_grad)
            m->out->doc_scores_grad[query * n_docs + k] += weight * grad / m->loss->temperature;
    }
}

/* ---- the loss ------------------------------------------------------------------------------------------------------ */

static int is_valid(const ragfast_answers *a, const ragfast_loss *loss, const ragfast_nll_out *out) {
    const double e = loss->label_smoothing;
    if (!ragfast_is_dtype(a->dtype) || !ragfast_is_flag(loss->by_token) || !ragfast_is_flag(loss->as_hf) ||
        !ragfast_is_flag(loss->skip_first) || !ragfast_is_flag(out->lse_known))
        return 0;
    if (!(loss->temperature > 0) || isinf(loss->temperature) || !(e >= 0 && e < 1) || a->n_docs == 0) return 0;
    const size_t n_scores = ragfast_product(a->n_queries, a->n_docs), n_rows = ragfast_product(n_scores, a->n_tokens);
    if (n_scores > RAGFAST_MAX_ELEMENTS || n_rows > RAGFAST_MAX_ELEMENTS) return 0;
    if (a->logits && ragfast_product(n_rows, a->vocab) > RAGFAST_MAX_ELEMENTS) return 0;
    if (a->logits ? a->vocab == 0 : e > 0 || out->logits_grad) return 0;
    if (loss->by_token && loss->as_hf) return 0; /* get_nll of RagTokenForGeneration is the paper's */
    return !a->logits || targets_are_below(a->targets, a->n_queries * a->n_tokens, a->vocab);
}

ragfast_status ragfast_rag_nll(const ragfast_nll_out *out, const ragfast_answers *answers, const ragfast_loss *loss,
                               const ragfast_options *options) {
    const ragfast_answers *a = answers;
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || !is_valid(a, loss, out)) return RAGFAST_ERROR_ARGUMENT;
    if (a->n_queries == 0) return RAGFAST_OK;
    const size_t n_rows = a->n_queries * a->n_docs * a->n_tokens, query_rows = a->n_docs * a->n_tokens;
    const int smooth = loss->label_smoothing > 0, by_token = loss->by_token;
    const int has_grad = out->logits_grad || out->token_logprobs_grad;
    const size_t row_size = a->logits ? a->vocab * ragfast_element_size(a->dtype) : 0;

    /* One block: rows of numbers, then of documents, of tokens, of workers. */
    const size_t cols = MIX_WORK / a->n_docs ? MIX_WORK / a->n_docs : 1;
    const size_t worker_size = smooth && by_token ? 2 * a->n_docs * cols + cols + a->n_docs : 0;
    const size_t n_workers = worker_size ? call.n_threads : 0;
    /* Of these sizes one of workers alone may overflow: the others are below MAX_ELEMENTS each. */
    const size_t total = ragfast_sum(6 * n_rows + a->n_queries * (a->n_docs + a->n_tokens) + 4 * a->n_docs +
                                         2 * a->n_tokens,
                                     ragfast_product(n_workers, worker_size)),
                 bytes = ragfast_product(ragfast_sum(total, 1), sizeof(double));
    if (bytes == SIZE_MAX) return RAGFAST_ERROR_ARGUMENT;
    double *scratch = malloc(bytes), *next = scratch;
    if (!scratch) return RAGFAST_ERROR_MEMORY;
#define TAKE(n) (next += (n), next - (n))
    rows r = {.call = &call,
              .kernels = ragfast_current_kernels(),
              .logits = a->logits,
              .vocab = a->vocab,
              .row_size = row_size,
              .dtype = a->dtype,
              .lse_known = out->lse && out->lse_known,
              .grad = out->logits_grad,
              .answers = a,
              .smooth_weight = loss->label_smoothing / (double)(a->vocab ? a->vocab : 1),
              .weights = loss->weights,
              .worker_size = worker_size};
    r.stream = out->logits_grad != a->logits && n_rows * row_size >= STREAM_BYTES;
    mixing m = {.rows = &r, .loss = loss, .out = out};
    r.logprobs = TAKE(n_rows);
    r.lse = out->lse ? out->lse : TAKE(n_rows);
    r.sums = smooth && !by_token ? TAKE(n_rows) : NULL;
    r.scale = has_grad ? TAKE(n_rows) : NULL;
    r.shift = r.sums && has_grad ? TAKE(n_rows) : NULL;
    m.posteriors = by_token ? TAKE(n_rows) : NULL;
    r.vocab_sums = smooth && by_token ? TAKE(n_rows) : NULL;
    r.doc_logprobs = TAKE(a->n_queries * a->n_docs);
    r.smooth = TAKE(a->n_queries * a->n_tokens);
    m.prior = TAKE(a->n_docs);
    m.joint = TAKE(a->n_docs);
    m.r = TAKE(a->n_docs);
    m.u = TAKE(a->n_docs);
    m.mixture = TAKE(a->n_tokens);
    m.possible = TAKE(a->n_tokens);
    r.worker_scratch = TAKE(n_workers * worker_size);
#undef TAKE

    ragfast_fp_state saved = ragfast_fp_enter();
    fill_priors(&m);
    for (size_t i = 0; !a->logits && i < n_rows; i++) { /* what stands for a missing document may be anything */
        const size_t doc = i / a->n_tokens;
        r.logprobs[i] = a->doc_scores[doc] == -INFINITY ? 0 : a->token_logprobs[i];
    }
    if (r.vocab_sums) memset(r.vocab_sums, 0, n_rows * sizeof(double));
    for (size_t b = 0; by_token && b < a->n_queries; b++) {
        out->nll[b] = 0;
        for (size_t k = 0; out->doc_scores_grad && k < a->n_docs; k++) out->doc_scores_grad[b * a->n_docs + k] = 0;
    }
    /* A block is some queries, or, where each token stands for itself and one query is more than enough, some of its tokens. */
    size_t queries_each = a->n_queries, tokens_each = a->n_tokens;
    if (out->logits_grad) {
        const size_t rows_each = BLOCK_BYTES / (row_size ? row_size : 1) + 1;
        queries_each = rows_each / (query_rows ? query_rows : 1);
        if (queries_each == 0 && by_token) tokens_each = rows_each / a->n_docs ? rows_each / a->n_docs : 1;
        if (queries_each == 0) queries_each = 1;
    }
    for (size_t b = 0; b < a->n_queries && !ragfast_stopped(&call, 0); b += queries_each) {
        const size_t n_queries = ragfast_min(queries_each, a->n_queries - b);
        for (size_t t = 0; t < a->n_tokens || t == 0; t += tokens_each) {
            if (ragfast_stopped(&call, 0)) break;
            r.first_query = b;
            r.first_token = t;
            r.n_tokens = ragfast_min(tokens_each, a->n_tokens - t);
            const size_t block_rows = n_queries * a->n_docs * r.n_tokens;
            if (a->logits) run_all(&r, score_answer, block_rows, a->vocab);
            if (worker_size) run_all(&r, smooth_token, n_queries * r.n_tokens, 8 * a->n_docs * a->vocab);
            if (ragfast_end_call(&call) != RAGFAST_OK) break; /* some of what is mixed was not written */
            for (size_t i = 0; i < n_queries; i++) {
                if (by_token)
                    mix_tokens(&m, b + i, t, r.n_tokens);
                else
                    mix_sequence(&m, b + i);
            }
            if (out->logits_grad && worker_size)
                run_all(&r, grad_smooth_token, n_queries * r.n_tokens, 8 * a->n_docs * a->vocab);
            else if (out->logits_grad)
                run_all(&r, grad_answer, block_rows, a->vocab);
            if (tokens_each == 0) break;
        }
    }
    if (out->token_logprobs_grad && ragfast_end_call(&call) == RAGFAST_OK)
        for (size_t i = 0; i < n_rows; i++) out->token_logprobs_grad[i] = -r.scale[i];
    ragfast_fp_leave(saved);
    free(scratch);
    return ragfast_end_call(&call);
}
