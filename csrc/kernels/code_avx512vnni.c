/* AVX-512 VNNI codes. THE HOT LOOPS of retrieval are high_block (few queries) and codes_block (many) below.
 *
 * Lanes are documents: a step of 32 documents is two vectors, four bytes of a query are broadcast to all lanes, and
 * vpdpbusd, unsigned codes times signed queries, adds their four products to each: no lane is ever crossed, nothing
 * saturates. Numbers are of one Zen 4 core, whose peak is 467 GOP/s: one vpdpbusd a cycle. */
#include "core/kernels.h"

#include <immintrin.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    STEP = 4 * PANEL, /* bytes of a step, and of a row of a plane */
    DENSE_QUERIES = 8,
    DENSE_BYTES = 1 << 14, /* half of the first-level cache */
    GAPS_AHEAD = 4,        /* panels */
    DENSE_PANELS = 4,      /* as many repay the copy */
    NEAR_GROUPS = 24       /* two panels of them fill the first-level cache to three quarters */
};

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask16 tail_mask(size_t n) { return n < 16 ? (__mmask16)((1u << n) - 1u) : (__mmask16)0xffff; }

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

static float center_f32_avx512vnni(float *y, const float *x, const float *center, const float *weight, size_t dim) {
    __m512i max = _mm512_setzero_si512(); /* of bits without sign: ordered as their floats, NaN above all */
    for (size_t e = 0; e < dim; e += 16) {
        __mmask16 lanes = tail_mask(dim - e);
        __m512 v = _mm512_maskz_loadu_ps(lanes, x + e);
        if (center) v = _mm512_sub_ps(v, _mm512_maskz_loadu_ps(lanes, center + e));
        if (weight) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, weight + e));
        _mm512_mask_storeu_ps(y + e, lanes, v);
        max = _mm512_max_epi32(max, _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
    }
    int32_t bits = _mm512_reduce_max_epi32(max);
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

static void encode_f32_avx512vnni(uint8_t *codes, float sums[4], const float *y, size_t dim, float scale) {
    __m512 acc[4];
#pragma GCC unroll 4
    for (size_t s = 0; s < 4; s++) acc[s] = _mm512_setzero_ps();
    for (size_t e = 0; e < dim; e += 16) {
        __mmask16 lanes = tail_mask(dim - e);
        __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, y + e), _mm512_set1_ps(scale));
        __m512i c = _mm512_cvtps_epi32(x);
        _mm512_mask_cvtepi32_storeu_epi8(codes + e, lanes, _mm512_add_epi32(c, _mm512_set1_epi32(128)));
        __m512 near = _mm512_cvtepi32_ps(c);
        /* u & 0xfc = 128 + (c & ~3), since 128 is a multiple of 4 */
        __m512 coarse = _mm512_cvtepi32_ps(_mm512_and_si512(c, _mm512_set1_epi32(~3)));
        coarse = _mm512_maskz_add_ps(lanes, coarse, _mm512_set1_ps(1.5f)); /* 0 where there is no element */
        __m512 off = _mm512_sub_ps(x, near), coarse_off = _mm512_sub_ps(x, coarse);
        acc[0] = _mm512_fmadd_ps(off, off, acc[0]);
        acc[1] = _mm512_fmadd_ps(coarse_off, coarse_off, acc[1]);
        acc[2] = _mm512_fmadd_ps(near, near, acc[2]);
        acc[3] = _mm512_fmadd_ps(coarse, coarse, acc[3]);
    }
#pragma GCC unroll 4
    for (size_t s = 0; s < 4; s++) sums[s] = _mm512_reduce_add_ps(acc[s]);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* mask ? a : b, bit by bit: what a shift of 16 bits brings over from the neighbouring byte is never kept. */
INLINE __m512i choose(int mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)mask), a, b, 0xca);
}

INLINE __m512i query_step(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Sets hits where a dot is not below its limit, or where that is NaN; returns whether there are any. Rows of bounds are
 * loaded once a panel. Limits take the ports of vpdpbusd: 3 % at 12 queries and D 384, 4 with a tail, which is left out
 * where it is 0. Sums come through memory: compared from registers, they made the compiler spill in the loops before,
 * 204 GOP/s instead of 452 at 12 queries. */
INLINE uint32_t compare(const int32_t *dots, uint32_t *hits, const size_t n_queries, const ragfast_code_bounds *bounds,
                        const float *residuals, const ragfast_code_threshold *thresholds) {
    __m512 scale[2], residual[2], norm[2], tail[2];
#pragma GCC unroll 2
    for (size_t h = 0; h < 2; h++) {
        scale[h] = _mm512_loadu_ps(bounds->scale + 16 * h);
        residual[h] = _mm512_loadu_ps(residuals + 16 * h);
        norm[h] = _mm512_loadu_ps(bounds->norm + 16 * h);
        tail[h] = _mm512_loadu_ps(bounds->tail + 16 * h);
    }
    uint32_t any = 0;
    for (size_t i = 0; i < n_queries; i++) {
        const ragfast_code_threshold *t = thresholds + i;
        __m512 limit[2];
        uint32_t found[2];
#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++) {
            limit[h] = _mm512_fmadd_ps(_mm512_set1_ps(t->score), scale[h], _mm512_set1_ps(t->offset));
            limit[h] = _mm512_fnmadd_ps(_mm512_set1_ps(t->norm), residual[h], limit[h]);
            limit[h] = _mm512_fnmadd_ps(_mm512_set1_ps(t->residual), norm[h], limit[h]);
        }
        if (t->tail != 0) {
#pragma GCC unroll 2
            for (size_t h = 0; h < 2; h++) limit[h] = _mm512_fnmadd_ps(_mm512_set1_ps(t->tail), tail[h], limit[h]);
        }
#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++) {
            __m512 dot = _mm512_cvtepi32_ps(_mm512_loadu_si512(dots + i * PANEL + 16 * h));
            found[h] = _mm512_cmp_ps_mask(dot, limit[h], _CMP_NLT_UQ);
        }
        any |= hits[i] = found[0] | found[1] << 16;
    }
    return any;
}

INLINE void fetch(uintptr_t line, int near) {
    if (near)
        _mm_prefetch((const char *)line, _MM_HINT_T0);
    else
        _mm_prefetch((const char *)line, _MM_HINT_T1);
}

INLINE void store_sums(int32_t *dots, __m512i sums[TILE][2], const size_t n_queries) {
#pragma GCC unroll 12
    for (size_t i = 0; i < n_queries; i++) {
        _mm512_storeu_si512(dots + i * PANEL, sums[i][0]);
        _mm512_storeu_si512(dots + i * PANEL + 16, sums[i][1]);
    }
}

/* n_queries (a constant 1..12 where inlined) of (4 n_groups, width, 4) x 32 documents: per group of 16 elements six
 * vectors loaded, 18 shifts and bit operations, most on other ports than vpdpbusd's, and 8n vpdpbusd. In cache from
 * D 384 on 220 GOP/s for one query, 340 for two, 420 to 460 for 4 to 12; at D 64, 190, 290, 350 to 360. */
INLINE uint32_t high_block(int32_t *dots, uint32_t *hits, const int8_t *q, const size_t n_queries, const size_t width,
                           const uint8_t *high, const ragfast_code_bounds *bounds, size_t n_groups,
                           const ragfast_code_threshold *thresholds, size_t ahead) {
    __m512i sums[TILE][2];
#pragma GCC unroll 12
    for (size_t i = 0; i < n_queries; i++) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
    for (size_t g = 0; g < n_groups; g++, high += RAGFAST_GROUP_HIGH) {
        if (ahead) {
#pragma GCC unroll 6
            for (size_t line = 0; line < 6; line++) fetch((uintptr_t)high + ahead + 64 * line, 0);
        }
        __m512i fourth[2]; /* gathered from the low bits of the others */
#pragma GCC unroll 4
        for (size_t row = 0; row < 4; row++, q += 4 * width) {
            __m512i u[2];
#pragma GCC unroll 2
            for (size_t h = 0; h < 2; h++) {
                u[h] = row < 3 ? _mm512_loadu_si512(high + row * STEP + 64 * h) : fourth[h];
                if (row == 0) fourth[h] = _mm512_slli_epi16(u[h], 6);
                if (row == 1) fourth[h] = choose(0xc0, fourth[h], _mm512_slli_epi16(u[h], 4));
                if (row == 2) fourth[h] = choose(0xf0, fourth[h], _mm512_slli_epi16(u[h], 2));
                u[h] = _mm512_and_si512(u[h], _mm512_set1_epi8((char)0xfc));
            }
#pragma GCC unroll 12
            for (size_t i = 0; i < n_queries; i++) {
                __m512i query = query_step(q + 4 * i);
                sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], u[0], query);
                sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], u[1], query);
            }
        }
    }
    store_sums(dots, sums, n_queries);
    return compare(dots, hits, n_queries, bounds, bounds->high_residual, thresholds);
}

/* One panel after the other lies in memory: the hardware fetches ahead, and better than we. GB/s at D 768 for 1, 2 and
 * 4 queries: 26, 26 and 27; with each line prefetched 1.5 KB ahead 23, 23 and 23; 18 KB ahead 20, 20 and 18. Prefixes of
 * panels lie apart, which it does not foresee: 160 of D 384 from the third level, one query, 0.82 ms without fetching
 * four panels ahead, 0.30 with; 256 of 768 from memory 17.5 and 11.0.
 *
 * Few queries lie a whole tile apart, at D 1536 in 18 KB of lines, which each panel going by drives out of the
 * first-level cache. Close together they stay: 28 GB/s instead of 21 for one query, 25 instead of 20 for four. */
INLINE size_t high_panels(int32_t *dots, uint32_t *hits, const int8_t *q, const size_t n_queries, const uint8_t *high,
                          size_t stride, const ragfast_code_bounds *bounds, size_t n_panels, size_t n_groups,
                          const ragfast_code_threshold *thresholds) {
    int8_t dense[DENSE_BYTES];
    const size_t n_steps = 4 * n_groups;
    size_t p = 0, width = TILE;
    if (n_queries <= DENSE_QUERIES && n_panels >= DENSE_PANELS && n_steps * n_queries * 4 <= DENSE_BYTES) {
        for (size_t s = 0; s < n_steps; s++) memcpy(dense + s * n_queries * 4, q + s * TILE * 4, n_queries * 4);
        q = dense, width = n_queries;
    }
    const size_t ahead = stride == n_groups * RAGFAST_GROUP_HIGH ? 0 : GAPS_AHEAD * stride;
    while (p < n_panels &&
           !high_block(dots, hits, q, n_queries, width, high + p * stride, bounds + p, n_groups, thresholds, ahead))
        p++;
    return p;
}

static size_t tile_high_avx512vnni(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                                   const uint8_t *high, size_t stride, const ragfast_code_bounds *bounds,
                                   size_t n_panels, size_t n_groups, const ragfast_code_threshold *thresholds) {
#define CASE(n)                                                                                                        \
    case n: return high_panels(dots, hits, packed_queries, n, high, stride, bounds, n_panels, n_groups, thresholds);
    switch (n_queries) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
#undef CASE
    return n_panels;
}

/* To (4 n_groups, PANEL, 4), the whole u. */
static void unpack_codes_avx512vnni(uint8_t *codes, const uint8_t *high, const uint8_t *low, size_t n_groups) {
    for (size_t g = 0; g < n_groups; g++) {
        for (size_t h = 0; h < 2; h++) {
            const uint8_t *rows = high + g * RAGFAST_GROUP_HIGH + 64 * h;
            uint8_t *out = codes + g * RAGFAST_GROUP_CODES + 64 * h;
            __m512i a = _mm512_loadu_si512(rows), b = _mm512_loadu_si512(rows + STEP);
            __m512i c = _mm512_loadu_si512(rows + 2 * STEP);
            __m512i bits = _mm512_loadu_si512(low + g * RAGFAST_GROUP_LOW + 64 * h);
            __m512i d = choose(0xc0, _mm512_slli_epi16(a, 6), _mm512_slli_epi16(b, 4));
            d = choose(0xf0, d, _mm512_slli_epi16(c, 2));
            _mm512_storeu_si512(out, choose(0xfc, a, bits));
            _mm512_storeu_si512(out + STEP, choose(0xfc, b, _mm512_srli_epi16(bits, 2)));
            _mm512_storeu_si512(out + 2 * STEP, choose(0xfc, c, _mm512_srli_epi16(bits, 4)));
            _mm512_storeu_si512(out + 3 * STEP, choose(0xfc, d, _mm512_srli_epi16(bits, 6)));
        }
    }
}

static void pack_query_codes_avx512vnni(int8_t *packed_queries, const int8_t *queries, size_t n_queries,
                                        size_t n_groups) {
    ragfast_interleave_codes(packed_queries, queries, n_queries, n_groups);
}

/* n_queries (a constant 1..12 where inlined) x 32 documents: per step two vector loads, n broadcasts, 2n vpdpbusd, and
 * nothing else for their ports: 452 GOP/s at D 384 and 461 at D 768 for 12 queries. Lines ahead are fetched evenly, for
 * in a burst they would stall the arithmetic; two a step, as many as the next panel has; into the first level where
 * both panels fit: with 12 queries, unpacking counted, 305 GOP/s instead of 262 at D 128; no gain at D 768. */
INLINE void codes_block(int32_t *dots, uint32_t *hits, const int8_t *q, const size_t n_queries, const uint8_t *codes,
                        const ragfast_code_bounds *bounds, size_t n_groups, const ragfast_code_threshold *thresholds,
                        const char *ahead, size_t n_ahead) {
    const size_t n_steps = 4 * n_groups;
    const int near = n_groups <= NEAR_GROUPS;
    __m512i sums[TILE][2];
#pragma GCC unroll 12
    for (size_t i = 0; i < n_queries; i++) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
    for (size_t s = 0; s < n_steps; s++) {
        __m512i u0 = _mm512_loadu_si512(codes + s * STEP), u1 = _mm512_loadu_si512(codes + s * STEP + 64);
        const uintptr_t lines = (uintptr_t)ahead + 64 * ragfast_min(2 * s, n_ahead);
        fetch(lines, near);
        fetch(lines + 64, near);
#pragma GCC unroll 12
        for (size_t i = 0; i < n_queries; i++) {
            __m512i query = query_step(q + (s * TILE + i) * 4);
            sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], u0, query);
            sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], u1, query);
        }
    }
    for (size_t line = 2 * n_steps; line < n_ahead; line++) fetch((uintptr_t)ahead + 64 * line, near);
    store_sums(dots, sums, n_queries);
    compare(dots, hits, n_queries, bounds, bounds->residual, thresholds);
}

static void tile_codes_avx512vnni(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                                  const uint8_t *codes, const ragfast_code_bounds *bounds, size_t n_groups,
                                  const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead) {
#define CASE(n)                                                                                                        \
    case n: codes_block(dots, hits, packed_queries, n, codes, bounds, n_groups, thresholds, ahead, n_ahead); break;
    switch (n_queries) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
#undef CASE
}

void ragfast_code_fill_avx512vnni(ragfast_kernels *table) {
    table->center_f32 = center_f32_avx512vnni;
    table->encode_f32 = encode_f32_avx512vnni;
    table->tile_high = tile_high_avx512vnni;
    table->code_queries = TILE;
    table->unpack_min_queries = 32;
    table->code_groups = 1;
    table->code_mask = 0xff;
    table->unpack_codes = unpack_codes_avx512vnni;
    table->pack_query_codes = pack_query_codes_avx512vnni;
    table->tile_codes = tile_codes_avx512vnni;
}
