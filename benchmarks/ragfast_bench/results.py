"""What a run measured, as values: made by the sections, kept as JSON, drawn by the table, the page and the report.

Contenders are ragfast's own ways of doing a task ("ours") and its peers. Times are seconds, memory is bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


class BenchError(Exception):
    """Something the user can put right; the message is one to show as it is."""


@dataclass(frozen=True)
class Spread:
    """Seconds of one call, over `calls` of them; one call alone was the first, with nothing warm."""

    median: float
    q1: float
    q3: float
    least: float
    calls: int


@dataclass(frozen=True)
class Floor:
    """The least time in which this machine, as measured in the same run, can do what a contender has to do."""

    seconds: float
    bound: str  # "memory" or "arithmetic", whichever takes longer
    bytes: float  # read and written, from memory or, where they fit, from a cache
    operations: float  # multiplications and additions
    arithmetic: str  # "float32" or "int8": which peak the operations were held against


@dataclass(frozen=True)
class Result:
    """One contender at one task."""

    contender: str
    ours: bool
    exact: bool  # whether it means to be, up to the rounding of float32
    times: Spread | None = None
    recall: float | None = None  # the part of the exact top-k that it found
    error: float | None = None  # of a value: the largest difference from the reference, relative to the largest value
    floor: Floor | None = None
    measures: Mapping[str, float] = field(default_factory=dict)  # by unit: p50 (seconds), rate (1/s), bytes, ...
    note: str = ""


@dataclass(frozen=True)
class Task:
    """What several contenders were asked to do, in turns, and what came of it."""

    section: str  # which of the sections asked for it
    name: str  # unique within the section
    data: str  # the data set, or "" where there is none
    shape: Mapping[str, int]  # by letter: N, D, B, k, K, T, V
    threads: int
    results: tuple[Result, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)  # contender to reason
    other_cores: float | None = None  # cores that other programs kept busy meanwhile; None where it cannot be told

    def ours(self) -> Result | None:
        """The first of ours, which is what people get by default."""
        return next((result for result in self.results if result.ours and result.times), None)


@dataclass(frozen=True)
class Machine:
    """What the run ran on. Rates were measured in the run, by as many threads as the contenders had."""

    processor: str
    cores: int
    memory: float  # bytes
    caches: Mapping[str, float]  # by level, bytes
    system: str
    python: str
    isa: str  # ragfast's level
    threads: int
    pinned: tuple[int, ...]  # the CPUs that every contender was held to; empty where they were not
    read_rate: float  # bytes/s, from memory
    peaks: Mapping[str, float]  # by arithmetic, operations/s


@dataclass(frozen=True)
class Library:
    """What peers come from, installed or not."""

    name: str  # as its contenders' names begin: "FAISS"
    package: str  # the distribution: "faiss-cpu"
    version: str | None  # None: not installed
    reason: str = ""  # why it is absent, or left out of the whole run


@dataclass(frozen=True)
class Run:
    """Everything that one command measured."""

    date: str  # ISO 8601, UTC
    ragfast: str  # version
    command: str
    seconds: float
    machine: Machine
    libraries: tuple[Library, ...]
    tasks: tuple[Task, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)  # sections and data sets to reason
    format: int = FORMAT

    def section(self, name: str) -> list[Task]:
        return [task for task in self.tasks if task.section == name]


def save(run: Run, path: Path) -> None:
    replace(path, json.dumps(dataclasses.asdict(run), indent=1) + "\n")


def replace(path: Path, text: str) -> None:
    """Writes a file whole or leaves it as it was. Raises BenchError where it cannot be written."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            path.write_text(text, encoding="utf-8")
            return
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise BenchError(f"cannot write {path}: {error.strerror}") from error


def load(path: Path) -> Run:
    """Raises BenchError where the file is no run, or of another format."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise BenchError(f"{path} is not JSON: {error}") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise BenchError(f"{path}: expected a run of format {FORMAT}, as --json writes it, got format {found}")
    try:
        return Run(
            **raw
            | {
                "machine": Machine(**raw["machine"] | {"pinned": tuple(raw["machine"]["pinned"])}),
                "libraries": tuple(Library(**library) for library in raw["libraries"]),
                "tasks": tuple(_task(task) for task in raw["tasks"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise BenchError(f"{path}: a run of format {FORMAT} with missing or unknown fields ({error})") from error


def _task(raw: dict[str, Any]) -> Task:
    return Task(**raw | {"results": tuple(_result(result) for result in raw["results"])})


def _result(raw: dict[str, Any]) -> Result:
    times, floor = raw["times"], raw["floor"]
    return Result(**raw | {"times": times and Spread(**times), "floor": floor and Floor(**floor)})
