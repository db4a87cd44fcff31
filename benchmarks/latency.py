"""How long single calls take, one after another: the tail of the distribution, idle and beside a busy core."""

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

SPIN = """if True:
    import os, sys
    while os.getppid() == int(sys.argv[1]):  # ends with its parent, whatever ends that
        for _ in range(1_000_000):
            pass
"""


@contextlib.contextmanager
def busy_cores(n: int) -> Iterator[None]:
    """n processes that do nothing but use a core each."""
    command = [sys.executable, "-S", "-c", SPIN, str(os.getpid())]
    spinning = [subprocess.Popen(command) for _ in range(n)]
    try:
        time.sleep(0.3)  # until they spin
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def other_cores() -> int:
    """Cores this process may use, but one; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores - 1)


def durations(call: Callable[[Any], Any], queries: NDArray[Any], n_calls: int) -> NDArray[np.float64]:
    """Seconds of each call, with one row of `queries` after another."""
    rows = [queries[i : i + 1] for i in range(len(queries))]
    for row in rows[:5]:
        call(row)
    out = np.empty(n_calls)
    for i in range(n_calls):
        row = rows[i % len(rows)]
        start = time.perf_counter()
        call(row)
        out[i] = time.perf_counter() - start
    return out


def describe(seconds: NDArray[np.float64]) -> str:
    p50, p99, p999 = np.percentile(seconds, [50, 99, 99.9]) * 1e3
    return f"p50 {p50:9.3f}  p99 {p99:9.3f}  p999 {p999:9.3f} ms  p99/p50 {p99 / p50:6.2f}"
