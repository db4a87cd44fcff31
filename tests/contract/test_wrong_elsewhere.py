"""Marginals as other projects calculate them beside ours: what goes wrong there, and the right value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nll_oracle import lse
from numpy.typing import NDArray

import ragfast
from ragfast import rag_sequence_nll_from_logprobs, rag_token_nll, rag_token_nll_from_logprobs

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("isa")


def replug_nll(token_logprobs: Array, doc_scores: Array) -> Array:
    """REPLUG, models.py (swj0419/REPLUG 6cbe797): the weights of documents are exp(s) / sum exp(s), as they stand."""
    with np.errstate(all="ignore"):
        weights = np.exp(doc_scores) / np.exp(doc_scores).sum(axis=1, keepdims=True)
        nll: Array = -np.log((weights[:, :, None] * np.exp(token_logprobs)).sum(axis=1)).sum(axis=1)
    return nll


def test_replug_overflows() -> None:
    """Inner products of 768 dimensions reach 90 easily, and exp(90) is no float32."""
    rng = np.random.default_rng(0)
    tokens = -rng.random((1, 3, 4), dtype=np.float32)
    for top, overflows in ((5, False), (90, True)):
        scores = np.array([[top, top - 1, top - 2]], np.float32)
        wide = scores.astype(np.float64)
        joint = (wide - lse(wide, 1)[:, None])[:, :, None] + tokens
        right = -lse(joint, 1).sum(axis=1)
        ours = rag_token_nll_from_logprobs(tokens, scores, reduction="none")
        np.testing.assert_allclose(ours, right, rtol=1e-6)
        theirs = replug_nll(tokens, scores)
        if overflows:
            assert np.isnan(theirs).all()
        else:
            np.testing.assert_allclose(theirs, right, rtol=1e-6)


def flashrag_mixture(logits: Array, doc_scores: Array) -> Array:
    """FlashRAG, REPLUGLogitsProcessor (RUC-NLPIR/FlashRAG 1ee5249): softmax of sum_z w_z logits_z, w = s / sum s."""
    weights = doc_scores / doc_scores.sum()
    mixed = weights @ logits
    p: Array = np.exp(mixed - lse(mixed, 0))
    return p


def test_mixing_logits_is_not_the_mixture() -> None:
    """Two documents, each sure of its own answer. Either answer is likely; the average of logits is sure of a third,
    which both documents hold to be unlikely: it is a product of experts, not a marginal."""
    p = np.array([[0.9, 0.0999, 0.0001], [0.0001, 0.0999, 0.9]])
    logits, scores = np.log(p), np.array([80.0, 80.0])
    every_token = np.arange(3)[:, None]  # as answers of one token
    ours = np.exp(
        -rag_token_nll(np.tile(logits[:, None], (3, 1, 1, 1)), np.tile(scores, (3, 1)), every_token, reduction="none")
    )
    np.testing.assert_allclose(ours, p.mean(axis=0), rtol=1e-12)
    assert ours.sum() == pytest.approx(1)
    theirs = flashrag_mixture(logits, scores)
    assert theirs.argmax() == 1
    assert theirs[1] > 0.8
    assert ours[1] < 0.1
    assert np.abs(theirs - ours).sum() / 2 > 0.7  # total variation
    # Its weights are not p(z|x) either: they do not see which document is better by how much, nor negative scores.
    scores = np.array([-1.0, 3.0])
    prior = ragfast.log_softmax(scores)
    ours = np.exp(
        -rag_token_nll(np.tile(logits[:, None], (3, 1, 1, 1)), np.tile(scores, (3, 1)), every_token, reduction="none")
    )
    np.testing.assert_allclose(ours, np.exp(prior) @ p, rtol=1e-12)
    assert np.abs(flashrag_mixture(logits, scores) - ours).sum() / 2 > 0.01


def test_absent_documents_are_not_zero_vectors() -> None:
    """transformers 5.23, retrieval_rag.py: where an index finds fewer than K documents, the rest are vectors of zeros.
    Their score is 0, which may be the best of all; here it is -inf."""
    docs = np.array([[1.0, 2.0], [2.0, 1.0]], np.float32)
    query = np.array([[-2.0, -1.0]], np.float32)
    n_docs = 5
    hits = ragfast.search(query, docs, n_docs)
    assert hits.scores.tolist() == [[-4, -5, -np.inf, -np.inf, -np.inf]]
    tokens = np.log(np.full((1, n_docs, 2), 0.01))  # what a generator says of a document that nobody found
    tokens[0, :2] = np.log([[0.9, 0.8], [0.5, 0.4]])
    for nll in (rag_sequence_nll_from_logprobs, rag_token_nll_from_logprobs):
        right = nll(tokens[:, :2], hits.scores[:, :2], return_posterior=True)
        ours = nll(tokens, hits.scores, return_posterior=True, grad=["doc_scores"])
        assert ours.loss == pytest.approx(right.loss, rel=1e-12)
        np.testing.assert_allclose(ours.posterior[:, :2], right.posterior, rtol=1e-12)
        assert not ours.posterior[:, 2:].any()
        assert not ours.doc_scores_grad[:, 2:].any()
        padded = np.concatenate([docs, np.zeros((n_docs - 2, 2), np.float32)])
        zero_scores = query @ padded[[1, 0, 2, 3, 4]].T
        assert np.exp(ragfast.log_softmax(zero_scores))[0, 2:].sum() > 0.97  # of the prior
        theirs = nll(tokens, zero_scores, return_posterior=True)
        assert theirs.loss > right.loss + 2
