/* What the known-answer tests share: lengths, inputs, comparisons, and how a list of tests is gone through.
 *
 * Answers are those of the scalar level, which is plain C. A kernel that treats elements or columns one by one is asked for
 * every length, and all are compared with one answer for the longest. */
#ifndef RAGFAST_SELFTEST_INPUTS_H
#define RAGFAST_SELFTEST_INPUTS_H

#include "core/elements.h"
#include "core/kernels.h"

#include <math.h>
#include <string.h>

/* Around the vectors and blocks of all levels. They begin at different elements, so that nothing is aligned. */
enum { N_LENGTHS = 14, LONGEST = 131 + 2, N_SHORT = 13, LONGEST_SHORT = 83 + 2 };
static const size_t lengths[N_LENGTHS] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67, 83, 131};
static inline size_t start_of(size_t length) { return length % 3; }

enum { ROOM = 704 /* elements */, MARGIN = 16 /* bytes behind an output, which stay as they are */ };
typedef union array {
    float f32[ROOM];
    double f64[ROOM];
    uint16_t b16[ROOM];
    unsigned char bytes[ROOM * sizeof(double)];
} array;

static inline const void *at(const array *x, size_t i, ragfast_dtype dtype) {
    return x->bytes + i * ragfast_element_size(dtype);
}

static uint64_t random_state; /* of splitmix64, the same at the beginning of each test */

static inline uint64_t random_bits(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline int random_between(int low, int high) {
    return low + (int)((random_bits() >> 32) * (uint64_t)(high - low + 1) >> 32);
}
static inline double random_unit(void) { return (double)(int64_t)random_bits() * 0x1p-63; } /* from -1 to below 1 */

/* To the bit; a NaN is like any other. */
static inline int same_f32(const float *a, const float *b, size_t n) {
    uint32_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        wrong |= (x ^ y) & (a[i] == a[i] || b[i] == b[i] ? UINT32_MAX : 0);
    }
    return wrong == 0;
}
static inline int same_f64(const double *a, const double *b, size_t n) {
    uint64_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        wrong |= (x ^ y) & (a[i] == a[i] || b[i] == b[i] ? UINT64_MAX : 0);
    }
    return wrong == 0;
}

static inline int close_to(double got, double expected, double allowed) {
    if (!isfinite(expected)) return isnan(expected) ? isnan(got) : got == expected;
    return fabs(got - expected) <= allowed;
}

/* An output before a kernel writes it, and whether the kernel wrote beyond n_bytes. */
static inline void clear(array *out, size_t n_bytes) { memset(out->bytes, 0xa5, n_bytes + MARGIN); }
static inline int ends_at(const array *out, size_t n_bytes) {
    static const unsigned char margin[] = "\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5";
    return memcmp(out->bytes + n_bytes, margin, MARGIN) == 0;
}

/* ---- tests -------------------------------------------------------------------------------------------------------- */

typedef struct selftest {
    const char *name;
    size_t offset, size; /* bytes of the table, to compare with those of the trusted one */
    int (*holds)(const ragfast_kernels *table, const ragfast_kernels *scalar, int which);
    int which; /* a type, or one of two kernels */
} selftest;

#define SELFTEST_FROM(first) offsetof(ragfast_kernels, first)
#define SELFTEST(entry, holds, which)                                                                                  \
    {#entry, SELFTEST_FROM(entry), sizeof(((ragfast_kernels *)NULL)->entry), holds, which}

static inline const char *first_that_fails(const selftest *tests, size_t n_tests, const ragfast_kernels *table,
                                           const ragfast_kernels *trusted, const ragfast_kernels *scalar) {
    for (size_t i = 0; i < n_tests; i++) {
        const size_t offset = tests[i].offset;
        if (memcmp((const char *)table + offset, (const char *)trusted + offset, tests[i].size) == 0) continue;
        random_state = i;
        if (!tests[i].holds(table, scalar, tests[i].which)) return tests[i].name;
    }
    return NULL;
}

#endif
