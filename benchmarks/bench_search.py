"""Exact search against other libraries, same vectors, same threads: NumPy, torch, FAISS flat (default, and with its
BLAS threshold tuned), usearch's exact search and FAISS Panorama; and torch in bfloat16, which is not exact and says so.

``pytest benchmarks/bench_search.py`` times each with pytest-benchmark. ``python benchmarks/bench_search.py`` runs them
in turns in one process and prints medians, ratios and the floors: the times in which this machine reads the vectors
once, and as many bytes as the high plane of the codes. ``--grid``, ``--latency``, ``--build`` and ``--small`` print
something else instead. A peer that is left out is named with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import timeit
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interleaved import OtherLoad, medians
from latency import busy_cores, describe, durations, other_cores
from peers import FLAT, PEERS, Documents, Matrix, PanoramaSearch, Search, build_peers, fitting, limit_threads

import ragfast

SCANS = {"auto": "ragfast index", "float32": "ragfast float32", "int8": "ragfast int8"}
OURS, ONE_SHOT = SCANS["auto"], "ragfast.search"
READ, READ_HIGH = "one read", "one read, codes"
GRID = (1_000, 10_000, 100_000, 1_000_000), (64, 384, 768, 1024), (1, 8, 64, 512)


def unit_vectors(n: int, dim: int, seed: int) -> Matrix:
    """Random directions, made in parts so that the largest set needs no second copy."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, dim), np.float32)
    for first in range(0, n, 10_000):
        part = rng.standard_normal((min(10_000, n - first), dim), dtype=np.float32)
        out[first : first + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return out


def build_ours(docs: Documents, scans: Iterable[str], one_shot: bool = False) -> dict[str, Search]:
    found: dict[str, Search] = {}
    for scan in scans:
        found[SCANS[scan]] = partial(ragfast.FlatIndex.from_vectors(docs.vectors, scan=scan).search, k=docs.k)
    if one_shot:
        found[ONE_SHOT] = partial(ragfast.search, vectors=docs.vectors, k=docs.k)
    return found


@pytest.mark.parametrize("name", [SCANS["auto"], SCANS["float32"], ONE_SHOT, *PEERS])
@pytest.mark.parametrize("n_queries", [1, 16, 256])
def test_search(benchmark: Any, name: str, n_queries: int) -> None:
    limit_threads(1)
    docs, queries = Documents(unit_vectors(50_000, 384, 0), 10, 1), unit_vectors(n_queries, 384, 1)
    if name in PEERS:
        calls, left_out = build_peers(docs, [name])
        if left_out:
            pytest.skip(f"{name}: {left_out[name]}")
    else:
        calls = build_ours(docs, ["auto", "float32"], one_shot=True)
    found = ids_of(benchmark(calls[name], queries))
    exact = ragfast.search(queries, docs.vectors, 10).ids
    if name not in PEERS or PEERS[name].exact:
        assert np.array_equal(found, exact)
    else:
        assert recall(found, exact) > 0.5


def ids_of(found: Any) -> Any:
    return found.ids if isinstance(found, ragfast.Hits) else found


def recall(found: Any, exact: Any) -> float:
    """Of as many queries as `exact` has."""
    return float(np.mean([len(np.intersect1d(f, e)) / len(e) for f, e in zip(found[: len(exact)], exact, strict=True)]))


def how(found: Any) -> str:
    """What the statistics of a search say, if there are any."""
    if not isinstance(found, ragfast.Hits) or found.stats is None:
        return ""
    stats = found.stats
    paths = Counter(stats.path.tolist())
    path = next(iter(paths)) if len(paths) == 1 else ", ".join(f"{n} {name}" for name, n in paths.items())
    prefix = f" by prefix {stats.prefix}" if stats.prefix else ""
    return f"rescored {stats.rescored.mean():.1f} a query, {path}{prefix}"


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def read(memory: Any, threads: int) -> None:
    """Reads an array of int32 once, with as many threads as the contenders have."""
    scan = partial(np.bitwise_or.reduce, axis=None)
    if threads == 1:
        scan(memory)
    else:
        list(pool(threads).map(scan, np.array_split(memory, threads)))


def floors(docs: Documents) -> dict[str, tuple[int, Callable[[], Any]]]:
    """{name: (bytes, call)}. The high plane of the codes has 3/4 byte for each element, padded to panels of 32
    documents and groups of 16 dimensions; as many bytes of the vectors are read in its place."""
    n, dim = docs.vectors.shape
    memory = docs.vectors.reshape(-1).view(np.int32)
    high = memory[: (-(-n // 32) * 32) * (-(-dim // 16) * 16) * 3 // 4 // 4]
    return {
        name: (part.nbytes, partial(read, part, docs.threads)) for name, part in ((READ, memory), (READ_HIGH, high))
    }


def timed(
    searches: dict[str, Search], queries: Matrix, seconds: float, least: int, others: dict[str, Callable[[], Any]]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians of the searches and of `others`, taking turns, and what each search found."""
    found: dict[str, Any] = {}

    def run(name: str) -> None:
        found[name] = searches[name](queries)

    calls: dict[str, Callable[[], Any]] = {**others, **{name: partial(run, name) for name in searches}}
    touch: dict[str, Callable[[], Any]] = {
        **others,
        **{name: partial(search, queries[:1]) for name, search in searches.items()},
    }
    return medians(calls, seconds, least, touch), found


def fastest_exact(times: dict[str, float]) -> str | None:
    return min((name for name in times if name in PEERS and PEERS[name].exact), key=times.__getitem__, default=None)


def print_table(
    docs: Documents, all_queries: Matrix, batches: Sequence[int], options: argparse.Namespace
) -> list[float]:
    """Medians at each B; returns ours in nanoseconds per element and query, for comparing dimensions."""
    n, dim = docs.vectors.shape
    searches = build_ours(docs, options.scans, options.one_shot)
    peers, left_out = build_peers(docs, list(PEERS) if options.peers is None else options.peers)
    searches |= peers
    print(f"\nN {n:,}, D {dim}, k {docs.k}" + "".join(f"; without {name}: {why}" for name, why in left_out.items()))
    reads = floors(docs)
    ours = []
    for b in batches:
        queries = all_queries[:b]
        fit, left_out = fitting(searches, n, b)
        for name, why in left_out.items():
            print(f"  B {b:<5d} {name:25s} {'left out':>13s}: {why}")
        floor_calls = {name: call for name, (_, call) in reads.items()}
        others = OtherLoad()
        times, found = timed(fit, queries, options.seconds, options.least or 5, floor_calls)
        print(f"  B {b:<5d} {others}")
        exact = ragfast.search(queries, docs.vectors, docs.k).ids
        fastest = fastest_exact(times)
        for name, t in times.items():
            line = f"  B {b:<5d} {name:25s} {t * 1e3:10.3f} ms "
            if name in reads:
                print(f"{line}{reads[name][0] / t * 1e-9:8.1f} GB/s")
                continue
            line += f"{2e-9 * n * dim * b / t:8.1f} GOP/s  recall {recall(ids_of(found[name]), exact):.4f}  "
            if name in PEERS:
                line += f"ours {t / times[OURS]:.2f} times as fast"
                if isinstance(search := searches[name], PanoramaSearch):
                    spent = min(timeit.repeat(partial(search.rotate, queries), number=1, repeat=5))
                    line += f", {spent * 1e3:.3f} ms for the rotation of the queries"
            else:
                line += f"{times[fastest] / t:.2f} times {fastest}, " if fastest else ""
                line += how(found[name])
            print(line, flush=True)
        ours.append(times[OURS] / (n * dim * b) * 1e9)
    return ours


def print_grid(options: argparse.Namespace) -> None:
    """One line for each (N, D, B): the fastest exact peer's median over ours, marked where the peer is faster."""
    cells = list(itertools.product(options.n or GRID[0], options.dims or GRID[1]))
    batches = options.batches or GRID[2]
    say: Callable[[str], Any] = partial(print, flush=True)
    bar = None
    with contextlib.suppress(ImportError):
        from tqdm import tqdm

        bar, say = tqdm(total=len(cells) * len(batches), disable=None), tqdm.write
    lost = []
    for n, dim in cells:
        docs = Documents(unit_vectors(n, dim, 0), options.k, options.threads)
        searches = build_ours(docs, ["auto"])
        peers, left_out = build_peers(docs, FLAT if options.peers is None else options.peers)
        searches |= peers
        for b in batches:
            queries = unit_vectors(b, dim, 1)
            fit, left_out_here = fitting(searches, n, b)
            others = OtherLoad()
            times, found = timed(fit, queries, options.seconds, options.least or 1, {})
            disturbed = f"  ({others})" if others.cores() > 0.1 else ""
            exact = ragfast.search(queries[:64], docs.vectors, docs.k).ids  # of all, it would take longer than the cell
            line = f"N {n:9,d}  D {dim:<5d} B {b:<4d} {times[OURS] * 1e3:10.3f} ms  "
            if fastest := fastest_exact(times):
                ratio = times[fastest] / times[OURS]
                line += f"{ratio:6.2f} times {fastest:14s}"
            line += f"  {how(found[OURS])}{disturbed}"
            if recall(ids_of(found[OURS]), exact) < 1:
                line += "  WRONG"
            if fastest and ratio < 1:
                line += "  <- a peer is faster"
                lost.append(line)
            missing = {**left_out, **left_out_here}
            say(line + "".join(f"; without {name}: {why}" for name, why in missing.items()))
            if bar is not None:
                bar.update()
        del docs, searches, peers, fit, found  # before the next cell's gigabytes
    if bar is not None:
        bar.close()
    print(f"\nA peer is faster in {len(lost)} of {len(cells) * len(batches)} cells:", *lost, sep="\n  ")


def print_build(docs: Documents, seconds: float) -> None:
    """How fast an index is made, and what it holds."""
    n, dim = docs.vectors.shape
    print(f"\nFlatIndex.from_vectors, N {n:,}, D {dim}, {docs.threads} thread(s)")
    calls = {scan: partial(ragfast.FlatIndex.from_vectors, docs.vectors, scan=scan) for scan in ("float32", "int8")}
    held = {scan: build().nbytes / n for scan, build in calls.items()}
    others = OtherLoad()
    times = medians(calls, seconds)
    print(f"  {others}")
    for scan, t in times.items():
        rate = docs.vectors.nbytes / t * 1e-9
        line = f"  {scan:8s} {t * 1e3:10.1f} ms {rate:6.2f} GB/s {held[scan]:9.1f} bytes a vector"
        if scan == "int8":
            line += f", {held[scan] - held['float32']:.1f} of them codes (1.05 D + 16 is {1.05 * dim + 16:.1f})"
        print(line)


def print_small(threads: int) -> None:
    """The notebook's size, where the call itself is what costs: the least of many, in microseconds."""
    n, dim, k = 20, 64, 5
    docs, queries = Documents(unit_vectors(n, dim, 0), k, threads), unit_vectors(1, dim, 1)
    calls = build_ours(docs, ["auto"], one_shot=True)
    calls |= build_peers(docs, ["NumPy", "FAISS default", "FAISS tuned"])[0]
    retriever = ragfast.SimpleRetriever(dim)
    vectors64, query64 = docs.vectors.astype(np.float64), queries[0].astype(np.float64)

    def notebook_retrieve() -> Any:
        similarities = np.dot(vectors64, query64)
        ids = np.argsort(similarities)[::-1][:k]
        weights = np.exp(similarities[ids] - np.max(similarities[ids]))
        return ids, weights / np.sum(weights)

    def argsort_search() -> Any:
        scores = docs.vectors @ queries[0]
        ids = np.argsort(scores)[::-1][:k]
        return scores[ids], ids

    small: dict[str, Callable[[], Any]] = {name: partial(call, queries) for name, call in calls.items()}
    small["NumPy argsort"] = argsort_search
    small["SimpleRetriever.retrieve"] = lambda: retriever.retrieve(query64, vectors64, k)
    small["the notebook's retrieve"] = notebook_retrieve
    print(f"\nN {n}, D {dim}, B 1, k {k}, {threads} thread(s)")
    for name, call in small.items():
        print(f"  {name:25s} {min(timeit.repeat(call, number=2000, repeat=15)) / 2000 * 1e6:8.2f} us")


def print_latency(docs: Documents, queries: Matrix, n_calls: int) -> None:
    """Calls of one query each, in sequence, with 1 and 2 threads, alone and while the other cores are kept busy."""
    n, dim = docs.vectors.shape
    print(f"\nB 1, N {n:,}, D {dim}, k {docs.k}, {n_calls} calls in sequence")
    searches = build_ours(docs, ["auto"])
    peers, left_out = build_peers(docs, ["FAISS default"])
    for name, why in left_out.items():
        print(f"  without {name}: {why}")
    for threads, n_busy in itertools.product((1, 2), (0, other_cores())):
        limit_threads(threads)
        state = f"{n_busy} core(s) busy" if n_busy else "idle"
        with busy_cores(n_busy):
            for name, search in (searches | peers).items():
                others = OtherLoad()
                line = describe(durations(search, queries, n_calls))
                print(f"  {threads} thread(s), {state:16s} {name:15s} {line}  ({others})", flush=True)


def from_file(path: Path) -> Matrix:
    """Rows (n,D) in float32; of another dtype they are converted."""
    return np.ascontiguousarray(np.load(path), np.float32)


def given_or_made(options: argparse.Namespace, n: int, dim: int, n_queries: int) -> tuple[Documents, Matrix]:
    """Documents and queries: those of the files, all unless --n says how many, or random unit vectors."""
    if options.vectors:
        vectors, queries = from_file(options.vectors)[: n if options.n else None], from_file(options.queries)
        if len(queries) < n_queries:
            raise SystemExit(f"--queries: {n_queries} are needed, the file holds {len(queries)}")
    else:
        vectors, queries = unit_vectors(n, dim, 0), unit_vectors(n_queries, dim, 1)
    return Documents(vectors, options.k, options.threads), queries[:n_queries]


def print_tables(options: argparse.Namespace) -> None:
    batches = options.batches or [1, 16, 256]
    ours = {}
    for n, dim in itertools.product(options.n or [1_000_000], options.dims or [768]):
        docs, queries = given_or_made(options, n, dim, max(batches))
        ours[n, dim] = print_table(docs, queries, batches, options)
        del docs, queries  # before the next are made
    if len(ours) > 1:
        print(f"\n{OURS}, ns for each element and query")
        for (n, dim), values in ours.items():
            print(
                f"  N {n:<9,d} D {dim:<5d}"
                + "".join(f"  B {b} {ns:.4f}" for b, ns in zip(batches, values, strict=True))
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", help="documents (default 1,000,000; 100,000 for latency and build)")
    parser.add_argument("--dims", type=int, nargs="+", help="dimensions (default 768)")
    parser.add_argument("--batches", type=int, nargs="+", help="queries (default 1 16 256)")
    parser.add_argument("--vectors", type=Path, help="a .npy of documents (N,D), in place of random ones; --n cuts it")
    parser.add_argument("--queries", type=Path, help="a .npy of queries (B,D) for them")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", choices=ragfast.available_isas(), help="ragfast's level; peers keep theirs")
    parser.add_argument("--seconds", type=float, help="least time for each batch size (default 20; grid 2, build 5)")
    parser.add_argument("--least", type=int, help="least rounds for each batch size (default 5; grid 1)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="default all; grid: those that read every element")
    parser.add_argument(
        "--scans", nargs="+", choices=SCANS, default=["auto", "float32"], help="of FlatIndex (default auto float32)"
    )
    parser.add_argument("--one-shot", action="store_true", help="ragfast.search too")
    parser.add_argument("--calls", type=int, default=1000, help="of --latency (default 1000)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--grid", action="store_true", help="one line for each N, D and B of a grid (--n --dims --batches)"
    )
    modes.add_argument("--latency", action="store_true", help="p50, p99 and p999 of single queries")
    modes.add_argument("--build", action="store_true", help="GB/s of from_vectors, bytes a vector")
    modes.add_argument("--small", action="store_true", help="the notebook's size only")
    options = parser.parse_args()
    if (options.vectors is None) != (options.queries is None):
        parser.error("--vectors and --queries go together")
    if options.vectors and (options.grid or options.small):
        parser.error("--vectors is for the table, --latency and --build")
    if options.isa:
        ragfast.set_isa(options.isa)
    options.scans = ["auto", *(scan for scan in options.scans if scan != "auto")]  # ratios are to "auto"
    seconds = {"grid": 2.0, "build": 5.0}.get(next((m for m in ("grid", "build") if getattr(options, m)), ""), 20.0)
    options.seconds = seconds if options.seconds is None else options.seconds
    limit_threads(options.threads)
    print(f"ragfast {ragfast.__version__}, {ragfast.isa()}, {options.threads} thread(s); medians of calls in turns")
    if options.small:
        print_small(options.threads)
    elif options.grid:
        print_grid(options)
    elif options.latency or options.build:
        for n, dim in itertools.product(options.n or [100_000], options.dims or [768]):
            docs, queries = given_or_made(options, n, dim, 64)
            if options.latency:
                print_latency(docs, queries, options.calls)
            else:
                print_build(docs, options.seconds)
    else:
        print_tables(options)


if __name__ == "__main__":
    main()
