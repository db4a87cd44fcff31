"""The scan of int8 codes: the same bits as the oracle on every path, and bounds as docs/exactness.md has them."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import canonical_score, top_k

import ragfast
from ragfast import FlatIndex, Hits, _kernels
from ragfast.index import codes

Rows = NDArray[np.float32]
PANEL = 32
DIMS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 100, 200, 384]
FEW, MANY = 3, 33  # queries: from 16, 24 or 32 on, as the level has it, codes are unpacked


def normal(seed: int, *shape: int) -> Rows:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def integers(seed: int, *shape: int) -> Rows:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


# ---- what is expected ----------------------------------------------------------------------------------------------


def canonical_scores(queries: NDArray[Any], docs: NDArray[Any]) -> NDArray[np.float64]:
    """oracle.canonical_score of all pairs (B,N). Lanes that D does not fill stay 0 and are left out."""
    dim, n_lanes = docs.shape[1], 16
    while n_lanes // 2 >= dim:
        n_lanes //= 2
    padding = ((0, 0), (0, -dim % n_lanes))
    q, d = np.pad(queries.astype(np.float64), padding), np.pad(docs.astype(np.float64), padding)
    scores = np.empty((len(q), len(d)))
    for b in range(len(q)):
        lanes = np.zeros((len(d), n_lanes))
        for e in range(0, q.shape[1], n_lanes):
            lanes += q[b, e : e + n_lanes] * d[:, e : e + n_lanes]
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        scores[b] = lanes[:, 0]
    return scores


def best(
    queries: NDArray[Any], docs: NDArray[Any], k: int, ids: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """oracle.top_k for many documents."""
    names = np.arange(len(docs)) if ids is None else ids
    scores, found = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
    for b, row in enumerate(canonical_scores(queries, docs)):
        order = np.lexsort((names, -row))[:k]
        scores[b, : len(order)], found[b, : len(order)] = row[order], names[order]
    return scores, found


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


Expected = tuple[NDArray[np.float64], NDArray[np.int64]]


def assert_finds(index: FlatIndex, queries: Rows, expected: Expected, n_threads: int = 1) -> Hits:
    hits = index.search(queries, expected[0].shape[1], n_threads=n_threads, dtype=np.float64)
    assert hits.ids.tolist() == expected[1].tolist()
    assert hits.scores.tobytes() == expected[0].tobytes()
    assert hits.stats is not None
    assert hits.stats.n_docs == len(index)
    return hits


def assert_exact(
    queries: Rows, docs: Rows, k: int, ids: NDArray[np.int64] | None = None, n_threads: int = 1, scan: str = "int8"
) -> Hits:
    index = FlatIndex.from_vectors(docs, ids, scan=scan)
    return assert_finds(index, queries, best(queries, docs, k, ids), n_threads)


# ---- every shape ---------------------------------------------------------------------------------------------------


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
    room = codes.Form().room(200, 20, True)
    room.encode(docs, 0, False, 1)
    norms, _ = _kernels.row_norms(docs, False, 1)
    for n in (65, 70, 95, 96, 97, 128):
        seen = _kernels.Docs(docs[:n], norms[:n], None, room)
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


@cache
def large() -> tuple[Rows, Rows, Expected]:
    docs, queries = normal(1, 9000, 64), normal(2, MANY, 64)
    return docs, queries, best(queries, docs, 10)


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
            room = codes.Form().room(300, 30, True)
            room.encode(docs, 0, False, 1)
            hits = index.search(queries, 5, dtype=np.float64)
        finally:
            libm.fesetround(0)
        planes.append([plane.tobytes() for plane in room.planes])
        assert hits.ids.tolist() == expected[1].tolist()
        assert hits.scores.tobytes() == expected[0].tobytes()
    assert planes[0] == planes[1]


# ---- data that break codes -----------------------------------------------------------------------------------------


@cache
def corpora() -> dict[str, Rows]:
    rng = np.random.default_rng(5)
    n, dim = 1300, 40
    base = normal(6, n, dim)
    in_mean, in_variance = base.copy(), base.copy()
    in_mean[:, 3] += 50
    in_variance[:, 3] *= 50
    sparse = base * (rng.random((n, dim)) < 0.05)
    zeros, both_ends, within = base.copy(), base.copy(), base.copy()
    zeros[::2] = 0
    zeros[1::4] = -0.0
    both_ends[::3] *= np.float32(1e-38)
    both_ends[::5] *= np.float32(5e37)
    within *= np.exp(30 * rng.standard_normal((n, dim))).clip(1e-38, 1e37).astype(np.float32)
    near_limits = base / np.abs(base).max(axis=1, keepdims=True)
    for i, exponent in enumerate((-62, -61, -60, -59, 59, 60, 61)):
        near_limits[i::14] *= np.float32(2.0**exponent)
    ulps = np.repeat(normal(7, 1, dim), n, axis=0)
    ulps[np.arange(n), rng.integers(0, dim, n)] *= np.float32(1) + np.float32(2**-23)
    clusters = np.repeat(normal(8, 4, dim), n // 4, axis=0) + np.float32(1e-6) * base
    return {
        "random": base,
        "outlier in the mean": in_mean,
        "outlier in the variance": in_variance,
        "log-normal norms": base * np.exp(4 * rng.standard_normal((n, 1))).astype(np.float32),
        "sparse": sparse,
        "half zero": zeros,
        "all zero": np.zeros((n, dim), np.float32),
        "all equal": np.repeat(base[:1], n, axis=0),
        "constant rows": np.repeat(base[:, :1], dim, axis=1),
        "one ulp apart": ulps,
        "clusters": clusters,
        "both ends of the range": both_ends,
        "magnitudes mixed in a row": within,
        "about the least and the most that is coded": near_limits,
        "denormal": base * np.float32(1e-42),
        "negative scores only": -np.abs(base),
        "orthogonal to the queries": np.concatenate([np.zeros((n, dim // 2), np.float32), base[:, : dim // 2]], axis=1),
        "half way between codes": (np.floor(20 * base).clip(-126, 125) + np.float32(0.5)).astype(np.float32),
        "one element in each": np.eye(dim, dtype=np.float32)[rng.integers(0, dim, n)] * base[:, :1],
    }


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


# ---- what Hypothesis finds -----------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
small = st.integers(-3, 3).map(float)
factors = st.sampled_from(
    [1.0, -1.0, 1 + 2**-23, 1 - 2**-24, 50.0, 0.0, -0.0, 1e-6, 1e6, 1e38, 1e-38, 1e-45, 2.0**60, 2.0**-60]
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Rows, Rows, int, NDArray[np.int64] | None]:
    dim, n_docs, n_queries = (
        draw(st.integers(1, 70)),
        draw(st.integers(65, 230)),
        draw(st.sampled_from([1, 2, 13, 24, 33])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["integers", "normal", "cluster", "mixed"]))
    if kind == "integers":
        docs = rng.integers(-3, 4, (n_docs, dim)).astype(np.float64)
    else:
        docs = rng.standard_normal((n_docs, dim))
    if kind == "cluster":
        docs = docs[0] + draw(st.sampled_from([1e-7, 1e-4, 1e-2])) * docs
    if kind == "mixed":
        docs *= np.exp(
            draw(st.sampled_from([1, 5, 20])) * rng.standard_normal(draw(st.sampled_from([(n_docs, 1), (n_docs, dim)])))
        )
    queries = rng.standard_normal((n_queries, dim)) if draw(st.booleans()) else docs[rng.integers(0, n_docs, n_queries)]
    with np.errstate(all="ignore"):
        for _ in range(draw(st.integers(0, 5))):
            rows = docs if draw(st.booleans()) else queries
            part = rows[draw(st.integers(0, 9)) :: draw(st.integers(1, 40))]
            change = draw(st.sampled_from(["scale", "element", "value", "sparse"]))
            if change == "scale":
                part *= draw(factors)
            elif change == "element":
                part[:, draw(st.integers(0, dim - 1))] *= draw(factors)
            elif change == "value":
                part[...] = draw(st.one_of(small, finite))
            else:
                part[rng.random(part.shape) < 0.8] = 0
        limit = float(np.finfo(np.float32).max)
        single = [rows.clip(-limit, limit).astype(np.float32) for rows in (queries, docs)]
    ids = rng.permutation(1000)[:n_docs] if draw(st.booleans()) else None
    return single[0], single[1], draw(st.integers(1, 40)), ids


@given(problems())
@settings(max_examples=100)
def test_exact_for_what_hypothesis_finds(isa: str, problem: tuple[Rows, Rows, int, NDArray[np.int64] | None]) -> None:
    queries, docs, k, ids = problem
    expected = best(queries, docs, k, ids)
    assert_finds(FlatIndex.from_vectors(docs, ids, scan="int8"), queries, expected)


# ---- forms ---------------------------------------------------------------------------------------------------------


@cache
def orthogonal(seed: int, dim: int) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def error_of(rotation: Rows) -> float:
    exact = rotation.astype(np.float64)
    return float(np.linalg.norm(exact.T @ exact - np.eye(len(exact)))) * (1 + 1e-9) + 1e-9


def rotated_form(rotation: NDArray[np.float64], prefix: int = 0, **others: Any) -> codes.Form:
    single = np.ascontiguousarray(rotation, np.float32)
    return codes.Form(rotation=single, rotation_error=error_of(single), prefix=prefix, **others)


@cache
def forms(dim: int) -> dict[str, codes.Form]:
    weight = np.float32(2) ** np.random.default_rng(1).integers(-9, 10, dim).astype(np.float32)
    center, rotation = 3 * normal(2, dim), orthogonal(3, dim)
    stretched = rotation + 0.0045 * np.outer(normal(4, dim), normal(5, dim)) / dim
    return {
        "plain": codes.Form(),
        "center": codes.Form(center=center),
        "weight": codes.Form(weight=weight),
        "weights at their ends": codes.Form(weight=np.where(np.arange(dim) % 2, 2.0**30, 2.0**-30).astype(np.float32)),
        "center and weight": codes.Form(center, weight),
        "prefix": codes.Form(prefix=64),
        "rotation": rotated_form(rotation),
        "rotation and prefix": rotated_form(rotation, 64),
        "all": rotated_form(rotation, dim // 64 * 64 - 64, center=center, weight=weight),
        "imperfect rotation": rotated_form(stretched, 64, center=center),
        "a center far away": codes.Form(center=center * np.float32(1e7)),
        "a center at the end of the range": codes.Form(center=np.full(dim, 3e38, np.float32)),
    }


@cache
def decaying(dim: int) -> tuple[Rows, Rows, list[Expected]]:
    """Documents with most of their energy in few directions, after which a prefix can tell."""
    rotation = orthogonal(3, dim)
    y = normal(7, 900, dim) * np.exp(-np.arange(dim) / 12).astype(np.float32)
    docs = (y @ rotation).astype(np.float32)
    docs[300:320] = docs[300]
    docs[400:404] *= np.float32(1e30)
    docs[404:410] = 0
    queries = np.concatenate([docs[5:32] + np.float32(0.02) * normal(8, 27, dim), normal(9, 6, dim), 0 * docs[:1]])
    return docs, queries, [best(queries[:n], docs, 10) for n in (FEW, len(queries))]


@pytest.mark.parametrize("dim", [130, 200])
@pytest.mark.parametrize("name", forms(128))
def test_forms(isa: str, dim: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form = forms(dim)[name]
    monkeypatch.setattr(codes, "choose", lambda *_, **__: form)
    docs, queries, expected = decaying(dim)
    index = FlatIndex.from_vectors(docs, scan="int8")
    for scores, ids in expected:
        hits = assert_finds(index, queries[: len(scores)], (scores, ids), n_threads=2)
        assert hits.stats is not None
        assert hits.stats.prefix == form.prefix


@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_a_prefix_that_repays_nothing_is_left(isa: str, n_queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "choose", lambda *_, **__: codes.Form(prefix=64))
    docs, queries = normal(1, 9000, 80), normal(2, n_queries, 80)
    docs[:, :64] *= np.float32(0.1)
    assert_exact(queries, docs, 5, n_threads=2)


# ---- bounds at their tightest: a document whose score is as far above its codes' as the bound allows ---------------


def assert_found_behind_an_equal(query: Rows, target: Rows, form: codes.Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor is the target's own score, from an earlier row of a higher id: nothing of the bound can be missing."""
    monkeypatch.setattr(codes, "choose", lambda *_, **__: form)
    docs = np.float32(1e-3) * normal(1, 99, len(query))
    docs[0] = docs[80] = target
    ids = np.arange(99) + 1000
    ids[80] = 3
    index = FlatIndex.from_vectors(docs, ids, scan="int8")
    for n_queries in (1, FEW, MANY):
        hits = index.search(np.repeat(query[None], n_queries, axis=0), 1, dtype=np.float64)
        assert hits.stats is not None
        assert hits.stats.path.tolist() == ["int8"] * n_queries
        assert hits.ids.tolist() == [[3]] * n_queries
    room = form.room(99, len(query), True)
    room.encode(docs, 0, False, 1)
    far = _kernels.Docs(docs, _kernels.row_norms(docs, False, 1)[0], ids, room, far=True)
    for n_queries in (1, FEW, MANY):
        queries = np.repeat(query[None], n_queries, axis=0)
        hits = _kernels.search(queries, (far,), 1, 1.0, 1, np.dtype(np.float64).num)
        assert hits.stats is not None
        assert (hits.stats.by_float32 == 0).all()
        assert hits.ids.tolist() == [[3]] * n_queries


def on_high_grid(sign: Rows) -> Rows:
    """Code units of this sign that the high plane holds exactly, save the first, 127: it makes the scale 1."""
    values = np.where(sign > 0, np.float32(125.5), np.float32(-126.5))
    values[0] = 127 * sign[0]
    return values


def on_grid(sign: Rows) -> Rows:
    return (127 * sign).astype(np.float32)


@pytest.mark.parametrize("dim", [16, 64, 100])
@pytest.mark.parametrize("grid", [on_grid, on_high_grid])
def test_the_querys_residual_is_needed(isa: str, dim: int, grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = np.sign(normal(dim, dim))
    query = sign * np.float32(100.499)  # all codes 100: each too small by nearly a half
    query[0] = 127 * sign[0]
    assert_found_behind_an_equal(query, grid(sign), codes.Form(), monkeypatch)


@pytest.mark.parametrize("dim", [16, 64, 100])
@pytest.mark.parametrize("off", [0.499, 1.0, 1.5, 2.499])
def test_the_documents_residual_is_needed(isa: str, dim: int, off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # off 0.499 from the whole code, up to 2.499 from the middle that the high plane stands for, all to the same side.
    sign = np.sign(normal(dim, dim))
    middle = np.where(sign > 0, np.float32(101.5), np.float32(-102.5)) if off != 0.499 else 100 * sign
    target = (middle + np.float32(off) * sign).astype(np.float32)
    target[0] = 127 * sign[0]
    assert_found_behind_an_equal(on_grid(sign), target, codes.Form(), monkeypatch)


@pytest.mark.parametrize("dim", [80, 128, 300])
def test_the_tail_is_needed(isa: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for sign in (np.sign(normal(dim, dim)), np.ones(dim, np.float32), -np.ones(dim, np.float32)):
        for grid in (on_grid, on_high_grid):
            query, target = on_grid(sign), grid(sign)
            target[1:64], query[:64] = 0, 0
            assert_found_behind_an_equal(query, target, codes.Form(prefix=64), monkeypatch)


@pytest.mark.parametrize("prefix", [0, 64])
def test_the_rotations_error_is_needed(isa: str, prefix: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The rotation shortens the one direction in which the query and the best document lie, whose codes are exact.
    dim = 128
    rotation = orthogonal(1, dim)
    y = (
        np.concatenate([on_high_grid(np.sign(normal(2, 64))), np.zeros(64)])
        if prefix
        else on_grid(np.sign(normal(2, dim)))
    )
    target = y @ rotation
    along = target / np.linalg.norm(target)
    form = rotated_form(rotation - 0.0049 * np.outer(rotation @ along, along), prefix)
    assert 0.009 < form.rotation_error < 0.01
    assert_found_behind_an_equal(target.astype(np.float32), target.astype(np.float32), form, monkeypatch)


@pytest.mark.parametrize("dim", [523, 1009, 2039])
def test_the_roundings_of_the_comparison_are_needed(isa: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every other part of the bound is attained or nearly 0, so that the limit in float32 is the score itself.
    for i in range(8):
        query, target = np.full(dim, 127, np.float32), np.full(dim, 3, np.float32)
        target[0] = 127
        assert_found_behind_an_equal(
            query * np.float32(1.07**i), target * np.float32(1.13**i), codes.Form(), monkeypatch
        )


# ---- bounds directly -----------------------------------------------------------------------------------------------


def decoded(room: _kernels.Codes, n_docs: int, dim: int) -> NDArray[np.int64]:
    """u (n_docs,D) of the planes, as codes.h has them."""
    n_panels, n_groups = (n_docs + PANEL - 1) // PANEL, (dim + 15) // 16
    high_plane, low_plane, _ = room.planes
    high = high_plane.reshape(n_panels, n_groups, 3, PANEL, 4).astype(np.int64)
    low = low_plane.reshape(n_panels, n_groups, PANEL, 4).astype(np.int64)
    steps = [high[:, :, s] & 0xFC | low >> 2 * s & 3 for s in range(3)]
    steps.append((high[:, :, 0] & 3) << 6 | (high[:, :, 1] & 3) << 4 | (high[:, :, 2] & 3) << 2 | low >> 6)
    u = np.stack(steps, axis=2).transpose(0, 3, 1, 2, 4)  # (panels, documents, groups, steps, elements)
    return u.reshape(n_panels * PANEL, -1)[:n_docs]


def coded(docs: Rows, form: codes.Form) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    """Y in more digits than the bounds have, u, and the bounds (5,N), all of documents that can be coded."""
    n, dim = docs.shape
    room = form.room(n, dim, True)
    room.encode(docs, 0, False, 1)
    u = decoded(room, n, dim)
    assert (u[:, dim:] == 128).all()  # what pads D
    bounds = room.planes[2].transpose(1, 0, 2).reshape(5, -1)[:, :n].astype(np.longdouble)
    y = docs.astype(np.longdouble)
    if form.center is not None:
        y = y - form.center
    if form.weight is not None:
        y = y * form.weight
    if form.rotation is not None:
        y = y @ form.rotation.T.astype(np.longdouble)
    kept = np.isfinite(bounds[2])
    return (y * bounds[0][:, None])[kept], u[kept, :dim], bounds[:, kept]


def length(rows: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.sqrt(np.square(rows).sum(axis=1)))


def assert_bounds_hold(docs: Rows, form: codes.Form) -> None:
    y, u, (_, high_residual, residual, norm, tail) = coded(docs, form)
    c, coarse = u - 128, (u & 0xFC) - np.longdouble(126.5)
    assert (np.abs(c) <= 127).all()
    assert (length(y - coarse) <= high_residual).all()
    assert (length(y - c) <= residual).all()
    assert (length(c.astype(np.longdouble)) <= norm).all()
    assert (length(coarse) <= norm).all()
    assert np.isfinite(tail).all()
    if form.prefix:
        assert (length(y[:, form.prefix :]) <= tail).all()


@pytest.mark.parametrize("name", corpora())
def test_bounds_hold_for_hard_corpora(isa: str, name: str) -> None:
    docs = corpora()[name]
    for form in (codes.Form(), codes.Form(center=docs.astype(np.float64).mean(axis=0).astype(np.float32))):
        assert_bounds_hold(docs, form)


@pytest.mark.parametrize("dim", DIMS)
def test_bounds_hold_for_every_dim(isa: str, dim: int) -> None:
    docs = normal(dim, 300, dim)
    assert_bounds_hold(docs, codes.Form())
    assert_bounds_hold(docs, codes.Form(center=normal(1, dim) / np.float32(3)))


@pytest.mark.parametrize("dim", [1100, 9000, 18000])
def test_bounds_hold_where_sums_of_squares_are_rounded_down(isa: str, dim: int) -> None:
    # 125.5^2 added to float32 sums above 2^23 loses its quarter every time, in each of up to 16 lanes.
    assert_bounds_hold(np.repeat(normal(1, 5, 1), dim, axis=1), codes.Form())


def test_bounds_hold_where_a_rotation_rounds_to_one_side(isa: str) -> None:
    # All that the first element of x leaves of the others is lost in each partial sum.
    hadamard = np.ones((1, 1))
    while len(hadamard) < 256:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    docs = np.full((40, 256), 0.99 * 2.0**-24, np.float32)
    docs[:, 0] = 1
    assert_bounds_hold(docs, rotated_form(hadamard / 16))


@pytest.mark.parametrize("name", forms(130))
def test_bounds_hold_in_every_form(isa: str, name: str) -> None:
    assert_bounds_hold(decaying(130)[0], forms(130)[name])


@given(problems())
@settings(max_examples=50)
def test_bounds_hold_for_what_hypothesis_finds(
    isa: str, problem: tuple[Rows, Rows, int, NDArray[np.int64] | None]
) -> None:
    queries, docs, _, _ = problem
    assert_bounds_hold(docs, codes.Form())
    assert_bounds_hold(docs, codes.Form(center=queries[0]))


def test_rows_beyond_coding_have_infinite_bounds(isa: str) -> None:
    docs = np.repeat(np.array([[1, -1, 0.5]], np.float32), 40, axis=0)
    docs[3] *= np.float32(2.0**61)
    docs[4] *= np.float32(2.0**-61)
    docs[5] = 0
    docs[6], docs[7] = docs[6] * np.float32(2.0**60), docs[7] * np.float32(2.0**-60)
    room = codes.Form().room(40, 3, True)
    room.encode(docs, 0, False, 1)
    residual = room.planes[2][:, 1:3].reshape(2, 2, 32)
    assert np.isinf(residual[0]).tolist() == [[j in (3, 4) for j in range(32)]] * 2


def test_bounds_are_not_vacuous(isa: str) -> None:
    for dim in (17, 64, 384):
        y, u, (_, high_residual, residual, norm, _) = coded(normal(dim, 640, dim), codes.Form())
        # The true loss is within a ten-thousandth, and about that of rounding evenly: sqrt(1/12), sqrt(1/12 + 5/4).
        assert (residual <= length(y - (u - 128)) * (1 + 1e-4)).all()
        assert (high_residual <= length(y - ((u & 0xFC) - np.longdouble(126.5))) * (1 + 1e-4)).all()
        assert (norm <= np.maximum(length(u - 128.0), length((u & 0xFC) - 126.5)) * (1 + 1e-4)).all()
        assert abs(residual.mean() / (dim / 12) ** 0.5 - 1) < 0.05
        assert abs(high_residual.mean() / (dim * 4 / 3) ** 0.5 - 1) < 0.05


def test_few_documents_are_scored_where_codes_can_tell(isa: str) -> None:
    docs, queries, _ = large()
    random = FlatIndex.from_vectors(docs, scan="int8")
    y = normal(3, 9000, 96) * np.exp(-np.arange(96) / 30).astype(np.float32)
    like_embeddings = FlatIndex.from_vectors(y / length(y)[:, None], scan="int8")
    for index, asked in ((random, queries), (like_embeddings, y[:MANY] + np.float32(0.3) * normal(4, MANY, 96))):
        few, many = (index.search(asked[:n], 10).stats for n in (FEW, MANY))
        assert few is not None
        assert many is not None
        assert few.path.tolist() == ["int8"] * FEW
        assert many.path.tolist() == ["int8"] * MANY
        for stats in (few, many):
            assert 10 <= stats.rescored.min() <= stats.rescored.max() <= 150, stats


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
