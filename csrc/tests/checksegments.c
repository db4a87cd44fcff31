/* Checks ragfast_search over several segments, with bitmaps, groups and both metrics, against a float64 ranking of everything;
 * and that it minds neither damaged rows nor a writer beside it. From the public header alone. */
#include "tests/checkkernels.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MAX_SEGMENTS = 5, N_GROUPS = 7 };

typedef struct ranked {
    double score;
    int64_t id;
    int32_t group;
} ranked;

/* Documents in segments, queries, and what is to be found. Every array ends where an unreadable page begins. */
typedef struct world {
    ragfast_dtype dtype;
    int l2, filtered, grouped;
    size_t n_queries, dim, n_segments, n_docs, k;
    ragfast_docs segments[MAX_SEGMENTS];
    ragfast_codes codes[MAX_SEGMENTS];
    size_t codes_size[MAX_SEGMENTS][3];
    float *center;
    void *queries;
    int32_t *excluded_groups;
    ragfast_constraints constraints;
    double *scores; /* (B,k) expected */
    int64_t *ids;
} world;

/* Eighths from -2 to 2, or a little more in float32 and float64: exact in 16 bits, with many ties. */
static void put(void *x, size_t i, int many_ties, ragfast_dtype dtype) {
    double value = (double)random_below(33) / 8 - 2;
    if (!many_ties && dtype <= RAGFAST_F64) value += 0.1 * random_unit();
    float narrow = (float)value;
    if (dtype == RAGFAST_F64) ((double *)x)[i] = value;
    if (dtype == RAGFAST_F32) ((float *)x)[i] = narrow;
    if (dtype <= RAGFAST_F64) return;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    uint16_t half = (uint16_t)(bits >> 16 & 0x8000);
    if (narrow != 0) half |= (uint16_t)(((bits >> 23 & 0xff) - 112) << 10 | (bits >> 13 & 0x3ff));
    ((uint16_t *)x)[i] = dtype == RAGFAST_BF16 ? (uint16_t)(bits >> 16) : half;
}

static int by_score_then_id(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static void rank(world *w) {
    size_t row_bytes = w->dim * element_size(w->dtype), query_bytes = w->dim * element_size(query_dtype(w->dtype));
    ranked *all = must(malloc((w->n_docs + 1) * sizeof *all));
    for (size_t q = 0; q < w->n_queries; q++) {
        size_t n = 0, found = 0, taken[N_GROUPS] = {0};
        for (size_t s = 0; s < w->n_segments; s++)
            for (size_t row = 0; row < w->segments[s].n_docs; row++) {
                const ragfast_docs *docs = &w->segments[s];
                int32_t group = docs->groups ? docs->groups[row] : -1;
                if (docs->allowed && !(docs->allowed[row / 32] >> row % 32 & 1)) continue;
                if (w->excluded_groups && w->excluded_groups[q] >= 0 && w->excluded_groups[q] == group) continue;
                all[n++] =
                    (ranked){canonical_score((const char *)w->queries + q * query_bytes,
                                             (const char *)docs->vectors + row * row_bytes, w->dim, w->dtype, w->l2),
                             docs->ids ? docs->ids[row] : docs->first_id + (int64_t)row, group};
            }
        qsort(all, n, sizeof *all, by_score_then_id);
        for (size_t i = 0; i < n && found < w->k; i++) {
            if (w->constraints.max_per_group && all[i].group >= 0 &&
                taken[all[i].group]++ >= w->constraints.max_per_group)
                continue;
            w->scores[q * w->k + found] = all[i].score;
            w->ids[q * w->k + found++] = all[i].id;
        }
        for (; found < w->k; found++) w->scores[q * w->k + found] = -INFINITY, w->ids[q * w->k + found] = -1;
    }
    free(all);
}

/* Bits of a share of the rows, here and there or side by side; those beyond N are garbage. */
static uint32_t *make_bitmap(size_t n_docs, double share, int in_a_row) {
    size_t words = (n_docs + 31) / 32, first = random_below(n_docs + 1);
    uint32_t *bits = input(words * sizeof *bits);
    for (size_t i = 0; i < words; i++) bits[i] = 0;
    for (size_t row = 0; row < words * 32; row++) {
        int set = in_a_row ? row >= first && (double)row < (double)first + share * (double)n_docs
                           : (random_unit() + 1) / 2 < share;
        if (set || row >= n_docs) bits[row / 32] |= 1u << row % 32;
    }
    return bits;
}

static void make_segment(world *w, size_t s, size_t n, int64_t first_id, double share, int near_duplicates) {
    size_t dim = w->dim, bytes = n * dim * element_size(w->dtype), bad_row;
    void *vectors = input(bytes);
    for (size_t i = 0; i < n * dim; i++) {
        put(vectors, i, random_below(2) != 0, w->dtype);
        if (near_duplicates && i >= dim && w->dtype == RAGFAST_F32)
            ((float *)vectors)[i] = ((float *)vectors)[i % dim] * (1 + 1e-6f * (float)random_unit());
    }
    ragfast_docs docs = {.vectors = vectors,
                         .n_docs = n,
                         .dim = dim,
                         .dtype = w->dtype,
                         .first_id = first_id,
                         .mapped = !random_below(3)};
    if (w->dtype != RAGFAST_F64) {
        float *norms = input(n * sizeof *norms);
        check(!ragfast_measure_rows(norms, NULL, NULL, &bad_row, vectors, n, dim, w->dtype, THREADS(1)),
              "norms failed");
        docs.norms = norms;
    }
    if (random_below(2)) { /* backwards, so that order in memory is not the order of ids */
        int64_t *ids = input(n * sizeof *ids);
        for (size_t i = 0; i < n; i++) ids[i] = first_id + (int64_t)(n - 1 - i);
        docs.ids = ids;
    }
    if (w->l2) {
        double *half_squares = input(n * sizeof *half_squares);
        check(!ragfast_measure_rows(NULL, half_squares, NULL, NULL, vectors, n, dim, w->dtype, THREADS(1)),
              "half squares failed");
        docs.half_squares = half_squares;
    }
    if (w->grouped) {
        int32_t *groups = input(n * sizeof *groups);
        for (size_t i = 0; i < n; i++) groups[i] = near_duplicates ? 0 : (int32_t)random_below(N_GROUPS + 1) - 1;
        docs.groups = groups;
    }
    if (random_below(2)) {
        uint32_t *sums = input(n * sizeof *sums);
        check(!ragfast_row_sums(sums, vectors, n, dim * element_size(w->dtype), THREADS(1)), "ragfast_row_sums failed");
        docs.row_sums = sums;
    }
    if (w->filtered) docs.allowed = make_bitmap(n, share, (int)random_below(2));
    if (w->dtype != RAGFAST_F64 && random_below(4)) {
        size_t *size = w->codes_size[s];
        ragfast_codes_size(&size[0], &size[1], &size[2], n, dim);
        w->codes[s] =
            (ragfast_codes){.high = input(size[0]),
                            .low = input(size[1]),
                            .bounds = input(size[2]),
                            .center = random_below(2) ? w->center : NULL, /* forms that segments share, or not */
                            .prefix = w->l2 || dim < 65 || random_below(2) ? 0 : 64,
                            .always = 1};
        for (size_t i = 0; i < 2; i++) memset(i ? w->codes[s].low : w->codes[s].high, 0xa5, size[i]);
        memset(w->codes[s].bounds, 0xa5, size[2]);
        check(!ragfast_encode(&w->codes[s], vectors, docs.half_squares, w->dtype, 0, n, dim, THREADS(1)),
              "ragfast_encode failed");
        docs.codes = &w->codes[s];
    }
    w->segments[s] = docs;
}

static world *make_world(ragfast_dtype dtype, int l2, int with_groups, size_t most_docs) {
    static const double shares[] = {0, 0.002, 0.02, 0.3, 0.95};
    static const size_t ks[] = {1, 3, 10, 40, 2000}, dims[] = {1, 7, 16, 33, 100, 130},
                        queries[] = {1, 2, 3, 5, 13, 40};
    world *w = must(calloc(1, sizeof *w));
    *w = (world){.dtype = dtype, .l2 = l2, .grouped = with_groups, .filtered = random_below(3) != 0};
    w->dim = dims[random_below(6)];
    w->n_queries = queries[random_below(6)];
    w->k = ks[random_below(5)];
    w->n_segments = 1 + random_below(MAX_SEGMENTS);
    w->center = must(malloc(w->dim * sizeof(float)));
    for (size_t e = 0; e < w->dim; e++) w->center[e] = (float)random_unit();
    size_t n_queries = w->n_queries, query_bytes = n_queries * w->dim * element_size(query_dtype(dtype));
    w->queries = input(query_bytes);
    for (size_t i = 0; i < n_queries * w->dim; i++) put(w->queries, i, random_below(2) != 0, query_dtype(dtype));
    double share = shares[random_below(5)];
    for (size_t s = 0; s < w->n_segments; s++) {
        size_t n = random_below(5) ? random_below(most_docs) : random_below(4) * 32;
        make_segment(w, s, n, (int64_t)(s * 5) << 31, share, !random_below(5));
        w->n_docs += n;
    }
    if (with_groups && random_below(2)) {
        w->excluded_groups = input(n_queries * sizeof *w->excluded_groups);
        for (size_t q = 0; q < n_queries; q++) w->excluded_groups[q] = (int32_t)random_below(N_GROUPS + 1) - 1;
    }
    w->constraints = (ragfast_constraints){w->excluded_groups, with_groups ? random_below(4) : 0};
    w->scores = must(malloc(n_queries * w->k * sizeof *w->scores));
    w->ids = must(malloc(n_queries * w->k * sizeof *w->ids));
    rank(w);
    return w;
}

static void free_world(world *w) {
    for (size_t s = 0; s < w->n_segments; s++) {
        const ragfast_docs *docs = &w->segments[s];
        size_t n = docs->n_docs;
        input_free((void *)docs->vectors, n * w->dim * element_size(w->dtype));
        if (docs->norms) input_free((void *)docs->norms, n * sizeof *docs->norms);
        if (docs->ids) input_free((void *)docs->ids, n * sizeof *docs->ids);
        if (docs->half_squares) input_free((void *)docs->half_squares, n * sizeof *docs->half_squares);
        if (docs->groups) input_free((void *)docs->groups, n * sizeof *docs->groups);
        if (docs->row_sums) input_free((void *)docs->row_sums, n * sizeof *docs->row_sums);
        if (docs->allowed) input_free((void *)docs->allowed, (n + 31) / 32 * sizeof *docs->allowed);
        if (!docs->codes) continue;
        input_free(w->codes[s].high, w->codes_size[s][0]);
        input_free(w->codes[s].low, w->codes_size[s][1]);
        input_free(w->codes[s].bounds, w->codes_size[s][2]);
    }
    input_free(w->queries, w->n_queries * w->dim * element_size(query_dtype(w->dtype)));
    if (w->excluded_groups) input_free(w->excluded_groups, w->n_queries * sizeof *w->excluded_groups);
    free(w->center);
    free(w->scores);
    free(w->ids);
    free(w);
}

/* How many entries are wrong. No `where`, no check(): threads call it too. */
static size_t wrong_entries(const world *w, int n_threads) {
    size_t n = w->n_queries * w->k, wrong = 0;
    double *scores = must(malloc(n * sizeof *scores)), *logprobs = must(malloc(n * sizeof *logprobs));
    int64_t *ids = must(malloc(n * sizeof *ids));
    ragfast_place corrupt;
    if (ragfast_search(scores, ids, logprobs, NULL, &corrupt, w->queries, w->n_queries, w->segments, w->n_segments,
                       &w->constraints, w->k, 0, 1, THREADS(n_threads)))
        wrong = 1;
    for (size_t i = 0; i < n && !wrong; i++)
        wrong +=
            !(ids[i] == w->ids[i] && same_bits(scores[i], w->scores[i]) && (ids[i] >= 0) == (logprobs[i] > -INFINITY));
    free(scores);
    free(logprobs);
    free(ids);
    return wrong;
}

static void check_world(const world *w, size_t i) {
    for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
        WHERE("segments, world %zu at %s: B %zu, N %zu in %zu, D %zu, k %zu, %s%s%s, at most %zu, %d threads", i,
              ragfast_isa(), w->n_queries, w->n_docs, w->n_segments, w->dim, w->k, w->l2 ? "distance" : "inner product",
              w->filtered ? ", bitmap" : "", w->excluded_groups ? ", excluded" : "", w->constraints.max_per_group,
              n_threads);
        size_t wrong = wrong_entries(w, n_threads);
        check(wrong == 0, "wrong entries");
    }
}

static world *world_of_number(size_t i, size_t most_docs) {
    return make_world((ragfast_dtype)(i % 4), i / 4 % 2 != 0, i / 8 % 2 != 0, most_docs);
}

static void check_worlds(size_t n_worlds, size_t most_docs, int every_level) {
    for (size_t i = 0; i < n_worlds; i++) {
        if (skip_case()) continue;
        world *w = world_of_number(i, most_docs);
        for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
            if (!every_level && level + 1 < ragfast_isa_count() && ragfast_isa_available(level + 1)) continue;
            ragfast_set_isa(ragfast_isa_name(level));
            check_world(w, i);
        }
        free_world(w);
    }
}

void check_segments_with(const ragfast_kernels *table) {
    enum { WORLDS = 48 };
    const char *before = ragfast_isa();
    ragfast_use_kernels(table);
    for (size_t i = 0; i < WORLDS; i++) {
        if (skip_case()) continue;
        world *w = world_of_number(i, 700);
        check_world(w, i);
        free_world(w);
    }
    ragfast_set_isa(before);
}

/* ---- one group on top ---------------------------------------------------------------------------------------------- */

/* The best documents by far are near-duplicates of one group, of which a few may be found: each is scored once at most. */
static void check_one_group_on_top(void) {
    enum { N = 20000, D = 16, K = 10, OTHERS = 100 };
    float *vectors = must(malloc(N * D * sizeof *vectors)), *norms = must(malloc(N * sizeof *norms)), query[D];
    int32_t *groups = must(malloc(N * sizeof *groups));
    size_t bad_row, size[3];
    for (size_t e = 0; e < D; e++) query[e] = 1;
    for (size_t i = 0; i < N * D; i++) vectors[i] = 1 + 1e-5f * (float)random_unit();
    for (size_t i = 0; i < N; i++) groups[i] = 3;
    for (size_t i = 0; i < OTHERS; i++) {
        groups[i * (N / OTHERS)] = -1;
        vectors[i * (N / OTHERS) * D] = -(float)i;
    }
    ragfast_measure_rows(norms, NULL, NULL, &bad_row, vectors, N, D, RAGFAST_F32, THREADS(1));
    ragfast_codes_size(&size[0], &size[1], &size[2], N, D);
    ragfast_codes codes = {
        .high = must(malloc(size[0])), .low = must(malloc(size[1])), .bounds = must(malloc(size[2])), .always = 1};
    ragfast_encode(&codes, vectors, NULL, RAGFAST_F32, 0, N, D, THREADS(1));
    for (int coded = 0; coded < 2; coded++) {
        WHERE("a group on top, %s", coded ? "codes" : "float32");
        ragfast_docs docs = {.vectors = vectors,
                             .norms = norms,
                             .codes = coded ? &codes : NULL,
                             .groups = groups,
                             .n_docs = N,
                             .dim = D,
                             .dtype = RAGFAST_F32};
        ragfast_constraints constraints = {.max_per_group = 2};
        ragfast_query_stats stats;
        double scores[K];
        int64_t ids[K];
        check(!ragfast_search(scores, ids, NULL, &stats, NULL, query, 1, &docs, 1, &constraints, K, 0, 1, THREADS(1)),
              "failed");
        check(stats.rescored <= N, "%zu documents were scored, of %d", (size_t)stats.rescored, N);
        for (size_t i = 0; i < K; i++)
            check(groups[ids[i]] == (i < 2 ? 3 : -1), "place %zu has a document of group %d", i, groups[ids[i]]);
        for (size_t i = 2; i < K; i++) check(ids[i] == (int64_t)((i - 2) * (N / OTHERS)), "place %zu is wrong", i);
    }
    free(codes.high);
    free(codes.low);
    free(codes.bounds);
    free(vectors);
    free(norms);
    free(groups);
}

/* ---- damage and refusals ------------------------------------------------------------------------------------------- */

static void check_damage(void) {
    for (size_t i = 0; i < 60; i++) {
        world *w = make_world((ragfast_dtype)(i % 4), i / 4 % 2 != 0, 0, 700);
        for (size_t s = 0; s < w->n_segments; s++) {
            ragfast_docs *docs = &w->segments[s];
            size_t bytes = w->dim * element_size(w->dtype), n = docs->n_docs;
            if (n == 0 || !docs->row_sums || !w->n_docs) continue;
            /* The document that a search for all of them must look at: allowed, and k is all. */
            size_t row = random_below(n), at = row * bytes + random_below(bytes);
            if (docs->allowed && !(docs->allowed[row / 32] >> row % 32 & 1)) continue;
            double *scores = must(malloc(w->n_queries * w->n_docs * sizeof *scores));
            int64_t *ids = must(malloc(w->n_queries * w->n_docs * sizeof *ids));
            uint8_t *byte = (uint8_t *)docs->vectors + at, bit = (uint8_t)(1 << random_below(8));
            *byte ^= bit;
            for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
                ragfast_place found = {SIZE_MAX, SIZE_MAX};
                WHERE("a damaged row %zu of segment %zu in world %zu, %d threads", row, s, i, n_threads);
                ragfast_status status =
                    ragfast_search(scores, ids, NULL, NULL, &found, w->queries, w->n_queries, w->segments,
                                   w->n_segments, NULL, w->n_docs, 0, 1, THREADS(n_threads));
                check(status == RAGFAST_ERROR_CORRUPT_DOC, "status %d", (int)status);
                check(found.segment == s && found.row == row, "%zu, %zu was named", found.segment, found.row);
            }
            *byte ^= bit;
            free(scores);
            free(ids);
        }
        free_world(w);
    }
}

static void check_refusals(void) {
    enum { N = 40, D = 20 };
    WHERE("refusals of segments");
    float vectors[N * D], norms[N] = {0}, query[D] = {0};
    double half_squares[N] = {0}, scores[2];
    int64_t ids[2];
    for (size_t i = 0; i < N * D; i++) vectors[i] = 1;
    ragfast_codes prefixed = {.prefix = 16};
    const ragfast_docs good = {.vectors = vectors, .norms = norms, .n_docs = N, .dim = D, .dtype = RAGFAST_F32};
#define SEARCH(segments, n)                                                                                            \
    ragfast_search(scores, ids, NULL, NULL, NULL, query, 1, segments, n, NULL, 2, 0, 1, THREADS(1))
    ragfast_docs two[2] = {good, good};
    two[1].first_id = N;
    check(SEARCH(two, 2) == RAGFAST_OK, "two segments were refused");
    check(SEARCH(two, 0) == RAGFAST_ERROR_ARGUMENT, "no segments were taken");
    two[1].dim = D - 1;
    check(SEARCH(two, 2) == RAGFAST_ERROR_ARGUMENT, "two dimensions were taken");
    two[1] = good, two[1].dtype = RAGFAST_F64;
    check(SEARCH(two, 2) == RAGFAST_ERROR_ARGUMENT, "two dtypes were taken");
    two[1] = good, two[1].half_squares = half_squares;
    check(SEARCH(two, 2) == RAGFAST_ERROR_ARGUMENT, "two metrics were taken");
    check(SEARCH(two + 1, 1) == RAGFAST_OK, "half squares were refused");
    two[1].codes = &prefixed;
    check(SEARCH(two + 1, 1) == RAGFAST_ERROR_ARGUMENT, "a prefix was taken beside half squares");
    two[1] = good, two[1].first_id = -1;
    check(SEARCH(two, 2) == RAGFAST_ERROR_ARGUMENT, "a negative first_id was taken");
#undef SEARCH
}

/* ---- beside a writer ----------------------------------------------------------------------------------------------- */

/* A segment that grows: searches of the first documents under a bitmap of their own, while rows beyond them are written and
 * encoded. The first new one begins a panel; what shares one is left to docs/exactness.md, as it is a race by the letter. */
typedef struct growth {
    world *world;
    float *vectors, *norms;
    ragfast_codes codes;
    atomic_int wrong, done;
} growth;

enum { SEEN = 512, GROWN = 1500, GROWTH_DIM = 48 };

static void *search_meanwhile(void *argument) {
    growth *g = argument;
    for (int i = 0; !atomic_load(&g->done) || i < 20; i++)
        atomic_fetch_add(&g->wrong, wrong_entries(g->world, 1 + i % 3) != 0);
    return NULL;
}

static void check_growth(int l2) {
    enum { N_SEARCHERS = 3, B = 6, K = 8 };
    WHERE("searches beside a writer%s", l2 ? ", distance" : "");
    growth g = {.vectors = must(calloc(GROWN * GROWTH_DIM, sizeof(float))),
                .norms = must(calloc(GROWN, sizeof(float)))};
    size_t size[3], bad_row;
    for (size_t i = 0; i < SEEN * GROWTH_DIM; i++) put(g.vectors, i, 0, RAGFAST_F32);
    ragfast_codes_size(&size[0], &size[1], &size[2], GROWN, GROWTH_DIM);
    g.codes = (ragfast_codes){.high = must(calloc(1, size[0])),
                              .low = must(calloc(1, size[1])),
                              .bounds = must(calloc(1, size[2])),
                              .always = 1};
    double *half_squares = must(calloc(GROWN, sizeof *half_squares));
    ragfast_measure_rows(NULL, half_squares, NULL, NULL, g.vectors, SEEN, GROWTH_DIM, RAGFAST_F32, THREADS(1));
    ragfast_measure_rows(g.norms, NULL, NULL, &bad_row, g.vectors, SEEN, GROWTH_DIM, RAGFAST_F32, THREADS(1));
    ragfast_encode(&g.codes, g.vectors, l2 ? half_squares : NULL, RAGFAST_F32, 0, SEEN, GROWTH_DIM, THREADS(1));
    world *w = g.world = must(calloc(1, sizeof *w));
    *w = (world){
        .dtype = RAGFAST_F32, .l2 = l2, .n_queries = B, .dim = GROWTH_DIM, .n_segments = 1, .n_docs = SEEN, .k = K};
    w->segments[0] = (ragfast_docs){.vectors = g.vectors,
                                    .norms = g.norms,
                                    .codes = &g.codes,
                                    .half_squares = l2 ? half_squares : NULL,
                                    .allowed = make_bitmap(SEEN, 0.8, 0),
                                    .n_docs = SEEN,
                                    .dim = GROWTH_DIM,
                                    .dtype = RAGFAST_F32};
    w->queries = input(B * GROWTH_DIM * sizeof(float));
    for (size_t i = 0; i < B * GROWTH_DIM; i++) put(w->queries, i, 0, RAGFAST_F32);
    w->scores = must(malloc(B * K * sizeof *w->scores));
    w->ids = must(malloc(B * K * sizeof *w->ids));
    rank(w);
    pthread_t threads[N_SEARCHERS];
    for (int i = 0; i < N_SEARCHERS; i++)
        if (pthread_create(&threads[i], NULL, search_meanwhile, &g)) must(NULL);
    for (size_t n = SEEN; n < GROWN;) {
        size_t end = ragfast_min(n + 1 + random_below(40), GROWN);
        for (size_t i = n * GROWTH_DIM; i < end * GROWTH_DIM; i++) put(g.vectors, i, 0, RAGFAST_F32);
        const float *rows = g.vectors + n * GROWTH_DIM;
        ragfast_measure_rows(g.norms + n, NULL, NULL, &bad_row, rows, end - n, GROWTH_DIM, RAGFAST_F32, THREADS(1));
        ragfast_measure_rows(NULL, half_squares + n, NULL, NULL, rows, end - n, GROWTH_DIM, RAGFAST_F32, THREADS(1));
        ragfast_encode(&g.codes, g.vectors, l2 ? half_squares : NULL, RAGFAST_F32, n, end, GROWTH_DIM, THREADS(2));
        n = end;
    }
    atomic_store(&g.done, 1);
    for (int i = 0; i < N_SEARCHERS; i++) pthread_join(threads[i], NULL);
    check(atomic_load(&g.wrong) == 0, "%d searches were wrong", atomic_load(&g.wrong));
    input_free((void *)w->segments[0].allowed, SEEN / 8);
    input_free(w->queries, B * GROWTH_DIM * sizeof(float));
    free(w->scores);
    free(w->ids);
    free(w);
    free(half_squares);
    free(g.codes.high);
    free(g.codes.low);
    free(g.codes.bounds);
    free(g.vectors);
    free(g.norms);
}

void check_segments(int threads_only) {
    check_worlds(threads_only ? 16 : 160, 600, !threads_only);
    check_worlds(threads_only ? 8 : 32, 5000, !threads_only);
    check_growth(0);
    check_growth(1);
    if (threads_only) return;
    check_one_group_on_top();
    check_damage();
    check_refusals();
    printf("segments checked\n");
}
