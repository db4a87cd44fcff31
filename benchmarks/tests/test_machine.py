"""What the machine says of itself, and what is measured of it. No test depends on how fast it is."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ragfast_bench import machine
from ragfast_bench.results import BenchError, Machine

import ragfast


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and runs far below what a measurement needs."""
    monkeypatch.setattr(machine, "LEAST_READ", 1 << 20)
    monkeypatch.setattr(machine, "RUN", 1e-4)
    monkeypatch.setattr(machine, "_caches", lambda cpu: {"L1": 2.0**15, "L2": 2.0**18})


@pytest.mark.parametrize("threads", [1, 3])
def test_measure_says_what_it_measured(threads: int) -> None:
    found = machine.measure(threads, (), seconds=0.02)
    assert isinstance(found, Machine)
    assert found.threads == threads
    assert found.isa == ragfast.runtime.isa()
    assert found.processor.strip()
    assert found.system.strip()
    assert found.python.strip()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory > 2**20
    assert set(found.peaks) == {"float32", "int8"}
    rates = np.array([found.read_rate, *found.peaks.values()])
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert dataclasses.asdict(found)["caches"] == {"L1": 2.0**15, "L2": 2.0**18}


def test_a_pinned_process_keeps_the_number_of_cores() -> None:
    found = machine.measure(1, (0,), seconds=0.02)
    assert found.pinned == (0,)
    assert found.cores == os.cpu_count()


def test_every_thread_works_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the threads has a part of the buffer, and together they read all of it; so with arithmetic."""
    read: list[int] = []
    asked: list[str] = []

    def count_read(x: Any) -> int:
        read.append(x.nbytes)
        return 0

    def count_operations(arithmetic: str, rounds: int) -> int:
        asked.append(arithmetic)
        return operations(arithmetic, rounds)

    operations = machine.peak_operations
    monkeypatch.setattr(machine, "peak_read", count_read)
    monkeypatch.setattr(machine, "peak_operations", count_operations)
    machine.measure(2, (), seconds=1e-6)
    assert read == [1 << 19] * 6  # three rounds of two halves
    assert asked.count("float32") >= 6
    assert asked.count("int8") >= 6


def test_the_level_in_use_is_measured() -> None:
    before = ragfast.runtime.isa()
    ragfast.runtime.set_isa("scalar")
    try:
        assert machine.measure(1, (), seconds=0.02).isa == "scalar"
    finally:
        ragfast.runtime.set_isa(before)


def test_buffer_is_several_times_the_last_cache_and_leaves_memory_free() -> None:
    assert machine._read_size({"L1": 2.0**15, "L3": 2.0**25}, 2.0**36) == 4 * 2**25
    assert machine._read_size({}, 2.0**36) == machine.LEAST_READ
    assert machine._read_size({"L3": 2.0**30}, 2.0**33) == 2**30


@pytest.mark.parametrize(("threads", "seconds"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_refusals(threads: int, seconds: float) -> None:
    with pytest.raises(BenchError, match="expected"):
        machine.measure(threads, (), seconds)


def caches_of(folder: Path, entries: list[tuple[str, str, str]]) -> dict[str, float]:
    for i, (level, kind, size) in enumerate(entries):
        index = folder / "cpu3" / "cache" / f"index{i}"
        index.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (index / name).write_text(value + "\n")
    return CACHES_OF(3, folder)


CACHES_OF = machine._caches  # before a fixture puts another in its place


def test_caches_of_data_by_level(tmp_path: Path) -> None:
    entries = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "1G")]
    assert caches_of(tmp_path, entries) == {"L1": 48 * 2.0**10, "L2": 2.0**21, "L3": 2.0**30}


def test_caches_that_are_not_told_are_absent(tmp_path: Path) -> None:
    assert CACHES_OF(3, tmp_path) == {}
    assert caches_of(tmp_path, [("1", "Data", "what"), ("2", "Unified", "1024")]) == {"L2": 1024.0}


@pytest.mark.parametrize(("limit", "used", "least"), [("1000", "400", 600.0), ("max", "400", None), (None, None, None)])
def test_memory_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, used: str | None, least: float | None
) -> None:
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    for name, text in (("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text + "\n")
    found = machine.available_memory()
    assert found == least if least is not None else found > 2**20
