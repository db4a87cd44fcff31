/* Groups: how many documents of each a query may find, and which it must not. */
#ifndef RAGFAST_GROUPS_H
#define RAGFAST_GROUPS_H

#include "search/state.h"

/* Whether a row of the segment is of the group that the query excludes. */
static inline int ragfast_is_excluded(const search *s, size_t q, size_t row) {
    return s->excluded_groups && s->excluded_groups[q] >= 0 && s->docs->groups &&
           s->docs->groups[row] == s->excluded_groups[q];
}

/* What a worker remembers of a group, unless another group has taken its place. */
static inline group_threshold *ragfast_group_threshold_of(const search *s, size_t q, size_t worker, int32_t group) {
    return s->group_thresholds + (q * s->n_workers + worker) * s->n_group_thresholds +
           (size_t)group % s->n_group_thresholds;
}

/* Whether max_per_group others of its group are certainly before a row, as far as this worker remembers. */
static inline int ragfast_is_below_group(const search *s, size_t q, size_t worker, size_t row, double upper) {
    if (!s->max_per_group || !s->docs->groups || s->docs->groups[row] < 0) return 0;
    const group_threshold *threshold = ragfast_group_threshold_of(s, q, worker, s->docs->groups[row]);
    return threshold->group == s->docs->groups[row] && upper < threshold->lower;
}

/* Puts the best max_per_group of each group, by lower bounds, first and drops what max_per_group others of its group are certainly before.
 * An exact one behind them is: their lower bounds, and at a tie their ids, are before its score. Returns how many are first;
 * *n becomes how many are left. */
size_t ragfast_put_feasible_first(const search *s, size_t q, size_t worker, ragfast_candidate *items, size_t *n);

#endif
