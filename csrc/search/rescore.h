/* Float64 scores of candidates, and what must happen before the rows of documents are read. */
#ifndef RAGFAST_RESCORE_H
#define RAGFAST_RESCORE_H

#include "search/state.h"

int ragfast_has_its_checksum(search *s, size_t segment, size_t row);

/* Whether a row has its checksum, or none; else the search fails. */
static inline int ragfast_row_checksum_ok(search *s, size_t segment, size_t row) {
    return !s->plan->docs[segment].row_sums || ragfast_has_its_checksum(s, segment, row);
}

/* Asks for the pages of a row that is memory-mapped. */
void ragfast_prefetch_row(const search *s, const ragfast_docs *docs, size_t row);

/* out (n,): scores of query q with n rows of any segments. Meanwhile those of `ahead` are fetched. */
void ragfast_score_vectors(search *s, size_t q, double *out, const void *const *vectors, size_t n,
                           const void *const *ahead, size_t n_ahead);

/* Scores those of n candidates of query q that have no score yet, or some of them where the search stops. */
void ragfast_rescore(search *s, size_t q, size_t worker, query_slot *slot, ragfast_candidate *items, size_t n);

#endif
