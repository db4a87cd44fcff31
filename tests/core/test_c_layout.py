"""The structure of the C sources: where intrinsics live, what the library calls, and that no module depends on itself."""

from __future__ import annotations

import re
from pathlib import Path

from ragfast._core import _kernels

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"


def c_files() -> list[Path]:
    return sorted([*CSRC.rglob("*.[ch]"), *(ROOT / "src").rglob("*.p[yx][xdi]")])


def is_library(path: Path) -> bool:
    """Whether a C file is a part of the library: neither a test, nor a benchmark, nor the example."""
    return path.relative_to(CSRC).parts[0] not in {"tests", "bench", "example.c"}


def test_intrinsics_live_in_kernels_only() -> None:
    headers = {
        (str(path.relative_to(ROOT)), header)
        for path in c_files()
        for header in re.findall(r"include\s*[<\"](\w*(?:intrin|neon|sve|amx)\w*\.h)", path.read_text())
        if path.parent.name != "kernels" and not path.stem.startswith("peak_") and path.name != "amx_emulated.h"
    }
    assert headers == {("csrc/core/fpenv.h", "xmmintrin.h")}  # every driver needs the floating-point environment
    assert any("immintrin.h" in path.read_text() for path in (CSRC / "kernels").glob("*.c"))


def test_a_kernel_file_is_an_operation_and_a_level() -> None:
    files = {tuple(path.stem.rsplit("_", 1)) for path in (CSRC / "kernels").glob("*.c")}
    operations = {operation for operation, _ in files}
    assert {operation for operation, level in files if level == "scalar"} == operations  # the reference
    if "avx2" in _kernels.known_isas():
        assert {level for _, level in files} == set(_kernels.known_isas())


def test_the_library_never_prints_aborts_or_reads_the_environment() -> None:
    forbidden = re.compile(r"\b(?:f?printf|puts|perror|abort|exit|_exit|getenv|assert)\s*\(")
    for path in filter(is_library, CSRC.rglob("*.[ch]")):
        assert forbidden.findall(path.read_text()) == [], path
