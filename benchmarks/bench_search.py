"""Exact search against NumPy, torch and FAISS (default, and with its BLAS threshold tuned), same vectors, same threads.

``pytest benchmarks/bench_search.py`` times each with pytest-benchmark. ``python benchmarks/bench_search.py`` runs them
in turns in one process and prints medians, ratios and the floors: the time in which this machine reads the vectors
once, and the GFLOP/s and GB/s that each median amounts to. A peer that is not installed is named, not left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from interleaved import medians
from numpy.typing import NDArray

import ragfast

Matrix = NDArray[np.float32]
OURS, ONE_SHOT, READ = "ragfast index", "ragfast.search", "one read"


def unit_vectors(n: int, dim: int, seed: int) -> Matrix:
    """Random directions, made in parts so that the largest set needs no second copy."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, dim), np.float32)
    for first in range(0, n, 10_000):
        part = rng.standard_normal((min(10_000, n - first), dim), dtype=np.float32)
        out[first : first + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return out


def numpy_search(vectors: Matrix, k: int) -> Callable[[Matrix], Any]:
    def search(queries: Matrix) -> Any:
        scores = queries @ vectors.T
        ids = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, ids, 1), axis=1)
        return np.take_along_axis(ids, order, 1)

    return search


def torch_search(vectors: Matrix, k: int) -> Callable[[Matrix], Any]:
    import torch

    held = torch.from_numpy(vectors)
    return lambda queries: torch.topk(torch.from_numpy(queries) @ held.T, k).indices.numpy()


def faiss_search(vectors: Matrix, k: int, threshold: int | None) -> Callable[[Matrix], Any]:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    default = faiss.cvar.distance_compute_blas_threshold

    def search(queries: Matrix) -> Any:
        faiss.cvar.distance_compute_blas_threshold = default if threshold is None else threshold
        found = index.search(queries, k)[1]
        faiss.cvar.distance_compute_blas_threshold = default
        return found

    return search


PEERS: dict[str, Callable[[Matrix, int], Callable[[Matrix], Any]]] = {
    "NumPy": numpy_search,
    "torch": torch_search,
    "FAISS default": lambda vectors, k: faiss_search(vectors, k, None),
    "FAISS tuned": lambda vectors, k: faiss_search(vectors, k, 1),
}


def contenders(vectors: Matrix, k: int, peers: list[str]) -> tuple[dict[str, Callable[[Matrix], Any]], list[str]]:
    """{name: search} and the names of the peers that are not installed."""
    index = ragfast.FlatIndex.from_vectors(vectors)
    found: dict[str, Callable[[Matrix], Any]] = {OURS: lambda queries: index.search(queries, k).ids}
    found[ONE_SHOT] = lambda queries: ragfast.search(queries, vectors, k).ids
    absent = []
    for name in peers:
        try:
            found[name] = PEERS[name](vectors, k)
        except ImportError:
            absent.append(name)
    return found, absent


def limit_threads(threads: int) -> None:
    """ragfast, every BLAS and OpenMP in the process, and torch's own setting."""
    import threadpoolctl

    ragfast.set_num_threads(threads)
    for module, name in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        with contextlib.suppress(ImportError):
            getattr(importlib.import_module(module), name)(threads)
    threadpoolctl.threadpool_limits(threads)  # after the imports: it sees what is loaded


@pytest.mark.parametrize("name", [OURS, ONE_SHOT, *PEERS])
@pytest.mark.parametrize("n_queries", [1, 16, 256])
def test_search(benchmark: Any, name: str, n_queries: int) -> None:
    limit_threads(1)
    vectors, queries = unit_vectors(50_000, 384, 0), unit_vectors(n_queries, 384, 1)
    calls, absent = contenders(vectors, 10, [name] if name in PEERS else [])
    if absent:
        pytest.skip(f"{name} is not installed")
    assert np.array_equal(benchmark(calls[name], queries), ragfast.search(queries, vectors, 10).ids)


def recall(found: Any, exact: Any) -> float:
    return float(np.mean([len(np.intersect1d(f, e)) / len(e) for f, e in zip(found, exact, strict=True)]))


def print_table(n: int, dim: int, batches: list[int], k: int, peers: list[str], seconds: float) -> dict[str, float]:
    """Medians at each B; returns ours in nanoseconds per element, for comparing dimensions."""
    vectors = unit_vectors(n, dim, 0)
    calls, absent = contenders(vectors, k, peers)
    print(f"\nN {n:,}, D {dim}, k {k}" + (f"; not installed: {', '.join(absent)}" if absent else ""))
    ours = {}
    for b in batches:
        queries = unit_vectors(b, dim, 1)
        exact = ragfast.search(queries, vectors, k).ids
        timed: dict[str, Callable[[], Any]] = {READ: partial(np.bitwise_or.reduce, vectors.view(np.int32), axis=None)}
        timed |= {name: partial(call, queries) for name, call in calls.items()}
        touch = {READ: timed[READ], **{name: partial(call, queries[:1]) for name, call in calls.items()}}
        found = medians(timed, seconds, touch=touch)
        fastest = min((t for name, t in found.items() if name in PEERS), default=float("nan"))
        ours[f"B {b}"] = found[OURS] / (n * dim * b) * 1e9
        for name, t in found.items():
            note = "" if name == READ else f"  recall {recall(calls[name](queries), exact):.4f}"
            note += f"  {fastest / t:5.2f} times the fastest peer" if name in (OURS, ONE_SHOT) else ""
            rate = "" if name == READ else f"{2e-9 * n * dim * b / t:8.1f} GFLOP/s"
            print(f"  B {b:<5d} {name:15s} {t * 1e3:10.3f} ms {4e-9 * n * dim / t:7.1f} GB/s {rate:18s}{note}")
    return ours


def print_small(threads: int) -> None:
    """The notebook's size, where the call itself is what costs: the least of many, in microseconds."""
    n, dim, k = 20, 64, 5
    vectors, queries = unit_vectors(n, dim, 0), unit_vectors(1, dim, 1)
    calls, _ = contenders(vectors, k, [name for name in PEERS if name != "torch"])
    retriever = ragfast.SimpleRetriever(dim)
    vectors64, query64 = vectors.astype(np.float64), queries[0].astype(np.float64)

    def notebook_retrieve() -> Any:
        similarities = np.dot(vectors64, query64)
        ids = np.argsort(similarities)[::-1][:k]
        weights = np.exp(similarities[ids] - np.max(similarities[ids]))
        return ids, weights / np.sum(weights)

    def argsort_search() -> Any:
        scores = vectors @ queries[0]
        ids = np.argsort(scores)[::-1][:k]
        return scores[ids], ids

    timed: dict[str, Callable[[], Any]] = {name: partial(call, queries) for name, call in calls.items()}
    timed["NumPy argsort"] = argsort_search
    timed["SimpleRetriever.retrieve"] = lambda: retriever.retrieve(query64, vectors64, k)
    timed["the notebook's retrieve"] = notebook_retrieve
    print(f"\nN {n}, D {dim}, B 1, k {k}, {threads} thread(s)")
    for name, call in timed.items():
        print(f"  {name:25s} {min(timeit.repeat(call, number=2000, repeat=15)) / 2000 * 1e6:8.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="documents (default 1,000,000)")
    parser.add_argument("--dims", type=int, nargs="+", default=[768], help="dimensions (default 768)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256], help="queries (default 1 16 256)")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="least time for each batch size (default 20)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--small", action="store_true", help="the notebook's size only")
    options = parser.parse_args()
    limit_threads(options.threads)
    print(f"ragfast {ragfast.__version__}, {ragfast.isa()}, {options.threads} thread(s); medians of calls in turns")
    if options.small:
        print_small(options.threads)
        return
    per_element = {
        dim: print_table(options.n, dim, options.batches, options.k, options.peers, options.seconds)
        for dim in options.dims
    }
    if len(options.dims) > 1:
        print("\nragfast index, ns for each element and query")
        for dim, batch in itertools.product(options.dims, next(iter(per_element.values()))):
            print(f"  D {dim:<5d} {batch:8s} {per_element[dim][batch]:.4f}")


if __name__ == "__main__":
    main()
