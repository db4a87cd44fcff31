"""Hammers every public method of indexes from signal handlers, finalizers, `__del__` and threads, all at once.

    python tests/stress_reentrancy.py --seconds 600

Each (thread, depth of nesting) owns documents of its own in every index. A document says in its vector whose it is, so
that any reading can be checked: each owner must find exactly its own documents as it left them, whatever others do;
what a search finds must be what sorting the same snapshot finds. The report counts what was done; the exit status is 1
where an answer was wrong, and a hang ends the process with all tracebacks.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import gc
import pickle
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex, column
from ragfast.index import writing

DIM, K, N_NUMBERS, N_VERSIONS, MAX_DEPTH, N_THREADS = 8, 7, 40, 90, 3, 3
HANG = 120  # seconds
SMALL = {"MIN_CAPACITY": 64, "MIN_REMOVED": 20, "MAX_SEGMENTS": 4, "SEALED_ROWS": 128}
NESTED = "must not begin inside another change"
BUSY = "must not wait for another thread's change"

counts: Counter[str] = Counter()
wrong: list[str] = []
Docs = dict[int, int]
"""The documents of one owner: their numbers, and the version of each."""


class Interrupt(BaseException):
    """What handlers raise, as KeyboardInterrupt is raised."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def vectors_of(owner: int, docs: Docs) -> NDArray[np.float32]:
    """All integers up to 128, which every dtype holds."""
    numbers, versions = np.array(list(docs)), np.array(list(docs.values()))
    out = np.empty((len(docs), DIM), np.float32)
    out[:, 0], out[:, 1], out[:, 2] = owner, numbers, versions
    for i in range(3, DIM):
        out[:, i] = (numbers * (7 + i) + versions * (3 + 2 * i) + owner) % 17 - 8
    return out


def columns_of(owner: int, docs: Docs) -> dict[str, list[Any]]:
    return {
        "number": list(docs),
        "word": [None if n % 5 == 0 else f"word {(n + v) % 13}" for n, v in docs.items()],
        "weight": [n / 4 + v for n, v in docs.items()],
        "ok": [v % 2 == 0 for v in docs.values()],
    }


class Shared:
    """An index that all change, and what each owner has in it."""

    def __init__(self, name: str, index: FlatIndex, kind: str, with_rows: bool) -> None:
        self.name, self.index, self.kind, self.with_rows = name, index, kind, with_rows
        self.owned: dict[int, Docs] = {}

    def ids(self, owner: int, numbers: list[int]) -> list[Any]:
        if self.kind == "numbered":  # those that the index gave
            snapshot = self.index.snapshot()
            vectors = snapshot.vectors
            mine = np.flatnonzero(vectors[:, 0] == owner)
            at = {int(vectors[i, 1]): int(snapshot.ids[i]) for i in mine.tolist()}
            return [at[n] for n in numbers]
        return [f"{owner}: {n}" if self.kind == "str" else 1000 * owner + n for n in numbers]

    def rows(self, owner: int, docs: Docs) -> dict[str, list[Any]] | None:
        return columns_of(owner, docs) if self.with_rows else None

    def check(self, owner: int, index: Any, expected: list[Docs]) -> Docs:
        """Which of these the owner's documents in an index are."""
        snapshot = index.snapshot() if isinstance(index, FlatIndex) else index
        ids, vectors, metadata = snapshot.ids, snapshot.vectors.astype(np.float32), snapshot.metadata
        expect(len(ids) == len(vectors) == len(snapshot) == len(set(ids.tolist())), f"{self.name}: ids that repeat")
        mine = np.flatnonzero(vectors[:, 0] == owner)
        found = {int(vectors[i, 1]): int(vectors[i, 2]) for i in mine.tolist()}
        expect(len(found) == len(mine), f"{self.name}: a document of {owner} twice")
        there = next((docs for docs in expected if docs == found), None)
        if there is None:
            raise AssertionError(f"{self.name}: owner {owner} expected one of {expected}, found {found}")
        expect(np.array_equal(vectors[mine], vectors_of(owner, found)), f"{self.name}: other vectors of {owner}")
        if self.with_rows and len(mine):
            for name, values in columns_of(owner, found).items():
                expect(metadata[name][mine].tolist() == values, f"{self.name}: other values of {name} of {owner}")
        if self.kind != "numbered":
            named = self.ids(owner, list(found))
            expect(ids[mine].tolist() == named, f"{self.name}: other ids of {owner}")
        return there


class Place:
    """Where code runs: a thread and how deep it is nested."""

    def __init__(self, thread: int, seed: int) -> None:
        self.thread = thread
        self.depth = 0
        self.rng = random.Random(seed)
        self.armed = [False] * (MAX_DEPTH + 2)  # at each depth, whether a handler may raise
        self.n_done = 0
        self.at: list[Shared] = []  # what the operations under way are about, the outermost first

    @property
    def owner(self) -> int:
        return 1 + self.thread * (MAX_DEPTH + 1) + self.depth


class Stress:
    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.seed = directory, seed
        self.shared = [
            Shared("int float32 l2", FlatIndex(DIM, scan="int8", metric="l2"), "int", True),
            Shared("str float16", FlatIndex(DIM, scan="int8", dtype="float16"), "str", True),
            Shared("numbered", FlatIndex(DIM, scan="auto"), "numbered", False),
            Shared("int bfloat16 mapped", self._mapped("int", "bfloat16"), "int", True),
            Shared("str mapped", self._mapped("str", "float32"), "str", True),
        ]
        self.here = threading.local()
        self.until = 0.0
        self.places: list[Place] = []

    def _mapped(self, kind: str, dtype: str) -> FlatIndex:
        """Opened, with documents of nobody."""
        path = self.directory / f"mapped {kind}"
        docs = {n: n for n in range(60)}
        ids: Any = [f"nobody: {n}" for n in docs] if kind == "str" else [900_000 + n for n in docs]
        index = FlatIndex.from_vectors(vectors_of(0, docs), ids, scan="int8", dtype=dtype, metadata=columns_of(0, docs))
        index.save(path)
        return FlatIndex.open(path)

    # ---- one operation

    @property
    def place(self) -> Place:
        place: Place = self.here.place
        return place

    def operate(self, armed: bool = False) -> None:
        """Any operation at all, checked. armed: a handler may raise into it."""
        place = self.place
        rng, owner, depth = place.rng, place.owner, place.depth
        shared = place.at[-1] if place.at and rng.random() < 0.6 else rng.choice(self.shared)
        change = rng.random() < 0.75
        operation = rng.choice(self.CHANGES if change else self.READS)
        before = shared.owned.setdefault(owner, {})
        name, after, run = operation(self, shared, owner, before, rng)
        place.at.append(shared)
        try:
            try:
                place.armed[depth] = armed
                run()
            finally:
                place.armed[depth] = False
                del place.at[depth:]
        except Interrupt:
            counts["interrupts"] += 1
            after = shared.check(owner, shared.index, [before, after])
        except RuntimeError as error:
            if NESTED not in str(error) and BUSY not in str(error):
                raise
            counts["refused inside a change" if NESTED in str(error) else "refused as busy"] += 1
            after = shared.check(owner, shared.index, [before])
        except BlockingIOError:
            counts["refused a second writer"] += 1
        shared.owned[owner] = after
        counts[name] += 1
        counts["operations"] += 1
        counts["nested operations"] += depth > 0
        place.n_done += 1
        if place.thread == 0:
            self.watch()
        if rng.random() < 0.15:
            shared.check(owner, shared.index, [after])

    def nested(self) -> None:
        """An operation from a handler, a finalizer or a __del__; it lets nothing out."""
        if time.monotonic() > self.until or not hasattr(self.here, "place") or self.place.depth >= MAX_DEPTH:
            return
        place = self.place
        place.depth += 1
        try:
            self.operate(armed=place.thread == 0 and place.rng.random() < 0.3)
        except BaseException:
            wrong.append(traceback.format_exc())
        finally:
            place.depth -= 1

    # ---- changes

    def meddling(self, rows: dict[str, list[Any]] | None) -> dict[str, Any] | None:
        """Metadata of which a column operates when a change reads it."""
        if rows is None or self.place.rng.random() < 0.5:
            return rows
        return {name: Meddling(self, values) if name == "word" else values for name, values in rows.items()}

    def add(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        free = [n for n in range(N_NUMBERS) if n not in before]
        new = {n: rng.randrange(N_VERSIONS) for n in rng.sample(free, min(len(free), rng.randint(0, 30)))}
        ids = None if shared.kind == "numbered" else shared.ids(owner, list(new))
        rows = self.meddling(shared.rows(owner, new))

        def run() -> None:
            shared.index.add(vectors_of(owner, new), ids, rows)

        return "add", before | new, run

    def upsert(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        numbers = rng.sample(list(before), min(len(before), rng.randint(0, 5)))
        if shared.kind != "numbered":
            numbers = list({*numbers, *rng.sample(range(N_NUMBERS), 3)})
        new = {n: rng.randrange(N_VERSIONS) for n in numbers}
        ids, rows = shared.ids(owner, numbers), self.meddling(shared.rows(owner, new))
        return "upsert", before | new, lambda: shared.index.upsert(ids, vectors_of(owner, new), rows)

    def remove(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        gone = rng.sample(list(before), min(len(before), rng.randint(0, 12)))
        ids = shared.ids(owner, gone)

        def run() -> None:
            expect(shared.index.remove(ids) == len(ids), "remove: another number than was asked")

        return "remove", {n: v for n, v in before.items() if n not in gone}, run

    def compact(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        return "compact", before, shared.index.compact

    # ---- reads

    def search(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        snapshot = shared.index.snapshot()
        query = np.array(
            [[rng.randint(-3, 3) for _ in range(DIM)] for _ in range(rng.choice([1, 1, 2, 9]))], np.float32
        )
        way = rng.choice(["plain", "predicate", "groups", "mask", "gather"]) if snapshot.columns else "plain"

        def run() -> None:
            vectors = snapshot.vectors.astype(np.float64)
            if snapshot.metric == "l2":
                scores = -np.square(query.astype(np.float64)[:, None] - vectors).sum(axis=2)
            else:
                scores = query.astype(np.float64) @ vectors.T
            allowed, options = np.ones(len(vectors), bool), {}
            if way == "predicate":
                words, numbers = snapshot.metadata["word"], snapshot.metadata["number"]
                allowed = (words != "word 3") & (words != None) & (numbers < 25)  # noqa: E711  # an array
                options["filter"] = (column("word") != "word 3") & (column("number") < 25)
            elif way == "mask":
                allowed = np.arange(len(vectors)) % 3 > 0
                options["filter"] = allowed
            elif way == "groups":
                options.update(group_by="number", max_per_group=1)
            elif way == "gather" and len(vectors):
                chosen = np.arange(len(vectors))[:: max(1, len(vectors) // 5)]
                ids = np.broadcast_to(snapshot.ids[chosen], (len(query), len(chosen)))
                found = snapshot.gather_scores(query, ids, dtype=np.float32)
                expect(np.array_equal(found, scores[:, chosen].astype(np.float32)), "other gathered scores")
                return
            hits = snapshot.search(query, K, dtype=np.float64, **options)
            at = {doc_id: i for i, doc_id in enumerate(snapshot.ids.tolist())}
            for b, of_query in enumerate(scores):
                ranked = sorted((-of_query[i], i) for i in np.flatnonzero(allowed))
                if way == "groups":
                    best: dict[int, tuple[float, int]] = {}
                    for one in ranked:
                        best.setdefault(int(snapshot.metadata["number"][one[1]]), one)
                    ranked = sorted(best.values())
                expected = [-score for score, _ in ranked[:K]]
                n = len(expected)
                expect(hits.scores[b, :n].tolist() == expected, f"{shared.name}: {way}: other scores")
                expect(bool(np.isneginf(hits.scores[b, n:]).all()), f"{shared.name}: {way}: too many")
                places = [at[doc_id] for doc_id in hits.ids[b, :n].tolist()]
                expect(of_query[places].tolist() == expected, f"{shared.name}: {way}: ids of other scores")
                expect(len(set(places)) == n and bool(allowed[places].all()), f"{shared.name}: {way}: wrong documents")

        return f"search, {way}", before, run

    def read(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        def run() -> None:
            shared.check(owner, shared.index, [before])
            index, snapshot = shared.index, shared.index.snapshot()
            expect(f"of {len(snapshot)} documents" in repr(snapshot), "repr")
            expect(index.nbytes >= 0 and index.version >= snapshot.version and index.dim == DIM, "attributes")
            for doc_id in shared.ids(owner, list(before)[:3]):
                expect(doc_id in index, "a document that is not there")

        return "read", before, run

    def copied(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        way = rng.choice(["pickle", "deepcopy", "swap"])

        def run() -> None:
            if way == "swap":
                index = FlatIndex(DIM, scan=shared.index.scan, dtype=shared.index.dtype, metric=shared.index.metric)
                index.swap(shared.index)
            else:
                index = pickle.loads(pickle.dumps(shared.index)) if way == "pickle" else copy.deepcopy(shared.index)
            shared.check(owner, index, [before])
            index.compact()
            index.remove(shared.ids(owner, list(before)) if shared.kind != "numbered" else [])
            shared.check(owner, index, [before if shared.kind == "numbered" else {}])

        return f"copy by {way}", before, run

    def saved(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        own = rng.random() < 0.7
        path = self.directory / (f"{self.shared.index(shared)} of {owner}" if own else f"{self.shared.index(shared)}")
        mmap = rng.choice([True, False, "vectors"])

        def run() -> None:
            shared.index.save(path, overwrite=True)
            opened = FlatIndex.open(path, mmap=mmap)
            if own:  # else another owner may have saved an older version there, which has other documents of this one
                shared.check(owner, opened, [before])
                opened.verify()
            opened.search(np.ones((1, DIM), np.float32), 3)

        return "save and open", before, run

    def verified(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        def run() -> None:
            with contextlib.suppress(ValueError):  # never saved
                shared.index.verify()

        return "verify", before, run

    def built(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        path = self.directory / f"built by {owner}"
        docs = {n: n for n in range(rng.randint(1, 70))}

        def run() -> None:
            rows = vectors_of(owner, docs)
            index = FlatIndex.build(path, [rows[:11], rows[11:]], scan="int8", progress=False)
            expect(np.array_equal(index.vectors, rows), "build: other vectors")

        return "build", before, run

    def one_shot(self, shared: Shared, owner: int, before: Docs, rng: random.Random) -> Any:
        def run() -> None:
            rows = vectors_of(owner, {n: n for n in range(30)})
            hits = ragfast.search(rows[:2], rows, k=30, dtype=np.float64)
            expect(np.array_equal(np.sort(hits.ids), np.tile(np.arange(30), (2, 1))), "one-shot search")
            x = rows.astype(np.float64)
            expect(bool(np.allclose(ragfast.logsumexp(x), np.log(np.exp(x - 90).sum(axis=1)) + 90)), "logsumexp")

        return "without an index", before, run

    CHANGES = (add, upsert, remove, remove, compact)
    READS = (search, search, search, search, search, search, read, read, copied, saved, verified, built, one_shot)

    # ---- who calls

    def litter(self) -> None:
        """Leaves objects in cycles that operate when the collector finds them, and one that does so at once."""
        rng = self.place.rng
        if rng.random() < 0.5:
            finalized = Cycle()
            weakref.finalize(finalized, self.in_between, "a finalizer").atexit = False
        else:
            Deleted(self)
        if rng.random() < 0.2:
            deleted = Deleted(self)
            deleted.me = None
            del deleted

    def in_between(self, who: str) -> None:
        counts[f"calls by {who}"] += 1
        self.nested()

    def handle(self, number: int, frame: Any) -> None:
        counts["calls by a signal handler"] += 1
        place = self.place
        self.nested()
        signal.setitimer(signal.ITIMER_REAL, place.rng.choice([0.0005, 0.002, 0.005, 0.02]))
        if place.armed[place.depth] and place.rng.random() < 0.5:
            place.armed[place.depth] = False
            raise Interrupt

    def loop(self, thread: int) -> None:
        self.here.place = place = Place(thread, self.seed + thread)
        self.places.append(place)
        while time.monotonic() < self.until and not wrong:
            try:
                self.litter()
                self.operate(armed=thread == 0)
            except BaseException:
                wrong.append(traceback.format_exc())

    def watch(self) -> None:
        """Ends the process where a thread got on no further."""
        faulthandler.dump_traceback_later(HANG, exit=True)
        now = time.monotonic()
        for place in self.places:
            last = getattr(place, "seen", (-1, now))
            place.seen = (place.n_done, now) if place.n_done != last[0] else last  # type: ignore[attr-defined]
            if now - place.seen[1] > HANG:  # type: ignore[attr-defined]
                print(f"thread {place.thread} hangs", file=sys.stderr)
                faulthandler.dump_traceback(all_threads=True)
                sys.stderr.flush()
                raise SystemExit("a hang")

    def run(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        workers = [threading.Thread(target=self.loop, args=(i,), daemon=True) for i in range(1, N_THREADS)]
        self.here.place = Place(0, self.seed)
        signal.signal(signal.SIGALRM, self.handle)
        for worker in workers:
            worker.start()
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        try:
            self.loop(0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for worker in workers:
            worker.join(HANG)
            expect(not worker.is_alive(), "a thread hangs")
        for shared in self.shared:
            for owner, docs in shared.owned.items():
                shared.check(owner, shared.index, [docs])


class Meddling(list[Any]):
    def __init__(self, stress: Stress, values: list[Any]) -> None:
        super().__init__(values)
        self.stress = stress

    def __iter__(self) -> Iterator[Any]:
        self.stress.in_between("an argument")
        return super().__iter__()


class Cycle:
    """Only the collector ends it."""

    def __init__(self) -> None:
        self.me: Cycle | None = self


class Deleted(Cycle):
    def __init__(self, stress: Stress) -> None:
        super().__init__()
        self.stress = stress

    def __del__(self) -> None:
        self.stress.in_between("a __del__")


def note_unraisable(about: Any) -> None:
    """Python prints what finalizers raise. A handler may raise into one before it has got to its operation."""
    if isinstance(about.exc_value, Interrupt):
        counts["interrupts of a finalizer"] += 1
    else:
        wrong.append(f"unraisable: {about.exc_value!r} in {about.object!r}")


@contextlib.contextmanager
def small_segments() -> Iterator[None]:
    before = {name: getattr(writing, name) for name in SMALL}
    for name, value in SMALL.items():
        setattr(writing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(writing, name, value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.unraisablehook = note_unraisable
    gc.set_threshold(100, 3, 3)
    sys.setswitchinterval(0.0005)
    directory = Path(tempfile.mkdtemp())
    began = time.monotonic()
    try:
        with small_segments():
            Stress(directory, options.seed).run(options.seconds)
    except AssertionError:
        wrong.append(traceback.format_exc())
    finally:
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(directory, ignore_errors=True)
    for name, n in sorted(counts.items()):
        print(f"{n:9,} {name}")
    for text in wrong[:5]:
        print(text)
    print(f"{time.monotonic() - began:.0f} s, seed {options.seed}: 0 hangs, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
