"""What the documentation shows runs: doctests of the public modules, the README's Python, the examples."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ragfast

ROOT = Path(__file__).parents[1]
MODULES = ["ragfast"] + [
    f"ragfast.{module.name}"
    for module in pkgutil.iter_modules(ragfast.__path__)
    if module.name not in ("demo", "__main__") and (module.name != "torch" or importlib.util.find_spec("torch"))
]
README_BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_there_are_doctests() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 5


def test_public_names_of_torch_are_documented() -> None:
    pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")
    module = importlib.import_module("ragfast.torch")
    missing = [name for name in module.__all__ if not getattr(module, name).__doc__]
    assert missing == []
    assert set(module.__all__) <= set(ragfast.__all__)


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_example(tmp_path: Path) -> None:
    assert README_BLOCKS
    for block in README_BLOCKS:
        run("-c", block, cwd=tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example(path: Path, tmp_path: Path) -> None:
    assert run(str(path), cwd=tmp_path).strip()
