/* Checks the kernels of inner products: canonical scores of float32, float64 and 16 bits, and the float32 tiles of a scan. */
#include "tests/checkvectors.h"

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    ROWS = RAGFAST_ROWS_QUERIES,
    MOST = ROWS > TILE ? ROWS : TILE
};

static int same_float(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

static void check_inner(const ragfast_kernels *kernels, const float *q, const float *d, size_t dim) {
    double expected = canonical_score(q, d, dim, RAGFAST_F32, 0), got = kernels->inner_f64_f32(q, d, dim);
    check(same_bits(got, expected), "inner_f64_f32 gave %a, not %a", got, expected);

    long double exact = 0, magnitude = 0;
    for (size_t i = 0; i < dim; i++) {
        exact += (long double)q[i] * d[i];
        magnitude += fabsl((long double)q[i] * d[i]);
    }
    check(fabsl(got - exact) <= (long double)dim * DBL_EPSILON * magnitude, "inner_f64_f32 gave %a for %La", got,
          exact);

    double *a = input(dim * sizeof *a), *b = input(dim * sizeof *b); /* full 53 bits, so that fusing would show */
    for (size_t i = 0; i < dim; i++)
        a[i] = q[i] * (1 + random_unit() * 0x1p-20), b[i] = d[i] * (1 + random_unit() * 0x1p-20);
    expected = canonical_score(a, b, dim, RAGFAST_F64, 0), got = kernels->inner_f64_f64(a, b, dim);
    check(same_bits(got, expected), "inner_f64_f64 gave %a, not %a", got, expected);
    input_free(a, dim * sizeof *a);
    input_free(b, dim * sizeof *b);
}

/* Every pattern of 16 bits, then sizes that end in the middle of a vector, where the page ends. */
static void check_widen(const ragfast_kernels *kernels, ragfast_dtype dtype) {
    for (size_t x = 0; x <= 70; x++) {
        size_t n = x ? x - 1 : 1 << 16, wrong = 0;
        uint16_t *bits = input(n * sizeof *bits);
        float *out = output(n * sizeof *out);
        WHERE("%s %s, n %zu", kernels->name, dtype == RAGFAST_F16 ? "widen_f16" : "widen_bf16", n);
        for (size_t i = 0; i < n; i++) bits[i] = (uint16_t)(x ? random_u64() : i);
        (dtype == RAGFAST_F16 ? kernels->widen_f16 : kernels->widen_bf16)(out, bits, n);
        for (size_t i = 0; i < n; i++) {
            double expected = value_of_16_bits(bits[i], dtype);
            wrong +=
                (size_t)(isnan(expected) ? !isnan(out[i]) : !same_bits((double)out[i], expected)); /* -0.0 is not 0.0 */
        }
        check(wrong == 0, "%zu values are wrong", wrong);
        input_free(bits, n * sizeof *bits);
        output_free(out, n * sizeof *out);
    }
}

static double score_of(const ragfast_kernels *kernels, const void *query, const void *row, size_t dim,
                       ragfast_dtype dtype) {
    double score;
    kernels->score_rows(&score, query, &row, 1, NULL, 0, dim, dtype, 0);
    return score;
}

/* Both kinds of documents in 16 bits: any finite bits, so that every exponent is there, or near d. */
static void check_inner_of_16_bits(const ragfast_kernels *kernels, const float *q, const float *d, size_t dim) {
    for (int dtype = RAGFAST_F16; dtype <= RAGFAST_BF16; dtype++)
        for (int any = 0; any < 2; any++) {
            uint16_t *bits = input(dim * sizeof *bits), infinite = dtype == RAGFAST_F16 ? 0x7c00 : 0x7f80;
            float *wide = input(dim * sizeof *wide);
            for (size_t i = 0; i < dim; i++) {
                bits[i] = any ? (uint16_t)random_u64() : near_16_bits(d[i], (ragfast_dtype)dtype);
                if ((bits[i] & infinite) == infinite) bits[i] ^= infinite;
                wide[i] = (float)value_of_16_bits(bits[i], (ragfast_dtype)dtype);
            }
            double got = score_of(kernels, q, bits, dim, (ragfast_dtype)dtype);
            double expected = canonical_score(q, bits, dim, (ragfast_dtype)dtype, 0);
            const char *name = dtype == RAGFAST_F16 ? "score_rows of float16" : "score_rows of bfloat16";
            check(same_bits(got, expected), "%s gave %a, not %a", name, got, expected);
            expected = kernels->inner_f64_f32(q, wide, dim);
            check(same_bits(got, expected), "%s gave %a, inner_f64_f32 %a", name, got, expected);
            input_free(bits, dim * sizeof *bits);
            input_free(wide, dim * sizeof *wide);
        }
}

/* One tile call, by either kernel, with what it wants laid out as its driver does. */
static void run_tile(const ragfast_kernels *kernels, int packed, float *scores, uint32_t *hits, const float *queries,
                     size_t n_queries, const float *docs, size_t n_docs, size_t dim, const float *thresholds) {
    if (!packed) {
        size_t padded = ragfast_padded(dim), size = n_queries * padded * sizeof(float);
        float *copy = input(size);
        for (size_t i = 0; i < n_queries; i++)
            for (size_t e = 0; e < padded; e++) copy[i * padded + e] = e < dim ? queries[i * dim + e] : 0.0f;
        kernels->tile_rows_f32(scores, hits, copy, n_queries, docs, n_docs, dim, thresholds);
        input_free(copy, size);
        return;
    }
    size_t queries_size = dim * TILE * sizeof(float), docs_size = dim * PANEL * sizeof(float), misplaced = 0;
    float *packed_queries = input(queries_size), *packed_docs = output(docs_size);
    for (size_t e = 0; e < dim; e++)
        for (size_t i = 0; i < TILE; i++) packed_queries[e * TILE + i] = i < n_queries ? queries[i * dim + e] : 0.0f;
    kernels->pack_docs_f32(packed_docs, docs, n_docs, dim);
    for (size_t e = 0; e < dim; e++)
        for (size_t j = 0; j < PANEL; j++)
            misplaced += packed_docs[e * PANEL + j] != (j < n_docs ? docs[j * dim + e] : 0.0f);
    check(misplaced == 0, "pack_docs_f32 misplaced %zu elements", misplaced);
    const char *unreadable = (const char *)packed_queries + queries_size;
    kernels->tile_packed_f32(scores, hits, packed_queries, n_queries, packed_docs, n_docs, dim, thresholds, unreadable,
                             random_below(dim + 1));
    input_free(packed_queries, queries_size);
    output_free(packed_docs, docs_size);
}

static void check_tile(const ragfast_kernels *kernels, int packed, const float *queries, size_t n_queries,
                       const float *docs, size_t n_docs, size_t dim, int overflows) {
    float all[MOST * PANEL], thresholds[MOST];
    size_t scores_size = n_queries * PANEL * sizeof(float), hits_size = n_queries * sizeof(uint32_t);
    float *scores = output(scores_size);
    uint32_t *hits = output(hits_size), every = n_docs < 32 ? (1u << n_docs) - 1u : UINT32_MAX;

    /* Nothing is below -inf: every score is written. */
    for (size_t i = 0; i < n_queries; i++) thresholds[i] = -INFINITY;
    run_tile(kernels, packed, scores, hits, queries, n_queries, docs, n_docs, dim, thresholds);
    for (size_t i = 0; i < n_queries; i++) {
        check(hits[i] == every, "threshold -inf: hits[%zu] %08x, not %08x", i, hits[i], every);
        for (size_t j = 0; j < n_docs; j++) {
            float score = all[i * PANEL + j] = scores[i * PANEL + j];
            if (overflows) continue;
            const float *q = queries + i * dim, *d = docs + j * dim;
            double exact = 0, magnitude = 0; /* float64 rounding is 2^-29 of what is allowed */
            for (size_t e = 0; e < dim; e++) {
                exact += (double)q[e] * d[e];
                magnitude += fabs((double)q[e] * d[e]);
            }
            /* The bound of scan_f32.c, which any order of summation must keep. */
            double bound = (double)(dim + 8) * 0x1p-24 * 1.001 * magnitude + (double)(dim + 8) * 0x1p-149;
            check(fabs(score - exact) <= bound, "score (%zu,%zu) %a for %a", i, j, (double)score, exact);
        }
    }

    /* Thresholds at, around and beyond the scores: the bits follow from the scores, which stay the same. */
    for (size_t i = 0; i < n_queries; i++) {
        float one = all[i * PANEL + random_below(n_docs)];
        float choices[] = {one, nextafterf(one, INFINITY), nextafterf(one, -INFINITY), INFINITY, -INFINITY, 0};
        thresholds[i] = choices[random_below(6)];
        if (isnan(thresholds[i])) thresholds[i] = INFINITY; /* thresholds are numbers; scores need not be */
    }
    run_tile(kernels, packed, scores, hits, queries, n_queries, docs, n_docs, dim, thresholds);
    for (size_t i = 0; i < n_queries; i++) {
        uint32_t expected = 0;
        for (size_t j = 0; j < n_docs; j++) expected |= (uint32_t)!(all[i * PANEL + j] < thresholds[i]) << j;
        check(hits[i] == expected, "threshold %a: hits[%zu] %08x, not %08x", (double)thresholds[i], i, hits[i],
              expected);
        for (size_t j = 0; j < n_docs; j++)
            if (hits[i] >> j & 1)
                check(same_float(scores[i * PANEL + j], all[i * PANEL + j]), "score (%zu,%zu) of a hit changed", i, j);
    }
    output_free(scores, scores_size);
    output_free(hits, hits_size);
}

void check_dot_kernels(const ragfast_kernels *kernels) {
    check_widen(kernels, RAGFAST_F16);
    check_widen(kernels, RAGFAST_BF16);
    static const size_t large[] = {100, 127, 200, 257, 768};
    enum { N_DIMS = 70 + sizeof large / sizeof large[0] };
    for (size_t x = 0; x < N_DIMS; x++) {
        size_t dim = x < 70 ? x + 1 : large[x - 70];
        for (int kind = 0; kind < N_KINDS; kind++) {
            if (kind != UNIFORM && skip_case()) continue;
            size_t queries_size = MOST * dim * sizeof(float), docs_size = PANEL * dim * sizeof(float);
            float *queries = input(queries_size), *docs = input(docs_size);
            fill(queries, MOST, dim, kind == EQUAL || kind == NEAR_DUPLICATES ? UNIFORM : kind);
            fill(docs, PANEL, dim, kind);
            WHERE("%s, D %zu, %s", kernels->name, dim, kind_names[kind]);
            for (size_t n = 0; n < 8; n++) {
                /* The last ones end where the unreadable page begins. */
                const float *q = queries + (n ? random_below(MOST) : MOST - 1) * dim;
                const float *d = docs + (n ? random_below(PANEL) : PANEL - 1) * dim;
                check_inner(kernels, q, d, dim);
                check_inner_of_16_bits(kernels, q, d, dim);
            }
            for (int packed = 0; packed < 2; packed++)
                for (size_t n_queries = 1; n_queries <= (packed ? TILE : ROWS); n_queries++) {
                    /* Every pair of sizes on one kind of data, a few on the others. */
                    size_t step = kind == UNIFORM && (dim < 40 || n_queries % 3 == 0) ? 1 : 11;
                    for (size_t n_docs = 1 + random_below(step); n_docs <= PANEL; n_docs += step) {
                        if (skip_case()) continue;
                        WHERE("%s %s, D %zu, %s, %zu queries, %zu documents", kernels->name,
                              packed ? "tile_packed_f32" : "tile_rows_f32", dim, kind_names[kind], n_queries, n_docs);
                        /* The last rows, so that the end of both inputs is the unreadable page. */
                        check_tile(kernels, packed, queries + (MOST - n_queries) * dim, n_queries,
                                   docs + (PANEL - n_docs) * dim, n_docs, dim, kind >= NEAR_OVERFLOW);
                    }
                }
            input_free(queries, queries_size);
            input_free(docs, docs_size);
        }
    }
}

void bench_dot_kernels(const ragfast_kernels *kernels) {
    static const size_t dims[] = {64, 100, 128, 192, 200, 384, 768};
    for (size_t x = 0; x < sizeof dims / sizeof dims[0]; x++) {
        size_t dim = dims[x];
        float *queries = must(aligned_alloc(64, MOST * ragfast_padded(dim) * sizeof(float))),
              *docs = must(malloc(PANEL * dim * sizeof(float)));
        float *packed = must(malloc(PANEL * dim * sizeof(float))), scores[MOST * PANEL], thresholds[MOST];
        uint32_t hits[MOST];
        fill(queries, MOST, ragfast_padded(dim), UNIFORM);
        fill(docs, PANEL, dim, UNIFORM);
        for (size_t i = 0; i < MOST; i++) thresholds[i] = INFINITY; /* as after the first blocks: nothing is a hit */
        double inner[3], pack, rows[3], tile, flops = 2.0 * PANEL * (double)dim;
        uint16_t *bits = (uint16_t *)packed; /* finite, if not of any sense */
        for (size_t e = 0; e < dim; e++) bits[e] = near_16_bits(docs[e], RAGFAST_F16);
        const void *eight[RAGFAST_SCORED_ROWS];
        double of_eight[RAGFAST_SCORED_ROWS];
        for (size_t j = 0; j < RAGFAST_SCORED_ROWS; j++) eight[j] = docs + j * dim;
        TIME(inner[0], sink = score_of(kernels, queries, docs, dim, RAGFAST_F32));
        TIME(inner[1],
             kernels->score_rows(of_eight, queries, eight, RAGFAST_SCORED_ROWS, NULL, 0, dim, RAGFAST_F32, 0));
        TIME(inner[2], sink = score_of(kernels, queries, bits, dim, RAGFAST_F16));
        TIME(pack, kernels->pack_docs_f32(packed, docs, PANEL, dim));
        TIME(rows[0], kernels->tile_rows_f32(scores, hits, queries, 1, docs, PANEL, dim, thresholds));
        TIME(rows[1], kernels->tile_rows_f32(scores, hits, queries, 4, docs, PANEL, dim, thresholds));
        TIME(rows[2], kernels->tile_rows_f32(scores, hits, queries, ROWS, docs, PANEL, dim, thresholds));
        TIME(tile,
             kernels->tile_packed_f32(scores, hits, queries, TILE, packed, PANEL, dim, thresholds, (char *)docs, 0));
        printf(
            "%-8s D %4zu  score_rows f32 %5.1f, of 8 %5.1f, f16 %5.1f ns   pack_docs_f32 %5.1f GB/s   tile_rows_f32 B1 "
            "%5.1f B4 %5.1f B12 "
            "%5.1f   "
            "tile_packed_f32 B12 %5.1f GFLOP/s\n",
            kernels->name, dim, inner[0] * 1e9, inner[1] * 1e9 / RAGFAST_SCORED_ROWS, inner[2] * 1e9,
            flops * 2e-9 / pack, flops * 1e-9 / rows[0], flops * 4e-9 / rows[1], flops * ROWS * 1e-9 / rows[2],
            flops * TILE * 1e-9 / tile);
        free(queries);
        free(docs);
        free(packed);
    }
}
