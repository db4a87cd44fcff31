"""Readers beside writers: whatever is read of an index is what exactly one of its versions holds.

The vectors are small integers, so that NumPy's inner products are exact and many scores tie. The writer keeps a model
of every version; readers note what they found and under which versions, and are compared once all have ended.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex

DIM, N_QUERIES, K, TAGS = 16, 3, 12, 7
QUERIES = np.random.default_rng(0).integers(-3, 4, (N_QUERIES, DIM)).astype(np.float32)
READERS, STEPS = 3, 160

Id = int | str
Found = tuple[list[list[float]], list[list[Id | None]]]
"""Scores and ids, best first."""


@dataclass(frozen=True)
class Model:
    """What one version holds. Never changed: each change makes another."""

    rows: dict[Id, tuple[tuple[int, ...], int]]  # vector and tag
    keys: dict[Id, int]  # of every id that was added since the last compaction, and of those held; ties go by them

    def with_rows(self, ids: list[Id], vectors: NDArray[Any], tags: NDArray[Any]) -> Model:
        keys = dict(self.keys)
        for name in ids:
            keys.setdefault(name, name if isinstance(name, int) else 1 + max(keys.values(), default=-1))
        rows = dict(zip(ids, zip(map(tuple, vectors.astype(int).tolist()), tags.tolist(), strict=True), strict=True))
        return Model(self.rows | rows, keys)

    def without(self, ids: list[Id]) -> Model:
        gone = set(ids)
        return Model({name: row for name, row in self.rows.items() if name not in gone}, self.keys)

    def top(self, allowed: Callable[[Id, int], bool], single: bool = False) -> Found:
        """single: at most one of each tag."""
        names = [name for name, (_, tag) in self.rows.items() if allowed(name, tag)]
        vectors = np.array([self.rows[name][0] for name in names]).reshape(len(names), DIM)
        all_scores = QUERIES.astype(np.int64) @ vectors.T
        scores: list[list[float]] = []
        ids: list[list[Id | None]] = []
        for row in all_scores.tolist():
            ranked = sorted((-score, self.keys[name], name) for score, name in zip(row, names, strict=True))
            if single:
                first: dict[int, tuple[int, int, Id]] = {}
                for one in ranked:
                    first.setdefault(self.rows[one[2]][1], one)
                ranked = sorted(first.values())
            best, none = ranked[:K], K - len(ranked[:K])
            nobody: Id | None = None if any(isinstance(name, str) for name in self.keys) else -1
            scores.append([float(-score) for score, _, _ in best] + [-np.inf] * none)
            ids.append([*(name for _, _, name in best), *[nobody] * none])
        return scores, ids


# ---- how an index is read. Each way says what it saw, and what a model says to that.


def is_even(name: Id) -> bool:
    return int(str(name).removeprefix("document ")) % 2 == 0


def plainly(index: Any) -> Any:
    return index.search(QUERIES, K)


def by_predicate(index: Any) -> Any:
    return index.search(QUERIES, K, filter=(ragfast.column("tag") >= 2) & ~(ragfast.column("tag") == 4))


def by_groups(index: Any) -> Any:
    return index.search(QUERIES, K, group_by="tag", max_per_group=1)


def by_mask(snapshot: Any) -> Any:
    return snapshot.search(QUERIES, K, filter=np.array([is_even(name) for name in snapshot.ids.tolist()], bool))


def by_prepared(snapshot: Any) -> Any:
    prepared = snapshot.filter(ragfast.column("tag") < 3)
    return snapshot.search(QUERIES, K, filter=prepared)


EXPECTED: dict[Callable[[Any], Any], Callable[[Model], Found]] = {
    plainly: lambda model: model.top(lambda name, tag: True),
    by_predicate: lambda model: model.top(lambda name, tag: tag >= 2 and tag != 4),
    by_groups: lambda model: model.top(lambda name, tag: True, single=True),
    by_mask: lambda model: model.top(lambda name, tag: is_even(name)),
    by_prepared: lambda model: model.top(lambda name, tag: tag < 3),
}
OF_SNAPSHOTS = (by_mask, by_prepared)
"""A mask, or what was prepared, belongs to one version."""


@dataclass(frozen=True)
class Seen:
    way: Callable[[Any], Any]
    first: int  # the versions between which the search was
    last: int
    found: Found


def in_lists(hits: Any) -> Found:
    return hits.scores.tolist(), hits.ids.tolist()


class Reader:
    """Reads in every way, at least once and until it is told to stop."""

    def __init__(self, index: FlatIndex, stop: threading.Event) -> None:
        self._index, self._stop = index, stop
        self.seen: list[Seen] = []

    def __call__(self) -> list[Seen]:
        while not self._stop.is_set() or len(self.seen) < 2 * len(EXPECTED):
            for way in EXPECTED:
                snapshot = self._index.snapshot()
                self.seen.append(Seen(way, snapshot.version, snapshot.version, in_lists(way(snapshot))))
                if way not in OF_SNAPSHOTS:
                    before = self._index.version
                    found = in_lists(way(self._index))
                    self.seen.append(Seen(way, before, self._index.version, found))
        return self.seen


def save_and_open(index: FlatIndex, path: Path, stop: threading.Event) -> list[Seen]:
    """What a save beside writers has kept must be one version too."""
    seen: list[Seen] = []
    while not stop.is_set() or not seen:
        before = index.version
        index.save(path)
        after = index.version
        opened = FlatIndex.open(path)
        for way in (plainly, by_predicate, by_mask):
            seen.append(Seen(way, before, after, in_lists(way(opened))))
    return seen


# ---- the writer


class Writer:
    """One thread's changes, and the model of every version that they made."""

    def __init__(self, kind: str, scan: str, dtype: str) -> None:
        self._rng = np.random.default_rng(7)
        self._named = kind == "str"
        self._made, self._scan, self._dtype = 0, scan, dtype
        self.index = FlatIndex(DIM, scan=scan, dtype=dtype)
        self.models: dict[int, Model] = {}
        self._model = Model({}, {})
        self.add(60)

    def _publish(self, model: Model) -> None:
        """After the change: nobody is compared before all have ended."""
        version = self.index.version
        assert self.models.setdefault(version, model).rows == model.rows, "two contents of one version"
        assert version == max(self.models), "versions grow"
        self._model = model

    def _some(self, n: int) -> list[Id]:
        """Of the ids that are held."""
        held = list(self._model.rows)
        return [held[i] for i in self._rng.permutation(len(held))[:n]]

    def _new(self, n: int) -> list[Id]:
        """Some that were removed before, and others."""
        gone = [name for name in self._model.keys if name not in self._model.rows]
        again = [gone[i] for i in self._rng.permutation(len(gone))[: n // 3]]
        first, self._made = self._made, self._made + n - len(again)
        fresh: list[Id] = [f"document {i}" if self._named else 7 * i % 100_003 for i in range(first, self._made)]
        return again + fresh

    def _rows(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return (
            self._rng.integers(-3, 4, (n, DIM)).astype(np.float32),
            self._rng.integers(0, TAGS, n).astype(np.int64),
        )

    def _ids(self, ids: list[Id]) -> NDArray[Any]:
        return np.array(ids, object if self._named else np.int64)

    def add(self, n: int) -> None:
        ids, (vectors, tags) = self._new(n), self._rows(n)
        self.index.add(vectors, self._ids(ids), metadata={"tag": tags})
        self._publish(self._model.with_rows(ids, vectors, tags))

    def upsert(self, n: int) -> None:
        ids = [*self._some(n), *self._new(n // 2)]
        vectors, tags = self._rows(len(ids))
        self.index.upsert(self._ids(ids), vectors, metadata={"tag": tags})
        self._publish(self._model.with_rows(ids, vectors, tags))

    def remove(self, n: int) -> None:
        ids = self._some(n)
        assert self.index.remove(self._ids(ids)) == len(ids)
        self._publish(self._model.without(ids))

    def compact(self, n: int) -> None:
        self.index.compact()
        held = self._model.rows
        self._publish(Model(held, {name: key for name, key in self._model.keys.items() if name in held}))

    def swap(self, n: int) -> None:
        """Whole, for another one of new documents."""
        ids, (vectors, tags) = self._new(60), self._rows(60)
        other = FlatIndex.from_vectors(
            vectors, self._ids(ids), scan=self._scan, dtype=self._dtype, metadata={"tag": tags}
        )
        version = self.index.version
        before = self.index.swap(other)
        assert before.version == version
        assert in_lists(plainly(before)) == EXPECTED[plainly](self._model)
        self._publish(Model({}, {}).with_rows(ids, vectors, tags))

    def step(self) -> None:
        many = len(self._model.rows) > 300
        changes = [self.add, self.upsert, self.remove, self.remove if many else self.add, self.compact, self.swap]
        chosen = self._rng.choice(len(changes), p=[0.3, 0.25, 0.25, 0.1, 0.07, 0.03])
        changes[chosen](int(self._rng.integers(1, 25)))


@contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Sets it whatever happens: threads that wait for it would wait for ever."""
    try:
        yield
    finally:
        stop.set()


def compared(seen: list[Seen], models: dict[int, Model]) -> None:
    known: dict[tuple[Callable[[Any], Any], int], Found] = {}
    for one in seen:
        versions = [version for version in models if one.first <= version <= one.last]
        for version in versions:
            if (one.way, version) not in known:
                known[one.way, version] = EXPECTED[one.way](models[version])
        assert any(one.found == known[one.way, version] for version in versions), (one, versions)


@pytest.mark.parametrize(
    ("kind", "scan", "dtype"),
    [
        ("int", "int8", "float32"),
        ("int", "float32", "float16"),
        ("str", "int8", "bfloat16"),
        ("str", "auto", "float32"),
    ],
)
def test_whatever_is_read_is_one_version(kind: str, scan: str, dtype: str, tmp_path: Path) -> None:
    writer, stop = Writer(kind, scan, dtype), threading.Event()
    first = writer.index.snapshot()
    readers = [Reader(writer.index, stop) for _ in range(READERS)]
    with ThreadPoolExecutor(READERS + 1) as executor, stopping(stop):
        futures: list[Future[list[Seen]]] = [executor.submit(reader) for reader in readers]
        futures.append(executor.submit(save_and_open, writer.index, tmp_path / "saved", stop))
        for step in range(STEPS):
            # So that both sides get on, however threads are scheduled.
            while sum(len(reader.seen) for reader in readers) < 3 * step and not any(f.done() for f in futures):
                time.sleep(0.0005)
            writer.step()
        stop.set()
        seen = [future.result() for future in futures]
    for of_one_reader in seen[:READERS]:
        versions = [one.first for one in of_one_reader]
        assert versions == sorted(versions)
    for of_one in seen:
        compared(of_one, writer.models)
    compared([Seen(way, first.version, first.version, in_lists(way(first))) for way in EXPECTED], writer.models)
    last = writer.index.snapshot()
    compared([Seen(way, last.version, last.version, in_lists(way(last))) for way in EXPECTED], writer.models)
    assert first.version < last.version


# ---- several writers: a batch is there whole or not at all

WRITERS, BATCHES, BATCH = 4, 25, 12


def batches_of(writer: int) -> Iterator[NDArray[np.int64]]:
    for i in range(BATCHES):
        yield 10_000 * writer + BATCH * i + np.arange(BATCH)


def whole_batches(ids: NDArray[np.int64]) -> bool:
    """Whether every batch of which there is a document is there in full."""
    there = ids[ids >= 0]
    _, sizes = np.unique(there // 10_000 * 10_000 + there % 10_000 // BATCH, return_counts=True)
    return bool((sizes == BATCH).all()) and len(np.unique(there)) == len(there)


def test_several_writers_at_once() -> None:
    rows = np.random.default_rng(3).integers(-3, 4, (BATCH, DIM)).astype(np.float32)
    index = FlatIndex(DIM, scan="int8")
    stop = threading.Event()

    def write(writer: int) -> None:
        for i, ids in enumerate(batches_of(writer)):
            index.add(rows, ids)
            if i % 3 == 1:
                index.upsert(ids, rows[::-1])
            if i % 3 == 2:
                assert index.remove(ids) == BATCH
            if i % 10 == 9:
                index.compact()

    def read() -> bool:
        ok, i = True, 0
        while not stop.is_set() or i < 10:
            if len(index):
                ok &= whole_batches(index.search(QUERIES[:1], k=WRITERS * BATCHES * BATCH).ids[0])
            snapshot = index.snapshot()
            ok &= whole_batches(snapshot.ids) and len(snapshot) == len(snapshot.ids) == len(snapshot.vectors)
            i += 1
        return ok

    with ThreadPoolExecutor(WRITERS + 2) as executor, stopping(stop):
        readers = [executor.submit(read) for _ in range(2)]
        for writer in [executor.submit(write, i) for i in range(WRITERS)]:
            writer.result()
        stop.set()
        assert all(reader.result() for reader in readers)
    left = [ids for writer in range(WRITERS) for i, ids in enumerate(batches_of(writer)) if i % 3 != 2]
    assert sorted(index.ids.tolist()) == np.concatenate(left).tolist()
    snapshot = index.snapshot()
    for name, vector in zip(snapshot.ids.tolist(), snapshot.vectors.tolist(), strict=True):
        i, row = divmod(name % 10_000, BATCH)
        assert vector == rows[:: -1 if i % 3 == 1 else 1][row].tolist()


def test_what_is_handed_out_is_read_only_while_the_room_is_written() -> None:
    """Vectors that changed behind their norms and codes would be found no more."""
    rows = np.ones((1000, 256), np.float32)
    stop, filling = threading.Event(), [FlatIndex.from_vectors(rows[:1])]

    def fill() -> None:
        for _ in range(40):
            index = FlatIndex(256)
            index.add(rows[:1])
            filling[0] = index
            for _ in range(4):
                index.add(rows)

    def read() -> bool:
        writeable = False
        while not stop.is_set():
            writeable |= filling[0].vectors.flags.writeable
        return writeable

    with ThreadPoolExecutor(2) as executor, stopping(stop):
        reader = executor.submit(read)
        executor.submit(fill).result()
        stop.set()
        assert not reader.result()


# ---- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this operating system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_beside_readers_and_writers(tmp_path: Path) -> None:
    """It holds one version, whatever its parent's threads were about, and can go on writing."""
    rows = np.random.default_rng(3).integers(-3, 4, (BATCH, DIM)).astype(np.float32)
    index = FlatIndex(DIM, scan="int8")
    index.add(rows, np.arange(BATCH) + 90_000)
    stop = threading.Event()

    def write() -> None:
        i = 0
        while not stop.is_set():
            ids = BATCH * (i % BATCHES) + np.arange(BATCH)
            index.upsert(ids, rows)
            index.remove(ids)
            i += 1

    def read() -> None:
        while not stop.is_set():
            index.search(QUERIES, k=K, n_threads=2)

    def child() -> bool:
        ids = index.search(QUERIES[:1], k=1000, n_threads=2).ids[0]
        fine = whole_batches(ids) and (BATCH + 90_000 - 1) in index
        index.upsert(np.arange(BATCH) + 50_000, rows)
        index.compact()
        index.save(tmp_path / f"saved {os.getpid()}")
        found = FlatIndex.open(tmp_path / f"saved {os.getpid()}").search(QUERIES[:1], k=1000).ids[0]
        return fine and whole_batches(found) and 50_000 in found.tolist()

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    with stopping(stop):
        for _ in range(6):
            pid = os.fork()
            if pid == 0:
                signal.alarm(60)  # a hang ends as a failure
                ok = False
                try:
                    ok = child()
                finally:
                    os._exit(0 if ok else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for thread in threads:
        thread.join()
