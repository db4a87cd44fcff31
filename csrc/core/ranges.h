/* Checks of what a caller passes. Sizes are checked before a product of them is formed. */
#ifndef RAGFAST_RANGES_H
#define RAGFAST_RANGES_H

#include "core/assumptions.h"

/* Elements that an array may have: its bytes, at up to 16 an element, are fewer than the difference of two pointers can count. */
#define RAGFAST_MAX_ELEMENTS (SIZE_MAX / 32)

/* SIZE_MAX if the result overflows. The product with 0 is 0 even so: such an array is empty. */
static inline size_t ragfast_product(size_t a, size_t b) {
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}
static inline size_t ragfast_sum(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }

/* An enum from a caller may hold any int. */
static inline int ragfast_is_dtype(ragfast_dtype dtype) { return (unsigned)dtype <= RAGFAST_BF16; }

static inline int ragfast_is_flag(int flag) { return flag == 0 || flag == 1; }

/* x + n_bytes. An empty array may be NULL, and C does not define NULL + 0. */
static inline const void *ragfast_offset(const void *x, size_t n_bytes) {
    return n_bytes ? (const char *)x + n_bytes : x;
}

#endif
