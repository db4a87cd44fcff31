"""Who is compared with whom by what measure, and who wins: what the table, the page and the report agree on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ragfast_bench.formatting import short
from ragfast_bench.results import Result, Run, Task

Verdict = Literal["won", "even", "lost", "wrong", "alone"]
EVEN = 1.05
"""Medians no further apart than this are called even: from run to run they change places."""
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
