"""A run is the same after it was written and read; a file that is no run says so in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sample
from ragfast_bench.results import BenchError, Task, load, save


def test_round_trip(tmp_path: Path) -> None:
    run = sample.run()
    save(run, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == run


def test_round_trip_of_an_empty_run(tmp_path: Path) -> None:
    run = sample.run(tasks=(), libraries=(), left_out={})
    save(run, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == run


def test_names_of_any_script_survive(tmp_path: Path) -> None:
    run = sample.run(tasks=(Task("search", "Überprüfung 検索", "検索 </script>", {"N": 1}, 1, ()),))
    save(run, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == run


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read"):
        load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected a run of format 1"),
        ("3", "expected a run of format 1"),
        ('{"benchmarks": []}', "expected a run of format 1"),
        ('{"format": 2}', "got format 2"),
        ('{"format": 1}', "missing or unknown fields"),
    ],
)
def test_foreign_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BenchError, match=message):
        load(tmp_path / "run.json")


def _drop_machine(raw: dict[str, Any]) -> None:
    del raw["machine"]


def _machine_of_another_kind(raw: dict[str, Any]) -> None:
    raw["machine"]["pinned"] = None


def _drop_times(raw: dict[str, Any]) -> None:
    del raw["tasks"][0]["results"][0]["times"]


def _unknown_field(raw: dict[str, Any]) -> None:
    raw["tasks"][0]["results"][0]["speed"] = 3


def _times_without_quartiles(raw: dict[str, Any]) -> None:
    del raw["tasks"][0]["results"][0]["times"]["q1"]


def _tasks_are_a_number(raw: dict[str, Any]) -> None:
    raw["tasks"] = 7


@pytest.mark.parametrize(
    "damage",
    [
        _drop_machine,
        _machine_of_another_kind,
        _drop_times,
        _unknown_field,
        _times_without_quartiles,
        _tasks_are_a_number,
    ],
)
def test_damaged_file(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    path = tmp_path / "run.json"
    save(sample.run(), path)
    raw = json.loads(path.read_text())
    damage(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(BenchError, match="missing or unknown fields"):
        load(path)
