"""Instruction-set levels and threads: what this process uses, and the environment variables that choose it.

Each level above scalar has to pass tests of its kernels when ragfast is imported, which takes a millisecond. A level
that fails is left out with a RuntimeWarning, so that it cannot give wrong results.

``RAGFAST_ISA`` forces a level when ragfast is imported. ``RAGFAST_NUM_THREADS`` sets how many threads a call uses by
default; without it a call uses the CPUs that this process may run on.
"""

from __future__ import annotations

import os
import platform
import warnings
from pathlib import Path
from typing import Any

from ragfast._core import _kernels
from ragfast._core.arrays import positive_int

__all__ = [
    "available_isas",
    "default_num_threads",
    "get_num_threads",
    "isa",
    "register_threadpoolctl",
    "set_isa",
    "set_isa_from_environment",
    "set_num_threads",
]


def isa() -> str:
    """The level in use, such as ``"avx512"``: the highest that this CPU runs, unless one was set."""
    return _kernels.isa()


def available_isas() -> list[str]:
    """The levels of this build that this CPU and operating system run and that passed their tests, ascending."""
    return _kernels.available_isas()


def set_isa(name: str) -> None:
    """Uses a level, for the whole process. Results of retrieval have the same bits at each.

    ValueError, with the list of what there is, for a level that is unknown or not available here.
    """
    if name not in available_isas():
        if name not in _kernels.known_isas():
            why = f"this build does not know {name!r}"
        elif wrong := _wrong_kernel(name):
            why = f"{name!r} is left out: {wrong}"
        else:
            why = f"this CPU or operating system lacks {name!r}"
        raise ValueError(f"isa: expected one of {', '.join(available_isas())}; {why}")
    _kernels.set_isa(name)


def _wrong_kernel(name: str) -> str | None:
    """What is wrong with a level that failed its test, or that includes one which did."""
    wrong = _kernels.wrong_kernels()
    if name not in wrong:
        return None
    return f"the kernel {wrong[name]} of {next(iter(wrong))!r} gives wrong results on this processor ({_processor()})"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def set_isa_from_environment() -> None:
    """Applies RAGFAST_ISA, once, at import: a misspelt level must not quietly measure or test another one.

    Without it, warns of a level that failed its tests.
    """
    wanted = os.environ.get("RAGFAST_ISA")
    if not wanted:
        for name in list(_kernels.wrong_kernels())[:1]:
            warnings.warn(
                f"ragfast uses the level {isa()!r} instead of {name!r}: {_wrong_kernel(name)}. "
                f"Results are right, but slower. Please report this message; RAGFAST_ISA={isa()} silences it.",
                RuntimeWarning,
                stacklevel=3,  # where ragfast is imported
            )
    else:
        try:
            set_isa(wanted)
        except ValueError as error:
            raise ImportError(f"RAGFAST_ISA={wanted}: {error}") from None


def _cgroup_quota() -> float:
    """CPUs that the container may use on average; infinite where there is no quota or no cgroup."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return float("inf")
    return int(quota) / int(period) if quota.strip() not in ("max", "-1") else float("inf")


def default_num_threads() -> int:
    """RAGFAST_NUM_THREADS where it is set (ValueError unless 1 or more), else affinity and the container's quota."""
    wanted = os.environ.get("RAGFAST_NUM_THREADS")
    if wanted:
        try:
            return positive_int(int(wanted), "RAGFAST_NUM_THREADS")
        except ValueError:
            raise ValueError(f"RAGFAST_NUM_THREADS: expected an integer of 1 or more, got {wanted!r}") from None
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cpus, _cgroup_quota())))


def get_num_threads() -> int:
    """Threads that a call uses where ``n_threads`` is not given."""
    return _kernels.get_num_threads()


def set_num_threads(n: int) -> None:
    """Sets what :func:`get_num_threads` returns, for the whole process. ValueError unless n is 1 or more."""
    _kernels.set_num_threads(positive_int(n, "n"))


def register_threadpoolctl() -> None:
    """Lets ``threadpoolctl.threadpool_limits`` and ``threadpool_info`` see ragfast's threads (needs threadpoolctl)."""
    import threadpoolctl

    class RagfastController(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = "ragfast"
        internal_api = "ragfast"
        filename_prefixes = ("_kernels",)
        check_symbols = ("ragfast_get_num_threads", "ragfast_set_num_threads")

        def get_num_threads(self) -> Any:
            return self.dynlib.ragfast_get_num_threads()

        def set_num_threads(self, num_threads: int) -> Any:
            return self.dynlib.ragfast_set_num_threads(num_threads)

        def get_version(self) -> None:
            return None

    threadpoolctl.register(RagfastController)
