/* What a search is asked, without the arrays that it reads and writes for each query. */
#ifndef RAGFAST_ARGUMENTS_H
#define RAGFAST_ARGUMENTS_H

#include "ragfast/search.h"

typedef struct search_arguments {
    size_t n_queries;
    const ragfast_docs *segments;
    size_t n_segments;
    const ragfast_constraints *constraints; /* or NULL */
    size_t k;
    int cosine;
    double temperature;
} search_arguments;

/* Whether every size, count and scalar is in the range that ragfast/search.h states. Then no size that a search calculates
 * overflows. */
int ragfast_arguments_in_range(const search_arguments *arguments);

#endif
