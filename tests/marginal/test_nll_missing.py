"""Losses where something is missing: padding, a null document, absent documents, impossible answers, no tokens."""

from __future__ import annotations

import numpy as np
import pytest
from nll_cases import ALL, IGNORED, LEVELS, LOSSES, assert_is, case, exactly

import ragfast
from ragfast import NLL, rag_sequence_nll, rag_token_nll

pytestmark = LEVELS


def test_what_is_not_scored_is_not_read(by_token: bool, kind: str) -> None:
    logits, docs, targets = case(kind, 3, 4, 5, 45, seed=3)
    ignored = targets == IGNORED
    assert ignored.any()
    clean = LOSSES[by_token](logits, docs, targets, ignore_index=IGNORED, label_smoothing=0.1, **ALL)
    dirty = logits.copy()
    dirty[np.broadcast_to(ignored[:, None], dirty.shape[:3])] = np.nan
    found = LOSSES[by_token](dirty, docs, targets, ignore_index=IGNORED, label_smoothing=0.1, **ALL)
    for name in ("loss", "posterior", "doc_scores_grad", "logits_grad"):
        assert getattr(found, name).tobytes() == getattr(clean, name).tobytes()
    assert not found.logits_grad.astype(float)[np.broadcast_to(ignored[:, None], dirty.shape[:3])].any()
    as_pad = np.where(ignored, 7, np.where(targets == 7, 8, targets))  # a token of the vocabulary, as padding often is
    padded = LOSSES[by_token](logits, docs, as_pad, ignore_index=7, label_smoothing=0.1, **ALL)
    same = LOSSES[by_token](logits, docs, np.where(ignored, -1, as_pad), ignore_index=-1, label_smoothing=0.1, **ALL)
    assert padded.loss.tolist() == same.loss.tolist()
    for b in range(3):  # the same as without the padded positions
        n = 5 - int(ignored[b].sum())
        alone = LOSSES[by_token](logits[b : b + 1, :, :n], docs[b : b + 1], targets[b : b + 1, :n], reduction="none")
        unsmoothed = LOSSES[by_token](logits, docs, targets, ignore_index=IGNORED, reduction="none")
        assert unsmoothed[b] == pytest.approx(alone[0], rel=3e-7)


def test_nothing_scored(by_token: bool) -> None:
    logits, docs, targets = case("float32", 2, 3, 4, 40)
    found = LOSSES[by_token](logits, docs, np.full_like(targets, IGNORED), ignore_index=IGNORED, **ALL)
    np.testing.assert_allclose(found.loss, 0, atol=1e-7)
    assert not found.logits_grad.any()
    if not by_token:
        np.testing.assert_allclose(found.posterior, np.exp(ragfast.log_softmax(docs)), rtol=1e-6)
    else:
        assert not found.posterior.any()
        assert found.loss.tolist() == [0, 0]
    np.testing.assert_allclose(found.doc_scores_grad, 0, atol=1e-7)


def test_null_document(by_token: bool, kind: str) -> None:
    """It is one more document, whose score comes apart."""
    logits, docs, targets = case(kind, 3, 5, 4, 50, seed=4)
    options = {"ignore_index": IGNORED, "label_smoothing": 0.1, "temperature": 0.9, **ALL}
    expected = LOSSES[by_token](logits, docs, targets, **options)
    found = LOSSES[by_token](logits, docs[:, :-1], targets, null_score=docs[:, -1], **options)
    for name in ("loss", "posterior", "doc_scores_grad", "logits_grad"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()
    assert found.doc_scores_grad.shape == (3, 5)
    docs[:, -1] = 2
    expected = LOSSES[by_token](logits, docs, targets, **options)
    for two in (2, 2.0, np.float32(2), np.full(3, 2, np.float16)):
        found = LOSSES[by_token](logits, docs[:, :-1], targets, null_score=two, **options)
        assert found.loss.tolist() == expected.loss.tolist()
    alone = LOSSES[by_token](logits[:, :1], docs[:, :0], targets, null_score=3, **options)  # no other document
    plain = LOSSES[by_token](logits[:, :1], docs[:, :1], targets, **options)
    assert alone.loss.tolist() == plain.loss.tolist()


def test_missing_documents(by_token: bool, kind: str) -> None:
    logits, docs, targets = case(kind, 3, 5, 4, 50, seed=5)
    docs[0, [1, 4]] = -np.inf
    docs[2] = -np.inf
    logits[docs == -np.inf] = np.nan  # whatever stands there
    for smoothing in (0, 0.1):
        options = {"ignore_index": IGNORED, "label_smoothing": smoothing, **ALL}
        found = LOSSES[by_token](logits, docs, targets, **options)
        present = [0, 2, 3]
        without = LOSSES[by_token](logits[:1, present], docs[:1, present], targets[:1], **options)
        assert found.loss[0] == pytest.approx(without.loss[0], rel=3e-7)
        for name in ("posterior", "doc_scores_grad", "logits_grad"):
            some = np.asarray(getattr(found, name)).astype(float)
            np.testing.assert_allclose(some[:1, present], getattr(without, name).astype(float), rtol=1e-5, atol=1e-7)
            assert not some[0, [1, 4]].any()
            assert not some[2].any()
        assert found.loss[2] == np.inf
        assert np.isfinite(found.loss[:2]).all()
        assert_is(
            NLL(found.loss[:2], found.posterior[:2], found.doc_scores_grad[:2], found.logits_grad[:2]),
            exactly(by_token, logits[:2], docs[:2], targets[:2], smoothing=smoothing),
            kind,
            smoothing,
        )
    assert LOSSES[by_token](logits, docs, targets, ignore_index=IGNORED) == np.inf


def test_impossible_answers(by_token: bool, kind: str) -> None:
    """A token that no document allows: an infinite loss, of which the gradients and the posterior are 0."""
    logits, docs, targets = case(kind, 2, 3, 4, 40, padded=False)
    logits[1, :, 2, targets[1, 2]] = -np.inf
    found = LOSSES[by_token](logits, docs, targets, **ALL)
    assert found.loss[1] == np.inf
    assert np.isfinite(found.loss[0])
    for x in (found.posterior, found.doc_scores_grad, found.logits_grad):
        assert np.isfinite(x.astype(float)).all()
    if by_token:
        assert not found.posterior[1, :, 2].any()
        assert not found.logits_grad[1, :, 2].astype(float).any()
    else:
        assert not found.posterior[1].any()
        assert not found.doc_scores_grad[1].any()
        assert not found.logits_grad[1].astype(float).any()
    logits[0, 1, 0, targets[0, 0]] = -np.inf  # that one document does not allow
    found = LOSSES[by_token](logits, docs, targets, **ALL)
    assert np.isfinite(found.loss[0])
    assert (found.posterior[0, 1, 0] if by_token else found.posterior[0, 1]) == 0
    assert_is(
        NLL(found.loss[:1], found.posterior[:1], found.doc_scores_grad[:1], found.logits_grad[:1]),
        exactly(by_token, logits[:1], docs[:1], targets[:1]),
        kind,
    )


def test_nan_is_not_hidden(by_token: bool) -> None:
    logits, docs, targets = case("float32", 2, 3, 4, 40, padded=False)
    logits[1, 2, 3, 17] = np.nan
    found = LOSSES[by_token](logits, docs, targets, **ALL)
    assert np.isnan(found.loss).tolist() == [False, True]
    assert np.isnan(LOSSES[by_token](logits, docs, targets))
    docs[0, 0] = np.nan
    assert np.isnan(LOSSES[by_token](logits, docs, targets, reduction="none")).all()


def test_no_tokens_and_no_answers(by_token: bool, kind: str) -> None:
    logits, docs, targets = case(kind, 2, 3, 0, 9)
    found = LOSSES[by_token](logits, docs, targets, **ALL)
    np.testing.assert_allclose(found.loss, 0, atol=2e-7)
    assert found.logits_grad.shape == (2, 3, 0, 9)
    assert found.posterior.shape == ((2, 3, 0) if by_token else (2, 3))
    np.testing.assert_allclose(found.doc_scores_grad, 0, atol=2e-7)
    logits, docs, targets = case(kind, 0, 3, 4, 9)
    found = LOSSES[by_token](logits, docs, targets, **ALL)
    assert found.loss.shape == (0,)
    assert found.doc_scores_grad.shape == (0, 3)
    assert found.logits_grad.shape == logits.shape
    assert LOSSES[by_token](logits, docs, targets, reduction="sum") == 0
    with pytest.raises(ValueError, match=r"^reduction: mean over no answers \(B is 0\)$"):
        LOSSES[by_token](logits, docs, targets)


def test_a_document_that_predicts_nothing() -> None:
    """All of its row is -inf: it has no part in that token, smoothed or not, as if it were missing there."""
    rng = np.random.default_rng(11)
    logits, scores = rng.standard_normal((2, 3, 1, 40)), rng.standard_normal((2, 3))
    logits[0, 1] = -np.inf
    targets = rng.integers(0, 40, (2, 1))
    for loss in (rag_sequence_nll, rag_token_nll):
        for smoothing in (0.0, 0.1):
            options = {"label_smoothing": smoothing, "reduction": "none"}
            found = loss(logits, scores, targets, grad=["doc_scores", "logits"], **options)
            without = loss(logits[:, [0, 2]], scores[:, [0, 2]], targets, **options)
            prior = ragfast.log_softmax(scores[0])
            np.testing.assert_allclose(found.loss[0], without[0] - np.logaddexp(prior[0], prior[2]), rtol=1e-12)
            assert np.isfinite(found.doc_scores_grad).all()
            assert np.isfinite(found.logits_grad).all()
            assert not found.logits_grad[0, 1].any()
