"""What an index costs that is lived with: searched beside a writer, after removals, added to, saved and opened.

    python benchmarks/suites/bench_index.py                                 50,000 x 384, some minutes
    python benchmarks/suites/bench_index.py --full --json index.json        1,000,000 x 768
    python benchmarks/suites/bench_index.py --parts disk --folder /mnt/disk
    pytest benchmarks/suites/bench_index.py                                 all parts in seconds, each result checked

Tables, with medians of calls in turns and ratios to the first row, as ``ragfast bench`` prints them. Filters and
metrics are in bench_filters.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tasks import Part, Sizes, Way, check, main, measured, say, task, touching
from numpy.typing import NDArray
from ragfast_bench import results, timing
from ragfast_bench.data import unit_vectors

import ragfast

Matrix = NDArray[np.float32]
RATE = 10_000  # rows a second that the writer adds
ROUNDS = 8  # of the slices of time in which somebody writes and in which nobody does
DROPPED = 0.1  # of the documents that are removed or replaced
PLAIN = 16 << 20  # bytes that are read or written at once where nothing else is to be done with them


# ---- beside a writer


class Writer(threading.Thread):
    """Adds batches at a steady rate: each is due at a time that does not depend on how long the others took."""

    def __init__(self, index: ragfast.FlatIndex, batches: Iterator[Matrix], size: int) -> None:
        super().__init__()
        self._index, self._batches, self._size = index, batches, size
        self._over = threading.Event()
        self.rows, self.busy, self.seconds = 0, 0.0, 0.0
        self.trouble: BaseException | None = None

    def run(self) -> None:
        start = time.perf_counter()
        try:
            for batch in self._batches:
                due = start + self.rows / RATE
                if self._over.wait(max(0.0, due - time.perf_counter())):
                    break
                begin = time.perf_counter()
                self._index.add(batch)
                self.busy += time.perf_counter() - begin
                self.rows += self._size
        except BaseException as error:  # a thread's own end would go unnoticed
            self.trouble = error
        self.seconds = time.perf_counter() - start

    def stop(self) -> None:
        self._over.set()
        self.join()
        if self.trouble is not None:
            raise self.trouble


def calls_within(seconds: float, call: timing.Call) -> list[float]:
    """Seconds of each call, of two at the least."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def beside_a_writer(sizes: Sizes) -> Iterator[results.Task]:
    """The index grows while it is measured, so that its idle times are taken after each slice with the writer, at the
    size that it then has. The first snapshot, which does not grow, says what else changed meanwhile."""
    vectors = unit_vectors(sizes.docs, sizes.dim)
    queries = unit_vectors(max(16, *sizes.batches), sizes.dim, 1)
    slice_ = 2 * sizes.seconds / ROUNDS
    for batch in (100, 1000):
        fresh = unit_vectors(batch * (2 + int(ROUNDS * 2 * slice_ * RATE / batch)), sizes.dim, 2)
        for b in (1, 16):
            name = f"search beside {RATE:,} rows a second in batches of {batch:,}, B {b}"
            say(name)
            index = ragfast.FlatIndex.from_vectors(vectors)
            batches = iter(fresh.reshape(-1, batch, sizes.dim))
            before, asked = index.snapshot(), queries[:b]
            times: dict[str, list[float]] = {"idle, at the same size": [], "beside the writer": [], "idle, before": []}
            rows, busy, spent = 0, 0.0, 0.0
            load = timing.OtherLoad()
            for _ in range(ROUNDS):
                times["idle, before"] += calls_within(slice_, partial(before.search, asked, sizes.k))
                writer = Writer(index, batches, batch)
                writer.start()
                times["beside the writer"] += calls_within(slice_, partial(index.search, asked, sizes.k))
                writer.stop()
                rows, busy, spent = rows + writer.rows, busy + writer.busy, spent + writer.seconds
                times["idle, at the same size"] += calls_within(slice_, partial(index.search, asked, sizes.k))
            wrote = {"rows per second": rows / spent, "part of the time in add": busy / spent}
            yield task(
                sizes,
                name,
                [
                    results.Result(
                        who,
                        True,
                        True,
                        timing.spread(taken),
                        measures={"p95": float(np.percentile(taken, 95))}
                        | (wrote if who == "beside the writer" else {}),
                    )
                    for who, taken in times.items()
                ],
                load,
                B=b,
                k=sizes.k,
            )
            if b == 16:
                name = f"grown by batches of {batch:,} to {len(index):,}"
                yield from beside_fresh(sizes, name, index, index.vectors, queries)


# ---- after removals


def beside_fresh(
    sizes: Sizes, name: str, index: ragfast.FlatIndex, vectors: Matrix, queries: Matrix, **measures: float
) -> Iterator[results.Task]:
    """An index with a past against one that is made of what it holds now: vectors[id] for each of its ids."""
    ids = index.ids
    fresh = ragfast.FlatIndex.from_vectors(vectors[ids], ids)
    for b in sizes.batches:
        asked = queries[:b]
        expected = fresh.search(asked, sizes.k).ids
        ways = [
            Way(who, partial(one.search, asked, sizes.k), touch=touching(sizes, one.search, asked), measures=known)
            for who, one, known in (("a fresh build", fresh, {}), ("the index", index, measures))
        ]
        yield measured(sizes, f"{name}, B {b}", ways, expected, B=b, k=sizes.k)


def after_changes(sizes: Sizes) -> Iterator[results.Task]:
    vectors = unit_vectors(sizes.docs, sizes.dim)
    queries = unit_vectors(max(sizes.batches), sizes.dim, 1)
    n = int(sizes.docs * DROPPED)
    scattered = np.random.default_rng(0).permutation(sizes.docs)[:n]
    together = np.arange(sizes.docs // 3, sizes.docs // 3 + n)
    for what, gone in (("at random", scattered), ("of one stretch", together)):
        index = ragfast.FlatIndex.from_vectors(vectors)
        seconds = seconds_of(partial(index.remove, gone))
        name = f"{n:,} {what} removed"
        yield from beside_fresh(sizes, name, index, vectors, queries, **{"removed per second": n / seconds})
        seconds = seconds_of(index.compact)
        yield from beside_fresh(sizes, f"{name}, compacted", index, vectors, queries, **{"seconds to compact": seconds})
        del index
    index = ragfast.FlatIndex.from_vectors(vectors)
    vectors[scattered] = unit_vectors(n, sizes.dim, 3)
    seconds = seconds_of(partial(index.upsert, scattered, vectors[scattered]))
    name = f"{n:,} at random replaced"
    yield from beside_fresh(sizes, name, index, vectors, queries, **{"replaced per second": n / seconds})


def seconds_of(call: timing.Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# ---- adding


def adding(sizes: Sizes) -> Iterator[results.Task]:
    """Small batches are added to an index that is there already, as they come in life: a whole index by single rows
    would take minutes."""
    vectors = unit_vectors(sizes.docs, sizes.dim)
    integers = np.random.default_rng(0).permutation(sizes.docs).astype(np.int64)
    every: dict[str, Any] = {
        "no ids": None,
        "ids int64": integers,
        "ids str": np.array([f"document {i}" for i in integers], object),
    }
    for kind, ids in every.items():
        load = timing.OtherLoad()
        whole = "from_vectors"
        batches = [size for size in (100_000, 10_000, 1000, 100, 1) if 2 * size <= sizes.docs]
        names = [whole, *(f"add by {size:,}" for size in batches)]
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(3):
            start = time.perf_counter()
            ragfast.FlatIndex.from_vectors(vectors, ids)
            times[whole].append((time.perf_counter() - start) / sizes.docs)
            for name, size in zip(names[1:], batches, strict=True):
                say(f"{name}, {kind}")
                times[name].append(seconds_a_row(vectors, ids, size))
        found = [
            results.Result(name, True, True, timing.spread(taken), measures={"rows per second": 1 / np.median(taken)})
            for name, taken in times.items()
        ]
        yield task(sizes, f"adding, a row, {kind}", found, load)


def seconds_a_row(vectors: Matrix, ids: NDArray[Any] | None, size: int) -> float:
    """Of adds of so many rows, two thousand adds at the most."""
    first = max(0, len(vectors) - 2000 * size)
    index = ragfast.FlatIndex(vectors.shape[1])
    if first:
        index.add(vectors[:first], None if ids is None else ids[:first])
    start = time.perf_counter()
    for at in range(first, len(vectors), size):
        index.add(vectors[at : at + size], None if ids is None else ids[at : at + size])
    return (time.perf_counter() - start) / (len(vectors) - first)


# ---- disk


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_of(folder))


def write_plainly(source: Path, target: Path) -> None:
    """The same bytes to the same disk, until they are there."""
    target.mkdir()
    for i, path in enumerate(files_of(source)):
        with path.open("rb", buffering=0) as read, (target / str(i)).open("wb", buffering=0) as out:
            while part := read.read(PLAIN):
                out.write(part)
            os.fsync(out.fileno())


def read_plainly(folder: Path) -> None:
    buffer = bytearray(PLAIN)
    for path in files_of(folder):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def forget(folder: Path) -> None:
    """The system's cache of these files; where it cannot be told, what is called cold is warm."""
    if hasattr(os, "posix_fadvise"):
        for path in files_of(folder):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_by(call: timing.Call) -> float | None:
    """Bytes that come from the disk during a call; None where the system does not tell."""

    def so_far() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])

    try:
        before = so_far()
    except OSError:
        return None
    call()
    return float(so_far() - before)


def on_disk(sizes: Sizes) -> Iterator[results.Task]:
    vectors = unit_vectors(sizes.docs, sizes.dim)
    queries = unit_vectors(1, sizes.dim, 1)
    index = ragfast.FlatIndex.from_vectors(vectors)
    expected = index.search(queries, sizes.k).ids
    saved, plain, again = (sizes.folder / name for name in ("saved", "plain", "again"))
    index.save(saved)
    held = float(size_of(saved))
    of_all = partial(rated, held)

    def absent(folder: Path) -> Callable[[], None]:
        return lambda: shutil.rmtree(folder, ignore_errors=True)

    # Each index knows the folder that it was in last, and writes there what has changed.
    ways = [
        Way("save", partial(index.save, again), touch=absent(again)),
        Way("plain write and fsync", partial(write_plainly, saved, plain), ours=False, touch=absent(plain)),
        Way("save again, nothing changed", partial(ragfast.FlatIndex.open(saved).save, saved)),
    ]
    yield of_all(measured(sizes, "save", ways))
    for folder in (plain, again):
        absent(folder)()

    cold = partial(forget, saved)
    opened = partial(ragfast.FlatIndex.open, saved)
    for state, touch in (("from the disk", cold), ("from the system's cache", None)):
        ways = [
            Way("open into memory", partial(opened, mmap=False), touch=touch),
            Way("the same, verify=False", partial(opened, mmap=False, verify=False), touch=touch),
            Way("plain read", partial(read_plainly, saved), ours=False, touch=touch),
            Way("open mapped and verify()", lambda: opened().verify(), touch=touch),
        ]
        yield of_all(measured(sizes, f"read all, {state}", ways))
        del ways
        read = {}
        calls: dict[str, timing.Call] = {
            "open": opened,
            "open, one search": lambda: opened().search(queries, sizes.k).ids,
            "open with the codes in memory": partial(opened, mmap="vectors"),
            "the same, one search": lambda: opened(mmap="vectors").search(queries, sizes.k).ids,
        }
        for name, call in calls.items():
            if touch is not None:
                touch()
            read[name] = read_by(call)
            if name.endswith("search"):
                assert np.array_equal(call(), expected)
        ways = [
            Way(name, call, touch=touch, measures={"bytes from the disk": n} if (n := read[name]) is not None else {})
            for name, call in calls.items()
        ]
        yield measured(sizes, f"open mapped, {state} ({held / 1e6:,.0f} MB, float32 {vectors.nbytes / 1e6:,.0f})", ways)

    ways = [
        Way(who, partial(one.search, queries, sizes.k), touch=touching(sizes, one.search, queries))
        for who, one in (("in memory", index), ("mapped", opened()), ("codes in memory", opened(mmap="vectors")))
    ]
    yield measured(sizes, "search of what was opened, B 1", ways, expected, B=1, k=sizes.k)


def rated(n_bytes: float, one: results.Task) -> results.Task:
    """With bytes a second of so many."""
    found = tuple(
        dataclasses.replace(result, measures={"bytes per second": n_bytes / result.times.median})
        for result in one.results
        if result.times is not None
    )
    return dataclasses.replace(one, results=found)


PACKAGES: dict[str, Part] = {"writer": beside_a_writer, "changes": after_changes, "adding": adding, "disk": on_disk}


@pytest.mark.parametrize("part", PACKAGES)
def test_part(part: str, tmp_path: Path) -> None:
    check(PACKAGES[part], tmp_path)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(PACKAGES, __doc__))
