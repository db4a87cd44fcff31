"""REALM: retrieval as a latent variable, with the null document (Guu et al. 2020)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, Unpack

import numpy as np

from ragfast._core import arrays
from ragfast._core.arrays import ArrayLike
from ragfast._core.signatures import options_of
from ragfast.marginal.loss import NLL, LogprobsGrad, Reduction, rag_sequence_nll_from_logprobs
from ragfast.rag.methods.inputs import MaskedMarginalOptions, bools, marginal_nll, narrowed, refuse_token_mean

__all__ = ["marginal_log_loss", "realm_nll", "realm_reader_nll"]

Normalization: TypeAlias = Literal["document", "joint"]

NORMALIZATIONS = ("document", "joint")


@options_of(marginal_nll)
def realm_nll(
    token_logprobs: ArrayLike,
    doc_scores: ArrayLike,
    *,
    null_score: ArrayLike | None,
    grad: LogprobsGrad = (),
    return_posterior: bool = False,
    **options: Unpack[MaskedMarginalOptions],
) -> Any:
    """Pre-training of REALM (Guu et al. 2020, section 3): -log p(y|x) = -log sum_z p(z|x) p(y|z,x), where p(y|z,x) is
    the product over the masked tokens of x, and the null document is one more candidate beside the K retrieved.

    token_logprobs (B,K+1,T) = log p(y_t | z, x) of T masked tokens, the null document last; mask (B,T) is True for
    those that exist. doc_scores (B,K), and null_score, a number or (B,), that of the null document: q(x) . d(null) in
    the paper. None for null_score means no null document, and token_logprobs (B,K,T). A trivial candidate, the passage
    that x itself comes from, is excluded by a score of -inf.

    Options and what is returned are as in :func:`ragfast.rag_sequence_nll_from_logprobs`. The code in transformers
    takes the mixture token by token and divides by the number of masked tokens: marginal "token" and reduction
    "token_mean".

    >>> import numpy as np, ragfast.rag.methods
    >>> token_logprobs = np.log([[[0.9, 0.8], [0.2, 0.4], [0.1, 0.1]]])  # two documents and the null document
    >>> nll = ragfast.rag.methods.realm_nll(token_logprobs, [[2.0, 0.0]], null_score=1.0, return_posterior=True)
    >>> round(float(nll.loss), 4), nll.posterior.round(4).tolist()
    (0.7162, [[0.9803, 0.0147, 0.005]])
    """
    return marginal_nll(token_logprobs, doc_scores, grad, null_score, return_posterior, **options)


def marginal_log_loss(
    scores: ArrayLike,
    correct: ArrayLike,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    return_grad: bool = False,
    n_threads: int | None = None,
) -> Any:
    """-log of the probability that a softmax over n candidates gives to those that are correct: logsumexp of all scores
    less that of the correct ones. Of documents that contain the answer it is REALM's loss of the retriever, of spans
    that of its reader.

    scores (B,n), -inf for a candidate that is missing; correct (B,n) bool. reduction is "none" (B,), "sum" or "mean".
    A question with no correct candidate has a loss of +inf and a gradient of 0; REALM leaves such questions out.
    With return_grad also the gradient (B,n) of the loss, or of its sum, with regard to scores. float64 for float64
    scores, else float32.

    TypeError for other dtypes, ValueError for shapes that do not go together or no candidate.

    >>> import numpy as np, ragfast.rag.methods
    >>> loss, grad = ragfast.rag.methods.marginal_log_loss(
    ...     np.log([[0.5, 0.25, 0.25]]), [[True, False, True]], return_grad=True
    ... )
    >>> round(float(np.exp(-loss)), 4), grad.round(4).tolist()
    (0.75, [[-0.1667, 0.25, -0.0833]])
    """
    given = arrays.floats(scores, "scores")
    if given.ndim != 2 or given.shape[1] == 0:
        raise ValueError(f"scores: expected shape (B, n) with n of 1 or more, got {given.shape}")
    refuse_token_mean(reduction)
    right = bools(correct, "correct", given.shape, "that of scores")
    # The mixture over candidates, each of which is right with probability 1 or 0.
    nll = rag_sequence_nll_from_logprobs(
        np.where(right, 0.0, -np.inf).astype(given.dtype.newbyteorder("="))[..., None],
        given,
        temperature=temperature,
        reduction=reduction,
        grad=["doc_scores"] if return_grad else (),
        n_threads=n_threads,
    )
    return (nll.loss, nll.doc_scores_grad) if return_grad else nll


def realm_reader_nll(
    span_scores: ArrayLike,
    doc_scores: ArrayLike,
    correct: ArrayLike,
    *,
    normalization: Normalization = "document",
    reduction: Reduction = "mean",
    return_grad: bool = False,
    n_threads: int | None = None,
) -> Any:
    """Fine-tuning of REALM (Guu et al. 2020, section 3.2): -log p(y|x) = -log sum_z p(z|x) p(y|z,x), p(y|z,x) being the
    share of the spans that match the answer in a softmax over the spans of document z.

    span_scores (B,K,S), of S candidate spans of each document, -inf where there are fewer; doc_scores (B,K), -inf for a
    document that is missing, of which no span is read; correct (B,K,S) bool. Where no span is correct the loss is +inf.

    normalization "joint" is that of the code in transformers: one softmax over all spans of all documents of
    span_scores + doc_scores, by which a document of many good spans has more weight than p(z|x).

    Returns the loss, as :func:`marginal_log_loss`; with return_grad an :class:`ragfast.NLL`, of which doc_scores_grad
    is (B,K), and logits_grad (B,K,S) the gradient with regard to span_scores.

    >>> import numpy as np, ragfast.rag.methods
    >>> span_scores = np.log([[[3.0, 1.0], [1.0, 1.0]]])
    >>> correct = [[[True, False], [False, True]]]
    >>> loss = ragfast.rag.methods.realm_reader_nll(span_scores, [[0.0, 0.0]], correct)
    >>> joint = ragfast.rag.methods.realm_reader_nll(span_scores, [[0.0, 0.0]], correct, normalization="joint")
    >>> round(float(np.exp(-loss)), 4), round(float(np.exp(-joint)), 4)
    (0.625, 0.6667)
    """
    arrays.one_of(normalization, "normalization", NORMALIZATIONS)
    given = arrays.floats(span_scores, "span_scores")
    if given.ndim != 3 or 0 in given.shape[1:]:
        raise ValueError(f"span_scores: expected shape (B, K, S) with K and S of 1 or more, got {given.shape}")
    docs, _ = arrays.shaped_doubles(doc_scores, "doc_scores", f"{given.shape[:2]}", given.shape[:2])
    right = bools(correct, "correct", given.shape, "that of span_scores")
    refuse_token_mean(reduction)
    spans = np.where((docs == -np.inf)[..., None], -np.inf, given.astype(np.float64))
    grads: list[Any] = []
    if normalization == "joint":
        both = (spans + docs[..., None]).reshape(len(spans), -1)
        loss = marginal_log_loss(
            both, right.reshape(both.shape), reduction=reduction, return_grad=return_grad, n_threads=n_threads
        )
        if return_grad:
            loss, by_span = loss
            spans_grad = by_span.reshape(given.shape)
            grads = [spans_grad.sum(axis=-1), spans_grad]
    else:
        rows = spans.reshape(-1, given.shape[2])
        by_doc, by_span = marginal_log_loss(
            rows, right.reshape(rows.shape), reduction="none", return_grad=True, n_threads=n_threads
        )
        loss = rag_sequence_nll_from_logprobs(
            -by_doc.reshape(*docs.shape, 1),
            docs,
            reduction=reduction,
            grad=["doc_scores", "token_logprobs"] if return_grad else (),
            n_threads=n_threads,
        )
        if return_grad:
            grads = [loss.doc_scores_grad, -loss.token_logprobs_grad * by_span.reshape(given.shape)]
            loss = loss.loss
    found = [loss, *grads]
    if given.dtype.num == arrays.FLOAT:
        found = [narrowed(x) for x in found]
    return NLL(found[0], doc_scores_grad=found[1], logits_grad=found[2]) if return_grad else found[0]
