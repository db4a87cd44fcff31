"""Work that takes turns, and threads that make calls for others."""

from __future__ import annotations

import threading
import time

import pytest

from ragfast._core import turns
from ragfast._core.turns import Helper, Turns, map_on_threads


def test_work_of_two_threads_takes_turns() -> None:
    one, running, most = Turns("it"), 0, 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.001)
        running -= 1

    threads = [threading.Thread(target=lambda: [one.take("work", work) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_work_inside_work_is_refused_and_that_of_others_is_not() -> None:
    one, other = Turns("this"), Turns("that")
    assert one.take("outer", lambda: other.take("inner", lambda: 5)) == 5
    with pytest.raises(RuntimeError, match=r"^inner: must not begin inside another change of this; outer is under way"):
        one.take("outer", lambda: other.take("middle", lambda: one.take("inner", lambda: 5)))
    assert one.take("again", lambda: 6) == 6


def test_an_error_ends_the_turn() -> None:
    one = Turns("it")

    def fail() -> None:
        raise OSError("it failed")

    with pytest.raises(OSError, match="it failed"):
        one.take("work", fail)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(one.take("work", lambda: 7)))
    thread.start()
    thread.join(60)
    assert found == [7]


def test_a_wait_inside_of_work_ends_and_leaves_the_turn_of_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "NESTED_WAIT", 0.05)
    one, other = Turns("this"), Turns("that")
    taken, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: other.take("long", lambda: (taken.set(), leave.wait(60))))
    thread.start()
    assert taken.wait(60)
    for _ in range(2):  # the first refusal did not release what the other thread holds
        with pytest.raises(
            RuntimeError, match=r"^inner: must not wait for another thread's change of that inside outer"
        ):
            one.take("outer", lambda: other.take("inner", lambda: 5))
    leave.set()
    thread.join()
    assert one.take("outer", lambda: other.take("inner", lambda: 5)) == 5


def test_a_helper_makes_calls_in_order_and_is_inside_what_its_caller_is() -> None:
    one, helper, order = Turns("it"), Helper(), []
    for i in range(5):
        helper.call(lambda i=i: (order.append(i), i * i)[1])  # type: ignore[misc]  # mypy cannot infer the default of a lambda
    assert [helper.result() for _ in range(5)] == [0, 1, 4, 9, 16]
    helper.call(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        helper.result()
    helper.call(lambda: (time.sleep(0.05), order.append(5)))
    helper.end()
    assert order == list(range(6)), "end waits for what is called"

    def with_a_helper() -> object:
        inner = Helper()
        inner.call(lambda: one.take("finalizer", lambda: 5))
        try:
            return inner.result()
        finally:
            inner.end()

    assert with_a_helper() == 5
    with pytest.raises(RuntimeError, match="finalizer: must not begin inside another change of it; outer is under way"):
        one.take("outer", with_a_helper)


def test_a_helper_that_is_forgotten_ends() -> None:
    helper = Helper()
    running = helper._running
    del helper
    assert running.acquire(timeout=60)


@pytest.mark.parametrize("n_threads", [1, 3, 8])
def test_map_on_threads(n_threads: int) -> None:
    assert map_on_threads(n_threads, lambda x: x * x, range(50)) == [x * x for x in range(50)]
    assert map_on_threads(n_threads, lambda x: x, []) == []
    with pytest.raises(ZeroDivisionError):
        map_on_threads(n_threads, lambda x: 1 // x, [3, 2, 1, 0])
