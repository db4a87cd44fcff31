"""Losses from log-probabilities of tokens: against those from logits, and against the marginals; what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nll_cases import IGNORED, LEVELS, LOSSES, LOSSES_FROM_LOGPROBS, case

import ragfast
from ragfast import target_logprobs

pytestmark = LEVELS


def test_from_logprobs(by_token: bool) -> None:
    """The same as from logits where these are the logits of a model with the same log-probabilities."""
    for compat in ("paper", "hf"):
        for dtype in (np.float64, np.float32):
            logits, docs, targets = case("float64", 3, 4, 5, 29, seed=7)
            docs[1, 2] = -np.inf
            mask = targets != IGNORED
            tokens = target_logprobs(logits, np.where(mask, targets, 0)[:, None]).astype(dtype)
            tokens[~np.broadcast_to(mask[:, None], tokens.shape)] = np.nan  # is not read
            tokens[1, 2] = np.inf
            options = {"temperature": 0.5, "compat": compat, "reduction": "none", "return_posterior": True}
            expected = LOSSES[by_token](
                logits, docs, targets, ignore_index=IGNORED, grad=("doc_scores", "logits"), **options
            )
            found = LOSSES_FROM_LOGPROBS[by_token](
                tokens, docs, mask=mask, grad=("doc_scores", "token_logprobs"), **options
            )
            rtol = 1e-12 if dtype == np.float64 else 3e-6
            for name in ("loss", "posterior", "doc_scores_grad"):
                assert getattr(found, name).dtype == dtype
                np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=rtol, atol=rtol)
            assert found.logits_grad is None
            assert found.token_logprobs_grad.dtype == dtype
            # d nll / d log p(y_t) is minus the posterior where it is scored
            posterior = found.posterior if by_token else found.posterior[:, :, None]
            np.testing.assert_allclose(found.token_logprobs_grad, -posterior * mask[:, None], rtol=1e-6, atol=1e-37)
            null = LOSSES_FROM_LOGPROBS[by_token](tokens, docs[:, :-1], mask=mask, null_score=docs[:, -1], **options)
            assert null.loss.tolist() == found.loss.tolist()
            assert null.doc_scores_grad is null.token_logprobs_grad is None
            plain = LOSSES_FROM_LOGPROBS[by_token](tokens, docs, mask=mask, **{**options, "return_posterior": False})
            assert plain.tolist() == found.loss.tolist()


def test_from_logprobs_is_marginalize(by_token: bool) -> None:
    rng = np.random.default_rng(8)
    docs, tokens = rng.standard_normal((6, 4)), -rng.random((6, 4, 3)) * 9
    log_probs, posterior = (ragfast.marginalize_sequence, ragfast.marginalize_token)[by_token](
        ragfast.log_softmax(docs), tokens, return_posterior=True
    )
    found = LOSSES_FROM_LOGPROBS[by_token](tokens, docs, reduction="none", return_posterior=True)
    np.testing.assert_allclose(found.loss, -(log_probs.sum(axis=1) if by_token else log_probs), rtol=1e-14)
    np.testing.assert_allclose(found.posterior, posterior, rtol=1e-13)
    for reduction, divisor in (("sum", 1), ("mean", 6), ("token_mean", 18)):
        reduced = LOSSES_FROM_LOGPROBS[by_token](tokens, docs, reduction=reduction, grad=["token_logprobs"])
        assert reduced.loss == pytest.approx(found.loss.sum() / divisor, rel=1e-13)
        step = 1e-6
        for at in ((0, 0, 0), (3, 2, 1), (5, 3, 2)):
            ends = []
            for sign in (1, -1):
                moved = tokens.copy()
                moved[at] += sign * step
                ends.append(LOSSES_FROM_LOGPROBS[by_token](moved, docs, reduction=reduction))
            assert reduced.token_logprobs_grad[at] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)
    none = LOSSES_FROM_LOGPROBS[by_token](np.zeros((2, 3, 0)), np.zeros((2, 3)), reduction="none")
    np.testing.assert_allclose(none, 0, atol=1e-15)


def test_an_empty_list_is_a_mask_of_no_positions(by_token: bool) -> None:
    assert LOSSES_FROM_LOGPROBS[by_token](np.zeros((1, 2, 0)), np.zeros((1, 2)), mask=[[]]) == 0


def test_token_logprobs_in_any_layout(by_token: bool) -> None:
    tokens, docs = -np.random.default_rng(6).random((2, 3, 4)), np.zeros((2, 3))
    expected = LOSSES_FROM_LOGPROBS[by_token](tokens, docs, reduction="none")
    for layout in (np.repeat(tokens, 2, axis=-1)[..., ::2], np.asfortranarray(tokens), tokens.astype(">f8")):
        found = LOSSES_FROM_LOGPROBS[by_token](layout, docs, reduction="none")
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"token_logprobs": np.zeros((2, 3, 4), int)}, TypeError, "token_logprobs: expected float32 or float64"),
        (
            {"token_logprobs": np.zeros((2, 3))},
            ValueError,
            r"token_logprobs: expected shape \(B, K, T\) .* got \(2, 3\)",
        ),
        ({"token_logprobs": np.zeros((2, 0, 4))}, ValueError, r"token_logprobs: .* K of 1 or more, got \(2, 0, 4\)"),
        ({"doc_scores": np.zeros(3)}, ValueError, r"doc_scores: expected shape \(2, 3\), as token_logprobs has shape"),
        ({"mask": np.ones((2, 3), bool)}, ValueError, r"mask: expected shape \(2, 4\), as token_log.* got \(2, 3\)"),
        ({"mask": np.ones((2, 4))}, TypeError, "mask: expected bool, True where a token is scored, got float64"),
        ({"grad": ["logits"]}, ValueError, 'grad: expected names out of "doc_scores" and "token_logprobs"'),
        ({"mask": np.empty((2, 0))}, TypeError, "mask: expected bool"),
        ({"reduction": np.zeros(2)}, ValueError, 'reduction: expected "none", .* got array'),
        ({"compat": np.zeros(2)}, ValueError, 'compat: expected "paper" or "hf", got array'),
        ({"mask": np.zeros((2, 4), bool), "reduction": "token_mean"}, ValueError, "reduction: token_mean over no"),
    ],
)
def test_errors_of_logprobs(by_token: bool, change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"token_logprobs": np.zeros((2, 3, 4)), "doc_scores": np.zeros((2, 3)), **change}
    with pytest.raises(error, match=f"^{message}"):
        LOSSES_FROM_LOGPROBS[by_token](**arguments)
