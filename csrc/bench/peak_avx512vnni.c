/* What AVX-512 VNNI reaches: 64 products of 8 bits an instruction. */
#include "bench/peak.h"

#include <immintrin.h>

enum { SUMS = 16 };

static int64_t dot_i8_avx512vnni(const uint8_t *u, const int8_t *q, const int32_t *start, size_t rounds) {
    __m512i sums[SUMS];
    __m512i codes = _mm512_loadu_si512(u);
    const __m512i query = _mm512_loadu_si512(q);
#pragma GCC unroll 16
    for (size_t i = 0; i < SUMS; i++) sums[i] = _mm512_loadu_si512(start + 16 * i);
    for (size_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+v"(codes)); /* integers: a compiler could otherwise do all rounds at once */
#pragma GCC unroll 16
        for (size_t i = 0; i < SUMS; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], codes, query);
    }
    int64_t total = 0;
#pragma GCC unroll 16
    for (size_t i = 0; i < SUMS; i++) {
        __m512i halves = _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums[i])),
                                          _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sums[i], 1)));
        total += _mm512_reduce_add_epi64(halves);
    }
    return total;
}

void peak_fill_avx512vnni(peak_kernels *table) { table->dot_i8 = dot_i8_avx512vnni; }
