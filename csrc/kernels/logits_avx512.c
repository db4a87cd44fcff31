/* AVX-512 over logits. Contracts: core/kernels.h. */
#include "kernels/vector_avx512.h"

#include "kernels/lse_math.h"

/* b^x 2^-exponent with b = 2^LSE_LOG2E_F32 is 2^(n / 32) 2^(f / 32), n whole, |f| <= 1/2. n comes to stand in the low bits of
 * x c + round, with the bias of an exponent; its lower five select from the table. The polynomial is a square and a
 * constant, (f + 46)^2 + c, times LSE_SQUARE_UNIT 2^-12: one multiplication less than a polynomial of degree 2 as it comes
 * (multiplications are what limits all this), and an error of 1.3e-7 instead of 0.5e-7. */
typedef struct powers {
    __m512 c, round, round_f;
    __m512i table[2];
} powers;

INLINE powers powers_of(int exponent) {
    const float round = LSE_ROUND_F32 + 32 * (127 - 12 - (float)exponent);
    return (powers){_mm512_set1_ps(32 * LSE_LOG2E_F32),
                    _mm512_set1_ps(round),
                    _mm512_set1_ps(round + LSE_SQUARE_CENTER),
                    {_mm512_loadu_si512(lse_power_32), _mm512_loadu_si512(lse_power_32 + 16)}};
}

/* Four vectors of powers, each as scale[j] * rest[j] * LSE_SQUARE_UNIT. Step by step for all four, in the order that the
 * compiler keeps: an out-of-order window does not reach over so many instructions. */
INLINE void power_block(__m512 scale[4], __m512 rest[4], const __m512 x[4], const powers *b) {
    __m512 z[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) z[j] = _mm512_fmadd_ps(x[j], b->c, b->round);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm512_fmsub_ps(x[j], b->c, _mm512_sub_ps(z[j], b->round_f));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i bits = _mm512_castps_si512(z[j]);
        __m512i fraction = _mm512_permutex2var_epi32(b->table[0], bits, b->table[1]);
        scale[j] = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(bits, 18), fraction));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm512_fmadd_ps(rest[j], rest[j], _mm512_set1_ps(LSE_SQUARE_C));
}

static const double power_unit = LSE_SQUARE_UNIT;

#include "kernels/logits_vector.h"

void ragfast_logits_fill_avx512(ragfast_kernels *table) { fill_logits(table); }
