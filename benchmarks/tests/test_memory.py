"""Peak memory: of a known allocation what was allocated, of ours nothing to speak of."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from ragfast_bench import loss, memory
from ragfast_bench.results import Machine
from ragfast_bench.sections import Settings

MACHINE = Machine("", 1, 0, {"L1": 1.0}, "", "", "", 1, (), 1e9, {"float32": 1e9})
LINUX = pytest.mark.skipif(bool(memory.unmeasurable()), reason=memory.unmeasurable())
MB = 1 << 20
SHAPE = (2, 5, 10, 50_265)  # 20 MB


def must_not(what: str, why: str) -> None:
    pytest.fail(f"{what}: {why}")


@LINUX
@pytest.mark.parametrize("megabytes", [0, 48, 100])
def test_peak_of_a_known_allocation(megabytes: int) -> None:
    assert memory.peak_of(lambda: np.ones(megabytes * MB // 8)) == pytest.approx(megabytes * MB, abs=2 * MB)


@LINUX
def test_peak_is_of_what_was_freed_too() -> None:
    def call() -> float:
        return float(np.ones(32 * MB // 8).sum() + np.ones(64 * MB // 8).sum())

    assert memory.peak_of(call) == pytest.approx(64 * MB, abs=2 * MB)
    assert memory.peak_of(lambda: None) < 2 * MB  # the mark was set back


@LINUX
def test_processes() -> None:
    ours = memory.in_process("ragfast", SHAPE, False, "value", 1)
    assert isinstance(ours, float)
    assert 0 <= ours < MB
    into_new = memory.in_process("ragfast, new memory", SHAPE, True, "value and gradient", 1)
    assert isinstance(into_new, float)  # the gradient itself does not count
    assert 0 <= into_new < MB
    plain = memory.in_process("NumPy max, exp, sum", SHAPE, False, "value", 1)
    assert isinstance(plain, float)
    assert plain > 4 * np.prod(SHAPE)


@LINUX
def test_a_process_that_fails_is_named() -> None:
    found = memory.in_process("nobody", SHAPE, False, "value", 1)
    assert isinstance(found, str)
    assert found.startswith("failed: ")


@LINUX
def test_absent_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    memory.main(["--contender", "torch cross_entropy", "--asked", "value", "--shape", "1", "1", "1", "10"])
    assert json.loads(capsys.readouterr().out) == "not installed"


@LINUX
def test_section(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[str] = []

    def in_process(name: str, *_: Any) -> float | str:
        asked_for.append(name)
        return "failed: it did" if "in parts, one" in name else 7.0

    monkeypatch.setattr(memory, "in_process", in_process)
    settings = Settings("default")
    tasks = list(memory.measure(settings, MACHINE, str, must_not))
    assert len(tasks) == memory.planned(settings)
    value = tasks[0]
    assert [result.contender for result in value.results] == list(memory.CHOSEN["value"][:-1])
    assert value.results[0].ours
    assert value.results[0].measures == {memory.MEASURE: 7.0}
    assert value.left_out["torch log_softmax in parts, one buffer"] == "failed: it did"
    assert value.left_out["SciPy logsumexp"] == memory.OTHERS
    assert value.left_out["torch.compile of gather - logsumexp"] == loss.COMPILING
    assert sorted(asked_for) == sorted(name for names in memory.CHOSEN.values() for name in names)
    full = Settings("full")
    assert len(list(memory.measure(full, MACHINE, str, must_not))) == memory.planned(full)


@pytest.mark.parametrize("size", ["quick", "default"])
def test_left_out_with_the_reason(size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "unmeasurable", lambda: "not here")
    left_out: dict[str, str] = {}
    assert not list(memory.measure(Settings(size), MACHINE, str, left_out.__setitem__))
    assert list(left_out) == ["memory"]
    assert (left_out["memory"] == "not here") == (size == "default")


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_unmeasurable(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Any) -> int:
        raise PermissionError("read-only")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory, "peak_of", refused)
    assert ("Linux" if platform == "darwin" else "read-only") in memory.unmeasurable()
