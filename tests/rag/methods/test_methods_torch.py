"""ragfast.rag.methods.torch against the NumPy functions, plain torch and finite differences: in `make test-all`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ragfast.rag import methods

torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")
losses = pytest.importorskip("ragfast.rag.methods.torch")

B, K, T, S = 3, 4, 5, 6
GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(B, K, generator=GENERATOR, dtype=torch.float64)
TOKENS = -torch.rand(B, K, T, generator=GENERATOR, dtype=torch.float64) * 2
GOLD = 2 * torch.randn(B, K, generator=GENERATOR, dtype=torch.float64)
SPANS = torch.randn(B, K, S, generator=GENERATOR, dtype=torch.float64)
CORRECT = torch.rand(B, K, S, generator=GENERATOR) < 0.4
MASK = torch.arange(T) < torch.tensor([[5], [3], [1]])

DISTILLED = {  # what each is given, whether a language model's (B,K,T)
    "pdist_loss": TOKENS,
    "loop_loss": TOKENS,
    "adist_loss": GOLD,
    "fid_distillation_loss": GOLD,
    "replug_lsr_loss": TOKENS,
}


def leaf(x: Any) -> Any:
    return x.clone().requires_grad_()


@pytest.mark.parametrize("name", DISTILLED)
@pytest.mark.parametrize("reduction", ["none", "sum", "batchmean", "mean"])
def test_distillation_as_in_numpy(name: str, reduction: str) -> None:
    options = {"temperature": 0.7, "target_temperature": 1.5, "reduction": reduction}
    for dtype in (torch.float64, torch.float32):
        given = DISTILLED[name].to(dtype)
        scores = leaf(SCORES.to(dtype))
        masked = {"mask": MASK, "length_normalized": True} if given.ndim == 3 else {}
        loss = getattr(losses, name)(scores, leaf(given), **options, **masked)
        masked = {"mask": MASK.numpy(), "length_normalized": True} if given.ndim == 3 else {}
        expected, grad = getattr(methods, name)(
            scores.detach().numpy(), given.numpy(), return_grad=True, **options, **masked
        )
        assert loss.dtype == dtype
        np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-14 if dtype == torch.float64 else 1e-6)
        loss.sum().backward()
        assert scores.grad.dtype == dtype
        np.testing.assert_allclose(
            scores.grad.numpy(),
            grad,
            rtol=1e-12 if dtype == torch.float64 else 1e-5,
            atol=1e-7 * (dtype != torch.float64),
        )


def test_loop_where_the_answer_is_impossible_without_a_document() -> None:
    tokens, scores = TOKENS.clone(), leaf(SCORES)
    tokens[0, 1, 2] = tokens[1, 0, 0] = tokens[1, 3, 1] = -torch.inf
    loss = losses.loop_loss(scores, tokens)
    loss.backward()
    expected, grad = methods.loop_loss(SCORES.numpy(), tokens.numpy(), return_grad=True)
    assert np.isfinite(expected)
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(scores.grad.numpy(), grad, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:reduction")  # of KLDivLoss, of its default: that it is not the mathematical mean
@pytest.mark.parametrize("name", DISTILLED)
def test_distillation_as_in_plain_torch(name: str) -> None:
    """torch's KLDivLoss, its mean over all elements included, as the released code has it."""
    given = DISTILLED[name]
    scores, plain = leaf(SCORES), leaf(SCORES)
    language_model = leaf(given)
    options = {"direction": "forward"} if name == "replug_lsr_loss" else {}
    loss = getattr(losses, name)(
        scores, language_model, temperature=0.5, target_temperature=2.0, reduction="mean", **options
    )
    target = given.sum(-1) if given.ndim == 3 else given
    target = -target if name == "loop_loss" else target
    expected = torch.nn.KLDivLoss()(torch.log_softmax(plain / 0.5, -1), torch.softmax(target / 2.0, -1))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(scores.grad, plain.grad, rtol=1e-10, atol=1e-14)
    assert language_model.grad is None


@pytest.mark.parametrize("name", DISTILLED)
def test_distillation_gradcheck(name: str) -> None:
    def loss(scores: Any) -> Any:
        return getattr(losses, name)(scores, DISTILLED[name], temperature=0.7)

    assert torch.autograd.gradcheck(loss, leaf(SCORES))


@pytest.mark.parametrize("name", DISTILLED)
def test_missing_documents(name: str) -> None:
    given, scores = DISTILLED[name].clone(), SCORES.clone()
    given[:, 1], scores[:, 1] = torch.nan, -torch.inf
    scores = leaf(scores)
    loss = getattr(losses, name)(scores, given)
    loss.backward()
    expected = getattr(methods, name)(scores.detach().numpy(), given.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    assert (scores.grad[:, 1] == 0).all()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("marginal", ["sequence", "token"])
@pytest.mark.parametrize("reduction", ["none", "mean", "token_mean"])
def test_emdr2_and_realm(marginal: str, reduction: str) -> None:
    options = {"marginal": marginal, "reduction": reduction, "temperature": 0.5}
    scores, tokens = leaf(SCORES), leaf(TOKENS)
    loss = losses.emdr2_loss(tokens, scores, mask=MASK, **options)
    expected = methods.emdr2_loss(TOKENS.numpy(), SCORES.numpy(), mask=MASK.numpy(), grad=["doc_scores"], **options)
    np.testing.assert_allclose(loss.detach().numpy(), expected.loss, rtol=1e-14)
    loss.sum().backward()
    np.testing.assert_allclose(scores.grad.numpy(), expected.doc_scores_grad, rtol=1e-12)
    assert tokens.grad is None  # the reader is constant

    docs, null, tokens = leaf(SCORES[:, :-1]), leaf(SCORES[:, -1]), leaf(TOKENS)
    loss = losses.realm_nll(tokens, docs, null_score=null, mask=MASK, **options)
    # By plain torch, from the formula.
    both, plain_tokens = leaf(SCORES), leaf(TOKENS)
    prior = torch.log_softmax(both / 0.5, -1)
    if marginal == "sequence":
        by_answer = -torch.logsumexp(prior + (plain_tokens * MASK[:, None]).sum(-1), -1)
    else:
        by_answer = -(torch.logsumexp(prior[..., None] + plain_tokens, 1) * MASK).sum(-1)
    plain = {"none": by_answer, "mean": by_answer.mean(), "token_mean": by_answer.sum() / MASK.sum()}[reduction]
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    loss.sum().backward()
    plain.sum().backward()
    torch.testing.assert_close(tokens.grad, plain_tokens.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(torch.cat([docs.grad, null.grad[:, None]], 1), both.grad, rtol=1e-10, atol=1e-14)


def test_realm_gradcheck() -> None:
    def loss(tokens: Any, docs: Any, null: Any) -> Any:
        return losses.realm_nll(tokens, docs, null_score=null, mask=MASK)

    assert torch.autograd.gradcheck(loss, (leaf(TOKENS), leaf(SCORES[:, :-1]), leaf(SCORES[:, -1])))


@pytest.mark.parametrize("normalization", ["document", "joint"])
def test_realm_reader(normalization: str) -> None:
    spans, scores = leaf(SPANS), leaf(SCORES)
    options: Any = {"normalization": normalization}
    loss = losses.realm_reader_nll(spans, scores, CORRECT, **options)
    expected = methods.realm_reader_nll(SPANS.numpy(), SCORES.numpy(), CORRECT.numpy(), return_grad=True, **options)
    assert loss.item() == pytest.approx(expected.loss, rel=1e-14)
    loss.backward()
    np.testing.assert_allclose(spans.grad.numpy(), expected.logits_grad, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(scores.grad.numpy(), expected.doc_scores_grad, rtol=1e-10, atol=1e-15)
    plain_spans, plain_scores = leaf(SPANS), leaf(SCORES)
    log_prior = torch.log_softmax(plain_scores, -1)
    log_spans = torch.log_softmax(plain_spans, -1) + log_prior[..., None]
    if normalization == "joint":
        log_spans = torch.log_softmax((plain_spans + plain_scores[..., None]).flatten(1), -1).view(SPANS.shape)
    plain = -torch.logsumexp(log_spans.masked_fill(~CORRECT, -torch.inf).flatten(1), -1).mean()
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    plain.backward()
    torch.testing.assert_close(spans.grad, plain_spans.grad, rtol=1e-10, atol=1e-14)

    def by_inputs(*given: Any) -> Any:
        return losses.realm_reader_nll(*given, CORRECT, **options)

    assert torch.autograd.gradcheck(by_inputs, (leaf(SPANS), leaf(SCORES)))
    missing_spans, missing = SPANS.clone(), SCORES.clone()
    missing_spans[:, 2], missing[:, 2] = torch.nan, -torch.inf
    spans, scores = leaf(missing_spans), leaf(missing)
    losses.realm_reader_nll(spans, scores, CORRECT, **options).backward()
    assert (spans.grad[:, 2] == 0).all()
    assert scores.grad.isfinite().all()


def test_marginal_log_loss() -> None:
    scores = leaf(SCORES)
    correct = CORRECT[..., 0] | (torch.arange(K) == 1)
    loss = losses.marginal_log_loss(scores, correct, temperature=0.5, reduction="sum")
    expected, grad = methods.marginal_log_loss(
        SCORES.numpy(), correct.numpy(), temperature=0.5, reduction="sum", return_grad=True
    )
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    loss.backward()
    np.testing.assert_allclose(scores.grad.numpy(), grad, rtol=1e-12)


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"^token_logprobs: expected a torch\.Tensor, got ndarray; ragfast\.rag\."):
        losses.pdist_loss(SCORES, TOKENS.numpy())
    with pytest.raises(
        ValueError, match=r"^token_logprobs: expected one answer or score for each of doc_scores, \(3, 3\)"
    ):
        losses.pdist_loss(SCORES[:, :3], TOKENS)
    with pytest.raises(TypeError, match=r"^mask: expected torch\.bool, got torch\.int64$"):
        losses.loop_loss(SCORES, TOKENS, mask=MASK.long())
    with pytest.raises(ValueError, match=r"^token_logprobs: expected an answer of one scored token"):
        losses.replug_lsr_loss(SCORES, TOKENS, mask=MASK & False, length_normalized=True)
    with pytest.raises(TypeError, match=r"^attention_scores: expected float32, float64, float16 or bfloat16"):
        losses.adist_loss(SCORES, GOLD.long())
    with pytest.raises(TypeError, match=r"^scores: expected float32, float64, float16 or bfloat16"):
        losses.fid_distillation_loss(SCORES.long(), GOLD)
    with pytest.raises(ValueError, match=r"^marginal: expected"):
        losses.emdr2_loss(TOKENS, SCORES, marginal="both")
    with pytest.raises(ValueError, match=r"^correct: expected shape \(3, 4, 6\), got \(3, 4\)$"):
        losses.realm_reader_nll(SPANS, SCORES, CORRECT[..., 0])
    with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(3, 4\), got \(3, 3\)$"):
        losses.realm_reader_nll(SPANS, SCORES[:, :3], CORRECT)
    for normalization in ("document", "joint"):
        with pytest.raises(ValueError, match=r'^reduction: expected "none", "sum" or "mean"'):
            losses.realm_reader_nll(SPANS, SCORES, CORRECT, normalization=normalization, reduction="token_mean")
    assert set(losses.__all__) <= set(methods.__all__)
