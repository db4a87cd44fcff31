"""``ragfast bench``, also ``python -m ragfast_bench``: its arguments, and how a run ends."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ragfast import runtime
from ragfast.cli.common import at_least_one


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return their exit status: 0, or 2 with one line on stderr that says what is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if (chosen.vectors is None) != (chosen.queries is None):
        parser.error("--vectors and --queries go together: documents (N,D) and queries (B,D)")
    try:
        from ragfast_bench import results, run, sections
    except ModuleNotFoundError as error:
        print(
            f"ragfast: the benchmarks need a package that is not here ({error}); `make bench` installs all, or: "
            "pip install ./benchmarks",
            file=sys.stderr,
        )
        return 2

    settings = sections.Settings(
        size=chosen.size,
        threads=chosen.threads,
        k=chosen.k,
        peers=None if chosen.peers is None else frozenset(chosen.peers),
        data=tuple(chosen.data or ()),
        vectors=chosen.vectors,
        queries=chosen.queries,
    )
    options = run.Options(
        sections=tuple(chosen.sections or ()),
        isa=chosen.isa,
        pinned=chosen.pin,
        json=chosen.json,
        page=chosen.page,
        markdown=chosen.markdown,
        source=chosen.source,
        command=shlex.join(["ragfast", "bench", *arguments]),
    )
    try:
        return run.run_bench(settings, options)
    except results.BenchError as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    bench = argparse.ArgumentParser(
        prog="ragfast bench",
        description="Search and marginalization by ragfast and by every peer that is installed, in one process, in "
        "turns, on the same data and threads. Each result is checked; each time beside this machine's floor. "
        "Ends with a table and a page to open in a browser. Peers that are absent are named.",
    )
    size = bench.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="less of it: within a minute")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="more of it: for an evening")
    bench.set_defaults(size="default")
    bench.add_argument(
        "--sections",
        nargs="+",
        metavar="S",
        help="of search, grid, latency, build, loss, step, small, rag, memory (default: all)",
    )
    bench.add_argument("--peers", nargs="*", metavar="NAME", help='contenders beside ours, e.g. "FAISS tuned"')
    bench.add_argument(
        "--data", nargs="+", metavar="NAME", help='data sets, e.g. glosses "random 1M" (default: several)'
    )
    bench.add_argument("--vectors", type=Path, metavar="V.npy", help="documents (N,D) of yours, in place of ours")
    bench.add_argument("--queries", type=Path, metavar="Q.npy", help="queries (B,D) for them")
    bench.add_argument("--k", type=at_least_one, default=10, metavar="K", help="documents retrieved (default: 10)")
    bench.add_argument("--threads", type=at_least_one, default=1, metavar="N", help="of all alike (default: 1)")
    bench.add_argument("--no-pin", dest="pin", action="store_false", help="do not hold the process to as many CPUs")
    bench.add_argument("--isa", choices=runtime.available_isas(), help="our level; peers keep theirs")
    bench.add_argument("--json", type=Path, default=Path("ragfast-bench.json"), metavar="OUT", help="(%(default)s)")
    bench.add_argument("--page", type=Path, default=Path("ragfast-bench.html"), metavar="OUT", help="(%(default)s)")
    bench.add_argument("--markdown", type=Path, metavar="OUT", help="the report as Markdown too")
    bench.add_argument("--from", dest="source", type=Path, metavar="RUN.json", help="show a saved run again")
    return bench
