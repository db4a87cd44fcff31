"""What bench_index.py and bench_filters.py share: options, a task measured in turns, tables and JSON."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ragfast_bench import contest, machine, results, table, timing, verdicts
from ragfast_bench.search_peers import library_versions
from rich.console import Console

import ragfast

LONG = 0.1  # seconds of a call that is not repeated to learn how long it takes
TOUCHED = 1e9  # bytes of documents from which each contender reads its own memory before its turn
FULL = (1_000_000, 768)


@dataclass(frozen=True)
class Sizes:
    docs: int
    dim: int
    seconds: float  # of each task, about
    folder: Path  # on the disk that is measured
    batches: tuple[int, ...] = (1, 16, 256)
    threads: int = 1
    k: int = 10
    patience: float = 5.0  # seconds; a peer of which a call is bound to take longer is left out

    @property
    def large(self) -> bool:
        return 4 * self.docs * self.dim > TOUCHED


Part = Callable[[Sizes], Iterator[results.Task]]


@dataclass(frozen=True)
class Way:
    """One contender. What a search returns, Hits or ids (B,k), is checked before it is timed."""

    name: str
    call: timing.Call
    ours: bool = True
    checked: bool = True  # False where it is asked for something else
    note: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)
    touch: timing.Call | None = None  # untimed, before each call


def say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def measured(
    sizes: Sizes,
    name: str,
    ways: Sequence[Way],
    expected: NDArray[Any] | None = None,
    left_out: Mapping[str, str] | None = None,
    **shape: int,
) -> results.Task:
    """All in turns. The first is one of ours, and what ratios are of.

    expected: ids (B,k) that ours must find, in this order, and of which the peers' recall is; -1 where there is none.
    """
    say(name)
    calls: dict[str, timing.Call] = {}
    firsts: dict[str, float] = {}
    recall: dict[str, float | None] = {}
    wrong: dict[str, str] = {}
    for way in ways:
        if way.touch is not None:
            way.touch()
        start = time.perf_counter()
        found = way.call()
        taken = time.perf_counter() - start
        if taken > LONG or way.touch is not None:  # which a call may need every time
            firsts[way.name] = taken
        calls[way.name], recall[way.name] = way.call, None
        if expected is not None and way.checked:
            ids = np.asarray(getattr(found, "ids", found)).reshape(expected.shape)
            recall[way.name] = part_found(ids, expected)
            if way.ours and not np.array_equal(ids, expected):
                wrong[way.name] = "WRONG: not the exact top-k; "
        del found
    touch = {way.name: way.touch for way in ways if way.touch is not None}
    load = timing.OtherLoad()
    times = timing.in_turns(calls, sizes.seconds, 3, touch, firsts)
    return task(
        sizes,
        name,
        [
            results.Result(
                way.name,
                way.ours,
                True,
                times[way.name],
                recall=recall[way.name],
                measures=way.measures,
                note=wrong.get(way.name, "") + way.note,
            )
            for way in ways
        ],
        load,
        left_out,
        **shape,
    )


def task(
    sizes: Sizes,
    name: str,
    found: Sequence[results.Result],
    load: timing.OtherLoad,
    left_out: Mapping[str, str] | None = None,
    **shape: int,
) -> results.Task:
    return results.Task(
        section="index",
        name=name,
        data="",
        shape={"N": sizes.docs, "D": sizes.dim} | shape,
        threads=sizes.threads,
        results=tuple(found),
        left_out=left_out or {},
        other_cores=load.cores(),
    )


def part_found(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Of the documents that there are to find."""
    there = expected != -1
    if not there.any():
        return 1.0
    rows = zip(found, expected, there, strict=True)
    return sum(len(np.intersect1d(one, best[known])) for one, best, known in rows) / int(there.sum())


def touching(sizes: Sizes, search: Callable[[Any], Any], queries: NDArray[np.float32]) -> timing.Call | None:
    """One query before a turn, where contenders hold gigabytes of their own: see timing.in_turns."""
    return (lambda: search(queries[:1])) if sizes.large else None


# ---- the command


def sizes_of(arguments: argparse.Namespace, folder: str) -> Sizes:
    docs, dim = FULL if arguments.full else (arguments.docs, arguments.dim)
    return Sizes(docs, dim, arguments.seconds, Path(folder), tuple(arguments.batches), k=arguments.k)


def main(parts: Mapping[str, Part], what: str | None, arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for. Exit status 1 where a result of ours was wrong."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--docs", type=int, default=50_000, help="N (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=384, help="D (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="N {:,}, D {}: 20 GB of memory, 12 of disk".format(*FULL))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256], help="B (default: 1 16 256)")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each task, about (default: %(default)s)")
    parser.add_argument("--folder", help="where files are written, on the disk to measure; by default a temporary one")
    parser.add_argument("--json", type=Path, help="also keep every figure there")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    start = time.perf_counter()
    found: list[results.Task] = []
    timing.limit_threads(1)
    of_machine = machine.measure(1, ())
    console.print(table.machine_lines(of_machine))
    with tempfile.TemporaryDirectory(prefix="ragfast-bench-", dir=options.folder) as folder:
        for name in options.parts:
            for one in parts[name](sizes_of(options, folder)):
                console.print(table.task_table(one))
                found.append(one)
                if options.json:
                    run = results.Run(
                        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                        ragfast=ragfast.__version__,
                        command=" ".join([Path(sys.argv[0]).name, *(sys.argv[1:] if arguments is None else arguments)]),
                        seconds=round(time.perf_counter() - start, 1),
                        machine=of_machine,
                        libraries=library_versions(),
                        tasks=tuple(found),
                    )
                    results.save(run, options.json)
    return int(any_wrong(found))


def any_wrong(tasks: Sequence[results.Task]) -> bool:
    return any(result.ours and verdicts.is_wrong(result) for one in tasks for result in one.results)


def check(part: Part, folder: Path) -> None:
    """For pytest: that a part runs, at sizes of a second, and that all of ours find what they must."""
    timing.limit_threads(1)
    tasks = list(part(Sizes(3_000, 32, 0.02, folder, batches=(1, 16))))
    assert tasks
    assert not any_wrong(tasks)


def trouble(error: Exception) -> str:
    return contest.NOT_INSTALLED if isinstance(error, ImportError) else contest.failed(error)
