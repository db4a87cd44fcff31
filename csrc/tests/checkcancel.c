/* Calls that a poll callback watches and stops: every function that takes options, stopped at each place where it polls; calls of
 * ragfast inside the callback, another floating-point environment, and a fork there. */
#include "tests/checkvectors.h"

#include <sys/wait.h>
#include <unistd.h>

enum { N = 2100, D = 72, B = 40, K = 10, ROWS = 400, V = 700, DOCS = 5, T = 8, KEYS = 30, BEST = 6, BEAMS = 9 };
enum { OUT_BYTES = 1 << 21 };

/* Inputs of all calls. */
static struct {
    problem f32, f64;
    ragfast_docs coded, halves[2];
    const int64_t *rows;
    double *doubles; /* (ROWS,V) */
    float *floats;   /* the same */
    int64_t *keys;   /* (ROWS,V) below KEYS */
    int64_t *targets;
} in;

static void *after(char **out, size_t bytes) {
    void *part = *out;
    *out += (bytes + 63) / 64 * 64;
    return part;
}

static ragfast_status search(char *out, const void *queries, size_t n, const ragfast_docs *docs, size_t n_segments,
                             const ragfast_options *options) {
    double *scores = after(&out, n * K * sizeof(double)), *logprobs = after(&out, n * K * sizeof(double));
    return ragfast_search(scores, after(&out, n * K * sizeof(int64_t)), logprobs, NULL, NULL, queries, n, docs,
                          n_segments, NULL, K, 0, 1, options);
}

#define CALL(name) static ragfast_status name(char *out, const ragfast_options *options)

CALL(search_float32) { return search(out, in.f32.queries, B, &in.f32.docs, 1, options); }
CALL(search_float64) { return search(out, in.f64.queries, B, &in.f64.docs, 1, options); }
CALL(search_codes_packed) { return search(out, in.f32.queries, 2, &in.coded, 1, options); }
CALL(search_codes_unpacked) { return search(out, in.f32.queries, B, &in.coded, 1, options); }
CALL(search_segments) { return search(out, in.f32.queries, B, in.halves, 2, options); }
CALL(measure_rows) {
    size_t bad_row;
    float *norms = after(&out, N * sizeof(float));
    double *squares = after(&out, N * sizeof(double));
    return ragfast_measure_rows(norms, squares, out, &bad_row, in.f32.vectors, N, D, RAGFAST_F32, options);
}
CALL(encode) {
    ragfast_codes codes = in.f32.codes;
    size_t high, low, bounds;
    ragfast_codes_size(&high, &low, &bounds, N, D);
    codes.high = after(&out, high), codes.low = after(&out, low), codes.bounds = after(&out, bounds);
    return ragfast_encode(&codes, in.f32.vectors, NULL, RAGFAST_F32, 0, N, D, options);
}
CALL(row_sums) { return ragfast_row_sums((void *)out, in.doubles, ROWS, V * sizeof(double), options); }
CALL(gather_scores) {
    return ragfast_gather_scores((void *)out, in.f32.queries, in.rows, B, ROWS, &in.f32.docs, options);
}
CALL(gather_scores_grad) {
    return ragfast_gather_scores_grad((void *)out, in.doubles, in.rows, B, ROWS, &in.f32.docs, options);
}
CALL(logsumexp) { return ragfast_logsumexp(out, in.floats, ROWS, V, RAGFAST_F32, options); }
CALL(log_softmax) { return ragfast_log_softmax(out, in.floats, ROWS, V, RAGFAST_F32, options); }
CALL(marginalize_sequence) {
    void *posterior = after(&out, ROWS * DOCS * sizeof(double));
    return ragfast_marginalize_sequence(out, posterior, in.doubles, in.doubles, ROWS, DOCS, V / DOCS, RAGFAST_F64,
                                        options);
}
CALL(marginalize_token) {
    void *posterior = after(&out, (size_t)ROWS * V * sizeof(float));
    return ragfast_marginalize_token(out, posterior, in.floats, in.floats, ROWS, DOCS, V / DOCS, RAGFAST_F32, options);
}
CALL(target_logprobs) {
    double *lse = after(&out, ROWS * sizeof(double)), *sums = after(&out, ROWS * sizeof(double));
    return ragfast_target_logprobs((void *)out, lse, sums, in.floats, in.targets, ROWS, V, RAGFAST_F32, options);
}
CALL(target_grad) {
    return ragfast_target_grad(out, in.floats, in.targets, in.doubles, in.doubles, NULL, ROWS, V, RAGFAST_F32, options);
}
static ragfast_status nll(char *out, int by_token, const ragfast_options *options) {
    ragfast_answers answers = {.logits = in.floats,
                               .doc_scores = in.doubles,
                               .targets = in.targets,
                               .n_queries = ROWS / DOCS / T,
                               .n_docs = DOCS,
                               .n_tokens = T,
                               .vocab = V,
                               .dtype = RAGFAST_F32};
    ragfast_loss loss = {.by_token = by_token, .temperature = 1, .label_smoothing = 0.1};
    ragfast_nll_out grads = {.nll = after(&out, ROWS * sizeof(double)), .logits_grad = out};
    return ragfast_rag_nll(&grads, &answers, &loss, options);
}
CALL(sequence_nll) { return nll(out, 0, options); }
CALL(token_nll) { return nll(out, 1, options); }
CALL(marginalize_step) {
    float *best = after(&out, (size_t)BEAMS * BEST * sizeof(float));
    int64_t *ids = after(&out, (size_t)BEAMS * BEST * sizeof(int64_t));
    return ragfast_marginalize_step(out, best, ids, in.floats, in.doubles, BEAMS, DOCS, V, RAGFAST_F32, BEST, options);
}
CALL(kl) { return ragfast_kl((void *)out, NULL, NULL, in.doubles, in.doubles + V, ROWS - 1, V, 1, 1, options); }
CALL(segment_logsumexp) { return ragfast_segment_logsumexp((void *)out, in.doubles, in.keys, ROWS, V, KEYS, options); }

static const struct {
    const char *name;
    ragfast_status (*run)(char *out, const ragfast_options *options);
} calls[] = {
#define ROW(name) {#name, name}
    ROW(search_float32),
    ROW(search_float64),
    ROW(search_codes_packed),
    ROW(search_codes_unpacked),
    ROW(search_segments),
    ROW(measure_rows),
    ROW(encode),
    ROW(row_sums),
    ROW(gather_scores),
    ROW(logsumexp),
    ROW(gather_scores_grad),
    ROW(log_softmax),
    ROW(target_logprobs),
    ROW(target_grad),
    ROW(marginalize_sequence),
    ROW(marginalize_token),
    ROW(sequence_nll),
    ROW(token_nll),
    ROW(marginalize_step),
    ROW(kl),
    ROW(segment_logsumexp)
#undef ROW
};
enum { N_CALLS = sizeof calls / sizeof calls[0] };

/* What the callback does: counts, and at one poll stops the call, forks, or makes other calls. */
typedef struct watch {
    size_t n_polls, stop_at, nest_at, fork_at;
    size_t n_wrong_nested;
    pid_t child; /* 0 in the child */
} watch;

static char *nested_out, *nested_expected;

static int poll_call(void *context) {
    watch *w = context;
    size_t now = w->n_polls++;
    if (now == w->nest_at) {
        memset(nested_out, 0, OUT_BYTES);
        ragfast_status status = search_codes_unpacked(nested_out, THREADS(3));
        w->n_wrong_nested += status != RAGFAST_OK || memcmp(nested_out, nested_expected, OUT_BYTES) != 0;
        set_strange(1);
    }
    if (now == w->fork_at) {
        w->child = fork();
        if (w->child == 0) alarm(60); /* a hang ends as a signal */
    }
    return now >= w->stop_at;
}

static const watch idle = {.stop_at = SIZE_MAX, .nest_at = SIZE_MAX, .fork_at = SIZE_MAX, .child = -1};

/* One call that is watched; its output becomes all zero before. */
static ragfast_status run(size_t call, char *out, watch *w, int n_threads) {
    memset(out, 0, OUT_BYTES);
    const ragfast_options options = {.n_threads = n_threads, .poll = poll_call, .context = w};
    return calls[call].run(out, &options);
}

static void check_stops(size_t call, char *out, const char *expected, int n_threads) {
    watch w = idle;
    ragfast_status status = run(call, out, &w, n_threads);
    check(status == RAGFAST_OK && !memcmp(out, expected, OUT_BYTES), "status %d, or other results", (int)status);
    size_t n_polls = w.n_polls;
    check(n_polls > 0 || n_threads > 1, "it never polled"); /* other threads may leave the calling one a single chunk */
    for (size_t stop = 0; stop < n_polls; stop += stop < 6 || stop + 4 > n_polls ? 1 : n_polls / 8 + 1) {
        w = idle, w.stop_at = stop;
        status = run(call, out, &w, n_threads);
        int stopped = w.n_polls > stop; /* with threads the number of polls is another each time */
        check(status == (stopped ? RAGFAST_ERROR_CANCELLED : RAGFAST_OK), "status %d for the stop at poll %zu",
              (int)status, stop);
        check(w.n_polls <= stop + 1, "it polled again after it was stopped");
    }
}

static void check_nested(size_t call, char *out, const char *expected, int n_threads) {
    for (size_t at = 0; at < 3; at++) {
        watch w = idle;
        w.nest_at = at;
        ragfast_status status = run(call, out, &w, n_threads);
        set_strange(0);
        check(status == RAGFAST_OK && !memcmp(out, expected, OUT_BYTES), "status %d, or other results around a call",
              (int)status);
        check(w.n_wrong_nested == 0, "the call inside was wrong");
    }
}

#if !defined(__SANITIZE_THREAD__) /* which gives up threads in a child of a process with threads */
static void check_fork(size_t call, char *out, const char *expected, int n_threads) {
    watch w = idle;
    w.fork_at = 0;
    fflush(NULL);
    ragfast_status status = run(call, out, &w, n_threads);
    int is_right = status == RAGFAST_OK && !memcmp(out, expected, OUT_BYTES);
    if (w.child == 0) {
        is_right |=
            n_threads > 1 && status == RAGFAST_ERROR_CANCELLED; /* threads that did a part of it are not there */
        memset(out, 0, OUT_BYTES);
        is_right &= calls[call].run(out, THREADS(n_threads)) == RAGFAST_OK && !memcmp(out, expected, OUT_BYTES);
        _exit(!is_right);
    }
    check(is_right, "status %d, or other results in the parent", (int)status);
    if (w.child < 0) return; /* threads were so fast that there was no poll */
    int ended = -1;
    waitpid(w.child, &ended, 0);
    check(WIFEXITED(ended) && WEXITSTATUS(ended) == 0, "the child ended with status %x", (unsigned)ended);
}
#endif

/* ---- a stop beside a failure ---------------------------------------------------------------------------------------- */

static ragfast_place corrupt;

static ragfast_status search_damaged(char *out, const ragfast_options *options) {
    uint32_t *sums = must(malloc(N * sizeof *sums));
    ragfast_docs docs = in.f32.docs;
    ragfast_row_sums(sums, docs.vectors, N, D * sizeof(float), NULL);
    sums[5]++;
    docs.row_sums = sums;
    corrupt = (ragfast_place){77, 77};
    double *scores = after(&out, (size_t)B * K * sizeof(double));
    ragfast_status status =
        ragfast_search(scores, (void *)out, NULL, NULL, &corrupt, in.f32.queries, B, &docs, 1, NULL, K, 0, 1, options);
    free(sums);
    return status;
}

static ragfast_status gather_nonfinite(char *out, const ragfast_options *options) {
    float *vectors = must(malloc((size_t)N * D * sizeof *vectors));
    memcpy(vectors, in.f32.vectors, (size_t)N * D * sizeof *vectors);
    vectors[in.rows[0] * D] = NAN;
    ragfast_docs docs = in.f32.docs;
    docs.vectors = vectors;
    ragfast_status status = ragfast_gather_scores((void *)out, in.f32.queries, in.rows, B, ROWS, &docs, options);
    free(vectors);
    return status;
}

/* Whoever stopped a call learns that it was stopped, also where it had failed by then. */
static void check_failure(char *out, ragfast_status (*call)(char *, const ragfast_options *), ragfast_status failure) {
    watch w = idle;
    const ragfast_options options = {.n_threads = 1, .poll = poll_call, .context = &w};
    check(call(out, &options) == failure, "it did not fail");
    size_t n_polls = w.n_polls;
    check(n_polls > 0, "it never polled");
    for (size_t stop = 0; stop < n_polls; stop++) {
        w = idle, w.stop_at = stop;
        ragfast_status status = call(out, &options);
        check(status == RAGFAST_ERROR_CANCELLED, "status %d for the stop at poll %zu", (int)status, stop);
        check(call != search_damaged || (corrupt.segment == 77 && corrupt.row == 77), "a place beside a stop");
    }
}

static void count_chunk(void *context, size_t chunk, size_t worker) {
    (void)chunk, (void)worker;
    atomic_fetch_add((atomic_size_t *)context, 1);
}

/* What comes after a stop is left out as a whole: it would read what was not written. */
static void check_stopped_before(void) {
    for (size_t n_workers = 1; n_workers <= 3; n_workers += 2) {
        ragfast_call call;
        atomic_size_t n = 0;
        check(ragfast_begin_call(&call, THREADS(3)) == RAGFAST_OK, "no call");
        atomic_store(&call.stopped, 1);
        ragfast_parallel_for(&call, count_chunk, &n, 9, n_workers);
        check(atomic_load(&n) == 0, "chunks of a call that had stopped");
    }
}

/* All of many documents are found: nearly all of the time goes into putting them in order. */
static void check_sort(void) {
    enum { MANY = 100000 };
    float *vectors = must(malloc(MANY * sizeof *vectors)), query = 1;
    int32_t *groups = must(calloc(MANY, sizeof *groups));
    double *scores = must(malloc(MANY * sizeof *scores));
    int64_t *ids = must(malloc(MANY * sizeof *ids));
    for (size_t i = 0; i < MANY; i++) vectors[i] = (float)random_unit();
    const ragfast_docs docs = {.vectors = vectors, .n_docs = MANY, .dim = 1, .groups = groups};
    for (size_t most = 0; most <= MANY; most += MANY) {
        const ragfast_constraints constraints = {.max_per_group = most};
        watch w = idle;
        const ragfast_options options = {.n_threads = 1, .poll = poll_call, .context = &w};
        ragfast_status status =
            ragfast_search(scores, ids, NULL, NULL, NULL, &query, 1, &docs, 1, &constraints, MANY, 0, 1, &options);
        check(status == RAGFAST_OK && w.n_polls >= (most ? 12 : 7), "status %d, %zu polls", (int)status, w.n_polls);
    }
    free(vectors), free(groups), free(scores), free(ids);
}

static void make_inputs(void) {
    in.f32 = make_problem(B, N, D, INTEGERS, RAGFAST_F32, 1);
    in.f64 = make_problem(B, N, D, INTEGERS, RAGFAST_F64, 0);
    add_norms_and_codes(&in.f32);
    in.coded = in.f32.docs;
    in.coded.norms = in.f32.norms, in.coded.codes = &in.f32.codes;
    in.f32.codes.always = 1;
    in.f32.docs.norms = in.f32.norms;
    for (size_t i = 0; i < 2; i++) {
        in.halves[i] = in.f32.docs;
        in.halves[i].n_docs = N / 2;
        in.halves[i].ids += i * (N / 2);
        in.halves[i].norms += i * (N / 2);
        in.halves[i].vectors = (const float *)in.f32.vectors + i * (N / 2) * D;
    }
    int64_t *rows = must(malloc((size_t)B * ROWS * sizeof *rows));
    for (size_t i = 0; i < (size_t)B * ROWS; i++) rows[i] = (int64_t)random_below(N);
    in.rows = rows;
    in.doubles = must(malloc((size_t)ROWS * V * sizeof(double)));
    in.floats = must(malloc((size_t)ROWS * V * sizeof(float)));
    in.keys = must(malloc((size_t)ROWS * V * sizeof(int64_t)));
    in.targets = must(malloc(ROWS * sizeof(int64_t)));
    for (size_t i = 0; i < (size_t)ROWS * V; i++) {
        in.doubles[i] = in.floats[i] = (float)(4 * random_unit());
        in.keys[i] = (int64_t)random_below(KEYS);
    }
    for (size_t i = 0; i < ROWS; i++) in.targets[i] = (int64_t)random_below(V);
}

void check_cancel(int threads_only) {
    char *out = must(malloc(OUT_BYTES)), *expected = must(malloc(OUT_BYTES));
    nested_out = must(malloc(OUT_BYTES)), nested_expected = must(calloc(1, OUT_BYTES));
    uint64_t interval = ragfast_poll_interval;
    ragfast_poll_interval = 0; /* polls wherever it may */
    make_inputs();
    check(search_codes_unpacked(nested_expected, THREADS(1)) == RAGFAST_OK, "a plain search failed");
    for (size_t call = 0; call < N_CALLS; call++) {
        memset(expected, 0, OUT_BYTES);
        WHERE("%s", calls[call].name);
        check(calls[call].run(expected, NULL) == RAGFAST_OK, "failed");
        for (int n_threads = threads_only ? 3 : 1; n_threads <= 3; n_threads += 2) {
            WHERE("%s, %d threads, polled", calls[call].name, n_threads);
            check_stops(call, out, expected, n_threads);
            check_nested(call, out, expected, n_threads);
#if !defined(__SANITIZE_THREAD__)
            check_fork(call, out, expected, n_threads);
#endif
        }
    }
    WHERE("a search that sorts");
    check_sort();
    WHERE("after a stop");
    check_stopped_before();
    WHERE("a search of damaged documents, stopped");
    check_failure(out, search_damaged, RAGFAST_ERROR_CORRUPT_DOC);
    WHERE("scores of a document that is not finite, stopped");
    check_failure(out, gather_nonfinite, RAGFAST_ERROR_NONFINITE_DOC);
    ragfast_poll_interval = interval;
    free_problem(&in.f32);
    free_problem(&in.f64);
    free((void *)in.rows);
    free(in.doubles), free(in.floats), free(in.keys), free(in.targets);
    free(out), free(expected), free(nested_out), free(nested_expected);
}
