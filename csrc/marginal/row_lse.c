/* Log-sum-exp of one row.
 *
 * A row of logits is summed in float32, in units of a power of two that is a guess: the maximum of its first elements. A
 * float has room for 2^113 above and below, so the guess need not be good, and a row that has more above it says so by
 * a NaN; the maximum of the whole row is looked for only then. So memory is read once (the guess is the first 2 KB). */
#include "marginal/row_lse.h"

#include "kernels/lse_math.h"

#include <math.h>

enum {
    GUESS_COLS = 512,
    BLOCK_COLS = 1024 /* of 16-bit floats, widened at a time */
};

#define LN2 0x1.62e42fefa39efp-1
#define LARGEST_TOP 0x1p16

/* Kernels sum powers of 2^LSE_LOG2E_F32, the logarithm to which differs from the LSE by this times the row's entropy. That is
 * somewhere between 0 and ln n: half of ln n leaves an error of at most 8.5e-8 (n 300,000). */
#define BASE_ERROR 1.3352e-8

/* Float32 elements i to i + n of a row: as they lie, or widened to block. */
static const float *widened(const ragfast_kernels *kernels, float *block, const void *x, size_t i, size_t n,
                            ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32) return (const float *)x + i;
    if (dtype == RAGFAST_F16)
        kernels->widen_f16(block, (const uint16_t *)x + i, n);
    else
        kernels->widen_bf16(block, (const uint16_t *)x + i, n);
    return block;
}

/* Columns that can be had at a time. */
static size_t block_cols(size_t n, ragfast_dtype dtype) {
    return dtype == RAGFAST_F32 ? n : ragfast_min(n, BLOCK_COLS);
}

double ragfast_row_max(const ragfast_kernels *kernels, const void *x, size_t n, ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return kernels->max_f64(x, n);
    float block[BLOCK_COLS], top = -INFINITY;
    for (size_t i = 0, n_cols; i < n; i += n_cols) {
        n_cols = block_cols(n - i, dtype);
        float cols = kernels->max_f32(widened(kernels, block, x, i, n_cols, dtype), n_cols);
        if (cols > top) top = cols;
    }
    return top;
}

#define HAS_NAN(name, type)                                                                                            \
    static int name(const type *x, size_t n) {                                                                         \
        int found = 0;                                                                                                 \
        for (size_t i = 0; i < n; i++) found |= x[i] != x[i];                                                          \
        return found;                                                                                                  \
    }
HAS_NAN(has_nan_f32, float)
HAS_NAN(has_nan_f64, double)

int ragfast_fast_lse(const ragfast_kernels *kernels, double *lse, double *sum_x, const void *x, size_t n, double top,
                     ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return 0;
    int known = top == top;
    if (!known) top = ragfast_row_max(kernels, x, ragfast_min(n, GUESS_COLS), dtype);
    for (;;) {
        /* A guess whose limit is not above 0 could not say that it was too low (ragfast_kernels.sum_exp). */
        int exponent = fabs(top) <= LARGEST_TOP ? (int)lrint(top * LSE_LOG2E_F32) : 0;
        if (fabs(top) <= LARGEST_TOP && (known || LSE_HIGHEST_F32(exponent) > 0)) {
            double plain = 0, sum = kernels->sum_exp[dtype](x, n, exponent, sum_x ? &plain : NULL);
            if (sum == sum) {
                *lse = (log(sum) + exponent * LN2) / (LSE_LOG2E_F32 * LN2) - BASE_ERROR / 2 * log((double)n);
                if (sum_x) *sum_x += plain;
                return 1;
            }
        }
        if (known) return 0;
        known = 1;
        top = ragfast_row_max(kernels, x, n, dtype);
    }
}

static ragfast_lse slow_lse(const ragfast_kernels *kernels, const void *x, size_t n, ragfast_dtype dtype, int exact) {
    const double top = ragfast_row_max(kernels, x, n, dtype);
    size_t n_tops = 0;
    double others = 0;
    if (dtype == RAGFAST_F64) {
        if (!isfinite(top)) return (ragfast_lse){top, has_nan_f64(x, n) ? NAN : 0};
        others = kernels->sum_exp_rest_f64(x, n, top, &n_tops);
        return (ragfast_lse){top, log1p(others + ((double)n_tops - 1))};
    }
    float block[BLOCK_COLS];
    double wide[BLOCK_COLS];
    for (size_t i = 0, n_cols; i < n; i += n_cols) {
        n_cols = exact ? ragfast_min(n - i, BLOCK_COLS) : block_cols(n - i, dtype);
        const float *cols = widened(kernels, block, x, i, n_cols, dtype);
        if (!isfinite(top)) {
            if (has_nan_f32(cols, n_cols)) return (ragfast_lse){top, NAN};
        } else if (exact) {
            for (size_t j = 0; j < n_cols; j++) wide[j] = cols[j];
            others += kernels->sum_exp_rest_f64(wide, n_cols, top, &n_tops);
        } else {
            others += kernels->sum_exp_rest_f32(cols, n_cols, (float)top, &n_tops);
        }
    }
    return (ragfast_lse){top, isfinite(top) ? log1p(others + ((double)n_tops - 1)) : 0};
}

ragfast_lse ragfast_careful_lse(const ragfast_kernels *kernels, const void *x, size_t n, ragfast_dtype dtype) {
    return slow_lse(kernels, x, n, dtype, 0);
}

ragfast_lse ragfast_exact_lse(const ragfast_kernels *kernels, const void *x, size_t n, ragfast_dtype dtype) {
    return slow_lse(kernels, x, n, dtype, 1);
}

double ragfast_row_sum(const ragfast_kernels *kernels, const void *x, size_t n, double offset, ragfast_dtype dtype) {
    double lanes[8] = {0};
    float block[BLOCK_COLS];
    for (size_t i = 0, n_cols; i < n; i += n_cols) {
        n_cols = dtype == RAGFAST_F64 ? n : block_cols(n - i, dtype);
        const float *cols = dtype == RAGFAST_F64 ? NULL : widened(kernels, block, x, i, n_cols, dtype);
        for (size_t j = 0; j < n_cols; j++) lanes[j % 8] += (cols ? (double)cols[j] : ((const double *)x)[j]) - offset;
    }
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}
