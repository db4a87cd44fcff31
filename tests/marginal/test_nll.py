"""-log p(y|x) from logits against the formulas in extended precision, at every level, and what must hold of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from logit_types import result_type
from nll_cases import ALL, IGNORED, LEVELS, LOSSES, Array, assert_is, case, exactly

from ragfast import NLL, target_logprobs

pytestmark = LEVELS


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
