"""Losses that teach a retriever which documents a language model finds useful: each a KL divergence of two softmaxes.

In all of them doc_scores (...,K) are the retriever's, of which -inf is a document that is missing: what the language
model is said to think of that one is not read. The language model is constant, as in the papers: with return_grad the
gradient (...,K) is with regard to doc_scores. temperature divides doc_scores, target_temperature what the language
model says. reduction, dtypes, and the errors that are not named here are those of :func:`ragfast.kl_divergence`; the
released code of Atlas, FiD and REPLUG has reduction "mean", torch's default for KLDivLoss, which divides by K as well.
A question of which every document is missing has a loss of NaN.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast._core.arrays import ArrayLike
from ragfast._core.signatures import options_of
from ragfast.marginal.divergence import Direction, DivergenceOptions, kl_divergence
from ragfast.rag.methods.inputs import MaskedDivergenceOptions, narrowed, summed_logprobs

__all__ = ["adist_loss", "fid_distillation_loss", "loop_loss", "pdist_loss", "replug_lsr_loss"]


class _Options(DivergenceOptions, total=False):
    return_grad: bool


class _MaskedOptions(MaskedDivergenceOptions, _Options, total=False):
    pass


@options_of(kl_divergence, without=["direction"])
def _from_answers(
    doc_scores: Any,
    token_logprobs: Any,
    name: str,
    direction: Direction,
    leave_one_out: bool = False,
    /,
    *,
    mask: ArrayLike | None = None,
    length_normalized: bool = False,
    **options: Unpack[_Options],
) -> Any:
    """Return the divergence from answers, given under each document or, with leave_one_out, without each document."""
    target, is_single = summed_logprobs(token_logprobs, mask, length_normalized, name)
    target = -target if leave_one_out else target
    return _distilled(doc_scores, target, is_single, name, leave_one_out, direction=direction, **options)


def _from_scores(doc_scores: Any, target_scores: Any, name: str, options: _Options) -> Any:
    """Return the forward divergence from scores that are given, one for each document."""
    given = arrays.floats(target_scores, name)
    is_single = given.dtype.num == arrays.FLOAT
    return _distilled(doc_scores, given.astype(np.float64), is_single, name, False, direction="forward", **options)


def _distilled(
    doc_scores: Any, target: NDArray[np.float64], is_single: bool, name: str, infinity_has_all: bool, **options: Any
) -> Any:
    """Return kl_divergence from target (...,K), calculated from the argument `name`. It is float32 if is_single and
    doc_scores are. A target of +inf has all of Q with infinity_has_all, and gives NaN otherwise."""
    given = arrays.floats(doc_scores, "doc_scores")
    if given.ndim == 0 or given.shape[-1] == 0:
        raise ValueError(f"doc_scores: expected shape (..., K) with K of 1 or more, got {given.shape}")
    if target.shape != given.shape:
        raise ValueError(
            f"{name}: expected one answer or score for each of doc_scores, {given.shape}, got {target.shape}"
        )
    scores = arrays.wide(given)
    target = np.where(scores == -np.inf, -np.inf, target)
    if infinity_has_all:
        infinite = target == np.inf
        target = np.where(
            infinite.any(axis=-1, keepdims=True) & ~np.isnan(target), np.where(infinite, 0.0, -np.inf), target
        )
    found: Any = kl_divergence(scores, target, **options)
    if not (is_single and given.dtype.num == arrays.FLOAT):
        return found
    return tuple(map(narrowed, found)) if isinstance(found, tuple) else narrowed(found)


@options_of(_from_answers)
def pdist_loss(doc_scores: ArrayLike, token_logprobs: ArrayLike, **options: Unpack[_MaskedOptions]) -> Any:
    """Perplexity distillation, PDist (Izacard et al. 2023, Atlas, section 2.2): KL(Q || P) of P = softmax(doc_scores)
    from the language model's posterior under a uniform prior, Q(z) = p(y|x,z) / sum_z' p(y|x,z').

    doc_scores (...,K); token_logprobs (...,K,T) = log p(y_t | x, z, y_<t); mask (...,T) is True where a token is
    scored, by default everywhere. The released code divides log p(y|x,z) by the number of tokens: length_normalized,
    with both temperatures 0.01, doc_scores divided by the root of D, and reduction "mean".

    ValueError for shapes that do not go together, or a mean over no tokens.

    >>> import numpy as np, ragfast.rag.methods
    >>> token_logprobs = np.log([[[0.5, 0.5], [0.25, 1.0], [0.5, 1.0]]])  # 1 question, 3 documents, 2 tokens
    >>> loss, grad = ragfast.rag.methods.pdist_loss(np.zeros((1, 3)), token_logprobs, return_grad=True)
    >>> round(float(loss), 4), grad.round(4).tolist()
    (0.0589, [[0.0833, 0.0833, -0.1667]])
    """
    return _from_answers(doc_scores, token_logprobs, "token_logprobs", "forward", **options)


@options_of(_from_answers)
def loop_loss(doc_scores: ArrayLike, left_out_logprobs: ArrayLike, **options: Unpack[_MaskedOptions]) -> Any:
    """Leave-one-out perplexity distillation, LOOP (Izacard et al. 2023, Atlas, section 2.2): KL(Q || P) with
    Q(z) proportional to 1 / p(y | x, all documents but z): a document counts for what is lost without it. One without
    which the answer is impossible, with left_out_logprobs of -inf, has all of Q, as its limit is; several have equal
    parts of it.

    left_out_logprobs (...,K,T) = log p(y_t | x, all documents but z, y_<t). Everything else as :func:`pdist_loss`,
    also what the released code does differently.

    >>> import numpy as np, ragfast.rag.methods
    >>> left_out = np.log([[[0.5, 0.5], [0.5, 1.0]]])  # 1/4 without the first, 1/2 without the second
    >>> loss, grad = ragfast.rag.methods.loop_loss(np.zeros((1, 2)), left_out, return_grad=True)
    >>> round(float(loss), 4), grad.round(4).tolist()
    (0.0566, [[-0.1667, 0.1667]])
    """
    return _from_answers(doc_scores, left_out_logprobs, "left_out_logprobs", "forward", True, **options)


@options_of(kl_divergence, without=["direction"])
def adist_loss(doc_scores: ArrayLike, attention_scores: ArrayLike, **options: Unpack[_Options]) -> Any:
    """Attention distillation, ADist (Izacard et al. 2023, Atlas, section 2.2): KL(Q || P) with Q = softmax of
    attention_scores (...,K), how much the reader's cross-attention took from each document.

    :func:`ragfast.rag.methods.attention_scores` makes them from attention weights and the norms of values. The released
    code has both temperatures 0.01, doc_scores divided by the root of D, and reduction "mean".

    >>> import numpy as np, ragfast.rag.methods
    >>> round(float(ragfast.rag.methods.adist_loss([[0.0, 0.0]], np.log([[0.75, 0.25]]))), 4)
    0.1308
    """
    return _from_scores(doc_scores, attention_scores, "attention_scores", options)


@options_of(kl_divergence, without=["direction"])
def fid_distillation_loss(doc_scores: ArrayLike, reader_scores: ArrayLike, **options: Unpack[_Options]) -> Any:
    """Distillation of a Fusion-in-Decoder reader into its retriever (Izacard and Grave 2021, section 3): KL(Q || P)
    with Q = softmax of reader_scores (...,K), the cross-attention scores before their softmax, averaged for each
    document.

    :func:`ragfast.rag.methods.attention_scores` averages them, without value_norms. In the paper doc_scores are inner
    products divided by the root of D, and its loss is the sum over questions (reduction "sum"); the released code has
    reduction "mean".

    >>> import numpy as np, ragfast.rag.methods
    >>> round(float(ragfast.rag.methods.fid_distillation_loss([[1.0, 0.0]], [[2.0, 0.0]])), 4)
    0.0671
    """
    return _from_scores(doc_scores, reader_scores, "reader_scores", options)


@options_of(_from_answers)
def replug_lsr_loss(
    doc_scores: ArrayLike,
    token_logprobs: ArrayLike,
    *,
    direction: Direction = "reverse",
    **options: Unpack[_MaskedOptions],
) -> Any:
    """REPLUG LSR (Shi et al. 2023, section 4): KL(P || Q) of P = softmax(doc_scores / temperature), gamma in the paper,
    and Q = softmax(log p(y|x,z) / target_temperature), beta in the paper.

    Arguments as :func:`pdist_loss`. The released code has the other direction, KL(Q || P), which is direction
    "forward", with reduction "mean", and passes the last document's likelihood instead of all of them, which is not
    reproduced. In the paper's direction a document that the language model rules out, with token_logprobs of -inf,
    makes the loss +inf.

    >>> import numpy as np, ragfast.rag.methods
    >>> token_logprobs = np.log([[[0.5, 0.5], [0.75, 1.0]]])
    >>> round(float(ragfast.rag.methods.replug_lsr_loss(np.zeros((1, 2)), token_logprobs)), 4)
    0.1438
    >>> round(float(ragfast.rag.methods.replug_lsr_loss(np.zeros((1, 2)), token_logprobs, direction="forward")), 4)
    0.1308
    """
    return _from_answers(doc_scores, token_logprobs, "token_logprobs", direction, **options)
