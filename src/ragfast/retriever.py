"""The retriever of the reference notebook, p(z|x), and the protocol that every retriever satisfies."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ragfast import _kernels, arrays, weights
from ragfast.index import FlatIndex, Hits, search_plain

__all__ = ["Retriever", "SimpleRetriever"]


@runtime_checkable
class Retriever(Protocol):
    """What the RAG classes ask of a retriever."""

    def encode_query(self, query_tokens: Any, /) -> NDArray[Any]:
        """The embedding (D,) of one query. What query_tokens is, is between the caller and the retriever."""

    def search(self, query_embedding: NDArray[Any], document_embeddings: Any, /, k: int) -> Hits:
        """The top k documents of one query: Hits of scores, ids and logprobs, each (min(k, N),), best first."""


class SimpleRetriever:
    """A dense retriever whose query encoder is one matrix: a random projection of the mean token, L2-normalised.

    embedding_dim is D. query_encoder_W (D,D) is float64, drawn as 0.01 times a standard normal from rng, or from
    NumPy's global generator, so that ``np.random.seed`` repeats the notebook's weights. Assign to it to change it (a
    copy is kept, float32 is widened; ValueError for another shape, NaN or infinity); the array itself is read-only.

    >>> import numpy as np, ragfast
    >>> retriever = ragfast.SimpleRetriever(2)
    >>> retriever.query_encoder_W = np.eye(2)
    >>> query = retriever.encode_query(np.array([[1.0, 0.0], [1.0, 2.0]]))
    >>> ids, probs = retriever.retrieve(query, np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), k=2)
    >>> ids.tolist(), probs.round(3).tolist()
    ([1, 0], [0.67, 0.33])
    """

    def __init__(self, embedding_dim: int, *, rng: np.random.Generator | None = None) -> None:
        self.embedding_dim = arrays.positive_int(embedding_dim, "embedding_dim")
        self.query_encoder_W = weights.draw(rng, self.embedding_dim, self.embedding_dim)

    @property
    def query_encoder_W(self) -> NDArray[np.float64]:
        """The query encoder (D,D), read-only."""
        return self._query_encoder_W

    @query_encoder_W.setter
    def query_encoder_W(self, value: arrays.ArrayLike) -> None:
        self._query_encoder_W = weights.keep(value, "query_encoder_W", (self.embedding_dim, self.embedding_dim))

    def encode_query(self, query_tokens: arrays.ArrayLike, /) -> NDArray[np.float64]:
        """The embedding (D,) float64 of a query of n >= 1 tokens (n,D), float32 or float64.

        v / (|v| + 1e-8) for v = query_encoder_W @ mean(query_tokens). The 1e-8 is the notebook's guard against a zero
        vector and part of its maths, unlike the floors under its logarithms: it stays whatever ``eps`` is elsewhere.
        """
        tokens = arrays.matrix(
            query_tokens, "query_tokens", letters="(n, D)", dim=self.embedding_dim, dtypes=weights.EITHER_FLOAT
        )
        if len(tokens) == 0:
            raise ValueError(f"query_tokens: expected at least one token, got shape {tokens.shape}")
        v = self._query_encoder_W @ (np.add.reduce(tokens, axis=0, dtype=np.float64) / len(tokens))
        norm = math.sqrt(v @ v)
        if not math.isfinite(norm):
            arrays.refuse_nonfinite(tokens, "query_tokens")
            raise ValueError("query_tokens: too large, their encoding overflows float64")
        embedding: NDArray[np.float64] = v / (norm + 1e-8)
        return embedding

    def search(
        self, query_embedding: arrays.ArrayLike, document_embeddings: FlatIndex | arrays.ArrayLike, /, k: int = 5
    ) -> Hits:
        """The top k documents by inner product, ids by (score descending, id ascending), with log p(z|x).

        query_embedding (D,) float32 or float64. document_embeddings is a FlatIndex, or an array (N,D) of float32 or
        float64 whose row numbers are the ids. The documents' dtype decides: against float32 documents, an index's
        included, a float64 query is rounded to float32; against float64 documents a float32 query is widened.
        Returns Hits whose scores and logprobs (float64) and ids (int64) are (K,) with K = min(k, N).

        ValueError for another shape, no documents, k below 1, NaN or infinity; TypeError for another dtype.
        """
        k = arrays.positive_int(k, "k")
        documents = document_embeddings
        if not isinstance(documents, FlatIndex):
            documents = arrays.matrix(documents, "document_embeddings", dtypes=weights.EITHER_FLOAT)
        n_docs = len(documents)
        if n_docs == 0:
            raise ValueError("document_embeddings: expected at least one document, got none")
        names = ("query_embedding", "document_embeddings")
        if isinstance(documents, FlatIndex):
            queries = self._queries(query_embedding, documents.dim, arrays.FLOAT)
            hits = documents._search(queries, min(k, n_docs), None, 1.0, arrays.DOUBLE, names)
        else:
            queries = self._queries(query_embedding, documents.shape[1], documents.dtype.num)
            hits = search_plain(queries, documents, None, None, min(k, n_docs), None, 1.0, arrays.DOUBLE, names)
        return Hits(hits.scores[0], hits.ids[0], hits.logprobs[0], hits.stats)

    def _queries(self, query_embedding: arrays.ArrayLike, dim: int, type_num: int) -> NDArray[Any]:
        """The query as (1, dim), in the documents' dtype."""
        query = query_embedding
        if not (_kernels.is_plain(query, arrays.DOUBLE, 1) or _kernels.is_plain(query, arrays.FLOAT, 1)):
            query = arrays.as_array(query, "query_embedding")
            if query.dtype.num not in weights.EITHER_FLOAT:
                raise TypeError(f"query_embedding: expected float32 or float64, got {query.dtype}")
            query = np.require(query, query.dtype.newbyteorder("="), ["C", "A"])
        if query.shape != (dim,):
            raise ValueError(f"query_embedding: expected shape ({dim},), as the documents have, got {query.shape}")
        row: NDArray[Any] = query[None]
        if row.dtype.num == type_num:
            return row
        arrays.refuse_nonfinite(row, "query_embedding")
        converted = _kernels.narrowed(row) if type_num == arrays.FLOAT else _kernels.widened(row)
        if not np.isfinite(converted).all():
            raise ValueError("query_embedding: too large for the documents' float32")
        return converted

    def retrieve(
        self, query_embedding: arrays.ArrayLike, document_embeddings: FlatIndex | arrays.ArrayLike, k: int = 5
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """As :meth:`search`, in the notebook's form: ids (K,) and p(z|x) (K,), which sum to 1."""
        hits = self.search(query_embedding, document_embeddings, k=k)
        return hits.ids, np.exp(hits.logprobs)
