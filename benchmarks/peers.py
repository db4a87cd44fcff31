"""The contenders of the search benchmarks: other libraries' searches of the same vectors, on the same threads."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ragfast

Matrix = NDArray[np.float32]
Search = Callable[[Matrix], Any]  # queries (B,D) to ids (B,K), or to ragfast's Hits

SPARE = 1 << 30  # bytes of memory that no contender may take


@dataclass(frozen=True)
class Documents:
    """The vectors (N,D) and what several contenders hold of them."""

    vectors: Matrix
    k: int
    threads: int

    @cached_property
    def faiss_flat(self) -> Any:
        import faiss

        index = faiss.IndexFlatIP(self.vectors.shape[1])
        index.add(self.vectors)
        return index


def numpy_search(docs: Documents) -> Search:
    def best(scores: Matrix) -> Any:
        ids = np.argpartition(scores, -docs.k, axis=1)[:, -docs.k :]
        order = np.argsort(-np.take_along_axis(scores, ids, 1), axis=1)
        return np.take_along_axis(ids, order, 1)

    def search(queries: Matrix) -> Any:
        scores = queries @ docs.vectors.T
        parts = range(0, len(scores), 64)  # argpartition's int64 for all queries would be twice the scores
        return np.concatenate([best(scores[first : first + 64]) for first in parts])

    return search


def torch_search(docs: Documents) -> Search:
    import torch

    held = torch.from_numpy(docs.vectors)
    return lambda queries: torch.topk(torch.from_numpy(queries) @ held.T, docs.k).indices.numpy()


def torch_bfloat16_search(docs: Documents) -> Search:
    import torch

    held = torch.from_numpy(docs.vectors).bfloat16()
    return lambda queries: torch.topk(torch.mm(torch.from_numpy(queries).bfloat16(), held.T), docs.k).indices.numpy()


def faiss_search(docs: Documents, threshold: int | None) -> Search:
    import faiss

    index = docs.faiss_flat
    default = faiss.cvar.distance_compute_blas_threshold

    def search(queries: Matrix) -> Any:
        faiss.cvar.distance_compute_blas_threshold = default if threshold is None else threshold
        found = index.search(queries, docs.k)[1]
        faiss.cvar.distance_compute_blas_threshold = default
        return found

    return search


class PanoramaSearch:
    """After a rotation to principal components, in which Panorama can leave out most of a document.

    The documents are centered, which changes all scores of a query alike, the queries are not. On 20,000 MiniLM
    embeddings 8 levels were the fastest of 4 to 32, and batches of 128 to 1024 as fast as each other.
    """

    def __init__(self, docs: Documents) -> None:
        import faiss

        n, dim = docs.vectors.shape
        self.k = docs.k
        self.rotation = faiss.PCAMatrix(dim, dim)
        self.rotation.train(docs.vectors[:: max(1, n // 100_000)])
        self.index = faiss.IndexFlatIPPanorama(dim, min(8, dim))
        self.index.add(self.rotation.apply(docs.vectors))
        self.rotation.have_bias = False

    def rotate(self, queries: Matrix) -> Any:
        return self.rotation.apply(queries)

    def __call__(self, queries: Matrix) -> Any:
        return self.index.search(self.rotate(queries), self.k)[1]


def usearch_search(docs: Documents) -> Search:
    from usearch.index import MetricKind, search

    def exact(queries: Matrix) -> Any:
        found = search(docs.vectors, queries, docs.k, MetricKind.IP, exact=True, threads=docs.threads)
        return found.keys.reshape(len(queries), -1).astype(np.int64)

    return exact


@dataclass(frozen=True)
class Peer:
    build: Callable[[Documents], Search]
    held: float = 0  # bytes for each element of the vectors, at the most while it is built
    scratch: float = 0  # bytes for each query and document while it searches
    scratch_limit: float = float("inf")
    exact: bool = True  # up to the rounding of float32
    docs_per_dim: int = 0


PEERS = {
    "NumPy": Peer(numpy_search, scratch=4),
    "torch": Peer(torch_search, scratch=4),
    "FAISS default": Peer(lambda docs: faiss_search(docs, None), held=4),
    "FAISS tuned": Peer(lambda docs: faiss_search(docs, 1)),  # the same index
    "usearch exact": Peer(usearch_search, scratch=16, scratch_limit=2e9),
    "FAISS Panorama": Peer(PanoramaSearch, held=12, docs_per_dim=2),
    "torch bfloat16, not exact": Peer(torch_bfloat16_search, held=2, scratch=2, exact=False),
}
FLAT = [name for name, peer in PEERS.items() if peer.exact and name != "FAISS Panorama"]
"""Those that read every element."""


def available_memory() -> float:
    """Bytes; infinite where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float("inf")


def build_peers(docs: Documents, names: list[str]) -> tuple[dict[str, Search], dict[str, str]]:
    """{name: search}, and {name: reason} of those left out."""
    n, dim = docs.vectors.shape
    found: dict[str, Search] = {}
    left_out = {}
    for name in names:
        peer = PEERS[name]
        if peer.held * n * dim + SPARE > available_memory():
            left_out[name] = f"would hold {peer.held * n * dim / 1e9:.1f} GB"
        elif n < peer.docs_per_dim * dim:
            left_out[name] = "too few documents for its PCA"
        else:
            try:
                found[name] = peer.build(docs)
            except ImportError:
                left_out[name] = "not installed"
    return found, left_out


def fitting(searches: dict[str, Search], n_docs: int, n_queries: int) -> tuple[dict[str, Search], dict[str, str]]:
    """Of `searches` those whose scratch memory for so many queries fits, and {name: reason} of the others."""
    found, left_out = {}, {}
    for name, search in searches.items():
        peer = PEERS.get(name)
        scratch = peer.scratch * n_docs * n_queries if peer else 0.0
        if peer and scratch > min(peer.scratch_limit, available_memory() - SPARE):
            left_out[name] = f"would take {scratch / 1e9:.1f} GB for {n_queries} queries"
        else:
            found[name] = search
    return found, left_out


def limit_threads(threads: int) -> None:
    """ragfast, every BLAS and OpenMP in the process, and torch's own setting; usearch is told at each call."""
    import threadpoolctl

    ragfast.set_num_threads(threads)
    for module, name in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        with contextlib.suppress(ImportError):
            getattr(importlib.import_module(module), name)(threads)
    threadpoolctl.threadpool_limits(threads)  # after the imports: it sees what is loaded
