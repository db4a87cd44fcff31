"""The transform that int8 codes are made of, chosen from a sample of the documents.

A quantizer cannot change a result: the int8 scan is exact for any of them (docs/exactness.md). A good one makes the
bounds narrow, so that few documents are scored a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, interruptible

MAX_CODED_DIM = 2**15
"""Longer rows have no codes."""
MIN_CODED_DOCS = 1000
"""Documents from which the int8 scan can be the faster one (csrc/search/plan.c, codes_serve)."""
PANEL = 32
"""Documents whose codes are scanned, or skipped, together."""

RowsAt: TypeAlias = Callable[[NDArray[np.intp]], NDArray[np.float32]]

_SAMPLE = 512  # rows, for the error of a quantizer and a first estimate of the principal components
_PRINCIPAL_MIN_DOCS = 20_000  # below, a rotation and its choice cost more than they save
_PRINCIPAL_MAX_DIM = 2048  # the eigenvectors of more take minutes
_PRINCIPAL_SAMPLE = 16_384
_PREFIX_STEP = 32
_REFINE_COST = 3.0  # of one query and panel, where a pass over all elements for many queries costs 1
_LEADING = 0.7  # share of the energy in half of the directions: with less no prefix pays
_RANK = 30  # a prefix is chosen for K of about 10, while thresholds are still rising


class Quantizer(NamedTuple):
    """Codes hold y = rotation ((x - center) weight); the first `prefix` elements of y are scanned first."""

    center: NDArray[np.float32] | None = None
    weight: NDArray[np.float32] | None = None
    rotation: NDArray[np.float32] | None = None
    rotation_error: float = 0.0
    prefix: int = 0

    def new_codes(self, n_docs: int, dim: int, always: bool) -> _kernels.Codes:
        return _kernels.Codes(n_docs, dim, *self, always)

    def codes_over(self, planes: Iterable[NDArray[Any]], always: bool, half_squares: bool) -> _kernels.Codes:
        """The codes that lie in these arrays."""
        high, low, bounds = planes
        return _kernels.Codes.over(high, low, bounds, *self, always, half_squares)

    @classmethod
    def choose(
        cls, n: int, dim: int, rows_at: RowsAt, *, with_prefix: bool = True, current: Quantizer | None = None
    ) -> Quantizer:
        """Return the quantizer with the narrowest bound for queries that are like the documents, judged by a sample.

        Parameters
        ----------
        n, dim : int
            Number and dimension of the documents.
        rows_at : callable
            Returns the float32 rows (m, dim) of m numbers below n.
        with_prefix : bool
            Also try quantizers that read a prefix of the codes first. These cannot serve distances.
        current : Quantizer, optional
            The quantizer of existing codes. It is returned if it is nearly as good as another one without a prefix, so
            that the codes need not be made again.
        """
        rows = rows_at(np.arange(0, n, max(1, n // _SAMPLE))[:_SAMPLE]).astype(np.float64)
        mean = rows.mean(axis=0)
        with np.errstate(all="ignore"):
            energy = np.square(rows).mean(axis=0).sum()
            if not 1e-30 < energy < 1e30:  # nothing to choose by
                return current or cls()
            candidates = [cls()]
            if np.square(mean).sum() > 0.02 * energy:
                candidates.append(cls(center=mean.astype(np.float32)))
            spread = rows.std(axis=0)
            middle = np.median(spread[spread > 0]) if spread.any() else 1.0
            for power in (0.5, 1.0):
                exponent = np.round(power * np.log2(middle / spread))
                weight = np.exp2(np.clip(np.nan_to_num(exponent, posinf=0, neginf=0), -30, 30)).astype(np.float32)
                if weight.min() < weight.max():
                    candidates += [cls(other.center, weight) for other in candidates if other.weight is None]
            slacks = [_slack(candidate, rows) for candidate in candidates]
            best = int(np.argmin(slacks))
            best = best if slacks[best] < 0.9 * slacks[0] else 0
            chosen = candidates[best]
            if current is not None and current.rotation is None and 0.9 * _slack(current, rows) <= slacks[best]:
                chosen = current
        rotated = with_prefix and n >= max(_PRINCIPAL_MIN_DOCS, 16 * dim)
        if rotated and 4 * _PREFIX_STEP <= dim <= _PRINCIPAL_MAX_DIM and _may_lead(rows - mean):
            # A quarter of a second or more at D 768, most of it in LAPACK.
            return interruptible.run(lambda: _principal(n, dim, rows_at)) or chosen
        return chosen


def _slack(quantizer: Quantizer, rows: NDArray[np.float64]) -> float:
    """The mean of |z||y - its code|, for queries z and documents y of the same kind."""
    y = rows if quantizer.center is None else rows - quantizer.center
    z = rows
    if quantizer.weight is not None:
        y, z = y * quantizer.weight, z / quantizer.weight
    scale = 127 / np.maximum(np.abs(y).max(axis=1, keepdims=True), 1e-30)
    lost = np.linalg.norm(y - np.round(y * scale) / scale, axis=1).mean()
    return float(lost * np.linalg.norm(z, axis=1).mean())


def _may_lead(centered: NDArray[np.float64]) -> bool:
    """Whether half of the principal components may hold :data:`_LEADING` of the energy, as few rows tell.

    Eigenvalues of sum t and sum of squares f have a greater half of at most (t + sqrt(D f - t^2)) / 2, by Cauchy and
    Schwarz. f is the mean square of inner products of different rows; with those of equal rows it would be too great.
    """
    products = centered @ centered.T
    m, squares = len(products), np.diagonal(products).copy()
    t = squares.mean()
    f = (np.square(products).sum() - np.square(squares).sum()) / (m * (m - 1))
    return bool(t + np.sqrt(max(0.0, centered.shape[1] * f - t * t)) >= 2 * _LEADING * t)


def _principal(n: int, dim: int, rows_at: RowsAt) -> Quantizer | None:
    """Codes in the basis of the principal components, if most documents can be skipped after a prefix of them."""
    starts = np.linspace(0, n - PANEL, _PRINCIPAL_SAMPLE // PANEL).astype(int)  # whole panels, as a scan meets them
    rows = rows_at((starts[:, None] + np.arange(PANEL)).ravel())
    if not 1e-30 < np.square(rows, dtype=np.float64).sum() < 1e30:
        return None
    center = rows.mean(axis=0)
    centered = rows - center
    energies, vectors_of = np.linalg.eigh(centered.T @ centered)
    energies, rotation = energies[::-1], np.ascontiguousarray(vectors_of.T[::-1], np.float32)
    if not energies.sum() > 0 or energies[: dim // 2].sum() < _LEADING * energies.sum():
        return None
    y = centered @ rotation.T
    asked = np.arange(0, len(rows), len(rows) // 64)
    base, z = rows[asked] @ center, rows[asked] @ rotation.T
    scores = z @ y.T + base[:, None]
    scores[np.arange(len(asked)), asked] = -np.inf  # a document is not its own answer
    rank = max(1, round(_RANK * len(rows) / n))
    thresholds = np.partition(scores, -rank, axis=1)[:, -rank]
    z_beyond, y_beyond = _lengths_beyond(z), _lengths_beyond(y)
    missing = thresholds[:, None] - base[:, None] - 0.04 * z_beyond[:, :1] * y_beyond[:, 0]
    least, prefix = 0.75, 0
    for step, tried in enumerate(range(_PREFIX_STEP, dim, _PREFIX_STEP), 1):
        if tried / dim >= least:
            break
        reached = z[:, :tried] @ y[:, :tried].T + z_beyond[:, step, None] * y_beyond[:, step] >= missing
        cost = tried / dim + _REFINE_COST * float(reached.reshape(len(asked), -1, PANEL).any(axis=2).mean())
        if cost < least:
            least, prefix = cost, tried
    if prefix == 0:
        return None
    exact = rotation.astype(np.float64)
    error = float(np.linalg.norm(exact.T @ exact - np.eye(dim))) * (1 + 1e-9) + dim * dim * 2.0**-52
    return Quantizer(center, None, rotation, error, prefix) if error < 0.01 else None


def _lengths_beyond(x: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """|x[:, i:]| for i = 0, _PREFIX_STEP, ...: (n, number of steps)."""
    squares = np.add.reduceat(np.square(x), np.arange(0, x.shape[1], _PREFIX_STEP), axis=1)
    lengths: NDArray[np.floating[Any]] = np.sqrt(np.cumsum(squares[:, ::-1], axis=1)[:, ::-1])
    return lengths
