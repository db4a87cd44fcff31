/* AVX2, FMA and F16C float64 scores. */
#include "core/elements.h"
#include "core/kernels.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* The first n < 8 lanes: a window that slides over eight ones and eight zeros. */
INLINE __m256i tail_mask(size_t n) {
    static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(window + 8 - n));
}

/* 8 floats of binary16 or bfloat16 (a constant where inlined), exactly; conversion from binary16 disregards DAZ. */
INLINE __m256 widened(__m128i x, const int bf16) {
    return bf16 ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)) : _mm256_cvtph_ps(x);
}

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
        x = n < 8 ? _mm256_maskload_ps(from, tail_mask(n)) : _mm256_loadu_ps(from);
    } else {
        const uint16_t *from = (const uint16_t *)row + i;
        uint16_t rest[8] = {0}; /* AVX2 cannot mask loads of 16 bits */
        if (n < 8) from = memcpy(rest, from, n * sizeof *from);
        x = widened(_mm_loadu_si128((const __m128i *)from), dtype == RAGFAST_BF16);
    }
    out[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
    out[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
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
    __m256d four = _mm256_add_pd(_mm256_add_pd(lanes[0], lanes[2]), _mm256_add_pd(lanes[1], lanes[3]));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

static double inner_f64_f32_avx2(const float *a, const float *b, size_t dim) {
    return lanes_of(a, b, dim, RAGFAST_F32, 0);
}

static double inner_f64_f64_avx2(const double *a, const double *b, size_t dim) {
    return lanes_of(a, b, dim, RAGFAST_F64, 0);
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

static void score_rows_avx2(double *out, const void *query, const void *const *rows, size_t n, const void *const *ahead,
                            size_t n_ahead, size_t dim, ragfast_dtype dtype, int l2) {
    switch (dtype) {
#define CASE(type)                                                                                                     \
    case type:                                                                                                         \
        if (l2)                                                                                                        \
            score_rows(out, query, rows, n, ahead, n_ahead, dim, type, 1);                                             \
        else                                                                                                           \
            score_rows(out, query, rows, n, ahead, n_ahead, dim, type, 0);                                             \
        break;
        CASE(RAGFAST_F32) CASE(RAGFAST_F64) CASE(RAGFAST_F16) CASE(RAGFAST_BF16)
#undef CASE
    }
}

INLINE void widen_16_bits(float *out, const uint16_t *x, size_t n, const int bf16) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, widened(_mm_loadu_si128((const __m128i *)(x + i)), bf16));
    if (i < n) {
        uint16_t rest[8] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *x);
        _mm256_maskstore_ps(out + i, tail_mask(n - i), widened(_mm_loadu_si128((const __m128i *)rest), bf16));
    }
}

static void widen_f16_avx2(float *out, const uint16_t *x, size_t n) { widen_16_bits(out, x, n, 0); }
static void widen_bf16_avx2(float *out, const uint16_t *x, size_t n) { widen_16_bits(out, x, n, 1); }

void ragfast_score_fill_avx2(ragfast_kernels *table) {
    table->inner_f64_f32 = inner_f64_f32_avx2;
    table->inner_f64_f64 = inner_f64_f64_avx2;
    table->score_rows = score_rows_avx2;
    table->widen_f16 = widen_f16_avx2;
    table->widen_bf16 = widen_bf16_avx2;
}
