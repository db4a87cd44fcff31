/* Log-sum-exp of one row, shared by everything that has rows: logsumexp, log-softmax, logits, documents. */
#ifndef RAGFAST_ROW_LSE_H
#define RAGFAST_ROW_LSE_H

#include "core/kernels.h"

typedef struct ragfast_lse {
    double top, log_rest; /* LSE = top + log_rest; where that is not finite, log_rest is 0 or NaN */
} ragfast_lse;

/* float32 sums move a result of this magnitude by less than 1.9 units in the last place of float32; nearer to 0 it takes
 * ragfast_careful_lse. So does a row this short, where float32 saves nothing. */
#define RAGFAST_FAST_RESULT 2.000001 /* it is a computed value that is compared, and below 2 units are half as large */
enum { RAGFAST_SHORT_ROW = 32 };

/* In float32 sums; the absolute error is below 4.5e-7 plus the last place of float64. top: the maximum of the row, or NaN
 * if it is not known; then the row is read once. Adds the sum of x to *sum_x unless NULL. Returns 0, with nothing
 * written, where this cannot be done: infinities on top, NaN, magnitudes above 2^16, float64. */
int ragfast_fast_lse(const ragfast_kernels *kernels, double *lse, double *sum_x, const void *x, size_t n, double top,
                     ragfast_dtype dtype);

/* In float64 sums, whatever the values: log_rest is accurate near 0, for float64 to the last place, for the narrower
 * types to 4e-9 of itself, which is beyond float32. Reads the row twice. */
ragfast_lse ragfast_careful_lse(const ragfast_kernels *kernels, const void *x, size_t n, ragfast_dtype dtype);

/* As ragfast_careful_lse, to the last place of float64 for every type: where top + log_rest cancels. */
ragfast_lse ragfast_exact_lse(const ragfast_kernels *kernels, const void *x, size_t n, ragfast_dtype dtype);

/* Sum of x - offset over a row, for where ragfast_fast_lse did not bring it. */
double ragfast_row_sum(const ragfast_kernels *kernels, const void *x, size_t n, double offset, ragfast_dtype dtype);

/* The maximum, which passes over NaN. */
double ragfast_row_max(const ragfast_kernels *kernels, const void *x, size_t n, ragfast_dtype dtype);

#endif
