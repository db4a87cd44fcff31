/* The kernels of logits at a level, against the same in long double. */
#include "tests/checkkernels.h"

#include "kernels/lse_math.h"

#define LN2 0x1.62e42fefa39efp-1

/* Rows that they may trip over: see make_row. */
enum {
    LOGITS,
    EQUAL,
    WIDE,
    SPARSE,
    NOTHING,
    ONE_NAN,
    ONE_INFINITY,
    EXTREME,
    DENORMAL,
    GREAT_FIRST,
    GREAT_LAST,
    BEYOND,
    N_ROW_KINDS
};
static const char *const row_kinds[] = {"logits",      "equal",   "wide",     "sparse",      "nothing",    "a NaN",
                                        "an infinity", "extreme", "denormal", "great first", "great last", "beyond"};
static const char *const dtypes[] = {"float32", "float64", "float16", "bfloat16"};
static const size_t sizes[] = {4, 8, 2, 2};
static const double greatest[] = {FLT_MAX, DBL_MAX, 65504, 0x1.fep127};
static const int fraction_bits[] = {23, 52, 10, 7}, least_exponents[] = {-149, -1074, -24, -133};

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double get(const void *x, ragfast_dtype dtype, size_t i) {
    if (dtype == RAGFAST_F64) return ((const double *)x)[i];
    if (dtype == RAGFAST_F32) return ((const float *)x)[i];
    return value_of_16_bits(((const uint16_t *)x)[i], dtype);
}

/* Towards zero. */
static void set(void *x, ragfast_dtype dtype, size_t i, double value) {
    if (dtype == RAGFAST_F64) ((double *)x)[i] = value;
    if (dtype == RAGFAST_F32) ((float *)x)[i] = (float)value;
    if (dtype == RAGFAST_BF16) ((uint16_t *)x)[i] = (uint16_t)(bits_of((float)value) >> 16);
    if (dtype != RAGFAST_F16) return;
    const double magnitude = fabs(value);
    unsigned bits = magnitude < 0x1p-14 ? (unsigned)(magnitude * 0x1p24) : 0;
    if (isnan(value))
        bits = 0x7e00;
    else if (magnitude > 65504)
        bits = 0x7c00;
    else if (magnitude >= 0x1p-14) {
        int exponent = 0;
        bits = (unsigned)(frexp(magnitude, &exponent) * 0x1p11) - 0x400;
        bits |= (unsigned)(exponent + 14) << 10;
    }
    ((uint16_t *)x)[i] = (uint16_t)(bits | (signbit(value) ? 0x8000u : 0));
}

static void make_row(void *x, ragfast_dtype dtype, size_t n, int kind) {
    const double first = ldexp(random_unit(), (int)random_below(18) - 2), odd = random_below(2) ? 1 : -1;
    for (size_t i = 0; i < n; i++) {
        double value = 10 * random_unit();
        switch (kind) {
        case EQUAL: value = first; break;
        case WIDE: value = ldexp(random_unit(), (int)random_below(28) - 12); break;
        case SPARSE: value = random_below(3) ? -INFINITY : 10 * value; break;
        case NOTHING: value = -INFINITY; break;
        case ONE_NAN: value = i == n / 3 ? copysign(NAN, odd) : value; break;
        case ONE_INFINITY: value = i == n / 3 ? INFINITY : value; break;
        case EXTREME: value *= greatest[dtype] * 0.0999; break;
        case DENORMAL: value *= ldexp(1, least_exponents[dtype]); break;
        case GREAT_FIRST: value = i == 0 ? 800 + first : value; break;
        case GREAT_LAST: value = i == n - 1 ? 800 + first : value; break;
        case BEYOND: value = random_below(9) ? value : 90 + value; break;
        default: break;
        }
        set(x, dtype, i, value);
    }
}

static void note(double *most, long double error) {
    if (error > *most) *most = (double)error;
}

/* Of a number of dtype as large as x. */
static long double last_place(long double x, ragfast_dtype dtype) {
    int exponent = 0;
    frexpl(fabsl(x), &exponent);
    exponent -= fraction_bits[dtype] + 1;
    return ldexpl(1, exponent > least_exponents[dtype] ? exponent : least_exponents[dtype]);
}

static double sum_error, sum_x_error, grad_error, mix_error; /* the largest found */

static void check_sum_exp(const ragfast_kernels *kernels, const void *x, ragfast_dtype dtype, size_t n, int exponent) {
    const double highest = (exponent + 120) * LN2, limit = LSE_HIGHEST_F32(exponent);
    long double expected = 0, lower = 0, plain = 0.5, magnitude = 0.5;
    int seen = 0;
    for (size_t i = 0; i < n; i++) {
        const double value = get(x, dtype, i);
        if (value > (limit > 0 ? limit : highest)) {
            if (limit <= 0) return; /* which a caller must not */
            seen = 1;
        }
        expected += exp2l((long double)value * LSE_LOG2E_F32 - exponent);
        if (value < LSE_LOWEST_F32(exponent)) lower += 0x1p-113L;
        plain += value;
        magnitude += fabs(value);
    }
    if (seen) expected = NAN;
    for (int with_x = 0; with_x < 2; with_x++) {
        double sum_x = 0.5, got = kernels->sum_exp[dtype](x, n, exponent, with_x ? &sum_x : NULL);
        check(isnan(expected) ? isnan(got) : fabsl(got - expected) <= expected * 6e-7L + lower * 1.01L,
              "sum_exp gave %a for %La, exponent %d", got, expected, exponent);
        if (!isnan(expected) && expected > 1e10L * lower) note(&sum_error, fabsl(got - expected) / expected);
        if (!with_x) continue;
        check(isnan(plain)       ? isnan(sum_x)
              : isinf(magnitude) ? sum_x == plain
                                 : fabsl(sum_x - plain) <= 5e-7L * magnitude,
              "sum_x %a for %La", sum_x, plain);
        if (isfinite(magnitude)) note(&sum_x_error, fabsl(sum_x - plain) / magnitude);
    }
}

static void check_softmax_grad(const ragfast_kernels *kernels, const void *x, ragfast_dtype dtype, size_t n,
                               double lse) {
    static const double scales[] = {1, -1, 0.125, 0, 1000, 1e-6, 1e-30, NAN}, shifts[] = {0, 0.25, -0.5, 1e-5, NAN};
    const double scale = scales[random_below(random_below(5) ? 6 : 8)];
    const double shift = shifts[random_below(random_below(9) ? 4 : 5)];
    const size_t size = n * sizes[dtype], offset = random_below(70) * sizes[dtype];
    const long double allowed = dtype == RAGFAST_F64 ? 1e-15L : 4e-7L, slope = dtype == RAGFAST_F64 ? 1e-15L : 3e-8L;
    for (int way = 0; way < 3; way++) { /* stored, streamed, in place */
        char *room = output(offset + size), *out = room + offset;
        if (way == 2) memcpy(out, x, size);
        kernels->softmax_grad[dtype](out, way == 2 ? out : x, n, lse, scale, shift, way > 0);
        for (size_t i = 0; i < n; i++) {
            const long double below = (long double)get(x, dtype, i) - lse, part = scale * expl(below);
            const long double expected = part - shift;
            const double got = get(out, dtype, i);
            long double error = fabsl(got - expected), small = fabsl(part) * (allowed + slope * fabsl(below));
            if (below < -77) small = fabsl(part); /* may be 0 */
            if (isnan(expected)) {
                check(isnan(got), "gradient [%zu] %a, not NaN", i, got);
            } else if (below == -INFINITY && (shift == 0.25 || shift == 0 || shift == -0.5)) {
                check(got == -shift, "gradient [%zu] %a for -shift %a", i, got, -shift);
            } else {
                check(error <= small + 0.5000001L * last_place(expected, dtype) + 0x1p-149L * (dtype != RAGFAST_F64) +
                                   0x1p-24L * fabsl(expected) * (dtype == RAGFAST_F16 || dtype == RAGFAST_BF16) +
                                   0x1p-25L * fabs(shift) * (dtype != RAGFAST_F64),
                      "gradient [%zu] %a for %La (lse %g, scale %g, shift %g, %s)", i, got, expected, lse, scale, shift,
                      way == 2 ? "in place"
                      : way    ? "streamed"
                               : "stored");
                if (dtype == RAGFAST_F32 && shift == 0 && scale == 1 && below > -70)
                    note(&grad_error, error / part / (1 + fabsl(below) * slope / allowed));
            }
        }
        for (size_t i = 0; i < offset; i++) check((unsigned char)room[i] == 0xa5, "written before the output");
        output_free(room, offset + size);
    }
}

/* Halfway between two numbers of 16 bits, the even one is taken; and infinities and NaN stay what they are. */
static void check_rounding(const ragfast_kernels *kernels, ragfast_dtype dtype) {
    const double unit = ldexp(1, -fraction_bits[dtype]);
    const struct {
        double shift, expected;
    } cases[] = {{-1 - unit / 2, 1},
                 {1 + unit * 3 / 2, -1 - 2 * unit},
                 {-1 - unit * 5 / 2, 1 + 2 * unit},
                 {INFINITY, -INFINITY},
                 {-1e300, dtype == RAGFAST_F64 ? 1e300 : INFINITY},
                 {NAN, NAN}};
    for (size_t n = 1; n < 200; n += n < 5 ? 1 : 39) {
        char *x = output(n * sizes[dtype]);
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            WHERE("%s softmax_grad, %zu of %s, rounding %a", kernels->name, n, dtypes[dtype], -cases[c].shift);
            if (dtype == RAGFAST_F64 && c < 3) continue;
            make_row(x, dtype, n, NOTHING);
            kernels->softmax_grad[dtype](x, x, n, 1.5, 1, cases[c].shift, 0);
            const double expected = dtype == RAGFAST_F32 && c < 3 ? (double)-(float)cases[c].shift : cases[c].expected;
            for (size_t i = 0; i < n; i++) {
                const double got = get(x, dtype, i);
                check(isnan(expected) ? isnan(got) : got == expected, "[%zu] became %a, not %a", i, got, expected);
            }
        }
        output_free(x, n * sizes[dtype]);
    }
}

static double lse_of(const void *x, ragfast_dtype dtype, size_t n) {
    long double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(get(x, dtype, i))) return NAN;
        top = fmaxl(top, get(x, dtype, i));
    }
    if (isinf(top)) return (double)top;
    for (size_t i = 0; i < n; i++) sum += expl(get(x, dtype, i) - top);
    return (double)(top + logl(sum));
}

static void check_row(const ragfast_kernels *kernels, ragfast_dtype dtype, size_t n, int kind) {
    WHERE("%s, %zu of %s, %s", kernels->name, n, dtypes[dtype], row_kinds[kind]);
    void *x = input(n * sizes[dtype]);
    make_row(x, dtype, n, kind);
    const double lse = lse_of(x, dtype, n);
    const int fits = fabs(lse) < 65536;
    for (int i = 0; dtype != RAGFAST_F64 && i < 4; i++) {
        int exponent = fits ? (int)lrint(lse * LSE_LOG2E_F32) : 0;
        if (i > 1) exponent += (int)random_below(150) - 75; /* a poor guess */
        check_sum_exp(kernels, x, dtype, n, i ? exponent : 0);
    }
    check_softmax_grad(kernels, x, dtype, n, lse);
    if (isnan(lse)) check_softmax_grad(kernels, x, dtype, n, 12); /* the NaN alone becomes NaN */
    if (isfinite(lse)) check_softmax_grad(kernels, x, dtype, n, lse + 30 * random_unit() + 30);
    input_free(x, n * sizes[dtype]);
}

static void check_mix_logits(const ragfast_kernels *kernels, ragfast_dtype dtype, size_t n_docs, size_t n, int kind) {
    const size_t stride = n + random_below(2) * random_below(9), size = ((n_docs - 1) * stride + n) * sizes[dtype];
    const int normal = random_below(3) > 0, missing = random_below(2) > 0;
    char *x = input(size);
    double *offsets = input(n_docs * sizeof *offsets);
    float *out = output(n * sizeof *out);
    long double *joint = must(malloc(n_docs * sizeof *joint));
    WHERE("%s mix_logits, %s, K %zu, n %zu, stride %zu, %s", kernels->name, dtypes[dtype], n_docs, n, stride,
          row_kinds[kind]);
    make_row(x, dtype, size / sizes[dtype], kind);
    for (size_t k = 0; k < n_docs; k++) {
        const double lse = lse_of(x + k * stride * sizes[dtype], dtype, n);
        offsets[k] = (normal && isfinite(lse) ? -lse : 30 * random_unit()) - 3 * (1 + random_unit());
        if (random_below(50) == 0) offsets[k] = 1e200 * random_unit();
        if (!missing || random_below(3)) continue;
        offsets[k] = -INFINITY;
        for (size_t v = 0; v < n; v++) set(x, dtype, k * stride + v, NAN); /* not read */
    }
    kernels->mix_logits[dtype](out, x, offsets, n_docs, n, stride);
    for (size_t v = 0; v < n; v++) {
        long double top = -INFINITY, sum = 0, largest = 0;
        int has_nan = 0;
        for (size_t k = 0; k < n_docs; k++) {
            const double value = get(x, dtype, k * stride + v);
            joint[k] = offsets[k] == -INFINITY ? -INFINITY : (long double)offsets[k] + value;
            has_nan |= isnan(joint[k]);
            top = fmaxl(top, joint[k]);
            if (isfinite(joint[k]) && joint[k] > top - 50) largest = fmaxl(largest, fabs(value));
        }
        for (size_t k = 0; k < n_docs; k++) sum += expl(joint[k] - top);
        const long double expected = has_nan ? (long double)NAN : isinf(top) ? top : top + logl(sum);
        const long double error = fabsl(out[v] - expected), unit = last_place(expected, RAGFAST_F32);
        if (isnan(expected) || isinf((float)expected)) {
            check(isnan(expected) ? isnan(out[v]) : out[v] == (float)expected, "mixture [%zu] %a for %La", v, out[v],
                  expected);
            continue;
        }
        check(error <= 4 * unit + 4e-16L * (1 + largest), "mixture [%zu] %a for %La: %Lg units", v, out[v], expected,
              error / unit);
        if (fabsl(expected) > 1e-6L * (1 + largest)) note(&mix_error, error / unit);
    }
    free(joint);
    output_free(out, n * sizeof *out);
    input_free(offsets, n_docs * sizeof *offsets);
    input_free(x, size);
}

static void check_add_scaled(const ragfast_kernels *kernels, ragfast_dtype dtype, size_t n) {
    const size_t size = n * sizes[dtype];
    void *x = input(size);
    double *acc = output(n * sizeof *acc), before[100];
    const double weight = 3 * random_unit();
    WHERE("%s add_scaled, %s, n %zu", kernels->name, dtypes[dtype], n);
    make_row(x, dtype, n, WIDE);
    for (size_t i = 0; i < n; i++) acc[i] = before[i] = 100 * random_unit();
    if (dtype == RAGFAST_F32)
        kernels->add_scaled_f32(acc, weight, x, n);
    else
        kernels->add_scaled_f64(acc, weight, x, n);
    for (size_t i = 0; i < n; i++) {
        const long double part = (long double)weight * get(x, dtype, i), expected = before[i] + part;
        check(fabsl(acc[i] - expected) <= 0x1p-53L * (fabsl(part) + fabsl(expected)) * 1.001L, "[%zu] %a for %La", i,
              acc[i], expected);
    }
    output_free(acc, n * sizeof *acc);
    input_free(x, size);
}

void check_logits_kernels(const ragfast_kernels *kernels) {
    static const size_t large[] = {191, 200, 255, 256, 257, 320, 511, 513, 1000, 1027, 4096, 5003};
    static const size_t n_docs[] = {1, 2, 3, 5, 17, 70};
    const size_t n_large = sizeof large / sizeof large[0];
    sum_error = sum_x_error = grad_error = mix_error = 0;
    for (int d = RAGFAST_F32; d <= RAGFAST_F64; d++)
        for (size_t n = 0; n < 100; n++) check_add_scaled(kernels, (ragfast_dtype)d, n);
    for (int d = RAGFAST_F32; d <= RAGFAST_BF16; d++) check_rounding(kernels, (ragfast_dtype)d);
    for (int d = RAGFAST_F32; d <= RAGFAST_BF16; d++)
        for (int kind = 0; kind < N_ROW_KINDS; kind++) {
            for (size_t s = 0; s < 140 + n_large; s++)
                if (!skip_case()) check_row(kernels, (ragfast_dtype)d, s < 140 ? s + 1 : large[s - 140], kind);
            for (size_t i = 0; i < 6 && d != RAGFAST_F64; i++)
                for (size_t n = 1; n < 300; n += n < 70 ? 3 : 37)
                    if (!skip_case()) check_mix_logits(kernels, (ragfast_dtype)d, n_docs[i], n, kind);
        }
    printf("%s: largest errors: sum_exp %.1e, its sum of x %.1e, softmax_grad %.1e, relative; mix_logits %.2f units in "
           "the last place\n",
           kernels->name, sum_error, sum_x_error, grad_error, mix_error);
}

/* ---- timings ----------------------------------------------------------------------------------------------------- */

/* From memory, as one answer's worth of logits lies there, and from the caches. */
void bench_logits_kernels(const ragfast_kernels *kernels) {
    enum { V = 50265, ROWS = 1000, NEAR = 4096, K = 5 };
    static const ragfast_dtype all[] = {RAGFAST_F32, RAGFAST_F16, RAGFAST_BF16, RAGFAST_F64};
    char *x = must(malloc((size_t)V * ROWS * 8)), *out = must(malloc((size_t)V * ROWS * 4));
    double offsets[K], seconds, sum_x = 0;
    for (int k = 0; k < K; k++) offsets[k] = -14 - k;
    for (int d = 0; d < 4; d++) {
        const ragfast_dtype dtype = all[d];
        const size_t size = sizes[dtype], row = V * size;
        const size_t rows = !strcmp(kernels->name, "scalar") ? 10 : dtype == RAGFAST_F64 ? ROWS / 2 : ROWS;
        make_row(x, dtype, V, LOGITS);
        for (size_t r = 1; r < rows; r++) memcpy(x + r * row, x, row);
        memset(out, 0, rows * row);
        printf("%-8s %-8s elements a nanosecond:", kernels->name, dtypes[dtype]);
        if (dtype != RAGFAST_F64) {
            TIME(seconds, sink = kernels->sum_exp[dtype](x, NEAR, 14, NULL));
            printf(" sum_exp %.2f", NEAR * 1e-9 / seconds);
            TIME(seconds, for (size_t i = 0; i < rows; i++) sink = kernels->sum_exp[dtype](x + i * row, V, 14, NULL));
            printf(", from memory %.2f (%.1f ms)", (double)(rows * V) * 1e-9 / seconds, seconds * 1e3);
            TIME(seconds, for (size_t i = 0; i < rows; i++) sink = kernels->sum_exp[dtype](x + i * row, V, 14, &sum_x));
            printf(", with x %.2f;", (double)(rows * V) * 1e-9 / seconds);
        }
        TIME(seconds, kernels->softmax_grad[dtype](out, x, NEAR, 14.0, 1.0, 0.0, 0));
        printf(" softmax_grad %.2f", NEAR * 1e-9 / seconds);
        TIME(seconds, for (size_t i = 0; i < rows; i++)
                          kernels->softmax_grad[dtype](out + i * row, x + i * row, V, 14.0, 1.0, 0.0, 1));
        printf(", through memory %.2f (%.1f ms)", (double)(rows * V) * 1e-9 / seconds, seconds * 1e3);
        if (dtype != RAGFAST_F64) {
            TIME(seconds, kernels->mix_logits[dtype]((float *)(void *)out, x, offsets, K, NEAR, V));
            printf("; mix_logits (K %d) %.2f", K, K * NEAR * 1e-9 / seconds);
        }
        printf("\n");
    }
    free(x);
    free(out);
}
