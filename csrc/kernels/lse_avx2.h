/* What the AVX2 kernels of log-sum-exp and of logits share: exp and log of float64 vectors. */
#ifndef RAGFAST_LSE_AVX2_H
#define RAGFAST_LSE_AVX2_H

#include "core/kernels.h"
#include "kernels/lse_math.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* A window over these is a mask of the first n lanes. */
static const int32_t ones_then_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

INLINE __m256i first8(size_t n) {
    return _mm256_loadu_si256((const __m256i *)(ones_then_zeros + 8 - ragfast_min(n, 8)));
}
INLINE __m128i first4_of_32(size_t n) {
    return _mm_loadu_si128((const __m128i *)(ones_then_zeros + 8 - ragfast_min(n, 4)));
}
INLINE __m256i first4(size_t n) { return _mm256_cvtepi32_epi64(first4_of_32(n)); }

/* The next n elements, at most four, of either dtype, the other lanes 0; in_f32 is a constant where this is inlined. */
INLINE __m256d load4(const void *x, size_t i, size_t n, const int in_f32) {
    if (in_f32)
        return _mm256_cvtps_pd(n >= 4 ? _mm_loadu_ps((const float *)x + i)
                                      : _mm_maskload_ps((const float *)x + i, first4_of_32(n)));
    return n >= 4 ? _mm256_loadu_pd((const double *)x + i) : _mm256_maskload_pd((const double *)x + i, first4(n));
}

INLINE void store4(void *out, size_t i, size_t n, __m256d x, const int in_f32) {
    if (in_f32 && n >= 4)
        _mm_storeu_ps((float *)out + i, _mm256_cvtpd_ps(x));
    else if (in_f32)
        _mm_maskstore_ps((float *)out + i, first4_of_32(n), _mm256_cvtpd_ps(x));
    else if (n >= 4)
        _mm256_storeu_pd((double *)out + i, x);
    else
        _mm256_maskstore_pd((double *)out + i, first4(n), x);
}

INLINE double sum_lanes(__m256d x) {
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

INLINE __m256d power_of_2(__m128i n) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm_add_epi32(n, _mm_set1_epi32(1023))), 52));
}

/* exp(x - low) for x <= 0 and the low that x was rounded by, denormal results included: a power of 2 so small is
 * multiplied by in two halves. A maximum returns its second operand where one is NaN. */
INLINE __m256d exp_f64(__m256d x, __m256d low) {
    x = _mm256_max_pd(_mm256_set1_pd(LSE_NEGLIGIBLE_F64), x);
    const __m256d round = _mm256_set1_pd(LSE_ROUND_F64);
    __m256d n = _mm256_sub_pd(_mm256_fmadd_pd(x, _mm256_set1_pd(LSE_LOG2E), round), round);
    __m256d r = _mm256_fnmadd_pd(n, _mm256_set1_pd(LSE_LN2_HI_F64), x);
    r = _mm256_fnmadd_pd(n, _mm256_set1_pd(LSE_LN2_LO_F64), _mm256_sub_pd(r, low));
    __m256d p = _mm256_set1_pd(lse_exp_f64[9]);
#pragma GCC unroll 9
    for (int i = 8; i >= 0; i--) p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(lse_exp_f64[i]));
    p = _mm256_fmadd_pd(_mm256_mul_pd(r, r), p, r);
    p = _mm256_add_pd(_mm256_set1_pd(1), p);
    __m128i whole = _mm256_cvtpd_epi32(n), half = _mm_srai_epi32(whole, 1);
    return _mm256_mul_pd(_mm256_mul_pd(p, power_of_2(half)), power_of_2(_mm_sub_epi32(whole, half)));
}

/* log(1 + x) for x >= 0. What rounding 1 + x drops comes back as a last term. */
INLINE __m256d log1p_f64(__m256d x) {
    const __m256d one = _mm256_set1_pd(1);
    __m256d w = _mm256_add_pd(one, x);
    __m256d dropped = _mm256_div_pd(_mm256_sub_pd(x, _mm256_sub_pd(w, one)), w);
    __m256i bits = _mm256_castpd_si256(w);
    __m256i e = _mm256_srli_epi64(_mm256_sub_epi64(bits, _mm256_set1_epi64x(LSE_SQRT_HALF_BITS)), 52);
    __m256d f = _mm256_sub_pd(_mm256_castsi256_pd(_mm256_sub_epi64(bits, _mm256_slli_epi64(e, 52))), one);
    const __m256i round = _mm256_castpd_si256(_mm256_set1_pd(LSE_ROUND_F64)); /* AVX2 has no int64 to float64 */
    __m256d n = _mm256_sub_pd(_mm256_castsi256_pd(_mm256_add_epi64(e, round)), _mm256_castsi256_pd(round));
    __m256d s = _mm256_div_pd(f, _mm256_add_pd(f, _mm256_set1_pd(2)));
    __m256d z = _mm256_mul_pd(s, s);
    __m256d p = _mm256_set1_pd(lse_log_f64[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--) p = _mm256_fmadd_pd(p, z, _mm256_set1_pd(lse_log_f64[i]));
    p = _mm256_fmadd_pd(_mm256_mul_pd(s, z), p, _mm256_fmadd_pd(n, _mm256_set1_pd(LSE_LN2_LO_F64), dropped));
    p = _mm256_fmadd_pd(_mm256_set1_pd(2), s, p);
    return _mm256_fmadd_pd(n, _mm256_set1_pd(LSE_LN2_HI_F64), p);
}

/* Kahan's sum: a plain one of 300,000 equal terms is off by thousands of units in the last place. */
typedef struct {
    __m256d sum, lost;
} kahan;

INLINE void add_to(kahan *k, __m256d x) {
    __m256d y = _mm256_sub_pd(x, k->lost);
    __m256d sum = _mm256_add_pd(k->sum, y);
    k->lost = _mm256_sub_pd(_mm256_sub_pd(sum, k->sum), y);
    k->sum = sum;
}

#endif
