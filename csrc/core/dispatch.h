/* The table of kernels in use. */
#ifndef RAGFAST_DISPATCH_H
#define RAGFAST_DISPATCH_H

#include "core/kernels.h"

/* The table in use. It is read once a call, so that a call never mixes levels. */
const ragfast_kernels *ragfast_current_kernels(void);
/* The scalar ones, for results that have the same bits at every level. */
const ragfast_kernels *ragfast_scalar_kernels(void);

void ragfast_use_kernels(const ragfast_kernels *table); /* which must outlive its use: checks try tables of their own */

#endif
