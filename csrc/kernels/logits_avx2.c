/* AVX2 over logits. THE HOT LOOPS of marginalization are sum_exp and softmax_grad. Contracts: core/kernels.h. */
#include "kernels/lse_avx2.h"

#include <float.h>
#include <string.h>

enum { BLOCK = 32 /* elements in four vectors, which is what hides the latency of a power */ };

INLINE size_t left_of(size_t n, size_t j) { return n > 8 * j ? n - 8 * j : 0; }
INLINE __m256 lanes_of(size_t n, size_t j) { return _mm256_castsi256_ps(first8(left_of(n, j))); }

/* The next n elements, at most eight, of any dtype but float64, the other lanes 0; dtype is a constant where inlined. */
INLINE __m256 load8(const void *x, size_t i, size_t n, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32)
        return n >= 8 ? _mm256_loadu_ps((const float *)x + i) : _mm256_maskload_ps((const float *)x + i, first8(n));
    __m128i half = _mm_setzero_si128();
    if (n >= 8)
        half = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + i));
    else
        memcpy(&half, (const uint16_t *)x + i, n * sizeof(uint16_t));
    if (dtype == RAGFAST_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* The upper half of the sum is the nearest bfloat16, ties to even. A NaN must have its lower half 0, or nearly. */
INLINE __m256i round_to_bf16(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
}

#define TO_F16(x) _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

INLINE void store8(void *out, size_t i, size_t n, __m256 x, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32) {
        if (n >= 8)
            _mm256_storeu_ps((float *)out + i, x);
        else
            _mm256_maskstore_ps((float *)out + i, first8(n), x);
        return;
    }
    __m128i half;
    if (dtype == RAGFAST_F16) {
        half = TO_F16(x);
    } else {
        __m256i bits = _mm256_srli_epi32(round_to_bf16(x), 16);
        half = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    }
    memcpy((uint16_t *)out + i, &half, ragfast_min(n, 8) * sizeof(uint16_t));
}

/* A block, or its first n elements. A whole one of bfloat16 is taken apart into even and odd elements, which is cheaper
 * than keeping their order; put_block puts them together again. */
INLINE void load_block(__m256 v[4], const void *x, size_t i, size_t n, const ragfast_dtype dtype, const int whole) {
    if (dtype != RAGFAST_BF16 || !whole) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) v[j] = load8(x, i + 8 * j, whole ? 8 : left_of(n, j), dtype);
        return;
    }
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j += 2) {
        __m256i pairs = _mm256_loadu_si256((const __m256i *)((const uint16_t *)x + i + 8 * j));
        v[j] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        v[j + 1] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
    }
}

INLINE void put_half_line(void *at, __m256i half, const int stream) {
    if (stream)
        _mm256_stream_si256((__m256i *)at, half);
    else
        _mm256_storeu_si256((__m256i *)at, half);
}

INLINE void put_block(void *out, size_t i, size_t n, const __m256 v[4], const ragfast_dtype dtype, const int whole,
                      const int stream) {
    if (!whole) {
        for (size_t j = 0; j < 4; j++) store8(out, i + 8 * j, left_of(n, j), v[j], dtype);
        return;
    }
    if (dtype == RAGFAST_F32) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) put_half_line((float *)out + i + 8 * j, _mm256_castps_si256(v[j]), stream);
        return;
    }
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j += 2) {
        __m256i half;
        if (dtype == RAGFAST_F16)
            half = _mm256_set_m128i(TO_F16(v[j + 1]), TO_F16(v[j]));
        else
            half = _mm256_blend_epi16(_mm256_srli_epi32(round_to_bf16(v[j]), 16), round_to_bf16(v[j + 1]), 0xaa);
        put_half_line((uint16_t *)out + i + 8 * j, half, stream);
    }
}

/* ---- powers ------------------------------------------------------------------------------------------------------ */

/* b^x 2^-exponent with b = 2^LSE_LOG2E_F32 is 2^(n / 8) 2^(f / 8), n whole, |f| <= 1/2. n comes to stand in the low bits of
 * x c + round, with the bias of an exponent; its lower three select from the table. */
typedef struct powers {
    __m256 c, round;
    __m256i table;
} powers;

INLINE powers powers_of(int exponent) {
    return (powers){_mm256_set1_ps(8 * LSE_LOG2E_F32), _mm256_set1_ps(LSE_ROUND_F32 + 8 * (127 - (float)exponent)),
                    _mm256_loadu_si256((const __m256i *)lse_power_8)};
}

/* Four vectors of powers, each as scale[j] * rest[j], step by step for all four. */
INLINE void power_block(__m256 scale[4], __m256 rest[4], const __m256 x[4], const powers *b) {
    __m256 z[4], f[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) z[j] = _mm256_fmadd_ps(x[j], b->c, b->round);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) f[j] = _mm256_fmsub_ps(x[j], b->c, _mm256_sub_ps(z[j], b->round));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256i bits = _mm256_castps_si256(z[j]);
        __m256i fraction = _mm256_permutevar8x32_epi32(b->table, bits);
        scale[j] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(bits, 20), fraction));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        rest[j] = _mm256_fmadd_ps(f[j], _mm256_set1_ps(lse_power_8_c[3]), _mm256_set1_ps(lse_power_8_c[2]));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm256_fmadd_ps(rest[j], f[j], _mm256_set1_ps(lse_power_8_c[1]));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm256_fmadd_ps(rest[j], f[j], _mm256_set1_ps(lse_power_8_c[0]));
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

INLINE void add_widened(__m256d sum[2], __m256 x) {
    sum[0] = _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
    sum[1] = _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}

INLINE __m256 sum_of_four(const __m256 x[4]) {
    return _mm256_add_ps(_mm256_add_ps(x[0], x[1]), _mm256_add_ps(x[2], x[3]));
}

/* For a sum that overflows float32 on its way. */
INLINE double careful_sum(const void *x, size_t n, const ragfast_dtype dtype) {
    __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (size_t i = 0; i < n; i += 8) add_widened(sum, load8(x, i, n - i, dtype));
    return sum_lanes(_mm256_add_pd(sum[0], sum[1]));
}

/* An x above the limit is seen in its bits: those of floats above 0 are ordered as integers are, NaN above all. Of
 * bfloat16 16 are compared at a time. The lower limit is kept by a maximum, which returns its second operand for NaN. */
INLINE double sum_exp(const void *x, size_t n, int exponent, double *sum_x, const ragfast_dtype dtype,
                      const int with_x) {
    enum { ROUNDS = 4 };
    const float highest = LSE_HIGHEST_F32(exponent) > 0 ? LSE_HIGHEST_F32(exponent) : INFINITY;
    const __m256i limit = _mm256_castps_si256(_mm256_set1_ps(highest));
    const __m256 lowest = _mm256_set1_ps(LSE_LOWEST_F32(exponent));
    const powers b = powers_of(exponent);
    const int in_pairs = dtype == RAGFAST_BF16;
    __m256i most = _mm256_setzero_si256();
    __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()}, plain[2] = {sum[0], sum[0]};
    __m256 v[4], scale[4], rest[4];
    size_t i = 0;
    for (; i + ROUNDS * BLOCK <= n; i += ROUNDS * BLOCK) {
        __m256 products[4], some = _mm256_setzero_ps();
#pragma GCC unroll 4
        for (size_t round = 0; round < ROUNDS; round++) {
            const size_t at = i + BLOCK * round;
            load_block(v, x, at, BLOCK, dtype, 1);
            if (with_x) some = round ? _mm256_add_ps(some, sum_of_four(v)) : sum_of_four(v);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                if (!in_pairs)
                    most = _mm256_max_epi32(most, _mm256_castps_si256(v[j]));
                else if (j % 2 == 0)
                    most =
                        _mm256_max_epi16(most, _mm256_loadu_si256((const __m256i *)((const uint16_t *)x + at + 8 * j)));
                v[j] = _mm256_max_ps(lowest, v[j]);
            }
            power_block(scale, rest, v, &b);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                products[j] =
                    round ? _mm256_fmadd_ps(scale[j], rest[j], products[j]) : _mm256_mul_ps(scale[j], rest[j]);
        }
        add_widened(sum, sum_of_four(products));
        if (with_x) add_widened(plain, some);
    }
    if (in_pairs) /* the lower halves do not matter, but must not be above the limit with the upper at it */
        most =
            _mm256_max_epi32(_mm256_and_si256(most, _mm256_set1_epi32((int)0xffff0000)), _mm256_slli_epi32(most, 16));
    for (; i < n; i += BLOCK) {
        load_block(v, x, i, n - i, dtype, 0);
        if (with_x) add_widened(plain, sum_of_four(v));
        for (size_t j = 0; j < 4; j++) {
            most = _mm256_max_epi32(most, _mm256_castps_si256(v[j]));
            v[j] = _mm256_max_ps(lowest, v[j]);
        }
        power_block(scale, rest, v, &b);
        for (size_t j = 0; j < 4; j++) rest[j] = _mm256_and_ps(_mm256_mul_ps(scale[j], rest[j]), lanes_of(n - i, j));
        add_widened(sum, sum_of_four(rest));
    }
    if (with_x) {
        double total = sum_lanes(_mm256_add_pd(plain[0], plain[1]));
        *sum_x += total - total == 0 ? total : careful_sum(x, n, dtype);
    }
    if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(most, limit))) return NAN;
    return sum_lanes(_mm256_add_pd(sum[0], sum[1]));
}

/* ---- gradient ---------------------------------------------------------------------------------------------------- */

/* The terms of scale softmax(x) - shift in float32. */
typedef struct grad_terms {
    powers b;
    __m256 lowest, factor, shift;
} grad_terms;

INLINE void grad_block(void *out, const void *x, size_t i, size_t n, const grad_terms *g, const ragfast_dtype dtype,
                       const int whole, const int stream) {
    __m256 v[4], scale[4], rest[4];
    load_block(v, x, i, n, dtype, whole);
    power_block(scale, rest, v, &g->b);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256 counts = _mm256_cmp_ps(v[j], g->lowest, _CMP_NLT_UQ); /* also a NaN */
        v[j] = _mm256_fmsub_ps(_mm256_and_ps(_mm256_mul_ps(scale[j], rest[j]), counts), g->factor, g->shift);
    }
    put_block(out, i, n, v, dtype, whole, stream);
}

/* The next n elements, at most four. */
INLINE __m256d load_f64(const void *x, size_t i, size_t n, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return load4(x, i, n, 0);
    return _mm256_cvtps_pd(_mm256_castps256_ps128(load8(x, i, ragfast_min(n, 4), dtype)));
}

INLINE void grad_f64(void *out, const void *x, size_t i, size_t n, double lse, double scale, double shift,
                     const ragfast_dtype dtype, const int stream) {
    __m256d v = exp_f64(_mm256_sub_pd(load_f64(x, i, n, dtype), _mm256_set1_pd(lse)), _mm256_setzero_pd());
    v = _mm256_fmsub_pd(v, _mm256_set1_pd(scale), _mm256_set1_pd(shift));
    if (stream)
        _mm256_stream_pd((double *)out + i, v);
    else if (dtype == RAGFAST_F64)
        store4(out, i, n, v, 0);
    else
        store8(out, i, ragfast_min(n, 4), _mm256_castps128_ps256(_mm256_cvtpd_ps(v)), dtype);
}

/* Elements from out to the next line of 64 bytes, from where on it can be streamed to; n if that cannot be. */
INLINE size_t before_line(const void *out, const void *x, size_t n, size_t size, int stream) {
    const size_t bytes = (size_t)-(uintptr_t)out % 64;
    return !stream || out == x || bytes % size ? n : ragfast_min(bytes / size, n);
}

/* A NaN whose lower half survives rounding to bfloat16. */
INLINE double plain_nan(double x) { return x == x ? x : (double)NAN; }

INLINE void softmax_grad(void *out, const void *x, size_t n, double lse, double scale, double shift, int stream,
                         const ragfast_dtype dtype) {
    lse = plain_nan(lse), scale = plain_nan(scale), shift = plain_nan(shift);
    const double whole = rint(lse * LSE_LOG2E_F32), factor = scale * exp2(whole - lse * LSE_LOG2E_F32);
    if (!(fabs(lse) <= 0x1p16 && (factor == 0 || (fabs(factor) >= 0x1p-100 && fabs(factor) <= 0x1p100)))) {
        for (size_t i = 0; i < n; i += 4) grad_f64(out, x, i, n - i, lse, scale, shift, dtype, 0);
        return;
    }
    const grad_terms g = {powers_of((int)whole), _mm256_set1_ps(LSE_LOWEST_F32(whole)), _mm256_set1_ps((float)factor),
                          _mm256_set1_ps((float)shift)};
    const size_t head = before_line(out, x, n, dtype == RAGFAST_F32 ? 4 : 2, stream);
    size_t i = 0;
    if (head < n) {
        if (head) grad_block(out, x, 0, head, &g, dtype, 0, 0);
        for (i = head; i + BLOCK <= n; i += BLOCK) grad_block(out, x, i, BLOCK, &g, dtype, 1, 1);
        _mm_sfence();
    }
    for (; i + BLOCK <= n; i += BLOCK) grad_block(out, x, i, BLOCK, &g, dtype, 1, 0);
    if (i < n) grad_block(out, x, i, n - i, &g, dtype, 0, 0);
}

static void softmax_grad_f64_avx2(void *out, const void *x, size_t n, double lse, double scale, double shift,
                                  int stream) {
    const size_t head = before_line(out, x, n, sizeof(double), stream);
    size_t i = 0;
    if (head < n) {
        for (; i < head; i += 4) grad_f64(out, x, i, head - i, lse, scale, shift, RAGFAST_F64, 0);
        for (i = head; i + 4 <= n; i += 4) grad_f64(out, x, i, 4, lse, scale, shift, RAGFAST_F64, 1);
        _mm_sfence();
    }
    for (; i < n; i += 4) grad_f64(out, x, i, n - i, lse, scale, shift, RAGFAST_F64, 0);
}

/* ---- mixtures ---------------------------------------------------------------------------------------------------- */

enum { FAST_DOCS = 64 };

/* A document of a mixture; its offset as the sum of two float32. */
typedef struct mixed_doc {
    const char *logits;
    float high, low;
} mixed_doc;

/* log x for x >= 1; of 0 something finite. */
INLINE __m256 log_f32(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(LSE_SQRT_HALF_BITS_F32)), 23);
    __m256 f = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23)));
    f = _mm256_sub_ps(f, _mm256_set1_ps(1));
    __m256 s = _mm256_div_ps(f, _mm256_add_ps(f, _mm256_set1_ps(2))), z = _mm256_mul_ps(s, s);
    __m256 p = _mm256_set1_ps((float)lse_log_f64[3]);
#pragma GCC unroll 3
    for (int i = 2; i >= 0; i--) p = _mm256_fmadd_ps(p, z, _mm256_set1_ps((float)lse_log_f64[i]));
    p = _mm256_fmadd_ps(_mm256_mul_ps(s, z), p, _mm256_add_ps(s, s));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(e), _mm256_set1_ps((float)LSE_LN2_HI_F64), p);
}

/* The joint log-probability, whose error is one unit in its last place: where x and the offset cancel, x + high is exact. */
INLINE __m256 joint8(const mixed_doc *doc, size_t i, size_t n, const ragfast_dtype dtype) {
    __m256 v = _mm256_add_ps(load8(doc->logits, i, n, dtype), _mm256_set1_ps(doc->high));
    return _mm256_add_ps(v, _mm256_set1_ps(doc->low));
}

/* Eight columns in float64. */
INLINE void mix_f64_8(float *out, const void *logits, const double *offsets, size_t n_docs, size_t v, size_t n,
                      size_t stride, const ragfast_dtype dtype) {
    const __m256d lowest = _mm256_set1_pd(-INFINITY), zero = _mm256_setzero_pd(), sign = _mm256_set1_pd(-0.0);
    for (size_t end = v + ragfast_min(n - v, 8); v < end; v += 4) {
        __m256d top = lowest, rest = zero, has_nan = zero, top_seen = zero;
        for (size_t k = 0; k < n_docs; k++) {
            if (offsets[k] == -INFINITY) continue;
            __m256d joint = _mm256_add_pd(_mm256_set1_pd(offsets[k]), load_f64(logits, k * stride + v, n - v, dtype));
            has_nan = _mm256_or_pd(has_nan, _mm256_cmp_pd(joint, joint, _CMP_UNORD_Q));
            top = _mm256_max_pd(joint, top);
        }
        const __m256d finite = _mm256_cmp_pd(_mm256_andnot_pd(sign, top), _mm256_set1_pd(INFINITY), _CMP_LT_OQ);
        for (size_t k = 0; k < n_docs; k++) {
            if (offsets[k] == -INFINITY) continue;
            __m256d joint = _mm256_add_pd(_mm256_set1_pd(offsets[k]), load_f64(logits, k * stride + v, n - v, dtype));
            __m256d first_top = _mm256_andnot_pd(top_seen, _mm256_cmp_pd(joint, top, _CMP_EQ_OQ));
            top_seen = _mm256_or_pd(top_seen, first_top);
            joint = exp_f64(_mm256_sub_pd(joint, _mm256_and_pd(top, finite)), zero);
            rest = _mm256_add_pd(rest, _mm256_and_pd(_mm256_andnot_pd(first_top, joint), finite));
        }
        rest = _mm256_blendv_pd(rest, _mm256_set1_pd(NAN), has_nan);
        store4(out, v, n - v, _mm256_add_pd(top, log1p_f64(rest)), 1);
    }
}

/* Lanes are columns, four vectors at a time; K goes by twice, the second time from the first-level cache. */
INLINE void mix_logits(float *out, const void *logits, const double *offsets, size_t n_docs, size_t n, size_t stride,
                       const ragfast_dtype dtype) {
    mixed_doc docs[FAST_DOCS];
    size_t n_mixed = 0;
    int fast = 1; /* few enough, and far from overflow */
    for (size_t k = 0; k < n_docs && fast; k++) {
        if (offsets[k] == -INFINITY) continue;
        if ((fast = n_mixed < FAST_DOCS && fabs(offsets[k]) < 0x1p100) == 0) break;
        const float high = (float)offsets[k];
        docs[n_mixed++] = (mixed_doc){(const char *)logits + k * stride * (dtype == RAGFAST_F32 ? 4 : 2), high,
                                      (float)(offsets[k] - (double)high)};
    }
    if (!fast) {
        for (size_t v = 0; v < n; v += 8) mix_f64_8(out, logits, offsets, n_docs, v, n, stride, dtype);
        return;
    }
    const powers b = powers_of(0);
    /* Nearer to 0 the errors of float32 are more than a few units in the last place: of joint log-probabilities as large as
     * this and ln K together, and of the logarithm. Few columns are so probable. */
    const __m256 near = _mm256_set1_ps((float)fmax(2, log((double)n_mixed)));
    for (size_t i = 0; i < n; i += BLOCK) {
        const int whole = i + BLOCK <= n;
        __m256 top[4], sum[4], v[4], scale[4], rest[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            top[j] = _mm256_set1_ps(-INFINITY);
            sum[j] = _mm256_setzero_ps();
        }
        for (size_t k = 0; k < n_mixed; k++)
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                top[j] = _mm256_max_ps(joint8(&docs[k], i + 8 * j, whole ? 8 : left_of(n - i, j), dtype), top[j]);
        for (size_t k = 0; k < n_mixed; k++) {
#pragma GCC unroll 4
            for (size_t j = 0; j < 4;
                 j++) { /* -inf - -inf is a number: such columns have -inf for a top, and stay there */
                v[j] = _mm256_sub_ps(joint8(&docs[k], i + 8 * j, whole ? 8 : left_of(n - i, j), dtype),
                                     _mm256_max_ps(top[j], _mm256_set1_ps(-FLT_MAX)));
                v[j] = _mm256_max_ps(_mm256_set1_ps(LSE_LOWEST_F32(0)), v[j]);
            }
            power_block(scale, rest, v, &b);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sum[j] = _mm256_fmadd_ps(scale[j], rest[j], sum[j]);
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            const size_t left = whole ? 8 : left_of(n - i, j);
            if (left == 0) break;
            __m256 result = _mm256_add_ps(top[j], log_f32(sum[j]));
            __m256 again =
                _mm256_or_ps(_mm256_cmp_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), result), near, _CMP_LT_OQ),
                             _mm256_cmp_ps(sum[j], sum[j], _CMP_UNORD_Q)); /* NaN, +inf - +inf */
            if (_mm256_movemask_ps(again))
                mix_f64_8(out, logits, offsets, n_docs, i + 8 * j, n, stride, dtype);
            else
                store8(out, i + 8 * j, left, result, RAGFAST_F32);
        }
    }
}

/* ---- one function a dtype, as C has no templates ------------------------------------------------------------------ */

#define KERNELS(name, dtype)                                                                                           \
    static double sum_exp_##name##_avx2(const void *x, size_t n, int exponent, double *sum_x) {                        \
        return sum_x ? sum_exp(x, n, exponent, sum_x, dtype, 1) : sum_exp(x, n, exponent, NULL, dtype, 0);             \
    }                                                                                                                  \
    static void softmax_grad_##name##_avx2(void *out, const void *x, size_t n, double lse, double scale, double shift, \
                                           int stream) {                                                               \
        softmax_grad(out, x, n, lse, scale, shift, stream, dtype);                                                     \
    }                                                                                                                  \
    static void mix_logits_##name##_avx2(float *out, const void *logits, const double *offsets, size_t n_docs,         \
                                         size_t n, size_t stride) {                                                    \
        mix_logits(out, logits, offsets, n_docs, n, stride, dtype);                                                    \
    }
KERNELS(f32, RAGFAST_F32)
KERNELS(f16, RAGFAST_F16)
KERNELS(bf16, RAGFAST_BF16)

void ragfast_logits_fill_avx2(ragfast_kernels *table) {
    table->sum_exp[RAGFAST_F32] = sum_exp_f32_avx2;
    table->sum_exp[RAGFAST_F16] = sum_exp_f16_avx2;
    table->sum_exp[RAGFAST_BF16] = sum_exp_bf16_avx2;
    table->softmax_grad[RAGFAST_F64] = softmax_grad_f64_avx2;
    table->softmax_grad[RAGFAST_F32] = softmax_grad_f32_avx2;
    table->softmax_grad[RAGFAST_F16] = softmax_grad_f16_avx2;
    table->softmax_grad[RAGFAST_BF16] = softmax_grad_bf16_avx2;
    table->mix_logits[RAGFAST_F32] = mix_logits_f32_avx2;
    table->mix_logits[RAGFAST_F16] = mix_logits_f16_avx2;
    table->mix_logits[RAGFAST_BF16] = mix_logits_bf16_avx2;
}
