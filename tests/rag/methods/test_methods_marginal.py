"""EMDR2, REALM and REPLUG against transcriptions of their formulas, and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from method_cases import differences, softmax
from numpy.typing import NDArray

import ragfast
from ragfast.rag import methods

Array = NDArray[Any]

B, K, T, V = 3, 4, 5, 7
RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((B, K))
LOGITS = 2 * RNG.standard_normal((B, K, T, V))
TARGETS = RNG.integers(0, V, (B, T))
TOKENS = ragfast.target_logprobs(LOGITS, TARGETS[:, None])
MASK = np.arange(T) < np.array([[5], [3], [1]])


def mixture(tokens: Array, prior: Array, mask: Array, marginal: str) -> Array:
    """-log p(y|x) (B,) by probabilities: of whole answers, or token by token."""
    out = np.zeros(len(tokens))
    for b in range(len(tokens)):
        scored = np.exp(tokens[b][:, mask[b]])
        if marginal == "sequence":
            out[b] = -np.log((prior[b] * scored.prod(axis=1)).sum())
        else:
            out[b] = -np.log((prior[b][:, None] * scored).sum(axis=0)).sum()
    return out


MARGINALS = ["sequence", "token"]


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_emdr2(marginal: Any, temperature: float) -> None:
    expected = mixture(TOKENS, softmax(SCORES / temperature), MASK, marginal)
    options: dict[str, Any] = {"mask": MASK, "marginal": marginal, "temperature": temperature}
    np.testing.assert_allclose(methods.emdr2_loss(TOKENS, SCORES, reduction="none", **options), expected, rtol=1e-12)
    assert methods.emdr2_loss(TOKENS, SCORES, **options) == pytest.approx(expected.mean(), rel=1e-12)
    found = methods.emdr2_loss(TOKENS, SCORES, reduction="token_mean", grad=["doc_scores"], **options)
    assert found.loss == pytest.approx(expected.sum() / MASK.sum(), rel=1e-12)  # the released codes', by tokens
    assert found.token_logprobs_grad is None
    grad = differences(lambda x: methods.emdr2_loss(TOKENS, x, reduction="token_mean", **options), SCORES)
    np.testing.assert_allclose(found.doc_scores_grad, grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize("target_temperature", [1.0, 0.5])
def test_atlas_emdr2(marginal: Any, target_temperature: float) -> None:
    targets = np.where(MASK, TARGETS, -100)
    prior, given = softmax(SCORES / 0.5), softmax(LOGITS / target_temperature)
    tokens = np.log(np.take_along_axis(given, np.broadcast_to(TARGETS[:, None, :, None], (B, K, T, 1)), -1)[..., 0])
    expected = mixture(tokens, prior, MASK, marginal)
    options: dict[str, Any] = {
        "ignore_index": -100,
        "marginal": marginal,
        "temperature": 0.5,
        "target_temperature": target_temperature,
    }
    found = methods.atlas_emdr2_loss(LOGITS, SCORES, targets, reduction="none", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    by_token = methods.atlas_emdr2_loss(LOGITS, SCORES, targets, reduction="token_mean", **options)
    assert by_token == pytest.approx(expected.sum() / MASK.sum(), rel=1e-12)  # tokens that are not scored do not count
    nll = methods.atlas_emdr2_loss(LOGITS, SCORES, targets, grad=["doc_scores"], return_posterior=True, **options)
    grad = differences(lambda x: methods.atlas_emdr2_loss(LOGITS, x, targets, **options), SCORES)
    np.testing.assert_allclose(nll.doc_scores_grad, grad, rtol=1e-6, atol=1e-9)
    assert nll.posterior.shape == ((B, K) if marginal == "sequence" else (B, K, T))
    narrow = methods.atlas_emdr2_loss(LOGITS.astype(np.float32), SCORES, targets, **options)
    assert narrow.dtype == np.float32
    assert narrow == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("marginal", MARGINALS)
def test_emdr2_utility(marginal: Any) -> None:
    null = -np.random.default_rng(1).exponential(size=(B, T))
    expected = -mixture(TOKENS, softmax(SCORES), MASK, marginal) - np.where(MASK, null, 0).sum(axis=1)
    options: dict[str, Any] = {"mask": MASK, "marginal": marginal}
    found = methods.emdr2_utility(TOKENS, null, SCORES, reduction="none", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    by_token = methods.emdr2_utility(TOKENS, null, SCORES, reduction="token_mean", **options)
    assert by_token == pytest.approx(expected.sum() / MASK.sum(), rel=1e-12)
    alone = methods.emdr2_utility(null[:, None], null, np.zeros((B, 1)), **options)
    assert alone == 0  # retrieval of the null block is worth nothing


@pytest.mark.parametrize("marginal", MARGINALS)
@pytest.mark.parametrize("null_score", [0.7, np.array([0.7, -2.0, 1.5])])
def test_realm_with_null_document(marginal: Any, null_score: Any) -> None:
    """The null document is a candidate as every other: the last."""
    docs = SCORES[:, :-1]
    both = np.concatenate([docs, np.broadcast_to(np.reshape(null_score, (-1, 1)), (B, 1))], axis=1)
    expected = mixture(TOKENS, softmax(both), MASK, marginal)
    options: dict[str, Any] = {"null_score": null_score, "mask": MASK, "marginal": marginal}
    np.testing.assert_allclose(methods.realm_nll(TOKENS, docs, reduction="none", **options), expected, rtol=1e-12)
    nll = methods.realm_nll(TOKENS, docs, grad=["doc_scores", "token_logprobs"], return_posterior=True, **options)
    of_docs = differences(lambda x: methods.realm_nll(TOKENS, x, **options), docs)
    np.testing.assert_allclose(nll.doc_scores_grad[:, :-1], of_docs, rtol=1e-6, atol=1e-9)
    of_tokens = differences(lambda x: methods.realm_nll(x, docs, **options), TOKENS)
    np.testing.assert_allclose(nll.token_logprobs_grad, of_tokens, rtol=1e-6, atol=1e-9)
    without = methods.realm_nll(TOKENS, SCORES, null_score=None, mask=MASK, marginal=marginal)
    assert without == pytest.approx(mixture(TOKENS, softmax(SCORES), MASK, marginal).mean(), rel=1e-12)


def test_realm_of_released_code() -> None:
    """Sum of the mask times the mixture of each token, over the sum of the mask."""
    joint = np.log(softmax(SCORES))[..., None] + TOKENS
    expected = -(np.log(np.exp(joint).sum(axis=1)) * MASK).sum() / MASK.sum()
    found = methods.realm_nll(TOKENS, SCORES, null_score=None, mask=MASK, marginal="token", reduction="token_mean")
    assert found == pytest.approx(expected, rel=1e-12)


def test_trivial_candidates_are_excluded() -> None:
    scores = SCORES.copy()
    scores[:, 1] = -np.inf
    tokens = TOKENS.copy()
    tokens[:, 1] = np.nan
    kept = [0, 2, 3]
    found = methods.realm_nll(tokens, scores, null_score=None)
    assert found == pytest.approx(methods.realm_nll(TOKENS[:, kept], SCORES[:, kept], null_score=None), rel=1e-14)
    with pytest.raises(TypeError, match="null_score"):
        methods.realm_nll(TOKENS, SCORES)  # type: ignore[call-arg]


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_marginal_log_loss(temperature: float) -> None:
    correct = RNG.random((B, K)) < 0.5
    correct[:, 0] = True
    expected = -np.log(np.where(correct, softmax(SCORES / temperature), 0).sum(axis=1))
    found, grad = methods.marginal_log_loss(
        SCORES, correct, temperature=temperature, reduction="none", return_grad=True
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    by_hand = differences(
        lambda x: methods.marginal_log_loss(x, correct, temperature=temperature, reduction="sum"), SCORES
    )
    np.testing.assert_allclose(grad, by_hand, rtol=1e-6, atol=1e-9)
    nowhere, grad = methods.marginal_log_loss(SCORES, np.zeros((B, K), bool), return_grad=True)
    assert nowhere == np.inf
    assert (grad == 0).all()


SPANS = np.random.default_rng(3).standard_normal((B, K, 6))
CORRECT = np.random.default_rng(4).random((B, K, 6)) < 0.4


@pytest.mark.parametrize("normalization", ["document", "joint"])
def test_realm_reader(normalization: Any) -> None:
    docs, spans = SCORES.copy(), SPANS.copy()
    spans[:, :, 5] = -np.inf  # fewer spans
    if normalization == "document":
        expected = -np.log((softmax(docs) * np.where(CORRECT, softmax(spans), 0).sum(axis=2)).sum(axis=1))
    else:
        flat = softmax((docs[..., None] + spans).reshape(B, -1))
        expected = -np.log(np.where(CORRECT.reshape(B, -1), flat, 0).sum(axis=1))
    options: dict[str, Any] = {"normalization": normalization}
    found = methods.realm_reader_nll(spans, docs, CORRECT, reduction="none", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    nll = methods.realm_reader_nll(spans, docs, CORRECT, return_grad=True, **options)
    assert nll.loss == pytest.approx(expected.mean(), rel=1e-12)
    of_docs = differences(lambda x: methods.realm_reader_nll(spans, x, CORRECT, **options), docs)
    np.testing.assert_allclose(nll.doc_scores_grad, of_docs, rtol=1e-6, atol=1e-9)
    of_spans = differences(lambda x: methods.realm_reader_nll(x, docs, CORRECT, **options), SPANS)
    np.testing.assert_allclose(
        methods.realm_reader_nll(SPANS, docs, CORRECT, return_grad=True, **options).logits_grad,
        of_spans,
        rtol=1e-6,
        atol=1e-9,
    )
    assert (nll.logits_grad[:, :, 5] == 0).all()
    narrow = methods.realm_reader_nll(
        spans.astype(np.float32), docs.astype(np.float32), CORRECT, return_grad=True, **options
    )
    for name in ("loss", "doc_scores_grad", "logits_grad"):
        assert getattr(narrow, name).dtype == np.float32
        np.testing.assert_allclose(getattr(narrow, name), getattr(nll, name), rtol=1e-5, atol=1e-6)
    docs[:, 1], spans[:, 1] = -np.inf, np.nan  # a document that is missing
    kept = [0, 2, 3]
    missing = methods.realm_reader_nll(spans, docs, CORRECT, return_grad=True, **options)
    alone = methods.realm_reader_nll(spans[:, kept], docs[:, kept], CORRECT[:, kept], **options)
    assert missing.loss == pytest.approx(alone, rel=1e-12)
    assert (missing.logits_grad[:, 1] == 0).all()
    nowhere = methods.realm_reader_nll(SPANS, SCORES, np.zeros_like(CORRECT), return_grad=True, **options)
    assert nowhere.loss == np.inf
    assert (nowhere.logits_grad == 0).all()
    assert (nowhere.doc_scores_grad == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_replug(temperature: float) -> None:
    logits = LOGITS[:, :, 0]
    weights = softmax(SCORES / temperature)
    expected = np.log((weights[..., None] * softmax(logits)).sum(axis=1))
    found = methods.replug_logprobs(logits, SCORES, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    values, tokens = methods.replug_logprobs(logits, SCORES, temperature=temperature, n_best=2)
    assert tokens.tolist() == np.argsort(-expected, axis=1)[:, :2].tolist()
    np.testing.assert_allclose(values, -np.sort(-expected, axis=1)[:, :2], rtol=1e-12, atol=1e-14)
    nll = methods.replug_nll(TOKENS, SCORES, mask=MASK, temperature=temperature, reduction="none")
    np.testing.assert_allclose(nll, mixture(TOKENS, weights, MASK, "token"), rtol=1e-12)


def test_replug_where_released_code_goes_wrong() -> None:
    logits = LOGITS[0, :, 0]
    scores = np.array([800.0, 799.0, -np.inf, 10.0])  # exp overflows
    expected = np.log(np.array([np.e, 1.0]) / (np.e + 1) @ softmax(logits[:2]))
    np.testing.assert_allclose(methods.replug_logprobs(logits, scores), expected, rtol=1e-12, atol=1e-14)
    tiny = methods.replug_logprobs(logits, SCORES[0], temperature=1e-308)  # scores / temperature overflows
    np.testing.assert_allclose(tiny, np.log(softmax(logits[SCORES[0].argmax()])), rtol=1e-12, atol=1e-14)
    linear = np.abs(SCORES[0]) / np.abs(SCORES[0]).sum()
    mixed_logits = softmax(linear @ logits)  # of FlashRAG
    mixed = np.exp(methods.replug_logprobs(logits, np.log(linear)))
    assert 0.5 * np.abs(mixed_logits - mixed).sum() > 0.05


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'^marginal: expected "sequence" or "token", got \'document\'$'):
        methods.emdr2_loss(TOKENS, SCORES, marginal="document")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'^grad: expected \["doc_scores"\] or nothing, as the reader is constant'):
        methods.emdr2_loss(TOKENS, SCORES, grad=["token_logprobs"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(3, 4\)"):
        methods.emdr2_loss(TOKENS, SCORES[:, :3])
    with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(3, 3\), .* null document last"):
        methods.realm_nll(TOKENS, SCORES, null_score=0.0)
    with pytest.raises(ValueError, match=r"^logits: expected shape \(B, K, T, V\)"):
        methods.atlas_emdr2_loss(LOGITS[0], SCORES, TARGETS)
    with pytest.raises(ValueError, match=r"^targets: expected shape \(3, 5\)"):
        methods.atlas_emdr2_loss(LOGITS, SCORES, TARGETS[:, :4])
    with pytest.raises(ValueError, match=r"^targets: expected 0 to 6"):
        methods.atlas_emdr2_loss(LOGITS, SCORES, TARGETS - 100)
    with pytest.raises(ValueError, match=r"^target_temperature: expected a finite number above 0"):
        methods.atlas_emdr2_loss(LOGITS, SCORES, TARGETS, target_temperature=-1.0)
    with pytest.raises(ValueError, match=r"^null_logprobs: expected shape \(B, T\)"):
        methods.emdr2_utility(TOKENS, TOKENS[:, 0, :3], SCORES)
    with pytest.raises(ValueError, match=r"^scores: expected shape \(B, n\)"):
        methods.marginal_log_loss(SCORES[0], [True])
    with pytest.raises(ValueError, match=r"^correct: expected shape \(3, 4\), that of scores, got \(3, 3\)$"):
        methods.marginal_log_loss(SCORES, np.ones((3, 3), bool))
    with pytest.raises(TypeError, match=r"^correct: expected bool, got float64$"):
        methods.marginal_log_loss(SCORES, np.ones((3, 4)))
    with pytest.raises(ValueError, match=r'^normalization: expected "document" or "joint"'):
        methods.realm_reader_nll(SPANS, SCORES, CORRECT, normalization="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^span_scores: expected shape \(B, K, S\)"):
        methods.realm_reader_nll(SPANS[0], SCORES, CORRECT)
    with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(3, 4\)"):
        methods.realm_reader_nll(SPANS, SCORES[:, :3], CORRECT)
    for normalization in ("document", "joint"):
        with pytest.raises(ValueError, match=r'^reduction: expected "none", "sum" or "mean", got \'token_mean\'$'):
            methods.realm_reader_nll(SPANS, SCORES, CORRECT, normalization=normalization, reduction="token_mean")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^doc_scores: expected shape \(\.\.\., K\) with K of 1 or more, got \(3, 0\)$"
    ):
        methods.replug_logprobs(LOGITS[:, :0, 0], SCORES[:, :0])
    with pytest.raises(ValueError, match=r"^logits: expected shape \(3, 4, V\)"):
        methods.replug_logprobs(LOGITS[:, :3, 0], SCORES)
    with pytest.raises(ValueError, match=r"^temperature: expected a finite number above 0"):
        methods.replug_logprobs(LOGITS[:, :, 0], SCORES, temperature=0)
