"""The sections that search: what they yield, what they leave out and why, and how results are judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ragfast_bench import data, grid, results, search, search_peers, sections, timing, verdicts
from ragfast_bench.data import unit_vectors
from ragfast_bench.documents import Documents
from ragfast_bench.search import FLOAT32, ONE_SHOT, OURS, Contest, Limits
from ragfast_bench.search_oracle import Oracle
from ragfast_bench.search_peers import PEERS

import ragfast

MACHINE = results.Machine(
    processor="a processor",
    cores=2,
    memory=8e9,
    caches={"L1": 32e3, "L2": 1e6},
    system="a system",
    python="3",
    isa="avx2",
    threads=1,
    pinned=(),
    read_rate=1e9,
    peaks={"float32": 1e11, "int8": 4e11},
)
LIMITS = Limits(0.01, least=1, patience=10.0)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timing.in_turns
    monkeypatch.setattr(timing, "in_turns", lambda calls, *more: real(calls, 0.01, 1))


def silent(what: str) -> None:
    pass


def contest(peers: list[str], n: int = 300, k: int = 10, unit: bool = True) -> Contest:
    docs = Documents(unit_vectors(n, 32, 0), k, 1, unit)
    return Contest("search", "random", docs, unit_vectors(16, 32, 1), (OURS, FLOAT32, ONE_SHOT), peers, silent)


@pytest.mark.usefixtures("short")
def test_the_search_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(name: str, settings: sections.Settings, say: sections.Say) -> Any:
        if name == "absent":
            raise results.BenchError("it is not installed")
        return SimpleNamespace(
            name=name,
            what="",
            vectors=unit_vectors(300, 32, 0) * np.float32(1 if name == "unit" else 2),
            queries=unit_vectors(5, 32, 1),
            unit=name == "unit",
        )

    monkeypatch.setattr(data, "names", lambda settings: ["unit", "longer", "absent"])
    monkeypatch.setattr(data, "load", load)
    settings = sections.Settings("quick", peers=frozenset({"NumPy", "scikit-learn"}), k=7)
    left_out, said = {}, []
    tasks = list(search.measure(settings, MACHINE, said.append, left_out.__setitem__))
    assert left_out == {"absent": "it is not installed"}
    assert "building NumPy" in said
    assert search.planned(settings) >= len(tasks)
    assert [task.shape for task in tasks] == [{"N": 300, "D": 32, "B": b, "k": 7} for b in (1, 5, 1, 5)]
    assert len({task.name for task in tasks}) == 4
    for task in tasks:
        named = {result.contender for result in task.results} | set(task.left_out)
        assert named == {OURS, FLOAT32, ONE_SHOT, "NumPy", "scikit-learn"}
        assert task.results[0].contender == OURS
        assert ("scikit-learn" in task.left_out) >= (task.data == "longer")
        for result in task.results:
            assert result.recall == 1
            assert result.times
            assert "WRONG" not in result.note
            assert result.ours == (result.contender not in PEERS)
            assert result.floor
    run = results.Run("", "", "", 0.0, MACHINE, search_peers.library_versions(), tuple(tasks))
    results.save(run, tmp_path / "run.json")
    assert results.load(tmp_path / "run.json") == run


@pytest.mark.usefixtures("short")
def test_the_grid_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "sizes", lambda settings: ((50, 1200), (16, 24), (1, 3)))
    settings = sections.Settings("quick")
    tasks = list(grid.measure(settings, MACHINE, silent, lambda what, why: pytest.fail(why)))
    assert len(tasks) == grid.planned(settings) == 8
    for task in tasks:
        named = {result.contender for result in task.results} | set(task.left_out)
        assert named == {OURS, *search_peers.FLAT}
        assert all(result.recall == 1 and "WRONG" not in result.note for result in task.results)
        assert [one.verdict for one in verdicts.comparisons(task)] != ["alone"]


def test_every_peer_is_a_result_or_named_where_k_is_more_than_there_are() -> None:
    with contest(list(PEERS), n=3, k=5) as running:
        task = running.task(2, MACHINE, LIMITS, "")
    assert {result.contender for result in task.results} | set(task.left_out) == {OURS, FLOAT32, ONE_SHOT, *PEERS}
    assert {OURS, FLOAT32, ONE_SHOT, "NumPy"} <= {result.contender for result in task.results}
    for result in task.results:
        assert "WRONG" not in result.note
        assert result.recall == 1 or not result.exact
    assert all(task.left_out.values())


def test_a_wrong_result_of_ours_is_said_to_be() -> None:
    with contest([]) as running:
        vectors = running.docs.vectors
        running.searches[OURS] = lambda queries: ragfast.search(-queries, vectors, 10)
        task = running.task(3, MACHINE, LIMITS, "")
    wrong, right, _ = task.results
    assert wrong.note.startswith("WRONG")
    assert wrong.recall == 0
    assert "WRONG" not in right.note


def test_a_wrong_order_of_ours_is_said_to_be() -> None:
    with contest([]) as running:
        vectors = running.docs.vectors

        def turned(queries: Any) -> ragfast.Hits:
            hits = ragfast.search(queries, vectors, 10)
            return ragfast.Hits(hits.scores, np.ascontiguousarray(hits.ids[:, ::-1]), hits.logprobs)

        running.searches[OURS] = turned
        task = running.task(3, MACHINE, LIMITS, "")
    assert task.results[0].note.startswith("WRONG")
    assert task.results[0].recall == 1


def test_a_peer_that_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy_search = PEERS["NumPy"].build
    monkeypatch.setitem(PEERS, "one by one", search_peers.Peer("one by one", "numpy", numpy_search, batches=False))
    with contest(["NumPy", "one by one", "torch"]) as running:
        fastest = {"torch": (1, 1.9)} if "torch" in running.searches else {}
        running.seen = {"NumPy": (1, 2.0), "one by one": (1, 2.0)} | fastest
        some = running.task(6, MACHINE, LIMITS, "")
        running.seen = {"NumPy": (1, 4.0), "one by one": (1, 4.0), "torch": (1, 3.9)}
        more = running.task(16, MACHINE, LIMITS, "")
    assert some.left_out["one by one"] == "6 queries would take about 12.0 s: 1 query took 2 s"
    assert "NumPy" not in some.left_out
    assert set(more.left_out) >= {"NumPy", "one by one"}
    if fastest:
        assert "torch" in {result.contender for result in more.results}  # the fastest peer is always asked
    assert not {"NumPy", "one by one"} & {result.contender for result in more.results}


def test_a_peer_that_fails_is_left_out_and_ours_may_not() -> None:
    def fail(queries: Any) -> Any:
        raise ValueError("not so many")

    with contest(["NumPy"]) as running:
        running.searches["NumPy"] = fail
        assert running.task(1, MACHINE, LIMITS, "").left_out == {"NumPy": "fails here: ValueError: not so many"}
        running.searches[OURS] = fail
        with pytest.raises(ValueError, match="not so many"):
            running.task(1, MACHINE, LIMITS, "")


def test_a_slow_call_is_its_own_result() -> None:
    with contest(["NumPy"]) as running:
        task = running.task(1, MACHINE, Limits(0.01, least=1, patience=0.0), "")
    assert {result.times.calls for result in task.results if result.times} == {1}


def test_large_data_is_touched_before_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(search, "TOUCHED", 0)
    with contest(["NumPy"]) as running:
        numpy_search = running.searches["NumPy"]
        running.searches = {"NumPy": lambda queries: asked.append(len(queries)) or numpy_search(queries)}
        running.task(3, MACHINE, LIMITS, "")
    assert 1 in asked
    assert 3 in asked


@pytest.mark.parametrize("stop", [False, True])
def test_what_peers_hold_is_given_back(stop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Held:
        def __call__(self, queries: Any) -> Any:
            return np.zeros((len(queries), 1), np.int64)

        def close(self) -> None:
            closed.append(self)

    def measure() -> Iterator[results.Task]:
        with contest(["held"]) as running:
            yield running.task(1, MACHINE, LIMITS, "")
            yield running.task(2, MACHINE, LIMITS, "")

    monkeypatch.setitem(PEERS, "held", search_peers.Peer("held", "held", lambda docs: Held(), exact=False))
    tasks = measure()
    next(tasks)
    assert not closed
    if stop:
        tasks.close()  # type: ignore[attr-defined]
    else:
        assert len(list(tasks)) == 1
    assert len(closed) == 1


def test_floors() -> None:
    floor = search.scan_floor(MACHINE, (1000, 500), 1, 4, "float32")
    assert floor == results.Floor(2e-3, "memory", 2e6, 1e6, "float32")
    floor = search.scan_floor(MACHINE, (1000, 500), 1000, 4, "float32")
    assert floor == results.Floor(1e-2, "arithmetic", 2e6, 1e9, "float32")
    again = search.scan_floor(MACHINE, (1000, 500), 10, 4, "float32", passes=10)
    assert again == results.Floor(2e-2, "memory", 2e7, 1e7, "float32")
    cached = search.scan_floor(MACHINE, (1000, 250), 1, 4, "float32")
    assert cached == results.Floor(5e-6, "arithmetic", 1e6, 5e5, "float32")
    assert search.scan_floor(MACHINE, (1000, 500), 1, 2, "bfloat16") is None


def test_our_floor_follows_what_the_search_did() -> None:
    vectors, queries = unit_vectors(9000, 256, 0), unit_vectors(1, 256, 1)

    def floor(scan: str) -> results.Floor | None:
        found = ragfast.FlatIndex.from_vectors(vectors, scan=scan).search(queries, 10)
        assert scan in search.how(found)
        return search.our_floor(MACHINE, found, vectors.shape, 1)

    exact, coded = floor("float32"), floor("int8")
    assert exact
    assert (exact.bytes, exact.arithmetic) == (9000 * 256 * 4, "float32")
    assert coded
    assert (coded.bytes, coded.arithmetic) == (9000 * 256 * 0.75, "int8")


def test_the_oracle_tells_wrong_from_rounded() -> None:
    """One document for another that is hardly better is what float32 does; for one that is much better it is not."""
    vectors = np.zeros((300, 8), np.float32)
    vectors[:, 0] = np.linspace(0, 1, 300, dtype=np.float32)
    vectors[298, 0] = np.float32(1) - np.float32(2) ** -20
    oracle = Oracle(vectors, np.eye(8, dtype=np.float32)[[0] * 200], 1)
    right = np.full((200, 1), 299)
    assert oracle.agrees(right)
    assert (oracle.recall(right), oracle.verdict(right, True)) == (1.0, "")
    rounded = np.full((200, 1), 298)
    assert not oracle.agrees(rounded)
    assert (oracle.recall(rounded), oracle.verdict(rounded, True)) == (0.0, "")
    assert oracle.verdict(np.full((200, 1), 100), True).startswith("WRONG")
    assert oracle.verdict(np.full((200, 1), 100), False) == ""
    last = right.copy()
    last[-1] = 100  # beyond the first queries of a batch
    assert oracle.verdict(last, True).startswith("WRONG")
    assert oracle.verdict(np.full((1, 1), -1), True).startswith("WRONG")
