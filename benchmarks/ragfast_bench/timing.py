"""Calls that take turns in one process, so that whatever else the machine does meets them all."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import threadpoolctl

import ragfast
from ragfast_bench.results import Spread

Call = Callable[[], Any]

PATIENCE = 10.0
"""Seconds. A contender whose first call takes longer is not called again; that call is its result."""
SHORTEST = 50e-6
"""Seconds. Shorter calls are timed several at once, so that reading the clock costs them nothing."""
MOST_CALLS = 2000
WARMED = 5e-3
"""Seconds. Before its turn a shorter call is made once untimed: else whether the one before it shared its data, as
peers do that search one array, would decide what the caches hold."""


def in_turns(
    calls: Mapping[str, Call],
    seconds: float,
    least: int = 3,
    touch: Mapping[str, Call] | None = None,
    firsts: Mapping[str, float] | None = None,
) -> dict[str, Spread]:
    """The spread of each call's times, over about `seconds` in all.

    One call of each comes first and does not count. Contenders then get equal shares of the time, at least `least`
    calls each, and take part in rounds evenly spaced from the first to the last.

    touch: what to run, untimed, before each call of that name. Where a round takes long and contenders hold gigabytes
    of their own, memory that was not read for half a minute is slow at first, and the order of turns would decide.

    firsts: seconds of calls that were just made, which then need no other before their turns.
    """
    firsts = {name: (firsts or {}).get(name) or _first(call) for name, call in calls.items()}
    share = seconds / max(1, len(calls))
    inner = {name: max(1, int(SHORTEST / max(first, 1e-9))) for name, first in firsts.items()}
    warmed = {name for name, first in firsts.items() if first < WARMED and not (touch and name in touch)}
    turns = {
        name: 0
        if first > PATIENCE
        else min(MOST_CALLS, max(least, int(share / (first * (inner[name] + (name in warmed))))))
        for name, first in firsts.items()
    }
    rounds = max(turns.values(), default=0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        for name, call in calls.items():
            if (i + 1) * turns[name] // rounds == i * turns[name] // rounds:
                continue
            if touch and name in touch:
                touch[name]()
            elif name in warmed:
                call()
            repeat = range(inner[name])
            start = time.perf_counter()
            for _ in repeat:
                call()
            times[name].append((time.perf_counter() - start) / inner[name])
    return {name: spread(times[name] or [firsts[name]]) for name in calls}


def _first(call: Call) -> float:
    """Seconds of a call once whatever it loads is there. Short calls are made several times: one hiccup would set the
    number of turns for good."""
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
        if taken[-1] > 0.1:
            break
    return min(taken)


def spread(times: list[float]) -> Spread:
    q1, middle, q3 = np.percentile(times, [25, 50, 75]).tolist()
    return Spread(median=middle, q1=q1, q3=q3, least=min(times), calls=len(times))


class OtherLoad:
    """How many cores other processes, and other guests of the host, have used since this was made. Processes that this
    one started, such as a database server that is a contender, are not others."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        """Seconds of the clock, and of the processors not spent by this process; NaN where the system does not tell."""
        others = math.nan
        with contextlib.suppress(OSError, ValueError):
            user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
            ticks = user + nice + system + irq + softirq + steal
            others = ticks / os.sysconf("SC_CLK_TCK") - time.process_time() - _of_children()
        return time.perf_counter(), others

    def cores(self) -> float | None:
        """None where the system does not tell."""
        now = self._now()
        cores = max(0.0, (now[1] - self._start[1]) / (now[0] - self._start[0]))
        return None if math.isnan(cores) else round(cores, 2)


def _of_children() -> float:
    """Seconds of the processors spent by processes that this one started, those that have ended among them."""
    spent = sum(os.times()[2:4])
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            spent += sum(child.cpu_times()[:2])
    return spent


def usable_cpus() -> tuple[int, ...]:
    """Those that this process may use; () where the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def pin(threads: int) -> tuple[int, ...]:
    """Holds this process, its threads and what it starts later, to as many CPUs, and says which; () where that cannot
    be done. The last ones: the system's interrupts mostly go to the first."""
    if not hasattr(os, "sched_setaffinity"):
        return ()
    cpus = usable_cpus()[-threads:]
    try:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # one that has just ended
                os.sched_setaffinity(int(thread.name), cpus)
    except OSError:
        return ()
    return cpus


def limit_threads(threads: int) -> None:
    """ragfast, every BLAS and OpenMP in the process, and torch's own setting; other peers are told at each call."""
    ragfast.set_num_threads(threads)
    for module, name in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        with contextlib.suppress(ImportError):
            getattr(importlib.import_module(module), name)(threads)
    threadpoolctl.threadpool_limits(threads)  # after the imports: it sees what is loaded
