"""How much a reader's cross-attention takes from each document: what ADist and FiD distillation learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast._core.arrays import ArrayLike
from ragfast.rag.methods.inputs import bools

__all__ = ["attention_scores"]


def attention_scores(
    attention: ArrayLike,
    value_norms: ArrayLike | None = None,
    *,
    token_mask: ArrayLike | None = None,
    target_mask: ArrayLike | None = None,
    context_length: int | None = None,
) -> NDArray[np.float64]:
    """Of each document the mean, over layers, heads, target tokens and its own tokens, of what a Fusion-in-Decoder
    reader's cross-attention gave it: (B,K) float64.

    attention (B,L,H,T,K,S) is that of T target tokens to S tokens of each of K documents in L layers of H heads. For
    ADist it is the attention weights, and value_norms (B,L,H,K,S) are the norms of the values they weigh (Izacard et
    al. 2023, Atlas, section 2.2); for FiD distillation it is the scores before the softmax, without norms, of the first
    target token alone: ``attention[:, :, :, :1]`` (Izacard and Grave 2021, section 3). token_mask (B,K,S) and
    target_mask (B,T) are True for tokens that count, by default all; the others are not read. A document of no tokens
    has -inf.

    context_length divides the sum over a document's tokens by this number rather than by how many there are: 256 in
    the released code of Atlas, which so prefers long documents.

    TypeError for other dtypes, ValueError for shapes that do not go together, or no layer, head or target token.

    >>> import numpy as np, ragfast.rag.methods
    >>> attention = np.float32([0.5, 0.1, 0.4, 0.0]).reshape(1, 1, 1, 1, 2, 2)
    >>> ragfast.rag.methods.attention_scores(attention, token_mask=[[[True, True], [True, False]]]).round(4).tolist()
    [[0.3, 0.4]]
    """
    given = arrays.floats(attention, "attention")
    if given.ndim != 6 or 0 in given.shape[1:5]:
        raise ValueError(
            f"attention: expected shape (B, L, H, T, K, S) with L, H, T and K of 1 or more, got {given.shape}"
        )
    n_questions, n_layers, n_heads, n_targets, n_docs, n_tokens = given.shape
    because = f"as attention has shape {given.shape}"
    targets: Any = True
    n_scored: Any = n_targets
    if target_mask is not None:
        scored = bools(target_mask, "target_mask", (n_questions, n_targets), because)
        targets, n_scored = scored[:, None, None, :, None, None], scored.sum(axis=1)
        if n_questions and n_scored.min() == 0:
            raise ValueError("target_mask: expected one target token or more that counts for each question")
    tokens = np.ones((n_questions, n_docs, n_tokens), bool)
    if token_mask is not None:
        tokens = bools(token_mask, "token_mask", tokens.shape, because)
    per_token = given.sum(axis=3, dtype=np.float64, where=targets)
    if value_norms is not None:
        norms = arrays.floats(value_norms, "value_norms")
        if norms.shape != per_token.shape:
            raise ValueError(f"value_norms: expected shape {per_token.shape}, {because}, got {norms.shape}")
        with np.errstate(invalid="ignore"):  # where a token does not count
            per_token *= norms
    length = tokens.sum(axis=-1)
    total = per_token.sum(axis=(1, 2, 4), where=tokens[:, None, None])
    shares = np.reshape(n_scored, (-1, 1)) * (n_layers * n_heads)
    divisor = length if context_length is None else arrays.positive_int(context_length, "context_length")
    mean: NDArray[np.float64] = total / (shares * np.maximum(divisor, 1))
    mean[length == 0] = -np.inf
    return mean
