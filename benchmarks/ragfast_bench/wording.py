"""Sentences, names and labels that the table, the page and the report share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping

from ragfast_bench.formatting import duration, measured, short, size, times
from ragfast_bench.results import Library, Machine, Result, Run, Task
from ragfast_bench.sections import REAL
from ragfast_bench.verdicts import (
    HELD,
    MEMORY,
    RECALL,
    Comparison,
    all_comparisons,
    compared,
    count,
    is_wrong,
    overloaded,
    value,
    yardstick,
)

BUSY = 0.1
"""Cores. Other programs that kept more busy are mentioned."""


def headline(run: Run, titles: Mapping[str, str], by_section: bool = False) -> str:
    """Who was faster how often: a few sentences, of what the run holds and nothing else. by_section: with the counts of
    each, where no table of them stands beside."""
    found = all_comparisons(run, titles)
    timed = [one for one in found if one.measure not in (MEMORY, HELD)]
    counts = count(timed)
    n = counts["won"] + counts["even"] + counts["lost"]
    parts = []
    if n:
        parts.append(
            f"In {n} {'comparison' if n == 1 else 'comparisons'} with the fastest exact peer, ragfast was faster in "
            f"{counts['won']}, even in {counts['even']} and slower in {counts['lost']}."
        )
        if by_section:
            parts.append(f"By section: {'; '.join(_by_group(filter(compared, timed), titles))}.")
        known = sorted((one.ratio, i) for i, one in enumerate(timed) if one.ratio is not None and compared(one))
        if known:
            worst = timed[known[0][1]]
            where = titles.get(worst.task.section, worst.task.section)
            parts.append(
                f"It was {times(known[-1][0])} times as fast at best and {times(known[0][0])} at worst ({where}: "
                f"{worst.name})."
            )
    else:
        parts.append("No exact peer was measured beside ragfast, so this run compares it with nothing.")
    if wrong := sum(one.verdict == "wrong" for one in timed):
        parts.append(f"In {wrong} more, ragfast's own result was WRONG.")
    if inexact := sum(1 for one in timed if one.faster_inexact):
        parts.append(f"In {inexact}, a contender whose result is not exact was faster than ragfast.")
    said = []
    for measure, what in (
        (MEMORY, "beyond inputs and outputs the losses took less memory in"),
        (HELD, "an index holds less in"),
    ):
        of = count(one for one in found if one.measure == measure)
        if n := of["won"] + of["even"] + of["lost"]:
            said.append(f"{what} {of['won']} of {n}")
    if said:
        text = "; ".join(said)
        parts.append(f"{text[0].upper()}{text[1:]}.")
    return " ".join(parts)


def _by_group(found: Iterable[Comparison], titles: Mapping[str, str]) -> Iterator[str]:
    """By section, and by real and made data under search, how many were won, even and lost, and the median ratio."""
    groups: dict[str, list[Comparison]] = {}
    for one in found:
        name = titles.get(one.task.section, one.task.section)
        if one.task.section == "search":
            name += " on real data" if one.task.data in REAL else " on made data"
        groups.setdefault(name, []).append(one)
    for name, group in groups.items():
        counts = count(group)
        kinds = {"faster": counts["won"], "even": counts["even"], "slower": counts["lost"]}
        said = ", ".join(f"{word} in {n}" for word, n in kinds.items() if n)
        ratios = [one.ratio for one in group if one.ratio is not None]
        yield f"{name}: {said}" + (f" (median ratio {times(statistics.median(ratios))})" if ratios else "")


def heading(measure: str) -> str:
    """What a column of that measure is called: units stand in its cells."""
    short = {"rate": "asked", MEMORY: "memory", HELD: "a vector", "input bytes per second": "input"}
    return short.get(measure, measure)


def amount(task: Task, result: Result | None, measure: str | None = None) -> str:
    """What is compared, with its unit."""
    measure = yardstick(task) if measure is None else measure
    found = None if result is None else value(task, result, measure)
    if found is None or result is None:
        return ""
    if math.isinf(found):
        return "overloaded"
    return measured(measure, result.measures[measure]) if measure else duration(found)


def of_floor(result: Result) -> float | None:
    return result.floor.seconds / result.times.median if result.floor and result.times else None


def rightness(result: Result) -> str:
    """Recall, or error where the result is a value."""
    if result.recall is not None:
        return f"{result.recall:.4f}" if 0.999 <= result.recall < 1 else f"{result.recall:.3f}"
    return "" if result.error is None else "0" if result.error == 0 else f"{result.error:.0e}"


def named(result: Result | None) -> str:
    """A contender, with its recall where that is below what exact peers reach by float32 on ordinary data."""
    if result is None:
        return "none"
    low = result.exact and result.recall is not None and result.recall < RECALL
    return result.contender + (f" (recall {rightness(result)})" if low else "")


def faster_inexact(one: Comparison) -> str:
    """The fastest of them with its recall or error, and how many more there are."""
    if not one.faster_inexact:
        return ""
    first, *others = one.faster_inexact
    right = rightness(first)
    kind = "recall" if first.recall is not None else "error"
    said = f"{first.contender} ({kind} {right})" if right else first.contender
    return said + (f" and {len(others)} more" if others else "")


def package(library: Library) -> str:
    """The distribution that was installed, and its version."""
    return f"{library.package} {library.version}" if library.version else library.package


def with_version(library: Library) -> str:
    """With its version, which is that of the package: where that has another name, it stands beside."""
    if library.name.casefold() == library.package.casefold():
        return f"{library.name} {library.version}"
    return f"{library.name} ({package(library)})"


def without_ratio(found: Iterable[Comparison]) -> int:
    """How many have a winner, and no figure that says by how much: one of the two was overloaded."""
    return sum(1 for one in found if one.ratio is None and compared(one))


def marks(result: Result) -> list[str]:
    """What a reader must know of a row beside its figures, each in a word or two."""
    known = {
        "WRONG": is_wrong(result),
        "not exact": not result.exact,
        "1 cold call": result.times is not None and result.times.calls == 1,
        "overloaded": overloaded(result),
    }
    return [mark for mark, holds in known.items() if holds]


def when(run: Run) -> str:
    return f"{run.date[:16].replace('T', ' ')} UTC"


def shape(task: Task) -> str:
    return ", ".join(f"{letter} {n:,}" for letter, n in task.shape.items())


def threads(n: int) -> str:
    return f"{n} thread" if n == 1 else f"{n} threads"


def about(task: Task) -> str:
    """What is not in a task's name: data, shape, threads."""
    data = "" if task.data in task.name else task.data
    return ", ".join(part for part in (data, shape(task), threads(task.threads)) if part)


def load(task: Task) -> str:
    """What to say of other programs, or "" where they hardly ran or nobody can tell."""
    if task.other_cores is None or task.other_cores <= BUSY:
        return ""
    return f"Other programs kept {task.other_cores:.1f} cores busy meanwhile."


def describe(machine: Machine) -> dict[str, str]:
    """The machine in words, by what is described."""
    caches = ", ".join(f"{level} {size(n)}" for level, n in machine.caches.items())
    peaks = ", ".join(f"{kind} {short(rate / 1e9)} GOP/s" for kind, rate in machine.peaks.items())
    pinned = ", ".join(map(str, machine.pinned))
    return {
        "processor": f"{machine.processor}, {machine.cores} cores, level {machine.isa}",
        "memory": f"{size(machine.memory)}, read at {size(machine.read_rate)}/s"
        + (f"; caches {caches}" if caches else ""),
        "arithmetic": (peaks + " (a multiplication and an addition are two)") if peaks else "not measured",
        "threads": f"{machine.threads}, " + (f"held to CPU {pinned}" if pinned else "not held to any CPU"),
        "system": f"{machine.system}, Python {machine.python}",
    }
