"""Plots with a row for each section or contender: all ratios of a run, latency, losses and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ragfast_bench import formatting, verdicts
from ragfast_bench.drawing import EVEN, INK, LOST, SERIES, WON, log_axis, median, seconds, tidy, wrapped
from ragfast_bench.results import Result, Task


def overview(figure: Figure, found: Sequence[verdicts.Comparison], without: int, titles: Mapping[str, str]) -> str:
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
    axes.set_yticks(range(len(names)), [wrapped(titles.get(name, name)) for name in names], fontsize=10)
    axes.set_xticks([x for x in (0.01, 0.1, 0.3, 1, 3, 10, 30, 100) if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "100+" if x == 100 and max(ratios) > 100 else f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    label = "\u25c6 peer better | ratio to the best exact peer | ragfast better \u25cf"
    if without:
        label += f"\n{without} more without a ratio: one of the two was overloaded"
    figure.supxlabel(label, fontsize=10)
    counts = verdicts.count(found)
    return (
        "One dot a comparison, on a logarithmic axis of how many times as fast ragfast was: "
        f"{counts['won']} right of 1, where ragfast is better, {counts['lost']} left of it, where the peer is, and "
        f"{counts['even']} at it. "
        + (f"{without} more have no ratio, since one was overloaded. " if without else "")
        + "The tables below have them all."
    )


def latency(figure: Figure, task: Task) -> str:
    axes = figure.add_subplot()
    results = sorted(waited(task), key=lambda result: (result.measures.get("rate", 0.0), not result.ours))
    several = len({result.measures.get("rate") for result in results}) > 1
    marks = {"p50": "o", "p99": "D", "p999": "|"}
    labels = []
    for row, result in enumerate(results):
        colour = SERIES[0] if result.ours else EVEN
        overloaded = verdicts.overloaded(result)
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
        rate = f", {formatting.short(result.measures['rate'])}/s" if several and "rate" in result.measures else ""
        labels.append(tidy(result.contender) + rate + (" (overloaded)" if overloaded and x else ""))
    axes.set_xscale("log")
    log_axis(axes.xaxis, seconds)
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
            ", ".join(f"{n} {formatting.duration(result.measures[n])}" for n in marks if n in result.measures)
            or "overloaded"
        )
        for result in results
    )


def waited(task: Task) -> list[Result]:
    return [result for result in task.results if "p50" in result.measures or verdicts.overloaded(result)]


def losses(figure: Figure, task: Task) -> str:
    """As multiples of the least floor of the task, which is one read of the logits where only the value is wanted."""
    results = [result for result in task.results if result.times]
    floors = [result.floor for result in results if result.floor and result.exact]
    least = min(floors, key=lambda floor: floor.seconds, default=None)
    unit = least.seconds if least else 1e-3
    label = "ms"
    if least:
        label = f"times the floor of {formatting.duration(unit)}: {formatting.size(least.bytes)} read or written"
    lengths = [median(result) / unit for result in results]
    _bars(figure, results, lengths, formatting.times if least else formatting.number, label)
    return "; ".join(f"{result.contender}: {formatting.duration(median(result))}" for result in results)


def memory(figure: Figure, task: Task) -> str:
    results = [result for result in task.results if verdicts.MEMORY in result.measures]
    sizes = [max(0.0, result.measures[verdicts.MEMORY]) for result in results]
    _bars(figure, results, [n / 1e6 for n in sizes], lambda n: formatting.size(n * 1e6), "MB beyond inputs and outputs")
    return "; ".join(f"{result.contender}: {formatting.size(n)}" for result, n in zip(results, sizes, strict=True))


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
    axes.set_yticks(range(len(values)), [tidy(r.contender) + ("" if r.exact else " (not exact)") for r in results])
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    figure.supxlabel(label, fontsize=11)
