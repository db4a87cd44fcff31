"""Medians of calls that take turns in one process, so that whatever else the machine does meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
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
