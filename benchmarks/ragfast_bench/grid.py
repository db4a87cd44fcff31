"""Where ragfast is faster and where it is not: random unit vectors of many sizes, peers that read every element."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ragfast_bench import data, results, sections
from ragfast_bench.documents import Documents
from ragfast_bench.search import OURS, Contest, Limits
from ragfast_bench.search_peers import FLAT

NAME = "grid"
TITLE = "Search over a grid of sizes"
DATA = "random unit vectors"

Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def sizes(settings: sections.Settings) -> Sizes:
    """N, D and B."""
    quick: Sizes = (1_000, 10_000), (384,), (1, 64)
    default: Sizes = (1_000, 10_000, 100_000), (128, 768), (1, 16, 256)
    full: Sizes = (1_000, 10_000, 100_000, 1_000_000), (64, 128, 384, 768, 1024), (1, 16, 64, 256, 512)
    return settings.pick(quick, default, full)


def planned(settings: sections.Settings) -> int:
    n, dims, batches = sizes(settings)
    return len(n) * len(dims) * len(batches)


def measure(
    settings: sections.Settings,
    machine: results.Machine,
    say: sections.Say,
    leave_out: sections.LeaveOut,
) -> Iterator[results.Task]:
    all_n, dims, batches = sizes(settings)
    peers = [name for name in FLAT if settings.wants(name)]
    limits = Limits(settings.pick(1.0, 1.0, 20.0), least=settings.pick(2, 2, 3), patience=settings.pick(0.3, 0.5, 10.0))
    for n, dim in itertools.product(all_n, dims):
        try:
            chosen = data.made("random", n, dim, max(batches))
        except results.BenchError as error:
            leave_out(f"the grid's {n:,} documents of {dim}", str(error))
            continue
        docs = Documents(chosen.vectors, settings.k, settings.threads, chosen.unit)
        with Contest(NAME, DATA, docs, chosen.queries, (OURS,), peers, say) as contest:
            for b in batches:
                say(f"N {n:,}, D {dim}, {b} queries")
                yield contest.task(b, machine, limits, f"N {n:,}, D {dim}, B {b}")
        del chosen, docs, contest  # before the next size's gigabytes
