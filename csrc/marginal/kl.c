/* Kullback-Leibler divergence of two temperature softmaxes, with gradients.
 *
 * sum_j P (log P - log Q) is a difference of large terms where P and Q are close, and may come out negative. As P and Q
 * both sum to 1 it equals sum_j (P log(P/Q) - P + Q) = sum_j P f(-d), d = log P - log Q and f(u) = e^u - 1 - u >= 0:
 * terms that cannot cancel. d in turn comes from differences of p and q and not of logarithms that each bear their
 * rounding.
 *
 * Where kl is +inf there is no gradient with regard to p: NaN. That with regard to q is what it is elsewhere. */
#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "marginal/row_lse.h"
#include "ragfast/marginal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

enum {
    INLINE_WORK = 20 * 1000, /* elements below which waking a thread costs more than it brings */
    PIECE_WORK = 4 * 1024    /* elements that a thread takes at a time */
};

typedef struct job {
    const ragfast_kernels *kernels;
    double *kl, *p_grad, *q_grad;
    const double *p, *q;
    size_t n_rows, n, rows_each;
    double p_temperature, q_temperature;
    double *scratch; /* (workers,4,n): P, Q, d and its residue */
} job;

#define CLOSE 0.01
#define NEAR 0.25
#define FAR 30.0 /* where e^u and 1 + u are so different that nothing cancels */

/* out = e^u - 1 - u, without its cancellation near 0: by the Taylor series there, of which 1e-16 is missing. */
static void residue(const ragfast_kernels *kernels, double *out, const double *u, size_t n) {
    static const double c[] = {1.0 / 3,     1.0 / 12,     1.0 / 60,      1.0 / 360,      1.0 / 2520,
                               1.0 / 20160, 1.0 / 181440, 1.0 / 1814400, 1.0 / 19958400, 1.0 / 239500800};
    for (size_t i = 0; i < n; i++) out[i] = -fabs(u[i]);
    kernels->exp_f64(out, out, n);
    for (size_t i = 0; i < n; i++) {
        const double v = u[i], less = out[i], more = 1 / less; /* all sides at once: so it is vectors */
        const double far = (v < 0 ? less : more) - 1 - v;
        double sum = c[9];
        for (int j = 8; j >= 0; j--) sum = c[j] + v * sum;
        const double near = 0.5 * v * v * (1 + v * sum);
        out[i] = fabs(v) < NEAR ? near : far;
    }
}

/* out = softmax(x / temperature) = exp((x - top) / temperature - log_rest), top that of x. log_rest may be off by the last
 * place of 1: kl corrects it. */
static ragfast_lse softmax(const job *j, double *out, const double *x, double per_temperature) {
    const double top = j->kernels->max_f64(x, j->n);
    if (!isfinite(top)) return (ragfast_lse){NAN, NAN};
    for (size_t i = 0; i < j->n; i++) out[i] = (x[i] - top) * per_temperature;
    j->kernels->exp_f64(out, out, j->n);
    const double sum = ragfast_row_sum(j->kernels, out, j->n, 0, RAGFAST_F64);
    if (isnan(sum)) return (ragfast_lse){NAN, NAN};
    for (size_t i = 0; i < j->n; i++) out[i] *= 1 / sum;
    return (ragfast_lse){top, log(sum)};
}

static void fill(double *x, size_t n, double value) {
    for (size_t i = 0; x && i < n; i++) x[i] = value;
}

static void run_row(const job *j, size_t row, double *scratch) {
    const size_t n = j->n;
    const double *p = j->p + row * n, *q = j->q + row * n;
    double *P = scratch, *Q = P + n, *d = Q + n, *rest = d + n;
    double *p_grad = j->p_grad ? j->p_grad + row * n : NULL, *q_grad = j->q_grad ? j->q_grad + row * n : NULL;
    const double per_p = fmin(1 / j->p_temperature, DBL_MAX), per_q = fmin(1 / j->q_temperature, DBL_MAX);
    const ragfast_lse p_lse = softmax(j, P, p, per_p), q_lse = softmax(j, Q, q, per_q);
    if (isnan(p_lse.top) || isnan(q_lse.top)) {
        j->kl[row] = NAN;
        fill(p_grad, n, NAN);
        fill(q_grad, n, NAN);
        return;
    }

    /* d but for a constant, the rounding of both LSE. kl feels it in the second order alone, gradients only where all of d
     * is nearly 0; there d gives it away itself, as sum_j Q e^d is 1. A great shift between p and q would be lost in
     * rounding p - q: then each is taken from its own maximum first, as where the temperatures differ. */
    const double shift = (p_lse.top - q_lse.top) * per_p + (p_lse.log_rest - q_lse.log_rest);
    const int direct = fabs(shift) <= 1;
    double greatest = 0, excess = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == -INFINITY)
            d[i] = q[i] == -INFINITY ? 0 : -INFINITY;
        else if (direct && j->p_temperature == j->q_temperature)
            d[i] = (p[i] - q[i]) * per_p - shift;
        else
            d[i] = ((p[i] - p_lse.top) * per_p - (q[i] - q_lse.top) * per_q) - (p_lse.log_rest - q_lse.log_rest);
        if (!(fabs(d[i]) <= greatest)) greatest = fabs(d[i]);
    }
    if (greatest < CLOSE) {
        residue(j->kernels, rest, d, n);
        for (size_t i = 0; i < n; i++) excess += Q[i] * (rest[i] + d[i]);
    }
    const double correction = log1p(excess);
    double kl = 0;
    for (size_t i = 0; i < n; i++) d[i] = correction - d[i]; /* its negative from here on */
    residue(j->kernels, rest, d, n);
    for (size_t i = 0; i < n; i++) {
        if (p[i] != -INFINITY && q[i] == -INFINITY)
            kl = INFINITY;
        else if (fabs(d[i]) < FAR)
            kl += P[i] * rest[i];
        else if (P[i] > 0)
            kl += P[i] * -d[i] - P[i] + Q[i];
        else
            kl += Q[i];
    }
    j->kl[row] = kl;
    for (size_t i = 0; p_grad && i < n; i++)
        p_grad[i] = kl == INFINITY ? NAN : P[i] > 0 ? P[i] * (-d[i] - kl) / j->p_temperature : 0;
    for (size_t i = 0; q_grad && i < n; i++)
        q_grad[i] = (fabs(d[i]) < FAR ? P[i] * (rest[i] + d[i]) : Q[i] - P[i]) / j->q_temperature;
}

static void run_piece(void *context, size_t piece, size_t worker) {
    const job *j = context;
    const size_t first = piece * j->rows_each, last = ragfast_min(first + j->rows_each, j->n_rows);
    for (size_t row = first; row < last; row++) run_row(j, row, j->scratch + worker * 4 * j->n);
}

ragfast_status ragfast_kl(double *kl, double *p_grad, double *q_grad, const double *p, const double *q, size_t n_rows,
                          size_t n, double p_temperature, double q_temperature, const ragfast_options *options) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || !(p_temperature > 0) || !(q_temperature > 0) ||
        isinf(p_temperature) || isinf(q_temperature) || n_rows > RAGFAST_MAX_ELEMENTS ||
        ragfast_product(n_rows, n) > RAGFAST_MAX_ELEMENTS)
        return RAGFAST_ERROR_ARGUMENT;
    if (n == 0) fill(kl, n_rows, NAN);
    if (n == 0 || n_rows == 0) return RAGFAST_OK;
    job j = {.kl = kl,
             .p_grad = p_grad,
             .q_grad = q_grad,
             .p = p,
             .q = q,
             .n_rows = n_rows,
             .n = n,
             .rows_each = PIECE_WORK / (n + 1) + 1,
             .p_temperature = p_temperature,
             .q_temperature = q_temperature};
    const size_t n_pieces = (n_rows + j.rows_each - 1) / j.rows_each;
    const size_t n_workers = ragfast_worker_count(&call, n_rows * n < INLINE_WORK, n_pieces);
    const size_t bytes = ragfast_product(n_workers * 4 * sizeof(double), n);
    if (bytes == SIZE_MAX) return RAGFAST_ERROR_ARGUMENT;
    j.scratch = malloc(bytes);
    if (!j.scratch) return RAGFAST_ERROR_MEMORY;
    const ragfast_fp_state saved = ragfast_fp_enter();
    j.kernels = ragfast_current_kernels();
    ragfast_parallel_for(&call, run_piece, &j, n_pieces, n_workers);
    ragfast_fp_leave(saved);
    free(j.scratch);
    return ragfast_end_call(&call);
}
