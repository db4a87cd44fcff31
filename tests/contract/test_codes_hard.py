"""The scan of int8 codes over data that break codes: the same bits as the oracle."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from code_cases import FEW, MANY, Expected, Rows, assert_exact, assert_finds, best, corpora, normal, problems
from hypothesis import given, settings
from numpy.typing import NDArray

from ragfast import FlatIndex


@cache
def corpus(name: str) -> tuple[Rows, list[tuple[Rows, Expected]]]:
    docs = corpora()[name]
    dim = docs.shape[1]
    queries = np.concatenate([docs[:3], normal(9, 8, dim), -docs[3:5], 0 * docs[:1], -0.0 * docs[:1]])
    queries = np.concatenate([queries, np.abs(normal(10, 15, dim)), np.float32(1e20) * normal(11, 2, dim)])
    queries = np.concatenate([queries, np.float32(1e-30) * normal(12, 2, dim)])
    queries[7:9, dim // 2 :] = 0
    return docs, [(asked, best(asked, docs, 10)) for asked in (queries[:4], queries[5:6], queries)]


@pytest.mark.parametrize("name", corpora())
def test_hard_corpora(isa: str, name: str) -> None:
    docs, asked = corpus(name)
    index = FlatIndex.from_vectors(docs, scan="int8")
    for queries, expected in asked:
        assert_finds(index, queries, expected)
    assert_finds(index, *asked[-1], n_threads=2)


@cache
def duplicates() -> tuple[Rows, Rows, NDArray[np.int64], Expected]:
    docs, queries = normal(1, 6000, 48), normal(2, MANY, 48)
    docs[500:3500] = docs[500]
    docs[3500:] = docs[3500] * (1 + np.float32(2**-23) * np.random.default_rng(3).integers(0, 3, (2500, 48)))
    queries[0], queries[1] = docs[500], docs[3500]
    ids = np.random.default_rng(4).permutation(6000)
    return docs.astype(np.float32), queries, ids, best(queries, docs.astype(np.float32), 50, ids)


@pytest.mark.parametrize("n_queries", [FEW, MANY])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_thousands_of_copies(isa: str, n_queries: int, n_threads: int) -> None:
    docs, queries, ids, (scores, found) = duplicates()
    index = FlatIndex.from_vectors(docs, ids, scan="int8")
    hits = assert_finds(index, queries[:n_queries], (scores[:n_queries], found[:n_queries]), n_threads)
    assert hits.stats is not None
    # Codes cannot tell copies of the best apart: such queries leave them on the way, others stay. Few queries may
    # afford to stay, and when a second thread learns of it is the scheduler's choice.
    if n_queries == MANY and n_threads == 1:
        assert hits.stats.path[:2].tolist() == ["int8, then float32"] * 2
    assert ((hits.stats.by_codes > 0) & (hits.stats.by_codes <= 6000)).all()
    assert ((hits.stats.by_codes < 6000) == (hits.stats.path != "int8")).all()


@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_rows_without_codes_beside_queries_without(isa: str, n_queries: int) -> None:
    # A row beyond coding must not be found twice by a query that only the float32 scan serves.
    docs, queries = np.abs(normal(1, 500, 16)), np.abs(normal(2, n_queries, 16))
    docs[100:103] *= np.float32(1e30)
    docs[200:240] *= np.float32(1e-30)
    queries[0] *= np.float32(1e25)
    queries[1] *= np.float32(-1e-25)
    queries[2] = 0
    hits = assert_exact(queries, docs, 45)
    assert hits.stats is not None
    assert hits.stats.by_codes.tolist() == [0, 0, 0] + [500] * (n_queries - 3)
    assert "int8" not in hits.stats.path[:3].tolist()


@cache
def all_codes(dim: int, off: float) -> tuple[Rows, Rows, Expected]:
    """Every pair of codes; with a third element of 127 they are the codes that the documents get."""
    values = np.arange(-127, 128, dtype=np.float32)
    pairs = np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2) + np.float32(off)
    docs = np.concatenate([pairs, np.full((len(pairs), dim - 2), 127, np.float32)], axis=1)
    rng = np.random.default_rng(dim)
    asked = rng.integers(-127, 128, (22, dim))
    asked[:8, :2] = [[1, 0], [0, -1], [127, 127], [-127, 127], [1, 1], [-1, 1], [2, -1], [0, 0]]
    queries = np.concatenate([asked.astype(np.float32), rng.standard_normal((12, dim), dtype=np.float32)])
    return docs, queries, best(queries, docs, 7)


@pytest.mark.parametrize(("dim", "off"), [(2, 0.0), (3, 0.0), (3, 0.5)])
def test_all_codes_of_small_vectors(isa: str, dim: int, off: float) -> None:
    docs, queries, (scores, ids) = all_codes(dim, off)
    index = FlatIndex.from_vectors(docs, scan="int8")
    assert_finds(index, queries, (scores, ids))
    assert_finds(index, queries[:14], (scores[:14], ids[:14]))


@given(problems())
@settings(max_examples=100)
def test_exact_for_what_hypothesis_finds(isa: str, problem: tuple[Rows, Rows, int, NDArray[np.int64] | None]) -> None:
    queries, docs, k, ids = problem
    expected = best(queries, docs, k, ids)
    assert_finds(FlatIndex.from_vectors(docs, ids, scan="int8"), queries, expected)
