/* Exact top-k retrieval, the int8 codes that it scans, and checksums. The rules for all functions stand in ragfast.h. */
#ifndef RAGFAST_SEARCH_H
#define RAGFAST_SEARCH_H

#include "ragfast/runtime.h"

RAGFAST_BEGIN_DECLARATIONS

/* Codes: the documents once more in a byte an element, for a scan in integers. It finds the same results as the scan in
 * float32, to the bit, whatever stands here: docs/exactness.md. A code is of y = rotation ((x - center) weight). */
typedef struct ragfast_codes {
    uint8_t *high, *low;   /* sizes: ragfast_codes_size; 64-byte alignment is faster */
    void *bounds;          /* aligned to 4 bytes */
    const float *center;   /* (D,) finite, or NULL: 0 */
    const float *weight;   /* (D,) powers of two from 2^-30 to 2^30, or NULL: 1 */
    const float *rotation; /* (D,D), or NULL: the identity */
    double rotation_error; /* at least |R^T R - I| (Frobenius), below 0.01; 0 without a rotation */
    size_t prefix;         /* leading elements of y that are scanned first; a multiple of 16 below D, or 0 */
    int always;            /* 1: use them even where the float32 scan should be faster; or 0 */
} ragfast_codes;

/* A segment: documents that lie together. */
typedef struct ragfast_docs {
    const void *vectors; /* (N,D) of dtype */
    const float
        *norms; /* (N,) from ragfast_measure_rows, or NULL: found on the way (float32 only, and without codes) */
    const int64_t *ids;         /* (N,) distinct and >= 0, or NULL: first_id + the row number */
    const ragfast_codes *codes; /* of all N, or NULL; not with float64 */
    size_t n_docs;              /* N, below 2^31 */
    size_t dim;                 /* D, from 1 to 2^20 */
    ragfast_dtype dtype;
    const double *half_squares; /* (N,) |d|^2 / 2 from ragfast_measure_rows: the score is -|q - d|^2; or NULL: q . d */
    int64_t first_id;           /* >= 0, and the last id below 2^63 */
    const uint32_t *allowed; /* (N / 32 rounded up,) bit j % 32 of word j / 32: document j takes part; those from N on
                                mean nothing. Or NULL: all do */
    const int32_t *groups;   /* (N,) the group of each, negative: of none; or NULL: no groups */
    const uint32_t
        *row_sums; /* (N,) from ragfast_row_sums: rows are checked before a score of theirs counts; or NULL */
    int mapped; /* 1 if `vectors` is memory-mapped: rows are prefetched before they are scored, and codes preferred; or 0 */
} ragfast_docs;

/* Which documents a query may find. Groups are numbered the same way in all segments. */
typedef struct ragfast_constraints {
    const int32_t *excluded_groups; /* (B,) the group that query b must not find, negative: none; or NULL */
    size_t max_per_group;           /* documents of each group that a query may find, 0: any number */
} ragfast_constraints;

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
 * The score of (q, d) is its inner product in float64, or 0 minus the squared distance, summed in a fixed order (core/kernels.h,
 * score_rows), so it has the same bits at every level. Documents are ordered by (score descending, id
 * ascending). Neither the scan, float32 or codes, nor the number of threads, nor how queries and documents are batched or cut into
 * segments can change a bit of the result.
 *
 * Out: scores (B,K), doc_ids (B,K): best first, then -inf and -1 where fewer than K documents qualify.
 *      doc_logprobs (B,K), may be NULL: log p(z|x) = log_softmax over K of scores / temperature; -inf where the id is -1.
 *      stats (B,), may be NULL.
 *      *corrupt, may be NULL: written with RAGFAST_ERROR_CORRUPT_DOC alone.
 * In:  queries (B,D), float64 if the documents are, else float32; segments (n_segments,) of one D and dtype, ids distinct over
 *      all of them, half_squares in all or none; 1 <= n_segments < 2^31; N of all at most 2^48; constraints or NULL: none; k >= 1;
 *      cosine: 1 divides the scores of the K best by the length of their query in float64, and orders these documents by the
 *      quotients, of which some may be equal: the cosines of documents of length 1; else 0, as it must be with half_squares; temperature > 0, finite.
 * With half_squares the codes must have been made with them, and without a prefix. Codes want norms beside them.
 * Returns RAGFAST_ERROR_NONFINITE_DOC only where norms are NULL: rows that came with norms were checked then. */
RAGFAST_API ragfast_status ragfast_search(double *scores, int64_t *doc_ids, double *doc_logprobs,
                                          ragfast_query_stats *stats, ragfast_place *corrupt, const void *queries,
                                          size_t n_queries, const ragfast_docs *segments, size_t n_segments,
                                          const ragfast_constraints *constraints, size_t k, int cosine,
                                          double temperature, const ragfast_options *options);

/* Conversions as IEEE has them, whatever rounding or flushing of denormals the caller has set. In place is not allowed. */
RAGFAST_API void ragfast_narrow(float *out, const double *x, size_t n);
RAGFAST_API void ragfast_widen(double *out, const float *x, size_t n);

/* Measures rows, reading each once.
 * Out: norms (N,): the Euclidean norm of each row, rounded up: the scan's error bound multiplies by it. Or NULL.
 *      half_squares (N,): |d|^2 / 2 in float64, inner_f64 of core/kernels.h of the row with itself, halved; NaN or infinity for a
 *      row that is not finite or overflows. Or NULL.
 *      copy (N,D) of dtype: the rows, apart from them. Or NULL.
 *      *bad_row: written with RAGFAST_ERROR_NONFINITE_DOC only, which a call with norms returns: the first row that is not finite.
 * In:  rows (N,D) of dtype, D from 1 to 2^20; no float64 with norms. */
RAGFAST_API ragfast_status ragfast_measure_rows(float *norms, double *half_squares, void *copy, size_t *bad_row,
                                                const void *rows, size_t n_rows, size_t dim, ragfast_dtype dtype,
                                                const ragfast_options *options);

/* Bytes of the three arrays of codes for n_docs documents; 0 where there are no codes: for D not from 1 to 2^15, or N of 2^31 or more. */
RAGFAST_API void ragfast_codes_size(size_t *high, size_t *low, size_t *bounds, size_t n_docs, size_t dim);

/* Writes the codes of documents first <= i < n_docs < 2^31; those before stay as they are, so that searches of them may go on
 * meanwhile. vectors (n_docs,D) of dtype, float64 excepted, finite (a row that is not is a candidate of every search); D from 1 to
 * 2^15. What codes->center, weight and rotation hold is not checked: wrong numbers there make wrong bounds. half_squares (n_docs,) for searches by distance, which
 * want a prefix of 0; else NULL. */
RAGFAST_API ragfast_status ragfast_encode(const ragfast_codes *codes, const void *vectors, const double *half_squares,
                                          ragfast_dtype dtype, size_t first, size_t n_docs, size_t dim,
                                          const ragfast_options *options);

/* ---- checksums: XXH64 with seed 0, the same on every machine -------------------------------------------------------- */

typedef struct ragfast_checksum_state {
    uint64_t sums[4], n_bytes;
    uint8_t rest[32]; /* bytes that do not fill 32 yet */
} ragfast_checksum_state;

RAGFAST_API uint64_t ragfast_checksum(const void *x, size_t n_bytes);

/* The same of bytes that come in pieces, however they are cut. `end` may be asked any number of times. */
RAGFAST_API void ragfast_checksum_begin(ragfast_checksum_state *state);
RAGFAST_API void ragfast_checksum_update(ragfast_checksum_state *state, const void *x, size_t n_bytes);
RAGFAST_API uint64_t ragfast_checksum_end(const ragfast_checksum_state *state);

/* sums (n_rows,) = the low 32 bits of the checksum of each row of row_bytes, which may be 0. */
RAGFAST_API ragfast_status ragfast_row_sums(uint32_t *sums, const void *rows, size_t n_rows, size_t row_bytes,
                                            const ragfast_options *options);

/* Scores of chosen documents: scores (B,K) of q_b and row rows[b,k] of docs, the same bits as ragfast_search finds: q . d, or -|q - d|^2
 * where docs has half_squares, which are not read; -inf where the row is negative. queries (B,D), float64 if the documents are, else
 * float32; rows (B,K) below N, checked before anything is written. Of docs only vectors, n_docs, dim, dtype and whether there are
 * half_squares are read. RAGFAST_ERROR_NONFINITE_QUERY, _NONFINITE_DOC and _OVERFLOW as in ragfast_search. */
RAGFAST_API ragfast_status ragfast_gather_scores(double *scores, const void *queries, const int64_t *rows,
                                                 size_t n_queries, size_t k, const ragfast_docs *docs,
                                                 const ragfast_options *options);

/* The gradient of inner products, whatever the metric: out (B,D) = sum_k grad[b,k] d of row rows[b,k], negative rows left
 * out. */
RAGFAST_API ragfast_status ragfast_gather_scores_grad(double *out, const double *grad, const int64_t *rows,
                                                      size_t n_queries, size_t k, const ragfast_docs *docs,
                                                      const ragfast_options *options);

/* Top-k of the union of sorted lists: in (n_lists,B,n_in) each by (score descending, id ascending), ended by ids of -1;
 * out (B,k) the same way, then -inf and -1. An id that several lists have is taken once, at its best score. A list that is not
 * sorted, or has a NaN, is RAGFAST_ERROR_ARGUMENT; out is undefined then. */
RAGFAST_API ragfast_status ragfast_merge_topk(double *scores, int64_t *ids, const double *in_scores,
                                              const int64_t *in_ids, size_t n_lists, size_t n_queries, size_t n_in,
                                              size_t k);

RAGFAST_END_DECLARATIONS
#endif
