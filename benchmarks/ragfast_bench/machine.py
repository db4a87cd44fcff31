"""What this machine is, and what it can do at best: read memory, and multiply and add in registers. Measured now.

Rooflines divide by these figures, so each is the best of many short runs: whatever else the machine does can only slow
them down, and a ceiling that is too low would let contenders seem better than possible.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

import ragfast
from ragfast._core import _kernels
from ragfast_bench.results import BenchError, Machine
from ragfast_bench.timing import usable_cpus

MEASURED = ("float32", "int8")
RUN = 0.02
"""Seconds that a run of arithmetic takes: short enough to fall between two turns of other programs now and then."""
LEAST_READ = 256 << 20
"""Bytes that are read where no cache is larger than a quarter of it."""
CACHES = Path("/sys/devices/system/cpu")
CONTAINER = Path("/sys/fs/cgroup")


def measure(threads: int, pinned: tuple[int, ...], seconds: float = 2.0) -> Machine:
    """Measures for about `seconds`, on as many threads at once, at ragfast's level in use.

    pinned: the CPUs that the process was held to (:func:`ragfast_bench.timing.pin`), () where it was not.
    """
    if threads < 1:
        raise BenchError(f"threads: expected 1 or more, got {threads}")
    if not seconds > 0:
        raise BenchError(f"seconds: expected more than 0, got {seconds}")
    cpus = usable_cpus()
    caches = _caches((pinned or cpus or (0,))[0])
    memory = float(psutil.virtual_memory().total)
    with ThreadPoolExecutor(threads) as pool:
        peaks = {arithmetic: _peak(pool, threads, arithmetic, seconds / 4) for arithmetic in MEASURED}
        read_rate = _read_rate(pool, threads, _read_size(caches, memory), seconds / 2)
    return Machine(
        processor=_processor(),
        cores=(not pinned and len(cpus)) or os.cpu_count() or 1,  # pinned, the affinity is but what was pinned to
        memory=memory,
        caches=caches,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        isa=ragfast.runtime.isa(),
        threads=threads,
        pinned=pinned,
        read_rate=read_rate,
        peaks=peaks,
    )


# ---- what it says of itself


def _processor() -> str:
    """The model's name, or at the least the architecture's."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine() or "unknown"


def _caches(cpu: int, root: Path = CACHES) -> dict[str, float]:
    """Bytes of the caches of data of one CPU, as {"L1": ..., "L2": ...}; empty where the system does not tell."""
    found: dict[str, float] = {}
    for index in sorted(root.glob(f"cpu{cpu}/cache/index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            n_bytes = int(size.rstrip("KMG")) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
        except (OSError, ValueError):
            continue
        if kind != "Instruction":
            found[f"L{level}"] = float(n_bytes)
    return dict(sorted(found.items()))


def available_memory() -> float:
    """Bytes that this process may still take: of the machine, and of the container where there is one."""
    available = float(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max", which is no limit
        limit, used = ((CONTAINER / name).read_text() for name in ("memory.max", "memory.current"))
        available = min(available, float(int(limit) - int(used)))
    return available


# ---- what it can do


def peak_operations(arithmetic: str, rounds: int) -> int:
    """Multiply and add in registers for that many rounds, on one thread; return how many operations were done."""
    return _kernels.peak_operations(arithmetic, rounds)


def peak_read(buffer: NDArray[Any]) -> int:
    """Read all bytes of a buffer, on one thread; return a sum of them."""
    return _kernels.peak_read(buffer)


def _most(rate: Callable[[], float], seconds: float) -> float:
    """The greatest of at least three rates, and of as many as can be measured in that time."""
    end = time.perf_counter() + seconds
    rates = [rate() for _ in range(3)]
    while time.perf_counter() < end:
        rates.append(rate())
    return max(rates)


def _peak(pool: ThreadPoolExecutor, threads: int, arithmetic: str, seconds: float) -> float:
    """Operations a second of all threads together."""

    def rate(rounds: int) -> float:
        start = time.perf_counter()
        operations = sum(pool.map(lambda _: peak_operations(arithmetic, rounds), range(threads)))
        return operations / (time.perf_counter() - start)

    rounds, taken = 1 << 12, 0.0
    while taken < RUN:
        rounds *= 2
        start = time.perf_counter()
        peak_operations(arithmetic, rounds)
        taken = time.perf_counter() - start
    return _most(lambda: rate(rounds), seconds)


def _read_size(caches: Mapping[str, float], memory: float) -> int:
    """Several times the last cache, so that next to nothing of a read is left over from the one before."""
    wanted = max(LEAST_READ, int(4 * max(caches.values(), default=0.0)))
    return min(wanted, int(memory) // 8) // 64 * 64


def _read_rate(pool: ThreadPoolExecutor, threads: int, n_bytes: int, seconds: float) -> float:
    """Bytes a second of all threads together, each reading its part of one buffer. Neither of the two ways is faster
    everywhere: ours has several streams, the maximum of NumPy one."""
    buffer = np.ones(n_bytes // 4, np.float32)  # written: pages that never were are all the same page of zeros
    parts = np.array_split(buffer, threads)

    def read(one: Callable[[NDArray[np.float32]], object]) -> float:
        start = time.perf_counter()
        for _ in pool.map(one, parts):
            pass
        return buffer.nbytes / (time.perf_counter() - start)

    return max(_most(lambda: read(peak_read), seconds / 2), _most(lambda: read(np.max), seconds / 2))
