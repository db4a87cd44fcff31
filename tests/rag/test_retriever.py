"""SimpleRetriever: the notebook's numbers, exact order, and clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from ragfast_bench import reference_notebook

import ragfast

Array = NDArray[Any]


def test_seeded_weights_are_the_notebooks() -> None:
    np.random.seed(42)
    expected = reference_notebook.Retriever(64).query_encoder_W
    np.random.seed(42)
    assert np.array_equal(ragfast.SimpleRetriever(64).query_encoder_W, expected)


def test_rng_draws_without_the_global_generator() -> None:
    np.random.seed(0)
    expected = np.random.randn()
    np.random.seed(0)
    a = ragfast.SimpleRetriever(3, rng=np.random.default_rng(5)).query_encoder_W
    assert np.array_equal(a, 0.01 * np.random.default_rng(5).standard_normal((3, 3)))
    assert np.random.randn() == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_docs", "dim", "k"), [(20, 64, 5), (7, 3, 7), (1, 1, 1), (500, 17, 30)])
def test_agrees_with_the_notebook(seed: int, n_docs: int, dim: int, k: int) -> None:
    np.random.seed(seed)
    loops = reference_notebook.Retriever(dim)
    retriever = ragfast.SimpleRetriever(dim)
    retriever.query_encoder_W = loops.query_encoder_W
    query, documents = np.random.randn(6, dim), np.random.randn(n_docs, dim)
    embedding = retriever.encode_query(query)
    np.testing.assert_allclose(embedding, loops.encode_query(query), rtol=1e-12)
    ids, probs = retriever.retrieve(embedding, documents, k)
    expected_ids, expected_probs = loops.retrieve(embedding, documents, k)
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(probs, expected_probs, rtol=1e-12)


def test_zero_query_encodes_to_zero() -> None:
    """The notebook's 1e-8 under the norm, which is not one of the floors that eps stands for."""
    retriever = ragfast.SimpleRetriever(4)
    assert retriever.encode_query(np.zeros((2, 4))).tolist() == [0.0] * 4
    ids, probs = retriever.retrieve(np.zeros(4), np.random.default_rng(0).standard_normal((6, 4)), k=3)
    assert ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(probs, 1 / 3)


def test_equal_scores_come_by_ascending_id() -> None:
    documents = np.array([[0.0, 1], [1, 0], [0, 1], [1, 0], [1, 0]])
    ids, probs = ragfast.SimpleRetriever(2).retrieve(np.array([1.0, 0]), documents, k=4)
    assert ids.tolist() == [1, 3, 4, 0]
    assert probs[0] == probs[1] == probs[2] > probs[3]


def test_returns_all_documents_where_k_is_larger() -> None:
    hits = ragfast.SimpleRetriever(2).search(np.ones(2), np.array([[1.0, 2], [3, 4]]), k=9)
    assert hits.ids.tolist() == [1, 0]
    assert hits.scores.tolist() == [7.0, 3.0]
    assert hits.logprobs.shape == (2,)
    assert np.exp(hits.logprobs).sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_document_dtype_decides(dtype: type) -> None:
    """float32 documents, in an array or an index, are met by the query rounded to float32; float64 by it as it is."""
    rng = np.random.default_rng(3)
    documents: Array = rng.standard_normal((50, 24)).astype(dtype)
    query = rng.standard_normal(24)
    hits = ragfast.SimpleRetriever(24).search(query, documents, k=50)
    exact = documents.astype(np.float64) @ query.astype(dtype).astype(np.float64)
    np.testing.assert_allclose(hits.scores, exact[hits.ids], rtol=1e-13, atol=1e-14)
    assert hits.scores.dtype == hits.logprobs.dtype == np.float64
    if dtype is np.float32:
        index = ragfast.SimpleRetriever(24).search(query, ragfast.FlatIndex.from_vectors(documents), k=50)
        assert index.ids.tolist() == hits.ids.tolist()
        assert index.scores.tolist() == hits.scores.tolist()
        assert index.logprobs.tolist() == hits.logprobs.tolist()


def test_index_ids() -> None:
    index = ragfast.FlatIndex.from_vectors(np.eye(3, dtype=np.float32), ids=[30, 10, 20])
    ids, _ = ragfast.SimpleRetriever(3).retrieve(np.array([0.0, 0.5, 1.0]), index, k=2)
    assert ids.tolist() == [20, 10]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9), st.integers(1, 45))
def test_permuting_documents_permutes_ids(seed: int, n_docs: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    documents, query = rng.standard_normal((n_docs, dim)), rng.standard_normal(dim)
    order = rng.permutation(n_docs)
    retriever = ragfast.SimpleRetriever(dim)
    ids, probs = retriever.retrieve(query, documents, k)
    permuted_ids, permuted_probs = retriever.retrieve(query, documents[order], k)
    assert order[permuted_ids].tolist() == ids.tolist()
    assert permuted_probs.tolist() == probs.tolist()


@pytest.mark.parametrize("make", [np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2], lambda x: x.astype(">f8")])
def test_unusual_layouts(make: Any) -> None:
    rng = np.random.default_rng(1)
    retriever = ragfast.SimpleRetriever(5, rng=rng)
    query, documents = rng.standard_normal((4, 5)), rng.standard_normal((9, 5))
    embedding = retriever.encode_query(query)
    ids, probs = retriever.retrieve(embedding, documents, 3)
    assert retriever.encode_query(make(query)).tolist() == pytest.approx(embedding.tolist(), rel=1e-14)
    unusual_ids, unusual_probs = retriever.retrieve(make(embedding[:, None])[:, 0], make(documents), 3)
    assert (unusual_ids.tolist(), unusual_probs.tolist()) == (ids.tolist(), probs.tolist())


def test_weights_are_kept_as_a_read_only_copy() -> None:
    retriever = ragfast.SimpleRetriever(2)
    given_weights = np.eye(2, dtype=np.float32)
    retriever.query_encoder_W = given_weights
    given_weights[0, 0] = 9
    assert retriever.query_encoder_W.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert retriever.query_encoder_W.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        retriever.query_encoder_W[0, 0] = 9


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.eye(3), ValueError, r"query_encoder_W: expected shape \(2, 2\), got \(3, 3\)"),
        (np.ones(4), ValueError, r"query_encoder_W: expected shape \(2, 2\), got \(4,\)"),
        (np.eye(2, dtype=int), TypeError, "query_encoder_W: expected float32 or float64, got int64"),
        (np.array([[1, np.nan], [0, 1]]), ValueError, "query_encoder_W: row 0 holds NaN or an infinity"),
    ],
)
def test_refused_weights_change_nothing(weights: Array, error: type[Exception], message: str) -> None:
    retriever = ragfast.SimpleRetriever(2)
    before = retriever.query_encoder_W
    with pytest.raises(error, match=message):
        retriever.query_encoder_W = weights
    assert retriever.query_encoder_W is before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # an overflow on the way to the error
@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (np.ones(2), ValueError, r"query_tokens: expected shape \(n, 2\), got \(2,\); pass query_tokens\[None, :\]"),
        (np.ones((4, 3)), ValueError, r"query_tokens: expected shape \(n, 2\), got \(4, 3\)"),
        (np.ones((0, 2)), ValueError, r"query_tokens: expected at least one token, got shape \(0, 2\)"),
        (np.array([[1.0, 1], [np.inf, 1]]), ValueError, "query_tokens: row 1 holds NaN or an infinity"),
        (np.full((2, 2), 1e308), ValueError, "query_tokens: too large"),
        ("who?", TypeError, "query_tokens: expected float32 or float64"),
    ],
)
def test_refused_queries(query: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ragfast.SimpleRetriever(2).encode_query(query)


DOCUMENTS = np.ones((3, 2))


@pytest.mark.parametrize(
    ("embedding", "documents", "k", "error", "message"),
    [
        (np.ones((1, 2)), DOCUMENTS, 1, ValueError, r"query_embedding: expected shape \(2,\).*got \(1, 2\)"),
        (np.ones(3), DOCUMENTS, 1, ValueError, r"query_embedding: expected shape \(2,\).*got \(3,\)"),
        (np.ones(2, int), DOCUMENTS, 1, TypeError, "query_embedding: expected float32 or float64, got int64"),
        (np.array([np.nan, 1]), DOCUMENTS, 1, ValueError, "query_embedding: row 0 holds NaN"),
        (
            np.array([np.nan, 1]),
            ragfast.FlatIndex.from_vectors(DOCUMENTS.astype("f4")),
            1,
            ValueError,
            "query_embedding:",
        ),
        (np.ones(2), np.ones(2), 1, ValueError, r"document_embeddings: expected shape \(N, D\), got \(2,\)"),
        (np.ones(2), np.ones((0, 2)), 1, ValueError, "document_embeddings: expected at least one document"),
        (np.ones(2), ragfast.FlatIndex(2), 1, ValueError, "document_embeddings: expected at least one document"),
        (np.ones(2), np.ones((3, 2), int), 1, TypeError, "document_embeddings: expected float32 or float64, got int64"),
        (np.ones(2), DOCUMENTS * np.inf, 1, ValueError, "document_embeddings: row 0 holds NaN or an infinity"),
        (np.ones(2), DOCUMENTS, 0, ValueError, "k: expected 1 or more, got 0"),
        (np.ones(2), DOCUMENTS, 1.5, TypeError, "k: expected an integer of 1 or more, got float"),
    ],
)
def test_refused_searches(embedding: Any, documents: Any, k: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ragfast.SimpleRetriever(2).search(embedding, documents, k=k)


@pytest.mark.parametrize("dim", [0, -1])
def test_refused_dim(dim: int) -> None:
    with pytest.raises(ValueError, match=f"embedding_dim: expected 1 or more, got {dim}"):
        ragfast.SimpleRetriever(dim)
