"""Threads: how many, that they change nothing, and that neither concurrency nor fork breaks a search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ragfast
from ragfast import FlatIndex

X = np.random.default_rng(0).standard_normal((20_000, 64), dtype=np.float32)
Q = np.random.default_rng(1).standard_normal((40, 64), dtype=np.float32)


def test_many_threads_search_at_once_while_documents_are_added() -> None:
    index = FlatIndex.from_vectors(X)
    expected = index.search(Q, n_threads=1).ids
    growing = FlatIndex.from_vectors(X[:5000])
    sizes: list[int] = []

    def search(i: int) -> bool:
        sizes.append(int(growing.search(Q[:1], k=20_000).ids.max()) + 1)  # ids are row numbers: all or none of an add
        rows = slice(i % 30, i % 30 + 1 + i % 10)
        return index.search(Q[rows], n_threads=1 + i % 4).ids.tolist() == expected[rows].tolist()

    def add() -> None:
        for part in np.array_split(X[5000:], 15):
            growing.add(part)

    adder = threading.Thread(target=add)
    adder.start()
    with ThreadPoolExecutor(8) as executor:
        results = list(executor.map(search, range(120)))
    adder.join()
    assert all(results)
    assert all(size % 1000 == 0 for size in sizes)
    assert growing.search(Q).ids.tolist() == expected.tolist()


def in_child(search_threads: int) -> int:
    """Exit status of a forked child that searches."""
    expected = ragfast.search(Q, X, n_threads=2).ids  # the parent's pool has workers now
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang ends as a failure
        ok = ragfast.search(Q, X, n_threads=search_threads).ids.tolist() == expected.tolist()
        os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this operating system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_search_in_a_forked_child() -> None:
    assert in_child(1) == 0
    assert in_child(3) == 0
    stop = threading.Event()

    def keep_searching() -> None:
        while not stop.is_set():
            ragfast.search(Q, X, n_threads=2)

    busy = threading.Thread(target=keep_searching)  # fork while another thread is inside a search
    busy.start()
    try:
        assert [in_child(2) for _ in range(5)] == [0] * 5
    finally:
        stop.set()
        busy.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this operating system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_add_in_a_child_forked_while_another_thread_adds() -> None:
    index = FlatIndex.from_vectors(X[:10])
    inside, forked = threading.Event(), threading.Event()

    def change() -> None:  # as long as an add may take
        inside.set()
        assert forked.wait(60)

    adding = threading.Thread(target=index._turns.take, args=("add", change))
    adding.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        index.add(X[10:20])
        os._exit(0 if len(index) == 20 else 1)
    forked.set()
    adding.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(index) == 10


def test_other_python_threads_run_during_a_search() -> None:
    # The GIL is released: a counter advances while one long search runs.
    index = FlatIndex.from_vectors(np.concatenate([X] * 5))
    queries = np.concatenate([Q] * 20)
    running, ticks = threading.Event(), 0
    thread = threading.Thread(target=lambda: (running.set(), index.search(queries, n_threads=1), running.clear()))
    thread.start()
    running.wait()
    while running.is_set():
        ticks += 1
    thread.join()
    assert ticks > 100


def test_a_million_threads_are_as_many_as_there_is_work_for() -> None:
    assert ragfast.search(Q, X, n_threads=10**6).ids.tolist() == ragfast.search(Q, X, n_threads=1).ids.tolist()


def test_set_and_get() -> None:
    before = ragfast.get_num_threads()
    try:
        ragfast.set_num_threads(3)
        assert ragfast.get_num_threads() == 3
        for bad in (0, -2):
            with pytest.raises(ValueError, match=f"n: expected 1 or more, got {bad}"):
                ragfast.set_num_threads(bad)
        assert ragfast.get_num_threads() == 3
    finally:
        ragfast.set_num_threads(before)


def threads_in_subprocess(**environment: str) -> subprocess.CompletedProcess[str]:
    code = "import ragfast; print(ragfast.get_num_threads())"
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_environment_variable() -> None:
    assert threads_in_subprocess(RAGFAST_NUM_THREADS="5").stdout.strip() == "5"
    for bad in ("0", "-1", "many"):
        result = threads_in_subprocess(RAGFAST_NUM_THREADS=bad)
        assert result.returncode != 0
        assert "RAGFAST_NUM_THREADS: expected an integer of 1 or more" in result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this operating system has no affinity")
def test_the_default_honours_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import ragfast as r; "
    code += "print(r.get_num_threads())"
    environment = {k: v for k, v in os.environ.items() if k != "RAGFAST_NUM_THREADS"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "1"


def test_threadpoolctl_sees_and_limits_the_pool() -> None:
    """In a process of its own: other tests load a second build beside this one."""
    pytest.importorskip("threadpoolctl")
    code = """if True:
        import ragfast, ragfast.runtime, threadpoolctl
        ragfast.runtime.register_threadpoolctl()
        before = ragfast.get_num_threads()
        with threadpoolctl.threadpool_limits(1, user_api="ragfast"):
            assert ragfast.get_num_threads() == 1
            (info,) = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "ragfast"]
            assert info["num_threads"] == 1
        assert ragfast.get_num_threads() == before
    """
    environment = os.environ | {"RAGFAST_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
