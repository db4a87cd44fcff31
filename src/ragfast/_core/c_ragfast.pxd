# The headers in csrc/include/ragfast for Cython; the contracts stand there.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "ragfast/ragfast.h" nogil:
    ctypedef enum ragfast_status:
        RAGFAST_OK
        RAGFAST_ERROR_MEMORY
        RAGFAST_ERROR_ARGUMENT
        RAGFAST_ERROR_UNKNOWN_ISA
        RAGFAST_ERROR_UNAVAILABLE_ISA
        RAGFAST_ERROR_NONFINITE_QUERY
        RAGFAST_ERROR_NONFINITE_DOC
        RAGFAST_ERROR_OVERFLOW
        RAGFAST_ERROR_CORRUPT_DOC
        RAGFAST_ERROR_WRONG_KERNEL
        RAGFAST_ERROR_CANCELLED

    const char *ragfast_strerror(ragfast_status status)

    size_t ragfast_isa_count()
    const char *ragfast_isa_name(size_t i)
    int ragfast_isa_available(size_t i)
    const char *ragfast_isa_wrong_kernel(size_t i)
    const char *ragfast_isa()
    ragfast_status ragfast_set_isa(const char *name)

    ctypedef struct ragfast_options:
        int n_threads
        int (*poll)(void *context) noexcept nogil
        void *context
    int ragfast_get_num_threads()
    void ragfast_set_num_threads(int n)

    ctypedef enum ragfast_dtype:
        RAGFAST_F32
        RAGFAST_F64
        RAGFAST_F16
        RAGFAST_BF16

    ctypedef struct ragfast_codes:
        uint8_t *high
        uint8_t *low
        void *bounds
        const float *center
        const float *weight
        const float *rotation
        double rotation_error
        size_t prefix
        int always

    ctypedef struct ragfast_docs:
        const void *vectors
        const float *norms
        const int64_t *ids
        const ragfast_codes *codes
        size_t n_docs
        size_t dim
        ragfast_dtype dtype
        const double *half_squares
        int64_t first_id
        const uint32_t *allowed
        const int32_t *groups
        const uint32_t *row_sums
        int mapped

    ctypedef struct ragfast_constraints:
        const int32_t *excluded_groups
        size_t max_per_group

    ctypedef struct ragfast_query_stats:
        uint64_t rescored
        uint64_t by_codes
        uint64_t by_float32

    ctypedef struct ragfast_place:
        size_t segment
        size_t row

    ragfast_status ragfast_search(double *scores, int64_t *doc_ids, double *doc_logprobs, ragfast_query_stats *stats,
                                  ragfast_place *corrupt, const void *queries, size_t n_queries,
                                  const ragfast_docs *segments, size_t n_segments, const ragfast_constraints *constraints,
                                  size_t k, int cosine, double temperature, const ragfast_options *options)
    void ragfast_narrow(float *out, const double *x, size_t n)
    void ragfast_widen(double *out, const float *x, size_t n)
    ragfast_status ragfast_measure_rows(float *norms, double *half_squares, void *copy, size_t *bad_row,
                                        const void *rows, size_t n_rows, size_t dim, ragfast_dtype dtype,
                                        const ragfast_options *options)
    void ragfast_codes_size(size_t *high, size_t *low, size_t *bounds, size_t n_docs, size_t dim)
    ragfast_status ragfast_encode(const ragfast_codes *codes, const void *vectors, const double *half_squares,
                                  ragfast_dtype dtype, size_t first, size_t n_docs, size_t dim, const ragfast_options *options)

    ctypedef struct ragfast_checksum_state:
        pass

    uint64_t ragfast_checksum(const void *x, size_t n_bytes)
    void ragfast_checksum_begin(ragfast_checksum_state *state)
    void ragfast_checksum_update(ragfast_checksum_state *state, const void *x, size_t n_bytes)
    uint64_t ragfast_checksum_end(const ragfast_checksum_state *state)
    ragfast_status ragfast_row_sums(uint32_t *sums, const void *rows, size_t n_rows, size_t row_bytes, const ragfast_options *options)

    ragfast_status ragfast_logsumexp(void *out, const void *x, size_t n_rows, size_t n_cols, ragfast_dtype dtype,
                                     const ragfast_options *options)
    ragfast_status ragfast_log_softmax(void *out, const void *x, size_t n_rows, size_t n_cols, ragfast_dtype dtype,
                                       const ragfast_options *options)
    ragfast_status ragfast_marginalize_sequence(void *out, void *posterior, const void *doc_logprobs,
                                                const void *token_logprobs, size_t n_queries, size_t n_docs,
                                                size_t n_tokens, ragfast_dtype dtype, const ragfast_options *options)
    ragfast_status ragfast_marginalize_token(void *out, void *posterior, const void *doc_logprobs,
                                             const void *token_logprobs, size_t n_queries, size_t n_docs,
                                             size_t n_tokens, ragfast_dtype dtype, const ragfast_options *options)

    ragfast_status ragfast_target_logprobs(double *logprobs, double *lse, double *sums, const void *logits,
                                           const int64_t *targets, size_t n_rows, size_t vocab, ragfast_dtype dtype,
                                           const ragfast_options *options)
    ragfast_status ragfast_target_grad(void *out, const void *logits, const int64_t *targets, const double *lse,
                                       const double *scale, const double *shift, size_t n_rows, size_t vocab,
                                       ragfast_dtype dtype, const ragfast_options *options)

    ctypedef struct ragfast_answers:
        const void *logits
        const double *token_logprobs
        const double *doc_scores
        const int64_t *targets
        size_t n_queries
        size_t n_docs
        size_t n_tokens
        size_t vocab
        ragfast_dtype dtype

    ctypedef struct ragfast_loss:
        int by_token
        double temperature
        double label_smoothing
        int as_hf
        int skip_first
        const double *weights

    ctypedef struct ragfast_nll_out:
        double *nll
        double *posterior
        double *doc_scores_grad
        double *token_logprobs_grad
        void *logits_grad
        double *lse
        int lse_known

    ragfast_status ragfast_rag_nll(const ragfast_nll_out *out, const ragfast_answers *answers,
                                   const ragfast_loss *loss, const ragfast_options *options)
    ragfast_status ragfast_marginalize_step(void *out, void *best, int64_t *best_ids, const void *logits,
                                            const double *doc_logprobs, size_t n, size_t n_docs, size_t vocab,
                                            ragfast_dtype dtype, size_t n_best, const ragfast_options *options)

    ragfast_status ragfast_kl(double *kl, double *p_grad, double *q_grad, const double *p, const double *q,
                              size_t n_rows, size_t n, double p_temperature, double q_temperature, const ragfast_options *options)
    ragfast_status ragfast_segment_logsumexp(double *out, const double *x, const int64_t *keys, size_t n_rows, size_t n,
                                           size_t n_keys, const ragfast_options *options)
    ragfast_status ragfast_gather_scores(double *scores, const void *queries, const int64_t *rows, size_t n_queries,
                                         size_t k, const ragfast_docs *docs, const ragfast_options *options)
    ragfast_status ragfast_gather_scores_grad(double *out, const double *grad, const int64_t *rows, size_t n_queries,
                                              size_t k, const ragfast_docs *docs, const ragfast_options *options)
    ragfast_status ragfast_merge_topk(double *scores, int64_t *ids, const double *in_scores, const int64_t *in_ids,
                                      size_t n_lists, size_t n_queries, size_t n_in, size_t k)


cdef extern from "bench/peak.h" nogil:
    ctypedef enum peak_arithmetic:
        PEAK_FLOAT32
        PEAK_INT8

    ragfast_status c_peak_operations "peak_operations"(uint64_t *operations, peak_arithmetic arithmetic, size_t rounds)
    ragfast_status c_peak_read "peak_read"(uint64_t *sum, const void *x, size_t n_bytes)
