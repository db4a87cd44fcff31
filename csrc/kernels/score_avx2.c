/* AVX2, FMA and F16C float64 scores: one row after the other. */
#include "core/elements.h"
#include "kernels/vector_avx2.h"

#include "kernels/score_vector.h"

/* Elements i .. i+7 of a row as two vectors of float64, absent ones zero; n of them are there. */
INLINE void read_8(__m256d out[2], const void *row, size_t i, size_t n, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) {
        const double *x = (const double *)row + i;
        double rest[8] = {0};
        if (n < 8) x = memcpy(rest, x, n * sizeof *x);
        out[0] = _mm256_loadu_pd(x);
        out[1] = _mm256_loadu_pd(x + 4);
        return;
    }
    __m256 x;
    if (dtype == RAGFAST_F32) {
        const float *from = (const float *)row + i;
        x = n < 8 ? _mm256_maskload_ps(from, first8(n)) : _mm256_loadu_ps(from);
    } else {
        const uint16_t *from = (const uint16_t *)row + i;
        uint16_t rest[8] = {0}; /* AVX2 cannot mask loads of 16 bits */
        if (n < 8) from = memcpy(rest, from, n * sizeof *from);
        x = widened_16(vec_load_16(from), dtype);
    }
    out[0] = vec_low_f64(x);
    out[1] = vec_high_f64(x);
}

/* Adds what 8 elements give to two vectors of lanes. Products of float32 are exact, so that fusing rounds once as well;
 * those of float64 and squares of differences are not, and never fused. */
INLINE void add_8(__m256d lanes[2], const void *query, const void *row, size_t i, size_t n, const ragfast_dtype dtype,
                  const int l2) {
    __m256d x[2], y[2];
    read_8(x, query, i, n, dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32);
    read_8(y, row, i, n, dtype);
    for (size_t v = 0; v < 2; v++) {
        if (l2) {
            __m256d difference = _mm256_sub_pd(x[v], y[v]);
            lanes[v] = _mm256_add_pd(lanes[v], _mm256_mul_pd(difference, difference));
        } else if (dtype == RAGFAST_F64) {
            lanes[v] = _mm256_add_pd(lanes[v], _mm256_mul_pd(x[v], y[v]));
        } else {
            lanes[v] = _mm256_fmadd_pd(x[v], y[v], lanes[v]);
        }
    }
}

INLINE double lanes_of(const void *query, const void *row, size_t dim, const ragfast_dtype dtype, const int l2) {
    __m256d lanes[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    size_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        add_8(lanes, query, row, i, 8, dtype, l2);
        add_8(lanes + 2, query, row, i + 8, 8, dtype, l2);
    }
    for (size_t half = 0; i < dim; i += 8, half += 2)
        add_8(lanes + half, query, row, i, ragfast_min(dim - i, 8), dtype, l2);
    /* lanes[v] holds lanes 4v .. 4v+3. 16 -> 8 -> 4 -> 2 -> 1, the upper half onto the lower, as in the scalar twin. */
    return vec_sum_f64(_mm256_add_pd(_mm256_add_pd(lanes[0], lanes[2]), _mm256_add_pd(lanes[1], lanes[3])));
}

INLINE double inner(const void *a, const void *b, size_t dim, const ragfast_dtype dtype) {
    return lanes_of(a, b, dim, dtype, 0);
}

/* Into the second-level cache, as the first has too few places for lines on their way. */
INLINE void fetch(const void *row, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)row + i, _MM_HINT_T1);
}

INLINE void score_rows(double *out, const void *query, const void *const *rows, size_t n, const void *const *ahead,
                       size_t n_ahead, size_t dim, const ragfast_dtype dtype, const int l2) {
    for (size_t j = 0; j < n; j++) {
        if (j < n_ahead) fetch(ahead[j], dim * ragfast_element_size(dtype));
        double sum = lanes_of(query, rows[j], dim, dtype, l2);
        out[j] = l2 ? 0 - sum : sum;
    }
}

void ragfast_score_fill_avx2(ragfast_kernels *table) { fill_score(table); }
