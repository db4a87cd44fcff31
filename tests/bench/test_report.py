"""docs/performance.md as a run makes it."""

from __future__ import annotations

import re

import pytest

from bench import sample

pytest.importorskip("matplotlib", reason="matplotlib is not installed: the bench extra has it")
pytest.importorskip("jinja2", reason="jinja2 is not installed: the bench extra has it")
pytest.importorskip("rich", reason="rich is not installed: the bench extra has it")

from ragfast.bench import words
from ragfast.bench.report import markdown
from ragfast.bench.results import Result, Run, Task

RUN = sample.run()
TEXT = markdown(RUN)


def part(heading: str) -> str:
    return TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_says_what_made_it() -> None:
    head = TEXT[: TEXT.index("\n## ")]
    for said in (
        "Generated",
        f"`{RUN.command}`",
        "2026-11-23 14:05 UTC",
        RUN.machine.processor,
        "avx512vnni",
        "30.1 GB/s",
    ):
        assert said in head
    assert words.headline(RUN) in head


def test_same_run_same_text() -> None:
    assert markdown(sample.run()) == TEXT


def test_every_losing_cell_is_collected() -> None:
    lost = [one for one in words.all_comparisons(RUN) if one.verdict == "lost"]
    assert len(lost) > 3
    for one in lost:
        (row,) = [
            line for line in part("Where a peer is faster").splitlines() if f"| {one.name} |" in line and "lost" in line
        ]
        assert one.peer is not None
        assert one.peer.contender in row
        assert one.ratio is None or f"**{words.times(one.ratio)} lost**" in row


def test_winning_and_losing_are_marked_alike_where_they_are() -> None:
    small = part(words.TITLES["small"])
    assert "**14 won**" in small
    assert "**0.40 lost**" in small
    assert "0.98 even" in small


def test_everything_is_there() -> None:
    for task in RUN.tasks:
        assert task.name in TEXT
        for result in task.results:
            assert result.contender in TEXT
            assert result.note in TEXT
        for name, reason in task.left_out.items():
            assert f"left out: {name} ({reason})" in TEXT
    for library in RUN.libraries:
        assert f"| {library.name} | {library.package} |" in TEXT
        assert (library.version or library.reason) in TEXT
    for what, reason in RUN.left_out.items():
        assert f"- {what}: {reason}" in TEXT


def test_tables_are_tables() -> None:
    """As many cells in every row as in the head."""
    tables = re.findall(r"(?:^\|.*\|\n)+", TEXT, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_a_recall_below_one_stands_beside_the_time() -> None:
    assert re.search(r"ms \(recall 0\.969\)", part(words.TITLES["search"]))


def test_how_to_make_it_again() -> None:
    assert f"`{RUN.command}`" in part("Make it again")


@pytest.mark.parametrize("run", [sample.run(tasks=(), libraries=()), sample.without_peers()], ids=["empty", "alone"])
def test_nothing_to_compare(run: Run) -> None:
    text = markdown(run)
    assert "compares it with nothing" in text
    assert "it lost 0" in text
    for task in run.tasks:
        assert task.name in text


def test_names_end_neither_cells_nor_lines() -> None:
    name = "a|b\n| c <b>"
    tasks = tuple(
        Task("small", f"{name}{i}", name, {}, 1, (Result(name, True, True, sample.spread(1.0), note=name),))
        for i in (1, 2)
    )
    text = markdown(sample.run(tasks=tasks))
    assert "<b>" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    rows = [line for line in text.splitlines() if line.startswith("| a\\|b \\| c")]
    assert len({len(re.split(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert len(rows) == 2
