"""What retrieval must return, written from the contract in exact rational arithmetic or float64: slow and obvious."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


def canonical_score(q: NDArray[Any], d: NDArray[Any]) -> float:
    """The score of the contract: 16 float64 lanes, products and sums each rounded once, lanes added by halves."""
    lanes = [0.0] * 16
    for i, (x, y) in enumerate(zip(q.tolist(), d.tolist(), strict=True)):
        lanes[i % 16] += x * y
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


def exact_score(q: NDArray[Any], d: NDArray[Any]) -> Fraction:
    """The inner product without any rounding."""
    return sum((Fraction(x) * Fraction(y) for x, y in zip(q.tolist(), d.tolist(), strict=True)), Fraction(0))


def top_k(
    queries: NDArray[Any], docs: NDArray[Any], k: int, ids: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(scores, ids) of every query by (canonical score descending, id ascending), padded with -inf and -1."""
    names = range(len(docs)) if ids is None else ids.tolist()
    scores = np.full((len(queries), k), -np.inf)
    found = np.full((len(queries), k), -1, np.int64)
    for b, q in enumerate(queries):
        ranked = sorted((-canonical_score(q, d), name) for d, name in zip(docs, names, strict=True))[:k]
        scores[b, : len(ranked)] = [-s for s, _ in ranked]
        found[b, : len(ranked)] = [name for _, name in ranked]
    return scores, found


def log_softmax(scores: NDArray[np.float64], temperature: float) -> list[float]:
    """Of one row, ignoring -inf: log p(z|x)."""
    s = [x / temperature for x in scores.tolist() if x > -math.inf]
    if not s:
        return [-math.inf] * len(scores)
    log_sum = math.log1p(math.fsum(math.exp(x - s[0]) for x in s[1:]))  # s[0] is the largest
    return [x - s[0] - log_sum for x in s] + [-math.inf] * (len(scores) - len(s))
