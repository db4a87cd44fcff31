"""The rules of the project that a tool does not check: who imports whom, what the core needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from imports import import_cycle, import_graph, imported_names

import ragfast

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "ragfast"

# A module imports only from rows above its own. A new module finds its row here before it is merged.
ROWS = [
    {"_core._kernels", "_core.lazy", "_core.turns"},
    {"_core.interruptible"},
    {"_core.arrays"},
    {"_core", "runtime", "index.gather", "index.merge", "index.readers", "rag.parameters"},
    {"index.storage", "index.quantizer", "index.strings", "index.id_set"},
    {"index.columns", "index.names"},
    {"index.filters", "index.segment"},
    {"index.selection"},
    {"index.snapshot"},
    {"index.writing", "index.persistence", "index.one_shot"},
    {"index.building"},
    {"index.flat"},
    {"index", "marginal"},
    {"rag.protocols", "rag.evaluation"},
    {"rag.retrievers", "rag.generators"},
    {"rag.beam", "torch"},
    {"rag.decoding"},
    {"rag.models"},
    {"rag"},
    {"__init__"},
    {"rag.hf", "rag.methods", "rag.plots", "rag.tool"},
    {"rag.training", "rag.mcp"},
    {"cli"},
    {"__main__"},
]
ROW = {module: row for row, modules in enumerate(ROWS) for module in modules}


def row_of(parts: Sequence[str]) -> str:
    """The module of ROWS that those names lead to: a package's own, or `torch` for all of that package."""
    dotted = ".".join(parts[:2])
    return dotted if dotted in ROW else parts[0]


def has_rows(package: str) -> bool:
    return any(module.startswith(f"{package}.") for module in ROW)


def module_of(path: Path) -> str:
    """The module of a file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return row_of(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


def modules_of(names: set[str]) -> set[str]:
    """Which modules of ragfast those names are in; a name of the package itself is in __init__."""
    parts = [name.split(".")[1:] for name in names if name.split(".")[0] == "ragfast"]
    modules = {row_of(part) if part else "__init__" for part in parts}
    return {name if name in ROW else "__init__" for name in modules}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert module_of(path) in ROW, f"{module_of(path)} has no row in {Path(__file__).name}"
    imported = modules_of(imported_names(path))
    upwards = {name for name in imported if ROW[name] >= ROW[module_of(path)]}
    whole = {module for module in ROW if (PACKAGE / module.replace(".", "/")).is_dir() and not has_rows(module)}
    assert upwards <= ({module_of(path)} & whole)  # the modules of those import each other


OWN = {  # the packages of this repository, and which of them each may import
    "src/ragfast": {"ragfast"},
    "examples/demo/ragfast_demo": {"ragfast", "ragfast_demo"},
    "benchmarks/ragfast_bench": {"ragfast", "ragfast_demo", "ragfast_bench"},
}
HANDS_OVER = PACKAGE / "cli" / "bench.py"  # to ragfast_bench, if it is installed


@pytest.mark.parametrize("package", OWN)
def test_distributions_import_one_way_and_without_cycles(package: str) -> None:
    files = set((ROOT / package).rglob("*.py")) - {HANDS_OVER}
    imported = {name.partition(".")[0] for file in files for name in imported_names(file)}
    assert imported & {Path(other).name for other in OWN} == OWN[package]
    assert import_cycle(import_graph(ROOT / package)) == []


def test_a_cycle_is_found() -> None:
    assert import_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert import_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


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


def test_tools_have_the_same_versions_everywhere() -> None:
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lint"]
    hooks = re.findall(r'"([\w-]+==[\d.]+)"', (ROOT / ".pre-commit-config.yaml").read_text())
    assert set(hooks) == set(pinned)
