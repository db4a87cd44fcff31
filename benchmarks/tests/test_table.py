"""The terminal's tables, at the widths that terminals have, and without colours where there is no terminal."""

from __future__ import annotations

import io

import pytest
import sample
from ragfast_bench import formatting, table, verdicts, wording
from ragfast_bench.results import Result, Run, Task
from rich.console import Console, RenderableType

RUN = sample.run()


def printed(what: RenderableType, width: int = 100, colours: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colours, color_system="standard" if colours else None)
    console.print(what)
    return file.getvalue()


def joined(text: str) -> str:
    """With what was folded over lines together again."""
    return "".join(text.split())


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("task", RUN.tasks, ids=lambda task: f"{task.section}: {task.name}")
def test_a_task_at_any_width(task: Task, width: int) -> None:
    text = printed(table.task_table(task), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text
    for result in task.results:
        assert result.contender.split()[0] in text
        if result.note:
            assert joined(f"{result.contender}: {result.note}") in joined(text)
        if (ratio := verdicts.ratio(task, result)) is not None:
            assert formatting.times(ratio) in text
        if result.times and not verdicts.yardstick(task):
            unit, scale = formatting.time_unit(each.times.median for each in task.results if each.times)
            assert formatting.number(result.times.median * scale) in text
            assert unit in text
    for name, reason in task.left_out.items():
        assert joined(f"Left out: {name} ({reason})") in joined(text)


def test_other_programs_are_told() -> None:
    busy, quiet = RUN.tasks[0], RUN.tasks[1]
    assert "0.7 cores busy" in printed(table.task_table(busy))
    assert "busy" not in printed(table.task_table(quiet))


def test_winning_and_losing_stand_out_alike() -> None:
    lost, won = (
        Task("s", "t", "", {}, 1, (Result("ragfast", True, True, sample.spread(1.0)), peer))
        for peer in (Result("p", False, True, sample.spread(0.5)), Result("p", False, True, sample.spread(2.0)))
    )
    assert "\x1b[1;35m" in printed(table.task_table(lost), colours=True)
    assert "\x1b[1;32m" in printed(table.task_table(won), colours=True)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_summary(width: int) -> None:
    text = printed(table.summary(RUN, sample.TITLES), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text
    for comparison in verdicts.all_comparisons(RUN):
        assert joined(wording.amount(comparison.task, comparison.ours, comparison.measure)) in joined(text)
    counts = verdicts.count(verdicts.all_comparisons(RUN))
    assert f"{counts['won']} won" in text
    assert f"{counts['lost']} lost" in text
    for said in (RUN.machine.processor, RUN.machine.isa, "30.1 GB/s", "int8 467 GOP/s", "CPU 1", "L2 1 MB", "wiki"):
        assert said in text
    for library in RUN.libraries:
        assert library.name in text
        assert joined(library.version or library.reason) in joined(text)
    assert joined("FAISS (faiss-cpu 1.15.1)") in joined(text)


def row(name: str) -> str:
    (found,) = [line for line in printed(table.summary(RUN, sample.TITLES), 180).splitlines() if line.startswith(name)]
    return found


def test_wrong_rounded_and_unlike_results_are_told() -> None:
    assert "WRONG" in row("wrong sum")
    assert "torch rounded (error 1e-02)" in row("rounded sum")
    assert "more" not in row("rounded sum")
    assert "3.0  won" in row("rounded sum")
    assert "FAISS default (recall 0.009)" in row("near-duplicates")
    assert "lost" in row("random, 100,000 of 768 ")
    assert "won" not in row("wrong sum")


def test_the_memory_that_an_index_holds_is_compared() -> None:
    assert "3.9  won" in row("random, 100,000 of 768, memory held")


@pytest.mark.parametrize("width", [50, 69])
def test_narrow_terminals_do_without_the_spread(width: int) -> None:
    narrow, wide = (printed(table.task_table(RUN.tasks[0]), columns) for columns in (width, 70))
    assert "q1-q3" not in narrow
    assert "calls" not in narrow
    assert "q1-q3" in wide
    assert "calls" in wide
    assert all(len(line) <= width for line in narrow.splitlines())


def test_lost_rows_say_so_in_words() -> None:
    rows = [line for line in printed(table.summary(RUN, sample.TITLES), 160).splitlines() if "kl_divergence" in line]
    assert len(rows) == 1
    assert "0.40" in rows[0]
    assert "lost" in rows[0]


def test_titles_are_those_that_were_given() -> None:
    assert "All about sizes" in printed(table.summary(RUN, {**sample.TITLES, "grid": "All about sizes"}))


@pytest.mark.parametrize("run", [sample.run(tasks=(), libraries=()), sample.without_peers()], ids=["empty", "alone"])
def test_nothing_to_compare(run: Run) -> None:
    text = printed(table.summary(run, sample.TITLES))
    assert "compares it with nothing" in " ".join(text.split())
    for task in run.tasks:
        assert joined(task.name) in joined(printed(table.task_table(task)))


def test_a_task_without_results() -> None:
    task = Task("search", "t", "", {}, 1, (), {"ragfast": "too little memory"})
    assert "too little memory" in printed(table.task_table(task))


def test_names_are_no_markup() -> None:
    task = Task("s", "[red]t[/red]", "[bold]", {}, 1, (Result("[i]x[/i]", True, True, sample.spread(1.0), note="[/]"),))
    text = printed(table.task_table(task))
    for said in ("[red]t[/red]", "[bold]", "[i]x[/i]", "[/]"):
        assert said in text
