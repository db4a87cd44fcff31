/* The reference for every logits_<isa>.c: what each kernel must compute, in plain C. Contracts: core/kernels.h. */
#include "core/elements.h"
#include "core/kernels.h"
#include "kernels/lse_math.h"

/* One function a dtype, as C has no templates. */
#define SUM_EXP(name, dtype)                                                                                           \
    static double sum_exp_##name##_scalar(const void *x, size_t n, int exponent, double *sum_x) {                      \
        const double limit = LSE_HIGHEST_F32(exponent) > 0 ? LSE_HIGHEST_F32(exponent) : INFINITY;                     \
        double sum = 0, plain = 0;                                                                                     \
        for (size_t i = 0; i < n; i++) {                                                                               \
            const double v = ragfast_element(x, i, dtype);                                                             \
            sum += v > limit ? NAN : exp2(v * LSE_LOG2E_F32 - exponent);                                               \
            plain += v;                                                                                                \
        }                                                                                                              \
        if (sum_x) *sum_x += plain;                                                                                    \
        return sum;                                                                                                    \
    }
SUM_EXP(f32, RAGFAST_F32)
SUM_EXP(f16, RAGFAST_F16)
SUM_EXP(bf16, RAGFAST_BF16)

#define SOFTMAX_GRAD(name, dtype)                                                                                      \
    static void softmax_grad_##name##_scalar(void *out, const void *x, size_t n, double lse, double scale,             \
                                             double shift, int stream) {                                               \
        (void)stream;                                                                                                  \
        for (size_t i = 0; i < n; i++)                                                                                 \
            ragfast_put_element(out, i, scale * exp(ragfast_element(x, i, dtype) - lse) - shift, dtype);               \
    }
SOFTMAX_GRAD(f64, RAGFAST_F64)
SOFTMAX_GRAD(f32, RAGFAST_F32)
SOFTMAX_GRAD(f16, RAGFAST_F16)
SOFTMAX_GRAD(bf16, RAGFAST_BF16)

#define MIX_LOGITS(name, dtype)                                                                                        \
    static void mix_logits_##name##_scalar(float *out, const void *logits, const double *offsets, size_t n_docs,       \
                                           size_t n, size_t stride) {                                                  \
        for (size_t v = 0; v < n; v++) {                                                                               \
            double top = -INFINITY, sum = 0;                                                                           \
            for (size_t k = 0; k < n_docs; k++) {                                                                      \
                if (offsets[k] == -INFINITY) continue;                                                                 \
                const double joint = offsets[k] + ragfast_element(logits, k * stride + v, dtype);                      \
                if (joint > top || joint != joint) top = joint;                                                        \
            }                                                                                                          \
            const double base = isfinite(top) ? top : 0;                                                               \
            double rest = 0; /* but for one of the greatest */                                                         \
            int top_seen = 0;                                                                                          \
            for (size_t k = 0; k < n_docs; k++) {                                                                      \
                if (offsets[k] == -INFINITY) continue;                                                                 \
                const double joint = offsets[k] + ragfast_element(logits, k * stride + v, dtype);                      \
                if (joint == top && !top_seen)                                                                         \
                    top_seen = 1;                                                                                      \
                else                                                                                                   \
                    rest += exp(joint - base);                                                                         \
            }                                                                                                          \
            sum = isfinite(top) ? log1p(rest) : rest != rest ? NAN : 0;                                                \
            out[v] = (float)(top + sum);                                                                               \
        }                                                                                                              \
    }
MIX_LOGITS(f32, RAGFAST_F32)
MIX_LOGITS(f16, RAGFAST_F16)
MIX_LOGITS(bf16, RAGFAST_BF16)

void ragfast_logits_fill_scalar(ragfast_kernels *table) {
    table->sum_exp[RAGFAST_F32] = sum_exp_f32_scalar;
    table->sum_exp[RAGFAST_F16] = sum_exp_f16_scalar;
    table->sum_exp[RAGFAST_BF16] = sum_exp_bf16_scalar;
    table->softmax_grad[RAGFAST_F64] = softmax_grad_f64_scalar;
    table->softmax_grad[RAGFAST_F32] = softmax_grad_f32_scalar;
    table->softmax_grad[RAGFAST_F16] = softmax_grad_f16_scalar;
    table->softmax_grad[RAGFAST_BF16] = softmax_grad_bf16_scalar;
    table->mix_logits[RAGFAST_F32] = mix_logits_f32_scalar;
    table->mix_logits[RAGFAST_F16] = mix_logits_f16_scalar;
    table->mix_logits[RAGFAST_BF16] = mix_logits_bf16_scalar;
}
