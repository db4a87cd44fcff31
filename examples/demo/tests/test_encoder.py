"""MiniLM as a retriever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import ragfast
from ragfast.rag.protocols import BatchRetriever

if TYPE_CHECKING:
    from ragfast_demo.encoder import MiniLM

TEXTS = [
    "The Eiffel Tower was built in 1889 by Gustave Eiffel.",
    "Paris is the capital of France and has a population of 2.2 million.",
    "The Statue of Liberty was a gift from France to the United States.",
    "Mount Everest is 8,849 meters tall and located in the Himalayas.",
    "The Amazon River flows through South America for 6,400 kilometers. " * 20,
]


def test_documents_are_the_same_in_any_batch_and_thread_count(encoder: MiniLM) -> None:
    import torch

    from ragfast.rag.hf.prompts import TruncationWarning

    many = encoder.encode_documents(TEXTS * 10, threads=2, dtype=torch.float32)
    with pytest.warns(TruncationWarning, match="longer than 96 tokens"):  # of a query, whose end was meant to count
        alone = np.stack([encoder.encode_query(text) for text in TEXTS])
    assert many.shape == (50, 384)
    assert many.dtype == alone.dtype == np.float32
    np.testing.assert_allclose(many, np.tile(alone, (10, 1)), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)


def test_bfloat16_is_near_float32(encoder: MiniLM) -> None:
    import torch

    both = [encoder.encode_documents(TEXTS, threads=1, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert (both[0] * both[1]).sum(axis=1).min() > 0.9999
    assert not np.array_equal(*both)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("When was the Eiffel Tower built?", 0),
        ("What is the height of Mount Everest?", 3),
        ("How long is the Amazon River?", 4),
    ],
)
def test_the_notebooks_questions_find_their_documents(encoder: MiniLM, question: str, expected: int) -> None:
    import torch

    assert isinstance(encoder, BatchRetriever)
    embeddings = encoder.encode_documents(TEXTS, threads=1, dtype=torch.float32)
    query = encoder.encode_query(question)
    hits = encoder.search(query, ragfast.FlatIndex.from_vectors(embeddings), k=9)
    assert hits.ids.shape == (5,)
    assert hits.ids[0] == expected
    logits = hits.scores / encoder.temperature
    np.testing.assert_allclose(hits.logprobs, logits - np.logaddexp.reduce(logits), atol=1e-6)
    np.testing.assert_allclose(hits.scores, np.sort(embeddings @ query)[::-1], atol=1e-6)


def test_questions_at_once_are_each_alone(encoder: MiniLM) -> None:
    questions = ["When was the Eiffel Tower built?", "Where is it?"]
    alone = np.stack([encoder.encode_query(question) for question in questions])
    np.testing.assert_allclose(encoder.encode_queries(questions), alone, atol=1e-6)
    assert encoder.dim == 384
