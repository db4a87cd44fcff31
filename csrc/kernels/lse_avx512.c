/* AVX-512 log-sum-exp. Contracts: core/kernels.h. */
#include "kernels/lse_avx512.h"

#include "core/kernels.h"

static float max_f32_avx512(const float *x, size_t n) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 top[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 64 <= n; i += 64)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) top[j] = _mm512_max_ps(_mm512_loadu_ps(x + i + 16 * j), top[j]);
    for (; i < n; i += 16) top[0] = _mm512_max_ps(_mm512_mask_loadu_ps(lowest, first16(n - i), x + i), top[0]);
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3])));
}

static double max_f64_avx512(const double *x, size_t n) {
    const __m512d lowest = _mm512_set1_pd(-INFINITY);
    __m512d top[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) top[j] = _mm512_max_pd(_mm512_loadu_pd(x + i + 8 * j), top[j]);
    for (; i < n; i += 8) top[0] = _mm512_max_pd(_mm512_mask_loadu_pd(lowest, first8(n - i), x + i), top[0]);
    return _mm512_reduce_max_pd(_mm512_max_pd(_mm512_max_pd(top[0], top[1]), _mm512_max_pd(top[2], top[3])));
}

/* exp(x - top), top not less than x. The rounding error of the difference is found (Knuth's two-sum) and made
 * good: at x - top = -40 it would be 20 units in the last place of the result. It is no number where x is -inf. */
INLINE __m512d exp_difference(__m512d x, __m512d top) {
    __m512d d = _mm512_sub_pd(x, top), minus_top = _mm512_sub_pd(d, x);
    __m512d low = _mm512_sub_pd(_mm512_add_pd(top, minus_top), _mm512_sub_pd(x, _mm512_sub_pd(d, minus_top)));
    low = _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(d, _mm512_set1_pd(LSE_NEGLIGIBLE_F64), _CMP_GT_OQ), low);
    return exp_f64(d, low);
}

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
            const __mmask8 lanes = first8(n - i);
            const __m256 v = _mm256_maskz_loadu_ps(lanes, x + i);
            const __mmask8 others = _mm256_mask_cmp_ps_mask(lanes, v, _mm256_set1_ps(top), _CMP_NEQ_UQ);
            *n_tops += (size_t)__builtin_popcount(lanes & ~others);
            sum[0] = _mm512_mask_add_pd(sum[0], others, sum[0], exp_short(v, &k));
        }
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3])));
}

static double sum_exp_rest_f64_avx512(const double *x, size_t n, double top, size_t *n_tops) {
    const __m512d base = _mm512_set1_pd(top);
    kahan sums[2] = {{_mm512_setzero_pd(), _mm512_setzero_pd()}, {_mm512_setzero_pd(), _mm512_setzero_pd()}};
    for (size_t i = 0; i < n; i += 16) {
#pragma GCC unroll 2
        for (size_t j = 0; j < 2; j++) {
            if (i + 8 * j >= n) break;
            __mmask8 lanes = first8(n - i - 8 * j);
            __m512d v = _mm512_maskz_loadu_pd(lanes, x + i + 8 * j);
            __mmask8 others = _mm512_mask_cmp_pd_mask(lanes, v, base, _CMP_NEQ_UQ);
            *n_tops += (size_t)__builtin_popcount(lanes & ~others);
            add_to(&sums[j], _mm512_maskz_mov_pd(others, exp_difference(v, base)));
        }
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(sums[0].sum, sums[1].sum));
}

INLINE void subtract(void *out, const void *x, size_t n, double top, double log_sum, const int in_f32) {
    for (size_t i = 0; i < n; i += 8) {
        __mmask8 lanes = first8(n - i);
        __m512d v = _mm512_sub_pd(load8(x, i, lanes, in_f32), _mm512_set1_pd(top));
        store8(out, i, lanes, _mm512_sub_pd(v, _mm512_set1_pd(log_sum)), in_f32);
    }
}

static void subtract_f32_avx512(float *out, const float *x, size_t n, float top, double log_sum) {
    subtract(out, x, n, top, log_sum, 1);
}
static void subtract_f64_avx512(double *out, const double *x, size_t n, double top, double log_sum) {
    subtract(out, x, n, top, log_sum, 0);
}

INLINE __m512d joint8(const void *doc_logprobs, const void *token_logprobs, size_t k, size_t at, __mmask8 lanes,
                      const int in_f32) {
    double prior = in_f32 ? (double)((const float *)doc_logprobs)[k] : ((const double *)doc_logprobs)[k];
    return _mm512_add_pd(_mm512_set1_pd(prior), load8(token_logprobs, at, lanes, in_f32));
}

/* Lanes are target tokens; K goes by twice, three times with the posterior, from the first-level cache. */
INLINE void mix(void *out, void *posterior, const void *doc_logprobs, const void *token_logprobs, size_t n_docs,
                size_t n, size_t stride, const int in_f32) {
    const __m512d infinity = _mm512_set1_pd(INFINITY), lowest = _mm512_set1_pd(-INFINITY);
    for (size_t t = 0; t < n; t += 8) {
        const __mmask8 lanes = first8(n - t);
        __m512d top = lowest;
        kahan others = {_mm512_setzero_pd(), _mm512_setzero_pd()};
        __mmask8 has_nan = 0, top_seen = 0;
        for (size_t k = 0; k < n_docs; k++) {
            __m512d v = joint8(doc_logprobs, token_logprobs, k, k * stride + t, lanes, in_f32);
            has_nan |= _mm512_cmp_pd_mask(v, v, _CMP_UNORD_Q);
            top = _mm512_max_pd(v, top);
        }
        __m512d base = _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(top, lowest, _CMP_NEQ_UQ), top);
        for (size_t k = 0; k < n_docs; k++) {
            __m512d v = joint8(doc_logprobs, token_logprobs, k, k * stride + t, lanes, in_f32);
            __m512d weight = exp_f64(_mm512_sub_pd(v, base), _mm512_setzero_pd());
            __mmask8 first_top = _mm512_cmp_pd_mask(v, top, _CMP_EQ_OQ) & (__mmask8)~top_seen;
            top_seen |= first_top;
            add_to(&others, _mm512_maskz_mov_pd((__mmask8)~first_top, weight));
            if (posterior) store8(posterior, k * stride + t, lanes, weight, in_f32);
        }
        __mmask8 finite = _mm512_cmp_pd_mask(_mm512_abs_pd(top), infinity, _CMP_LT_OQ);
        __m512d rest = _mm512_mask_mov_pd(_mm512_maskz_mov_pd(finite, others.sum), has_nan, _mm512_set1_pd(NAN));
        store8(out, t, lanes, _mm512_add_pd(top, log1p_f64(rest)), in_f32);
        if (!posterior) continue;
        __m512d scale = _mm512_div_pd(_mm512_set1_pd(1), _mm512_add_pd(_mm512_set1_pd(1), rest));
        for (size_t k = 0; k < n_docs; k++) {
            __m512d weight = load8(posterior, k * stride + t, lanes, in_f32);
            store8(posterior, k * stride + t, lanes, _mm512_mul_pd(weight, scale), in_f32);
        }
    }
}

static void mix_f32_avx512(float *out, float *posterior, const float *doc_logprobs, const float *token_logprobs,
                           size_t n_docs, size_t n, size_t stride) {
    mix(out, posterior, doc_logprobs, token_logprobs, n_docs, n, stride, 1);
}
static void mix_f64_avx512(double *out, double *posterior, const double *doc_logprobs, const double *token_logprobs,
                           size_t n_docs, size_t n, size_t stride) {
    mix(out, posterior, doc_logprobs, token_logprobs, n_docs, n, stride, 0);
}

static void exp_f64_avx512(double *out, const double *x, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __mmask8 lanes = first8(n - i);
        _mm512_mask_storeu_pd(out + i, lanes, exp_f64(_mm512_maskz_loadu_pd(lanes, x + i), _mm512_setzero_pd()));
    }
}

void ragfast_lse_fill_avx512(ragfast_kernels *table) {
    table->max_f32 = max_f32_avx512;
    table->max_f64 = max_f64_avx512;
    table->sum_exp_rest_f32 = sum_exp_rest_f32_avx512;
    table->sum_exp_rest_f64 = sum_exp_rest_f64_avx512;
    table->subtract_f32 = subtract_f32_avx512;
    table->subtract_f64 = subtract_f64_avx512;
    table->mix_f32 = mix_f32_avx512;
    table->mix_f64 = mix_f64_avx512;
    table->exp_f64 = exp_f64_avx512;
}
