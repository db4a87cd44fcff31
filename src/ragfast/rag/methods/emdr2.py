"""EMDR2: a retriever trained by the marginal likelihood of an answer, the reader being constant."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, Unpack

import numpy as np

from ragfast._core import arrays
from ragfast._core.arrays import ArrayLike
from ragfast._core.signatures import options_of
from ragfast.marginal.loss import target_logprobs
from ragfast.rag.methods.inputs import MarginalOptions, MaskedMarginalOptions, marginal_nll

__all__ = ["atlas_emdr2_loss", "emdr2_loss", "emdr2_utility"]

RetrieverGrad: TypeAlias = tuple[Literal["doc_scores"], ...] | list[Literal["doc_scores"]]


@options_of(marginal_nll)
def emdr2_loss(
    token_logprobs: ArrayLike,
    doc_scores: ArrayLike,
    *,
    null_score: ArrayLike | None = None,
    grad: RetrieverGrad = (),
    return_posterior: bool = False,
    **options: Unpack[MaskedMarginalOptions],
) -> Any:
    """The retriever's term of EMDR2 (Singh et al. 2021, section 2.3): -log sum_z p(z|x) p(y|x,z), of which only p(z|x)
    = softmax(doc_scores / temperature) is trained: the reader's p(y|x,z) has a stop-gradient.

    token_logprobs (B,K,T), doc_scores (B,K), mask (B,T), reduction, null_score and what is returned are as in
    :func:`ragfast.rag_sequence_nll_from_logprobs`; grad may ask for "doc_scores" alone. The reader's own term, -log p
    of the answer given all documents at once, is an ordinary cross-entropy to be added.

    The released code, and that of Atlas, takes the mixture token by token, -sum_t log sum_z p(z|x) p(y_t | x, z, y_<t),
    over the number of tokens: marginal "token" and reduction "token_mean". Its other option, the divergence from the
    reader's preferences, is :func:`ragfast.rag.methods.pdist_loss` with length_normalized.

    >>> import numpy as np, ragfast.rag.methods
    >>> token_logprobs = np.log([[[0.5, 0.8], [0.2, 0.4]]])  # 1 question, 2 documents, 2 tokens
    >>> nll = ragfast.rag.methods.emdr2_loss(token_logprobs, [[0.0, 0.0]], grad=["doc_scores"])
    >>> round(float(np.exp(-nll.loss)), 4), nll.doc_scores_grad.round(4).tolist()
    (0.24, [[-0.3333, 0.3333]])
    """
    _refuse_reader(grad)
    return marginal_nll(token_logprobs, doc_scores, grad, null_score, return_posterior, **options)


@options_of(marginal_nll, without=["mask"])
def atlas_emdr2_loss(
    logits: ArrayLike,
    doc_scores: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int | None = None,
    target_temperature: float = 1.0,
    grad: RetrieverGrad = (),
    return_posterior: bool = False,
    **options: Unpack[MarginalOptions],
) -> Any:
    """EMDR2 as in Atlas (Izacard et al. 2023, section 2.2): :func:`emdr2_loss` of logits (B,K,T,V), which
    target_temperature divides before their softmax, for targets (B,T), at ignore_index not scored.

    The released code has marginal "token", reduction "token_mean", both temperatures 0.01, and doc_scores divided by
    the root of D. Logits are of any type that :func:`ragfast.target_logprobs` takes, and copied where
    target_temperature is not 1.

    >>> import numpy as np, ragfast.rag.methods
    >>> logits = np.log([[[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]]])  # (1,2,2,3)
    >>> loss = ragfast.rag.methods.atlas_emdr2_loss(logits, [[0.0, 0.0]], [[0, 2]])
    >>> round(float(np.exp(-loss)), 4)
    0.24
    """
    _refuse_reader(grad)
    divisor = arrays.finite_float(target_temperature, "target_temperature", above_zero=True)
    scaled = logits if divisor == 1 else arrays.floats(logits, "logits") / divisor
    shape = tuple(np.shape(scaled))
    if len(shape) != 4 or 0 in (shape[1], shape[3]):
        raise ValueError(f"logits: expected shape (B, K, T, V) with K and V of 1 or more, got {shape}")
    answers = arrays.integers(targets, "targets", f"({shape[0]}, {shape[2]})", (shape[0], shape[2]))
    mask = None if ignore_index is None else answers != ignore_index
    n_threads = options.get("n_threads")
    scored = target_logprobs(scaled, answers[:, None], ignore_index=ignore_index, n_threads=n_threads)
    return marginal_nll(scored, doc_scores, grad, None, return_posterior, mask=mask, **options)


@options_of(marginal_nll)
def emdr2_utility(
    token_logprobs: ArrayLike, null_logprobs: ArrayLike, doc_scores: ArrayLike, **options: Unpack[MaskedMarginalOptions]
) -> Any:
    """What retrieval is worth: log p(y|x), marginal over documents, less log p(y | x, the null block), the answer's
    probability under an empty document; above 0 where retrieval helps. It is the "retriever utility" that the released
    code of EMDR2 (Singh et al. 2021) reports beside its loss, there with marginal "token" and reduction "token_mean".

    null_logprobs (B,T) are the answer's under the null block; all else as :func:`emdr2_loss`. Returns (B,) for
    reduction "none", else a number.

    >>> import numpy as np, ragfast.rag.methods
    >>> token_logprobs = np.log([[[0.5, 0.8], [0.2, 0.4]]])
    >>> round(float(ragfast.rag.methods.emdr2_utility(token_logprobs, np.log([[0.2, 0.3]]), [[0.0, 0.0]])), 4)
    1.3863
    """
    null = arrays.floats(null_logprobs, "null_logprobs")
    given = arrays.floats(token_logprobs, "token_logprobs")
    if given.ndim != 3 or null.shape != (given.shape[0], given.shape[2]):
        raise ValueError(
            f"null_logprobs: expected shape (B, T) for token_logprobs (B, K, T), got {null.shape} and {given.shape}"
        )
    without = marginal_nll(null[:, None], np.zeros((len(null), 1)), **options)
    return without - marginal_nll(given, doc_scores, **options)


def _refuse_reader(grad: Any) -> None:
    if not isinstance(grad, (tuple, list)) or any(name != "doc_scores" for name in grad):
        raise ValueError(f'grad: expected ["doc_scores"] or nothing, as the reader is constant, got {grad!r}')
