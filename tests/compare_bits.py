"""Compare the result bits of two builds of ragfast over seeded random cases, at every instruction-set level.

    python tests/compare_bits.py OLD_SITE NEW_SITE
    python tests/compare_bits.py OLD_SITE NEW_SITE --searches 50000 --seed 1 --isa scalar avx2

A site is a folder that holds an installed ragfast: ``pip install --target`` makes one, and the ``site-packages`` of a
virtual environment is one. Each build runs each level in a process of its own. Both make the same calls: searches of
indexes with updates, filters, groups and files, and all functions of both numerical steps. An error counts as its type,
because its message may be reworded. Indexes that the old build saved are also opened by both builds.

The table shows how many cases of each kind have equal bits. Each difference is named by kind and number; ``--only
KIND:NUMBER`` runs that case alone and prints what both builds return. The exit status is 1 if a case differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS.parent / "benchmarks")]  # these need no installation

from bit_cases import KINDS, SEARCHES_PER_INDEX, run_case  # noqa: E402  # found by the line above
from ragfast_bench.compare_builds import BuildError, load  # noqa: E402  # also found by it

OTHERS = 4
"""Losses per case of each kind that is neither a search nor a loss."""
STORED = 100
"""Indexes that the old build saves and both builds open."""
CHUNKS = 5
"""Processes that share the cases of one build and level, so that progress shows."""
SHOWN = 10
"""Differences of each level that are named."""

HAS_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None
"""Whether some logits are bfloat16."""

Results = dict[str, list[str]]  # digests or types of errors, by "kind:number"


def cases(searches: int, losses: int) -> list[tuple[str, int]]:
    """Return the kind and the number of all cases."""
    counts = {kind.__name__: -(-losses // OTHERS) for kind in KINDS} | {"stored": min(STORED, searches)}
    counts |= {"search": -(-searches // SEARCHES_PER_INDEX), "loss": losses}
    return [(kind, number) for kind, count in counts.items() for number in range(count)]


def work(job: dict[str, Any]) -> Results:
    """Run the cases of a job in this process."""
    if job["bfloat16"] != HAS_BFLOAT16:
        raise BuildError("ml_dtypes was installed or removed during the run, which changes the cases; run again")
    build = load(job["site"])
    if job["level"]:
        build.call("set_isa", job["level"])
    results = {}
    for kind, number in job["cases"]:
        found = run_case(build, kind, number, job["seed"], Path(job["stored"]), job.get("show", False))
        results[f"{kind}:{number}"] = found
    return results


def started(job: dict[str, Any]) -> Results:
    """Run the cases of a job in a process of its own."""
    command = [sys.executable, __file__, "--job"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{job['site']} at {job['level']}: the process ended with {done.returncode}:\n{done.stderr}")
    results: Results = json.loads(done.stdout)
    return results


def levels_of(sites: Iterable[Path]) -> list[str]:
    """Return the levels that all builds have, the highest first."""
    available = [load(site).call("available_isas") for site in sites]
    return [level for level in reversed(available[0]) if all(level in levels for levels in available)]


def report(level: str, old: Results, new: Results) -> int:
    """Print how many results of each kind are equal and which are not; return the number of those."""
    equal, total, errors, differing = Counter[str](), Counter[str](), Counter[str](), []
    for case, expected in sorted(old.items(), key=lambda item: int(item[0].partition(":")[2])):
        kind = case.partition(":")[0]
        for i, (a, b) in enumerate(itertools.zip_longest(expected, new[case], fillvalue="no call")):
            total[kind] += 1
            errors[kind] += "Error" in a
            equal[kind] += a == b
            if a != b:
                differing.append(f"{case}, call {i}: {a} and {b}")
    print(f"{level}: {equal.total()} of {total.total()} equal")
    for kind in total:
        print(f"  {kind:12} {equal[kind]:6} of {total[kind]:6} equal, {errors[kind]} of them errors")
    for text in differing[:SHOWN]:
        print(f"  DIFFERENT {text}")
    return len(differing)


def show(job: dict[str, Any], only: str, sites: list[Path]) -> int:
    """Print the results of one case from both builds."""
    np.set_printoptions(precision=17)
    kind, _, number = only.partition(":")
    found = []
    for site in sites:
        print(f"---- {site} {job['level']}", flush=True)
        if kind == "stored":
            work(job | {"site": str(sites[0]), "cases": [("save", int(number))]})
        found.append(work(job | {"site": str(site), "cases": [(kind, int(number))], "show": True}))
    return int(found[0] != found[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sites", nargs="*", type=Path, metavar="SITE", help="the old and the new build")
    parser.add_argument("--searches", type=int, default=10_000, help="searches of indexes (%(default)s)")
    parser.add_argument("--losses", type=int, default=2_000, help="losses (%(default)s); a quarter of every other kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isa", nargs="+", help="instruction-set levels; default: all that both builds have here")
    parser.add_argument("--processes", type=int, default=2, help="at the same time (%(default)s)")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="run this case alone and show its results")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)  # a process that main() starts
    options = parser.parse_args()
    if options.job:
        print(json.dumps(work(json.load(sys.stdin))))
        return 0
    if len(options.sites) != 2:
        parser.error(f"SITE: must be two folders, of the old and of the new build; got {len(options.sites)}")
    levels = options.isa or levels_of(options.sites)
    with tempfile.TemporaryDirectory(prefix="ragfast-bits-") as stored, ThreadPoolExecutor(options.processes) as pool:
        common = {"seed": options.seed, "stored": stored, "level": None, "bfloat16": HAS_BFLOAT16}
        if options.only:
            return max([show(common | {"level": level}, options.only, options.sites) for level in levels])
        chosen = cases(options.searches, options.losses)
        saved = [("save", number) for kind, number in chosen if kind == "stored"]
        unsaved = started(common | {"site": str(options.sites[0]), "cases": saved})
        chosen = [case for case in chosen if not unsaved.get(f"save:{case[1]}") or case[0] != "stored"]
        jobs = [
            common | {"site": str(site), "level": level, "cases": chosen[chunk::CHUNKS]}
            for level in levels
            for site in options.sites
            for chunk in range(CHUNKS)
        ]
        found: dict[tuple[str, str], Results] = {}
        for i, (job, results) in enumerate(zip(jobs, pool.map(started, jobs), strict=True), 1):
            found.setdefault((job["level"], job["site"]), {}).update(results)
            print(f"{i} of {len(jobs)} parts done", end="\r", file=sys.stderr, flush=True)
    if not HAS_BFLOAT16:
        print("NOT COMPARED: bfloat16 logits, which need ml_dtypes")
    old, new = map(str, options.sites)
    return int(sum([report(level, found[level, old], found[level, new]) for level in levels]) > 0)


if __name__ == "__main__":
    sys.exit(main())
