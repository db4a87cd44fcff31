/* Checks what every function but ragfast_search refuses (checkrefusals.c has that), and what it takes: a row of a table for each
 * function, with the range of each argument. After a refusal no output may have changed. */
#include "tests/checkkernels.h"

#include "core/ranges.h"

#include <limits.h>

enum { N_SIZES = 4, N_FLAGS = 4, N_REALS = 2, N_OUTPUTS = 5, OUTPUT_BYTES = 2048, INPUT_BYTES = 2048 };
enum { F32 = 1 << RAGFAST_F32, F64 = 1 << RAGFAST_F64, SMALL = 1 << RAGFAST_F16 | 1 << RAGFAST_BF16 };
typedef enum real_range { NONE, POSITIVE, SMOOTHING, ROTATION_ERROR } real_range;

typedef struct arguments {
    size_t size[N_SIZES];
    ragfast_dtype dtype;
    double real[N_REALS];
    int flag[N_FLAGS];
    int n_threads;
    int64_t index; /* what each number in targets, keys or rows is */
} arguments;

static _Alignas(64) unsigned char zeros[INPUT_BYTES]; /* valid numbers of any type */
static int64_t indices[16];
static void *out[N_OUTPUTS];

#define OPTIONS THREADS(a->n_threads)
#define SIZE(i) (a->size[i])

static ragfast_status logsumexp(const arguments *a) {
    return ragfast_logsumexp(out[0], zeros, SIZE(0), SIZE(1), a->dtype, OPTIONS);
}
static ragfast_status log_softmax(const arguments *a) {
    return ragfast_log_softmax(out[0], zeros, SIZE(0), SIZE(1), a->dtype, OPTIONS);
}
static ragfast_status marginalize_sequence(const arguments *a) {
    return ragfast_marginalize_sequence(out[0], out[1], zeros, zeros, SIZE(0), SIZE(1), SIZE(2), a->dtype, OPTIONS);
}
static ragfast_status marginalize_token(const arguments *a) {
    return ragfast_marginalize_token(out[0], out[1], zeros, zeros, SIZE(0), SIZE(1), SIZE(2), a->dtype, OPTIONS);
}
static ragfast_status target_logprobs(const arguments *a) {
    return ragfast_target_logprobs(out[0], out[1], out[2], zeros, indices, SIZE(0), SIZE(1), a->dtype, OPTIONS);
}
static ragfast_status target_grad(const arguments *a) {
    const double *numbers = (const double *)(const void *)zeros;
    return ragfast_target_grad(out[0], zeros, indices, numbers, numbers, NULL, SIZE(0), SIZE(1), a->dtype, OPTIONS);
}
static ragfast_status rag_nll(const arguments *a) {
    const ragfast_answers answers = {.logits = zeros,
                                     .doc_scores = (const double *)(const void *)zeros,
                                     .targets = indices,
                                     .n_queries = SIZE(0),
                                     .n_docs = SIZE(1),
                                     .n_tokens = SIZE(2),
                                     .vocab = SIZE(3),
                                     .dtype = a->dtype};
    const ragfast_loss loss = {.by_token = a->flag[0],
                               .temperature = a->real[0],
                               .label_smoothing = a->real[1],
                               .as_hf = a->flag[1],
                               .skip_first = a->flag[2]};
    const ragfast_nll_out results = {.nll = out[0],
                                     .posterior = out[1],
                                     .doc_scores_grad = out[2],
                                     .logits_grad = out[3],
                                     .lse = out[4],
                                     .lse_known = a->flag[3]};
    return ragfast_rag_nll(&results, &answers, &loss, OPTIONS);
}
static ragfast_status marginalize_step(const arguments *a) {
    return ragfast_marginalize_step(out[0], out[1], out[2], zeros, (const double *)(const void *)zeros, SIZE(0),
                                    SIZE(1), SIZE(2), a->dtype, SIZE(3), OPTIONS);
}
static ragfast_status kl(const arguments *a) {
    const double *numbers = (const double *)(const void *)zeros;
    return ragfast_kl(out[0], out[1], out[2], numbers, numbers, SIZE(0), SIZE(1), a->real[0], a->real[1], OPTIONS);
}
static ragfast_status segment_logsumexp(const arguments *a) {
    return ragfast_segment_logsumexp(out[0], (const double *)(const void *)zeros, indices, SIZE(0), SIZE(1), SIZE(2),
                                     OPTIONS);
}
static ragfast_status measure_rows(const arguments *a) {
    return ragfast_measure_rows(out[0], out[1], out[2], out[3], zeros, SIZE(0), SIZE(1), a->dtype, OPTIONS);
}
static ragfast_status half_squares(const arguments *a) {
    return ragfast_measure_rows(NULL, out[1], NULL, NULL, zeros, SIZE(0), SIZE(1), a->dtype, OPTIONS);
}
static ragfast_status encode(const arguments *a) {
    const ragfast_codes codes = {.high = out[0],
                                 .low = out[1],
                                 .bounds = out[2],
                                 .rotation_error = a->real[0],
                                 .prefix = SIZE(3),
                                 .always = a->flag[0]};
    return ragfast_encode(&codes, zeros, NULL, a->dtype, SIZE(0), SIZE(1), SIZE(2), OPTIONS);
}
static ragfast_status row_sums(const arguments *a) {
    return ragfast_row_sums(out[0], zeros, SIZE(0), SIZE(1), OPTIONS);
}
static ragfast_docs docs_of(const arguments *a) {
    return (ragfast_docs){.vectors = zeros, .n_docs = SIZE(2), .dim = SIZE(3), .dtype = a->dtype};
}
static ragfast_status gather_scores(const arguments *a) {
    const ragfast_docs docs = docs_of(a);
    return ragfast_gather_scores(out[0], zeros, indices, SIZE(0), SIZE(1), &docs, OPTIONS);
}
static ragfast_status gather_scores_grad(const arguments *a) {
    const ragfast_docs docs = docs_of(a);
    return ragfast_gather_scores_grad(out[0], (const double *)(const void *)zeros, indices, SIZE(0), SIZE(1), &docs,
                                      OPTIONS);
}
static ragfast_status merge_topk(const arguments *a) {
    return ragfast_merge_topk(out[0], out[1], (const double *)(const void *)zeros, (const int64_t *)(const void *)zeros,
                              SIZE(0), SIZE(1), SIZE(2), SIZE(3));
}

/* ---- the table ----------------------------------------------------------------------------------------------------- */

#define MOST RAGFAST_MAX_ELEMENTS
#define MERGED (SIZE_MAX / 256)

/* A size may be from `least` to `most`, beside the good ones of the others. wraps: pairs of sizes of which 2^32 each are refused,
 * though their product is 0 in 64 bits. */
static const struct function {
    const char *name;
    ragfast_status (*call)(const arguments *);
    arguments good;
    struct {
        const char *name;
        size_t least, most;
    } sizes[N_SIZES];
    const char *wraps;
    int dtypes; /* bits; 0: there is no dtype */
    struct {
        const char *name;
        real_range range;
    } reals[N_REALS];
    const char *flags[N_FLAGS];
    size_t index_limit; /* 0: there are no indices */
    int without_threads;
} functions[] = {
#define GOOD(...) .good = {.size = {__VA_ARGS__}, .real = {1}, .n_threads = 1}
    {.name = "logsumexp",
     .call = logsumexp,
     GOOD(2, 3),
     .sizes = {{"n_rows", 0, MOST / 3}, {"n_cols", 0, MOST / 2}},
     .wraps = "01",
     .dtypes = F32 | F64},
    {.name = "log_softmax",
     .call = log_softmax,
     GOOD(2, 3),
     .sizes = {{"n_rows", 0, MOST / 3}, {"n_cols", 0, MOST / 2}},
     .wraps = "01",
     .dtypes = F32 | F64},
    {.name = "marginalize_sequence",
     .call = marginalize_sequence,
     GOOD(2, 3, 4),
     .sizes = {{"n_queries", 0, MOST / 12}, {"n_docs", 1, MOST / 8}, {"n_tokens", 0, MOST / 6}},
     .wraps = "010212",
     .dtypes = F32 | F64},
    {.name = "marginalize_token",
     .call = marginalize_token,
     GOOD(2, 3, 4),
     .sizes = {{"n_queries", 0, MOST / 12}, {"n_docs", 1, MOST / 8}, {"n_tokens", 0, MOST / 6}},
     .wraps = "010212",
     .dtypes = F32 | F64},
    {.name = "target_logprobs",
     .call = target_logprobs,
     GOOD(2, 3),
     .sizes = {{"n_rows", 0, MOST / 3}, {"vocab", 1, MOST / 2}},
     .wraps = "01",
     .dtypes = F32 | F64 | SMALL,
     .index_limit = 3},
    {.name = "target_grad",
     .call = target_grad,
     GOOD(2, 3),
     .sizes = {{"n_rows", 0, MOST / 3}, {"vocab", 1, MOST / 2}},
     .wraps = "01",
     .dtypes = F32 | F64 | SMALL,
     .index_limit = 3},
    {.name = "rag_nll",
     .call = rag_nll,
     GOOD(2, 2, 3, 4),
     .sizes =
         {{"n_queries", 0, MOST / 24}, {"n_docs", 1, MOST / 24}, {"n_tokens", 0, MOST / 16}, {"vocab", 1, MOST / 12}},
     .wraps = "010203121323",
     .dtypes = F32 | F64 | SMALL,
     .reals = {{"temperature", POSITIVE}, {"label_smoothing", SMOOTHING}},
     .flags = {"by_token", "as_hf", "skip_first", "lse_known"},
     .index_limit = 4},
    {.name = "marginalize_step",
     .call = marginalize_step,
     GOOD(2, 2, 4, 2),
     .sizes = {{"n", 0, MOST / 8}, {"n_docs", 1, MOST / 8}, {"vocab", 2, MOST / 4}, {"n_best", 0, 4}},
     .wraps = "010212",
     .dtypes = F32 | F64 | SMALL},
    {.name = "kl",
     .call = kl,
     .good = {.size = {2, 3}, .real = {1, 1}, .n_threads = 1},
     .sizes = {{"n_rows", 0, MOST / 3}, {"n", 0, MOST / 2}},
     .wraps = "01",
     .reals = {{"p_temperature", POSITIVE}, {"q_temperature", POSITIVE}}},
    {.name = "segment_logsumexp",
     .call = segment_logsumexp,
     GOOD(2, 3, 4),
     .sizes = {{"n_rows", 0, MOST / 4}, {"n", 0, MOST / 2}, {"n_keys", 1, MOST / 2}},
     .wraps = "0102",
     .index_limit = 4},
    {.name = "measure_rows",
     .call = measure_rows,
     GOOD(2, 3),
     .sizes = {{"n_rows", 0, MOST / 3}, {"dim", 1, 1 << 20}},
     .wraps = "01",
     .dtypes = F32 | SMALL},
    {.name = "measure_rows, no norms",
     .call = half_squares,
     GOOD(2, 3),
     .sizes = {{"n_rows", 0, MOST / 3}, {"dim", 1, 1 << 20}},
     .wraps = "01",
     .dtypes = F32 | F64 | SMALL},
    {.name = "encode",
     .call = encode,
     .good = {.size = {1, 2, 32, 16}, .n_threads = 1},
     .sizes = {{"first", 0, 2}, {"n_docs", 1, ((size_t)1 << 31) - 1}, {"dim", 17, 1 << 15}, {"prefix", 0, 16}},
     .wraps = "0112",
     .dtypes = F32 | SMALL,
     .reals = {{"rotation_error", ROTATION_ERROR}},
     .flags = {"always"}},
    {.name = "row_sums",
     .call = row_sums,
     GOOD(2, 3),
     .sizes = {{"n_rows", 0, SIZE_MAX / 6}, {"row_bytes", 0, SIZE_MAX / 4}},
     .wraps = "01"},
    {.name = "gather_scores",
     .call = gather_scores,
     GOOD(2, 3, 5, 6),
     .sizes =
         {{"n_queries", 0, MOST / 6}, {"k", 0, MOST / 2}, {"n_docs", 1, ((size_t)1 << 31) - 1}, {"dim", 1, 1 << 20}},
     .wraps = "01",
     .dtypes = F32 | F64 | SMALL,
     .index_limit = 5},
    {.name = "gather_scores_grad",
     .call = gather_scores_grad,
     GOOD(2, 3, 5, 6),
     .sizes =
         {{"n_queries", 0, MOST / 6}, {"k", 0, MOST / 2}, {"n_docs", 1, ((size_t)1 << 31) - 1}, {"dim", 1, 1 << 20}},
     .wraps = "01",
     .dtypes = F32 | F64 | SMALL,
     .index_limit = 5},
    {.name = "merge_topk",
     .call = merge_topk,
     GOOD(2, 2, 3, 2),
     .sizes = {{"n_lists", 0, MERGED / 6}, {"n_queries", 0, MERGED / 6}, {"n_in", 0, MERGED / 4}, {"k", 0, MERGED / 2}},
     .wraps = "01021213",
     .without_threads = 1},
#undef GOOD
};
#undef MOST
#undef MERGED

/* ---- its cases ----------------------------------------------------------------------------------------------------- */

static void expect(const struct function *f, const arguments *a, ragfast_status expected, const char *argument,
                   double value) {
    for (size_t i = 0; i < N_OUTPUTS; i++) memset(out[i], 0xa5, OUTPUT_BYTES);
    for (size_t i = 0; i < sizeof indices / sizeof indices[0]; i++) indices[i] = a->index;
    const ragfast_status status = f->call(a);
    check(status == expected, "ragfast_%s, %s %g: status %d, not %d", f->name, argument, value, (int)status,
          (int)expected);
    size_t changed = 0;
    for (size_t i = 0; i < N_OUTPUTS && expected != RAGFAST_OK; i++)
        for (size_t byte = 0; byte < OUTPUT_BYTES; byte++) changed += ((unsigned char *)out[i])[byte] != 0xa5;
    check(changed == 0, "ragfast_%s, %s %g: refused, and %zu bytes of output written", f->name, argument, value,
          changed);
}

static void check_sizes(const struct function *f) {
    for (size_t i = 0; i < N_SIZES && f->sizes[i].name; i++) {
        const size_t least = f->sizes[i].least, most = f->sizes[i].most;
        const size_t tried[] = {0, least - (least > 0), least, most + 1, SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2 + 1};
        for (size_t x = 0; x < sizeof tried / sizeof tried[0]; x++) {
            arguments a = f->good;
            a.size[i] = tried[x];
            expect(f, &a, tried[x] >= least && tried[x] <= most ? RAGFAST_OK : RAGFAST_ERROR_ARGUMENT, f->sizes[i].name,
                   (double)tried[x]);
        }
    }
    for (const char *pair = f->wraps; *pair; pair += 2) {
        arguments a = f->good;
        a.size[pair[0] - '0'] = a.size[pair[1] - '0'] = (size_t)1 << 32;
        expect(f, &a, RAGFAST_ERROR_ARGUMENT, "2^32 of two sizes, of which this is the first:", pair[0] - '0');
    }
}

static void check_enums_and_flags(const struct function *f) {
    static const int tried[] = {INT_MIN, -1, 0, 1, 2, 3, 4, 5, 256, INT_MAX};
    for (size_t x = 0; x < sizeof tried / sizeof tried[0]; x++) {
        const int value = tried[x];
        if (f->dtypes) {
            arguments a = f->good;
            a.dtype = (ragfast_dtype)value;
            expect(f, &a, value >= 0 && value < 4 && f->dtypes >> value & 1 ? RAGFAST_OK : RAGFAST_ERROR_ARGUMENT,
                   "dtype", value);
        }
        for (size_t i = 0; i < N_FLAGS && f->flags[i]; i++) {
            arguments a = f->good;
            a.flag[i] = value;
            expect(f, &a, value == 0 || value == 1 ? RAGFAST_OK : RAGFAST_ERROR_ARGUMENT, f->flags[i], value);
        }
        arguments a = f->good;
        a.n_threads = value;
        if (!f->without_threads) expect(f, &a, value >= 0 ? RAGFAST_OK : RAGFAST_ERROR_ARGUMENT, "n_threads", value);
    }
}

static int is_in(real_range range, double x) {
    if (range == POSITIVE) return x > 0 && x < INFINITY;
    return range == SMOOTHING ? x >= 0 && x < 1 : x >= 0 && x < 0.01;
}

static void check_reals(const struct function *f) {
    static const double tried[] = {-INFINITY, -1, -1e-300, -0.0, 0, 1e-300, 0.005, 0.01, 0.5, 1, 1.5, INFINITY, NAN};
    for (size_t i = 0; i < N_REALS && f->reals[i].name; i++)
        for (size_t x = 0; x < sizeof tried / sizeof tried[0]; x++) {
            arguments a = f->good;
            a.real[i] = tried[x];
            expect(f, &a, is_in(f->reals[i].range, tried[x]) ? RAGFAST_OK : RAGFAST_ERROR_ARGUMENT, f->reals[i].name,
                   tried[x]);
        }
}

static void check_indices(const struct function *f) {
    const int64_t limit = (int64_t)f->index_limit;
    const int64_t tried[] = {INT64_MIN, -1, 0, limit - 1, limit, (int64_t)1 << 32, INT64_MAX};
    for (size_t x = 0; x < sizeof tried / sizeof tried[0] && limit > 0; x++) {
        arguments a = f->good;
        a.index = tried[x];
        expect(f, &a, tried[x] < limit ? RAGFAST_OK : RAGFAST_ERROR_ARGUMENT, "an index of", (double)tried[x]);
    }
}

/* Empty arrays may be NULL. UBSan sees what is calculated from one. */
static void check_empty_arrays(void) {
    WHERE("empty arrays");
    double one[4] = {0};
    int64_t id[4] = {-1, -1, -1, -1};
    const ragfast_answers no_tokens = {.doc_scores = one, .n_queries = 2, .n_docs = 2}, no_answers = {.n_docs = 2};
    const ragfast_loss sequence = {.temperature = 1}, token = {.temperature = 1, .by_token = 1};
    const ragfast_nll_out nll = {.nll = one + 2}, none = {0};
    const ragfast_docs docs = {.dim = 3};
    const ragfast_codes codes = {0};
    size_t bad_row;
#define TAKEN(call) check((call) == RAGFAST_OK, "refused: %s", #call)
    for (ragfast_dtype dtype = RAGFAST_F32; dtype <= RAGFAST_F64; dtype = (ragfast_dtype)(dtype + 1)) {
        TAKEN(ragfast_logsumexp(one, NULL, 2, 0, dtype, NULL));
        TAKEN(ragfast_logsumexp(NULL, NULL, 0, SIZE_MAX, dtype, NULL));
        TAKEN(ragfast_log_softmax(NULL, NULL, 2, 0, dtype, NULL));
        TAKEN(ragfast_marginalize_sequence(one, one + 2, one, NULL, 1, 2, 0, dtype, NULL));
        TAKEN(ragfast_marginalize_sequence(NULL, NULL, NULL, NULL, 0, 1, SIZE_MAX, dtype, NULL));
        TAKEN(ragfast_marginalize_token(NULL, NULL, one, NULL, 1, 2, 0, dtype, NULL));
    }
    TAKEN(ragfast_target_logprobs(one, NULL, NULL, NULL, id, 2, 0, RAGFAST_F32, NULL));
    TAKEN(ragfast_target_grad(NULL, NULL, id, one, one, NULL, 2, 0, RAGFAST_F32, NULL));
    TAKEN(ragfast_rag_nll(&nll, &no_tokens, &sequence, NULL));
    TAKEN(ragfast_rag_nll(&nll, &no_tokens, &token, NULL));
    TAKEN(ragfast_rag_nll(&none, &no_answers, &sequence, NULL));
    TAKEN(ragfast_marginalize_step(NULL, NULL, NULL, NULL, one, 2, 2, 0, RAGFAST_F32, 0, NULL));
    TAKEN(ragfast_marginalize_step(NULL, NULL, NULL, NULL, NULL, 0, 2, SIZE_MAX, RAGFAST_F32, 0, NULL));
    TAKEN(ragfast_kl(one, NULL, NULL, NULL, NULL, 4, 0, 1, 1, NULL));
    check(isnan(one[0]) && isnan(one[3]), "the divergence of rows without columns is %g", one[0]);
    TAKEN(ragfast_kl(NULL, NULL, NULL, NULL, NULL, 0, SIZE_MAX, 1, 1, NULL));
    TAKEN(ragfast_segment_logsumexp(one, NULL, NULL, 2, 0, 2, NULL));
    check(one[0] == -INFINITY && one[3] == -INFINITY, "the sum of keys without elements is %g", one[0]);
    TAKEN(ragfast_segment_logsumexp(NULL, one, id, 2, 2, 0, NULL));
    TAKEN(ragfast_segment_logsumexp(NULL, NULL, NULL, SIZE_MAX, 0, 0, NULL));
    TAKEN(ragfast_measure_rows(NULL, NULL, NULL, &bad_row, NULL, 0, 3, RAGFAST_F16, NULL));
    TAKEN(ragfast_encode(&codes, NULL, NULL, RAGFAST_F32, 0, 0, 3, NULL));
    TAKEN(ragfast_row_sums((uint32_t *)(void *)one, NULL, 2, 0, NULL));
    TAKEN(ragfast_row_sums(NULL, NULL, 0, SIZE_MAX, NULL));
    TAKEN(ragfast_gather_scores(NULL, NULL, NULL, 0, SIZE_MAX, &docs, NULL));
    TAKEN(ragfast_gather_scores(NULL, (const float *)(const void *)zeros, NULL, 2, 0, &docs, NULL));
    TAKEN(ragfast_gather_scores(one, (const float *)(const void *)zeros, id, 2, 2, &docs, NULL));
    TAKEN(ragfast_gather_scores_grad(one, NULL, NULL, 1, 0, &docs, NULL));
    TAKEN(ragfast_gather_scores_grad(one, one, id, 1, 2, &docs, NULL));
    TAKEN(ragfast_merge_topk(NULL, NULL, one, id, 2, 2, 1, 0));
    TAKEN(ragfast_merge_topk(one, id, NULL, NULL, 2, 2, 0, 2));
    TAKEN(ragfast_merge_topk(one, id, NULL, NULL, 0, 2, 2, 2));
    TAKEN(ragfast_search(NULL, NULL, NULL, NULL, NULL, NULL, 0, &docs, 1, NULL, 2, 0, 1, NULL));
    TAKEN(ragfast_search(one, id, one, NULL, NULL, zeros, 2, &docs, 1, NULL, 2, 0, 1, NULL));
#undef TAKEN
    ragfast_narrow(NULL, NULL, 0);
    ragfast_widen(NULL, NULL, 0);
    ragfast_checksum_state state;
    ragfast_checksum_begin(&state);
    ragfast_checksum_update(&state, NULL, 0);
    check(ragfast_checksum(NULL, 0) == ragfast_checksum_end(&state), "checksums of nothing differ");
}

/* Functions that have no status to return. */
static void check_without_status(void) {
    WHERE("functions without a status");
    static const size_t dims[] = {0, ((size_t)1 << 15) + 1, SIZE_MAX}, counts[] = {(size_t)1 << 31, SIZE_MAX};
    size_t size[3];
    for (size_t i = 0; i < 5; i++) {
        memset(size, 0xa5, sizeof size);
        ragfast_codes_size(size, size + 1, size + 2, i < 3 ? 7 : counts[i - 3], i < 3 ? dims[i] : 7);
        check(!size[0] && !size[1] && !size[2], "there is room for codes that cannot be (case %zu)", i);
    }
    ragfast_codes_size(size, size + 1, size + 2, ((size_t)1 << 31) - 1, 1 << 15);
    check(size[0] == ((size_t)3 << 44) && size[1] == (size_t)1 << 44, "the greatest codes have %zu bytes", size[0]);
    check(!ragfast_isa_name(ragfast_isa_count()) && !ragfast_isa_name(SIZE_MAX), "levels that are not have names");
    check(!ragfast_isa_available(ragfast_isa_count()) && !ragfast_isa_available(SIZE_MAX), "they are available");
    check(!ragfast_isa_wrong_kernel(ragfast_isa_count()) && !ragfast_isa_wrong_kernel(SIZE_MAX), "they are wrong");
    check(!strcmp(ragfast_strerror((ragfast_status)-1), ragfast_strerror((ragfast_status)INT_MAX)), "unknown statuses");
    const int before = ragfast_get_num_threads();
    ragfast_set_num_threads(INT_MIN);
    check(ragfast_get_num_threads() == 1, "INT_MIN threads should count as 1");
    ragfast_set_num_threads(before);
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", RAGFAST_VERSION_MAJOR, RAGFAST_VERSION_MINOR, RAGFAST_VERSION_PATCH);
    check(!strcmp(version, RAGFAST_VERSION) && !strcmp(version, ragfast_version()), "versions %s and %s", version,
          ragfast_version());
}

void check_contract(int threads_only) {
    if (threads_only) return;
    for (size_t i = 0; i < N_OUTPUTS; i++) out[i] = output(OUTPUT_BYTES);
    for (size_t x = 0; x < sizeof functions / sizeof functions[0]; x++) {
        const struct function *f = &functions[x];
        WHERE("contract of ragfast_%s", f->name);
        check_sizes(f);
        check_enums_and_flags(f);
        check_reals(f);
        check_indices(f);
    }
    for (size_t i = 0; i < N_OUTPUTS; i++) output_free(out[i], OUTPUT_BYTES);
    check_empty_arrays();
    check_without_status();
}
