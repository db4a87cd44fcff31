"""Ids that may be those of documents, so that an index need not look for each new one in all of its segments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragfast._core import interruptible

_NEWEST = 2**12
"""Ids that are kept in a set, in some 60 bytes each, before they are sorted in among the others, in 8 bytes."""
_SHORTER = 4
"""Each sorted run is so many times as long as the next one: an id is sorted a few times only, and runs are few."""


def ascending(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """ids (n,) sorted: themselves if they are. (NumPy's unique hashes, which takes longer than to sort.)"""
    return ids if (ids[1:] > ids[:-1]).all() else interruptible.sort(ids)


def distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """ids (n,) sorted, each once: themselves if they are."""
    ordered = ascending(ids)
    return ids if ordered is ids else ordered[np.append(True, ordered[1:] != ordered[:-1])]


class IdSet:
    """A set of ids that one writer asks and adds to. It may hold ids of documents that went."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self._runs: tuple[NDArray[np.int64], ...] = (ascending(ids),) if len(ids) else ()
        self._newest: set[int] = set()
        self._highest = int(self._runs[0][-1]) if self._runs else -1

    def __len__(self) -> int:
        return sum(map(len, self._runs)) + len(self._newest)

    def among(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these ids (n,), sorted and distinct, are held."""
        held = np.zeros(len(ids), np.bool_)
        if len(ids) == 0 or ids[0] > self._highest:
            return held
        if self._newest:
            given = ids.tolist()
            if not self._newest.isdisjoint(given):
                held[:] = [doc_id in self._newest for doc_id in given]
        for run in self._runs:
            if run[0] <= ids[-1] and ids[0] <= run[-1]:
                held |= run.take(run.searchsorted(ids), mode="clip") == ids
        return held

    def add(self, ids: NDArray[np.int64]) -> None:
        """Ids (n,), sorted and distinct, that are not held."""
        if len(ids):
            self._highest = max(self._highest, int(ids[-1]))
        if len(self._newest) + len(ids) <= _NEWEST:
            self._newest.update(ids.tolist())
            return
        newest = np.fromiter(self._newest, np.int64, len(self._newest))
        runs, run = self._runs, ascending(np.concatenate([newest, ids]))
        while runs and len(runs[-1]) < _SHORTER * len(run):
            both = np.concatenate([runs[-1], run])
            runs, run = runs[:-1], both if runs[-1][-1] < run[0] else interruptible.sort(both)
        self._runs = (*runs, run)
        self._newest.clear()
