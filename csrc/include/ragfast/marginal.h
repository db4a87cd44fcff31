/* Log-sum-exp, marginalization over documents, losses and decoding. The rules for all functions stand in ragfast.h. */
#ifndef RAGFAST_MARGINAL_H
#define RAGFAST_MARGINAL_H

#include "ragfast/runtime.h"

RAGFAST_BEGIN_DECLARATIONS

/* ---- log-sum-exp and marginalization ----------------------------------------------------------------------------- */

/* In all of these arrays hold dtype throughout, and sums are those of the mathematics whatever the range of the values.
 * A NaN gives NaN where it has a part; the LSE of nothing but -inf is -inf. Results are the same bits for any number of threads;
 * between levels they may differ in the last place.
 *
 * float32 results are within 2 units in the last place of the correctly rounded ones, float64 within 4, save where the
 * maximum and the logarithm of the sum cancel: there the absolute error is below 4e-16 times the larger of the two and
 * 1. Posteriors bear the rounding of their float64 arguments v as well, a relative error of 3e-16 |v|.
 *
 * dtype is float32 or float64 here: RAGFAST_ERROR_ARGUMENT for the two of 16 bits. */

/* out (n_rows,) = log sum_j exp x[i,j]; x (n_rows,n_cols); a row of no columns gives -inf. */
RAGFAST_API ragfast_status ragfast_logsumexp(void *out, const void *x, size_t n_rows, size_t n_cols,
                                             ragfast_dtype dtype, const ragfast_options *options);

/* out (n_rows,n_cols) = x - logsumexp(x), all -inf for a row of nothing but -inf: no document qualifies there. out may be
 * x. */
RAGFAST_API ragfast_status ragfast_log_softmax(void *out, const void *x, size_t n_rows, size_t n_cols,
                                               ragfast_dtype dtype, const ragfast_options *options);

/* RAG-Sequence: out (B,) = LSE_k(doc_logprobs[b,k] + sum_t token_logprobs[b,k,t]), the inner sum in float64; posterior
 * (B,K), may be NULL: the softmax over k of the same, all 0 where out is -inf. doc_logprobs (B,K), token_logprobs
 * (B,K,T). A document that is missing has doc_logprob -inf; then its finite token_logprobs count for nothing. K >= 1,
 * T >= 0. */
RAGFAST_API ragfast_status ragfast_marginalize_sequence(void *out, void *posterior, const void *doc_logprobs,
                                                        const void *token_logprobs, size_t n_queries, size_t n_docs,
                                                        size_t n_tokens, ragfast_dtype dtype,
                                                        const ragfast_options *options);

/* RAG-Token: out (B,T) = LSE_k(doc_logprobs[b,k] + token_logprobs[b,k,t]); posterior (B,K,T), may be NULL: the softmax
 * over k of the same, all 0 where out is -inf. Otherwise as ragfast_marginalize_sequence. */
RAGFAST_API ragfast_status ragfast_marginalize_token(void *out, void *posterior, const void *doc_logprobs,
                                                     const void *token_logprobs, size_t n_queries, size_t n_docs,
                                                     size_t n_tokens, ragfast_dtype dtype,
                                                     const ragfast_options *options);

/* ---- logits -------------------------------------------------------------------------------------------------------
 * Logits are float64, float32, float16 or bfloat16; everything small beside them is float64. log p(v) = x[v] - LSE(x) is
 * rounded once more by whoever narrows it: then it is within 2 units in the last place of float32, also near 0. */

/* Log-softmax and gather: one pass over V.
 * Out: logprobs (n_rows,) = x[i,targets[i]] - lse[i]; lse (n_rows,), may be NULL; sums (n_rows,), may be NULL: the sum over v
 *      of x[i,v] - lse[i].
 * In:  logits (n_rows,V) of dtype; targets (n_rows,) below V; where negative the row is not read and its outputs are 0. */
RAGFAST_API ragfast_status ragfast_target_logprobs(double *logprobs, double *lse, double *sums, const void *logits,
                                                   const int64_t *targets, size_t n_rows, size_t vocab,
                                                   ragfast_dtype dtype, const ragfast_options *options);

/* The gradient of such rows: out[i,v] = (scale[i] + V shift[i]) softmax(x[i])[v] - scale[i] [v = targets[i]] - shift[i], for the
 * weight `scale` of -log p(y) and `shift` of each -log p(v), from the lse of the row. Rows of scale and shift 0 are not read
 * and become 0. out (n_rows,V) of dtype may be logits. shift may be NULL: 0. targets (n_rows,) below V, or negative: no
 * target. */
RAGFAST_API ragfast_status ragfast_target_grad(void *out, const void *logits, const int64_t *targets, const double *lse,
                                               const double *scale, const double *shift, size_t n_rows, size_t vocab,
                                               ragfast_dtype dtype, const ragfast_options *options);

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
    int by_token;           /* 1: RAG-Token, 0: RAG-Sequence */
    double temperature;     /* > 0 and finite: log p(z|x) = log_softmax(doc_scores / temperature) */
    double label_smoothing; /* from 0 to below 1, 0 without logits: (1 - e) nll + e times the nll of ... (loss.c) */
    int as_hf; /* 0, or 1 for RAG-Sequence: Hugging Face's RagSequenceForGeneration.get_nll instead of the paper (loss.c) */
    int skip_first;        /* 0, or 1 with as_hf: position 0 counts in smoothing only, as under exclude_bos_score */
    const double *weights; /* (B,), or NULL: 1. Gradients are those of sum_b weights[b] nll[b] */
} ragfast_loss;

/* What to calculate; each but nll may be NULL. */
typedef struct ragfast_nll_out {
    double *nll;       /* (B,) the loss of each answer, +inf where no document can give it */
    double *posterior; /* Sequence (B,K), Token (B,K,T): p(z|x,y), p(z|x,y_t,y_<t); 0 where not scored or impossible */
    double *doc_scores_grad;     /* (B,K); 0 for a missing document */
    double *token_logprobs_grad; /* (B,K,T), without logits alone */
    void *logits_grad;           /* (B,K,T,V) of the dtype of the logits; the logits themselves, or apart from them */
    double *lse;                 /* (B,K,T) LSE of each row of logits that is read */
    int lse_known; /* 0, or 1: lse is an input, from a call with the same logits: without smoothing they are then
                                    read once less, and log p bears the rounding of lse */
} ragfast_nll_out;

/* -log p(y|x) of Lewis et al. 2020, with gradients and posterior, in one pass over the logits and one more for their
 * gradient; nothing of the size of the logits is ever stored. Scratch: some 50 bytes for each (b,k,t). */
RAGFAST_API ragfast_status ragfast_rag_nll(const ragfast_nll_out *out, const ragfast_answers *answers,
                                           const ragfast_loss *loss, const ragfast_options *options);

/* A step of decoding: out[i,v] = LSE_k(doc_logprobs[i,k] + log_softmax(logits[i,k])[v]), the log-mixture of K documents for
 * each of n beams, and the n_best greatest of each beam, by (value descending, v ascending).
 * Out: out (n,V), may be NULL; best (n,n_best), best_ids (n,n_best), may be NULL if n_best is 0; float32, but float64 where
 *      the logits are, and apart from them.
 * In:  logits (n,K,V) of dtype; doc_logprobs (n,K), -inf for a document that is missing, of which the logits are not
 *      read; n_best <= V.
 * float32 results are within 4 units in the last place for logits up to 2^20; beyond, and for float64, they bear the rounding of
 * the LSE as a float64. A NaN or +inf in a document that is there makes all of its beam NaN, and best_ids 0, 1, ... */
RAGFAST_API ragfast_status ragfast_marginalize_step(void *out, void *best, int64_t *best_ids, const void *logits,
                                                    const double *doc_logprobs, size_t n, size_t n_docs, size_t vocab,
                                                    ragfast_dtype dtype, size_t n_best, const ragfast_options *options);

/* ---- small kernels over documents: everything float64 --------------------------------------------------------------- */

/* kl (n_rows,) = KL(P || Q) = sum_j P (log P - log Q) with P = softmax(p / p_temperature), Q = softmax(q / q_temperature)
 * over n columns, temperatures > 0 and finite, and its gradients with regard to p and q (n_rows,n), each may be NULL. A column of -inf in p has no part;
 * one of -inf in q alone makes kl +inf. A row of p or q that is -inf throughout is no distribution: NaN. */
RAGFAST_API ragfast_status ragfast_kl(double *kl, double *p_grad, double *q_grad, const double *p, const double *q,
                                      size_t n_rows, size_t n, double p_temperature, double q_temperature,
                                      const ragfast_options *options);

/* out (n_rows,n_keys) = for each key the LSE of x[i,j] over j with keys[i,j] = key, -inf for none. x and keys (n_rows,n);
 * keys below n_keys; negative: left out. */
RAGFAST_API ragfast_status ragfast_segment_logsumexp(double *out, const double *x, const int64_t *keys, size_t n_rows,
                                                     size_t n, size_t n_keys, const ragfast_options *options);

RAGFAST_END_DECLARATIONS
#endif
