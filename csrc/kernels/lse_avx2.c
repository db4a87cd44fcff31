/* AVX2 and FMA log-sum-exp. THE HOT LOOP of long float32 rows is sum_exp_f32_avx2. Contracts: ../internal.h. */
#include "../internal.h"
#include "../lse_math.h"

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

/* exp(x) 2^-exponent, the exponent being in `round`. x is reduced by itself: no difference x - top is ever rounded. */
INLINE __m256 exp_f32(__m256 x, __m256 lowest, __m256 round) {
    x = _mm256_max_ps(lowest, x);
    __m256 z = _mm256_fmadd_ps(x, _mm256_set1_ps((float)LSE_LOG2E), round);
    __m256 n = _mm256_sub_ps(z, round);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LSE_LN2_HI_F32), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LSE_LN2_LO_F32), r);
    __m256 p = _mm256_set1_ps(lse_exp_f32[4]);
#pragma GCC unroll 4
    for (int i = 3; i >= 0; i--) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(lse_exp_f32[i]));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(z), 23));
    return _mm256_fmadd_ps(_mm256_mul_ps(p, r), scale, scale);
}

/* A row's chunks come here one after another, each after a pass for its maximum that would wait for memory: so the next
 * n elements are fetched while this chunk is calculated. */
static double sum_exp_f32_avx2(const float *x, size_t n, float top, int exponent) {
    const __m256 lowest = _mm256_set1_ps(top - LSE_NEGLIGIBLE_F32);
    const __m256 round = _mm256_set1_ps(LSE_ROUND_F32 + (127 - (float)exponent));
    __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    size_t i = 0;
    for (; i + 32 <= n; i += 32) { /* float32 sums of four, so that their rounding stays small; then float64 */
#pragma GCC unroll 2
        for (size_t j = 0; j < 2; j++) _mm_prefetch((const char *)(x + n + i + 16 * j), _MM_HINT_T0);
        __m256 a = exp_f32(_mm256_loadu_ps(x + i), lowest, round);
        __m256 b = exp_f32(_mm256_loadu_ps(x + i + 8), lowest, round);
        __m256 c = exp_f32(_mm256_loadu_ps(x + i + 16), lowest, round);
        __m256 d = exp_f32(_mm256_loadu_ps(x + i + 24), lowest, round);
        __m256 four = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
        sum[0] = _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(four)));
        sum[1] = _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps(four, 1)));
    }
    for (; i < n; i += 8) {
        __m256i lanes = first8(n - i);
        __m256 weight = exp_f32(_mm256_maskload_ps(x + i, lanes), lowest, round);
        weight = _mm256_and_ps(weight, _mm256_castsi256_ps(lanes));
        sum[0] = _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(weight)));
        sum[1] = _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps(weight, 1)));
    }
    return sum_lanes(_mm256_add_pd(sum[0], sum[1]));
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

/* exp(x - top), top not less than x. Of a float64 difference the rounding error is found (Knuth's two-sum) and made
 * good: at x - top = -40 it would be 20 units in the last place of the result. It is no number where x is -inf. */
INLINE __m256d exp_difference(__m256d x, __m256d top, const int in_f32) {
    __m256d d = _mm256_sub_pd(x, top), low = _mm256_setzero_pd();
    if (!in_f32) {
        __m256d minus_top = _mm256_sub_pd(d, x);
        low = _mm256_sub_pd(_mm256_add_pd(top, minus_top), _mm256_sub_pd(x, _mm256_sub_pd(d, minus_top)));
        low = _mm256_and_pd(low, _mm256_cmp_pd(d, _mm256_set1_pd(LSE_NEGLIGIBLE_F64), _CMP_GT_OQ));
    }
    return exp_f64(d, low);
}

INLINE double sum_exp_rest(const void *x, size_t n, double top, const int in_f32) {
    const __m256d base = _mm256_set1_pd(top);
    __m256d tops = _mm256_setzero_pd();
    kahan others = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (size_t i = 0; i < n; i += 4) {
        __m256d lanes = _mm256_castsi256_pd(first4(n - i));
        __m256d v = load4(x, i, n - i, in_f32);
        __m256d is_top = _mm256_and_pd(_mm256_cmp_pd(v, base, _CMP_EQ_OQ), lanes);
        __m256d weight = _mm256_and_pd(exp_difference(v, base, in_f32), lanes);
        tops = _mm256_add_pd(tops, _mm256_and_pd(is_top, _mm256_set1_pd(1)));
        add_to(&others, _mm256_andnot_pd(is_top, weight));
    }
    return sum_lanes(others.sum) + (sum_lanes(tops) - 1);
}

static double sum_exp_rest_f32_avx2(const float *x, size_t n, float top) { return sum_exp_rest(x, n, top, 1); }
static double sum_exp_rest_f64_avx2(const double *x, size_t n, double top) { return sum_exp_rest(x, n, top, 0); }

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

void ragfast_lse_fill_avx2(ragfast_kernels *table) {
    table->max_f32 = max_f32_avx2;
    table->max_f64 = max_f64_avx2;
    table->sum_exp_f32 = sum_exp_f32_avx2;
    table->sum_exp_rest_f32 = sum_exp_rest_f32_avx2;
    table->sum_exp_rest_f64 = sum_exp_rest_f64_avx2;
    table->subtract_f32 = subtract_f32_avx2;
    table->subtract_f64 = subtract_f64_avx2;
    table->mix_f32 = mix_f32_avx2;
    table->mix_f64 = mix_f64_avx2;
}
