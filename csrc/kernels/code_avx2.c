/* AVX2 codes. THE HOT LOOPS of retrieval are high_sweep (few queries) and codes_block (many) below.
 *
 * There is no multiplication of unsigned by signed bytes here that cannot saturate, but there is for h = u >> 2: two
 * products are at most 2 x 63 x 127 = 16002 and two such sums still fit 16 bits. So both tiles work on the high plane
 * alone, code_mask is 0xfc, and dots are multiplied by 4 at the end. */
#include "core/kernels.h"

#include <immintrin.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    STEP = 4 * PANEL,  /* bytes of a step, and of a row of the high plane */
    HALF = STEP / 2,   /* of those, 16 documents' */
    BLOCK = 4,         /* queries of codes_block */
    BOUNDS_AHEAD = 16, /* panels */
    AHEAD = 44,        /* groups; see tile_high_avx2 */
    GROUP_LINES = RAGFAST_GROUP_HIGH / 64
};

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i tail_mask(size_t n) { /* the first n <= 8 lanes */
    static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(window + 8 - n));
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

INLINE __m256i magnitude(__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(INT32_MAX)); }

/* Magnitudes are compared as integers, which order them alike and put NaN above infinity: it is not lost. Masked
 * stores are for the rest alone: 7 GB/s with nothing else, 40 so. */
static float center_f32_avx2(float *y, const float *x, const float *center, const float *weight, size_t dim) {
    __m256i max = _mm256_setzero_si256();
    size_t e = 0;
    for (; e + 8 <= dim; e += 8) {
        __m256 v = _mm256_loadu_ps(x + e);
        if (center) v = _mm256_sub_ps(v, _mm256_loadu_ps(center + e));
        if (weight) v = _mm256_mul_ps(v, _mm256_loadu_ps(weight + e));
        _mm256_storeu_ps(y + e, v);
        max = _mm256_max_epi32(max, magnitude(v));
    }
    if (e < dim) {
        __m256i lanes = tail_mask(dim - e);
        __m256 v = _mm256_maskload_ps(x + e, lanes);
        if (center) v = _mm256_sub_ps(v, _mm256_maskload_ps(center + e, lanes));
        if (weight) v = _mm256_mul_ps(v, _mm256_maskload_ps(weight + e, lanes));
        _mm256_maskstore_ps(y + e, lanes, v);
        max = _mm256_max_epi32(max, magnitude(v));
    }
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1))));
}

static void encode_f32_avx2(uint8_t *codes, float sums[4], const float *y, size_t dim, float scale) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* undoes the packing by 128-bit halves */
    __m256 acc[4];
    for (size_t s = 0; s < 4; s++) acc[s] = _mm256_setzero_ps();
    for (size_t e = 0; e < dim; e += 32) {
        __m256i c[4];
#pragma GCC unroll 4
        for (size_t v = 0; v < 4; v++) {
            size_t begin = e + 8 * v, n = begin < dim ? ragfast_min(dim - begin, 8) : 0;
            __m256i lanes = tail_mask(n);
            __m256 x = _mm256_mul_ps(_mm256_maskload_ps(y + ragfast_min(begin, dim), lanes), _mm256_set1_ps(scale));
            c[v] = _mm256_cvtps_epi32(x);
            __m256 near = _mm256_cvtepi32_ps(c[v]);
            /* u & 0xfc = 128 + (c & ~3), since 128 is a multiple of 4 */
            __m256 coarse =
                _mm256_add_ps(_mm256_cvtepi32_ps(_mm256_and_si256(c[v], _mm256_set1_epi32(~3))), _mm256_set1_ps(1.5f));
            coarse = _mm256_and_ps(coarse, _mm256_castsi256_ps(lanes)); /* absent elements are 0, and so must this be */
            __m256 off = _mm256_sub_ps(x, near), coarse_off = _mm256_sub_ps(x, coarse);
            acc[0] = _mm256_fmadd_ps(off, off, acc[0]);
            acc[1] = _mm256_fmadd_ps(coarse_off, coarse_off, acc[1]);
            acc[2] = _mm256_fmadd_ps(near, near, acc[2]);
            acc[3] = _mm256_fmadd_ps(coarse, coarse, acc[3]);
        }
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
        bytes = _mm256_xor_si256(_mm256_permutevar8x32_epi32(bytes, order), _mm256_set1_epi8((char)0x80));
        if (dim - e >= 32) {
            _mm256_storeu_si256((__m256i *)(codes + e), bytes);
        } else {
            uint8_t last[32];
            _mm256_storeu_si256((__m256i *)last, bytes);
            for (size_t i = 0; i < dim - e; i++) codes[e + i] = last[i];
        }
    }
    /* Four vectors to [sum 0, sum 1, sum 2, sum 3] */
    __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(acc[0], acc[1]), _mm256_hadd_ps(acc[2], acc[3]));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* The four steps of a group, u >> 2 of 8 documents each, from the group's high plane. Shifts are of 16 bits: what they
 * bring over from the neighbouring byte is masked. */
INLINE void unpack_group(__m256i h[4], const uint8_t *high) {
    const __m256i six = _mm256_set1_epi8(0x3f), two = _mm256_set1_epi8(3);
    __m256i a = _mm256_loadu_si256((const __m256i *)high);
    __m256i b = _mm256_loadu_si256((const __m256i *)(high + STEP));
    __m256i c = _mm256_loadu_si256((const __m256i *)(high + 2 * STEP));
    h[0] = _mm256_and_si256(_mm256_srli_epi16(a, 2), six);
    h[1] = _mm256_and_si256(_mm256_srli_epi16(b, 2), six);
    h[2] = _mm256_and_si256(_mm256_srli_epi16(c, 2), six);
    __m256i upper = _mm256_slli_epi16(_mm256_and_si256(a, two), 4),
            middle = _mm256_slli_epi16(_mm256_and_si256(b, two), 2);
    h[3] = _mm256_or_si256(_mm256_or_si256(upper, middle), _mm256_and_si256(c, two));
}

INLINE __m256i query_step(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* sum + two steps' products, 8 documents */
INLINE __m256i add_products(__m256i sum, __m256i h0, __m256i q0, __m256i h1, __m256i q1) {
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(h0, q0), _mm256_maddubs_epi16(h1, q1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Bits of the 8 documents from j whose dot is not below its threshold, or where that is NaN; with any, the dots are
 * kept. */
INLINE uint32_t compare(int32_t *dots, __m256i sum, const ragfast_code_bounds *bounds, size_t j,
                        const ragfast_code_threshold *t) {
    __m256 limit =
        _mm256_fmadd_ps(_mm256_set1_ps(t->score), _mm256_loadu_ps(bounds->scale + j), _mm256_set1_ps(t->offset));
    limit = _mm256_fnmadd_ps(_mm256_set1_ps(t->norm), _mm256_loadu_ps(bounds->high_residual + j), limit);
    limit = _mm256_fnmadd_ps(_mm256_set1_ps(t->residual), _mm256_loadu_ps(bounds->norm + j), limit);
    limit = _mm256_fnmadd_ps(_mm256_set1_ps(t->tail), _mm256_loadu_ps(bounds->tail + j), limit);
    sum = _mm256_slli_epi32(sum, 2);
    uint32_t found = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_cvtepi32_ps(sum), limit, _CMP_NLT_UQ));
    if (found) _mm256_storeu_si256((__m256i *)(dots + j), sum); /* after the first blocks nearly never */
    return found << j;
}

/* 8 n_vectors documents from j x n_queries, both constant where inlined. A group of 8 documents and one query, 256
 * operations, takes 4 + 2 multiplications, of which there are two a cycle: at most 311 GOP/s here, of which
 * unpacking for one query leaves 141, for 12 queries 241 (D 768). 1 and 2 queries take all documents (4 vectors), in
 * the order of their addresses; from 3 on, 8 documents at a time are faster (206 against 195). Lines to come are
 * fetched in address order too, at group `turn` going on `skip` bytes later. */
INLINE void high_sweep(int32_t *dots, uint32_t *hits, const int8_t *q, const size_t n_queries, const uint8_t *high,
                       const ragfast_code_bounds *bounds, size_t j, const size_t n_vectors, size_t n_groups,
                       const ragfast_code_threshold *thresholds, uintptr_t ahead, size_t turn, size_t skip) {
    const size_t lines = (GROUP_LINES * n_vectors + 3) / 4; /* a group, so that the sweeps together fetch all */
    __m256i sums[4][TILE];
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors; v++)
#pragma GCC unroll 12
        for (size_t i = 0; i < n_queries; i++) sums[v][i] = _mm256_setzero_si256();
    for (size_t g = 0; g < n_groups; g++) {
        const uint8_t *group = high + g * RAGFAST_GROUP_HIGH + 4 * j;
        const int8_t *steps = q + g * 4 * 4 * TILE;
        if (g == turn) ahead += skip;
#pragma GCC unroll 6
        for (size_t l = 0; l < lines; l++, ahead += 64) _mm_prefetch((const char *)ahead, _MM_HINT_T1);
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++) {
            __m256i h[4];
            unpack_group(h, group + 32 * v);
#pragma GCC unroll 12
            for (size_t i = 0; i < n_queries; i++) {
                const int8_t *s = steps + 4 * i;
                sums[v][i] = add_products(sums[v][i], h[0], query_step(s), h[1], query_step(s + 4 * TILE));
                sums[v][i] = add_products(sums[v][i], h[2], query_step(s + 8 * TILE), h[3], query_step(s + 12 * TILE));
            }
        }
    }
#pragma GCC unroll 12
    for (size_t i = 0; i < n_queries; i++)
#pragma GCC unroll 4
        for (size_t v = 0; v < n_vectors; v++)
            hits[i] |= compare(dots + i * PANEL, sums[v][i], bounds, j + 8 * v, thresholds + i);
}

/* What is to come goes to the second level: of 32 GB/s that a bare read gets, one query has 27 at D 768 with lines 44
 * groups ahead, 23 with 32 or 64, 19 with the first level, 27 with nothing; two queries 28, 28, 18 and 25. Where panels
 * have gaps (a prefix) one query has 20, and 11 with nothing. In quarters, each fetches a quarter of a later panel: 4
 * queries 18, and 10 with nothing. Fetching bounds as well: 14 to 16.5 GB/s of codes at D 64. */
static size_t tile_high_avx2(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                             const uint8_t *high, size_t stride, const ragfast_code_bounds *bounds, size_t n_panels,
                             size_t n_groups, const ragfast_code_threshold *thresholds) {
    const size_t panel_size = n_groups * RAGFAST_GROUP_HIGH;
    const size_t panels = AHEAD / n_groups, groups = AHEAD % n_groups, turn = n_groups - groups;
    for (size_t p = 0; p < n_panels; p++, high += stride, bounds++) {
        const uintptr_t near = (uintptr_t)high + panels * stride + groups * RAGFAST_GROUP_HIGH,
                        later = (uintptr_t)bounds + BOUNDS_AHEAD * sizeof *bounds;
        uintptr_t next = (uintptr_t)high + (panels + 1) * stride;
        for (size_t l = 0; l < sizeof *bounds; l += 64) _mm_prefetch((const char *)(later + l), _MM_HINT_T1);
        for (size_t i = 0; i < n_queries; i++) hits[i] = 0;
        switch (n_queries) {
#define WHOLE(n)                                                                                                       \
    case n:                                                                                                            \
        high_sweep(dots, hits, packed_queries, n, high, bounds, 0, 4, n_groups, thresholds, near, turn,                \
                   stride - panel_size);                                                                               \
        break;
#define QUARTERS(n)                                                                                                    \
    case n:                                                                                                            \
        for (size_t j = 0; j < PANEL; j += 8, next += panel_size / 4)                                                  \
            high_sweep(dots, hits, packed_queries, n, high, bounds, j, 1, n_groups, thresholds, next, n_groups, 0);    \
        break;
            WHOLE(1)
            WHOLE(2)
            QUARTERS(3)
            QUARTERS(4)
            QUARTERS(5) QUARTERS(6) QUARTERS(7) QUARTERS(8) QUARTERS(9) QUARTERS(10) QUARTERS(11) QUARTERS(12)
#undef WHOLE
#undef QUARTERS
        }
        uint32_t any = 0;
        for (size_t i = 0; i < n_queries; i++) any |= hits[i];
        if (any) return p;
    }
    return n_panels;
}

/* To u >> 2 as (2, 4 n_groups, 16 documents, 4): half a panel is what codes_block goes through again and again. */
static void unpack_codes_avx2(uint8_t *codes, const uint8_t *high, const uint8_t *low, size_t n_groups) {
    (void)low;
    for (size_t g = 0; g < n_groups; g++, high += RAGFAST_GROUP_HIGH)
        for (size_t v = 0; v < 4; v++) {
            uint8_t *out = codes + (v / 2 * n_groups + g) * 4 * HALF + v % 2 * 32;
            __m256i h[4];
            unpack_group(h, high + 32 * v);
            for (size_t s = 0; s < 4; s++) _mm256_storeu_si256((__m256i *)(out + s * HALF), h[s]);
        }
}

/* n_queries (a constant 1..BLOCK where inlined) x 16 documents from j: 4 vectors of two steps, 8 sums, a 1 and what
 * is under way fill the 16 registers. 274 GOP/s in cache at D 768, where float32 has 117; blocks of 2 queries 249,
 * of 6 265. Sixteen-bit codes would keep all 8 bits, but take 8 multiplications for these 6 and twice the cache: 142
 * GOP/s. */
INLINE void codes_block(int32_t *dots, uint32_t *hits, const int8_t *q, const size_t n_queries, const uint8_t *codes,
                        const ragfast_code_bounds *bounds, size_t j, size_t n_groups,
                        const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead) {
    __m256i sums[BLOCK][2];
#pragma GCC unroll 4
    for (size_t i = 0; i < n_queries; i++) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
    for (size_t pair = 0; pair < 2 * n_groups; pair++) {
        const __m256i *h = (const __m256i *)(codes + pair * 2 * HALF);
        __m256i a0 = _mm256_loadu_si256(h), a1 = _mm256_loadu_si256(h + 1);
        __m256i b0 = _mm256_loadu_si256(h + 2), b1 = _mm256_loadu_si256(h + 3);
        _mm_prefetch((const char *)((uintptr_t)ahead + 64 * ragfast_min(pair, n_ahead)), _MM_HINT_T1);
#pragma GCC unroll 4
        for (size_t i = 0; i < n_queries; i++) {
            const int8_t *s = q + pair * 2 * 4 * TILE + 4 * i;
            __m256i qa = query_step(s), qb = query_step(s + 4 * TILE);
            sums[i][0] = add_products(sums[i][0], a0, qa, b0, qb);
            sums[i][1] = add_products(sums[i][1], a1, qa, b1, qb);
        }
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < n_queries; i++)
        hits[i] |= compare(dots + i * PANEL, sums[i][0], bounds, j, thresholds + i) |
                   compare(dots + i * PANEL, sums[i][1], bounds, j + 8, thresholds + i);
}

static void tile_codes_avx2(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                            const uint8_t *codes, const ragfast_code_bounds *bounds, size_t n_groups,
                            const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead) {
    for (size_t i = 0; i < n_queries; i++) hits[i] = 0;
    for (size_t j = 0; j < PANEL; j += 16)
        for (size_t i = 0; i < n_queries; i += BLOCK) {
            size_t n_lines = ragfast_min(n_ahead, 2 * n_groups);
            switch (ragfast_min(n_queries - i, BLOCK)) {
#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        codes_block(dots + i * PANEL, hits + i, packed_queries + 4 * i, n, codes + j / 16 * n_groups * 4 * HALF,       \
                    bounds, j, n_groups, thresholds + i, ahead, n_lines);                                              \
        break;
                CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
            }
            ahead += 64 * n_lines, n_ahead -= n_lines;
        }
    for (size_t l = 0; l < n_ahead; l++) _mm_prefetch(ahead + 64 * l, _MM_HINT_T1);
}

void ragfast_code_fill_avx2(ragfast_kernels *table) {
    table->center_f32 = center_f32_avx2;
    table->encode_f32 = encode_f32_avx2;
    table->tile_high = tile_high_avx2;
    table->code_mask = 0xfc; /* code_queries, code_groups and pack_query_codes stay those of the scalar level */
    table->unpack_codes = unpack_codes_avx2;
    table->tile_codes = tile_codes_avx2;
    table->unpack_min_queries = 24;
}
