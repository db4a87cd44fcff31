/* The results of a query. */
#ifndef RAGFAST_RESULTS_H
#define RAGFAST_RESULTS_H

#include "search/state.h"

/* Puts the candidates of query q of the pass together and writes its results. */
void ragfast_finish_query(search *s, size_t q, size_t worker);

#endif
