"""Compare the speed of two builds of ragfast in one process, in which their calls take turns.

    make bench-compare BASE=main                                  the working tree against main
    make bench-compare BASE=v0.1 HEAD=v0.2 COMPARE=--quick           two revisions, a small part of the grid
    python -m ragfast_bench.compare main --cells "search*B1 " nll --rounds 50

A revision is built into ``build/compare/<hash of its sources>/`` unless it is there already. A folder that holds an
installed ragfast can take the place of a revision.

Method
------
A cell is one call, such as a search of 10,000 documents. Both builds get the same inputs. Their results are first
compared bit for bit. A round makes the indexes of both builds, because their place in memory alone can change a time
by ten percent. Then the builds take turns in the order old, new, new, old and in the opposite order, so that a steady
drift of the machine cancels. A round gives one log ratio new/old, the median of those of its exchanges. Calls of one
thread are timed in CPU seconds of the process, which do not grow while another process has the core.

The table shows the median time of each build and the median ratio with its interval. The interval of at least 95 % is
that between two order statistics of the log ratios of the rounds, whose ranks follow from the binomial distribution. It
holds for any continuous distribution of times, if the rounds are independent; exchanges within a round are not. A
bootstrap would be too narrow for so few values, and assumes that the sample resembles their distribution.

A cell is "slower" only if the lower end of the interval is above 1.03, and "faster" only if the upper end is below
1 / 1.03. A cell that looks slower is measured again, and only the second result counts: among many cells of equal
speed, some look slower once by chance. The second measurement has twice the rounds and loads copies of both builds,
because the place of code in memory alone can change calls of a few microseconds by three percent. The exit status is 1
if a cell is slower, and 2 if nothing could be compared.
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import fnmatch
import functools
import gc
import itertools
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ragfast_bench.compare_builds import Build, BuildError, built, check_separate, digest, load
from ragfast_bench.compare_cells import Call, Cell, Setup, marginal_cells, search_cells

Pair = tuple[Build, Build]  # the old and the new one
Row = dict[str, Any]
Turn = Callable[[int], float]  # makes that many calls and returns the seconds of one
Round = tuple[float, float, float]  # seconds of the old and of the new build, and the log ratio

TOLERANCE = 1.03
CONFIDENCE = 0.95
FEWEST = 9
"""Rounds that are made even if they take longer than they should: the fewest without the extremes in the interval."""
EXCHANGES = 4
"""Most exchanges of a round."""
SHORTEST = 3e-3
"""Seconds. Shorter calls are repeated within a turn, which takes at least so long. They are also made once untimed
before the turn, so that the caches hold their own data."""


# ---- statistics


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Median seconds of a call, and the median ratio new/old with its interval."""

    old: float
    new: float
    ratio: float
    lower: float
    upper: float
    rounds: int

    @property
    def verdict(self) -> str:
        return "slower" if self.lower > TOLERANCE else "faster" if self.upper < 1 / TOLERANCE else "same"


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the ends of a distribution-free interval of the median.

    Fewer than k of n values lie below the median with probability sum_{i<k} C(n, i) / 2^n. The interval goes from the
    k-th smallest to the k-th largest value, with the greatest k for which both tails together stay within
    1 - confidence. It is infinite if there are too few values for any k.
    """
    n, k, tail = len(values), 0, 0.0
    while k < n and 2 * (tail := tail + math.comb(n, k) / 2**n) <= 1 - confidence:
        k += 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)


def outcome(rounds: Sequence[Round]) -> Outcome:
    """Return what the rounds amount to."""
    old, new, logs = zip(*rounds, strict=True)
    ratio, (lower, upper) = statistics.median(logs), median_interval(logs)
    ends = math.exp(ratio), math.exp(lower), math.exp(upper)
    return Outcome(statistics.median(old), statistics.median(new), *ends, len(rounds))


def one_round(turns: tuple[Turn, Turn], seconds: float) -> tuple[Round, float]:
    """Let the builds take turns for about so many seconds; return the round and how many it took."""
    first = max(min(turn(1), turn(1)) for turn in turns)
    repeat = max(1, math.ceil(SHORTEST / first))
    exchanges = max(1, min(EXCHANGES, int(seconds / (4 * first * repeat))))
    times = []
    for i in range(exchanges):
        both = [0.0, 0.0]
        for which in (0, 1, 1, 0) if i % 2 == 0 else (1, 0, 0, 1):
            both[which] += turns[which](repeat) / 2
        times.append(both)
    old, new = (statistics.median(column) for column in zip(*times, strict=True))
    log_ratio = statistics.median(math.log(new / old) for old, new in times)
    return (old, new, log_ratio), 2 * repeat * sum(map(sum, times))


def measured(make: Callable[[], tuple[Turn, Turn]], rounds: int, seconds: float) -> Outcome:
    """Time two builds for so many rounds, or FEWEST of them if they take more seconds than these.

    make returns the turns of the old and of the new build, over indexes that it makes each time.
    """
    done: list[Round] = []
    spent = 0.0
    while len(done) < rounds and (spent < seconds or len(done) < FEWEST):
        one, took = one_round(make(), seconds / rounds)
        done.append(one)
        spent += took
    return outcome(done)


# ---- the comparison


def load_pair(sites: Sequence[Path], threads: int, isa: str | None) -> Pair:
    """Load copies of both builds. A process loads a file only once, and a new copy lies elsewhere in memory."""
    copies = Path(tempfile.mkdtemp(prefix="ragfast-compare-"))
    atexit.register(shutil.rmtree, copies, ignore_errors=True)
    for name, site in zip(("old", "new"), sites, strict=True):
        for part in filter(Path.is_dir, site.glob("ragfast*")):
            shutil.copytree(part, copies / name / part.name)
    builds = load(copies / "old"), load(copies / "new")
    check_separate(*builds)
    for build in builds:
        build.call("set_num_threads", threads)
        if isa is not None:
            build.call("set_isa", isa)
    return builds


def turn_of(build: Build, call: Call, clock: Callable[[], float]) -> Turn:
    """Return the turn of a call, timed by that clock."""

    def turn(repeat: int) -> float:
        with build.active():
            if repeat > 1:
                call()
            start = clock()
            for _ in range(repeat):
                call()
            return (clock() - start) / repeat

    return turn


def calls_of(setup: Setup, builds: Pair, new_first: bool = False) -> tuple[Call, Call]:
    """Return the call of each build over indexes that are made now."""
    made: dict[int, Call] = {}
    for which in (1, 0) if new_first else (0, 1):
        with builds[which].active():
            made[which] = setup(builds[which])
    return made[0], made[1]


def compared(cell: Cell, builds: Pair, load_again: Callable[[], Pair], rounds: int, seconds: float) -> Row:
    """Return the row of a cell: its name, whether the bits are equal, and the outcome; or why there is none."""
    setup = cell.prepare()
    clock = time.process_time if builds[1].call("get_num_threads") == 1 else time.perf_counter
    try:
        digests = [result_digest(*both) for both in zip(builds, calls_of(setup, builds), strict=True)]
    except Exception as error:  # one build may lack the function, an option, or what this level needs
        return {"cell": cell.name, "skipped": f"{type(error).__name__}: {error}"}

    def timed(builds: Pair, times: int) -> Outcome:
        new_first = itertools.cycle((False, True))

        def turns() -> tuple[Turn, Turn]:
            old, new = calls_of(setup, builds, next(new_first))
            return turn_of(builds[0], old, clock), turn_of(builds[1], new, clock)

        return measured(turns, times * rounds, times * seconds)

    gc.collect()
    gc.disable()
    try:
        found, repeated = timed(builds, 1), False
        if found.verdict == "slower":
            found, repeated = timed(load_again(), 2), True
    finally:
        gc.enable()
    about = {"cell": cell.name, "bits": digests[0] == digests[1], "verdict": found.verdict, "repeated": repeated}
    return about | dataclasses.asdict(found)


def result_digest(build: Build, call: Call) -> str:
    with build.active():
        return digest(call())


def line(row: Row) -> str:
    """Return a line of the table."""
    if "skipped" in row:
        return f"{row['cell']:50} not compared: {row['skipped']}"
    times = f"{row['old'] * 1e3:10.4f} {row['new'] * 1e3:10.4f} {row['ratio']:7.3f}"
    note = "  (measured twice)" * row["repeated"] + "  DIFFERENT BITS" * (not row["bits"])
    return f"{row['cell']:50} {times}  [{row['lower']:.3f}, {row['upper']:.3f}]  {row['verdict']}{note}"


def progress(chosen: list[Cell]) -> Any:
    """Return the cells with a progress bar, if tqdm is installed and the output goes to a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return chosen
    return tqdm(chosen, unit="cell", leave=False, disable=None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", nargs="?", help="the old build: a revision, or a folder with an installed ragfast")
    parser.add_argument("--head", help="the new build; default: the working tree")
    parser.add_argument(
        "--cells", nargs="+", default=[""], metavar="PATTERN", help="cells whose name contains a pattern"
    )
    parser.add_argument("--list", action="store_true", help="list the cells and exit")
    parser.add_argument("--quick", action="store_true", help="a small part of the grid, within a minute")
    parser.add_argument("--rounds", type=int, default=15, help="at most so many rounds a cell (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="about so many seconds a cell (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each call (%(default)s)")
    parser.add_argument("--isa", help="the instruction-set level; default: the highest")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows and the settings to this file")
    parser.add_argument("--folder", type=Path, default=Path("build/compare"), help="builds are kept here (%(default)s)")
    options = parser.parse_args(arguments)
    chosen = [
        cell
        for cell in itertools.chain(search_cells(), marginal_cells())
        if any(fnmatch.fnmatchcase(cell.name, f"*{pattern}*") for pattern in options.cells)
        and (cell.quick or not options.quick)
    ]
    if options.list:
        print(*(cell.name for cell in chosen), sep="\n")
        return 0
    if not chosen:
        parser.error(f"--cells: must match a cell that --list shows; got {' '.join(options.cells)}")
    if options.rounds < 6:
        parser.error(f"--rounds: must be 6 or more, for an interval of {CONFIDENCE:.0%}; got {options.rounds}")
    if options.base is None:
        parser.error("base: must be a revision or a folder; make bench-compare BASE=main, for instance")
    try:
        sites = [built(revision, options.folder) for revision in (options.base, options.head)]
        load_again = functools.partial(load_pair, sites, options.threads, options.isa)
        builds = load_again()
    except BuildError as error:
        print(f"bench-compare: {error}", file=sys.stderr)
        return 2
    level = builds[1].call("isa")
    print(f"{level}, {options.threads} threads; times in ms, new/old with an interval of {CONFIDENCE:.0%} or more")
    rows: list[Row] = []
    for cell in (bar := progress(chosen)):
        rows.append(compared(cell, builds, load_again, options.rounds, options.seconds))
        getattr(bar, "write", print)(line(rows[-1]))
        sys.stdout.flush()
    verdicts = [row.get("verdict", "not compared") for row in rows]
    different = sum(not row.get("bits", True) for row in rows)
    print(*(f"{verdicts.count(v)} {v}" for v in ("slower", "faster", "same", "not compared")), sep=", ", end="; ")
    print(f"bits differ in {different} of {len(rows)} cells")
    if options.json:
        settings = {"base": options.base, "head": options.head, "isa": level, "threads": options.threads}
        options.json.write_text(json.dumps(settings | {"rows": rows}, indent=1) + "\n")
    return 1 if "slower" in verdicts else 2 if set(verdicts) == {"not compared"} else 0


if __name__ == "__main__":
    sys.exit(main())
