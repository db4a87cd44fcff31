/* The scratch block of a search: one allocation, of which every array of its state is a piece. */
#ifndef RAGFAST_SCRATCH_H
#define RAGFAST_SCRATCH_H

#include "search/state.h"

enum { RAGFAST_SCRATCH_ALIGNMENT = 64 };

/* Bytes of the block for this plan. */
size_t ragfast_scratch_bytes(const search_plan *plan);

/* Points the arrays of the state into the block, which is aligned. */
void ragfast_lay_out(search *s, char *block);

#endif
