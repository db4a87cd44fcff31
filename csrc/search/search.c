/* Exact top-k: a scan with rigorous error bounds, in float32 (scan_f32.c) or of codes (scan_i8.c), then float64 scores of
 * the few that the bounds cannot exclude.
 *
 * Each query keeps a threshold, a lower bound on its K-th best score so far; a document of which an upper bound is below the
 * threshold cannot be among the best K, every other one is kept, and nothing is ever truncated.
 *
 * Documents go through in blocks that fit the second-level cache; threads take chunks of blocks and keep candidates apart,
 * sharing only the thresholds. A threshold that another thread has not seen yet costs a few candidates, never a result.
 *
 * A call checks its arguments (arguments.c), decides how to go about it (plan.c), lays out its state (scratch.c), and then
 * takes the queries in passes (queries.c), each of which goes through all segments (scan_segment.c) before its results are
 * written (results.c). */
#include "core/fpenv.h"
#include "core/pool.h"
#include "search/plan.h"
#include "search/queries.h"
#include "search/results.h"
#include "search/scan_segment.h"
#include "search/scratch.h"
#include "search/stop.h"

#include <stdlib.h>
#include <string.h>

static void finish_query(void *context, size_t q, size_t worker) {
    search *s = context;
    if (ragfast_status_of(s) == RAGFAST_OK) ragfast_finish_query(s, q, worker);
}

static void run(search *s, const void *queries, const ragfast_constraints *constraints) {
    const search_plan *plan = s->plan;
    for (size_t q = 0; q < plan->n_queries; q += plan->pass_queries) {
        ragfast_begin_pass(s, queries, constraints, q, ragfast_min(plan->n_queries - q, plan->pass_queries));
        for (size_t i = 0; i < plan->n_segments && ragfast_status_of(s) == RAGFAST_OK; i++)
            ragfast_scan_segment(s, &plan->segments[i]);
        if (ragfast_status_of(s) != RAGFAST_OK) return;
        ragfast_parallel_for(s->call, finish_query, s, s->queries.n, plan->n_workers);
        if (ragfast_search_has_stopped(s)) return;
    }
}

/* Arguments in range, with at least one query. One block: the plans of the segments, which say how much must come after them,
 * and then that. */
static ragfast_status search_planned(ragfast_call *call, const search_output *out, ragfast_place *corrupt,
                                     const void *queries, const search_arguments *arguments) {
    size_t plan_bytes = arguments->n_segments * sizeof(segment_plan);
    segment_plan *segment_plans = malloc(plan_bytes);
    if (!segment_plans) return RAGFAST_ERROR_MEMORY;
    search_plan plan;
    ragfast_plan_search(&plan, segment_plans, arguments, call);
    char *block = realloc(segment_plans, plan_bytes + ragfast_scratch_bytes(&plan) + RAGFAST_SCRATCH_ALIGNMENT);
    if (!block) {
        free(segment_plans);
        return RAGFAST_ERROR_MEMORY;
    }
    plan.segments = (const segment_plan *)block;
    search s = {.plan = &plan, .call = call, .out = *out, .shared.corrupt_is_known = ATOMIC_FLAG_INIT};
    char *scratch = block + plan_bytes;
    ragfast_lay_out(&s, scratch + (RAGFAST_SCRATCH_ALIGNMENT - (uintptr_t)scratch % RAGFAST_SCRATCH_ALIGNMENT));
    run(&s, queries, arguments->constraints);
    free(block);
    /* A callback that stopped the call is told so, whatever was found by then: it may have raised an exception. */
    ragfast_status status = ragfast_end_call(call) == RAGFAST_OK ? ragfast_status_of(&s) : RAGFAST_ERROR_CANCELLED;
    if (corrupt && status == RAGFAST_ERROR_CORRUPT_DOC) *corrupt = s.shared.corrupt;
    return status;
}

ragfast_status ragfast_search(double *scores, int64_t *doc_ids, double *doc_logprobs, ragfast_query_stats *stats,
                              ragfast_place *corrupt, const void *queries, size_t n_queries,
                              const ragfast_docs *segments, size_t n_segments, const ragfast_constraints *constraints,
                              size_t k, int cosine, double temperature, const ragfast_options *options) {
    ragfast_call call;
    const search_arguments arguments = {.n_queries = n_queries,
                                        .segments = segments,
                                        .n_segments = n_segments,
                                        .constraints = constraints,
                                        .k = k,
                                        .cosine = cosine,
                                        .temperature = temperature};
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || !ragfast_arguments_in_range(&arguments))
        return RAGFAST_ERROR_ARGUMENT;
    if (stats) memset(stats, 0, n_queries * sizeof *stats);
    if (n_queries == 0) return RAGFAST_OK;
    const search_output out = {scores, doc_ids, doc_logprobs, stats, k, temperature};
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    ragfast_status status = search_planned(&call, &out, corrupt, queries, &arguments);
    ragfast_fp_leave(caller_fp);
    return status;
}
