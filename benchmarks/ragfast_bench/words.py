"""What the table, the page and the report have in common: who is compared with whom, and how figures are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ragfast_bench.results import Library, Machine, Result, Run, Task
from ragfast_bench.sections import REAL

Verdict = Literal["won", "even", "lost", "wrong", "alone"]
EVEN = 1.05
"""Medians no further apart than this are called even: from run to run they change places."""
BUSY = 0.1
"""Cores. Other programs that kept more busy are mentioned."""
OVERLOADED = 0.95
"""A contender that served less of the rate at which questions came than this was overloaded: its queue only grew."""
PAGE = 4096.0
"""Bytes. Memory is counted in pages, so what is less cannot be told apart."""

RECALL = 0.9995
"""An exact peer that found less of the true best k is shown with its recall wherever it is named."""

MEMORY = "bytes beyond inputs and outputs"
HELD = "bytes per vector"
YARDSTICKS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "latency": (("p99", "p50"),),
    "memory": ((MEMORY,),),
    "build": (("",), (HELD,)),
}
"""By section, what contenders are compared by, where it is not the median time of a call alone: for each comparison the
measures, of which the first that there is counts. "" is the median time."""


@dataclass(frozen=True)
class Comparison:
    """Ours beside the best exact peer, at one task by one measure, and at one rate where questions came at several."""

    task: Task
    measure: str  # "" for the median time of a call
    rate: float | None  # questions a second
    verdict: Verdict  # alone: there was nobody to compare with; wrong: our own result was
    ours: Result | None
    peer: Result | None
    ratio: float | None  # of times (or of memory), peer over ours: below 1 the peer is better; None: one was overloaded
    faster_inexact: tuple[Result, ...]  # those that do not mean to be exact, or are wrong, and took less than ours

    @property
    def name(self) -> str:
        """Enough to know it by within its section."""
        data = f"{self.task.data}, " if self.task.data and self.task.data not in self.task.name else ""
        several = len({result.measures.get("rate") for result in self.task.results}) > 1
        rate = f", {short(self.rate)}/s" if several and self.rate is not None else ""
        return data + self.task.name + rate + (", memory held" if self.measure == HELD else "")


def yardsticks(task: Task) -> list[str]:
    """The measures by which contenders are compared, "" being the median time of a call. One at the least."""
    known = {name for result in task.results for name in result.measures} | {""}
    found = [
        next((measure for measure in asked if measure in known), None) for asked in YARDSTICKS.get(task.section, ())
    ]
    return [measure for measure in found if measure is not None] or [""]


def yardstick(task: Task) -> str:
    """The first of them, by which the ratios of a task's own table are."""
    return yardsticks(task)[0]


def value(task: Task, result: Result, measure: str | None = None) -> float | None:
    """What is compared: seconds or bytes, of which less is better. None where it was not measured, infinite where a
    contender could not keep up: what is left of its times says nothing.

    measure: one of the task's yardsticks; None is the first."""
    measure = yardstick(task) if measure is None else measure
    if not measure:
        return result.times.median if result.times else None
    if overloaded(result):
        return math.inf
    found = result.measures.get(measure)
    return max(found, PAGE) if found is not None and measure == MEMORY else found


def is_wrong(result: Result) -> bool:
    """Whether the section's check found that the result is not what was asked for."""
    return result.note.startswith("WRONG")


def overloaded(result: Result) -> bool:
    slow = result.measures.get("served", math.inf) < OVERLOADED * result.measures.get("rate", 0.0)
    return slow or result.note.startswith("overloaded")


def ratio(task: Task, result: Result, measure: str | None = None) -> float | None:
    """How many times as much this contender takes as ours, which has none; below 1 it takes less."""
    measure = yardstick(task) if measure is None else measure
    ours = _ours(task, measure, result.measures.get("rate") if measure else None)
    mine, its = ours and value(task, ours, measure), value(task, result, measure)
    if ours is result or not mine or its is None or math.isinf(mine) or math.isinf(its):
        return None
    return its / mine


def verdict_of(ratio: float) -> Literal["won", "even", "lost"]:
    return "won" if ratio > EVEN else "lost" if ratio < 1 / EVEN else "even"


def verdict_on(task: Task, result: Result) -> Verdict | Literal["inexact", ""]:
    """How a row of a task's own table stands: wrong, inexact, or won, even or lost by ours against this exact peer. ""
    where there is nothing to say, which is so for ours."""
    found = ratio(task, result)
    if is_wrong(result):
        return "wrong"
    if found is None or result.ours:
        return ""
    return verdict_of(found) if result.exact else "inexact"


def comparisons(task: Task) -> list[Comparison]:
    """One, or as many as there are yardsticks and rates; none where nothing was measured."""
    found = []
    for measure in yardsticks(task):
        if any(value(task, result, measure) is not None for result in task.results):
            rates = dict.fromkeys(result.measures.get("rate") for result in task.results) if measure else [None]
            found += [_comparison(task, measure, rate) for rate in rates]
    return found


def all_comparisons(run: Run, order: Iterable[str] = ()) -> list[Comparison]:
    """order: sections, as :func:`sections` takes them."""
    return [one for section in sections(run, order) for task in run.section(section) for one in comparisons(task)]


def _ours(task: Task, measure: str, rate: float | None) -> Result | None:
    return next((result for result in _measured(task, measure, rate) if result.ours), None)


def _measured(task: Task, measure: str, rate: float | None) -> Iterator[Result]:
    return (
        result
        for result in task.results
        if value(task, result, measure) is not None and (rate is None or result.measures.get("rate") == rate)
    )


def _comparison(task: Task, measure: str, rate: float | None) -> Comparison:
    def least(result: Result) -> float:
        found = value(task, result, measure)
        return math.inf if found is None else found

    ours = _ours(task, measure, rate)
    peers = sorted((result for result in _measured(task, measure, rate) if not result.ours), key=least)
    peer = next((result for result in peers if result.exact and not is_wrong(result)), None)
    inexact = [result for result in peers if not result.exact or is_wrong(result)]
    faster = tuple(result for result in inexact if ours and least(result) < least(ours))
    verdict: Verdict = "alone"
    times = None
    if ours and peer and math.isfinite(least(ours)) and math.isfinite(least(peer)):
        times = least(peer) / least(ours)
        verdict = verdict_of(times)
    elif ours and peer and least(ours) != least(peer):
        verdict = "won" if least(ours) < least(peer) else "lost"  # the other could not keep up: no figure says how much
    if ours and is_wrong(ours):
        verdict = "wrong"
    return Comparison(task, measure, rate, verdict, ours, peer, times, faster)


def sections(run: Run, titles: Iterable[str]) -> list[str]:
    """Those that have tasks, in the order of the titles; unknown ones come last."""
    titles = list(titles)
    found = list(dict.fromkeys(task.section for task in run.tasks))
    return [name for name in titles if name in found] + [name for name in found if name not in titles]


def count(comparisons: Iterable[Comparison]) -> dict[Verdict, int]:
    counts: dict[Verdict, int] = dict.fromkeys(("won", "even", "lost", "wrong", "alone"), 0)
    for comparison in comparisons:
        counts[comparison.verdict] += 1
    return counts


def compared(one: Comparison) -> bool:
    """Whether there were two to compare, and ours was right."""
    return one.verdict in ("won", "even", "lost")


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


# ---- figures


def number(value: float) -> str:
    """Three digits that count, or all digits before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value:.1e}" if digits > 5 else f"{value:,.{max(0, digits)}f}"


def short(value: float) -> str:
    """The same without zeros behind the point."""
    written = number(value)
    return written.rstrip("0").rstrip(".") if "." in written and "e" not in written else written


def times(ratio: float) -> str:
    """A ratio in as many digits as a run can repeat."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.01 else f"{100 * part:.2g} %"


def time_unit(seconds: Iterable[float]) -> tuple[str, float]:
    """The unit that suits most of these, and how many of it a second has."""
    found = sorted(seconds)
    middle = found[len(found) // 2] if found else 1.0
    return ("s", 1.0) if middle >= 1 else ("ms", 1e3) if middle >= 1e-3 else ("\u00b5s", 1e6)


def duration(seconds: float) -> str:
    unit, scale = time_unit([seconds])
    return f"{number(seconds * scale)} {unit}"


def size(n_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{short(n_bytes / scale)} {unit}"
    return f"{short(n_bytes)} B"


def measured(name: str, value: float) -> str:
    """A measure with its unit, by what its name says."""
    if name.startswith("p") and name[1:].isdigit():
        return duration(value)
    if name in ("rate", "served"):
        return f"{short(value)}/s"
    if "bytes per second" in name:
        return f"{size(value)}/s"
    if "bytes" in name:
        return size(value)
    return f"{value:,.0f}" if value == round(value) else number(value)


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
