/* AVX2, FMA and F16C inner products. THE HOT LOOPS of retrieval are rows_block (few queries) and packed_block (many) below. */
#include "kernels/vector_avx2.h"

#include "kernels/dot_vector.h"

/* Bits of not (score < threshold), so that NaN is a hit. */
INLINE uint32_t hits_of_8(__m256 scores, __m256 threshold) {
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(scores, threshold, _CMP_NLT_UQ));
}

INLINE uint32_t first_docs(size_t n_docs) { return n_docs < PANEL ? (1u << n_docs) - 1u : 0xffffffffu; }

/* Four vectors to one whose 128-bit halves each hold [sum a, sum b, sum c, sum d] of that half. */
INLINE __m256 sum_halves(__m256 a, __m256 b, __m256 c, __m256 d) {
    return _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
}

/* n_queries (a constant 1 or 2 where inlined) x 4 documents, 8 lanes of D each: 8 accumulators cover the latency of two
 * FMA ports, and 6 loads for 8 FMAs keep within two load ports. Memory to come is fetched in address order, `lines` (a
 * constant) for each 16 elements: see dot_avx512.c. */
INLINE void rows_block(float *scores, const float *const q[2], const float *const d[4], const size_t n_queries,
                       size_t dim, uintptr_t ahead, const size_t lines) {
    __m256 acc[2][4];
    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < 4; j++) acc[i][j] = _mm256_setzero_ps();
    size_t e = 0;
    for (; e + 8 <= dim; e += 8) {
        __m256 doc[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) doc[j] = _mm256_loadu_ps(d[j] + e);
        if (lines > 1 || e % 16 == 0) _mm_prefetch((const char *)(ahead + lines * e * sizeof(float)), _MM_HINT_T1);
        if (lines == 4) _mm_prefetch((const char *)(ahead + (lines * e + 16) * sizeof(float)), _MM_HINT_T1);
        add_products(acc, q, e, doc, n_queries);
    }
    if (e < dim) {
        __m256i rest = first8(dim % 8);
        __m256 doc[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) doc[j] = _mm256_maskload_ps(d[j] + e, rest);
        add_products(acc, q, e, doc, n_queries);
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < n_queries; i++) {
        __m256 halves = sum_halves(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
        _mm_storeu_ps(scores + i * PANEL, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
    }
}

static void tile_rows_f32_avx2(float *scores, uint32_t *hits, const float *queries, size_t n_queries, const float *docs,
                               size_t n_docs, size_t dim, const float *thresholds) {
    const size_t lines = n_queries <= 2 ? 4 : n_queries <= 4 ? 2 : 1;
    uintptr_t ahead = (uintptr_t)docs + AHEAD_BYTES;
    for (size_t j = 0; j < n_docs; j += 4) {
        const float *d[4], *q[2];
        for (size_t x = 0; x < 4; x++) d[x] = docs + ragfast_min(j + x, n_docs - 1) * dim; /* last row again: unread */
        for (size_t i = 0; i < n_queries; i += 2) {
            for (size_t x = 0; x < 2; x++) q[x] = queries + ragfast_min(i + x, n_queries - 1) * ragfast_padded(dim);
            float *out = scores + i * PANEL + j;
#define CASE(n, l)                                                                                                     \
    case 8 * n + l: rows_block(out, q, d, n, dim, ahead, l); break;
            switch (8 * ragfast_min(n_queries - i, 2) + lines) {
                CASE(1, 4) CASE(2, 4) CASE(1, 2) CASE(2, 2) CASE(1, 1) CASE(2, 1)
            }
#undef CASE
            ahead += lines * ragfast_padded(dim) * sizeof(float);
        }
    }
    for (size_t i = 0; i < n_queries; i++) {
        __m256 threshold = _mm256_set1_ps(thresholds[i]);
        uint32_t found = 0;
        for (size_t j = 0; j < PANEL; j += 8)
            found |= hits_of_8(_mm256_loadu_ps(scores + i * PANEL + j), threshold) << j;
        hits[i] = found & first_docs(n_docs);
    }
}

/* 8 rows x 8 columns of a row-major matrix to 8 rows of PANEL floats. */
INLINE void transpose_8x8(float *out, const __m256 r[8], size_t n_columns) {
    __m256 t[8], u[8];
    for (size_t i = 0; i < 4; i++) { /* interleave rows 2i and 2i+1 */
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (size_t i = 0; i < 2; i++) { /* u[4i+c]: column c of each half, rows 4i..4i+3 */
        u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    for (size_t c = 0; c < 4; c++) {
        t[c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
        t[4 + c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
    }
    for (size_t c = 0; c < 8; c++)
        if (c < n_columns) _mm256_storeu_ps(out + c * PANEL, t[c]);
}

static void pack_docs_f32_avx2(float *packed_docs, const float *docs, size_t n_docs, size_t dim) {
    for (size_t j = 0; j < PANEL; j += 8) {
        for (size_t e = 0; e < dim; e += 8) {
            size_t n = ragfast_min(dim - e, 8);
            __m256i columns = first8(n);
            __m256 rows[8];
            for (size_t x = 0; x < 8; x++)
                rows[x] = j + x < n_docs ? _mm256_maskload_ps(docs + (j + x) * dim + e, columns) : _mm256_setzero_ps();
            transpose_8x8(packed_docs + e * PANEL + j, rows, n);
        }
    }
}

/* n_queries (a constant 1..6 where inlined) x 16 documents of the panel, in 12 of the 16 registers, where they are
 * compared. */
INLINE void packed_block(float *scores, uint32_t *hits, const float *q, const float *d, const size_t n_queries,
                         size_t dim, const float *thresholds, size_t first_doc, const char *ahead, size_t n_ahead) {
    __m256 low[6], high[6];
    packed_products(low, high, q, d, n_queries, dim, ahead, n_ahead);
#pragma GCC unroll 6
    for (size_t i = 0; i < n_queries; i++) {
        __m256 threshold = _mm256_broadcast_ss(thresholds + i);
        uint32_t found = hits_of_8(low[i], threshold) | hits_of_8(high[i], threshold) << 8;
        hits[i] |= found << first_doc;
        if (found) { /* after the first blocks nearly never */
            _mm256_storeu_ps(scores + i * PANEL + first_doc, low[i]);
            _mm256_storeu_ps(scores + i * PANEL + first_doc + 8, high[i]);
        }
    }
}

static void tile_packed_f32_avx2(float *scores, uint32_t *hits, const float *packed_queries, size_t n_queries,
                                 const float *packed_docs, size_t n_docs, size_t dim, const float *thresholds,
                                 const char *ahead, size_t n_ahead) {
    for (size_t i = 0; i < n_queries; i++) hits[i] = 0;
    for (size_t j = 0; j < n_docs; j += 16) {
        for (size_t i = 0; i < n_queries; i += 6) {
            switch (ragfast_min(n_queries - i, 6)) {
#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        packed_block(scores + i * PANEL, hits + i, packed_queries + i, packed_docs + j, n, dim, thresholds + i, j,     \
                     ahead, i + j == 0 ? n_ahead : 0);                                                                 \
        break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
            }
        }
    }
    for (size_t i = 0; i < n_queries; i++) hits[i] &= first_docs(n_docs);
}

void ragfast_dot_fill_avx2(ragfast_kernels *table) {
    table->tile_rows_f32 = tile_rows_f32_avx2;
    table->pack_docs_f32 = pack_docs_f32_avx2;
    table->tile_packed_f32 = tile_packed_f32_avx2;
    table->add_scaled_f32 = add_scaled_f32_avx2;
    table->add_scaled_f64 = add_scaled_f64_avx2;
}
