"""Levels: those that the CPU's flags imply are there and were run; names that are not are refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import cpu_levels
import pytest

import ragfast
from ragfast import runtime as levels
from ragfast._core import _kernels


def import_ragfast(wanted: str | None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with RAGFAST_ISA=wanted, which prints the level in use."""
    env = {name: value for name, value in os.environ.items() if name != "RAGFAST_ISA"}
    if wanted is not None:
        env["RAGFAST_ISA"] = wanted
    code = "import ragfast; print(ragfast.runtime.isa())"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_levels_that_the_cpu_flags_imply_are_available() -> None:
    implied = cpu_levels.implied_levels()
    if implied is None:
        pytest.skip("no /proc/cpuinfo to compare with")
    assert ragfast.runtime.available_isas() == implied


def test_available_levels_are_the_first_of_those_known() -> None:
    known, available = _kernels.known_isas(), ragfast.runtime.available_isas()
    assert known[0] == "scalar"
    assert len(set(known)) == len(known)
    assert available == known[: len(available)]


def test_highest_level_is_the_default() -> None:
    assert import_ragfast(None).stdout.split() == ragfast.runtime.available_isas()[-1:]
    assert import_ragfast("").stdout.split() == ragfast.runtime.available_isas()[-1:]


def test_environment_forces_a_level(isa: str) -> None:
    assert import_ragfast(isa).stdout.split() == [isa]


@pytest.mark.parametrize("wanted", ["avx1024", "AVX2", "scalar ", "neon9"])
def test_unknown_level_in_the_environment_fails_the_import(wanted: str) -> None:
    done = import_ragfast(wanted)
    assert done.returncode != 0
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: RAGFAST_ISA")
    assert repr(wanted) in message
    assert ", ".join(ragfast.runtime.available_isas()) in message


def test_known_level_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CPU that runs this has its levels, so one is made to lack all but the first."""
    monkeypatch.setattr(levels, "available_isas", lambda: ["scalar"])
    for name in _kernels.known_isas()[1:]:
        monkeypatch.setenv("RAGFAST_ISA", name)
        with pytest.raises(ImportError, match=rf"{name}.*one of scalar; this CPU or operating system lacks '{name}'"):
            levels.set_isa_from_environment()


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """As if the kernel max_f64 of avx2 were wrong. csrc/tests/checkselftest.c checks that C leaves such a level out."""
    left_out = dict.fromkeys(["avx2", "avx512", "avx512vnni", "amx"], "max_f64")
    monkeypatch.setattr(_kernels, "wrong_kernels", lambda: left_out)
    monkeypatch.setattr(_kernels, "available_isas", lambda: ["scalar"])
    monkeypatch.setattr(_kernels, "known_isas", lambda: ["scalar", *left_out])
    monkeypatch.setattr(_kernels, "isa", lambda: "scalar")
    monkeypatch.delenv("RAGFAST_ISA", raising=False)
    return left_out


def test_no_level_of_this_machine_is_left_out() -> None:
    assert _kernels.wrong_kernels() == {}


def test_a_level_with_a_wrong_kernel_is_warned_of_once(wrong: dict[str, str]) -> None:
    kernel = re.escape("the kernel max_f64 of 'avx2' gives wrong results on this processor (")
    with pytest.warns(RuntimeWarning, match=f"^ragfast uses the level 'scalar' instead of 'avx2': {kernel}") as caught:
        levels.set_isa_from_environment()
    assert len(caught) == 1
    assert "RAGFAST_ISA=scalar silences it" in str(caught[0].message)


def test_no_warning_where_a_level_that_passed_is_forced(wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGFAST_ISA", "scalar")
    monkeypatch.setattr(_kernels, "set_isa", lambda name: None)
    levels.set_isa_from_environment()  # a warning would be an error


def test_a_level_with_a_wrong_kernel_is_refused(wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in wrong:
        message = f"isa: expected one of scalar; '{name}' is left out: the kernel max_f64 of 'avx2' gives wrong results"
        with pytest.raises(ValueError, match=message):
            levels.set_isa(name)
        monkeypatch.setenv("RAGFAST_ISA", name)
        with pytest.raises(ImportError, match=f"^RAGFAST_ISA={name}: {message}"):
            levels.set_isa_from_environment()


def test_set_isa_changes_the_level_and_refuses_what_it_does_not_know(isa: str) -> None:
    assert ragfast.runtime.isa() == isa
    with pytest.raises(ValueError, match=r"isa: expected one of scalar.*'neon9'"):
        ragfast.runtime.set_isa("neon9")
    assert ragfast.runtime.isa() == isa
