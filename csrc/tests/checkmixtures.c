/* ragfast_marginalize_step, ragfast_kl and ragfast_segment_logsumexp at every level and thread count, against the
 * formulas in long double. */
#include "tests/checkkernels.h"

#include "core/elements.h"

static const char *const dtypes[] = {"float32", "float64", "float16", "bfloat16"};

static ragfast_dtype out_dtype(ragfast_dtype dtype) { return dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32; }

/* LSE of stride-spaced values; NaN where there is one. */
static long double lse_of(const long double *v, size_t n, size_t stride) {
    long double top = -INFINITY, rest = 0;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(v[i * stride])) return NAN;
        if (v[i * stride] > top) top = v[i * stride], at = i;
    }
    if (isinf(top)) return top;
    for (size_t i = 0; i < n; i++)
        if (i != at) rest += expl(v[i * stride] - top);
    return top + log1pl(rest);
}

static long double *numbers(size_t n) { return must(malloc((n + 1) * sizeof(long double))); }

/* Within `units` in the last place, or `slack`. */
static int is_close(double got, long double expected, ragfast_dtype dtype, double units, long double slack) {
    if (isnan(expected)) return isnan(got);
    if (isinf(expected)) return got == expected;
    const long double size = fabsl(expected);
    const long double unit = dtype == RAGFAST_F32 ? nextafterf((float)size, INFINITY) - (long double)(float)size
                                                  : nextafter((double)size, INFINITY) - (long double)(double)size;
    return fabsl(got - expected) <= units * unit + slack;
}

/* ---- a step of decoding ------------------------------------------------------------------------------------------ */

enum {
    FLAT,
    CONFIDENT,
    EQUAL,
    BANNED,
    HUGE_LOGITS,
    TIES,
    MISSING,
    POISONED_MISSING,
    NOTHING,
    ONE_NAN,
    ONE_INFINITY,
    N_KINDS
};
static const char *const kinds[] = {"flat",    "confident", "equal",      "banned",
                                    "huge",    "ties",      "missing",    "poison in a missing document",
                                    "nothing", "a NaN",     "an infinity"};

typedef struct step {
    void *logits;
    double *docs;
    size_t n, n_docs, vocab, logits_size;
    ragfast_dtype dtype;
    long double *expected; /* (n,V) */
    long double *slack;    /* (n,) what cancelling terms allow */
} step;

static void expect_step(step *s) {
    long double *joint = numbers(s->n_docs * s->vocab);
    for (size_t beam = 0; beam < s->n; beam++) {
        long double largest = 1;
        int no_distribution = 0;
        for (size_t k = 0; k < s->n_docs; k++) {
            const double prior = s->docs[beam * s->n_docs + k];
            long double *row = joint + k * s->vocab;
            for (size_t v = 0; v < s->vocab; v++)
                row[v] = ragfast_element(s->logits, (beam * s->n_docs + k) * s->vocab + v, s->dtype);
            const long double lse = lse_of(row, s->vocab, 1);
            no_distribution |= prior != -INFINITY && (isnan(lse) || lse == INFINITY);
            for (size_t v = 0; v < s->vocab; v++) {
                if (isfinite(row[v]) && prior != -INFINITY) largest = fmaxl(largest, fabsl(row[v]) + fabs(prior));
                row[v] = prior == -INFINITY || row[v] == -INFINITY ? -INFINITY : prior + (row[v] - lse);
            }
        }
        for (size_t v = 0; v < s->vocab; v++)
            s->expected[beam * s->vocab + v] = no_distribution ? NAN : lse_of(joint + v, s->n_docs, s->vocab);
        s->slack[beam] = 1e-15L * largest;
    }
    free(joint);
}

static step make_step(size_t n, size_t n_docs, size_t vocab, int kind, ragfast_dtype dtype) {
    const size_t n_logits = n * n_docs * vocab;
    step s = {.n = n, .n_docs = n_docs, .vocab = vocab, .dtype = dtype};
    s.logits_size = n_logits * ragfast_element_size(dtype);
    s.logits = input(s.logits_size);
    s.docs = input(n * n_docs * sizeof(double));
    const double edge = dtype == RAGFAST_F16 ? 3e4 : dtype == RAGFAST_F64 ? 1e300 : 1e38;
    for (size_t i = 0; i < n_logits; i++) {
        const size_t row = i / vocab, v = i % vocab;
        double x = 4 * random_unit();
        switch (kind) {
        case CONFIDENT: x = v == row % 7 % vocab ? 25 : 3 * x; break;
        case EQUAL: x = 1.5; break;
        case BANNED: x = random_below(2) ? -INFINITY : x; break;
        case HUGE_LOGITS: x *= edge / 4; break;
        case TIES: x = (double)random_below(3); break;
        case POISONED_MISSING: x = row % n_docs % 2 ? (double[]){NAN, INFINITY, -INFINITY}[i % 3] : x; break;
        case NOTHING: x = -INFINITY; break;
        case ONE_NAN: x = i == n_logits / 2 ? NAN : x; break;
        case ONE_INFINITY: x = i == n_logits / 2 ? INFINITY : x; break;
        default: break;
        }
        ragfast_put_element(s.logits, i, x, dtype);
    }
    for (size_t beam = 0; beam < n; beam++) {
        long double scores[200], lse;
        for (size_t k = 0; k < n_docs; k++) {
            const int missing =
                (kind == MISSING && (random_below(2) || beam == 0)) || (kind == POISONED_MISSING && k % 2);
            scores[k] = missing ? -INFINITY : kind == TIES ? 0 : 3 * random_unit();
        }
        lse = lse_of(scores, n_docs, 1);
        for (size_t k = 0; k < n_docs; k++)
            s.docs[beam * n_docs + k] = scores[k] == -INFINITY ? -INFINITY : (double)(scores[k] - lse);
    }
    s.expected = numbers(n * vocab);
    s.slack = numbers(n);
    expect_step(&s);
    return s;
}

static void free_step(step *s) {
    input_free(s->logits, s->logits_size);
    input_free(s->docs, s->n * s->n_docs * sizeof(double));
    free(s->expected);
    free(s->slack);
}

/* Of one beam: what is best of `mixture` is what `best` says, NaN being first in the order of columns. */
static size_t wrong_best(const void *mixture, const void *best, const int64_t *ids, size_t beam, const step *s,
                         size_t n_best) {
    const ragfast_dtype dtype = out_dtype(s->dtype);
    unsigned char *taken = must(calloc(s->vocab, 1));
    size_t wrong = 0;
    for (size_t i = 0; i < n_best; i++) {
        const int64_t id = ids[beam * n_best + i];
        if (id < 0 || (size_t)id >= s->vocab || taken[id]) {
            wrong++;
            continue;
        }
        taken[id] = 1;
        const double got = ragfast_element(best, beam * n_best + i, dtype);
        wrong += !same_bits(got, ragfast_element(mixture, beam * s->vocab + (size_t)id, dtype));
        if (isnan(got)) wrong += (size_t)id != i;
        if (i == 0 || isnan(got)) continue;
        const double before = ragfast_element(best, beam * n_best + i - 1, dtype);
        wrong += !(before > got || (before == got && ids[beam * n_best + i - 1] < id));
    }
    for (size_t v = 0; v < s->vocab && n_best; v++) {
        const double value = ragfast_element(mixture, beam * s->vocab + v, dtype),
                     worst = ragfast_element(best, beam * n_best + n_best - 1, dtype);
        wrong += !taken[v] && (value > worst || (value == worst && (int64_t)v < ids[beam * n_best + n_best - 1]));
    }
    free(taken);
    return wrong;
}

static void check_step(size_t n, size_t n_docs, size_t vocab, int kind, ragfast_dtype dtype, size_t n_best) {
    step s = make_step(n, n_docs, vocab, kind, dtype);
    const size_t size = ragfast_element_size(out_dtype(dtype)), out_size = n * vocab * size,
                 best_size = n * n_best * size, ids_size = n * n_best * sizeof(int64_t);
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        char *first = must(malloc(out_size + best_size + ids_size + 1));
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            WHERE("a step at %s, %zu beams, K %zu, V %zu, %s, %s, best %zu, %d threads", ragfast_isa(), n, n_docs,
                  vocab, kinds[kind], dtypes[dtype], n_best, n_threads);
            void *out = output(out_size), *best = output(best_size), *best_alone = output(best_size);
            int64_t *ids = output(ids_size), *ids_alone = output(ids_size);
            check(!ragfast_marginalize_step(out, best, ids, s.logits, s.docs, n, n_docs, vocab, dtype, n_best,
                                            THREADS(n_threads)),
                  "failed");
            check(!ragfast_marginalize_step(NULL, best_alone, ids_alone, s.logits, s.docs, n, n_docs, vocab, dtype,
                                            n_best, THREADS(n_threads)),
                  "failed without out");
            check(!memcmp(best, best_alone, best_size) && !memcmp(ids, ids_alone, ids_size),
                  "other best when the mixture is not stored");
            for (size_t i = 0; i < n * vocab && n_threads == 1; i++) {
                const double got = ragfast_element(out, i, out_dtype(dtype));
                check(is_close(got, s.expected[i], out_dtype(dtype), 4, s.slack[i / vocab]),
                      "mixture [%zu,%zu] %a for %La", i / vocab, i % vocab, got, s.expected[i]);
            }
            for (size_t beam = 0; beam < n && n_threads == 1; beam++) {
                const size_t wrong = wrong_best(out, best, ids, beam, &s, n_best);
                check(wrong == 0, "%zu of the best of beam %zu are wrong", wrong, beam);
            }
            if (n_threads == 1)
                memcpy(first, out, out_size), memcpy(first + out_size, best, best_size),
                    memcpy(first + out_size + best_size, ids, ids_size);
            else
                check(!memcmp(first, out, out_size) && !memcmp(first + out_size, best, best_size) &&
                          !memcmp(first + out_size + best_size, ids, ids_size),
                      "other bits than with one thread");
            output_free(out, out_size);
            output_free(best, best_size);
            output_free(best_alone, best_size);
            output_free(ids, ids_size);
            output_free(ids_alone, ids_size);
        }
        free(first);
    }
    free_step(&s);
}

static void check_steps(int threads_only) {
    /* n, K, V, best; the first two are enough for several threads: by beams, and by columns. */
    static const size_t sizes[][4] = {{8, 3, 10000, 5},   {1, 5, 50265, 10},  {3, 2, 20000, 9000}, {1, 1, 1, 1},
                                      {2, 3, 5, 5},       {3, 1, 33, 0},      {1, 130, 40, 3},     {2, 2, 1024, 1},
                                      {2, 2, 1025, 1025}, {1, 4, 3000, 2999}, {0, 2, 5, 1},        {1, 9, 31, 31}};
    for (size_t i = 0; i < (threads_only ? 3 : sizeof sizes / sizeof sizes[0]); i++)
        for (int kind = 0; kind < (threads_only ? 1 : N_KINDS); kind++)
            for (int dtype = 0; dtype < 4; dtype++) {
                if (skip_case()) continue;
                if (i < 3 && kind != FLAT && dtype > 1 && kind != TIES) continue; /* the largest take long */
                check_step(sizes[i][0], sizes[i][1], sizes[i][2], kind, (ragfast_dtype)dtype, sizes[i][3]);
            }
}

/* ---- divergence -------------------------------------------------------------------------------------------------- */

static void expect_kl(long double *kl, long double *p_grad, long double *q_grad, const double *p, const double *q,
                      size_t n, long double p_temperature, long double q_temperature) {
    long double *a = numbers(n), *b = numbers(n);
    for (size_t i = 0; i < n; i++) a[i] = p[i] / p_temperature, b[i] = q[i] / q_temperature;
    const long double a_lse = lse_of(a, n, 1), b_lse = lse_of(b, n, 1);
    *kl = isfinite(a_lse) && isfinite(b_lse) ? 0 : NAN;
    for (size_t i = 0; i < n; i++) {
        const long double weight = expl(a[i] - a_lse), d = (a[i] - a_lse) - (b[i] - b_lse);
        if (a[i] == -INFINITY) continue;
        *kl += b[i] == -INFINITY ? INFINITY : weight > 0 ? weight * d : 0;
    }
    for (size_t i = 0; i < n; i++) {
        const long double P = expl(a[i] - a_lse), Q = expl(b[i] - b_lse), d = (a[i] - a_lse) - (b[i] - b_lse);
        p_grad[i] = !isfinite(*kl) ? NAN : P > 0 ? P * (d - *kl) / p_temperature : 0;
        q_grad[i] = isnan(*kl) ? NAN : (Q - P) / q_temperature;
    }
    free(a);
    free(b);
}

static void check_kl(size_t n_rows, size_t n, double p_temperature, double q_temperature, double spread) {
    const size_t size = n_rows * n * sizeof(double), kl_size = n_rows * sizeof(double);
    double *p = input(size), *q = input(size);
    for (size_t i = 0; i < n_rows * n; i++) {
        p[i] = spread * random_unit();
        q[i] = i / n % 3 ? spread * random_unit() : p[i] * (1 + 1e-6 * random_unit()); /* far, or near */
        switch (i / n % 8) {
        case 2: p[i] = q[i] = random_below(3) && i % n ? p[i] : -INFINITY; break; /* may be all */
        case 3: p[i] = random_below(3) ? p[i] : -INFINITY; break;
        case 4: q[i] = random_below(9) ? q[i] : -INFINITY; break;
        case 5: q[i] = i % n == n / 2 ? (double[]){NAN, INFINITY, 0}[i / n % 3] : q[i]; break;
        case 6: p[i] += 1e5, q[i] -= 1e5; break;
        default: break;
        }
    }
    long double *kl_expected = numbers(n_rows), *p_expected = numbers(n_rows * n), *q_expected = numbers(n_rows * n);
    for (size_t i = 0; i < n_rows; i++)
        expect_kl(&kl_expected[i], p_expected + i * n, q_expected + i * n, p + i * n, q + i * n, n, p_temperature,
                  q_temperature);
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        char *first = must(malloc(kl_size + 2 * size + 1));
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            WHERE("kl at %s, %zu x %zu, temperatures %g and %g, spread %g, %d threads", ragfast_isa(), n_rows, n,
                  p_temperature, q_temperature, spread, n_threads);
            double *kl = output(kl_size), *p_grad = output(size), *q_grad = output(size), *alone = output(kl_size);
            check(!ragfast_kl(kl, p_grad, q_grad, p, q, n_rows, n, p_temperature, q_temperature, THREADS(n_threads)),
                  "failed");
            check(!ragfast_kl(alone, NULL, NULL, p, q, n_rows, n, p_temperature, q_temperature, THREADS(n_threads)),
                  "failed");
            check(!memcmp(kl, alone, kl_size), "another divergence without gradients");
            for (size_t i = 0; i < n_rows && n_threads == 1; i++) {
                const double greatest = spread / fmin(p_temperature, q_temperature) + (i % 8 == 6 ? 1e5 : 0);
                const long double slack = 1e-15L * (20 + greatest) * (isfinite(kl[i]) ? 1 + kl[i] : 1);
                check(is_close(kl[i], kl_expected[i], RAGFAST_F64, 0, slack) && !(kl[i] < 0), "kl[%zu] %g for %Lg", i,
                      kl[i], kl_expected[i]);
                for (size_t e = i * n; e < (i + 1) * n; e++) {
                    check(is_close(p_grad[e], p_expected[e], RAGFAST_F64, 0, slack / p_temperature),
                          "p_grad[%zu] %g for %Lg", e, p_grad[e], p_expected[e]);
                    check(is_close(q_grad[e], q_expected[e], RAGFAST_F64, 0, slack / q_temperature),
                          "q_grad[%zu] %g for %Lg", e, q_grad[e], q_expected[e]);
                }
            }
            if (n_threads == 1)
                memcpy(first, kl, kl_size), memcpy(first + kl_size, p_grad, size),
                    memcpy(first + kl_size + size, q_grad, size);
            else
                check(!memcmp(first, kl, kl_size) && !memcmp(first + kl_size, p_grad, size) &&
                          !memcmp(first + kl_size + size, q_grad, size),
                      "other bits than with one thread");
            output_free(kl, kl_size);
            output_free(alone, kl_size);
            output_free(p_grad, size);
            output_free(q_grad, size);
        }
        free(first);
    }
    free(kl_expected);
    free(p_expected);
    free(q_expected);
    input_free(p, size);
    input_free(q, size);
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static void check_segment_lse(size_t n_rows, size_t n, size_t n_keys, double scale) {
    double *x = input(n_rows * n * sizeof(double));
    int64_t *keys = input(n_rows * n * sizeof(int64_t));
    for (size_t i = 0; i < n_rows * n; i++) {
        x[i] = scale * random_unit();
        if (i % 97 == 5) x[i] = (double[]){NAN, INFINITY, -INFINITY}[i / 97 % 3];
        if (i / n % 4 == 3) x[i] = -INFINITY;
        if (i / n % 4 == 2) x[i] = -scale; /* many equal */
        keys[i] = (int64_t)random_below(n_keys + 1) - 1;
    }
    const size_t size = n_rows * n_keys * sizeof(double);
    long double *expected = numbers(n_rows * n_keys), *votes = numbers(n);
    for (size_t i = 0; i < n_rows * n_keys; i++) {
        const size_t row = i / n_keys;
        size_t count = 0;
        for (size_t e = row * n; e < (row + 1) * n; e++)
            if (keys[e] == (int64_t)(i % n_keys)) votes[count++] = x[e];
        expected[i] = lse_of(votes, count, 1);
    }
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        double *first = must(malloc(size + 1));
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            WHERE("segment_logsumexp at %s, %zu x %zu, %zu keys, scale %g, %d threads", ragfast_isa(), n_rows, n,
                  n_keys, scale, n_threads);
            double *out = output(size);
            check(!ragfast_segment_logsumexp(out, x, keys, n_rows, n, n_keys, THREADS(n_threads)), "failed");
            for (size_t i = 0; i < n_rows * n_keys && n_threads == 1; i++)
                check(is_close(out[i], expected[i], RAGFAST_F64, 4, 4e-16L * fmax(1, scale)), "[%zu,%zu] %a for %La",
                      i / n_keys, i % n_keys, out[i], expected[i]);
            if (n_threads == 1)
                memcpy(first, out, size);
            else
                check(!memcmp(first, out, size), "other bits than with one thread");
            output_free(out, size);
        }
        free(first);
    }
    free(expected);
    free(votes);
    input_free(x, n_rows * n * sizeof(double));
    input_free(keys, n_rows * n * sizeof(int64_t));
}

static void check_mixture_refusals(void) {
    WHERE("mixtures: refusals");
    double one = 0, out = 0;
    int64_t id = 0;
    const size_t half = SIZE_MAX / 2;
    const ragfast_dtype f64 = RAGFAST_F64;
    const ragfast_status refused = RAGFAST_ERROR_ARGUMENT;
    check(ragfast_marginalize_step(&out, NULL, NULL, &one, &one, 1, 0, 1, f64, 0, THREADS(1)) == refused,
          "K 0 was taken");
    check(ragfast_marginalize_step(&out, &out, &id, &one, &one, 1, 1, 1, f64, 2, THREADS(1)) == refused,
          "best 2 of 1 was taken");
    check(ragfast_marginalize_step(&out, NULL, NULL, &one, &one, 1, 1, 1, f64, 0, THREADS(-1)) == refused,
          "-1 threads were taken");
    check(ragfast_marginalize_step(&out, NULL, NULL, &one, &one, half, half, 3, f64, 0, THREADS(1)) == refused,
          "an overflow was taken");
    check(ragfast_marginalize_step(&out, NULL, NULL, &one, &one, 1, 1, 0, f64, 0, THREADS(1)) == RAGFAST_OK,
          "V 0 was refused");
    static const double temperatures[] = {0, -1, NAN, INFINITY};
    for (size_t i = 0; i < 4; i++) {
        check(ragfast_kl(&out, NULL, NULL, &one, &one, 1, 1, temperatures[i], 1, THREADS(1)) == refused,
              "temperature %g was taken", temperatures[i]);
        check(ragfast_kl(&out, NULL, NULL, &one, &one, 1, 1, 1, temperatures[i], THREADS(1)) == refused,
              "temperature %g was taken", temperatures[i]);
    }
    check(ragfast_kl(&out, NULL, NULL, &one, &one, half, half, 1, 1, THREADS(1)) == refused, "an overflow was taken");
    check(ragfast_kl(&out, NULL, NULL, &one, &one, 1, 1, 1, 1, THREADS(-1)) == refused, "-1 threads were taken");
    check(!ragfast_kl(&out, NULL, NULL, &one, &one, 1, 0, 1, 1, THREADS(1)) && isnan(out), "no columns gave %g", out);
    check(ragfast_segment_logsumexp(&out, &one, &id, half, half, 1, THREADS(1)) == refused, "an overflow was taken");
    check(ragfast_segment_logsumexp(&out, &one, &id, half, 1, half, THREADS(1)) == refused, "an overflow was taken");
    check(ragfast_segment_logsumexp(&out, &one, &id, 1, 1, 1, THREADS(-1)) == refused, "-1 threads were taken");
    check(!ragfast_segment_logsumexp(&out, &one, &id, 1, 0, 1, THREADS(1)) && out == -INFINITY, "no elements gave %g",
          out);
}

void check_mixtures(int threads_only) {
    check_steps(threads_only);
    static const size_t kls[][2] = {{900, 50}, {30, 1500}, {40, 5}, {16, 1}, {0, 4}, {24, 100}};
    for (size_t i = 0; i < (threads_only ? 1 : 6); i++) {
        if (skip_case()) continue;
        check_kl(kls[i][0], kls[i][1], 1, 1, 3);
        check_kl(kls[i][0], kls[i][1], 0.1, 0.1, 1);
        check_kl(kls[i][0], kls[i][1], 0.7, 2.5, 20);
    }
    static const size_t segment_lse[][3] = {{30, 400, 4000}, {70, 3000, 20}, {4, 700, 1},
                                            {4, 0, 3},       {4, 257, 90},   {0, 3, 3}};
    for (size_t i = 0; i < (threads_only ? 2 : 6); i++) {
        check_segment_lse(segment_lse[i][0], segment_lse[i][1], segment_lse[i][2], 5);
        check_segment_lse(segment_lse[i][0], segment_lse[i][1], segment_lse[i][2], 1e4);
    }
    check_mixture_refusals();
}
