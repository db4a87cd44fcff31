/* The vocabulary of vector.h on AVX-512 F, BW, DQ and VL. */
#ifndef RAGFAST_VECTOR_AVX512_H
#define RAGFAST_VECTOR_AVX512_H

#include "core/kernels.h"
#include "kernels/vector.h"

#include <immintrin.h>

#define LEVEL(name) name##_avx512

enum { LANES_F32 = 16, LANES_F64 = 8 };

typedef __m512 vec_f32;
typedef __m512d vec_f64;
typedef uint32_t vec_u32 __attribute__((vector_size(64)));
typedef int32_t vec_i32 __attribute__((vector_size(64)));
typedef uint64_t vec_u64 __attribute__((vector_size(64)));
typedef __m256i vec_16;
typedef __mmask16 mask_f32, lanes_f32;
typedef __mmask8 mask_f64, lanes_f64;

INLINE lanes_f32 first_f32(size_t n) { return n < 16 ? (__mmask16)((1u << n) - 1u) : (__mmask16)0xffff; }
INLINE lanes_f64 first_f64(size_t n) { return n < 8 ? (__mmask8)((1u << n) - 1u) : (__mmask8)0xff; }
INLINE lanes_f32 narrow_lanes(lanes_f64 lanes) { return lanes; }
INLINE mask_f32 mask_of_f32(lanes_f32 lanes) { return lanes; }
INLINE mask_f64 mask_of_f64(lanes_f64 lanes) { return lanes; }

INLINE vec_f32 vec_set_f32(float x) { return _mm512_set1_ps(x); }
INLINE vec_f64 vec_set_f64(double x) { return _mm512_set1_pd(x); }

/* ---- loads and stores -------------------------------------------------------------------------------------------- */

INLINE vec_f32 vec_load_f32(const float *x) { return _mm512_loadu_ps(x); }
INLINE vec_f64 vec_load_f64(const double *x) { return _mm512_loadu_pd(x); }
INLINE vec_f64 vec_load_widened(const float *x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }
INLINE vec_16 vec_load_16(const uint16_t *x) { return _mm256_loadu_si256((const __m256i *)x); }
INLINE vec_u32 vec_load_u32(const void *x) { return (vec_u32)_mm512_loadu_si512(x); }

INLINE vec_f32 vec_load_first_f32(const float *x, lanes_f32 lanes) { return _mm512_maskz_loadu_ps(lanes, x); }
INLINE vec_f64 vec_load_first_f64(const double *x, lanes_f64 lanes) { return _mm512_maskz_loadu_pd(lanes, x); }
INLINE vec_f64 vec_load_first_widened(const float *x, lanes_f64 lanes) {
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(lanes, x));
}
INLINE vec_16 vec_load_first_16(const uint16_t *x, lanes_f32 lanes) { return _mm256_maskz_loadu_epi16(lanes, x); }

INLINE void vec_store_f32(float *out, vec_f32 x) { _mm512_storeu_ps(out, x); }
INLINE void vec_store_f64(double *out, vec_f64 x) { _mm512_storeu_pd(out, x); }
INLINE void vec_store_u32(void *out, vec_u32 x) { _mm512_storeu_si512(out, (__m512i)x); }
INLINE void vec_stream_u32(void *out, vec_u32 x) { _mm512_stream_si512(out, (__m512i)x); }
INLINE void vec_stream_end(void) { _mm_sfence(); }

INLINE void vec_store_first_f32(float *out, lanes_f32 lanes, vec_f32 x) { _mm512_mask_storeu_ps(out, lanes, x); }
INLINE void vec_store_first_f64(double *out, lanes_f64 lanes, vec_f64 x) { _mm512_mask_storeu_pd(out, lanes, x); }
INLINE void vec_store_first_narrowed(float *out, lanes_f64 lanes, vec_f64 x) {
    _mm256_mask_storeu_ps(out, lanes, _mm512_cvtpd_ps(x));
}
INLINE void vec_store_first_16(uint16_t *out, lanes_f32 lanes, vec_16 x) { _mm256_mask_storeu_epi16(out, lanes, x); }

/* ---- arithmetic and comparisons ---------------------------------------------------------------------------------- */

INLINE vec_f32 vec_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec_f32 vec_fms_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fmsub_ps(a, b, c); }
INLINE vec_f64 vec_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fmadd_pd(a, b, c); }
INLINE vec_f64 vec_fms_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fmsub_pd(a, b, c); }
INLINE vec_f64 vec_fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fnmadd_pd(a, b, c); }
INLINE vec_f32 vec_max_f32(vec_f32 a, vec_f32 b) { return _mm512_max_ps(a, b); }
INLINE vec_f64 vec_max_f64(vec_f64 a, vec_f64 b) { return _mm512_max_pd(a, b); }
INLINE vec_u32 vec_max_i32(vec_u32 a, vec_u32 b) { return (vec_u32)_mm512_max_epi32((__m512i)a, (__m512i)b); }
INLINE vec_u32 vec_max_i16(vec_u32 a, vec_u32 b) { return (vec_u32)_mm512_max_epi16((__m512i)a, (__m512i)b); }
INLINE vec_f32 vec_abs_f32(vec_f32 x) { return _mm512_abs_ps(x); }
INLINE vec_f64 vec_abs_f64(vec_f64 x) { return _mm512_abs_pd(x); }

INLINE mask_f32 vec_less_f32(vec_f32 a, vec_f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE mask_f32 vec_not_less_f32(vec_f32 a, vec_f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
INLINE mask_f32 vec_is_nan_f32(vec_f32 x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
INLINE mask_f64 vec_less_f64(vec_f64 a, vec_f64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
INLINE mask_f64 vec_equal_f64(vec_f64 a, vec_f64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
INLINE mask_f64 vec_is_nan_f64(vec_f64 x) { return _mm512_cmp_pd_mask(x, x, _CMP_UNORD_Q); }
INLINE vec_f32 vec_where_f32(mask_f32 mask, vec_f32 x) { return _mm512_maskz_mov_ps(mask, x); }
INLINE vec_f64 vec_where_f64(mask_f64 mask, vec_f64 x) { return _mm512_maskz_mov_pd(mask, x); }
INLINE vec_f64 vec_unless_f64(mask_f64 mask, vec_f64 x) { return _mm512_maskz_mov_pd((mask_f64)~mask, x); }
INLINE vec_f32 vec_select_f32(mask_f32 mask, vec_f32 a, vec_f32 b) { return _mm512_mask_mov_ps(b, mask, a); }
INLINE vec_f64 vec_select_f64(mask_f64 mask, vec_f64 a, vec_f64 b) { return _mm512_mask_mov_pd(b, mask, a); }
INLINE int vec_any_f32(mask_f32 mask, lanes_f32 lanes) { return mask & lanes; }
INLINE int vec_any_greater_i32(vec_u32 a, vec_u32 b) { return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b); }
INLINE size_t vec_count_f64(mask_f64 mask) { return (size_t)__builtin_popcount(mask); }

/* ---- conversions ------------------------------------------------------------------------------------------------- */

INLINE vec_f64 vec_low_f64(vec_f32 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
INLINE vec_f64 vec_high_f64(vec_f32 x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
INLINE vec_f32 vec_narrow_f64(vec_f64 x) { return _mm512_castps256_ps512(_mm512_cvtpd_ps(x)); }
INLINE vec_f32 vec_widen_f16(vec_16 x) { return _mm512_cvtph_ps(x); } /* disregards DAZ */
INLINE vec_f32 vec_widen_bf16(vec_16 x) { return (vec_f32)((vec_u32)_mm512_cvtepu16_epi32(x) << 16); }
INLINE vec_16 vec_narrow_f16(vec_f32 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec_16 vec_upper_16(vec_u32 x) { return _mm512_cvtepi32_epi16((__m512i)(x >> 16)); }
INLINE vec_u32 vec_join_16(vec_16 a, vec_16 b) { return (vec_u32)_mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1); }
INLINE vec_u32 vec_blend_16(vec_u32 a, vec_u32 b) {
    return (vec_u32)_mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)a, (__m512i)b);
}
INLINE vec_f64 vec_from_u64(vec_u64 x) { return _mm512_cvtepi64_pd((__m512i)x); }
INLINE vec_f64 vec_scale_f64(vec_f64 x, vec_f64 n) { return _mm512_scalef_pd(x, n); }

/* ---- over all lanes ---------------------------------------------------------------------------------------------- */

INLINE double vec_sum_f64(vec_f64 x) { return _mm512_reduce_add_pd(x); }
INLINE float vec_highest_f32(vec_f32 x) { return _mm512_reduce_max_ps(x); }
INLINE double vec_highest_f64(vec_f64 x) { return _mm512_reduce_max_pd(x); }

#endif
