"""What the documentation shows runs: doctests of the public modules, the Python of README and guide, the examples."""

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

ROOT = Path(__file__).parents[2]
NEEDED = {  # beyond NumPy; `make test-all` has all of it
    "ragfast.torch": "torch",
    "ragfast.rag.methods.torch": "torch",
    "ragfast.rag.training.loss": "torch",
    "ragfast.rag.hf": "transformers",
    "ragfast.rag.plots": "matplotlib",
    "ragfast.rag.mcp": "mcp",
    "ragfast.rag.evaluation": "ir_measures",
    "ragfast.index.readers.tables": "pyarrow",
    "ragfast.index.readers.tensors": "safetensors",
}
MODULES = ["ragfast"] + [
    module.name
    for module in pkgutil.walk_packages(ragfast.__path__, "ragfast.", onerror=lambda name: None)
    if not module.name.startswith(("ragfast_demo", "ragfast_bench", "ragfast.cli"))
]
# These take minutes and real models: tests/rag/hf/test_train_rag_example.py has the one in small.
BY_HAND = {"pictures.py", "train_rag.py"}
DEMO = ROOT / "examples" / "demo"  # has tests of its own
EXAMPLES = sorted(
    path for path in (ROOT / "examples").rglob("*.py") if path.name not in BY_HAND and DEMO not in path.parents
)


def blocks_of(path: str) -> list[str]:
    """The Python that a page shows."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)


# examples/demo/tests/test_readme.py runs the one with real models.
README_BLOCKS = [block for block in blocks_of("README.md") if "ragfast.rag.hf" not in block]


def needed(name: str) -> str | None:
    """What a module of ours cannot be imported without."""
    return next((package for prefix, package in NEEDED.items() if name.startswith(prefix)), None)


def skip_without(name: str) -> None:
    package = needed(name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: `make test-all` has it")


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    skip_without(name)
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_there_are_doctests() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    numpy_alone = [name for name in MODULES if not needed(name)]
    examples = [test for name in numpy_alone for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 40


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


def test_the_guide_is_one_program(tmp_path: Path) -> None:
    blocks = blocks_of("docs/index.md")
    assert len(blocks) > 5
    run("-c", "\n".join(blocks), cwd=tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path, tmp_path: Path) -> None:
    assert run(str(path), cwd=tmp_path).strip()
