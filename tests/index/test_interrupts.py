"""Signal handlers that run in the middle of calls: they are served soon, may raise, may call ragfast, may fork."""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import interruptions
import numpy as np
import pytest
from scripts import load

import ragfast
from ragfast._core import interruptible, turns
from ragfast.index import storage

RNG = np.random.default_rng(16)
DOCS = RNG.standard_normal((20_000, 96), np.float32)
PROBE = RNG.standard_normal((4, 96), np.float32)

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")


class StopWork(Exception):
    pass


def raise_once() -> Callable[[], None]:
    """A handler that raises the first time: the next signal may come when the exception has been caught."""
    raised: list[bool] = []

    def stop() -> None:
        if not raised:
            raised.append(True)
            raise StopWork

    return stop


@contextmanager
def handler_every(seconds: float, handler: Callable[[], Any]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fork_once(children: list[int], *, wait: bool = False) -> None:
    if not children:
        children.append(os.fork())
        if children == [0]:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # a hang ends as a signal
        elif wait:
            children.append(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))


def search(index: ragfast.FlatIndex, n_queries: int, n_threads: int = 1) -> Any:
    return index.search(np.resize(PROBE, (n_queries, 96)), k=10, n_threads=n_threads)


def handlers_run_by(call: Callable[[int], Any]) -> int:
    """How often a handler runs before call(size) returns, for a size that is large enough, or the greatest."""
    runs: list[int] = []
    for size in (5_000 * 2**i for i in range(8)):
        runs.clear()
        with handler_every(0.01, lambda: runs.append(1)):
            call(size)
            count = len(runs)
        if count >= 5:
            break
    return count


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("scan", ["float32", "int8"])
def test_handlers_run_during_a_search(scan: str, n_threads: int) -> None:
    # A handler that waits for the end of the call runs once, however many signals came.
    index = ragfast.FlatIndex.from_vectors(DOCS, scan=scan)
    assert handlers_run_by(lambda n: search(index, n, n_threads)) >= 5


def test_handlers_run_during_an_add() -> None:
    index = ragfast.FlatIndex(96, scan="int8")
    assert handlers_run_by(lambda n: index.add(np.resize(DOCS, (4 * n, 96)))) >= 5


def test_an_exception_of_a_handler_ends_the_search_and_changes_nothing() -> None:
    index = ragfast.FlatIndex.from_vectors(DOCS)
    expected = search(index, 4)

    def search_on() -> None:
        while True:
            search(index, 10_000)

    with handler_every(0.05, raise_once()), pytest.raises(StopWork):
        search_on()
    found = search(index, 4)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)


def test_an_exception_of_a_handler_leaves_an_add_undone() -> None:
    index = ragfast.FlatIndex.from_vectors(DOCS[:5000], ids=np.arange(5000))
    expected, version = search(index, 4), index.version

    more = np.resize(DOCS, (300_000, 96))

    def add_and_remove() -> None:
        nonlocal version
        while True:
            index.add(more, ids=np.arange(5000, 305_000))
            index.remove(np.arange(5000, 305_000))
            version += 2

    with handler_every(0.1, raise_once()), pytest.raises(StopWork):
        add_and_remove()
    assert index.version in (version, version + 1)
    if len(index) > 5000:
        index.remove(np.arange(5000, 305_000))
    assert np.array_equal(search(index, 4).ids, expected.ids)


def test_an_exception_of_a_handler_is_not_lost_in_a_call_that_fails() -> None:
    docs, queries = DOCS.copy(), np.resize(PROBE, (400, 96))
    docs[0, 0] = np.nan  # which the call finds at once, and goes on
    rows = np.resize(np.arange(len(docs)), (len(queries), len(docs)))
    with pytest.raises(StopWork), handler_every(0.03, raise_once()):
        ragfast.gather_scores(queries, docs, rows, n_threads=1)


def test_a_search_in_a_handler_is_right_and_so_is_the_one_around_it() -> None:
    index = ragfast.FlatIndex.from_vectors(DOCS)
    alone = search(index, 4).ids
    inside: list[Any] = []
    with handler_every(0.02, lambda: inside.append(search(index, 4, 2).ids)):
        while len(inside) < 3:
            around = search(index, 8_000, 2).ids
    assert all(np.array_equal(ids, alone) for ids in inside)
    assert np.array_equal(around, np.resize(alone, around.shape))


def test_other_threads_run_no_handlers() -> None:
    index = ragfast.FlatIndex.from_vectors(DOCS)
    expected = np.resize(search(index, 4).ids, (8_000, 10))
    found: SimpleQueue[Any] = SimpleQueue()

    thread = threading.Thread(target=lambda: found.put(search(index, 8_000, 2).ids))
    thread.start()

    def wait() -> None:
        while True:
            found.put(found.get())  # not thread.join(), which an exception of a handler confuses before Python 3.13

    with pytest.raises(StopWork), handler_every(0.02, raise_once()):
        wait()
    assert np.array_equal(found.get(), expected)
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_handler_may_fork() -> None:
    # The child has the calling thread only: its search ends, right or by an error, and its next one works.
    index = ragfast.FlatIndex.from_vectors(DOCS)
    alone = search(index, 4).ids
    children: list[int] = []

    def fork() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # or the next handler would run inside of fork
        fork_once(children)

    with handler_every(0.02, fork):
        while not children:
            try:
                right = np.array_equal(around := search(index, 8_000, 2).ids, np.resize(alone, around.shape))
            except RuntimeError as error:
                right = "forked" in str(error) and children == [0]
    if children == [0]:
        os._exit(not (right and np.array_equal(search(index, 4, 2).ids, alone)))
    assert right
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_exception_of_a_handler_comes_before_errors_that_the_call_has_found(n_threads: int) -> None:
    docs = RNG.standard_normal((5_000, 256))
    docs[0, 0] = np.nan
    chosen = np.zeros((5_000, 300), np.int64)
    queries = np.ones((5_000, 256))

    def gather_on() -> None:
        while True:
            with pytest.raises(ValueError, match="NaN"):
                ragfast.gather_scores(queries, docs, chosen, n_threads=n_threads)

    with handler_every(0.1, raise_once()), pytest.raises(StopWork):
        gather_on()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_the_threads_of_its_parent() -> None:
    children: list[int] = []
    go = threading.Event()
    with handler_every(0.05, lambda: (signal.setitimer(signal.ITIMER_REAL, 0), fork_once(children), go.set())):
        try:
            found = "the result" if interruptible.run(lambda: go.wait(60)) else "nothing"
        except RuntimeError as error:
            found = str(error)
    if children == [0]:
        os._exit("forked" not in found)
    assert found == "the result"
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0

    with pytest.raises(KeyError):  # and the end of several
        turns.map_on_threads(2, lambda i: {}[i], [1, 2, 3])
    helper = turns.Helper()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        helper.end()
        os._exit(0)
    helper.end()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_in_a_save_leaves_the_files_to_its_parent(tmp_path: Path) -> None:
    # The child unwinds the save before its parent goes on with it.
    index = ragfast.FlatIndex.from_vectors(DOCS[:100], ids=[f"document {i}" for i in range(100)])

    def save() -> None:
        index.save(tmp_path / "index", overwrite=True)

    save()
    index.upsert(["document 7"], DOCS[:1])
    places = interruptions.count(save, opcodes=True)
    for place in range(0, places, max(1, places // 80)):
        index.upsert(["document 7"], DOCS[place : place + 1])
        children: list[int] = []

        def fork(children: list[int] = children) -> None:
            fork_once(children, wait=True)
            if children == [0]:
                raise SystemExit

        try:
            interruptions.at(place, fork, save, opcodes=True)
        finally:
            if children == [0]:
                os._exit(0)
        assert children[1:] == [0]
        opened = ragfast.FlatIndex.open(tmp_path / "index")
        opened.verify()
        assert opened.version == index.version
        assert np.array_equal(opened.vectors, index.vectors)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_writes_to_no_file_of_its_parent(tmp_path: Path) -> None:
    rows = np.arange(12).reshape(4, 3)
    refused: list[str] = []
    with storage.change(tmp_path / "directory") as transaction:
        with transaction.stream("rows", rows.dtype, (3,)) as out:
            out.append(rows[:2])
            children: list[int] = []
            fork_once(children)
            if children == [0]:
                for write in (lambda: out.append(rows), out._finish, lambda: transaction.commit({})):
                    with contextlib.suppress(BaseException):
                        try:
                            write()
                        except RuntimeError as error:
                            refused.append(str(error))
                os._exit(sum("forked" in error for error in refused))
            assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 3
            out.append(rows[2:])
        transaction.commit({})
    stored = storage.open(tmp_path / "directory")
    stored.verify("rows")
    assert np.array_equal(stored.array("rows"), rows)


@pytest.mark.parametrize(
    "work",
    [lambda: interruptible.run(lambda: 5), lambda: turns.map_on_threads(3, abs, range(5))],
    ids=["run", "map_on_threads"],
)
def test_an_interrupted_call_leaves_no_thread(work: Callable[[], object]) -> None:
    def stop() -> None:
        raise StopWork

    before = _thread._count()
    for place in range(interruptions.count(work, opcodes=True)):
        with contextlib.suppress(StopWork):  # there are more places when the threads are slow
            interruptions.at(place, stop, work, opcodes=True)
        gc.collect()  # the tracer is in a cycle with the frames
        for _ in range(500):
            if _thread._count() <= before:
                break
            time.sleep(0.01)
        assert _thread._count() <= before


def test_interruptible_run_returns_what_the_call_returns_or_raises() -> None:
    assert interruptible.run(lambda: 5) == 5
    with pytest.raises(KeyError, match="missing"):
        interruptible.run(lambda: {}["missing"])
    names: list[str] = []
    thread = threading.Thread(target=lambda: interruptible.run(lambda: names.append(threading.current_thread().name)))
    thread.start()
    thread.join()
    assert names == [thread.name]


@pytest.mark.parametrize("order", ["C", "F"])
def test_interruptible_conversion_is_that_of_the_whole(order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruptible, "BLOCK", 100)
    monkeypatch.setattr(interruptible, "MIN_SORTED", 10)
    a = np.asarray(RNG.standard_normal((37, 11)), order=order)
    assert np.array_equal(interruptible.convert(a, np.float32, lambda block: block.astype(np.float32)), np.float32(a))
    out = np.empty(a.shape)
    interruptible.copy(out, a)
    assert np.array_equal(out, a)
    keys = RNG.integers(0, 9, 50)
    assert np.array_equal(interruptible.sort(keys), np.sort(keys))
    assert np.array_equal(interruptible.argsort(keys), np.argsort(keys, kind="stable"))


@pytest.mark.parametrize("kind", [{}, {"with_ids": "str"}, {"with_ids": None, "metric": "l2", "dtype": "float16"}])
def test_a_call_that_is_interrupted_is_done_whole_or_not_at_all(kind: dict[str, Any], tmp_path: Path) -> None:
    stress = load("tests/stress_interrupts.py")
    bench = stress.Bench(np.random.default_rng(3), 6, tmp_path, **kind)
    bench.index.save(tmp_path / "index")
    for name in bench.calls():
        if name == "upsert" and bench.ids is None:
            continue
        for _ in range(3):
            stress.run_round(bench, name, 0.05)
