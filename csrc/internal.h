/* What the C files share and callers do not see: the kernel table, the thread pool, the arithmetic environment. */
#ifndef RAGFAST_INTERNAL_H
#define RAGFAST_INTERNAL_H

#include "ragfast.h"

/* A tile is some queries against one panel of up to PANEL_DOCS documents: up to ROWS_QUERIES where they are read as they
 * lie, up to TILE_QUERIES where they are packed. */
enum { RAGFAST_PANEL_DOCS = 32, RAGFAST_ROWS_QUERIES = 24, RAGFAST_TILE_QUERIES = 12 };

/* The kernels of one instruction-set level. kernels/<op>_<isa>.c fill it; everything else calls through it.
 *
 * Float32 tiles set bit j < n_docs of hits[i] where the score q_i . d_j is >= thresholds[i] or is NaN, and then hold it
 * in scores[i * PANEL_DOCS + j]: the driver looks at nothing else. A row of scores without a hit, and a column beyond
 * n_docs, is undefined (but writable, up to n_queries rows of PANEL_DOCS). 1 <= n_queries <= ROWS_QUERIES or
 * TILE_QUERIES, and 1 <= n_docs <= PANEL_DOCS. Any order of summation with at most D + 8 roundings between a product and its score. */
typedef struct ragfast_kernels {
    const char *name;

    /* The canonical score. 16 float64 lanes: lane l adds the products of elements l, l+16, ... in ascending order,
     * products and sums each rounded once (a product of two float32 is exact, so fusing changes nothing there; float64
     * products are never fused). Lanes are then added 16 -> 8 -> 4 -> 2 -> 1, the upper half onto the lower. */
    double (*inner_f64_f32)(const float *a, const float *b, size_t dim);
    double (*inner_f64_f64)(const double *a, const double *b, size_t dim);

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

    /* Log-sum-exp of rows. A maximum passes over NaN and is -inf where nothing else is; a sum with a NaN is NaN. Sums
     * take a finite `top`. */
    float (*max_f32)(const float *x, size_t n);
    double (*max_f64)(const double *x, size_t n);
    /* Sum of exp(x) 2^-exponent, relative error below 3e-7. top, not less than any x, is from -2^16 to 2^16 and
     * exponent within 1 of top / ln 2; elements below top - 86 may count as exp(top - 86). May prefetch from x[n] to
     * x[2n]. */
    double (*sum_exp_f32)(const float *x, size_t n, float top, int exponent);
    /* Sum of exp(x - top) over all elements but one of those equal to top, in float64 throughout: to be accurate where
     * log1p of it is nearly 0. */
    double (*sum_exp_rest_f32)(const float *x, size_t n, float top);
    double (*sum_exp_rest_f64)(const double *x, size_t n, double top);
    /* out = (x - top) - log_sum in float64; out may be x, and top may be anything here. */
    void (*subtract_f32)(float *out, const float *x, size_t n, float top, double log_sum);
    void (*subtract_f64)(double *out, const double *x, size_t n, double top, double log_sum);
    /* For each t < n and v[k] = doc_logprobs[k] + token_logprobs[k * stride + t], float64 inside: out[t] = LSE_k v[k]
     * and, unless posterior is NULL, posterior[k * stride + t] = exp(v[k] - out[t]), or 0 where all v[k] are -inf. */
    void (*mix_f32)(float *out, float *posterior, const float *doc_logprobs, const float *token_logprobs, size_t n_docs,
                    size_t n, size_t stride);
    void (*mix_f64)(double *out, double *posterior, const double *doc_logprobs, const double *token_logprobs,
                    size_t n_docs, size_t n, size_t stride);
} ragfast_kernels;

/* One per dot_<isa>.c and lse_<isa>.c: writes this level's entries over those of the level below. */
void ragfast_dot_fill_scalar(ragfast_kernels *table);
void ragfast_dot_fill_avx2(ragfast_kernels *table);
void ragfast_dot_fill_avx512(ragfast_kernels *table);
void ragfast_lse_fill_scalar(ragfast_kernels *table);
void ragfast_lse_fill_avx2(ragfast_kernels *table);
void ragfast_lse_fill_avx512(ragfast_kernels *table);

/* The table in use. Read once a call, so that a call never mixes levels. */
const ragfast_kernels *ragfast_current_kernels(void);

enum { RAGFAST_MAX_THREADS = 257 }; /* of one call, its caller counted */

/* Calls run(context, chunk, worker) for each chunk < n_chunks, on up to n_threads threads counting the caller; worker
 * is below n_threads and no two calls under way share one. Returns when all have returned. n_threads 0: the default. */
typedef void ragfast_chunk_fn(void *context, size_t chunk, size_t worker);
void ragfast_parallel_for(ragfast_chunk_fn *run, void *context, size_t n_chunks, int n_threads);

/* Default rounding, denormals kept, for as long as the pair brackets. Calls between the two, which the compiler cannot see
 * through, keep the arithmetic there. Workers of ragfast_parallel_for have that environment always. */
#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned ragfast_fp_state;
static inline ragfast_fp_state ragfast_fp_enter(void) {
    ragfast_fp_state saved = _mm_getcsr();
    if ((saved & 0xffc0u) != 0x1f80u) _mm_setcsr(0x1f80u); /* all masked, to nearest, neither FTZ nor DAZ */
    return saved;
}
static inline void ragfast_fp_leave(ragfast_fp_state saved) {
    if ((saved & 0xffc0u) != 0x1f80u) _mm_setcsr(saved);
}
#else
#include <fenv.h>
typedef fenv_t ragfast_fp_state;
static inline ragfast_fp_state ragfast_fp_enter(void) {
    ragfast_fp_state saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void ragfast_fp_leave(ragfast_fp_state saved) { fesetenv(&saved); }
#endif

/* D rounded up to a whole line of float32. */
static inline size_t ragfast_padded(size_t dim) { return (dim + 15) / 16 * 16; }

static inline size_t ragfast_min(size_t a, size_t b) { return a < b ? a : b; }

#endif
