/* What AVX-512 reaches: multiply-adds in registers and plain loads. Without VNNI its 8-bit products are those of AVX2,
 * as they are in the scan of codes. */
#include "bench/peak.h"

#include <immintrin.h>

enum { SUMS = 16, STREAMS = 4, BLOCK = 4 * 64 };

/* At most two multiply-adds a cycle of four cycles each: eight sums would do, had each its turn exactly. */
static double fma_f32_avx512(const float *start, const float factors[2], size_t rounds) {
    __m512 sums[SUMS];
    const __m512 multiplier = _mm512_set1_ps(factors[0]), addend = _mm512_set1_ps(factors[1]);
#pragma GCC unroll 16
    for (size_t i = 0; i < SUMS; i++) sums[i] = _mm512_loadu_ps(start + 16 * i);
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 16
        for (size_t i = 0; i < SUMS; i++) sums[i] = _mm512_fmadd_ps(sums[i], multiplier, addend);
    __m512d total = _mm512_setzero_pd();
#pragma GCC unroll 16
    for (size_t i = 0; i < SUMS; i++) {
        total = _mm512_add_pd(total, _mm512_cvtps_pd(_mm512_castps512_ps256(sums[i])));
        total = _mm512_add_pd(total, _mm512_cvtps_pd(_mm512_extractf32x8_ps(sums[i], 1)));
    }
    return _mm512_reduce_add_pd(total);
}

/* Four quarters at once: 27.5 GB/s from memory where one after the other has 23.8, and eight 25.4; fetching ahead gains
 * nothing beside. */
static uint64_t read_avx512(const void *x, size_t n) {
    const char *bytes = x;
    __m512i sums[4];
    for (size_t s = 0; s < 4; s++) sums[s] = _mm512_setzero_si512();
    const size_t part = n / (STREAMS * BLOCK) * BLOCK;
    for (size_t i = 0; i < part; i += BLOCK)
#pragma GCC unroll 4
        for (size_t stream = 0; stream < STREAMS; stream++)
#pragma GCC unroll 4
            for (size_t s = 0; s < 4; s++)
                sums[s] = _mm512_add_epi64(sums[s], _mm512_loadu_si512(bytes + stream * part + i + 64 * s));
    for (size_t i = STREAMS * part; i < n; i += 64) {
        __mmask64 there = n - i < 64 ? ((__mmask64)1 << (n - i)) - 1 : ~(__mmask64)0;
        sums[0] = _mm512_add_epi64(sums[0], _mm512_maskz_loadu_epi8(there, bytes + i));
    }
    sums[0] = _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
    uint64_t lanes[8], sum = 0; /* _mm512_reduce_add_epi64 adds signed numbers, which must not wrap */
    _mm512_storeu_si512(lanes, sums[0]);
    for (size_t l = 0; l < 8; l++) sum += lanes[l];
    return sum;
}

void peak_fill_avx512(peak_kernels *table) {
    table->fma_f32 = fma_f32_avx512;
    table->read = read_avx512;
}
