/* Documents and queries as int8 codes. */
#ifndef RAGFAST_QUANTIZE_H
#define RAGFAST_QUANTIZE_H

#include "core/kernels.h"
#include "ragfast/search.h"

/* A query in the space of the codes, z = R (q / weight), as codes u of Z = z scale, both (D,). Returns the scale, 0 where z is
 * zero or beyond coding; residual >= |Z - c| but for the rounding of Z. */
double ragfast_code_query(const ragfast_kernels *kernels, uint8_t *codes, float *z, double *residual, size_t dim);

#endif
