/* A fixed set of calls, each once, to count their instructions: csrc/bench/counts.py runs it under callgrind. The same
 * data in every run, one thread, nothing that depends on the clock or on addresses.
 *
 *     counts --compiler     the architecture and the compiler's major version, which counts are comparable within
 *     counts LEVEL          makes the calls at that level; exit 3 if this CPU, or what valgrind offers, lacks it
 *
 * Every call is a function named count_<what>, and only what happens inside is counted: data is made before. */
#include "ragfast/ragfast.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#define ARCHITECTURE "x86_64"
#elif defined(__aarch64__)
#define ARCHITECTURE "aarch64"
#else
#define ARCHITECTURE "other"
#endif

#if defined(__clang__)
#define COMPILER "clang"
#define COMPILER_MAJOR __clang_major__
#elif defined(__GNUC__)
#define COMPILER "gcc"
#define COMPILER_MAJOR __GNUC__
#else
#define COMPILER "other"
#define COMPILER_MAJOR 0
#endif

/* Sizes: small, for callgrind is fifty times slower, but several blocks, tiles and tails of each kernel. */
enum { N = 1500, D = 100, MOST_B = 16, K = 10 };        /* retrieval */
enum { B = 2, DOCS = 5, T = 6, V = 2003 };              /* losses, decoding */
enum { ROWS = 40, COLUMNS = 301, KEYS = 50, BEST = 8 }; /* small rows */
enum { SHARDS = 4 };

static const ragfast_options alone = {.n_threads = 1};

static float vectors[N * D], queries[MOST_B * D], norms[N];
static ragfast_docs docs = {.vectors = vectors, .norms = norms, .n_docs = N, .dim = D, .dtype = RAGFAST_F32};
static ragfast_codes codes;
static ragfast_docs coded_docs;
static double scores[SHARDS * MOST_B * K], merged[MOST_B * K];
static int64_t ids[SHARDS * MOST_B * K], merged_ids[MOST_B * K], rows[MOST_B * K], targets[B * T],
    row_targets[B * DOCS * T];
static float logits[B * DOCS * T * V], logits_grad[B * DOCS * T * V], mixture[V], best[BEST];
static double doc_scores[B * DOCS], nll[B], posterior[B * DOCS * T], logprobs[B * DOCS * T];
static float doc_logprobs[B * DOCS], token_logprobs[B * DOCS * T], marginals[B * T], marginal_posterior[B * DOCS * T];
static int64_t best_ids[BEST], keys[ROWS * COLUMNS];
static float narrow_rows[ROWS * COLUMNS], narrow_out[ROWS * COLUMNS];
static double wide_rows[ROWS * COLUMNS], wide_grad[ROWS * COLUMNS], other_rows[ROWS * COLUMNS], kl[ROWS],
    segment_lse[ROWS * KEYS];

static int failures;

/* ok of a call: its status, and a value of its result that must be finite. */
static void expect(const char *call, ragfast_status status, double value) {
    if (status == RAGFAST_OK && isfinite(value)) return;
    fprintf(stderr, "%s: %s, result %g\n", call, ragfast_strerror(status), value);
    failures++;
}

static double uniform(void) { /* from -1 to below 1; splitmix64 */
    static uint64_t state = 1;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)(int64_t)(z ^ (z >> 31)) * 0x1p-63;
}

static void *aligned(size_t bytes) {
    void *block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!block) exit(2);
    memset(block, 0, bytes);
    return block;
}

static void make_data(void) {
    for (size_t i = 0; i < N * D; i++) vectors[i] = (float)uniform();
    for (size_t i = 0; i < MOST_B * D; i++) queries[i] = (float)uniform();
    for (size_t i = 0; i < MOST_B * K; i++) rows[i] = (int64_t)((uniform() + 1) / 2 * N);
    for (size_t i = 0; i < B * DOCS * T * V; i++) logits[i] = (float)(8 * uniform());
    for (size_t i = 0; i < B * DOCS; i++) doc_scores[i] = uniform(), doc_logprobs[i] = (float)uniform() - 2;
    for (size_t i = 0; i < B * DOCS * T; i++) token_logprobs[i] = (float)(4 * uniform() - 5);
    for (size_t i = 0; i < B * T; i++) targets[i] = (int64_t)((uniform() + 1) / 2 * V);
    for (size_t i = 0; i < B * DOCS * T; i++) row_targets[i] = targets[i / (DOCS * T) * T + i % T];
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        narrow_rows[i] = (float)(wide_rows[i] = 10 * uniform());
        other_rows[i] = 10 * uniform();
        keys[i] = (int64_t)((uniform() + 1) / 2 * KEYS);
    }
    size_t bad_row, high, low, bounds;
    ragfast_measure_rows(norms, NULL, NULL, &bad_row, vectors, N, D, RAGFAST_F32, &alone);
    ragfast_codes_size(&high, &low, &bounds, N, D);
    codes = (ragfast_codes){.high = aligned(high), .low = aligned(low), .bounds = aligned(bounds), .always = 1};
    coded_docs = docs;
    coded_docs.codes = &codes;
    ragfast_search(scores, ids, NULL, NULL, NULL, queries, MOST_B, &docs, 1, NULL, K, 0, 1.0, &alone);
    for (size_t shard = 1; shard < SHARDS; shard++)
        for (size_t i = 0; i < MOST_B * K; i++) {
            scores[shard * MOST_B * K + i] = scores[i] - 0.1 * (double)shard;
            ids[shard * MOST_B * K + i] = ids[i] + (int64_t)(shard % 2) * N; /* half of the shards repeat ids */
        }
}

/* Exported, that callgrind can tell them by their names, and never inlined. */
#define COUNT(name)                                                                                                    \
    __attribute__((noinline, visibility("default"))) void count_##name(void);                                          \
    void count_##name(void)

#define SEARCH(n, docs)                                                                                                \
    ragfast_search(merged, merged_ids, NULL, NULL, NULL, queries, n, docs, 1, NULL, K, 0, 1.0, &alone)

COUNT(search_float32_1) { expect(__func__, SEARCH(1, &docs), merged[0]); }
COUNT(search_float32_16) { expect(__func__, SEARCH(16, &docs), merged[15 * K]); }
COUNT(encode) { expect(__func__, ragfast_encode(&codes, vectors, NULL, RAGFAST_F32, 0, N, D, &alone), 0); }
COUNT(search_codes_1) { expect(__func__, SEARCH(1, &coded_docs), merged[0]); }
COUNT(search_codes_16) { expect(__func__, SEARCH(16, &coded_docs), merged[15 * K]); }
COUNT(gather_scores) {
    expect(__func__, ragfast_gather_scores(merged, queries, rows, MOST_B, K, &docs, &alone), merged[0]);
}
COUNT(merge_topk) {
    expect(__func__, ragfast_merge_topk(merged, merged_ids, scores, ids, SHARDS, MOST_B, K, K), merged[0]);
}
COUNT(logsumexp_float32) {
    expect(__func__, ragfast_logsumexp(narrow_out, narrow_rows, ROWS, COLUMNS, RAGFAST_F32, &alone),
           (double)narrow_out[0]);
}
COUNT(logsumexp_float64) {
    expect(__func__, ragfast_logsumexp(kl, wide_rows, ROWS, COLUMNS, RAGFAST_F64, &alone), kl[0]);
}
COUNT(log_softmax_float32) {
    expect(__func__, ragfast_log_softmax(narrow_out, narrow_rows, ROWS, COLUMNS, RAGFAST_F32, &alone),
           (double)narrow_out[0]);
}
COUNT(target_logprobs) {
    expect(__func__,
           ragfast_target_logprobs(logprobs, NULL, NULL, logits, row_targets, B * DOCS * T, V, RAGFAST_F32, &alone),
           logprobs[0]);
}

static ragfast_status loss(int by_token, int with_grad) {
    const ragfast_answers answers = {.logits = logits,
                                     .doc_scores = doc_scores,
                                     .targets = targets,
                                     .n_queries = B,
                                     .n_docs = DOCS,
                                     .n_tokens = T,
                                     .vocab = V,
                                     .dtype = RAGFAST_F32};
    const ragfast_loss how = {.by_token = by_token, .temperature = 1};
    const ragfast_nll_out out = {.nll = nll, .posterior = posterior, .logits_grad = with_grad ? logits_grad : NULL};
    return ragfast_rag_nll(&out, &answers, &how, &alone);
}
COUNT(rag_sequence_nll) { expect(__func__, loss(0, 0), nll[0]); }
COUNT(rag_sequence_nll_grad) { expect(__func__, loss(0, 1), (double)logits_grad[0]); }
COUNT(rag_token_nll) { expect(__func__, loss(1, 0), nll[0]); }

COUNT(marginalize_sequence) {
    expect(__func__,
           ragfast_marginalize_sequence(marginals, marginal_posterior, doc_logprobs, token_logprobs, B, DOCS, T,
                                        RAGFAST_F32, &alone),
           (double)marginals[0]);
}
COUNT(marginalize_token) {
    expect(__func__,
           ragfast_marginalize_token(marginals, marginal_posterior, doc_logprobs, token_logprobs, B, DOCS, T,
                                     RAGFAST_F32, &alone),
           (double)marginals[0]);
}
COUNT(marginalize_step) {
    static const double even[DOCS] = {-1.6094379124341003, -1.6094379124341003, -1.6094379124341003,
                                      -1.6094379124341003, -1.6094379124341003};
    expect(__func__,
           ragfast_marginalize_step(mixture, best, best_ids, logits, even, 1, DOCS, V, RAGFAST_F32, BEST, &alone),
           (double)best[0]);
}
COUNT(kl) {
    expect(__func__, ragfast_kl(kl, NULL, wide_grad, wide_rows, other_rows, ROWS, COLUMNS, 1.0, 1.0, &alone), kl[0]);
}
COUNT(segment_logsumexp) {
    expect(__func__, ragfast_segment_logsumexp(segment_lse, wide_rows, keys, ROWS, COLUMNS, KEYS, &alone),
           segment_lse[0]);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s --compiler | LEVEL\n", argv[0]);
        return 2;
    }
    if (strcmp(argv[1], "--compiler") == 0) {
        printf("%s %s %d\n", ARCHITECTURE, COMPILER, COMPILER_MAJOR);
        return 0;
    }
    ragfast_status status = ragfast_set_isa(argv[1]);
    if (status != RAGFAST_OK) {
        fprintf(stderr, "%s: %s\n", argv[1], ragfast_strerror(status));
        return status == RAGFAST_ERROR_UNAVAILABLE_ISA || status == RAGFAST_ERROR_UNKNOWN_ISA ? 3 : 2;
    }
    make_data();
    count_search_float32_1();
    count_search_float32_16();
    count_encode();
    count_search_codes_1();
    count_search_codes_16();
    count_gather_scores();
    count_merge_topk();
    count_logsumexp_float32();
    count_logsumexp_float64();
    count_log_softmax_float32();
    count_target_logprobs();
    count_rag_sequence_nll();
    count_rag_sequence_nll_grad();
    count_rag_token_nll();
    count_marginalize_sequence();
    count_marginalize_token();
    count_marginalize_step();
    count_kl();
    count_segment_logsumexp();
    return failures != 0;
}
