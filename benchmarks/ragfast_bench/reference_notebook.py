"""The reference notebook's mathematics, transcribed loop by loop: the tests' oracle and the benchmark's baseline.

Nothing is batched, shared or cached, as nothing is there: one document, one token, one softmax at a time, and a
retrieval for every token of RAG-Token. Equal scores are the one thing left open (argsort reversed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FLOOR = 1e-8


def softmax(scores: Array) -> Array:
    powers: Array = np.exp(scores - scores.max())
    probs: Array = powers / powers.sum()
    return probs


class Retriever:
    def __init__(self, dim: int) -> None:
        self.query_encoder_W: Array = np.random.randn(dim, dim) * 0.01

    def encode_query(self, query: Array) -> Array:
        projected: Array = self.query_encoder_W @ query.mean(axis=0)
        embedding: Array = projected / (np.linalg.norm(projected) + FLOOR)
        return embedding

    def retrieve(self, embedding: Array, documents: Array, k: int) -> tuple[Array, Array]:
        scores = documents @ embedding
        best = np.argsort(scores)[::-1][:k]
        return best, softmax(scores[best])


class Generator:
    def __init__(self, vocab_size: int, dim: int, hidden_dim: int) -> None:
        self.encoder_W: Array = np.random.randn(hidden_dim, dim) * 0.01
        self.decoder_W: Array = np.random.randn(hidden_dim, dim) * 0.01
        self.output_W: Array = np.random.randn(vocab_size, hidden_dim) * 0.01
        self.floor = FLOOR

    def log_prob(self, query: Array, doc: Array, target: Sequence[Array] | Array) -> float:
        mean = np.concatenate([query, doc]).mean(axis=0)
        encoded = np.tanh(self.encoder_W @ mean)
        total = 0.0
        for token in target:
            decoded = np.tanh(self.decoder_W @ token)
            probs = softmax(self.output_W @ (encoded + decoded))
            total += np.log(probs[np.argmax(token)] + self.floor)
        return total


def rag_sequence(
    retriever: Retriever,
    generator: Generator,
    query: Array,
    target: Array,
    documents: Array,
    texts: Sequence[Array],
    k: int = 5,
    floor: float = FLOOR,
) -> tuple[float, Array, Array]:
    best, probs = retriever.retrieve(retriever.encode_query(query), documents, k)
    total = 0.0
    for doc_id, prob in zip(best, probs, strict=True):
        total += prob * np.exp(generator.log_prob(query, texts[doc_id], target))
    return float(np.log(total + floor)), best, probs


def rag_token_step(
    retriever: Retriever,
    generator: Generator,
    query: Array,
    token: Array,
    documents: Array,
    texts: Sequence[Array],
    k: int = 5,
) -> tuple[float, Array, Array]:
    best, probs = retriever.retrieve(retriever.encode_query(query), documents, k)
    total = 0.0
    for doc_id, prob in zip(best, probs, strict=True):
        total += prob * np.exp(generator.log_prob(query, texts[doc_id], [token]))
    return total, best, probs


def rag_token(
    retriever: Retriever,
    generator: Generator,
    query: Array,
    target: Array,
    documents: Array,
    texts: Sequence[Array],
    k: int = 5,
    floor: float = FLOOR,
) -> float:
    log_prob = 0.0
    for token in target:
        prob, _, _ = rag_token_step(retriever, generator, query, token, documents, texts, k)
        log_prob += np.log(prob + floor)
    return float(log_prob)
