/* Vectors of elements of any dtype, which is a constant wherever these are inlined; i is the first element's number. */
#ifndef RAGFAST_ELEMENTS_VECTOR_H
#define RAGFAST_ELEMENTS_VECTOR_H

INLINE vec_f32 widened_16(vec_16 x, const ragfast_dtype dtype) {
    return dtype == RAGFAST_F16 ? vec_widen_f16(x) : vec_widen_bf16(x);
}

/* A vector of any dtype but float64. */
INLINE vec_f32 load_f32(const void *x, size_t i, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32) return vec_load_f32((const float *)x + i);
    return widened_16(vec_load_16((const uint16_t *)x + i), dtype);
}
INLINE vec_f32 load_first_f32(const void *x, size_t i, lanes_f32 lanes, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32) return vec_load_first_f32((const float *)x + i, lanes);
    return widened_16(vec_load_first_16((const uint16_t *)x + i, lanes), dtype);
}

/* The upper half of the sum is the nearest bfloat16, ties to even. A NaN must have its lower half 0, or nearly. */
INLINE vec_u32 round_to_bf16(vec_f32 x) {
    const vec_u32 bits = (vec_u32)x;
    return bits + 0x7fff + (bits >> 16 & 1);
}

INLINE void store_first_f32(void *out, size_t i, lanes_f32 lanes, vec_f32 x, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32)
        vec_store_first_f32((float *)out + i, lanes, x);
    else
        vec_store_first_16((uint16_t *)out + i, lanes,
                           dtype == RAGFAST_F16 ? vec_narrow_f16(x) : vec_upper_16(round_to_bf16(x)));
}

/* As float64, of any dtype. */
INLINE vec_f64 load_first_f64(const void *x, size_t i, lanes_f64 lanes, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return vec_load_first_f64((const double *)x + i, lanes);
    if (dtype == RAGFAST_F32) return vec_load_first_widened((const float *)x + i, lanes);
    return vec_low_f64(load_first_f32(x, i, narrow_lanes(lanes), dtype));
}
INLINE void store_first_f64(void *out, size_t i, lanes_f64 lanes, vec_f64 x, const ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64)
        vec_store_first_f64((double *)out + i, lanes, x);
    else if (dtype == RAGFAST_F32)
        vec_store_first_narrowed((float *)out + i, lanes, x);
    else
        store_first_f32(out, i, narrow_lanes(lanes), vec_narrow_f64(x), dtype);
}

#endif
