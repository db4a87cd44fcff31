/* AVX-512 log-sum-exp. Contracts: core/kernels.h. */
#include "kernels/vector_avx512.h"

#include "kernels/lse_vector.h"

/* Mantissa bits of 2^(j/16), less the j << 48 that the shifted integer below brings along. */
static const uint64_t powers_f64[16] = {
    0x0000000000000000, 0xffffb5586cf9890f, 0xffff72b83c7d517b, 0xffff387a6e756238,
    0xffff06fe0a31b715, 0xfffedea64c123422, 0xfffebfdad5362a27, 0xfffeab07dd485429,
    0xfffea09e667f3bcd, 0xfffea11473eb0187, 0xfffeace5422aa0db, 0xfffec49182a3f090,
    0xfffee89f995ad3ad, 0xffff199bdd85529c, 0xffff5818dcfba487, 0xffffa4afa2a490da,
};

typedef struct {
    __m512d top, lowest, round;
    __m512i powers[2];
} rest_constants;

/* exp(x - top): of logits float32 needs 2^-29, not 2^-53, for which a table and four coefficients do. */
INLINE __m512d exp_short(__m256 x, const rest_constants *k) {
    const __m512d sixteenths = _mm512_set1_pd(16 * LSE_LOG2E);
    const __m512d d = _mm512_max_pd(k->lowest, _mm512_sub_pd(_mm512_cvtps_pd(x), k->top));
    const __m512d z = _mm512_fmadd_pd(d, sixteenths, k->round);
    const __m512d f = _mm512_fmsub_pd(d, sixteenths, _mm512_sub_pd(z, k->round));
    const __m512i bits = _mm512_castpd_si512(z);
    const __m512i power =
        _mm512_add_epi64(_mm512_slli_epi64(bits, 48), _mm512_permutex2var_epi64(k->powers[0], bits, k->powers[1]));
    __m512d p = _mm512_fmadd_pd(_mm512_set1_pd(lse_exp_short_f64[3]), f, _mm512_set1_pd(lse_exp_short_f64[2]));
    p = _mm512_fmadd_pd(p, f, _mm512_set1_pd(lse_exp_short_f64[1]));
    p = _mm512_fmadd_pd(p, f, _mm512_set1_pd(lse_exp_short_f64[0]));
    return _mm512_mul_pd(_mm512_castsi512_pd(power), p);
}

static double sum_exp_rest_f32_avx512(const float *x, size_t n, float top, size_t *n_tops) {
    const rest_constants k = {_mm512_set1_pd(top),
                              _mm512_set1_pd(-700),
                              _mm512_set1_pd(LSE_ROUND_F64 + 16 * 1023),
                              {_mm512_loadu_si512(powers_f64), _mm512_loadu_si512(powers_f64 + 8)}};
    __m512d sum[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
    for (size_t i = 0, step; i < n; i += step) {
        const __mmask16 is_top =
            n - i < 32 ? 1 : /* as if it were there: the end goes by masks too */
                _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_set1_ps(top), _CMP_EQ_OQ) |
                    _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i + 16), _mm512_set1_ps(top), _CMP_EQ_OQ);
        if (!is_top) {
            step = 32;
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                sum[j] = _mm512_add_pd(sum[j], exp_short(_mm256_loadu_ps(x + i + 8 * j), &k));
        } else {
            step = 8;
            const __mmask8 lanes = first_f64(n - i);
            const __m256 v = _mm256_maskz_loadu_ps(lanes, x + i);
            const __mmask8 others = _mm256_mask_cmp_ps_mask(lanes, v, _mm256_set1_ps(top), _CMP_NEQ_UQ);
            *n_tops += (size_t)__builtin_popcount(lanes & ~others);
            sum[0] = _mm512_mask_add_pd(sum[0], others, sum[0], exp_short(v, &k));
        }
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3])));
}

static double sum_exp_rest_f64_avx512(const double *x, size_t n, double top, size_t *n_tops) {
    return sum_exp_rest(x, n, top, n_tops, 2);
}

void ragfast_lse_fill_avx512(ragfast_kernels *table) {
    fill_lse(table);
    table->sum_exp_rest_f32 = sum_exp_rest_f32_avx512;
    table->sum_exp_rest_f64 = sum_exp_rest_f64_avx512;
}
