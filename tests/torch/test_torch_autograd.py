"""ragfast.torch: how it behaves in autograd, in place too. Runs in `make test-all`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ragfast
from ragfast.marginal.loss import LossInputs

torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")

from torch_cases import FROM_LOGPROBS, MARGINALS, PAD, VARIANTS, B, K, T, V, random, random_targets  # noqa: E402  # only where torch is

import ragfast.torch as rt  # noqa: E402

pytestmark = pytest.mark.usefixtures("isa")


def test_noncontiguous_and_shared_memory(variant: str) -> None:
    targets, doc_scores = random_targets(), random(K, B, grad=True)
    logits = random(T, V, K, B, grad=True)
    loss = VARIANTS[variant](logits.permute(3, 2, 0, 1), doc_scores.T, targets)
    loss.backward()
    plain = logits.detach().permute(3, 2, 0, 1).contiguous().requires_grad_()
    plain_scores = doc_scores.detach().T.contiguous().requires_grad_()
    expected = VARIANTS[variant](plain, plain_scores, targets)
    expected.backward()
    assert loss == expected
    assert torch.equal(logits.grad.permute(3, 2, 0, 1), plain.grad)
    assert torch.equal(doc_scores.grad.T, plain_scores.grad)
    expanded = random(1, 1, T, V, grad=True)
    VARIANTS[variant](expanded.expand(B, K, T, V), random(B, K), targets).backward()
    assert expanded.grad.shape == (1, 1, T, V)


def test_only_what_is_asked_for_is_calculated(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    run = LossInputs.run

    def spy(*arguments: Any, **keywords: Any) -> Any:
        asked.append(keywords)
        return run(*arguments, **keywords)

    monkeypatch.setattr(LossInputs, "run", spy)
    targets = random_targets()
    for of_logits, of_docs in itertools.product([False, True], repeat=2):
        asked.clear()
        logits, doc_scores = random(B, K, T, V, grad=of_logits), random(B, K, grad=of_docs)
        loss = VARIANTS[variant](logits, doc_scores, targets)
        assert loss.requires_grad == (of_logits or of_docs)
        assert len(asked) == 1
        assert "logits_grad" not in asked[0]
        assert asked[0]["with_docs_grad"] == of_docs
        assert (asked[0]["lse"] is not None) == of_logits
        if loss.requires_grad:
            loss.backward()
        assert len(asked) == 1 + of_logits  # the second for the gradient of the logits, which are read once in it
        assert not of_logits or asked[1]["lse_known"]
        assert (logits.grad is not None, doc_scores.grad is not None) == (of_logits, of_docs)


def test_a_frozen_generator_may_give_inference_tensors(variant: str) -> None:
    with torch.inference_mode():
        logits, targets = random(B, K, T, V), random_targets()
        assert not VARIANTS[variant](logits, random(B, K), targets).requires_grad
    doc_scores = random(B, K, grad=True)
    VARIANTS[variant](logits, doc_scores, targets).backward()
    assert doc_scores.grad.abs().sum() > 0


def test_documents_may_be_inference_tensors(variant: str) -> None:
    with torch.inference_mode():
        doc_scores, vectors = random(B, K), random(6, 8)
    logits, queries = random(B, K, T, V, grad=True), random(2, 8, grad=True)
    VARIANTS[variant](logits, doc_scores, random_targets()).backward()
    expected = random(B, K, T, V, grad=True)
    VARIANTS[variant](expected, doc_scores.clone(), random_targets()).backward()
    assert torch.equal(logits.grad, expected.grad)
    rt.gather_scores(queries, vectors, [[5, 0], [2, 3]]).sum().backward()
    torch.testing.assert_close(queries.grad, torch.stack([vectors[5] + vectors[0], vectors[2] + vectors[3]]))


def test_a_null_score_that_is_a_number_is_not_rounded(variant: str) -> None:
    logits, doc_scores, targets = random(B, K + 1, T, V), random(B, K), random_targets()
    for null_score in (0.1, np.array([0.1, -0.3])):
        keywords: dict[str, Any] = {"null_score": null_score, "reduction": "none"}
        found = VARIANTS[variant](logits, doc_scores, targets, **keywords)
        expected = getattr(ragfast, f"rag_{variant}_nll")(logits, doc_scores, targets, **keywords)
        assert found.tolist() == expected.tolist()
        found = FROM_LOGPROBS[variant](logits[..., 0], doc_scores, **keywords)
        expected = getattr(ragfast, f"rag_{variant}_nll_from_logprobs")(logits[..., 0], doc_scores, **keywords)
        assert found.tolist() == expected.tolist()


def test_float64_queries_of_an_index() -> None:
    queries, vectors, ids = random(2, 8, grad=True), random(6, 8, dtype=torch.float32), [[5, 0], [2, 3]]
    scores = rt.gather_scores(queries, ragfast.FlatIndex.from_vectors(vectors), ids)
    assert scores.tolist() == rt.gather_scores(queries, vectors, ids).tolist()
    scores.sum().backward()
    assert queries.grad.dtype == scores.dtype == torch.float64


def test_the_gradient_is_of_the_documents_that_were_scored() -> None:
    queries, vectors = random(1, 8, grad=True), random(6, 8, dtype=torch.float32)
    index = ragfast.FlatIndex.from_vectors(vectors, [f"doc {i}" for i in range(6)])
    scores = rt.gather_scores(queries, index, [["doc 5", "doc 2", None]])
    index.upsert(["doc 5"], torch.zeros(1, 8))
    index.remove(["doc 2"])
    scores[0, :2].sum().backward()
    torch.testing.assert_close(queries.grad[0], (vectors[5] + vectors[2]).double())


def test_without_gradients(variant: str) -> None:
    logits, doc_scores = random(B, K, T, V, grad=True), random(B, K, grad=True)
    with torch.no_grad():
        loss, posterior = VARIANTS[variant](logits, doc_scores, random_targets(), return_posterior=True)
    assert not loss.requires_grad
    assert not posterior.requires_grad
    _, posterior = VARIANTS[variant](logits, doc_scores, random_targets(), return_posterior=True)
    assert not posterior.requires_grad


def test_within_autocast(variant: str) -> None:
    hidden, head = random(B, K, T, 8, dtype=torch.float32), random(V, 8, dtype=torch.float32, grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = hidden @ head.T
        loss = VARIANTS[variant](logits, random(B, K, dtype=torch.float32), random_targets())
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    loss.backward()
    assert head.grad.dtype == torch.float32
    outside = VARIANTS[variant](logits.detach(), random(B, K, dtype=torch.float32), random_targets())
    assert loss == outside


def test_twice_is_refused(variant: str) -> None:
    functions: list[Callable[..., Any]] = [
        lambda x, d: VARIANTS[variant](x, d, random_targets()),
        lambda x, d: FROM_LOGPROBS[variant](x[..., 0], d),
        lambda x, d: MARGINALS[variant](d, x[..., 0]).sum(),
        lambda x, d: rt.target_logprobs(x, random_targets()[:, None]).sum() * d.sum(),
        lambda x, d: rt.logsumexp(x).sum() * d.sum(),
        lambda x, d: rt.log_softmax(x).square().sum() * d.sum(),
        lambda x, d: rt.kl_divergence(x, 2 * x) * d.sum(),
        lambda x, d: rt.gather_scores(x[0, 0], random(6, V), [[1, 2]] * T).sum() * d.sum(),
    ]
    for function in functions:
        logits, doc_scores = random(B, K, T, V, grad=True), random(B, K, grad=True)
        grad, _ = torch.autograd.grad(function(logits, doc_scores), (logits, doc_scores), create_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            grad.sum().backward()


# ---- in place


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_in_place(variant: str, dtype: Any, smoothing: float) -> None:
    hidden, head = random(B, K, T, 8, dtype=dtype), random(V, 8, dtype=dtype)
    doc_scores, targets = random(B, K, grad=True), random_targets(padded=True)
    grads = []
    for inplace in (False, True):
        weights = head.clone().requires_grad_()
        logits = hidden @ weights.T
        loss = VARIANTS[variant](
            logits, doc_scores, targets, ignore_index=PAD, label_smoothing=smoothing, inplace=inplace
        )
        before, version = logits.detach().clone(), logits._version
        grads.append(torch.autograd.grad(loss, (weights, doc_scores)))
        assert torch.equal(logits.detach(), before) != inplace
        assert (logits._version > version) == inplace
    for found, expected in zip(*grads, strict=True):
        assert torch.equal(found, expected)


def test_in_place_leaves_a_mark_on_the_logits(variant: str) -> None:
    targets, doc_scores = random_targets(), random(B, K)
    logits = random(B, K, T, V, grad=True) * 1
    other = logits.exp().sum() + logits.square().sum()  # square keeps its argument
    loss = VARIANTS[variant](logits, doc_scores, targets, inplace=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_changed_input_is_noticed(variant: str) -> None:
    for change in ("logits", "doc_scores"):
        logits, doc_scores = random(B, K, T, V, grad=True) * 1, random(B, K, grad=True) * 1
        targets = random_targets()
        loss = VARIANTS[variant](logits, doc_scores, targets)
        targets.zero_()  # of which a copy was made
        with torch.no_grad():
            {"logits": logits, "doc_scores": doc_scores}[change].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_in_place_on_a_leaf_is_refused(variant: str) -> None:
    with pytest.raises(ValueError, match=r"^inplace: the logits are a leaf that requires a gradient"):
        VARIANTS[variant](random(B, K, T, V, grad=True), random(B, K), random_targets(), inplace=True)
    logits = random(B, K, T, V)  # a leaf that requires none
    VARIANTS[variant](logits, random(B, K, grad=True), random_targets(), inplace=True).backward()


def test_documents_of_gather_scores_are_constant() -> None:
    queries, vectors, rows = random(2, 8, grad=True), random(6, 8), torch.tensor([[5, 0], [2, 3]])
    with pytest.raises(ValueError, match=r"^vectors: a tensor that requires a gradient; pass vectors\.detach\(\)$"):
        rt.gather_scores(queries, random(6, 8, grad=True), rows)
    with pytest.raises(IndexError, match=r"^rows: "):
        rt.gather_scores(queries, vectors, rows + 1)
    scores = rt.gather_scores(queries, vectors, rows)
    rows.zero_()  # of which a copy was made
    expected = torch.autograd.grad(scores.sum(), queries, retain_graph=True)[0]
    torch.testing.assert_close(expected, torch.stack([vectors[5] + vectors[0], vectors[2] + vectors[3]]))
    vectors.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        scores.sum().backward()
