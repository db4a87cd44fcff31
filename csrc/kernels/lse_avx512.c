/* AVX-512 log-sum-exp. THE HOT LOOP of long float32 rows is sum_exp_f32_avx512. Contracts: ../internal.h. */
#include "../internal.h"
#include "../lse_math.h"

#include <immintrin.h>

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

/* Mantissa bits of 2^(j/16), less the j << 19 that the shifted integer below brings along. */
static const uint32_t powers_f32[16] = {
    0x00000000, 0xfffdaac3, 0xfffb95c2, 0xfff9c3d3, 0xfff837f0, 0xfff6f532, 0xfff5fed7, 0xfff5583f,
    0xfff504f3, 0xfff508a4, 0xfff5672a, 0xfff6248c, 0xfff744fd, 0xfff8ccdf, 0xfffac0c7, 0xfffd257d,
};

typedef struct {
    __m512 lowest, round, offset;
    __m512i powers;
} exp_f32_constants;

/* exp(x) 2^-exponent = 2^(j/16) 2^e (1 + r + ...): j and e are the low bits of x rounded to sixteenths of ln 2, and the
 * power is a table in one register. x is reduced by itself, so no difference x - top is ever rounded. */
INLINE __m512 exp_f32(__m512 x, const exp_f32_constants *c) {
    x = _mm512_max_ps(c->lowest, x);
    __m512 z = _mm512_fmadd_ps(x, _mm512_set1_ps((float)(16 * LSE_LOG2E)), c->round);
    __m512 n = _mm512_sub_ps(z, c->round);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LSE_LN2_HI_F32 / 16), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LSE_LN2_LO_F32 / 16), r);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(lse_exp_short_f32[1]), _mm512_set1_ps(lse_exp_short_f32[0]));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    __m512i bits = _mm512_castps_si512(z);
    __m512i power = _mm512_add_epi32(_mm512_slli_epi32(bits, 19), _mm512_permutexvar_epi32(bits, c->powers));
    __m512 scale = _mm512_castsi512_ps(power);
    return _mm512_fmadd_ps(_mm512_mul_ps(p, r), scale, scale);
}

INLINE __m512d widened_sum(__m512 x) {
    return _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}

/* A row's chunks come here one after another, each after a pass for its maximum that would wait for memory: so the next
 * n elements are fetched while this chunk is calculated (11.9 ms against 18.8 on 201 MB at avx512). */
static double sum_exp_f32_avx512(const float *x, size_t n, float top, int exponent) {
    exp_f32_constants c;
    c.lowest = _mm512_set1_ps(top - LSE_NEGLIGIBLE_F32);
    c.round = _mm512_set1_ps(LSE_ROUND_F32 + 16 * (127 - (float)exponent));
    c.powers = _mm512_loadu_si512(powers_f32);
    __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    size_t i = 0;
    for (; i + 64 <= n; i += 64) { /* float32 sums of four, so that their rounding stays small; then float64 */
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) _mm_prefetch((const char *)(x + n + i + 16 * j), _MM_HINT_T0);
        __m512 a = exp_f32(_mm512_loadu_ps(x + i), &c), b = exp_f32(_mm512_loadu_ps(x + i + 16), &c);
        __m512 d = exp_f32(_mm512_loadu_ps(x + i + 32), &c), e = exp_f32(_mm512_loadu_ps(x + i + 48), &c);
        __m512 four = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(d, e));
        sum[0] = _mm512_add_pd(sum[0], _mm512_cvtps_pd(_mm512_castps512_ps256(four)));
        sum[1] = _mm512_add_pd(sum[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(four, 1)));
    }
    for (; i < n; i += 16) {
        __mmask16 lanes = first16(n - i);
        __m512 weight = _mm512_maskz_mov_ps(lanes, exp_f32(_mm512_maskz_loadu_ps(lanes, x + i), &c));
        sum[0] = _mm512_add_pd(sum[0], widened_sum(weight));
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
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

/* exp(x - top), top not less than x. Of a float64 difference the rounding error is found (Knuth's two-sum) and made
 * good: at x - top = -40 it would be 20 units in the last place of the result. It is no number where x is -inf. */
INLINE __m512d exp_difference(__m512d x, __m512d top, const int in_f32) {
    __m512d d = _mm512_sub_pd(x, top), low = _mm512_setzero_pd();
    if (!in_f32) {
        __m512d minus_top = _mm512_sub_pd(d, x);
        low = _mm512_sub_pd(_mm512_add_pd(top, minus_top), _mm512_sub_pd(x, _mm512_sub_pd(d, minus_top)));
        low = _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(d, _mm512_set1_pd(LSE_NEGLIGIBLE_F64), _CMP_GT_OQ), low);
    }
    return exp_f64(d, low);
}

INLINE double sum_exp_rest(const void *x, size_t n, double top, const int in_f32) {
    const __m512d base = _mm512_set1_pd(top);
    kahan sums[2] = {{_mm512_setzero_pd(), _mm512_setzero_pd()}, {_mm512_setzero_pd(), _mm512_setzero_pd()}};
    int64_t tops = 0;
    for (size_t i = 0; i < n; i += 16) {
#pragma GCC unroll 2
        for (size_t j = 0; j < 2; j++) {
            if (i + 8 * j >= n) break;
            __mmask8 lanes = first8(n - i - 8 * j);
            __m512d v = load8(x, i + 8 * j, lanes, in_f32);
            __mmask8 others = _mm512_mask_cmp_pd_mask(lanes, v, base, _CMP_NEQ_UQ);
            tops += __builtin_popcount(lanes & ~others);
            add_to(&sums[j], _mm512_maskz_mov_pd(others, exp_difference(v, base, in_f32)));
        }
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(sums[0].sum, sums[1].sum)) + (double)(tops - 1);
}

static double sum_exp_rest_f32_avx512(const float *x, size_t n, float top) { return sum_exp_rest(x, n, top, 1); }
static double sum_exp_rest_f64_avx512(const double *x, size_t n, double top) { return sum_exp_rest(x, n, top, 0); }

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

void ragfast_lse_fill_avx512(ragfast_kernels *table) {
    table->max_f32 = max_f32_avx512;
    table->max_f64 = max_f64_avx512;
    table->sum_exp_f32 = sum_exp_f32_avx512;
    table->sum_exp_rest_f32 = sum_exp_rest_f32_avx512;
    table->sum_exp_rest_f64 = sum_exp_rest_f64_avx512;
    table->subtract_f32 = subtract_f32_avx512;
    table->subtract_f64 = subtract_f64_avx512;
    table->mix_f32 = mix_f32_avx512;
    table->mix_f64 = mix_f64_avx512;
}
