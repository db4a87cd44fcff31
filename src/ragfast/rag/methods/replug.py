"""REPLUG: the mixture of a black-box language model's predictions under each document (Shi et al. 2023)."""

from __future__ import annotations

from typing import Any, Unpack

from ragfast._core import arrays
from ragfast._core.arrays import ArrayLike
from ragfast._core.signatures import options_of
from ragfast.marginal.decode_step import marginalize_step
from ragfast.marginal.loss import CommonOptions, rag_token_nll_from_logprobs
from ragfast.rag.methods.inputs import marginal_nll, temperate_logprobs

__all__ = ["replug_logprobs", "replug_nll"]


def replug_logprobs(
    logits: ArrayLike,
    doc_scores: ArrayLike,
    *,
    temperature: float = 1.0,
    n_best: int | None = None,
    n_threads: int | None = None,
) -> Any:
    """log p(v | x, D') = log sum_z w_z p(v | z, x) of the next token, w = softmax(doc_scores / temperature): REPLUG's
    ensemble (Shi et al. 2023, section 3.2), with input reformulated once for each document.

    logits (...,K,V), of any type that :func:`ragfast.marginalize_step` takes; doc_scores (...,K), -inf for a document
    that is missing. What is returned, (...,V) or with n_best the greatest and their tokens, and the errors are those of
    that function. The released code calculates w without subtracting the maximum, which overflows; FlashRAG's mixes
    logits instead of probabilities, with w = s / sum s, which is another distribution.

    >>> import numpy as np, ragfast.rag.methods
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    >>> np.exp(ragfast.rag.methods.replug_logprobs(logits, np.log([0.75, 0.25]))).round(4).tolist()
    [0.4, 0.3875, 0.2125]
    """
    scores = arrays.doubles(doc_scores, "doc_scores")
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"doc_scores: expected shape (..., K) with K of 1 or more, got {scores.shape}")
    divisor = arrays.finite_float(temperature, "temperature", above_zero=True)
    weights = temperate_logprobs(scores, divisor)
    step: Any = marginalize_step  # whose overloads tell a number from None
    return step(logits, weights, n_best=n_best, n_threads=n_threads)


@options_of(rag_token_nll_from_logprobs, without=["compat", "null_score", "grad"])
def replug_nll(
    token_logprobs: ArrayLike,
    doc_scores: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    return_posterior: bool = False,
    **options: Unpack[CommonOptions],
) -> Any:
    """-log p of a continuation under REPLUG's ensemble, which is taken anew for each token: the number of RAG-Token.

    token_logprobs (B,K,T) = log p(y_t | z, x, y_<t); everything as :func:`ragfast.rag_token_nll_from_logprobs`. Of
    reduction "token_mean" the exponential is the perplexity.

    >>> import numpy as np, ragfast.rag.methods
    >>> nll = ragfast.rag.methods.replug_nll(np.log([[[0.5, 0.8], [0.2, 0.4]]]), [[0.0, 0.0]])
    >>> round(float(np.exp(-nll)), 4)
    0.21
    """
    return marginal_nll(token_logprobs, doc_scores, (), None, return_posterior, marginal="token", mask=mask, **options)
