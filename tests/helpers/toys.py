"""A retriever and a generator that are countable by hand, and count what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ragfast

Array = NDArray[Any]

SURE = {(): [0.75, 0.25, 0.0], (0,): [0.0, 0.5, 0.5], (0, 1): [0.0, 0.0, 1.0], (1,): [0.5, 0.25, 0.25]}
DOUBTFUL = {(): [0.25, 0.25, 0.5], (0,): [0.0, 1.0, 0.0], (0, 1): [0.5, 0.25, 0.25], (1,): [0.25, 0.25, 0.5]}
TABLES = {0: SURE, 1: DOUBTFUL}


class FixedRetriever:
    """Finds documents 0, 1, ... with the given p(z|x), and counts how often it is asked."""

    def __init__(self, probs: Sequence[float], ids: Sequence[int] | None = None) -> None:
        self.logprobs = np.log(np.array(probs))
        self.ids = np.arange(len(probs)) if ids is None else np.array(ids)
        self.asked: list[str] = []

    def encode_query(self, query_tokens: Any, /) -> Array:
        self.asked.append("encode_query")
        return np.zeros(1)

    def search(self, query_embedding: Array, document_embeddings: Any, /, k: int) -> ragfast.Hits:
        self.asked.append("search")
        return ragfast.Hits(self.logprobs[:k], self.ids[:k], self.logprobs[:k])


class TableGenerator:
    """Three words, of which 2 ends an answer; a document is {answer so far: p(next word)}. Counts its forward passes:
    the rows of each step of decoding in `stepped`, the documents of each scored target in `scored`."""

    stop_tokens = (2,)

    def __init__(self) -> None:
        self.stepped: list[int] = []
        self.scored: list[int] = []

    def token_logprobs(self, query_tokens: Any, doc_tokens: Sequence[Any], target_tokens: Any, /) -> Array:
        target = tuple(int(word) for word in target_tokens)
        self.scored.append(len(doc_tokens))
        return logs([[doc[target[:t]][word] for t, word in enumerate(target)] for doc in doc_tokens])

    def open(self, query_tokens: Sequence[Any], doc_tokens: Sequence[Sequence[Any]], /) -> TableDecoder:
        return TableDecoder(self, [doc for docs in doc_tokens for doc in docs])


class TableDecoder:
    def __init__(self, generator: TableGenerator, docs: Sequence[Any]) -> None:
        self._generator = generator
        self._rows: list[tuple[Any, tuple[int, ...]]] = [(doc, ()) for doc in docs]
        self.logits = self._read()

    def step(self, rows: NDArray[np.int64], tokens: NDArray[np.int64], /) -> Array:
        pairs = zip(rows.tolist(), tokens.tolist(), strict=True)
        self._rows = [(self._rows[row][0], (*self._rows[row][1], token)) for row, token in pairs]
        self.logits = self._read()
        return self.logits

    def _read(self) -> Array:
        self._generator.stepped.append(len(self._rows))
        return logs([doc[prefix] for doc, prefix in self._rows])


def logs(probs: Any) -> Array:
    with np.errstate(divide="ignore"):
        found: Array = np.log(probs)
        return found
