"""Damaged index directories, for a few seconds: see fuzz_index.py. RAGFAST_FUZZ_SECONDS=600 takes ten minutes."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzz_index
import numpy as np
import pytest

import ragfast

SECONDS = float(os.environ.get("RAGFAST_FUZZ_SECONDS", "8"))


def test_damaged_files_are_errors_and_never_answers(tmp_path: Path) -> None:
    """In a process of its own, whose crash is a failure like any other."""
    seed = random.randrange(1 << 32)
    command = [sys.executable, fuzz_index.__file__, "fuzz", str(tmp_path), str(SECONDS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 120)
    assert done.returncode == 0, f"exit {done.returncode} at {(tmp_path / 'trial').read_text()}\n{done.stderr}"
    assert 0 < json.loads(done.stdout)["opened"] < json.loads(done.stdout)["trials"]


def test_the_corpus_is_read_by_every_version(tmp_path: Path) -> None:
    """Made by the release that wrote this format first: the same contents today, whatever has changed."""
    for name, save in fuzz_index.MAKES.items():
        save(tmp_path / name)
        use = fuzz_index.USES[name.partition("-")[0]]
        for how in fuzz_index.HOW:
            assert fuzz_index.same(use(fuzz_index.CORPUS / name, how), use(tmp_path / name, how)), (name, how)


@pytest.mark.parametrize("name", ["index-plain", "index-coded"])
def test_a_stranger_reads_an_index(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what docs/index-format.md shows."""
    page = (Path(__file__).parents[2] / "docs" / "index-format.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    os.symlink(fuzz_index.CORPUS / name, "index")
    found: dict[str, Any] = {}
    exec(block, found)
    index = ragfast.FlatIndex.open("index")
    assert found["ids"][found["there"]].tolist() == index.ids.tolist()
    rows = found["vectors"][found["there"]]
    rows = rows if rows.dtype == np.float32 else (rows.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(rows, index.vectors)


EDITS: list[fuzz_index.Edit] = [
    ["flip", "codes", 200, 1],
    ["set", "segment-1.ids", 131, "ff"],
    ["cut", "manifest.json", 200],
    ["cut", "empty", 64],
    ["drop", "codes", 128, 1],
    ["extend", "empty", "00"],
    ["delete", "codes"],
    ["swap", "segment-1.ids", "segment-1.vectors"],
    ["copy", "empty", "codes"],
    ["link", "codes"],
    ["directory", "codes"],
    ["token", 4, "null"],
    ["number", 4, 1],
    ["tokens", 4, 5],
]


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_damage_arrives(edit: fuzz_index.Edit, tmp_path: Path) -> None:
    assert not fuzz_index.Fuzzer(tmp_path).trial("arrays", "mapped", [edit])


def test_sums_that_are_made_right_are_right(tmp_path: Path) -> None:
    fuzzer = fuzz_index.Fuzzer(tmp_path)
    assert fuzzer.trial("arrays", "mapped", [["sum", True]])
    assert not fuzzer.trial("arrays", "mapped", [EDITS[0], ["sum", False]])
    assert fuzzer.trial("arrays", "mapped", [EDITS[0], ["sum", True]])
