/* The queries of a pass. */
#ifndef RAGFAST_QUERIES_H
#define RAGFAST_QUERIES_H

#include "search/state.h"

/* Makes queries first <= i < first + n of the call those of the pass, with no candidates and no thresholds. Fails where one
 * is not finite. queries: all of the call. */
void ragfast_begin_pass(search *s, const void *queries, const ragfast_constraints *constraints, size_t first, size_t n);

#endif
