"""ragfast.torch: gradients against finite differences. Runs in `make test-all`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ragfast

torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")

from torch_cases import FROM_LOGPROBS, MARGINALS, PAD, VARIANTS, B, K, T, V, as_numpy, random, random_targets  # noqa: E402  # only where torch is

import ragfast.torch as rt  # noqa: E402

pytestmark = pytest.mark.usefixtures("isa")


def gradcheck(function: Callable[..., Any], *inputs: Any) -> None:
    assert torch.autograd.gradcheck(function, inputs, fast_mode=False, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("function", [rt.logsumexp, rt.log_softmax])
def test_gradients_of_rows(function: Any, axis: int) -> None:
    gradcheck(lambda x: function(x, axis), random(3, 5, 7, grad=True))


@pytest.mark.parametrize("n_tokens", [0, 1, 4])
def test_gradients_of_marginals(variant: str, n_tokens: int) -> None:
    docs, tokens = random(B, K, grad=True), random(B, K, n_tokens, grad=True)
    gradcheck(MARGINALS[variant], docs, tokens)
    gradcheck(lambda d: MARGINALS[variant](d, tokens.detach()), docs)
    gradcheck(lambda t: MARGINALS[variant](docs.detach()[0], t[0]), tokens)
    present = torch.tensor([True, False])
    missing = torch.full((B, K), -torch.inf, dtype=torch.float64)
    gradcheck(lambda d, t: MARGINALS[variant](torch.where(present, d, missing), t), docs, tokens)


@pytest.mark.parametrize("return_sums", [False, True])
@pytest.mark.parametrize("ignore_index", [None, PAD])
def test_gradients_of_target_logprobs(return_sums: bool, ignore_index: int | None) -> None:
    targets = random_targets(padded=ignore_index is not None)
    gradcheck(
        lambda x: rt.target_logprobs(x, targets, ignore_index=ignore_index, return_sums=return_sums),
        random(B, T, V, grad=True),
    )
    gradcheck(
        lambda x: rt.target_logprobs(x, targets[:, None], ignore_index=ignore_index, return_sums=True)[1],
        random(B, K, T, V, grad=True),
    )


OPTIONS = {
    "none": {},
    "ignore_index": {"ignore_index": PAD},
    "temperature": {"temperature": 2.5, "ignore_index": PAD},
    "smoothing": {"label_smoothing": 0.15},
    "smoothing, ignore_index": {"label_smoothing": 0.15, "ignore_index": PAD, "temperature": 0.7},
    "sum": {"reduction": "sum"},
    "mean": {"reduction": "mean", "ignore_index": PAD},
    "token_mean": {"reduction": "token_mean", "ignore_index": PAD},
    "hf": {"compat": "hf", "ignore_index": PAD},
    "hf, smoothing": {"compat": "hf", "ignore_index": PAD, "label_smoothing": 0.15},
    "hf, not at position 0": {"compat": "hf", "bos_token_id": PAD + 1, "label_smoothing": 0.15},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_gradients_of_losses(variant: str, options: dict[str, Any]) -> None:
    if variant == "token" and "bos_token_id" in options:
        pytest.skip("RagTokenForGeneration excludes no BOS")
    targets = random_targets(padded="ignore_index" in options)
    if "bos_token_id" in options:
        targets[:, 0] = options["bos_token_id"]

    def loss(logits: Any, doc_scores: Any) -> Any:
        return VARIANTS[variant](logits, doc_scores, targets, **{"reduction": "none", **options})

    gradcheck(loss, random(B, K, T, V, grad=True), random(B, K, grad=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_gradients_with_missing_documents(variant: str, smoothing: float) -> None:
    doc_scores, targets = random(B, K), random_targets(padded=True)
    doc_scores[0, 1] = -torch.inf
    logits = random(B, K, T, V)
    logits[0, 1] = torch.nan  # not read
    present = torch.isfinite(doc_scores)

    def loss(present_logits: Any, present_scores: Any) -> Any:
        return VARIANTS[variant](
            logits.index_put((present,), present_logits),
            doc_scores.index_put((present,), present_scores),
            targets,
            ignore_index=PAD,
            label_smoothing=smoothing,
            reduction="none",
        )

    gradcheck(loss, logits[present].requires_grad_(), doc_scores[present].requires_grad_())
    logits.requires_grad_()
    doc_scores.requires_grad_()
    VARIANTS[variant](logits, doc_scores, targets, ignore_index=PAD, label_smoothing=smoothing).backward()
    assert not logits.grad[0, 1].any()
    assert doc_scores.grad[0, 1] == 0
    assert torch.isfinite(logits.grad).all()


def test_gradients_with_a_null_document(variant: str) -> None:
    targets = random_targets(padded=True)

    def loss(logits: Any, doc_scores: Any, null_score: Any) -> Any:
        return VARIANTS[variant](
            logits, doc_scores, targets, null_score=null_score, ignore_index=PAD, temperature=1.5, reduction="none"
        )

    logits, doc_scores = random(B, K + 1, T, V, grad=True), random(B, K, grad=True)
    gradcheck(loss, logits, doc_scores, random(B, grad=True))
    gradcheck(loss, logits, doc_scores, torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
    gradcheck(lambda x, d: loss(x, d, -0.4), logits, doc_scores)
    gradcheck(lambda x, d: loss(x, d, np.float32([0.5, -torch.inf])), logits, doc_scores)


@pytest.mark.parametrize("reduction", ["none", "token_mean"])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.5}, {"compat": "hf"}, {"null_score": 0.5}], ids=str)
def test_gradients_of_losses_from_logprobs(variant: str, options: dict[str, Any], reduction: str) -> None:
    mask = random_targets(padded=True) != PAD
    docs = K - ("null_score" in options)
    tokens, doc_scores = random(B, K, T, grad=True), random(B, docs, grad=True)
    for given in (None, mask):
        gradcheck(
            lambda x, d, given=given: FROM_LOGPROBS[variant](x, d, mask=given, reduction=reduction, **options),
            tokens,
            doc_scores,
        )


@pytest.mark.parametrize("reduction", ["none", "sum", "batchmean", "mean"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gradients_of_divergence(direction: Any, reduction: Any) -> None:
    def loss(scores: Any, target_scores: Any) -> Any:
        return rt.kl_divergence(
            scores, target_scores, temperature=0.8, target_temperature=1.7, direction=direction, reduction=reduction
        )

    scores, target = random(2, 3, 5, grad=True), random(2, 3, 5, seed=1, grad=True)
    gradcheck(loss, scores, target)
    gradcheck(lambda x: loss(x, target.detach()), scores)
    gradcheck(lambda x: loss(scores.detach(), x), target)
    own, other = scores.detach(), target.detach()
    p, q = torch.softmax(own / 0.8, -1), torch.softmax(other / 1.7, -1)
    a, b = (q, p) if direction == "forward" else (p, q)
    expected = (a * (a.log() - b.log())).sum(-1)
    n = {"none": 1, "sum": 1, "batchmean": 6, "mean": 30}[reduction]
    torch.testing.assert_close(loss(own, other), expected if reduction == "none" else expected.sum() / n)
    assert loss(own.float(), other.bfloat16()).dtype == torch.float32
    assert loss(own.float(), other).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_gradients_of_gather_scores(dtype: Any) -> None:
    vectors, rows = random(6, 8, dtype=dtype), torch.tensor([[5, 0, -1], [2, 2, 3]])
    queries = random(2, 8, seed=1, grad=True)
    here = rows >= 0
    gradcheck(lambda q: rt.gather_scores(q, vectors, rows)[here], queries)
    expected = (queries[:, None] * vectors[rows].double()).sum(-1)
    torch.testing.assert_close(rt.gather_scores(queries, vectors, rows)[here], expected[here])
    assert (rt.gather_scores(queries, vectors, rows)[~here] == -torch.inf).all()
    # down to 16 bits, with an array or an index for the documents
    for held, chosen in ((as_numpy(vectors), rows.numpy()), (ragfast.FlatIndex.from_vectors(vectors.float()), rows)):
        asked = queries.detach().to(torch.bfloat16).requires_grad_()
        scores = rt.gather_scores(asked, held, chosen)
        assert scores.dtype == (torch.float64 if getattr(held, "dtype", None) == np.float64 else torch.float32)
        scores[here].sum().backward()
        assert asked.grad.dtype == torch.bfloat16
        summed = torch.where(here[..., None], vectors[rows].double(), 0).sum(1)
        torch.testing.assert_close(asked.grad.double(), summed, rtol=2**-7, atol=1e-6)
