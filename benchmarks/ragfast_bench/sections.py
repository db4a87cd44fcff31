"""What a section is: a part of the run that asks for tasks of one kind and yields them as they are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from ragfast_bench.results import Floor, Machine, Task

Size = Literal["quick", "default", "full"]
_T = TypeVar("_T")
Say = Callable[[str], None]
"""Tells the user what takes the time now, in a few words: "building FAISS Panorama"."""
LeaveOut = Callable[[str, str], None]
"""Names a data set, or another part of a section, that is not there, and the reason."""

REAL = ("wiki", "glosses", "yours")
"""Data sets of text that people wrote; the others are made by a random generator."""


@dataclass(frozen=True)
class Settings:
    size: Size = "default"
    threads: int = 1
    k: int = 10
    peers: frozenset[str] | None = None  # how the names of contenders begin that are kept beside ours; None: all
    data: tuple[str, ...] = ()  # data sets of search, latency and build; empty: those of the size
    vectors: Path | None = None  # the user's own documents (N,D) and queries (B,D)
    queries: Path | None = None

    def wants(self, contender: str) -> bool:
        return self.peers is None or contender.casefold().startswith(tuple(name.casefold() for name in self.peers))

    def pick(self, quick: _T, default: _T, full: _T) -> _T:
        """What is meant for this size."""
        return {"quick": quick, "default": default, "full": full}[self.size]


class Section(Protocol):
    """One module each, with these as module attributes."""

    NAME: str
    TITLE: str  # what it answers, for people: "Exact top-k search"

    def planned(self, settings: Settings) -> int:
        """How many tasks measure() will yield at the most, without doing any work."""

    def measure(self, settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
        """Yields each task when it is done."""


def floor(
    machine: Machine, *, bytes: float, held: float, operations: float = 0.0, arithmetic: str = "float32"
) -> Floor | None:
    """Of reading and writing so many bytes and of so many operations.

    held: bytes of the data that are gone through. Where the largest cache holds them, or nobody knows of caches, they
    need not come from memory, whose rate then bounds nothing. None where nothing bounds, or the machine's rate for
    that arithmetic is not known.
    """
    if operations and arithmetic not in machine.peaks:
        return None
    cached = held <= max(machine.caches.values(), default=math.inf)
    by_memory = 0.0 if cached else bytes / machine.read_rate
    by_arithmetic = operations / machine.peaks[arithmetic] if operations else 0.0
    if not by_memory and not by_arithmetic:
        return None
    bound = "memory" if by_memory >= by_arithmetic else "arithmetic"
    return Floor(max(by_memory, by_arithmetic), bound, bytes, operations, arithmetic)
