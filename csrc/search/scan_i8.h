/* The scan of int8 codes. */
#ifndef RAGFAST_SCAN_I8_H
#define RAGFAST_SCAN_I8_H

#include "search/state.h"

/* Bytes of the packed codes of queries, in tiles of so many. */
size_t ragfast_query_code_bytes(const search *s, size_t n_queries, size_t tile);

/* Codes the queries, once for each group of them and each transform. */
void ragfast_prepare_codes(search *s);

/* Documents first <= i < end, where first need not begin a panel. */
void ragfast_scan_i8(search *s, size_t first, size_t end, size_t worker);

#endif
