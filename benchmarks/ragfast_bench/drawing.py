"""What the plots share: their colours and style, names and units on their axes, and which contenders they name."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ragfast_bench import formatting, verdicts
from ragfast_bench.results import Result, Run, Task

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


def tidy(text: str, length: int = 36) -> str:
    """Of names that are the users' own: matplotlib would set what is between dollars as mathematics."""
    text = text if len(text) <= length else text[: length - 1] + "\u2026"
    return text.replace("$", r"\$")


def wrapped(title: str) -> str:
    return textwrap.fill(title, 24).replace("$", r"\$")


def log_axis(axis: Any, written: Callable[[float], str]) -> None:
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axis.set_minor_formatter(NullFormatter())


def seconds(value: float) -> str:
    unit, scale = formatting.time_unit([value * 1.0001])
    return f"{value * scale:g} {unit}"


Styles = Mapping[str, tuple[str, str]]


def best_peers(tasks: Iterable[Task]) -> list[str]:
    """Those that a plot of these tasks names: the fastest exact ones and the fastest of the others, by the mean of how
    they stand to the fastest of each task."""
    behind: dict[tuple[bool, str], list[float]] = defaultdict(list)
    for task in tasks:
        timed = [result for result in task.results if result.times and not verdicts.is_wrong(result)]
        least = min((median(result) for result in timed), default=1.0)
        for result in timed:
            if not result.ours:
                behind[result.exact, result.contender].append(math.log(median(result) / least))
    order = sorted(behind, key=lambda key: sum(behind[key]) / len(behind[key]))
    exact, inexact = ([name for is_exact, name in order if is_exact is wanted] for wanted in (True, False))
    return exact[:BEST_EXACT] + inexact[:BEST_INEXACT]


def styles_of(run: Run) -> dict[str, tuple[str, str]]:
    """By contender a colour and a marker, the same in every plot of the run; ours, of which the first is the one people
    get, have the first colour. Those that search names come first: their colours differ most."""
    tasks = [task for name in verdicts.sections(run, ("search", "grid", "latency")) for task in run.section(name)]
    styles: dict[str, tuple[str, str]] = {}
    for result in (result for task in tasks for result in task.results if result.ours):
        styles.setdefault(result.contender, (SERIES[0], "s" if styles else "o"))
    of_search = [task for task in tasks if task.section in ("search", "grid")]
    names = [*best_peers(of_search), *(r.contender for task in tasks for r in task.results if not r.ours)]
    for i, name in enumerate(dict.fromkeys(names)):
        styles.setdefault(name, (SERIES[1 + i % (len(SERIES) - 1)], MARKERS[i % 8]))
    return styles


def median(result: Result) -> float:
    """Seconds, of a result that has times."""
    assert result.times is not None
    return result.times.median
