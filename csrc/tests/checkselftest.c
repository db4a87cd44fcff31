/* The known-answer tests that a level passes before it is used: every level of this machine passes them, and each entry of the
 * table fails them where one element, bit or hit of its result is wrong. */
#include "tests/checkkernels.h"

#include "core/selftest.h"

enum { PANEL = RAGFAST_PANEL_DOCS };

static ragfast_kernels real; /* what wrong kernels call */

/* Which element of a result of n is wrong. REST: the last one, where a kernel with vectors of eight has a rest; BEYOND: the one
 * behind the result. */
enum { FIRST, MIDDLE, LAST, REST, BEYOND, N_FAULTS };
static const char *const fault_names[] = {"first", "middle", "last", "rest", "beyond"};
static int fault;

static size_t wrong_element(size_t n) {
    switch (fault) {
    case FIRST: return 0;
    case MIDDLE: return n / 2;
    case BEYOND: return n;
    default: return n > 0 && (fault == LAST || n % 8) ? n - 1 : SIZE_MAX;
    }
}

/* By a relative error that the contract does not allow; 0 and what is not finite become something else. */
static double wrong_by(double x, double relative) { return x == 0 || !isfinite(x) ? 1 : x * (1 + relative); }
static float next(float x) { return isfinite(x) ? nextafterf(x, INFINITY) : 1; }

static void spoil_f32(float *out, size_t n, double relative) {
    const size_t i = wrong_element(n);
    if (i != SIZE_MAX) out[i] = relative > 0 ? (float)wrong_by((double)out[i], relative) : next(out[i]);
}
static void spoil_f64(double *out, size_t n, double relative) {
    const size_t i = wrong_element(n);
    if (i != SIZE_MAX) out[i] = wrong_by(out[i], relative);
}
static void spoil_bytes(void *out, size_t n) {
    const size_t i = wrong_element(n);
    if (i != SIZE_MAX) ((uint8_t *)out)[i] ^= 0x10;
}

/* ---- wrong kernels ----------------------------------------------------------------------------------------------- */

static double wrong_inner_f64_f32(const float *a, const float *b, size_t dim) {
    return wrong_element(dim) == dim - 1 ? real.inner_f64_f32(a, b, dim - 1)
                                         : wrong_by(real.inner_f64_f32(a, b, dim), 0x1p-52);
}
static double wrong_inner_f64_f64(const double *a, const double *b, size_t dim) {
    return wrong_element(dim) == dim - 1 ? real.inner_f64_f64(a, b, dim - 1)
                                         : wrong_by(real.inner_f64_f64(a, b, dim), 0x1p-52);
}

static ragfast_dtype wrong_dtype; /* of score_rows */
static int wrong_l2;
static void wrong_score_rows(double *out, const void *query, const void *const *rows, size_t n,
                             const void *const *ahead, size_t n_ahead, size_t dim, ragfast_dtype dtype, int l2) {
    real.score_rows(out, query, rows, n, ahead, n_ahead, dim, dtype, l2);
    if (dtype == wrong_dtype && l2 == wrong_l2 && fault != BEYOND) spoil_f64(out, n, 0x1p-52);
}

static void wrong_widen_f16(float *out, const uint16_t *x, size_t n) {
    real.widen_f16(out, x, n);
    spoil_f32(out, n, 0);
}
static void wrong_widen_bf16(float *out, const uint16_t *x, size_t n) {
    real.widen_bf16(out, x, n);
    spoil_f32(out, n, 0);
}

/* The score of a document for one query, or its hit. */
static int wrong_hits;
static void spoil_tile(float *scores, uint32_t *hits, size_t n_queries, size_t n_docs) {
    const size_t i = wrong_element(n_queries), j = wrong_element(n_docs);
    if (i >= n_queries || j == SIZE_MAX) return;
    if (wrong_hits || j == n_docs)
        hits[i] ^= j < PANEL ? (uint32_t)1 << j : 1;
    else
        scores[i * PANEL + j] = next(scores[i * PANEL + j]);
}
static void wrong_tile_rows_f32(float *scores, uint32_t *hits, const float *queries, size_t n_queries,
                                const float *docs, size_t n_docs, size_t dim, const float *thresholds) {
    real.tile_rows_f32(scores, hits, queries, n_queries, docs, n_docs, dim, thresholds);
    spoil_tile(scores, hits, n_queries, n_docs);
}
static void wrong_tile_packed_f32(float *scores, uint32_t *hits, const float *packed_queries, size_t n_queries,
                                  const float *packed_docs, size_t n_docs, size_t dim, const float *thresholds,
                                  const char *ahead, size_t n_ahead) {
    real.tile_packed_f32(scores, hits, packed_queries, n_queries, packed_docs, n_docs, dim, thresholds, ahead, n_ahead);
    spoil_tile(scores, hits, n_queries, n_docs);
}

/* Queries cut to 12 bits, as of a product of half precision: whole numbers up to 4,095 do not show it. */
static const float *cut(const float *queries, size_t n) {
    static _Alignas(64) float out[RAGFAST_ROWS_QUERIES * 80];
    uint32_t bits;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, queries + i, sizeof bits);
        bits &= 0xfffff000;
        memcpy(out + i, &bits, sizeof bits);
    }
    return out;
}
static void cut_tile_rows_f32(float *scores, uint32_t *hits, const float *queries, size_t n_queries, const float *docs,
                              size_t n_docs, size_t dim, const float *thresholds) {
    real.tile_rows_f32(scores, hits, cut(queries, n_queries * ragfast_padded(dim)), n_queries, docs, n_docs, dim,
                       thresholds);
}
static void cut_tile_packed_f32(float *scores, uint32_t *hits, const float *packed_queries, size_t n_queries,
                                const float *packed_docs, size_t n_docs, size_t dim, const float *thresholds,
                                const char *ahead, size_t n_ahead) {
    real.tile_packed_f32(scores, hits, cut(packed_queries, dim * RAGFAST_TILE_QUERIES), n_queries, packed_docs, n_docs,
                         dim, thresholds, ahead, n_ahead);
}

static void wrong_pack_docs_f32(float *packed_docs, const float *docs, size_t n_docs, size_t dim) {
    real.pack_docs_f32(packed_docs, docs, n_docs, dim);
    if (fault != BEYOND) spoil_f32(packed_docs, n_docs == PANEL ? 0 : n_docs, 0);
}

static int wrong_max;
static float wrong_center_f32(float *y, const float *x, const float *center, const float *weight, size_t dim) {
    float max = real.center_f32(y, x, center, weight, dim);
    if (!wrong_max) spoil_f32(y, dim, 0);
    return wrong_max && wrong_element(dim) != SIZE_MAX ? next(max) : max;
}

static int wrong_sum; /* of encode_f32: 4 for a code */
static void wrong_encode_f32(uint8_t *codes, float sums[4], const float *y, size_t dim, float scale) {
    real.encode_f32(codes, sums, y, dim, scale);
    if (wrong_sum == 4)
        spoil_bytes(codes, dim);
    else if (wrong_element(dim) < dim)
        sums[wrong_sum] += 0.25f;
}

static void spoil_dots(int32_t *dots, uint32_t *hits, size_t n_queries) {
    const size_t i = wrong_element(n_queries), j = wrong_element(PANEL - 1);
    if (i >= n_queries || j == SIZE_MAX) return;
    if (wrong_hits)
        hits[i] ^= (uint32_t)1 << j;
    else
        dots[i * PANEL + j]++;
}
static int wrong_in_run; /* of several panels, not of one */
enum { RIGHT_PANEL, NEXT_PANEL, NO_PANEL };
static int wrong_panel; /* in place of that with hits, or where none has any */
static size_t wrong_tile_high(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                              const uint8_t *high, size_t stride, const ragfast_code_bounds *bounds, size_t n_panels,
                              size_t n_groups, const ragfast_code_threshold *thresholds) {
    if (wrong_panel == NEXT_PANEL && n_panels > 1) n_panels--, high += stride, bounds++;
    size_t found =
        real.tile_high(dots, hits, packed_queries, n_queries, high, stride, bounds, n_panels, n_groups, thresholds);
    if (wrong_panel == RIGHT_PANEL && found < n_panels && (n_panels > 1) == wrong_in_run)
        spoil_dots(dots, hits, n_queries);
    if (wrong_panel == NO_PANEL && found == n_panels) return 0;
    return found;
}

static void wrong_unpack_codes(uint8_t *codes, const uint8_t *high, const uint8_t *low, size_t n_groups) {
    real.unpack_codes(codes, high, low, n_groups);
    spoil_bytes(codes, n_groups * RAGFAST_GROUP_CODES);
}
static void wrong_pack_query_codes(int8_t *packed_queries, const int8_t *queries, size_t n_queries, size_t n_groups) {
    const size_t n = n_queries * n_groups * RAGFAST_GROUP_DIM, i = wrong_element(n);
    int8_t *copy = must(malloc(n));
    memcpy(copy, queries, n);
    if (i < n) copy[i] = (int8_t)(copy[i] > 0 ? copy[i] - 1 : copy[i] + 1);
    real.pack_query_codes(packed_queries, copy, n_queries, n_groups);
    free(copy);
}
static void wrong_tile_codes(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                             const uint8_t *codes, const ragfast_code_bounds *bounds, size_t n_groups,
                             const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead) {
    real.tile_codes(dots, hits, packed_queries, n_queries, codes, bounds, n_groups, thresholds, ahead, n_ahead);
    spoil_dots(dots, hits, n_queries);
}

/* A level that needs both: its tiles are wrong where begin_codes was left out, or came twice. */
static int times_begun;
static void count_begin(void) { times_begun++, real.begin_codes(); }
static void count_end(void) { times_begun--, real.end_codes(); }
static void forget_begin(void) { real.begin_codes(); }
static void forget_end(void) { real.end_codes(); }
static void tile_codes_if_begun(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                                const uint8_t *codes, const ragfast_code_bounds *bounds, size_t n_groups,
                                const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead) {
    real.tile_codes(dots, hits, packed_queries, n_queries, codes, bounds, n_groups, thresholds, ahead, n_ahead);
    if (times_begun != 1) dots[0]++;
}

/* Their last element, or the rest, or an element is counted twice. */
#define WRONG_MAX(type, T)                                                                                             \
    static type wrong_max_##T(const type *x, size_t n) {                                                               \
        const size_t i = wrong_element(n);                                                                             \
        type top = real.max_##T(x, n);                                                                                 \
        return i < n && top == x[i] ? real.max_##T(x, i) : top;                                                        \
    }
WRONG_MAX(float, f32)
WRONG_MAX(double, f64)
static float nan_max_f32(const float *x, size_t n) { return n > 20 && isnan(x[20]) ? x[20] : real.max_f32(x, n); }
static double nan_max_f64(const double *x, size_t n) { return n > 20 && isnan(x[20]) ? x[20] : real.max_f64(x, n); }

static int wrong_tops;
#define WRONG_REST(type, T, relative)                                                                                  \
    static double wrong_sum_exp_rest_##T(const type *x, size_t n, type top, size_t *n_tops) {                          \
        const double sum = real.sum_exp_rest_##T(x, n, top, n_tops);                                                   \
        if (wrong_element(n) >= n) return sum;                                                                         \
        if (wrong_tops) ++*n_tops;                                                                                     \
        return wrong_tops ? sum : wrong_by(sum, relative);                                                             \
    }
WRONG_REST(float, f32, 1e-8)
WRONG_REST(double, f64, 1e-13)

#define WRONG_SUBTRACT(type, T, relative)                                                                              \
    static void wrong_subtract_##T(type *out, const type *x, size_t n, type top, double log_sum) {                     \
        real.subtract_##T(out, x, n, top, log_sum);                                                                    \
        spoil_##T(out, n, relative);                                                                                   \
    }
WRONG_SUBTRACT(float, f32, 0)
WRONG_SUBTRACT(double, f64, 0x1p-52)

static int wrong_posterior;
#define WRONG_MIX(type, T, units)                                                                                      \
    static void wrong_mix_##T(type *out, type *posterior, const type *doc_logprobs, const type *token_logprobs,        \
                              size_t n_docs, size_t n, size_t stride) {                                                \
        real.mix_##T(out, posterior, doc_logprobs, token_logprobs, n_docs, n, stride);                                 \
        if (!wrong_posterior)                                                                                          \
            spoil_##T(out, n, units);                                                                                  \
        else if (posterior && fault != BEYOND)                                                                         \
            spoil_##T(posterior + (n_docs - 1) * stride, n, 4 * (units));                                              \
    }
WRONG_MIX(float, f32, 0x1p-20)
WRONG_MIX(double, f64, 0x1p-46)

static void wrong_exp_f64(double *out, const double *x, size_t n) {
    real.exp_f64(out, x, n);
    spoil_f64(out, n, 0x1p-49);
}

static ragfast_dtype logits; /* of which the kernels below are */
enum { SUM, SUM_WITH_X, SUM_OF_X, N_SUMS };
static int wrong_sum_of;
static double wrong_sum_exp(const void *x, size_t n, int exponent, double *sum_x) {
    const double sum = real.sum_exp[logits](x, n, exponent, sum_x);
    if (wrong_element(n) >= n) return sum;
    if (wrong_sum_of == SUM_OF_X && sum_x) *sum_x = wrong_by(*sum_x, 1e-5);
    return wrong_sum_of == (sum_x ? SUM_WITH_X : SUM) ? wrong_by(sum, 1e-6) : sum;
}

static void wrong_softmax_grad(void *out, const void *x, size_t n, double lse, double scale, double shift, int stream) {
    real.softmax_grad[logits](out, x, n, lse, scale, shift, stream);
    const size_t i = wrong_element(n);
    if (i == SIZE_MAX) return;
    if (logits == RAGFAST_F16 || logits == RAGFAST_BF16)
        ((uint16_t *)out)[i] ^= 1;
    else if (logits == RAGFAST_F64)
        ((double *)out)[i] = wrong_by(((double *)out)[i], 1e-13);
    else
        ((float *)out)[i] = (float)wrong_by((double)((float *)out)[i], 4e-5);
}

static void wrong_mix_logits(float *out, const void *x, const double *offsets, size_t n_docs, size_t n, size_t stride) {
    real.mix_logits[logits](out, x, offsets, n_docs, n, stride);
    spoil_f32(out, n, 0x1p-20);
}

static void wrong_add_scaled_f32(double *acc, double weight, const float *x, size_t n) {
    real.add_scaled_f32(acc, weight, x, n);
    spoil_f64(acc, n, 0x1p-52);
}
static void wrong_add_scaled_f64(double *acc, double weight, const double *x, size_t n) {
    real.add_scaled_f64(acc, weight, x, n);
    spoil_f64(acc, n, 0x1p-52);
}

/* ---- every entry ------------------------------------------------------------------------------------------------- */

static uint8_t is_planted[sizeof(ragfast_kernels) / sizeof(void *)]; /* by any call of expect_wrong */

/* That the tests name the kernel for each of the faults, alone and among the others. */
static void expect_wrong(const ragfast_kernels *table, const ragfast_kernels *scalar, const char *name, int n_faults) {
    for (size_t i = 0; i < sizeof is_planted; i++)
        is_planted[i] |= memcmp((void *const *)table + i, (void *const *)&real + i, sizeof(void *)) != 0;
    for (fault = 0; fault < n_faults; fault++) {
        WHERE("%s of %s, wrong element: %s", name, real.name, fault_names[fault]);
        times_begun = 0;
        const char *alone = ragfast_first_wrong_kernel(table, &real, scalar);
        check(alone && strcmp(alone, name) == 0, "%s is named", alone ? alone : "no kernel");
    }
    fault = LAST;
    times_begun = 0;
    const char *among = ragfast_first_wrong_kernel(table, scalar, scalar);
    check(among && strcmp(among, name) == 0, "%s is named among all", among ? among : "no kernel");
}

#define PLANT(entry, wrong, name, n_faults)                                                                            \
    do {                                                                                                               \
        ragfast_kernels planted = real;                                                                                \
        planted.entry = wrong;                                                                                         \
        expect_wrong(&planted, scalar, name, n_faults);                                                                \
    } while (0)
#define PLANT_WRONG(entry, n_faults) PLANT(entry, wrong_##entry, #entry, n_faults)

static void plant_search_kernels(const ragfast_kernels *scalar) {
    PLANT_WRONG(inner_f64_f32, N_FAULTS);
    PLANT_WRONG(inner_f64_f64, N_FAULTS);
    for (int dtype = RAGFAST_F32; dtype <= RAGFAST_BF16; dtype++)
        for (wrong_l2 = 0; wrong_l2 < 2; wrong_l2++) {
            wrong_dtype = (ragfast_dtype)dtype;
            PLANT_WRONG(score_rows, BEYOND);
        }
    PLANT_WRONG(widen_f16, N_FAULTS);
    PLANT_WRONG(widen_bf16, N_FAULTS);
    PLANT_WRONG(pack_docs_f32, BEYOND);
    for (wrong_hits = 0; wrong_hits < 2; wrong_hits++) {
        PLANT_WRONG(tile_rows_f32, BEYOND);
        PLANT_WRONG(tile_packed_f32, BEYOND);
        PLANT_WRONG(tile_codes, BEYOND);
        for (wrong_in_run = 0; wrong_in_run < 2; wrong_in_run++) PLANT_WRONG(tile_high, BEYOND);
    }
    PLANT(tile_rows_f32, cut_tile_rows_f32, "tile_rows_f32", 1);
    PLANT(tile_packed_f32, cut_tile_packed_f32, "tile_packed_f32", 1);
    for (wrong_panel = NEXT_PANEL; wrong_panel <= NO_PANEL; wrong_panel++) PLANT_WRONG(tile_high, 1);
    wrong_panel = RIGHT_PANEL;
    for (wrong_max = 0; wrong_max < 2; wrong_max++) PLANT_WRONG(center_f32, wrong_max ? BEYOND : N_FAULTS);
    for (wrong_sum = 0; wrong_sum < 5; wrong_sum++) PLANT_WRONG(encode_f32, wrong_sum < 4 ? BEYOND : N_FAULTS);
    PLANT(unpack_codes, wrong_unpack_codes, "tile_codes", REST);
    PLANT(pack_query_codes, wrong_pack_query_codes, "tile_codes", REST);
    PLANT(code_mask, 0xf0, "tile_codes", 1);
    PLANT(code_mask, real.code_mask ^ 0xfc ^ 0xff, "tile_codes", 1);
    PLANT(code_queries, 0, "tile_codes", 1);
    PLANT(code_groups, 0, "tile_codes", 1);
    ragfast_kernels counted = real;
    counted.begin_codes = count_begin, counted.end_codes = count_end, counted.tile_codes = tile_codes_if_begun;
    times_begun = 0;
    check(!ragfast_first_wrong_kernel(&counted, &real, scalar), "begin_codes and end_codes do not alternate");
    ragfast_kernels without = counted;
    without.begin_codes = forget_begin;
    expect_wrong(&without, scalar, "tile_codes", 1);
    without = counted;
    without.end_codes = forget_end;
    expect_wrong(&without, scalar, "tile_codes", 1);
}

static void plant_marginal_kernels(const ragfast_kernels *scalar) {
    static const char *const names[3][4] = {
        {"sum_exp[RAGFAST_F32]", NULL, "sum_exp[RAGFAST_F16]", "sum_exp[RAGFAST_BF16]"},
        {"softmax_grad[RAGFAST_F32]", "softmax_grad[RAGFAST_F64]", "softmax_grad[RAGFAST_F16]",
         "softmax_grad[RAGFAST_BF16]"},
        {"mix_logits[RAGFAST_F32]", NULL, "mix_logits[RAGFAST_F16]", "mix_logits[RAGFAST_BF16]"}};
    PLANT_WRONG(max_f32, BEYOND);
    PLANT_WRONG(max_f64, BEYOND);
    PLANT(max_f32, nan_max_f32, "max_f32", 1);
    PLANT(max_f64, nan_max_f64, "max_f64", 1);
    for (wrong_tops = 0; wrong_tops < 2; wrong_tops++) {
        PLANT_WRONG(sum_exp_rest_f32, BEYOND);
        PLANT_WRONG(sum_exp_rest_f64, BEYOND);
    }
    PLANT_WRONG(subtract_f32, N_FAULTS);
    PLANT_WRONG(subtract_f64, N_FAULTS);
    for (wrong_posterior = 0; wrong_posterior < 2; wrong_posterior++) {
        PLANT_WRONG(mix_f32, wrong_posterior ? BEYOND : N_FAULTS);
        PLANT_WRONG(mix_f64, wrong_posterior ? BEYOND : N_FAULTS);
    }
    PLANT_WRONG(exp_f64, N_FAULTS);
    for (int dtype = RAGFAST_F32; dtype <= RAGFAST_BF16; dtype++) {
        logits = (ragfast_dtype)dtype;
        for (wrong_sum_of = SUM; wrong_sum_of < N_SUMS && names[0][dtype]; wrong_sum_of++)
            PLANT(sum_exp[logits], wrong_sum_exp, names[0][dtype], BEYOND);
        PLANT(softmax_grad[logits], wrong_softmax_grad, names[1][dtype], N_FAULTS);
        if (names[2][dtype]) PLANT(mix_logits[logits], wrong_mix_logits, names[2][dtype], N_FAULTS);
    }
    PLANT_WRONG(add_scaled_f32, N_FAULTS);
    PLANT_WRONG(add_scaled_f64, N_FAULTS);
}

void check_selftest_with(const ragfast_kernels *table) {
    const char *before = ragfast_isa();
    ragfast_set_isa("scalar");
    const ragfast_kernels *scalar = ragfast_current_kernels();
    ragfast_set_isa(before);
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    real = *table;
    WHERE("tests of %s", real.name);
    const char *wrong = ragfast_first_wrong_kernel(table, scalar, scalar);
    check(!wrong, "%s fails", wrong);
    for (int again = 0; again < 2;
         again++) { /* also against itself: every entry but those planted is taken to be right */
        wrong = ragfast_first_wrong_kernel(table, table, scalar);
        check(!wrong, "%s fails", wrong);
    }
    memset(is_planted, 0, sizeof is_planted);
    plant_search_kernels(scalar);
    plant_marginal_kernels(scalar);
    for (size_t i = 0; i < sizeof is_planted; i++) {
        const size_t offset = i * sizeof(void *);
        const int is_free = offset == offsetof(ragfast_kernels, name) ||
                            offset == offsetof(ragfast_kernels, unpack_min_queries) ||
                            offset == offsetof(ragfast_kernels, sum_exp[RAGFAST_F64]) ||
                            offset == offsetof(ragfast_kernels, mix_logits[RAGFAST_F64]);
        WHERE("tests of %s", real.name);
        check(is_planted[i] || is_free, "entry %zu was never wrong", i);
    }
    ragfast_fp_leave(caller_fp);
}

/* ---- a level that fails ------------------------------------------------------------------------------------------ */

/* In planted_dispatch.c, which fails at planted_level. */
extern size_t planted_level;
const ragfast_kernels *planted_current_kernels(void);
size_t planted_isa_count(void);
const char *planted_isa_name(size_t i);
int planted_isa_available(size_t i);
const char *planted_isa_wrong_kernel(size_t i);
const char *planted_isa(void);
ragfast_status planted_set_isa(const char *name);

void check_planted_level(int threads_only) {
    if (threads_only) return;
    size_t n = 0;
    while (n < ragfast_isa_count() && ragfast_isa_available(n)) {
        check(!ragfast_isa_wrong_kernel(n), "%s has a wrong kernel", ragfast_isa_name(n));
        n++;
    }
    check(n == ragfast_isa_count() || !ragfast_isa_wrong_kernel(n), "%s was left out", ragfast_isa_name(n));
    if (n < 2) {
        printf("a level with a wrong kernel: SKIPPED, this machine has scalar alone\n");
        return;
    }
    planted_level = n < 3 ? 1 : 2;
    ragfast_fp_state before = ragfast_fp_enter(), after;
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* denormals flushed, as a caller may have it: tests are not to see that */
    unsigned flushed = _mm_getcsr() & 0x8040; /* 0 in valgrind, which keeps denormals */
#endif
    check(strcmp(planted_isa(), ragfast_isa_name(planted_level - 1)) == 0, "%s is in use", planted_isa());
    after = ragfast_fp_enter();
    ragfast_fp_leave(before);
#if defined(__x86_64__)
    check((after & 0x8040) == flushed, "the floating-point environment was changed");
#else
    (void)after;
#endif
    for (size_t i = 0; i < planted_isa_count(); i++) {
        const char *name = planted_isa_name(i), *wrong = planted_isa_wrong_kernel(i);
        const int fails = i >= planted_level && i < n;
        WHERE("a wrong kernel in %s, level %s", planted_isa_name(planted_level), name);
        check(planted_isa_available(i) == (i < planted_level), "available: %d", planted_isa_available(i));
        check(fails ? wrong && strcmp(wrong, "max_f64") == 0 : !wrong, "%s is wrong", wrong ? wrong : "nothing");
        check(planted_set_isa(name) == (i < planted_level ? RAGFAST_OK
                                        : fails           ? RAGFAST_ERROR_WRONG_KERNEL
                                                          : RAGFAST_ERROR_UNAVAILABLE_ISA),
              "set_isa gave %d", planted_set_isa(name));
        check(strcmp(planted_isa(), planted_isa_name(i < planted_level ? i : planted_level - 1)) == 0, "%s is in use",
              planted_isa());
        check(strcmp(planted_current_kernels()->name, planted_isa()) == 0, "another table is in use");
    }
    check(planted_set_isa("none") == RAGFAST_ERROR_UNKNOWN_ISA, "a level that is not known was set");
}
