"""An index that changes while it is used, against a dictionary of vectors and float64 arithmetic in NumPy."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex, Snapshot
from ragfast.index import id_set, writing

RNG = np.random.default_rng(7)
DIM = 12
STORED = {"float32": np.float32, "float16": np.float16}


def draw(n: int) -> NDArray[np.float32]:
    """Small integers: their products are exact in every order of summation, and there are many ties."""
    rows = RNG.integers(-3, 4, (n, DIM)).astype(np.float32)
    rows[:, 0] += 5  # none is zero
    return rows


Q = draw(5)


class Model:
    """What an index should be: documents by id, in the order in which ids first came."""

    def __init__(self, metric: str = "ip", dtype: str = "float32") -> None:
        self.metric, self.dtype = metric, dtype
        self.docs: dict[Any, NDArray[np.float64]] = {}
        self.first: dict[Any, int] = {}

    def put(self, ids: Any, vectors: NDArray[np.float32]) -> None:
        for doc_id, row in zip(ids, vectors.astype(np.float64), strict=True):
            stored = row / np.sqrt(row @ row) if self.metric == "cosine" else row
            self.docs[doc_id] = stored.astype(STORED[self.dtype]).astype(np.float64)
            self.first.setdefault(doc_id, len(self.first))

    def drop(self, ids: Any) -> None:
        for doc_id in ids:
            del self.docs[doc_id]

    def scores(self, queries: NDArray[np.float32]) -> tuple[list[Any], NDArray[np.float64]]:
        ids = sorted(self.docs, key=lambda doc_id: self.first[doc_id] if isinstance(doc_id, str) else doc_id)
        rows = np.array([self.docs[doc_id] for doc_id in ids]).reshape(-1, DIM)
        q = queries.astype(np.float64)
        if self.metric == "l2":
            return ids, -np.square(q[:, None] - rows).sum(axis=2)
        scores = q @ rows.T
        return ids, scores / np.linalg.norm(q, axis=1)[:, None] if self.metric == "cosine" else scores

    def check(self, index: FlatIndex | Snapshot, k: int = 7) -> None:
        order: Any = index.ids.tolist()
        assert len(index) == len(order) == len(self.docs)
        assert set(order) == set(self.docs)
        assert all(doc_id in index for doc_id in order[::37])
        rows = np.array([self.docs[doc_id] for doc_id in order]).reshape(-1, DIM)
        np.testing.assert_allclose(index.vectors, rows, rtol=1e-3 if self.dtype == "float16" else 1e-6)
        ids, scores = self.scores(Q)
        hits = index.search(Q, k, dtype=np.float64)
        none = None if hits.ids.dtype == object else -1
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        wanted = np.take_along_axis(scores, order, axis=1)
        if self.metric == "cosine":
            np.testing.assert_allclose(hits.scores[:, : wanted.shape[1]], wanted, rtol=1e-12)
            assert (np.diff(hits.scores[:, : wanted.shape[1]], axis=1) <= 0).all()
        else:
            found = [[ids[place] for place in row] + [none] * (k - len(row)) for row in order]
            assert hits.ids.tolist() == found
            np.testing.assert_array_equal(hits.scores[:, : wanted.shape[1]], wanted)
        assert (hits.scores[:, wanted.shape[1] :] == -np.inf).all()
        if ids:
            again = index.gather_scores(Q, hits.ids, dtype=np.float64)
            assert again.tobytes() == hits.scores.tobytes()


def ids_of(kind: str, numbers: Any) -> Any:
    return [f"name {number}" for number in numbers] if kind == "str" else [int(number) for number in numbers]


@pytest.mark.parametrize("kind", ["int", "str", "numbered"])
@pytest.mark.parametrize(
    ("metric", "dtype"), [("ip", "float32"), ("ip", "float16"), ("cosine", "float16"), ("l2", "float32")]
)
def test_changes_against_a_dictionary(kind: str, metric: str, dtype: str) -> None:
    index, model = FlatIndex(DIM, metric=metric, dtype=dtype), Model(metric, dtype)
    rng = np.random.default_rng(3)
    numbers = rng.permutation(4000)
    added = 0
    seen: list[tuple[Snapshot, Model, bytes]] = []
    for step in range(9):
        before = index.snapshot()
        seen.append((before, copy.deepcopy(model), before.search(Q, 9, dtype=np.float64).scores.tobytes()))
        n = int(rng.choice([1, 30, 150]))
        rows = draw(n)
        ids = range(added, added + n) if kind == "numbered" else ids_of(kind, numbers[added : added + n])
        added += n
        index.add(rows, None if kind == "numbered" else ids)
        model.put(ids, rows)
        held = list(model.docs)
        some = [held[i] for i in rng.choice(len(held), len(held) // 3, replace=False)]
        if step % 2:
            assert index.remove(some) == len(some)
            model.drop(some)
        else:
            new = [] if kind == "numbered" else ids_of(kind, numbers[added : added + 5])
            added += len(new)
            rows = draw(len(some) + len(new))
            index.upsert(some + new, rows)
            model.put(some + new, rows)
        assert index.version > before.version
    index.compact()
    model.check(index)
    for snapshot, then, scores in seen:  # whatever came after
        then.check(snapshot)
        assert snapshot.search(Q, 9, dtype=np.float64).scores.tobytes() == scores
    for same in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        model.check(same)
        assert same.version == index.version
        same.remove(list(model.docs))
        assert len(same) == 0
    model.check(index)


@pytest.mark.parametrize("scan", ["int8", "float32", "auto"])
def test_growth_never_shows(scan: str) -> None:
    """Segment after segment, coded and not, is the same as one array."""
    rows = RNG.standard_normal((9000, 20), dtype=np.float32)
    index = FlatIndex(20, scan=scan)
    done = 0
    for n in (1, 3, 900, 100, 3000, 100, 1, 4000, 895):
        index.add(rows[done : done + n])
        done += n
    assert done == len(rows) == len(index)
    whole = FlatIndex.from_vectors(rows, scan="float32")
    queries = RNG.standard_normal((4, 20), dtype=np.float32)
    assert_alike(index.search(queries, 50), whole.search(queries, 50))
    gone = RNG.permutation(9000)[:5000]
    assert index.remove(gone) == whole.remove(gone) == 5000
    assert_alike(index.search(queries, 50), whole.search(queries, 50))
    index.compact()
    assert_alike(index.search(queries, 50), whole.search(queries, 50))
    assert index.ids.tolist() == whole.ids.tolist() == np.setdiff1d(np.arange(9000), gone).tolist()
    grad = RNG.standard_normal((4, 50))
    chosen = index.search(queries, 50).ids
    whole.add(rows[:50])
    one = whole.gather_scores_grad(grad, chosen)
    assert one.tobytes() == index.gather_scores_grad(grad, chosen).tobytes()


def assert_alike(one: Any, other: Any) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert one.scores.tobytes() == other.scores.tobytes()
    assert one.logprobs.tobytes() == other.logprobs.tobytes()


def test_memory_of_removed_documents_is_given_back() -> None:
    index = FlatIndex.from_vectors(RNG.standard_normal((5000, 8), dtype=np.float32))
    full = index.nbytes
    index.remove(np.arange(0, 2000))
    assert index.nbytes > 0.9 * full
    index.remove(np.arange(2000, 4500))
    assert index.nbytes < 0.2 * full
    assert index.ids.tolist() == list(range(4500, 5000))
    index.remove(index.ids)
    assert (len(index), index.nbytes) == (0, 0)


def test_many_small_segments_become_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MIN_CAPACITY", 32)
    monkeypatch.setattr(writing.Writer, "_capacity_for", lambda self, now, segments, n: n)
    index, model = FlatIndex(DIM), Model()
    for i in range(50):
        rows = draw(3)
        index.add(rows)
        model.put(range(3 * i, 3 * i + 3), rows)
        index.remove([3 * i + 1])
        model.drop([3 * i + 1])
        assert len(index._snapshot._segments) <= writing.MAX_SEGMENTS
    model.check(index)
    assert index.ids.tolist() == sorted(model.docs)  # their order stays


def refused() -> list[tuple[str, tuple[Any, ...], type[Exception], str]]:
    x = draw(2)
    return [
        (
            "add",
            (x, ["a", "z"], {"year": [1, 2]}),
            ValueError,
            "ids: expected ids that the index does not hold, got 'a'",
        ),
        ("add", (x, ["y", "y"]), ValueError, "ids: expected distinct ids, got 'y' twice"),
        ("add", (x, ["y"]), ValueError, "ids: expected 2, one for each document, got 1"),
        ("add", (x, [1, 2]), ValueError, "ids: the 3 documents before were added with ids that are str"),
        ("add", (x,), ValueError, "ids: the 3 documents before were added with ids that are str"),
        ("add", (x, ["y", "z"]), ValueError, "metadata: expected the columns 'year'; these come without 'year'"),
        ("add", (x, ["y", "z"], {"year": [1, 2], "a": [1, 2]}), ValueError, "these come with 'a'"),
        ("add", (x, ["y", "z"], {"year": ["1", "2"]}), TypeError, "column 'year': expected integers, got '1' in row 0"),
        ("upsert", (["a", "a"], x, {"year": [1, 2]}), ValueError, "ids: expected distinct ids, got 'a' twice"),
        ("upsert", (["a", "y"], x), ValueError, "metadata: expected the columns 'year'"),
        ("upsert", (["a", "y"], x[:, :3], {"year": [1, 2]}), ValueError, r"vectors: expected shape \(N, 12\)"),
        ("upsert", ([1, 2], x, {"year": [1, 2]}), ValueError, "added with ids that are str"),
        ("upsert", (None, x), TypeError, "ids: expected those of the documents, got None"),
        ("remove", (["a", "y"],), ValueError, "ids: expected ids that the index holds, got 'y'; missing_ok=True"),
        ("remove", ("a",), TypeError, "ids"),
        ("remove", ([1],), TypeError, "ids: expected ids that are str, as the documents have"),
        ("swap", (FlatIndex(3),), ValueError, "other: expected dim 12, dtype float32, metric ip, as this index has"),
        ("swap", (FlatIndex(DIM, metric="l2"),), ValueError, "other: .* got dim 12, dtype float32, metric l2"),
        ("swap", (x,), TypeError, "other: expected a FlatIndex or a Snapshot, got ndarray"),
    ]


@pytest.mark.parametrize(("method", "arguments", "error", "message"), refused())
def test_what_is_refused_changes_nothing(
    method: str, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    rows = draw(3)
    index = FlatIndex.from_vectors(rows, ["a", "b", "c"], metadata={"year": [1, 2, 3]})
    before = index.snapshot()
    with pytest.raises(error, match=message):
        getattr(index, method)(*arguments)
    assert index.snapshot() is before
    assert index.metadata["year"].tolist() == [1, 2, 3]
    assert index.vectors.tobytes() == rows.tobytes()
    index.add(draw(2), ["y", "z"], {"year": [4, 5]})
    assert index.ids.tolist() == ["a", "b", "c", "y", "z"]


def test_integer_ids_refused() -> None:
    index = FlatIndex.from_vectors(draw(3), [5, 6, 7])
    with pytest.raises(ValueError, match="ids: expected ids that the index holds, got 8"):
        index.remove([5, 8])
    with pytest.raises(TypeError, match="ids: expected integers, as the documents' ids are, got str"):
        index.remove(["5"])
    assert index.remove([5, 8, 5], missing_ok=True) == 1
    assert index.remove([5], missing_ok=True) == index.remove([]) == 0
    assert (5 in index, 6 in index, "6" in index, -1 in index, True in index) == (False, True, False, False, False)
    index.add(draw(1), [5])
    assert index.ids.tolist() == [6, 7, 5]
    index.upsert([7, 9], draw(2))
    assert index.ids.tolist() == [6, 5, 7, 9]


def test_numbered_documents() -> None:
    index = FlatIndex.from_vectors(draw(5))
    with pytest.raises(ValueError, match=r"ids: expected ids that the index holds, as it numbers .* got 5"):
        index.upsert([1, 5], draw(2))
    index.upsert([1], draw(1))
    index.remove([4])
    index.add(draw(2))
    assert index.ids.tolist() == [0, 2, 3, 1, 5, 6]  # an id is never given twice
    index.remove([6])
    index.compact()
    index.add(draw(1))
    assert index.ids.tolist() == [0, 2, 3, 1, 5, 7]


def test_ids_that_follow_each_other_and_others() -> None:
    index, model = FlatIndex(DIM), Model()
    for ids in ([0, 1, 2], [3], [10, 5], [11, 12], [4, 6, 7], [2**62]):
        rows = draw(len(ids))
        before = index.snapshot()
        index.add(rows, ids)
        model.put(ids, rows)
        model.check(index, 3)
        assert index.ids.tolist() == [*before.ids.tolist(), *ids]
    with pytest.raises(ValueError, match="got 3"):
        index.add(draw(3), [20, 3, 4])
    for ids in ([1], [11], [0, 12]):
        index.remove(ids)
        model.drop(ids)
        index.add(rows, ids[:1])
        model.put(ids[:1], rows)
        model.check(index, 3)


def test_nothing_is_no_change() -> None:
    index = FlatIndex.from_vectors(draw(5))
    version = index.version
    index.add(draw(0))
    index.add(draw(0), metadata={})
    FlatIndex(DIM).add(draw(0), [], {"lang": []})
    index.upsert([], draw(0))
    index.remove([])
    assert index.version == version


def test_ties_of_strings_are_in_order_of_their_first_addition() -> None:
    same = np.ones((3, DIM), np.float32)
    index = FlatIndex.from_vectors(same, ["c", "a", "b"])
    index.remove(["c"])
    index.add(same[:2], ["d", "c"])
    index.upsert(["a"], same[:1])
    assert index.search(same[:1], 5).ids.tolist() == [["c", "a", "b", "d", None]]
    index.compact()
    assert index.search(same[:1], 5).ids.tolist() == [["c", "a", "b", "d", None]]


def test_swap() -> None:
    one, other = FlatIndex.from_vectors(draw(3), ["a", "b", "c"]), FlatIndex.from_vectors(draw(2), ["x", "a"])
    mine, theirs = one.snapshot(), other.snapshot()
    assert one.swap(other) is mine
    assert one.version > mine.version
    one.add(draw(1), ["n"])
    other.add(draw(1), ["m"])
    assert (one.ids.tolist(), other.ids.tolist()) == (["x", "a", "n"], ["x", "a", "m"])
    one.swap(mine)
    one.add(draw(1), ["o"])
    assert (one.ids.tolist(), mine.ids.tolist(), theirs.ids.tolist()) == (
        ["a", "b", "c", "o"],
        ["a", "b", "c"],
        ["x", "a"],
    )
    later = one.version
    one.swap(one)
    assert one.version == later + 1
    one.add(draw(1), ["p"])
    assert one.ids.tolist() == ["a", "b", "c", "o", "p"]


def test_names_that_came_later_are_not_swapped_in() -> None:
    """Nor are those of removed documents: what comes after them has its place in ties as if they had never been."""
    same = np.ones((1, DIM), np.float32)
    index = FlatIndex.from_vectors(same, ["a"])
    before = index.snapshot()
    index.add(np.repeat(same, 3, axis=0), ["x", "y", "z"])
    index.swap(before)
    names = index.snapshot()._contents.names
    assert names is not None
    assert len(names) == 1
    index.add(np.repeat(same, 2, axis=0), ["z", "x"])
    assert index.search(same, 3).ids.tolist() == [["a", "z", "x"]]


@pytest.mark.parametrize("strings", [False, True])
def test_ids_in_any_order_and_batches(monkeypatch: pytest.MonkeyPatch, strings: bool) -> None:
    """Against a set, with what an index remembers of ids sorted in after a few of them already."""
    monkeypatch.setattr(id_set, "_NEWEST", 20)
    monkeypatch.setattr(writing, "MIN_CAPACITY", 64)
    rng = np.random.default_rng(3)
    index, there = FlatIndex(DIM), set[Any]()
    refused = 0
    for i in range(300):
        drawn = rng.choice(2000, rng.choice([1, 3, 30]), replace=False)
        batch = [f"id {n}" for n in drawn] if strings else drawn.tolist()
        rows = draw(len(batch))
        if there.intersection(batch):
            refused += 1
            held = next(n for n in batch if n in there) if strings else min(there.intersection(batch))
            with pytest.raises(ValueError, match="ids: expected ids that the index does not hold, got") as error:
                index.add(rows, batch)
            assert strings or str(error.value).endswith(f"got {held}")
            if i % 3 == 0:
                index.upsert(batch, rows)
                there.update(batch)
            elif i % 3 == 1:
                assert index.remove(batch, missing_ok=True) == len(there.intersection(batch))
                there.difference_update(batch)
        else:
            index.add(rows, batch)
            there.update(batch)
        if i % 70 == 69:
            index.compact()
    assert refused > 50
    assert len(index) == len(there) > 500
    assert set(index.ids.tolist()) == there


def test_an_index_swapped_does_not_write_where_the_other_does() -> None:
    one, other = FlatIndex(DIM), FlatIndex(DIM)
    other.add(draw(10))  # leaves room to spare
    one.swap(other)
    mine, theirs = draw(4), draw(4)
    one.add(mine)
    other.add(theirs)
    assert one.vectors[10:].tobytes() == mine.tobytes()
    assert other.vectors[10:].tobytes() == theirs.tobytes()


def test_cosine() -> None:
    rows = draw(4)
    index = FlatIndex.from_vectors(rows, metric="cosine")
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, rtol=1e-6)
    hits = index.search(Q, 4, temperature=0.1, dtype=np.float64)
    np.testing.assert_allclose(np.exp(hits.logprobs).sum(axis=1), 1)
    np.testing.assert_allclose(
        hits.logprobs[:, 0] - hits.logprobs[:, 1], (hits.scores[:, 0] - hits.scores[:, 1]) / 0.1, rtol=1e-9
    )
    assert index.search(Q, 4).scores.tobytes() == hits.scores.astype(np.float32).tobytes()
    assert np.isfinite(index.search(Q, 4, temperature=1e-300).logprobs[:, 0]).all()
    huge = FlatIndex.from_vectors(np.float32([[3e38, 3e38], [1e-45, 0]]), metric="cosine", dtype="bfloat16")
    np.testing.assert_allclose(huge.vectors, [[0.5**0.5] * 2, [1, 0]], rtol=2**-8)
    with pytest.raises(ValueError, match="vectors: row 1 holds zeros alone"):
        index.add(np.float32([[1] * DIM, [0] * DIM]))
    with pytest.raises(ValueError, match="queries: row 0 holds zeros alone"):
        index.search(np.zeros((1, DIM), np.float32))
    with pytest.raises(ValueError, match="vectors: row 0 holds NaN"):
        index.add(np.full((1, DIM), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"metric 'ip'.*got 'cosine'"):
        index.gather_scores_grad(np.ones((1, 1)), [[0]])
    assert "metric='cosine'" in repr(index)


def test_cosines_that_tie_once_divided_come_by_their_ids() -> None:
    """Their products differ by a last bit, which the division rounds away."""
    rng = np.random.default_rng(0)
    angle, size = rng.random(100) * 2e-3, 1.5 + rng.random(20) * 0.3
    rows = np.stack([np.full(100, 0.55), 0.8 * np.cos(angle), 0.8 * np.sin(angle)], axis=1).astype(np.float32)
    queries = np.stack([size, size * 2.0**-30, 0 * size], axis=1).astype(np.float32)
    ids = rng.permutation(100)
    for given in (ids, [f"document {i}" for i in ids]):
        hits = FlatIndex.from_vectors(rows, given, metric="cosine").search(queries, 105, dtype=np.float64)
        first = {doc_id: i for i, doc_id in enumerate(given)} if given is not ids else {i: i for i in range(100)}
        for scores, found in zip(hits.scores[:, :100], hits.ids[:, :100].tolist(), strict=True):
            assert found == [found[i] for i in np.lexsort(([first[doc_id] for doc_id in found], -scores))]
        assert (hits.scores[:, 100:] == -np.inf).all()
        assert set(hits.ids[:, 100:].ravel().tolist()) == ({-1} if given is ids else {None})


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
def test_cosine_rounds_once(storage: str) -> None:
    rows = RNG.standard_normal((300, 24), dtype=np.float32) * np.exp2(RNG.integers(-12, 3, (300, 24))).astype(
        np.float32
    )
    stored = FlatIndex.from_vectors(rows, metric="cosine", dtype=storage).vectors.astype(np.float64)
    exact = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    digits = {"float32": 24, "float16": 11, "bfloat16": 8}[storage]
    _, exponent = np.frexp(exact)
    unit = np.exp2(np.maximum(exponent, -13 if storage == "float16" else -125) - digits)
    np.testing.assert_array_equal(stored, np.rint(exact / unit) * unit)


def test_snapshots_are_not_copied() -> None:
    snapshot = FlatIndex.from_vectors(draw(2)).snapshot()
    assert copy.copy(snapshot) is copy.deepcopy(snapshot) is snapshot
    assert repr(snapshot).startswith("Snapshot(dim=12, scan='auto', dtype='float32') of 2 documents, version 1")
    with pytest.raises(TypeError, match="a snapshot cannot be pickled"):
        pickle.dumps(snapshot)


def test_bad_metric() -> None:
    with pytest.raises(ValueError, match='metric: expected "ip", "cosine" or "l2", got \'dot\''):
        FlatIndex(3, metric="dot")


def test_a_search_sees_one_version() -> None:
    """Every version holds documents of one score, so that a search of half a change would show two."""
    n, stop = 64, threading.Event()
    one = np.ones((n, DIM), np.float32)
    index = FlatIndex.from_vectors(one, np.arange(n))
    wrong: list[Any] = []

    def read() -> None:
        while not stop.is_set():
            scores = index.search(one[:1], n).scores
            if len(np.unique(scores)) != 1:
                wrong.append(scores)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(2, 200):
        index.upsert(np.arange(n), i * one)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert index.vectors.tolist() == (199 * one).tolist()


@pytest.mark.parametrize("ids", [[2**63 - 1], [2**63 - 2, 2**63 - 1], [2**63 - 1, 5]])
def test_the_largest_ids(ids: list[int], tmp_path: Path) -> None:
    vectors = np.eye(2, dtype=np.float32)[: len(ids)]
    index = FlatIndex.from_vectors(vectors, ids=ids)
    index.save(tmp_path / "i")
    for same in (index, pickle.loads(pickle.dumps(index)), FlatIndex.open(tmp_path / "i")):
        assert same.ids.dtype == np.int64
        assert same.ids.tolist() == ids
        assert same.search(vectors, k=1).ids.ravel().tolist() == ids
        assert ids[0] in same


def test_opened_changed_and_saved_for_ever(tmp_path: Path) -> None:
    """Each time a few documents more, of which each save makes a segment."""
    vectors = np.random.default_rng(1).standard_normal((3 * writing.MAX_SEGMENTS, 4)).astype(np.float32)
    FlatIndex.from_vectors(vectors[:1]).save(tmp_path / "i")
    for row in vectors[1:]:
        index = FlatIndex.open(tmp_path / "i")
        index.add(row[None])
        index.save(tmp_path / "i")
        assert len(index.snapshot()._segments) <= writing.MAX_SEGMENTS
    opened = FlatIndex.open(tmp_path / "i")
    expected = ragfast.search(vectors[:5], vectors, k=7)
    found = opened.search(vectors[:5], k=7)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.scores.tobytes() == expected.scores.tobytes()


def test_compacting_forgets_words(tmp_path: Path) -> None:
    index = FlatIndex(2)
    row = np.ones((1, 2), np.float32)
    for i in range(300):
        index.add(row, metadata={"word": [None if i == 250 else f"word {i}"], "book": [i]})
    before = index.snapshot()
    index.remove(np.arange(200))
    index.compact()
    assert [len(v) for v in index.snapshot()._contents.vocabularies.values()] == [99]
    expected = [None if i == 250 else f"word {i}" for i in range(200, 300)]
    assert index.metadata["word"].tolist() == expected
    query = np.ones((1, 2), np.float32)
    assert index.search(query, k=1, filter=ragfast.column("word") == "word 299").ids.tolist() == [[299]]
    assert index.search(query, k=2, group_by="book", exclude_groups=[200]).ids.tolist() == [[201, 202]]
    assert before.search(query, k=1, filter=ragfast.column("word") == "word 3").ids.tolist() == [[3]]
    index.add(row, metadata={"word": ["word 3"], "book": [3]})
    index.save(tmp_path / "i")
    assert FlatIndex.open(tmp_path / "i").metadata["word"].tolist() == [*expected, "word 3"]
    index.remove(index.ids)
    index.compact()
    assert len(index.snapshot()._contents.vocabularies["word"]) == 0
