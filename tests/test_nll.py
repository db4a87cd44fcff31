"""-log p(y|x) from logits against the formulas in extended precision and against Hugging Face's, at every level."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logit_types import cast, dtype_of, result_type
from nll_oracle import Exact, exact_nll, hf_sequence_nll, hf_token_nll, lse
from numpy.typing import NDArray

import ragfast
from ragfast import (
    NLL,
    rag_sequence_nll,
    rag_sequence_nll_from_logprobs,
    rag_token_nll,
    rag_token_nll_from_logprobs,
    target_logprobs,
)

Array = NDArray[Any]
LOSSES = [rag_sequence_nll, rag_token_nll]
LOSSES_FROM_LOGPROBS = [rag_sequence_nll_from_logprobs, rag_token_nll_from_logprobs]
IGNORED = -100

pytestmark = pytest.mark.usefixtures("isa")
if np.finfo(np.longdouble).eps > 1e-18:
    pytestmark = pytest.mark.skip(reason="no extended precision here to calculate reference values in")


@pytest.fixture(params=[False, True], ids=["sequence", "token"])
def by_token(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


def case(kind: str, *shape: int, seed: int = 0, spread: float = 3.0, padded: bool = True) -> tuple[Array, Array, Array]:
    """Logits (B,K,T,V), doc_scores, and targets of which the later ones of some answers are ignored."""
    b, k, t, v = shape
    rng = np.random.default_rng(seed)
    logits = cast(spread * rng.standard_normal(shape), kind)
    targets = rng.integers(0, v, (b, t))
    if padded:
        targets[np.arange(t) >= rng.integers(min(t, 2), t + 1, (b, 1))] = IGNORED
    return logits, rng.standard_normal((b, k)).astype(result_type(kind)), targets


def exactly(by_token: bool, logits: Array, docs: Array, targets: Array, **options: Any) -> Exact:
    return exact_nll(by_token, logits.astype(np.float64), docs, np.where(targets == IGNORED, -1, targets), **options)


def assert_is(found: NLL, exact: Exact, kind: str, smoothing: float = 0) -> None:
    """Within what the type of logits allows: float32 sums leave 3.4e-7 in each log p, and their difference in the
    posterior. With smoothing, p(v) and what is expected of each v cancel in the gradient."""
    n_tokens, vocab = exact.logits_grad.shape[2:]
    eps = float(np.finfo(result_type(kind)).eps)
    of_token = 1e-14 if kind == "float64" else 4e-7
    of_posterior = 4 * eps + 3 * n_tokens * of_token
    np.testing.assert_allclose(found.loss, exact.nll.astype(float), rtol=4 * eps, atol=n_tokens * of_token)
    assert found.posterior is not None
    assert found.doc_scores_grad is not None
    np.testing.assert_allclose(found.posterior, exact.posterior.astype(float), rtol=of_posterior, atol=1e-37)
    np.testing.assert_allclose(
        found.doc_scores_grad, exact.doc_scores_grad.astype(float), rtol=4 * eps, atol=2 * n_tokens * of_posterior
    )
    rounding, denormal = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 1e-37)}.get(kind, (eps, 1e-37))
    grad = np.asarray(found.logits_grad)
    assert grad.dtype == dtype_of(kind)
    rtol = rounding + of_posterior + (2e-13 if kind == "float64" else 4e-6)
    np.testing.assert_allclose(
        grad.astype(float),
        exact.logits_grad.astype(float),
        rtol=rtol,
        atol=denormal + 1e-20 + rtol * smoothing / vocab,
    )
    assert type(found.loss[0]) is found.posterior.dtype.type is found.doc_scores_grad.dtype.type is result_type(kind)


ALL = {"reduction": "none", "grad": ("doc_scores", "logits"), "return_posterior": True}


@pytest.mark.parametrize("shape", [(3, 5, 7, 67), (2, 1, 3, 1), (1, 4, 1, 33), (2, 3, 5, 1031), (1, 17, 2, 20)])
@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_value_posterior_and_gradients(
    kind: str, by_token: bool, smoothing: float, shape: tuple[int, int, int, int]
) -> None:
    for temperature, compat in ((1.0, "paper"), (0.7, "hf")):
        logits, docs, targets = case(kind, *shape)
        before = logits.tobytes()
        found = LOSSES[by_token](
            logits,
            docs,
            targets,
            ignore_index=IGNORED,
            label_smoothing=smoothing,
            temperature=temperature,
            compat=compat,
            **ALL,
        )
        exact = exactly(
            by_token, logits, docs, targets, smoothing=smoothing, temperature=temperature, hf=compat == "hf"
        )
        assert_is(found, exact, kind, smoothing)
        assert logits.tobytes() == before


@pytest.mark.parametrize("compat", ["paper", "hf"])
def test_gradients_are_finite_differences(by_token: bool, compat: str) -> None:
    """Of our own value, and of the oracle's, so that the oracle's gradient stands on nothing but its value."""
    logits, docs, targets = case("float64", 2, 3, 3, 5, seed=1)
    weights = np.array([1.0, 1.0]) / np.count_nonzero(targets != IGNORED)
    options = {"temperature": 0.8, "label_smoothing": 0.2, "compat": compat, "ignore_index": IGNORED}
    options["reduction"] = "token_mean"
    found = LOSSES[by_token](logits, docs, targets, grad={"doc_scores", "logits"}, **options)

    def value(logits: Array, docs: Array) -> float:
        return float(LOSSES[by_token](logits, docs, targets, **options))

    def exact_value(logits: Array, docs: Array) -> float:
        hf = compat == "hf"
        exact = exactly(by_token, logits, docs, targets, smoothing=0.2, temperature=0.8, hf=hf, weights=weights)
        return float((exact.nll * weights).sum())

    exact = exactly(by_token, logits, docs, targets, smoothing=0.2, temperature=0.8, hf=compat == "hf", weights=weights)
    step = 1e-5
    for of, gradient, exact_gradient in (
        (logits, found.logits_grad, exact.logits_grad),
        (docs, found.doc_scores_grad, exact.doc_scores_grad),
    ):
        for at in np.ndindex(of.shape):
            differences = []
            for function in (value, exact_value):
                ends = []
                for sign in (1, -1):
                    x = of.copy()
                    x[at] += sign * step
                    ends.append(function(x, docs) if of is logits else function(logits, x))
                differences.append((ends[0] - ends[1]) / (2 * step))
            assert gradient[at] == pytest.approx(differences[0], abs=1e-9)
            assert float(exact_gradient[at]) == pytest.approx(differences[1], abs=1e-9)
            assert gradient[at] == pytest.approx(float(exact_gradient[at]), abs=1e-13)


def test_reductions(by_token: bool, kind: str) -> None:
    logits, docs, targets = case(kind, 4, 3, 6, 50)
    n_scored = np.count_nonzero(targets != IGNORED)
    options = {"ignore_index": IGNORED, "grad": ["logits", "doc_scores"]}
    each = LOSSES[by_token](logits, docs, targets, reduction="none", **options)
    assert each.loss.shape == (4,)
    for reduction, divisor in (("sum", 1), ("mean", 4), ("token_mean", n_scored)):
        found = LOSSES[by_token](logits, docs, targets, reduction=reduction, **options)
        assert type(found.loss) is result_type(kind)
        assert found.loss == pytest.approx(each.loss.astype(float).sum() / divisor, rel=3e-7)
        rtol = {"float64": 1e-14, "float16": 2.0**-10, "bfloat16": 2.0**-7}.get(kind, 1e-6)
        np.testing.assert_allclose(found.doc_scores_grad * divisor, each.doc_scores_grad, rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(
            found.logits_grad.astype(float) * divisor,
            each.logits_grad.astype(float),
            rtol=rtol,
            atol=divisor * 2.0**-24,
        )
        assert LOSSES[by_token](logits, docs, targets, reduction=reduction, ignore_index=IGNORED) == found.loss


def test_only_what_was_asked_for(by_token: bool) -> None:
    logits, docs, targets = case("float32", 2, 3, 4, 40, padded=False)
    full = LOSSES[by_token](logits, docs, targets, **ALL)
    for grad in ((), ["doc_scores"], {"logits": 1}):
        for return_posterior in (False, True):
            found = LOSSES[by_token](
                logits, docs, targets, reduction="none", grad=grad, return_posterior=return_posterior
            )
            if not grad and not return_posterior:
                assert found.tolist() == full.loss.tolist()
                continue
            assert found.loss.tolist() == full.loss.tolist()
            for name, asked in (("doc_scores_grad", "doc_scores" in grad), ("logits_grad", "logits" in grad)):
                given = getattr(found, name)
                assert (given is not None) is asked
                assert given is None or given.tolist() == getattr(full, name).tolist()
            assert (found.posterior is not None) is return_posterior
            assert found.token_logprobs_grad is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        full.loss = 0


# ---- Hugging Face


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


# ---- tensors of torch


@pytest.mark.parametrize("storage", ["float64", "float32", "float16", "bfloat16"])
def test_tensors(by_token: bool, storage: str) -> None:
    """The same bits as of arrays; the gradient is a tensor of their type, in place if so asked."""
    torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")
    wide, docs, targets = case("float32", 2, 3, 4, 50)
    tensor = torch.tensor(wide).to(getattr(torch, storage))
    expected = LOSSES[by_token](tensor.double().numpy(), docs, targets, ignore_index=IGNORED, **ALL)
    found = LOSSES[by_token](tensor, torch.tensor(docs), torch.tensor(targets), ignore_index=IGNORED, **ALL)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert type(found.logits_grad) is torch.Tensor
    assert found.logits_grad.dtype == tensor.dtype
    rounded = torch.tensor(expected.logits_grad)
    rtol = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(storage, 1e-5)
    torch.testing.assert_close(found.logits_grad.double(), rounded, rtol=rtol, atol=2.0**-24)
    transposed = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    again = LOSSES[by_token](transposed, docs, targets, ignore_index=IGNORED, **ALL)
    assert torch.equal(again.logits_grad, found.logits_grad)
    in_place = tensor.clone()
    done = LOSSES[by_token](in_place, docs, targets, ignore_index=IGNORED, out=in_place, **ALL)
    assert done.logits_grad is in_place
    assert torch.equal(in_place, found.logits_grad)
    scored = torch.tensor(targets).clamp(min=0)[:, None]
    np.testing.assert_allclose(
        target_logprobs(tensor, scored), target_logprobs(tensor.double(), scored), rtol=1e-6, atol=1e-7
    )
    for out, error, message in (
        (torch.zeros(2, 3, 4, 50, dtype=torch.int64), TypeError, f"out: expected {storage}, .* got int64"),
        (torch.zeros(2, 3, 4, 50, dtype=tensor.dtype, requires_grad=True), ValueError, "out: expected a contiguous"),
        (torch.zeros(50, 4, 3, 2, dtype=tensor.dtype).permute(3, 2, 1, 0), ValueError, "out: expected a contiguous"),
        (torch.zeros(2, 3, 4, 51, dtype=tensor.dtype), ValueError, r"out: expected shape .* got \(2, 3, 4, 51\)"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            LOSSES[by_token](tensor, docs, targets, ignore_index=IGNORED, grad=["logits"], out=out)
    with pytest.raises(ValueError, match=r"^logits: a tensor that requires a gradient; pass logits.detach\(\)"):
        LOSSES[by_token](tensor.clone().requires_grad_(), docs, targets, ignore_index=IGNORED)


# ---- padding, null document, missing documents, T of 0


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


# ---- memory


def test_gradient_in_place(by_token: bool, kind: str) -> None:
    for smoothing in (0, 0.1):
        logits, docs, targets = case(kind, 2, 3, 4, 77)
        options = {"ignore_index": IGNORED, "label_smoothing": smoothing}
        expected = LOSSES[by_token](logits, docs, targets, **options, **ALL)
        out = np.empty_like(logits)
        found = LOSSES[by_token](logits, docs, targets, out=out, **options, **ALL)
        assert found.logits_grad is out
        assert out.tobytes() == expected.logits_grad.tobytes()
        found = LOSSES[by_token](logits, docs, targets, out=logits, **options, **ALL)
        assert found.logits_grad is logits
        assert logits.tobytes() == out.tobytes()
        for name in ("loss", "posterior", "doc_scores_grad"):
            assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()


@pytest.mark.parametrize(("shape", "smoothing"), [((2, 3, 20, 40_009), 0), ((1, 4, 15, 40_009), 0.1)])
def test_logits_beyond_the_caches(by_token: bool, shape: tuple[int, int, int, int], smoothing: float) -> None:
    """Several blocks of queries, or of the tokens of one, and a gradient that goes past the caches."""
    logits, docs, targets = case("float32", *shape)
    assert logits.nbytes > 2**23
    options = {"ignore_index": IGNORED, "label_smoothing": smoothing}
    found = LOSSES[by_token](logits, docs, targets, **options, **ALL)
    exact = exactly(by_token, logits, docs, targets, smoothing=smoothing, dtype=np.float64)
    assert_is(found, exact, "float32", smoothing)
    in_place = LOSSES[by_token](logits, docs, targets, out=logits, **options, **ALL)
    assert in_place.loss.tolist() == found.loss.tolist()
    assert in_place.logits_grad.tobytes() == found.logits_grad.tobytes()


def test_any_layout(by_token: bool, kind: str) -> None:
    logits, docs, targets = case(kind, 3, 2, 5, 37)
    expected = LOSSES[by_token](logits, docs, targets, ignore_index=IGNORED, **ALL)
    buffer = np.empty(logits.nbytes + 1, np.uint8)
    unaligned = np.ndarray(logits.shape, logits.dtype, buffer, offset=1)
    unaligned[...] = logits
    wider = np.zeros((3, 2, 5, 2 * 37), logits.dtype)
    wider[..., ::2] = logits
    read_only = logits.copy()
    read_only.flags.writeable = False
    layouts = [unaligned, wider[..., ::2], np.asfortranarray(logits), read_only, logits[::-1].copy()[::-1]]
    if kind != "bfloat16":
        layouts.append(logits.astype(logits.dtype.newbyteorder(">")))
    for x in layouts:
        before = x.tobytes()
        found = LOSSES[by_token](
            x, np.asfortranarray(docs), targets[:, ::-1].copy()[:, ::-1], ignore_index=IGNORED, **ALL
        )
        for name in ("loss", "posterior", "doc_scores_grad", "logits_grad"):
            assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()
        assert x.tobytes() == before
        assert found.logits_grad.flags.c_contiguous
        scored = np.where(targets == IGNORED, 0, targets)[:, None]
        assert target_logprobs(x, scored).tolist() == target_logprobs(logits, scored).tolist()
    as_lists = LOSSES[by_token](
        logits.astype(float).tolist(), docs.tolist(), targets.tolist(), ignore_index=IGNORED, **ALL
    )
    assert as_lists.logits_grad.dtype == as_lists.loss.dtype == np.float64
    np.testing.assert_allclose(as_lists.loss, expected.loss, rtol=1e-6)


@pytest.fixture
def threads() -> Iterator[None]:
    before = ragfast.get_num_threads()
    yield
    ragfast.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads_change_no_bit(by_token: bool, kind: str) -> None:
    """Sizes above the one from which work is shared: many short rows, few long ones, a single answer."""
    for shape in ((6, 5, 40, 257), (1, 3, 7, 30_011)):
        logits, docs, targets = case(kind, *shape, seed=6)
        for smoothing in (0, 0.1):
            results = []
            for n_threads in (None, 1, 2, 3):
                ragfast.set_num_threads(2 if n_threads is None else 1)
                found = LOSSES[by_token](
                    logits,
                    docs,
                    targets,
                    ignore_index=IGNORED,
                    label_smoothing=smoothing,
                    n_threads=n_threads,
                    **ALL,
                )
                assert found.posterior is not None
                results.append(
                    [
                        *(x.tobytes() for x in (found.loss, found.posterior, found.doc_scores_grad, found.logits_grad)),
                        target_logprobs(logits, targets[:, None], ignore_index=IGNORED, n_threads=n_threads).tobytes(),
                    ]
                )
            assert all(other == results[0] for other in results[1:])


MEMORY = """if True:
    import sys
    import numpy as np
    import ragfast
    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    def calls(logits, docs, targets):
        for loss in (ragfast.rag_sequence_nll, ragfast.rag_token_nll):
            for smoothing in (0.0, 0.1):
                loss(logits, docs, targets, label_smoothing=smoothing)
                loss(logits, docs, targets, label_smoothing=smoothing, grad=["logits", "doc_scores"], out=logits,
                     return_posterior=True)
        ragfast.target_logprobs(logits, targets[:, None])
    rng = np.random.default_rng(0)
    ragfast.set_isa(sys.argv[1])
    calls(rng.standard_normal((1, 2, 3, 40), dtype=np.float32), np.zeros((1, 2)), np.zeros((1, 3), int))
    logits = rng.standard_normal((4, 5, 10, 20011), dtype=np.float32)
    docs, targets = np.zeros((4, 5)), rng.integers(0, 20011, (4, 10))
    before = peak()
    calls(logits, docs, targets)
    print(logits.nbytes // 1024, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory as Linux shows it")
def test_extra_memory_is_below_a_megabyte(isa: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, isa], capture_output=True, text=True, check=True)
    logits_kb, extra_kb = map(int, done.stdout.split())
    assert logits_kb > 15_000
    assert extra_kb < 1024


# ---- token log-probabilities


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


# ---- properties


@st.composite
def problems(draw: st.DrawFn, max_tokens: int = 4) -> tuple[Array, Array, Array]:
    shape = [
        draw(st.integers(1, 3)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, max_tokens)),
        draw(st.integers(1, 45)),
    ]
    seed, spread = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.01, 1.0, 8.0]))
    return case("float64", *shape, seed=seed, spread=spread)


def everything(by_token: bool, problem: tuple[Array, Array, Array], smoothing: float = 0) -> NLL:
    found: NLL = LOSSES[by_token](*problem, ignore_index=IGNORED, label_smoothing=smoothing, **ALL)
    return found


def same(found: NLL, expected: NLL, order: Any = slice(None)) -> None:
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-10, atol=1e-10)
    for name in ("posterior", "doc_scores_grad", "logits_grad"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[:, order], rtol=1e-8, atol=1e-10)


@settings(max_examples=40)
@given(problem=problems(), shift=st.floats(-100, 100), at=st.integers(0, 10**6), smoothing=st.sampled_from([0.0, 0.1]))
def test_constants_change_nothing(
    by_token: bool, problem: tuple[Array, Array, Array], shift: float, at: int, smoothing: float
) -> None:
    """Added to a row of logits, or to all doc_scores of a query."""
    logits, docs, targets = problem
    expected = everything(by_token, problem, smoothing)
    moved = logits.copy()
    rows_of = moved.reshape(-1, moved.shape[3])
    rows_of[at % len(rows_of)] += shift
    same(everything(by_token, (moved, docs, targets), smoothing), expected)
    docs = docs.copy()
    docs[at % len(docs)] += shift
    same(everything(by_token, (logits, docs, targets), smoothing), expected)


@settings(max_examples=40)
@given(problem=problems(), k=st.integers(1, 5), data=st.data())
def test_documents(by_token: bool, problem: tuple[Array, Array, Array], k: int, data: st.DataObject) -> None:
    logits, docs, targets = problem
    # One is plain cross-entropy, whatever its score; k copies of it are the same.
    one = LOSSES[by_token](logits[:, :1], docs[:, :1], targets, ignore_index=IGNORED, reduction="none")
    plain = -target_logprobs(logits[:, 0], targets, ignore_index=IGNORED).sum(axis=1)
    np.testing.assert_allclose(one, plain, rtol=1e-12, atol=1e-13)
    copies = np.repeat(logits[:, :1], k, axis=1)
    scores = data.draw(st.lists(st.floats(-20, 20), min_size=k, max_size=k))
    of_copies = LOSSES[by_token](
        copies, np.tile(scores, (len(docs), 1)), targets, ignore_index=IGNORED, reduction="none", return_posterior=True
    )
    np.testing.assert_allclose(of_copies.loss, one, rtol=1e-11, atol=1e-11)
    expected = everything(by_token, problem)
    order = data.draw(st.permutations(range(docs.shape[1])))
    same(everything(by_token, (logits[:, order], docs[:, order], targets)), expected, order)


@settings(max_examples=40)
@given(problem=problems(), smoothing=st.sampled_from([0.0, 0.1]))
def test_sums(by_token: bool, problem: tuple[Array, Array, Array], smoothing: float) -> None:
    """The posterior over documents, the gradients over the vocabulary and over documents."""
    found = everything(by_token, problem, smoothing)
    assert found.posterior is not None
    assert found.doc_scores_grad is not None
    scored = problem[2] != IGNORED if by_token else 1.0
    np.testing.assert_allclose(found.posterior.sum(axis=1), np.broadcast_to(scored, found.posterior.sum(axis=1).shape))
    np.testing.assert_allclose(found.logits_grad.sum(axis=3), 0, atol=1e-12)
    np.testing.assert_allclose(found.doc_scores_grad.sum(axis=1), 0, atol=1e-12)
    assert (found.loss >= -1e-12).all()


@settings(max_examples=40)
@given(problem=problems(max_tokens=1))
def test_one_token_makes_both_variants_equal(problem: tuple[Array, Array, Array]) -> None:
    sequence, by_token = everything(False, problem), everything(True, problem)
    assert by_token.posterior is not None
    same(sequence, dataclasses.replace(by_token, posterior=by_token.posterior[:, :, 0]))


# ---- errors

GOOD = (np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 3)), np.zeros((2, 4), int))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": np.zeros((2, 3, 4, 5), int)}, TypeError, "logits: expected float32, float64, .* got int64"),
        ({"logits": np.ma.zeros((2, 3, 4, 5))}, TypeError, "logits: a masked array"),
        ({"logits": np.zeros((2, 3, 4))}, ValueError, r"logits: expected shape \(B, K, T, V\) .*, got \(2, 3, 4\)"),
        ({"logits": np.zeros((2, 0, 4, 5))}, ValueError, r"logits: .*K and V of 1 or more, got \(2, 0, 4, 5\)"),
        ({"logits": np.zeros((2, 3, 4, 0))}, ValueError, r"logits: .*K and V of 1 or more, got \(2, 3, 4, 0\)"),
        ({"logits": "text"}, TypeError, "logits: expected float32, float64"),
        ({"doc_scores": np.zeros((2, 4))}, ValueError, r"doc_scores: expected shape \(2, 3\), as logits has shape "),
        ({"doc_scores": np.zeros((2, 3), int)}, TypeError, "doc_scores: expected float32 or float64 .*, got int64"),
        ({"doc_scores": np.ma.zeros((2, 3))}, TypeError, "doc_scores: a masked array"),
        (
            {"targets": np.zeros((2, 3), int)},
            ValueError,
            r"targets: expected shape \(2, 4\), as logits .* got \(2, 3\)",
        ),
        ({"targets": np.zeros((2, 4))}, TypeError, "targets: expected integers, got float64"),
        ({"targets": np.zeros((2, 4), bool)}, TypeError, "targets: expected integers, got bool"),
        ({"targets": [[0, 0, 0, 0], [0, 5, 0, 0]]}, ValueError, r"targets: .*0 to 4, as V is 5, got 5 at \(1, 1\)$"),
        (
            {"targets": [[0, 0, -100, 0], [0, 1, 0, 0]]},
            ValueError,
            r"targets: .* got -100 at \(0, 2\); ignore_index=-100 leaves such positions out$",
        ),
        ({"targets": [[0] * 4, [0, 0, 0, -1]], "ignore_index": 0}, ValueError, r"targets: .*, got -1 at \(1, 3\)$"),
        ({"targets": np.full((2, 4), 2**64 - 1, np.uint64)}, ValueError, "targets: .* got 18446744073709551615 at"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index: expected an integer, got float"),
        ({"ignore_index": True}, TypeError, "ignore_index: expected an integer, got bool"),
        ({"label_smoothing": 1}, ValueError, "label_smoothing: expected a number from 0 to below 1, got 1.0"),
        ({"label_smoothing": -0.1}, ValueError, "label_smoothing: expected a finite number of 0 or more, got -0.1"),
        ({"label_smoothing": np.nan}, ValueError, "label_smoothing: .* got nan"),
        ({"temperature": 0}, ValueError, "temperature: expected a finite number above 0, got 0"),
        ({"temperature": "1"}, TypeError, "temperature: expected a number above 0, got str"),
        ({"reduction": "avg"}, ValueError, 'reduction: expected "none", "sum", "mean" or "token_mean", got \'avg\''),
        ({"reduction": None}, ValueError, 'reduction: expected "none", .* got None'),
        ({"compat": "huggingface"}, ValueError, 'compat: expected "paper" or "hf", got \'huggingface\''),
        ({"bos_token_id": 0}, ValueError, 'bos_token_id: only rag_sequence_nll with compat="hf" leaves'),
        ({"grad": "logits"}, TypeError, "grad: expected a collection of names, .* got 'logits'"),
        ({"grad": None}, TypeError, "grad: expected a collection of names, .* got None"),
        ({"grad": ["logit"]}, ValueError, 'grad: expected names out of "doc_scores" and "logits", got \'logit\''),
        ({"grad": [["logits"]]}, ValueError, r"grad: expected names .* got \['logits'\]"),
        ({"null_score": 0.0}, ValueError, r"doc_scores: expected shape \(2, 2\), as logits .* the null document last"),
        ({"null_score": [0.0] * 3, "doc_scores": np.zeros((2, 2))}, ValueError, r"null_score: .* \(2,\), got \(3,\)"),
        ({"null_score": True, "doc_scores": np.zeros((2, 2))}, TypeError, "null_score: .* got bool"),
        ({"out": np.zeros((2, 3, 4, 5), np.float32)}, ValueError, 'out: given, but grad does not ask for "logits"'),
        ({"n_threads": 0}, ValueError, "n_threads: expected 1 or more, got 0"),
        (
            {"targets": np.full((2, 4), -1), "ignore_index": -1, "reduction": "token_mean"},
            ValueError,
            "reduction: token_mean over no tokens: none is scored",
        ),
    ],
)
def test_errors(by_token: bool, change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {**dict(zip(("logits", "doc_scores", "targets"), GOOD, strict=True)), **change}
    with pytest.raises(error, match=f"^{message}"):
        LOSSES[by_token](**arguments)


def test_errors_of_out(by_token: bool) -> None:
    logits = np.zeros((2, 3, 4, 5), np.float32)
    read_only = np.zeros_like(logits)
    read_only.flags.writeable = False
    room = np.zeros(2 * logits.size, np.float32)
    inside = room[: logits.size].reshape(logits.shape)
    for out, error, message in (
        (np.zeros((2, 3, 4, 5)), TypeError, "out: expected float32, as the logits are, got float64"),
        (np.zeros((2, 3, 4, 6), np.float32), ValueError, r"out: expected shape \(2, 3, 4, 5\), .* got \(2, 3, 4, 6\)"),
        (read_only, ValueError, "out: expected an array that is contiguous, aligned, writeable"),
        (np.asfortranarray(logits), ValueError, "out: expected an array that is contiguous"),
        (logits.astype(">f4"), ValueError, "out: .* native byte order"),
        (np.ma.zeros((2, 3, 4, 5), np.float32), TypeError, "out: a masked array"),
        (logits.tolist(), TypeError, "out: expected an array or a torch tensor to write to, got list"),
        (room[5 : 5 + logits.size].reshape(logits.shape), ValueError, "out: overlaps the logits"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            LOSSES[by_token](inside, *GOOD[1:], grad=["logits"], out=out)
    with pytest.raises(ValueError, match=r"^bos_token_id: only"):
        rag_token_nll(*GOOD, compat="hf", bos_token_id=1)
    with pytest.raises(TypeError, match=r"^bos_token_id: expected an integer, got str"):
        rag_sequence_nll(*GOOD, compat="hf", bos_token_id="1")


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


def test_an_empty_list_is_a_mask_of_no_positions(by_token: bool) -> None:
    assert LOSSES_FROM_LOGPROBS[by_token](np.zeros((1, 2, 0)), np.zeros((1, 2)), mask=[[]]) == 0


def test_token_logprobs_in_any_layout(by_token: bool) -> None:
    tokens, docs = -np.random.default_rng(6).random((2, 3, 4)), np.zeros((2, 3))
    expected = LOSSES_FROM_LOGPROBS[by_token](tokens, docs, reduction="none")
    for layout in (np.repeat(tokens, 2, axis=-1)[..., ::2], np.asfortranarray(tokens), tokens.astype(">f8")):
        found = LOSSES_FROM_LOGPROBS[by_token](layout, docs, reduction="none")
        assert found.tobytes() == expected.tobytes()
