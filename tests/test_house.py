"""The rules of the house that a tool does not check: who imports whom, what the core needs, where intrinsics live."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import ragfast
from ragfast import _kernels

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "ragfast"

# A module imports only from rows above its own. A new module finds its row here before it is merged.
ROWS = [
    {"_kernels"},
    {"arrays", "levels"},
    {"threads", "weights", "gather", "merge", "storage.manifest", "sources"},
    {"storage.draft", "index.codes", "index.strings", "index.taken"},
    {"storage", "index.columns", "index.names"},
    {"index.filters", "index.segment"},
    {"index.selection"},
    {"index.snapshot"},
    {"index.writing", "index.persistence", "direct"},
    {"index.building"},
    {"index.flat"},
    {"index", "marginal", "nll", "decoding", "divergence"},
    {"retriever", "generator", "evaluation"},
    {"beam", "torch"},
    {"generation"},
    {"rag"},
    {"__init__"},
    {"models", "methods", "plots", "tool"},
    {"training", "mcp"},
    {"demo"},
    {"bench"},
    {"__main__"},
]
ROW = {module: row for row, modules in enumerate(ROWS) for module in modules}


def row_of(parts: Sequence[str]) -> str:
    """Which module of ROWS those names lead to: a package's own, if it has rows, or `demo` for all of that package."""
    dotted = ".".join(parts[:2])
    return dotted if dotted in ROW else parts[0]


def room(path: Path) -> str:
    """The module of a file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return row_of(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


def imported_modules(tree: ast.AST) -> set[str]:
    """Dotted names of what a file imports, at whatever depth: `from a import b` is a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(names: set[str]) -> set[str]:
    """Which modules of ragfast those names are in; a name of the package itself is in __init__."""
    parts = [name.split(".")[1:] for name in names if name.split(".")[0] == "ragfast"]
    rooms = {row_of(part) if part else "__init__" for part in parts}
    return {name if name in ROW else "__init__" for name in rooms}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert room(path) in ROW, f"{room(path)} has no row in {Path(__file__).name}"
    imported = rooms_of(imported_modules(ast.parse(path.read_text())))
    upwards = {name for name in imported if ROW[name] >= ROW[room(path)]}
    without_rows = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"index", "storage"}
    assert upwards <= ({room(path)} & without_rows)  # the modules of those import each other


def test_core_imports_numpy_alone() -> None:
    code = """if True:
        import sys, numpy
        before = set(sys.modules)
        import ragfast
        print(*{name.partition(".")[0] for name in set(sys.modules) - before})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = set(done.stdout.split()) - sys.stdlib_module_names - {"numpy", "ragfast"}
    assert {name for name in others if not name.startswith(("_cython_", "cython_runtime"))} == set()


def test_public_names_are_documented() -> None:
    missing = [name for name in ragfast.__all__ if not getattr(ragfast, name).__doc__]
    assert missing == []


def c_files() -> list[Path]:
    return sorted([*(ROOT / "csrc").rglob("*.[ch]"), *PACKAGE.rglob("*.p[yx][xdi]"), *(ROOT / "tests").glob("*.c")])


def test_intrinsics_live_in_kernels_alone() -> None:
    headers = {
        (str(path.relative_to(ROOT)), header)
        for path in c_files()
        for header in re.findall(r"include\s*[<\"](\w*(?:intrin|neon|sve|amx)\w*\.h)", path.read_text())
        if path.parent.name != "kernels"
    }
    assert headers == {("csrc/internal.h", "xmmintrin.h")}  # the floating-point environment, for every driver
    assert any("immintrin.h" in path.read_text() for path in (ROOT / "csrc" / "kernels").glob("*.c"))


def test_kernel_files_are_an_operation_and_a_level() -> None:
    folder = ROOT / "csrc" / "kernels"
    files = {tuple(path.stem.rsplit("_", 1)) for path in folder.glob("*.c")}
    operations = {operation for operation, _ in files}
    levels = {level for _, level in files}
    assert {operation for operation, level in files if level == "scalar"} == operations  # the reference comes first
    if "avx2" in _kernels.known_isas():
        assert levels == set(_kernels.known_isas())
    # Headers hold what levels share: the vocabulary, which a level defines, and what is written in it.
    vocabulary = {"vector.h", *(f"vector_{level}.h" for level in levels)}
    shared = {f"{subject}_vector.h" for subject in {*operations, "elements", "math"}}
    assert {path.name for path in folder.iterdir() if path.suffix != ".c"} <= vocabulary | shared


def test_c_never_prints_aborts_or_reads_the_environment() -> None:
    forbidden = re.compile(r"\b(?:f?printf|puts|perror|abort|exit|_exit|getenv|assert)\s*\(")
    for path in (ROOT / "csrc").rglob("*.[ch]"):
        assert forbidden.findall(path.read_text()) == [], path


def test_tools_have_the_same_versions_everywhere() -> None:
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lint"]
    hooks = re.findall(r'"([\w-]+==[\d.]+)"', (ROOT / ".pre-commit-config.yaml").read_text())
    assert set(hooks) == set(pinned)
