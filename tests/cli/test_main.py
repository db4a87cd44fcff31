"""The command line as a whole: what importing it brings, the script, and the benchmarks that it hands over to."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, util

import pytest

from ragfast.cli.main import main


def test_the_library_imports_no_extra() -> None:
    code = (
        "import sys, ragfast, ragfast.cli.main\n"
        "extras = {'torch', 'transformers', 'tqdm', 'threadpoolctl', 'ragfast_demo', 'ragfast_bench'}\n"
        "print(sorted(extras & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_and_the_script_are_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ragfast", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ragfast ")
    (script,) = (e for e in metadata.entry_points(group="console_scripts") if e.name == "ragfast")
    assert script.load() is main


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert {"index", "bench"} <= set(capsys.readouterr().out.split())


def test_bench_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert main(["bench", "--quick"]) == 2
    assert "pip install ./benchmarks" in capsys.readouterr().err
