"""The documentation of ragfast.rag.methods: what it names exists, and needs NumPy alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ragfast.rag import methods

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples" / "methods").glob("*.py"))


def test_public_functions_have_an_example() -> None:
    without = [name for name in methods.__all__ if ">>>" not in (getattr(methods, name).__doc__ or "")]
    assert without == []


def test_the_page_names_functions_and_examples_that_exist() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    assert {path.name for path in EXAMPLES} == set(re.findall(r"examples/methods/(\w+\.py)", page))
    assert {name for name in methods.__all__ if f"`{name}" not in page} == set()


def test_torch_stays_the_caller_s_to_import() -> None:
    code = "import sys, ragfast.rag.methods; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
