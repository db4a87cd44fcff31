"""Medians of calls that take turns in one process, so that whatever else the machine does meets them all."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def medians(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    least: int = 5,
    touch: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, float]:
    """Median seconds of each call, over `seconds` in all and at least `least` rounds, after one that does not count.

    touch: what to run, untimed, before each call of that name. Where a round takes long and contenders hold gigabytes
    of their own, memory that was not read for half a minute is slow at first, and the order of turns would decide.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < least:
        for name, call in calls.items():
            if touch and name in touch:
                touch[name]()
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class OtherLoad:
    """How many cores other processes, and other guests of the host, have used since this was made.

    Pools of threads that spin while they wait, as OpenMP's do, become tens of times slower when a core is taken: with
    2 threads beside a busy process ratios say nothing about the kernels.
    """

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        """Seconds of the clock, and of the processors not spent by this process; NaN where the system does not tell."""
        others = float("nan")
        with contextlib.suppress(OSError):
            user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
            ticks = user + nice + system + irq + softirq + steal
            others = ticks / os.sysconf("SC_CLK_TCK") - time.process_time()
        return time.perf_counter(), others

    def cores(self) -> float:
        now = self._now()
        return max(0.0, (now[1] - self.start[1]) / (now[0] - self.start[0]))

    def __str__(self) -> str:
        cores = self.cores()
        return "" if cores != cores else f"other processes used {cores:.2f} cores meanwhile"
