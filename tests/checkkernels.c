/* Checks every kernel of every available level against its contract, then ragfast_search and the marginalization from
 * the public header; `checkkernels --bench` times the kernels instead. Exit status 1 if anything was wrong.
 *
 * Meant to be run plain, under AddressSanitizer with UBSan, and under ThreadSanitizer (`make sanitize`). Sanitizers do not
 * see masked vector loads, so inputs end where an unreadable page begins; outputs lie between canaries. */
#include "checkkernels.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    ROWS = RAGFAST_ROWS_QUERIES,
    MOST = ROWS > TILE ? ROWS : TILE
};
enum { CANARY = 72 /* malloc aligns to 16, so that outputs are aligned to 8 bytes and no further */ };

char where[256];
static size_t n_checks, n_failures;

void check(int ok, const char *format, ...) {
    n_checks++;
    if (ok) return;
    if (++n_failures > 20) return; /* the first failures tell the most */
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAIL %s: ", where);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static size_t whole_pages(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

void *must(void *block) {
    if (block && block != MAP_FAILED) return block;
    fprintf(stderr, "out of memory\n");
    exit(2);
}

void *input(size_t bytes) {
    size_t room = whole_pages(bytes), page = whole_pages(1);
    char *map = must(mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0));
    if (mprotect(map + room, page, PROT_NONE)) must(NULL);
    return map + room - bytes;
}

void input_free(void *data, size_t bytes) {
    size_t room = whole_pages(bytes);
    munmap((char *)data + bytes - room, room + whole_pages(1));
}

void *output(size_t bytes) {
    unsigned char *block = must(malloc(bytes + 2 * CANARY));
    memset(block, 0xa5, bytes + 2 * CANARY);
    return block + CANARY;
}

void output_free(void *data, size_t bytes) {
    unsigned char *block = (unsigned char *)data - CANARY;
    size_t touched = 0;
    for (size_t i = 0; i < CANARY; i++) touched += (block[i] != 0xa5) + (block[CANARY + bytes + i] != 0xa5);
    check(touched == 0, "%zu bytes written outside an output of %zu bytes", touched, bytes);
    free(block);
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

uint64_t random_u64(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
size_t random_below(size_t n) { return (size_t)(random_u64() % n); }
double random_unit(void) { return (double)(int64_t)random_u64() * 0x1p-63; }

/* What breaks selection and bounds: ties, rows that float32 cannot tell apart, magnitudes at both ends. */
enum { UNIFORM, INTEGERS, EQUAL, ZERO, NEAR_DUPLICATES, WIDE, TINY, NEAR_OVERFLOW, HUGE_VALUES, N_KINDS };
static const char *const kind_names[] = {"uniform", "integers", "equal",         "zero", "near duplicates",
                                         "wide",    "tiny",     "near overflow", "huge"};

static void fill(float *x, size_t n_rows, size_t dim, int kind) {
    for (size_t i = 0; i < n_rows * dim; i++) {
        float first = i < dim ? (float)random_unit() : x[i % dim];
        switch (kind) {
        case UNIFORM: x[i] = (float)random_unit(); break;
        case INTEGERS: x[i] = (float)random_below(5) - 2.0f; break;
        case EQUAL: x[i] = first; break;
        case ZERO: x[i] = i % 2 ? 0.0f : -0.0f; break;
        case NEAR_DUPLICATES: x[i] = random_below(4) ? first : nextafterf(first, (float)random_unit()); break;
        case WIDE: x[i] = (float)ldexp(random_unit(), (int)random_below(41) - 20); break;
        case TINY: x[i] = (float)ldexp(random_unit(), -70 - (int)random_below(78)); break;
        case NEAR_OVERFLOW: x[i] = (float)ldexp(random_unit(), 62 + (int)random_below(3)); break;
        default: x[i] = (float)ldexp(random_unit(), 60 + (int)random_below(68)); break;
        }
    }
}

/* The value of 16 bits by the definition of its format: (-1)^sign 2^exponent 1.fraction, below the least exponent
 * 0.fraction. */
double value_of_16_bits(uint16_t x, ragfast_dtype dtype) {
    int fraction_bits = dtype == RAGFAST_F16 ? 10 : 7, top = dtype == RAGFAST_F16 ? 31 : 255;
    int exponent = x >> fraction_bits & top, fraction = x & ((1 << fraction_bits) - 1), bias = top / 2;
    double sign = x & 0x8000 ? -1 : 1;
    if (exponent == top) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

static size_t element_size(ragfast_dtype dtype) {
    return dtype == RAGFAST_F64 ? sizeof(double) : dtype == RAGFAST_F32 ? sizeof(float) : sizeof(uint16_t);
}
static ragfast_dtype query_dtype(ragfast_dtype dtype) { return dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32; }

static double element(const void *x, size_t i, ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return ((const double *)x)[i];
    return dtype == RAGFAST_F32 ? (double)((const float *)x)[i] : value_of_16_bits(((const uint16_t *)x)[i], dtype);
}

/* The canonical score, from the contract in internal.h: 16 lanes, then 16 -> 8 -> 4 -> 2 -> 1. dtype is of documents. */
static double canonical_inner(const void *query, const void *doc, size_t dim, ragfast_dtype dtype) {
    double lanes[16] = {0};
    for (size_t i = 0; i < dim; i++) {
        /* a compiler that contracts must not here */
        volatile double product = element(query, i, query_dtype(dtype)) * element(doc, i, dtype);
        lanes[i % 16] += product;
    }
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

/* Towards zero: a value of the type near x, which is all that data needs. binary16 has no place for most exponents of
 * float32: they are moved into its range, denormals included. */
static uint16_t near_16_bits(float x, ragfast_dtype dtype) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (dtype == RAGFAST_BF16) return (uint16_t)(bits >> 16);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    double magnitude = fabs((double)x);
    while (magnitude >= 0x1p16) magnitude *= 0x1p-36;
    while (magnitude > 0 && magnitude < 0x1p-24) magnitude *= 0x1p30;
    if (magnitude < 0x1p-14) return (uint16_t)(sign | (int)(magnitude * 0x1p24));
    int exponent;
    int fraction = (int)(frexp(magnitude, &exponent) * 0x1p11) - 0x400;
    return (uint16_t)(sign | (exponent + 14) << 10 | fraction);
}

int same_bits(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }
static int same_float(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

/* ---- inner-product kernels -------------------------------------------------------------------------------------- */

static void check_inner(const ragfast_kernels *kernels, const float *q, const float *d, size_t dim) {
    double expected = canonical_inner(q, d, dim, RAGFAST_F32), got = kernels->inner_f64_f32(q, d, dim);
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
    expected = canonical_inner(a, b, dim, RAGFAST_F64), got = kernels->inner_f64_f64(a, b, dim);
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
            wrong += isnan(expected) ? !isnan(out[i]) : !same_bits((double)out[i], expected); /* -0.0 is not 0.0 */
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
            double expected = canonical_inner(q, bits, dim, (ragfast_dtype)dtype);
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
            /* The bound of search.c, which any order of summation must keep. */
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

static void check_dot_kernels(const ragfast_kernels *kernels) {
    check_widen(kernels, RAGFAST_F16);
    check_widen(kernels, RAGFAST_BF16);
    static const size_t large[] = {100, 127, 200, 257, 768};
    enum { N_DIMS = 70 + sizeof large / sizeof large[0] };
    for (size_t x = 0; x < N_DIMS; x++) {
        size_t dim = x < 70 ? x + 1 : large[x - 70];
        for (int kind = 0; kind < N_KINDS; kind++) {
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

/* ---- search ----------------------------------------------------------------------------------------------------- */

typedef struct ranked {
    double score;
    int64_t id;
} ranked;

/* A corpus, queries, and every query's complete ranking by the contract. */
typedef struct problem {
    ragfast_docs docs; /* without norms and codes, unless a check says so */
    void *vectors, *queries;
    size_t vectors_size, queries_size, n_queries;
    ragfast_codes codes;
    size_t codes_size[3]; /* high, low, bounds */
    float *transform;     /* center, weight and rotation of the codes; NULL: there are no codes */
    float *norms;
    int64_t *ids;
    ranked *ranking; /* (B,N) */
} problem;

static int by_score_then_id(const void *x, const void *y) {
    const ranked *a = x, *b = y;
    if (a->score != b->score) return a->score < b->score ? 1 : -1;
    return (a->id > b->id) - (a->id < b->id);
}

static void *as_dtype(const float *x, size_t n, ragfast_dtype dtype, size_t *size) {
    *size = n * element_size(dtype);
    void *copy = input(*size);
    if (dtype == RAGFAST_F32 && n) memcpy(copy, x, *size);
    for (size_t i = 0; i < n; i++) {
        if (dtype == RAGFAST_F64) ((double *)copy)[i] = x[i] == 0 ? 0 : x[i] * (1 + 0x1p-40 * (double)random_below(3));
        if (dtype > RAGFAST_F64) ((uint16_t *)copy)[i] = near_16_bits(x[i], dtype);
    }
    return copy;
}

static problem make_problem(size_t n_queries, size_t n_docs, size_t dim, int kind, ragfast_dtype dtype, int with_ids) {
    problem p = {.n_queries = n_queries};
    float *rows = must(malloc((n_docs + n_queries + 1) * dim * sizeof(float))), *queries = rows + n_docs * dim;
    fill(rows, n_docs, dim, kind);
    fill(queries, n_queries, dim, kind == NEAR_DUPLICATES || kind == EQUAL ? UNIFORM : kind);
    p.vectors = as_dtype(rows, n_docs * dim, dtype, &p.vectors_size);
    p.queries = as_dtype(queries, n_queries * dim, query_dtype(dtype), &p.queries_size);
    free(rows);
    p.norms = must(malloc((n_docs + 1) * sizeof(float)));
    p.ids = must(malloc((n_docs + 1) * sizeof(int64_t)));
    for (size_t i = 0; i < n_docs; i++) { /* shuffled, far apart, some beyond 32 bits */
        size_t j = random_below(i + 1);
        p.ids[i] = p.ids[j];
        p.ids[j] = (int64_t)i * 0x7fffffff;
    }
    p.docs = (ragfast_docs){
        .vectors = p.vectors, .ids = with_ids ? p.ids : NULL, .n_docs = n_docs, .dim = dim, .dtype = dtype};
    p.ranking = must(malloc((n_queries * n_docs + 1) * sizeof(ranked)));
    size_t query_row = dim * element_size(query_dtype(dtype)), row = dim * element_size(dtype);
    for (size_t i = 0; i < n_queries; i++) {
        for (size_t j = 0; j < n_docs; j++)
            p.ranking[i * n_docs + j] =
                (ranked){canonical_inner((char *)p.queries + i * query_row, (char *)p.vectors + j * row, dim, dtype),
                         with_ids ? p.ids[j] : (int64_t)j};
        qsort(p.ranking + i * n_docs, n_docs, sizeof(ranked), by_score_then_id);
    }
    return p;
}

/* The norms, and codes over a transform of random parts, written in two calls at some level. */
static void add_norms_and_codes(problem *p) {
    size_t n_docs = p->docs.n_docs, dim = p->docs.dim, bad_row, *size = p->codes_size;
    check(!ragfast_row_norms(p->norms, &bad_row, p->vectors, n_docs, dim, p->docs.dtype, 2),
          "ragfast_row_norms failed");
    int has_center = n_docs && random_below(2), has_weight = random_below(2) != 0;
    int has_rotation = dim <= 800 && random_below(2); /* larger ones take their time under a sanitizer */
    float *center = p->transform = must(malloc((dim + 2) * dim * sizeof(float))), *weight = center + dim;
    float *rotation = weight + dim;
    size_t center_row = has_center ? random_below(n_docs) : 0;
    double *axis = must(malloc(dim * sizeof *axis)), square = 0;
    for (size_t e = 0; e < dim; e++) {
        if (has_center) center[e] = (float)element(p->vectors, center_row * dim + e, p->docs.dtype);
        weight[e] = ldexpf(1, (int)random_below(7) - 3);
        axis[e] = random_unit() + 2 * (e == 0);
        square += axis[e] * axis[e];
    }
    for (size_t i = 0; i < dim && has_rotation; i++) /* a reflection, each element rounded once */
        for (size_t e = 0; e < dim; e++) rotation[i * dim + e] = (float)((i == e) - 2 * axis[i] * axis[e] / square);
    free(axis);

    ragfast_codes_size(&size[0], &size[1], &size[2], n_docs, dim);
    size_t shift = random_below(2); /* any address will do */
    size[0] += shift, size[1] += shift, size[2] += 4 * shift;
    p->codes = (ragfast_codes){.high = input(size[0]),
                               .low = input(size[1]),
                               .bounds = input(size[2]),
                               .center = has_center ? center : NULL,
                               .weight = has_weight ? weight : NULL,
                               .rotation = has_rotation ? rotation : NULL,
                               .rotation_error = has_rotation ? 3 * 0x1p-24 * sqrt((double)dim) : 0,
                               .prefix = random_below(2) ? (dim - 1) / 64 * 64 / (1 + random_below(2)) / 64 * 64 : 0,
                               .always = 1};
    memset(p->codes.high, 0xa5, size[0]);
    memset(p->codes.low, 0xa5, size[1]);
    memset(p->codes.bounds, 0xa5, size[2]);
    size_t level = random_below(ragfast_isa_count()), first = random_below(n_docs + 1);
    if (ragfast_isa_available(level)) ragfast_set_isa(ragfast_isa_name(level));
    for (int part = 0; part < 2; part++)
        check(!ragfast_encode(&p->codes, p->vectors, NULL, p->docs.dtype, part ? first : 0, part ? n_docs : first, dim,
                              1 + (int)random_below(3)),
              "ragfast_encode failed");
}

static void free_problem(problem *p) {
    if (p->transform) {
        input_free(p->codes.high, p->codes_size[0]);
        input_free(p->codes.low, p->codes_size[1]);
        input_free(p->codes.bounds, p->codes_size[2]);
        free(p->transform);
    }
    input_free(p->vectors, p->vectors_size);
    input_free(p->queries, p->queries_size);
    free(p->norms);
    free(p->ids);
    free(p->ranking);
}

/* One search against the ranking; the number of wrong entries. No `where`, no check(): threads call it too. */
static size_t wrong_entries(double *scores, int64_t *ids, double *logprobs, ragfast_query_stats *stats,
                            const problem *p, const ragfast_docs *docs, size_t k, double temperature, int n_threads) {
    size_t n_docs = p->docs.n_docs, n_found = ragfast_min(k, n_docs), wrong = 0;
    if (ragfast_search(scores, ids, logprobs, stats, NULL, p->queries, p->n_queries, docs, 1, NULL, k, temperature,
                       n_threads))
        return 1;
    for (size_t i = 0; i < p->n_queries; i++) {
        const ranked *expected = p->ranking + i * n_docs;
        long double sum = 0;
        for (size_t j = 0; j < n_found; j++)
            sum += expl(((long double)expected[j].score - expected[0].score) / temperature);
        for (size_t j = 0; j < k; j++) {
            double score = scores[i * k + j], logprob = logprobs[i * k + j];
            if (j >= n_found) {
                wrong += !(score == -INFINITY && logprob == -INFINITY && ids[i * k + j] == -1);
                continue;
            }
            long double log_p = ((long double)expected[j].score - expected[0].score) / temperature - logl(sum);
            long double scale = 1 + fabsl(expected[j].score / temperature) + fabsl(expected[0].score / temperature);
            wrong += !(same_bits(score, expected[j].score) && ids[i * k + j] == expected[j].id &&
                       fabsl(logprob - log_p) <= (double)(8 + n_found) * DBL_EPSILON * scale);
        }
    }
    return wrong;
}

static int highest_level_alone; /* for races, in which kernels have no part */

/* What a search may be told of the documents beyond their vectors. */
enum { VECTORS_ALONE, WITH_NORMS, WITH_CODES, N_FORMS };
static const char *const form_names[] = {"vectors alone", "norms", "norms and codes"};
static const char *const dtype_names[] = {"float32", "float64", "float16", "bfloat16"};

/* Every thread count and form, at every level: scores, ids and logprobs keep their bits. */
static void check_search(const problem *p, int kind, size_t k) {
    size_t size = p->n_queries * k * sizeof(double), stats_size = p->n_queries * sizeof(ragfast_query_stats);
    ragfast_dtype dtype = p->docs.dtype;
    double temperature = random_below(2) ? 1.0 : 0.07, *first_logprobs = NULL;
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        if (highest_level_alone && level + 1 < ragfast_isa_count() && ragfast_isa_available(level + 1)) continue;
        for (int n_threads = 1; n_threads <= 4; n_threads += p->docs.n_docs < 5000 ? 1 : 3)
            for (int form = dtype > RAGFAST_F64; form < (dtype == RAGFAST_F64 ? WITH_NORMS : N_FORMS); form++) {
                ragfast_set_isa(ragfast_isa_name(level));
                ragfast_docs docs = p->docs;
                ragfast_codes codes = p->codes;
                docs.norms = form >= WITH_NORMS ? p->norms : NULL;
                docs.codes = form == WITH_CODES ? &codes : NULL;
                codes.always = k != 1; /* then it is the search that chooses */
                WHERE("search at %s, B %zu, N %zu, D %zu, %s, %s, k %zu, %d threads, %s%s%s%s, prefix %zu",
                      ragfast_isa(), p->n_queries, docs.n_docs, docs.dim, kind_names[kind], dtype_names[dtype], k,
                      n_threads, form_names[form], codes.center ? ", center" : "", codes.weight ? ", weight" : "",
                      codes.rotation ? ", rotation" : "", codes.prefix);
                double *scores = output(size), *logprobs = output(size);
                int64_t *ids = output(size);
                ragfast_query_stats *stats = output(stats_size);
                size_t wrong = wrong_entries(scores, ids, logprobs, stats, p, &docs, k, temperature, n_threads);
                check(wrong == 0, "%zu wrong entries", wrong);
                size_t out_of_range = 0, by_codes = 0;
                for (size_t i = 0; i < p->n_queries; i++) {
                    out_of_range += stats[i].rescored < ragfast_min(k, docs.n_docs) || stats[i].by_codes > docs.n_docs;
                    by_codes += stats[i].by_codes;
                }
                check(out_of_range == 0, "impossible counts for %zu queries", out_of_range);
                if (form != WITH_CODES) check(by_codes == 0, "codes are said to have been asked where there are none");
                /* Or the codes would not be what is checked here. */
                if (form == WITH_CODES && k == 10 && docs.n_docs >= 200 && kind == UNIFORM && p->n_queries)
                    check(by_codes > 0, "codes were to be used always, and were not");
                if (first_logprobs)
                    check(!memcmp(logprobs, first_logprobs, size), "doc_logprobs have other bits than at first");
                else
                    first_logprobs = memcpy(must(malloc(size + 1)), logprobs, size);
                output_free(scores, size);
                output_free(logprobs, size);
                output_free(ids, size);
                output_free(stats, stats_size);
            }
    }
    free(first_logprobs);
}

static void check_problem(size_t n_queries, size_t n_docs, size_t dim, int kind, ragfast_dtype dtype) {
    problem p = make_problem(n_queries, n_docs, dim, kind, dtype, (int)random_below(2));
    WHERE("norms and codes of N %zu, D %zu, %s, %s", n_docs, dim, kind_names[kind], dtype_names[dtype]);
    if (dtype != RAGFAST_F64) add_norms_and_codes(&p);
    check_search(&p, kind, 1);
    check_search(&p, kind, 10);
    check_search(&p, kind, 1 + n_docs * 3 / 7); /* many, and still a scan */
    if (n_docs < 1000) check_search(&p, kind, 1 + n_docs);
    if (n_docs < 1000) check_search(&p, kind, 3 + n_docs);
    free_problem(&p);
}

static void check_searches(int threads_only) {
    /* B, N, D: enough work for several threads, long chunks, then sizes around those of tiles and panels. */
    static const size_t shapes[][3] = {{1, 900, 1300}, {26, 129, 768}, {1, 0, 3},    {0, 5, 3},    {1, 1, 1},
                                       {2, 31, 5},     {3, 32, 17},    {11, 33, 16}, {12, 63, 31}, {13, 64, 40},
                                       {1, 65, 64},    {24, 95, 7},    {25, 97, 33}, {5, 200, 100}};
    for (size_t x = 0; x < (threads_only ? 2 : sizeof shapes / sizeof shapes[0]); x++)
        for (int kind = 0; kind < N_KINDS; kind++)
            for (int dtype = RAGFAST_F32; dtype <= RAGFAST_BF16; dtype++) {
                /* Races do not depend on the data; and what one kind is to 16 bits shows in half of the shapes. */
                if (threads_only ? (kind + dtype) % 3 : dtype > RAGFAST_F64 && (kind + dtype + x) % 2) continue;
                check_problem(shapes[x][0], shapes[x][1], shapes[x][2], kind, (ragfast_dtype)dtype);
            }
    for (int kind = UNIFORM; kind <= INTEGERS && !threads_only;
         kind++) /* long chunks; candidates for two passes over the documents */
        check_problem(14, 99000, 1, kind, RAGFAST_F32);
}

/* ---- what the public functions refuse, and what they leave alone -------------------------------------------------- */

/* Documents of 16 bits, and codes. */
static void check_refusals_of_forms(void) {
    enum { B = 3, N = 300, D = 200 };
    double scores[B * 2];
    int64_t ids[B * 2];
    size_t bad_row;
    for (int dtype = RAGFAST_F16; dtype <= RAGFAST_BF16; dtype++)
        for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
            problem p = make_problem(B, N, D, UNIFORM, (ragfast_dtype)dtype, 0);
            add_norms_and_codes(&p);
            ragfast_set_isa(ragfast_isa_name(level));
            WHERE("refusals at %s, %s", ragfast_isa(), dtype_names[dtype]);
            check(ragfast_search(scores, ids, NULL, NULL, NULL, p.queries, B, &p.docs, 1, NULL, 2, 1.0, 1) ==
                      RAGFAST_ERROR_ARGUMENT,
                  "documents of 16 bits without norms were taken");
            ragfast_docs docs = p.docs;
            docs.norms = p.norms;
            docs.codes = &p.codes;
            ((float *)p.queries)[random_below(B * D)] = level % 2 ? NAN : -INFINITY;
            check(ragfast_search(scores, ids, NULL, NULL, NULL, p.queries, B, &docs, 1, NULL, 2, 1.0, 1) ==
                      RAGFAST_ERROR_NONFINITE_QUERY,
                  "a bad query was taken");
            uint16_t *vectors = p.vectors, infinity = dtype == RAGFAST_F16 ? 0x7c00 : 0x7f80;
            for (uint16_t bits = 0; bits < 4; bits++) { /* both infinities and a NaN of either sign */
                size_t at = random_below(N * D);
                uint16_t kept = vectors[at];
                vectors[at] = (uint16_t)(infinity | (bits & 1) << 15 | bits >> 1);
                vectors[N * D - 1] = infinity;
                check(ragfast_row_norms(p.norms, &bad_row, vectors, N, D, (ragfast_dtype)dtype, 1 + bits) ==
                              RAGFAST_ERROR_NONFINITE_DOC &&
                          bad_row == at / D,
                      "ragfast_row_norms found bad row %zu, not %zu", bad_row, at / D);
                vectors[at] = kept;
            }
            free_problem(&p);
        }

    WHERE("refusals of codes");
    problem p = make_problem(B, N, D, UNIFORM, RAGFAST_F32, 0);
    add_norms_and_codes(&p);
#define ENCODE(codes, dtype, first, n_docs, dim, n_threads)                                                            \
    ragfast_encode(&(codes), p.vectors, NULL, dtype, first, n_docs, dim, n_threads)
    check(ENCODE(p.codes, RAGFAST_F32, 0, N, D, 0) == RAGFAST_OK, "a plain ragfast_encode failed");
    check(ENCODE(p.codes, RAGFAST_F32, N, N, D, 1) == RAGFAST_OK, "nothing to encode, and it failed");
    check(ENCODE(p.codes, RAGFAST_F64, 0, N, D, 1) == RAGFAST_ERROR_ARGUMENT, "float64 was encoded");
    check(ENCODE(p.codes, RAGFAST_F32, N + 1, N, D, 1) == RAGFAST_ERROR_ARGUMENT, "a first beyond the end was taken");
    check(ENCODE(p.codes, RAGFAST_F32, 0, (size_t)1 << 31, D, 1) == RAGFAST_ERROR_ARGUMENT, "N 2^31 was taken");
    check(ENCODE(p.codes, RAGFAST_F32, 0, N, 0, 1) == RAGFAST_ERROR_ARGUMENT, "D 0 was taken");
    check(ENCODE(p.codes, RAGFAST_F32, 0, N, RAGFAST_MAX_CODE_DIM + 1, 1) == RAGFAST_ERROR_ARGUMENT,
          "D above 2^15 was taken");
    check(ENCODE(p.codes, RAGFAST_F32, 0, N, D, -1) == RAGFAST_ERROR_ARGUMENT, "n_threads -1 was taken");
    static const size_t prefixes[] = {1, 63, 65, 256};
    for (size_t i = 0; i < 4; i++) {
        ragfast_codes codes = p.codes;
        codes.prefix = prefixes[i];
        check(ENCODE(codes, RAGFAST_F32, 0, N, D, 1) == RAGFAST_ERROR_ARGUMENT, "prefix %zu was taken", prefixes[i]);
    }
    static const double errors[] = {-1e-9, 0.01, NAN};
    for (size_t i = 0; i < 3; i++) {
        ragfast_codes codes = p.codes;
        codes.rotation_error = errors[i];
        check(ENCODE(codes, RAGFAST_F32, 0, N, D, 1) == RAGFAST_ERROR_ARGUMENT, "rotation_error %g was taken",
              errors[i]);
    }
#undef ENCODE
    size_t size[3];
    ragfast_codes_size(&size[0], &size[1], &size[2], N, RAGFAST_MAX_CODE_DIM + 1);
    check(!size[0] && !size[1] && !size[2], "there is room for codes of D above 2^15");
    free_problem(&p);
}

static void check_refusals(void) {
    WHERE("refusals");
    enum { B = 3, N = 700, D = 600 }; /* enough for the threads */
    problem p = make_problem(B, N, D, UNIFORM, RAGFAST_F32, 0);
    double scores[B * 2];
    int64_t ids[B * 2];
    float *queries = p.queries, *vectors = p.vectors;
#define SEARCH(docs, k, temperature, n_threads)                                                                        \
    ragfast_search(scores, ids, NULL, NULL, NULL, queries, B, &(docs), 1, NULL, k, temperature, n_threads)
    check(SEARCH(p.docs, 2, 1.0, 0) == RAGFAST_OK, "a plain search failed");
    check(SEARCH(p.docs, 0, 1.0, 1) == RAGFAST_ERROR_ARGUMENT, "k 0 was taken");
    check(SEARCH(p.docs, 2, 1.0, -1) == RAGFAST_ERROR_ARGUMENT, "n_threads -1 was taken");
    static const double temperatures[] = {0.0, -1.0, NAN};
    for (size_t i = 0; i < 3; i++)
        check(SEARCH(p.docs, 2, temperatures[i], 1) == RAGFAST_ERROR_ARGUMENT, "temperature %g was taken",
              temperatures[i]);
    ragfast_docs no_dim = p.docs, wide = p.docs, many = p.docs;
    no_dim.dim = 0, wide.dim = ((size_t)1 << 20) + 1, many.n_docs = (size_t)1 << 31;
    check(SEARCH(no_dim, 2, 1.0, 1) == RAGFAST_ERROR_ARGUMENT, "D 0 was taken");
    check(SEARCH(wide, 2, 1.0, 1) == RAGFAST_ERROR_ARGUMENT, "D above 2^20 was taken");
    check(SEARCH(many, 2, 1.0, 1) == RAGFAST_ERROR_ARGUMENT, "N 2^31 was taken");

    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++)
        for (size_t i = 0; i < 3; i++)
            for (int n_threads = 1; n_threads <= 3; n_threads++) {
                ragfast_set_isa(ragfast_isa_name(level));
                WHERE("refusals at %s, %g, %d threads", ragfast_isa(), (double)bad[i], n_threads);
                float *slot = &queries[random_below(B * D)], kept = *slot;
                *slot = bad[i];
                check(SEARCH(p.docs, 2, 1.0, n_threads) == RAGFAST_ERROR_NONFINITE_QUERY, "a bad query was taken");
                *slot = kept;
                size_t at = random_below(N * D), bad_row = N;
                kept = vectors[at];
                vectors[at] = bad[i];
                check(SEARCH(p.docs, 2, 1.0, n_threads) == RAGFAST_ERROR_NONFINITE_DOC, "a bad document was taken");
                vectors[N * D - 1] = bad[i];
                check(ragfast_row_norms(p.norms, &bad_row, vectors, N, D, RAGFAST_F32, n_threads) ==
                              RAGFAST_ERROR_NONFINITE_DOC &&
                          bad_row == at / D,
                      "ragfast_row_norms found bad row %zu, not %zu", bad_row, at / D);
                vectors[at] = kept;
                vectors[N * D - 1] = 1;
            }
    free_problem(&p);
    check_refusals_of_forms();

    WHERE("float64 overflow");
    problem q = make_problem(B, N, D, UNIFORM, RAGFAST_F64, 0);
    for (size_t i = 0; i < D; i++)
        ((double *)q.vectors)[5 * D + i] = ((double *)q.queries)[D + i] = i % 2 ? 1e200 : -1e200;
    check(ragfast_search(scores, ids, NULL, NULL, NULL, q.queries, B, &q.docs, 1, NULL, 2, 1.0, 1) ==
              RAGFAST_ERROR_OVERFLOW,
          "an inner product of 1e400 was taken");
    free_problem(&q);

    WHERE("levels");
    check(ragfast_set_isa("avx1024") == RAGFAST_ERROR_UNKNOWN_ISA, "an unknown level was taken");
    for (size_t i = 0; i < ragfast_isa_count(); i++)
        check(ragfast_set_isa(ragfast_isa_name(i)) ==
                  (ragfast_isa_available(i) ? RAGFAST_OK : RAGFAST_ERROR_UNAVAILABLE_ISA),
              "ragfast_set_isa and ragfast_isa_available disagree on %s", ragfast_isa_name(i));
    ragfast_set_num_threads(-3);
    check(ragfast_get_num_threads() == 1, "n < 1 threads should count as 1");
}

static void check_row_norms(void) {
    static const ragfast_dtype dtypes[] = {RAGFAST_F32, RAGFAST_F16, RAGFAST_BF16};
    for (size_t x = 0; x < 180; x++) {
        size_t n_rows = random_below(100), dim = 1 + random_below(70), size, bad_row;
        ragfast_dtype dtype = dtypes[x / 60];
        int kind = (int)(x % N_KINDS);
        WHERE("ragfast_row_norms, N %zu, D %zu, %s, %s", n_rows, dim, kind_names[kind], dtype_names[dtype]);
        float *values = must(malloc(n_rows * dim * sizeof(float) + 1)), *norms = output(n_rows * sizeof(float));
        fill(values, n_rows, dim, kind);
        void *rows = as_dtype(values, n_rows * dim, dtype, &size);
        free(values);
        check(!ragfast_row_norms(norms, &bad_row, rows, n_rows, dim, dtype, 1 + (int)random_below(4)), "failed");
        for (size_t i = 0; i < n_rows; i++) {
            long double square = 0;
            for (size_t e = 0; e < dim; e++) {
                long double value = element(rows, i * dim + e, dtype);
                square += value * value;
            }
            long double exact = sqrtl(square), slack = exact * 0x1p-21 + 0x1p-148;
            check(norms[i] >= exact && (norms[i] <= exact + slack || exact > FLT_MAX / 2), "row %zu: %a for %La", i,
                  (double)norms[i], exact);
        }
        input_free(rows, size);
        output_free(norms, n_rows * sizeof(float));
    }
}

#if defined(__x86_64__)
/* A caller that flushes denormals and rounds upwards gets the same bits, and its settings back. */
static void check_caller_environment(void) {
    WHERE("caller flushes denormals and rounds up");
    static const int kinds[] = {UNIFORM, TINY};
    static const ragfast_dtype dtypes[] = {RAGFAST_F32, RAGFAST_F16, RAGFAST_BF16};
    for (int i = 0; i < 24; i++) {
        int n_threads = i % 4 < 2 ? 1 : 3, coded = i % 8 < 4; /* the calling thread alone, then its workers too */
        problem p = make_problem(5, 300, 700, kinds[i % 2], dtypes[i / 8], 0);
        add_norms_and_codes(&p);
        ragfast_docs docs = p.docs;
        docs.norms = p.norms;
        docs.codes = coded ? &p.codes : NULL;
        double scores[5 * 4], expected[5 * 4];
        int64_t ids[5 * 4], expected_ids[5 * 4];
        ragfast_search(expected, expected_ids, NULL, NULL, NULL, p.queries, 5, &docs, 1, NULL, 4, 1.0, n_threads);
        unsigned saved = _mm_getcsr(), strange = 0x1f80u | 0x8040u | 0x4000u; /* FTZ, DAZ, round up */
        _mm_setcsr(strange);
        ragfast_search(scores, ids, NULL, NULL, NULL, p.queries, 5, &docs, 1, NULL, 4, 1.0, n_threads);
        unsigned after = _mm_getcsr();
        _mm_setcsr(saved);
        check((after & 0xffc0u) == (strange & 0xffc0u), "the caller's control bits came back as %x", after);
        check(!memcmp(scores, expected, sizeof scores) && !memcmp(ids, expected_ids, sizeof ids), "other results");
        free_problem(&p);
    }
}
#endif

/* ---- many callers ------------------------------------------------------------------------------------------------ */

typedef struct caller {
    const problem *problem;
    int n_threads, n_searches;
    size_t wrong;
} caller;

static size_t wrong_in_one_search(const problem *p, size_t k, int n_threads) {
    size_t size = p->n_queries * k * sizeof(double);
    double *scores = must(malloc(size)), *logprobs = must(malloc(size));
    int64_t *ids = must(malloc(size));
    size_t wrong = wrong_entries(scores, ids, logprobs, NULL, p, &p->docs, k, 1.0, n_threads);
    free(scores);
    free(logprobs);
    free(ids);
    return wrong;
}

static void *call_searches(void *argument) {
    caller *c = argument;
    for (int i = 0; i < c->n_searches; i++)
        c->wrong += wrong_in_one_search(c->problem, 1 + (size_t)i % 20, c->n_threads);
    return NULL;
}

/* Of the scan in float32, or of codes over float32 or 16 bits. */
static void check_callers(ragfast_dtype dtype, int with_codes) {
    enum { N_CALLERS = 6 };
    problem p = make_problem(dtype == RAGFAST_F32 ? 4 : 20, 700, 400, INTEGERS, dtype, 1); /* few queries, and many */
    add_norms_and_codes(&p);
    if (with_codes) p.docs.norms = p.norms, p.docs.codes = &p.codes;
    pthread_t threads[N_CALLERS];
    caller callers[N_CALLERS];
    for (int i = 0; i < N_CALLERS; i++) {
        callers[i] = (caller){&p, 1 + i % 4, 40, 0};
        if (pthread_create(&threads[i], NULL, call_searches, &callers[i])) must(NULL);
    }
    for (size_t i = 0; i < 200; i++) { /* calls under way keep their level */
        size_t level = random_below(ragfast_isa_count());
        if (ragfast_isa_available(level)) ragfast_set_isa(ragfast_isa_name(level));
    }
#if !defined(__SANITIZE_THREAD__) /* which gives up threads in a child of a process with threads */
    WHERE("a forked child, while other threads search");
    for (int i = 0; i < 5; i++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            alarm(60); /* a hang ends as a signal */
            _exit(wrong_in_one_search(&p, 10, 4) != 0);
        }
        int status = -1;
        waitpid(child, &status, 0);
        check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %x", (unsigned)status);
        check(wrong_in_one_search(&p, 10, 4) == 0, "the parent's next search was wrong");
    }
#endif
    WHERE("concurrent searches, %s%s", dtype_names[dtype], with_codes ? ", codes" : "");
    for (int i = 0; i < N_CALLERS; i++) {
        pthread_join(threads[i], NULL);
        check(callers[i].wrong == 0, "caller %d had %zu wrong entries", i, callers[i].wrong);
    }
    free_problem(&p);
}

/* ---- timings ----------------------------------------------------------------------------------------------------- */

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

volatile double sink;

static void bench_dot_kernels(const ragfast_kernels *kernels) {
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

int main(int argc, char **argv) {
    int bench = argc == 2 && strcmp(argv[1], "--bench") == 0;
    int threads_only = argc == 2 && strcmp(argv[1], "--threads") == 0; /* for ThreadSanitizer: kernels share nothing */
    if (argc > 1 && !bench && !threads_only) {
        fprintf(stderr, "usage: %s [--bench | --threads]\n", argv[0]);
        return 2;
    }
    highest_level_alone = threads_only;
    for (size_t level = 0; level < ragfast_isa_count(); level++) {
        if (!ragfast_isa_available(level)) {
            printf("%s: not on this machine\n", ragfast_isa_name(level));
            continue;
        }
        ragfast_set_isa(ragfast_isa_name(level));
        if (bench) {
            bench_dot_kernels(ragfast_current_kernels());
            bench_code_kernels(ragfast_current_kernels());
            bench_lse_kernels(ragfast_current_kernels());
            bench_logits_kernels(ragfast_current_kernels());
            bench_roof_kernels();
        }
        if (bench || threads_only) continue;
        check_dot_kernels(ragfast_current_kernels());
        check_score_kernels(ragfast_current_kernels());
        check_code_kernels(ragfast_current_kernels());
        check_lse_kernels(ragfast_current_kernels());
        check_logits_kernels(ragfast_current_kernels());
        check_roof_kernels(ragfast_current_kernels());
        printf("%s: kernels checked\n", ragfast_isa_name(level));
    }
    if (bench) return 0;
    if (!threads_only) check_emulated_amx();
    check_row_norms();
    check_refusals();
    check_roof();
    check_searches(threads_only);
    check_marginals(threads_only);
    check_nll(threads_only);
    check_mixtures(threads_only);
    check_gather(threads_only);
    check_metric(threads_only);
    check_segments(threads_only);
#if defined(__x86_64__)
    check_caller_environment();
#endif
    check_callers(RAGFAST_F32, 0);
    check_callers(RAGFAST_F32, 1);
    check_callers(RAGFAST_BF16, 1);
    printf("%zu checks, %zu failures\n", n_checks, n_failures);
    return n_failures != 0;
}
