/* AVX-512 inner products. THE HOT LOOPS of retrieval are rows_block (few queries) and packed_block (many) below. */
#include "kernels/vector_avx512.h"

#include "kernels/dot_vector.h"

/* Bits of not (score < threshold), so that NaN is a hit. */
INLINE uint32_t hits_of(__m512 low, __m512 high, float threshold, size_t n_docs) {
    __m512 t = _mm512_set1_ps(threshold);
    uint32_t hits =
        (uint32_t)_mm512_cmp_ps_mask(low, t, _CMP_NLT_UQ) | (uint32_t)_mm512_cmp_ps_mask(high, t, _CMP_NLT_UQ) << 16;
    return n_docs < PANEL ? hits & ((1u << n_docs) - 1u) : hits;
}

/* Four vectors to one whose 128-bit quarters each hold [sum a, sum b, sum c, sum d] of that quarter. */
INLINE __m512 sum_quarters(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

INLINE __m512 sum_pairs_of_quarters(__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
}

/* Into the second level, where arithmetic follows; near for a single query, which takes each line at once, if rows begin
 * on lines. In ms, near and far: 300,000 x 768, one query 37 and 44, 16 queries 108 and 84; 1,000,000 x 200, one 47 and 41. */
INLINE void fetch(uintptr_t line, int near) {
    if (near)
        _mm_prefetch((const char *)line, _MM_HINT_T0);
    else
        _mm_prefetch((const char *)line, _MM_HINT_T1);
}

/* n_queries (a constant 1..4 where inlined) x 4 documents, 16 lanes of D each: every loaded vector is used 4 times,
 * and 16 accumulators cover the latency of two FMA ports. The sums cross lanes once a block, 30 shuffles for 16 scores.
 * Memory to come is fetched in address order, `lines` (a constant) a step: four rows read side by side defeat the
 * hardware's stream detection (12 GB/s where one stream gives 25), and fetching evenly hides it behind arithmetic. */
INLINE void rows_block(float *scores, const float *const q[4], const float *const d[4], const size_t n_queries,
                       size_t dim, uintptr_t ahead, const size_t lines, int near) {
    __m512 acc[4][4];
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++) acc[i][j] = _mm512_setzero_ps();
    size_t e = 0;
    for (; e + 16 <= dim; e += 16) {
        __m512 doc[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            doc[j] = _mm512_loadu_ps(d[j] + e);
            if (!near) fetch((uintptr_t)(d[j] + e) + 64, 1); /* from the second level: 5 % */
            if (j < lines) fetch(ahead + (lines * e + 16 * j) * sizeof(float), near);
        }
        add_products(acc, q, e, doc, n_queries);
    }
    if (e < dim) {
        __mmask16 rest = first_f32(dim % 16);
        __m512 doc[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            doc[j] = _mm512_maskz_loadu_ps(rest, d[j] + e);
            if (j < lines) fetch(ahead + (lines * e + 16 * j) * sizeof(float), near);
        }
        add_products(acc, q, e, doc, n_queries);
    }
    __m512 quarters[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        quarters[i] = i < n_queries ? sum_quarters(acc[i][0], acc[i][1], acc[i][2], acc[i][3]) : quarters[0];
    __m512 sums = sum_pairs_of_quarters(sum_pairs_of_quarters(quarters[0], quarters[1]),
                                        sum_pairs_of_quarters(quarters[2], quarters[3]));
    _mm_storeu_ps(scores, _mm512_castps512_ps128(sums));
    if (n_queries > 1) _mm_storeu_ps(scores + PANEL, _mm512_extractf32x4_ps(sums, 1));
    if (n_queries > 2) _mm_storeu_ps(scores + 2 * PANEL, _mm512_extractf32x4_ps(sums, 2));
    if (n_queries > 3) _mm_storeu_ps(scores + 3 * PANEL, _mm512_extractf32x4_ps(sums, 3));
}

static void tile_rows_f32_avx512(float *scores, uint32_t *hits, const float *queries, size_t n_queries,
                                 const float *docs, size_t n_docs, size_t dim, const float *thresholds) {
    const size_t lines =
        n_queries <= 4 ? 4 : 2; /* 4 or more a step in all: as many as the four rows take, or ahead of them */
    uintptr_t ahead = (uintptr_t)docs + AHEAD_BYTES;
    int near = n_queries == 1 && dim % 16 == 0;
    for (size_t j = 0; j < n_docs; j += 4) {
        const float *d[4], *q[4];
        for (size_t x = 0; x < 4; x++) d[x] = docs + ragfast_min(j + x, n_docs - 1) * dim; /* last row again: unread */
        for (size_t i = 0; i < n_queries; i += 4) {
            for (size_t x = 0; x < 4; x++) q[x] = queries + ragfast_min(i + x, n_queries - 1) * ragfast_padded(dim);
            float *out = scores + i * PANEL + j;
#define CASE(n, l)                                                                                                     \
    case 8 * n + l: rows_block(out, q, d, n, dim, ahead, l, n == 1 && near); break;
            switch (8 * ragfast_min(n_queries - i, 4) + lines) {
                CASE(1, 4) CASE(2, 4) CASE(3, 4) CASE(4, 4) CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2)
            }
#undef CASE
            ahead += lines * ragfast_padded(dim) * sizeof(float);
        }
    }
    for (size_t i = 0; i < n_queries; i++) {
        const float *s = scores + i * PANEL;
        hits[i] = hits_of(_mm512_loadu_ps(s), _mm512_loadu_ps(s + 16), thresholds[i], n_docs);
    }
}

/* 16 rows x 16 columns of a row-major matrix to 16 rows of PANEL floats. */
INLINE void transpose_16x16(float *out, __m512 r[16], size_t n_columns) {
    __m512 t[16];
    for (size_t i = 0; i < 8; i++) { /* interleave rows 2i and 2i+1 */
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (size_t i = 0; i < 4; i++) { /* r[4i+c]: column c of each 4-column quarter, rows 4i..4i+3 */
        __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 1]);
        __m512d c = _mm512_castps_pd(t[4 * i + 2]), d = _mm512_castps_pd(t[4 * i + 3]);
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (size_t c = 0; c < 4; c++) { /* then the quarters change places */
        __m512 q01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x44), q23 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xee);
        __m512 p01 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x44);
        __m512 p23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xee);
        t[c] = _mm512_shuffle_f32x4(q01, p01, 0x88);
        t[4 + c] = _mm512_shuffle_f32x4(q01, p01, 0xdd);
        t[8 + c] = _mm512_shuffle_f32x4(q23, p23, 0x88);
        t[12 + c] = _mm512_shuffle_f32x4(q23, p23, 0xdd);
    }
    for (size_t c = 0; c < 16; c++)
        if (c < n_columns) _mm512_storeu_ps(out + c * PANEL, t[c]);
}

static void pack_docs_f32_avx512(float *packed_docs, const float *docs, size_t n_docs, size_t dim) {
    for (size_t j = 0; j < PANEL; j += 16) {
        for (size_t e = 0; e < dim; e += 16) {
            size_t n = ragfast_min(dim - e, 16);
            const lanes_f32 columns = first_f32(n);
            __m512 rows[16];
            for (size_t x = 0; x < 16; x++)
                rows[x] =
                    j + x < n_docs ? _mm512_maskz_loadu_ps(columns, docs + (j + x) * dim + e) : _mm512_setzero_ps();
            transpose_16x16(packed_docs + e * PANEL + j, rows, n);
        }
    }
}

/* n_queries (a constant 1..12 where inlined) x 32 documents. Scores are compared in their registers. */
INLINE void packed_block(float *scores, uint32_t *hits, const float *q, const float *d, const size_t n_queries,
                         size_t n_docs, size_t dim, const float *thresholds, const char *ahead, size_t n_ahead) {
    __m512 low[TILE], high[TILE];
    packed_products(low, high, q, d, n_queries, dim, ahead, n_ahead);
#pragma GCC unroll 12
    for (size_t i = 0; i < n_queries; i++) {
        hits[i] = hits_of(low[i], high[i], thresholds[i], n_docs);
        if (hits[i]) { /* after the first blocks nearly never */
            _mm512_storeu_ps(scores + i * PANEL, low[i]);
            _mm512_storeu_ps(scores + i * PANEL + 16, high[i]);
        }
    }
}

static void tile_packed_f32_avx512(float *scores, uint32_t *hits, const float *packed_queries, size_t n_queries,
                                   const float *packed_docs, size_t n_docs, size_t dim, const float *thresholds,
                                   const char *ahead, size_t n_ahead) {
#define CASE(n)                                                                                                        \
    case n: packed_block(scores, hits, packed_queries, packed_docs, n, n_docs, dim, thresholds, ahead, n_ahead); break;
    switch (n_queries) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
#undef CASE
}

void ragfast_dot_fill_avx512(ragfast_kernels *table) {
    table->tile_rows_f32 = tile_rows_f32_avx512;
    table->pack_docs_f32 = pack_docs_f32_avx512;
    table->tile_packed_f32 = tile_packed_f32_avx512;
    table->add_scaled_f32 = add_scaled_f32_avx512;
    table->add_scaled_f64 = add_scaled_f64_avx512;
}
