#include "search/results.h"

#include "search/stop.h"
#include "search/topk.h"

#include <math.h>

static void write_results(const search_output *out, size_t query, const ragfast_candidate *best, size_t n) {
    double *scores = out->scores + query * out->k;
    int64_t *doc_ids = out->doc_ids + query * out->k;
    for (size_t i = 0; i < out->k; i++) {
        scores[i] = i < n ? best[i].lower : -INFINITY;
        doc_ids[i] = i < n ? best[i].id : -1;
    }
    if (!out->doc_logprobs) return;
    double *logprobs = out->doc_logprobs + query * out->k, sum = 0;
    for (size_t i = 0; i < n; i++) {
        logprobs[i] = (scores[i] - scores[0]) / out->temperature;
        if (i > 0) sum += exp(logprobs[i]); /* the best one's 1 stays apart: log p near 0 keeps its digits */
    }
    double log_sum = log1p(sum);
    for (size_t i = 0; i < out->k; i++) logprobs[i] = i < n ? logprobs[i] - log_sum : -INFINITY;
}

void ragfast_finish_query(search *s, size_t q, size_t worker) {
    query_slot total;
    size_t query = s->queries.first + q, n = ragfast_take_best(s, q, worker, &total);
    if (ragfast_stopped_after(s, worker, RAGFAST_ROW_WORK)) return;
    write_results(&s->out, query, s->workers[0].slots[q].candidates, n);
    if (s->out.stats) s->out.stats[query] = (ragfast_query_stats){total.rescored, total.by_codes, total.by_float32};
}
