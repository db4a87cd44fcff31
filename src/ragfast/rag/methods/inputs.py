"""What the methods take alike: answers scored under each document, the marginal to use, scores as log-probabilities."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast.marginal.loss import rag_sequence_nll_from_logprobs, rag_token_nll_from_logprobs

Marginal: TypeAlias = Literal["sequence", "token"]

MARGINALS = ("sequence", "token")


def marginal_nll(marginal: Marginal, token_logprobs: Any, doc_scores: Any, **options: Any) -> Any:
    """-log of the mixture over documents, of whole answers or token by token."""
    arrays.one_of(marginal, "marginal", MARGINALS)
    loss = rag_sequence_nll_from_logprobs if marginal == "sequence" else rag_token_nll_from_logprobs
    return loss(token_logprobs, doc_scores, **options)


def bools(x: arrays.ArrayLike, name: str, shape: tuple[int, ...], why: str) -> NDArray[np.bool_]:
    """x as an array of bool of that shape; why is the rest of the sentence that says what was expected."""
    a = arrays.as_array(x, name)
    if a.dtype != np.bool_ and (a.size or isinstance(x, np.ndarray)):
        raise TypeError(f"{name}: expected bool, got {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, {why}, got {a.shape}")
    return a.astype(np.bool_, copy=False)


def summed_logprobs(
    token_logprobs: arrays.ArrayLike, mask: arrays.ArrayLike | None, length_normalized: bool, name: str
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


def temperate_logprobs(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """log_softmax(scores / temperature) over the last axis, of scores less the best one: that changes no probability,
    and no division by a small temperature overflows where it matters."""
    best = scores.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        below = np.where(scores == best, np.where(np.isfinite(best), 0.0, scores), scores - best) / temperature
    return _kernels.log_softmax(arrays.plain(below), 0)
