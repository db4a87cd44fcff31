"""What the modules of a package import, read from their sources, and the cycles among them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Set
from pathlib import Path


def imported_names(file: Path) -> set[str]:
    """Return the dotted names that a file imports, at any depth: `from a import b` is a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports name their module in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_graph(package: Path) -> dict[str, set[str]]:
    """Return, for each module of a package, the other modules of it that it imports."""
    files = {_module(file, package): file for file in package.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        found = {_longest(name, files) for name in imported_names(file)}
        graph[module] = {name for name in found if name} - {module}
    return graph


def import_cycle(graph: Mapping[str, Set[str]]) -> list[str]:
    """Return the modules of one cycle, the first of them again at the end, or an empty list."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in finished:
            for imported in sorted(graph.get(module, ())):
                if cycle := visit(imported, [*path, module]):
                    return cycle
            finished.add(module)
        return []

    return next((cycle for module in sorted(graph) if (cycle := visit(module, []))), [])


def _module(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _longest(name: str, modules: Mapping[str, Path]) -> str:
    """Return the module that a dotted name is in, or "" where it is of another package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name
