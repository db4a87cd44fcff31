/* The vector vocabulary: a few types and functions in which the code that instruction-set levels share is written once, in
 * <operation>_vector.h. vector_<level>.h defines them for a level. What is genuinely different, such as the blocking of
 * registers, tables, permutations, and anything that only one level does, stays in <operation>_<level>.c, in intrinsics.
 *
 * Compilers: GCC and clang. Types are vectors of theirs, so C's operators work on them: + - * / on floats (never fused: the
 * core is compiled with -ffp-contract=off), + - << >> & | ~ on integers, a scalar operand standing for a vector of it, and a
 * cast between vectors of one size, which keeps the bits. Not the operator ?: between vectors, whose types may differ.
 *
 *   vec_f32, vec_f64          a register of float32, of float64; LANES_F32 = 2 LANES_F64 elements
 *   vec_u32, vec_i32, vec_u64 the same register as integers
 *   vec_16                    LANES_F32 elements of 16 bits, half a register
 *   mask_f32, mask_f64        what a comparison yields, for | & ~
 *   lanes_f32, lanes_f64      which lanes are in use: first_f32(n) the first n, all of them if n is larger. It is a number or a
 *                             mask, as the level's loads prefer; mask_of_f32(lanes) is always a mask
 *
 *   vec_set_T(x)              x in every lane. Zero is (vec_T){0}
 *   vec_load_T(p)             unaligned; vec_load_u32 takes any pointer, vec_load_widened loads LANES_F64 of float32
 *   vec_load_first_T(p, lanes)      other lanes are 0 and their memory is not touched
 *   vec_store_T(p, x), vec_store_first_T(p, lanes, x), vec_store_first_narrowed(p, lanes, x), of float64 to float32
 *   vec_stream_u32(p, x)      past the caches, to an aligned p; vec_stream_end() before others may read it
 *
 *   vec_fma_T(a, b, c)        a b + c, rounded once; vec_fms_T: a b - c; vec_fnma_f64: c - a b
 *   vec_max_T(a, b)           b where either is NaN; also of integers, vec_max_i32 and vec_max_i16
 *   vec_abs_T(x)
 *   vec_less_T(a, b)          false for NaN; vec_not_less_f32 true for NaN; vec_equal_f64; vec_is_nan_T
 *   vec_where_T(mask, x)      x where mask, else 0; vec_unless_f64: the contrary
 *   vec_select_T(mask, a, b)  a where mask, else b
 *   vec_any_f32(mask, lanes)  nonzero if any lane in use holds; lanes that are not in use may count. vec_any_greater_i32(a, b)
 *   vec_count_f64(mask)       how many lanes hold
 *
 *   vec_low_f64(x), vec_high_f64(x)   the lower, the upper half of a vec_f32, widened
 *   vec_narrow_f64(x)         rounded to float32, in the lower half of a vec_f32; narrow_lanes(lanes) are its lanes
 *   vec_widen_f16(h), vec_widen_bf16(h), vec_narrow_f16(x)   exact, exact (a NaN stays one), to nearest
 *   vec_upper_16(x)           the upper halves of 32-bit elements
 *   vec_join_16(a, b)         a, then b; vec_blend_16(a, b): even 16-bit elements of a, odd ones of b
 *   vec_from_u64(x)           float64 of integers below 2^51
 *   vec_scale_f64(x, n)       x 2^n, n whole, denormal results rounded once or twice
 *   vec_sum_f64(x), vec_highest_f32(x), vec_highest_f64(x)   over all lanes, in an order of the level's own
 *
 *   LEVEL(name)               the name with the level's suffix, for the functions that go into the kernel table */
#ifndef RAGFAST_VECTOR_H
#define RAGFAST_VECTOR_H

#define INLINE static inline __attribute__((always_inline))

#endif
