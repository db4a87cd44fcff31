/* What AVX2 reaches: multiply-adds in registers, 8-bit products as code_avx2.c has them, plain loads. */
#include "bench/peak.h"

#include <immintrin.h>
#include <string.h>

enum { SUMS = 12, CODE_SUMS = 8, STREAMS = 4, BLOCK = 4 * 32 };

/* Two multiply-adds a cycle of four or five cycles each: ten sums hide that, twelve leave room for both factors. */
static double fma_f32_avx2(const float *start, const float factors[2], size_t rounds) {
    __m256 sums[SUMS];
    const __m256 multiplier = _mm256_set1_ps(factors[0]), addend = _mm256_set1_ps(factors[1]);
#pragma GCC unroll 12
    for (size_t i = 0; i < SUMS; i++) sums[i] = _mm256_loadu_ps(start + 8 * i);
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (size_t i = 0; i < SUMS; i++) sums[i] = _mm256_fmadd_ps(sums[i], multiplier, addend);
    __m256d wide = _mm256_setzero_pd();
#pragma GCC unroll 12
    for (size_t i = 0; i < SUMS; i++) {
        wide = _mm256_add_pd(wide, _mm256_cvtps_pd(_mm256_castps256_ps128(sums[i])));
        wide = _mm256_add_pd(wide, _mm256_cvtps_pd(_mm256_extractf128_ps(sums[i], 1)));
    }
    double lanes[4];
    _mm256_storeu_pd(lanes, wide);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

/* Two vpmaddubsw, added in 16 bits, and one vpmaddwd for 64 products, as add_products of code_avx2.c. The products
 * are the same in each round, which the compiler must not know. */
static int64_t dot_i8_avx2(const uint8_t *u, const int8_t *q, const int32_t *start, size_t rounds) {
    __m256i sums[CODE_SUMS];
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i u0 = _mm256_loadu_si256((const __m256i *)u), u1 = _mm256_loadu_si256((const __m256i *)(u + 32));
    const __m256i q0 = _mm256_loadu_si256((const __m256i *)q), q1 = _mm256_loadu_si256((const __m256i *)(q + 32));
#pragma GCC unroll 8
    for (size_t i = 0; i < CODE_SUMS; i++) sums[i] = _mm256_loadu_si256((const __m256i *)(start + 8 * i));
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 8
        for (size_t i = 0; i < CODE_SUMS; i++) {
            __asm__ volatile("" : "+x"(u0), "+x"(u1));
            __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(u0, q0), _mm256_maddubs_epi16(u1, q1));
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
        }
    __m256i wide = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (size_t i = 0; i < CODE_SUMS; i++) {
        wide = _mm256_add_epi64(wide, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums[i])));
        wide = _mm256_add_epi64(wide, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sums[i], 1)));
    }
    int64_t lanes[4];
    _mm256_storeu_si256((__m256i *)lanes, wide);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

/* Four quarters at once: see read_avx512. */
static uint64_t read_avx2(const void *x, size_t n) {
    const char *bytes = x;
    __m256i sums[4];
    for (size_t s = 0; s < 4; s++) sums[s] = _mm256_setzero_si256();
    const size_t part = n / (STREAMS * BLOCK) * BLOCK;
    for (size_t i = 0; i < part; i += BLOCK)
#pragma GCC unroll 4
        for (size_t stream = 0; stream < STREAMS; stream++)
#pragma GCC unroll 4
            for (size_t s = 0; s < 4; s++) {
                const char *next = bytes + stream * part + i + 32 * s;
                sums[s] = _mm256_add_epi64(sums[s], _mm256_loadu_si256((const __m256i *)next));
            }
    sums[0] = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
    uint64_t lanes[4], word;
    _mm256_storeu_si256((__m256i *)lanes, sums[0]);
    for (size_t i = STREAMS * part; i < n; i += 8) {
        word = 0;
        memcpy(&word, bytes + i, ragfast_min(n - i, 8));
        lanes[0] += word;
    }
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

void peak_fill_avx2(peak_kernels *table) {
    table->fma_f32 = fma_f32_avx2;
    table->dot_i8 = dot_i8_avx2;
    table->read = read_avx2;
}
