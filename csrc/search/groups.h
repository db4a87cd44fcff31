/* Groups: how many documents of each a query may find, and which it must not. */
#ifndef RAGFAST_GROUPS_H
#define RAGFAST_GROUPS_H

#include "search/state.h"

/* Whether a row of the segment is of the group that the query excludes. */
int ragfast_is_excluded(const search *s, size_t q, size_t row);

/* Whether max_per_group others of its group are certainly before a row, as far as this worker remembers. */
int ragfast_is_below_group(const search *s, size_t q, size_t worker, size_t row, double upper);

/* Puts the best max_per_group of each group, by lower bounds, first and drops what max_per_group others of its group are certainly before.
 * An exact one behind them is: their lower bounds, and at a tie their ids, are before its score. Returns how many are first;
 * *n becomes how many are left. */
size_t ragfast_put_feasible_first(const search *s, size_t q, size_t worker, ragfast_candidate *items, size_t *n);

#endif
