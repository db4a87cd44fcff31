/* The vocabulary of vector.h on AVX2, FMA and F16C. */
#ifndef RAGFAST_VECTOR_AVX2_H
#define RAGFAST_VECTOR_AVX2_H

#include "core/kernels.h"
#include "kernels/vector.h"

#include <immintrin.h>
#include <string.h>

#define LEVEL(name) name##_avx2

enum { LANES_F32 = 8, LANES_F64 = 4 };

typedef __m256 vec_f32;
typedef __m256d vec_f64;
typedef uint32_t vec_u32 __attribute__((vector_size(32)));
typedef int32_t vec_i32 __attribute__((vector_size(32)));
typedef uint64_t vec_u64 __attribute__((vector_size(32)));
typedef __m128i vec_16;
typedef vec_u32 mask_f32;
typedef vec_u64 mask_f64;
typedef size_t lanes_f32, lanes_f64; /* how many: whole loads and stores are cheaper than masked ones */

/* A window over these is a mask of the first n lanes. */
static const int32_t ones_then_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

INLINE lanes_f32 first_f32(size_t n) { return n; }
INLINE lanes_f64 first_f64(size_t n) { return n; }
INLINE lanes_f32 narrow_lanes(lanes_f64 n) { return ragfast_min(n, 4); }

INLINE __m256i first8(size_t n) {
    return _mm256_loadu_si256((const __m256i *)(ones_then_zeros + 8 - ragfast_min(n, 8)));
}
INLINE __m128i first4_of_32(size_t n) {
    return _mm_loadu_si128((const __m128i *)(ones_then_zeros + 8 - ragfast_min(n, 4)));
}
INLINE __m256i first4(size_t n) { return _mm256_cvtepi32_epi64(first4_of_32(n)); }
INLINE mask_f32 mask_of_f32(lanes_f32 n) { return (mask_f32)first8(n); }
INLINE mask_f64 mask_of_f64(lanes_f64 n) { return (mask_f64)first4(n); }

INLINE vec_f32 vec_set_f32(float x) { return _mm256_set1_ps(x); }
INLINE vec_f64 vec_set_f64(double x) { return _mm256_set1_pd(x); }

/* ---- loads and stores -------------------------------------------------------------------------------------------- */

INLINE vec_f32 vec_load_f32(const float *x) { return _mm256_loadu_ps(x); }
INLINE vec_f64 vec_load_f64(const double *x) { return _mm256_loadu_pd(x); }
INLINE vec_f64 vec_load_widened(const float *x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
INLINE vec_16 vec_load_16(const uint16_t *x) { return _mm_loadu_si128((const __m128i *)x); }
INLINE vec_u32 vec_load_u32(const void *x) { return (vec_u32)_mm256_loadu_si256(x); }

INLINE vec_f32 vec_load_first_f32(const float *x, lanes_f32 n) {
    return n >= 8 ? vec_load_f32(x) : _mm256_maskload_ps(x, first8(n));
}
INLINE vec_f64 vec_load_first_f64(const double *x, lanes_f64 n) {
    return n >= 4 ? vec_load_f64(x) : _mm256_maskload_pd(x, first4(n));
}
INLINE vec_f64 vec_load_first_widened(const float *x, lanes_f64 n) {
    return n >= 4 ? vec_load_widened(x) : _mm256_cvtps_pd(_mm_maskload_ps(x, first4_of_32(n)));
}
INLINE vec_16 vec_load_first_16(const uint16_t *x, lanes_f32 n) { /* AVX2 cannot mask loads of 16 bits */
    if (n >= 8) return vec_load_16(x);
    vec_16 some = {0};
    memcpy(&some, x, n * sizeof *x);
    return some;
}

INLINE void vec_store_f32(float *out, vec_f32 x) { _mm256_storeu_ps(out, x); }
INLINE void vec_store_f64(double *out, vec_f64 x) { _mm256_storeu_pd(out, x); }
INLINE void vec_store_u32(void *out, vec_u32 x) { _mm256_storeu_si256(out, (__m256i)x); }
INLINE void vec_stream_u32(void *out, vec_u32 x) { _mm256_stream_si256(out, (__m256i)x); }
INLINE void vec_stream_end(void) { _mm_sfence(); }

INLINE void vec_store_first_f32(float *out, lanes_f32 n, vec_f32 x) {
    if (n >= 8)
        vec_store_f32(out, x);
    else
        _mm256_maskstore_ps(out, first8(n), x);
}
INLINE void vec_store_first_f64(double *out, lanes_f64 n, vec_f64 x) {
    if (n >= 4)
        vec_store_f64(out, x);
    else
        _mm256_maskstore_pd(out, first4(n), x);
}
INLINE void vec_store_first_narrowed(float *out, lanes_f64 n, vec_f64 x) {
    if (n >= 4)
        _mm_storeu_ps(out, _mm256_cvtpd_ps(x));
    else
        _mm_maskstore_ps(out, first4_of_32(n), _mm256_cvtpd_ps(x));
}
INLINE void vec_store_first_16(uint16_t *out, lanes_f32 n, vec_16 x) {
    memcpy(out, &x, ragfast_min(n, 8) * sizeof *out);
}

/* ---- arithmetic and comparisons ---------------------------------------------------------------------------------- */

INLINE vec_f32 vec_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec_f32 vec_fms_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fmsub_ps(a, b, c); }
INLINE vec_f64 vec_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fmadd_pd(a, b, c); }
INLINE vec_f64 vec_fms_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fmsub_pd(a, b, c); }
INLINE vec_f64 vec_fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fnmadd_pd(a, b, c); }
INLINE vec_f32 vec_max_f32(vec_f32 a, vec_f32 b) { return _mm256_max_ps(a, b); }
INLINE vec_f64 vec_max_f64(vec_f64 a, vec_f64 b) { return _mm256_max_pd(a, b); }
INLINE vec_u32 vec_max_i32(vec_u32 a, vec_u32 b) { return (vec_u32)_mm256_max_epi32((__m256i)a, (__m256i)b); }
INLINE vec_u32 vec_max_i16(vec_u32 a, vec_u32 b) { return (vec_u32)_mm256_max_epi16((__m256i)a, (__m256i)b); }
INLINE vec_f32 vec_abs_f32(vec_f32 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE vec_f64 vec_abs_f64(vec_f64 x) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x); }

INLINE mask_f32 vec_less_f32(vec_f32 a, vec_f32 b) { return (mask_f32)_mm256_cmp_ps(a, b, _CMP_LT_OQ); }
INLINE mask_f32 vec_not_less_f32(vec_f32 a, vec_f32 b) { return (mask_f32)_mm256_cmp_ps(a, b, _CMP_NLT_UQ); }
INLINE mask_f32 vec_is_nan_f32(vec_f32 x) { return (mask_f32)_mm256_cmp_ps(x, x, _CMP_UNORD_Q); }
INLINE mask_f64 vec_less_f64(vec_f64 a, vec_f64 b) { return (mask_f64)_mm256_cmp_pd(a, b, _CMP_LT_OQ); }
INLINE mask_f64 vec_equal_f64(vec_f64 a, vec_f64 b) { return (mask_f64)_mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
INLINE mask_f64 vec_is_nan_f64(vec_f64 x) { return (mask_f64)_mm256_cmp_pd(x, x, _CMP_UNORD_Q); }
INLINE vec_f32 vec_where_f32(mask_f32 mask, vec_f32 x) { return _mm256_and_ps((__m256)mask, x); }
INLINE vec_f64 vec_where_f64(mask_f64 mask, vec_f64 x) { return _mm256_and_pd((__m256d)mask, x); }
INLINE vec_f64 vec_unless_f64(mask_f64 mask, vec_f64 x) { return _mm256_andnot_pd((__m256d)mask, x); }
INLINE vec_f32 vec_select_f32(mask_f32 mask, vec_f32 a, vec_f32 b) { return _mm256_blendv_ps(b, a, (__m256)mask); }
INLINE vec_f64 vec_select_f64(mask_f64 mask, vec_f64 a, vec_f64 b) { return _mm256_blendv_pd(b, a, (__m256d)mask); }
INLINE int vec_any_f32(mask_f32 mask, lanes_f32 n) { return (void)n, _mm256_movemask_ps((__m256)mask); }
INLINE int vec_any_greater_i32(vec_u32 a, vec_u32 b) {
    return _mm256_movemask_epi8((__m256i)((vec_i32)a > (vec_i32)b));
}
INLINE size_t vec_count_f64(mask_f64 mask) {
    return (size_t)__builtin_popcount((unsigned)_mm256_movemask_pd((__m256d)mask));
}

/* ---- conversions ------------------------------------------------------------------------------------------------- */

INLINE vec_f64 vec_low_f64(vec_f32 x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
INLINE vec_f64 vec_high_f64(vec_f32 x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
INLINE vec_f32 vec_narrow_f64(vec_f64 x) { return _mm256_castps128_ps256(_mm256_cvtpd_ps(x)); }
INLINE vec_f32 vec_widen_f16(vec_16 x) { return _mm256_cvtph_ps(x); } /* disregards DAZ */
INLINE vec_f32 vec_widen_bf16(vec_16 x) { return (vec_f32)((vec_u32)_mm256_cvtepu16_epi32(x) << 16); }
INLINE vec_16 vec_narrow_f16(vec_f32 x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec_16 vec_upper_16(vec_u32 x) {
    const __m256i upper = (__m256i)(x >> 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}
INLINE vec_u32 vec_join_16(vec_16 a, vec_16 b) { return (vec_u32)_mm256_set_m128i(b, a); }
INLINE vec_u32 vec_blend_16(vec_u32 a, vec_u32 b) { return (vec_u32)_mm256_blend_epi16((__m256i)a, (__m256i)b, 0xaa); }
INLINE vec_f64 vec_from_u64(vec_u64 x) { /* AVX2 has no such conversion */
    const vec_f64 two_52 = _mm256_set1_pd(0x1.8p52);
    return (vec_f64)(x + (vec_u64)two_52) - two_52;
}

INLINE vec_f64 power_of_2(__m128i n) {
    return (vec_f64)_mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm_add_epi32(n, _mm_set1_epi32(1023))), 52);
}
INLINE vec_f64 vec_scale_f64(vec_f64 x, vec_f64 n) { /* in two halves, for a power may be denormal */
    const __m128i whole = _mm256_cvtpd_epi32(n), half = _mm_srai_epi32(whole, 1);
    return x * power_of_2(half) * power_of_2(_mm_sub_epi32(whole, half));
}

/* ---- over all lanes ---------------------------------------------------------------------------------------------- */

INLINE double vec_sum_f64(vec_f64 x) {
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
INLINE float vec_highest_f32(vec_f32 x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
INLINE double vec_highest_f64(vec_f64 x) {
    __m128d two = _mm_max_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

#endif
