/* The reference for every peak_<isa>.c, and what plain C reaches. Contracts: peak.h. */
#include "bench/peak.h"

#include <string.h>

enum { QUADS = 12, BYTES = 256 }; /* sums; bytes gone through a round */

/* What a compiler makes of plain loops over floats at its baseline; it does not find it by itself here. */
typedef float quad __attribute__((vector_size(16)));

#define FORGET() __asm__ volatile("" ::: "memory") /* what was read may have changed: nothing moves out of the loop */

static double fma_f32_scalar(const float *start, const float factors[2], size_t rounds) {
    quad sums[QUADS];
    memcpy(sums, start, sizeof sums);
    const float multiplier = factors[0], addend = factors[1];
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (size_t i = 0; i < QUADS; i++) sums[i] = sums[i] * multiplier + addend;
    double total = 0;
#pragma GCC unroll 12
    for (size_t i = 0; i < QUADS; i++)
        total += (double)sums[i][0] + (double)sums[i][1] + (double)sums[i][2] + (double)sums[i][3];
    return total;
}

static int64_t dot_i8_scalar(const uint8_t *u, const int8_t *q, const int32_t *start, size_t rounds) {
    int32_t sum = start[0];
    for (size_t r = 0; r < rounds; r++) {
        FORGET();
        for (size_t i = 0; i < BYTES; i++) sum += u[i] * q[i];
    }
    return sum;
}

static uint64_t read_scalar(const void *x, size_t n) {
    const char *bytes = x;
    uint64_t sums[4] = {0}, word;
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (size_t s = 0; s < 4; s++) {
            memcpy(&word, bytes + i + 8 * s, 8);
            sums[s] += word;
        }
    for (; i < n; i += 8) {
        word = 0;
        memcpy(&word, bytes + i, ragfast_min(n - i, 8));
        sums[0] += word;
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

void peak_fill_scalar(peak_kernels *table) {
    table->fma_f32 = fma_f32_scalar;
    table->dot_i8 = dot_i8_scalar;
    table->read = read_scalar;
}
