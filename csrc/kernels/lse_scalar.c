/* The reference for every lse_<isa>.c: what each kernel must compute, in plain C. Contracts: core/kernels.h. */
#include "core/kernels.h"

#include <math.h>

static float max_f32_scalar(const float *x, size_t n) {
    float top = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (x[i] > top) top = x[i];
    return top;
}

static double max_f64_scalar(const double *x, size_t n) {
    double top = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (x[i] > top) top = x[i];
    return top;
}

/* Kahan's sum: a plain one of 300,000 equal terms is off by thousands of units in the last place. */
typedef struct {
    double sum, lost;
} kahan;

static void add_to(kahan *k, double x) {
    double y = x - k->lost, sum = k->sum + y;
    k->lost = (sum - k->sum) - y;
    k->sum = sum;
}

static double sum_exp_rest_f32_scalar(const float *x, size_t n, float top, size_t *n_tops) {
    kahan others = {0, 0};
    for (size_t i = 0; i < n; i++) {
        if (x[i] == top)
            ++*n_tops;
        else
            add_to(&others, exp((double)x[i] - (double)top));
    }
    return others.sum;
}

/* exp(x - top), top not less than x. The rounding error of the difference is found (Knuth's two-sum) and made good: at
 * x - top = -40 it would be 20 units in the last place of the result. It is no number where x is -inf. */
static double exp_difference(double x, double top) {
    double d = x - top, minus_top = d - x;
    double low = (top + minus_top) - (x - (d - minus_top)), result = exp(d);
    return result > 0 ? result - result * low : result;
}

static double sum_exp_rest_f64_scalar(const double *x, size_t n, double top, size_t *n_tops) {
    kahan others = {0, 0};
    for (size_t i = 0; i < n; i++) {
        if (x[i] == top)
            ++*n_tops;
        else
            add_to(&others, exp_difference(x[i], top));
    }
    return others.sum;
}

static void subtract_f32_scalar(float *out, const float *x, size_t n, float top, double log_sum) {
    for (size_t i = 0; i < n; i++) out[i] = (float)((double)x[i] - (double)top - log_sum);
}

static void subtract_f64_scalar(double *out, const double *x, size_t n, double top, double log_sum) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] - top - log_sum;
}

/* One function a dtype, as C has no templates. */
#define MIX(dtype, type)                                                                                               \
    static void mix_##dtype##_scalar(type *out, type *posterior, const type *doc_logprobs, const type *token_logprobs, \
                                     size_t n_docs, size_t n, size_t stride) {                                         \
        for (size_t t = 0; t < n; t++) {                                                                               \
            double top = -INFINITY;                                                                                    \
            int has_nan = 0, top_seen = 0;                                                                             \
            kahan others = {0, 0};                                                                                     \
            for (size_t k = 0; k < n_docs; k++) {                                                                      \
                double v = (double)doc_logprobs[k] + (double)token_logprobs[k * stride + t];                           \
                has_nan |= isnan(v);                                                                                   \
                if (v > top) top = v;                                                                                  \
            }                                                                                                          \
            const double base = top == -INFINITY ? 0 : top;                                                            \
            for (size_t k = 0; k < n_docs; k++) {                                                                      \
                double v = (double)doc_logprobs[k] + (double)token_logprobs[k * stride + t];                           \
                double weight = exp(v - base);                                                                         \
                if (v == top && !top_seen)                                                                             \
                    top_seen = 1;                                                                                      \
                else                                                                                                   \
                    add_to(&others, weight);                                                                           \
                if (posterior) posterior[k * stride + t] = (type)weight;                                               \
            }                                                                                                          \
            const double rest = has_nan ? NAN : isinf(top) ? 0 : others.sum;                                           \
            out[t] = (type)(top + log1p(rest));                                                                        \
            if (!posterior) continue;                                                                                  \
            for (size_t k = 0; k < n_docs; k++)                                                                        \
                posterior[k * stride + t] = (type)((double)posterior[k * stride + t] / (1 + rest));                    \
        }                                                                                                              \
    }
MIX(f32, float)
MIX(f64, double)

static void exp_f64_scalar(double *out, const double *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = exp(x[i]);
}

void ragfast_lse_fill_scalar(ragfast_kernels *table) {
    table->max_f32 = max_f32_scalar;
    table->max_f64 = max_f64_scalar;
    table->sum_exp_rest_f32 = sum_exp_rest_f32_scalar;
    table->sum_exp_rest_f64 = sum_exp_rest_f64_scalar;
    table->subtract_f32 = subtract_f32_scalar;
    table->subtract_f64 = subtract_f64_scalar;
    table->mix_f32 = mix_f32_scalar;
    table->mix_f64 = mix_f64_scalar;
    table->exp_f64 = exp_f64_scalar;
}
