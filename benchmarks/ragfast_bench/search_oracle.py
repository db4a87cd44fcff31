"""What a search must find, from the contract, by NumPy in float64 and without ragfast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST, SPREAD = 16, 48
"""Queries that are looked at: the first, for small batches, and as many spread evenly over all."""
BLOCK = 8192  # documents
FLOAT32 = 2e-3
"""Of the largest score that there can be. Sums of thousands of float32 products differ by less, and so do the cosines
and distances that some peers go by, over rows whose lengths are 1 to within 1e-3."""


class Oracle:
    """The exact top-k of some of the queries (B,D) among vectors (N,D), ties to the lower id."""

    def __init__(self, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> None:
        spread = np.linspace(0, len(queries) - 1, SPREAD, dtype=np.int64)
        self.rows = np.unique(np.concatenate([np.arange(min(FIRST, len(queries))), spread]))  # of the queries
        self._vectors = vectors
        self._queries = queries[self.rows]
        self.k = min(k, len(vectors))
        self.ids = np.empty((len(self._queries), self.k), np.int64)
        self.least = np.empty(len(self._queries))  # the k-th best score
        longest = max(float(np.linalg.norm(part.astype(np.float64), axis=1).max()) for part in self._blocks())
        self._scale = longest * np.linalg.norm(self._queries.astype(np.float64), axis=1)  # no score is larger
        for b, candidates in enumerate(self._candidates()):
            scores = self._scores(b, candidates)
            best = np.lexsort((candidates, -scores))[: self.k]
            self.ids[b] = candidates[best]
            self.least[b] = scores[best[-1]]

    def _candidates(self) -> list[NDArray[np.intp]]:
        """For each query, all that a matrix product, which adds in whatever order, cannot tell from its top-k."""
        queries = self._queries.astype(np.float64)
        slack = queries.shape[1] * 2.0**-50 * self._scale
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
        best. Of the queries that are looked at, those below B."""
        return float(np.mean([self._good(b, row, 0.0) / self.k for b, row in self._looked_at(found)]))

    def verdict(self, found: Any, exact: bool) -> str:
        """ "WRONG: ..." where `found` lacks documents that float32 tells apart from those it has, and means to be
        exact; else ""."""
        if exact and any(self._good(b, row, FLOAT32 * self._scale[b]) < self.k for b, row in self._looked_at(found)):
            return "WRONG: misses documents by more than float32 rounds; "
        return ""

    def agrees(self, found: NDArray[np.int64]) -> bool:
        """Whether they are its ids, in its order, and -1 where there are fewer than k documents."""
        return all(
            np.array_equal(row[: self.k], self.ids[b]) and bool(np.all(row[self.k :] == -1))
            for b, row in self._looked_at(found)
        )

    def _looked_at(self, found: Any) -> list[tuple[int, NDArray[Any]]]:
        rows = np.asarray(found)
        return [(b, rows[row]) for b, row in enumerate(self.rows) if row < len(rows)]

    def _good(self, b: int, row: NDArray[Any], slack: float) -> int:
        """How many distinct documents of a row are as good as the k-th best, or worse by no more than slack."""
        ids = np.unique(row)
        ids = ids[(ids >= 0) & (ids < len(self._vectors))]  # some pad with -1
        return min(self.k, int(np.count_nonzero(self._scores(b, ids) >= self.least[b] - slack)))
