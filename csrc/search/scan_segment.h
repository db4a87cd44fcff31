/* A segment against the queries of a pass. */
#ifndef RAGFAST_SCAN_SEGMENT_H
#define RAGFAST_SCAN_SEGMENT_H

#include "search/state.h"

/* Offers every document of the segment that takes part to every query. */
void ragfast_scan_segment(search *s, const segment_plan *segment);

#endif
