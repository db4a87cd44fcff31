/* AVX2 over logits. Contracts: core/kernels.h. */
#include "kernels/vector_avx2.h"

#include "kernels/lse_math.h"

/* b^x 2^-exponent with b = 2^LSE_LOG2E_F32 is 2^(n / 8) 2^(f / 8), n whole, |f| <= 1/2. n comes to stand in the low bits of
 * x c + round, with the bias of an exponent; its lower three select from the table. */
typedef struct powers {
    __m256 c, round;
    __m256i table;
} powers;

INLINE powers powers_of(int exponent) {
    return (powers){_mm256_set1_ps(8 * LSE_LOG2E_F32), _mm256_set1_ps(LSE_ROUND_F32 + 8 * (127 - (float)exponent)),
                    _mm256_loadu_si256((const __m256i *)lse_power_8)};
}

/* Four vectors of powers, each as scale[j] * rest[j], step by step for all four. */
INLINE void power_block(__m256 scale[4], __m256 rest[4], const __m256 x[4], const powers *b) {
    __m256 z[4], f[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) z[j] = _mm256_fmadd_ps(x[j], b->c, b->round);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) f[j] = _mm256_fmsub_ps(x[j], b->c, _mm256_sub_ps(z[j], b->round));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256i bits = _mm256_castps_si256(z[j]);
        __m256i fraction = _mm256_permutevar8x32_epi32(b->table, bits);
        scale[j] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(bits, 20), fraction));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        rest[j] = _mm256_fmadd_ps(f[j], _mm256_set1_ps(lse_power_8_c[3]), _mm256_set1_ps(lse_power_8_c[2]));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm256_fmadd_ps(rest[j], f[j], _mm256_set1_ps(lse_power_8_c[1]));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) rest[j] = _mm256_fmadd_ps(rest[j], f[j], _mm256_set1_ps(lse_power_8_c[0]));
}

static const double power_unit = 1;

#include "kernels/logits_vector.h"

void ragfast_logits_fill_avx2(ragfast_kernels *table) { fill_logits(table); }
