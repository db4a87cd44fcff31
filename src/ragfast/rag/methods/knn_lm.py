"""kNN-LM: a language model's next token mixed with what followed the nearest contexts (Khandelwal et al. 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast._core.arrays import ArrayLike
from ragfast.index import FlatIndex
from ragfast.marginal.lse import logsumexp, marginalize_token, segment_logsumexp
from ragfast.rag.methods.inputs import temperate_logprobs

__all__ = ["KNNDatastore", "knn_lm_logprobs", "knn_lm_target_logprobs"]


class KNNDatastore:
    """The datastore (Khandelwal et al. 2020, section 2): keys (N,D), float32 or what widens to it, the representation
    of each context, and tokens (N,) integers of 0 or more, what followed it.

    metric is "l2", the squared distance as in the paper, or another of :class:`ragfast.FlatIndex`, which searches and
    whose errors are; ValueError for a token below 0.

    >>> import numpy as np
    >>> from ragfast.rag.methods import KNNDatastore
    >>> store = KNNDatastore(np.float32([[0, 0], [1, 0], [9, 9]]), tokens=[4, 2, 4])
    >>> scores, tokens = store.search(np.float32([[0, 0]]), 2)
    >>> scores.tolist(), tokens.tolist()
    ([[0.0, -1.0]], [[4, 2]])
    """

    def __init__(self, keys: ArrayLike, tokens: ArrayLike, *, metric: str = "l2") -> None:
        self._index = FlatIndex.from_vectors(keys, metric=metric)
        n = len(self._index)
        followed = arrays.integers(tokens, "tokens", f"({n},), one for each key", (n,))
        if n and followed.min() < 0:
            raise ValueError(f"tokens: expected 0 or more, got {followed.min()}")
        self._tokens = np.append(followed, -1)  # the last is that of no neighbour, id -1

    def __len__(self) -> int:
        return len(self._index)

    def search(
        self, queries: ArrayLike, k: int, *, n_threads: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The k nearest contexts of each query (B,D): scores (B,k), -|q - key|^2 for "l2", and the tokens that followed
        (B,k); -inf and -1 where the datastore holds fewer."""
        scores, ids = self._index.search(queries, k, n_threads=n_threads, dtype=np.float64)
        return scores, self._tokens[ids]


def knn_lm_logprobs(
    lm_logprobs: ArrayLike,
    scores: ArrayLike,
    tokens: ArrayLike,
    *,
    knn_weight: float = 0.25,
    temperature: float = 1.0,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """log p(v | x) = log[(1 - w) p_LM(v | x) + w p_kNN(v | x)] of each token v, where p_kNN(v) is the share of the
    neighbours that v followed in softmax(scores / temperature) (Khandelwal et al. 2020, section 2).

    lm_logprobs (...,V), normalised; scores (...,K), the greater the nearer, -|q - key|^2 in the paper; tokens (...,K)
    integers below V, or -1 for no neighbour. knn_weight is w, from 0 to 1: lambda in the paper, 0.25 on WikiText-103.
    Returns (...,V), float32 if both are, else float64. Without any neighbour it is p_LM.

    TypeError for other dtypes, ValueError for shapes that do not go together, no neighbours (K of 0), a token of V or
    more, or a number out of range.

    >>> import numpy as np, ragfast.rag.methods
    >>> lm_logprobs = np.log([0.5, 0.25, 0.25])
    >>> found = ragfast.rag.methods.knn_lm_logprobs(lm_logprobs, np.log([0.6, 0.2, 0.2]), [2, 0, 2], knn_weight=0.5)
    >>> np.exp(found).round(4).tolist()
    [0.35, 0.125, 0.525]
    """
    given = arrays.floats(lm_logprobs, "lm_logprobs")
    if given.ndim == 0 or given.shape[-1] == 0:
        raise ValueError(f"lm_logprobs: expected shape (..., V) with V of 1 or more, got {given.shape}")
    votes, chosen, single = _votes(scores, tokens, given.shape[:-1], temperature)
    of_neighbours = segment_logsumexp(votes, chosen, given.shape[-1], n_threads=n_threads)
    return _mixed(given, of_neighbours, votes, knn_weight, single)


def knn_lm_target_logprobs(
    lm_logprobs: ArrayLike,
    scores: ArrayLike,
    tokens: ArrayLike,
    targets: ArrayLike,
    *,
    knn_weight: float = 0.25,
    temperature: float = 1.0,
) -> Any:
    """:func:`knn_lm_logprobs` of one token a context, to score text with no array over the vocabulary.

    lm_logprobs (...,) = log p_LM of targets (...,), integers; scores and tokens (...,K). Returns (...,). A target
    below 0 has no neighbours' votes.

    >>> import numpy as np, ragfast.rag.methods
    >>> scores, tokens = np.log([[0.6, 0.2, 0.2]]), [[2, 0, 2]]
    >>> found = ragfast.rag.methods.knn_lm_target_logprobs(np.log([0.25]), scores, tokens, [2], knn_weight=0.5)
    >>> np.exp(found).round(4).tolist()
    [0.525]
    """
    given = arrays.floats(lm_logprobs, "lm_logprobs")
    votes, chosen, single = _votes(scores, tokens, given.shape, temperature)
    wanted = arrays.integers(targets, "targets", f"{given.shape}, that of lm_logprobs", given.shape)
    agree = (chosen == wanted[..., None]) & (chosen >= 0)
    of_neighbours = np.asarray(logsumexp(np.where(agree, votes, -np.inf)))
    return _mixed(given[..., None], of_neighbours[..., None], votes, knn_weight, single)[..., 0]


def _votes(
    scores: Any, tokens: Any, leading: tuple[int, ...], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], bool]:
    """log_softmax(scores / temperature) of the neighbours that there are, their tokens, and whether scores are
    float32."""
    given = arrays.floats(scores, "scores")
    if given.ndim == 0 or given.shape[:-1] != leading or given.shape[-1] == 0:
        expected = "".join(f"{n}, " for n in leading)
        raise ValueError(f"scores: expected shape ({expected}K) with K of 1 or more, got {given.shape}")
    chosen = arrays.integers(tokens, "tokens", f"{given.shape}, that of scores", given.shape)
    divisor = arrays.finite_float(temperature, "temperature", above_zero=True)
    votes = temperate_logprobs(np.where(chosen < 0, -np.inf, given), divisor)
    return votes, chosen, given.dtype.num == arrays.FLOAT


def _mixed(
    lm_logprobs: NDArray[Any],
    of_neighbours: NDArray[np.float64],
    votes: NDArray[np.float64],
    weight: float,
    single: bool,
) -> NDArray[Any]:
    """The mixture of two distributions, by the kernel that mixes K documents'."""
    share = arrays.finite_float(weight, "knn_weight", above_zero=False)
    if share > 1:
        raise ValueError(f"knn_weight: expected a number from 0 to 1, got {share}")
    with np.errstate(divide="ignore"):
        both = np.log([1 - share, share])
    none = (votes == -np.inf).all(axis=-1, keepdims=True)
    weights = np.where(none, [0.0, -np.inf], both)
    mixed = marginalize_token(weights, np.stack([lm_logprobs.astype(np.float64), of_neighbours], axis=-2))
    return _kernels.narrowed(mixed) if single and lm_logprobs.dtype.num == arrays.FLOAT else mixed
