/* target_logprobs, target_grad and rag_nll at every level and thread count, against the formulas in long double. */
#include "tests/checkkernels.h"

#include "core/elements.h"

static const char *const dtypes[] = {"float32", "float64", "float16", "bfloat16"};
static const double units[] = {0x1p-24, 0x1p-53, 0x1p-11, 0x1p-8}; /* half the last place */

/* What is to be found; every array as the header has it. */
typedef struct expected {
    long double *logprobs, *lse, *sums, *nll, *posterior, *doc_scores_grad, *logits_grad;
} expected;

typedef struct problem {
    ragfast_answers answers;
    ragfast_loss loss;
    size_t n_rows;
    expected expected;
} problem;

static long double lse_of(const long double *v, size_t n) {
    long double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) top = fmaxl(top, v[i]);
    if (isinf(top)) return top;
    for (size_t i = 0; i < n; i++) sum += expl(v[i] - top);
    return top + logl(sum);
}

static long double *zeros(size_t n) { return must(calloc(n + 1, sizeof(long double))); }

static long double probability(const ragfast_answers *a, size_t row, size_t v, long double lse) {
    return lse == -INFINITY ? 0 : expl(ragfast_element(a->logits, row * a->vocab + v, a->dtype) - lse);
}

/* The paper, or Hugging Face, as plainly as can be. */
static void expect(problem *p) {
    const ragfast_answers *a = &p->answers;
    const size_t B = a->n_queries, K = a->n_docs, T = a->n_tokens, V = a->vocab;
    const long double e = p->loss.label_smoothing, tau = p->loss.temperature;
    expected *x = &p->expected;
    x->logprobs = zeros(B * K * T), x->lse = zeros(B * K * T), x->sums = zeros(B * K * T), x->nll = zeros(B);
    x->posterior = zeros(B * K * T + B * K), x->doc_scores_grad = zeros(B * K), x->logits_grad = zeros(B * K * T * V);
    long double *row = zeros(V), *prior = zeros(K), *joint = zeros(K), *u = zeros(K);
    for (size_t b = 0; b < B; b++) {
        const int64_t *y = a->targets + b * T;
        const long double weight = p->loss.weights ? p->loss.weights[b] : 1;
        for (size_t k = 0; k < K; k++) prior[k] = a->doc_scores[b * K + k] / tau;
        const long double norm = lse_of(prior, K);
        for (size_t k = 0; k < K; k++) prior[k] = norm == -INFINITY ? -INFINITY : prior[k] - norm;
        for (size_t k = 0; k < K; k++)
            for (size_t t = 0; t < T; t++) {
                const size_t i = (b * K + k) * T + t;
                if (y[t] < 0 || prior[k] == -INFINITY) continue;
                for (size_t v = 0; v < V; v++) row[v] = ragfast_element(a->logits, i * V + v, a->dtype);
                x->lse[i] = lse_of(row, V);
                const int nothing = x->lse[i] == -INFINITY; /* is predicted by this document */
                for (size_t v = 0; v < V; v++) x->sums[i] += nothing ? -INFINITY : row[v] - x->lse[i];
                x->logprobs[i] = nothing ? -INFINITY : row[y[t]] - x->lse[i];
            }
        const int has_prior = !p->loss.as_hf || (T > 1 && y[1] >= 0);
        if (!p->loss.by_token) {
            for (size_t k = 0; k < K; k++) {
                long double sum = 0, smooth = 0;
                for (size_t t = 0; t < T; t++) {
                    sum += t || !p->loss.skip_first ? x->logprobs[(b * K + k) * T + t] : 0;
                    smooth += x->sums[(b * K + k) * T + t];
                }
                const int missing = prior[k] == -INFINITY;
                joint[k] = missing ? -INFINITY : sum + (has_prior ? prior[k] : 0);
                u[k] = p->loss.as_hf ? smooth + (has_prior ? V * prior[k] : 0) : smooth / V + prior[k];
                if (missing) u[k] = -INFINITY;
            }
            const long double lse = lse_of(joint, K), smooth = lse_of(u, K);
            x->nll[b] = -lse;
            if (e > 0) x->nll[b] = -(1 - e) * lse - e * smooth / (p->loss.as_hf ? V : 1);
            for (size_t k = 0; k < K; k++) {
                const long double r = lse == -INFINITY ? 0 : expl(joint[k] - lse);
                const long double s = e > 0 && smooth != -INFINITY ? expl(u[k] - smooth) : 0;
                x->posterior[b * K + k] = r;
                if (has_prior && prior[k] != -INFINITY)
                    x->doc_scores_grad[b * K + k] = weight / tau *
                                                    ((lse == -INFINITY ? 0 : (1 - e) * (expl(prior[k]) - r)) +
                                                     (e > 0 && smooth != -INFINITY ? e * (expl(prior[k]) - s) : 0));
                for (size_t t = 0; t < T; t++) {
                    const size_t i = (b * K + k) * T + t;
                    if (y[t] < 0 || prior[k] == -INFINITY) continue;
                    const long double scale = t || !p->loss.skip_first ? weight * (1 - e) * r : 0;
                    for (size_t v = 0; v < V; v++) {
                        const long double p_v = probability(a, i, v, x->lse[i]);
                        x->logits_grad[i * V + v] =
                            scale * (p_v - ((int64_t)v == y[t])) + weight * e * s * (p_v - 1.0L / V);
                    }
                }
            }
            continue;
        }
        for (size_t t = 0; t < T; t++) {
            if (y[t] < 0) continue;
            long double *at_v = zeros(K * V), *R = zeros(K), smooth = 0;
            for (size_t k = 0; k < K; k++) joint[k] = prior[k] + x->logprobs[(b * K + k) * T + t];
            const long double lse = lse_of(joint, K);
            for (size_t v = 0; v < V && e > 0; v++) {
                for (size_t k = 0; k < K; k++) {
                    const size_t i = (b * K + k) * T + t;
                    u[k] = prior[k] == -INFINITY || x->lse[i] == -INFINITY
                               ? -INFINITY
                               : prior[k] + ragfast_element(a->logits, i * V + v, a->dtype) - x->lse[i];
                }
                const long double mixed = lse_of(u, K);
                smooth -= mixed;
                for (size_t k = 0; k < K; k++) {
                    at_v[k * V + v] = mixed == -INFINITY ? 0 : expl(u[k] - mixed);
                    R[k] += at_v[k * V + v];
                }
            }
            x->nll[b] += e > 0 ? -(1 - e) * lse + e / V * smooth : -lse;
            long double possible = 0; /* V, less the words that no document allows */
            for (size_t k = 0; k < K; k++) possible += R[k];
            for (size_t k = 0; k < K; k++) {
                const size_t i = (b * K + k) * T + t;
                if (prior[k] == -INFINITY) continue;
                const long double r = lse == -INFINITY ? 0 : expl(joint[k] - lse);
                x->posterior[i] = r;
                x->doc_scores_grad[b * K + k] += weight / tau *
                                                 ((lse == -INFINITY ? 0 : (1 - e) * (expl(prior[k]) - r)) +
                                                  (e > 0 ? e / V * (possible * expl(prior[k]) - R[k]) : 0));
                for (size_t v = 0; v < V; v++) {
                    const long double p_v = probability(a, i, v, x->lse[i]);
                    x->logits_grad[i * V + v] = weight * (1 - e) * r * (p_v - ((int64_t)v == y[t])) +
                                                weight * e / V * (p_v * R[k] - at_v[k * V + v]);
                }
            }
            free(at_v);
            free(R);
        }
    }
    free(row), free(prior), free(joint), free(u);
}

static void forget(problem *p) {
    expected *x = &p->expected;
    free(x->logprobs), free(x->lse), free(x->sums), free(x->nll), free(x->posterior), free(x->doc_scores_grad);
    free(x->logits_grad);
}

static int near(long double got, long double exact, long double relative, long double absolute) {
    if (isnan(exact)) return isnan(got);
    if (isinf(exact)) return got == exact;
    return fabsl(got - exact) <= relative * fabsl(exact) + absolute;
}

static void check_all(const double *got, const long double *exact, size_t n, long double relative, long double absolute,
                      const char *name) {
    for (size_t i = 0; i < n; i++)
        check(near(got[i], exact[i], relative, absolute), "%s[%zu] %.17g for %.19Lg", name, i, got[i], exact[i]);
}

/* The loss with everything asked for, against what is expected; then with nothing but the loss. */
static void check_loss(const problem *p, int n_threads, char *first, size_t *first_size) {
    const ragfast_answers *a = &p->answers;
    const size_t B = a->n_queries, K = a->n_docs, V = a->vocab, n_rows = p->n_rows;
    const size_t grad_size = n_rows * V * ragfast_element_size(a->dtype);
    const size_t posterior_size = (p->loss.by_token ? n_rows : B * K) * sizeof(double);
    const long double single = a->dtype == RAGFAST_F64 ? 1e-12L : 2e-6L;
    struct {
        double *nll, *posterior, *doc_scores_grad, *lse;
        void *grad;
    } o = {output(B * sizeof(double)), output(posterior_size), output(B * K * sizeof(double)),
           output(n_rows * sizeof(double)), output(grad_size)};
    ragfast_answers mine = *a;
    const int in_place = n_threads % 2 == 0;
    if (in_place) memcpy(o.grad, a->logits, grad_size), mine.logits = o.grad;
    ragfast_nll_out out = {.nll = o.nll,
                           .posterior = o.posterior,
                           .doc_scores_grad = o.doc_scores_grad,
                           .logits_grad = o.grad,
                           .lse = o.lse};
    check(!ragfast_rag_nll(&out, &mine, &p->loss, THREADS(n_threads)), "ragfast_rag_nll failed");
    const struct {
        const void *data;
        size_t size;
    } parts[] = {{o.nll, B * sizeof(double)},
                 {o.posterior, posterior_size},
                 {o.doc_scores_grad, B * K * sizeof(double)},
                 {o.lse, n_rows * sizeof(double)},
                 {o.grad, grad_size}};
    size_t at = 0;
    for (size_t i = 0; i < 5; at += parts[i++].size)
        if (n_threads == 1)
            memcpy(first + at, parts[i].data, parts[i].size);
        else
            check(!memcmp(first + at, parts[i].data, parts[i].size), "output %zu has other bits than with 1 thread", i);
    *first_size = at;
    if (n_threads == 1) {
        long double largest = 1; /* of what is added up to a loss */
        for (size_t i = 0; i < n_rows; i++)
            if (isfinite(p->expected.logprobs[i])) largest = fmaxl(largest, fabsl(p->expected.logprobs[i]));
        check_all(o.nll, p->expected.nll, B, single, single * largest, "nll");
        check_all(o.posterior, p->expected.posterior, posterior_size / sizeof(double), 8 * single * largest, 1e-9L,
                  "posterior");
        check_all(o.doc_scores_grad, p->expected.doc_scores_grad, B * K, 0, 40 * single * largest, "doc_scores_grad");
        for (size_t i = 0; i < n_rows * V; i++) {
            const double got = ragfast_element(o.grad, i, a->dtype);
            const long double exact = p->expected.logits_grad[i];
            check(near(got, exact, 2 * (long double)units[a->dtype] + 16 * single * largest,
                       a->dtype == RAGFAST_F16 ? 0x1p-24L : 1e-9L + single * 1e-2L),
                  "logits_grad[%zu] %.9g for %.12Lg", i, got, exact);
        }
        ragfast_nll_out known = {.nll = o.nll, .lse = o.lse, .lse_known = 1, .logits_grad = NULL};
        double *value = output(B * sizeof(double));
        known.nll = value;
        check(!ragfast_rag_nll(&known, a, &p->loss, THREADS(n_threads)), "ragfast_rag_nll with its own lse failed");
        check_all(value, p->expected.nll, B, single, single * largest, "nll with a known lse");
        output_free(value, B * sizeof(double));
        value = output(B * sizeof(double));
        check(!ragfast_rag_nll(&(ragfast_nll_out){.nll = value}, a, &p->loss, THREADS(n_threads)),
              "the loss alone failed");
        check(!memcmp(value, o.nll, B * sizeof(double)), "the loss alone has other bits");
        output_free(value, B * sizeof(double));
    }
    output_free(o.nll, B * sizeof(double));
    output_free(o.posterior, posterior_size);
    output_free(o.doc_scores_grad, B * K * sizeof(double));
    output_free(o.lse, n_rows * sizeof(double));
    output_free(o.grad, grad_size);
}

/* Rows alone: the targets are those of the answers, repeated for each document. */
static void check_rows(const problem *p, int n_threads) {
    const ragfast_answers *a = &p->answers;
    const size_t n = p->n_rows, size = n * sizeof(double), grad_size = n * a->vocab * ragfast_element_size(a->dtype);
    int64_t *targets = input(n * sizeof *targets);
    double *scale = input(size), *shift = input(size);
    for (size_t i = 0; i < n; i++) {
        const size_t b = i / a->n_tokens / a->n_docs;
        const int missing = a->doc_scores[i / a->n_tokens] == -INFINITY;
        targets[i] = missing ? -1 : a->targets[b * a->n_tokens + i % a->n_tokens];
        const int flat = targets[i] < 0 || p->expected.lse[i] == -INFINITY; /* has no gradient */
        scale[i] = flat ? 0 : random_unit();
        shift[i] = flat ? 0 : random_unit() / (double)a->vocab;
    }
    double *logprobs = output(size), *lse = output(size), *sums = output(size);
    void *grad = output(grad_size);
    const long double single = a->dtype == RAGFAST_F64 ? 4e-15L : 3.4e-7L;
    check(!ragfast_target_logprobs(logprobs, lse, sums, a->logits, targets, n, a->vocab, a->dtype, THREADS(n_threads)),
          "ragfast_target_logprobs failed");
    check_all(logprobs, p->expected.logprobs, n, a->dtype == RAGFAST_F64 ? 4e-15L : 1.8e-7L, 1e-14L, "logprobs");
    check_all(lse, p->expected.lse, n, 1e-14L, single, "lse");
    check_all(sums, p->expected.sums, n, 1e-6L, 2 * single * (long double)a->vocab, "sums");
    check(!ragfast_target_grad(grad, a->logits, targets, lse, scale, shift, n, a->vocab, a->dtype, THREADS(n_threads)),
          "ragfast_target_grad failed");
    for (size_t i = 0; i < n; i++)
        for (size_t v = 0; v < a->vocab; v++) {
            const long double p_v = targets[i] < 0 ? 0 : probability(a, i, v, p->expected.lse[i]);
            const long double exact =
                (scale[i] + a->vocab * (long double)shift[i]) * p_v - scale[i] * ((int64_t)v == targets[i]) - shift[i];
            const double got = ragfast_element(grad, i * a->vocab + v, a->dtype);
            check(near(got, exact, 2 * (long double)units[a->dtype], a->dtype == RAGFAST_F64 ? 1e-12L : 4e-6L),
                  "target_grad[%zu,%zu] %.9g for %.12Lg", i, v, got, exact);
        }
    output_free(logprobs, size), output_free(lse, size), output_free(sums, size), output_free(grad, grad_size);
    input_free(targets, n * sizeof *targets), input_free(scale, size), input_free(shift, size);
}

static void check_problem(size_t B, size_t K, size_t T, size_t V, ragfast_dtype dtype, ragfast_loss loss, int plain) {
    const size_t n = B * K * T, size = n * V * ragfast_element_size(dtype);
    void *logits = input(size);
    double *doc_scores = input(B * K * sizeof(double)), *weights = input(B * sizeof(double));
    int64_t *targets = input(B * T * sizeof *targets);
    for (size_t i = 0; i < n; i++) {
        const double spread = i % 3 == 0 ? 12 : 1 + 3 * fabs(random_unit()); /* some rows are confident */
        for (size_t v = 0; v < V; v++) ragfast_put_element(logits, i * V + v, spread * random_unit(), dtype);
        if (!plain && V > 2 && i % 4 == 1) ragfast_put_element(logits, i * V + V / 2, -INFINITY, dtype);
    }
    if (!plain && K > 1) /* one document predicts nothing there */
        for (size_t v = 0; v < V && n; v++) ragfast_put_element(logits, (n - 1) * V + v, -INFINITY, dtype);
    for (size_t i = 0; i < B * K; i++) doc_scores[i] = !plain && random_below(5) == 0 ? -INFINITY : 4 * random_unit();
    for (size_t i = 0; i < B * T; i++)
        targets[i] = !plain && random_below(4) == 0 ? -1 - (int64_t)random_below(3) : (int64_t)random_below(V);
    for (size_t i = 0; !plain && V > 2 && i < B * T; i++)
        if (targets[i] == (int64_t)(V / 2)) targets[i]--; /* not the banned one: its loss is another test's */
    for (size_t b = 0; b < B; b++) weights[b] = plain ? 1 : 2 * random_unit();
    if (!plain) loss.weights = weights;
    problem p = {.answers = {.logits = logits,
                             .doc_scores = doc_scores,
                             .targets = targets,
                             .n_queries = B,
                             .n_docs = K,
                             .n_tokens = T,
                             .vocab = V,
                             .dtype = dtype},
                 .loss = loss,
                 .n_rows = n};
    if (loss.label_smoothing > 0) /* a banned word makes every smoothed loss infinite */
        for (size_t i = 0; i < (plain || K == 1 || !n ? n : n - 1) * V; i++)
            if (ragfast_element(logits, i, dtype) == -INFINITY) ragfast_put_element(logits, i, -40, dtype);
    expect(&p);
    char *first = must(malloc(size + 8 * (2 * n + 2 * B * K + B) + 1));
    size_t first_size;
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            WHERE("nll at %s, B %zu, K %zu, T %zu, V %zu, %s, %s%s, smoothing %g, %d threads", ragfast_isa(), B, K, T,
                  V, dtypes[dtype], loss.by_token ? "token" : "sequence", loss.as_hf ? " as hf" : "",
                  loss.label_smoothing, n_threads);
            check_loss(&p, n_threads, first, &first_size);
            if (n_threads != 3 || loss.label_smoothing > 0) continue;
            check_rows(&p, n_threads);
        }
    }
    free(first);
    forget(&p);
    input_free(logits, size);
    input_free(doc_scores, B * K * sizeof(double));
    input_free(weights, B * sizeof(double));
    input_free(targets, B * T * sizeof *targets);
}

void check_nll(int threads_only) {
    /* The first is enough for several threads, the second for several blocks of one query. */
    static const size_t shapes[][4] = {{3, 4, 6, 5000}, {1, 5, 50, 9000}, {2, 3, 4, 33}, {1, 1, 1, 1},  {4, 2, 1, 70},
                                       {1, 7, 3, 2},    {2, 3, 0, 5},     {0, 2, 3, 5},  {3, 70, 2, 40}};
    static const ragfast_loss losses[] = {{.temperature = 1},
                                          {.by_token = 1, .temperature = 1},
                                          {.temperature = 0.5, .label_smoothing = 0.1},
                                          {.by_token = 1, .temperature = 2, .label_smoothing = 0.1},
                                          {.as_hf = 1, .temperature = 1, .label_smoothing = 0.2},
                                          {.as_hf = 1, .skip_first = 1, .temperature = 1}};
    for (size_t l = 0; l < 6; l++)
        for (size_t s = 0; s < (threads_only ? 1 : 9); s++)
            for (int dtype = RAGFAST_F32; dtype <= RAGFAST_BF16; dtype++)
                if ((s != 1 || dtype == RAGFAST_F32) && !skip_case())
                    check_problem(shapes[s][0], shapes[s][1], shapes[s][2], shapes[s][3], (ragfast_dtype)dtype,
                                  losses[l], s % 2 == 1 || threads_only);
    WHERE("nll: refusals");
    float x[2] = {0, 0};
    double one = 0;
    int64_t target = 0, beyond = 2;
    const ragfast_answers good = {
        .logits = x, .doc_scores = &one, .targets = &target, .n_queries = 1, .n_docs = 1, .n_tokens = 1, .vocab = 2};
    const ragfast_nll_out out = {.nll = &one};
    const ragfast_loss loss = {.temperature = 1};
    const ragfast_status refused = RAGFAST_ERROR_ARGUMENT;
    ragfast_answers bad = good;
    check(!ragfast_rag_nll(&out, &good, &loss, THREADS(1)), "what is right was refused");
    check(ragfast_rag_nll(&out, &good, &(ragfast_loss){.temperature = 0}, THREADS(1)) == RAGFAST_ERROR_ARGUMENT,
          "temperature 0");
    check(ragfast_rag_nll(&out, &good, &(ragfast_loss){.temperature = 1, .label_smoothing = 1}, THREADS(1)) == refused,
          "smoothing 1");
    check(ragfast_rag_nll(&out, &good, &(ragfast_loss){.temperature = 1, .by_token = 1, .as_hf = 1}, THREADS(1)) ==
              refused,
          "token as hf");
    check(ragfast_rag_nll(&out, &good, &loss, THREADS(-1)) == RAGFAST_ERROR_ARGUMENT, "n_threads -1");
    bad.targets = &beyond;
    check(ragfast_rag_nll(&out, &bad, &loss, THREADS(1)) == RAGFAST_ERROR_ARGUMENT, "a target of V");
    check(ragfast_target_logprobs(&one, NULL, NULL, x, &beyond, 1, 2, RAGFAST_F32, THREADS(1)) ==
              RAGFAST_ERROR_ARGUMENT,
          "a target of V");
    bad = good, bad.n_docs = 0;
    check(ragfast_rag_nll(&out, &bad, &loss, THREADS(1)) == RAGFAST_ERROR_ARGUMENT, "K 0");
    bad = good, bad.n_queries = SIZE_MAX / 2, bad.vocab = 3;
    check(ragfast_rag_nll(&out, &bad, &loss, THREADS(1)) == RAGFAST_ERROR_ARGUMENT, "sizes that overflow");
}
