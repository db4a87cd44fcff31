/* Constants of exp and log for the lse kernels that have no C library to call. The polynomials are Chebyshev
 * interpolants calculated for this file in 300-bit arithmetic; the errors are theirs, before rounding. */
#ifndef RAGFAST_LSE_MATH_H
#define RAGFAST_LSE_MATH_H

#include <math.h>

/* ln 2 in two pieces. n * HI is exact inside a fused multiply-add, so x - n * HI loses nothing and LO repairs HI. */
#define LSE_LOG2E 0x1.71547652b82fep+0
#define LSE_LN2_HI_F32 0x1.62e43p-1f
#define LSE_LN2_LO_F32 -0x1.05c61p-29f
#define LSE_LN2_HI_F64 0x1.62e42fefa39efp-1
#define LSE_LN2_LO_F64 0x1.abc9e3b39803fp-56

/* Added to |x| < 2^22 or 2^51 it leaves the nearest integer in the low bits. */
#define LSE_ROUND_F32 0x1.8p23f
#define LSE_ROUND_F64 0x1.8p52

/* exp(r) = 1 + r + r^2 (c[0] + c[1] r + ...). */
static const float lse_exp_f32[5] = {0x1p-1f, 0x1.5554dcp-3f, 0x1.55551ap-5f, 0x1.120b6ep-7f,
                                     0x1.6d110ap-10f};                      /* |r| <= ln2 / 2: 1.0e-8 */
static const float lse_exp_short_f32[2] = {0x1.000148p-1f, 0x1.55565cp-3f}; /* |r| <= ln2 / 32: 4.7e-9 */
static const double lse_exp_f64[10] = {
    0x1.0000000000001p-1,  0x1.5555555555556p-3,  0x1.5555555553d63p-5,  0x1.11111111109b3p-7,  0x1.6c16c1788bd9p-10,
    0x1.a01a01a7c41d5p-13, 0x1.a019b90d2ae7ap-16, 0x1.71de0dae63bb3p-19, 0x1.289185613a3d6p-22, 0x1.af38a9b0ec855p-26,
}; /* |r| <= ln2 / 2: 1.6e-17 */

/* log(1 + f) = 2 s + s z (c[0] + c[1] z + ...) with s = f / (2 + f), z = s^2, for 1 + f from sqrt(1/2) to sqrt(2):
 * 4.5e-18. */
static const double lse_log_f64[7] = {
    0x1.5555555555558p-1, 0x1.9999999995273p-2, 0x1.2492492dfd86cp-2, 0x1.c71c62d5e53ep-3,
    0x1.7462b91b8df65p-3, 0x1.39fdcceb4bb45p-3, 0x1.2b5f68a50d903p-3,
};
#define LSE_SQRT_HALF_BITS 0x3fe6a09e667f3bcd

/* Below the maximum by this much, an element of a float32 row is at most 2^-124 of the sum: it is taken for this. */
#define LSE_NEGLIGIBLE_F32 86.0f
/* exp of this is 0 in float64, also where -inf stood. */
#define LSE_NEGLIGIBLE_F64 -746.0

#endif
