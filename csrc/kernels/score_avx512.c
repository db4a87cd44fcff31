/* AVX-512 float64 scores: rows side by side. */
#include "kernels/vector_avx512.h"

#include "kernels/score_vector.h"

enum { ROWS = RAGFAST_SCORED_ROWS };

/* Elements i .. i+15 of a row as two vectors of float64, absent ones zero. */
INLINE void read_16(__m512d *low, __m512d *high, const void *row, size_t i, __mmask16 there, const int all,
                    const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) {
        const double *x = (const double *)row + i;
        *low = all ? _mm512_loadu_pd(x) : _mm512_maskz_loadu_pd((__mmask8)there, x);
        *high = all ? _mm512_loadu_pd(x + 8) : _mm512_maskz_loadu_pd((__mmask8)(there >> 8), x + 8);
        return;
    }
    __m512 x;
    if (dtype == RAGFAST_F32) {
        const float *from = (const float *)row + i;
        x = all ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(there, from);
    } else {
        const uint16_t *from = (const uint16_t *)row + i;
        x = widened_16(all ? vec_load_16(from) : vec_load_first_16(from, there), dtype);
    }
    *low = vec_low_f64(x);
    *high = vec_high_f64(x);
}

/* Products of float32 are exact, so that fusing rounds once as well; those of float64 and squares of differences are not,
 * and never fused. */
INLINE __m512d added(__m512d lanes, __m512d x, __m512d y, const ragfast_dtype dtype, const int l2) {
    if (l2) {
        __m512d difference = _mm512_sub_pd(x, y);
        return _mm512_add_pd(lanes, _mm512_mul_pd(difference, difference));
    }
    return dtype == RAGFAST_F64 ? _mm512_add_pd(lanes, _mm512_mul_pd(x, y)) : _mm512_fmadd_pd(x, y, lanes);
}

/* 16 -> 8 -> 4 -> 2 -> 1, the upper half onto the lower: the order of the scalar twin. */
INLINE double sum_lanes(__m512d low, __m512d high) {
    __m512d eight = _mm512_add_pd(low, high);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

/* n, dtype, l2 and fetches are constants where inlined. Rows side by side, each with the lines of one that comes next: more
 * of them are on their way from memory than where a row is fetched, or scored, after the other. In ms, 10,000 rows of 3 KB
 * out of 3 GB: 2.0; fetched three rows ahead in one go 2.9, not fetched at all 2.7, one row at a time 5.9. */
INLINE void score(double *out, const void *query, const void *const *rows, const void *const *ahead, size_t dim,
                  const size_t n, const ragfast_dtype dtype, const int l2, const int fetches) {
    const size_t element = dtype == RAGFAST_F64 ? 8 : dtype == RAGFAST_F32 ? 4 : 2;
    __m512d low[ROWS], high[ROWS], query_low, query_high, row_low, row_high;
#pragma GCC unroll 8
    for (size_t j = 0; j < n; j++) low[j] = high[j] = _mm512_setzero_pd();
    size_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        read_16(&query_low, &query_high, query, i, 0, 1, dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32);
#pragma GCC unroll 8
        for (size_t j = 0; j < n; j++) {
            if (fetches) _mm_prefetch((const char *)ahead[j] + i * element, _MM_HINT_T1);
            if (fetches && element == 8) _mm_prefetch((const char *)ahead[j] + i * element + 64, _MM_HINT_T1);
            read_16(&row_low, &row_high, rows[j], i, 0, 1, dtype);
            low[j] = added(low[j], query_low, row_low, dtype, l2);
            high[j] = added(high[j], query_high, row_high, dtype, l2);
        }
    }
    if (i < dim) {
        __mmask16 rest = first_f32(dim % 16);
        read_16(&query_low, &query_high, query, i, rest, 0, dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32);
#pragma GCC unroll 8
        for (size_t j = 0; j < n; j++) {
            read_16(&row_low, &row_high, rows[j], i, rest, 0, dtype);
            low[j] = added(low[j], query_low, row_low, dtype, l2);
            high[j] = added(high[j], query_high, row_high, dtype, l2);
        }
    }
#pragma GCC unroll 8
    for (size_t j = 0; j < n; j++) {
        double sum = sum_lanes(low[j], high[j]);
        out[j] = l2 ? 0 - sum : sum;
    }
}

INLINE double inner(const void *a, const void *b, size_t dim, const ragfast_dtype dtype) {
    double sum;
    score(&sum, a, (const void *const[]){b}, NULL, dim, 1, dtype, 0, 0);
    return sum;
}

/* Few rows one by one; from some on, a row that is scored twice costs less. */
INLINE void score_rows(double *out, const void *query, const void *const *rows, size_t n, const void *const *ahead,
                       size_t n_ahead, size_t dim, const ragfast_dtype dtype, const int l2) {
    enum { FEW = 3 };
    if (n <= FEW) {
        for (size_t j = 0; j < n; j++) score(out + j, query, rows + j, NULL, dim, 1, dtype, l2, 0);
        return;
    }
    const void *all[ROWS], *next[ROWS];
    double scores[ROWS];
    for (size_t j = 0; j < ROWS; j++) {
        all[j] = rows[ragfast_min(j, n - 1)];
        next[j] = j < n_ahead ? ahead[j] : all[j];
    }
    if (n_ahead)
        score(scores, query, all, next, dim, ROWS, dtype, l2, 1);
    else
        score(scores, query, all, next, dim, ROWS, dtype, l2, 0);
    for (size_t j = 0; j < n; j++) out[j] = scores[j];
}

void ragfast_score_fill_avx512(ragfast_kernels *table) { fill_score(table); }
