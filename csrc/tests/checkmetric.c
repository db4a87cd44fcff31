/* Checks float64 scores of rows, the half squares that codes carry for distances, and checksums. */
#include "tests/checkkernels.h"

/* ---- data -------------------------------------------------------------------------------------------------------- */

enum { UNIFORM, NEAR, EQUAL, WIDE, TINY, GREATEST, N_KINDS };
static const char *const kind_names[] = {"uniform", "near the query", "the query", "wide", "denormal", "greatest"};

static double value_of_kind(int kind) {
    switch (kind) {
    case WIDE: return ldexp(random_unit(), (int)random_below(61) - 30);
    case TINY: return ldexp(random_unit(), -100 - (int)random_below(50));
    case GREATEST: return (random_below(2) ? 1 : -1) * (double)FLT_MAX * (1 - fabs(random_unit()) * 0x1p-10);
    default: return random_unit();
    }
}

/* x, or what of its type is near, towards 0; binary16 takes what it has room for. */
static void put(void *out, size_t i, double x, ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) {
        ((double *)out)[i] = x * (1 + random_unit() * 0x1p-30); /* full 53 bits, so that fusing would show */
    } else if (dtype == RAGFAST_F32) {
        ((float *)out)[i] = (float)x;
    } else if (dtype == RAGFAST_BF16) {
        float narrow = (float)x;
        uint32_t bits;
        memcpy(&bits, &narrow, sizeof bits);
        ((uint16_t *)out)[i] = (uint16_t)(bits >> 16);
    } else {
        int exponent;
        double fraction = frexp(fabs(x), &exponent);
        uint16_t bits = (uint16_t)(x < 0 ? 0x8000 : 0);
        if (exponent > 16) bits |= 0x7bff;
        if (exponent < -13 && exponent > -25) bits |= (uint16_t)ldexp(fraction, exponent + 24);
        if (exponent >= -13 && exponent <= 16)
            bits |= (uint16_t)((exponent + 14) << 10 | (int)((fraction - 0.5) * 0x1p11));
        ((uint16_t *)out)[i] = bits;
    }
}

static void fill_pair(void *query, void *doc, size_t dim, ragfast_dtype dtype, int kind) {
    for (size_t i = 0; i < dim; i++) {
        double x = value_of_kind(kind);
        put(doc, i, x, dtype);
        double d = element(doc, i, dtype);
        if (kind == NEAR && random_below(3) == 0) d = nextafterf((float)d, 2);
        put(query, i, kind == EQUAL || kind == NEAR ? d : value_of_kind(kind), query_dtype(dtype));
        if (kind == EQUAL && dtype == RAGFAST_F64) ((double *)query)[i] = d;
    }
}

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

/* n rows, each of which ends where a page does, and some of them the same. */
static void check_rows(const ragfast_kernels *kernels, size_t n, size_t dim, ragfast_dtype dtype, int l2, int kind) {
    WHERE("%s %s of %zu rows, D %zu, %s, %s", kernels->name, l2 ? "distances" : "inner products", n, dim,
          dtype_names[dtype], kind_names[kind]);
    size_t query_bytes = dim * element_size(query_dtype(dtype)), bytes = dim * element_size(dtype);
    void *query = input(query_bytes), *docs[RAGFAST_SCORED_ROWS];
    const void *rows[RAGFAST_SCORED_ROWS], *ahead[RAGFAST_SCORED_ROWS];
    for (size_t j = 0; j < n; j++) {
        docs[j] = input(bytes);
        fill_pair(query, docs[j], dim, dtype, kind); /* the query is near the last one, or it */
    }
    for (size_t j = 0; j < n; j++) rows[j] = docs[random_below(4) ? j : random_below(n)];
    for (size_t j = 0; j < RAGFAST_SCORED_ROWS; j++) ahead[j] = (const char *)docs[0] + j * bytes; /* never read */
    double *got = output(n * sizeof *got);
    kernels->score_rows(got, query, rows, n, ahead, random_below(RAGFAST_SCORED_ROWS + 1), dim, dtype, l2);
    for (size_t j = 0; j < n; j++) {
        double expected = canonical_score(query, rows[j], dim, dtype, l2);
        check(same_bits(got[j], expected), "row %zu: %a, not %a", j, got[j], expected);
        check(isfinite(got[j]), "row %zu: %a", j, got[j]);
        long double exact = 0, magnitude = 0;
        for (size_t i = 0; i < dim; i++) {
            long double x = element(query, i, query_dtype(dtype)), y = element(rows[j], i, dtype);
            long double term = l2 ? -(x - y) * (x - y) : x * y;
            exact += term;
            magnitude += fabsl(term);
        }
        long double slack =
            ((long double)dim / 16 + 8) * 0x1p-53L * (1 + 1e-6L) + (long double)dim * 0x1p-63L; /* (D) */
        check(fabsl(got[j] - exact) <= slack * magnitude, "row %zu: %a for %La", j, got[j], exact);
        check(!l2 || kind != EQUAL || rows[j] != docs[n - 1] || same_bits(got[j], 0), "%a from itself", got[j]);
    }
    input_free(query, query_bytes);
    for (size_t j = 0; j < n; j++) input_free(docs[j], bytes);
    output_free(got, n * sizeof *got);
}

void check_score_kernels(const ragfast_kernels *kernels) {
    static const size_t long_dims[] = {127, 128, 129, 384, 768, 1000, 4097};
    for (int dtype = RAGFAST_F32; dtype <= RAGFAST_BF16; dtype++)
        for (int l2 = 0; l2 < 2; l2++)
            for (int kind = 0; kind < N_KINDS; kind++) {
                for (size_t dim = 1; dim < 70; dim++)
                    if (!skip_case())
                        check_rows(kernels, 1 + (dim + (size_t)kind) % RAGFAST_SCORED_ROWS, dim, (ragfast_dtype)dtype,
                                   l2, kind);
                for (size_t x = 0; x < sizeof long_dims / sizeof long_dims[0]; x++)
                    check_rows(kernels, 1 + random_below(RAGFAST_SCORED_ROWS), long_dims[x], (ragfast_dtype)dtype, l2,
                               kind);
            }
    WHERE("%s score of what is not finite", kernels->name);
    for (size_t at = 0; at < 37; at++) /* in every lane, and in the tail; alone, and in each of many rows */
        for (size_t n = 1; n <= RAGFAST_SCORED_ROWS; n += RAGFAST_SCORED_ROWS - 1) {
            float q[37], sound[37] = {0}, d[37] = {0};
            const void *rows[RAGFAST_SCORED_ROWS];
            double scores[RAGFAST_SCORED_ROWS];
            for (size_t i = 0; i < 37; i++) q[i] = 1;
            d[at] = at % 2 ? INFINITY : NAN;
            for (size_t j = 0; j < n; j++) rows[j] = j == at % n ? d : sound;
            for (int l2 = 0; l2 < 2; l2++) {
                kernels->score_rows(scores, q, rows, n, NULL, 0, 37, RAGFAST_F32, l2);
                for (size_t j = 0; j < n; j++)
                    check(!isfinite(scores[j]) == (j == at % n), "element %zu of row %zu is passed over", at, j);
            }
        }
}

/* ---- half squares, alone and in codes ----------------------------------------------------------------------------- */

static void check_half_squares(size_t n, size_t dim, ragfast_dtype dtype, int n_threads) {
    WHERE("%s half squares, N %zu, D %zu, %s, %d threads", ragfast_isa(), n, dim, dtype_names[dtype], n_threads);
    size_t bytes = n * dim * element_size(dtype), wrong = 0;
    void *rows = input(bytes);
    for (size_t i = 0; i < n * dim; i++) put(rows, i, random_unit(), dtype);
    double *out = output(n * sizeof *out), *zero = must(calloc(dim, sizeof *zero));
    ragfast_status status = ragfast_measure_rows(NULL, out, NULL, NULL, rows, n, dim, dtype, THREADS(n_threads));
    check(status == RAGFAST_OK, "status %d", (int)status);
    for (size_t i = 0; i < n;
         i++) { /* a product of two float32 is exact: the distance from 0 has the bits of the product */
        const char *row = (const char *)rows + i * dim * element_size(dtype);
        wrong += !same_bits(out[i], (0 - canonical_score(zero, row, dim, dtype, 1)) / 2);
    }
    check(wrong == 0, "%zu of %zu are wrong", wrong, n);
    input_free(rows, bytes);
    output_free(out, n * sizeof *out);
    free(zero);
}

/* What encoding leaves in the bounds: never above, and only as much below as a float32 is coarse; other fields as ever. */
static void check_coded_half_squares(size_t n, size_t dim, float magnitude, int centered) {
    WHERE("%s codes with half squares, N %zu, D %zu, magnitude %g%s", ragfast_isa(), n, dim, (double)magnitude,
          centered ? ", centered" : "");
    size_t high_size, low_size, bounds_size, above = 0, low = 0, changed = 0;
    ragfast_codes_size(&high_size, &low_size, &bounds_size, n, dim);
    float *rows = must(malloc(n * dim * sizeof *rows)), *center = must(malloc(dim * sizeof *center));
    for (size_t e = 0; e < dim; e++) center[e] = magnitude;
    for (size_t i = 0; i < n; i++)
        for (size_t e = 0; e < dim; e++)
            rows[i * dim + e] = i % 5 == 3                ? (centered ? center[e] : 0)
                                : i % 5 == 4 && !centered ? (float)random_unit() * 0x1p100f /* beyond coding */
                                                          : magnitude * (1 + 0.25f * (float)random_unit());
    double *half_squares = must(malloc(n * sizeof *half_squares));
    check(!ragfast_measure_rows(NULL, half_squares, NULL, NULL, rows, n, dim, RAGFAST_F32, THREADS(1)), "failed");
    ragfast_code_bounds *with = must(calloc(1, bounds_size)), *without = must(calloc(1, bounds_size));
    ragfast_codes codes = {.high = output(high_size), .low = output(low_size), .center = centered ? center : NULL};
    codes.bounds = without;
    check(!ragfast_encode(&codes, rows, NULL, RAGFAST_F32, 0, n, dim, THREADS(1)), "ragfast_encode failed");
    codes.bounds = with;
    check(!ragfast_encode(&codes, rows, half_squares, RAGFAST_F32, 0, n / 3, dim, THREADS(1)), "ragfast_encode failed");
    check(!ragfast_encode(&codes, rows, half_squares, RAGFAST_F32, n / 3, n, dim, THREADS(2)), "ragfast_encode failed");
    for (size_t i = 0; i < n; i++) {
        const ragfast_code_bounds *a = with + i / RAGFAST_PANEL_DOCS, *b = without + i / RAGFAST_PANEL_DOCS;
        size_t j = i % RAGFAST_PANEL_DOCS;
        long double exact = (long double)half_squares[i] * a->scale[j];
        int coded = !isinf(a->residual[j]);
        above += (long double)a->tail[j] > exact;
        low += !(a->tail[j] >= (coded ? fminl(exact * (1 - 0x1p-23L) - 0x1p-149L, 0x1p60L) : 0));
        above += !(a->tail[j] <= 0x1p60f) || (!coded && a->tail[j] != 0);
        changed += a->scale[j] != b->scale[j] || a->norm[j] != b->norm[j] || a->residual[j] != b->residual[j] ||
                   a->high_residual[j] != b->high_residual[j] || b->tail[j] != 0;
    }
    check(above == 0 && low == 0, "%zu of %zu are too high, %zu too low", above, n, low);
    check(changed == 0, "%zu bounds of other kinds changed", changed);
    output_free(codes.high, high_size);
    output_free(codes.low, low_size);
    free(with);
    free(without);
    free(half_squares);
    free(center);
    free(rows);
}

static void check_refused_half_squares(void) {
    WHERE("refused half squares");
    enum { N = 40, D = 32 };
    static float rows[N * D];
    double half_squares[N];
    size_t high, low, bounds;
    ragfast_codes_size(&high, &low, &bounds, N, D);
    check(ragfast_measure_rows(NULL, half_squares, NULL, NULL, rows, N, 0, RAGFAST_F32, THREADS(1)) ==
              RAGFAST_ERROR_ARGUMENT,
          "D of 0 was taken");
    check(ragfast_measure_rows(NULL, half_squares, NULL, NULL, rows, N, D, RAGFAST_F32, THREADS(-1)) ==
              RAGFAST_ERROR_ARGUMENT,
          "-1 threads were taken");
    check(ragfast_measure_rows(NULL, half_squares, NULL, NULL, rows, SIZE_MAX / 2, D, RAGFAST_F32, THREADS(1)) ==
              RAGFAST_ERROR_ARGUMENT,
          "sizes that overflow were taken");
    ragfast_codes codes = {.high = must(malloc(high)), .low = must(malloc(low)), .bounds = must(malloc(bounds))};
    codes.prefix = 16;
    check(!ragfast_measure_rows(NULL, half_squares, NULL, NULL, rows, N, D, RAGFAST_F32, THREADS(1)), "failed");
    check(ragfast_encode(&codes, rows, half_squares, RAGFAST_F32, 0, N, D, THREADS(1)) == RAGFAST_ERROR_ARGUMENT,
          "a prefix beside half squares was taken");
    check(ragfast_encode(&codes, rows, NULL, RAGFAST_F32, 0, N, D, THREADS(1)) == RAGFAST_OK,
          "a prefix alone was not taken");
    free(codes.high);
    free(codes.low);
    free(codes.bounds);
}

/* ---- distances of chosen documents --------------------------------------------------------------------------------- */

static void check_gathered(size_t n_queries, size_t k, size_t n, size_t dim, ragfast_dtype dtype, int n_threads) {
    WHERE("%s distances of chosen documents, B %zu, K %zu, D %zu, %s, %d threads", ragfast_isa(), n_queries, k, dim,
          dtype_names[dtype], n_threads);
    size_t bytes = n * dim * element_size(dtype), row = dim * element_size(query_dtype(dtype)), wrong = 0;
    void *vectors = input(bytes);
    char *queries = input(n_queries * row);
    for (size_t i = 0; i < n * dim; i++) put(vectors, i, random_unit(), dtype);
    for (size_t i = 0; i < n_queries * dim; i++) put(queries, i, random_unit(), query_dtype(dtype));
    int64_t *rows = must(malloc((n_queries * k + 1) * sizeof *rows));
    for (size_t i = 0; i < n_queries * k; i++) rows[i] = (int64_t)random_below(n + 1) - 1;
    double *scores = output(n_queries * k * sizeof *scores), *half_squares = must(malloc(n * sizeof *half_squares));
    check(!ragfast_measure_rows(NULL, half_squares, NULL, NULL, vectors, n, dim, dtype, THREADS(1)), "failed");
    ragfast_docs docs = {.vectors = vectors, .n_docs = n, .dim = dim, .dtype = dtype, .half_squares = half_squares};
    ragfast_status status = ragfast_gather_scores(scores, queries, rows, n_queries, k, &docs, THREADS(n_threads));
    check(status == RAGFAST_OK, "status %d", (int)status);
    for (size_t i = 0; i < n_queries * k; i++) {
        const char *doc = (const char *)vectors + (rows[i] < 0 ? 0 : (size_t)rows[i]) * dim * element_size(dtype);
        double expected = rows[i] < 0 ? -INFINITY : canonical_score(queries + i / k * row, doc, dim, dtype, 1);
        wrong += !same_bits(scores[i], expected);
    }
    check(wrong == 0, "%zu of %zu are wrong", wrong, n_queries * k);
    if (dtype == RAGFAST_F32 && k > 0) { /* a document that is the query: +0 */
        memcpy(queries, vectors, row);
        rows[0] = 0;
        check(!ragfast_gather_scores(scores, queries, rows, n_queries, k, &docs, THREADS(n_threads)), "failed");
        check(same_bits(scores[0], 0), "%a from itself", scores[0]);
    }
    input_free(vectors, bytes);
    input_free(queries, n_queries * row);
    output_free(scores, n_queries * k * sizeof *scores);
    free(rows);
    free(half_squares);
}

/* ---- checksums ----------------------------------------------------------------------------------------------------- */

/* Bytes whose value anyone can make: those of x_{i+1} = 1103515245 x_i + 12345 mod 2^32, from x_0 = 1, its bits 16 to 23. */
static void fill_bytes(uint8_t *out, size_t n) {
    uint32_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = x * 1103515245u + 12345u;
        out[i] = (uint8_t)(x >> 16);
    }
}

static void check_checksum(void) {
    WHERE("ragfast_checksum");
    static const struct {
        const char *text;
        uint64_t hash;
    } known[] = {{"", 0xef46db3751d8e999},
                 {"a", 0xd24ec4f1a98c6e5b},
                 {"abc", 0x44bc2cf5ad770999},
                 {"Nobody inspects the spammish repetition", 0xfbcea83c8a378bf1}};
    for (size_t x = 0; x < sizeof known / sizeof known[0]; x++) {
        uint64_t got = ragfast_checksum(known[x].text, strlen(known[x].text));
        check(got == known[x].hash, "\"%s\" gave %016llx", known[x].text, (unsigned long long)got);
    }
    check(ragfast_checksum(NULL, 0) == known[0].hash, "nothing at no place");
    static const struct {
        size_t n;
        uint64_t hash;
    } made[] = {
        {1, 0xd2da77930f69647c},    {2, 0x9f33d4bd50f99c34},    {3, 0xf7c331cf2042b940},     {4, 0x1b042f821fc4a793},
        {5, 0x6e1f98107d9db571},    {7, 0x41d39023940006c8},    {8, 0xef7823fce4ad9afb},     {9, 0x81cf88e9d8340150},
        {11, 0x62c5ad6ce5a70c2e},   {12, 0x4b5e14a3db724bf4},   {13, 0xb183b09a3b8ba2bd},    {15, 0x6f0095b1c00e82fb},
        {16, 0x29965039df6047bb},   {17, 0x5236fcb96d8fb228},   {23, 0xa012735dbf297a07},    {24, 0x72f6fa358766ca0a},
        {28, 0x87d1e7c274aa31e4},   {31, 0x68c3dbb752f3fa97},   {32, 0xad7dc5a569bb047c},    {33, 0x475b642ac692e380},
        {36, 0xb4198e5654a588ed},   {40, 0xf623c5f8cb955c71},   {45, 0x7c73a0c9e45dd7a0},    {63, 0xc18c4743de1b99a8},
        {64, 0x06872c5d6370de25},   {65, 0x8b5f4e34a32c5a09},   {95, 0xa963f5b187837114},    {96, 0xdf54d08173bdf185},
        {97, 0x965c7075e19fc07f},   {100, 0xc6bd897b47ffa277},  {127, 0x77dc651915d836b5},   {128, 0x2e9c4cb0b29bc8ec},
        {1000, 0x7ad5b044fb6fa81d}, {3072, 0x9ef0534ecd9f0d47}, {65537, 0xb233be7f604d17e9},
    };
    for (size_t x = 0; x < sizeof made / sizeof made[0]; x++) {
        uint8_t *bytes = input(made[x].n);
        fill_bytes(bytes, made[x].n);
        uint64_t got = ragfast_checksum(bytes, made[x].n);
        check(got == made[x].hash, "%zu bytes gave %016llx", made[x].n, (unsigned long long)got);
        for (size_t repeat = 0; repeat < 20; repeat++) { /* in pieces, some of them empty */
            ragfast_checksum_state state;
            ragfast_checksum_begin(&state);
            for (size_t i = 0; i < made[x].n;) {
                size_t n = ragfast_min(random_below(repeat % 2 ? 9 : 100), made[x].n - i);
                ragfast_checksum_update(&state, bytes + i, n);
                i += n;
                if (random_below(4) == 0) ragfast_checksum_end(&state);
            }
            ragfast_checksum_update(&state, NULL, 0);
            check(ragfast_checksum_end(&state) == made[x].hash, "%zu bytes in pieces", made[x].n);
        }
        input_free(bytes, made[x].n);
    }
}

static void check_row_sums(size_t n, size_t row_bytes, int n_threads) {
    WHERE("ragfast_row_sums, N %zu, %zu bytes, %d threads", n, row_bytes, n_threads);
    uint8_t *rows = input(n * row_bytes);
    fill_bytes(rows, n * row_bytes);
    uint32_t *sums = output(n * sizeof *sums);
    size_t wrong = 0;
    ragfast_status status = ragfast_row_sums(sums, rows, n, row_bytes, THREADS(n_threads));
    check(status == RAGFAST_OK, "status %d", (int)status);
    for (size_t i = 0; i < n; i++) wrong += sums[i] != (ragfast_checksum(rows + i * row_bytes, row_bytes) & 0xffffffff);
    check(wrong == 0, "%zu of %zu are wrong", wrong, n);
    input_free(rows, n * row_bytes);
    output_free(sums, n * sizeof *sums);
}

void check_metric(int threads_only) {
    for (size_t level = 0; level < ragfast_isa_count(); level++) {
        if (!ragfast_isa_available(level) ||
            (threads_only && level + 1 < ragfast_isa_count() && ragfast_isa_available(level + 1)))
            continue;
        ragfast_set_isa(ragfast_isa_name(level));
        for (int x = RAGFAST_F32; x <= RAGFAST_BF16; x++) {
            ragfast_dtype dtype = (ragfast_dtype)x;
            check_half_squares(3000, 400, dtype, 3);
            check_gathered(30, 200, 300, 200, dtype, 4);
            if (threads_only) continue;
            check_half_squares(0, 5, dtype, 1);
            check_half_squares(33, 37, dtype, 1);
            for (size_t dim = 1; dim < 40; dim++)
                if (!skip_case())
                    check_gathered(1 + random_below(3), random_below(9), 1 + random_below(20), dim, dtype, 1);
        }
        check_coded_half_squares(1000, 48, 1, 0);
        check_coded_half_squares(100, 37, 0x1p-50f, 0);
        check_coded_half_squares(100, 37, 0x1p58f, 0);
        check_coded_half_squares(100, 37, 3, 1);
        check_coded_half_squares(100, 37, 0x1p90f, 1); /* |x|^2 far beyond float32 where x - center is not */
    }
    check_row_sums(5000, 768, 4);
    check_row_sums(3, 1 << 20, 2);
    if (threads_only) return;
    for (size_t row_bytes = 0; row_bytes < 70; row_bytes++) check_row_sums(row_bytes % 7, row_bytes, 1);
    check(ragfast_row_sums(NULL, NULL, 1, 1, THREADS(-1)) == RAGFAST_ERROR_ARGUMENT, "-1 threads were taken");
    check(ragfast_row_sums(NULL, NULL, SIZE_MAX / 2, 3, THREADS(1)) == RAGFAST_ERROR_ARGUMENT,
          "sizes that overflow were taken");
    check_refused_half_squares();
    check_checksum();
}
