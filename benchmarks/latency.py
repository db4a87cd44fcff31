"""Durations of single calls in sequence, with the machine idle or its other cores kept busy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def other_cores() -> int:
    """How many cores there are beside one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@contextlib.contextmanager
def busy_cores(n: int) -> Iterator[None]:
    """n processes that do nothing but compute, for as long as the block lasts."""
    spin = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # ends with this process, whatever ends that
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(n)]
    try:
        if spinners:
            time.sleep(0.5)  # until they spin
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def durations(search: Callable[[Any], Any], queries: NDArray[Any], n_calls: int) -> NDArray[np.float64]:
    """Seconds of each of n_calls searches for one query, after some that do not count."""
    taken = np.empty(n_calls)
    for i in range(-min(n_calls, 20), n_calls):
        query = queries[i % len(queries)][None]
        start = time.perf_counter()
        search(query)
        if i >= 0:
            taken[i] = time.perf_counter() - start
    return taken


def describe(taken: NDArray[np.float64]) -> str:
    p50, p99, p999 = np.percentile(taken, [50, 99, 99.9]) * 1e3
    return f"p50 {p50:8.3f} ms  p99 {p99:8.3f}  p999 {p999:8.3f}  p99 / p50 {p99 / p50:5.2f}"
