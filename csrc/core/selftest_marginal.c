/* Known-answer tests of the kernels of marginalization. Answers of the scalar level come from the C library's exp and log, whose
 * own errors, a unit in the last place of float64, are far below the bounds. */
#include "core/selftest.h"
#include "core/selftest_inputs.h"

#include <float.h>
#include <stdalign.h>

typedef const ragfast_kernels table;

/* One test at a time uses this: a stack of 128 KB might not have the room. */
static struct {
    alignas(64) array x, y, z, out, more_out, expected;
    double values[ROOM] /* of x */, terms[ROOM];
} memory;

/* Logits or log-probabilities from low to high; with `odd`, -inf among them and one NaN, which short lengths do not reach. */
static void fill_between(array *x, ragfast_dtype dtype, size_t n, double low, double high, int odd) {
    for (size_t i = 0; i < n; i++) {
        const double value = low + (high - low) * 0.5 * (1 + random_unit());
        ragfast_put_element(x, i, odd && i == 21 ? NAN : odd && i % 5 == 4 ? -INFINITY : value, dtype);
    }
}

static void widen_x(size_t n, ragfast_dtype dtype) {
    for (size_t i = 0; i < n; i++) memory.values[i] = ragfast_element(&memory.x, i, dtype);
}

/* ---- log-sum-exp ------------------------------------------------------------------------------------------------- */

/* As they come; then with -inf and NaN; then nothing but these. */
static int max_holds(table *t, table *scalar, int d) {
    const ragfast_dtype dtype = (ragfast_dtype)d;
    for (int kind = 0; kind < 3; kind++) {
        fill_between(&memory.x, dtype, LONGEST, -90, 80, kind > 0);
        for (size_t i = 0; i < LONGEST && kind == 2; i++)
            ragfast_put_element(&memory.x, i, i % 2 ? (double)NAN : -INFINITY, dtype);
        for (size_t l = 0; l < N_LENGTHS; l++) {
            const size_t n = lengths[l];
            const void *x = at(&memory.x, start_of(n), dtype);
            if (dtype == RAGFAST_F32 && t->max_f32(x, n) != scalar->max_f32(x, n)) return 0;
            if (dtype == RAGFAST_F64 && t->max_f64(x, n) != scalar->max_f64(x, n)) return 0;
        }
    }
    return 1;
}

static double sum_exp_rest(table *t, size_t first, size_t n, double top, size_t *n_tops, ragfast_dtype dtype) {
    const void *x = at(&memory.x, first, dtype);
    if (dtype == RAGFAST_F32) return t->sum_exp_rest_f32(x, n, (float)top, n_tops);
    return t->sum_exp_rest_f64(x, n, top, n_tops);
}

static int sum_exp_rest_holds(table *t, table *scalar, int d) {
    static const double top = 9.25;
    const ragfast_dtype dtype = (ragfast_dtype)d;
    for (int odd = 0; odd < 2; odd++) {
        fill_between(&memory.x, dtype, LONGEST, -30, 9, odd);
        for (size_t i = 2; i < LONGEST; i += 29) ragfast_put_element(&memory.x, i, top, dtype);
        size_t tops = 0;
        widen_x(LONGEST, dtype);
        for (size_t i = 0; i < LONGEST; i++) memory.terms[i] = sum_exp_rest(scalar, i, 1, top, &tops, dtype);
        for (size_t l = 0; l < N_LENGTHS; l++) {
            const size_t n = lengths[l], first = start_of(n);
            double expected = 0, allowed = 0;
            size_t n_tops = 5, expected_tops = 5; /* it adds */
            for (size_t i = first; i < first + n; i++) {
                expected += memory.terms[i];
                expected_tops += memory.values[i] == top;
                if (memory.terms[i] > 0) allowed += memory.terms[i] * (8 + top - memory.values[i]) * DBL_EPSILON;
            }
            allowed = dtype == RAGFAST_F64 ? allowed + (double)n * DBL_EPSILON * expected : 4e-9 * expected + 1e-300;
            const double got = sum_exp_rest(t, first, n, top, &n_tops, dtype);
            if (n_tops != expected_tops || !close_to(got, expected, allowed)) return 0;
        }
    }
    return 1;
}

static void subtract(table *t, void *out, const void *x, size_t n, double top, ragfast_dtype dtype) {
    static const double log_sum = 0x1.23456789p-2;
    if (dtype == RAGFAST_F32)
        t->subtract_f32(out, x, n, (float)top, log_sum);
    else
        t->subtract_f64(out, x, n, top, log_sum);
}

static int subtract_holds(table *t, table *scalar, int d) {
    const ragfast_dtype dtype = (ragfast_dtype)d;
    fill_between(&memory.x, dtype, LONGEST, -30, 9, 1);
    for (int infinite = 0; infinite < 2; infinite++) {
        const double top = infinite ? -INFINITY : 9.3;
        subtract(scalar, &memory.expected, &memory.x, LONGEST, top, dtype);
        for (size_t l = 0; l < N_LENGTHS; l++) {
            const size_t n = lengths[l], first = start_of(n), bytes = n * ragfast_element_size(dtype);
            const void *x = at(&memory.x, first, dtype), *expected = at(&memory.expected, first, dtype);
            clear(&memory.out, bytes);
            if (l % 2) x = memcpy(memory.out.bytes, x, bytes); /* in place */
            subtract(t, &memory.out, x, n, top, dtype);
            if (dtype == RAGFAST_F32 && !same_f32(memory.out.f32, expected, n)) return 0;
            if (dtype == RAGFAST_F64 && !same_f64(memory.out.f64, expected, n)) return 0;
            if (!ends_at(&memory.out, bytes)) return 0;
        }
    }
    return 1;
}

static int exp_holds(table *t, table *scalar, int unused) {
    static const double odd[] = {0, -0.0, -INFINITY, NAN, -1e308, -745.2, -0x1p-1074, -708.5};
    (void)unused;
    for (size_t i = 0; i < LONGEST; i++)
        memory.x.f64[i] = i % 6 == 5 ? odd[i / 6 % 8] : (random_unit() - 1) * (1 << random_between(0, 8));
    scalar->exp_f64(memory.expected.f64, memory.x.f64, LONGEST);
    for (size_t l = 0; l < N_LENGTHS; l++) {
        const size_t n = lengths[l], bytes = n * sizeof(double);
        const double *x = memory.x.f64 + start_of(n), *expected = memory.expected.f64 + start_of(n);
        clear(&memory.out, bytes);
        if (l % 2) x = memcpy(memory.out.f64, x, bytes); /* in place */
        t->exp_f64(memory.out.f64, x, n);
        for (size_t i = 0; i < n; i++) /* the bound, and half of it for the scalar level's own error */
            if (!close_to(memory.out.f64[i], expected[i], 0x1.8p-51 * expected[i] + 0x1p-1073)) return 0;
        if (!ends_at(&memory.out, bytes)) return 0;
    }
    return 1;
}

enum { DOCS = 4 /* of a mixture; the third is not there */, COLUMNS = LONGEST_SHORT };

static void mix(table *t, array *out, array *posterior, size_t first, size_t n, ragfast_dtype dtype) {
    if (dtype == RAGFAST_F32)
        t->mix_f32(out->f32, posterior ? posterior->f32 : NULL, memory.y.f32, memory.x.f32 + first, DOCS, n, COLUMNS);
    else
        t->mix_f64(out->f64, posterior ? posterior->f64 : NULL, memory.y.f64, memory.x.f64 + first, DOCS, n, COLUMNS);
}

static int mix_holds(table *t, table *scalar, int d) {
    const ragfast_dtype dtype = (ragfast_dtype)d;
    const double units = dtype == RAGFAST_F32 ? 2 * 0x1p-23 : 4 * 0x1p-52;
    const size_t size = ragfast_element_size(dtype);
    array *const posterior = &memory.more_out, *const weights = &memory.z;
    fill_between(&memory.x, dtype, DOCS * COLUMNS, -40, -6, 1);
    fill_between(&memory.y, dtype, DOCS, -5, -1, 0);
    ragfast_put_element(&memory.y, 2, -INFINITY, dtype);
    for (size_t k = 0; k < DOCS; k++) ragfast_put_element(&memory.x, k * COLUMNS + 4, -INFINITY, dtype);
    widen_x(DOCS * COLUMNS, dtype);
    mix(scalar, &memory.expected, weights, 0, COLUMNS, dtype);
    for (size_t l = 0; l < N_SHORT; l++) {
        const size_t n = lengths[l], first = start_of(n);
        clear(&memory.out, n * size);
        clear(posterior, DOCS * COLUMNS * size);
        mix(t, &memory.out, l % 4 ? posterior : NULL, first, n, dtype);
        if (!ends_at(&memory.out, n * size)) return 0;
        for (size_t i = 0; i < n; i++) {
            const double lse = ragfast_element(&memory.expected, first + i, dtype);
            if (!close_to(ragfast_element(&memory.out, i, dtype), lse, units * fmax(1, fabs(lse)))) return 0;
            for (size_t k = 0; k < DOCS && l % 4; k++) {
                const double weight = ragfast_element(weights, k * COLUMNS + first + i, dtype);
                const double v = memory.values[k * COLUMNS + first + i] + ragfast_element(&memory.y, k, dtype);
                const double relative = 4e-16 * (4 + fabs(v) + fabs(lse)) + (dtype == RAGFAST_F32 ? 0x1p-22 : 0);
                const double allowed = weight > 0 ? weight * relative : 0;
                if (!close_to(ragfast_element(posterior, k * COLUMNS + i, dtype), weight, allowed)) return 0;
            }
        }
    }
    return 1;
}

/* ---- logits ------------------------------------------------------------------------------------------------------ */

/* As they come; then with -inf and NaN; then with one above the limit of the exponent, which makes a sum NaN. The longest is
 * more than the sixteen vectors that a kernel adds up in float32. */
static int sum_exp_holds(table *t, table *scalar, int d) {
    static const int exponents[] = {7, -3, -118};
    const ragfast_dtype dtype = (ragfast_dtype)d;
    enum { MOST = 323 };
    for (int kind = 0; kind < 3; kind++) {
        const size_t end = kind ? LONGEST : MOST + 2;
        const int exponent = exponents[kind];
        fill_between(&memory.x, dtype, end, kind == 2 ? -5 : -9, kind == 2 ? 1 : 6, kind == 1);
        if (kind == 2) ragfast_put_element(&memory.x, 21, 2, dtype);
        widen_x(end, dtype);
        for (size_t i = 0; i < end; i++)
            memory.terms[i] = scalar->sum_exp[d](at(&memory.x, i, dtype), 1, exponent, NULL);
        for (size_t l = 0; l < N_LENGTHS + (kind == 0); l++) {
            const size_t n = l < N_LENGTHS ? lengths[l] : MOST, first = start_of(n);
            double expected = 0, plain = 0.5, magnitude = 0.5, sum_x = 0.5; /* it adds */
            for (size_t i = first; i < first + n; i++) {
                expected += memory.terms[i];
                plain += memory.values[i];
                magnitude += fabs(memory.values[i]);
            }
            const double allowed = 4e-7 * expected + (kind == 1 ? (double)n * 0x1p-113 : 0);
            const void *x = at(&memory.x, first, dtype);
            if (!close_to(t->sum_exp[d](x, n, exponent, NULL), expected, allowed)) return 0;
            if (!close_to(t->sum_exp[d](x, n, exponent, &sum_x), expected, allowed)) return 0;
            if (!close_to(sum_x, plain, 2e-7 * magnitude)) return 0;
        }
    }
    return 1;
}

/* Stored, in place, or streamed. A result is right if it is what a float64 within the bound is rounded to. */
static int softmax_grad_holds(table *t, table *scalar, int d) {
    static const double lse = 7.3, scale = 0.8125, shift = 0x1p-5;
    const ragfast_dtype dtype = (ragfast_dtype)d;
    const size_t size = ragfast_element_size(dtype);
    const double relative = dtype == RAGFAST_F64 ? 1e-15 : 4e-7, slope = dtype == RAGFAST_F64 ? 1e-15 : 3e-8;
    double *const lowest = memory.y.f64, *const highest = memory.z.f64;
    fill_between(&memory.x, dtype, LONGEST, -20, 7, 1);
    widen_x(LONGEST, dtype);
    scalar->softmax_grad[RAGFAST_F64](memory.terms, memory.values, LONGEST, lse, scale, 0, 0);
    for (size_t i = 0; i < LONGEST; i++) {
        const double part = memory.terms[i];
        const double allowed = part > 0 ? part * (relative + slope * fabs(memory.values[i] - lse)) : 0;
        ragfast_put_element(&memory.out, 0, part - allowed - shift, dtype);
        ragfast_put_element(&memory.out, 1, part + allowed - shift, dtype);
        lowest[i] = ragfast_element(&memory.out, 0, dtype);
        highest[i] = ragfast_element(&memory.out, 1, dtype);
    }
    for (size_t l = 0; l < N_LENGTHS; l++) {
        const int in_place = l % 3 == 1, stream = l % 3 == 2;
        const size_t n = lengths[l], first = start_of(n), offset = stream ? l % 5 : 1, end = (offset + n) * size;
        const void *x = at(&memory.x, first, dtype);
        unsigned char *out = memory.out.bytes + offset * size;
        clear(&memory.out, end);
        if (in_place) x = memcpy(out, x, n * size);
        t->softmax_grad[d](out, x, n, lse, scale, shift, stream);
        for (size_t i = 0; i < n; i++) {
            const double got = ragfast_element(out, i, dtype), low = lowest[first + i];
            if (isnan(low) ? !isnan(got) : !(got >= low && got <= highest[first + i])) return 0;
        }
        if (!ends_at(&memory.out, end)) return 0;
    }
    return 1;
}

/* Whether b is at most so many float32 from a, of its sign; a NaN is like any other. */
static int within_units(float a, float b, uint32_t most) {
    uint32_t i, j;
    memcpy(&i, &a, sizeof i);
    memcpy(&j, &b, sizeof j);
    return same_f32(&a, &b, 1) || (isfinite(a) && isfinite(b) && i - j + most <= 2 * most);
}

/* Far from 0, where float32 does, and then near it. The third document is not read. */
static int mix_logits_holds(table *t, table *scalar, int d) {
    const ragfast_dtype dtype = (ragfast_dtype)d;
    enum { N = LONGEST_SHORT };
    for (int near = 0; near < 2; near++) {
        double offsets[DOCS];
        for (size_t k = 0; k < DOCS; k++)
            offsets[k] = k == 2 ? -INFINITY : -9.5 - 3 * (double)near - fabs(random_unit());
        fill_between(&memory.x, dtype, DOCS * N, near ? 7 : -12, near ? 9.5 : 4, 1);
        for (size_t i = 0; i < N; i++) ragfast_put_element(&memory.x, 2 * N + i, NAN, dtype);
        for (size_t k = 0; k < DOCS; k++) ragfast_put_element(&memory.x, k * N + 6, -INFINITY, dtype);
        ragfast_put_element(&memory.x, N + 11, INFINITY, dtype);
        scalar->mix_logits[d](memory.expected.f32, &memory.x, offsets, DOCS, N, N);
        for (size_t l = 0; l < N_SHORT; l++) {
            const size_t n = lengths[l], first = start_of(n);
            clear(&memory.out, n * sizeof(float));
            t->mix_logits[d](memory.out.f32, at(&memory.x, first, dtype), offsets, DOCS, n, N);
            for (size_t i = 0; i < n; i++)
                if (!within_units(memory.out.f32[i], memory.expected.f32[first + i], 4)) return 0;
            if (!ends_at(&memory.out, n * sizeof(float))) return 0;
        }
    }
    return 1;
}

/* Weight and elements have 25 and at most 26 bits, so that products are exact: it does not matter whether they are fused. */
static int add_scaled_holds(table *t, table *scalar, int dtype) {
    static const double weight = -0x1.555555p+1;
    for (size_t i = 0; i < LONGEST; i++) {
        if (dtype == RAGFAST_F64)
            memory.x.f64[i] = random_between(-(1 << 25), 1 << 25) * 0x1p-24;
        else
            memory.x.f32[i] = (float)random_unit();
        memory.y.f64[i] = memory.expected.f64[i] = random_unit() * 100;
    }
    if (dtype == RAGFAST_F32)
        scalar->add_scaled_f32(memory.expected.f64, weight, memory.x.f32, LONGEST);
    else
        scalar->add_scaled_f64(memory.expected.f64, weight, memory.x.f64, LONGEST);
    for (size_t l = 0; l < N_LENGTHS; l++) {
        const size_t n = lengths[l], first = start_of(n);
        clear(&memory.out, n * sizeof(double));
        memcpy(memory.out.f64, memory.y.f64 + first, n * sizeof(double));
        if (dtype == RAGFAST_F32)
            t->add_scaled_f32(memory.out.f64, weight, memory.x.f32 + first, n);
        else
            t->add_scaled_f64(memory.out.f64, weight, memory.x.f64 + first, n);
        if (!same_f64(memory.out.f64, memory.expected.f64 + first, n)) return 0;
        if (!ends_at(&memory.out, n * sizeof(double))) return 0;
    }
    return 1;
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

static const selftest tests[] = {
    SELFTEST(max_f32, max_holds, RAGFAST_F32),
    SELFTEST(max_f64, max_holds, RAGFAST_F64),
    SELFTEST(sum_exp_rest_f32, sum_exp_rest_holds, RAGFAST_F32),
    SELFTEST(sum_exp_rest_f64, sum_exp_rest_holds, RAGFAST_F64),
    SELFTEST(subtract_f32, subtract_holds, RAGFAST_F32),
    SELFTEST(subtract_f64, subtract_holds, RAGFAST_F64),
    SELFTEST(mix_f32, mix_holds, RAGFAST_F32),
    SELFTEST(mix_f64, mix_holds, RAGFAST_F64),
    SELFTEST(exp_f64, exp_holds, 0),
    SELFTEST(sum_exp[RAGFAST_F32], sum_exp_holds, RAGFAST_F32),
    SELFTEST(sum_exp[RAGFAST_F16], sum_exp_holds, RAGFAST_F16),
    SELFTEST(sum_exp[RAGFAST_BF16], sum_exp_holds, RAGFAST_BF16),
    SELFTEST(softmax_grad[RAGFAST_F32], softmax_grad_holds, RAGFAST_F32),
    SELFTEST(softmax_grad[RAGFAST_F64], softmax_grad_holds, RAGFAST_F64),
    SELFTEST(softmax_grad[RAGFAST_F16], softmax_grad_holds, RAGFAST_F16),
    SELFTEST(softmax_grad[RAGFAST_BF16], softmax_grad_holds, RAGFAST_BF16),
    SELFTEST(mix_logits[RAGFAST_F32], mix_logits_holds, RAGFAST_F32),
    SELFTEST(mix_logits[RAGFAST_F16], mix_logits_holds, RAGFAST_F16),
    SELFTEST(mix_logits[RAGFAST_BF16], mix_logits_holds, RAGFAST_BF16),
    SELFTEST(add_scaled_f32, add_scaled_holds, RAGFAST_F32),
    SELFTEST(add_scaled_f64, add_scaled_holds, RAGFAST_F64),
};
enum { N_TESTS = sizeof tests / sizeof tests[0] };

/* An entry has a test, but for two that stay empty: sum_exp and mix_logits of float64. */
_Static_assert(sizeof(ragfast_kernels) - SELFTEST_FROM(max_f32) == (N_TESTS + 2) * sizeof(void (*)(void)),
               "a kernel without a test");

const char *ragfast_first_wrong_marginal_kernel(table *t, table *trusted, table *scalar) {
    return first_that_fails(tests, N_TESTS, t, trusted, scalar);
}
