/* Known-answer tests of the kernels of search. Where the order of float32 sums is a kernel's own, inputs are whole numbers whose
 * sums are exact in any order, so that each wrong bit shows. */
#include "core/selftest.h"
#include "core/selftest_inputs.h"

#include <stdalign.h>

enum { PANEL = RAGFAST_PANEL_DOCS, TILE = RAGFAST_TILE_QUERIES, ROWS = RAGFAST_ROWS_QUERIES };
enum { MAX_DIM = 67, MAX_PADDED = 80 }; /* of the float32 tiles */
enum { GROUPS = 5, DIM = GROUPS * RAGFAST_GROUP_DIM, PANELS = 5, LAST = PANELS - 1, MAX_GROUPS = 16 };
enum { MORE_QUERIES = 3 /* than a tile */, CODE_QUERIES = RAGFAST_MAX_CODE_QUERIES + MORE_QUERIES };

typedef const ragfast_kernels table;

/* One test at a time uses this: a stack of 128 KB might not have the room. */
static union {
    struct {
        array x, y, z, out, expected;
    };
    struct {
        alignas(64) float queries[ROWS * MAX_PADDED];
        float docs[PANEL * MAX_DIM], packed_queries[MAX_DIM * TILE], packed_docs[PANEL * MAX_DIM];
        float other_docs[PANEL * MAX_DIM], scores[ROWS * PANEL], answers[ROWS * PANEL], thresholds[ROWS];
        uint32_t hits[ROWS], expected_hits[ROWS];
    } tile;
    struct {
        int8_t queries[CODE_QUERIES * DIM], packed[2 * RAGFAST_MAX_CODE_QUERIES * MAX_GROUPS * RAGFAST_GROUP_DIM];
        uint8_t high[PANELS * GROUPS * RAGFAST_GROUP_HIGH], low[GROUPS * RAGFAST_GROUP_LOW];
        uint8_t unpacked[MAX_GROUPS * RAGFAST_GROUP_CODES];
        ragfast_code_bounds bounds[PANELS];
        ragfast_code_threshold thresholds[CODE_QUERIES];
        int32_t dots[CODE_QUERIES * PANEL], answers[CODE_QUERIES * PANEL];
        uint32_t hits[CODE_QUERIES], expected_hits[CODE_QUERIES];
    } codes;
} memory;

/* ---- float64 scores ---------------------------------------------------------------------------------------------- */

/* Finite values with all bits of their mantissa in use, from 2^-6 to 2^6, or of 16 bits of any size. */
static void fill(array *x, ragfast_dtype dtype, size_t n) {
    const uint16_t exponent = dtype == RAGFAST_F16 ? 0x7c00 : 0x7f80;
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits = random_bits();
        const double value = (double)(int64_t)bits * 0x1p-69 * (1 << bits % 13);
        if (dtype == RAGFAST_F64)
            x->f64[i] = value;
        else if (dtype == RAGFAST_F32)
            x->f32[i] = (float)value;
        else
            x->b16[i] = (uint16_t)((bits & exponent) == exponent ? bits ^ 0x4000 : bits);
    }
}

static double inner(table *t, size_t n, ragfast_dtype dtype) {
    const void *a = at(&memory.x, start_of(n), dtype), *b = at(&memory.y, 1, dtype);
    return dtype == RAGFAST_F32 ? t->inner_f64_f32(a, b, n) : t->inner_f64_f64(a, b, n);
}

static int inner_holds(table *t, table *scalar, int d) {
    const ragfast_dtype dtype = (ragfast_dtype)d;
    fill(&memory.x, dtype, LONGEST);
    fill(&memory.y, dtype, LONGEST);
    for (size_t l = 0; l < N_LENGTHS; l++) {
        const double expected = inner(scalar, lengths[l], dtype), got = inner(t, lengths[l], dtype);
        if (!same_f64(&got, &expected, 1)) return 0;
    }
    return 1;
}

/* One to eight rows: the score of a row does not depend on the others. */
static int scores_hold(table *t, table *scalar, ragfast_dtype dtype, int l2, size_t dim) {
    enum { N = RAGFAST_SCORED_ROWS };
    const ragfast_dtype query_dtype = dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32;
    const void *query = at(&memory.x, 1, query_dtype), *rows[N];
    double expected[N], got[N];
    for (size_t j = 0; j < N; j++) rows[j] = at(&memory.y, 1 + j * dim, dtype);
    if (dtype == query_dtype) rows[5] = query; /* at a distance of +0 */
    scalar->score_rows(expected, query, rows, N, NULL, 0, dim, dtype, l2);
    for (size_t n = N; n > 0; n -= dim == 31 || n < 4 ? 1 : 3) {
        t->score_rows(got, query, rows + N - n, n, rows, n - 1, dim, dtype, l2);
        if (!same_f64(got, expected + N - n, n)) return 0;
    }
    return 1;
}

static int score_rows_holds(table *t, table *scalar, int unused) {
    static const size_t dims[] = {1, 16, 31, 83};
    (void)unused;
    for (int d = RAGFAST_F32; d <= RAGFAST_BF16; d++) {
        const ragfast_dtype dtype = (ragfast_dtype)d;
        fill(&memory.x, dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32, LONGEST_SHORT);
        fill(&memory.y, dtype, ROOM);
        for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
            for (int l2 = 0; l2 < 2; l2++)
                if (!scores_hold(t, scalar, dtype, l2, dims[i])) return 0;
    }
    return 1;
}

static int widen_holds(table *t, table *scalar, int dtype) {
    /* Zeros, the least and the greatest denormal, the greatest number, infinities, NaNs of either type. */
    static const uint16_t odd[] = {0,      0x8000, 1,      0x8001, 0x3ff,  0x7f,   0x400,  0x80,  0x7bff,
                                   0xff7f, 0x7c00, 0xfc00, 0x7f80, 0xff80, 0x7e00, 0x7c01, 0xffff};
    const uint16_t *x = memory.x.b16;
    void (*widen)(float *, const uint16_t *, size_t) = dtype == RAGFAST_F16 ? t->widen_f16 : t->widen_bf16;
    for (size_t i = 0; i < LONGEST; i++)
        memory.x.b16[i] = i % 5 == 1 && i / 5 < sizeof odd / sizeof odd[0] ? odd[i / 5] : (uint16_t)random_bits();
    (dtype == RAGFAST_F16 ? scalar->widen_f16 : scalar->widen_bf16)(memory.expected.f32, x, LONGEST);
    for (size_t l = 0; l < N_LENGTHS; l++) {
        const size_t n = lengths[l], first = start_of(n);
        clear(&memory.out, n * sizeof(float));
        widen(memory.out.f32, x + first, n);
        if (!same_f32(memory.out.f32, memory.expected.f32 + first, n)) return 0;
        if (!ends_at(&memory.out, n * sizeof(float))) return 0;
    }
    return 1;
}

/* ---- float32 tiles ----------------------------------------------------------------------------------------------- */

static const size_t tile_dims[] = {1, 15, 16, 17, MAX_DIM}, doc_counts[] = {PANEL, 27, 16, 9, 1};
enum { N_TILE_DIMS = sizeof tile_dims / sizeof tile_dims[0], N_DOC_COUNTS = sizeof doc_counts / sizeof doc_counts[0] };

/* Whole numbers below 400: a sum of 67 products stays below 2^24, so that it is exact in any order, fused or not. Or
 * fractions, which show a kernel that calculates in fewer bits. */
static void fill_docs(int whole) {
    for (size_t x = 0; x < PANEL * MAX_DIM; x++)
        memory.tile.docs[x] = whole ? (float)random_between(-399, 399) : (float)random_unit();
}

/* Queries are the documents backwards. */
static void fill_queries(size_t dim) {
    const size_t padded = ragfast_padded(dim);
    const float *docs = memory.tile.docs + PANEL * MAX_DIM;
    memset(memory.tile.queries, 0, sizeof memory.tile.queries);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t e = 0; e < dim; e++) memory.tile.queries[i * padded + e] = *--docs;
}

static void run_tile(table *t, int packed, float *scores, size_t n_queries, size_t n_docs, size_t dim) {
    const float *queries = memory.tile.queries, *thresholds = memory.tile.thresholds;
    uint32_t *hits = memory.tile.hits;
    if (!packed) {
        t->tile_rows_f32(scores, hits, queries, n_queries, memory.tile.docs, n_docs, dim, thresholds);
        return;
    }
    memset(memory.tile.packed_queries, 0, dim * TILE * sizeof(float));
    for (size_t i = 0; i < n_queries; i++)
        for (size_t e = 0; e < dim; e++)
            memory.tile.packed_queries[e * TILE + i] = queries[i * ragfast_padded(dim) + e];
    t->tile_packed_f32(scores, hits, memory.tile.packed_queries, n_queries, memory.tile.packed_docs, n_docs, dim,
                       thresholds, (const char *)queries, dim / 2);
}

/* Either everything passes, or what reaches the score of one document, or 1 more or less. */
static void fill_tile_thresholds(size_t n_queries, int all) {
    for (size_t i = 0; i < n_queries; i++) {
        const float *row = memory.tile.answers + i * PANEL, one = row[7 * i % PANEL];
        const float choices[] = {one, one + 1, INFINITY, one - 1};
        const float threshold = all ? -INFINITY : isnan(one) ? 0 : choices[i % 4];
        uint32_t hits = 0;
        for (size_t j = 0; j < PANEL; j++) hits |= (uint32_t)!(row[j] < threshold) << j;
        memory.tile.thresholds[i] = threshold;
        memory.tile.expected_hits[i] = hits;
    }
}

static int hits_hold(size_t n_queries, size_t n_docs) {
    for (size_t i = 0; i < n_queries; i++) {
        const uint32_t hits = memory.tile.expected_hits[i] & (UINT32_MAX >> (PANEL - n_docs));
        const float *got = memory.tile.scores + i * PANEL, *row = memory.tile.answers + i * PANEL;
        if (memory.tile.hits[i] != hits) return 0;
        if (same_f32(got, row, n_docs)) continue;
        for (size_t j = 0; j < n_docs; j++)
            if ((hits >> j & 1) && !same_f32(got + j, row + j, 1)) return 0;
    }
    return 1;
}

/* D + 8 roundings between a product and its score. */
static int fractions_hold(table *t, table *scalar, int packed) {
    enum { N_QUERIES = 3, N_DOCS = 9 };
    fill_docs(0);
    fill_queries(MAX_DIM);
    fill_tile_thresholds(N_QUERIES, 1);
    t->pack_docs_f32(memory.tile.packed_docs, memory.tile.docs, N_DOCS, MAX_DIM);
    run_tile(t, packed, memory.tile.scores, N_QUERIES, N_DOCS, MAX_DIM);
    for (size_t i = 0; i < N_QUERIES; i++)
        for (size_t j = 0; j < N_DOCS; j++) {
            const float *q = memory.tile.queries + i * MAX_PADDED, *d = memory.tile.docs + j * MAX_DIM;
            const double exact = scalar->inner_f64_f32(q, d, MAX_DIM);
            double magnitude = 0;
            for (size_t e = 0; e < MAX_DIM; e++) magnitude += fabs((double)q[e] * (double)d[e]);
            if (!close_to((double)memory.tile.scores[i * PANEL + j], exact, (MAX_DIM + 8) * 0x1p-24 * magnitude))
                return 0;
        }
    return 1;
}

/* Every count of queries for whole panels, some for others. Documents are packed as pack_docs_holds has found to be right. */
static int tile_f32_holds(table *t, table *scalar, int packed) {
    fill_docs(1);
    for (size_t d = 0; d < N_TILE_DIMS; d++) {
        const size_t dim = tile_dims[d], most = dim != 17 ? 7 : packed ? TILE : ROWS;
        float *const nan = &memory.tile.docs[8 * dim + dim / 2], number = *nan;
        fill_queries(dim);
        if (d % 2) *nan = NAN;
        for (size_t c = 0; c < N_DOC_COUNTS; c++) {
            if (packed) t->pack_docs_f32(memory.tile.packed_docs, memory.tile.docs, doc_counts[c], dim);
            for (int all = 1; all >= 0; all--) {
                if (c % 2 && all) continue;
                fill_tile_thresholds(most, all);
                if (c == 0 && all) {
                    run_tile(scalar, packed, memory.tile.answers, most, PANEL, dim);
                    fill_tile_thresholds(most, all); /* of these answers */
                }
                for (size_t n = most; n > 0; n -= ragfast_min(n, c == 0 && all ? 1 : 5)) {
                    run_tile(t, packed, memory.tile.scores, n, doc_counts[c], dim);
                    if (!hits_hold(n, doc_counts[c])) return 0;
                }
            }
        }
        *nan = number;
    }
    return fractions_hold(t, scalar, packed);
}

static int pack_docs_holds(table *t, table *scalar, int unused) {
    (void)unused;
    fill_docs(1);
    for (size_t d = 0; d < N_TILE_DIMS; d++)
        for (size_t c = d % 2; c < N_DOC_COUNTS; c += 2) {
            scalar->pack_docs_f32(memory.tile.packed_docs, memory.tile.docs, doc_counts[c], tile_dims[d]);
            t->pack_docs_f32(memory.tile.other_docs, memory.tile.docs, doc_counts[c], tile_dims[d]);
            if (!same_f32(memory.tile.other_docs, memory.tile.packed_docs, tile_dims[d] * PANEL)) return 0;
        }
    return 1;
}

/* ---- codes ------------------------------------------------------------------------------------------------------- */

static int center_holds(table *t, table *scalar, int unused) {
    (void)unused;
    fill(&memory.x, RAGFAST_F32, LONGEST_SHORT);
    fill(&memory.y, RAGFAST_F32, LONGEST_SHORT);
    fill(&memory.z, RAGFAST_F32, LONGEST_SHORT);
    for (int with = 0; with < 8; with++) {
        if (with == 4) memory.x.f32[21] = NAN; /* which short lengths do not reach */
        for (size_t l = 0; l < N_SHORT; l++) {
            const size_t n = lengths[l], bytes = n * sizeof(float);
            const float *x = memory.x.f32 + start_of(n), *center = with & 1 ? memory.y.f32 + 1 : NULL;
            const float *weight = with & 2 ? memory.z.f32 + 2 : NULL;
            const float expected = scalar->center_f32(memory.expected.f32, x, center, weight, n);
            clear(&memory.out, bytes);
            if (l % 2) x = memcpy(memory.out.f32, x, bytes); /* in place */
            const float got = t->center_f32(memory.out.f32, x, center, weight, n);
            if (!same_f32(&got, &expected, 1) || !same_f32(memory.out.f32, memory.expected.f32, n)) return 0;
            if (!ends_at(&memory.out, bytes)) return 0;
        }
    }
    return 1;
}

/* Halves, whose sums are exact in any order and which are ties half of the time; then fractions, whose sums are within n + 4
 * roundings of the exact ones, as the scalar level's are. */
static int encode_holds(table *t, table *scalar, int unused) {
    (void)unused;
    for (int fractions = 0; fractions < 2; fractions++) {
        const float scale = fractions ? 0x1.234568p+4f : 32;
        for (size_t i = 0; i < LONGEST_SHORT; i++)
            memory.x.f32[i] = (float)(fractions ? random_unit() * 127.4 : random_between(-254, 254) * 0.5) / scale;
        for (size_t l = 0; l < N_SHORT; l++) {
            const size_t n = lengths[l];
            const double rounding = fractions ? 2 * (double)(n + 4) * 0x1p-24 : 0;
            const float *x = memory.x.f32 + start_of(n);
            float expected[4], got[4];
            scalar->encode_f32(memory.expected.bytes, expected, x, n, scale);
            clear(&memory.out, n);
            t->encode_f32(memory.out.bytes, got, x, n, scale);
            for (size_t s = 0; s < 4; s++)
                if (!close_to((double)got[s], (double)expected[s], rounding * (double)expected[s])) return 0;
            if (memcmp(memory.out.bytes, memory.expected.bytes, n) != 0 || !ends_at(&memory.out, n)) return 0;
        }
    }
    return 1;
}

static void fill_bytes(void *bytes, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t bits = random_bits();
        memcpy((char *)bytes + i, &bits, ragfast_min(n - i, sizeof bits));
    }
}

/* Any bytes are planes of codes, and all but -128 codes of queries. Bounds are small whole numbers, so that thresholds are
 * exact in any order; one document is beyond coding. All panels but the last are far below any threshold. */
static void fill_codes(void) {
    fill_bytes(memory.codes.high, sizeof memory.codes.high);
    fill_bytes(memory.codes.low, sizeof memory.codes.low);
    fill_bytes(memory.codes.queries, sizeof memory.codes.queries);
    for (size_t i = 0; i < sizeof memory.codes.queries; i++) {
        int8_t *const q = &memory.codes.queries[i];
        if (i % 3 == 0 || *q == -128) *q = *q < 0 ? -127 : 127;
    }
    for (size_t p = 0; p < PANELS; p++)
        for (size_t j = 0; j < PANEL; j++) {
            ragfast_code_bounds *b = &memory.codes.bounds[p];
            b->scale[j] = p < LAST ? 0x1p28f : (float)(3 * j % 8);
            b->high_residual[j] = (float)(5 * j % 8);
            b->residual[j] = (float)(j % 7);
            b->norm[j] = (float)(3 * j % 7);
            b->tail[j] = (float)(j % 5);
        }
    memory.codes.bounds[LAST].high_residual[9] = memory.codes.bounds[LAST].residual[9] = INFINITY;
}

/* Either everything passes, or of the last panel what is not below one document's dot in `answers`, or that and 1. With `odd`
 * also what infinity or NaN let pass. */
static void fill_thresholds(size_t n_queries, const float *residual, int all, int odd) {
    const ragfast_code_bounds *b = &memory.codes.bounds[LAST];
    static const float beyond[] = {INFINITY, NAN, -INFINITY};
    for (size_t i = 0; i < n_queries; i++) {
        const int32_t *row = memory.codes.answers + i * PANEL;
        const size_t j = 11 * i % PANEL == 9 ? 10 : 11 * i % PANEL;
        ragfast_code_threshold s = {0, (float)(1 + i % 4), (float)(1 + i % 3), (float)(i % 5), (float)(i % 2)};
        s.offset = (float)row[j] - s.score * b->scale[j] + s.norm * residual[j] + s.residual * b->norm[j] +
                   s.tail * b->tail[j] + (float)(i % 2);
        if (odd && i % 4 == 3) s.offset = beyond[i / 4 % 3];
        if (all) s.offset = -0x1p26f; /* finite, but no dot is as low */
        uint32_t hits = 0;
        for (size_t x = 0; x < PANEL; x++) {
            const float limit =
                s.offset + s.score * b->scale[x] - s.norm * residual[x] - s.residual * b->norm[x] - s.tail * b->tail[x];
            hits |= (uint32_t)!((float)row[x] < limit) << x;
        }
        memory.codes.thresholds[i] = s;
        memory.codes.expected_hits[i] = hits;
    }
}

static int dots_hold(size_t first, size_t n_queries) {
    for (size_t i = 0; i < n_queries; i++) {
        const int32_t *got = memory.codes.dots + i * PANEL, *row = memory.codes.answers + (first + i) * PANEL;
        const uint32_t hits = memory.codes.expected_hits[first + i];
        if (memory.codes.hits[i] != hits) return 0;
        if (memcmp(got, row, PANEL * sizeof *got) == 0) continue;
        for (size_t j = 0; j < PANEL; j++)
            if ((hits >> j & 1) && got[j] != row[j]) return 0;
    }
    return 1;
}

/* The number of the panel, of n_panels from `panel` on, that n queries from `first` on have hits in. */
static size_t run_high(table *t, size_t first, size_t n, size_t panel, size_t n_panels, size_t n_groups) {
    const size_t stride = GROUPS * RAGFAST_GROUP_HIGH;
    return t->tile_high(memory.codes.dots, memory.codes.hits, memory.codes.queries + 4 * first, n,
                        memory.codes.high + panel * stride, stride, memory.codes.bounds + panel, n_panels, n_groups,
                        memory.codes.thresholds + first);
}

/* The last panel alone; then a run of which it alone has hits, and one without any. All groups, then a prefix of them with
 * some counts of queries. */
static int tile_high_holds(table *t, table *scalar, int unused) {
    const float *residual = memory.codes.bounds[LAST].high_residual;
    (void)unused;
    fill_codes();
    for (size_t n_groups = GROUPS; n_groups >= GROUPS - 1; n_groups--) {
        const size_t step = n_groups == GROUPS ? 1 : 4;
        fill_thresholds(TILE, residual, 1, 0);
        run_high(scalar, 0, TILE, LAST, 1, n_groups);
        memcpy(memory.codes.answers, memory.codes.dots, TILE * PANEL * sizeof(int32_t));
        for (int all = 1; all >= 0; all--) {
            fill_thresholds(TILE, residual, all, 1);
            for (size_t n = 1; n <= TILE; n += step) {
                const size_t first = n % 2 ? TILE - n : 0;
                if (run_high(t, first, n, LAST, 1, n_groups) != 0 || !dots_hold(first, n)) return 0;
            }
        }
        fill_thresholds(TILE, residual, 0, 0);
        for (size_t n = 1; n <= TILE; n += step + 2) {
            if (run_high(t, 0, n, 0, PANELS, n_groups) != LAST || !dots_hold(0, n)) return 0;
            if (run_high(t, 0, n, 0, LAST, n_groups) != LAST) return 0;
        }
    }
    return 1;
}

/* The scalar level's dots, whose own mask is 0xff. */
static void answer_codes(table *scalar, size_t n_queries, size_t n_groups, uint8_t mask) {
    static const uint8_t zeros[GROUPS * RAGFAST_GROUP_LOW];
    int8_t *packed = memory.codes.packed;
    scalar->unpack_codes(memory.codes.unpacked, memory.codes.high, mask == 0xfc ? zeros : memory.codes.low, n_groups);
    for (size_t q = 0; q < n_queries; q += TILE) {
        const size_t n = ragfast_min(n_queries - q, TILE);
        scalar->pack_query_codes(packed, memory.codes.queries + q * DIM, n, GROUPS);
        scalar->tile_codes(memory.codes.answers + q * PANEL, memory.codes.hits, packed, n, memory.codes.unpacked,
                           memory.codes.bounds, n_groups, memory.codes.thresholds, NULL, 0);
    }
}

static int tiles_hold(table *t, size_t n_queries, size_t n_groups) {
    const size_t tile = t->code_queries, step = t->code_groups;
    const size_t tile_bytes = (GROUPS + step - 1) / step * step * RAGFAST_GROUP_DIM * tile;
    for (size_t n = 1; n <= n_queries; n++) {
        const size_t first = n > tile ? tile : 0;
        t->tile_codes(memory.codes.dots, memory.codes.hits, memory.codes.packed + first / tile * tile_bytes, n - first,
                      memory.codes.unpacked, &memory.codes.bounds[LAST], n_groups, memory.codes.thresholds + first,
                      (const char *)memory.codes.high, n % 5);
        if (!dots_hold(first, n - first)) return 0;
    }
    return 1;
}

/* All groups, which the level rounds up, then a prefix; a whole tile of queries and one that is not. */
static int tile_codes_holds(table *t, table *scalar, int unused) {
    const size_t step = t->code_groups, tile = t->code_queries, n_queries = tile + MORE_QUERIES;
    (void)unused;
    if (t->code_mask != 0xff && t->code_mask != 0xfc) return 0;
    if (tile < 1 || tile > RAGFAST_MAX_CODE_QUERIES || step < 1 || step > MAX_GROUPS) return 0;
    const ragfast_code_bounds *b = &memory.codes.bounds[LAST];
    fill_codes();
    for (size_t n_groups = GROUPS; n_groups > 0; n_groups = n_groups == GROUPS ? (GROUPS - 1) / step * step : 0) {
        answer_codes(scalar, n_queries, n_groups, t->code_mask);
        memset(memory.codes.unpacked, 0, sizeof memory.codes.unpacked);
        t->unpack_codes(memory.codes.unpacked, memory.codes.high, memory.codes.low, n_groups);
        t->pack_query_codes(memory.codes.packed, memory.codes.queries, n_queries, GROUPS);
        for (int all = 1; all >= 0; all--) {
            fill_thresholds(n_queries, t->code_mask == 0xfc ? b->high_residual : b->residual, all, 1);
            t->begin_codes();
            const int holds = tiles_hold(t, n_queries, n_groups);
            t->end_codes();
            if (!holds) return 0;
        }
    }
    return 1;
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

static const selftest tests[] = {
    SELFTEST(inner_f64_f32, inner_holds, RAGFAST_F32),
    SELFTEST(inner_f64_f64, inner_holds, RAGFAST_F64),
    SELFTEST(score_rows, score_rows_holds, 0),
    SELFTEST(widen_f16, widen_holds, RAGFAST_F16),
    SELFTEST(widen_bf16, widen_holds, RAGFAST_BF16),
    SELFTEST(tile_rows_f32, tile_f32_holds, 0),
    SELFTEST(pack_docs_f32, pack_docs_holds, 0),
    SELFTEST(tile_packed_f32, tile_f32_holds, 1),
    SELFTEST(center_f32, center_holds, 0),
    SELFTEST(encode_f32, encode_holds, 0),
    SELFTEST(tile_high, tile_high_holds, 0),
    {"tile_codes", SELFTEST_FROM(code_queries), SELFTEST_FROM(max_f32) - SELFTEST_FROM(code_queries), tile_codes_holds,
     0},
};
enum { N_TESTS = sizeof tests / sizeof tests[0] };

/* The table begins with its name, and an entry has a test; that of tile_codes stands for nine. */
_Static_assert(SELFTEST_FROM(max_f32) == (1 + N_TESTS - 1 + 9) * sizeof(void (*)(void)), "a kernel without a test");

const char *ragfast_first_wrong_search_kernel(table *t, table *trusted, table *scalar) {
    return first_that_fails(tests, N_TESTS, t, trusted, scalar);
}
