"""The documentation and the signatures of ragfast.rag.methods: what it names exists, and needs only NumPy."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        *((methods.pdist_loss, option) for option in ("direction", "leave_one_out", "compat")),
        *((methods.adist_loss, option) for option in ("direction", "mask")),
        *((methods.emdr2_loss, option) for option in ("compat", "label_smoothing")),
        *((methods.replug_nll, option) for option in ("compat", "null_score", "grad", "marginal")),
    ],
)
def test_options_of_other_losses_are_refused(loss: Any, option: str) -> None:
    """Each passes its options on to a loss that has more of them."""
    assert option not in inspect.signature(loss).parameters
    shapes = {"doc_scores": (1, 2), "attention_scores": (1, 2), "token_logprobs": (1, 2, 3)}
    arguments = [np.zeros(shapes[name]) for name in list(inspect.signature(loss).parameters)[:2]]
    assert np.isfinite(loss(*arguments))
    with pytest.raises(TypeError, match=f"keyword argument '{option}'"):
        loss(*arguments, **{option: 1})
