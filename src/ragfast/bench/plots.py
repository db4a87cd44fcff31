"""The plots of the page, as SVG that takes its colours from the page's style sheet: they suit light and dark."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ragfast.bench import words
from ragfast.bench.results import Result, Run, Task

# Each colour stands for a variable of the page, which has one value for light and one for dark. The first is ours.
INK, FAINT, WON, LOST, EVEN = "#010203", "#020304", "#030405", "#040506", "#050607"
SERIES = tuple(f"#1000{i:02}" for i in range(11))
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    WON: "--won",
    LOST: "--lost",
    EVEN: "--even",
    **{colour: f"--s{i}" for i, colour in enumerate(SERIES)},
}
OTHERS = "others, in the tables"
BEST_EXACT, BEST_INEXACT = 6, 2
"""Peers that have a colour and a name in a plot of search; more lines than that nobody can tell apart."""
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found and copied
    "svg.hashsalt": "ragfast",  # the same run makes the same page
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Plot:
    title: str
    alt: str  # what it shows, in words
    svg: str


def plots(run: Run, titles: Mapping[str, str]) -> dict[str, list[Plot]]:
    """By section, those that its tasks are enough for; "" has the one of the whole run."""
    number = count(1)
    styles = _styles(run)

    def drawn(draw: Callable[[Figure], str], title: str, height: float) -> Plot:
        """draw() fills a figure and returns what it shows in words."""
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(6.0, height), layout="constrained")
            alt = draw(figure)
            return Plot(title, alt, _svg(figure, next(number)))

    found: dict[str, list[Plot]] = defaultdict(list)
    every = words.all_comparisons(run, titles)
    with_ratio = [c for c in every if c.ratio is not None and words.compared(c)]
    without = words.without_ratio(every)
    if with_ratio:
        n = len({c.task.section for c in with_ratio})
        found[""].append(
            drawn(lambda f: _overview(f, with_ratio, without, titles), "Every comparison of this run", 1.7 + 0.5 * n)
        )
    for (data, shape), tasks in _lines(run.section("search"), "B").items():
        found["search"].append(
            drawn(
                partial(_time_against, tasks=tasks, styles=styles, letter="B", label="queries in one call (B)"),
                f"{data}, {shape}: time against the size of the batch",
                4.8,
            )
        )
    with_floor = [task for name in ("search", "grid") for task in run.section(name) if _intensities(task)]
    if with_floor:
        found["search"].append(
            drawn(lambda f: _roofline(f, run, with_floor, styles), "Roofline: how near to the machine's limits", 6.0)
        )
    for (data, shape), tasks in _against_n(run.section("grid")).items():
        found["grid"].append(
            drawn(
                partial(_time_against, tasks=tasks, styles=styles, letter="N", label="documents (N)"),
                f"{data}, {shape}: time against the number of documents",
                4.8,
            )
        )
    for (data, dim), tasks in _grids(run.section("grid")).items():
        found["grid"].append(
            drawn(
                partial(_heat_map, tasks=tasks),
                f"{data}, D {dim}: ratio to the best exact peer",
                3.6,
            )
        )
    for task in run.section("latency"):
        rows = len(_waited(task))
        if any("p50" in result.measures for result in task.results):
            found["latency"].append(drawn(partial(_latency, task=task), task.name, 1.3 + 0.42 * rows))
    for task in run.section("loss"):
        timed = [result for result in task.results if result.times]
        if timed:
            found["loss"].append(drawn(partial(_losses, task=task), task.name, 1.2 + 0.34 * len(timed)))
    for task in run.section("memory"):
        rows = sum(1 for result in task.results if words.value(task, result) is not None)
        if rows and words.yardstick(task):
            found["memory"].append(drawn(partial(_memory, task=task), task.name, 1.2 + 0.34 * rows))
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


# ---- the drawings


def _tidy(text: str, length: int = 36) -> str:
    """Of names that are the users' own: matplotlib would set what is between dollars as mathematics."""
    text = text if len(text) <= length else text[: length - 1] + "\u2026"
    return text.replace("$", r"\$")


def _wrapped(title: str) -> str:
    return textwrap.fill(title, 24).replace("$", r"\$")


def _log_axis(axis: Any, written: Callable[[float], str]) -> None:
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axis.set_minor_formatter(NullFormatter())


def _seconds(value: float) -> str:
    unit, scale = words.time_unit([value * 1.0001])
    return f"{value * scale:g} {unit}"


Styles = Mapping[str, tuple[str, str]]


def _best_peers(tasks: Iterable[Task]) -> list[str]:
    """Those that a plot of these tasks names: the fastest exact ones and the fastest of the others, by the mean of how
    they stand to the fastest of each task."""
    behind: dict[tuple[bool, str], list[float]] = defaultdict(list)
    for task in tasks:
        timed = [result for result in task.results if result.times and not words.is_wrong(result)]
        least = min((_median(result) for result in timed), default=1.0)
        for result in timed:
            if not result.ours:
                behind[result.exact, result.contender].append(math.log(_median(result) / least))
    order = sorted(behind, key=lambda key: sum(behind[key]) / len(behind[key]))
    exact, inexact = ([name for is_exact, name in order if is_exact is wanted] for wanted in (True, False))
    return exact[:BEST_EXACT] + inexact[:BEST_INEXACT]


def _styles(run: Run) -> dict[str, tuple[str, str]]:
    """By contender a colour and a marker, the same in every plot of the run; ours, of which the first is the one people
    get, have the first colour. Those that search names come first: their colours differ most."""
    tasks = [task for name in words.sections(run, ("search", "grid", "latency")) for task in run.section(name)]
    styles: dict[str, tuple[str, str]] = {}
    for result in (result for task in tasks for result in task.results if result.ours):
        styles.setdefault(result.contender, (SERIES[0], "s" if styles else "o"))
    of_search = [task for task in tasks if task.section in ("search", "grid")]
    names = [*_best_peers(of_search), *(r.contender for task in tasks for r in task.results if not r.ours)]
    for i, name in enumerate(dict.fromkeys(names)):
        styles.setdefault(name, (SERIES[1 + i % (len(SERIES) - 1)], MARKERS[i % 8]))
    return styles


def _time_against(figure: Figure, tasks: Sequence[Task], styles: Styles, letter: str, label: str) -> str:
    axes = figure.add_subplot()
    results: dict[str, list[tuple[int, Result]]] = defaultdict(list)
    for task in tasks:
        for result in task.results:
            if result.times and not words.is_wrong(result):
                results[result.contender].append((task.shape[letter], result))
    default = next((name for name, found in results.items() if found[0][1].ours), None)
    best = _best_peers(tasks)
    ends = {}
    grey = []
    for name, found in results.items():
        x, y = [n for n, _ in found], [_median(result) for _, result in found]
        if name not in best and not found[0][1].ours:
            axes.plot(x, y, color=FAINT, linewidth=0.7, alpha=0.8, zorder=1)
            grey.append((x[-1], y[-1]))
            continue
        colour, marker = styles[name]
        axes.plot(
            x,
            y,
            color=colour,
            marker=marker,
            markersize=6 if name == default else 4.5,
            linewidth=3.2 if name == default else 1.3,
            linestyle="-" if found[0][1].exact else (0, (4, 3)),
            zorder=3 if name == default else 2,
        )
        ends[name] = (x[-1], y[-1])
    axes.set_xscale("log", base=2 if letter == "B" else 10)
    axes.set_yscale("log")
    sizes = sorted({task.shape[letter] for task in tasks})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    _log_axis(axes.yaxis, _seconds)
    axes.grid(True)
    axes.set_xlabel(label)
    axes.set_ylabel("median of one call")
    last = min((t for t in ends.items() if t[0] != default), key=lambda end: end[1][1], default=None)
    colours = {name: styles[name][0] for name in ends}
    said = f"Lines of {len(results)} contenders over {', '.join(f'{n:,}' for n in sizes)}; both axes are logarithmic."
    if default and last:
        said += (
            f" At the right end {default} takes {words.duration(ends[default][1])}, {last[0]}, the fastest of the "
            f"others that are named, {words.duration(last[1][1])}."
        )
    if grey:
        said += f" {len(grey)} slower ones are thin and grey."
        ends[OTHERS], colours[OTHERS] = max(grey, key=lambda end: end[1]), EVEN
    _label_ends(axes, ends, colours, default, {name for name, found in results.items() if not found[0][1].exact})
    return said


def _label_ends(
    axes: Axes,
    ends: Mapping[str, tuple[float, float]],
    colours: Mapping[str, str],
    default: str | None,
    inexact: set[str],
) -> None:
    """Names at the right ends of lines, moved apart until none covers another, each tied to its line."""
    bottom, top = axes.get_ylim()
    span = math.log(top / bottom)
    step = 1 / max(16, len(ends) - 1)  # the figure is as high as that needs
    order = sorted(ends, key=lambda name: ends[name][1])
    places = [math.log(ends[name][1] / bottom) / span for name in order]
    for _ in range(200):  # neighbours push each other away by halves
        for i in range(len(places) - 1):
            short = step - (places[i + 1] - places[i])
            if short > 1e-6:
                places[i] -= short / 2
                places[i + 1] += short / 2
        shift = max(0.0, -places[0]) - max(0.0, places[-1] - 1)
        places = [place + shift for place in places] if step * (len(places) - 1) <= 1 else places
    for name, place in zip(order, places, strict=True):
        axes.annotate(
            _tidy(name, 26) + (" (not exact)" if name in inexact else ""),
            xy=ends[name],
            xytext=(1.05, place),
            textcoords="axes fraction",
            va="center",
            color=colours[name],
            fontsize=10,
            fontweight="bold" if name == default else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": colours[name],
                "alpha": 0.5,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def _overview(figure: Figure, found: Sequence[words.Comparison], without: int, titles: Mapping[str, str]) -> str:
    """without: how many more comparisons have no ratio."""
    axes = figure.add_subplot()
    names = list(dict.fromkeys(c.task.section for c in found))
    for row, name in enumerate(names):
        mine = sorted((c for c in found if c.task.section == name), key=lambda c: c.ratio or 0)
        for i, c in enumerate(mine):
            offset = (
                0.0 if len(mine) == 1 else 0.5 * ((i * 0.618) % 1 - 0.5)
            )  # so that equal ones do not hide each other
            # Beyond a hundred nothing is learnt from where exactly, and the rest would be pressed together.
            axes.plot(
                min(max(c.ratio or 0, 0.01), 100),
                row + offset,
                marker={"won": "o", "even": "s", "lost": "D"}[c.verdict],
                color={"won": WON, "even": EVEN, "lost": LOST}[c.verdict],
                alpha=0.8,
                markersize=6,
                markeredgewidth=0,
                linestyle="",
            )
    axes.axvline(1, color=INK, linewidth=1)
    ratios = [c.ratio or 0 for c in found]
    axes.set_xscale("log")
    axes.set_xlim(min(0.25, 0.7 * max(0.01, min(ratios))), max(4.0, 1.4 * min(100, max(ratios))))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [_wrapped(titles.get(name, name)) for name in names], fontsize=10)
    axes.set_xticks([x for x in (0.01, 0.1, 0.3, 1, 3, 10, 30, 100) if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "100+" if x == 100 and max(ratios) > 100 else f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    label = "\u25c6 peer better | ratio to the best exact peer | ragfast better \u25cf"
    if without:
        label += f"\n{without} more without a ratio: one of the two was overloaded"
    figure.supxlabel(label, fontsize=10)
    counts = words.count(found)
    return (
        "One dot a comparison, on a logarithmic axis of how many times as fast ragfast was: "
        f"{counts['won']} right of 1, where ragfast is better, {counts['lost']} left of it, where the peer is, and "
        f"{counts['even']} at it. "
        + (f"{without} more have no ratio, since one was overloaded. " if without else "")
        + "The tables below have them all."
    )


def _intensities(task: Task) -> list[tuple[Result, float, float]]:
    """Of results with a floor that counts operations: operations a byte, and operations a second."""
    return [
        (result, result.floor.operations / result.floor.bytes, result.floor.operations / result.times.median)
        for result in task.results
        if result.floor
        and result.times
        and result.floor.operations
        and result.floor.bytes
        and not words.is_wrong(result)
    ]


def _roofline(figure: Figure, run: Run, tasks: Sequence[Task], styles: Styles) -> str:
    axes = figure.add_subplot()
    points = [point for task in tasks for point in _intensities(task)]
    machine = run.machine
    with_points = [
        dataclasses.replace(task, results=tuple(result for result, _, _ in _intensities(task))) for task in tasks
    ]
    shown = {*_best_peers(with_points), *(result.contender for result, _, _ in points if result.ours)}
    colours = {name: style for name, style in styles.items() if name in shown}
    low, high = min(x for _, x, _ in points) / 2, max(x for _, x, _ in points) * 3
    peaks = dict(machine.peaks) or {"": machine.read_rate * high}  # memory alone
    for i, (name, peak) in enumerate(sorted(peaks.items(), key=lambda item: item[1])):
        ridge = min(max(peak / machine.read_rate, low), high)
        x = [low, ridge, high]
        y = [min(peak, machine.read_rate * each) / 1e9 for each in x]
        axes.plot(x, y, color=INK, linewidth=1.6, linestyle="-" if i == 0 else (0, (6, 2)))
        if name:
            axes.annotate(
                f"{name} peak, {words.short(peak / 1e9)}",
                (high, peak / 1e9),
                (-2, 4),
                textcoords="offset points",
                ha="right",
                fontsize=10,
            )
    slope = min(min(peaks.values()) / machine.read_rate, high) / 2
    axes.annotate(
        f"memory, {words.size(machine.read_rate)}/s",
        (slope, machine.read_rate * slope / 1e9),
        (0.03, 0.85),
        textcoords="axes fraction",
        fontsize=10,
        arrowprops={"arrowstyle": "-", "color": FAINT},
    )
    rest = [(x, y / 1e9) for result, x, y in points if result.contender not in colours]
    axes.plot(*zip(*rest, strict=True), color=FAINT, marker=".", linestyle="", label=OTHERS) if rest else None
    for name, (colour, marker) in colours.items():
        mine = [(result, x, y) for result, x, y in points if result.contender == name]
        axes.plot(
            [x for _, x, _ in mine],
            [y / 1e9 for _, _, y in mine],
            color=colour,
            marker=marker,
            linestyle="",
            markersize=8 if mine[0][0].ours else 5.5,
            fillstyle="full" if mine[0][0].exact else "none",
            alpha=0.85,
            label=_tidy(name, 26) + ("" if mine[0][0].exact else " (not exact)"),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        _log_axis(axis, lambda value: f"{value:,.10g}")
    axes.grid(True)
    axes.set_xlabel("operations for each byte that is read")
    axes.set_ylabel("GOP/s")
    lengths = [len(str(label)) for label in axes.get_legend_handles_labels()[1]]
    half = (len(lengths) + 1) // 2
    columns = 2 if max(lengths[:half]) + max(lengths[half:], default=0) <= 60 else 1  # what the figure has room for
    figure.legend(loc="outside lower center", ncols=columns, fontsize=10, handletextpad=0.3, columnspacing=1.0)
    nearest = max((words.of_floor(result) or 0.0 for result, _, _ in points if result.ours), default=0.0)
    return (
        f"{len(points)} results as operations a second over operations a byte, under lines of what memory and "
        "arithmetic allow; above the line of memory are data that a cache holds. "
        f"The nearest of ours reaches {words.percent(nearest)} of its floor."
    )


def _heat_map(figure: Figure, tasks: Sequence[Task]) -> str:
    axes = figure.add_subplot()
    found = {(t.shape["N"], t.shape["B"]): c for t in tasks for c in words.comparisons(t)[:1]}
    rows, columns = (sorted({t.shape[letter] for t in tasks}) for letter in "NB")
    cells = [[found.get((n, b)) for b in columns] for n in rows]
    colours = mpl.colormaps["PuOr"]
    # The same colours in every map, and alike to both sides: half the speed is as strong as twice.
    norm = LogNorm(1 / 8, 8, clip=True)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            ratio = cell.ratio if cell and cell.verdict != "wrong" else None
            shade = colours(norm(ratio)) if ratio else (0.5, 0.5, 0.5, 0.25)
            axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], color=shade, linewidth=0)
            luminance = sum(w * part for w, part in zip((0.3, 0.59, 0.11), shade, strict=False))
            text = words.times(ratio) if ratio else "WRONG" if cell and cell.verdict == "wrong" else "\u2013"
            axes.text(
                j + 0.5,
                i + 0.5,
                text + ("\npeer" if cell and cell.verdict == "lost" else ""),
                ha="center",
                va="center",
                fontsize=12,
                fontweight="bold",
                color=("white" if luminance < 0.5 else "black") if ratio else INK,
            )
    axes.set_xticks([j + 0.5 for j in range(len(columns))], [f"B {b:,}" for b in columns])
    axes.set_yticks([i + 0.5 for i in range(len(rows))], [f"N {n:,}" for n in rows])
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return "; ".join(
        f"N {n:,}, B {b:,}: {words.times(cell.ratio) if cell.ratio else 'nothing to compare'}"
        for (n, b), cell in sorted(found.items())
    )


def _latency(figure: Figure, task: Task) -> str:
    axes = figure.add_subplot()
    results = sorted(_waited(task), key=lambda result: (result.measures.get("rate", 0.0), not result.ours))
    several = len({result.measures.get("rate") for result in results}) > 1
    marks = {"p50": "o", "p99": "D", "p999": "|"}
    labels = []
    for row, result in enumerate(results):
        colour = SERIES[0] if result.ours else EVEN
        overloaded = words.overloaded(result)
        x = {name: result.measures[name] for name in marks if name in result.measures}
        axes.plot(list(x.values()), [row] * len(x), color=colour, linewidth=1.5)
        for name, value in x.items():
            axes.plot(
                value,
                row,
                marks[name],
                color=colour,
                markersize=12 if name == "p999" else 7,
                markeredgewidth=1.8,
                fillstyle="none" if overloaded else "full",
            )
        if overloaded and not x:
            across = axes.get_yaxis_transform()
            axes.text(0.02, row, "overloaded: its queue only grew", transform=across, va="center", color=colour)
        rate = f", {words.short(result.measures['rate'])}/s" if several and "rate" in result.measures else ""
        labels.append(_tidy(result.contender) + rate + (" (overloaded)" if overloaded and x else ""))
    axes.set_xscale("log")
    _log_axis(axes.xaxis, _seconds)
    low, high = axes.get_xlim()
    if high / low < 20:  # so that there are ticks
        axes.set_xlim(low / 2, high * 3)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    figure.supxlabel("\u25cf p50, \u25c6 p99, | p999, from when a question came", fontsize=11)
    return "; ".join(
        f"{result.contender}: "
        + (
            ", ".join(f"{n} {words.duration(result.measures[n])}" for n in marks if n in result.measures)
            or "overloaded"
        )
        for result in results
    )


def _waited(task: Task) -> list[Result]:
    return [result for result in task.results if "p50" in result.measures or words.overloaded(result)]


def _losses(figure: Figure, task: Task) -> str:
    """As multiples of the least floor of the task, which is one read of the logits where only the value is wanted."""
    results = [result for result in task.results if result.times]
    floors = [result.floor for result in results if result.floor and result.exact]
    least = min(floors, key=lambda floor: floor.seconds, default=None)
    unit = least.seconds if least else 1e-3
    label = f"times the floor of {words.duration(unit)}: {words.size(least.bytes)} read or written" if least else "ms"
    lengths = [_median(result) / unit for result in results]
    _bars(figure, results, lengths, words.times if least else words.number, label)
    return "; ".join(f"{result.contender}: {words.duration(_median(result))}" for result in results)


def _memory(figure: Figure, task: Task) -> str:
    results = [result for result in task.results if words.MEMORY in result.measures]
    sizes = [max(0.0, result.measures[words.MEMORY]) for result in results]
    _bars(figure, results, [n / 1e6 for n in sizes], lambda n: words.size(n * 1e6), "MB beyond inputs and outputs")
    return "; ".join(f"{result.contender}: {words.size(n)}" for result, n in zip(results, sizes, strict=True))


def _bars(
    figure: Figure, results: Sequence[Result], values: Sequence[float], written: Callable[[float], str], label: str
) -> None:
    axes = figure.add_subplot()
    for row, (result, value) in enumerate(zip(results, values, strict=True)):
        colour = SERIES[0] if result.ours else EVEN
        axes.barh(row, value, 0.68, color=colour if result.exact else "none", edgecolor=colour, linewidth=1.2)
        axes.annotate(
            written(value),
            (value, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if result.ours else "normal",
        )
    axes.set_xlim(0, 1.18 * max([*values, 1e-9]))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(range(len(values)), [_tidy(r.contender) + ("" if r.exact else " (not exact)") for r in results])
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    figure.supxlabel(label, fontsize=11)


def _median(result: Result) -> float:
    """Seconds, of a result that has times."""
    assert result.times is not None
    return result.times.median
