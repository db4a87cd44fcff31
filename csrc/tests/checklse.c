/* The log-sum-exp kernels of a level, and then the public functions that stand on them at every level, against the same
 * sums in long double. */
#include "tests/checkkernels.h"

/* Rows that a log-sum-exp may trip over: see make_row. */
enum { LOGITS, LARGE, PEAKED, EQUAL, NORMALISED, SPARSE, EXTREME, NOTHING, ONE_NAN, ONE_INFINITY, N_ROW_KINDS };
static const char *const row_kinds[] = {"logits", "large",   "peaked",  "equal", "normalised",
                                        "sparse", "extreme", "nothing", "a NaN", "an infinity"};
static const char *const dtypes[] = {"float32", "float64"};

static size_t size_of(ragfast_dtype dtype) { return dtype == RAGFAST_F32 ? sizeof(float) : sizeof(double); }

static double get(const void *x, ragfast_dtype dtype, size_t i) {
    return dtype == RAGFAST_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

static void set(void *x, ragfast_dtype dtype, size_t i, double value) {
    if (dtype == RAGFAST_F32)
        ((float *)x)[i] = (float)value;
    else
        ((double *)x)[i] = value;
}

static void make_row(void *x, ragfast_dtype dtype, size_t n, int kind) {
    double first = 10 * random_unit(), shift = log((double)n + 1e-300);
    for (size_t i = 0; i < n; i++) {
        double value = 10 * random_unit();
        switch (kind) {
        case LARGE: value *= 6000; break;                         /* near the edge of float32 sums */
        case PEAKED: value = i == n / 2 ? 0 : -30 + value; break; /* the answer is nearly 0 */
        case EQUAL: value = first; break;
        case NORMALISED: value = value * 0.01 - shift; break; /* sums to about 1 */
        case SPARSE: value = random_below(3) ? -INFINITY : 100 * value; break;
        case EXTREME: value *= dtype == RAGFAST_F32 ? 3e37 : 1e307; break;
        case NOTHING: value = -INFINITY; break;
        case ONE_NAN: value = i == n / 3 ? NAN : value; break;
        case ONE_INFINITY: value = i == n / 3 ? INFINITY : value; break;
        default: break;
        }
        set(x, dtype, i, value);
    }
}

/* LSE = top + log_rest. */
typedef struct reference {
    long double top, log_rest;
} reference;

static reference lse_of(const long double *v, size_t n) {
    reference r = {-INFINITY, 0};
    size_t at = 0;
    long double rest = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(v[i])) return (reference){NAN, NAN};
        if (v[i] > r.top) r.top = v[i], at = i;
    }
    if (isinf(r.top)) return r;
    for (size_t i = 0; i < n; i++)
        if (i != at) rest += expl(v[i] - r.top);
    r.log_rest = log1pl(rest);
    return r;
}

/* Within some units in the last place of the rounded value, plus slack where parts of it cancel. */
static int is_close(double got, long double expected, ragfast_dtype dtype, double units, long double slack) {
    if (isnan(expected)) return isnan(got);
    if (isinf(expected)) return got == expected;
    double rounded = dtype == RAGFAST_F32 ? (double)(float)expected : (double)expected, size = fabs(rounded);
    if (isinf(rounded)) return got == rounded;
    double unit =
        dtype == RAGFAST_F32 ? (double)nextafterf((float)size, INFINITY) - size : nextafter(size, INFINITY) - size;
    return fabsl((long double)got - rounded) <= units * unit + slack;
}

/* What marginal.h promises: 2 units of float32 or 4 of float64, and 4e-16 of the parts where they cancel. */
static int keeps_promise(double got, long double expected, ragfast_dtype dtype, reference parts, long double noise) {
    long double largest = fmaxl(1, fmaxl(fabsl(parts.top), fabsl(parts.log_rest)));
    return is_close(got, expected, dtype, dtype == RAGFAST_F32 ? 2 : 4,
                    (isfinite(largest) ? 4e-16L * largest : 0) + noise);
}

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

static void check_sums(const ragfast_kernels *kernels, const void *x, ragfast_dtype dtype, size_t n, double top) {
    long double rest = 0, rounding = 0;
    size_t tops = 0;
    for (size_t i = 0; i < n; i++) {
        double value = get(x, dtype, i);
        tops += value == top;
        if (value != top) {
            long double gap = value - (long double)top, term = expl(gap);
            rest += term;
            if (term > 0) rounding += term * (8 - gap) * DBL_EPSILON; /* of the gap, then of exp */
        }
    }
    if (dtype == RAGFAST_F32) rounding += 4e-9L * rest + n * expl(-700);
    size_t n_tops = 5; /* it adds */
    double got = dtype == RAGFAST_F32 ? kernels->sum_exp_rest_f32(x, n, (float)top, &n_tops)
                                      : kernels->sum_exp_rest_f64(x, n, top, &n_tops);
    check(n_tops == 5 + tops, "sum_exp_rest counted %zu tops of %zu", n_tops - 5, tops);
    check(isnan(rest) ? isnan(got) : fabsl(got - rest) <= rounding + n * (DBL_EPSILON * rest + 0x1p-1074L),
          "sum_exp_rest gave %a for %La", got, rest);
}

static void check_exp(const ragfast_kernels *kernels, size_t n) {
    const size_t size = n * sizeof(double);
    double *x = input(size), *out = output(size);
    for (size_t i = 0; i < n; i++) {
        static const double special[] = {0, -0.0, -INFINITY, NAN, -1e308, -745.2, -0x1p-1074};
        x[i] = random_below(4) ? -ldexp(random_unit() + 1, (int)random_below(12) - 2) : special[random_below(7)];
    }
    for (int in_place = 0; in_place < 2; in_place++) {
        if (in_place) memcpy(out, x, size);
        kernels->exp_f64(out, in_place ? out : x, n);
        for (size_t i = 0; i < n; i++) {
            const long double expected = expl(x[i]);
            check(isnan(expected) ? isnan(out[i]) : fabsl(out[i] - expected) <= 2 * DBL_EPSILON * expected + 0x1p-1074L,
                  "exp of %a is %a, not %La", x[i], out[i], expected);
        }
    }
    input_free(x, size);
    output_free(out, size);
}

static void check_subtract(const ragfast_kernels *kernels, const void *x, ragfast_dtype dtype, size_t n) {
    size_t size = n * size_of(dtype), wrong = 0;
    double top = random_below(4) ? 50 * random_unit() : INFINITY, log_sum = 3 + random_unit();
    if (dtype == RAGFAST_F32) top = (float)top;
    for (int in_place = 0; in_place < 2; in_place++) {
        void *out = output(size);
        if (in_place && n) memcpy(out, x, size);
        if (dtype == RAGFAST_F32)
            kernels->subtract_f32(out, in_place ? out : x, n, (float)top, log_sum);
        else
            kernels->subtract_f64(out, in_place ? out : x, n, top, log_sum);
        for (size_t i = 0; i < n; i++) {
            double expected = get(x, dtype, i) - top - log_sum, got = get(out, dtype, i);
            if (dtype == RAGFAST_F32) expected = (float)expected;
            wrong += !(got == expected || (isnan(got) && isnan(expected)));
        }
        output_free(out, size);
    }
    check(wrong == 0, "subtract gave %zu wrong elements", wrong);
}

/* One column of documents: out and posterior of RAG-Token, or of RAG-Sequence with v its sums of tokens. noise bounds the
 * error of v itself. */
static void check_column(double out, const void *posterior, ragfast_dtype dtype, size_t stride, const long double *v,
                         size_t n_docs, long double noise) {
    reference parts = lse_of(v, n_docs);
    long double lse = parts.top + parts.log_rest;
    check(keeps_promise(out, lse, dtype, parts, noise), "marginal %a for %La", out, lse);
    if (!posterior || lse == INFINITY) return;
    for (size_t k = 0; k < n_docs; k++) {
        long double expected = lse == -INFINITY ? 0 : expl(v[k] - lse);
        long double relative = noise + 4e-16L * (4 + fabsl(v[k]) + fabsl(lse)) + (dtype == RAGFAST_F32 ? 0x1p-22L : 0);
        double got = get(posterior, dtype, k * stride);
        int ok = isnan(expected)
                     ? isnan(got)
                     : fabsl(got - expected) <= expected * relative + (dtype == RAGFAST_F32 ? 0x1p-148L : 0x1p-1072L);
        check(ok || expected == 0, "posterior[%zu] %a for %La", k, got, expected);
        check(expected != 0 || got == 0, "posterior[%zu] %a, not 0", k, got);
    }
}

static void check_mix(const ragfast_kernels *kernels, ragfast_dtype dtype, size_t n_docs, size_t n, size_t stride,
                      int kind) {
    size_t size = size_of(dtype), tokens_size = ((n_docs - 1) * stride + n) * size, untouched = 0;
    void *docs = input(n_docs * size), *tokens = input(tokens_size), *out = output(n * size);
    void *posterior = random_below(3) ? output(tokens_size) : NULL;
    make_row(docs, dtype, n_docs, random_below(2) ? SPARSE : LOGITS);
    make_row(tokens, dtype, tokens_size / size, kind);
    WHERE("%s mix, %s, K %zu, n %zu, stride %zu, %s, posterior %d", kernels->name, dtypes[dtype], n_docs, n, stride,
          row_kinds[kind], posterior != NULL);
    if (dtype == RAGFAST_F32)
        kernels->mix_f32(out, posterior, docs, tokens, n_docs, n, stride);
    else
        kernels->mix_f64(out, posterior, docs, tokens, n_docs, n, stride);
    long double v[16];
    for (size_t t = 0; t < n; t++) {
        for (size_t k = 0; k < n_docs; k++)
            v[k] = (long double)get(docs, dtype, k) + get(tokens, dtype, k * stride + t);
        const char *column = posterior ? (char *)posterior + t * size : NULL;
        check_column(get(out, dtype, t), column, dtype, stride, v, n_docs, 0);
    }
    for (size_t i = 0; posterior && i < tokens_size; i++)
        untouched += i / size % stride >= n && ((unsigned char *)posterior)[i] != 0xa5;
    check(untouched == 0, "%zu bytes written between the rows of the posterior", untouched);
    if (posterior) output_free(posterior, tokens_size);
    output_free(out, n * size);
    input_free(tokens, tokens_size);
    input_free(docs, n_docs * size);
}

void check_lse_kernels(const ragfast_kernels *kernels) {
    static const size_t large[] = {100, 127, 200, 257, 1000, 4096, 4099};
    for (size_t s = 0; s < 71 + sizeof large / sizeof large[0]; s++)
        for (int kind = 0; kind < N_ROW_KINDS; kind++)
            for (int d = RAGFAST_F32; d <= RAGFAST_F64; d++) {
                if (skip_case()) continue;
                ragfast_dtype dtype = (ragfast_dtype)d;
                size_t n = s < 71 ? s : large[s - 71], size = n * size_of(dtype);
                WHERE("%s, %zu of %s, %s", kernels->name, n, dtypes[dtype], row_kinds[kind]);
                void *x = input(size);
                make_row(x, dtype, n, kind);
                double top = -INFINITY,
                       got = dtype == RAGFAST_F32 ? (double)kernels->max_f32(x, n) : kernels->max_f64(x, n);
                for (size_t i = 0; i < n; i++)
                    if (get(x, dtype, i) > top) top = get(x, dtype, i);
                check(got == top, "max gave %g, not %g", got, top);
                if (isfinite(top)) check_sums(kernels, x, dtype, n, top);
                if (kind == 0) check_exp(kernels, n);
                check_subtract(kernels, x, dtype, n);
                input_free(x, size);
            }
    for (size_t n_docs = 1; n_docs <= 9; n_docs += n_docs < 3 ? 1 : 3)
        for (size_t n = 1; n <= 35; n++)
            for (int kind = 0; kind < N_ROW_KINDS; kind++)
                for (int dtype = RAGFAST_F32; dtype <= RAGFAST_F64; dtype++)
                    if (!skip_case())
                        check_mix(kernels, (ragfast_dtype)dtype, n_docs, n, n + random_below(2) * 3, kind);
}

/* ---- public functions -------------------------------------------------------------------------------------------- */

/* At every level and thread count: rows keep the promise, and threads change no bit. */
static void check_rows(size_t n_rows, size_t n_cols, int kind, ragfast_dtype dtype) {
    size_t size = n_rows * n_cols * size_of(dtype), sums_size = n_rows * size_of(dtype);
    void *x = input(size);
    for (size_t i = 0; i < n_rows; i++) make_row((char *)x + i * n_cols * size_of(dtype), dtype, n_cols, kind);
    reference *expected = must(malloc((n_rows + 1) * sizeof *expected));
    long double *v = must(malloc((n_cols + 1) * sizeof *v));
    for (size_t i = 0; i < n_rows; i++) {
        for (size_t j = 0; j < n_cols; j++) v[j] = get(x, dtype, i * n_cols + j);
        expected[i] = lse_of(v, n_cols);
    }
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        char *first = must(malloc(size + sums_size + 1));
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            WHERE("rows at %s, %zu x %zu %s, %s, %d threads", ragfast_isa(), n_rows, n_cols, dtypes[dtype],
                  row_kinds[kind], n_threads);
            void *sums = output(sums_size), *logs = output(size);
            int in_place = n_threads % 2;
            if (in_place && size) memcpy(logs, x, size);
            check(!ragfast_logsumexp(sums, x, n_rows, n_cols, dtype, THREADS(n_threads)), "ragfast_logsumexp failed");
            check(!ragfast_log_softmax(logs, in_place ? logs : x, n_rows, n_cols, dtype, THREADS(n_threads)),
                  "ragfast_log_softmax failed");
            if (n_threads > 1)
                check(!memcmp(first, sums, sums_size) && !memcmp(first + sums_size, logs, size),
                      "other bits than with one thread");
            for (size_t i = 0; i < n_rows && n_threads == 1; i++) {
                reference parts = expected[i];
                long double lse = parts.top + parts.log_rest;
                check(keeps_promise(get(sums, dtype, i), lse, dtype, parts, 0), "logsumexp[%zu] %a for %La", i,
                      get(sums, dtype, i), lse);
                for (size_t j = 0; j < n_cols; j++) {
                    double value = get(x, dtype, i * n_cols + j), got = get(logs, dtype, i * n_cols + j);
                    long double log = lse == -INFINITY ? -INFINITY : value - parts.top - parts.log_rest;
                    reference own = {value - parts.top, parts.log_rest};
                    check(keeps_promise(got, log, dtype, own, 0), "log_softmax[%zu,%zu] %a for %La", i, j, got, log);
                }
            }
            if (n_threads == 1) memcpy(first, sums, sums_size), memcpy(first + sums_size, logs, size);
            output_free(sums, sums_size);
            output_free(logs, size);
        }
        free(first);
    }
    free(v);
    free(expected);
    input_free(x, size);
}

static void check_marginal(size_t n_queries, size_t n_docs, size_t n_tokens, int kind, ragfast_dtype dtype) {
    size_t size = size_of(dtype), docs_size = n_queries * n_docs * size, tokens_size = docs_size * n_tokens;
    size_t outs_size = n_queries * n_tokens * size;
    void *docs = input(docs_size), *tokens = input(tokens_size);
    make_row(docs, dtype, n_queries * n_docs, kind == ONE_NAN ? LOGITS : SPARSE);
    make_row(tokens, dtype, n_queries * n_docs * n_tokens, kind);
    long double *v = must(malloc(n_docs * sizeof *v));
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        char *first = must(malloc(tokens_size + outs_size + docs_size + n_queries * size + 1)), *next;
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            WHERE("marginals at %s, B %zu, K %zu, T %zu, %s, %s, %d threads", ragfast_isa(), n_queries, n_docs,
                  n_tokens, dtypes[dtype], row_kinds[kind], n_threads);
            void *sequence = output(n_queries * size), *sequence_posterior = output(docs_size);
            void *token = output(outs_size), *token_posterior = output(tokens_size);
            check(!ragfast_marginalize_sequence(sequence, sequence_posterior, docs, tokens, n_queries, n_docs, n_tokens,
                                                dtype, THREADS(n_threads)),
                  "ragfast_marginalize_sequence failed");
            check(!ragfast_marginalize_token(token, token_posterior, docs, tokens, n_queries, n_docs, n_tokens, dtype,
                                             THREADS(n_threads)),
                  "ragfast_marginalize_token failed");
            for (size_t b = 0; b < n_queries && n_threads == 1; b++) {
                long double noise = 0;
                for (size_t k = 0; k < n_docs; k++) {
                    long double magnitude = 0;
                    v[k] = get(docs, dtype, b * n_docs + k);
                    for (size_t t = 0; t < n_tokens; t++) {
                        long double logprob = get(tokens, dtype, (b * n_docs + k) * n_tokens + t);
                        v[k] += logprob;
                        if (isfinite(logprob)) magnitude += fabsl(logprob);
                    }
                    noise = fmaxl(noise, (long double)n_tokens * DBL_EPSILON * magnitude); /* of sums in float64 */
                }
                check_column(get(sequence, dtype, b), (char *)sequence_posterior + b * n_docs * size, dtype, 1, v,
                             n_docs, noise);
                for (size_t t = 0; t < n_tokens; t++) {
                    size_t at = b * n_docs * n_tokens + t;
                    for (size_t k = 0; k < n_docs; k++)
                        v[k] = (long double)get(docs, dtype, b * n_docs + k) + get(tokens, dtype, at + k * n_tokens);
                    check_column(get(token, dtype, b * n_tokens + t), (char *)token_posterior + at * size, dtype,
                                 n_tokens, v, n_docs, 0);
                }
            }
            const struct {
                void *data;
                size_t size;
            } outputs[] = {{sequence, n_queries * size},
                           {sequence_posterior, docs_size},
                           {token, outs_size},
                           {token_posterior, tokens_size}};
            next = first;
            for (size_t i = 0; i < 4; i++) {
                if (n_threads == 1)
                    memcpy(next, outputs[i].data, outputs[i].size);
                else
                    check(!memcmp(next, outputs[i].data, outputs[i].size), "other bits than with one thread");
                next += outputs[i].size;
                output_free(outputs[i].data, outputs[i].size);
            }
        }
        free(first);
    }
    free(v);
    input_free(docs, docs_size);
    input_free(tokens, tokens_size);
}

void check_marginals(int threads_only) {
    /* rows, columns; B, K, T: the first two are enough for several threads. */
    static const size_t rows[][2] = {{3000, 70}, {40, 5100}, {0, 5}, {3, 0}, {1, 1}, {7, 33}, {5, 1000}, {2, 9000}};
    static const size_t queries[][3] = {{900, 5, 50}, {2, 3, 35000}, {0, 2, 3},  {2, 3, 0},
                                        {2, 3, 1},    {4, 5, 25},    {1, 70, 9}, {3, 130, 2}};
    for (int kind = 0; kind < (threads_only ? 1 : N_ROW_KINDS); kind++)
        for (int d = RAGFAST_F32; d <= RAGFAST_F64; d++)
            for (size_t i = 0; i < (threads_only ? 2 : 8); i++) {
                if (skip_case()) continue;
                check_rows(rows[i][0], rows[i][1], kind, (ragfast_dtype)d);
                if (kind != EXTREME) /* sums overflow there */
                    check_marginal(queries[i][0], queries[i][1], queries[i][2], kind, (ragfast_dtype)d);
            }
    WHERE("marginals: refusals");
    float one = 0;
    size_t half = SIZE_MAX / 2;
    check(ragfast_marginalize_token(&one, NULL, &one, &one, 1, 0, 1, RAGFAST_F32, THREADS(1)) == RAGFAST_ERROR_ARGUMENT,
          "K 0 was taken");
    check(ragfast_marginalize_sequence(&one, NULL, &one, &one, 1, 0, 1, RAGFAST_F32, THREADS(1)) ==
              RAGFAST_ERROR_ARGUMENT,
          "K 0 was taken");
    check(ragfast_marginalize_token(&one, NULL, &one, &one, half, half, 3, RAGFAST_F32, THREADS(1)) ==
              RAGFAST_ERROR_ARGUMENT,
          "an overflow was taken");
    check(ragfast_marginalize_sequence(&one, NULL, &one, &one, half, half, 3, RAGFAST_F32, THREADS(1)) ==
              RAGFAST_ERROR_ARGUMENT,
          "an overflow was taken");
    check(ragfast_logsumexp(&one, &one, half, half, RAGFAST_F32, THREADS(1)) == RAGFAST_ERROR_ARGUMENT,
          "an overflow was taken");
    check(ragfast_logsumexp(&one, &one, 1, 1, RAGFAST_F32, THREADS(-1)) == RAGFAST_ERROR_ARGUMENT,
          "n_threads -1 was taken");
    check(ragfast_log_softmax(&one, &one, 1, 1, RAGFAST_F32, THREADS(-1)) == RAGFAST_ERROR_ARGUMENT,
          "n_threads -1 was taken");
}

/* ---- timings ----------------------------------------------------------------------------------------------------- */

void bench_lse_kernels(const ragfast_kernels *kernels) {
    enum { N = 50265, K = 5, T = 4096 };
    float *x = must(malloc(N * sizeof(float))), *out = must(malloc(N * sizeof(float))), docs[K] = {0};
    make_row(x, RAGFAST_F32, N, LOGITS);
    double top, max, rest, subtract, mix;
    size_t n_tops = 0;
    TIME(max, sink = top = kernels->max_f32(x, N));
    TIME(rest, sink = kernels->sum_exp_rest_f32(x, N, (float)top, &n_tops));
    TIME(subtract, kernels->subtract_f32(out, x, N, (float)top, 1.0));
    TIME(mix, kernels->mix_f32(out, NULL, docs, x, K, T, T));
    printf("%-8s float32 elements a nanosecond: max %.2f   sum_exp_rest %.2f   subtract %.2f   mix (K %d) %.2f\n",
           kernels->name, N * 1e-9 / max, N * 1e-9 / rest, N * 1e-9 / subtract, K, K * T * 1e-9 / mix);
    free(x);
    free(out);
}
