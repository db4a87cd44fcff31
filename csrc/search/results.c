#include "search/results.h"

#include "core/dispatch.h"
#include "marginal/row_lse.h"
#include "search/stop.h"
#include "search/topk.h"

#include <math.h>

/* Inner products become cosines. Products that differ may be one number once divided: such documents are put in order of ids. */
static void divide_by_length(search *s, size_t worker, ragfast_candidate *best, size_t n, double length) {
    int in_order = 1;
    for (size_t i = 0; i < n; i++) {
        best[i].lower /= length;
        in_order &= i == 0 || ragfast_before(&best[i - 1], &best[i]);
    }
    if (!in_order) ragfast_sort_best(s, worker, best, n);
}

/* log_softmax over K of scores / temperature: of what each score is below the best, which changes no probability and overflows
 * nowhere that matters. */
static void write_logprobs(const search_plan *plan, const search_output *out, size_t query, size_t n) {
    const double *scores = out->scores + query * out->k;
    double *logprobs = out->doc_logprobs + query * out->k, sum = 0;
    for (size_t i = 0; i < out->k; i++) logprobs[i] = i < n ? (scores[i] - scores[0]) / out->temperature : -INFINITY;
    if (plan->cosine) { /* as ragfast_log_softmax at the scalar level, whichever level this is */
        const ragfast_kernels *scalar = ragfast_scalar_kernels();
        ragfast_lse lse = ragfast_careful_lse(scalar, logprobs, out->k, RAGFAST_F64);
        scalar->subtract_f64(logprobs, logprobs, out->k, lse.top == -INFINITY ? 0 : lse.top, lse.log_rest);
        return;
    }
    for (size_t i = 1; i < n; i++)
        sum += exp(logprobs[i]); /* without the best one's 1: log p near 0 keeps its digits */
    double log_sum = log1p(sum);
    for (size_t i = 0; i < n; i++) logprobs[i] -= log_sum;
}

static void write_results(const search_plan *plan, const search_output *out, size_t query,
                          const ragfast_candidate *best, size_t n) {
    double *scores = out->scores + query * out->k;
    int64_t *doc_ids = out->doc_ids + query * out->k;
    for (size_t i = 0; i < out->k; i++) {
        scores[i] = i < n ? best[i].lower : -INFINITY;
        doc_ids[i] = i < n ? best[i].id : -1;
    }
    if (out->doc_logprobs) write_logprobs(plan, out, query, n);
}

void ragfast_finish_query(search *s, size_t q, size_t worker) {
    query_slot total;
    size_t query = s->queries.first + q, n = ragfast_take_best(s, q, worker, &total);
    if (ragfast_stopped_after(s, worker, RAGFAST_ROW_WORK)) return;
    ragfast_candidate *best = s->workers[0].slots[q].candidates;
    if (s->plan->cosine) divide_by_length(s, worker, best, n, sqrt(s->queries.squares[q]));
    write_results(s->plan, &s->out, query, best, n);
    if (s->out.stats) s->out.stats[query] = (ragfast_query_stats){total.rescored, total.by_codes, total.by_float32};
}
