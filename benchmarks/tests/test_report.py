"""docs/performance.md as a run makes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sample
from ragfast_bench import formatting, verdicts, wording
from ragfast_bench.report import markdown
from ragfast_bench.results import Result, Run, Task, load
from ragfast_bench.run import TITLES as SECTIONS_TITLES

RUN = sample.run()
TEXT = markdown(RUN, sample.TITLES)


def part(heading: str) -> str:
    return TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_says_what_made_it() -> None:
    head = TEXT[: TEXT.index("\n## How to read it")]
    for said in (
        "Generated",
        f"`{RUN.command}`",
        "2026-11-23 14:05 UTC",
        RUN.machine.processor,
        "avx512vnni",
        "30.1 GB/s",
    ):
        assert said in head
    assert wording.headline(RUN, sample.TITLES, by_section=True) in head


def test_same_run_same_text() -> None:
    assert markdown(sample.run(), sample.TITLES) == TEXT


def test_every_losing_cell_is_collected() -> None:
    lost = [one for one in verdicts.all_comparisons(RUN) if one.verdict == "lost"]
    assert len(lost) > 3
    for one in lost:
        (row,) = [
            line for line in part("Where a peer is faster").splitlines() if f"| {one.name} |" in line and "lost" in line
        ]
        assert one.peer is not None
        assert one.peer.contender in row
        assert one.ratio is None or f"**{formatting.times(one.ratio)} lost**" in row


def test_winning_and_losing_are_marked_alike_where_they_are() -> None:
    small = part(sample.TITLES["small"])
    assert "**14 won**" in small
    assert "**0.40 lost**" in small
    assert "0.98 even" in small


def row(heading: str, name: str) -> str:
    (found,) = [line for line in part(heading).splitlines() if line.startswith(f"| {name}")]
    return found


def test_it_is_short_and_the_lost_cells_come_first() -> None:
    assert len(TEXT.splitlines()) < 350
    heads = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    assert heads[:3] == ["Where a peer is faster", "Machine", "How to read it"]


def test_every_task_has_a_row_in_its_section() -> None:
    for one in verdicts.all_comparisons(RUN):
        assert wording.amount(one.task, one.ours, one.measure) in row(sample.TITLES[one.task.section], f"{one.name} ")


def test_what_tasks_have_in_common_stands_once() -> None:
    def made(n: int) -> Task:
        results = (Result("ragfast", True, True, sample.spread(1.0)), Result("NumPy", False, True, sample.spread(n)))
        return Task("grid", f"N {n}", "unit vectors", {"N": n, "k": 10}, 1, results)

    text = markdown(sample.run(tasks=(made(2), made(3))), sample.TITLES).partition("## Searching")[2]
    assert "All with unit vectors, k 10." in text
    assert "| N 2 | 1.00 s | 2.00 s | **2.0 won** |" in text


def test_the_odd_ones() -> None:
    assert "**ours is WRONG**" in row("Where a peer is faster", "Small calls | wrong sum")
    assert "**ours is WRONG**" in row("Small calls", "wrong sum")
    rounded = row("Small calls", "rounded sum")
    assert "**3.0 won**" in rounded
    assert rounded.endswith("| torch rounded (error 1e-02) |")
    assert "(recall 0.009)" in row("Searching", "near-duplicates, B 1")
    assert "(recall 0.100)" in row("Searching", "near-duplicates, B 1")
    assert "**3.9 won**" in row("Making an index", "random, 100,000 of 768, memory held")
    assert "**0.19 lost**" in row("Making an index", "random, 100,000 of 768 (")


def test_what_was_left_out_stands_once() -> None:
    assert part("Waiting").count("left out:") == 1
    assert "- left out: pgvector (not installed)" in part("Waiting")
    assert "- left out: LlamaIndex in 1 of 10 tasks (would take about 9 min)" in part("Searching")
    assert "FAISS (faiss-cpu 1.15.1)" in TEXT
    assert "absent: LanceDB (lancedb): not installed" in TEXT
    for what, reason in RUN.left_out.items():
        assert f"- {what}: {reason}" in TEXT


def test_no_column_is_empty() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", TEXT, re.MULTILINE):
        columns = zip(*(re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[2:]), strict=True)
        assert all(any(cell.strip() for cell in column) for column in columns)
    assert "of floor" not in part("All of it")
    assert "of floor" in part("Losses")


def test_tables_are_tables() -> None:
    """As many cells in every row as in the head."""
    tables = re.findall(r"(?:^\|.*\|\n)+", TEXT, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_a_recall_below_one_stands_beside_the_time() -> None:
    assert re.search(r"ms \(recall 0\.999\)|ms \(recall 0\.9985\)", part(sample.TITLES["search"]))


def test_how_to_make_it_again() -> None:
    assert f"`{RUN.command}`" in part("Make it again")


@pytest.mark.parametrize("run", [sample.run(tasks=(), libraries=()), sample.without_peers()], ids=["empty", "alone"])
def test_nothing_to_compare(run: Run) -> None:
    text = markdown(run, sample.TITLES)
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
    text = markdown(sample.run(tasks=tasks), sample.TITLES)
    assert "<b>" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    rows = [line for line in text.splitlines() if line.startswith("| a\\|b \\| c")]
    assert len({len(re.split(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert len(rows) == 2


def test_the_performance_page_is_the_run_beside_it() -> None:
    """docs/performance.md is made, not written: by ragfast bench --from docs/performance.json --markdown."""
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "performance.md").read_text(encoding="utf-8") == markdown(
        load(docs / "performance.json"), SECTIONS_TITLES
    )
