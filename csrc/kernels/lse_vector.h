/* Log-sum-exp in the vocabulary of vector.h: all but sum_exp_rest_f32. Contracts: core/kernels.h. */
#ifndef RAGFAST_LSE_VECTOR_H
#define RAGFAST_LSE_VECTOR_H

#include "kernels/elements_vector.h"
#include "kernels/math_vector.h"

static float LEVEL(max_f32)(const float *x, size_t n) {
    const vec_f32 lowest = vec_set_f32(-INFINITY);
    vec_f32 top[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 4 * LANES_F32 <= n; i += 4 * LANES_F32)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) top[j] = vec_max_f32(vec_load_f32(x + i + LANES_F32 * j), top[j]);
    for (; i < n; i += LANES_F32) {
        const lanes_f32 lanes = first_f32(n - i);
        top[0] = vec_max_f32(vec_select_f32(mask_of_f32(lanes), vec_load_first_f32(x + i, lanes), lowest), top[0]);
    }
    return vec_highest_f32(vec_max_f32(vec_max_f32(top[0], top[1]), vec_max_f32(top[2], top[3])));
}

static double LEVEL(max_f64)(const double *x, size_t n) {
    const vec_f64 lowest = vec_set_f64(-INFINITY);
    vec_f64 top[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 4 * LANES_F64 <= n; i += 4 * LANES_F64)
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) top[j] = vec_max_f64(vec_load_f64(x + i + LANES_F64 * j), top[j]);
    for (; i < n; i += LANES_F64) {
        const lanes_f64 lanes = first_f64(n - i);
        top[0] = vec_max_f64(vec_select_f64(mask_of_f64(lanes), vec_load_first_f64(x + i, lanes), lowest), top[0]);
    }
    return vec_highest_f64(vec_max_f64(vec_max_f64(top[0], top[1]), vec_max_f64(top[2], top[3])));
}

/* exp(x - top), top not less than x. The rounding error of the difference is found (Knuth's two-sum) and made
 * good: at x - top = -40 it would be 20 units in the last place of the result. It is no number where x is -inf. */
INLINE vec_f64 exp_difference(vec_f64 x, vec_f64 top) {
    const vec_f64 d = x - top, minus_top = d - x;
    const vec_f64 low = (top + minus_top) - (x - (d - minus_top));
    return exp_f64(d, vec_where_f64(vec_less_f64(vec_set_f64(LSE_NEGLIGIBLE_F64), d), low));
}

/* n_sums is a constant where inlined: how many sums run side by side. */
INLINE double sum_exp_rest(const double *x, size_t n, double top, size_t *n_tops, const size_t n_sums) {
    const vec_f64 base = vec_set_f64(top);
    kahan sums[2] = {{{0}, {0}}, {{0}, {0}}};
    for (size_t i = 0; i < n; i += n_sums * LANES_F64) {
#pragma GCC unroll 2
        for (size_t j = 0; j < n_sums; j++) {
            if (i + LANES_F64 * j >= n) break;
            const lanes_f64 lanes = first_f64(n - i - LANES_F64 * j);
            const mask_f64 there = mask_of_f64(lanes);
            const vec_f64 v = vec_load_first_f64(x + i + LANES_F64 * j, lanes);
            const mask_f64 is_top = vec_equal_f64(v, base) & there;
            *n_tops += vec_count_f64(is_top);
            add_to(&sums[j], vec_where_f64(there & ~is_top, exp_difference(v, base)));
        }
    }
    if (n_sums > 1) sums[0].sum += sums[1].sum;
    return vec_sum_f64(sums[0].sum);
}

INLINE void subtract(void *out, const void *x, size_t n, double top, double log_sum, const ragfast_dtype dtype) {
    for (size_t i = 0; i < n; i += LANES_F64) {
        const lanes_f64 lanes = first_f64(n - i);
        store_first_f64(out, i, lanes, (load_first_f64(x, i, lanes, dtype) - top) - log_sum, dtype);
    }
}

static void LEVEL(subtract_f32)(float *out, const float *x, size_t n, float top, double log_sum) {
    subtract(out, x, n, top, log_sum, RAGFAST_F32);
}
static void LEVEL(subtract_f64)(double *out, const double *x, size_t n, double top, double log_sum) {
    subtract(out, x, n, top, log_sum, RAGFAST_F64);
}

INLINE vec_f64 joint(const void *doc_logprobs, const void *token_logprobs, size_t k, size_t at, lanes_f64 lanes,
                     const ragfast_dtype dtype) {
    const double prior =
        dtype == RAGFAST_F32 ? (double)((const float *)doc_logprobs)[k] : ((const double *)doc_logprobs)[k];
    return prior + load_first_f64(token_logprobs, at, lanes, dtype);
}

/* Lanes are target tokens; K goes by twice, three times with the posterior, from the first-level cache. */
INLINE void mix(void *out, void *posterior, const void *doc_logprobs, const void *token_logprobs, size_t n_docs,
                size_t n, size_t stride, const ragfast_dtype dtype) {
    const vec_f64 zero = {0}, infinity = vec_set_f64(INFINITY), lowest = vec_set_f64(-INFINITY);
    for (size_t t = 0; t < n; t += LANES_F64) {
        const lanes_f64 lanes = first_f64(n - t);
        vec_f64 top = lowest;
        kahan others = {zero, zero};
        mask_f64 has_nan = {0}, top_seen = {0};
        for (size_t k = 0; k < n_docs; k++) {
            const vec_f64 v = joint(doc_logprobs, token_logprobs, k, k * stride + t, lanes, dtype);
            has_nan |= vec_is_nan_f64(v);
            top = vec_max_f64(v, top);
        }
        const vec_f64 base = vec_unless_f64(vec_equal_f64(top, lowest), top);
        for (size_t k = 0; k < n_docs; k++) {
            const vec_f64 v = joint(doc_logprobs, token_logprobs, k, k * stride + t, lanes, dtype);
            const vec_f64 weight = exp_f64(v - base, zero);
            const mask_f64 first_top = vec_equal_f64(v, top) & ~top_seen;
            top_seen |= first_top;
            add_to(&others, vec_unless_f64(first_top, weight));
            if (posterior) store_first_f64(posterior, k * stride + t, lanes, weight, dtype);
        }
        const vec_f64 finite = vec_where_f64(vec_less_f64(vec_abs_f64(top), infinity), others.sum);
        const vec_f64 rest = vec_select_f64(has_nan, vec_set_f64(NAN), finite);
        store_first_f64(out, t, lanes, top + log1p_f64(rest), dtype);
        if (!posterior) continue;
        const vec_f64 scale = 1 / (1 + rest);
        for (size_t k = 0; k < n_docs; k++) {
            const vec_f64 weight = load_first_f64(posterior, k * stride + t, lanes, dtype);
            store_first_f64(posterior, k * stride + t, lanes, weight * scale, dtype);
        }
    }
}

static void LEVEL(mix_f32)(float *out, float *posterior, const float *doc_logprobs, const float *token_logprobs,
                           size_t n_docs, size_t n, size_t stride) {
    mix(out, posterior, doc_logprobs, token_logprobs, n_docs, n, stride, RAGFAST_F32);
}
static void LEVEL(mix_f64)(double *out, double *posterior, const double *doc_logprobs, const double *token_logprobs,
                           size_t n_docs, size_t n, size_t stride) {
    mix(out, posterior, doc_logprobs, token_logprobs, n_docs, n, stride, RAGFAST_F64);
}

static void LEVEL(exp_f64)(double *out, const double *x, size_t n) {
    for (size_t i = 0; i < n; i += LANES_F64) {
        const lanes_f64 lanes = first_f64(n - i);
        vec_store_first_f64(out + i, lanes, exp_f64(vec_load_first_f64(x + i, lanes), (vec_f64){0}));
    }
}

INLINE void fill_lse(ragfast_kernels *table) {
    table->max_f32 = LEVEL(max_f32);
    table->max_f64 = LEVEL(max_f64);
    table->subtract_f32 = LEVEL(subtract_f32);
    table->subtract_f64 = LEVEL(subtract_f64);
    table->mix_f32 = LEVEL(mix_f32);
    table->mix_f64 = LEVEL(mix_f64);
    table->exp_f64 = LEVEL(exp_f64);
}

#endif
