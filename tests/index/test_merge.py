"""Merging shards: the bits of a search over the whole, however it was split; the union by a sort, however it ties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from oracle import log_softmax

import ragfast
from ragfast import Hits

pytestmark = pytest.mark.usefixtures("isa")


def union(lists: list[list[tuple[float, int]]], k: int) -> list[tuple[float, int]]:
    """The best k of (score, id), each id once, padded: slow and obvious."""
    best: dict[int, float] = {}
    for score, name in (pair for pairs in lists for pair in pairs if pair[1] >= 0):
        best[name] = max(score, best.get(name, -math.inf))
    ranked = sorted((-score, name) for name, score in best.items())[:k]
    return [(-score, name) for score, name in ranked] + [(-math.inf, -1)] * (k - len(ranked))


def padded(lists: list[list[list[tuple[float, int]]]], n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """[shard][query] lists of pairs as (S,B,n) arrays."""
    scores, ids = np.full((len(lists), len(lists[0]), n), -np.inf), np.full((len(lists), len(lists[0]), n), -1)
    for s, queries in enumerate(lists):
        for b, pairs in enumerate(queries):
            for i, pair in enumerate(pairs):
                scores[s, b, i], ids[s, b, i] = pair
    return scores, ids


# Few values and few ids: ties, and ids that several lists have, at one score and at several.
scores_that_tie = st.sampled_from([math.inf, 2.0, 1.0, 5e-324, 0.0, -0.0, -5e-324, -1e308, -math.inf])
one_list = st.lists(st.tuples(scores_that_tie, st.integers(0, 9)), max_size=7).map(
    lambda pairs: sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
)


@given(st.integers(1, 3).flatmap(lambda b: st.lists(st.lists(one_list, min_size=b, max_size=b), min_size=1)),
       st.one_of(st.none(), st.integers(1, 30)))  # fmt: skip
def test_the_best_of_the_union(lists: list[list[list[tuple[float, int]]]], k: int | None) -> None:
    scores, ids = ragfast.merge_topk(*padded(lists, 7), k)
    for b in range(len(lists[0])):
        expected = union([queries[b] for queries in lists], 7 if k is None else k)
        assert ids[b].tolist() == [name for _, name in expected]
        assert scores[b].tolist() == [score for score, _ in expected]


@given(st.data())
def test_shards_give_what_the_whole_gives(data: st.DataObject) -> None:
    n_docs, dim, k = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 8)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    vectors = rng.integers(-2, 3, (n_docs, dim)).astype(np.float32)  # most scores tie
    queries = rng.integers(-2, 3, (data.draw(st.integers(0, 4)), dim)).astype(np.float32)
    ids = rng.permutation(1000)[:n_docs]
    whole = ragfast.search(queries, vectors, k, ids=ids, dtype=np.float64, temperature=0.7)
    shard_of = rng.integers(0, data.draw(st.integers(1, 9)), n_docs)  # some may be empty
    parts = []
    for shard in range(9):
        chosen = shard_of == shard
        chosen |= rng.random(n_docs) < data.draw(st.sampled_from([0.0, 0.2]))  # some documents are in several
        wider = data.draw(st.integers(0, 3))
        parts.append(ragfast.search(queries, vectors[chosen], k + wider, ids=ids[chosen], dtype=np.float64))
    merged = ragfast.merge_topk(parts, k=k, temperature=0.7)
    assert merged.ids.tobytes() == whole.ids.tobytes()
    assert merged.scores.tobytes() == whole.scores.tobytes()
    np.testing.assert_allclose(merged.logprobs, whole.logprobs, rtol=1e-14, atol=1e-15)
    scores, names = (np.stack([np.asarray(getattr(p, a))[:, :k] for p in parts]) for a in ("scores", "ids"))
    as_arrays = ragfast.merge_topk(scores, names)
    assert [x.tobytes() for x in as_arrays] == [merged.scores.tobytes(), merged.ids.tobytes()]


@pytest.mark.parametrize("n_shards", [1, 2, 3, 7, 40])
def test_shards_of_an_index(n_shards: int) -> None:
    rng = np.random.default_rng(n_shards)
    vectors = rng.standard_normal((3000, 24), dtype=np.float32)
    vectors[1000:1100] = vectors[:100]  # duplicates, which tie across shards
    queries = np.concatenate([rng.standard_normal((20, 24), dtype=np.float32), vectors[:5]])
    whole = ragfast.FlatIndex.from_vectors(vectors).search(queries, 50, dtype=np.float64)
    parts = np.array_split(rng.permutation(3000), n_shards)
    shards = [ragfast.FlatIndex.from_vectors(vectors[part], ids=part) for part in parts]
    merged = ragfast.merge_topk([shard.search(queries, 50, dtype=np.float64) for shard in shards])
    assert merged.ids.tobytes() == whole.ids.tobytes()
    assert merged.scores.tobytes() == whole.scores.tobytes()
    np.testing.assert_allclose(merged.logprobs, whole.logprobs, rtol=1e-14)
    in_float32 = ragfast.merge_topk([shard.search(queries, 50) for shard in shards])
    assert in_float32.scores.dtype == in_float32.logprobs.dtype == np.float32
    assert in_float32.scores.tobytes() == whole.scores.astype(np.float32).tobytes()
    np.testing.assert_allclose(in_float32.logprobs, whole.logprobs, rtol=0, atol=2e-5)


def test_an_id_counts_once_at_its_best_score() -> None:
    scores = np.array([[[5.0, 2.0, 1.0]], [[4.0, 3.0, 0.0]]])
    merged = ragfast.merge_topk(scores, [[[7, 8, 9]], [[8, 7, 6]]], 5)  # 7 at 5 and 3, 8 at 2 and 4
    assert merged[0].tolist() == [[5.0, 4.0, 1.0, 0.0, -math.inf]]
    assert merged[1].tolist() == [[7, 8, 9, 6, -1]]


def test_scores_that_float32_made_equal() -> None:
    # As a search gives them: by float64 scores, which rounding then made equal, so that ids do not ascend.
    vectors = np.ones((4, 2))
    vectors[:, 0] += np.array([1, 4, 2, 3]) * 2.0**-40
    hits = ragfast.search(np.ones((1, 2)), vectors, 4, dtype=np.float32)
    assert hits.ids.tolist() == [[1, 3, 2, 0]]
    assert set(hits.scores.ravel().tolist()) == {2.0}
    merged = ragfast.merge_topk([hits, Hits(np.float32([[2.0, 1.0]]), np.array([[2, 9]]), None)], k=6)
    assert merged.ids.tolist() == [[0, 1, 2, 3, 9, -1]]
    assert merged.scores.tolist() == [[2, 2, 2, 2, 1, -math.inf]]
    short = Hits(np.float32([[2.0, -np.inf]]), np.array([[2, -1]]), None)
    assert ragfast.merge_topk([hits, short]).ids.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("temperature", [0.01, 1, 30.0])
def test_logprobs_are_those_of_the_merged(temperature: float) -> None:
    scores = np.array([[[3.0, 1.0], [-np.inf, -np.inf]], [[2.5, -2.0], [1.0, -np.inf]]])
    ids = np.array([[[4, 2], [-1, -1]], [[3, 1], [5, -1]]])
    hits = [Hits(s, i, None) for s, i in zip(scores, ids, strict=True)]
    merged = ragfast.merge_topk(hits, k=3, temperature=temperature)
    assert merged.ids.tolist() == [[4, 3, 2], [5, -1, -1]]
    for got, row in zip(merged.logprobs, merged.scores, strict=True):
        np.testing.assert_allclose(got, log_softmax(row, temperature), rtol=1e-13)
    assert merged.stats is None


def test_logprobs_where_scores_are_at_the_ends_of_the_range() -> None:
    def logprobs(row: list[float], dtype: Any = np.float64, temperature: float = 1.0) -> list[float]:
        hits = Hits(np.array([row], dtype), np.array([[i if s > -math.inf else -1 for i, s in enumerate(row)]]), None)
        found: list[float] = ragfast.merge_topk([hits], temperature=temperature).logprobs[0].tolist()
        return found

    assert logprobs([-math.inf, -math.inf]) == [-math.inf] * 2
    assert logprobs([math.inf, math.inf, 1.0], np.float32) == [pytest.approx(-math.log(2))] * 2 + [-math.inf]
    assert logprobs([1e308, -1e308]) == [0, -math.inf]
    assert logprobs([1e308, 1e308], temperature=1e-300) == [pytest.approx(-math.log(2))] * 2
    assert logprobs([2.0, 1.0, -math.inf], temperature=1e-320) == [0, -math.inf, -math.inf]


def test_hits_of_one_query_and_of_two_types() -> None:
    single = Hits(np.float32([3, 1]), np.array([4, 2]), None), Hits(np.float64([2.5]), np.array([7]), None)
    merged = ragfast.merge_topk(single, k=4)
    assert merged.scores.tolist() == [3, 2.5, 1, -math.inf]
    assert merged.ids.tolist() == [4, 7, 2, -1]
    assert merged.scores.dtype == merged.logprobs.dtype == np.float64
    assert ragfast.merge_topk(single[:1]).scores.dtype == np.float32
    assert ragfast.merge_topk(single).ids.tolist() == [4, 7]


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 2, 0), (0, 0, 0)])
def test_nothing(shape: tuple[int, int, int]) -> None:
    for k in (None, 4):
        scores, ids = ragfast.merge_topk(np.zeros(shape), np.zeros(shape, int), k)
        assert scores.tolist() == np.full((shape[1], k or shape[2]), -np.inf).tolist()
        assert ids.tolist() == np.full((shape[1], k or shape[2]), -1).tolist()


def test_any_form_of_input() -> None:
    rng = np.random.default_rng(1)
    scores = -np.sort(-rng.integers(0, 9, (3, 4, 5)).astype(np.float64))
    ids = np.sort(rng.integers(0, 20, (3, 4, 5)))
    expected = [x.tobytes() for x in ragfast.merge_topk(scores, ids)]
    unaligned = np.frombuffer(bytearray(scores.nbytes + 1), np.float64, scores.size, offset=1).reshape(scores.shape)
    unaligned[:] = scores
    for same in (np.asfortranarray(scores), unaligned, np.repeat(scores, 2, 1)[:, ::2], scores.astype(">f8")):
        assert [x.tobytes() for x in ragfast.merge_topk(same, ids)] == expected
    for same in (np.asfortranarray(ids), ids.astype(np.int32), ids.astype(np.uint8), list(ids)):
        assert [x.tobytes() for x in ragfast.merge_topk(scores, same)] == expected
    for dtype in (np.float32, np.float16):
        narrow = ragfast.merge_topk(scores.astype(dtype), ids)
        assert narrow[0].dtype == np.float32
        assert [narrow[0].astype(np.float64).tobytes(), narrow[1].tobytes()] == expected
    beyond = scores.copy()  # what stands beside ids of -1 is not read
    beyond[1, 1, 2:], ids[1, 1, 2:] = np.nan, -1
    scores[1, 1, 2:] = -np.inf
    assert [x.tobytes() for x in ragfast.merge_topk(beyond, ids)] == [
        x.tobytes() for x in ragfast.merge_topk(scores, ids)
    ]


def test_lists_that_are_not_sorted_are_named() -> None:
    scores, ids = np.zeros((3, 2, 4)), np.arange(24).reshape(3, 2, 4)
    for values, names, message in (
        ([0, 0, 1, 0], [1, 2, 3, 4], "scores: list 2, query 1 is not sorted: .* got 0.0 at 1 before 1.0 at 2"),
        ([3, 2, np.nan, 1], [1, 2, 3, 4], "scores: list 2, query 1 holds NaN at 2"),
        ([3, 2, 1, 0], [1, -1, 3, -1], "ids: list 2, query 1 goes on at 2, after an id of -1"),
        ([3, 2, 1, 0], [1, 2, -5, -1], "ids: list 2, query 1 holds -5 at 2"),
        ([np.nan, 2, 1, 0], [0, 1, 2, 3], "holds NaN at 0"),
        ([3, 2, 1, np.nan], [0, 1, 2, 3], "holds NaN at 3"),
    ):
        bad_scores, bad_ids = scores.copy(), ids.copy()
        bad_scores[2, 1], bad_ids[2, 1] = values, names
        with pytest.raises(ValueError, match=message):
            ragfast.merge_topk(bad_scores, bad_ids)
        with pytest.raises(ValueError, match=message):
            ragfast.merge_topk([Hits(s, i, None) for s, i in zip(bad_scores, bad_ids, strict=True)])


def test_errors_say_what_was_expected() -> None:
    scores, ids = np.zeros((3, 2, 4)), np.arange(24).reshape(3, 2, 4)
    hits = Hits(scores[0], ids[0], None)
    with pytest.raises(ValueError, match=r"scores: expected shape \(S, B, K\), got \(2, 4\)"):
        ragfast.merge_topk(scores[0], ids[0])
    with pytest.raises(ValueError, match=r"ids: expected shape \(3, 2, 4\), that of scores, got \(3, 2, 3\)"):
        ragfast.merge_topk(scores, ids[..., :3])
    with pytest.raises(TypeError, match="scores: expected float32 or float64"):
        ragfast.merge_topk(scores.astype(int), ids)
    with pytest.raises(TypeError, match="ids: expected integers"):
        ragfast.merge_topk(scores, ids.astype(float))
    with pytest.raises(ValueError, match="k: expected 1 or more"):
        ragfast.merge_topk(scores, ids, 0)
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0"):
        ragfast.merge_topk([hits], temperature=0)
    for wrong in (hits, scores, [scores], [hits, None], 3):
        with pytest.raises(TypeError, match="scores: expected a sequence of Hits, or scores"):
            ragfast.merge_topk(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="pass k by its name"):
        ragfast.merge_topk([hits], 3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="expected Hits of one shard or more, got none"):
        ragfast.merge_topk([])
    for other in (Hits(scores[0, :1], ids[0, :1], None), Hits(scores[0, 0], ids[0, 0], None)):
        with pytest.raises(ValueError, match=r"scores of list 1: expected shape \(2, K\), got"):
            ragfast.merge_topk([hits, other])
    with pytest.raises(ValueError, match=r"ids of list 1: expected shape \(2, 4\), that of its scores, got \(2, 3\)"):
        ragfast.merge_topk([hits, Hits(scores[0], ids[0, :, :3], None)])


def named(ids: NDArray[np.int64], words: list[str]) -> NDArray[np.object_]:
    return np.array([*words, None], object)[ids]


@given(st.data())
def test_strings_are_merged_as_integers_that_ascend_alike(data: st.DataObject) -> None:
    lists = data.draw(st.lists(st.lists(one_list, min_size=2, max_size=2), min_size=1, max_size=5))
    words = sorted(data.draw(st.lists(st.text(max_size=3), min_size=10, max_size=10, unique=True)))
    k = data.draw(st.one_of(st.none(), st.integers(1, 20)))
    scores, ids = padded(lists, 7)
    expected, expected_ids = ragfast.merge_topk(scores, ids, k)
    found, found_ids = ragfast.merge_topk(scores, named(ids, words), k)
    assert found.tobytes() == expected.tobytes()
    assert found_ids.tolist() == named(expected_ids, words).tolist()
    order = data.draw(st.permutations(range(len(lists))))
    hits = [Hits(scores[i], named(ids[i], words), None) for i in order]
    merged = ragfast.merge_topk(hits, k=k)
    assert merged.scores.tolist() == expected.tolist()  # of 0.0 and -0.0 either
    assert merged.ids.tolist() == found_ids.tolist()  # whatever the order of the lists


def test_shards_with_ids_that_are_strings() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((90, 8), dtype=np.float32)
    vectors[40:50] = vectors[:10]  # ties, between shards and in them
    vectors[10:15] = vectors[:5]
    ids = [f"document {i}" for i in rng.permutation(90)]
    queries = np.concatenate([rng.standard_normal((3, 8), dtype=np.float32), vectors[:3]])
    in_order = np.argsort(ids)
    whole = ragfast.FlatIndex.from_vectors(vectors[in_order], sorted(ids)).search(queries, 90, dtype=np.float64)
    parts = [range(30), range(30, 60), range(60, 90)]
    shards = [ragfast.FlatIndex.from_vectors(vectors[part], [ids[i] for i in part]) for part in parts]
    empty = ragfast.FlatIndex(8)  # has no kind of ids yet
    hits = [shard.search(queries, 90, dtype=np.float64) for shard in [*shards, empty]]
    assert hits[-1].ids.dtype == np.int64
    merged = ragfast.merge_topk(hits)
    assert merged.ids.dtype == object
    assert merged.ids.tolist() == whole.ids.tolist()
    assert merged.scores.tobytes() == whole.scores.tobytes()
    assert ragfast.merge_topk([empty.search(queries, 2)] * 2).ids.dtype == np.int64
    one = [Hits(h.scores[0], h.ids[0], None) for h in hits]
    assert ragfast.merge_topk(one, k=3).ids.tolist() == whole.ids[0, :3].tolist()
    assert ragfast.merge_topk([[[2.0, 1.0]]], [[["b", "a"]]])[1].tolist() == [["b", "a"]]


def test_ids_of_both_kinds() -> None:
    numbers, words = (
        Hits(np.ones((1, 1)), np.array([[3]]), None),
        Hits(np.ones((1, 1)), np.array([["a"]], object), None),
    )
    with pytest.raises(TypeError, match=r"ids of list 1: expected str or None, as ids of list 0 have, got integers"):
        ragfast.merge_topk([words, numbers])
    with pytest.raises(TypeError, match=r"ids: expected integers, or str and None, got int 3"):
        ragfast.merge_topk(np.ones((1, 1, 2)), np.array([[["a", 3]]], object))
    with pytest.raises(ValueError, match=r"ids: expected shape \(1, 1, 2\), that of scores, got \(1, 1, 1\)"):
        ragfast.merge_topk(np.ones((1, 1, 2)), [[["a"]]])
    with pytest.raises(ValueError, match="ids: list 0, query 0 goes on at 1, after an id of -1"):
        ragfast.merge_topk(np.ones((1, 1, 2)), np.array([[[None, "a"]]], object))
