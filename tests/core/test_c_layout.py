"""The structure of the C sources: where intrinsics are, what the library calls, and no cycles between modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import ragfast
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
    levels = {level for _, level in files}
    if "avx2" in _kernels.known_isas():
        assert levels == set(_kernels.known_isas())
    # Headers hold what levels share: the vocabulary, which each level defines, and the code that is written in it.
    vocabulary = {"vector.h", *(f"vector_{level}.h" for level in levels)}
    shared = {f"{subject}_vector.h" for subject in {*operations, "elements", "math"}}
    headers = {path.name for path in (CSRC / "kernels").glob("*.h")}
    assert headers <= vocabulary | shared | {"lse_math.h"}


def test_the_library_never_prints_aborts_or_reads_the_environment() -> None:
    forbidden = re.compile(r"\b(?:f?printf|puts|perror|abort|exit|_exit|getenv|assert)\s*\(")
    for path in filter(is_library, CSRC.rglob("*.[ch]")):
        assert forbidden.findall(path.read_text()) == [], path


def test_versions_agree() -> None:
    header = (CSRC / "include" / "ragfast" / "version.h").read_text()
    parts = [re.findall(rf"#define RAGFAST_VERSION_{part} (\d+)\n", header) for part in ("MAJOR", "MINOR", "PATCH")]
    assert ".".join(number for (number,) in parts) == ragfast.__version__


def without_comments(source: str) -> str:
    return re.sub(r"/\*.*?\*/", "", source, flags=re.S)


def uses_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """The modules that each module uses, from the text of files by their paths in csrc: those whose header X.c or X.h
    includes, and those that define a function which X.c calls. A module is X of X.c and X.h, with its folder."""
    texts = {path: without_comments(source) for path, source in sources.items()}
    definition = re.compile(r"^\w[^;{}#=]*?\b((?:ragfast|peak)_\w+)\([^;{}]*\) \{", re.M)
    defined = {
        name: path.removesuffix(".c")
        for path, text in texts.items()
        if path.endswith(".c")
        for name in definition.findall(text)
    }
    uses: dict[str, set[str]] = {path.rpartition(".")[0]: set() for path in texts}
    for path, text in texts.items():
        module = path.rpartition(".")[0]
        uses[module] |= {header.removesuffix(".h") for header in re.findall(r'#include "([^"]+)"', text)}
        if path.endswith(".c"):
            uses[module] |= {defined[name] for name in re.findall(r"\b\w+", text) if name in defined}
    for module, used in uses.items():
        used |= {f"include/{name}" for name in used}
        used &= uses.keys() - {module}
    return uses


def cycle_in(uses: Mapping[str, set[str]]) -> list[str]:
    """Modules of which each uses the next, the last the first; none if there is no such cycle."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for used in sorted(uses[module]):
            if found := search(used, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(uses) if (found := search(module, []))), [])


def library_sources() -> dict[str, str]:
    return {str(path.relative_to(CSRC)): path.read_text() for path in sorted(CSRC.rglob("*.[ch]")) if is_library(path)}


def test_each_file_sees_the_assumptions() -> None:
    sources = library_sources()
    headers = {path: set(re.findall(r'#include "([^"]+)"', without_comments(text))) for path, text in sources.items()}
    for path in (path for path in sources if path.endswith(".c")):
        seen, new = set[str](), headers[path]
        while new:
            seen |= new
            new = set().union(*(headers.get(name, headers.get(f"include/{name}", set())) for name in new)) - seen
        assert "core/assumptions.h" in seen, path


def test_modules_do_not_depend_on_themselves() -> None:
    uses = uses_of(library_sources())
    assert {"core/pool", "search/plan", "search/scratch"} <= uses["search/search"]
    assert "include/ragfast/runtime" in uses["core/pool"]
    assert "kernels/dot_scalar" in uses["core/dispatch"]  # whose functions it calls; a kernel has no header
    assert cycle_in(uses) == []


@pytest.mark.parametrize(
    ("path", "more", "cycle"),
    [
        ("search/state.h", '#include "search/topk.h"', {"search/state", "search/topk"}),
        ("core/pool.c", "void f(void) { ragfast_gather_scores(0); }", {"core/pool", "search/gather"}),
    ],
)
def test_a_cycle_is_found(path: str, more: str, cycle: set[str]) -> None:
    sources = library_sources()
    sources[path] += f"\n{more}\n"
    assert set(cycle_in(uses_of(sources))) >= cycle
