"""Which instruction-set levels this machine must run, from what the operating system says of its CPU."""

from __future__ import annotations

import platform
from pathlib import Path

# Flags as /proc/cpuinfo spells them. Linux drops a flag whose registers it does not save, so these are enough.
X86_FLAGS = {
    "scalar": set[str](),
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512vnni": {"avx512_vnni"},
    "amx": {"amx_tile", "amx_int8"},
}


def implied_levels() -> list[str] | None:
    """The levels that must be available here, ascending; None where the operating system cannot be asked this way."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["scalar"]
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return None
    flags = next(set(line.split()) for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    levels: list[str] = []
    for level, needed in X86_FLAGS.items():  # a level includes those before it
        if not needed <= flags:
            break
        levels.append(level)
    return levels
