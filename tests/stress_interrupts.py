"""Interrupt long calls at random moments: how late each interrupt is served, and that it leaves everything as it was.

    python tests/stress_interrupts.py [--count 600] [--mb 600] [--seed 0] [--only NAME]

Each round starts one call (search, add, upsert, remove, compact, save, build, open) and raises KeyboardInterrupt from a
signal handler at a random moment of it. The index must then be the one before or the one after the call, and find the
same documents. The table has the latest interrupt of each call in milliseconds, and the last line the worst place.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ragfast


class Served(NamedTuple):
    """An interrupt: how long after the signal the call was left, in seconds, and from where."""

    delay: float
    where: str


class _Interrupt(KeyboardInterrupt):
    pass


@contextmanager
def _alarm(seconds: float) -> Iterator[list[float]]:
    """Raises _Interrupt that many seconds from now; the list gets the time when the signal was due."""

    def raise_interrupt(signum: int, frame: object) -> None:
        raise _Interrupt

    due: list[float] = []
    before = signal.signal(signal.SIGALRM, raise_interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        due.append(time.perf_counter() + seconds)
        yield due
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupted(call: Callable[[], Any], seconds: float) -> Served | None:
    """The call, interrupted after so many seconds; None if it ended before."""
    try:
        with _alarm(seconds) as due:
            call()
    except _Interrupt as error:
        served = time.perf_counter() - due[0]
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "stress_interrupts" not in f.filename]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-3:]))
        return Served(served, where)
    return None


class Bench:
    """An index of so many MB, and calls on it."""

    def __init__(self, rng: np.random.Generator, mb: float, folder: Path, **options: Any) -> None:
        self.rng, self.folder, self.options = rng, folder, options
        self.dim = 256
        n = max(2000, int(mb * 2**20) // 1024)
        self.vectors = rng.standard_normal((n, self.dim), np.float32)
        self.fresh = rng.standard_normal((n, self.dim), np.float32)
        self.queries = rng.standard_normal((max(32, n // 100), self.dim), np.float32)
        self.strided = np.asfortranarray(self.fresh)
        self.probe = rng.standard_normal((3, self.dim), np.float32)
        with_ids = options.pop("with_ids", "int")
        self.ids: Any = None
        self.new_ids: Any = None
        if with_ids == "int":
            self.ids, self.new_ids = rng.permutation(n), n + rng.permutation(n)
        elif with_ids == "str":
            self.ids = [f"document {i}" for i in rng.permutation(n)]
            self.new_ids = [f"new document {i}" for i in rng.permutation(n)]
        self.index = ragfast.FlatIndex.from_vectors(self.vectors, ids=self.ids, **options)

    def calls(self) -> dict[str, Callable[[], Any]]:
        path = self.folder / "index"
        i = self.index

        def save() -> None:
            i.save(Path(tempfile.mkdtemp(dir=self.folder)))

        return {
            "search": lambda: i.search(self.queries, 10),
            "search, filter": lambda: i.search(self.queries, 10, filter=i.ids[::2]),
            "from_vectors": lambda: ragfast.FlatIndex.from_vectors(self.fresh, ids=self.new_ids, **self.options),
            "add": lambda: i.add(self.fresh, ids=self.new_ids),
            "add, strided": lambda: i.add(self.strided, ids=self.new_ids),
            "upsert": lambda: i.upsert(i.ids[::3], self.fresh[: len(i.ids[::3])]),
            "remove": lambda: i.remove(i.ids[::2]),
            "compact": i.compact,
            "save": save,
            "open and search": lambda: ragfast.FlatIndex.open(path, mmap=False).search(self.probe, 5),
            "build": lambda: ragfast.FlatIndex.build(
                self.folder / "built", np.array_split(self.fresh, 7), dim=self.dim, progress=False, **self.options
            ),
        }

    def state(self) -> tuple[Any, ...]:
        hits = self.index.search(self.probe, 20)
        return len(self.index), hits.ids.tolist(), hits.scores.tobytes(), hits.logprobs.tobytes()


def run_round(bench: Bench, name: str, took: float) -> Served | None:
    """One call interrupted; AssertionError unless it was done whole or not at all."""
    call = bench.calls()[name]
    start = bench.index.snapshot()
    before = bench.state()
    served = interrupted(call, bench.rng.uniform(0, took))
    if bench.index.version == start.version:
        assert bench.state() == before, f"{name}: other results after an interrupt"
    else:
        assert bench.index.version == start.version + 1, f"{name}: {start.version} became {bench.index.version}"
        n = len(bench.index)
        assert len(start) // 2 <= n == len(bench.index.ids), f"{name}: {n} documents of {len(start)}"
    bench.index.swap(start)
    assert bench.state() == before, f"{name}: the snapshot before changed"
    return served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600, help="interrupts")
    parser.add_argument("--mb", type=float, default=600, help="of vectors in the index")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="calls with this in their names")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    kinds: list[dict[str, Any]] = [
        {},
        {"with_ids": "str"},
        {"with_ids": None, "metric": "l2"},
        {"metric": "cosine", "dtype": "float16"},
        {"with_ids": None, "dtype": "bfloat16", "scan": "float32"},
    ]
    table: dict[tuple[int, str], list[Served]] = {}
    done, missed = 0, 0
    while done < options.count:
        for number, kind in enumerate(kinds):
            folder = Path(tempfile.mkdtemp())
            bench = Bench(rng, options.mb, folder, **dict(kind))
            bench.index.save(folder / "index")
            for name, call in bench.calls().items():
                if options.only and options.only not in name:
                    continue
                if name == "upsert" and bench.ids is None:
                    continue
                start, began = bench.index.snapshot(), time.perf_counter()
                call()
                took = time.perf_counter() - began
                bench.index.swap(start)
                for _ in range(max(2, options.count // (11 * len(kinds)))):
                    served = run_round(bench, name, took)
                    done, missed = done + (served is not None), missed + (served is None)
                    if served is not None:
                        table.setdefault((number, name), []).append(served)
                delays = [1000 * s.delay for s in table.get((number, name), [])] or [0.0]
                print(f"{kind!s:48} {name:16} {took:7.2f} s, {len(delays):3} interrupts, latest {max(delays):7.1f} ms")
                sys.stdout.flush()
            shutil.rmtree(folder)
    worst = sorted((s for found in table.values() for s in found), key=lambda s: -s.delay)
    print(f"{done} interrupts served, {missed} calls ended before; the latest:")
    for served in worst[:12]:
        print(f"  {1000 * served.delay:7.1f} ms  {served.where}")


if __name__ == "__main__":
    main()
