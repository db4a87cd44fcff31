"""Exact nearest vectors, by Euclidean distance or inner product, that may leave out those of the query's own group."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragfast import arrays
from ragfast.gather import gather_scores
from ragfast.index import FlatIndex

__all__ = ["NearestIndex", "Neighbours"]

Metric: TypeAlias = Literal["l2", "inner_product"]

METRICS = ("l2", "inner_product")
PARTS = 3
"""float32 numbers that a float64 is the sum of."""
PAIRS_AT_ONCE = 2**20


class Neighbours(NamedTuple):
    """The nearest first: scores (B,k) float64, the greater the nearer, and ids (B,k) int64; -inf and -1 where there are
    fewer than k."""

    scores: NDArray[np.float64]
    ids: NDArray[np.int64]


class NearestIndex:
    """Vectors (N,D), float32 or what widens to it exactly, held to be searched for the nearest.

    metric "l2" scores a pair by -|q - x|^2, the float64 sum of float64 squares of differences in the fixed order of
    the library's float64 inner product, so 0 for equal vectors however long; "inner_product" as
    :meth:`ragfast.FlatIndex.search`. Either way the result of a search is the first k of all vectors that are not left
    out, ordered by (score descending, id ascending), the id being the row: exactly that, at any instruction-set level
    and number of threads. groups (N,) integers say which vectors belong together, such as chunks to a document.

    How: |q - x|^2 is least where q . x - |x|^2 / 2 is greatest, an inner product of D + 3 elements, as three float32
    hold a float64. A search for more than k finds, beyond a margin for the rounding of both calculations, all that can
    be among the nearest; their distances are then calculated directly. Where too few of a list are left, or the margin
    reaches beyond its end, a list four times as long is asked for, up to all N.

    TypeError for another dtype, ValueError for another shape, NaN, infinity, or for "l2" a norm above 2.6e19, the
    square of which float32 does not hold.

    >>> import numpy as np
    >>> from ragfast.methods import NearestIndex
    >>> index = NearestIndex(np.float32([[0, 0], [1, 0], [5, 5], [0, 1]]), groups=[0, 0, 1, 2])
    >>> index.search(np.float32([[0, 0]]), 3, groups=[0])
    Neighbours(scores=array([[ -1., -50., -inf]]), ids=array([[ 3,  2, -1]]))
    """

    def __init__(
        self, vectors: arrays.ArrayLike, groups: arrays.ArrayLike | None = None, *, metric: Metric = "l2"
    ) -> None:
        arrays.one_of(metric, "metric", METRICS)
        rows = arrays.matrix(vectors, "vectors")
        arrays.refuse_nonfinite(rows, "vectors")
        self._is_l2 = metric == "l2"
        self._dim = rows.shape[1]
        self._groups = None
        if groups is not None:
            self._groups = arrays.integers(
                groups, "groups", f"({len(rows)},), one for each vector", (len(rows),)
            ).copy()
        self._greatest_norm = 0.0
        if self._is_l2 and len(rows):
            halves = 0.5 * _inner(rows, rows)
            self._greatest_norm = float(np.sqrt(2 * halves.max()))
            if halves.max() > np.finfo(np.float32).max:
                row = int(halves.argmax())
                raise ValueError(
                    f"vectors: row {row} has a norm of {np.sqrt(2 * halves[row]):g}; expected below 2.6e19"
                )
            rows = _with_columns(rows, -halves)
        self._index = FlatIndex.from_vectors(rows)

    def __len__(self) -> int:
        return len(self._index)

    def search(
        self,
        queries: arrays.ArrayLike,
        k: int = 10,
        *,
        groups: arrays.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> Neighbours:
        """The k nearest of each query (B,D), of the types that vectors may have. With groups (B,) integers no vector of
        the query's own group is among them; a group that no vector has leaves nothing out.

        TypeError for another dtype, ValueError for shapes that do not go together, NaN or infinity, k or n_threads
        below 1, or groups of queries where the vectors have none.
        """
        asked = arrays.matrix(queries, "queries", letters="(B, D)", dim=self._dim)
        arrays.refuse_nonfinite(asked, "queries")
        wanted = arrays.positive_int(k, "k")
        own = None
        if groups is not None:
            if self._groups is None:
                raise ValueError("groups: given for queries, but the vectors were indexed without groups")
            own = arrays.integers(groups, "groups", f"({len(asked)},), one for each query", (len(asked),))
        found = Neighbours(np.full((len(asked), wanted), -np.inf), np.full((len(asked), wanted), -1, np.int64))
        pending, width = np.arange(len(asked)), min(len(self), 2 * wanted + 8)
        while pending.size and len(self):
            left = []
            step = max(1, PAIRS_AT_ONCE // width)
            for first in range(0, len(pending), step):
                rows = pending[first : first + step]
                part = self._first(asked[rows], None if own is None else own[rows], wanted, width, n_threads)
                scores, ids, settled = part
                found.scores[rows[settled], : scores.shape[1]] = scores[settled]
                found.ids[rows[settled], : ids.shape[1]] = ids[settled]
                left.append(rows[~settled])
            pending, width = np.concatenate(left), min(len(self), 4 * width)
        return found

    def _first(
        self, asked: NDArray[np.float32], own: NDArray[np.int64] | None, k: int, width: int, n_threads: int | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
        """The best k out of lists of that width, and of which queries they are known to be the best of all."""
        padded = asked
        if self._is_l2:
            padded = np.concatenate([asked, np.ones((len(asked), PARTS), np.float32)], axis=1)
        hits = self._index.search(padded, width, n_threads=n_threads, dtype=np.float64)
        scores, ids = hits.scores, hits.ids
        allowed = np.ones(ids.shape, bool) if own is None else self._others(ids, own)
        nth = allowed.cumsum(axis=1)
        enough = nth[:, -1] >= k
        place = np.minimum((nth < k).sum(axis=1, keepdims=True), width - 1)
        kth = np.where(enough[:, None], np.take_along_axis(scores, place, 1), -np.inf)
        if not self._is_l2:
            settled = enough | (width == len(self))
        else:
            floor = kth - self._margin(asked)[:, None]
            settled = (scores[:, -1] < floor[:, 0]) | (width == len(self))
            allowed &= settled[:, None] & (scores >= floor)
            query, column = np.nonzero(allowed)
            scores[query, column] = self._exact(asked, query, ids[query, column], n_threads)
        scores = np.where(allowed, scores, -np.inf)
        ids = np.where(allowed, ids, -1)
        order = np.lexsort((ids, -scores, ~allowed))[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1), settled

    def _others(self, ids: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.bool_]:
        assert self._groups is not None
        different: NDArray[np.bool_] = self._groups[ids] != own[:, None]
        return different

    def _margin(self, asked: NDArray[np.float32]) -> NDArray[np.float64]:
        """More than what the order of q . x - |x|^2 / 2 as searched and that of |q - x|^2 as calculated can differ by.

        A float64 inner product of n elements has a relative error of w = (n / 16 + 5) 2^-53 in the sum of magnitudes
        (docs/exactness.md, C). So the searched value is within w (|q||x| + |x|^2) of the true one, |x|^2 / 2 having
        an error of its own, and the distance within 2 w |q - x|^2 of the true one, differences being rounded too. Two
        vectors can then change places where they differ by less than 4.1 w (|q| + R)^2, R being the greatest |x|;
        what underflows in the parts of |x|^2 / 2 is below 2^-126, also where denormals are flushed.
        """
        w = ((self._dim + PARTS) / 16 + 5) * 2.0**-53
        margin: NDArray[np.float64] = 8 * w * (np.sqrt(_inner(asked, asked)) + self._greatest_norm) ** 2 + 2.0**-120
        return margin

    def _exact(
        self, asked: NDArray[np.float32], query: NDArray[np.intp], ids: NDArray[np.int64], n_threads: int | None
    ) -> NDArray[np.float64]:
        """-|q - x|^2 of pairs."""
        vectors, out = self._index.vectors, np.empty(len(ids))
        step = max(1, PAIRS_AT_ONCE // self._dim)
        for first in range(0, len(ids), step):
            part = slice(first, first + step)
            difference = asked[query[part]].astype(np.float64) - vectors[ids[part], : self._dim]
            out[part] = 0.0 - _inner(difference, difference, n_threads)
        return out


def _inner(a: NDArray[Any], b: NDArray[Any], n_threads: int | None = None) -> NDArray[np.float64]:
    """(n,): the float64 inner product of each row with the same row."""
    rows = np.arange(len(a))[:, None]
    products: NDArray[np.float64] = gather_scores(a, b, rows, dtype=np.float64, n_threads=n_threads)[:, 0]
    return products


def _with_columns(rows: NDArray[np.float32], values: NDArray[np.float64]) -> NDArray[np.float32]:
    """rows with as many more columns as it takes float32 to add up to values (n,)."""
    out = np.empty((len(rows), rows.shape[1] + PARTS), np.float32)
    out[:, :-PARTS] = rows
    rest = values.astype(np.float64)
    for column in range(-PARTS, 0):
        out[:, column] = rest
        rest -= out[:, column]
    return out
