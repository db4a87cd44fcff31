"""A run as one HTML page that needs nothing else: what was asked, how it was measured, plots, and every table."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import jinja2
from markupsafe import Markup

from ragfast_bench import formatting, plots, verdicts, wording
from ragfast_bench.results import Result, Run, Task
from ragfast_bench.timing import WARMED

ABOUT = {
    "search": "Given B questions as vectors, which k of N document vectors have the largest inner products with each?",
    "grid": "The same over many sizes, small ones too: where does which library win?",
    "latency": "Questions come on their own at a given rate, whether or not the last one is answered yet. How long is "
    "it from when each came to its answer, the wait for its turn included? p50 is what half of them take at the most, "
    "p99 what 99 of 100 do, p999 what 999 of 1,000 do. An overloaded contender cannot keep up: its queue only grows.",
    "build": "How long does it take to make an index of the vectors, and how much memory does it hold for each?",
    "loss": "Training and scoring a RAG model: from the logits of the generator, for each of K documents, to the "
    "negative logarithm of the answer's probability, and its gradient. The floor is the time to read the logits once, "
    "and to write the gradient once.",
    "step": "One step of decoding: the probabilities of the next token, mixed over the documents, and the best tokens.",
    "small": "Calls that take microseconds, where what surrounds the arithmetic is most of the time.",
    "rag": "Retrieval and marginalization in one call, as a program would make it.",
    "memory": "The largest memory that a call took beyond its inputs and outputs, in a process of its own.",
}
"""By section, what was asked, for someone who has never seen the project."""

LARGE = 4
"""Sections with more tasks than this show their tables when asked to."""


@dataclass(frozen=True)
class Row:
    """A result, as its table shows it."""

    name: str
    ours: bool
    verdict: str  # of its ratio: won, even, lost; inexact; "" of ours
    cells: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class TaskTable:
    name: str
    about: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    load: str


def page(run: Run, titles: Mapping[str, str]) -> str:
    """HTML, self-contained: no script runs and nothing is loaded from anywhere."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string(files("ragfast_bench").joinpath("page.html").read_text(encoding="utf-8"))
    names = verdicts.sections(run, titles)
    drawn = plots.plots(run, titles)
    found = verdicts.all_comparisons(run, titles)
    text = json.dumps(dataclasses.asdict(run))
    html: str = template.render(
        run=run,
        headline=wording.headline(run, titles),
        when=wording.when(run),
        machine=wording.describe(run.machine),
        sections=[
            {
                "name": name,
                "title": titles.get(name, name),
                "about": ABOUT.get(name, ""),
                "plots": [_marked(plot) for plot in drawn.get(name, [])],
                "comparisons": [row for row in map(_comparison, found) if row["section"] == name],
                "counts": verdicts.count(c for c in found if c.task.section == name),
                "tables": [task_table(task) for task in run.section(name)],
                "open": len(run.section(name)) <= LARGE,
            }
            for name in names
        ],
        overview=[_marked(plot) for plot in drawn.get("", [])],
        lost=[
            row | {"section": titles.get(row["section"], row["section"])}
            for row in map(_comparison, found)
            if row["verdict"] in ("lost", "wrong")
        ],
        left_out=_left_out(run),
        titles={name: title for name, title in titles.items() if name in names},
        least_recall=verdicts.RECALL,
        warmed=f"{1e3 * WARMED:g}",
        without_ratio=wording.without_ratio(found),
        libraries=[(library, wording.package(library)) for library in run.libraries],
        even=f"{100 * (verdicts.EVEN - 1):.0f}",
        inputs=_encoded(text),
        # In a script only "</" could end it; JSON means the same with its slash escaped.
        embedded=Markup(text.replace("<", "\\u003c")),
    )
    return html


def _encoded(text: str) -> str:
    return "data:application/json;base64," + base64.b64encode(text.encode()).decode()


def _marked(plot: plots.Plot) -> dict[str, object]:
    return {"title": plot.title, "alt": plot.alt, "svg": Markup(plot.svg)}


def _comparison(one: verdicts.Comparison) -> dict[str, str]:
    return {
        "section": one.task.section,
        "name": one.name,
        "ours": wording.amount(one.task, one.ours, one.measure),
        "peer": wording.amount(one.task, one.peer, one.measure),
        "who": wording.named(one.peer),
        "ratio": "" if one.ratio is None else formatting.times(one.ratio),
        "verdict": one.verdict,
        "inexact": wording.faster_inexact(one),
    }


def _left_out(run: Run) -> list[tuple[str, str, str]]:
    """(what, of which tasks, reason), one row for each contender and reason; first those of the whole run."""
    rows: dict[tuple[str, str], list[str]] = {}
    for task in run.tasks:
        for name, reason in task.left_out.items():
            rows.setdefault((name, reason), []).append(task.name)
    found = [(what, "the whole run", reason) for what, reason in run.left_out.items()]
    for (name, reason), tasks in rows.items():
        others = f" and {len(tasks) - 3} more" if len(tasks) > 3 else ""
        found.append((name, "; ".join(tasks[:3]) + others, reason))
    return found


def task_table(task: Task) -> TaskTable:
    """With the columns that the task has anything for."""
    timed = [result.times.median for result in task.results if result.times]
    unit, scale = formatting.time_unit(timed)
    measures = list(dict.fromkeys(name for result in task.results for name in result.measures))
    of_value = any(result.error is not None for result in task.results)
    columns: dict[str, list[str]] = {
        f"median, {unit}": [formatting.number(r.times.median * scale) if r.times else "" for r in task.results],
        "middle half": [
            f"{formatting.number(r.times.q1 * scale)} to {formatting.number(r.times.q3 * scale)}"
            if r.times and r.times.calls > 1
            else ""
            for r in task.results
        ],
        "calls": [f"{r.times.calls:,}" if r.times else "" for r in task.results],
        **{
            wording.heading(name): [
                formatting.measured(name, r.measures[name]) if name in r.measures else "" for r in task.results
            ]
            for name in measures
        },
        "error" if of_value else "recall": [wording.rightness(result) for result in task.results],
        "ratio": [_ratio(task, result) for result in task.results],
        "of floor": [
            "" if (part := wording.of_floor(result)) is None else formatting.percent(part) for result in task.results
        ],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    rows = [
        Row(
            result.contender,
            result.ours,
            verdicts.verdict_on(task, result),
            tuple(cells[i] for cells in kept.values()),
            _note(result),
        )
        for i, result in enumerate(task.results)
    ]
    return TaskTable(task.name, wording.about(task), tuple(kept), tuple(rows), task.left_out, wording.load(task))


def _ratio(task: Task, result: Result) -> str:
    ratio = verdicts.ratio(task, result)
    return "" if ratio is None else formatting.times(ratio)


def _note(result: Result) -> str:
    marks = [mark for mark in wording.marks(result) if not result.note.startswith(mark)]
    return "; ".join([*marks, result.note] if result.note else marks)
