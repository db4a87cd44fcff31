/* What the kernels of log-sum-exp and of logits share: exp and log of float64 vectors, and an accurate sum. */
#ifndef RAGFAST_MATH_VECTOR_H
#define RAGFAST_MATH_VECTOR_H

#include "kernels/lse_math.h"

/* exp(x - low) for x <= 0 and the low that x was rounded by, denormal results included. The maximum keeps NaN. */
INLINE vec_f64 exp_f64(vec_f64 x, vec_f64 low) {
    x = vec_max_f64(vec_set_f64(LSE_NEGLIGIBLE_F64), x);
    const vec_f64 n = vec_fma_f64(x, vec_set_f64(LSE_LOG2E), vec_set_f64(LSE_ROUND_F64)) - LSE_ROUND_F64;
    vec_f64 r = vec_fnma_f64(n, vec_set_f64(LSE_LN2_HI_F64), x);
    r = vec_fnma_f64(n, vec_set_f64(LSE_LN2_LO_F64), r - low);
    vec_f64 p = vec_set_f64(lse_exp_f64[9]);
#pragma GCC unroll 9
    for (int i = 8; i >= 0; i--) p = vec_fma_f64(p, r, vec_set_f64(lse_exp_f64[i]));
    p = vec_fma_f64(r * r, p, r);
    return vec_scale_f64(1 + p, n);
}

/* log(1 + x) for x >= 0. What rounding 1 + x drops comes back as a last term. */
INLINE vec_f64 log1p_f64(vec_f64 x) {
    const vec_f64 w = 1 + x;
    const vec_f64 dropped = (x - (w - 1)) / w;
    const vec_u64 e = ((vec_u64)w - LSE_SQRT_HALF_BITS) >> 52;
    const vec_f64 f = (vec_f64)((vec_u64)w - (e << 52)) - 1, n = vec_from_u64(e);
    const vec_f64 s = f / (f + 2), z = s * s;
    vec_f64 p = vec_set_f64(lse_log_f64[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--) p = vec_fma_f64(p, z, vec_set_f64(lse_log_f64[i]));
    p = vec_fma_f64(s * z, p, vec_fma_f64(n, vec_set_f64(LSE_LN2_LO_F64), dropped));
    p = vec_fma_f64(vec_set_f64(2), s, p);
    return vec_fma_f64(n, vec_set_f64(LSE_LN2_HI_F64), p);
}

/* Kahan's sum: a plain one of 300,000 equal terms is off by thousands of units in the last place. */
typedef struct {
    vec_f64 sum, lost;
} kahan;

INLINE void add_to(kahan *k, vec_f64 x) {
    const vec_f64 y = x - k->lost, sum = k->sum + y;
    k->lost = (sum - k->sum) - y;
    k->sum = sum;
}

#endif
