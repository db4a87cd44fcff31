/* Checks what searching, encoding and norms refuse, and what they say of it. */
#include "tests/checkvectors.h"

#include <limits.h>

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
            check(ragfast_search(scores, ids, NULL, NULL, NULL, p.queries, B, &p.docs, 1, NULL, 2, 0, 1.0,
                                 THREADS(1)) == RAGFAST_ERROR_ARGUMENT,
                  "documents of 16 bits without norms were taken");
            ragfast_docs docs = p.docs;
            docs.norms = p.norms;
            docs.codes = &p.codes;
            ((float *)p.queries)[random_below(B * D)] = level % 2 ? NAN : -INFINITY;
            check(ragfast_search(scores, ids, NULL, NULL, NULL, p.queries, B, &docs, 1, NULL, 2, 0, 1.0, THREADS(1)) ==
                      RAGFAST_ERROR_NONFINITE_QUERY,
                  "a bad query was taken");
            uint16_t *vectors = p.vectors, infinity = dtype == RAGFAST_F16 ? 0x7c00 : 0x7f80;
            for (uint16_t bits = 0; bits < 4; bits++) { /* both infinities and a NaN of either sign */
                size_t at = random_below(N * D);
                uint16_t kept = vectors[at];
                vectors[at] = (uint16_t)(infinity | (bits & 1) << 15 | bits >> 1);
                vectors[N * D - 1] = infinity;
                check(ragfast_measure_rows(p.norms, NULL, NULL, &bad_row, vectors, N, D, (ragfast_dtype)dtype,
                                           THREADS(1 + bits)) == RAGFAST_ERROR_NONFINITE_DOC &&
                          bad_row == at / D,
                      "found bad row %zu, not %zu", bad_row, at / D);
                vectors[at] = kept;
            }
            free_problem(&p);
        }

    WHERE("refusals of codes");
    problem p = make_problem(B, N, D, UNIFORM, RAGFAST_F32, 0);
    add_norms_and_codes(&p);
#define ENCODE(codes, dtype, first, n_docs, dim, n_threads)                                                            \
    ragfast_encode(&(codes), p.vectors, NULL, dtype, first, n_docs, dim, THREADS(n_threads))
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

/* Every field of documents and codes, and every count and scalar, just outside its range; some also just inside. */
static void check_refusals_of_ranges(void) {
    enum { B = 3, N = 100, D = 70, K = 2 };
    WHERE("refusals of ranges");
    problem p = make_problem(B, N, D, UNIFORM, RAGFAST_F32, 0);
    add_norms_and_codes(&p);
    p.codes.prefix = 0;
    double scores[B * K], half_squares[N] = {0};
    int64_t ids[B * K], doc_ids[N];
    for (size_t i = 0; i < N; i++) doc_ids[i] = (int64_t)i;
    ragfast_docs good = p.docs;
    good.norms = p.norms;
    good.codes = &p.codes;
#define SEARCH(docs, n_segments, n_queries, k, temperature, n_threads)                                                 \
    ragfast_search(scores, ids, NULL, NULL, NULL, p.queries, n_queries, docs, n_segments, NULL, k, 0, temperature,     \
                   THREADS(n_threads))
#define REFUSED(call, what) check((call) == RAGFAST_ERROR_ARGUMENT, "%s was taken", what)
#define DOCS(change, expected)                                                                                         \
    do {                                                                                                               \
        ragfast_docs docs = good;                                                                                      \
        change;                                                                                                        \
        check(SEARCH(&docs, 1, B, K, 1.0, 1) == (expected), "another status than expected after %s", #change);         \
    } while (0)
#define CODES(change)                                                                                                  \
    do {                                                                                                               \
        ragfast_docs docs = good;                                                                                      \
        ragfast_codes codes = p.codes;                                                                                 \
        docs.codes = &codes;                                                                                           \
        change;                                                                                                        \
        REFUSED(SEARCH(&docs, 1, B, K, 1.0, 1), #change);                                                              \
    } while (0)
    DOCS((void)docs, RAGFAST_OK);
    DOCS(docs.dtype = (ragfast_dtype)4, RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.dtype = (ragfast_dtype)-1, RAGFAST_ERROR_ARGUMENT);
    DOCS((docs.dtype = (ragfast_dtype)4, docs.codes = NULL), RAGFAST_ERROR_ARGUMENT);
    DOCS((docs.dtype = (ragfast_dtype)-1, docs.codes = NULL), RAGFAST_ERROR_ARGUMENT);
    DOCS((docs.dtype = RAGFAST_F16, docs.norms = NULL, docs.codes = NULL), RAGFAST_ERROR_ARGUMENT);
    DOCS((docs.dim = 0, docs.codes = NULL), RAGFAST_ERROR_ARGUMENT);
    DOCS((docs.dim = ((size_t)1 << 20) + 1, docs.codes = NULL), RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.mapped = 2, RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.mapped = -1, RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.n_docs = (size_t)1 << 31, RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.n_docs = SIZE_MAX, RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.first_id = -1, RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.first_id = INT64_MAX - N + 1, RAGFAST_OK);
    DOCS(docs.first_id = INT64_MAX - N + 2, RAGFAST_ERROR_ARGUMENT);
    DOCS((docs.first_id = INT64_MAX, docs.ids = doc_ids), RAGFAST_OK);
    DOCS(docs.norms = NULL, RAGFAST_ERROR_ARGUMENT); /* beside codes */
    DOCS(docs.dtype = RAGFAST_F64, RAGFAST_ERROR_ARGUMENT);
    DOCS(docs.dim = RAGFAST_MAX_CODE_DIM + 1, RAGFAST_ERROR_ARGUMENT);
    CODES(codes.always = 2);
    CODES(codes.always = -1);
    CODES(codes.high = NULL);
    CODES(codes.low = NULL);
    CODES(codes.bounds = NULL);
    CODES(codes.prefix = 8);
    CODES(codes.prefix = 80);
    CODES(codes.prefix = SIZE_MAX - 15);
    CODES((codes.prefix = 16, docs.half_squares = half_squares));
    static const double errors[] = {-1e-9, 0.01, NAN, INFINITY};
    for (size_t i = 0; i < 4; i++) CODES(codes.rotation_error = errors[i]);
    ragfast_docs empty = {.first_id = INT64_MAX, .codes = &(ragfast_codes){0}, .dim = D, .dtype = RAGFAST_F32};
    check(SEARCH(&empty, 1, B, K, 1.0, 1) == RAGFAST_OK && ids[0] == -1, "a segment without documents was refused");

    REFUSED(SEARCH(NULL, 0, B, K, 1.0, 1), "n_segments 0, of which nothing may be read,");
    REFUSED(SEARCH(NULL, (size_t)1 << 31, B, K, 1.0, 1), "n_segments 2^31");
    REFUSED(SEARCH(&good, 1, B, 0, 1.0, 1), "k 0");
    REFUSED(SEARCH(&good, 1, B, SIZE_MAX, 1.0, 1), "k SIZE_MAX");
    REFUSED(SEARCH(&good, 1, B, SIZE_MAX - D + 1, 1.0, 1), "a k that overflows beside D");
    REFUSED(SEARCH(&good, 1, B, SIZE_MAX / sizeof(double) + 1, 1.0, 1), "a k of which the scores overflow");
    REFUSED(SEARCH(&good, 1, SIZE_MAX, K, 1.0, 1), "B SIZE_MAX");
    REFUSED(SEARCH(&good, 1, SIZE_MAX / D / sizeof(float) + 1, K, 1.0, 1), "a B of which the queries overflow");
    static const double temperatures[] = {0.0, -1.0, NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 5; i++) REFUSED(SEARCH(&good, 1, B, K, temperatures[i], 1), "a bad temperature");
    REFUSED(SEARCH(&good, 1, B, K, 1.0, -1), "n_threads -1");
    REFUSED(SEARCH(&good, 1, B, K, 1.0, INT_MIN), "n_threads INT_MIN");
    check(SEARCH(&good, 1, B, K, 1.0, INT_MAX) == RAGFAST_OK, "n_threads INT_MAX was refused");

    size_t n_segments = ((size_t)1 << 17) + 1; /* of 2^31 - 1 documents each, more than 2^48 */
    ragfast_docs *many = must(malloc(n_segments * sizeof *many));
    for (size_t i = 0; i < n_segments; i++) many[i] = good, many[i].n_docs = ((size_t)1 << 31) - 1;
    REFUSED(SEARCH(many, n_segments, B, K, 1.0, 1), "an N above 2^48");
    free(many);
#undef CODES
#undef DOCS
#undef REFUSED
#undef SEARCH
    free_problem(&p);
}

void check_search_refusals(int threads_only) {
    (void)threads_only;
    WHERE("refusals");
    enum { B = 3, N = 700, D = 600 }; /* enough for the threads */
    problem p = make_problem(B, N, D, UNIFORM, RAGFAST_F32, 0);
    double scores[B * 2];
    int64_t ids[B * 2];
    float *queries = p.queries, *vectors = p.vectors;
#define SEARCH(docs, k, temperature, n_threads)                                                                        \
    ragfast_search(scores, ids, NULL, NULL, NULL, queries, B, &(docs), 1, NULL, k, 0, temperature, THREADS(n_threads))
    check(SEARCH(p.docs, 2, 1.0, 0) == RAGFAST_OK, "a plain search failed");
    ragfast_docs squared = p.docs;
    squared.half_squares = must(calloc(N, sizeof(double)));
    check(ragfast_search(scores, ids, NULL, NULL, NULL, queries, B, &squared, 1, NULL, 2, 1, 1, NULL) ==
              RAGFAST_ERROR_ARGUMENT,
          "cosines of distances were taken");
    for (int cosine = -1; cosine <= 2; cosine += 3)
        check(ragfast_search(scores, ids, NULL, NULL, NULL, queries, B, &p.docs, 1, NULL, 2, cosine, 1, NULL) ==
                  RAGFAST_ERROR_ARGUMENT,
              "cosine %d was taken", cosine);
    free((void *)squared.half_squares);
    float *zero = must(calloc(B * D, sizeof *zero));
    memcpy(zero, queries, D * sizeof *zero);
    check(ragfast_search(scores, ids, NULL, NULL, NULL, zero, B, &p.docs, 1, NULL, 2, 1, 1, NULL) ==
              RAGFAST_ERROR_ZERO_QUERY,
          "a query without a direction was taken");
    check(ragfast_search(scores, ids, NULL, NULL, NULL, zero, B, &p.docs, 1, NULL, 2, 0, 1, NULL) == RAGFAST_OK,
          "a query of zeros was refused");
    free(zero);
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
                check(ragfast_measure_rows(p.norms, NULL, NULL, &bad_row, vectors, N, D, RAGFAST_F32,
                                           THREADS(n_threads)) == RAGFAST_ERROR_NONFINITE_DOC &&
                          bad_row == at / D,
                      "found bad row %zu, not %zu", bad_row, at / D);
                vectors[at] = kept;
                vectors[N * D - 1] = 1;
            }
    free_problem(&p);
    check_refusals_of_forms();
    check_refusals_of_ranges();

    WHERE("float64 overflow");
    problem q = make_problem(B, N, D, UNIFORM, RAGFAST_F64, 0);
    for (size_t i = 0; i < D; i++)
        ((double *)q.vectors)[5 * D + i] = ((double *)q.queries)[D + i] = i % 2 ? 1e200 : -1e200;
    check(ragfast_search(scores, ids, NULL, NULL, NULL, q.queries, B, &q.docs, 1, NULL, 2, 0, 1.0, THREADS(1)) ==
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
