/* Logits in the vocabulary of vector.h. THE HOT LOOPS of marginalization are sum_exp and softmax_grad. The level's file
 * includes this after its powers (power_block, power_unit). Contracts: core/kernels.h. */
#ifndef RAGFAST_LOGITS_VECTOR_H
#define RAGFAST_LOGITS_VECTOR_H

#include "kernels/elements_vector.h"
#include "kernels/math_vector.h"

#include <float.h>

enum { BLOCK = 4 * LANES_F32 /* elements in four vectors, which is what hides the latency of a power */ };

/* The lanes of a block's vector j that its first n elements take. */
INLINE lanes_f32 lanes_of(size_t n, size_t j) { return first_f32(n > LANES_F32 * j ? n - LANES_F32 * j : 0); }

/* A block, or its first n elements. A whole one of bfloat16 is taken apart into even and odd elements, which is cheaper
 * than keeping their order; put_block puts them together again. */
INLINE void load_block(vec_f32 v[4], const void *x, size_t i, size_t n, const ragfast_dtype dtype, const int whole) {
    if (dtype != RAGFAST_BF16 || !whole) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++)
            v[j] = whole ? load_f32(x, i + LANES_F32 * j, dtype)
                         : load_first_f32(x, i + LANES_F32 * j, lanes_of(n, j), dtype);
        return;
    }
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j += 2) {
        const vec_u32 pairs = vec_load_u32((const uint16_t *)x + i + LANES_F32 * j);
        v[j] = (vec_f32)(pairs << 16);
        v[j + 1] = (vec_f32)(pairs & 0xffff0000);
    }
}

INLINE void put_vector(void *at, vec_u32 x, const int stream) {
    if (stream)
        vec_stream_u32(at, x);
    else
        vec_store_u32(at, x);
}

INLINE void put_block(void *out, size_t i, size_t n, const vec_f32 v[4], const ragfast_dtype dtype, const int whole,
                      const int stream) {
    if (!whole) {
        for (size_t j = 0; j < 4; j++) store_first_f32(out, i + LANES_F32 * j, lanes_of(n, j), v[j], dtype);
        return;
    }
    if (dtype == RAGFAST_F32) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) put_vector((float *)out + i + LANES_F32 * j, (vec_u32)v[j], stream);
        return;
    }
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j += 2) {
        const vec_u32 both = dtype == RAGFAST_F16 ? vec_join_16(vec_narrow_f16(v[j]), vec_narrow_f16(v[j + 1]))
                                                  : vec_blend_16(round_to_bf16(v[j]) >> 16, round_to_bf16(v[j + 1]));
        put_vector((uint16_t *)out + i + LANES_F32 * j, both, stream);
    }
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

INLINE void add_widened(vec_f64 sum[2], vec_f32 x) {
    sum[0] += vec_low_f64(x);
    sum[1] += vec_high_f64(x);
}

INLINE vec_f32 sum_of_four(const vec_f32 x[4]) { return (x[0] + x[1]) + (x[2] + x[3]); }

/* For a sum that overflows float32 on its way. */
INLINE double careful_sum(const void *x, size_t n, const ragfast_dtype dtype) {
    vec_f64 sum[2] = {{0}, {0}};
    for (size_t i = 0; i < n; i += LANES_F32) add_widened(sum, load_first_f32(x, i, first_f32(n - i), dtype));
    return vec_sum_f64(sum[0] + sum[1]);
}

/* An x above the limit is seen in its bits: those of floats above 0 are ordered as integers are, NaN above all. Of
 * bfloat16 a register of pairs is compared at a time. The lower limit is kept by a maximum, which returns its second
 * operand for NaN. */
INLINE double sum_exp(const void *x, size_t n, int exponent, double *sum_x, const ragfast_dtype dtype,
                      const int with_x) {
    enum { ROUNDS = 4 };
    const float highest = LSE_HIGHEST_F32(exponent) > 0 ? LSE_HIGHEST_F32(exponent) : INFINITY;
    const vec_u32 limit = (vec_u32)vec_set_f32(highest);
    const vec_f32 lowest = vec_set_f32(LSE_LOWEST_F32(exponent));
    const powers b = powers_of(exponent);
    const int in_pairs = dtype == RAGFAST_BF16;
    vec_u32 most = {0};
    vec_f64 sum[2] = {{0}, {0}}, plain[2] = {{0}, {0}};
    vec_f32 v[4], scale[4], rest[4];
    size_t i = 0;
    for (; i + ROUNDS * BLOCK <= n; i += ROUNDS * BLOCK) {
        vec_f32 products[4], some = {0};
#pragma GCC unroll 4
        for (size_t round = 0; round < ROUNDS; round++) {
            const size_t at = i + BLOCK * round;
            load_block(v, x, at, BLOCK, dtype, 1);
            if (with_x && round == 0) some = sum_of_four(v);
            if (with_x && round > 0) some += sum_of_four(v);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                if (!in_pairs)
                    most = vec_max_i32(most, (vec_u32)v[j]);
                else if (j % 2 == 0)
                    most = vec_max_i16(most, vec_load_u32((const uint16_t *)x + at + LANES_F32 * j));
                v[j] = vec_max_f32(lowest, v[j]);
            }
            power_block(scale, rest, v, &b);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                if (round == 0)
                    products[j] = scale[j] * rest[j];
                else
                    products[j] = vec_fma_f32(scale[j], rest[j], products[j]);
            }
        }
        add_widened(sum, sum_of_four(products));
        if (with_x) add_widened(plain, some);
    }
    if (in_pairs) /* the lower halves do not matter, but must not be above the limit with the upper at it */
        most = vec_max_i32(most & 0xffff0000, most << 16);
    for (; i < n; i += BLOCK) {
        load_block(v, x, i, n - i, dtype, 0);
        if (with_x) add_widened(plain, sum_of_four(v));
        for (size_t j = 0; j < 4; j++) {
            most = vec_max_i32(most, (vec_u32)v[j]);
            v[j] = vec_max_f32(lowest, v[j]);
        }
        power_block(scale, rest, v, &b);
        for (size_t j = 0; j < 4; j++) rest[j] = vec_where_f32(mask_of_f32(lanes_of(n - i, j)), scale[j] * rest[j]);
        add_widened(sum, sum_of_four(rest));
    }
    if (with_x) {
        const double total = vec_sum_f64(plain[0] + plain[1]);
        *sum_x += total - total == 0 ? total : careful_sum(x, n, dtype);
    }
    if (vec_any_greater_i32(most, limit)) return NAN;
    return power_unit * vec_sum_f64(sum[0] + sum[1]);
}

/* ---- gradient ---------------------------------------------------------------------------------------------------- */

/* The terms of scale softmax(x) - shift in float32. */
typedef struct grad_terms {
    powers b;
    vec_f32 lowest, factor, shift;
} grad_terms;

INLINE void grad_block(void *out, const void *x, size_t i, size_t n, const grad_terms *g, const ragfast_dtype dtype,
                       const int whole, const int stream) {
    vec_f32 v[4], scale[4], rest[4];
    load_block(v, x, i, n, dtype, whole);
    power_block(scale, rest, v, &g->b);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const mask_f32 counts = vec_not_less_f32(v[j], g->lowest); /* also a NaN */
        v[j] = vec_fms_f32(vec_where_f32(counts, scale[j] * rest[j]), g->factor, g->shift);
    }
    put_block(out, i, n, v, dtype, whole, stream);
}

INLINE void grad_f64(void *out, const void *x, size_t i, size_t n, double lse, double scale, double shift,
                     const ragfast_dtype dtype, const int stream) {
    const lanes_f64 lanes = first_f64(n);
    vec_f64 v = exp_f64(load_first_f64(x, i, lanes, dtype) - lse, (vec_f64){0});
    v = vec_fms_f64(v, vec_set_f64(scale), vec_set_f64(shift));
    if (stream)
        vec_stream_u32((double *)out + i, (vec_u32)v);
    else
        store_first_f64(out, i, lanes, v, dtype);
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
        for (size_t i = 0; i < n; i += LANES_F64) grad_f64(out, x, i, n - i, lse, scale, shift, dtype, 0);
        return;
    }
    const grad_terms g = {powers_of((int)whole), vec_set_f32(LSE_LOWEST_F32(whole)),
                          vec_set_f32((float)(factor * power_unit)), vec_set_f32((float)shift)};
    const size_t head = before_line(out, x, n, dtype == RAGFAST_F32 ? 4 : 2, stream);
    size_t i = 0;
    if (head < n) {
        if (head) grad_block(out, x, 0, head, &g, dtype, 0, 0);
        for (i = head; i + BLOCK <= n; i += BLOCK) grad_block(out, x, i, BLOCK, &g, dtype, 1, 1);
        vec_stream_end();
    }
    for (; i + BLOCK <= n; i += BLOCK) grad_block(out, x, i, BLOCK, &g, dtype, 1, 0);
    if (i < n) grad_block(out, x, i, n - i, &g, dtype, 0, 0);
}

static void LEVEL(softmax_grad_f64)(void *out, const void *x, size_t n, double lse, double scale, double shift,
                                    int stream) {
    const size_t head = before_line(out, x, n, sizeof(double), stream);
    size_t i = 0;
    if (head < n) {
        for (; i < head; i += LANES_F64) grad_f64(out, x, i, head - i, lse, scale, shift, RAGFAST_F64, 0);
        for (i = head; i + LANES_F64 <= n; i += LANES_F64)
            grad_f64(out, x, i, LANES_F64, lse, scale, shift, RAGFAST_F64, 1);
        vec_stream_end();
    }
    for (; i < n; i += LANES_F64) grad_f64(out, x, i, n - i, lse, scale, shift, RAGFAST_F64, 0);
}

/* ---- mixtures ---------------------------------------------------------------------------------------------------- */

enum { FAST_DOCS = 64 };

/* A document of a mixture; its offset as the sum of two float32. */
typedef struct mixed_doc {
    const char *logits;
    float high, low;
} mixed_doc;

/* log x for x >= 1; of 0 something finite. */
INLINE vec_f32 log_f32(vec_f32 x) {
    const vec_u32 bits = (vec_u32)x;
    const vec_i32 e = (vec_i32)(bits - LSE_SQRT_HALF_BITS_F32) >> 23;
    const vec_f32 f = (vec_f32)(bits - ((vec_u32)e << 23)) - 1;
    const vec_f32 s = f / (f + 2), z = s * s;
    vec_f32 p = vec_set_f32((float)lse_log_f64[3]);
#pragma GCC unroll 3
    for (int i = 2; i >= 0; i--) p = vec_fma_f32(p, z, vec_set_f32((float)lse_log_f64[i]));
    p = vec_fma_f32(s * z, p, s + s);
    return vec_fma_f32(__builtin_convertvector(e, vec_f32), vec_set_f32((float)LSE_LN2_HI_F64), p);
}

/* Joint log-probabilities, whose error is one unit in their last place: where x and the offset cancel, x + high is exact. */
INLINE vec_f32 joint(const mixed_doc *doc, size_t i, lanes_f32 lanes, const ragfast_dtype dtype, const int whole) {
    const vec_f32 x = whole ? load_f32(doc->logits, i, dtype) : load_first_f32(doc->logits, i, lanes, dtype);
    return (x + doc->high) + doc->low;
}

/* A vector of columns in float64. */
INLINE void mix_f64(float *out, const void *logits, const double *offsets, size_t n_docs, size_t v, size_t n,
                    size_t stride, const ragfast_dtype dtype) {
    const vec_f64 zero = {0};
    for (size_t end = v + ragfast_min(n - v, LANES_F32); v < end; v += LANES_F64) {
        const lanes_f64 lanes = first_f64(n - v);
        vec_f64 top = vec_set_f64(-INFINITY), rest = zero;
        mask_f64 has_nan = {0}, top_seen = {0};
        for (size_t k = 0; k < n_docs; k++) {
            if (offsets[k] == -INFINITY) continue;
            const vec_f64 joint = offsets[k] + load_first_f64(logits, k * stride + v, lanes, dtype);
            has_nan |= vec_is_nan_f64(joint);
            top = vec_max_f64(joint, top);
        }
        const mask_f64 finite = vec_less_f64(vec_abs_f64(top), vec_set_f64(INFINITY));
        for (size_t k = 0; k < n_docs; k++) {
            if (offsets[k] == -INFINITY) continue;
            const vec_f64 joint = offsets[k] + load_first_f64(logits, k * stride + v, lanes, dtype);
            const mask_f64 first_top = vec_equal_f64(joint, top) & ~top_seen;
            top_seen |= first_top;
            rest += vec_where_f64(finite & ~first_top, exp_f64(joint - vec_where_f64(finite, top), zero));
        }
        rest = vec_select_f64(has_nan, vec_set_f64(NAN), rest);
        vec_store_first_narrowed(out + v, lanes, top + log1p_f64(rest));
    }
}

/* The block of columns from i on, or as many as there are. Lanes are columns; K goes by twice, the second time from the
 * first-level cache. Returns a bit for each vector of the block that float32 does not do: nearer to 0 than `near`, or NaN. */
INLINE unsigned mix_block(float *out, const mixed_doc *docs, size_t n_docs, size_t i, size_t n, const powers *b,
                          vec_f32 near, const ragfast_dtype dtype, const int whole) {
    vec_f32 top[4], sum[4], v[4], scale[4], rest[4];
    lanes_f32 lanes[4];
    mask_f32 unsure[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        lanes[j] = lanes_of(n - i, j);
        top[j] = vec_set_f32(-INFINITY);
        sum[j] = (vec_f32){0};
    }
    for (size_t k = 0; k < n_docs; k++)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++)
            top[j] = vec_max_f32(joint(&docs[k], i + LANES_F32 * j, lanes[j], dtype, whole), top[j]);
    for (size_t k = 0; k < n_docs; k++) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) { /* -inf - -inf is a number: such columns have -inf for a top, and stay there */
            v[j] =
                joint(&docs[k], i + LANES_F32 * j, lanes[j], dtype, whole) - vec_max_f32(top[j], vec_set_f32(-FLT_MAX));
            v[j] = vec_max_f32(vec_set_f32(LSE_LOWEST_F32(0)), v[j]);
        }
        power_block(scale, rest, v, b);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[j] = vec_fma_f32(scale[j], rest[j], sum[j]);
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        const vec_f32 result = top[j] + log_f32(sum[j] * (float)power_unit);
        unsure[j] = vec_less_f32(vec_abs_f32(result), near) | vec_is_nan_f32(sum[j]); /* +inf - +inf */
        if (whole)
            vec_store_f32(out + i + LANES_F32 * j, result);
        else
            vec_store_first_f32(out + i + LANES_F32 * j, lanes[j], result);
    }
    if (!vec_any_f32((unsure[0] | unsure[1]) | (unsure[2] | unsure[3]), first_f32(LANES_F32))) return 0;
    unsigned again = 0;
    for (unsigned j = 0; j < 4; j++) again |= (unsigned)(vec_any_f32(unsure[j], lanes[j]) != 0) << j;
    return again;
}

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
    const powers b = powers_of(0);
    /* Nearer to 0 the errors of float32 are more than a few units in the last place: of joint log-probabilities as large as
     * this and ln K together, and of the logarithm. Few columns are so probable. */
    const vec_f32 near = vec_set_f32((float)fmax(2, log((double)n_mixed)));
    for (size_t i = 0; i < n; i += BLOCK) {
        unsigned again = 15;
        if (fast)
            again = i + BLOCK <= n ? mix_block(out, docs, n_mixed, i, n, &b, near, dtype, 1)
                                   : mix_block(out, docs, n_mixed, i, n, &b, near, dtype, 0);
        for (size_t v = i; again && v < n; v += LANES_F32, again >>= 1)
            if (again & 1) mix_f64(out, logits, offsets, n_docs, v, n, stride, dtype);
    }
}

/* ---- one function a dtype, as C has no templates ------------------------------------------------------------------ */

#define KERNELS(name, dtype)                                                                                           \
    static double LEVEL(sum_exp_##name)(const void *x, size_t n, int exponent, double *sum_x) {                        \
        return sum_x ? sum_exp(x, n, exponent, sum_x, dtype, 1) : sum_exp(x, n, exponent, NULL, dtype, 0);             \
    }                                                                                                                  \
    static void LEVEL(softmax_grad_##name)(void *out, const void *x, size_t n, double lse, double scale, double shift, \
                                           int stream) {                                                               \
        softmax_grad(out, x, n, lse, scale, shift, stream, dtype);                                                     \
    }                                                                                                                  \
    static void LEVEL(mix_logits_##name)(float *out, const void *logits, const double *offsets, size_t n_docs,         \
                                         size_t n, size_t stride) {                                                    \
        mix_logits(out, logits, offsets, n_docs, n, stride, dtype);                                                    \
    }
KERNELS(f32, RAGFAST_F32)
KERNELS(f16, RAGFAST_F16)
KERNELS(bf16, RAGFAST_BF16)
#undef KERNELS

INLINE void fill_logits(ragfast_kernels *table) {
    table->sum_exp[RAGFAST_F32] = LEVEL(sum_exp_f32);
    table->sum_exp[RAGFAST_F16] = LEVEL(sum_exp_f16);
    table->sum_exp[RAGFAST_BF16] = LEVEL(sum_exp_bf16);
    table->softmax_grad[RAGFAST_F64] = LEVEL(softmax_grad_f64);
    table->softmax_grad[RAGFAST_F32] = LEVEL(softmax_grad_f32);
    table->softmax_grad[RAGFAST_F16] = LEVEL(softmax_grad_f16);
    table->softmax_grad[RAGFAST_BF16] = LEVEL(softmax_grad_bf16);
    table->mix_logits[RAGFAST_F32] = LEVEL(mix_logits_f32);
    table->mix_logits[RAGFAST_F16] = LEVEL(mix_logits_f16);
    table->mix_logits[RAGFAST_BF16] = LEVEL(mix_logits_bf16);
}

#endif
