"""Turns, on a clock that only the calls move."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from ragfast_bench import timing


class Clock:
    """Calls take what they are said to take, and are written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def call(self, name: str, *seconds: float) -> Callable[[], None]:
        """Takes the first of `seconds` at its first call, and so on; the last from then on."""
        left = list(seconds)

        def run() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.called.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_equal_shares_of_the_time_evenly_spread(clock: Clock) -> None:
    found = timing.in_turns({"fast": clock.call("fast", 0.01), "slow": clock.call("slow", 0.2)}, 4.0)
    assert (found["fast"].calls, found["slow"].calls) == (200, 10)
    assert found["fast"].median == pytest.approx(0.01)
    assert found["slow"].median == pytest.approx(0.2)
    turns = clock.called[clock.called.index("slow") + 1 :]
    assert [turns[i] for i in range(20, len(turns), 21)] == ["slow"] * 10
    assert clock.now < 5


def test_least_calls_whatever_they_take(clock: Clock) -> None:
    found = timing.in_turns({"slow": clock.call("slow", 5.0)}, 1.0, least=4)
    assert found["slow"].calls == 4


def test_no_call_beyond_patience(clock: Clock) -> None:
    found = timing.in_turns({"hours": clock.call("hours", 11.0), "fast": clock.call("fast", 1.0)}, 4.0)
    assert clock.called.count("hours") == 1
    assert found["hours"] == timing.Spread(11.0, 11.0, 11.0, 11.0, 1)
    assert found["fast"].calls == 3


def test_short_calls_are_timed_several_at_once(clock: Clock) -> None:
    found = timing.in_turns({"short": clock.call("short", 1e-6)}, 0.01)
    assert found["short"].median == pytest.approx(1e-6)
    assert clock.called.count("short") > 20 * found["short"].calls


def test_one_slow_call_at_first_does_not_set_the_number(clock: Clock) -> None:
    found = timing.in_turns({"short": clock.call("short", 0.09, 0.05, 0.001)}, 1.0)
    assert found["short"].calls == pytest.approx(500, abs=1)  # each after one that does not count


def test_known_firsts_are_not_called_again(clock: Clock) -> None:
    timing.in_turns({"slow": clock.call("slow", 1.0)}, 1.0, least=2, firsts={"slow": 1.0})
    assert clock.called == ["slow", "slow"]


def test_touch_comes_before_each_turn_and_is_not_timed(clock: Clock) -> None:
    found = timing.in_turns({"a": clock.call("a", 0.5)}, 1.0, 2, {"a": clock.call("touch", 3.0)})
    assert clock.called == ["a", "touch", "a", "touch", "a"]
    assert found["a"].median == 0.5


def test_spread_is_quartiles() -> None:
    assert timing.spread([5.0, 1.0, 2.0, 4.0, 3.0]) == timing.Spread(3.0, 2.0, 4.0, 1.0, 5)


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="this system does not tell what other processes used")
def test_other_load_leaves_out_what_this_process_started(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        load = timing.OtherLoad()
        with monkeypatch.context() as patched:
            patched.setattr(timing, "_of_children", lambda: 0.0)
            with_children = timing.OtherLoad()
        time.sleep(1.0)
        others = load.cores()
        with monkeypatch.context() as patched:
            patched.setattr(timing, "_of_children", lambda: 0.0)
            all_of_them = with_children.cores()
    finally:
        child.kill()
        child.wait()
    assert others is not None
    assert all_of_them is not None
    assert all_of_them > others + 0.1  # the child had some time, even on a busy machine


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system holds no process to CPUs")
def test_pin_holds_all_threads_to_the_last_cpus() -> None:
    code = """if True:
        import os, threading, time
        stop = threading.Event(); thread = threading.Thread(target=stop.wait); thread.start()
        from ragfast_bench import timing
        last = timing.usable_cpus()[-1:]
        assert timing.pin(1) == last
        assert os.sched_getaffinity(0) == os.sched_getaffinity(thread.native_id) == set(last)
        stop.set()
    """
    subprocess.run([sys.executable, "-c", code], check=True)
