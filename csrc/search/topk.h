/* The candidates of a query: a buffer on each worker, the threshold that they raise, and the best of them. */
#ifndef RAGFAST_TOPK_H
#define RAGFAST_TOPK_H

#include "search/state.h"

/* What became of a row: below the threshold, a candidate, or one that should be above the threshold. */
typedef enum ragfast_outcome { RAGFAST_DROPPED, RAGFAST_BUFFERED, RAGFAST_LIKELY } ragfast_outcome;

/* Offers a row of the segment of which a scan knows that its inner product is within error of middle. It becomes a candidate
 * unless it is certainly below the threshold. */
ragfast_outcome ragfast_offer(search *s, size_t q, size_t worker, size_t row, double middle, double error);

/* Adds a row of the segment as a candidate whose score lies between lower and upper. A full buffer is pruned. */
void ragfast_add(search *s, size_t q, size_t worker, size_t row, double lower, double upper, int exact);
void ragfast_prune(search *s, size_t q, size_t worker);

/* Raises the threshold by what the buffer holds. */
void ragfast_raise_threshold(search *s, size_t q, size_t worker);

/* Puts the best k candidates of all workers together, best first, at the beginning of the first worker's. Returns how many
 * there are; *total: the counts of all workers. `worker` does it; where the search stops the return value means nothing. */
size_t ragfast_take_best(search *s, size_t q, size_t worker, query_slot *total);

/* Puts items in the order of results, unless the search stops. */
void ragfast_sort_best(search *s, size_t worker, ragfast_candidate *items, size_t n);

#endif
