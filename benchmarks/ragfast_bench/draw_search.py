"""Plots of search over sizes: time against one of them, ratios by two, and how near to the machine's limits."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ragfast_bench import formatting, verdicts, wording
from ragfast_bench.drawing import EVEN, FAINT, INK, OTHERS, Styles, best_peers, log_axis, median, seconds, tidy
from ragfast_bench.results import Result, Run, Task


def time_against(figure: Figure, tasks: Sequence[Task], styles: Styles, letter: str, label: str) -> str:
    axes = figure.add_subplot()
    results: dict[str, list[tuple[int, Result]]] = defaultdict(list)
    for task in tasks:
        for result in task.results:
            if result.times and not verdicts.is_wrong(result):
                results[result.contender].append((task.shape[letter], result))
    default = next((name for name, found in results.items() if found[0][1].ours), None)
    best = best_peers(tasks)
    ends = {}
    grey = []
    for name, found in results.items():
        x, y = [n for n, _ in found], [median(result) for _, result in found]
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
    log_axis(axes.yaxis, seconds)
    axes.grid(True)
    axes.set_xlabel(label)
    axes.set_ylabel("median of one call")
    last = min((t for t in ends.items() if t[0] != default), key=lambda end: end[1][1], default=None)
    colours = {name: styles[name][0] for name in ends}
    said = f"Lines of {len(results)} contenders over {', '.join(f'{n:,}' for n in sizes)}; both axes are logarithmic."
    if default and last:
        said += (
            f" At the right end {default} takes {formatting.duration(ends[default][1])}, {last[0]}, the fastest of the "
            f"others that are named, {formatting.duration(last[1][1])}."
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
            tidy(name, 26) + (" (not exact)" if name in inexact else ""),
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


def intensities(task: Task) -> list[tuple[Result, float, float]]:
    """Of results with a floor that counts operations: operations a byte, and operations a second."""
    return [
        (result, result.floor.operations / result.floor.bytes, result.floor.operations / result.times.median)
        for result in task.results
        if result.floor
        and result.times
        and result.floor.operations
        and result.floor.bytes
        and not verdicts.is_wrong(result)
    ]


def roofline(figure: Figure, run: Run, tasks: Sequence[Task], styles: Styles) -> str:
    axes = figure.add_subplot()
    points = [point for task in tasks for point in intensities(task)]
    machine = run.machine
    with_points = [
        dataclasses.replace(task, results=tuple(result for result, _, _ in intensities(task))) for task in tasks
    ]
    shown = {*best_peers(with_points), *(result.contender for result, _, _ in points if result.ours)}
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
                f"{name} peak, {formatting.short(peak / 1e9)}",
                (high, peak / 1e9),
                (-2, 4),
                textcoords="offset points",
                ha="right",
                fontsize=10,
            )
    slope = min(min(peaks.values()) / machine.read_rate, high) / 2
    axes.annotate(
        f"memory, {formatting.size(machine.read_rate)}/s",
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
            label=tidy(name, 26) + ("" if mine[0][0].exact else " (not exact)"),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        log_axis(axis, lambda value: f"{value:,.10g}")
    axes.grid(True)
    axes.set_xlabel("operations for each byte that is read")
    axes.set_ylabel("GOP/s")
    lengths = [len(str(label)) for label in axes.get_legend_handles_labels()[1]]
    half = (len(lengths) + 1) // 2
    columns = 2 if max(lengths[:half]) + max(lengths[half:], default=0) <= 60 else 1  # what the figure has room for
    figure.legend(loc="outside lower center", ncols=columns, fontsize=10, handletextpad=0.3, columnspacing=1.0)
    nearest = max((wording.of_floor(result) or 0.0 for result, _, _ in points if result.ours), default=0.0)
    return (
        f"{len(points)} results as operations a second over operations a byte, under lines of what memory and "
        "arithmetic allow; above the line of memory are data that a cache holds. "
        f"The nearest of ours reaches {formatting.percent(nearest)} of its floor."
    )


def heat_map(figure: Figure, tasks: Sequence[Task]) -> str:
    axes = figure.add_subplot()
    found = {(t.shape["N"], t.shape["B"]): c for t in tasks for c in verdicts.comparisons(t)[:1]}
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
            text = formatting.times(ratio) if ratio else "WRONG" if cell and cell.verdict == "wrong" else "\u2013"
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
        f"N {n:,}, B {b:,}: {formatting.times(cell.ratio) if cell.ratio else 'nothing to compare'}"
        for (n, b), cell in sorted(found.items())
    )
