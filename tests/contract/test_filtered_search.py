"""Searches of some documents: filters and groups, against all scores sorted in NumPy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex, Snapshot

N, DIM, K = 3000, 16, 9
RNG = np.random.default_rng(11)
X = RNG.integers(-4, 5, (N, DIM)).astype(np.float32)
Q = RNG.integers(-4, 5, (4, DIM)).astype(np.float32)
YEAR = RNG.integers(1990, 2020, N)
BOOK = np.array([None if i % 17 == 0 else f"book {i % 40}" for i in range(N)], object)
FAR = RNG.choice([-(10**15), 3, 10**12, 2**62], N)
COLUMNS = {"year": YEAR, "book": BOOK, "far": FAR, "weight": RNG.random(N), "draft": RNG.random(N) < 0.5}


@pytest.fixture(scope="module", params=["one segment", "many, some removed", "strings", "l2", "cosine"])
def case(request: pytest.FixtureRequest) -> tuple[FlatIndex, NDArray[np.intp]]:
    """An index, and which of the documents X it holds in the order of its ids."""
    kind = request.param
    ids = [f"id {i:05}" for i in range(N)] if kind == "strings" else None
    metric = kind if kind in ("l2", "cosine") else "ip"
    if kind == "one segment":
        return FlatIndex.from_vectors(X, metadata=COLUMNS), np.arange(N)
    index = FlatIndex(DIM, metric=metric)
    for part in (slice(0, 1200), slice(1200, 1201), slice(1201, N)):
        columns = {name: values[part] for name, values in COLUMNS.items()}
        index.add(X[part], None if ids is None else ids[part], columns)
        index._writer._tail = ""  # as a segment begins
    gone = np.arange(0, N, 7)
    index.remove(gone if ids is None else [ids[i] for i in gone])
    return index, np.setdiff1d(np.arange(N), gone)


def scores_of(index: FlatIndex | Snapshot) -> NDArray[np.float64]:
    q, x = Q.astype(np.float64), X.astype(np.float64)
    if index.metric == "l2":
        return -np.square(q[:, None] - x).sum(axis=2)
    if index.metric == "cosine":
        unit = FlatIndex.from_vectors(X, metric="cosine").vectors.astype(np.float64)
        return np.array([[row @ d for d in unit] for row in q]) / np.linalg.norm(q, axis=1)[:, None]
    return q @ x.T


def number(ids: NDArray[Any]) -> list[list[int]]:
    """Hits.ids as rows of X, -1 for none."""
    return [[-1 if i in (-1, None) else int(str(i).removeprefix("id ")) for i in row] for row in ids.tolist()]


def check(
    index: FlatIndex | Snapshot,
    hits: ragfast.Hits,
    allowed: NDArray[np.bool_],
    groups: NDArray[Any] | None = None,
    exclude_groups: Any = None,
    max_per_group: int = N,
    k: int = K,
) -> None:
    scores = scores_of(index)
    for b, found in enumerate(number(hits.ids)):
        # Rounding may order equal cosines otherwise: documents of one direction are equal to the bit.
        order = np.lexsort((np.arange(N), -np.round(scores[b], 13)))
        taken: list[int] = []
        counts: dict[Any, int] = {}
        for i in order[allowed[order]].tolist():
            group = None if groups is None else groups[i]
            if group is not None:
                if (exclude_groups is not None and exclude_groups[b] == group) or counts.get(group, 0) >= max_per_group:
                    continue
                counts[group] = counts.get(group, 0) + 1
            taken.append(i)
            if len(taken) == k:
                break
        expected = taken + [-1] * (k - len(taken))
        if index.metric == "cosine":
            np.testing.assert_allclose(hits.scores[b, : len(taken)], scores[b, taken], rtol=1e-6)
        else:
            assert found == expected
            np.testing.assert_array_equal(hits.scores[b, : len(taken)], scores[b, taken])
        assert [i == -1 for i in found] == [i == -1 for i in expected]
        assert (hits.scores[b, len(taken) :] == -np.inf).all()


def held(rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    mask = np.zeros(N, np.bool_)
    mask[rows] = True
    return mask


def test_masks(case: tuple[FlatIndex, NDArray[np.intp]]) -> None:
    index, rows = case
    for share in (0, 0.002, 0.2, 1):
        mask = np.random.default_rng(1).random(len(rows)) < share
        check(index, index.search(Q, K, filter=mask), held(rows[mask]))


def test_lists_of_ids(case: tuple[FlatIndex, NDArray[np.intp]]) -> None:
    index, rows = case
    some = np.array([5, 7, 14, 1200, 2999, 5])  # 7 and 14 were removed in some of them
    ids: Any = [f"id {i:05}" for i in some] if index.ids.dtype == object else some
    unknown: Any = ["?"] if index.ids.dtype == object else np.array([10**9])
    check(index, index.search(Q, K, filter=np.concatenate([ids, unknown]).tolist()), held(np.intersect1d(some, rows)))
    check(index, index.search(Q, K, filter=ids[:0]), held(rows[:0]))


def test_ids_that_repeat_in_any_order(case: tuple[FlatIndex, NDArray[np.intp]]) -> None:
    index, _ = case
    chosen = index.ids[[5, 900, 5, 17, 17, 3]]
    wanted = index.search(Q, 9, filter=index.ids[[3, 5, 17, 900]])
    assert index.search(Q, 9, filter=chosen).ids.tolist() == wanted.ids.tolist()
    assert len(index.filter(chosen)) == 4


def test_predicates(case: tuple[FlatIndex, NDArray[np.intp]]) -> None:
    index, rows = case
    year, book = ragfast.column("year"), ragfast.column("book")
    for predicate, mask in (
        (year >= 2015, YEAR >= 2015),
        (
            (year < 2000) & book.isin(["book 3", "book 5"]),
            (YEAR < 2000) & np.isin(BOOK.astype(str), ["book 3", "book 5"]),
        ),
        (~(book == "book 1") | (ragfast.column("weight") > 0.5), (BOOK != "book 1") | (COLUMNS["weight"] > 0.5)),
        (ragfast.column("draft") == True, COLUMNS["draft"]),  # noqa: E712
        (book == "nowhere", np.zeros(N, np.bool_)),
    ):
        check(index, index.search(Q, K, filter=predicate), held(rows) & mask)
        assert len(index.filter(predicate)) == (held(rows) & mask).sum()


@pytest.mark.parametrize("group", ["year", "book", "far"])
def test_groups(case: tuple[FlatIndex, NDArray[np.intp]], group: str) -> None:
    index, rows = case
    groups, mask = COLUMNS[group], YEAR % 3 > 0
    exclude_groups = [groups[1], groups[2], None, groups[3]]
    check(index, index.search(Q, K, group_by=group, exclude_groups=exclude_groups), held(rows), groups, exclude_groups)
    check(index, index.search(Q, K, group_by=group, max_per_group=1), held(rows), groups, None, 1)
    hits = index.search(
        Q,
        60,
        filter=ragfast.column("year").isin(YEAR[mask]),
        group_by=group,
        exclude_groups=exclude_groups,
        max_per_group=2,
    )
    check(index, hits, held(rows) & mask, groups, exclude_groups, 2, 60)
    unknown: Any = ["nothing"] * 4 if group == "book" else [5] * 4
    plain = index.search(Q, K)
    assert index.search(Q, K, group_by=group, exclude_groups=unknown).ids.tolist() == plain.ids.tolist()


def test_filters_made_ready() -> None:
    index = FlatIndex.from_vectors(X, metadata=COLUMNS)
    before = index.snapshot()
    recent, few = index.filter(ragfast.column("year") > 2010), index.filter([3, 4, 5])
    mask = index.filter(np.arange(N) < 10)
    assert before.filter(recent) is recent
    assert before.filter(ragfast.column("year") > 2010) is recent  # remembered
    assert "documents of version 1" in repr(mask)
    assert len(mask) == 10
    index.remove([3])
    index.upsert([4], X[:1], {name: values[:1] for name, values in COLUMNS.items()})
    assert 3 not in index.search(Q, N, filter=few).ids
    assert sorted(set(index.search(Q[:1], 5, filter=few).ids[0].tolist())) == [-1, 4, 5]
    assert sorted(set(before.search(Q[:1], 5, filter=few).ids[0].tolist())) == [-1, 3, 4, 5]
    assert len(index.filter(recent)) == (index.metadata["year"] > 2010).sum()
    assert before.search(Q, 10, filter=mask).ids.max() < 10
    with pytest.raises(ValueError, match=r"filter: a mask of version 1 of an index, .*; this is version 3"):
        index.search(Q, filter=mask)


def test_sets_of_ids_are_named() -> None:
    index = FlatIndex.from_vectors(X)
    for wrong in ({1, 2}, (i for i in (1, 2))):
        with pytest.raises(TypeError, match=rf"expected integers .* in a list or an array, got {type(wrong).__name__}"):
            index.gather_scores(Q, wrong)  # type: ignore[arg-type]


def test_both_filters_hold() -> None:
    index = FlatIndex.from_vectors(X, metadata=COLUMNS)
    index.remove([5])
    index.add(X[:40], metadata={name: values[:40] for name, values in COLUMNS.items()})
    recent, some = index.filter(ragfast.column("year") > 2010), index.filter(np.arange(len(index)) % 3 == 0)
    expected = (index.metadata["year"] > 2010) & (np.arange(len(index)) % 3 == 0)
    assert len(recent & some) == expected.sum()
    found = index.search(Q, 9, filter=recent & some)
    assert found.ids.tobytes() == index.search(Q, 9, filter=expected).ids.tobytes()
    assert len(recent & index.filter([])) == 0
    index.remove([6])
    with pytest.raises(ValueError, match=r"filter: expected one of version \d+, got one of another"):
        recent & index.filter([1])
    with pytest.raises(ValueError, match=r"filter: a mask of version"):
        index.search(Q, filter=recent & some)
    with pytest.raises(TypeError, match="unsupported operand"):
        recent & expected


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"filter": np.ones(N + 1, bool)}, ValueError, r"filter: expected a mask \(3000,\).* got \(3001,\)"),
    ({"filter": 5}, TypeError, r"filter: expected a mask .* or a Predicate, got int64 \(\)"),
    ({"filter": [0.5]}, TypeError, r"filter: expected a mask .* got float64 \(1,\)"),
    ({"filter": ["a"]}, TypeError, r"filter: expected integers, as the documents' ids are, got str"),
    ({"filter": ragfast.column("where") == 1}, ValueError, r"column 'where': there is no such column"),
    ({"filter": ragfast.column("year") == "x"}, TypeError, r"column 'year' holds int64: expected a number"),
    ({"group_by": "book"}, ValueError, r"group_by: expected exclude_groups or max_per_group with it"),
    ({"exclude_groups": [1]}, ValueError, r"exclude_groups: expected together with group_by"),
    ({"max_per_group": 1}, ValueError, r"max_per_group: expected together with group_by"),
    ({"group_by": "where", "max_per_group": 1}, ValueError, r"column 'where': there is no such column"),
    (
        {"group_by": "weight", "max_per_group": 1},
        TypeError,
        r"group_by: expected a column of int64 or str, 'weight' holds float64",
    ),
    ({"group_by": 3, "max_per_group": 1}, TypeError, r"group_by: expected the name of a metadata column, got int"),
    ({"group_by": "book", "max_per_group": 0}, ValueError, r"max_per_group: expected 1 or more, got 0"),
    (
        {"group_by": "book", "exclude_groups": ["a"]},
        ValueError,
        r"exclude_groups: expected \(4,\) strings or None, .* shape \(1,\)",
    ),
    (
        {"group_by": "book", "exclude_groups": "abcd"},
        ValueError,
        r"exclude_groups: expected \(4,\) strings or None, .* got 'abcd'",
    ),
    (
        {"group_by": "book", "exclude_groups": [1, 2, 3, 4]},
        TypeError,
        r"exclude_groups: expected str or None, as column 'book' holds",
    ),
    ({"group_by": "year", "exclude_groups": [1]}, ValueError, r"exclude_groups: expected shape \(4,\), got \(1,\)"),
    ({"group_by": "year", "exclude_groups": ["a"] * 4}, TypeError, r"exclude_groups: expected integers"),
    ({"group_by": "year", "exclude_groups": 1999}, ValueError, r"exclude_groups: expected shape \(4,\), got \(\)"),
    (
        {"group_by": "year", "exclude_groups": {1, 2, 3, 4}},
        TypeError,
        r"exclude_groups: expected \(4,\) groups, a list .* got set",
    ),
    (
        {"group_by": "book", "exclude_groups": iter("abcd")},
        TypeError,
        r"exclude_groups: expected \(4,\) groups, a list .* got str_\w*ite",
    ),
    (
        {"group_by": "book", "exclude_groups": {"a": 1}.keys()},
        TypeError,
        r"exclude_groups: expected \(4,\) groups, .* got dict_keys",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_what_does_not_go_together(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    index = FlatIndex.from_vectors(X, metadata=COLUMNS)
    with pytest.raises(error, match=message):
        index.search(Q, **arguments)


def test_without_metadata_or_documents() -> None:
    with pytest.raises(ValueError, match="column 'year': there is no such column; there are none"):
        FlatIndex.from_vectors(X).search(Q, filter=ragfast.column("year") == 1)
    empty = FlatIndex(DIM)
    assert empty.search(Q, 2, filter=np.zeros(0, bool)).ids.tolist() == [[-1, -1]] * 4
    assert empty.search(Q, 2, filter=[1, 2]).ids.tolist() == [[-1, -1]] * 4
    assert empty.search(Q, 2, filter=["a"]).ids.tolist() == [[-1, -1]] * 4  # of either kind: none came yet
    assert empty.remove(["a"], missing_ok=True) == 0
    with pytest.raises(ValueError, match="ids: expected ids that the index holds, got 'a'"):
        empty.remove(["a"])
    made = empty.snapshot().filter(["a"])
    empty.add(X[:2], ["b", "a"])
    assert empty.search(Q, 2, filter=made).ids.tolist() == [["a", None]] * 4


def test_before_any_document_came() -> None:
    """A service that begins with nothing is asked the same as later."""
    index, query = FlatIndex(2), np.ones((1, 2), np.float32)
    for how in (
        {"filter": ragfast.column("day") >= 3},
        {"filter": ["a"]},
        {"filter": [3]},
        {"group_by": "book", "max_per_group": 1},
        {"group_by": "book", "exclude_groups": ["a"]},
    ):
        assert index.search(query, k=2, **how).scores.tolist() == [[-np.inf, -np.inf]]
    index.add(query, metadata={"day": [4]})
    assert index.search(query, k=1, filter=ragfast.column("day") >= 3).ids.tolist() == [[0]]
    with pytest.raises(ValueError, match="book"):
        index.search(query, k=1, group_by="book", max_per_group=1)


def test_a_prepared_filter_keeps_its_ids() -> None:
    index = FlatIndex.from_vectors(np.eye(2, dtype=np.float32), ids=["a", "b"])
    ids = ["a"]
    prepared = index.filter(ids)
    ids[:] = ["b"]
    index.add(np.ones((1, 2), np.float32), ids=["c"])
    assert index.search(np.ones((1, 2), np.float32), k=1, filter=prepared).ids.tolist() == [["a"]]


def test_a_prepared_filter_never_changes() -> None:
    index = FlatIndex.from_vectors(X, metadata=COLUMNS)
    recent, few = index.filter(ragfast.column("year") > 2010), index.filter([3, 4])
    for made in (recent, few, index.filter(np.arange(N) < 9), recent & few):
        for bits in made.allowed:
            assert bits is not None
            with pytest.raises(ValueError, match="read-only"):
                bits[:] = 0xFFFFFFFF
        with pytest.raises(AttributeError):
            made.allowed = ()  # type: ignore[misc]
        assert copy.deepcopy(made) is copy.copy(made) is made
        with pytest.raises(TypeError, match="a prepared filter belongs to its version in this process; pickle its pre"):
            pickle.dumps(made)
    with pytest.raises(ValueError, match="read-only"):
        few.source[0] = 5
    with pytest.raises(ValueError, match=r"version 1 of an index, .* this is version 1 of that index, .* of a copy"):
        copy.copy(index).search(Q, filter=index.filter(np.arange(N) < 9))


def test_a_predicate_nested_too_deep() -> None:
    index = FlatIndex.from_vectors(np.eye(2, dtype=np.float32), metadata={"x": [1, 2]})
    predicate = ragfast.column("x") == 1
    for i in range(5000):
        predicate = (predicate & (ragfast.column("x") > 0)) | (ragfast.column("x") == i)
    with pytest.raises(ValueError, match="nested too deep"):
        index.search(np.ones((1, 2), np.float32), k=1, filter=predicate)


@pytest.mark.parametrize(
    "wrong", ["ab", "a", b"a", {"a"}, iter("a"), {"a": 1}.keys(), {"a": 1}, memoryview(b"a"), bytearray(b"a")]
)
def test_a_filter_that_is_no_list(wrong: Any) -> None:
    index = FlatIndex.from_vectors(np.eye(2, dtype=np.float32), ids=["a", "b"])
    with pytest.raises(TypeError, match=f"^filter: expected .*, got {type(wrong).__name__}$"):
        index.search(np.ones((1, 2), np.float32), k=1, filter=wrong)


def test_no_bool_is_a_group() -> None:
    index = FlatIndex.from_vectors(np.eye(2, dtype=np.float32), metadata={"book": [0, 1]})
    queries = np.ones((2, 2), np.float32)
    for exclude_groups in ([True, None], [True, False]):
        with pytest.raises(TypeError, match=r"^exclude_groups: expected integers"):
            index.search(queries, k=1, group_by="book", exclude_groups=exclude_groups)
    assert index.search(queries, k=1, group_by="book", exclude_groups=[1, None]).ids.tolist() == [[0], [0]]
