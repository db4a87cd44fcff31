"""The scan of int8 codes has the same bits as the oracle: every shape, thread count and type, at every level."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from functools import cache

import numpy as np
import pytest
from code_cases import (
    DIMS,
    FEW,
    MANY,
    Expected,
    Rows,
    assert_exact,
    assert_finds,
    best,
    canonical_scores,
    integers,
    large,
    normal,
)
from numpy.typing import NDArray
from oracle import canonical_score, top_k

import ragfast
from ragfast import FlatIndex
from ragfast._core import _kernels
from ragfast.index.quantizer import Quantizer


def test_the_fast_oracle_is_the_slow_one() -> None:
    for dim in (1, 2, 3, 5, 9, 16, 17, 40):
        queries, docs = normal(dim, 3, dim), normal(dim + 1, 70, dim) * np.float32(1e20)
        docs[:9] = -docs[9:18]
        docs[1] = -0.0
        scores = [[canonical_score(q, d) for d in docs] for q in queries]
        assert canonical_scores(queries, docs).tobytes() == np.array(scores).tobytes()
        ids = np.random.default_rng(dim).permutation(70)
        for x, y in zip(best(queries, docs, 75, ids), top_k(queries, docs, 75, ids), strict=True):
            assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_every_dim(isa: str, dim: int, n_queries: int) -> None:
    hits = assert_exact(normal(dim, n_queries, dim), normal(dim + 1, 131, dim), 5)
    assert hits.stats is not None
    assert hits.stats.path.tolist() == ["int8"] * n_queries


@pytest.mark.parametrize("n_docs", [65, 66, 95, 96, 97, 127, 128, 129, 161, 400])
@pytest.mark.parametrize("n_queries", [1, 5, 13, 24, 33])
def test_every_size(isa: str, n_docs: int, n_queries: int) -> None:
    queries, docs = integers(n_docs, n_queries, 7), integers(n_queries, n_docs, 7)
    for k in (1, 3, n_docs // 2 - 1, n_docs + 2):
        assert_exact(queries, docs, k, n_threads=2)


def test_every_batch_size(isa: str) -> None:
    docs, queries = normal(2, 140, 19), normal(1, 40, 19)
    index, (scores, ids) = FlatIndex.from_vectors(docs, scan="int8"), best(queries, docs, 4)
    for n in range(1, 41):
        assert_finds(index, queries[:n], (scores[:n], ids[:n]))


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_every_thread_count(isa: str, n_queries: int, n_threads: int) -> None:
    # Enough work that threads share it, ties in every panel, ids in no order.
    queries, docs = integers(1, n_queries, 200), integers(2, 3000, 200)
    docs[1000:2000:3] = docs[1000]
    ids = np.random.default_rng(3).permutation(50_000)[:3000]
    index = FlatIndex.from_vectors(docs, ids, scan="int8")
    scores = queries.astype(np.float64) @ docs.T.astype(np.float64)  # small integers: exact in any order
    for k in (1, 17, 400):
        order = np.array([np.lexsort((ids, -row))[:k] for row in scores])
        assert_finds(index, queries, (np.take_along_axis(scores, order, 1), ids[order]), n_threads)


@pytest.mark.parametrize("seed", range(2))
def test_ties_go_to_the_lower_id(isa: str, seed: int) -> None:
    queries, docs = integers(seed, 34, 8), integers(seed + 10, 500, 8)
    ids = np.random.default_rng(seed).permutation(10_000)[:500]
    assert_exact(queries[:2], docs, 40)
    assert_exact(queries, docs, 40, ids, n_threads=2)


@cache
def added_in_parts() -> tuple[Rows, Rows, Rows, NDArray[np.int64], list[tuple[int, Expected, Expected]]]:
    docs, few, many = normal(1, 415, 33), normal(2, 3, 33), normal(3, 34, 33)
    docs[200:] = docs[:215]  # what is added last ties with what was there
    ids = np.random.default_rng(4).permutation(1000)[:415]
    parts = np.cumsum([100, 5, 7, 1, 31, 33, 1, 37, 0, 200])
    return (
        docs,
        few,
        many,
        ids,
        [(n, best(few, docs[:n], 6, ids[:n]), best(many, docs[:n], 6, ids[:n])) for n in parts.tolist()],
    )


def test_documents_added_to_a_panel_between_searches(isa: str) -> None:
    docs, few, many, ids, steps = added_in_parts()
    index = FlatIndex(33, scan="int8")
    for n, expected_few, expected_many in steps:
        index.add(docs[len(index) : n], ids[len(index) : n])
        assert_finds(index, few, expected_few)
        assert_finds(index, many, expected_many)


@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_codes_of_documents_that_a_search_does_not_see(isa: str, n_queries: int) -> None:
    # As beside an add: codes of all 200 are there, the search is of fewer, and the others would be the best.
    docs, queries = normal(1, 200, 20), normal(2, n_queries, 20)
    docs[70:] *= 100
    codes = Quantizer().new_codes(200, 20, True)
    codes.encode(docs, 0, False, 1)
    norms = _kernels.measure_rows(docs, False, False, 1)[0]
    for n in (65, 70, 95, 96, 97, 128):
        seen = _kernels.Docs(docs[:n], norms[:n], None, codes)
        hits = _kernels.search(queries, (seen,), 4, 1.0, 1, np.dtype(np.float64).num)
        assert hits.ids.tolist() == best(queries, docs[:n], 4)[1].tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_documents_of_16_bits(isa: str, dtype: str, n_queries: int) -> None:
    docs, queries = normal(1, 300, 50), normal(2, n_queries, 50)
    docs[7] *= np.float32(1e-6)  # float16 denormals
    index = FlatIndex.from_vectors(docs, scan="int8", dtype=dtype)
    hits = assert_finds(index, queries, best(queries, index.vectors.astype(np.float32), 9))
    assert hits.stats is not None
    assert (hits.stats.by_codes == 300).all()


@pytest.mark.parametrize("scan", ["auto", "int8", "float32"])
def test_a_scan_changes_no_bit(isa: str, scan: str) -> None:
    docs, queries, (scores, ids) = large()
    index = FlatIndex.from_vectors(docs, scan=scan)
    for n in (1, FEW, MANY):
        for n_threads in (1, 2):
            hits = assert_finds(index, queries[:n], (scores[:n], ids[:n]), n_threads)
            assert hits.stats is not None
            assert hits.stats.path.tolist() == ["float32" if scan == "float32" else "int8"] * n
            assert (hits.stats.by_codes == (0 if scan == "float32" else 9000)).all()
    assert_exact(queries[:2], docs[:70], 5, scan="auto")  # too few documents for codes


def test_a_caller_that_rounds_upward_changes_nothing(isa: str) -> None:
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    upward = 0x800 if platform.machine() == "x86_64" else 0x400000  # FE_UPWARD
    docs, queries = normal(1, 300, 30) * np.float32(1e-18), normal(2, MANY, 30)
    docs[::2] += np.float32(1e-22) * normal(3, 150, 30)
    planes, expected = [], best(queries, docs, 5)
    index = FlatIndex.from_vectors(docs, scan="int8")
    for mode in (0, upward):
        assert libm.fesetround(mode) == 0
        try:
            codes = Quantizer().new_codes(300, 30, True)
            codes.encode(docs, 0, False, 1)
            hits = index.search(queries, 5, dtype=np.float64)
        finally:
            libm.fesetround(0)
        planes.append([plane.tobytes() for plane in codes.planes])
        assert hits.ids.tolist() == expected[1].tolist()
        assert hits.scores.tobytes() == expected[0].tobytes()
    assert planes[0] == planes[1]


def test_stats_tell_the_path() -> None:
    docs, queries, _ = large()
    hits = FlatIndex.from_vectors(docs, scan="int8").search(queries[:FEW], 10)
    assert hits.stats is not None
    assert repr(hits.stats).startswith("SearchStats(n_docs=9000, path=['int8', 'int8', 'int8'], rescored=[")
    assert hits.stats[1].rescored == hits.stats.rescored[1]
    exact = ragfast.search(queries[:1], docs[:50], 10).stats
    assert exact is not None
    assert exact.path.tolist() == ["float64"]
    assert exact.rescored.tolist() == [50]
    assert exact.by_codes.tolist() == [0]
    assert exact.prefix == 0
