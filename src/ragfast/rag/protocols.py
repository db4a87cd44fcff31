"""What the RAG models ask of a retriever and a generator: protocols that any class may satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ragfast.index import Hits

__all__ = [
    "BatchGenerator",
    "BatchRetriever",
    "Constraints",
    "Decoder",
    "DecodingGenerator",
    "FilteringRetriever",
    "Generator",
    "Retriever",
    "checked_retriever",
    "was_found",
]


class Constraints(TypedDict, total=False):
    """Which documents a retrieval may find, by the keywords of :meth:`FlatIndex.search`; None is as if not given.

    filter; group_by, with max_per_group or exclude_groups: of several queries (B,) groups, of one query one. They need
    documents in a FlatIndex or a Snapshot, and TypeError says so for an array; otherwise errors are as there.
    """

    filter: Any
    group_by: str | None
    exclude_groups: Any
    max_per_group: int | None


@runtime_checkable
class Retriever(Protocol):
    """What the RAG classes ask of a retriever."""

    def encode_query(self, query_tokens: Any, /) -> NDArray[Any]:
        """The embedding (D,) of one query. What query_tokens is, is between the caller and the retriever."""

    def search(self, query_embedding: NDArray[Any], document_embeddings: Any, /, k: int) -> Hits:
        """The top k documents of one query: Hits of scores, ids and logprobs, each (min(k, N),), best first."""


@runtime_checkable
class BatchRetriever(Retriever, Protocol):
    """A retriever that takes all questions of a batch at once."""

    def encode_queries(self, query_tokens: Sequence[Any], /) -> NDArray[Any]:
        """The embeddings (B,D) of B queries."""

    def search_queries(self, query_embeddings: NDArray[Any], document_embeddings: Any, /, k: int) -> Hits:
        """The top k documents of each: Hits (B,K), with id -1 and -inf where fewer than K documents qualify."""


@runtime_checkable
class FilteringRetriever(Retriever, Protocol):
    """A retriever whose ``search``, and ``search_queries`` if it has that, take :class:`Constraints`, and which may
    hold a filter of its own."""

    @property
    def filter(self) -> Any:
        """The filter that holds in every search, or None. The constraints of a search can only narrow it.

        SearchTool asks here which documents it may show by their ids.
        """

    def search(
        self, query_embedding: NDArray[Any], document_embeddings: Any, /, k: int, **constraints: Unpack[Constraints]
    ) -> Hits:
        """As of :class:`Retriever`, with id -1 (None among strings) and -inf where fewer than k documents qualify."""


@runtime_checkable
class Generator(Protocol):
    """What the RAG classes ask of a generator."""

    def token_logprobs(self, query_tokens: Any, doc_tokens: Sequence[Any], target_tokens: Any, /) -> NDArray[Any]:
        """l[z,t] = log p(y_t | x, z, y_<t), (K,T), of one target under K documents."""


@runtime_checkable
class BatchGenerator(Generator, Protocol):
    """A generator that scores many questions and candidate answers at once."""

    def batch_token_logprobs(
        self,
        query_tokens: Sequence[Any],
        doc_tokens: Sequence[Sequence[Any]],
        target_tokens: Sequence[Sequence[Any]],
        /,
    ) -> Sequence[Sequence[NDArray[Any]]]:
        """For each of B questions with its K_b documents and C_b targets: C_b arrays of token_logprobs, (K_b,T)."""


class Decoder(Protocol):
    """Answers in the making, one a row. Each row has read its question and one document, and goes its own way."""

    logits: NDArray[Any]
    """(R,V): what the generator says of the next token of each row, not necessarily normalised; -inf bans a token."""

    def step(self, rows: NDArray[np.int64], tokens: NDArray[np.int64], /) -> NDArray[Any]:
        """Goes on to other rows: new row i is what the row rows[i] (R',) was, followed by tokens[i].

        A row may go on several times, as beams do, or not at all, and is then gone. Returns the new logits (R',V).

        A decoder may have a ``capacity``: the most tokens that an answer may have.
        """


@runtime_checkable
class DecodingGenerator(Generator, Protocol):
    """What decoding asks beyond that. A method ``text(tokens) -> str``, where there is one, spells answers out."""

    @property  # so that a tuple, or a property, will do
    def stop_tokens(self) -> Sequence[int]:
        """The tokens that end an answer."""

    def open(self, query_tokens: Sequence[Any], doc_tokens: Sequence[Sequence[Any]], /) -> Decoder:
        """A decoder with an empty answer for each of B questions under each of its K_b documents, in that order."""


def checked_retriever(retriever: Any) -> Retriever:
    """Return the retriever, or raise a TypeError that says what it lacks."""
    if isinstance(retriever, Retriever):
        return retriever
    hint = "; ragfast.rag.DenseRetriever(encode) is one around a callable" if callable(retriever) else ""
    raise TypeError(f"retriever: expected encode_query and search methods, got {type(retriever).__name__}{hint}")


def was_found(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Which ids are of documents: not -1, or None among strings, with which a search that found fewer is filled up."""
    if ids.dtype != object:
        return np.asarray(ids >= 0)
    return np.array([doc_id is not None for doc_id in ids], np.bool_)
