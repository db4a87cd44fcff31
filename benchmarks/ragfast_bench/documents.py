"""The documents that the contenders of the search benchmarks search, and the type of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Search = Callable[[Matrix], Any]
"""Queries (B,D) to ids (B,K), or to ragfast's Hits. Those that hold files or processes have close() besides."""

SPARE = 1 << 30  # bytes of memory that no contender may take


@dataclass(frozen=True)
class Documents:
    """The vectors (N,D) and what several contenders hold of them."""

    vectors: Matrix
    k: int
    threads: int
    unit: bool = False  # whether all rows have length 1, so that other metrics rank as inner products do

    @property
    def found(self) -> int:
        """k, or all where they are fewer."""
        return min(self.k, len(self.vectors))

    @cached_property
    def faiss_flat(self) -> Any:
        import faiss

        index = faiss.IndexFlatIP(self.vectors.shape[1])
        index.add(self.vectors)
        return index

    def sample(self) -> Matrix:
        """Rows enough to train on."""
        return np.ascontiguousarray(self.vectors[:: max(1, len(self.vectors) // 100_000)])
