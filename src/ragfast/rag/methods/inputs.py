"""Inputs that several methods share: options, masks, scored answers, and scores as log-probabilities."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast._core.arrays import ArrayLike
from ragfast._core.signatures import options_of
from ragfast.marginal.divergence import DivergenceOptions
from ragfast.marginal.loss import CommonOptions, rag_sequence_nll_from_logprobs, rag_token_nll_from_logprobs

Marginal: TypeAlias = Literal["sequence", "token"]

MARGINALS = ("sequence", "token")


class MarginalOptions(CommonOptions, total=False):
    """Options of the losses that marginalize over documents."""

    marginal: Marginal


class MaskedMarginalOptions(MarginalOptions, total=False):
    """The same, where answers have a mask."""

    mask: ArrayLike | None


class MaskedDivergenceOptions(DivergenceOptions, total=False):
    """Options of the losses that are a divergence from the log-probabilities of answers."""

    mask: ArrayLike | None
    length_normalized: bool


@options_of(rag_sequence_nll_from_logprobs, without=["compat", "grad", "null_score", "return_posterior"])
def marginal_nll(
    token_logprobs: Any,
    doc_scores: Any,
    grad: Any = (),
    null_score: Any = None,
    return_posterior: bool = False,
    /,
    *,
    marginal: Marginal = "sequence",
    **options: Any,
) -> Any:
    """Return the loss that marginalizes whole answers, or each token."""
    arrays.one_of(marginal, "marginal", MARGINALS)
    loss: Any = rag_sequence_nll_from_logprobs if marginal == "sequence" else rag_token_nll_from_logprobs
    return loss(
        token_logprobs,
        doc_scores,
        grad=grad,
        null_score=null_score,
        return_posterior=return_posterior,
        compat="paper",
        **options,
    )


def refuse_token_mean(reduction: object) -> None:
    """Raise for the reduction that candidates, which are no tokens, do not have."""
    if reduction == "token_mean":
        raise ValueError('reduction: expected "none", "sum" or "mean", got \'token_mean\'')


def bools(x: ArrayLike, name: str, shape: tuple[int, ...], why: str) -> NDArray[np.bool_]:
    """x as an array of bool of that shape; why is the rest of the sentence that says what was expected."""
    a = arrays.as_array(x, name)
    if a.dtype != np.bool_ and (a.size or isinstance(x, np.ndarray)):
        raise TypeError(f"{name}: expected bool, got {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, {why}, got {a.shape}")
    return a.astype(np.bool_, copy=False)


def summed_logprobs(
    token_logprobs: ArrayLike, mask: ArrayLike | None, length_normalized: bool, name: str
) -> tuple[NDArray[np.float64], bool]:
    """log p(y) (...,K) of token_logprobs (...,K,T), or its mean over the tokens that mask (...,T) scores; and whether
    they are float32."""
    given = arrays.floats(token_logprobs, name)
    if given.ndim < 2:
        raise ValueError(f"{name}: expected shape (..., K, T), got {given.shape}")
    shape = (*given.shape[:-2], given.shape[-1])
    scored = np.ones(shape, bool) if mask is None else bools(mask, "mask", shape, f"as {name} has shape {given.shape}")
    n = scored.sum(axis=-1)
    with np.errstate(invalid="ignore"):  # NaN comes of infinities of either sign, and is passed on
        total = given.sum(axis=-1, dtype=np.float64, where=scored[..., None, :])
    if length_normalized:
        if n.size and n.min() == 0:
            raise ValueError(f"{name}: expected an answer of one scored token or more to take the mean of")
        total = total / n[..., None]
    return total, given.dtype.num == arrays.FLOAT


def narrowed(x: Any) -> Any:
    """x, a number or an array of float64, rounded to float32."""
    return _kernels.narrowed(np.asarray(x))[()]


def temperate_logprobs(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """log_softmax(scores / temperature) over the last axis, of scores less the best one: that changes no probability,
    and no division by a small temperature overflows where it matters."""
    best = scores.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        below = np.where(scores == best, np.where(np.isfinite(best), 0.0, scores), scores - best) / temperature
    return _kernels.log_softmax(arrays.plain(below), 0)
