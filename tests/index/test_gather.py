"""Scores of chosen documents: the bits of a search, at every level; and their gradient, by sums in rational numbers."""

from __future__ import annotations

import math
import pickle
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex

pytestmark = pytest.mark.usefixtures("isa")

DIMS = [*range(1, 36), 63, 64, 65, 100, 127, 200, 1100]


def normal(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def some_rows(seed: int, n_queries: int, k: int, n_docs: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-1, n_docs, (n_queries, k))


def searched(queries: NDArray[Any], vectors: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The scores of a search for all documents, at the rows."""
    hits = ragfast.search(queries, vectors, len(vectors), dtype=np.float64)
    by_row = np.empty(hits.scores.shape)
    np.put_along_axis(by_row, hits.ids, hits.scores, axis=1)
    return np.where(rows < 0, -np.inf, np.take_along_axis(by_row, np.maximum(rows, 0), axis=1))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_bits_of_a_search(dtype: Any, dim: int) -> None:
    queries = normal(1, 3, dim).astype(np.float64 if dtype == np.float64 else np.float32)
    vectors, rows = normal(2, 90, dim).astype(dtype), some_rows(3, 3, 25, 90)
    scores = ragfast.gather_scores(queries, vectors, rows, dtype=np.float64)
    assert scores.tobytes() == searched(queries, vectors, rows).tobytes()


def bfloat16_rows(x: NDArray[Any]) -> tuple[Any, NDArray[np.float32]]:
    """What NumPy calls bfloat16 where ml_dtypes is there, and the values."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rounded = x.astype(ml_dtypes.bfloat16)
    return rounded, rounded.astype(np.float32)


def test_bfloat16() -> None:
    vectors, values = bfloat16_rows(normal(2, 50, 37))
    queries, rows = normal(1, 4, 37).astype(np.float32), some_rows(3, 4, 9, 50)
    scores = ragfast.gather_scores(queries, vectors, rows, dtype=np.float64)
    assert scores.tobytes() == searched(queries, values, rows).tobytes()
    grad = normal(5, 4, 9)
    got = ragfast.gather_scores_grad(grad, vectors, rows)
    assert got.tobytes() == ragfast.gather_scores_grad(grad, values, rows).tobytes()


@pytest.mark.parametrize(("queries_dtype", "vectors_dtype"), [("f4", "f8"), ("f8", "f4"), ("f8", "f2"), ("f2", "f4")])
def test_mixed_dtypes_are_taken_as_the_wider(queries_dtype: str, vectors_dtype: str) -> None:
    queries, vectors = normal(1, 3, 21).astype(queries_dtype), normal(2, 90, 21).astype(vectors_dtype)
    rows = some_rows(3, 3, 7, 90)
    scores = ragfast.gather_scores(queries, vectors, rows)
    assert scores.dtype == ragfast.search(queries, vectors, 1).scores.dtype
    assert scores.tobytes() == searched(queries, vectors, rows).astype(scores.dtype).tobytes()


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("with_ids", [False, True])
def test_index(storage: str, with_ids: bool) -> None:
    rng = np.random.default_rng(4)
    ids = rng.permutation(10**6)[:300] * 10**9 if with_ids else np.arange(300)
    index = FlatIndex(33, dtype=storage)
    queries = normal(1, 5, 33).astype(np.float32)
    for part in (slice(0, 100), slice(100, 300)):  # the order of ids is made anew after an add
        index.add(normal(2, 300, 33).astype(np.float32)[part], ids[part] if with_ids else None)
        hits = index.search(queries, 40, dtype=np.float64)
        assert index.gather_scores(queries, hits.ids, dtype=np.float64).tobytes() == hits.scores.tobytes()
    assert index.gather_scores(queries, hits.ids).tobytes() == index.search(queries, 40).scores.tobytes()
    chosen = ids[some_rows(3, 5, 6, 300)]
    chosen[0, 0] = chosen[4, 5] = -1
    rows = np.where(chosen < 0, -1, (chosen[..., None] == ids).argmax(-1))
    expected = ragfast.gather_scores(queries, index.vectors, rows)
    grad = normal(5, 5, 6)
    for same in (index, pickle.loads(pickle.dumps(index))):
        assert same.gather_scores(queries, chosen).tobytes() == expected.tobytes()
        got = same.gather_scores_grad(grad, chosen, dtype=np.float64)
        assert got.tobytes() == ragfast.gather_scores_grad(grad, index.vectors, rows).tobytes()


def test_index_refuses_ids_that_it_does_not_hold() -> None:
    vectors, query = normal(1, 3, 4).astype(np.float32), normal(2, 1, 4).astype(np.float32)
    for index, unknown in (
        (FlatIndex.from_vectors(vectors), 3),
        (FlatIndex.from_vectors(vectors, ids=[10, 2**40, 5]), 6),
        (FlatIndex.from_vectors(vectors, ids=[10, 2**40, 5]), 2**40 + 1),
        (FlatIndex(4), 0),
        (FlatIndex.from_vectors(vectors), -2),
    ):
        with pytest.raises(ValueError, match=rf"ids: expected ids of documents in the index.*, got {unknown} at"):
            index.gather_scores(query, [[-1, unknown]])
        with pytest.raises(ValueError, match=rf"got {unknown} at \(0, 1\)"):
            index.gather_scores_grad([[1.0, 1.0]], [[-1, unknown]])
    assert FlatIndex(4).gather_scores(query, [[-1, -1]]).tolist() == [[-math.inf] * 2]


def test_index_counts_what_finds_ids_and_lets_it_go() -> None:
    index = FlatIndex.from_vectors(normal(1, 50, 4).astype(np.float32), ids=np.arange(50)[::-1])
    before = index.nbytes
    index.gather_scores(np.ones((1, 4), np.float32), [[7]])
    assert index.nbytes == before + 50 * 12
    after = FlatIndex.from_vectors(index.vectors, ids=index.ids)
    for same in (index, after):
        same.add(normal(2, 1, 4).astype(np.float32), ids=[99])
        same.compact()
    assert index.nbytes == after.nbytes


def test_index_while_documents_are_added() -> None:
    index = FlatIndex(8)
    vectors = normal(1, 2000, 8).astype(np.float32)
    index.add(vectors[:10], ids=np.arange(10)[::-1] * 3)
    query, chosen = np.ones((1, 8), np.float32), np.arange(10)[None] * 3
    expected = index.gather_scores(query, chosen).tobytes()
    wrong: list[object] = []

    def look_up() -> None:
        for _ in range(200):
            if index.gather_scores(query, chosen).tobytes() != expected:
                wrong.append("other scores")

    threads = [threading.Thread(target=look_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(10, 2000, 40):
        index.add(vectors[i : i + 40], ids=np.arange(i, i + 40)[: len(vectors) - i] * 3)
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_and_batches_change_nothing(dtype: Any, n_threads: int) -> None:
    queries = normal(1, 40, 300).astype(np.float64 if dtype == np.float64 else np.float32)
    vectors, rows = normal(2, 500, 300).astype(dtype), some_rows(3, 40, 300, 500)
    grad = normal(4, 40, 300)
    scores = ragfast.gather_scores(queries, vectors, rows, n_threads=n_threads)
    slope = ragfast.gather_scores_grad(grad, vectors, rows, n_threads=n_threads)
    for step in (1, 7):
        parts = [slice(i, i + step) for i in range(0, 40, step)]
        one_by_one = [ragfast.gather_scores(queries[p], vectors, rows[p], n_threads=1) for p in parts]
        assert np.concatenate(one_by_one).tobytes() == scores.tobytes()
        one_by_one = [ragfast.gather_scores_grad(grad[p], vectors, rows[p], n_threads=1) for p in parts]
        assert np.concatenate(one_by_one).tobytes() == slope.tobytes()
    many = np.tile(rows[:1], (1, 30))  # one query for all threads
    assert (ragfast.gather_scores(queries[:1], vectors, many, n_threads=n_threads) == np.tile(scores[:1], 30)).all()
    tiled = np.tile(grad[:1], (1, 30))
    got = ragfast.gather_scores_grad(tiled, vectors, many, n_threads=n_threads, dtype=np.float64)
    assert got.tobytes() == ragfast.gather_scores_grad(tiled, vectors, many, n_threads=1, dtype=np.float64).tobytes()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_gradient_is_the_sum(dtype: Any, dim: int) -> None:
    vectors, rows, grad = normal(2, 30, dim).astype(dtype), some_rows(3, 3, 8, 30), normal(4, 3, 8)
    rows[1] = -1
    got = ragfast.gather_scores_grad(grad, vectors, rows)
    assert got.shape == (3, dim)
    assert got.dtype == np.float64
    assert got[1].tolist() == [0] * dim
    terms = np.where(rows < 0, 0, grad)[..., None] * vectors[rows].astype(np.float64)
    np.testing.assert_allclose(got, terms.sum(axis=1), rtol=0, atol=1e-14 * np.abs(terms).sum(axis=1).max())
    exact = [sum(Fraction(float(g)) * Fraction(float(vectors[r, 0])) for g, r in zip(*p, strict=True) if r >= 0)
             for p in zip(grad, rows, strict=True)]  # fmt: skip
    assert got[:, 0] == pytest.approx([float(x) for x in exact], rel=0, abs=1e-14 * float(np.abs(terms).sum()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_is_that_of_the_scores(dtype: Any) -> None:
    # Scores are linear in the queries: a difference of any size is the slope, but for rounding.
    queries, vectors, rows = normal(1, 4, 50), normal(2, 60, 50).astype(dtype), some_rows(3, 4, 11, 60)
    grad, step = normal(4, 4, 11), normal(5, 4, 50)
    here, there = (ragfast.gather_scores(q, vectors, rows) for q in (queries, queries + step))
    with np.errstate(invalid="ignore"):
        moved = np.where(rows < 0, 0, grad * (there - here)).sum()
    slope = ragfast.gather_scores_grad(grad, vectors, rows)
    assert (slope * step).sum() == pytest.approx(moved, rel=1e-12)


def test_gradient_types_and_what_is_missing() -> None:
    vectors, rows = normal(1, 5, 3).astype(np.float32), np.array([[4, -1, 0]])
    single = np.float32([[1, np.nan, 0]])  # NaN at what is missing, and no weight
    got = ragfast.gather_scores_grad(single, vectors, rows)
    assert got.dtype == np.float32
    assert got.tolist() == [vectors[4].tolist()]
    assert ragfast.gather_scores_grad(single.astype(np.float64), vectors, rows).dtype == np.float64
    assert ragfast.gather_scores_grad(single, vectors.astype(np.float64), rows).dtype == np.float64
    assert ragfast.gather_scores_grad(single, vectors, rows, dtype=np.float64).dtype == np.float64
    assert ragfast.gather_scores_grad(single.astype(np.float64), vectors, rows, dtype=np.float32).dtype == np.float32
    vectors[0, 1] = np.nan  # a document without weight is not read
    assert np.isfinite(ragfast.gather_scores_grad(single, vectors, rows)).all()
    assert np.isnan(ragfast.gather_scores_grad(np.float32([[np.nan, 0, 0]]), vectors, rows)).all()
    assert np.isnan(ragfast.gather_scores_grad(np.float32([[0, 0, 1]]), vectors, rows)).tolist() == [
        [False, True, False]
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strided_unaligned_readonly_and_big_endian(dtype: Any) -> None:
    queries, vectors, rows = normal(1, 3, 10).astype(dtype), normal(2, 40, 10).astype(dtype), some_rows(3, 3, 6, 40)
    grad = normal(4, 3, 6).astype(dtype)
    expected = ragfast.gather_scores(queries, vectors, rows).tobytes()
    slope = ragfast.gather_scores_grad(grad, vectors, rows).tobytes()

    def forms(x: NDArray[Any]) -> list[NDArray[Any]]:
        unaligned = np.frombuffer(bytearray(x.nbytes + 1), x.dtype, x.size, offset=1).reshape(x.shape)
        unaligned[:] = x
        wide = np.zeros((2 * len(x), 2 * x.shape[1]), x.dtype)
        wide[::2, ::2] = x
        readonly = x.copy()
        readonly.flags.writeable = False
        return [np.asfortranarray(x), unaligned, wide[::2, ::2], readonly, x.astype(x.dtype.newbyteorder(">"))]

    for q, v, r, g in zip(forms(queries), forms(vectors), forms(rows), forms(grad), strict=True):
        assert ragfast.gather_scores(q, v, r).tobytes() == expected
        assert ragfast.gather_scores_grad(g, v, r).tobytes() == slope
    for integer in (np.int8, np.int32, np.int64):
        assert ragfast.gather_scores(queries, vectors, rows.astype(integer)).tobytes() == expected
    for unsigned in (np.uint8, np.uint64):
        there = np.maximum(rows, 0)
        assert (
            ragfast.gather_scores(queries, vectors, there.astype(unsigned)).tobytes()
            == ragfast.gather_scores(queries, vectors, there).tobytes()
        )


@pytest.mark.parametrize(("n_queries", "k", "n_docs"), [(0, 3, 5), (3, 0, 5), (0, 0, 0), (2, 3, 0)])
def test_nothing(n_queries: int, k: int, n_docs: int) -> None:
    queries, vectors = np.ones((n_queries, 4), np.float32), np.ones((n_docs, 4), np.float32)
    rows = np.full((n_queries, k), -1)
    assert ragfast.gather_scores(queries, vectors, rows).tolist() == np.full((n_queries, k), -np.inf).tolist()
    got = ragfast.gather_scores_grad(np.ones((n_queries, k)), vectors, rows)
    assert got.tolist() == np.zeros((n_queries, 4)).tolist()


def test_what_is_not_finite_is_refused_as_search_does() -> None:
    queries, vectors, rows = np.ones((3, 5), np.float32), np.ones((9, 5), np.float32), np.array([[0, 7]] * 3)
    for dtype in (np.float32, np.float64):
        q, v = queries.astype(dtype), vectors.astype(dtype)
        q[2, 4] = np.nan
        for chosen in (rows, np.full((3, 2), -1)):
            with pytest.raises(ValueError, match="queries: row 2 holds NaN or an infinity"):
                ragfast.gather_scores(q, v, chosen)
    for dtype in (np.float16, np.float32, np.float64):
        for asked in (queries, queries.astype(np.float64)):
            v = vectors.astype(dtype)
            v[7, 0], v[8, 0] = np.inf, np.nan
            with pytest.raises(ValueError, match="vectors: row 7 holds NaN or an infinity"):
                ragfast.gather_scores(asked, v, rows)
            v[7, 0] = 1  # row 8 is not chosen
            assert (ragfast.gather_scores(asked, v, rows) == 5).all()
    huge = np.full((1, 2), 1e200)
    with pytest.raises(ValueError, match="overflow"):
        ragfast.gather_scores(huge, huge, [[0]])
    largest = np.full((1, 2), 3e38, np.float32)
    assert ragfast.gather_scores(largest, largest, [[0]]).tolist() == [[math.inf]]  # as search rounds it
    assert ragfast.gather_scores(largest, largest, [[0]], dtype=np.float64).tolist() == [
        [2 * float(largest[0, 0]) ** 2]
    ]


def test_errors_say_what_was_expected() -> None:
    q, v, r = np.ones((2, 3), np.float32), np.ones((5, 3), np.float32), np.zeros((2, 4), int)
    g = np.ones((2, 4))
    for rows, message in (([[0, 1], [5, 7]], r"got 5 at \(1, 0\)"), ([[0, -2], [5, 1]], r"got -2 at \(0, 1\)")):
        with pytest.raises(IndexError, match=rf"rows: expected rows of 5 vectors, or -1 for none, {message}"):
            ragfast.gather_scores(q, v, rows)
        with pytest.raises(IndexError, match=message):
            ragfast.gather_scores_grad(np.ones((2, 2)), v, rows)
    with pytest.raises(ValueError, match=r"rows: expected shape \(2, K\), got \(1, 4\)"):
        ragfast.gather_scores(q, v, r[:1])
    with pytest.raises(ValueError, match=r"rows: expected shape \(B, K\), got \(4,\)"):
        ragfast.gather_scores_grad(g, v, r[0])
    with pytest.raises(TypeError, match="rows: expected integers"):
        ragfast.gather_scores(q, v, r.astype(float))
    with pytest.raises(TypeError, match="rows: expected integers"):
        ragfast.gather_scores(q, v, r.astype(bool))
    with pytest.raises(ValueError, match=r"rows: expected less than 2\*\*63"):
        ragfast.gather_scores(q, v, np.full((2, 4), 2**64 - 1, np.uint64))
    with pytest.raises(ValueError, match=r"queries: expected shape \(B, 3\), got \(2, 2\)"):
        ragfast.gather_scores(q[:, :2], v, r)
    with pytest.raises(TypeError, match="vectors: expected float32 or float64"):
        ragfast.gather_scores(q, v.astype(int), r)
    with pytest.raises(ValueError, match=r"vectors: expected shape \(N, D\), got \(3,\)"):
        ragfast.gather_scores(q, v[0], r)
    with pytest.raises(ValueError, match=r"grad: expected shape \(2, 4\), that of the documents chosen, got \(2, 3\)"):
        ragfast.gather_scores_grad(g[:, :3], v, r)
    with pytest.raises(TypeError, match="grad: expected float32 or float64"):
        ragfast.gather_scores_grad(g.astype(int), v, r)
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        ragfast.gather_scores(q, v, r, dtype=np.float16)
    with pytest.raises(ValueError, match="n_threads: expected 1 or more"):
        ragfast.gather_scores(q, v, r, n_threads=0)
    with pytest.raises(ValueError, match="n_threads: expected 1 or more"):
        ragfast.gather_scores_grad(g, v, r, n_threads=0)


@given(st.data())
def test_what_hypothesis_finds(data: st.DataObject) -> None:
    n_queries, k, n_docs, dim = (data.draw(st.integers(1, n)) for n in (4, 6, 20, 40))
    values = st.floats(-(2.0**100), 2.0**100, width=32)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    queries = rng.integers(-3, 4, (n_queries, dim)).astype(np.float32)
    vectors = rng.integers(-3, 4, (n_docs, dim)).astype(np.float32)
    queries[0] = data.draw(st.lists(values, min_size=dim, max_size=dim))
    vectors[0] = data.draw(st.lists(values, min_size=dim, max_size=dim))
    rows = rng.integers(-1, n_docs, (n_queries, k))
    scores = ragfast.gather_scores(queries, vectors, rows, dtype=np.float64)
    assert scores.tobytes() == searched(queries, vectors, rows).tobytes()
