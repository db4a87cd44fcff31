"""-log p(y|x) from logits against Hugging Face's, and where that differs from the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nll_cases import IGNORED, LEVELS, assert_is, case
from nll_oracle import exact_nll, hf_sequence_nll, hf_token_nll, lse

import ragfast
from ragfast import rag_sequence_nll, rag_token_nll, target_logprobs

pytestmark = LEVELS


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("exclude_bos", [False, True])
@pytest.mark.parametrize("n_tokens", [2, 3, 9])
def test_hugging_face_numbers(epsilon: float, exclude_bos: bool, n_tokens: int) -> None:
    """The shift is the caller's: targets are those of HF from the second on, its logits all but the last."""
    rng = np.random.default_rng(n_tokens)
    pad, bos = 1, 0
    for begins_with_bos in (False, True):
        logits, docs = 3 * rng.standard_normal((4, 5, n_tokens, 61)), rng.standard_normal((4, 5))
        target = rng.integers(2, 61, (4, n_tokens))
        target[np.arange(n_tokens) > rng.integers(1, n_tokens, (4, 1))] = pad
        if begins_with_bos:  # BART: </s> <s> ..., of which the second is the bos
            target[:, 1] = bos
        aligned, labels = logits[:, :, :-1], target[:, 1:]
        options = {"ignore_index": pad, "label_smoothing": epsilon, "compat": "hf", "reduction": "none"}
        expected = hf_sequence_nll(logits, docs, target, pad, epsilon, bos, exclude_bos)
        found = rag_sequence_nll(aligned, docs, labels, bos_token_id=bos if exclude_bos else None, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert rag_sequence_nll(
            aligned, docs, labels, bos_token_id=bos if exclude_bos else None, **{**options, "reduction": "sum"}
        ) == pytest.approx(expected.sum(), rel=1e-12)
        by_token = rag_token_nll(aligned, docs, labels, **options)
        np.testing.assert_allclose(by_token, hf_token_nll(logits, docs, target, pad, epsilon), rtol=1e-12)
        assert rag_token_nll(aligned, docs, labels, **{**options, "compat": "paper"}).tolist() == by_token.tolist()
        skip_first = exclude_bos and begins_with_bos
        scored = np.where(labels == pad, -1, labels)
        exact = exact_nll(False, aligned, docs, scored, smoothing=epsilon, hf=True, skip_first=skip_first)
        grads = rag_sequence_nll(
            aligned,
            docs,
            labels,
            bos_token_id=bos if exclude_bos else None,
            grad=("doc_scores", "logits"),
            return_posterior=True,
            **options,
        )
        assert_is(grads, exact, "float64", epsilon)


def test_where_hugging_face_differs_from_the_paper() -> None:
    """HF adds log p(z|x) at the second position alone. An answer of one token has none, so its loss ignores the
    retriever: the classification of Lewis et al., section 3.4, where RAG-Sequence and RAG-Token are the same."""
    logits, docs, targets = case("float64", 1, 4, 2, 30, padded=False)
    one_scored = np.array([[targets[0, 0], IGNORED]])
    logp = target_logprobs(logits, targets[:, None])[0]  # (K,T)
    prior = ragfast.log_softmax(docs[0])
    paper = -float(lse(prior + logp[:, 0], 0))
    without_prior = -float(lse(logp[:, 0], 0))
    for aligned, labels in ((logits, one_scored), (logits[:, :, :1], targets[:, :1])):
        options: dict[str, Any] = {"ignore_index": IGNORED, "grad": ("doc_scores",)}
        right = rag_sequence_nll(aligned, docs, labels, **options)
        hf = rag_sequence_nll(aligned, docs, labels, compat="hf", **options)
        assert right.loss == pytest.approx(paper, rel=1e-13)
        assert right.loss == pytest.approx(rag_token_nll(aligned, docs, labels, ignore_index=IGNORED), rel=1e-13)
        assert hf.loss == pytest.approx(without_prior, rel=1e-13)
        assert abs(hf.loss - right.loss) > 0.5
        assert right.doc_scores_grad.any()
        assert not hf.doc_scores_grad.any()  # nothing to learn for the retriever
        pad, start = 1, 2
        labels = np.where(labels == IGNORED, pad, labels)
        target = np.concatenate([[[start]], labels], axis=1)
        longer = np.concatenate([aligned, logits[:, :, :1]], axis=2)
        assert hf.loss == pytest.approx(hf_sequence_nll(longer, docs, target, pad, 0, None, False)[0], rel=1e-13)
    both = [rag_sequence_nll(logits, docs, targets, compat=compat) for compat in ("paper", "hf")]
    assert both[0] == pytest.approx(both[1], rel=1e-14)  # two scored tokens: no difference
    smooth = [rag_sequence_nll(logits, docs, targets, compat=c, label_smoothing=0.1) for c in ("paper", "hf")]
    assert abs(smooth[0] - smooth[1]) > 1e-3  # but V times the prior in what smoothing adds


def test_bos_is_left_out_only_if_every_answer_has_it() -> None:
    logits, docs, targets = case("float64", 2, 3, 3, 20, padded=False)
    targets[:, 0] = 7
    excluded = rag_sequence_nll(logits, docs, targets, compat="hf", bos_token_id=7, reduction="none")
    tokens = target_logprobs(logits[:, :, 1:], targets[:, None, 1:])
    expected = -lse(ragfast.log_softmax(docs) + tokens.sum(axis=2), 1)
    np.testing.assert_allclose(excluded, expected.astype(float), rtol=1e-13)
    mean = rag_sequence_nll(logits, docs, targets, compat="hf", bos_token_id=7, reduction="token_mean")
    assert mean == pytest.approx(excluded.sum() / 4, rel=1e-13)  # position 0 is no token that is scored
    targets[0, 0] = 8
    plain = rag_sequence_nll(logits, docs, targets, compat="hf", reduction="none")
    assert rag_sequence_nll(logits, docs, targets, compat="hf", bos_token_id=7, reduction="none").tolist() == (
        plain.tolist()
    )
