"""Every public method of an index from a signal handler, a finalizer or a `__del__`, at any moment of any other.

What these are to Python, a call between two bytecodes, is made here at every line in turn (interruptions.py). Scripts
with real signals, and a short run of tests/stress_reentrancy.py, stand at the end. The oracle is a dictionary.
"""

from __future__ import annotations

import copy
import faulthandler
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interruptions
import numpy as np
import pytest
from index_model import Model, Row, difference
from numpy.typing import NDArray

from ragfast import FlatIndex, column
from ragfast._core import turns
from ragfast.index import writing

ROOT = Path(__file__).parents[2]
DIM, K = 4, 6
QUERIES = np.float32([[1, 2, -1, 0], [0, -1, 3, 1]])
REFUSED = "must not begin inside another change"
EVERY = int(os.environ.get("RAGFAST_PLACES_EVERY", "0"))
"""Where a test makes a new index for each place, it takes one place in so many: 1 for all; by default a few."""


@dataclass(frozen=True)
class Case:
    """An index of a kind, and where its documents lie."""

    kind: str  # of ids: "numbered", "int" or "str"
    with_rows: bool  # of metadata
    dtype: str
    mapped: bool

    def ids(self, numbers: list[int]) -> list[Any]:
        return [f"document {i}" if self.kind == "str" else i if self.kind == "numbered" else 7 * i for i in numbers]


CASES = [
    Case("numbered", False, "float32", False),
    Case("int", True, "float16", False),
    Case("str", True, "float32", False),
    Case("str", True, "float32", True),
    Case("int", True, "bfloat16", True),
]


def named(case: Case) -> str:
    return f"{case.kind}-{case.dtype}-{'mapped' if case.mapped else 'memory'}"


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few documents meet growth, the putting together of segments, and seals."""
    for name, value in {"MIN_CAPACITY": 8, "MIN_REMOVED": 2, "MAX_SEGMENTS": 2, "SEALED_ROWS": 8}.items():
        monkeypatch.setattr(writing, name, value)


def vectors_of(numbers: list[int], version: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng([version, *numbers])
    return rng.integers(-3, 4, (len(numbers), DIM)).astype(np.float32)


def rows_of(numbers: list[int], version: int = 0) -> list[Row]:
    langs = ["de", "en", None, f"of version {version}"]
    return [
        {"year": 1990 + i % 3, "lang": langs[(i + version) % 4], "weight": 0.5 * i, "ok": i % 2 == 0} for i in numbers
    ]


def metadata_of(case: Case, rows: list[Row]) -> dict[str, list[Any]] | None:
    return {name: [row[name] for row in rows] for name in rows[0]} if case.with_rows else None


class Pair:
    """An index, and the model of each version of it."""

    def __init__(self, case: Case, index: FlatIndex, model: Model) -> None:
        self.case, self.index, self.models = case, index, {index.version: model}

    @property
    def model(self) -> Model:
        """Of the version that is there now."""
        return self.models[self.index.version]

    def expect(self, model: Model) -> None:
        """That the next version is this one."""
        self.models[max(self.models) + 1] = model


def put(pair: Pair, numbers: list[int], version: int, into: Model | None = None) -> Model:
    model, case = (pair.model if into is None else into).copy(), pair.case
    ids = None if case.kind == "numbered" and version == 0 else case.ids(numbers)
    vectors = vectors_of(numbers, version).astype(np.float64)
    model.put(ids, vectors, rows_of(numbers, version) if case.with_rows else [], case.kind)
    return model


class Change:
    """A change of an index, and of its model."""

    def __init__(self, name: str, numbers: list[int], version: int = 0) -> None:
        self.name, self.numbers, self.version = name, numbers, version

    def of_model(self, pair: Pair, model: Model) -> Model:
        if self.name in ("add", "upsert"):
            return put(pair, self.numbers, self.version, model)
        after = model.copy()
        if self.name == "remove":
            after.remove(pair.case.ids(self.numbers))
        if self.name == "compact":
            after.forget()
        if self.name == "swap":
            after = other_pair(pair.case).model.copy()
        return after

    def of_index(self, pair: Pair, other: FlatIndex) -> None:
        index, ids, n = pair.index, pair.case.ids(self.numbers), self.numbers
        rows = metadata_of(pair.case, rows_of(n, self.version)) if n else None
        if self.name == "add":
            index.add(vectors_of(n, self.version), None if pair.case.kind == "numbered" else ids, rows)
        elif self.name == "upsert":
            index.upsert(ids, vectors_of(n, self.version), rows)
        elif self.name == "remove":
            assert index.remove(ids) == len(ids)
        elif self.name == "compact":
            index.compact()
        else:
            index.swap(other)


CHANGES = {
    "add": Change("add", [20, 21, 22]),
    "upsert": Change("upsert", [3, 5, 12], version=1),
    "remove": Change("remove", [2, 4, 6, 13]),
    "compact": Change("compact", []),
    "swap": Change("swap", []),
}


def other_pair(case: Case) -> Pair:
    numbers = list(range(5))
    vectors, rows = vectors_of(numbers, 3), rows_of(numbers, 3)
    index = FlatIndex.from_vectors(
        vectors,
        None if case.kind == "numbered" else case.ids(numbers),
        scan="int8",
        dtype=case.dtype,
        metadata=metadata_of(case, rows),
    )
    model = Model("ip")
    ids = None if case.kind == "numbered" else case.ids(numbers)
    model.put(ids, vectors.astype(np.float64), rows if case.with_rows else [], case.kind)
    return Pair(case, index, model)


class Made:
    """Makes the same index again and again."""

    def __init__(self, case: Case, path: Path) -> None:
        self._case, self._path = case, path
        if case.mapped:
            self._in_memory().index.save(path / "made")

    def _in_memory(self) -> Pair:
        case = self._case
        pair = Pair(case, FlatIndex(DIM, scan="int8", dtype=case.dtype), Model("ip"))
        for first, n in ((0, 9), (9, 5)):
            numbers = list(range(first, first + n))
            change = Change("add", numbers)
            pair.expect(change.of_model(pair, pair.model))
            change.of_index(pair, pair.index)
        return pair

    def __call__(self) -> Pair:
        pair = self._in_memory()
        return Pair(self._case, FlatIndex.open(self._path / "made"), pair.model) if self._case.mapped else pair


@pytest.fixture(params=CASES, ids=named)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return Made(request.param, tmp_path)


def some_of(n_places: int, about: int) -> range:
    """About so many of the places."""
    return range(0, n_places, EVERY or max(1, n_places // about))


def works_in_another_thread(work: Callable[[], object]) -> None:
    """Within half a minute: this thread would not notice that it holds a lock."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "a lock is held"
    if errors:
        raise errors[0]


# ---- what reads


def same_search(pair: Pair, model: Model, hits: Any, **constraints: Any) -> None:
    scores, ids = model.search(QUERIES, K, **constraints)
    assert np.array_equal(hits.scores, scores)
    assert hits.ids.tolist() == ids


def searched(index: Any, **constraints: Any) -> Any:
    return index.search(QUERIES, K, dtype=np.float64, **constraints)


def plain_search(pair: Pair, path: Path) -> Callable[[Model], None]:
    hits = searched(pair.index)
    return lambda model: same_search(pair, model, hits)


def filtered_search(pair: Pair, path: Path) -> Callable[[Model], None]:
    if not pair.case.with_rows:
        return plain_search(pair, path)
    hits = searched(pair.index, filter=(column("year") >= 1991) & ~(column("lang") == "de"))

    def check(model: Model) -> None:
        docs = [doc for doc in model.docs.values() if doc.row["year"] >= 1991 and doc.row["lang"] != "de"]
        same_search(pair, model, hits, allowed={doc.id for doc in docs})

    return check


def grouped_search(pair: Pair, path: Path) -> Callable[[Model], None]:
    if not pair.case.with_rows:
        return plain_search(pair, path)
    hits = searched(pair.index, group_by="year", max_per_group=1, exclude_groups=[1990, None])
    return lambda model: same_search(pair, model, hits, group_by="year", exclude_groups=[1990, None], max_per_group=1)


def by_ids(pair: Pair, path: Path) -> Callable[[Model], None]:
    some = pair.case.ids([1, 3, 5, 20])
    hits = searched(pair.index, filter=some)
    return lambda model: same_search(pair, model, hits, allowed=set(some))


def gathered(pair: Pair, path: Path) -> Callable[[Model], None]:
    one = pair.case.ids([1])[0]
    assert one in pair.index
    scores = pair.index.gather_scores(QUERIES, np.array([[one]] * 2, object if pair.case.kind == "str" else np.int64))

    def check(model: Model) -> None:
        key = model.key_of[one]
        assert scores.ravel().tolist() == [model.scores(query, [key])[0] for query in QUERIES]

    return check


def contents(pair: Pair, path: Path) -> Callable[[Model], None]:
    snapshot = pair.index.snapshot()
    assert len(snapshot) == len(snapshot.ids)
    assert f"of {len(snapshot)} documents" in repr(snapshot)
    assert pair.index.nbytes > 0
    return lambda model: no_difference(model, snapshot)


def no_difference(model: Model, index: Any) -> None:
    assert difference(model, index) == ""


def pickled(pair: Pair, path: Path) -> Callable[[Model], None]:
    copied = pickle.loads(pickle.dumps(pair.index))
    return lambda model: no_difference(model, copied)


def copied(pair: Pair, path: Path) -> Callable[[Model], None]:
    other = copy.deepcopy(pair.index)
    return lambda model: no_difference(model, other)


def swapped_elsewhere(pair: Pair, path: Path) -> Callable[[Model], None]:
    other = FlatIndex(DIM, scan="int8", dtype=pair.case.dtype)
    other.swap(pair.index)
    return lambda model: no_difference(model, other)


def saved(pair: Pair, path: Path) -> Callable[[Model], None]:
    pair.index.save(path, overwrite=True)
    opened = FlatIndex.open(path)
    return lambda model: no_difference(model, opened)


def verified(pair: Pair, path: Path) -> Callable[[Model], None]:
    if pair.case.mapped:
        pair.index.verify()
    return lambda model: None


READS: dict[str, Callable[[Pair, Path], Callable[[Model], None]]] = {
    read.__name__: read
    for read in (
        plain_search,
        filtered_search,
        grouped_search,
        by_ids,
        gathered,
        contents,
        pickled,
        copied,
        swapped_elsewhere,
        verified,
        saved,
    )
}
"""Each returns what compares its result with a model."""


def is_refused(pair: Pair) -> bool:
    """Whether a change is, at this moment: one that changes nothing."""
    try:
        pair.index.remove([])
    except RuntimeError as error:
        assert REFUSED in str(error)  # noqa: PT017  # any other error is one
        return True
    return False


@pytest.mark.parametrize("name", CHANGES)
def test_everything_at_every_line_of_a_change(name: str, made: Made, tmp_path: Path) -> None:
    change = CHANGES[name]
    elsewhere = FlatIndex(DIM)
    refused: list[bool] = []

    def nested(place: int) -> None:
        for read in READS.values():
            if read is not saved or place % 16 == 0:  # which waits for the disk
                read(pair, tmp_path / "nested")(pair.model)
        refused.append(is_refused(pair))
        elsewhere.add(np.ones((1, DIM), np.float32))

    pair, other = made(), other_pair(made._case).index
    pair.expect(change.of_model(pair, pair.model))
    _, n_places = interruptions.run(nested, lambda: change.of_index(pair, other))
    assert n_places == len(refused) == len(elsewhere)
    assert n_places > 20
    first, last = refused.index(True), n_places - refused[::-1].index(True)
    assert all(refused[first:last]), "between its first and its last refusal a change is refused at each moment"
    assert not is_refused(pair)
    assert pair.index.version == max(pair.models)
    for read in READS.values():
        read(pair, tmp_path / "after")(pair.model)


@pytest.mark.parametrize("name", CHANGES)
def test_a_first_use_at_each_line_of_a_change(name: str, made: Made, tmp_path: Path) -> None:
    """Nothing is there yet of what is made when it is first asked for."""
    change = CHANGES[name]
    pair = made()
    n_places = interruptions.count(lambda: change.of_index(pair, other_pair(made._case).index))
    reads = [read for read in READS.values() if read is not saved]
    for place in some_of(n_places, 20):
        pair, other = made(), other_pair(made._case).index
        pair.expect(change.of_model(pair, pair.model))
        read = reads[place % len(reads)]
        interruptions.at(
            place,
            lambda read=read, pair=pair: read(pair, tmp_path)(pair.model),
            lambda pair=pair, other=other: change.of_index(pair, other),
        )
        no_difference(pair.model, pair.index)


@pytest.mark.parametrize("name", READS)
def test_a_change_at_each_line_of_a_read(name: str, made: Made, tmp_path: Path) -> None:
    """The change works, and the read is of one version, of before or of after."""
    read = READS[name]
    warm = made()
    n_places = interruptions.count(lambda: read(warm, tmp_path / "warm"))
    changes = [CHANGES[other] for other in ("add", "remove", "upsert", "compact", "add", "swap")]
    for place in some_of(n_places, 8 if read is saved else 15):
        pair, other, change = made(), other_pair(made._case).index, changes[place % len(changes)]
        before = pair.model
        after = change.of_model(pair, before)
        pair.expect(after)
        compare = interruptions.at(
            place,
            lambda pair=pair, other=other, change=change: change.of_index(pair, other),
            lambda pair=pair, place=place: read(pair, tmp_path / f"read {place}"),
        )
        if change.name == "swap" and read is gathered:
            continue  # two reads, of two versions
        try:
            compare(before)
        except AssertionError:
            compare(after)
        no_difference(after, pair.index)
        if read is saved:  # the directory is known as this index's own
            pair.index.save(tmp_path / f"read {place}")
            no_difference(after, FlatIndex.open(tmp_path / f"read {place}"))


@pytest.mark.parametrize("name", [name for name in READS if name != "saved"])
def test_a_reader_holds_no_lock(name: str, made: Made, tmp_path: Path) -> None:
    """In the middle of it another thread does everything: what a finalizer there waits for must get on."""
    read = READS[name]
    first = made()
    n_places = interruptions.count(lambda: read(first, tmp_path))
    for place in some_of(n_places, 8):
        pair, other = made(), made()

        def everything(pair: Pair = pair, other: Pair = other) -> None:
            for one in (pair, other):
                plain_search(one, tmp_path)(one.model)
                verified(one, tmp_path)
                one.index.remove([])
            pair.index.save(tmp_path / "elsewhere", overwrite=True)

        compare = interruptions.at(
            place,
            lambda everything=everything: works_in_another_thread(everything),
            lambda pair=pair: read(pair, tmp_path),
        )
        compare(pair.model)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_at_each_line_of_a_change(name: str, made: Made) -> None:
    """It is refused, or comes before or after the outer one as a whole; the outer one ends in any case."""
    outer, inner = CHANGES[name], Change("remove", [7, 8])
    other = other_pair(made._case).index
    pair = made()
    n_places = interruptions.count(lambda: outer.of_index(pair, other))
    outcomes = set()
    for place in some_of(n_places, 20):
        pair, outcome = made(), []
        first = pair.model
        version = pair.index.version

        def nested(pair: Pair = pair, outcome: list[str] = outcome, version: int = version) -> None:
            when = "before" if pair.index.version == version else "after"
            if when == "after" and name == "swap":
                return  # these are other documents
            try:
                inner.of_index(pair, pair.index)
                outcome.append(when)
            except RuntimeError as error:
                assert REFUSED in str(error)  # noqa: PT017  # any other error is one
                outcome.append("refused")

        interruptions.at(place, nested, lambda pair=pair: outer.of_index(pair, other))
        ended = outer.of_model(pair, first)
        if outcome == ["before"]:
            ended = outer.of_model(pair, inner.of_model(pair, first))
        elif outcome == ["after"]:
            ended = inner.of_model(pair, ended)
        no_difference(ended, pair.index)
        outcomes.update(outcome)
    assert {"before", "refused"} <= outcomes


class Interrupt(BaseException):
    """As KeyboardInterrupt, which pytest does not take for a failure of the test."""


def interrupt() -> None:
    raise Interrupt


@pytest.mark.parametrize("name", CHANGES)
def test_an_interrupt_at_each_moment_of_a_change(name: str, made: Made, tmp_path: Path) -> None:
    change = CHANGES[name]
    other = other_pair(made._case).index
    pair = made()
    n_places = interruptions.count(lambda: change.of_index(pair, other), opcodes=True)
    interrupted = 0
    for place in some_of(n_places, 15):
        pair = made()
        pair.expect(change.of_model(pair, pair.model))

        def reads_and_raises(pair: Pair = pair) -> None:
            contents(pair, tmp_path)(pair.model)
            raise Interrupt

        try:
            interruptions.at(place, reads_and_raises, lambda pair=pair: change.of_index(pair, other), opcodes=True)
        except Interrupt:
            interrupted += 1
        assert turns._this_thread.within == ()
        for read in (contents, plain_search, filtered_search, grouped_search):
            read(pair, tmp_path)(pair.model)
        again, model = Change("remove", [0, 1]), pair.model
        works_in_another_thread(lambda pair=pair, again=again: again.of_index(pair, other))
        no_difference(again.of_model(pair, model), pair.index)
    assert interrupted > 5


@pytest.mark.parametrize("case", [CASES[2], CASES[3]], ids=named)
def test_an_interrupt_at_each_moment_of_a_save(case: Case, tmp_path: Path) -> None:
    """The directory holds the old version or the new one, and can be saved to while the exception is handled."""
    made = Made(case, tmp_path)
    pair = made()
    pair.index.save(tmp_path / "counted")
    CHANGES["remove"].of_index(pair, pair.index)
    n_places = interruptions.count(lambda: pair.index.save(tmp_path / "counted"), opcodes=True)
    for place in sorted({*some_of(n_places, 15), *range(n_places - 25, n_places)}):  # at its end it lets go of locks
        path = tmp_path / f"interrupted {place}"
        pair = made()
        pair.index.save(path)
        before, after = pair.model, CHANGES["remove"].of_model(pair, pair.model)
        CHANGES["remove"].of_index(pair, pair.index)
        try:
            interruptions.at(place, interrupt, lambda pair=pair, path=path: pair.index.save(path), opcodes=True)
        except Interrupt:
            there = FlatIndex.open(path)
            assert "" in (difference(before, there), difference(after, there))
            pair.index.save(path)
        no_difference(after, FlatIndex.open(path))


def test_a_save_at_each_line_of_a_save(tmp_path: Path) -> None:
    """Of the same index to the same path: refused as that of any second writer, or made before or after."""
    made = Made(CASES[2], tmp_path)
    pair = made()
    n_places = interruptions.count(lambda: pair.index.save(tmp_path / "counted"))
    outcomes = set()
    for place in some_of(n_places, 25):
        pair, path = made(), tmp_path / f"saved {place}"

        def nested(pair: Pair = pair, path: Path = path) -> None:
            try:
                pair.index.save(path)
                outcomes.add("saved")
            except BlockingIOError:
                outcomes.add("refused")

        interruptions.at(place, nested, lambda pair=pair, path=path: pair.index.save(path))
        no_difference(pair.model, FlatIndex.open(path))
        pair.index.remove(pair.case.ids([3]))
        pair.index.save(path)  # no other writer is taken for one
        assert len(FlatIndex.open(path)) == len(pair.index)
    assert outcomes == {"saved", "refused"}


def test_a_build_at_each_line_of_a_build(tmp_path: Path) -> None:
    rows = vectors_of(list(range(40)))

    def build(path: Path) -> FlatIndex:
        return FlatIndex.build(path, [rows[:30], rows[30:]], scan="int8", progress=False)

    def nested(place: int) -> None:
        if place % (EVERY or 80) == 0:
            assert len(build(tmp_path / f"inner {place}")) == 40

    outer, n_places = interruptions.run(nested, lambda: build(tmp_path / "outer"))
    assert n_places > 200
    assert np.array_equal(outer.vectors, rows)


# ---- several indexes, several threads


def test_an_index_is_changed_inside_the_change_of_another() -> None:
    one, other = FlatIndex(DIM), FlatIndex(DIM)

    class Rows(list[Any]):
        """A column that changes the other index while it is read."""

        def __iter__(self) -> Iterator[Any]:
            other.add(np.ones((1, DIM), np.float32))
            return super().__iter__()

    one.add(np.ones((2, DIM), np.float32), metadata={"year": Rows([1, 2])})
    assert len(one) == 2
    assert len(other) > 0


def test_two_threads_that_change_each_others_index_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "NESTED_WAIT", 0.1)
    indexes = FlatIndex(DIM), FlatIndex(DIM)
    inside = threading.Barrier(2)
    refusals: list[str] = []

    def change(i: int) -> None:
        class Rows(list[Any]):
            def __iter__(self) -> Iterator[Any]:
                if not refusals:
                    inside.wait(60)
                    try:
                        indexes[1 - i].remove([])
                    except RuntimeError as error:
                        refusals.append(str(error))
                return super().__iter__()

        indexes[i].add(np.ones((1, DIM), np.float32), metadata={"year": Rows([i])})

    threads = [threading.Thread(target=change, args=(i,), daemon=True) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [len(index) for index in indexes] == [1, 1]
    assert refusals
    assert all("must not wait for another thread's change of the same index inside add" in text for text in refusals)


def test_the_refusal_says_what_to_do() -> None:
    index = FlatIndex(DIM)

    class Rows(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            index.compact()
            return super().__iter__()

    rows = np.ones((1, DIM), np.float32)
    with pytest.raises(
        RuntimeError, match=r"^compact: must not begin inside .* add is under way .* Put the change into"
    ):
        index.add(rows, metadata={"year": Rows([1])})
    assert len(index) == 0
    index.add(rows, metadata={"year": [1]})
    assert len(index) == 1


# ---- with signals and the collector

SAVE_IN_A_HANDLER = """if True:
    import faulthandler, os, signal, sys, threading, numpy as np, ragfast
    faulthandler.dump_traceback_later(60, exit=True)
    index = ragfast.FlatIndex(64)
    rows = np.random.default_rng(0).standard_normal((5000, 64)).astype("f4")

    def leave(*_):
        index.save(sys.argv[1])
        assert len(ragfast.FlatIndex.open(sys.argv[1])) == len(index)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGTERM)).start()
    while True:
        index.add(rows)
        if len(index) > 50_000:
            index.remove(index.ids)
"""


def succeeds(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.mark.parametrize("seconds", ["0.05", "0.2", "0.31", "0.43"])
def test_save_in_a_handler_for_sigterm(seconds: str, tmp_path: Path) -> None:
    succeeds("-c", SAVE_IN_A_HANDLER, str(tmp_path / "index"), seconds)


REMOVE_IN_A_FINALIZER = """if True:
    import faulthandler, gc, sys, weakref, numpy as np, ragfast
    faulthandler.dump_traceback_later(60, exit=True)
    index, rows = ragfast.FlatIndex(8), np.ones((1, 8), "f4")
    refused, removed, due = [], [], []
    sys.unraisablehook = lambda about: refused.append(str(about.exc_value))
    gc.set_threshold(50, 2, 2)

    def forget(n):
        removed.append(index.remove([n]))

    class Page:
        def __init__(self, n):
            self.me = self
            weakref.finalize(self, forget if n % 2 else due.append, n)

    for n in range(3000):
        index.add(rows, ids=[n])
        Page(n)
        while due:
            removed.append(index.remove([due.pop()]))
    assert all("must not begin inside another change" in text for text in refused), refused
    print(len(refused), sum(removed), len(index))
    assert refused and len(index) == 3000 - sum(removed)
    assert len(index) - len(refused) < 200, "what was not refused is gone, but for the last pages"
"""


def test_remove_in_a_finalizer() -> None:
    succeeds("-c", REMOVE_IN_A_FINALIZER)


def test_a_short_stress() -> None:
    said = succeeds(str(ROOT / "tests" / "stress_reentrancy.py"), "--seconds", "10")
    assert "0 wrong" in said
