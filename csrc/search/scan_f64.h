/* Float64 scores of whole blocks of documents: where a scan first would save nothing. */
#ifndef RAGFAST_SCAN_F64_H
#define RAGFAST_SCAN_F64_H

#include "search/state.h"

/* All queries with rows whose checksums are right. */
void ragfast_scan_f64(search *s, const doc_block *block, size_t worker);

#endif
