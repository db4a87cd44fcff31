"""The exactness contract of retrieval: ids and scores bit for bit against the oracle, at every level."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import platform
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from oracle import canonical_score, exact_score, log_softmax, top_k

import ragfast
from ragfast import FlatIndex


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def integers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def assert_contract(
    queries: NDArray[Any], docs: NDArray[Any], k: int, ids: NDArray[np.int64] | None = None, n_threads: int = 1
) -> None:
    expected_scores, expected_ids = top_k(queries, docs, k, ids)
    one_shot = ragfast.search(queries, docs, k, ids=ids, n_threads=n_threads, dtype=np.float64)
    assert one_shot.ids.tolist() == expected_ids.tolist()
    assert one_shot.scores.tobytes() == expected_scores.tobytes()
    if docs.dtype == np.float32:
        indexed = FlatIndex.from_vectors(docs, ids).search(queries, k, n_threads=n_threads, dtype=np.float64)
        assert indexed.ids.tobytes() == one_shot.ids.tobytes()
        assert indexed.scores.tobytes() == one_shot.scores.tobytes()
        assert indexed.logprobs.tobytes() == one_shot.logprobs.tobytes()


@pytest.mark.parametrize("dim", [*range(1, 36), 63, 64, 65, 100, 127, 200])
def test_every_dim(isa: str, dim: int) -> None:
    assert_contract(normal(dim, 3, dim), normal(dim + 1, 150, dim), 5)


@pytest.mark.parametrize("n_docs", [0, 1, 2, 31, 32, 33, 63, 64, 65, 66, 95, 96, 97, 129, 400])
@pytest.mark.parametrize("n_queries", [0, 1, 5, 26])
def test_every_size(isa: str, n_docs: int, n_queries: int) -> None:
    for k in (1, 3, n_docs + 2):
        assert_contract(integers(n_docs, n_queries, 7), integers(n_queries, n_docs, 7), k, n_threads=2)


@pytest.mark.parametrize("n_queries", range(1, 40))
def test_every_batch_size(isa: str, n_queries: int) -> None:
    assert_contract(normal(1, n_queries, 19), normal(2, 140, 19), 4)


@pytest.mark.parametrize("seed", range(4))
def test_ties_go_to_the_lower_id(isa: str, seed: int) -> None:
    # Small integers: float32 is exact, most scores tie.
    queries, docs = integers(seed, 30, 8), integers(seed + 10, 500, 8)
    assert_contract(queries[:2], docs, 40)
    assert_contract(queries, docs, 40, n_threads=2)
    ids = np.random.default_rng(seed).permutation(10_000)[:500]
    assert_contract(queries, docs, 40, ids)


def hard_corpora() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    n, dim = 700, 24
    base = normal(6, n, dim)
    outlier = base.copy()
    outlier[:, 3] *= 1e6
    cluster = np.repeat(normal(7, 1, dim), n, axis=0) + 1e-7 * base
    norms = base * np.exp(4 * rng.standard_normal((n, 1))).astype(np.float32)
    sparse = base * (rng.random((n, dim)) < 0.1)
    zeros = base.copy()
    zeros[::2] = 0
    huge_and_tiny = base.copy()
    huge_and_tiny[::3] *= np.float32(1e-38)
    huge_and_tiny[::5] *= np.float32(1e37)
    cancelling = np.concatenate([base, -base], axis=1) * np.float32(1e10) + normal(8, n, 2 * dim)
    return {
        "one dimension a million times the rest": outlier,
        "near-duplicates": cluster,
        "log-normal norms": norms,
        "sparse": sparse,
        "half zero": zeros,
        "all zero": np.zeros((n, dim), np.float32),
        "all equal": np.repeat(base[:1], n, axis=0),
        "near both ends of the range": huge_and_tiny,
        "denormal": base * np.float32(1e-42),
        "cancelling": cancelling[:, :dim],
    }


@pytest.mark.parametrize("name", hard_corpora())
def test_hard_corpora(isa: str, name: str) -> None:
    docs = hard_corpora()[name]
    queries = np.concatenate([normal(9, 24, docs.shape[1]), docs[:3], -docs[3:5], 0 * docs[:1]])
    assert_contract(queries, docs, 10)
    assert_contract(queries[:3], docs, 10, n_threads=2)
    assert_contract(queries[24:25], docs, 10)


def test_partial_sums_that_overflow_float32(isa: str) -> None:
    # 3e38 * 3 - 3e38 * 3 + ... overflows float32 on the way; the float64 score is small.
    docs = normal(3, 300, 6)
    docs[:, 0] = docs[:, 1] = 3e38
    docs[::7, 0] = -3e38
    queries = normal(4, 30, 6)
    queries[:, 0], queries[:, 1] = 3, -3
    assert_contract(queries, docs, 12)
    assert_contract(queries[:1], docs, 12)


def test_scores_beyond_float32_round_to_infinity() -> None:
    huge = np.full((100, 4), 3e38, np.float32)
    scores, ids = FlatIndex.from_vectors(huge).search(huge[:1], 2)
    assert scores.tolist() == [[math.inf, math.inf]]
    assert ids.tolist() == [[0, 1]]
    assert np.isfinite(FlatIndex.from_vectors(huge).search(huge[:1], 2).logprobs).all()


def test_float64_is_calculated_in_full(isa: str) -> None:
    rng = np.random.default_rng(0)
    docs, queries = rng.standard_normal((200, 21)), rng.standard_normal((3, 21))
    docs[50:60] = docs[0] * (1 + 1e-15 * np.arange(10)[:, None])  # float32 could not tell them apart
    assert_contract(queries, docs, 15)
    assert_contract(queries, docs, 15, n_threads=2)


def test_mixed_dtypes_are_taken_as_float64(isa: str) -> None:
    docs, queries = normal(1, 90, 5), normal(2, 2, 5).astype(np.float64) / 3
    assert ragfast.search(queries, docs, 4).ids.tolist() == top_k(queries, docs, 4)[1].tolist()
    assert ragfast.search(queries, docs, 4).scores.dtype == np.float64


def test_canonical_score_is_the_inner_product() -> None:
    # The oracle itself against arithmetic without rounding.
    for seed in range(20):
        q, d = normal(seed, 100), normal(seed + 100, 100)
        exact = exact_score(q, d)
        assert abs(canonical_score(q, d) - exact) <= 1e-14 * float(np.abs(q) @ np.abs(d))


def test_same_bits_at_every_level_thread_count_and_split() -> None:
    docs, queries = normal(1, 3000, 96), normal(2, 50, 96)
    reference = FlatIndex.from_vectors(docs).search(queries, 20, n_threads=1, dtype=np.float64)
    before = ragfast.runtime.isa()
    try:
        for level in ragfast.runtime.available_isas():
            ragfast.runtime.set_isa(level)
            index = FlatIndex(96)
            for part in np.array_split(docs, 7):
                index.add(part)
            for n_threads in (1, 2, 3, 8):
                for step in (1, 7, 24, 50):
                    parts = [
                        index.search(queries[i : i + step], 20, n_threads=n_threads, dtype=np.float64)
                        for i in range(0, 50, step)
                    ]
                    assert np.concatenate([p.ids for p in parts]).tobytes() == reference.ids.tobytes()
                    assert np.concatenate([p.scores for p in parts]).tobytes() == reference.scores.tobytes()
                    assert np.concatenate([p.logprobs for p in parts]).tobytes() == reference.logprobs.tobytes()
    finally:
        ragfast.runtime.set_isa(before)


finite = st.floats(-(2.0**100), 2.0**100, width=32)
small = st.integers(-3, 3).map(float)


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    dim, n_docs, n_queries = draw(st.integers(1, 20)), draw(st.integers(65, 110)), draw(st.sampled_from([1, 2, 25]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    docs = rng.integers(-3, 4, (n_docs, dim)).astype(np.float32)
    queries = rng.integers(-3, 4, (n_queries, dim)).astype(np.float32)
    for _ in range(draw(st.integers(0, 5))):
        docs[draw(st.integers(0, n_docs - 1))] = draw(st.one_of(small, finite))
    queries[0] = draw(st.lists(st.one_of(small, finite), min_size=dim, max_size=dim))
    return queries, docs, draw(st.integers(1, 12))


@given(problems())
def test_contract_holds_for_what_hypothesis_finds(problem: tuple[NDArray[Any], NDArray[Any], int]) -> None:
    assert_contract(*problem)


@given(problems(), st.randoms(use_true_random=False))
def test_permuting_documents_permutes_ids(problem: tuple[NDArray[Any], NDArray[Any], int], random: Any) -> None:
    queries, docs, k = problem
    order = list(range(len(docs)))
    random.shuffle(order)
    plain = ragfast.search(queries, docs, k, dtype=np.float64)
    permuted = ragfast.search(queries, docs[order], k, ids=np.array(order), dtype=np.float64)
    assert permuted.ids.tobytes() == plain.ids.tobytes()
    assert permuted.scores.tobytes() == plain.scores.tobytes()


@given(problems(), st.integers(1, 100))
def test_splitting_the_corpus_changes_nothing(problem: tuple[NDArray[Any], NDArray[Any], int], at: int) -> None:
    queries, docs, k = problem
    whole = ragfast.search(queries, docs, k, dtype=np.float64)
    halves = [
        ragfast.search(queries, part, k, ids=ids, dtype=np.float64)
        for part, ids in ((docs[:at], np.arange(at)[: len(docs)]), (docs[at:], np.arange(at, max(at, len(docs)))))
    ]
    for b in range(len(queries)):
        both = sorted((-s, i) for half in halves for s, i in zip(half.scores[b], half.ids[b], strict=True) if i >= 0)
        assert [i for _, i in both[:k]] == whole.ids[b].tolist()


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 30.0])
def test_logprobs_are_log_softmax(isa: str, temperature: float) -> None:
    docs, queries = normal(1, 300, 33), normal(2, 4, 33)
    hits = FlatIndex.from_vectors(docs).search(queries, 7, temperature=temperature, dtype=np.float64)
    for scores, logprobs in zip(hits.scores, hits.logprobs, strict=True):
        np.testing.assert_allclose(logprobs, log_softmax(scores, temperature), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(np.exp(hits.logprobs).sum(axis=1), 1, rtol=1e-13)
    short = FlatIndex.from_vectors(docs[:3]).search(queries, 7, temperature=temperature, dtype=np.float64)
    for scores, logprobs in zip(short.scores, short.logprobs, strict=True):
        np.testing.assert_allclose(logprobs, log_softmax(scores, temperature), rtol=1e-13, atol=1e-13)


def test_adding_a_constant_to_all_scores_changes_no_probability(isa: str) -> None:
    # A dimension on which all documents agree adds q_i to every score.
    docs, queries = integers(1, 200, 9), integers(2, 3, 9)
    docs[:, 0] = 1
    queries[:, 0] = 0
    shifted = queries.copy()
    shifted[:, 0] = 4096
    plain, moved = (ragfast.search(q, docs, 6, dtype=np.float64) for q in (queries, shifted))
    assert moved.ids.tolist() == plain.ids.tolist()
    assert (moved.scores - plain.scores == 4096).all()
    assert moved.logprobs.tobytes() == plain.logprobs.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strided_unaligned_readonly_and_big_endian(isa: str, dtype: Any) -> None:
    docs, queries = normal(1, 130, 10).astype(dtype), normal(2, 3, 10).astype(dtype)
    expected = ragfast.search(queries, docs, 5)
    buffer = bytearray(docs.nbytes + 1)
    unaligned = np.frombuffer(buffer, dtype, docs.size, offset=1).reshape(docs.shape)
    unaligned[:] = docs
    wide = np.zeros((260, 20), dtype)
    wide[::2, ::2] = docs
    readonly = docs.copy()
    readonly.flags.writeable = False
    big_endian = docs.astype(docs.dtype.newbyteorder(">"))
    for same in (np.asfortranarray(docs), unaligned, wide[::2, ::2], readonly, big_endian, docs[::-1].copy()[::-1]):
        hits = ragfast.search(queries, same, 5)
        assert hits.ids.tolist() == expected.ids.tolist()
        assert hits.scores.tobytes() == expected.scores.tobytes()


class _Fenv:
    """The caller's floating-point mode, through the C library (and torch's switch would do the same)."""

    def __init__(self) -> None:
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))
        self.upward = 0x800 if platform.machine() == "x86_64" else 0x400000  # FE_UPWARD

    def __enter__(self) -> None:
        assert self.libm.fesetround(self.upward) == 0

    def __exit__(self, *error: object) -> None:
        self.libm.fesetround(0)


@pytest.mark.parametrize("scale", [1, 1e-40])
def test_a_caller_that_rounds_upward_changes_nothing(isa: str, scale: float) -> None:
    docs, queries = normal(1, 400, 30) * np.float32(scale), normal(2, 30, 30)
    index = FlatIndex.from_vectors(docs)
    calls = [
        lambda: index.search(queries, 5),
        lambda: ragfast.search(queries, docs, 5, dtype=np.float64),
        lambda: ragfast.search(queries.astype(np.float64), docs, 5),
    ]
    expected = [call() for call in calls]
    with _Fenv():
        found = [call() for call in calls]
    for before, within in zip(expected, found, strict=True):
        assert within.ids.tobytes() == before.ids.tobytes()
        assert within.scores.tobytes() == before.scores.tobytes()


@pytest.mark.parametrize("n_threads", [2, 3])
def test_ties_and_near_duplicates_across_threads(isa: str, n_threads: int) -> None:
    # Enough work that threads share it, whole blocks of equal scores, ids in no order.
    queries, docs = integers(1, 40, 64), integers(2, 6000, 64)
    docs[1000:3000] = docs[1000]
    ids = np.random.default_rng(3).permutation(50_000)[:6000]
    scores = queries.astype(np.float64) @ docs.T.astype(np.float64)  # small integers: exact in any order
    for k in (1, 17, 1500):
        hits = ragfast.search(queries, docs, k, ids=ids, n_threads=n_threads, dtype=np.float64)
        for b in range(len(queries)):
            best = np.lexsort((ids, -scores[b]))[:k]
            assert hits.ids[b].tolist() == ids[best].tolist()
            assert hits.scores[b].tobytes() == scores[b][best].tobytes()
    near = np.repeat(normal(4, 1, 64), 6000, axis=0) + np.float32(1e-7) * normal(5, 6000, 64)
    one = FlatIndex.from_vectors(near, ids)
    alone, shared = (one.search(normal(6, 30, 64), 20, n_threads=n, dtype=np.float64) for n in (1, n_threads))
    assert shared.ids.tobytes() == alone.ids.tobytes()
    assert shared.scores.tobytes() == alone.scores.tobytes()
