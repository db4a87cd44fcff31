/* The kernels of an instruction-set level: their table and their contracts. */
#ifndef RAGFAST_KERNELS_H
#define RAGFAST_KERNELS_H

#include "core/assumptions.h"
#include "ragfast/status.h"
#include "search/i8_layout.h"

#include <stddef.h>
#include <stdint.h>

/* A tile is some queries against one panel of up to PANEL_DOCS documents: up to ROWS_QUERIES where they are read as they
 * lie, up to TILE_QUERIES where they are packed. */
enum { RAGFAST_SCORED_ROWS = 8 };
enum { RAGFAST_ROWS_QUERIES = 24, RAGFAST_MAX_CODE_QUERIES = 32 };

/* The kernels of one instruction-set level. kernels/<op>_<isa>.c fill it; everything else calls through it.
 *
 * Float32 tiles set bit j < n_docs of hits[i] where the score q_i . d_j is >= thresholds[i] or is NaN, and then hold it
 * in scores[i * PANEL_DOCS + j]: the driver looks at nothing else. A row of scores without a hit, and a column beyond
 * n_docs, is undefined (but writable, up to n_queries rows of PANEL_DOCS). 1 <= n_queries <= ROWS_QUERIES or
 * TILE_QUERIES, and 1 <= n_docs <= PANEL_DOCS. Any order of summation with at most D + 8 roundings between a product and its score.
 *
 * Kernels calculate the addresses of memory to come as numbers (uintptr_t): C does not define a pointer far beyond its array, and
 * a prefetch from there is harmless. */
typedef struct ragfast_kernels {
    const char *name;

    /* The canonical inner product, (C) in docs/exactness.md. 16 float64 lanes: lane l adds the products of elements l, l+16, ... in
     * ascending order, products and sums each rounded once (a product of two float32 is exact, so fusing changes nothing there;
     * float64 products are never fused). Lanes are then added 16 -> 8 -> 4 -> 2 -> 1, the upper half onto the lower. */
    double (*inner_f64_f32)(const float *a, const float *b, size_t dim);
    double (*inner_f64_f64)(const double *a, const double *b, size_t dim);
    /* Scores of a query, float32 or float64 like float64 rows, with n <= SCORED_ROWS rows that lie anywhere: out[j] is the canonical
     * inner product, 16-bit elements being widened exactly; or where l2, (D) there, 0 - |query - row|^2: lane l adds squares,
     * difference, square and sum rounded once each and never fused. 0 - 0 is +0 of a row that is the query. Meanwhile n_ahead <=
     * SCORED_ROWS other rows, as long as these, may be fetched. */
    void (*score_rows)(double *out, const void *query, const void *const *rows, size_t n, const void *const *ahead,
                       size_t n_ahead, size_t dim, ragfast_dtype dtype, int l2);
    void (*widen_f16)(float *out, const uint16_t *x, size_t n); /* exact; NaN stays NaN */
    void (*widen_bf16)(float *out, const uint16_t *x, size_t n);

    /* Few queries: documents as they lie, limited by bytes. queries (n_queries, padded D), 64-byte aligned, zero beyond D:
     * a query is loaded for every four documents, so its loads must not straddle lines. docs (n_docs,D). */
    void (*tile_rows_f32)(float *scores, uint32_t *hits, const float *queries, size_t n_queries, const float *docs,
                          size_t n_docs, size_t dim, const float *thresholds);

    /* Many queries: both sides interleaved once and reused, limited by arithmetic.
     * packed_queries (D,TILE_QUERIES), packed_docs (D,PANEL_DOCS), absent queries and documents zero. Meanwhile fetches
     * n_ahead <= D lines of 64 bytes at `ahead`, which need not be readable. */
    void (*pack_docs_f32)(float *packed_docs, const float *docs, size_t n_docs, size_t dim);
    void (*tile_packed_f32)(float *scores, uint32_t *hits, const float *packed_queries, size_t n_queries,
                            const float *packed_docs, size_t n_docs, size_t dim, const float *thresholds,
                            const char *ahead, size_t n_ahead);

    /* ---- codes: search/i8_layout.h has the layout ---- */

    /* y = (x - center) weight, each operation rounded once; center and weight may be NULL, y may be x. Returns max |y|, NaN
     * if there is one. */
    float (*center_f32)(float *y, const float *x, const float *center, const float *weight, size_t dim);

    /* With Y = y * scale rounded to float32, |Y| < 127.5: codes[e] = 128 + c, c = Y rounded to the nearest integer, ties to
     * even. sums[0] = sum (Y - c)^2, sums[1] = sum (Y - c')^2, sums[2] = sum c^2, sums[3] = sum c'^2 in any order, where
     * c' = (codes[e] & 0xfc) - 126.5 is what the high plane alone says. */
    void (*encode_f32)(uint8_t *codes, float sums[4], const float *y, size_t dim, float scale);

    /* Integer tiles. Both set bit j of hits[i] where dot(q_i, panel's document j) is not below
     *     thresholds[i].offset + score * scale_j - norm * residual_j - residual * norm_j - tail * tail_j
     * (in float32, terms in any order) or where that is NaN, and then hold the dot in dots[i * PANEL + j]; bits of documents that the
     * panel lacks are undefined, and a row of dots without a hit is (but writable). Dots are over the first n_groups x 16 elements.
     *
     * Few queries, limited by bytes: straight from the high plane, dot = sum of q (u & 0xfc). packed_queries is a tile as
     * ragfast_interleave_codes has it, from any query of it on, 1 <= n_queries <= what is left of TILE_QUERIES. Goes through panels, `stride` bytes apart, until one has
     * a hit, and returns its number; n_panels if none. May prefetch beyond. */
    size_t (*tile_high)(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                        const uint8_t *high, size_t stride, const ragfast_code_bounds *bounds, size_t n_panels,
                        size_t n_groups, const ragfast_code_threshold *thresholds);

    /* Many queries, limited by arithmetic: the panel is unpacked once, to n_groups x 512 bytes in an order of the level's
     * own (code_groups rounded up: room for that is there, zero when first used), and so are the queries, in tiles of
     * code_queries. dot = sum of q (u & code_mask), and residual_j is that of this mask. Meanwhile fetches n_ahead lines. */
    size_t code_queries;       /* <= MAX_CODE_QUERIES */
    size_t unpack_min_queries; /* as many queries as repay unpacking */
    size_t
        code_groups; /* n_groups is rounded up to a multiple of it, queries being zero there; a prefix is a multiple */
    uint8_t code_mask; /* 0xff or 0xfc */
    void (*unpack_codes)(uint8_t *codes, const uint8_t *high, const uint8_t *low, size_t n_groups);
    void (*pack_query_codes)(int8_t *packed_queries, const int8_t *queries, size_t n_queries, size_t n_groups);
    void (*tile_codes)(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                       const uint8_t *codes, const ragfast_code_bounds *bounds, size_t n_groups,
                       const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead);
    /* Bracket any calls of tile_codes on a thread: tile registers are to be configured and given back. */
    void (*begin_codes)(void);
    void (*end_codes)(void);

    /* Log-sum-exp of rows. A maximum passes over NaN and is -inf where nothing else is; a sum with a NaN is NaN. Sums
     * take a finite `top`. */
    float (*max_f32)(const float *x, size_t n);
    double (*max_f64)(const double *x, size_t n);
    /* Sum over all elements but one of those equal to top, in float64: others + (*n_tops - 1), to be accurate where log1p
     * of it is nearly 0. Returns others, the sum of exp(x - top) over x != top, and adds to *n_tops how many are equal.
     * top is finite and not less than any x. Relative error: float32 4e-9, and terms below exp(-700) may count as that; float64
     * 2^-52 (8 + top - x) of a term and n 2^-52 of the sum. */
    double (*sum_exp_rest_f32)(const float *x, size_t n, float top, size_t *n_tops);
    double (*sum_exp_rest_f64)(const double *x, size_t n, double top, size_t *n_tops);
    /* out = (x - top) - log_sum in float64; out may be x, and top may be anything here. */
    void (*subtract_f32)(float *out, const float *x, size_t n, float top, double log_sum);
    void (*subtract_f64)(double *out, const double *x, size_t n, double top, double log_sum);
    /* For each t < n and v[k] = doc_logprobs[k] + token_logprobs[k * stride + t], float64 inside: out[t] = LSE_k v[k]
     * and, unless posterior is NULL, posterior[k * stride + t] = exp(v[k] - out[t]), or 0 where all v[k] are -inf. out has the
     * error that marginal.h states: 2 units in the last place of float32, 4 of float64. A posterior has a relative one of
     * 4e-16 (4 + |v[k]| + |out[t]|), and 2^-22 in float32. */
    void (*mix_f32)(float *out, float *posterior, const float *doc_logprobs, const float *token_logprobs, size_t n_docs,
                    size_t n, size_t stride);
    void (*mix_f64)(double *out, double *posterior, const double *doc_logprobs, const double *token_logprobs,
                    size_t n_docs, size_t n, size_t stride);
    /* x <= 0 or NaN; out may be x. Relative error 2^-51, or 2^-1074. */
    void (*exp_f64)(double *out, const double *x, size_t n);

    /* ---- logits, by ragfast_dtype -------------------------------------------------------------------------------- */

    /* With b = 2^LSE_LOG2E_F32, which is nearly e: the sum of b^x 2^-exponent, relative error below 4e-7, of which up to
     * 6e-8 grows with adding up in float32, sixteen at most. Elements below LSE_LOWEST_F32(exponent) may count as that. An
     * x above LSE_HIGHEST_F32(exponent) makes the sum NaN if that limit is above 0; where it is not, or rather, where it
     * could not be seen, the caller knows that no x is. -10^5 < exponent < 10^5. Adds the sum of x, with an error below
     * 2e-7 of the sum of |x|, to *sum_x unless NULL. */
    double (*sum_exp[4])(const void *x, size_t n, int exponent, double *sum_x); /* not float64 */
    /* out = scale softmax(x) - shift, exp(x - lse) with a relative error of 4e-7 + 3e-8 |x - lse| (float64: 1e-15 (1 +
     * |x - lse|)), but 0 where that is below 2^-114 (float64: 2^-1074) and maybe up to 2^-112, so exactly -shift for -inf. Rounded
     * from float32, or float64 for that. x <= lse + 1 or NaN, whatever lse is; out may be x. stream: not to be read again
     * soon, so that it is written past the caches where out can be brought to whole lines. */
    void (*softmax_grad[4])(void *out, const void *x, size_t n, double lse, double scale, double shift, int stream);
    /* out[v] = LSE_k(offsets[k] + logits[k * stride + v]) in float32 within 4 units in the last place; logits are float32,
     * float16 or bfloat16, apart from out. offsets may be -inf: then the row is not read. Made for log-probabilities: results within max(2, ln K) of
     * 0, and what is not finite, cost several times as much. */
    void (*mix_logits[4])(float *out, const void *logits, const double *offsets, size_t n_docs, size_t n,
                          size_t stride);
    /* acc[i] += weight * x[i], fused or not. */
    void (*add_scaled_f32)(double *acc, double weight, const float *x, size_t n);
    void (*add_scaled_f64)(double *acc, double weight, const double *x, size_t n);
} ragfast_kernels;

/* One a file of kernels/: writes this level's entries over those of the level below. */
void ragfast_score_fill_scalar(ragfast_kernels *table);
void ragfast_score_fill_avx2(ragfast_kernels *table);
void ragfast_score_fill_avx512(ragfast_kernels *table);
void ragfast_dot_fill_scalar(ragfast_kernels *table);
void ragfast_dot_fill_avx2(ragfast_kernels *table);
void ragfast_dot_fill_avx512(ragfast_kernels *table);
void ragfast_code_fill_scalar(ragfast_kernels *table);
void ragfast_code_fill_avx2(ragfast_kernels *table);
void ragfast_code_fill_avx512vnni(ragfast_kernels *table);
void ragfast_code_fill_amx(ragfast_kernels *table);
void ragfast_logits_fill_scalar(ragfast_kernels *table);
void ragfast_logits_fill_avx2(ragfast_kernels *table);
void ragfast_logits_fill_avx512(ragfast_kernels *table);
void ragfast_lse_fill_scalar(ragfast_kernels *table);
void ragfast_lse_fill_avx2(ragfast_kernels *table);
void ragfast_lse_fill_avx512(ragfast_kernels *table);

/* D rounded up to a whole line of float32. */
static inline size_t ragfast_padded(size_t dim) { return (dim + 15) / 16 * 16; }

static inline size_t ragfast_min(size_t a, size_t b) { return a < b ? a : b; }

#endif
