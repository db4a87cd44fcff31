"""Whether a change makes ragfast execute more instructions. Callgrind counts them, so neither clock nor load decides.

``make counts`` builds csrc/bench/counts.c and runs this. It makes the calls there at each level in LEVELS and compares
with csrc/bench/counts.json, which holds a baseline for each architecture and major version of a compiler: others'
counts are not comparable. ``make counts-accept`` writes what it counts as the new baseline, to be committed with the
change that explains it.

Exit status: 0 where no count grew by more than TOLERANCE, and where there is nothing to compare with or no valgrind,
which is said; 1 where one did, or a call of the baseline is gone; 2 where counting failed.

Instructions are not time: cache misses, and all that the scheduling of a loop gains, are for the benchmarks. Valgrind
3.19 runs no AVX-512 and no AMX, so those levels are not counted; the drivers, which all levels share, are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

LEVELS = ("scalar", "avx2")
TOLERANCE = 0.02
BASELINE = Path(__file__).with_suffix(".json")
PREFIX = "count_"  # of the functions that are counted
UNAVAILABLE = 3  # the program's exit status where there is no such level

Counts = dict[str, dict[str, int]]  # by level, by call


def inclusive(profile: str) -> dict[str, int]:
    """The instructions of each counted function with all that it calls, from a profile in callgrind's format, names
    uncompressed: a line cfn=NAME, one calls=..., and one that ends in what the calls cost."""
    counts: Counter[str] = Counter()
    lines = profile.splitlines()
    for line, cost in zip(lines, lines[2:], strict=False):
        if line.startswith(f"cfn={PREFIX}"):
            counts[line.removeprefix(f"cfn={PREFIX}")] += int(cost.split()[-1])
    return dict(counts)


def count(program: Path, level: str) -> dict[str, int] | None:
    """What each call takes at that level; None where there is no such level under valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        options = [f"--callgrind-out-file={out}", f"--toggle-collect={PREFIX}*", "--compress-strings=no"]
        command = ["valgrind", "--tool=callgrind", *options, str(program), level]
        environment = os.environ | {"LD_BIND_NOW": "1"}  # else the first call of a function pays for finding it
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode == UNAVAILABLE:
            return None
        if done.returncode != 0:
            raise NotCounted(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr}")
        counts = inclusive(out.read_text())
    if not counts:
        raise NotCounted(f"the profile of {program} {level} names no function {PREFIX}*")
    return counts


def differences(now: Counts, before: Counts) -> tuple[list[str], bool]:
    """What to say of each count that moved, came or went, and whether that is a failure."""
    said: list[str] = []
    failed = False
    for level, counts in now.items():
        known = before.get(level, {})
        for call in sorted({**known, **counts}):
            old, new = known.get(call), counts.get(call)
            if old is None:
                verdict = "new: not in the baseline"
            elif new is None:
                verdict, failed = "GONE: in the baseline, and not called any more", True
            elif new > old * (1 + TOLERANCE):
                verdict, failed = f"GREW by {new / old - 1:.1%}", True
            elif new < old * (1 - TOLERANCE):
                verdict = f"shrank by {1 - new / old:.1%}"
            else:
                continue
            said.append(f"{level:8} {call:24} {old or '':>12} {new or '':>12}   {verdict}")
    return said, failed


class NotCounted(Exception):
    """Counting failed; the message says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("program", type=Path, help="csrc/bench/counts.c, built")
    parser.add_argument("--accept", action="store_true", help="write the counts as the new baseline")
    parser.add_argument("--required", action="store_true", help="fail where nothing can be counted or compared")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="default: %(default)s")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("counts: NOT COUNTED, there is no valgrind here")
        return 2 * arguments.required
    run = subprocess.run([arguments.program, "--compiler"], capture_output=True, text=True, check=True)
    compiler = run.stdout.strip()
    now: Counts = {}
    try:
        for level in LEVELS:
            counts = count(arguments.program, level)
            if counts is None:
                print(f"counts: {level} NOT COUNTED, this build, this CPU or this valgrind does not have it")
            else:
                now[level] = counts
    except NotCounted as error:
        print(f"counts: {error}", file=sys.stderr)
        return 2
    baselines: dict[str, Counts] = json.loads(arguments.baseline.read_text()) if arguments.baseline.exists() else {}
    before = baselines.get(compiler)
    n_calls = sum(map(len, now.values()))
    if arguments.accept:
        baselines[compiler] = (before or {}) | now
        arguments.baseline.write_text(json.dumps(baselines, indent=1, sort_keys=True) + "\n")
        print(f"counts: {n_calls} written as the baseline of {compiler}")
        return 0
    if before is None:
        others = ", ".join(sorted(baselines)) or "none"
        print(f"counts: NOT COMPARED, no baseline for {compiler}; there is one for {others}")
        print("make counts-accept on the commit before a change makes one to compare the change with")
        return 2 * arguments.required
    if arguments.required and (without := sorted(set(before) - set(now))):
        print(f"counts: NOT COMPARED at {', '.join(without)}, of which there is a baseline")
        return 2
    said, failed = differences(now, before)
    if said:
        print(f"{'level':8} {'call':24} {'baseline':>12} {'now':>12}   instructions, {compiler}", *said, sep="\n")
        print("make counts-accept makes these the baseline, if they are meant")
    levels = " and ".join(now)
    print(
        f"counts: {n_calls} calls at {levels}, " + ("FAILED" if failed else f"none grew by more than {TOLERANCE:.0%}")
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
