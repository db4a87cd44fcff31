"""What the terminal shows: a table as each task ends, and the summary of a run. Words say it all, colours again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ragfast_bench import formatting, verdicts, wording
from ragfast_bench.results import Machine, Result, Run, Task
from ragfast_bench.verdicts import Comparison

STYLES = {"won": "bold green", "lost": "bold magenta", "even": "", "inexact": "cyan", "wrong": "bold red", "alone": ""}
"""What ours wins and what it loses stand out alike."""
NARROW = 70
"""Columns. Narrower terminals get tables without the spread of times and the number of calls."""


def task_table(task: Task) -> RenderableType:
    """Every contender of a task, those left out with the reasons, and what else ran."""
    # Names and data sets are the users' own: Text takes them as they are, where markup would have them change colours.
    title = Text.assemble((task.name, "bold"), (f"  {wording.about(task)}", "dim"))
    below = [_note(result) for result in task.results if result.note]
    below += [Text(f"Left out: {name} ({reason})") for name, reason in task.left_out.items()]
    if wording.load(task):
        below.append(Text(wording.load(task), style="yellow"))
    body: RenderableType = _Contenders(task) if task.results else Text("Nothing was measured.")
    return Group(title, body, *below, Text(""))


class _Contenders:
    """The table of a task, with what the terminal has room for."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _contenders(self._task, narrow=options.max_width < NARROW)


def _contenders(task: Task, narrow: bool) -> Table:
    """narrow: without how times spread and how many there were."""
    # Where waiting is what is compared, times of the calls alone are for the page: here is no room for both.
    timed = [] if verdicts.yardstick(task) else [result.times for result in task.results if result.times]
    measures = list(dict.fromkeys(name for result in task.results for name in result.measures if name != "requests"))
    unit, scale = formatting.time_unit(times.median for times in timed)
    columns: dict[str, list[str | Text]] = {"contender": [_named(result) for result in task.results]}
    if timed:
        columns[f"median, {unit}"] = [
            formatting.number(result.times.median * scale) if result.times else "" for result in task.results
        ]
    if timed and not narrow:
        columns["q1-q3"] = [_quartiles(result, scale) for result in task.results]
        columns["calls"] = [f"{result.times.calls:,}" if result.times else "" for result in task.results]
    for name in measures:
        columns[wording.heading(name)] = [
            formatting.measured(name, r.measures[name]) if name in r.measures else "" for r in task.results
        ]
    is_value = any(result.error is not None for result in task.results)
    columns["error" if is_value else "recall"] = [wording.rightness(result) for result in task.results]
    columns["ratio"] = [_ratio(task, result) for result in task.results]
    columns["of floor"] = [_of_floor(result) for result in task.results]
    columns[""] = [_mark(result) for result in task.results]

    table = _table(gap=1)
    kept = {head: cells for head, cells in columns.items() if head == "contender" or any(map(str, cells))}
    for head in kept:
        left = head in ("contender", "")
        table.add_column(
            head.replace(", ", ",\n", 1),
            justify="left" if left else "right",
            overflow="fold",  # where there is no room, figures are broken, never cut
            min_width=14 if head == "contender" else None,
        )
    for row in zip(*kept.values(), strict=True):
        table.add_row(*row)
    return table


def _table(gap: int = 2) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim", show_edge=False)


def _note(result: Result) -> Text:
    return Text(f"{result.contender}: {result.note}", style=STYLES["wrong"] if verdicts.is_wrong(result) else "")


def _named(result: Result) -> Text:
    return Text(result.contender, style="bold" if result.ours else "")


def _quartiles(result: Result, scale: float) -> str:
    if not result.times or result.times.calls == 1:
        return ""
    return f"{formatting.number(result.times.q1 * scale)}-{formatting.number(result.times.q3 * scale)}"


def _ratio(task: Task, result: Result) -> Text:
    ratio = verdicts.ratio(task, result)
    if ratio is None:
        return Text("")
    if result.ours and not verdicts.is_wrong(result):
        return Text(formatting.times(ratio), style="dim")
    return Text(formatting.times(ratio), style=STYLES[verdicts.verdict_on(task, result) or "even"])


def _of_floor(result: Result) -> str:
    part = wording.of_floor(result)
    return "" if part is None else formatting.percent(part)


def _mark(result: Result) -> Text:
    return Text(", ".join(wording.marks(result)), style=STYLES["wrong"] if verdicts.is_wrong(result) else "")


def machine_lines(machine: Machine) -> RenderableType:
    """What it is, and how fast, as measured."""
    return _pairs(wording.describe(machine).items())


def summary(run: Run, titles: Mapping[str, str]) -> RenderableType:
    """The machine, one row a comparison, the counts, the libraries, and what was left out of the run."""
    parts: list[RenderableType] = [
        Text(f"ragfast {run.ragfast}, {run.command}, {wording.when(run)}, {run.seconds:.0f} s", style="bold")
    ]
    parts.append(machine_lines(run.machine))
    for name in verdicts.sections(run, titles):
        found = [comparison for task in run.section(name) for comparison in verdicts.comparisons(task)]
        if found:
            parts += [Text(""), Text(titles.get(name, name), style="bold"), _comparisons(found)]
    counts = verdicts.count(verdicts.all_comparisons(run))
    parts += [Text(""), Text(wording.headline(run, titles), style="bold"), _counts(counts)]
    present = ", ".join(wording.with_version(library) for library in run.libraries if library.version)
    absent = ", ".join(f"{library.name} ({library.reason})" for library in run.libraries if not library.version)
    lists = [("libraries", present or "none"), ("absent", absent or "none")]
    lists += [(f"left out: {what}", reason) for what, reason in run.left_out.items()]
    return Group(*parts, Text(""), _pairs(lists))


def _pairs(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, said in pairs:
        table.add_row(Text(name), Text(said))
    return table


def _counts(counts: Mapping[verdicts.Verdict, int]) -> Text:
    """Of all that was compared, memory too."""
    said = Text("All cells: ")
    for verdict in ("won", "even", "lost"):
        said.append(f"{counts[verdict]} {verdict}  ", style=STYLES[verdict])
    if counts["wrong"]:
        said.append(f"{counts['wrong']} where ours was WRONG  ", style=STYLES["wrong"])
    if counts["alone"]:
        said.append(f"{counts['alone']} with nobody to compare  ")
    said.append(f"(even: no more than {100 * (verdicts.EVEN - 1):.0f} % apart)", style="dim")
    return said


def _comparisons(found: list[Comparison]) -> Table:
    table = _table()
    table.add_column("task", overflow="fold")
    table.add_column("ours", justify="right", no_wrap=True)
    table.add_column("peer", justify="right", no_wrap=True)
    table.add_column("best exact peer", overflow="fold")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    inexact = any(comparison.faster_inexact for comparison in found)
    if inexact:
        table.add_column("better, not exact", overflow="fold")
    for one in found:
        style = STYLES[one.verdict]
        row = [
            Text(one.name),
            Text(wording.amount(one.task, one.ours, one.measure)),
            Text(wording.amount(one.task, one.peer, one.measure)),
            Text(wording.named(one.peer)),
            Text("" if one.ratio is None else formatting.times(one.ratio), style=style),
            Text("" if one.verdict == "alone" else one.verdict.replace("wrong", "WRONG"), style=style),
        ]
        table.add_row(*row, *([Text(wording.faster_inexact(one), style=STYLES["inexact"])] if inexact else []))
    return table
