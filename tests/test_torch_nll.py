"""ragfast.torch: gradients against finite differences, values against the functions of NumPy arrays, and how it behaves
in autograd. Runs in `make test-all`."""

from __future__ import annotations

import itertools
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ragfast
from ragfast import _kernels

torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")

import ragfast.torch as rt  # noqa: E402  # only where torch is

pytestmark = pytest.mark.usefixtures("isa")

B, K, T, V = 2, 2, 3, 37  # V beyond the rows that are short, and no multiple of a vector
PAD = 5
VARIANTS = {"sequence": rt.rag_sequence_nll, "token": rt.rag_token_nll}
FROM_LOGPROBS = {"sequence": rt.rag_sequence_nll_from_logprobs, "token": rt.rag_token_nll_from_logprobs}
MARGINALS = {"sequence": rt.marginalize_sequence, "token": rt.marginalize_token}


@pytest.fixture(params=["sequence", "token"])
def variant(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def random(*shape: int, seed: int = 0, grad: bool = False, dtype: Any = torch.float64) -> Any:
    x = torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed + zlib.crc32(repr(shape).encode())), dtype=torch.float64
    )
    return (2 * x).to(dtype).requires_grad_(grad)


def random_targets(*, padded: bool = False) -> Any:
    targets = torch.randint(PAD + 1, V, (B, T), generator=torch.Generator().manual_seed(1))
    if padded:
        targets[0, 2:] = PAD
        targets[1, 0] = PAD
    return targets


def gradcheck(function: Callable[..., Any], *inputs: Any) -> None:
    assert torch.autograd.gradcheck(function, inputs, fast_mode=False, atol=1e-7, rtol=1e-5)


# ---- finite differences


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


# ---- values


def as_numpy(x: Any) -> Any:
    return x.detach().float().numpy() if x.dtype == torch.bfloat16 else x.detach().numpy()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_arrays(variant: str, dtype: Any) -> None:
    logits, doc_scores = random(B, K, T, V, grad=True, dtype=dtype), random(B, K, grad=True, dtype=torch.float32)
    targets = random_targets(padded=True)
    result_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    for reduction, options in itertools.product(("sum", "mean", "token_mean"), ({}, {"label_smoothing": 0.1})):
        logits.grad = doc_scores.grad = None
        keywords = {"ignore_index": PAD, "reduction": reduction, **options}
        loss, posterior = VARIANTS[variant](logits, doc_scores, targets, return_posterior=True, **keywords)
        loss.backward()
        expected = getattr(ragfast, f"rag_{variant}_nll")(
            logits.detach(),
            doc_scores.detach(),
            targets,
            return_posterior=True,
            grad=["logits", "doc_scores"],
            **keywords,
        )
        assert loss.dtype == posterior.dtype == result_dtype
        assert (logits.grad.dtype, doc_scores.grad.dtype) == (dtype, torch.float32)
        assert loss.shape == ()
        np.testing.assert_allclose(loss.detach(), expected.loss, rtol=1e-6)
        np.testing.assert_array_equal(posterior.numpy(), expected.posterior)
        np.testing.assert_allclose(doc_scores.grad, expected.doc_scores_grad, rtol=1e-6, atol=1e-9)
        eps = torch.finfo(dtype).eps
        np.testing.assert_allclose(as_numpy(logits.grad), as_numpy(expected.logits_grad), rtol=2 * eps, atol=1e-7)
        assert not logits.grad[0, :, 2:].any()


def test_small_functions_are_those_of_the_arrays() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        x, docs = random(B, K, T, dtype=dtype), random(B, K, dtype=dtype)
        wide = x if dtype == torch.float64 else x.float()
        pairs = [
            (rt.logsumexp(x), ragfast.logsumexp(wide)),
            (rt.logsumexp(x, 0), ragfast.logsumexp(wide, 0)),
            (rt.logsumexp(x[0, 0]), ragfast.logsumexp(wide[0, 0])),
            (rt.log_softmax(x, 1), ragfast.log_softmax(wide, 1)),
            (rt.target_logprobs(x, torch.tensor([1, 0])), ragfast.target_logprobs(x, [1, 0])),
        ]
        for variant, marginalize in MARGINALS.items():
            found = marginalize(docs, x, return_posterior=True)
            pairs += zip(found, getattr(ragfast, f"marginalize_{variant}")(docs, x, return_posterior=True), strict=True)
            found = FROM_LOGPROBS[variant](x, docs, return_posterior=True, reduction="none")
            expected = getattr(ragfast, f"rag_{variant}_nll_from_logprobs")(
                x, docs, return_posterior=True, reduction="none"
            )
            pairs += [(found[0], expected.loss), (found[1], expected.posterior)]
        for found, expected in pairs:
            assert found.dtype == wide.dtype
            assert found.shape == np.shape(expected)
            np.testing.assert_array_equal(found.numpy(), expected)


def test_threads_change_no_bit(variant: str) -> None:
    """Of a size above the one from which work is shared."""
    logits, doc_scores = random(2, 3, 4, 50_021, grad=True, dtype=torch.float32), random(2, 3, grad=True)
    targets = random_targets().repeat(1, 2)[:, :4]
    found = []
    for n_threads in (1, 2, 3):
        loss = VARIANTS[variant](logits, doc_scores, targets, n_threads=n_threads)
        found.append((loss.detach(), *torch.autograd.grad(loss, (logits, doc_scores))))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_mixed_dtypes_are_taken_as_float64(variant: str) -> None:
    docs, tokens = random(B, K, dtype=torch.float32, grad=True), random(B, K, T, grad=True)
    out = MARGINALS[variant](docs, tokens)
    assert out.dtype == torch.float64
    out.sum().backward()
    assert (docs.grad.dtype, tokens.grad.dtype) == (torch.float32, torch.float64)


def test_nothing_but_infinities_has_gradients_of_0() -> None:
    x = torch.full((2, 3), -torch.inf, requires_grad=True)
    rt.logsumexp(x).sum().backward()
    assert x.grad.tolist() == [[0.0] * 3] * 2
    doc_scores, logits = torch.full((1, 2), -torch.inf, requires_grad=True), random(1, 2, 3, V, grad=True)
    for loss in VARIANTS.values():
        nll = loss(logits, doc_scores, torch.zeros(1, 3, dtype=torch.int64))
        assert nll == torch.inf
        for grad in torch.autograd.grad(nll, (logits, doc_scores)):
            assert not grad.any()


# ---- autograd


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
    kernel = _kernels.rag_nll

    def spy(*arguments: Any, **keywords: Any) -> Any:
        asked.append(keywords)
        return kernel(*arguments, **keywords)

    monkeypatch.setattr(_kernels, "rag_nll", spy)
    targets = random_targets()
    for of_logits, of_docs in itertools.product([False, True], repeat=2):
        asked.clear()
        logits, doc_scores = random(B, K, T, V, grad=of_logits), random(B, K, grad=of_docs)
        loss = VARIANTS[variant](logits, doc_scores, targets)
        assert loss.requires_grad == (of_logits or of_docs)
        assert len(asked) == 1
        assert asked[0]["logits_grad"] is None
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


# ---- refused


def test_in_place_on_a_leaf_is_refused(variant: str) -> None:
    with pytest.raises(ValueError, match=r"^inplace: the logits are a leaf that requires a gradient"):
        VARIANTS[variant](random(B, K, T, V, grad=True), random(B, K), random_targets(), inplace=True)
    logits = random(B, K, T, V)  # a leaf that requires none
    VARIANTS[variant](logits, random(B, K, grad=True), random_targets(), inplace=True).backward()


def test_a_bos_token_id_beyond_int64_is_no_target() -> None:
    arguments = random(B, K, T, V), random(B, K), random_targets()
    expected = rt.rag_sequence_nll(*arguments, compat="hf")
    assert rt.rag_sequence_nll(*arguments, compat="hf", bos_token_id=2**70) == expected


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


def test_errors() -> None:
    logits, doc_scores, targets = random(B, K, T, V), random(B, K), random_targets()
    on_meta = logits.to("meta")
    for call in (
        lambda x: rt.logsumexp(x),
        lambda x: rt.log_softmax(x),
        lambda x: rt.marginalize_token(x[..., 0, 0], x[..., 0]),
        lambda x: rt.target_logprobs(x, targets[:, None]),
        lambda x: rt.rag_sequence_nll(x, doc_scores, targets),
        lambda x: rt.rag_token_nll(logits, x[..., 0, 0], targets),
        lambda x: rt.rag_token_nll_from_logprobs(x[..., 0], doc_scores),
        lambda x: rt.kl_divergence(x, logits),
        lambda x: rt.kl_divergence(logits, x),
        lambda x: rt.gather_scores(x[0, 0], logits[0, 0], [[0]]),
    ):
        with pytest.raises(
            ValueError, match=r"^\w+: expected a tensor in CPU memory, got one on meta: .*Pass \w+\.cpu"
        ):
            call(on_meta)
        with pytest.raises(
            TypeError, match=r"^\w+: expected a torch.Tensor, got ndarray; the functions of ragfast take"
        ):
            call(logits.numpy())
    with pytest.raises(TypeError, match=r"^x: expected a dense tensor, got one of layout torch\.sparse_coo$"):
        rt.logsumexp(logits[0, 0].to_sparse())
    with pytest.raises(TypeError, match=r"^logits: expected float32, .*, got torch\.int64$"):
        rt.rag_token_nll(logits.long(), doc_scores, targets)
    with pytest.raises(TypeError, match=r"^doc_scores: expected float32, .*, got torch\.int64$"):
        rt.rag_token_nll(logits, doc_scores.long(), targets)
    with pytest.raises(TypeError, match=r"^x: expected float32 or float64 .*, got int64$"):
        rt.logsumexp(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"^targets: expected integers"):
        rt.rag_token_nll(logits, doc_scores, targets.double())
    with pytest.raises(ValueError, match=r"^logits: expected shape \(B, K, T, V\)"):
        rt.rag_token_nll(logits[0], doc_scores, targets)
    with pytest.raises(ValueError, match=r"^targets: expected shape \(2, 3\), as logits has shape \(2, 2, 3, 37\)"):
        rt.rag_token_nll(logits, doc_scores, targets.T)
    with pytest.raises(ValueError, match=r"^targets: expected 0 to 36, as V is 37, got 37"):
        rt.rag_sequence_nll(logits, doc_scores, targets.clamp_min(37))
    with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(2, 2\), as logits has shape"):
        rt.rag_sequence_nll(logits, doc_scores[:, :1], targets)
    with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(2, 1\), .* null document"):
        rt.rag_sequence_nll(logits, doc_scores, targets, null_score=0.0)
    with pytest.raises(ValueError, match=r"^null_score: expected a number or shape \(2,\), got \(3,\)$"):
        rt.rag_sequence_nll(logits, doc_scores[:, :1], targets, null_score=torch.zeros(3))
    with pytest.raises(ValueError, match=r'^compat: expected "paper" or "hf", got \'HF\'$'):
        rt.rag_sequence_nll(logits, doc_scores, targets, compat="HF")
    with pytest.raises(ValueError, match=r"^reduction: expected"):
        rt.rag_sequence_nll(logits, doc_scores, targets, reduction="batchmean")
    with pytest.raises(ValueError, match=r"^label_smoothing: expected a number from 0 to below 1, got 1"):
        rt.rag_sequence_nll(logits, doc_scores, targets, label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"^temperature: expected a finite number above 0"):
        rt.rag_token_nll_from_logprobs(logits[..., 0], doc_scores, temperature=0.0)
    with pytest.raises(ValueError, match=r"^bos_token_id: only rag_sequence_nll with compat"):
        rt.rag_token_nll(logits, doc_scores, targets, compat="hf", bos_token_id=0)
    with pytest.raises(TypeError, match=r"^mask: expected torch\.bool, .*, got torch\.int64$"):
        rt.rag_token_nll_from_logprobs(logits[..., 0], doc_scores, mask=targets)
    with pytest.raises(ValueError, match=r"^mask: expected shape \(2, 3\), as token_logprobs has shape"):
        rt.rag_token_nll_from_logprobs(logits[..., 0], doc_scores, mask=targets[0] > 0)


def test_ragfast_does_not_import_torch_and_says_what_brings_it() -> None:
    code = """if True:
        import sys
        import ragfast
        assert "torch" not in sys.modules and "ragfast.torch" not in sys.modules
        sys.modules["torch"] = None  # as if it were not installed
        try:
            import ragfast.torch
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ragfast.torch needs torch: pip install 'ragfast-kernels[torch]'"
