"""The plots of the page, as SVG that takes its colours from the page's style sheet: they suit light and dark."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import matplotlib as mpl
from matplotlib.figure import Figure

from ragfast_bench import draw_rows, draw_search, verdicts, wording
from ragfast_bench.drawing import STYLE, VARIABLES, styles_of
from ragfast_bench.results import Run, Task


@dataclass(frozen=True)
class Plot:
    title: str
    alt: str  # what it shows, in words
    svg: str


def plots(run: Run, titles: Mapping[str, str]) -> dict[str, list[Plot]]:
    """By section, those that its tasks are enough for; "" has the one of the whole run."""
    number = count(1)
    styles = styles_of(run)

    def drawn(draw: Callable[[Figure], str], title: str, height: float) -> Plot:
        """draw() fills a figure and returns what it shows in words."""
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(6.0, height), layout="constrained")
            alt = draw(figure)
            return Plot(title, alt, _svg(figure, next(number)))

    found: dict[str, list[Plot]] = defaultdict(list)
    every = verdicts.all_comparisons(run, titles)
    with_ratio = [c for c in every if c.ratio is not None and verdicts.compared(c)]
    without = wording.without_ratio(every)
    if with_ratio:
        n = len({c.task.section for c in with_ratio})
        found[""].append(
            drawn(
                lambda f: draw_rows.overview(f, with_ratio, without, titles),
                "Every comparison of this run",
                1.7 + 0.5 * n,
            )
        )
    for (data, shape), tasks in _lines(run.section("search"), "B").items():
        found["search"].append(
            drawn(
                partial(
                    draw_search.time_against, tasks=tasks, styles=styles, letter="B", label="queries in one call (B)"
                ),
                f"{data}, {shape}: time against the size of the batch",
                4.8,
            )
        )
    with_floor = [task for name in ("search", "grid") for task in run.section(name) if draw_search.intensities(task)]
    if with_floor:
        found["search"].append(
            drawn(
                lambda f: draw_search.roofline(f, run, with_floor, styles),
                "Roofline: how near to the machine's limits",
                6.0,
            )
        )
    for (data, shape), tasks in _against_n(run.section("grid")).items():
        found["grid"].append(
            drawn(
                partial(draw_search.time_against, tasks=tasks, styles=styles, letter="N", label="documents (N)"),
                f"{data}, {shape}: time against the number of documents",
                4.8,
            )
        )
    for (data, dim), tasks in _grids(run.section("grid")).items():
        found["grid"].append(
            drawn(
                partial(draw_search.heat_map, tasks=tasks),
                f"{data}, D {dim}: ratio to the best exact peer",
                3.6,
            )
        )
    for task in run.section("latency"):
        rows = len(draw_rows.waited(task))
        if any("p50" in result.measures for result in task.results):
            found["latency"].append(drawn(partial(draw_rows.latency, task=task), task.name, 1.3 + 0.42 * rows))
    for task in run.section("loss"):
        timed = [result for result in task.results if result.times]
        if timed:
            found["loss"].append(drawn(partial(draw_rows.losses, task=task), task.name, 1.2 + 0.34 * len(timed)))
    for task in run.section("memory"):
        rows = sum(1 for result in task.results if verdicts.value(task, result) is not None)
        if rows and verdicts.yardstick(task):
            found["memory"].append(drawn(partial(draw_rows.memory, task=task), task.name, 1.2 + 0.34 * rows))
    return dict(found)


def _svg(figure: Figure, number: int) -> str:
    """For one page with several: its names are its own, and its colours the page's."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser writes the text, and has more fonts
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>plot{number}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r'font: ([^;"]*?)px [^;"]*', r"font: \1px system-ui, sans-serif", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


# ---- which tasks belong in one plot


def _lines(tasks: Iterable[Task], letter: str) -> dict[tuple[str, str], list[Task]]:
    """Tasks that differ in one size alone, by data set and the other sizes; where two at least do."""
    groups: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in tasks:
        if letter in task.shape and any(result.times for result in task.results):
            others = ", ".join(f"{name} {n:,}" for name, n in task.shape.items() if name != letter)
            groups[task.data, others].append(task)
    return {
        key: sorted(group, key=lambda task: task.shape[letter])
        for key, group in groups.items()
        if len({task.shape[letter] for task in group}) > 1
    }


def _against_n(tasks: Sequence[Task]) -> dict[tuple[str, str], list[Task]]:
    """Of one dimension, the middle one of those most measured: a plot each for the smallest and the largest batch."""
    groups = _lines(tasks, "N")
    dims = Counter(group[0].shape.get("D", 0) for group in groups.values())
    often = sorted(dim for dim, n in dims.items() if n == max(dims.values()))
    batches = sorted({group[0].shape.get("B", 1) for group in groups.values()})
    return {
        key: group
        for key, group in groups.items()
        if group[0].shape.get("D", 0) == often[len(often) // 2]
        and group[0].shape.get("B", 1) in (batches[0], batches[-1])
    }


def _grids(tasks: Iterable[Task]) -> dict[tuple[str, int], list[Task]]:
    groups: dict[tuple[str, int], list[Task]] = defaultdict(list)
    for task in tasks:
        if {"N", "B", "D"} <= set(task.shape) and task.results:
            groups[task.data, task.shape["D"]].append(task)
    return dict(sorted(groups.items()))
