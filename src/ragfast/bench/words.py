"""What the table, the page and the report have in common: who is compared with whom, and how figures are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ragfast.bench.results import Machine, Result, Run, Task

Verdict = Literal["won", "even", "lost", "wrong", "alone"]
EVEN = 1.05
"""Medians no further apart than this are called even: from run to run they change places."""
BUSY = 0.1
"""Cores. Other programs that kept more busy are mentioned."""
OVERLOADED = 0.95
"""A contender that served less of the rate at which questions came than this was overloaded: its queue only grew."""
PAGE = 4096.0
"""Bytes. Memory is counted in pages, so what is less cannot be told apart."""

TITLES = {
    "search": "Exact top-k search",
    "grid": "Search over a grid of sizes",
    "latency": "Latency of one question at a time",
    "build": "Building an index",
    "loss": "From logits to the loss",
    "step": "A step of decoding",
    "small": "Small calls",
    "rag": "Retrieval and marginalization together",
    "memory": "Memory",
}
"""By section, in the order in which they are shown."""

MEMORY = "bytes beyond inputs and outputs"
YARDSTICKS = {"latency": ("p99", "p50"), "memory": (MEMORY,)}
"""By section, the measures that contenders are compared by, the first that there is, where it is not the median time of
a call."""


@dataclass(frozen=True)
class Comparison:
    """Ours beside the fastest exact peer, at one task, and at one rate where questions came at several."""

    task: Task
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
        return data + self.task.name + (f", {short(self.rate)}/s" if several and self.rate is not None else "")


def yardstick(task: Task) -> str:
    """The measure by which contenders are compared, or "" for the median time of a call."""
    known = {name for result in task.results for name in result.measures}
    return next((measure for measure in YARDSTICKS.get(task.section, ()) if measure in known), "")


def value(task: Task, result: Result) -> float | None:
    """What is compared: seconds or bytes, of which less is better. None where it was not measured, infinite where a
    contender could not keep up: what is left of its times says nothing."""
    measure = yardstick(task)
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


def ratio(task: Task, result: Result) -> float | None:
    """How many times as much this contender takes as ours, which has none; below 1 it takes less."""
    ours = _ours(task, result.measures.get("rate") if yardstick(task) else None)
    mine, its = ours and value(task, ours), value(task, result)
    if ours is result or not mine or its is None or math.isinf(mine) or math.isinf(its):
        return None
    return its / mine


def verdict_of(ratio: float) -> Literal["won", "even", "lost"]:
    return "won" if ratio > EVEN else "lost" if ratio < 1 / EVEN else "even"


def comparisons(task: Task) -> list[Comparison]:
    """One, or as many as there are rates; none where nothing was measured."""
    if not any(value(task, result) is not None for result in task.results):
        return []
    if not yardstick(task):
        return [_comparison(task, None)]
    return [_comparison(task, rate) for rate in dict.fromkeys(result.measures.get("rate") for result in task.results)]


def all_comparisons(run: Run) -> list[Comparison]:
    return [
        comparison for section in sections(run) for task in run.section(section) for comparison in comparisons(task)
    ]


def _ours(task: Task, rate: float | None) -> Result | None:
    return next((result for result in _measured(task, rate) if result.ours), None)


def _measured(task: Task, rate: float | None) -> Iterator[Result]:
    return (
        result
        for result in task.results
        if value(task, result) is not None and (rate is None or result.measures.get("rate") == rate)
    )


def _comparison(task: Task, rate: float | None) -> Comparison:
    def least(result: Result) -> float:
        found = value(task, result)
        return math.inf if found is None else found

    ours = _ours(task, rate)
    peers = sorted((result for result in _measured(task, rate) if not result.ours), key=least)
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
    return Comparison(task, rate, verdict, ours, peer, times, faster)


def sections(run: Run, titles: Mapping[str, str] = TITLES) -> list[str]:
    """Those that have tasks, in the order of the titles; unknown ones come last."""
    found = list(dict.fromkeys(task.section for task in run.tasks))
    return [name for name in titles if name in found] + [name for name in found if name not in titles]


def count(comparisons: Iterable[Comparison]) -> dict[Verdict, int]:
    counts: dict[Verdict, int] = dict.fromkeys(("won", "even", "lost", "wrong", "alone"), 0)
    for comparison in comparisons:
        counts[comparison.verdict] += 1
    return counts


def headline(run: Run) -> str:
    """Who was faster how often: a few sentences, of what the run holds and nothing else."""
    found = all_comparisons(run)
    timed = [comparison for comparison in found if yardstick(comparison.task) != MEMORY]
    counts = count(timed)
    n = counts["won"] + counts["even"] + counts["lost"]
    parts = []
    if n:
        parts.append(
            f"In {n} {'comparison' if n == 1 else 'comparisons'} with the fastest exact peer, ragfast was faster in "
            f"{counts['won']}, even in {counts['even']} and slower in {counts['lost']}."
        )
        known = {one.ratio: one for one in timed if one.ratio is not None and one.verdict != "wrong"}
        if known:
            ratios = sorted(known)
            middle = times(float(statistics.median(one.ratio for one in timed if one.ratio and one.verdict != "wrong")))
            parts.append(
                f"It was {middle} times as fast in the median, {times(ratios[-1])} at best and {times(ratios[0])} at "
                f"worst ({known[ratios[0]].task.section}: {known[ratios[0]].name})."
            )
    else:
        parts.append("No exact peer was measured beside ragfast, so this run compares it with nothing.")
    if counts["wrong"]:
        parts.append(f"In {counts['wrong']} more, ragfast's own result was WRONG.")
    inexact = sum(1 for comparison in timed if comparison.faster_inexact)
    if inexact:
        parts.append(f"In {inexact}, a contender whose result is not exact was faster than ragfast.")
    memory = count(comparison for comparison in found if yardstick(comparison.task) == MEMORY)
    n = memory["won"] + memory["even"] + memory["lost"]
    if n:
        parts.append(f"It took less memory than the best exact peer in {memory['won']} of {n}.")
    return " ".join(parts)


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
    short = {"rate": "asked", MEMORY: "memory", "bytes per vector": "a vector", "input bytes per second": "input"}
    return short.get(measure, measure)


def amount(task: Task, result: Result | None) -> str:
    """What is compared, with its unit."""
    found = None if result is None else value(task, result)
    if found is None or result is None:
        return ""
    if math.isinf(found):
        return "overloaded"
    measure = yardstick(task)
    return measured(measure, result.measures[measure]) if measure else duration(found)


def of_floor(result: Result) -> float | None:
    return result.floor.seconds / result.times.median if result.floor and result.times else None


def rightness(result: Result) -> str:
    """Recall, or error where the result is a value."""
    if result.recall is not None:
        return f"{result.recall:.4f}" if 0.999 <= result.recall < 1 else f"{result.recall:.3f}"
    return "" if result.error is None else "0" if result.error == 0 else f"{result.error:.0e}"


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
