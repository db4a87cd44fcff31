/* Sizes that a caller chose: their products are checked before anything is formed from them. */
#ifndef RAGFAST_SIZES_H
#define RAGFAST_SIZES_H

#include <stddef.h>
#include <stdint.h>

/* Elements of an array: 16 bytes of each are fewer than a pointer can count. */
#define RAGFAST_MAX_ELEMENTS (SIZE_MAX / 32)

/* SIZE_MAX where the result overflows, and from there on. A factor of 0 makes 0 of that too: such an array is empty. */
static inline size_t ragfast_product(size_t a, size_t b) {
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}
static inline size_t ragfast_sum(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }

/* x + n_bytes, where x may be NULL of an empty array: C does not define NULL + 0. */
static inline const void *ragfast_offset(const void *x, size_t n_bytes) {
    return n_bytes ? (const char *)x + n_bytes : x;
}

#endif
