"""csrc/bench/counts.py: what is read from a profile, and what fails."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "csrc" / "bench" / "counts.py"

# As callgrind 3.19 writes it, but for the size: one call of two functions, and one of a function that is not counted.
PROFILE = """\
fn=count_kl
12 5
cfn=ragfast_kl
calls=1 0
12 95

fn=main
cfn=count_kl
calls=1 0
20 100
cfn=helper
calls=3 0
21 70
cfn=count_merge_topk
calls=1 0
22 2345
"""


@pytest.fixture(scope="module")
def counts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("counts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_calls_are_counted_with_all_that_they_call(counts: ModuleType) -> None:
    assert counts.inclusive(PROFILE) == {"kl": 100, "merge_topk": 2345}
    assert counts.inclusive("fn=main\n1 2\n") == {}


@pytest.mark.parametrize(
    ("old", "new", "says", "fails"),
    [
        (1000, 1020, "", False),
        (1000, 1021, "GREW by 2.1%", True),
        (1000, 980, "", False),
        (1000, 979, "shrank by 2.1%", False),
        (None, 5, "new", False),
        (5, None, "GONE", True),
    ],
)
def test_what_grew_fails(counts: ModuleType, old: int | None, new: int | None, says: str, fails: bool) -> None:
    before = {"avx2": {"kl": old} if old else {}, "scalar": {"merge_topk": 7}}
    said, failed = counts.differences({"avx2": {"kl": new} if new else {}}, before)
    assert failed == fails
    assert len(said) == bool(says)
    assert all(says in line and "avx2" in line and "kl" in line for line in said)


def test_the_baseline_is_of_the_calls_that_are_made(counts: ModuleType) -> None:
    source = SCRIPT.with_suffix(".c").read_text().partition("int main(")[2]
    made = {part.partition("(")[0] for part in source.split(counts.PREFIX)[1:]}
    for baseline in json.loads(counts.BASELINE.read_text()).values():
        assert set(baseline) <= set(counts.LEVELS)
        for by_call in baseline.values():
            assert set(by_call) == made
            assert min(by_call.values()) > 0


@pytest.mark.parametrize(("option", "status"), [([], 0), (["--required"], 2)])
def test_nothing_to_count_with(
    counts: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    status: int,
) -> None:
    monkeypatch.setattr(counts.shutil, "which", lambda name: None)
    monkeypatch.setattr("sys.argv", ["counts.py", "program", *option])
    assert counts.main() == status
    assert "NOT COUNTED" in capsys.readouterr().out
