/* The queries of a pass as int8 codes. */
#ifndef RAGFAST_CODE_QUERIES_H
#define RAGFAST_CODE_QUERIES_H

#include "search/state.h"

/* Bytes of the packed codes of queries, in tiles of so many. */
size_t ragfast_query_code_bytes(const search_plan *plan, size_t n_queries, size_t tile);

/* Codes the queries for the transform of the segment. */
void ragfast_code_queries(search *s);

#endif
