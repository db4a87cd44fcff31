/* Checks norms of rows and ragfast_search of one segment: every form, level and thread count, and many callers at once. */
#include "tests/checkvectors.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

void check_row_norms(int threads_only) {
    (void)threads_only;
    static const ragfast_dtype dtypes[] = {RAGFAST_F32, RAGFAST_F16, RAGFAST_BF16};
    for (size_t x = 0; x < 180; x++) {
        size_t n_rows = random_below(100), dim = 1 + random_below(70), size, bad_row;
        ragfast_dtype dtype = dtypes[x / 60];
        int kind = (int)(x % N_KINDS);
        WHERE("ragfast_measure_rows, N %zu, D %zu, %s, %s", n_rows, dim, kind_names[kind], dtype_names[dtype]);
        float *values = must(malloc(n_rows * dim * sizeof(float) + 1)), *norms = output(n_rows * sizeof(float));
        fill(values, n_rows, dim, kind);
        void *rows = as_dtype(values, n_rows * dim, dtype, &size);
        free(values);
        check(!ragfast_measure_rows(norms, NULL, NULL, &bad_row, rows, n_rows, dim, dtype,
                                    THREADS(1 + (int)random_below(4))),
              "failed");
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

/* ---- one caller -------------------------------------------------------------------------------------------------- */

static int highest_level_alone; /* for races, in which kernels have no part */

/* What a search may be told of the documents beyond their vectors. */
enum { VECTORS_ALONE, WITH_NORMS, WITH_CODES, N_FORMS };
static const char *const form_names[] = {"vectors alone", "norms", "norms and codes"};

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

/* Cosines against the inner products of the same documents, at every level: the bits of the scalar level's log-softmax. */
static void check_cosines(ragfast_dtype dtype, size_t k, double temperature) {
    enum { B = 7, N = 900, D = 20 };
    problem p =
        make_problem(B, N, D, INTEGERS, dtype, 1); /* small integers: equal scores, and cosines that become equal */
    ragfast_docs docs = p.docs;
    float *norms = must(malloc(N * sizeof *norms));
    size_t bad_row, size = B * k * sizeof(double);
    if (dtype != RAGFAST_F64)
        check(!ragfast_measure_rows(norms, NULL, NULL, &bad_row, p.vectors, N, D, dtype, NULL), "failed");
    if (dtype != RAGFAST_F64) docs.norms = norms;
    double *products = must(malloc(size)), *scores = output(size), *logprobs = output(size),
           *expected = must(malloc(size));
    int64_t *ids = must(malloc(size)), *found = output(size);
    check(!ragfast_search(products, ids, NULL, NULL, NULL, p.queries, B, &docs, 1, NULL, k, 0, 1, NULL), "failed");
    for (size_t q = 0; q < B; q++) {
        const char *query = (const char *)p.queries + q * D * element_size(query_dtype(dtype));
        double length = sqrt(canonical_score(query, query, D, query_dtype(dtype), 0));
        for (size_t i = 0; i < k; i++) products[q * k + i] /= length;
        for (size_t i = 1; i < k; i++) /* an insertion sort of equal cosines by ids */
            for (size_t j = q * k + i;
                 j > q * k && products[j] == products[j - 1] && ids[j] < ids[j - 1] && ids[j] >= 0; j--) {
                int64_t id = ids[j];
                ids[j] = ids[j - 1];
                ids[j - 1] = id;
            }
        for (size_t i = 0; i < k; i++) expected[q * k + i] = (products[q * k + i] - products[q * k]) / temperature;
    }
    const char *before = ragfast_isa();
    ragfast_set_isa("scalar");
    check(!ragfast_log_softmax(expected, expected, B, k, RAGFAST_F64, NULL), "failed");
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        WHERE("cosines at %s, %s, k %zu, temperature %g", ragfast_isa(), dtype_names[dtype], k, temperature);
        ragfast_status status = ragfast_search(scores, found, logprobs, NULL, NULL, p.queries, B, &docs, 1, NULL, k, 1,
                                               temperature, THREADS(1 + (int)level));
        check(status == RAGFAST_OK, "status %d", (int)status);
        check(!memcmp(found, ids, size), "other documents");
        check(!memcmp(scores, products, size), "other scores");
        check(!memcmp(logprobs, expected, size), "other log-probabilities");
    }
    ragfast_set_isa(before);
    output_free(scores, size), output_free(logprobs, size), output_free(found, size);
    free(products), free(expected), free(ids), free(norms);
    free_problem(&p);
}

void check_searches(int threads_only) {
    for (int dtype = RAGFAST_F32; dtype <= RAGFAST_BF16 && !threads_only; dtype++)
        for (size_t k = 1; k <= 1000; k *= 10) check_cosines((ragfast_dtype)dtype, k, k == 10 ? 0.05 : 1);
    highest_level_alone = threads_only;
    /* B, N, D: enough work for several threads, long chunks, then sizes around those of tiles and panels. */
    static const size_t shapes[][3] = {{1, 900, 1300}, {26, 129, 768}, {1, 0, 3},    {0, 5, 3},    {1, 1, 1},
                                       {2, 31, 5},     {3, 32, 17},    {11, 33, 16}, {12, 63, 31}, {13, 64, 40},
                                       {1, 65, 64},    {24, 95, 7},    {25, 97, 33}, {5, 200, 100}};
    for (size_t x = 0; x < (threads_only ? 2 : sizeof shapes / sizeof shapes[0]); x++)
        for (int kind = 0; kind < N_KINDS; kind++)
            for (int dtype = RAGFAST_F32; dtype <= RAGFAST_BF16; dtype++) {
                /* Races do not depend on the data; and what one kind is to 16 bits shows in half of the shapes. */
                if (skip_case()) continue;
                if (threads_only ? (kind + dtype) % 3 : dtype > RAGFAST_F64 && ((size_t)kind + (size_t)dtype + x) % 2)
                    continue;
                check_problem(shapes[x][0], shapes[x][1], shapes[x][2], kind, (ragfast_dtype)dtype);
            }
    for (int kind = UNIFORM; kind <= INTEGERS && !threads_only && !skip_case();
         kind++) /* long chunks; candidates for two passes over the documents */
        check_problem(14, 99000, 1, kind, RAGFAST_F32);
}

/* ---- many callers ------------------------------------------------------------------------------------------------ */

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
        ragfast_search(expected, expected_ids, NULL, NULL, NULL, p.queries, 5, &docs, 1, NULL, 4, 0, 1.0,
                       THREADS(n_threads));
        unsigned saved = _mm_getcsr(), strange = 0x1f80u | 0x8040u | 0x4000u; /* FTZ, DAZ, round up */
        _mm_setcsr(strange);
        ragfast_search(scores, ids, NULL, NULL, NULL, p.queries, 5, &docs, 1, NULL, 4, 0, 1.0, THREADS(n_threads));
        unsigned after = _mm_getcsr();
        _mm_setcsr(saved);
        check((after & 0xffc0u) == (strange & 0xffc0u), "the caller's control bits came back as %x", after);
        check(!memcmp(scores, expected, sizeof scores) && !memcmp(ids, expected_ids, sizeof ids), "other results");
        free_problem(&p);
    }
}
#endif

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
static void check_concurrent_searches(ragfast_dtype dtype, int with_codes) {
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

void check_callers(int threads_only) {
    (void)threads_only;
#if defined(__x86_64__)
    check_caller_environment();
#endif
    check_concurrent_searches(RAGFAST_F32, 0);
    check_concurrent_searches(RAGFAST_F32, 1);
    check_concurrent_searches(RAGFAST_BF16, 1);
}
