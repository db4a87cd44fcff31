/* Checks ragfast_gather_scores against ragfast_search, its gradient against a plain sum, and ragfast_merge_topk
 * against a sort, from the public header alone. */
#include "tests/checkkernels.h"

static const ragfast_dtype dtypes[] = {RAGFAST_F32, RAGFAST_F64, RAGFAST_F16, RAGFAST_BF16};
static const char *const names[] = {"float32", "float64", "float16", "bfloat16"}; /* by ragfast_dtype */

/* Queries, documents of a type with exact values, and rows of them. */
typedef struct choice {
    ragfast_docs docs;
    void *vectors, *queries;
    double *values; /* (N,D) of the documents */
    int64_t *rows;  /* (B,K), some of them -1 */
    size_t n_queries, k, vectors_size, queries_size;
} choice;

static choice make_choice(size_t n_queries, size_t k, size_t n_docs, size_t dim, ragfast_dtype dtype) {
    size_t element = dtype == RAGFAST_F64 ? 8 : dtype == RAGFAST_F32 ? 4 : 2, n = n_docs * dim;
    choice c = {.n_queries = n_queries, .k = k, .vectors_size = n * element};
    c.queries_size = n_queries * dim * (dtype == RAGFAST_F64 ? 8 : 4);
    c.vectors = input(c.vectors_size);
    c.queries = input(c.queries_size);
    c.values = must(malloc((n + 1) * sizeof(double)));
    c.rows = must(malloc((n_queries * k + 1) * sizeof(int64_t)));
    for (size_t i = 0; i < n; i++) {
        float x = (float)random_unit();
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        switch (dtype) {
        case RAGFAST_F32: ((float *)c.vectors)[i] = x, c.values[i] = x; break;
        case RAGFAST_F64: c.values[i] = ((double *)c.vectors)[i] = random_unit(); break;
        case RAGFAST_BF16:
            ((uint16_t *)c.vectors)[i] = (uint16_t)(bits >> 16);
            bits &= 0xffff0000u;
            memcpy(&x, &bits, sizeof bits);
            c.values[i] = x;
            break;
        case RAGFAST_F16: { /* 1.fraction 2^-e with a sign */
            unsigned sign = bits >> 31, fraction = bits >> 13 & 0x3ff, e = bits % 15;
            ((uint16_t *)c.vectors)[i] = (uint16_t)(sign << 15 | (15 - e) << 10 | fraction);
            c.values[i] = (sign ? -1 : 1) * ldexp(1 + fraction / 1024.0, -(int)e);
            break;
        }
        }
    }
    for (size_t i = 0; i < n_queries * dim; i++) {
        if (dtype == RAGFAST_F64) ((double *)c.queries)[i] = random_unit();
        if (dtype != RAGFAST_F64) ((float *)c.queries)[i] = (float)random_unit();
    }
    for (size_t i = 0; i < n_queries * k; i++)
        c.rows[i] = random_below(5) && n_docs ? (int64_t)random_below(n_docs) : -1;
    c.docs = (ragfast_docs){.vectors = c.vectors, .n_docs = n_docs, .dim = dim, .dtype = dtype};
    return c;
}

static void free_choice(choice *c) {
    input_free(c->vectors, c->vectors_size);
    input_free(c->queries, c->queries_size);
    free(c->values);
    free(c->rows);
}

static void check_scores(const choice *c, int n_threads) {
    size_t n = c->n_queries * c->k, n_docs = c->docs.n_docs, all = c->n_queries * n_docs, wrong = 0, bad_row;
    double *scores = output(n * sizeof *scores), *found = must(malloc((all + 1) * sizeof *found));
    int64_t *ids = must(malloc((all + 1) * sizeof *ids));
    float *norms = must(malloc((n_docs + 1) * sizeof *norms));
    ragfast_docs docs = c->docs;
    if (docs.dtype > RAGFAST_F64) { /* which a search wants norms for */
        check(
            !ragfast_measure_rows(norms, NULL, NULL, &bad_row, docs.vectors, n_docs, docs.dim, docs.dtype, THREADS(1)),
            "norms failed");
        docs.norms = norms;
    }
    if (n_docs)
        check(!ragfast_search(found, ids, NULL, NULL, NULL, c->queries, c->n_queries, &docs, 1, NULL, n_docs, 0, 1,
                              THREADS(1)),
              "search failed");
    set_strange(random_below(2) == 0);
    ragfast_status status =
        ragfast_gather_scores(scores, c->queries, c->rows, c->n_queries, c->k, &c->docs, THREADS(n_threads));
    set_strange(0);
    check(status == RAGFAST_OK, "status %d", (int)status);
    for (size_t i = 0; i < n; i++) {
        double expected = -INFINITY;
        for (size_t j = i / c->k * n_docs; c->rows[i] >= 0 && j < (i / c->k + 1) * n_docs; j++)
            if (ids[j] == c->rows[i]) expected = found[j];
        wrong += !same_bits(scores[i], expected);
    }
    check(wrong == 0, "%zu of %zu scores are not those of ragfast_search", wrong, n);
    output_free(scores, n * sizeof *scores);
    free(found);
    free(ids);
    free(norms);
}

/* The sum in the order of k to within its rounding, fused or not; and the same bits for one thread. */
static void check_grad(const choice *c, int n_threads) {
    size_t n = c->n_queries * c->k, dim = c->docs.dim, size = c->n_queries * dim * sizeof(double), wrong = 0;
    double *grad = input(n * sizeof *grad), *out = output(size), *alone = output(size);
    for (size_t i = 0; i < n; i++)
        grad[i] = c->rows[i] < 0    ? NAN
                  : random_below(8) ? random_unit()
                                    : 0; /* what a missing document has is not read */
    set_strange(random_below(2) == 0);
    ragfast_status status =
        ragfast_gather_scores_grad(out, grad, c->rows, c->n_queries, c->k, &c->docs, THREADS(n_threads));
    set_strange(0);
    check(status == RAGFAST_OK, "status %d", (int)status);
    check(!ragfast_gather_scores_grad(alone, grad, c->rows, c->n_queries, c->k, &c->docs, THREADS(1)), "failed");
    check(!memcmp(out, alone, size), "%d threads changed something", n_threads);
    for (size_t q = 0; q < c->n_queries; q++)
        for (size_t e = 0; e < dim; e++) {
            long double sum = 0, magnitude = 0;
            for (size_t i = q * c->k; i < (q + 1) * c->k; i++) {
                if (c->rows[i] < 0) continue;
                long double term = (long double)grad[i] * c->values[(size_t)c->rows[i] * dim + e];
                sum += term;
                magnitude += fabsl(term);
            }
            wrong += !(fabsl(out[q * dim + e] - sum) <= (long double)(c->k + 1) * DBL_EPSILON * magnitude);
        }
    check(wrong == 0, "%zu elements of the gradient are wrong", wrong);
    input_free(grad, n * sizeof *grad);
    output_free(out, size);
    output_free(alone, size);
}

static void check_one_choice(size_t n_queries, size_t k, size_t n_docs, size_t dim, ragfast_dtype dtype,
                             int n_threads) {
    WHERE("%s chosen documents, B %zu, K %zu, N %zu, D %zu, %s, %d threads", ragfast_isa(), n_queries, k, n_docs, dim,
          names[dtype], n_threads);
    choice c = make_choice(n_queries, k, n_docs, dim, dtype);
    check_scores(&c, n_threads);
    check_grad(&c, n_threads);
    free_choice(&c);
}

static void check_refusals(void) {
    enum { B = 3, K = 4, N = 9, D = 21 };
    double scores[B * K], out[B * D];
    for (size_t x = 0; x < 4; x++) {
        WHERE("refusals of chosen documents, %s", names[dtypes[x]]);
        choice c = make_choice(B, K, N, D, dtypes[x]);
        ragfast_docs docs = c.docs;
        for (size_t i = 0; i < B * K; i++) c.rows[i] = (int64_t)(i % N);
#define SCORES(k, d, threads) ragfast_gather_scores(scores, c.queries, c.rows, B, k, d, THREADS(threads))
#define GRAD(k, d, threads) ragfast_gather_scores_grad(out, scores, c.rows, B, k, d, THREADS(threads))
        check(SCORES(K, &docs, -1) == RAGFAST_ERROR_ARGUMENT, "-1 threads were taken");
        check(GRAD(K, &docs, -1) == RAGFAST_ERROR_ARGUMENT, "-1 threads were taken");
        check(SCORES(SIZE_MAX / 2, &docs, 1) == RAGFAST_ERROR_ARGUMENT, "sizes that overflow were taken");
        check(GRAD(SIZE_MAX / 2, &docs, 1) == RAGFAST_ERROR_ARGUMENT, "sizes that overflow were taken");
        docs.dim = 0;
        check(SCORES(K, &docs, 1) == RAGFAST_ERROR_ARGUMENT, "D of 0 was taken");
        docs = c.docs;
        docs.n_docs = N - 1;
        check(SCORES(K, &docs, 1) == RAGFAST_ERROR_ARGUMENT, "row N was taken");
        check(GRAD(K, &docs, 1) == RAGFAST_ERROR_ARGUMENT, "row N was taken");
        docs = c.docs;
        if (docs.dtype == RAGFAST_F64) {
            ((double *)c.vectors)[0] = ((double *)c.queries)[0] = 1e200;
            check(SCORES(K, &docs, 1) == RAGFAST_ERROR_OVERFLOW, "an inner product of 1e400 was taken");
            ((double *)c.vectors)[2 * D - 1] = INFINITY; /* the first in the list of statuses, though found last */
        }
        if (docs.dtype == RAGFAST_F32) ((float *)c.vectors)[2 * D - 1] = INFINITY;
        if (docs.dtype > RAGFAST_F64) memset((uint16_t *)c.vectors + 2 * D - 1, 0xff, sizeof(uint16_t));
        check(SCORES(K, &docs, 1) == RAGFAST_ERROR_NONFINITE_DOC, "a document with NaN or infinity was taken");
        for (size_t i = 0; i < B * K; i++) c.rows[i] = -1;
        check(SCORES(K, &docs, 1) == RAGFAST_OK, "documents that are not chosen count");
        if (docs.dtype == RAGFAST_F64) ((double *)c.queries)[B * D - 1] = NAN;
        if (docs.dtype != RAGFAST_F64) ((float *)c.queries)[B * D - 1] = NAN;
        check(SCORES(K, &docs, 1) == RAGFAST_ERROR_NONFINITE_QUERY, "a query with NaN was taken");
#undef SCORES
#undef GRAD
        free_choice(&c);
    }
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

typedef struct scored {
    double score;
    int64_t id;
} scored;

static int by_score_then_id(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static void check_one_merge(size_t n_lists, size_t n_queries, size_t n_in, size_t k, size_t n_ids) {
    WHERE("ragfast_merge_topk, S %zu, B %zu, K %zu, k %zu, %zu ids", n_lists, n_queries, n_in, k, n_ids);
    size_t n = n_lists * n_queries * n_in, wrong = 0;
    double *in_scores = input(n * sizeof *in_scores), *scores = output(n_queries * k * sizeof *scores);
    int64_t *in_ids = input(n * sizeof *in_ids), *ids = output(n_queries * k * sizeof *ids);
    scored *all = must(malloc((n + 1) * sizeof *all));
    for (size_t row = 0; row < n_lists * n_queries; row++) {
        size_t length = random_below(n_in + 1);
        for (size_t i = 0; i < length; i++) {
            static const double special[] = {INFINITY, -INFINITY, 0x1p-1070, -0x1p-1070, 0, 0x1p-1074};
            double score = random_below(6) ? (double)random_below(5) - 2 : special[random_below(6)];
            all[i] = (scored){score, (int64_t)(random_below(n_ids) * 0x7fffffffu)};
        }
        qsort(all, length, sizeof *all, by_score_then_id);
        for (size_t i = 0; i < n_in; i++) {
            in_scores[row * n_in + i] = i < length ? all[i].score : NAN; /* beyond a list's end: not read */
            in_ids[row * n_in + i] = i < length ? all[i].id : -1;
        }
    }
    set_strange(random_below(2) == 0);
    ragfast_status status = ragfast_merge_topk(scores, ids, in_scores, in_ids, n_lists, n_queries, n_in, k);
    set_strange(0);
    check(status == RAGFAST_OK, "status %d", (int)status);
    for (size_t q = 0; q < n_queries; q++) {
        size_t count = 0, best = 0;
        for (size_t list = 0; list < n_lists; list++)
            for (size_t i = 0; i < n_in; i++) {
                size_t at = (list * n_queries + q) * n_in + i;
                if (in_ids[at] >= 0) all[count++] = (scored){in_scores[at], in_ids[at]};
            }
        qsort(all, count, sizeof *all, by_score_then_id);
        for (size_t i = 0; i < count; i++) {
            size_t before = 0;
            while (before < best && all[before].id != all[i].id) before++;
            if (before == best) all[best++] = all[i];
        }
        for (size_t i = 0; i < k; i++) {
            scored expected = i < best ? all[i] : (scored){-INFINITY, -1};
            wrong += scores[q * k + i] != expected.score || ids[q * k + i] != expected.id;
        }
    }
    check(wrong == 0, "%zu entries are wrong", wrong);
    input_free(in_scores, n * sizeof *in_scores);
    input_free(in_ids, n * sizeof *in_ids);
    output_free(scores, n_queries * k * sizeof *scores);
    output_free(ids, n_queries * k * sizeof *ids);
    free(all);
}

static void check_refused_lists(void) {
    WHERE("lists that are no lists");
    static const struct {
        double scores[3];
        int64_t ids[3];
        int ok;
    } lists[] = {{{3, 2, 1}, {5, 6, 7}, 1},   {{3, 3, 1}, {5, 6, 7}, 1},   {{3, 3, 1}, {5, 5, 7}, 1},
                 {{3, 3, 1}, {6, 5, 7}, 0},   {{2, 3, 1}, {5, 6, 7}, 0},   {{NAN, 3, 1}, {5, 6, 7}, 0},
                 {{3, 2, NAN}, {5, 6, 7}, 0}, {{3, 2, 1}, {-1, 6, 7}, 0},  {{3, 2, 1}, {5, -1, 7}, 0},
                 {{3, 2, 1}, {5, -1, -2}, 0}, {{3, 2, 1}, {5, -1, -1}, 1}, {{1, 2, 3}, {-1, -1, -1}, 1}};
    for (size_t x = 0; x < sizeof lists / sizeof lists[0]; x++) {
        double in_scores[6] = {9, 8, 7}, scores[4]; /* a good list, then this one */
        int64_t in_ids[6] = {1, 2, 3}, ids[4];
        memcpy(in_scores + 3, lists[x].scores, sizeof lists[x].scores);
        memcpy(in_ids + 3, lists[x].ids, sizeof lists[x].ids);
        ragfast_status status = ragfast_merge_topk(scores, ids, in_scores, in_ids, 2, 1, 3, 4);
        check(status == (lists[x].ok ? RAGFAST_OK : RAGFAST_ERROR_ARGUMENT), "list %zu gave status %d", x, (int)status);
    }
    check(ragfast_merge_topk(NULL, NULL, NULL, NULL, SIZE_MAX / 2, 1, 4, 1) == RAGFAST_ERROR_ARGUMENT &&
              ragfast_merge_topk(NULL, NULL, NULL, NULL, 1, SIZE_MAX / 2, 4, 1) == RAGFAST_ERROR_ARGUMENT &&
              ragfast_merge_topk(NULL, NULL, NULL, NULL, 1, 1, SIZE_MAX / 2, 1) == RAGFAST_ERROR_ARGUMENT &&
              ragfast_merge_topk(NULL, NULL, NULL, NULL, 1, 2, 1, SIZE_MAX / 2) == RAGFAST_ERROR_ARGUMENT,
          "sizes that overflow were taken");
}

void check_gather(int threads_only) {
    for (size_t level = 0; level < ragfast_isa_count(); level++) {
        if (!ragfast_isa_available(level) ||
            (threads_only && level + 1 < ragfast_isa_count() && ragfast_isa_available(level + 1)))
            continue;
        ragfast_set_isa(ragfast_isa_name(level));
        for (size_t x = 0; x < 4; x++) {
            for (size_t dim = 1; !threads_only && dim < 70; dim++)
                if (!skip_case())
                    check_one_choice(1 + random_below(4), random_below(9), random_below(40), dim, dtypes[x], 1);
            check_one_choice(3, 400, 100, 1100, dtypes[x], 3); /* more than one block of a gradient */
            check_one_choice(1, 4000, 50, 300, dtypes[x], 4);  /* one query for all threads */
            check_one_choice(200, 30, 90, 200, dtypes[x], 4);
            check_one_choice(0, 5, 9, 33, dtypes[x], 2);
        }
    }
    if (threads_only) return;
    check_refusals();
    check_refused_lists();
    for (size_t x = 0; x < 3000; x++)
        if (!skip_case())
            check_one_merge(random_below(12), random_below(4), random_below(12), random_below(40),
                            1 + random_below(60));
    check_one_merge(100, 2, 300, 5000, 40000);
    check_one_merge(3, 2, 3000, 10000, 1u << 20);
}
