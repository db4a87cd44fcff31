/* Groups: how many documents of each a query may find, and which it must not. */
#ifndef RAGFAST_GROUPS_H
#define RAGFAST_GROUPS_H

#include "search/state.h"

/* Whether a row of the segment is of the group that the query excludes. */
static inline int ragfast_is_excluded(const search *s, size_t q, size_t row) {
    const int32_t *excluded = s->queries.excluded_groups;
    if (!excluded || excluded[q] < 0) return 0;
    const int32_t *groups = s->segment->docs->groups;
    return groups && groups[row] == excluded[q];
}

/* What a worker remembers of a group, unless another group has taken its place. */
static inline group_threshold *ragfast_group_threshold_of(const search *s, size_t q, size_t worker, int32_t group) {
    size_t n = s->plan->n_group_thresholds;
    return s->queries.group_thresholds + (q * s->plan->n_workers + worker) * n + (size_t)group % n;
}

/* Whether max_per_group others of its group are certainly before a row, as far as this worker remembers. */
static inline int ragfast_is_below_group(const search *s, size_t q, size_t worker, size_t row, double upper) {
    if (!s->plan->max_per_group) return 0;
    const int32_t *groups = s->segment->docs->groups;
    if (!groups || groups[row] < 0) return 0;
    const group_threshold *threshold = ragfast_group_threshold_of(s, q, worker, groups[row]);
    return threshold->group == groups[row] && upper < threshold->lower;
}

/* Puts the best max_per_group of each group, by lower bounds, first and drops what max_per_group others of its group are certainly before.
 * An exact one behind them is: their lower bounds, and at a tie their ids, are before its score. Returns how many are first;
 * *n becomes how many are left. */
size_t ragfast_put_feasible_first(search *s, size_t q, size_t worker, ragfast_candidate *items, size_t *n);

#endif
