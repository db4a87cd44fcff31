"""The scan of codes on data that break naive codes, against our own float32 scan of the same, in turns in one process.

``python benchmarks/bench_hard.py`` prints, for each kind of data and batch size, how many times as fast as
``scan="float32"`` the index is as people get it (``scan="auto"``), how queries were searched, and whether the results
have the same bits. Codes that do not repay themselves are given up on the way; that must cost little.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from interleaved import medians
from numpy.typing import NDArray
from peers import limit_threads

import ragfast

Matrix = NDArray[np.float32]


def random_rows(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    return rng.standard_normal((n, dim), dtype=np.float32)


def near_duplicates(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    """Clusters of thousands that differ in the last place."""
    rows = random_rows(rng, max(1, n // 5000), dim)[rng.integers(0, max(1, n // 5000), n)]
    return (rows * (1 + 2.0**-23 * rng.integers(-2, 3, rows.shape))).astype(np.float32)


def outlier_dimension(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    rows = random_rows(rng, n, dim)
    rows[:, 3] *= 50
    return rows


def outlier_mean(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    rows = random_rows(rng, n, dim)
    rows[:, 3] += 50
    return rows


def log_normal_norms(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    return random_rows(rng, n, dim) * np.exp(rng.standard_normal((n, 1))).astype(np.float32)


def sparse(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    return random_rows(rng, n, dim) * (rng.random((n, dim)) < 0.02).astype(np.float32)


def half_zero(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    rows = random_rows(rng, n, dim)
    rows[::2] = 0
    return rows


def constant(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    return np.full((n, dim), 0.25, np.float32)


KINDS: dict[str, Callable[[np.random.Generator, int, int], Matrix]] = {
    "random": random_rows,
    "near-duplicates": near_duplicates,
    "outlier dimension": outlier_dimension,
    "outlier mean": outlier_mean,
    "log-normal norms": log_normal_norms,
    "sparse": sparse,
    "half zero": half_zero,
    "constant": constant,
}


def same_bits(a: ragfast.Hits, b: ragfast.Hits) -> bool:
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.scores, b.scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    limit_threads(1)
    print(f"N {options.n:,}, D {options.dim}, k {options.k}, 1 thread, {ragfast.isa()}")
    for kind, make in KINDS.items():
        rng = np.random.default_rng(0)
        rows = make(rng, options.n, options.dim)
        queries = rows[rng.integers(0, options.n, max(options.batches))]
        queries = (queries + 0.3 * random_rows(rng, *queries.shape) * queries.std()).astype(np.float32)
        indexes = {scan: ragfast.FlatIndex.from_vectors(rows, scan=scan) for scan in ("auto", "float32")}
        for b in options.batches:
            search: dict[str, Callable[[], Any]] = {
                scan: partial(index.search, queries[:b], options.k, dtype=np.float64) for scan, index in indexes.items()
            }
            times = medians(search, options.seconds, least=3)
            hits = search["auto"]()
            paths, counts = np.unique(hits.stats.path, return_counts=True)
            print(
                f"  {kind:18s} B {b:<4d} {times['auto'] * 1e3:9.3f} ms, {times['float32'] / times['auto']:5.2f} times"
                f" float32, rescored {hits.stats.rescored.mean():8.1f} a query,"
                f" {', '.join(f'{n} {path}' for path, n in zip(paths, counts, strict=True))}"
                f"{'' if same_bits(hits, search['float32']()) else '  WRONG'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
