/* What the AVX-512 kernels of log-sum-exp and of logits share: exp and log of float64 vectors. */
#ifndef RAGFAST_LSE_AVX512_H
#define RAGFAST_LSE_AVX512_H

#include "kernels/lse_math.h"

#include <immintrin.h>
#include <stddef.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask16 first16(size_t n) { return n < 16 ? (__mmask16)((1u << n) - 1u) : (__mmask16)0xffff; }
INLINE __mmask8 first8(size_t n) { return n < 8 ? (__mmask8)((1u << n) - 1u) : (__mmask8)0xff; }

/* Eight elements of either dtype, those outside the mask 0; in_f32 is a constant wherever these are inlined. */
INLINE __m512d load8(const void *x, size_t i, __mmask8 lanes, const int in_f32) {
    return in_f32 ? _mm512_cvtps_pd(_mm256_maskz_loadu_ps(lanes, (const float *)x + i))
                  : _mm512_maskz_loadu_pd(lanes, (const double *)x + i);
}

INLINE void store8(void *out, size_t i, __mmask8 lanes, __m512d x, const int in_f32) {
    if (in_f32)
        _mm256_mask_storeu_ps((float *)out + i, lanes, _mm512_cvtpd_ps(x));
    else
        _mm512_mask_storeu_pd((double *)out + i, lanes, x);
}

/* exp(x - low) for x <= 0 and the low that x was rounded by, denormal results included. A maximum returns its second
 * operand where one is NaN. */
INLINE __m512d exp_f64(__m512d x, __m512d low) {
    x = _mm512_max_pd(_mm512_set1_pd(LSE_NEGLIGIBLE_F64), x);
    const __m512d round = _mm512_set1_pd(LSE_ROUND_F64);
    __m512d n = _mm512_sub_pd(_mm512_fmadd_pd(x, _mm512_set1_pd(LSE_LOG2E), round), round);
    __m512d r = _mm512_fnmadd_pd(n, _mm512_set1_pd(LSE_LN2_HI_F64), x);
    r = _mm512_fnmadd_pd(n, _mm512_set1_pd(LSE_LN2_LO_F64), _mm512_sub_pd(r, low));
    __m512d p = _mm512_set1_pd(lse_exp_f64[9]);
#pragma GCC unroll 9
    for (int i = 8; i >= 0; i--) p = _mm512_fmadd_pd(p, r, _mm512_set1_pd(lse_exp_f64[i]));
    p = _mm512_fmadd_pd(_mm512_mul_pd(r, r), p, r);
    return _mm512_scalef_pd(_mm512_add_pd(_mm512_set1_pd(1), p), n);
}

/* log(1 + x) for x >= 0. What rounding 1 + x drops comes back as a last term. */
INLINE __m512d log1p_f64(__m512d x) {
    const __m512d one = _mm512_set1_pd(1);
    __m512d w = _mm512_add_pd(one, x);
    __m512d dropped = _mm512_div_pd(_mm512_sub_pd(x, _mm512_sub_pd(w, one)), w);
    __m512i bits = _mm512_castpd_si512(w);
    __m512i e = _mm512_srai_epi64(_mm512_sub_epi64(bits, _mm512_set1_epi64(LSE_SQRT_HALF_BITS)), 52);
    __m512d f = _mm512_sub_pd(_mm512_castsi512_pd(_mm512_sub_epi64(bits, _mm512_slli_epi64(e, 52))), one);
    __m512d n = _mm512_cvtepi64_pd(e);
    __m512d s = _mm512_div_pd(f, _mm512_add_pd(f, _mm512_set1_pd(2)));
    __m512d z = _mm512_mul_pd(s, s);
    __m512d p = _mm512_set1_pd(lse_log_f64[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--) p = _mm512_fmadd_pd(p, z, _mm512_set1_pd(lse_log_f64[i]));
    p = _mm512_fmadd_pd(_mm512_mul_pd(s, z), p, _mm512_fmadd_pd(n, _mm512_set1_pd(LSE_LN2_LO_F64), dropped));
    p = _mm512_fmadd_pd(_mm512_set1_pd(2), s, p);
    return _mm512_fmadd_pd(n, _mm512_set1_pd(LSE_LN2_HI_F64), p);
}

/* Kahan's sum: a plain one of 300,000 equal terms is off by thousands of units in the last place. */
typedef struct {
    __m512d sum, lost;
} kahan;

INLINE void add_to(kahan *k, __m512d x) {
    __m512d y = _mm512_sub_pd(x, k->lost);
    __m512d sum = _mm512_add_pd(k->sum, y);
    k->lost = _mm512_sub_pd(_mm512_sub_pd(sum, k->sum), y);
    k->sum = sum;
}

#endif
