/* Constants of exp and log for the lse kernels that have no C library to call. The polynomials are Chebyshev
 * interpolants calculated for this file in 300-bit arithmetic; the errors are theirs, before rounding. */
#ifndef RAGFAST_LSE_MATH_H
#define RAGFAST_LSE_MATH_H

#include <math.h>
#include <stdint.h>

/* Logits are raised to the base 2^LSE_LOG2E_F32: x times a float32 inside a fused multiply-add is exact, and the logarithm to
 * that base differs from the LSE by 1.34e-8 times the entropy of the row, at most ln V. */
#define LSE_LOG2E_F32 0x1.715476p+0f
/* What an exponent allows: 2^120 2^exponent, of which sixteen add up without overflow. */
#define LSE_HIGHEST_F32(exponent) ((float)((exponent) + 120) * 0x1.62e42cp-1f)
/* Far below that, 2^-113 2^exponent: what is less counts as this. */
#define LSE_LOWEST_F32(exponent) ((float)((exponent) - 113) * 0x1.62e43p-1f)

/* ln 2 in two pieces. n * HI is exact inside a fused multiply-add, so x - n * HI loses nothing and LO repairs HI. */
#define LSE_LOG2E 0x1.71547652b82fep+0
#define LSE_LN2_HI_F64 0x1.62e42fefa39efp-1
#define LSE_LN2_LO_F64 0x1.abc9e3b39803fp-56

/* Added to |x| < 2^22 or 2^51 it leaves the nearest integer in the low bits. */
#define LSE_ROUND_F32 0x1.8p23f
#define LSE_ROUND_F64 0x1.8p52

/* 2^(j/N) in bits of float32, without those that j << (23 - log2 N) and the exponent of 1 bring. */
static const uint32_t lse_power_32[32] = {
    0,          0xfffecd87, 0xfffdaac3, 0xfffc980f, 0xfffb95c2, 0xfffaa43a, 0xfff9c3d3, 0xfff8f4f0,
    0xfff837f0, 0xfff78d3a, 0xfff6f532, 0xfff67043, 0xfff5fed7, 0xfff5a15b, 0xfff5583f, 0xfff523f6,
    0xfff504f3, 0xfff4fbaf, 0xfff508a4, 0xfff52c4d, 0xfff5672a, 0xfff5b9be, 0xfff6248c, 0xfff6a81e,
    0xfff744fd, 0xfff7fbb8, 0xfff8ccdf, 0xfff9b907, 0xfffac0c7, 0xfffbe4ba, 0xfffd257d, 0xfffe83b3,
};
static const uint32_t lse_power_8[8] = {
    0, 0xfffb95c2, 0xfff837f0, 0xfff5fed7, 0xfff504f3, 0xfff5672a, 0xfff744fd, 0xfffac0c7,
};
/* Polynomials for |f| <= 1/2 and a little beyond. */
/* 2^(f/32) = LSE_SQUARE_UNIT 2^-12 ((f + CENTER)^2 + C). */
#define LSE_SQUARE_CENTER 46.0f
#define LSE_SQUARE_C 0x1.0a66bcp+11f
#define LSE_SQUARE_UNIT 0x1.edc586d99d49fp-1 /* 1.3e-7, without bias */
/* 2^(f/8) = c[0] + c[1] f + ... */
static const float lse_power_8_c[4] = {1.0f, 0x1.62e43p-4f, 0x1.ec0f92p-9f, 0x1.c6bb7ap-14f}; /* 3.8e-8 */

/* exp(r) = 1 + r + r^2 (c[0] + c[1] r + ...). */
static const double lse_exp_f64[10] = {
    0x1.0000000000001p-1,  0x1.5555555555556p-3,  0x1.5555555553d63p-5,  0x1.11111111109b3p-7,  0x1.6c16c1788bd9p-10,
    0x1.a01a01a7c41d5p-13, 0x1.a019b90d2ae7ap-16, 0x1.71de0dae63bb3p-19, 0x1.289185613a3d6p-22, 0x1.af38a9b0ec855p-26,
}; /* |r| <= ln2 / 2: 1.6e-17 */

/* 2^(f/16) for |f| <= 1/2: 1.2e-9. */
static const double lse_exp_short_f64[4] = {0x1.fffffff626a03p-1, 0x1.62e42fee4615fp-5, 0x1.ec00cca772e95p-11,
                                            0x1.c6b3488206d06p-17};
/* 2^f for |f| <= 1/2: 2.5e-9. */
static const double lse_exp2_f64[7] = {0x1.0000000000000p+0, 0x1.62e430d034702p-1, 0x1.ebfbe045f4d3cp-3,
                                       0x1.c6aecc669b6ddp-5, 0x1.3b2a1b7152befp-7, 0x1.5f48c04f62e50p-10,
                                       0x1.443fffc90db59p-13};

/* log(1 + f) = 2 s + s z (c[0] + c[1] z + ...) with s = f / (2 + f), z = s^2, for 1 + f from sqrt(1/2) to sqrt(2):
 * 4.5e-18. */
static const double lse_log_f64[7] = {
    0x1.5555555555558p-1, 0x1.9999999995273p-2, 0x1.2492492dfd86cp-2, 0x1.c71c62d5e53ep-3,
    0x1.7462b91b8df65p-3, 0x1.39fdcceb4bb45p-3, 0x1.2b5f68a50d903p-3,
};
#define LSE_SQRT_HALF_BITS 0x3fe6a09e667f3bcd
#define LSE_SQRT_HALF_BITS_F32 0x3f3504f3

/* exp of this is 0 in float64, also where -inf stood. */
#define LSE_NEGLIGIBLE_F64 -746.0

#endif
