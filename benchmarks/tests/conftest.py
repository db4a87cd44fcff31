"""These tests need the extra `bench`; `make test-all` has it. Without it each file shows as skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

NEEDED = ("rich", "jinja2", "matplotlib", "psutil", "threadpoolctl")  # peers are asked for by the tests that use them
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


class WithoutExtra(pytest.Module):
    def collect(self) -> list[pytest.Item]:
        pytest.skip(f"the extra bench is not installed: no {', '.join(MISSING)}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    here = Path(__file__).parent in module_path.parents
    return WithoutExtra.from_parent(parent, path=module_path) if MISSING and here else None
