/* AVX2 and FMA log-sum-exp. Contracts: core/kernels.h. */
#include "kernels/lse_avx2.h"

static float max_f32_avx2(const float *x, size_t n) {
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 top[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) top[j] = _mm256_max_ps(_mm256_loadu_ps(x + i + 8 * j), top[j]);
    for (; i < n; i += 8) {
        __m256 lanes = _mm256_castsi256_ps(first8(n - i));
        __m256 v = _mm256_blendv_ps(lowest, _mm256_maskload_ps(x + i, _mm256_castps_si256(lanes)), lanes);
        top[0] = _mm256_max_ps(v, top[0]);
    }
    __m256 eight = _mm256_max_ps(_mm256_max_ps(top[0], top[1]), _mm256_max_ps(top[2], top[3]));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static double max_f64_avx2(const double *x, size_t n) {
    const __m256d lowest = _mm256_set1_pd(-INFINITY);
    __m256d top[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) top[j] = _mm256_max_pd(_mm256_loadu_pd(x + i + 4 * j), top[j]);
    for (; i < n; i += 4) {
        __m256d v = _mm256_blendv_pd(lowest, load4(x, i, n - i, 0), _mm256_castsi256_pd(first4(n - i)));
        top[0] = _mm256_max_pd(v, top[0]);
    }
    __m256d four = _mm256_max_pd(_mm256_max_pd(top[0], top[1]), _mm256_max_pd(top[2], top[3]));
    __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

/* exp(x - top), top not less than x. The rounding error of the difference is found (Knuth's two-sum) and made
 * good: at x - top = -40 it would be 20 units in the last place of the result. It is no number where x is -inf. */
INLINE __m256d exp_difference(__m256d x, __m256d top) {
    __m256d d = _mm256_sub_pd(x, top), minus_top = _mm256_sub_pd(d, x);
    __m256d low = _mm256_sub_pd(_mm256_add_pd(top, minus_top), _mm256_sub_pd(x, _mm256_sub_pd(d, minus_top)));
    low = _mm256_and_pd(low, _mm256_cmp_pd(d, _mm256_set1_pd(LSE_NEGLIGIBLE_F64), _CMP_GT_OQ));
    return exp_f64(d, low);
}

/* Of logits float32 needs 2^-29, not 2^-53. */
static double sum_exp_rest_f32_avx2(const float *x, size_t n, float top, size_t *n_tops) {
    const __m256d base = _mm256_set1_pd(top), lowest = _mm256_set1_pd(-700);
    const __m256d log2e = _mm256_set1_pd(LSE_LOG2E), round = _mm256_set1_pd(LSE_ROUND_F64 + 1023);
    __m256d sum[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    for (size_t i = 0; i < n; i += 16) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            if (i + 4 * j >= n) break;
            const __m256d v = load4(x, i + 4 * j, n - i - 4 * j, 1);
            const __m256d lanes = _mm256_castsi256_pd(first4(n - i - 4 * j));
            const __m256d is_top = _mm256_and_pd(_mm256_cmp_pd(v, base, _CMP_EQ_OQ), lanes);
            *n_tops += (size_t)__builtin_popcount((unsigned)_mm256_movemask_pd(is_top));
            const __m256d d = _mm256_max_pd(lowest, _mm256_sub_pd(v, base));
            const __m256d z = _mm256_fmadd_pd(d, log2e, round);
            const __m256d f = _mm256_fmsub_pd(d, log2e, _mm256_sub_pd(z, round));
            __m256d p = _mm256_set1_pd(lse_exp2_f64[6]);
#pragma GCC unroll 6
            for (int k = 5; k >= 0; k--) p = _mm256_fmadd_pd(p, f, _mm256_set1_pd(lse_exp2_f64[k]));
            const __m256d power = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(z), 52));
            const __m256d others = _mm256_andnot_pd(is_top, lanes);
            sum[j] = _mm256_add_pd(sum[j], _mm256_and_pd(_mm256_mul_pd(power, p), others));
        }
    }
    return sum_lanes(_mm256_add_pd(_mm256_add_pd(sum[0], sum[1]), _mm256_add_pd(sum[2], sum[3])));
}

static double sum_exp_rest_f64_avx2(const double *x, size_t n, double top, size_t *n_tops) {
    const __m256d base = _mm256_set1_pd(top);
    kahan others = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (size_t i = 0; i < n; i += 4) {
        __m256d lanes = _mm256_castsi256_pd(first4(n - i));
        __m256d v = load4(x, i, n - i, 0);
        __m256d is_top = _mm256_and_pd(_mm256_cmp_pd(v, base, _CMP_EQ_OQ), lanes);
        __m256d weight = _mm256_and_pd(exp_difference(v, base), lanes);
        *n_tops += (size_t)__builtin_popcount((unsigned)_mm256_movemask_pd(is_top));
        add_to(&others, _mm256_andnot_pd(is_top, weight));
    }
    return sum_lanes(others.sum);
}

INLINE void subtract(void *out, const void *x, size_t n, double top, double log_sum, const int in_f32) {
    for (size_t i = 0; i < n; i += 4) {
        __m256d v = _mm256_sub_pd(load4(x, i, n - i, in_f32), _mm256_set1_pd(top));
        store4(out, i, n - i, _mm256_sub_pd(v, _mm256_set1_pd(log_sum)), in_f32);
    }
}

static void subtract_f32_avx2(float *out, const float *x, size_t n, float top, double log_sum) {
    subtract(out, x, n, top, log_sum, 1);
}
static void subtract_f64_avx2(double *out, const double *x, size_t n, double top, double log_sum) {
    subtract(out, x, n, top, log_sum, 0);
}

INLINE __m256d joint4(const void *doc_logprobs, const void *token_logprobs, size_t k, size_t at, size_t n,
                      const int in_f32) {
    double prior = in_f32 ? (double)((const float *)doc_logprobs)[k] : ((const double *)doc_logprobs)[k];
    return _mm256_add_pd(_mm256_set1_pd(prior), load4(token_logprobs, at, n, in_f32));
}

/* Lanes are target tokens; K goes by twice, three times with the posterior, from the first-level cache. */
INLINE void mix(void *out, void *posterior, const void *doc_logprobs, const void *token_logprobs, size_t n_docs,
                size_t n, size_t stride, const int in_f32) {
    const __m256d infinity = _mm256_set1_pd(INFINITY), lowest = _mm256_set1_pd(-INFINITY);
    const __m256d one = _mm256_set1_pd(1), sign = _mm256_set1_pd(-0.0);
    for (size_t t = 0; t < n; t += 4) {
        __m256d top = lowest, has_nan = _mm256_setzero_pd(), top_seen = has_nan;
        kahan others = {_mm256_setzero_pd(), _mm256_setzero_pd()};
        for (size_t k = 0; k < n_docs; k++) {
            __m256d v = joint4(doc_logprobs, token_logprobs, k, k * stride + t, n - t, in_f32);
            has_nan = _mm256_or_pd(has_nan, _mm256_cmp_pd(v, v, _CMP_UNORD_Q));
            top = _mm256_max_pd(v, top);
        }
        __m256d base = _mm256_and_pd(top, _mm256_cmp_pd(top, lowest, _CMP_NEQ_UQ));
        for (size_t k = 0; k < n_docs; k++) {
            __m256d v = joint4(doc_logprobs, token_logprobs, k, k * stride + t, n - t, in_f32);
            __m256d weight = exp_f64(_mm256_sub_pd(v, base), _mm256_setzero_pd());
            __m256d first_top = _mm256_andnot_pd(top_seen, _mm256_cmp_pd(v, top, _CMP_EQ_OQ));
            top_seen = _mm256_or_pd(top_seen, first_top);
            add_to(&others, _mm256_andnot_pd(first_top, weight));
            if (posterior) store4(posterior, k * stride + t, n - t, weight, in_f32);
        }
        __m256d rest = _mm256_and_pd(others.sum, _mm256_cmp_pd(_mm256_andnot_pd(sign, top), infinity, _CMP_LT_OQ));
        rest = _mm256_blendv_pd(rest, _mm256_set1_pd(NAN), has_nan);
        store4(out, t, n - t, _mm256_add_pd(top, log1p_f64(rest)), in_f32);
        if (!posterior) continue;
        __m256d scale = _mm256_div_pd(one, _mm256_add_pd(one, rest));
        for (size_t k = 0; k < n_docs; k++) {
            __m256d weight = load4(posterior, k * stride + t, n - t, in_f32);
            store4(posterior, k * stride + t, n - t, _mm256_mul_pd(weight, scale), in_f32);
        }
    }
}

static void mix_f32_avx2(float *out, float *posterior, const float *doc_logprobs, const float *token_logprobs,
                         size_t n_docs, size_t n, size_t stride) {
    mix(out, posterior, doc_logprobs, token_logprobs, n_docs, n, stride, 1);
}
static void mix_f64_avx2(double *out, double *posterior, const double *doc_logprobs, const double *token_logprobs,
                         size_t n_docs, size_t n, size_t stride) {
    mix(out, posterior, doc_logprobs, token_logprobs, n_docs, n, stride, 0);
}

static void exp_f64_avx2(double *out, const double *x, size_t n) {
    for (size_t i = 0; i < n; i += 4) store4(out, i, n - i, exp_f64(load4(x, i, n - i, 0), _mm256_setzero_pd()), 0);
}

void ragfast_lse_fill_avx2(ragfast_kernels *table) {
    table->max_f32 = max_f32_avx2;
    table->max_f64 = max_f64_avx2;
    table->sum_exp_rest_f32 = sum_exp_rest_f32_avx2;
    table->sum_exp_rest_f64 = sum_exp_rest_f64_avx2;
    table->subtract_f32 = subtract_f32_avx2;
    table->subtract_f64 = subtract_f64_avx2;
    table->mix_f32 = mix_f32_avx2;
    table->mix_f64 = mix_f64_avx2;
    table->exp_f64 = exp_f64_avx2;
}
