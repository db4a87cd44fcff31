"""`ragfast bench` from its arguments to its files, with sections that measure next to nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ragfast_bench import run
from ragfast_bench.results import BenchError, Machine, Result, Spread, Task, load
from ragfast_bench.sections import Settings

import ragfast
from ragfast.cli import main as command

TIMES = Spread(median=0.002, q1=0.001, q3=0.003, least=0.001, calls=7)


def task(section: str, name: str) -> Task:
    results = (Result("ragfast", True, True, TIMES), Result("NumPy", False, True, TIMES))
    return Task(section, name, "random", {"N": 10, "D": 4, "B": 1, "k": 2}, 1, results)


def section(name: str, n_tasks: int, fails: BaseException | None = None) -> Any:
    """Yields its tasks, then raises what it is told to."""

    def measure(settings: Settings, machine: Machine, say: Any, leave_out: Any) -> Iterator[Task]:
        leave_out(f"data of {name}", "not here")
        for i in range(n_tasks):
            say(f"task {i}")
            yield task(name, f"task {i}")
        if fails:
            raise fails

    return SimpleNamespace(NAME=name, TITLE=name, planned=lambda settings: n_tasks, measure=measure)


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Three, in place of those that there are. Nothing is pinned or loaded; files go to a folder of their own."""
    made = {name: section(name, n) for name, n in (("search", 2), ("loss", 1), ("memory", 0))}
    machine = Machine("a processor", 2, 8e9, {"L1d": 32768.0}, "Linux", "3.11", "avx2", 1, (), 2e10, {"float32": 1e11})
    monkeypatch.setattr(run, "SECTIONS", made)
    monkeypatch.setattr(run, "pin", lambda threads: ())
    monkeypatch.setattr(run, "load_libraries", lambda: None)
    monkeypatch.setattr(run, "limit_threads", lambda threads: None)
    monkeypatch.setattr(run.machine, "measure", lambda threads, pinned, seconds: machine)
    monkeypatch.chdir(tmp_path)
    isa = ragfast.runtime.isa()
    yield made
    ragfast.runtime.set_isa(isa)


def test_writes_what_it_measured(sections: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["bench", "--markdown", "report.md"]) == 0
    saved = load(Path("ragfast-bench.json"))
    assert [(t.section, t.name) for t in saved.tasks] == [
        ("search", "task 0"),
        ("search", "task 1"),
        ("loss", "task 0"),
    ]
    assert saved.left_out == {
        "memory": "not in a default run",
        "data of search": "not here",
        "data of loss": "not here",
    }
    assert {library.name for library in saved.libraries} >= {"NumPy", "FAISS", "torch"}
    out = capsys.readouterr().out
    assert out.rstrip().endswith(str(Path("ragfast-bench.html").resolve()))
    assert "<html" in Path("ragfast-bench.html").read_text()
    assert "ragfast" in Path("report.md").read_text()


def test_interrupted_run_keeps_what_it_has(sections: dict[str, Any]) -> None:
    sections["search"] = section("search", 1, KeyboardInterrupt())
    assert command.main(["bench"]) == 130
    saved = load(Path("ragfast-bench.json"))
    assert [t.section for t in saved.tasks] == ["search"]
    assert "interrupted" in saved.left_out["the rest"]


@pytest.mark.parametrize("error", [BenchError("no room"), MemoryError("no room"), ValueError("no room")])
def test_failing_section_costs_itself_only(sections: dict[str, Any], error: Exception) -> None:
    sections["search"] = section("search", 1, error)
    assert command.main(["bench"]) == 0
    saved = load(Path("ragfast-bench.json"))
    assert [t.section for t in saved.tasks] == ["search", "loss"]
    assert "no room" in saved.left_out["the rest of section search"]


def test_each_task_is_saved_when_it_is_done(sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def finish(self: run.Progressing, task: Task) -> None:
        kept.append(len(load(Path("ragfast-bench.json")).tasks))

    monkeypatch.setattr(run.Progressing, "finish", finish)
    command.main(["bench"])
    assert kept == [1, 2, 3]


def test_nobody_reads_what_is_printed(sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: run.Progressing, task: Task) -> None:
        raise SystemExit(1)  # as rich does at a broken pipe

    monkeypatch.setattr(run.Progressing, "finish", finish)
    assert command.main(["bench"]) == 1
    assert len(load(Path("ragfast-bench.json")).tasks) == 1
    assert "<html" in Path("ragfast-bench.html").read_text()


def test_a_run_without_tasks_leaves_the_files_of_the_one_before(
    sections: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["bench"])
    before = Path("ragfast-bench.json").read_bytes()
    for name in sections:
        sections[name] = section(name, 0)
    assert command.main(["bench"]) == 2
    assert "nothing was measured" in capsys.readouterr().err
    assert Path("ragfast-bench.json").read_bytes() == before


def test_a_wrong_result_of_ours_is_the_exit_status(sections: dict[str, Any]) -> None:
    def measure(settings: Settings, machine: Machine, say: Any, leave_out: Any) -> Iterator[Task]:
        yield dataclasses.replace(
            task("search", "t"), results=(Result("ragfast", True, True, TIMES, note="WRONG: no"),)
        )

    sections["search"] = SimpleNamespace(NAME="search", TITLE="search", planned=lambda settings: 1, measure=measure)
    assert command.main(["bench"]) == 1
    assert len(load(Path("ragfast-bench.json")).tasks) == 2


def test_settings_arrive(sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    arrived: dict[str, Any] = {}
    seen = []

    def measure(settings: Settings, machine: Machine, say: Any, leave_out: Any) -> Iterator[Task]:
        seen.append((settings, ragfast.runtime.isa()))
        yield task("search", "t")

    def pinned(threads: int) -> tuple[int, ...]:
        arrived["pin"] = threads
        return ()

    sections["search"] = SimpleNamespace(NAME="search", TITLE="search", planned=lambda settings: 1, measure=measure)
    monkeypatch.setattr(run, "pin", pinned)
    monkeypatch.setattr(run, "limit_threads", lambda threads: arrived.update(limit=threads))
    monkeypatch.setattr(run, "usable_cpus", lambda: (0, 1))
    arguments = [
        "bench",
        "--threads",
        "2",
        "--isa",
        "scalar",
        "--k",
        "7",
        "--sections",
        "search",
        "--peers",
        "numpy",
        "--data",
        "sparse",
    ]
    command.main(arguments)
    assert arrived == {"pin": 2, "limit": 2}
    assert seen == [(Settings("default", 2, 7, frozenset({"numpy"}), ("sparse",)), "scalar")]
    arrived.clear()
    command.main([*arguments, "--no-pin", "--quick"])
    assert arrived == {"limit": 2}
    assert seen[-1][0].size == "quick"


def test_vectors_ask_for_the_sections_that_use_them(sections: dict[str, Any]) -> None:
    for name in ("v.npy", "q.npy"):
        np.save(name, np.ones((30, 4)))
    assert command.main(["bench", "--vectors", "v.npy", "--queries", "q.npy"]) == 0
    assert {t.section for t in load(Path("ragfast-bench.json")).tasks} == {"search"}


def test_shows_a_saved_run_again(sections: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["bench"])
    before = Path("ragfast-bench.json").read_bytes()
    Path("ragfast-bench.html").unlink()
    assert command.main(["bench", "--from", "ragfast-bench.json", "--page", "again.html"]) == 0
    assert Path("ragfast-bench.json").read_bytes() == before
    assert "<html" in Path("again.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sections", "sewing"], "there are search"),
        (["--json", "no/such/folder.json"], "no/such/folder.json"),
        (["--from", "absent.json"], "absent.json"),
        (["--peers", "FIASS"], "FIASS"),
        (["--vectors", "v.npy", "--queries", "q.npy"], "cannot read v.npy"),
        (["--threads", "1000"], "may use"),
        (["--k", "1001"], "1,000 documents"),
        (["--data", "glossaries"], "there are wiki, glosses"),
        (["--json", "one", "--page", "one"], "a file of its own"),
        (["--page", "no/such/folder.html"], "no/such/folder.html"),
        (["--from", "run.json", "--page", "run.json"], "a file of its own"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    sections: dict[str, Any], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert command.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_damaged_run_is_named(sections: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["bench"])
    text = Path("ragfast-bench.json").read_text()
    for damage in ('"median": "x"', '"median": 0', '"median": null'):
        Path("damaged.json").write_text(text.replace('"median": 0.002', damage))
        capsys.readouterr()
        assert command.main(["bench", "--from", "damaged.json", "--page", "p.html"]) == 2
        error = capsys.readouterr().err
        assert "damaged.json" in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--vectors", "v.npy"], ["--quick", "--full"], ["--threads", "0"]])
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["bench", *arguments])


def test_without_its_packages_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['rich'] = None; from ragfast_bench.cli import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install ./benchmarks" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_real_machine_and_sections_in_miniature(tmp_path: Path) -> None:
    """The command itself, in a process of its own: one section, one peer, the user's own vectors."""
    rng = np.random.default_rng(0)
    for name, n in (("v", 400), ("q", 20)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((n, 24)).astype(np.float32))
    arguments = ["--quick", "--sections", "search", "--peers", "NumPy", "--vectors", "v.npy", "--queries", "q.npy"]
    done = subprocess.run(
        [sys.executable, "-m", "ragfast", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "ragfast-bench.json").read_text())
    assert saved["machine"]["read_rate"] > 1e8
    assert saved["machine"]["peaks"]["float32"] > 1e8
    for one in saved["tasks"]:
        assert {"ragfast", "NumPy"} <= {result["contender"] for result in one["results"]}
        assert all(result["recall"] == 1 for result in one["results"])
