/* AVX2 and FMA log-sum-exp. Contracts: core/kernels.h. */
#include "kernels/vector_avx2.h"

#include "kernels/lse_vector.h"

/* Of logits float32 needs 2^-29, not 2^-53. */
static double sum_exp_rest_f32_avx2(const float *x, size_t n, float top, size_t *n_tops) {
    const vec_f64 base = vec_set_f64(top), lowest = vec_set_f64(-700);
    const vec_f64 log2e = vec_set_f64(LSE_LOG2E), round = vec_set_f64(LSE_ROUND_F64 + 1023);
    vec_f64 sum[4] = {{0}, {0}, {0}, {0}};
    for (size_t i = 0; i < n; i += 16) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            if (i + 4 * j >= n) break;
            const vec_f64 v = vec_load_first_widened(x + i + 4 * j, n - i - 4 * j);
            const mask_f64 lanes = mask_of_f64(n - i - 4 * j);
            const mask_f64 is_top = vec_equal_f64(v, base) & lanes;
            *n_tops += vec_count_f64(is_top);
            const vec_f64 d = vec_max_f64(lowest, v - base);
            const vec_f64 z = vec_fma_f64(d, log2e, round);
            const vec_f64 f = vec_fms_f64(d, log2e, z - round);
            vec_f64 p = vec_set_f64(lse_exp2_f64[6]);
#pragma GCC unroll 6
            for (int k = 5; k >= 0; k--) p = vec_fma_f64(p, f, vec_set_f64(lse_exp2_f64[k]));
            const vec_f64 power = (vec_f64)((vec_u64)z << 52);
            sum[j] += vec_where_f64(lanes & ~is_top, power * p);
        }
    }
    return vec_sum_f64((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static double sum_exp_rest_f64_avx2(const double *x, size_t n, double top, size_t *n_tops) {
    return sum_exp_rest(x, n, top, n_tops, 1);
}

void ragfast_lse_fill_avx2(ragfast_kernels *table) {
    fill_lse(table);
    table->sum_exp_rest_f32 = sum_exp_rest_f32_avx2;
    table->sum_exp_rest_f64 = sum_exp_rest_f64_avx2;
}
