#include "search/queries.h"

#include "core/rows.h"
#include "search/stop.h"

#include <math.h>
#include <string.h>

/* Its square, and the bound of its norm for scans. */
static ragfast_status measure_query(search *s, size_t q) {
    const search_plan *plan = s->plan;
    const void *vector = s->queries.vectors + q * plan->query_bytes;
    int is_f64 = plan->dtype == RAGFAST_F64;
    double squared = 0;
    if (!is_f64)
        squared = plan->kernels->inner_f64_f32(vector, vector, plan->dim);
    else if (plan->cosine)
        squared = plan->kernels->inner_f64_f64(vector, vector, plan->dim);
    if (is_f64 ? !ragfast_all_finite(vector, plan->dim) : !isfinite(squared)) return RAGFAST_ERROR_NONFINITE_QUERY;
    if (!isfinite(squared)) return RAGFAST_ERROR_OVERFLOW;
    if (plan->cosine && squared == 0) return RAGFAST_ERROR_ZERO_QUERY;
    s->queries.norms[q] = sqrt(squared) * (1 + 0x1p-36);
    s->queries.squares[q] = squared;
    return RAGFAST_OK;
}

void ragfast_begin_pass(search *s, const void *queries, const ragfast_constraints *constraints, size_t first,
                        size_t n) {
    const search_plan *plan = s->plan;
    query_state *pass = &s->queries;
    pass->first = first;
    pass->n = n;
    pass->vectors = (const char *)queries + first * plan->query_bytes;
    pass->excluded_groups = constraints && constraints->excluded_groups ? constraints->excluded_groups + first : NULL;
    for (size_t q = 0; q < n; q++) {
        ragfast_status status = measure_query(s, q);
        if (status != RAGFAST_OK) ragfast_fail(s, status);
        if (ragfast_stopped_after(s, 0, plan->dim)) return;
        atomic_init(&s->shared.thresholds[q], -INFINITY);
    }
    for (size_t i = 0; i < plan->n_workers; i++)
        for (size_t q = 0; q < n; q++)
            s->workers[i].slots[q] =
                (query_slot){.candidates = pass->candidates + (q * plan->n_workers + i) * plan->capacity};
    for (size_t i = 0; i < n * plan->n_workers * plan->n_group_thresholds; i++)
        pass->group_thresholds[i] = (group_threshold){.group = -1};
}
