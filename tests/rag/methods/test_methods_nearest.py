"""Exact neighbours (RETRO, kNN-LM) against brute force: near-ties, duplicates, long documents, every order of ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from ragfast import FlatIndex
from ragfast.rag import methods
from ragfast.rag.methods import KNNDatastore

Array = NDArray[Any]


def brute_force(
    vectors: Array, queries: Array, k: int, metric: str, groups: Array | None = None, own: Array | None = None
) -> tuple[Array, Array]:
    """All pairs in float64, by (score descending, id ascending)."""
    scores, ids = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
    for b, query in enumerate(queries.astype(float)):
        if metric == "l2":
            of_all = -((query - vectors.astype(float)) ** 2).sum(axis=1)
        else:
            of_all = vectors.astype(float) @ query
        others = np.arange(len(vectors))
        if groups is not None and own is not None:
            others = others[groups != own[b]]
        best = others[np.lexsort((others, -of_all[others]))][:k]
        scores[b, : len(best)], ids[b, : len(best)] = of_all[best], best
    return scores, ids


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("n", "dim"), [(1, 1), (40, 3), (1500, 33)])
def test_random_vectors(metric: Any, n: int, dim: int) -> None:
    rng = np.random.default_rng(n)
    vectors = (3 + rng.standard_normal((n, dim))).astype(np.float32)
    queries = (3 + rng.standard_normal((7, dim))).astype(np.float32)
    scores, ids = FlatIndex.from_vectors(vectors, metric=metric).search(queries, 5, dtype=np.float64)
    expected, expected_ids = brute_force(vectors, queries, 5, metric)
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(scores, expected, rtol=1e-13)
    assert (scores.dtype, ids.dtype) == (np.float64, np.int64)


def near_ties() -> tuple[Array, Array]:
    """Distances whose differences are 1e-17 of |x|^2: the third digit group of a float64 inner product, while direct
    differences are exact."""
    rng = np.random.default_rng(5)
    vectors = 4096 + rng.integers(-3, 4, (3000, 256)) * 2.0**-11
    assert (vectors == vectors.astype(np.float32)).all()
    return vectors.astype(np.float32), vectors[:20].astype(np.float32)


def test_near_ties() -> None:
    vectors, queries = near_ties()
    scores, ids = FlatIndex.from_vectors(vectors, metric="l2").search(queries, 10, dtype=np.float64)
    expected, expected_ids = brute_force(vectors, queries, 10, "l2")
    assert scores.tolist() == expected.tolist()  # sums of squares that are exact in any order
    assert ids.tolist() == expected_ids.tolist()
    assert (scores[:, 0] == 0).all()


def test_near_ties_need_distances() -> None:
    """Else the test above would show nothing: by q . x - |x|^2 / 2 in float64 the order is another."""
    vectors, queries = near_ties()
    _, expected_ids = brute_force(vectors, queries, 10, "l2")
    wide = vectors.astype(float)
    halves = queries.astype(float) @ wide.T - (wide**2).sum(axis=1) / 2
    ids = np.lexsort((np.broadcast_to(np.arange(len(wide)), halves.shape), -halves))[:, :10]
    assert ids.tolist() != expected_ids.tolist()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_duplicates_come_by_id(metric: Any) -> None:
    """More of them than any list that is asked for at first."""
    vectors = np.zeros((600, 4), np.float32)
    vectors[::3] = 1
    vectors[500] = 2
    expected, expected_ids = brute_force(vectors, vectors[:4], 7, metric)
    scores, ids = FlatIndex.from_vectors(vectors, metric=metric).search(vectors[:4], 7, dtype=np.float64)
    assert (ids.tolist(), scores.tolist()) == (expected_ids.tolist(), expected.tolist())


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_retro_many_chunks_of_one_document(metric: Any) -> None:
    """The nearest hundreds of chunks are the document's own, and duplicates stand in other documents."""
    rng = np.random.default_rng(6)
    vectors = rng.standard_normal((900, 8)).astype(np.float32)
    documents = np.full(900, 3)
    vectors[:700] = vectors[0] + rng.integers(-2, 3, (700, 8)).astype(np.float32) / 64  # one document
    documents[700:] = rng.integers(4, 40, 200)
    vectors[800:850] = vectors[:50]
    shuffled = rng.permutation(900)
    vectors, documents = vectors[shuffled], documents[shuffled]
    scores, ids = methods.retro_neighbours(vectors, documents, 6, metric=metric)
    expected, expected_ids = brute_force(vectors, vectors, 6, metric, documents, documents)
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(scores, expected, rtol=1e-13, atol=1e-13)
    assert (documents[ids] != documents[:, None]).all()
    again = methods.retro_neighbours(vectors, documents, 6, metric=metric, n_threads=1)
    assert again.scores.tobytes() == scores.tobytes()


def test_retro_of_other_queries() -> None:
    rng = np.random.default_rng(7)
    chunks, queries = rng.standard_normal((50, 4)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    documents = np.repeat(np.arange(10), 5)
    for own in (np.array([3, 0, -7]), None):  # of no document there is: nothing is left out
        scores, ids = methods.retro_neighbours(chunks, documents, 4, queries=queries, query_documents=own)
        expected, expected_ids = brute_force(chunks, queries, 4, "l2", None if own is None else documents, own)
        assert ids.tolist() == expected_ids.tolist()
        np.testing.assert_allclose(scores, expected, rtol=1e-13)


def test_fewer_than_k() -> None:
    scores, ids = methods.retro_neighbours(np.float32([[0], [1], [5]]), [1, 1, 1], 2)
    assert ids.tolist() == [[-1, -1]] * 3
    assert (scores == -np.inf).all()
    scores, ids = methods.retro_neighbours(np.float32([[0], [1], [5]]), [1, 2, 1], 5)
    assert ids.tolist() == [[1, -1, -1, -1, -1], [0, 2, -1, -1, -1], [1, -1, -1, -1, -1]]
    none = FlatIndex(2, metric="l2")
    assert none.search(np.zeros((2, 2), np.float32), 3).ids.tolist() == [[-1, -1, -1]] * 2
    assert methods.retro_neighbours(np.empty((0, 2), np.float32), np.empty(0, int), 3).ids.shape == (0, 3)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 60),
    dim=st.integers(1, 9),
    k=st.integers(1, 12),
    scale=st.sampled_from([2.0**-60, 1.0, 2.0**50]),
    metric=st.sampled_from(["l2", "ip"]),
)
def test_small_integers(seed: int, n: int, dim: int, k: int, scale: float, metric: Any) -> None:
    """Full of equal distances, and exact in any order of sums."""
    rng = np.random.default_rng(seed)
    vectors = (rng.integers(-2, 3, (n, dim)) * scale).astype(np.float32)
    groups = rng.integers(0, 4, n)
    scores, ids = methods.retro_neighbours(vectors, groups, k, metric=metric)
    expected, expected_ids = brute_force(vectors, vectors, k, metric, groups, groups)
    assert ids.tolist() == expected_ids.tolist()
    assert scores.tolist() == expected.tolist()


def test_extreme_magnitudes() -> None:
    """Norms whose halved squares reach from denormals to the end of float32, beside each other."""
    vectors = np.float32([[1e-30, 0], [2e-30, 0], [1e-22, 1e-22], [1, 1], [1e19, 1e18], [0, 0]])
    scores, ids = FlatIndex.from_vectors(vectors, metric="l2").search(vectors, 6, dtype=np.float64)
    expected, expected_ids = brute_force(vectors, vectors, 6, "l2")
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(scores, expected, rtol=1e-14)


# ---- kNN-LM


def test_datastore() -> None:
    rng = np.random.default_rng(8)
    keys, tokens = rng.standard_normal((200, 6)).astype(np.float32), rng.integers(0, 30, 200)
    queries = rng.standard_normal((5, 6)).astype(np.float32)
    for metric in ("l2", "ip"):
        store = KNNDatastore(keys, tokens, metric=metric)  # type: ignore[arg-type]
        scores, found = store.search(queries, 8)
        expected, ids = brute_force(keys, queries, 8, metric)
        np.testing.assert_allclose(scores, expected, rtol=1e-13)
        assert found.tolist() == tokens[ids].tolist()
    assert len(store) == 200
    assert KNNDatastore(keys[:2], tokens[:2]).search(queries, 3)[1][:, 2].tolist() == [-1] * 5


def p_knn(scores: Array, tokens: Array, temperature: float, vocab: int) -> Array:
    """p_kNN of one context, neighbour by neighbour."""
    out = np.zeros(vocab)
    for score, token in zip(scores, tokens, strict=True):
        if token >= 0:
            out[token] += np.exp((score - scores[tokens >= 0].max()) / temperature)
    return out / out.sum()


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_knn_lm(weight: float, temperature: float, dtype: type) -> None:
    rng = np.random.default_rng(9)
    vocab = 11
    lm = rng.standard_normal((2, 3, vocab))
    lm -= np.log(np.exp(lm).sum(axis=-1, keepdims=True))
    scores, tokens = -rng.exponential(scale=4, size=(2, 3, 6)), rng.integers(-1, 5, (2, 3, 6))
    tokens[..., 0] = 4
    lm, scores = lm.astype(dtype), scores.astype(dtype)
    found = methods.knn_lm_logprobs(lm, scores, tokens, knn_weight=weight, temperature=temperature)
    assert found.dtype == dtype
    targets = rng.integers(0, vocab, (2, 3))
    of_targets = methods.knn_lm_target_logprobs(
        np.take_along_axis(lm, targets[..., None], -1)[..., 0],
        scores,
        tokens,
        targets,
        knn_weight=weight,
        temperature=temperature,
    )
    for place in np.ndindex(2, 3):
        votes = p_knn(scores[place].astype(float), tokens[place], temperature, vocab)
        expected = (1 - weight) * np.exp(lm[place].astype(float)) + weight * votes
        np.testing.assert_allclose(
            np.exp(found[place].astype(float)), expected, rtol=1e-5 if dtype is np.float32 else 1e-12
        )
        assert np.exp(of_targets[place]) == pytest.approx(expected[targets[place]], rel=1e-5)
    np.testing.assert_allclose(np.exp(found.astype(float)).sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(of_targets, np.take_along_axis(found, targets[..., None], -1)[..., 0], rtol=1e-6)


def test_knn_lm_without_neighbours() -> None:
    lm = np.log([[0.75, 0.25], [0.5, 0.5]])
    scores = [[-np.inf, -np.inf], [-1.0, -np.inf]]
    found = methods.knn_lm_logprobs(lm, scores, [[-1, -1], [0, -1]], knn_weight=1.0)
    np.testing.assert_allclose(np.exp(found), [[0.75, 0.25], [1, 0]])
    far = methods.knn_lm_logprobs(lm[0], [-1e308, -1.7e308], [1, 0], knn_weight=0.5, temperature=1e-3)
    np.testing.assert_allclose(np.exp(far), [0.375, 0.625])
    single = methods.knn_lm_target_logprobs(np.log(0.25), [-1.0, -2.0], [1, 0], np.array(1), knn_weight=1.0)
    assert np.exp(single) == pytest.approx(np.e / (1 + np.e))


def test_extreme_norms() -> None:
    """Squares beyond float32, which distances in float64 hold."""
    vectors = np.float32([[0, 0], [3e19, 0], [3e38, 0], [3e38, 1e30]])
    scores, ids = FlatIndex.from_vectors(vectors, metric="l2").search(vectors, 4, dtype=np.float64)
    expected, expected_ids = brute_force(vectors, vectors, 4, "l2")
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(scores, expected, rtol=1e-14)


def test_errors() -> None:
    vectors = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"^metric: expected "):
        methods.retro_neighbours(vectors, [0, 1, 2], 1, metric="inner_product")
    with pytest.raises(TypeError, match=r"^chunks: expected float32 .*, got float64"):
        methods.retro_neighbours(vectors.astype(float), [0, 1, 2], 1)
    with pytest.raises(ValueError, match=r"^documents: expected shape \(3,\), one for each chunk, got \(2,\)$"):
        methods.retro_neighbours(vectors, [0, 1], 1)
    with pytest.raises(TypeError, match=r"^documents: expected integers"):
        methods.retro_neighbours(vectors, [0.5, 1, 2], 1)
    with pytest.raises(ValueError, match=r"^queries: expected shape \(B, 2\), got \(1, 3\)$"):
        methods.retro_neighbours(vectors, [0, 1, 2], 1, queries=np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"^query_documents: expected shape \(3,\), one for each query, got \(1,\)$"):
        methods.retro_neighbours(vectors, [0, 1, 2], 1, queries=vectors, query_documents=[0])
    with pytest.raises(ValueError, match=r"^k: expected 1 or more, got 0$"):
        methods.retro_neighbours(vectors, [0, 1, 2], 0)
    with pytest.raises(ValueError, match=r"^query_documents: given without queries"):
        methods.retro_neighbours(vectors, [0, 1, 2], 1, query_documents=[0, 1, 2])
    with pytest.raises(ValueError, match=r"^tokens: expected shape \(3,\), one for each key"):
        KNNDatastore(vectors, [1, 2])
    with pytest.raises(ValueError, match=r"^tokens: expected 0 or more, got -1$"):
        KNNDatastore(vectors, [1, 2, -1])
    lm, scores, tokens = np.log([[0.5, 0.5]]), [[-1.0]], [[0]]
    with pytest.raises(ValueError, match=r"^scores: expected shape \(1, K\) with K of 1 or more, got \(2, 1\)$"):
        methods.knn_lm_logprobs(lm, scores * 2, tokens)
    with pytest.raises(ValueError, match=r"^tokens: expected shape \(1, 1\), that of scores"):
        methods.knn_lm_logprobs(lm, scores, [[0, 0]])
    with pytest.raises(ValueError, match=r"^keys: expected less than n_keys, 2, got 2$"):
        methods.knn_lm_logprobs(lm, scores, [[2]])
    for weight in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"^knn_weight: expected a "):
            methods.knn_lm_logprobs(lm, scores, tokens, knn_weight=weight)
    with pytest.raises(TypeError, match=r"^lm_logprobs: expected float32"):
        methods.knn_lm_logprobs([[1, 2]], scores, tokens)
    with pytest.raises(ValueError, match=r"^lm_logprobs: expected shape \(\.\.\., V\)"):
        methods.knn_lm_logprobs(np.float64(0), scores, tokens)
    with pytest.raises(ValueError, match=r"^targets: expected shape \(1,\), that of lm_logprobs"):
        methods.knn_lm_target_logprobs(lm[:, 0], scores, tokens, [0, 1])
