/* ragfast: exact batched top-k retrieval by inner product, and log-sum-exp marginalization over documents.
 *
 * Letters: B queries, N documents, D dimension, K retrieved documents, T target tokens, V vocabulary.
 *
 * Rules for every function here:
 *   - Arguments stand in the order outputs, inputs (each followed by its sizes), scalars. Arrays are row-major and
 *     contiguous, aligned to their element type and no further. Pointers are non-NULL unless the comment says so;
 *     a pointer to an empty array is never read.
 *   - The caller owns every buffer. A call makes at most one scratch allocation and frees it before it returns.
 *   - Outputs are undefined after any status but RAGFAST_OK, except where stated.
 *   - Nothing here prints, aborts, reads the environment or knows of Python. All functions may be called from many
 *     threads at once, and from a child process after fork().
 *   - Functions that calculate do so in the default floating-point environment (round to nearest, no flushing of
 *     denormals) and restore the caller's.
 */
#ifndef RAGFAST_H
#define RAGFAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a host of the library looks up by name in the shared object (see src/ragfast/threads.py). */
#if defined(__GNUC__)
#define RAGFAST_EXPORT __attribute__((visibility("default")))
#else
#define RAGFAST_EXPORT
#endif

typedef enum ragfast_status {
    RAGFAST_OK = 0,
    RAGFAST_ERROR_MEMORY,          /* the scratch block could not be had */
    RAGFAST_ERROR_ARGUMENT,        /* a size or scalar is outside its stated range, or sizes overflow */
    RAGFAST_ERROR_UNKNOWN_ISA,     /* no level of that name in this build */
    RAGFAST_ERROR_UNAVAILABLE_ISA, /* the level exists; this CPU or operating system lacks it */
    RAGFAST_ERROR_NONFINITE_QUERY, /* a query holds NaN or an infinity */
    RAGFAST_ERROR_NONFINITE_DOC,   /* a document holds NaN or an infinity */
    RAGFAST_ERROR_OVERFLOW,        /* a score of float64 inputs overflows (float32 inputs cannot) */
    RAGFAST_ERROR_CORRUPT_DOC      /* the bytes of a document are not those that its checksum was made of */
} ragfast_status;

const char *ragfast_strerror(ragfast_status status);

/* ---- instruction-set levels -------------------------------------------------------------------------------------
 * Levels ascend: "scalar", then on x86-64 "avx2" (AVX2, FMA, F16C), "avx512" (F, BW, DQ, VL), "avx512vnni", "amx" (tiles of
 * int8). Each includes those before it. */

size_t ragfast_isa_count(void);                   /* levels in this build */
const char *ragfast_isa_name(size_t i);           /* name of level i < count, ascending */
int ragfast_isa_available(size_t i);              /* 1 if this CPU and operating system run level i */
const char *ragfast_isa(void);                    /* the level in use: the highest available one unless set */
ragfast_status ragfast_set_isa(const char *name); /* for the whole process; searches under way keep theirs */

/* ---- threads ----------------------------------------------------------------------------------------------------
 * One pool a process, started at the first call that wants it, restarted in a forked child. The calling thread takes
 * part, and a call never waits for a worker that has not begun. */

RAGFAST_EXPORT int ragfast_get_num_threads(void);   /* used where n_threads is 0: 1 until set */
RAGFAST_EXPORT void ragfast_set_num_threads(int n); /* n < 1 counts as 1 */

/* ---- retrieval -------------------------------------------------------------------------------------------------- */

/* The two of 16 bits are stored forms of documents, as uint16_t; their values are meant wherever this header says vector. */
typedef enum ragfast_dtype { RAGFAST_F32 = 0, RAGFAST_F64 = 1, RAGFAST_F16 = 2, RAGFAST_BF16 = 3 } ragfast_dtype;

/* Codes: the documents once more in a byte an element, for a scan in integers. It finds the same results as the scan in
 * float32, to the bit, whatever stands here: docs/exactness.md. A code is of y = rotation ((x - center) weight). */
typedef struct ragfast_codes {
    uint8_t *high, *low;   /* sizes: ragfast_codes_size; 64-byte alignment is faster */
    void *bounds;          /* aligned to 4 bytes */
    const float *center;   /* (D,) finite, or NULL: 0 */
    const float *weight;   /* (D,) powers of two from 2^-30 to 2^30, or NULL: 1 */
    const float *rotation; /* (D,D), or NULL: the identity */
    double rotation_error; /* at least |R^T R - I| (Frobenius), below 0.01; 0 without a rotation */
    size_t prefix;         /* leading elements of y that are looked at first; a multiple of 16 below D, or 0 */
    int always;            /* use them even where the float32 scan should be faster */
} ragfast_codes;

/* A segment: documents that lie together. */
typedef struct ragfast_docs {
    const void *vectors; /* (N,D) of dtype */
    const float *norms;  /* (N,) from ragfast_row_norms, or NULL: found on the way (float32 only, and without codes) */
    const int64_t *ids;  /* (N,) distinct and >= 0, or NULL: first_id + the row number */
    const ragfast_codes *codes; /* of all N, or NULL; not with float64 */
    size_t n_docs;              /* N, below 2^31 */
    size_t dim;                 /* D, from 1 to 2^20 */
    ragfast_dtype dtype;
    const double *half_squares; /* (N,) |d|^2 / 2 from ragfast_half_squares: the score is -|q - d|^2; or NULL: q . d */
    int64_t first_id;           /* >= 0 */
    const uint32_t *allowed; /* (N / 32 rounded up,) bit j % 32 of word j / 32: document j takes part; those from N on
                                mean nothing. Or NULL: all do */
    const int32_t *groups;   /* (N,) the group of each, negative: of none; or NULL: no groups */
    const uint32_t
        *row_sums; /* (N,) from ragfast_row_sums: rows are checked before a score of theirs counts; or NULL */
    int far; /* vectors are mapped from a slower medium: rows are asked for before they are scored, and codes preferred */
} ragfast_docs;

/* Which documents a query may find. Groups are numbered the same way in all segments. */
typedef struct ragfast_rules {
    const int32_t *excluded; /* (B,) the group that query b must not find, negative: none; or NULL */
    size_t at_most;          /* documents of each group that a query may find, 0: any number */
} ragfast_rules;

typedef struct ragfast_query_stats {
    uint64_t rescored; /* documents whose float64 score was calculated */
    uint64_t by_codes; /* documents that the codes were asked about */
    uint64_t
        by_float32; /* documents that went through the float32 scan; the others were not allowed, or rescored at once */
} ragfast_query_stats;

typedef struct ragfast_place {
    size_t segment, row;
} ragfast_place;

/* Exact top-k by inner product, or by distance where documents have half_squares.
 *
 * The score of (q, d) is its inner product in float64, or 0 minus the squared distance, summed in a fixed order (internal.h,
 * score_rows), so it has the same bits at every level. Documents are ordered by (score descending, id
 * ascending). Neither the scan, float32 or codes, nor n_threads, nor how queries and documents are batched or cut into
 * segments can change a bit of the result.
 *
 * Out: scores (B,K), doc_ids (B,K): best first, then -inf and -1 where fewer than K documents qualify.
 *      doc_logprobs (B,K), may be NULL: log p(z|x) = log_softmax over K of scores / temperature; -inf where the id is -1.
 *      stats (B,), may be NULL.
 *      *corrupt, may be NULL: written with RAGFAST_ERROR_CORRUPT_DOC alone.
 * In:  queries (B,D), float64 if the documents are, else float32; segments (n_segments,) of one D and dtype, ids distinct over
 *      all of them, half_squares in all or none; 1 <= n_segments < 2^31; rules or NULL: none; k >= 1; temperature > 0; n_threads >= 0 (0: the default).
 * With half_squares the codes must have been made with them, and without a prefix.
 * Returns RAGFAST_ERROR_NONFINITE_DOC only where norms are NULL: rows that came with norms were checked then. */
ragfast_status ragfast_search(double *scores, int64_t *doc_ids, double *doc_logprobs, ragfast_query_stats *stats,
                              ragfast_place *corrupt, const void *queries, size_t n_queries,
                              const ragfast_docs *segments, size_t n_segments, const ragfast_rules *rules, size_t k,
                              double temperature, int n_threads);

/* Conversions as IEEE has them, whatever rounding or flushing of denormals the caller has set. In place is not allowed. */
void ragfast_narrow(float *out, const double *x, size_t n);
void ragfast_widen(double *out, const float *x, size_t n);

/* Euclidean norm of each row, rounded up: the scan's error bound multiplies by it.
 * Out: norms (N,); *bad_row: the first row that is not finite (then RAGFAST_ERROR_NONFINITE_DOC).
 * In:  rows (N,D) of dtype, float64 excepted. */
ragfast_status ragfast_row_norms(float *norms, size_t *bad_row, const void *rows, size_t n_rows, size_t dim,
                                 ragfast_dtype dtype, int n_threads);

/* half_squares (N,) = |d|^2 / 2 of each row in float64: inner_f64 of internal.h with itself, halved. Rows (N,D) of dtype; one that is
 * not finite, or overflows, has NaN or infinity there. */
ragfast_status ragfast_half_squares(double *half_squares, const void *rows, size_t n_rows, size_t dim,
                                    ragfast_dtype dtype, int n_threads);

/* Bytes of the three arrays of codes for n_docs documents, 0 where D is above 2^15: longer rows have no codes. */
void ragfast_codes_size(size_t *high, size_t *low, size_t *bounds, size_t n_docs, size_t dim);

/* Writes the codes of documents first <= i < n_docs; those before stay as they are, so that searches of them may go on
 * meanwhile. vectors (n_docs,D) of dtype, finite, float64 excepted. half_squares (n_docs,) for searches by distance, which
 * want a prefix of 0; else NULL. */
ragfast_status ragfast_encode(const ragfast_codes *codes, const void *vectors, const double *half_squares,
                              ragfast_dtype dtype, size_t first, size_t n_docs, size_t dim, int n_threads);

/* ---- checksums: XXH64 with seed 0, the same on every machine -------------------------------------------------------- */

typedef struct ragfast_checksum_state {
    uint64_t sums[4], n_bytes;
    uint8_t rest[32]; /* bytes that do not fill 32 yet */
} ragfast_checksum_state;

uint64_t ragfast_checksum(const void *x, size_t n_bytes);

/* The same of bytes that come in pieces, however they are cut. `end` may be asked any number of times. */
void ragfast_checksum_begin(ragfast_checksum_state *state);
void ragfast_checksum_update(ragfast_checksum_state *state, const void *x, size_t n_bytes);
uint64_t ragfast_checksum_end(const ragfast_checksum_state *state);

/* sums (n_rows,) = the low 32 bits of the checksum of each row of row_bytes. */
ragfast_status ragfast_row_sums(uint32_t *sums, const void *rows, size_t n_rows, size_t row_bytes, int n_threads);

/* ---- log-sum-exp and marginalization ----------------------------------------------------------------------------- */

/* In all of these arrays hold dtype throughout, and sums are those of the mathematics whatever the range of the values.
 * A NaN gives NaN where it has a part; the LSE of nothing but -inf is -inf. Results are the same bits for any n_threads;
 * between levels they may differ in the last place.
 *
 * float32 results are within 2 units in the last place of the correctly rounded ones, float64 within 4, save where the
 * maximum and the logarithm of the sum cancel: there the absolute error is below 4e-16 times the larger of the two and
 * 1. Posteriors bear the rounding of their float64 arguments v as well, a relative error of 3e-16 |v|.
 *
 * Sizes whose product overflows and n_threads < 0 are RAGFAST_ERROR_ARGUMENT. */

/* out (n_rows,) = log sum_j exp x[i,j]; x (n_rows,n_cols); a row of no columns gives -inf. */
ragfast_status ragfast_logsumexp(void *out, const void *x, size_t n_rows, size_t n_cols, ragfast_dtype dtype,
                                 int n_threads);

/* out (n_rows,n_cols) = x - logsumexp(x), all -inf for a row of nothing but -inf: no document qualifies there. out may be
 * x. */
ragfast_status ragfast_log_softmax(void *out, const void *x, size_t n_rows, size_t n_cols, ragfast_dtype dtype,
                                   int n_threads);

/* RAG-Sequence: out (B,) = LSE_k(doc_logprobs[b,k] + sum_t token_logprobs[b,k,t]), the inner sum in float64; posterior
 * (B,K), may be NULL: the softmax over k of the same, all 0 where out is -inf. doc_logprobs (B,K), token_logprobs
 * (B,K,T). A document that is missing has doc_logprob -inf; then its finite token_logprobs count for nothing. K >= 1,
 * T >= 0. */
ragfast_status ragfast_marginalize_sequence(void *out, void *posterior, const void *doc_logprobs,
                                            const void *token_logprobs, size_t n_queries, size_t n_docs,
                                            size_t n_tokens, ragfast_dtype dtype, int n_threads);

/* RAG-Token: out (B,T) = LSE_k(doc_logprobs[b,k] + token_logprobs[b,k,t]); posterior (B,K,T), may be NULL: the softmax
 * over k of the same, all 0 where out is -inf. Otherwise as ragfast_marginalize_sequence. */
ragfast_status ragfast_marginalize_token(void *out, void *posterior, const void *doc_logprobs,
                                         const void *token_logprobs, size_t n_queries, size_t n_docs, size_t n_tokens,
                                         ragfast_dtype dtype, int n_threads);

/* ---- logits -------------------------------------------------------------------------------------------------------
 * Logits are float64, float32, float16 or bfloat16; everything small beside them is float64. log p(v) = x[v] - LSE(x) is
 * rounded once more by whoever narrows it: then it is within 2 units in the last place of float32, also near 0. */

/* Log-softmax and gather: one pass over V.
 * Out: logprobs (n_rows,) = x[i,targets[i]] - lse[i]; lse (n_rows,), may be NULL; sums (n_rows,), may be NULL: the sum over v
 *      of x[i,v] - lse[i].
 * In:  logits (n_rows,V) of dtype; targets (n_rows,) below V; where negative the row is not read and its outputs are 0. */
ragfast_status ragfast_target_logprobs(double *logprobs, double *lse, double *sums, const void *logits,
                                       const int64_t *targets, size_t n_rows, size_t vocab, ragfast_dtype dtype,
                                       int n_threads);

/* The gradient of such rows: out[i,v] = (scale[i] + V shift[i]) softmax(x[i])[v] - scale[i] [v = targets[i]] - shift[i], for the
 * weight `scale` of -log p(y) and `shift` of each -log p(v), from the lse of the row. Rows of scale and shift 0 are not read
 * and become 0. out (n_rows,V) of dtype may be logits. shift may be NULL: 0. targets (n_rows,) below V, or negative: no
 * target. */
ragfast_status ragfast_target_grad(void *out, const void *logits, const int64_t *targets, const double *lse,
                                   const double *scale, const double *shift, size_t n_rows, size_t vocab,
                                   ragfast_dtype dtype, int n_threads);

/* Answers y (B,T), each to be scored under K documents. */
typedef struct ragfast_answers {
    const void *logits;           /* (B,K,T,V) of dtype; logits[b,k,t] predicts targets[b,t]: nothing is shifted */
    const double *token_logprobs; /* (B,K,T), if logits is NULL: log p(y_t | x, z, y_<t) */
    const double *doc_scores;     /* (B,K); -inf: a document that is missing, of which nothing else is read */
    const int64_t *targets;       /* (B,T) below V; negative: not scored, and not read elsewhere */
    size_t n_queries, n_docs, n_tokens, vocab;
    ragfast_dtype dtype;
} ragfast_answers;

typedef struct ragfast_loss {
    int by_token;           /* RAG-Token, else RAG-Sequence */
    double temperature;     /* > 0: log p(z|x) = log_softmax(doc_scores / temperature) */
    double label_smoothing; /* from 0 to below 1, 0 without logits: (1 - e) nll + e times the nll of ... (nll.c) */
    int as_hf;              /* Hugging Face's RagSequenceForGeneration.get_nll instead of the paper (nll.c) */
    int skip_first;         /* with as_hf: position 0 counts in smoothing only, as under exclude_bos_score */
    const double *weights;  /* (B,), or NULL: 1. Gradients are those of sum_b weights[b] nll[b] */
} ragfast_loss;

/* What to calculate; each but nll may be NULL. */
typedef struct ragfast_nll_out {
    double *nll;       /* (B,) the loss of each answer, +inf where no document can give it */
    double *posterior; /* Sequence (B,K), Token (B,K,T): p(z|x,y), p(z|x,y_t,y_<t); 0 where not scored or impossible */
    double *doc_scores_grad;     /* (B,K); 0 for a missing document */
    double *token_logprobs_grad; /* (B,K,T), without logits alone */
    void *logits_grad;           /* (B,K,T,V) of the dtype of the logits; the logits themselves, or apart from them */
    double *lse;                 /* (B,K,T) LSE of each row of logits that is read */
    int lse_known;               /* lse is an input, from a call with the same logits: without smoothing they are then
                                    read once less, and log p bears the rounding of lse */
} ragfast_nll_out;

/* -log p(y|x) of Lewis et al. 2020, with gradients and posterior, in one pass over the logits and one more for their
 * gradient; nothing of the size of the logits is ever stored. Scratch: some 50 bytes for each (b,k,t). */
ragfast_status ragfast_rag_nll(const ragfast_nll_out *out, const ragfast_answers *answers, const ragfast_loss *loss,
                               int n_threads);

/* A step of decoding: out[i,v] = LSE_k(doc_logprobs[i,k] + log_softmax(logits[i,k])[v]), the log-mixture of K documents for
 * each of n beams, and the n_best greatest of each beam, by (value descending, v ascending).
 * Out: out (n,V), may be NULL; best (n,n_best), best_ids (n,n_best), may be NULL if n_best is 0; float32, but float64 where
 *      the logits are.
 * In:  logits (n,K,V) of dtype; doc_logprobs (n,K), -inf for a document that is missing, of which the logits are not
 *      read; n_best <= V.
 * float32 results are within 4 units in the last place for logits up to 2^20; beyond, and for float64, they bear the rounding of
 * the LSE as a float64. A NaN or +inf in a document that is there makes all of its beam NaN, and best_ids 0, 1, ... */
ragfast_status ragfast_marginalize_step(void *out, void *best, int64_t *best_ids, const void *logits,
                                        const double *doc_logprobs, size_t n, size_t n_docs, size_t vocab,
                                        ragfast_dtype dtype, size_t n_best, int n_threads);

/* ---- small kernels over documents: everything float64 --------------------------------------------------------------- */

/* kl (n_rows,) = KL(P || Q) = sum_j P (log P - log Q) with P = softmax(p / p_temperature), Q = softmax(q / q_temperature)
 * over n columns, and its gradients with regard to p and q (n_rows,n), each may be NULL. A column of -inf in p has no part;
 * one of -inf in q alone makes kl +inf. A row of p or q that is -inf throughout is no distribution: NaN. */
ragfast_status ragfast_kl(double *kl, double *p_grad, double *q_grad, const double *p, const double *q, size_t n_rows,
                          size_t n, double p_temperature, double q_temperature, int n_threads);

/* out (n_rows,n_keys) = for each key the LSE of x[i,j] over j with keys[i,j] = key, -inf for none. x and keys (n_rows,n);
 * keys below n_keys; negative: left out. */
ragfast_status ragfast_keyed_logsumexp(double *out, const double *x, const int64_t *keys, size_t n_rows, size_t n,
                                       size_t n_keys, int n_threads);

/* Scores of chosen documents: scores (B,K) of q_b and row rows[b,k] of docs, the same bits as ragfast_search finds: q . d, or -|q - d|^2
 * where docs has half_squares, which are not read; -inf where the row is negative. queries (B,D), float64 if the documents are, else
 * float32; rows (B,K) below N. Neither norms nor codes are used. */
ragfast_status ragfast_gather_scores(double *scores, const void *queries, const int64_t *rows, size_t n_queries,
                                     size_t k, const ragfast_docs *docs, int n_threads);

/* The gradient of inner products, whatever the metric: out (B,D) = sum_k grad[b,k] d of row rows[b,k], negative rows left
 * out. */
ragfast_status ragfast_gather_scores_grad(double *out, const double *grad, const int64_t *rows, size_t n_queries,
                                          size_t k, const ragfast_docs *docs, int n_threads);

/* Top-k of the union of sorted lists: in (n_lists,B,n_in) each by (score descending, id ascending), ended by ids of -1;
 * out (B,k) the same way, then -inf and -1. An id that several lists have is taken once, at its best score. */
ragfast_status ragfast_merge_topk(double *scores, int64_t *ids, const double *in_scores, const int64_t *in_ids,
                                  size_t n_lists, size_t n_queries, size_t n_in, size_t k);

/* ---- what the machine can do ----------------------------------------------------------------------------------------
 * Ceilings for benchmarks: work at the level in use that is all arithmetic, or all reading. On the calling thread: several
 * cores are measured by several threads that call. */

typedef enum ragfast_arithmetic {
    RAGFAST_FLOAT32 = 0, /* multiply-adds in registers */
    RAGFAST_INT8 = 1     /* the fastest 8-bit products, summed in 32 bits, of those that the scan of codes uses */
} ragfast_arithmetic;

/* *operations = the multiplications and additions that were done, each lane's counted, which is proportional to rounds; a
 * round takes a few nanoseconds, one of plain C's int8 up to a hundred. rounds below 2^40. */
ragfast_status ragfast_burn(uint64_t *operations, ragfast_arithmetic arithmetic, size_t rounds);

/* Reads x once, from its first byte to its last, and returns the sum modulo 2^64 of its 8-byte words, the last one filled up
 * with zeros: the same at every level. */
uint64_t ragfast_read(const void *x, size_t n_bytes);

#ifdef __cplusplus
}
#endif
#endif
