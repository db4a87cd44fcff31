/* The scan of int8 codes. */
#ifndef RAGFAST_SCAN_I8_H
#define RAGFAST_SCAN_I8_H

#include "search/state.h"

/* Documents first <= i < end, where first need not begin a panel. */
void ragfast_scan_i8(search *s, size_t first, size_t end, size_t worker);

#endif
