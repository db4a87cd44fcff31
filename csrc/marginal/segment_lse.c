/* Log-sum-exp by key: two passes over a row, first for each key's greatest element, then for the sum of the others
 * relative to it, top + log1p(rest) as everywhere (marginalize.c). */
#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "marginal/row_lse.h"
#include "ragfast/marginal.h"

#include <math.h>
#include <stdlib.h>

enum {
    BLOCK = 256,             /* exponentials at a time */
    INLINE_WORK = 100 * 1000 /* elements and keys below which waking a thread costs more than it brings */
};

/* Of one key that a row has. There are at most as many as elements, which may be far fewer than keys: until the end
 * out holds where a key's state is, -infinity for a key that no element has. */
typedef struct key_state {
    size_t key, top; /* top: where the greatest element is */
    double sum;
    double
        lost; /* of the sum, as Kahan has it: a plain one of many equal terms is off by many units in the last place */
} key_state;

typedef struct job {
    const ragfast_kernels *kernels;
    double *out;
    const double *x;
    const int64_t *keys;
    size_t n_rows, n, n_keys;
    key_state *states; /* (workers,min(n,n_keys)) */
} job;

/* x - top rounded, and by how much it is too great (Knuth's two-sum): marginal sums of distant elements need both. */
static double difference(double x, double top, double *excess) {
    const double d = x - top, minus_top = d - x;
    *excess = (top + minus_top) - (x - (d - minus_top));
    return d;
}

static void run_row(void *context, size_t row, size_t worker) {
    const job *j = context;
    const double *x = ragfast_offset(j->x, row * j->n * sizeof *x);
    const int64_t *keys = ragfast_offset(j->keys, row * j->n * sizeof *keys);
    double *out = j->out + row * j->n_keys;
    key_state *states = j->states + worker * ragfast_min(j->n, j->n_keys);
    size_t n_states = 0;
    for (size_t key = 0; key < j->n_keys; key++) out[key] = -INFINITY;
    for (size_t i = 0; i < j->n; i++) {
        if (keys[i] < 0) continue;
        double *place = &out[keys[i]];
        if (*place < 0) {
            states[n_states] = (key_state){.key = (size_t)keys[i], .top = i};
            *place = (double)n_states++;
            continue;
        }
        size_t *top = &states[(size_t)*place].top;
        if (x[i] > x[*top] || x[i] != x[i]) *top = i; /* nothing is greater than NaN */
    }
    double weights[BLOCK], excess[BLOCK];
    for (size_t first = 0, n; first < j->n; first += n) {
        n = ragfast_min(BLOCK, j->n - first);
        for (size_t i = 0; i < n; i++) {
            const size_t at = first + i;
            weights[i] = -INFINITY; /* nothing to add */
            excess[i] = 0;
            if (keys[at] < 0) continue;
            const size_t top = states[(size_t)out[keys[at]]].top;
            if (top != at && isfinite(x[top])) weights[i] = difference(x[at], x[top], &excess[i]);
        }
        j->kernels->exp_f64(weights, weights, n);
        for (size_t i = 0; i < n; i++) {
            if (!(weights[i] > 0)) continue;
            key_state *state = &states[(size_t)out[keys[first + i]]];
            const double term = weights[i] - weights[i] * excess[i] - state->lost, sum = state->sum + term;
            state->lost = (sum - state->sum) - term;
            state->sum = sum;
        }
    }
    for (size_t i = 0; i < n_states; i++) out[states[i].key] = x[states[i].top] + log1p(states[i].sum);
}

ragfast_status ragfast_segment_logsumexp(double *out, const double *x, const int64_t *keys, size_t n_rows, size_t n,
                                         size_t n_keys, const ragfast_options *options) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || ragfast_product(n_rows, n) > RAGFAST_MAX_ELEMENTS ||
        ragfast_product(n_rows, n_keys) > RAGFAST_MAX_ELEMENTS)
        return RAGFAST_ERROR_ARGUMENT;
    for (size_t i = 0; i < n_rows * n; i++)
        if (keys[i] >= 0 && (uint64_t)keys[i] >= n_keys) return RAGFAST_ERROR_ARGUMENT;
    if (n_rows == 0 || n_keys == 0) return RAGFAST_OK;
    job j = {.out = out, .x = x, .keys = keys, .n_rows = n_rows, .n = n, .n_keys = n_keys};
    const int is_small = n_rows * n + n_rows * n_keys < INLINE_WORK;
    const size_t n_workers = ragfast_worker_count(&call, is_small, n_rows);
    const size_t n_states = ragfast_min(n, n_keys);
    const size_t bytes = ragfast_product(n_workers * sizeof(key_state), n_states);
    if (bytes == SIZE_MAX) return RAGFAST_ERROR_ARGUMENT;
    j.states = malloc(bytes + 1); /* a size of 0 may give NULL */
    if (!j.states) return RAGFAST_ERROR_MEMORY;
    const ragfast_fp_state saved = ragfast_fp_enter();
    j.kernels = ragfast_current_kernels();
    ragfast_parallel_for(&call, run_row, &j, n_rows, n_workers);
    ragfast_fp_leave(saved);
    free(j.states);
    return ragfast_end_call(&call);
}
