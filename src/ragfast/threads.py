"""How many threads a call uses when it is not told: RAGFAST_NUM_THREADS, else the CPUs this process may run on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ragfast import _kernels
from ragfast.arrays import positive_int


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
