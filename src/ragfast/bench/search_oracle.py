"""What a search must find, from the contract, by NumPy in float64 and without ragfast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_QUERIES = 64
BLOCK = 8192  # documents


class Oracle:
    """The exact top-k of the first queries (B,D) among vectors (N,D), ties to the lower id."""

    def __init__(self, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> None:
        self._vectors = vectors
        self._queries = queries[:MOST_QUERIES]
        self.k = min(k, len(vectors))
        self.ids = np.empty((len(self._queries), self.k), np.int64)
        self.least = np.empty(len(self._queries))  # the k-th best score
        for b, candidates in enumerate(self._candidates()):
            scores = self._scores(b, candidates)
            best = np.lexsort((candidates, -scores))[: self.k]
            self.ids[b] = candidates[best]
            self.least[b] = scores[best[-1]]

    def _candidates(self) -> list[NDArray[np.intp]]:
        """For each query, all that a matrix product, which adds in whatever order, cannot tell from its top-k."""
        queries = self._queries.astype(np.float64)
        longest = max(float(np.linalg.norm(part.astype(np.float64), axis=1).max()) for part in self._blocks())
        slack = queries.shape[1] * 2.0**-50 * longest * np.linalg.norm(queries, axis=1)
        best = np.full((len(queries), self.k), -np.inf)
        kept: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]] = []
        for first, part in zip(range(0, len(self._vectors), BLOCK), self._blocks(), strict=True):
            scores = queries @ part.astype(np.float64).T
            best = np.sort(np.concatenate([best, scores], axis=1), axis=1)[:, -self.k :]
            rows, columns = np.nonzero(scores >= (best[:, 0] - slack)[:, None])
            kept.append((rows, columns + first, scores[rows, columns]))
        of, ids, scores = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        near = scores >= (best[:, 0] - slack)[of]
        return [ids[near & (of == b)] for b in range(len(queries))]

    def _blocks(self) -> list[NDArray[np.float32]]:
        return [self._vectors[first : first + BLOCK] for first in range(0, len(self._vectors), BLOCK)]

    def _scores(self, b: int, ids: NDArray[Any]) -> NDArray[np.float64]:
        """To the bit: 16 float64 lanes, each product and each sum rounded once, lanes added by halves."""
        query = self._queries[b].astype(np.float64)
        out = [np.empty(0)]
        for start in range(0, len(ids), BLOCK):
            rows = self._vectors[ids[start : start + BLOCK]]
            lanes = np.zeros((len(rows), 16))
            for first in range(0, len(query), 16):
                products = rows[:, first : first + 16].astype(np.float64) * query[first : first + 16]
                lanes[:, : products.shape[1]] += products
            for half in (8, 4, 2, 1):
                lanes = lanes[:, :half] + lanes[:, half:]
            out.append(lanes[:, 0])
        return np.concatenate(out)

    def recall(self, found: Any) -> float:
        """The part of the k documents of a query that `found` (B,K) has: distinct ones, at least as good as the k-th
        best. Queries beyond the oracle's are not looked at."""
        parts = []
        for b, row in enumerate(np.asarray(found)[: len(self.ids)]):
            ids = np.unique(row)
            ids = ids[(ids >= 0) & (ids < len(self._vectors))]  # some pad with -1
            parts.append(min(1.0, np.count_nonzero(self._scores(b, ids) >= self.least[b]) / self.k))
        return float(np.mean(parts))

    def agrees(self, found: NDArray[np.int64]) -> bool:
        """Whether they are its ids, in its order, and -1 where there are fewer than k documents."""
        rows = found[: len(self.ids)]
        return np.array_equal(rows[:, : self.k], self.ids[: len(rows)]) and bool(np.all(rows[:, self.k :] == -1))
