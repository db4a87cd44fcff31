/* The float32 scan. */
#ifndef RAGFAST_SCAN_F32_H
#define RAGFAST_SCAN_F32_H

#include "search/state.h"

/* Elements of the listed queries as the kernels take them. */
size_t ragfast_scan_queries_size(const search_plan *plan, size_t n_queries);

/* Lays out the queries that a worker has listed: to be called when the list has changed. */
void ragfast_lay_out_listed(search *s, size_t worker);

/* A block of documents against the listed queries. */
void ragfast_scan_f32(search *s, const doc_block *block, size_t worker);

#endif
