"""The retriever of the reference notebook, p(z|x), and one around any encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast.index import FlatIndex, Hits, Snapshot, selection
from ragfast.index.one_shot import search_plain
from ragfast.rag.parameters import Number, Weight, initial_weight
from ragfast.rag.protocols import Constraints

__all__ = ["DenseRetriever", "SimpleRetriever"]


_QUERY = ("query_embedding", "document_embeddings")
_QUERIES = ("query_embeddings", "document_embeddings")
NOT_AN_INDEX = "{}: expected documents in a FlatIndex or a Snapshot, which has metadata and ids to choose by, got {}"


class _DenseSearch:
    """Search by inner product: what both retrievers do with the embedding of a query."""

    _temperature = 1.0
    _filter: Any = None

    @property
    def filter(self) -> Any:
        """The filter that holds in every search, or None; another one is for another retriever."""
        return self._filter

    def search(
        self,
        query_embedding: arrays.ArrayLike,
        document_embeddings: FlatIndex | Snapshot | arrays.ArrayLike,
        /,
        k: int = 5,
        **constraints: Unpack[Constraints],
    ) -> Hits:
        """The top k documents by inner product, ids by (score descending, id ascending), with log p(z|x).

        query_embedding (D,) float32 or float64. document_embeddings is a FlatIndex, or an array (N,D) of float32 or
        float64 whose row numbers are the ids. The documents' dtype decides: against float32 documents, an index's
        included, a float64 query is rounded to float32; against float64 documents a float32 query is widened.
        constraints are those of :class:`Constraints`. Returns Hits whose scores and logprobs (float64) and ids (int64,
        or str in an object array) are (K,) with K = min(k, N); under constraints that leave fewer, -inf and -1, or
        None, come last.

        ValueError for another shape, no documents, k below 1, NaN or infinity; TypeError for another dtype.
        """
        if constraints.get("exclude_groups") is not None:
            if np.ndim(constraints["exclude_groups"]):
                got = type(constraints["exclude_groups"]).__name__
                raise TypeError(f"exclude_groups: expected the one group of one query, got {got}")
            constraints = {**constraints, "exclude_groups": [constraints["exclude_groups"]]}
        hits = self._search(query_embedding, document_embeddings, k, _QUERY, constraints)
        return Hits(hits.scores[0], hits.ids[0], hits.logprobs[0], hits.stats)

    def search_queries(
        self,
        query_embeddings: arrays.ArrayLike,
        document_embeddings: FlatIndex | Snapshot | arrays.ArrayLike,
        /,
        k: int = 5,
        **constraints: Unpack[Constraints],
    ) -> Hits:
        """As :meth:`search`, of B queries (B,D) in one search: Hits (B,K), K = min(k, N), the same bits for each."""
        return self._search(query_embeddings, document_embeddings, k, _QUERIES, constraints)

    def _search(
        self, queries: arrays.ArrayLike, documents: Any, k: object, names: tuple[str, str], constraints: Constraints
    ) -> Hits:
        """Hits (B,K), K = min(k, N), of queries (B,D), or of one query (D,) where it goes by that name."""
        k = arrays.positive_int(k, "k")
        documents = _version(documents)
        unknown = [name for name in constraints if name not in Constraints.__annotations__]
        if unknown:
            raise TypeError(f"{unknown[0]}: expected no other constraint than {', '.join(Constraints.__annotations__)}")
        given: dict[str, Any] = {name: value for name, value in constraints.items() if value is not None}
        own = self.filter
        if own is not None:
            given = {"filter": own, **given}
        if not isinstance(documents, Snapshot):
            if given:
                raise TypeError(NOT_AN_INDEX.format(next(iter(given)), type(documents).__name__))
            documents = arrays.matrix(documents, "document_embeddings", dtypes=arrays.EITHER_FLOAT)
        n_docs = len(documents)
        if n_docs == 0:
            raise ValueError("document_embeddings: expected at least one document, got none")
        if not isinstance(documents, Snapshot):
            rows = _rows(queries, documents.shape[1], documents.dtype.num, names)
            return search_plain(rows, documents, None, (min(k, n_docs), None, self._temperature, arrays.DOUBLE), names)
        rows = _rows(queries, documents.dim, arrays.FLOAT, names)
        if not given:
            return documents.search_rows(rows, (min(k, n_docs), None, self._temperature, arrays.DOUBLE), names[0])
        if own is not None:  # both hold, whatever the call's filter is
            own_rows = documents.filter(_own_filter(own))
            given["filter"] = own_rows if given["filter"] is own else own_rows & documents.filter(given["filter"])
        arrays.refuse_nonfinite(rows, names[0])
        return documents.search(rows, min(k, n_docs), temperature=self._temperature, dtype=np.float64, **given)


class DenseRetriever(_DenseSearch):
    """A dense retriever around any encoder: p(z|x) proportional to exp(q(x) . d(z) / tau) over the top k documents.

    That is Lewis et al. 2020, section 2.2, with tau = 1 there: encode is q, a callable that takes a sequence of B
    queries and returns their embeddings (B,D); d(z) are the document embeddings given to a search; tau is temperature.
    Embeddings of length 1 have scores between -1 and 1, which tau = 1 leaves nearly alike: 0.05 is a usual choice then.

    encode may return anything that is an array: NumPy, lists, CPU tensors that require no gradient; float32, float64,
    or float16 and bfloat16, which are widened. Its result is checked at each call.

    filter, if given, holds in every search: one tenant's documents, say. It is a Predicate, ids, of which a copy is
    kept, or what :meth:`Snapshot.filter` made; a mask, which says nothing of the rows of a later version, only as
    ``snapshot.filter(mask)``, which other versions refuse. The filter of a call narrows it, and nothing widens it.

    >>> import numpy as np, ragfast
    >>> words = ["sun", "rain"]
    >>> retriever = ragfast.rag.DenseRetriever(lambda texts: [[float(t.count(w)) for w in words] for t in texts])
    >>> index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [0, 1], [1, 1]]))
    >>> hits = retriever.search_queries(retriever.encode_queries(["sun and sun", "rain"]), index, k=2)
    >>> hits.ids.tolist(), np.exp(hits.logprobs).round(2).tolist()
    ([[0, 2], [1, 2]], [[0.5, 0.5], [0.5, 0.5]])
    >>> whose = {"tenant": ["a", "b", "b"], "year": [1999, 1999, 2005]}
    >>> index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [0, 1], [1, 1]]), metadata=whose)
    >>> of_b = ragfast.rag.DenseRetriever(retriever.encode, filter=ragfast.column("tenant") == "b")
    >>> query = of_b.encode_query("sun")
    >>> of_b.search(query, index, k=2).ids.tolist()
    [2, 1]
    >>> of_b.search(query, index, k=2, filter=ragfast.column("year") < 2000).ids.tolist()
    [1, -1]
    """

    temperature = Number("tau in log p(z|x) = log_softmax(q . d_z / tau), above 0.", above_zero=True)
    _temperature: float

    def __init__(self, encode: Callable[[Sequence[Any]], Any], *, temperature: float = 1.0, filter: Any = None) -> None:
        if not callable(encode):
            raise TypeError(f"encode: expected a callable of a sequence of queries, got {type(encode).__name__}")
        self.encode = encode
        self.temperature = temperature
        self._filter = _own_filter(filter)

    def encode_query(self, query_tokens: Any, /) -> NDArray[Any]:
        """The embedding (D,) of one query, float32 or float64 as encode returns it. Errors as for encode_queries."""
        embedding: NDArray[Any] = self.encode_queries([query_tokens])[0]
        return embedding

    def encode_queries(self, query_tokens: Sequence[Any], /) -> NDArray[Any]:
        """The embeddings (B,D) of B queries by one call of encode, float32 or float64 as encode returns them.

        ValueError where encode returns another shape than (B,D), NaN or infinity; TypeError for another dtype, and
        for a string, which would be a sequence of letters.
        """
        if isinstance(query_tokens, (str, bytes)):
            raise TypeError("query_tokens: expected a sequence of queries, such as a list of one, got a string")
        name = "encode's embeddings"
        embeddings = arrays.matrix(self.encode(query_tokens), name, letters="(B, D)", dtypes=arrays.EITHER_FLOAT)
        if len(embeddings) != len(query_tokens):
            raise ValueError(f"{name}: expected {len(query_tokens)} rows, one a query, got shape {embeddings.shape}")
        arrays.refuse_nonfinite(embeddings, name)
        return embeddings


class SimpleRetriever(_DenseSearch):
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

    query_encoder_W = Weight("The query encoder (D,D), read-only.", "embedding_dim", "embedding_dim")
    _query_encoder_W: NDArray[np.float64]

    def __init__(self, embedding_dim: int, *, rng: np.random.Generator | None = None) -> None:
        self.embedding_dim = arrays.positive_int(embedding_dim, "embedding_dim")
        self.query_encoder_W = initial_weight(rng, self.embedding_dim, self.embedding_dim)

    def encode_query(self, query_tokens: arrays.ArrayLike, /) -> NDArray[np.float64]:
        """The embedding (D,) float64 of a query of n >= 1 tokens (n,D), float32 or float64.

        v / (|v| + 1e-8) for v = query_encoder_W @ mean(query_tokens). The 1e-8 is the notebook's guard against a zero
        vector and part of its maths, unlike the floors under its logarithms: it stays whatever ``eps`` is elsewhere.
        """
        _, v, norm = self._projected(query_tokens)
        embedding: NDArray[np.float64] = v / (norm + 1e-8)
        return embedding

    def encode_query_grad(self, grad: arrays.ArrayLike, query_tokens: arrays.ArrayLike) -> NDArray[np.float64]:
        """The gradient (D,D) with regard to query_encoder_W, from that of :meth:`encode_query`, grad (D,), float32 or
        float64: through the normalisation with its 1e-8, and at v = 0 too, where grad goes through as grad / 1e-8."""
        mean, v, norm = self._projected(query_tokens)
        above, _ = arrays.shaped_doubles(grad, "grad", f"({self.embedding_dim},)", (self.embedding_dim,))
        guarded = norm + 1e-8
        of_v = above / guarded
        if norm:
            of_v -= v * ((v @ above) / norm / guarded**2)
        return np.outer(of_v, mean)

    def _projected(self, query_tokens: arrays.ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """The mean token (D,), query_encoder_W @ it, and the norm of that."""
        tokens = arrays.matrix(
            query_tokens, "query_tokens", letters="(n, D)", dim=self.embedding_dim, dtypes=arrays.EITHER_FLOAT
        )
        if len(tokens) == 0:
            raise ValueError(f"query_tokens: expected at least one token, got shape {tokens.shape}")
        mean: NDArray[np.float64] = np.add.reduce(tokens, axis=0, dtype=np.float64) / len(tokens)
        v: NDArray[np.float64] = self._query_encoder_W @ mean
        norm = math.sqrt(v @ v)
        if not math.isfinite(norm):
            arrays.refuse_nonfinite(tokens, "query_tokens")
            raise ValueError("query_tokens: too large, their encoding overflows float64")
        return mean, v, norm

    def encode_queries(self, query_tokens: Sequence[arrays.ArrayLike], /) -> NDArray[np.float64]:
        """The embeddings (B,D) of B queries, each (n,D) with its own n, as :meth:`encode_query` has them."""
        return np.array([self.encode_query(tokens) for tokens in query_tokens]).reshape(-1, self.embedding_dim)

    def retrieve(
        self, query_embedding: arrays.ArrayLike, document_embeddings: FlatIndex | arrays.ArrayLike, k: int = 5
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """As :meth:`search`, in the notebook's form: ids (K,) and p(z|x) (K,), which sum to 1."""
        hits = self.search(query_embedding, document_embeddings, k=k)
        return hits.ids, np.exp(hits.logprobs)


def _own_filter(filter: Any) -> Any:
    """A retriever's own filter as it may be kept: none that could mean other documents in another version."""
    if filter is None:
        return None
    own = selection.frozen_filter(filter, "a list or an array of ids, a Predicate or a Filter")
    if isinstance(own, np.ndarray) and own.dtype.kind == "b":
        raise TypeError(
            "filter: a mask says nothing of the rows of another version of an index; expected snapshot.filter(mask), "
            "for that version alone, ids or a Predicate"
        )
    return own


def allowed_by(filter: Any, documents: Any) -> tuple[Snapshot, selection.Filter]:
    """The documents as they are now, and a retriever's own filter, not None, made ready for them."""
    version = _version(documents)
    if not isinstance(version, Snapshot):
        raise TypeError(NOT_AN_INDEX.format("filter", type(documents).__name__))
    return version, version.filter(_own_filter(filter))


def shows(filter: Any, documents: Any, doc_id: int | str) -> bool:
    """Whether a retriever's own filter lets through the document of this id; False where there is none."""
    version, own = allowed_by(filter, documents)
    return doc_id in version and len(own & version.filter([doc_id])) > 0


def _version(documents: Any) -> Any:
    """The documents of an index as they are now, or what else they are."""
    return documents.snapshot() if isinstance(documents, FlatIndex) else documents


def _rows(given: arrays.ArrayLike, dim: int, type_num: int, names: tuple[str, str]) -> NDArray[Any]:
    """The queries as plain (B, dim), in the documents' dtype."""
    queries, name, ndim = given, names[0], 1 if names is _QUERY else 2
    if not (_kernels.is_plain(queries, arrays.DOUBLE, ndim) or _kernels.is_plain(queries, arrays.FLOAT, ndim)):
        queries = arrays.as_array(queries, name)
        if queries.dtype.num not in arrays.EITHER_FLOAT:
            raise TypeError(f"{name}: expected float32 or float64, got {queries.dtype}")
        queries = arrays.plain(queries)
    if queries.ndim != ndim or queries.shape[-1] != dim:
        expected = f"({dim},)" if ndim == 1 else f"(B, {dim})"
        hint = ""
        if queries.ndim == ndim:
            hint = (
                f"; an encoder of dimension {queries.shape[-1]} and documents of dimension {dim} do not go together: "
                "encode both by the same model, or by two that were trained together"
            )
        raise ValueError(f"{name}: expected shape {expected}, as the documents have, got {queries.shape}{hint}")
    rows: NDArray[Any] = queries[None] if ndim == 1 else queries
    if rows.dtype.num == type_num:
        return rows
    arrays.refuse_nonfinite(rows, name)
    converted = _kernels.narrowed(rows) if type_num == arrays.FLOAT else _kernels.widened(rows)
    if not np.isfinite(converted).all():
        raise ValueError(f"{name}: too large for the documents' float32")
    return converted
