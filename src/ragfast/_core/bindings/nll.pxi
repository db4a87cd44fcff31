# From logits: log p of targets, the loss, its gradients.


cdef double *doubles(np.ndarray a) noexcept:
    """The data of a plain float64 array, or NULL for None."""
    return NULL if a is None else <double *>np.PyArray_DATA(a)


cdef np.ndarray empty_doubles(bint wanted, np.ndarray like, int ndim):
    """float64 of the first ndim axes of an array, or None."""
    return np.PyArray_EMPTY(ndim, np.PyArray_DIMS(like), np.NPY_DOUBLE, 0) if wanted else None


def target_logprobs(np.ndarray logits not None, np.ndarray targets not None, bint bfloat16, bint with_lse,
                    bint with_sums, int n_threads):
    """(n_rows,V) plain floats or the bits of 16-bit floats, (n_rows,) int64 below V -> float64 (n_rows,), and of that
    shape the LSE of each row and the sum over v of log p(v), or None."""
    require(logits, "logits", 2, 2, FLOATS)
    require(targets, "targets", 1, 1, INDEX)
    require_axes(targets, "targets", 0, logits, 0, 1)
    cdef np.ndarray logprobs = empty_doubles(True, targets, 1)
    cdef np.ndarray lse = empty_doubles(with_lse, targets, 1), sums = empty_doubles(with_sums, targets, 1)
    cdef double *logprobs_data = doubles(logprobs)
    cdef double *lse_data = doubles(lse)
    cdef double *sums_data = doubles(sums)
    cdef const void *logits_data = np.PyArray_DATA(logits)
    cdef const int64_t *targets_data = <const int64_t *>np.PyArray_DATA(targets)
    cdef size_t n_rows = np.PyArray_DIM(logits, 0), vocab = np.PyArray_DIM(logits, 1)
    cdef ragfast_dtype dtype = rows_dtype(logits, bfloat16)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_target_logprobs(logprobs_data, lse_data, sums_data, logits_data, targets_data, n_rows, vocab,
                                         dtype, &options)
    check(status)
    return logprobs, lse, sums


def target_grad(np.ndarray out not None, np.ndarray logits not None, np.ndarray targets not None,
                np.ndarray lse not None, np.ndarray scale not None, np.ndarray shift, bint bfloat16, int n_threads):
    """Into out (n_rows,V), which may be logits: the gradient of what target_logprobs gives; ragfast/marginal.h. lse, scale and
    shift (n_rows,) plain float64, shift or None."""
    require(logits, "logits", 2, 2, FLOATS)
    require_output(out, "out", logits)
    require(targets, "targets", 1, 1, INDEX)
    require_axes(targets, "targets", 0, logits, 0, 1)
    for name, x in (("lse", lse), ("scale", scale), ("shift", shift)):
        if x is not None:
            require(x, name, 1, 1, DOUBLE)
            require_axes(x, name, 0, logits, 0, 1)
    cdef void *out_data = np.PyArray_DATA(out)
    cdef const void *logits_data = np.PyArray_DATA(logits)
    cdef const int64_t *targets_data = <const int64_t *>np.PyArray_DATA(targets)
    cdef const double *lse_data = doubles(lse)
    cdef const double *scale_data = doubles(scale)
    cdef const double *shift_data = doubles(shift)
    cdef size_t n_rows = np.PyArray_DIM(logits, 0), vocab = np.PyArray_DIM(logits, 1)
    cdef ragfast_dtype dtype = rows_dtype(logits, bfloat16)
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_target_grad(out_data, logits_data, targets_data, lse_data, scale_data, shift_data, n_rows,
                                     vocab, dtype, &options)
    check(status)


def rag_nll(np.ndarray scores not None, np.ndarray doc_scores not None, np.ndarray targets not None,
            np.ndarray weights, np.ndarray lse, np.ndarray logits_grad, bint bfloat16, bint by_token, bint as_hf,
            bint skip_first, bint lse_known, bint with_posterior, bint with_docs_grad, bint with_tokens_grad,
            double temperature, double label_smoothing, int n_threads):
    """Plain arrays: scores, either logits (B,K,T,V), floats or the bits of 16-bit ones, or token_logprobs (B,K,T) float64;
    doc_scores (B,K) float64, targets (B,T) int64. weights (B,) float64 or None. lse (B,K,T) float64, written, or
    read if lse_known, or None. logits_grad as logits, which it may be, or None.

    -> float64: nll (B,), and or None: the posterior (B,K), by token (B,K,T), the gradients of doc_scores and of
    token_logprobs."""
    cdef bint of_logits = np.PyArray_NDIM(scores) == 4
    require(scores, "scores", 3, 4, FLOATS if of_logits else DOUBLE)
    require(doc_scores, "doc_scores", 2, 2, DOUBLE)
    require_axes(doc_scores, "doc_scores", 0, scores, 0, 2)
    require(targets, "targets", 2, 2, INDEX)
    require_axes(targets, "targets", 0, scores, 0, 1)
    require_axes(targets, "targets", 1, scores, 2, 1)
    if weights is not None:
        require(weights, "weights", 1, 1, DOUBLE)
        require_axes(weights, "weights", 0, scores, 0, 1)
    if lse is not None:
        require(lse, "lse", 3, 3, DOUBLE)
        require_axes(lse, "lse", 0, scores, 0, 3)
        if not lse_known and not np.PyArray_ISWRITEABLE(lse):
            raise ValueError("lse: must be writable")
    if logits_grad is not None:
        require_output(logits_grad, "logits_grad", scores)
    cdef np.ndarray nll = empty_doubles(True, doc_scores, 1)
    cdef np.ndarray posterior = empty_doubles(with_posterior, scores, 3 if by_token else 2)
    cdef np.ndarray docs_grad = empty_doubles(with_docs_grad, doc_scores, 2)
    cdef np.ndarray tokens_grad = empty_doubles(with_tokens_grad, scores, 3)
    cdef ragfast_answers answers
    answers.logits = np.PyArray_DATA(scores) if of_logits else NULL
    answers.token_logprobs = NULL if of_logits else doubles(scores)
    answers.doc_scores = doubles(doc_scores)
    answers.targets = <const int64_t *>np.PyArray_DATA(targets)
    answers.n_queries = np.PyArray_DIM(scores, 0)
    answers.n_docs = np.PyArray_DIM(scores, 1)
    answers.n_tokens = np.PyArray_DIM(scores, 2)
    answers.vocab = np.PyArray_DIM(scores, 3) if of_logits else 1
    answers.dtype = rows_dtype(scores, bfloat16)
    cdef ragfast_loss loss
    loss.by_token = by_token
    loss.temperature = temperature
    loss.label_smoothing = label_smoothing
    loss.as_hf = as_hf
    loss.skip_first = skip_first
    loss.weights = doubles(weights)
    cdef ragfast_nll_out out
    out.nll = doubles(nll)
    out.posterior = doubles(posterior)
    out.doc_scores_grad = doubles(docs_grad)
    out.token_logprobs_grad = doubles(tokens_grad)
    out.logits_grad = NULL if logits_grad is None else np.PyArray_DATA(logits_grad)
    out.lse = doubles(lse)
    out.lse_known = lse_known
    cdef ragfast_options options = options_of(n_threads)
    cdef ragfast_status status
    with nogil:
        status = ragfast_rag_nll(&out, &answers, &loss, &options)
    check(status)
    return nll, posterior, docs_grad, tokens_grad
