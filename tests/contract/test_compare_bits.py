"""compare_bits.py: its cases are the same at every run, reach what they are about, and differences are counted."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import bit_cases
import pytest
from installed import copy_of_installed
from ragfast_bench.compare_builds import Build, load


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return load(copy_of_installed(tmp_path_factory.mktemp("build")))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_bits", Path(__file__).parent.parent / "compare_bits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", [kind.__name__ for kind in bit_cases.KINDS])
def test_a_case_has_the_same_bits_each_time_and_seldom_fails(build: Build, kind: str, tmp_path: Path) -> None:
    runs = [[bit_cases.run_case(build, kind, n, seed, tmp_path) for n in range(12)] for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    outcomes = Counter("Error" in result for results in runs[0] + runs[2] for result in results)
    assert outcomes[True] < 0.3 * outcomes.total()
    assert not any("before the call" in result for results in runs[0] for result in results)


def test_saved_indexes_are_searched(build: Build, tmp_path: Path) -> None:
    assert bit_cases.run_case(build, "save", 1, 0, tmp_path) == []
    found = bit_cases.run_case(build, "stored", 1, 0, tmp_path)
    assert len(found) == bit_cases.SEARCHES_PER_INDEX
    assert bit_cases.run_case(build, "stored", 2, 0, tmp_path) == ["FileNotFoundError before the call"]


def test_differences_are_counted_and_named(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"loss:1": ["a", "b"], "search:20": ["c", "ValueError"]}
    assert script.report("avx2", old, old) == 0
    assert script.report("avx2", old, {"loss:1": ["a", "x"], "search:20": ["c"]}) == 2
    said = capsys.readouterr().out
    assert "DIFFERENT loss:1, call 1: b and x" in said
    assert "DIFFERENT search:20, call 1: ValueError and no call" in said


def test_all_kinds_have_cases(script: ModuleType) -> None:
    counts = Counter(kind for kind, _ in script.cases(10_000, 2_000))
    assert counts["search"] * bit_cases.SEARCHES_PER_INDEX == 10_000
    assert counts["loss"] == 2_000
    assert set(counts) == {kind.__name__ for kind in bit_cases.KINDS} | {"stored"}
