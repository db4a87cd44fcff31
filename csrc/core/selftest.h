/* Known-answer tests of kernels, which a level passes before it is used. */
#ifndef RAGFAST_SELFTEST_H
#define RAGFAST_SELFTEST_H

#include "core/kernels.h"

/* Each runs kernels of `table` on fixed inputs: those of search or of marginalization, without those that `trusted` has as well.
 * Returns the name of the first whose results are not those of `scalar` to the bit, or within the bound that core/kernels.h
 * states; NULL if there is none. "tile_codes" also stands for the entries around it that only work together with it. In the
 * default floating-point environment; one thread at a time, as the memory is static. */
const char *ragfast_first_wrong_search_kernel(const ragfast_kernels *table, const ragfast_kernels *trusted,
                                              const ragfast_kernels *scalar);
const char *ragfast_first_wrong_marginal_kernel(const ragfast_kernels *table, const ragfast_kernels *trusted,
                                                const ragfast_kernels *scalar);

static inline const char *ragfast_first_wrong_kernel(const ragfast_kernels *table, const ragfast_kernels *trusted,
                                                     const ragfast_kernels *scalar) {
    const char *wrong = ragfast_first_wrong_search_kernel(table, trusted, scalar);
    return wrong ? wrong : ragfast_first_wrong_marginal_kernel(table, trusted, scalar);
}

#endif
