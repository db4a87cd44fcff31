"""Log-sum-exp, log-softmax and marginalization against the formulas in extended precision, at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import CANCELLED, LEVELS, MOST_ULPS, error_in_ulps, layouts, lse_terms, rows
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import ragfast
from ragfast.marginal.lse import log_softmax, logsumexp, marginalize_sequence, marginalize_token

Array = NDArray[Any]
SIZES = [*range(1, 71), 127, 128, 129, 1000, 4095, 4096, 4097, 8200, 50265, 300_000]

pytestmark = LEVELS


def test_accuracy(isa: str, dtype: type[Any]) -> None:
    rng = np.random.default_rng(7)
    worst = {"logsumexp": (0.0, ""), "log_softmax": (0.0, "")}
    for n in SIZES:
        ahead = {
            "one ahead": np.where(np.arange(n) == n // 2, 3.0, -40.0),
            "many behind": np.where(np.arange(n) == 0, 0.0044, -12.3456),
        }
        for name, row in (rows(n, dtype, rng) | ahead).items():
            x = row.astype(dtype)
            top, log_sum = lse_terms(x)
            # Terms of opposite sign cancel; others do not, and then nothing is allowed.
            terms = max(abs(top), log_sum) if top < 0 and np.isfinite(top) else 0
            exact = top + log_sum
            lse = logsumexp(x)
            assert type(lse) is dtype
            if not np.isfinite(exact):
                assert lse == exact
                continue
            case = f"{name}, {n} values"
            worst["logsumexp"] = max(worst["logsumexp"], (error_in_ulps(lse, exact, terms), case))
            finite = np.isfinite(x)
            logprobs = log_softmax(x)
            assert (logprobs[~finite] == -np.inf).all()
            with np.errstate(over="ignore"):
                exact_logprobs = x[finite].astype(np.longdouble) - top - log_sum
                in_range = np.isfinite(exact_logprobs.astype(dtype))
            error = error_in_ulps(logprobs[finite][in_range], exact_logprobs[in_range])
            worst["log_softmax"] = max(worst["log_softmax"], (error, case))
    for function, (error, case) in worst.items():
        print(f"{isa} {dtype.__name__} {function}: largest error {error:.3f} ulp ({case})")
        assert error <= MOST_ULPS[dtype], case


@pytest.mark.parametrize("n", [1, 2, 5, 33, 5000])
def test_infinities_and_nan(dtype: type[Any], n: int) -> None:
    def row(fill: float, at: int, value: float) -> Array:
        x = np.full(n, fill, dtype)
        x[at] = value
        return x

    inf, nan = np.inf, np.nan
    assert logsumexp(np.full(n, -inf, dtype)) == -inf
    assert (log_softmax(np.full(n, -inf, dtype)) == -inf).all()
    assert logsumexp(np.full(n, inf, dtype)) == inf
    for at in (0, n // 2, n - 1):
        assert logsumexp(row(-inf, at, 3)) == 3
        assert log_softmax(row(-inf, at, 3)).tolist() == row(-inf, at, 0).tolist()
        for fill in (0, -inf):
            assert logsumexp(row(fill, at, inf)) == inf
            np.testing.assert_array_equal(log_softmax(row(fill, at, inf)), row(-inf, at, nan))
        for fill in (0, -inf, inf, -1e9):
            for sign in (1, -1):
                x = row(fill, at, np.copysign(nan, sign))
                assert np.isnan(logsumexp(x))
                assert np.isnan(log_softmax(x)).all()


def test_results_just_below_2() -> None:
    """Where float32 sums give way to float64 the unit in the last place halves: the worst that were found there."""
    flat = np.full(173_397, -10.0633392, np.float32)
    assert error_in_ulps(logsumexp(flat), np.longdouble(flat[0]) + np.log(np.longdouble(len(flat)))) <= 2
    row = np.full(4096, -10.0625172, np.float32)
    row[-1] = -3.59958148
    top, log_sum = lse_terms(row)
    found = ragfast.target_logprobs(row[None], [4095])
    assert error_in_ulps(found, row[-1].astype(np.longdouble) - top - log_sum) <= 2


def test_denormal_results() -> None:
    assert logsumexp(np.float64([0, -720])) == pytest.approx(np.exp(np.longdouble(-720)), rel=1e-10)
    assert logsumexp(np.float32([0, -100])) == np.float32(np.exp(-100.0))
    assert log_softmax(np.float64([0, -720]))[0] == -logsumexp(np.float64([0, -720]))


def test_empty(dtype: type[Any]) -> None:
    assert logsumexp(np.empty(0, dtype)) == -np.inf
    assert logsumexp(np.empty((3, 0), dtype)).tolist() == [-np.inf] * 3
    assert logsumexp(np.empty((0, 3), dtype)).shape == (0,)
    assert log_softmax(np.empty((3, 0), dtype)).shape == (3, 0)
    assert marginalize_sequence(np.empty((0, 2), dtype), np.empty((0, 2, 3), dtype)).shape == (0,)
    assert marginalize_token(np.empty((0, 2), dtype), np.empty((0, 2, 3), dtype)).shape == (0, 3)
    assert marginalize_token(np.zeros((4, 2), dtype), np.empty((4, 2, 0), dtype)).shape == (4, 0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3, np.int64(1)])
def test_axes(dtype: type[Any], axis: int) -> None:
    x = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(dtype)
    exact = np.log(np.exp(x.astype(np.longdouble)).sum(axis=axis))
    found = logsumexp(x, axis)
    assert found.shape == exact.shape
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact.astype(dtype), rtol=4 * np.finfo(dtype).eps)
    logprobs = log_softmax(x, axis=axis)
    assert logprobs.shape == x.shape
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=axis), 1, rtol=20 * np.finfo(dtype).eps)
    assert log_softmax(np.moveaxis(x, axis, -1)).tolist() == np.moveaxis(logprobs, axis, -1).tolist()


def test_layouts(dtype: type[Any]) -> None:
    rng = np.random.default_rng(2)
    docs, tokens = rng.standard_normal((3, 5)).astype(dtype), rng.standard_normal((3, 5, 7)).astype(dtype)
    for (name, some_docs), some_tokens in zip(layouts(docs).items(), layouts(tokens).values(), strict=True):
        before = np.array(some_tokens)
        for function in (logsumexp, log_softmax):
            found = function(some_tokens)
            assert found.dtype == dtype, name
            assert found.dtype.isnative, name
            assert found.tolist() == function(tokens).tolist(), name
        for marginalize in (marginalize_sequence, marginalize_token):
            found = marginalize(some_docs, some_tokens)
            assert found.dtype == dtype, name
            assert found.tolist() == marginalize(docs, tokens).tolist(), name
        assert np.array_equal(before, some_tokens), name
    lists = docs.astype(float).tolist(), tokens.astype(float).tolist()
    assert log_softmax(lists[1]).tolist() == log_softmax(tokens.astype(float)).tolist()
    assert marginalize_token(*lists).tolist() == marginalize_token(docs.astype(float), tokens.astype(float)).tolist()


def test_float16_is_widened() -> None:
    x = np.random.default_rng(3).standard_normal((2, 9)).astype(np.float16)
    assert logsumexp(x).dtype == log_softmax(x).dtype == np.float32
    assert logsumexp(x).tolist() == logsumexp(x.astype(np.float32)).tolist()
    assert marginalize_sequence(x[0], x.T[:, :1].astype(np.float32)).dtype == np.float32


def exact_mixture(docs: Array, tokens: Array) -> tuple[Array, Array, Array]:
    """LSE over the axis of K, the softmax, and the largest magnitude that met in the LSE."""
    joint = docs.astype(np.longdouble)[..., None] + tokens.astype(np.longdouble)
    top = joint.max(axis=-2, keepdims=True)
    weights = np.exp(joint - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=-2, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.where(total > 0, top + np.log(total), -np.inf)
    return lse[..., 0, :], weights / np.where(total > 0, total, 1), np.abs(joint).max(axis=-2)


MIXTURES = [(1, 1, 1), (1, 5, 8), (3, 5, 33), (2, 17, 7), (64, 5, 32), (2, 63, 3), (2, 64, 3), (1, 65, 3), (1, 200, 70)]


@pytest.mark.parametrize(("b", "k", "t"), MIXTURES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_marginalize(dtype: type[Any], b: int, k: int, t: int, scale: float) -> None:
    rng = np.random.default_rng(b * 1000 + k * 10 + t)
    docs = log_softmax((3 * rng.standard_normal((b, k))).astype(dtype))
    tokens = (-scale * np.abs(rng.standard_normal((b, k, t)))).astype(dtype)
    eps, denormal = np.finfo(dtype).eps, 2 * float(np.finfo(dtype).smallest_subnormal)

    found, posterior = marginalize_token(docs, tokens, return_posterior=True)
    lse, weights, terms = exact_mixture(docs, tokens)
    assert (found.shape, posterior.shape) == ((b, t), (b, k, t))
    assert (found.dtype, posterior.dtype) == (dtype, dtype)
    assert error_in_ulps(found, lse, terms) <= MOST_ULPS[dtype]
    joint_rounding = np.finfo(np.float64).eps * float(terms.max())  # a joint log-probability is a float64
    np.testing.assert_allclose(posterior, weights, rtol=4 * eps + joint_rounding, atol=denormal)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=k * eps)
    assert marginalize_token(docs, tokens).tolist() == found.tolist()

    found, posterior = marginalize_sequence(docs, tokens, return_posterior=True)
    sums = tokens.astype(np.longdouble).sum(axis=-1)
    (lse,), (weights,), (terms,) = (a[None, ..., 0] for a in exact_mixture(docs, sums[..., None]))
    assert (found.shape, posterior.shape) == ((b,), (b, k))
    assert (found.dtype, posterior.dtype) == (dtype, dtype)
    joint_rounding = np.finfo(np.float64).eps * float(terms.max())
    rounded_sums = np.finfo(np.float64).eps * t * float(np.abs(sums).max())  # token sums are float64
    allowed = MOST_ULPS[dtype] * np.spacing(np.abs(found)) + rounded_sums + CANCELLED * np.maximum(terms, 1)
    assert (np.abs(found - lse) <= allowed).all()
    np.testing.assert_allclose(posterior, weights, rtol=4 * eps + joint_rounding + 2 * rounded_sums, atol=denormal)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=k * eps)
    assert marginalize_sequence(docs, tokens).tolist() == found.tolist()


def test_leading_shapes(dtype: type[Any]) -> None:
    rng = np.random.default_rng(4)
    docs, tokens = rng.standard_normal((2, 3, 4)).astype(dtype), rng.standard_normal((2, 3, 4, 5)).astype(dtype)
    by_sequence, posterior = marginalize_sequence(docs, tokens, return_posterior=True)
    by_token, posteriors = marginalize_token(docs, tokens, return_posterior=True)
    assert (by_sequence.shape, posterior.shape) == ((2, 3), (2, 3, 4))
    assert (by_token.shape, posteriors.shape) == ((2, 3, 5), (2, 3, 4, 5))
    one = marginalize_sequence(docs[1, 2], tokens[1, 2])
    assert type(one) is dtype
    assert one == by_sequence[1, 2]
    assert marginalize_token(docs[1, 2], tokens[1, 2]).tolist() == by_token[1, 2].tolist()


def test_missing_documents(dtype: type[Any]) -> None:
    huge = float(np.finfo(dtype).max)
    docs = np.array([[0.0, -np.inf, -1.0], [-np.inf] * 3], dtype)
    tokens = np.array([[[-1, -2], [huge, -huge], [-3, -4]], [[0, 0], [huge, 1], [-1, -1]]], dtype)
    present = [0, 2]
    for marginalize in (marginalize_sequence, marginalize_token):
        found, posterior = marginalize(docs, tokens, return_posterior=True)
        without, weights = marginalize(docs[0, present], tokens[0][present], return_posterior=True)
        assert found[0].tolist() == without.tolist()
        assert posterior[0, present].tolist() == weights.tolist()
        assert not posterior[0, 1].any()
        assert (found[1] == -np.inf).all()
        assert not posterior[1].any()
        impossible, posterior = marginalize(np.zeros(3, dtype), np.full((3, 2), -np.inf, dtype), return_posterior=True)
        assert (impossible == -np.inf).all()
        assert not posterior.any()


def test_nan_and_infinity_in_marginals(dtype: type[Any]) -> None:
    docs, tokens = np.zeros(3, dtype), np.zeros((3, 9), dtype)
    tokens[1, 4] = np.nan
    found, posterior = marginalize_token(docs, tokens, return_posterior=True)
    assert np.isnan(found).tolist() == [t == 4 for t in range(9)]
    assert np.isnan(posterior).tolist() == [[t == 4 for t in range(9)]] * 3
    found, posterior = marginalize_sequence(docs, tokens, return_posterior=True)
    assert np.isnan(found)
    assert np.isnan(posterior).all()
    for k in range(3):
        nan_prior = np.where(np.arange(3) == k, np.nan, -np.inf).astype(dtype)
        assert np.isnan(marginalize_token(nan_prior, np.zeros((3, 9), dtype))).all()
        assert np.isnan(marginalize_sequence(nan_prior, np.zeros((3, 9), dtype)))
    tokens[1, 4] = np.inf
    assert np.isinf(marginalize_token(docs, tokens)).tolist() == [t == 4 for t in range(9)]
    assert marginalize_sequence(docs, tokens) == np.inf


def test_nan_among_many_documents(dtype: type[Any]) -> None:
    for at in (0, 63, 64, 150):
        for others in (0.0, -np.inf):
            docs = np.full(200, others, dtype)
            docs[at] = np.nan
            assert np.isnan(marginalize_sequence(docs, np.zeros((200, 2), dtype)))


def test_no_tokens_leave_the_prior(dtype: type[Any]) -> None:
    docs = np.array([[0.0, -1.0, -2.0]], dtype)
    found, posterior = marginalize_sequence(docs, np.empty((1, 3, 0), dtype), return_posterior=True)
    assert found.tolist() == logsumexp(docs).tolist()
    np.testing.assert_allclose(posterior, np.exp(log_softmax(docs)), rtol=4 * np.finfo(dtype).eps)


def test_one_token_makes_both_variants_equal(dtype: type[Any]) -> None:
    rng = np.random.default_rng(5)
    docs, tokens = rng.standard_normal((9, 6)).astype(dtype), rng.standard_normal((9, 6, 1)).astype(dtype)
    sequence, posterior = marginalize_sequence(docs, tokens, return_posterior=True)
    by_token, posteriors = marginalize_token(docs, tokens, return_posterior=True)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(sequence, by_token[:, 0], rtol=4 * eps, atol=eps)
    np.testing.assert_allclose(posterior, posteriors[:, :, 0], rtol=8 * eps)


def test_mixed_dtypes_are_taken_as_float64() -> None:
    rng = np.random.default_rng(6)
    docs, tokens = rng.standard_normal((2, 3)).astype(np.float32), rng.standard_normal((2, 3, 4))
    for marginalize in (marginalize_sequence, marginalize_token):
        assert marginalize(docs, tokens).dtype == np.float64
        assert marginalize(docs, tokens).tolist() == marginalize(docs.astype(np.float64), tokens).tolist()


@pytest.mark.usefixtures("threads")
def test_threads_change_no_bit(dtype: type[Any]) -> None:
    """Sizes above the one from which work is shared, in many rows and in few."""
    rng = np.random.default_rng(8)
    many, few = rng.standard_normal((3001, 101)).astype(dtype), rng.standard_normal((3, 100_003)).astype(dtype)
    docs = log_softmax(rng.standard_normal((500, 5)).astype(dtype))
    tokens = rng.standard_normal((500, 5, 90)).astype(dtype)
    wide = rng.standard_normal((5, 50_265)).astype(dtype)
    results = []
    for n_threads in (1, 2, 3):
        ragfast.set_num_threads(n_threads)
        results.append(
            [
                logsumexp(many),
                logsumexp(few),
                log_softmax(many),
                log_softmax(few),
                *marginalize_sequence(docs, tokens, return_posterior=True),
                *marginalize_token(docs, tokens, return_posterior=True),
                *marginalize_token(docs[0], wide, return_posterior=True),
            ]
        )
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert found.tobytes() == expected.tobytes()


ROWS = hnp.arrays(np.float64, st.integers(1, 80), elements=st.floats(-1e3, 1e3))


@settings(max_examples=60)
@given(x=ROWS, shift=st.floats(-100, 100), seed=st.integers(0, 2**31))
def test_properties_of_logsumexp(x: Array, shift: float, seed: int) -> None:
    lse = logsumexp(x)
    slack = 1e-12 + 1e-14 * np.abs(x).max()
    assert x.max() <= lse <= x.max() + np.log(len(x)) + slack
    assert logsumexp(x + shift) == pytest.approx(lse + shift, abs=slack)
    assert logsumexp(np.random.default_rng(seed).permutation(x)) == pytest.approx(lse, abs=slack)
    assert logsumexp(log_softmax(x)) == pytest.approx(0, abs=slack)
    assert float(logsumexp(x.astype(np.float32))) == pytest.approx(lse, rel=1e-6, abs=1e-4)


@settings(max_examples=60)
@given(data=st.data(), k=st.integers(1, 9), t=st.integers(1, 9), shift=st.floats(-50, 50))
def test_properties_of_marginals(data: st.DataObject, k: int, t: int, shift: float) -> None:
    scores = data.draw(hnp.arrays(np.float64, k, elements=st.floats(-20, 20)))
    tokens = data.draw(hnp.arrays(np.float64, (k, t), elements=st.floats(-50, 0)))
    order = data.draw(st.permutations(range(k)))
    docs, shifted = log_softmax(scores), log_softmax(scores + shift)
    for marginalize, axis in ((marginalize_sequence, 0), (marginalize_token, 0)):
        logprobs, posterior = marginalize(docs, tokens, return_posterior=True)
        assert (logprobs <= 1e-12).all()
        np.testing.assert_allclose(posterior.sum(axis=axis), 1, rtol=1e-12)
        np.testing.assert_allclose(marginalize(shifted, tokens), logprobs, rtol=1e-12, atol=1e-12)
        permuted, weights = marginalize(docs[order], tokens[order], return_posterior=True)
        np.testing.assert_allclose(permuted, logprobs, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(weights, posterior[order], rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("function", [logsumexp, log_softmax])
def test_errors_of_rows(function: Any) -> None:
    with pytest.raises(TypeError, match=r"^x: expected float32 or float64 \(or float16, bfloat16\), got int64$"):
        function(np.arange(3, dtype=np.int64))
    for bad in (np.array([None, 1.0]), np.array(["a"]), np.zeros(2, bool), np.zeros(2, complex)):
        with pytest.raises(TypeError, match=rf"^x: expected float32 or float64 .*, got {bad.dtype}$"):
            function(bad)
    with pytest.raises(ValueError, match=r"^axis: expected -2 to 1 for shape \(3, 4\), got 2$"):
        function(np.zeros((3, 4)), 2)
    with pytest.raises(ValueError, match=r"^axis: expected -1 to 0 for shape \(3,\), got -2$"):
        function(np.zeros(3), axis=-2)
    with pytest.raises(TypeError, match=r"^axis: expected an integer, got float$"):
        function(np.zeros(3), axis=0.0)
    with pytest.raises(TypeError, match=r"^axis: expected an integer, got NoneType$"):
        function(np.zeros(3), axis=None)
    with pytest.raises(ValueError, match=r"^x: expected at least one axis, got shape \(\)$"):
        function(np.float32(3))


@pytest.mark.parametrize("marginalize", [marginalize_sequence, marginalize_token])
def test_errors_of_marginals(marginalize: Any) -> None:
    with pytest.raises(TypeError, match=r"^doc_logprobs: expected float32 or float64 .*, got int64$"):
        marginalize(np.zeros(2, np.int64), np.zeros((2, 3)))
    with pytest.raises(TypeError, match=r"^token_logprobs: expected float32 or float64 .*, got object$"):
        marginalize(np.zeros(2), np.full((2, 3), None))
    for shape in [(3, 3), (2,), (), (1, 2, 3), (2, 3, 4)]:
        with pytest.raises(ValueError, match=r"^token_logprobs: expected shape \(2, T\), as doc_log") as caught:
            marginalize(np.zeros(2), np.zeros(shape))
        assert str(caught.value).endswith(f"doc_logprobs has shape (2,), got {shape}")
    with pytest.raises(ValueError, match=r"^token_logprobs: expected shape \(4, 2, T\), .* \(4, 2\), got \(5, 2, 3\)$"):
        marginalize(np.zeros((4, 2)), np.zeros((5, 2, 3)))
    with pytest.raises(ValueError, match=r"^doc_logprobs: expected shape \(\.\.\., K\), got \(\)$"):
        marginalize(np.float64(0), np.zeros(3))
    with pytest.raises(ValueError, match=r"^doc_logprobs: expected at least one document .*, got shape \(2, 0\)$"):
        marginalize(np.zeros((2, 0)), np.zeros((2, 0, 3)))
