"""DenseRetriever: any callable as an encoder, one search for all queries, and what is said where parts do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

import ragfast
from ragfast.rag.protocols import BatchRetriever

Array = NDArray[Any]

WORDS = ("sun", "rain", "snow")


def count(texts: Sequence[str]) -> Array:
    """(B,3) float32: how often each text has each word."""
    return np.array([[text.split().count(word) for word in WORDS] for text in texts], np.float32)


DOCUMENTS = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])


def test_satisfies_the_protocols() -> None:
    assert isinstance(ragfast.rag.DenseRetriever(count), BatchRetriever)
    assert isinstance(ragfast.SimpleRetriever(2), BatchRetriever)


def test_by_hand() -> None:
    retriever = ragfast.rag.DenseRetriever(count, temperature=0.5)
    query = retriever.encode_query("sun and sun and rain")
    assert query.tolist() == [2, 1, 0]
    assert query.dtype == np.float32
    hits = retriever.search(query, ragfast.FlatIndex.from_vectors(DOCUMENTS), k=2)
    assert hits.ids.tolist() == [3, 0]
    assert hits.scores.tolist() == [3.0, 2.0]
    assert hits.scores.dtype == hits.logprobs.dtype == np.float64
    # softmax of (3, 2) / 0.5
    np.testing.assert_allclose(np.exp(hits.logprobs), [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], rtol=1e-14)


def test_all_queries_take_one_call_and_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Sequence[str]] = []
    searches: list[Array] = []
    search = ragfast.Snapshot.search_rows
    monkeypatch.setattr(ragfast.Snapshot, "search_rows", lambda self, q, *a: searches.append(q) or search(self, q, *a))

    def encode(texts: Sequence[str]) -> Array:
        calls.append(texts)
        return count(texts)

    retriever = ragfast.rag.DenseRetriever(encode)
    texts = ["sun", "rain rain", "snow sun"]
    embeddings = retriever.encode_queries(texts)
    hits = retriever.search_queries(embeddings, ragfast.FlatIndex.from_vectors(DOCUMENTS), k=2)
    assert calls == [texts]
    assert [queries.shape for queries in searches] == [(3, 3)]
    assert hits.ids.tolist() == [[0, 3], [1, 3], [0, 2]]


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 30), st.integers(1, 9), st.integers(1, 40),
    st.booleans(),
)  # fmt: skip
def test_batch_is_each_query_alone(seed: int, n_queries: int, n_docs: int, dim: int, k: int, as_index: bool) -> None:
    rng = np.random.default_rng(seed)
    queries, documents = rng.standard_normal((n_queries, dim)), rng.standard_normal((n_docs, dim))
    given_documents: Any = ragfast.FlatIndex.from_vectors(documents.astype("f4")) if as_index else documents
    for retriever in (ragfast.rag.DenseRetriever(lambda q: queries[q], temperature=0.3), ragfast.SimpleRetriever(dim)):
        hits = retriever.search_queries(queries, given_documents, k)
        assert hits.ids.shape == (n_queries, min(k, n_docs))
        for b, query in enumerate(queries):
            alone = retriever.search(query, given_documents, k)
            assert hits.ids[b].tolist() == alone.ids.tolist()
            assert hits.scores[b].tolist() == alone.scores.tolist()
            assert hits.logprobs[b].tolist() == alone.logprobs.tolist()


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.tolist(),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.float16),
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(">f4"),
        list,
    ],
)
def test_what_an_encoder_may_return(convert: Callable[[Array], Any]) -> None:
    retriever = ragfast.rag.DenseRetriever(lambda texts: convert(count(texts)))
    embeddings = retriever.encode_queries(["sun", "rain rain"])
    assert embeddings.tolist() == [[1, 0, 0], [0, 2, 0]]
    assert embeddings.dtype in (np.float32, np.float64)
    assert retriever.search_queries(embeddings, DOCUMENTS, k=1).ids.tolist() == [[0], [1]]


def test_an_encoder_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        retriever = ragfast.rag.DenseRetriever(lambda texts, dtype=dtype: torch.tensor(count(texts)).to(dtype))
        assert retriever.encode_query("snow sun").tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="requires a gradient"):
        ragfast.rag.DenseRetriever(lambda texts: torch.ones(len(texts), 2, requires_grad=True)).encode_query("sun")


def test_simple_retriever_encodes_a_batch_of_uneven_queries() -> None:
    rng = np.random.default_rng(2)
    retriever = ragfast.SimpleRetriever(4, rng=rng)
    queries = [rng.standard_normal((n, 4)) for n in (1, 5, 2)]
    assert retriever.encode_queries(queries).tolist() == [retriever.encode_query(query).tolist() for query in queries]
    assert retriever.encode_queries([]).shape == (0, 4)


def test_no_queries_find_nothing() -> None:
    retriever = ragfast.rag.DenseRetriever(lambda texts: np.ones((len(texts), 3)))
    hits = retriever.search_queries(retriever.encode_queries([]), ragfast.FlatIndex.from_vectors(DOCUMENTS), k=2)
    assert hits.ids.shape == hits.scores.shape == hits.logprobs.shape == (0, 2)


@pytest.mark.parametrize("documents", [DOCUMENTS, ragfast.FlatIndex.from_vectors(DOCUMENTS)], ids=["array", "index"])
def test_an_encoder_of_another_dimension(documents: Any) -> None:
    retriever = ragfast.rag.DenseRetriever(lambda texts: np.ones((len(texts), 2)))
    message = "encoder of dimension 2 and documents of dimension 3 do not go together"
    with pytest.raises(ValueError, match=message):
        retriever.search(retriever.encode_query("sun"), documents, k=1)
    with pytest.raises(ValueError, match=message):
        retriever.search_queries(retriever.encode_queries(["sun"]), documents, k=1)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (np.ones((3, 2)), ValueError, r"encode's embeddings: expected 2 rows, one a query, got shape \(3, 2\)"),
        (np.ones(2), ValueError, r"encode's embeddings: expected shape \(B, D\), got \(2,\)"),
        (np.ones((2, 1, 3)), ValueError, r"encode's embeddings: expected shape \(B, D\), got \(2, 1, 3\)"),
        (np.ones((2, 0)), ValueError, r"encode's embeddings: expected shape \(B, D\) with D of 1 or more"),
        (np.array([[1, 2], [1, np.nan]]), ValueError, "encode's embeddings: row 1 holds NaN"),
        (np.ones((2, 3), int), TypeError, "encode's embeddings: expected float32 or float64, got int64"),
        (None, TypeError, "encode's embeddings: expected float32 or float64, got object"),
        ([[1.0], [1.0, 2.0]], TypeError, "encode's embeddings: expected an array"),
    ],
)
def test_refused_embeddings(returned: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ragfast.rag.DenseRetriever(lambda texts: returned).encode_queries(["a", "b"])


@pytest.mark.parametrize(
    ("queries", "documents", "k", "error", "message"),
    [
        (np.ones(3), DOCUMENTS, 1, ValueError, r"query_embeddings: expected shape \(B, 3\).*got \(3,\)$"),
        (np.ones((2, 3), int), DOCUMENTS, 1, TypeError, "query_embeddings: expected float32 or float64, got int64"),
        (np.full((2, 3), 1e300), DOCUMENTS, 1, ValueError, "query_embeddings: too large for the documents' float32"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # an overflow on the way to the error
def test_refused_searches(queries: Any, documents: Any, k: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ragfast.rag.DenseRetriever(count).search_queries(queries, documents, k)


def test_refused_settings() -> None:
    with pytest.raises(TypeError, match="encode: expected a callable of a sequence of queries, got str"):
        ragfast.rag.DenseRetriever("all-MiniLM-L6-v2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0, got 0"):
        ragfast.rag.DenseRetriever(count, temperature=0)
    retriever = ragfast.rag.DenseRetriever(count)
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0, got nan"):
        retriever.temperature = float("nan")
    assert retriever.temperature == 1.0
    with pytest.raises(TypeError, match="query_tokens: expected a sequence of queries, such as a list of one"):
        retriever.encode_queries("sun")
