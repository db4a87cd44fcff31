/* Checks the kernels of codes against their contracts in core/kernels.h and search/i8_layout.h, each in plain C here; and the AMX
 * kernels on machines without AMX, through tests/amx_emulated.h. */
#include "tests/checkkernels.h"

enum { PANEL = RAGFAST_PANEL_DOCS, TILE = RAGFAST_TILE_QUERIES, GROUP = RAGFAST_GROUP_DIM };
enum { MAX_PANELS = 5, MOST = RAGFAST_MAX_CODE_QUERIES };

static const size_t group_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 48};
enum { N_GROUP_COUNTS = sizeof group_counts / sizeof group_counts[0] };

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

/* What a kernel with masks and a rest of its own may get wrong lies below 70; two sizes beyond. */
static size_t nth_dim(size_t x) { return x < 70 ? x + 1 : x == 70 ? 333 : 768; }
enum { N_DIMS = 72 };

static float *floats(size_t n) {
    float *x = input(n * sizeof *x);
    for (size_t e = 0; e < n; e++) x[e] = (float)ldexp(random_unit(), (int)random_below(9) - 4);
    return x;
}

static void check_center(const ragfast_kernels *kernels, size_t dim, int with_center, int with_weight, int extreme) {
    size_t size = dim * sizeof(float), wrong = 0;
    float *x = floats(dim), *center = floats(dim), *weight = floats(dim), *y = output(size), expected_max = 0;
    if (extreme) { /* sums beyond float32, and below its normal numbers */
        size_t e = random_below(dim);
        x[e] = FLT_MAX, center[e] = -FLT_MAX, weight[e] = 2.0f;
        e = random_below(dim);
        x[e] = 0x1.8p-148f, center[e] = 0x1p-140f, weight[e] = 0.25f;
        if (random_below(2)) weight[random_below(dim)] = 0; /* infinity times 0 is NaN, which is then the largest */
    }
    int in_place = (int)random_below(2); /* y may be x */
    if (in_place) memcpy(y, x, size);
    float max = kernels->center_f32(y, in_place ? y : x, with_center ? center : NULL, with_weight ? weight : NULL, dim);
    for (size_t e = 0; e < dim; e++) {
        volatile float v = x[e]; /* rounded at each step, whatever the compiler */
        if (with_center) v = v - center[e];
        if (with_weight) v = v * weight[e];
        float expected = v;
        wrong += (size_t)(isnan(expected) ? !isnan(y[e]) : memcmp(&expected, y + e, sizeof expected) != 0);
        if (isnan(expected) || expected_max < fabsf(expected)) expected_max = fabsf(expected); /* NaN stays */
    }
    check(wrong == 0, "center_f32: %zu elements are wrong", wrong);
    check(max == expected_max || (isnan(max) && isnan(expected_max)), "center_f32 gave %a as the largest, not %a",
          (double)max, (double)expected_max);
    input_free(x, size);
    input_free(center, size);
    input_free(weight, size);
    output_free(y, size);
}

enum { SPREAD, HALVES, SMALL, EDGES, N_ENCODINGS };

static void check_encode(const ragfast_kernels *kernels, size_t dim, int kind) {
    static const float scales[] = {1, 0.25f, 3, 0x1.234568p+7f, 0x1p-30f, 0x1p60f};
    static const float edges[] = {127.49999f, -127.49999f, 127, -127, 126.5f, -126.5f, 0.0f, -0.0f};
    float scale = kind == HALVES || kind == EDGES ? 1 : scales[random_below(6)], *y = input(dim * sizeof *y), sums[4];
    uint8_t *codes = output(dim);
    float *out = output(sizeof sums);
    for (size_t e = 0; e < dim; e++) switch (kind) {
        case SPREAD: y[e] = (float)(random_unit() * 127.4 / scale); break;
        case HALVES: y[e] = (float)random_below(508) / 2 - 126.5f; break; /* ties */
        case SMALL: y[e] = (float)(random_unit() / scale); break;
        default: y[e] = edges[random_below(8)]; break;
        }
    kernels->encode_f32(codes, out, y, dim, scale);
    memcpy(sums, out, sizeof sums);
    double exact[4] = {0};
    size_t wrong = 0;
    for (size_t e = 0; e < dim; e++) {
        volatile float product = y[e] * scale;
        double value = product, c = rint(value); /* ties to even */
        int u = 128 + (int)c;
        double coarse = (u & 0xfc) - 126.5;
        wrong += codes[e] != u;
        exact[0] += (value - c) * (value - c);
        exact[1] += (value - coarse) * (value - coarse);
        exact[2] += c * c;
        exact[3] += coarse * coarse;
    }
    check(wrong == 0, "encode_f32: %zu codes are wrong", wrong);
    /* A difference, a square and at most `dim` additions of what is not negative. */
    double rounding = (double)(dim + 4) * 0x1p-24 * 1.01;
    for (size_t s = 0; s < 4; s++)
        check(fabs(sums[s] - exact[s]) <= rounding * exact[s] + (double)dim * 0x1p-149,
              "encode_f32: sum %zu is %a for %a", s, (double)sums[s], exact[s]);
    input_free(y, dim * sizeof *y);
    output_free(codes, dim);
    output_free(out, sizeof sums);
}

/* ---- data of the integer tiles ----------------------------------------------------------------------------------- */

enum { ANY, LARGEST, MOST_NEGATIVE, EXTREMES, ONE_HOT, N_KINDS };
static const char *const kind_names[] = {"any", "largest", "most negative", "extremes", "one hot"};

/* Panels of documents as whole bytes, and as i8_layout.h has them; queries; every dot product for one mask. */
typedef struct codes_problem {
    size_t n_groups, dim, n_scanned, n_panels, n_queries; /* n_scanned groups count */
    uint8_t mask;
    uint8_t *docs;   /* (n_panels, PANEL, dim) */
    int8_t *queries; /* (n_queries, dim), before an unreadable page */
    int32_t *dots;   /* (n_panels, n_queries, PANEL) */
} codes_problem;

static codes_problem make_codes(size_t n_groups, size_t n_scanned, size_t n_panels, size_t n_queries, uint8_t mask,
                                int kind) {
    codes_problem p = {n_groups, n_groups * GROUP, n_scanned, n_panels, n_queries, mask, NULL, NULL, NULL};
    p.docs = must(malloc(n_panels * PANEL * p.dim));
    p.queries = input(n_queries * p.dim);
    p.dots = must(malloc(n_panels * n_queries * PANEL * sizeof(int32_t)));
    for (size_t x = 0; x < n_panels * PANEL * p.dim; x++) {
        uint8_t any = (uint8_t)random_u64();
        p.docs[x] = kind == ANY || kind == ONE_HOT ? any : kind == EXTREMES ? (any & 1 ? 255 : 0) : 255;
    }
    for (size_t i = 0; i < n_queries; i++) {
        size_t hot = random_below(p.dim);
        for (size_t e = 0; e < p.dim; e++) {
            int any = (int)random_below(255) - 127, sign = any > 0 ? 127 : -127, one = e == hot ? 1 : 0;
            int choices[N_KINDS] = {any, 127, -127, sign, one};
            p.queries[i * p.dim + e] = (int8_t)choices[kind];
        }
    }
    for (size_t x = 0; x < n_panels; x++)
        for (size_t i = 0; i < n_queries; i++)
            for (size_t j = 0; j < PANEL; j++) {
                const uint8_t *doc = p.docs + (x * PANEL + j) * p.dim;
                int32_t sum = 0;
                for (size_t e = 0; e < n_scanned * GROUP; e++) sum += p.queries[i * p.dim + e] * (doc[e] & mask);
                p.dots[(x * n_queries + i) * PANEL + j] = sum;
            }
    return p;
}

static void free_codes(codes_problem *p) {
    free(p->docs);
    input_free(p->queries, p->n_queries * p->dim);
    free(p->dots);
}

/* One panel to its planes, after the comment that begins i8_layout.h. */
static void pack_planes(uint8_t *high, uint8_t *low, const codes_problem *p, size_t panel) {
    for (size_t g = 0; g < p->n_groups; g++)
        for (size_t i = 0; i < 128; i++) { /* byte i of a step: document i / 4, its element i % 4 */
            const uint8_t *doc = p->docs + (panel * PANEL + i / 4) * p->dim + g * GROUP + i % 4;
            unsigned a = doc[0], b = doc[4], c = doc[8], d = doc[12];
            uint8_t *rows = high + g * RAGFAST_GROUP_HIGH + i;
            rows[0] = (uint8_t)((a & 0xfc) | d >> 6);
            rows[128] = (uint8_t)((b & 0xfc) | (d >> 4 & 3));
            rows[256] = (uint8_t)((c & 0xfc) | (d >> 2 & 3));
            low[g * RAGFAST_GROUP_LOW + i] = (uint8_t)((a & 3) | (b & 3) << 2 | (c & 3) << 4 | (d & 3) << 6);
        }
}

/* Small whole numbers, so that thresholds come out exactly; and now and then what is beyond coding. */
static void make_bounds(ragfast_code_bounds *b) {
    for (size_t j = 0; j < PANEL; j++) {
        b->scale[j] = (float)random_below(8);
        b->high_residual[j] = random_below(24) ? (float)random_below(8) : INFINITY;
        b->residual[j] = random_below(24) ? (float)random_below(8) : INFINITY;
        b->norm[j] = random_below(48) ? (float)random_below(8) : INFINITY;
        b->tail[j] = (float)random_below(8);
    }
}

/* No document of these reaches a threshold whose floor is 1 or more: |dot| is below 2^25. */
static void make_quiet(ragfast_code_bounds *b) {
    for (size_t j = 0; j < PANEL; j++) {
        b->scale[j] = 0x1p28f;
        b->high_residual[j] = b->residual[j] = b->norm[j] = b->tail[j] = (float)random_below(8);
    }
}

static float residual_of(const ragfast_code_bounds *b, uint8_t mask, size_t j) {
    return mask == 0xfc ? b->high_residual[j] : b->residual[j];
}

static double limit_of(const ragfast_code_threshold *t, const ragfast_code_bounds *b, uint8_t mask, size_t j) {
    double norm = t->norm, residual = t->residual, tail = t->tail;
    return t->offset + (double)t->score * b->scale[j] - norm * residual_of(b, mask, j) - residual * b->norm[j] -
           tail * b->tail[j];
}

/* A threshold that one document's dot product equals, or is 1 below or above; or one that none reaches. With `anything`
 * also infinities and NaN. floor is at least 1. */
static ragfast_code_threshold make_threshold(const codes_problem *p, size_t panel, size_t query,
                                             const ragfast_code_bounds *b, int anything) {
    ragfast_code_threshold t = {0, 1 + (float)random_below(4), (float)random_below(4), (float)random_below(4),
                                (float)random_below(4)};
    size_t j = random_below(PANEL);
    double dot = p->dots[(panel * p->n_queries + query) * PANEL + j], rest = limit_of(&t, b, p->mask, j);
    if (!isfinite(rest)) rest = 0;
    switch (random_below(anything ? 8 : 4)) {
    case 0: t.offset = (float)(dot - rest); break;
    case 1: t.offset = (float)(dot - rest + 1); break;
    case 2: t.offset = (float)(dot - rest - 1); break;
    case 3: t.offset = 0x1p27f; break;
    case 4: t.offset = INFINITY; break;
    case 5: t.offset = -INFINITY; break;
    case 6: t.offset = NAN; break;
    default: t.offset = 0, t.norm = 0, t.residual = 0; break; /* 0 times infinity */
    }
    return t;
}

/* The bits that must be set, and those that may be: a threshold beyond 2^24 is rounded, and how is the kernel's own. */
typedef struct expected_hits {
    uint32_t sure, possible;
} expected_hits;

static expected_hits expect(const codes_problem *p, size_t panel, size_t query, const ragfast_code_threshold *t,
                            const ragfast_code_bounds *b) {
    expected_hits hits = {0, 0};
    for (size_t j = 0; j < PANEL; j++) {
        double dot = p->dots[(panel * p->n_queries + query) * PANEL + j], limit = limit_of(t, b, p->mask, j);
        double magnitude = fmax(fabs(dot), fabs(limit)) + 2048; /* of each partial sum */
        uint32_t bit = (uint32_t)1 << j;
        int rounded = isfinite(limit) && magnitude >= 0x1p24 && fabs(dot - limit) <= 0x1p-21 * magnitude;
        if (!(dot < limit) && !rounded) hits.sure |= bit;
        if (!(dot < limit) || rounded) hits.possible |= bit;
    }
    return hits;
}

/* What a call left for one panel and n_queries queries from first_query on. */
static void check_hits(const codes_problem *p, size_t panel, size_t first_query, size_t n_queries,
                       const ragfast_code_threshold *thresholds, const ragfast_code_bounds *b, const uint32_t *hits,
                       const int32_t *dots) {
    for (size_t i = 0; i < n_queries; i++) {
        size_t query = first_query + i, wrong = 0;
        expected_hits e = expect(p, panel, query, thresholds + i, b);
        check((hits[i] & e.sure) == e.sure && (hits[i] & ~e.possible) == 0, "hits[%zu] %08x, not %08x (may be %08x)", i,
              hits[i], e.sure, e.possible);
        for (size_t j = 0; j < PANEL; j++)
            wrong += (hits[i] >> j & 1) && dots[i * PANEL + j] != p->dots[(panel * p->n_queries + query) * PANEL + j];
        check(wrong == 0, "%zu dot products of query %zu are wrong", wrong, query);
    }
}

/* ---- few queries ------------------------------------------------------------------------------------------------- */

/* The first n_panels panels and n_queries queries of p; none before `first`, which is n_panels if none at all, may
 * hit. The queries lie anywhere within a tile, as when a driver wants one of them alone. */
static void check_tile_high(const ragfast_kernels *kernels, const codes_problem *p, size_t n_queries, size_t n_panels,
                            size_t first, size_t more_groups) {
    size_t panel_size = p->n_groups * RAGFAST_GROUP_HIGH, stride = panel_size + more_groups * RAGFAST_GROUP_HIGH;
    size_t high_size = (n_panels - 1) * stride + panel_size, queries_size = p->dim * TILE;
    size_t bounds_size = n_panels * sizeof(ragfast_code_bounds), dots_size = n_queries * PANEL * sizeof(int32_t);
    size_t hits_size = n_queries * sizeof(uint32_t), thresholds_size = n_queries * sizeof(ragfast_code_threshold);
    uint8_t *high = input(high_size), *low = must(malloc(p->n_groups * RAGFAST_GROUP_LOW));
    int8_t *queries = input(queries_size);
    ragfast_code_bounds *bounds = input(bounds_size);
    ragfast_code_threshold *thresholds = input(thresholds_size);
    int32_t *dots = output(dots_size);
    uint32_t *hits = output(hits_size);
    memset(high, 0xff, high_size);
    for (size_t x = 0; x < n_panels; x++) {
        pack_planes(high + x * stride, low, p, x);
        if (x < first)
            make_quiet(bounds + x);
        else
            make_bounds(bounds + x);
    }
    size_t slot = random_below(TILE - n_queries + 1);
    for (size_t x = 0; x < queries_size; x++) queries[x] = (int8_t)random_u64(); /* what belongs to other queries */
    for (size_t s = 0; s < p->dim / 4; s++)                                      /* (steps, TILE, 4) */
        for (size_t i = 0; i < n_queries; i++)
            memcpy(queries + (s * TILE + slot + i) * 4, p->queries + i * p->dim + 4 * s, 4);
    size_t panel = first < n_panels ? first : 0, chosen = random_below(n_queries);
    for (size_t i = 0; i < n_queries; i++)
        thresholds[i] = make_threshold(p, panel, i, bounds + panel, first == 0 && random_below(3) == 0);
    if (random_below(2)) /* one query alone has hits */
        for (size_t i = 0; i < n_queries; i++)
            if (i != chosen) thresholds[i].offset = 0x1p27f;
    size_t got = kernels->tile_high(dots, hits, queries + 4 * slot, n_queries, high, stride, bounds, n_panels,
                                    p->n_groups, thresholds);
    check(got <= n_panels, "tile_high gave panel %zu of %zu", got, n_panels);
    for (size_t x = 0; x < n_panels && x < got; x++)
        for (size_t i = 0; i < n_queries; i++)
            check(expect(p, x, i, thresholds + i, bounds + x).sure == 0, "query %zu has hits in panel %zu before %zu",
                  i, x, got);
    if (got < n_panels) {
        uint32_t any = 0;
        for (size_t i = 0; i < n_queries; i++) any |= hits[i];
        check(any != 0, "tile_high stopped at panel %zu without a hit", got);
        check_hits(p, got, 0, n_queries, thresholds, bounds + got, hits, dots);
    }
    input_free(high, high_size);
    free(low);
    input_free(queries, queries_size);
    input_free(bounds, bounds_size);
    input_free(thresholds, thresholds_size);
    output_free(dots, dots_size);
    output_free(hits, hits_size);
}

static void check_packed_codes(const ragfast_kernels *kernels) {
    for (size_t g = 0; g < N_GROUP_COUNTS; g++)
        for (int kind = 0; kind < N_KINDS; kind++) {
            codes_problem p = make_codes(group_counts[g], group_counts[g], MAX_PANELS, TILE, 0xfc, kind);
            for (size_t n_queries = 1; n_queries <= TILE; n_queries++)
                for (size_t n_panels = 1; n_panels <= MAX_PANELS; n_panels++)
                    for (size_t first = 0; first <= n_panels; first++) {
                        if (skip_case()) continue;
                        if (p.n_groups > 9 && (first + n_panels + n_queries) % 4) continue; /* the oracle is slow */
                        WHERE("%s tile_high, %zu groups, %s, %zu queries, %zu panels, first hit in %zu", kernels->name,
                              p.n_groups, kind_names[kind], n_queries, n_panels, first);
                        check_tile_high(kernels, &p, n_queries, n_panels, first, random_below(2) * random_below(7));
                    }
            free_codes(&p);
        }
}

/* ---- many queries ------------------------------------------------------------------------------------------------ */

/* n_queries of p's from `first` on, which begins a tile, and is the last that is packed. */
static void check_tile_codes(const ragfast_kernels *kernels, const codes_problem *p, size_t first, size_t n_queries) {
    size_t step = kernels->code_groups, rounded = (p->n_groups + step - 1) / step * step;
    size_t high_size = p->n_groups * RAGFAST_GROUP_HIGH, low_size = p->n_groups * RAGFAST_GROUP_LOW;
    size_t codes_size = rounded * RAGFAST_GROUP_CODES, tile_size = kernels->code_queries * rounded * GROUP;
    size_t packed_size = (first / kernels->code_queries + 1) * tile_size, queries_size = (first + n_queries) * p->dim,
           thresholds_size = n_queries * sizeof(ragfast_code_threshold);
    size_t dots_size = n_queries * PANEL * sizeof(int32_t), hits_size = n_queries * sizeof(uint32_t);

    uint8_t *high = input(high_size), *low = input(low_size), *unpacked = output(codes_size),
            *codes = input(codes_size);
    pack_planes(high, low, p, 0);
    memset(unpacked, (int)random_below(256), codes_size); /* what an earlier, longer look left */
    kernels->unpack_codes(unpacked, high, low, p->n_scanned);
    memcpy(codes, unpacked, codes_size);
    output_free(unpacked, codes_size);
    input_free(high, high_size);
    input_free(low, low_size);

    int8_t *rows = input(queries_size), *written = output(packed_size), *packed = input(packed_size);
    const int8_t *tile = packed + packed_size - tile_size;
    memcpy(rows, p->queries, queries_size);
    kernels->pack_query_codes(written, rows, first + n_queries, p->n_groups);
    memcpy(packed, written, packed_size);
    output_free(written, packed_size);
    input_free(rows, queries_size);

    ragfast_code_bounds *bounds = input(sizeof *bounds);
    ragfast_code_threshold *thresholds = input(thresholds_size);
    make_bounds(bounds);
    for (size_t i = 0; i < n_queries; i++)
        thresholds[i] = make_threshold(p, 0, first + i, bounds, random_below(2) == 0);
    int32_t *dots = output(dots_size);
    uint32_t *hits = output(hits_size);
    const char *unreadable = (const char *)codes + codes_size;
    size_t n_ahead = random_below(3) ? random_below(p->n_groups * 8 + 1) : 0;
    kernels->begin_codes();
    kernels->tile_codes(dots, hits, tile, n_queries, codes, bounds, p->n_scanned, thresholds, unreadable, n_ahead);
    check_hits(p, 0, first, n_queries, thresholds, bounds, hits, dots);
    if (random_below(4) == 0) { /* nothing left over from the first call */
        kernels->tile_codes(dots, hits, tile, n_queries, codes, bounds, p->n_scanned, thresholds, unreadable, 0);
        check_hits(p, 0, first, n_queries, thresholds, bounds, hits, dots);
    }
    kernels->end_codes();
    input_free(codes, codes_size);
    input_free(packed, packed_size);
    input_free(bounds, sizeof *bounds);
    input_free(thresholds, thresholds_size);
    output_free(dots, dots_size);
    output_free(hits, hits_size);
}

static void check_unpacked_codes(const ragfast_kernels *kernels) {
    WHERE("%s tile_codes", kernels->name);
    check(kernels->code_mask == 0xff || kernels->code_mask == 0xfc, "code_mask is %x", kernels->code_mask);
    check(kernels->code_queries >= 1 && kernels->code_queries <= MOST && kernels->code_groups >= 1, "tile sizes");
    size_t tile = kernels->code_queries;
    for (size_t g = 0; g < N_GROUP_COUNTS; g++)
        for (int kind = 0; kind < N_KINDS; kind++)
            for (int prefix = 0; prefix < (group_counts[g] > 4 ? 2 : 1); prefix++) {
                size_t n_groups = group_counts[g]; /* a prefix is of multiples of 64 elements */
                size_t n_scanned = prefix ? 4 * (1 + random_below((n_groups - 1) / 4)) : n_groups;
                codes_problem p = make_codes(n_groups, n_scanned, 1, 2 * tile, kernels->code_mask, kind);
                for (size_t n_queries = 1; n_queries <= tile; n_queries++) {
                    WHERE("%s tile_codes, %zu of %zu groups, %s, %zu queries", kernels->name, n_scanned, n_groups,
                          kind_names[kind], n_queries);
                    for (size_t repeat = 0; repeat < 3; repeat++)
                        if (!skip_case()) check_tile_codes(kernels, &p, repeat == 1 ? tile : 0, n_queries);
                }
                free_codes(&p);
            }
}

void check_code_kernels(const ragfast_kernels *kernels) {
    for (size_t x = 0; x < N_DIMS; x++) {
        size_t dim = nth_dim(x);
        WHERE("%s, D %zu", kernels->name, dim);
        if (skip_case()) continue;
        for (int i = 0; i < 8; i++) check_center(kernels, dim, i & 1, i & 2, i & 4);
        for (int kind = 0; kind < N_ENCODINGS; kind++)
            for (int repeat = 0; repeat < 4; repeat++) check_encode(kernels, dim, kind);
    }
    check_packed_codes(kernels);
    check_unpacked_codes(kernels);
}

/* ---- AMX without AMX --------------------------------------------------------------------------------------------- */

#ifdef RAGFAST_EMULATED_AMX_CHECK
void ragfast_code_fill_amx_emulated(ragfast_kernels *table);
void peak_fill_amx_emulated(peak_kernels *table);

/* The table of AVX-512 VNNI, by its name: a level above it has an unpack_codes that may be another. */
void check_emulated_amx(int threads_only) {
    if (threads_only) return;
    for (size_t level = 0; level < ragfast_isa_count(); level++) {
        if (strcmp(ragfast_isa_name(level), "avx512vnni") != 0 || !ragfast_isa_available(level)) continue;
        const char *before = ragfast_isa();
        ragfast_set_isa("avx512vnni");
        static ragfast_kernels table; /* threads of the pool may look at it for a moment longer */
        table = *ragfast_current_kernels();
        peak_kernels peak;
        check(!peak_fill(&peak, table.name), "%s has no peaks", table.name);
        ragfast_set_isa(before);
        ragfast_code_fill_amx_emulated(&table);
        peak_fill_amx_emulated(&peak);
        table.name = "amx, emulated";
        check_unpacked_codes(&table);
        check_peak_kernels(&peak, &table);
        check_segments_with(&table);
        check_selftest_with(&table);
        printf("%s: kernels checked\n", table.name);
        return;
    }
    printf("amx, emulated: SKIPPED, avx512vnni is not on this machine\n");
}
#else
void check_emulated_amx(int threads_only) {
    if (!threads_only) printf("amx, emulated: SKIPPED, not in this build\n");
}
#endif

/* ---- timings ----------------------------------------------------------------------------------------------------- */

void bench_code_kernels(const ragfast_kernels *kernels) {
    static const size_t dims[] = {64, 384, 768, 1024};
    for (size_t x = 0; x < sizeof dims / sizeof dims[0]; x++) {
        size_t dim = dims[x], n_groups = dim / GROUP, step = kernels->code_groups;
        size_t rounded = (n_groups + step - 1) / step * step, high_size = n_groups * RAGFAST_GROUP_HIGH;
        size_t n_panels = ((size_t)128 << 20) / high_size; /* more than the last cache holds */
        uint8_t *high = must(aligned_alloc(64, n_panels * high_size)),
                *codes = must(aligned_alloc(64, rounded * RAGFAST_GROUP_CODES));
        int8_t *queries = must(aligned_alloc(64, MOST * rounded * GROUP)),
               *packed = must(aligned_alloc(64, MOST * rounded * GROUP));
        ragfast_code_bounds *bounds = must(malloc(n_panels * sizeof *bounds));
        ragfast_code_threshold thresholds[MOST];
        float *y = floats(dim), *out = must(malloc(dim * sizeof *out)), sums[4];
        int32_t dots[MOST * PANEL];
        uint32_t hits[MOST];
        for (size_t i = 0; i < n_panels * high_size; i++) high[i] = (uint8_t)(i * 2654435761u >> 13);
        for (size_t i = 0; i < MOST * dim; i++) queries[i] = (int8_t)(random_below(255) - 127);
        for (size_t i = 0; i < n_panels; i++) make_quiet(bounds + i);
        for (size_t i = 0; i < MOST; i++) thresholds[i] = (ragfast_code_threshold){INFINITY, 0, 0, 0, 0};
        memset(codes, 0, rounded * RAGFAST_GROUP_CODES);
        double ops = 2.0 * PANEL * (double)dim, packed_seconds[3], memory, unpack, unpacked_seconds, center, encode;
        size_t n_full = kernels->code_queries;
        for (size_t i = 0; i < 3; i++) { /* any order of the queries' bytes takes as long */
            static const size_t n_queries[] = {1, 4, 12};
            TIME(packed_seconds[i], sink = (double)kernels->tile_high(dots, hits, queries, n_queries[i], high,
                                                                      high_size, bounds, 1, n_groups, thresholds));
        }
        TIME(memory, sink = (double)kernels->tile_high(dots, hits, queries, 1, high, high_size, bounds, n_panels,
                                                       n_groups, thresholds));
        TIME(unpack, kernels->unpack_codes(codes, high, high + high_size, n_groups));
        kernels->pack_query_codes(packed, queries, n_full, n_groups);
        kernels->begin_codes();
        TIME(unpacked_seconds,
             kernels->tile_codes(dots, hits, packed, n_full, codes, bounds, n_groups, thresholds, (char *)high, 0));
        kernels->end_codes();
        TIME(center, sink = kernels->center_f32(out, y, y, y, dim));
        TIME(encode, kernels->encode_f32(codes, sums, y, dim, 7.0f));
        printf(
            "%-10s D %4zu  GOP/s: tile_high B1 %5.1f B4 %5.1f B12 %5.1f   tile_codes B%zu %6.1f   GB/s: tile_high B1 "
            "from memory %5.1f   unpack_codes (out) %5.1f   center_f32 %5.1f   encode_f32 (in) %5.1f\n",
            kernels->name, dim, ops * 1e-9 / packed_seconds[0], ops * 4e-9 / packed_seconds[1],
            ops * 12e-9 / packed_seconds[2], n_full, ops * (double)n_full * 1e-9 / unpacked_seconds,
            (double)(n_panels * high_size) * 1e-9 / memory, ops * 5e-10 / unpack, (double)dim * 4e-9 / center,
            (double)dim * 4e-9 / encode);
        free(high);
        free(codes);
        free(queries);
        free(packed);
        free(bounds);
        input_free(y, dim * sizeof *y);
        free(out);
    }
}
