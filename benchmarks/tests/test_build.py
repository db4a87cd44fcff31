"""Building: that what is built is an index, and that what it is said to hold is what it holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ragfast_bench import build, data
from ragfast_bench.documents import Documents
from ragfast_bench.results import BenchError, Machine, Task
from ragfast_bench.sections import Settings

import ragfast

MACHINE = Machine("", 1, 1e9, {"L1": 1.0}, "", "", "", 1, (), 1e10, {})
N, DIM = 6000, 64


@pytest.fixture(scope="module")
def documents() -> Documents:
    return Documents(data.made("random", N, DIM, 256).vectors, 10, 1)


def task(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(build, "_data_names", lambda settings: ["random"])
    made = data.made

    def small(kind: str, n: int, dim: int, n_queries: int) -> data.DataSet:
        return made(kind, N, DIM, n_queries)

    monkeypatch.setattr(data, "made", small)
    (found,) = build.measure(settings, MACHINE, lambda what: None, lambda what, why: None)
    return found


def test_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    found = task(Settings(size="quick"), monkeypatch)
    assert found.shape == {"N": N, "D": DIM}
    by_name = {result.contender: result for result in found.results}
    assert set(by_name) == set(build.BUILDERS) - {"pgvector"}
    assert set(found.left_out) == {"NumPy", "torch", "usearch exact", "pgvector"}
    for name, result in by_name.items():
        assert result.times is not None
        assert result.recall is not None
        assert result.recall >= (0.999 if result.exact else 0.9), name
        assert result.floor is not None
        held = result.measures["bytes per vector"] * N
        assert result.floor.bytes == pytest.approx(N * DIM * 4 + held)
        assert result.measures["input bytes per second"] == pytest.approx(N * DIM * 4 / result.times.median)
    ours = found.ours()
    assert ours is not None
    assert ours.contender == "ragfast"


def test_peers_that_nobody_asked_for_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    found = task(Settings(size="quick", peers=frozenset({"NumPy"})), monkeypatch)
    assert [result.contender for result in found.results] == ["ragfast", "ragfast float32", "ragfast float16"]
    assert set(found.left_out) == {"NumPy"}


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    found = task(Settings(size="quick", peers=frozenset({"FAISS flat"})), monkeypatch)
    assert found.left_out == {"FAISS flat": "not installed"}


def test_peers_that_there_is_no_memory_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_memory", lambda: 1e6)
    found = task(Settings(size="quick", peers=frozenset({"FAISS flat"})), monkeypatch)
    assert found.left_out == {"FAISS flat": "would hold 0.0 GB"}
    assert [result.contender for result in found.results] == ["ragfast", "ragfast float32", "ragfast float16"]


def test_what_is_built_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opened:
        open = 0

        def __init__(self, docs: Documents) -> None:
            Opened.open += 1

        def close(self) -> None:
            Opened.open -= 1

    builder = build.Builder(Opened, lambda index: 5.0, lambda index, queries, k: np.zeros((len(queries), k), np.int64))
    monkeypatch.setattr(build, "BUILDERS", {"ragfast": build.BUILDERS["ragfast"], "opened": builder})
    found = task(Settings(size="quick"), monkeypatch)
    assert found.results[1].contender == "opened"
    assert found.results[1].recall is not None
    assert found.results[1].recall < 0.5
    assert Opened.open == 0


def test_bytes_held_by_ours(documents: Documents) -> None:
    def held(name: str) -> float:
        return build.BUILDERS[name].held(build.BUILDERS[name].build(documents))

    rows = N * DIM * 4
    assert rows < held("ragfast float32") < 1.1 * rows
    assert held("ragfast") > held("ragfast float32") + 0.9 * rows / 4
    assert ragfast.FlatIndex.from_vectors(documents.vectors, dtype="float16").nbytes == held("ragfast float16")
    assert held("ragfast float16") < held("ragfast")


@pytest.mark.parametrize("name", ["FAISS flat", "FAISS SQ8", "FAISS Panorama"])
def test_bytes_held_by_faiss_are_those_it_would_write_to_a_file(name: str, documents: Documents) -> None:
    faiss = pytest.importorskip("faiss")
    built = build.BUILDERS[name].build(documents)
    written = faiss.serialize_index(getattr(built, "index", built)).nbytes
    rotation = 4 * DIM * DIM if name == "FAISS Panorama" else 0
    assert build.BUILDERS[name].held(built) - rotation == pytest.approx(written, rel=0.01)


def test_data_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, settings: Settings, say: Callable[[str], None]) -> data.DataSet:
        raise BenchError("not here")

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(build, "_data_names", lambda settings: ["wiki"])
    missing: dict[str, str] = {}
    assert list(build.measure(Settings(), MACHINE, lambda what: None, missing.__setitem__)) == []
    assert missing == {"wiki": "not here"}


def test_what_a_size_plans() -> None:
    assert build.planned(Settings(size="quick")) == 1
    assert build.planned(Settings()) == 2
    assert np.prod(build.RANDOM) * 4 < 200e6
