"""A folder of tests that need an extra: without it, each file shows as skipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


class Skipped(pytest.Module):
    """A test file that is not imported."""

    reason = ""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(self.reason, allow_module_level=True)


def needs(extra: str, packages: Sequence[str], conftest: str) -> Callable[[Path, pytest.Collector], Skipped | None]:
    """Return a hook ``pytest_pycollect_makemodule`` for the folder of that conftest."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    folder = Path(conftest).parent

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Skipped | None:
        if not missing or folder not in module_path.parents:
            return None
        module = Skipped.from_parent(parent, path=module_path)
        module.reason = f"the extra {extra} is not installed: no {', '.join(missing)}"
        return module

    return pytest_pycollect_makemodule
