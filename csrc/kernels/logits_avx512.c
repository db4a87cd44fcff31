/* AVX-512 over logits. THE HOT LOOPS of marginalization are sum_exp and softmax_grad. Contracts: core/kernels.h. */
#include "kernels/lse_avx512.h"

#include "core/kernels.h"

#include <float.h>

enum { BLOCK = 64 /* elements in four vectors, which is what hides the latency of a power */ };

INLINE __mmask16 lanes_of(size_t n, size_t j) { return n > 16 * j ? first16(n - 16 * j) : 0; }

/* Sixteen elements of any dtype but float64, those outside the mask 0; dtype is a constant wherever these are inlined. */
INLINE __m512 load16(const void *x, size_t i, __mmask16 lanes, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32) return _mm512_maskz_loadu_ps(lanes, (const float *)x + i);
    __m256i half = _mm256_maskz_loadu_epi16(lanes, (const uint16_t *)x + i);
    if (dtype == RAGFAST_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* The upper half of the sum is the nearest bfloat16, ties to even. A NaN must have its lower half 0, or nearly. */
INLINE __m512i round_to_bf16(__m512 x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
}

#define TO_F16(x) _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

INLINE void store16(void *out, size_t i, __mmask16 lanes, __m512 x, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32)
        _mm512_mask_storeu_ps((float *)out + i, lanes, x);
    else if (dtype == RAGFAST_F16)
        _mm256_mask_storeu_epi16((uint16_t *)out + i, lanes, TO_F16(x));
    else
        _mm256_mask_storeu_epi16((uint16_t *)out + i, lanes,
                                 _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_to_bf16(x), 16)));
}

/* A block, or its first n elements. A whole one of bfloat16 is taken apart into even and odd elements, which is cheaper
 * than keeping their order; put_block puts them together again. */
INLINE void load_block(__m512 v[4], const void *x, size_t i, size_t n, const ragfast_dtype dtype, const int whole) {
    if (dtype != RAGFAST_BF16 || !whole) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            if (!whole)
                v[j] = load16(x, i + 16 * j, lanes_of(n, j), dtype);
            else if (dtype == RAGFAST_F32)
                v[j] = _mm512_loadu_ps((const float *)x + i + 16 * j);
            else
                v[j] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)x + i + 16 * j)));
        }
        return;
    }
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j += 2) {
        __m512i pairs = _mm512_loadu_si512((const uint16_t *)x + i + 16 * j);
        v[j] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        v[j + 1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
    }
}

INLINE void put_line(void *at, __m512i line, const int stream) {
    if (stream)
        _mm512_stream_si512((__m512i *)at, line);
    else
        _mm512_storeu_si512(at, line);
}

INLINE void put_block(void *out, size_t i, size_t n, const __m512 v[4], const ragfast_dtype dtype, const int whole,
                      const int stream) {
    if (!whole) {
        for (size_t j = 0; j < 4; j++) store16(out, i + 16 * j, lanes_of(n, j), v[j], dtype);
        return;
    }
    if (dtype == RAGFAST_F32) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) put_line((float *)out + i + 16 * j, _mm512_castps_si512(v[j]), stream);
        return;
    }
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j += 2) {
        __m512i line;
        if (dtype == RAGFAST_F16)
            line = _mm512_inserti64x4(_mm512_castsi256_si512(TO_F16(v[j])), TO_F16(v[j + 1]), 1);
        else
            line = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(round_to_bf16(v[j]), 16),
                                           round_to_bf16(v[j + 1]));
        put_line((uint16_t *)out + i + 16 * j, line, stream);
    }
}

/* ---- powers ------------------------------------------------------------------------------------------------------ */

/* b^x 2^-exponent with b = 2^LSE_LOG2E_F32 is 2^(n / 32) 2^(f / 32), n whole, |f| <= 1/2. n comes to stand in the low bits of
 * x c + round, with the bias of an exponent; its lower five select from the table. The polynomial is a square and a
 * constant, (f + 46)^2 + c, times LSE_SQUARE_UNIT 2^-12: one multiplication less than a polynomial of degree 2 as it comes
 * (multiplications are what limits all this), and an error of 1.3e-7 instead of 0.5e-7. */
typedef struct powers {
    __m512 c, round, round_f;
    __m512i table[2];
} powers;

INLINE powers powers_of(int exponent) {
    const float round = LSE_ROUND_F32 + 32 * (127 - 12 - (float)exponent);
    return (powers){_mm512_set1_ps(32 * LSE_LOG2E_F32),
                    _mm512_set1_ps(round),
                    _mm512_set1_ps(round + LSE_SQUARE_CENTER),
                    {_mm512_loadu_si512(lse_power_32), _mm512_loadu_si512(lse_power_32 + 16)}};
}

/* Four vectors of powers, each as scale[j] * rest[j] * LSE_SQUARE_UNIT. Step by step for all four, in the order that the
 * compiler keeps: an out-of-order window does not reach over so many instructions. */
INLINE void power_block(__m512 scale[4], __m512 rest[4], const __m512 x[4], const powers *b) {
    __m512 z[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) z[j] = _mm512_fmadd_ps(x[j], b->c, b->round);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm512_fmsub_ps(x[j], b->c, _mm512_sub_ps(z[j], b->round_f));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i bits = _mm512_castps_si512(z[j]);
        __m512i fraction = _mm512_permutex2var_epi32(b->table[0], bits, b->table[1]);
        scale[j] = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(bits, 18), fraction));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm512_fmadd_ps(rest[j], rest[j], _mm512_set1_ps(LSE_SQUARE_C));
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

INLINE void add_widened(__m512d sum[2], __m512 x) {
    sum[0] = _mm512_add_pd(sum[0], _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
    sum[1] = _mm512_add_pd(sum[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}

INLINE __m512 sum_of_four(const __m512 x[4]) {
    return _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
}

/* For a sum that overflows float32 on its way. */
INLINE double careful_sum(const void *x, size_t n, const ragfast_dtype dtype) {
    __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (size_t i = 0; i < n; i += 16) add_widened(sum, load16(x, i, first16(n - i), dtype));
    return _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
}

/* An x above the limit is seen in its bits: those of floats above 0 are ordered as integers are, NaN above all. Of
 * bfloat16 32 are compared at a time. The lower limit is kept by a maximum, which returns its second operand for NaN. */
INLINE double sum_exp(const void *x, size_t n, int exponent, double *sum_x, const ragfast_dtype dtype,
                      const int with_x) {
    enum { ROUNDS = 4 };
    const float highest = LSE_HIGHEST_F32(exponent) > 0 ? LSE_HIGHEST_F32(exponent) : INFINITY;
    const __m512i limit = _mm512_castps_si512(_mm512_set1_ps(highest));
    const __m512 lowest = _mm512_set1_ps(LSE_LOWEST_F32(exponent));
    const powers b = powers_of(exponent);
    const int in_pairs = dtype == RAGFAST_BF16;
    __m512i most = _mm512_setzero_si512();
    __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()}, plain[2] = {sum[0], sum[0]};
    __m512 v[4], scale[4], rest[4];
    size_t i = 0;
    for (; i + ROUNDS * BLOCK <= n; i += ROUNDS * BLOCK) {
        __m512 products[4], some = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (size_t round = 0; round < ROUNDS; round++) {
            const size_t at = i + BLOCK * round;
            load_block(v, x, at, BLOCK, dtype, 1);
            if (with_x) some = round ? _mm512_add_ps(some, sum_of_four(v)) : sum_of_four(v);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                if (!in_pairs)
                    most = _mm512_max_epi32(most, _mm512_castps_si512(v[j]));
                else if (j % 2 == 0)
                    most = _mm512_max_epi16(most, _mm512_loadu_si512((const uint16_t *)x + at + 16 * j));
                v[j] = _mm512_max_ps(lowest, v[j]);
            }
            power_block(scale, rest, v, &b);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                products[j] =
                    round ? _mm512_fmadd_ps(scale[j], rest[j], products[j]) : _mm512_mul_ps(scale[j], rest[j]);
        }
        add_widened(sum, sum_of_four(products));
        if (with_x) add_widened(plain, some);
    }
    if (in_pairs) /* the lower halves do not matter, but must not be above the limit with the upper at it */
        most =
            _mm512_max_epi32(_mm512_and_si512(most, _mm512_set1_epi32((int)0xffff0000)), _mm512_slli_epi32(most, 16));
    for (; i < n; i += BLOCK) {
        load_block(v, x, i, n - i, dtype, 0);
        if (with_x) add_widened(plain, sum_of_four(v));
        for (size_t j = 0; j < 4; j++) {
            most = _mm512_max_epi32(most, _mm512_castps_si512(v[j]));
            v[j] = _mm512_max_ps(lowest, v[j]);
        }
        power_block(scale, rest, v, &b);
        for (size_t j = 0; j < 4; j++) rest[j] = _mm512_maskz_mul_ps(lanes_of(n - i, j), scale[j], rest[j]);
        add_widened(sum, sum_of_four(rest));
    }
    if (with_x) {
        double total = _mm512_reduce_add_pd(_mm512_add_pd(plain[0], plain[1]));
        *sum_x += total - total == 0 ? total : careful_sum(x, n, dtype);
    }
    if (_mm512_cmpgt_epi32_mask(most, limit)) return NAN;
    return LSE_SQUARE_UNIT * _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
}

/* ---- gradient ---------------------------------------------------------------------------------------------------- */

/* The terms of scale softmax(x) - shift in float32. */
typedef struct grad_terms {
    powers b;
    __m512 lowest, factor, shift;
} grad_terms;

INLINE void grad_block(void *out, const void *x, size_t i, size_t n, const grad_terms *g, const ragfast_dtype dtype,
                       const int whole, const int stream) {
    __m512 v[4], scale[4], rest[4];
    load_block(v, x, i, n, dtype, whole);
    power_block(scale, rest, v, &g->b);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __mmask16 counts = _mm512_cmp_ps_mask(v[j], g->lowest, _CMP_NLT_UQ); /* also a NaN */
        v[j] = _mm512_fmsub_ps(_mm512_maskz_mul_ps(counts, scale[j], rest[j]), g->factor, g->shift);
    }
    put_block(out, i, n, v, dtype, whole, stream);
}

INLINE __m512d load_f64(const void *x, size_t i, __mmask8 lanes, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return _mm512_maskz_loadu_pd(lanes, (const double *)x + i);
    return _mm512_cvtps_pd(_mm512_castps512_ps256(load16(x, i, lanes, dtype)));
}

INLINE void grad_f64(void *out, const void *x, size_t i, __mmask8 lanes, double lse, double scale, double shift,
                     const ragfast_dtype dtype, const int stream) {
    __m512d v = exp_f64(_mm512_sub_pd(load_f64(x, i, lanes, dtype), _mm512_set1_pd(lse)), _mm512_setzero_pd());
    v = _mm512_fmsub_pd(v, _mm512_set1_pd(scale), _mm512_set1_pd(shift));
    if (stream)
        _mm512_stream_pd((double *)out + i, v);
    else if (dtype == RAGFAST_F64)
        _mm512_mask_storeu_pd((double *)out + i, lanes, v);
    else
        store16(out, i, lanes, _mm512_castps256_ps512(_mm512_cvtpd_ps(v)), dtype);
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
        for (size_t i = 0; i < n; i += 8) grad_f64(out, x, i, first8(n - i), lse, scale, shift, dtype, 0);
        return;
    }
    const grad_terms g = {powers_of((int)whole), _mm512_set1_ps(LSE_LOWEST_F32(whole)),
                          _mm512_set1_ps((float)(factor * LSE_SQUARE_UNIT)), _mm512_set1_ps((float)shift)};
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

static void softmax_grad_f64_avx512(void *out, const void *x, size_t n, double lse, double scale, double shift,
                                    int stream) {
    const size_t head = before_line(out, x, n, sizeof(double), stream);
    size_t i = 0;
    if (head < n) {
        grad_f64(out, x, 0, first8(head), lse, scale, shift, RAGFAST_F64, 0);
        for (i = head; i + 8 <= n; i += 8) grad_f64(out, x, i, 0xff, lse, scale, shift, RAGFAST_F64, 1);
        _mm_sfence();
    }
    for (; i < n; i += 8) grad_f64(out, x, i, first8(n - i), lse, scale, shift, RAGFAST_F64, 0);
}

/* ---- mixtures ---------------------------------------------------------------------------------------------------- */

enum { FAST_DOCS = 64 };

/* A document of a mixture; its offset as the sum of two float32. */
typedef struct mixed_doc {
    const char *logits;
    float high, low;
} mixed_doc;

/* log x for x >= 1; of 0 something finite. */
INLINE __m512 log_f32(__m512 x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i e = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(LSE_SQRT_HALF_BITS_F32)), 23);
    __m512 f = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(e, 23)));
    f = _mm512_sub_ps(f, _mm512_set1_ps(1));
    __m512 s = _mm512_div_ps(f, _mm512_add_ps(f, _mm512_set1_ps(2))), z = _mm512_mul_ps(s, s);
    __m512 p = _mm512_set1_ps((float)lse_log_f64[3]);
#pragma GCC unroll 3
    for (int i = 2; i >= 0; i--) p = _mm512_fmadd_ps(p, z, _mm512_set1_ps((float)lse_log_f64[i]));
    p = _mm512_fmadd_ps(_mm512_mul_ps(s, z), p, _mm512_add_ps(s, s));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(e), _mm512_set1_ps((float)LSE_LN2_HI_F64), p);
}

/* The joint log-probability, whose error is one unit in its last place: where x and the offset cancel, x + high is exact. */
INLINE __m512 joint16(const mixed_doc *doc, size_t i, __mmask16 lanes, const ragfast_dtype dtype) {
    __m512 v = _mm512_add_ps(load16(doc->logits, i, lanes, dtype), _mm512_set1_ps(doc->high));
    return _mm512_add_ps(v, _mm512_set1_ps(doc->low));
}

/* Sixteen columns in float64. */
INLINE void mix_f64_16(float *out, const void *logits, const double *offsets, size_t n_docs, size_t v, size_t n,
                       size_t stride, const ragfast_dtype dtype) {
    const __m512d lowest = _mm512_set1_pd(-INFINITY), zero = _mm512_setzero_pd();
    for (size_t end = v + ragfast_min(n - v, 16); v < end; v += 8) {
        const __mmask8 lanes = first8(n - v);
        __m512d top = lowest, rest = zero;
        __mmask8 has_nan = 0, top_seen = 0;
        for (size_t k = 0; k < n_docs; k++) {
            if (offsets[k] == -INFINITY) continue;
            __m512d joint = _mm512_add_pd(_mm512_set1_pd(offsets[k]), load_f64(logits, k * stride + v, lanes, dtype));
            has_nan |= _mm512_cmp_pd_mask(joint, joint, _CMP_UNORD_Q);
            top = _mm512_max_pd(joint, top);
        }
        const __mmask8 finite = _mm512_cmp_pd_mask(_mm512_abs_pd(top), _mm512_set1_pd(INFINITY), _CMP_LT_OQ);
        for (size_t k = 0; k < n_docs; k++) {
            if (offsets[k] == -INFINITY) continue;
            __m512d joint = _mm512_add_pd(_mm512_set1_pd(offsets[k]), load_f64(logits, k * stride + v, lanes, dtype));
            __mmask8 first_top = _mm512_cmp_pd_mask(joint, top, _CMP_EQ_OQ) & (__mmask8)~top_seen;
            top_seen |= first_top;
            joint = exp_f64(_mm512_sub_pd(joint, _mm512_maskz_mov_pd(finite, top)), zero);
            rest = _mm512_mask_add_pd(rest, finite & (__mmask8)~first_top, rest, joint);
        }
        rest = _mm512_mask_mov_pd(rest, has_nan, _mm512_set1_pd(NAN));
        _mm256_mask_storeu_ps(out + v, lanes, _mm512_cvtpd_ps(_mm512_add_pd(top, log1p_f64(rest))));
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
        for (size_t v = 0; v < n; v += 16) mix_f64_16(out, logits, offsets, n_docs, v, n, stride, dtype);
        return;
    }
    const powers b = powers_of(0);
    /* Nearer to 0 the errors of float32 are more than a few units in the last place: of joint log-probabilities as large as
     * this and ln K together, and of the logarithm. Few columns are so probable. */
    const __m512 near = _mm512_set1_ps((float)fmax(2, log((double)n_mixed)));
    for (size_t i = 0; i < n; i += BLOCK) {
        __m512 top[4], sum[4], v[4], scale[4], rest[4];
        __mmask16 lanes[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            lanes[j] = lanes_of(n - i, j);
            top[j] = _mm512_set1_ps(-INFINITY);
            sum[j] = _mm512_setzero_ps();
        }
        for (size_t k = 0; k < n_mixed; k++)
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++)
                top[j] = _mm512_max_ps(joint16(&docs[k], i + 16 * j, lanes[j], dtype), top[j]);
        for (size_t k = 0; k < n_mixed; k++) {
#pragma GCC unroll 4
            for (size_t j = 0; j < 4;
                 j++) { /* -inf - -inf is a number: such columns have -inf for a top, and stay there */
                v[j] = _mm512_sub_ps(joint16(&docs[k], i + 16 * j, lanes[j], dtype),
                                     _mm512_max_ps(top[j], _mm512_set1_ps(-FLT_MAX)));
                v[j] = _mm512_max_ps(_mm512_set1_ps(LSE_LOWEST_F32(0)), v[j]);
            }
            power_block(scale, rest, v, &b);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sum[j] = _mm512_fmadd_ps(scale[j], rest[j], sum[j]);
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            if (!lanes[j]) break;
            __m512 result =
                _mm512_add_ps(top[j], log_f32(_mm512_mul_ps(sum[j], _mm512_set1_ps((float)LSE_SQUARE_UNIT))));
            __mmask16 again = _mm512_mask_cmp_ps_mask(lanes[j], _mm512_abs_ps(result), near, _CMP_LT_OQ) |
                              _mm512_mask_cmp_ps_mask(lanes[j], sum[j], sum[j], _CMP_UNORD_Q); /* NaN, +inf - +inf */
            if (again)
                mix_f64_16(out, logits, offsets, n_docs, i + 16 * j, n, stride, dtype);
            else
                _mm512_mask_storeu_ps(out + i + 16 * j, lanes[j], result);
        }
    }
}

/* ---- one function a dtype, as C has no templates ------------------------------------------------------------------ */

#define KERNELS(name, dtype)                                                                                           \
    static double sum_exp_##name##_avx512(const void *x, size_t n, int exponent, double *sum_x) {                      \
        return sum_x ? sum_exp(x, n, exponent, sum_x, dtype, 1) : sum_exp(x, n, exponent, NULL, dtype, 0);             \
    }                                                                                                                  \
    static void softmax_grad_##name##_avx512(void *out, const void *x, size_t n, double lse, double scale,             \
                                             double shift, int stream) {                                               \
        softmax_grad(out, x, n, lse, scale, shift, stream, dtype);                                                     \
    }                                                                                                                  \
    static void mix_logits_##name##_avx512(float *out, const void *logits, const double *offsets, size_t n_docs,       \
                                           size_t n, size_t stride) {                                                  \
        mix_logits(out, logits, offsets, n_docs, n, stride, dtype);                                                    \
    }
KERNELS(f32, RAGFAST_F32)
KERNELS(f16, RAGFAST_F16)
KERNELS(bf16, RAGFAST_BF16)

void ragfast_logits_fill_avx512(ragfast_kernels *table) {
    table->sum_exp[RAGFAST_F32] = sum_exp_f32_avx512;
    table->sum_exp[RAGFAST_F16] = sum_exp_f16_avx512;
    table->sum_exp[RAGFAST_BF16] = sum_exp_bf16_avx512;
    table->softmax_grad[RAGFAST_F64] = softmax_grad_f64_avx512;
    table->softmax_grad[RAGFAST_F32] = softmax_grad_f32_avx512;
    table->softmax_grad[RAGFAST_F16] = softmax_grad_f16_avx512;
    table->softmax_grad[RAGFAST_BF16] = softmax_grad_bf16_avx512;
    table->mix_logits[RAGFAST_F32] = mix_logits_f32_avx512;
    table->mix_logits[RAGFAST_F16] = mix_logits_f16_avx512;
    table->mix_logits[RAGFAST_BF16] = mix_logits_bf16_avx512;
}
