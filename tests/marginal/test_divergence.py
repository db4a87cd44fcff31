"""KL divergence of temperature softmaxes against its definition in extended precision, at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import LEVELS, layouts
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

import ragfast
from ragfast import kl_divergence

Array = NDArray[Any]
DIRECTIONS = ["forward", "reverse"]

pytestmark = LEVELS


def exact_log_softmax(x: Array, temperature: float) -> Array:
    scaled = x.astype(np.longdouble) / np.longdouble(temperature)
    top = scaled.max(axis=-1, keepdims=True)
    log_sum: Array = np.log(np.exp(scaled - top).sum(axis=-1, keepdims=True))
    return scaled - top - log_sum


def exact_kl(p: Array, q: Array, p_temperature: float = 1.0, q_temperature: float = 1.0) -> Array:
    """sum_j P (log P - log Q) by its definition; columns that P has not are left out."""
    log_p, log_q = exact_log_softmax(p, p_temperature), exact_log_softmax(q, q_temperature)
    with np.errstate(invalid="ignore"):
        terms: Array = np.where(p == -np.inf, 0, np.exp(log_p) * (log_p - log_q))
    return terms.sum(axis=-1)


def exact_near_kl(p: Array, q: Array) -> Array:
    """The same where P and Q are close: as both sum to 1, sum_j P (d + e^-d - 1), d = log P - log Q."""
    log_p = exact_log_softmax(p, 1.0)
    d = log_p - exact_log_softmax(q, 1.0)
    terms: Array = np.exp(log_p) * (d + np.expm1(-d))
    return terms.sum(axis=-1)


def kl(direction: str, scores: Array, target: Array, **options: Any) -> Any:
    return kl_divergence(scores, target, direction=direction, **options)  # type: ignore[call-overload]


def exact(direction: str, scores: Array, target: Array, temperature: float, target_temperature: float) -> Array:
    if direction == "forward":
        return exact_kl(target, scores, target_temperature, temperature)
    return exact_kl(scores, target, temperature, target_temperature)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("k", [1, 2, 5, 31, 64, 100, 3001])
@pytest.mark.parametrize(("temperature", "target_temperature"), [(1.0, 1.0), (0.01, 0.01), (0.3, 7.0)])
def test_value(direction: str, k: int, temperature: float, target_temperature: float) -> None:
    rng = np.random.default_rng(k)
    scores, target = rng.standard_normal((2, 3, 4, k)) * np.array([[0.1], [1.0], [5.0], [50.0]])
    given: dict[str, Any] = {"temperature": temperature, "target_temperature": target_temperature}
    found = kl(direction, scores, target, reduction="none", **given)
    expected = exact(direction, scores, target, **given)
    assert found.shape == (3, 4)
    assert found.dtype == np.float64
    assert (found >= 0).all()
    # Quotients are rounded before they are compared, by as much as this.
    largest = max(np.abs(scores).max() / temperature, np.abs(target).max() / target_temperature)
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-13, atol=4e-16 * largest)
    narrow = kl(direction, scores.astype(np.float32), target.astype(np.float32), reduction="none", **given)
    wide = kl(direction, scores.astype(np.float32).astype(float), target.astype(np.float32).astype(float), **given)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow.sum(dtype=float) / 12, wide, rtol=1e-6)
    mixed = kl(direction, scores.astype(np.float32), target, **given)
    assert type(mixed) is np.float64


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_nearly_equal_distributions(direction: str, distance: float) -> None:
    """The definition, in float64, has an error of about 1e-16 whatever the divergence, and says less than 0."""
    rng = np.random.default_rng(1)
    scores = 3 * rng.standard_normal((50, 20))
    target = scores + distance * rng.standard_normal((50, 20))

    def reference(given: Array) -> Array:
        return exact_near_kl(given, scores) if direction == "forward" else exact_near_kl(scores, given)

    found, grad = kl(direction, scores, target, reduction="none", return_grad=True)
    exact_values = reference(target)
    np.testing.assert_allclose(exact_values, exact(direction, scores, target, 1.0, 1.0), rtol=0, atol=1e-18)
    errors = np.abs(found / exact_values - 1)
    print(f"largest error of kl_divergence at a distance of {distance}: {float(errors.max()):.1e}, relatively")
    assert errors.max() < 3e-15 + 1e-17 / distance
    log_p, log_q = exact_log_softmax(scores, 1.0), exact_log_softmax(target, 1.0)
    exact_grad = np.exp(log_p) - np.exp(log_q)
    if direction == "reverse":
        exact_grad = np.exp(log_p) * (log_p - log_q - exact_values[:, None])
    errors = np.abs(grad - exact_grad).max(axis=1) / np.abs(log_p - log_q).max(axis=1)
    assert errors.max() < 1e-15 + 1e-17 / distance
    for shifted in (target + 1000, target - 1000):  # which rounds the targets, so the exact divergence is another
        found = kl(direction, scores, shifted, reduction="none")
        assert np.abs(found / reference(shifted) - 1).max() < 1e-14 / distance
        assert (found >= 0).all()


def test_far_beyond_extended_precision() -> None:
    """KL(P || Q) = sum_j P d^2 / 2 (1 + O(d)) for Q = P e^d / sum: a reference without cancellation."""
    rng = np.random.default_rng(2)
    scores, direction = 3 * rng.standard_normal(20), rng.standard_normal(20)
    weights = np.exp(exact_log_softmax(scores, 1.0))
    for distance in (1e-7, 1e-9, 1e-11):
        target = scores + distance * direction
        d = target.astype(np.longdouble) - scores
        d -= (weights * d).sum()
        assert kl_divergence(scores, target) == pytest.approx(
            float((weights * d**2).sum() / 2), rel=20 * distance + 1e-14
        )
    assert kl_divergence(scores, scores) == 0


def test_two_documents_by_hand() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.75, 0.25])
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert kl_divergence(np.log(p), np.log(q)) == pytest.approx(expected, rel=1e-14)
    assert kl("reverse", np.log(p), np.log(q)) == pytest.approx(0.5 * np.log(2 / 3) + 0.5 * np.log(2), rel=1e-14)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reduction", ["none", "sum", "batchmean", "mean"])
def test_gradient_and_reductions(direction: str, reduction: str) -> None:
    rng = np.random.default_rng(3)
    scores, target = rng.standard_normal((2, 2, 3, 5))
    given: dict[str, Any] = {"temperature": 0.7, "target_temperature": 1.9, "reduction": reduction}
    loss, grad = kl(direction, scores, target, return_grad=True, **given)
    assert np.array_equal(loss, kl(direction, scores, target, **given))
    rows = exact(direction, scores, target, 0.7, 1.9)
    expected = {"none": rows, "sum": rows.sum(), "batchmean": rows.sum() / 6, "mean": rows.sum() / 30}[reduction]
    np.testing.assert_allclose(loss, np.asarray(expected, float), rtol=1e-13)
    assert grad.shape == scores.shape
    np.testing.assert_allclose(grad.sum(axis=-1), 0, atol=1e-15)  # a shift of all scores changes nothing
    step = 1e-4
    for at in np.ndindex(scores.shape):
        there, back = scores.copy(), scores.copy()
        there[at] += step
        back[at] -= step
        slope = (
            (np.sum(kl(direction, there, target, **given)) - np.sum(kl(direction, back, target, **given))) / 2 / step
        )
        assert grad[at] == pytest.approx(slope, rel=1e-6, abs=1e-9)
    narrow, narrow_grad = kl(direction, scores.astype(np.float32), target.astype(np.float32), return_grad=True, **given)
    assert narrow.dtype == narrow_grad.dtype == np.float32
    np.testing.assert_allclose(narrow_grad, grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_missing_documents(direction: str) -> None:
    rng = np.random.default_rng(4)
    scores, target = rng.standard_normal((2, 3, 6))
    without, without_grad = kl(direction, scores, target, reduction="none", return_grad=True)
    hole = np.full((3, 1), -np.inf)
    for at in (0, 3, 6):
        loss, grad = kl(
            direction,
            np.hstack([scores[:, :at], hole, scores[:, at:]]),
            np.hstack([target[:, :at], hole, target[:, at:]]),
            reduction="none",
            return_grad=True,
        )
        np.testing.assert_allclose(loss, without, rtol=1e-13)
        assert (grad[:, at] == 0).all()
        np.testing.assert_allclose(np.delete(grad, at, axis=1), without_grad, rtol=1e-12, atol=1e-15)


def test_a_document_of_probability_zero() -> None:
    some, all_there = np.array([0.3, -np.inf, -0.2]), np.array([0.1, 0.2, 0.3])
    log_target = exact_log_softmax(all_there, 1.0)
    # The scores' distribution lacks what the target has: infinite, but the gradient pulls towards the target as ever.
    loss, grad = kl_divergence(some, all_there, return_grad=True)
    assert loss == np.inf
    np.testing.assert_allclose(
        grad, (np.exp(exact_log_softmax(some, 1.0)) - np.exp(log_target)).astype(float), rtol=1e-14
    )
    # The scores' distribution lacks it, and the divergence is taken from that: finite.
    loss, grad = kl("reverse", some, all_there, return_grad=True)
    assert loss == pytest.approx(float(exact_kl(some, all_there)), rel=1e-13)
    assert grad[1] == 0
    # The target lacks it.
    assert kl_divergence(all_there, some) == pytest.approx(float(exact_kl(some, all_there)), rel=1e-13)
    loss, grad = kl("reverse", all_there, some, return_grad=True)
    assert loss == np.inf
    assert np.isnan(grad).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_that_are_no_distribution(direction: str) -> None:
    fine = np.array([0.0, 1.0, 2.0])
    for bad in ([-np.inf] * 3, [0.0, np.nan, 0.0], [0.0, np.inf, 0.0], [np.nan, -np.inf, 0.0]):
        for scores, target in ((fine, np.array(bad)), (np.array(bad), fine), (np.array(bad), np.array(bad))):
            loss, grad = kl(
                direction, np.stack([scores, fine]), np.stack([target, fine]), reduction="none", return_grad=True
            )
            assert np.isnan(loss).tolist() == [True, False]
            assert np.isnan(grad).all(axis=1).tolist() == [True, False]
            assert loss[1] == 0


def test_far_apart() -> None:
    """Magnitudes at which rounding p - q would leave nothing, and probabilities that underflow."""
    p, q = np.array([1e20, 1e20, -1e20]), np.array([1.0, 0.0, 1.0])
    expected = float(exact_kl(np.array([0.0, 0.0, -1e5]), q))
    assert kl("reverse", p, q) == pytest.approx(expected, rel=1e-13)
    assert kl("reverse", np.array([0.0, -2000.0]), np.array([-2000.0, 0.0])) == 2000
    assert kl("reverse", np.array([1e308, 1e308]), np.array([-1e308, -1e308])) == 0
    assert kl("reverse", np.array([1e308, -1e308]), np.array([-1e308, 1e308])) == np.inf
    assert kl("reverse", np.array([0.0, 1.0]), np.array([5.0, 7.0]), temperature=1e-3, target_temperature=1e4) > 0


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [(900, 50), (30, 1501), (3000, 100)])
def test_threads_change_no_bit(direction: str, shape: tuple[int, int]) -> None:
    scores, target = np.random.default_rng(5).standard_normal((2, *shape))
    given: dict[str, Any] = {"temperature": 0.5, "reduction": "none", "return_grad": True}
    results = []
    for n_threads in (1, 2, 3, None):
        ragfast.set_num_threads(2 if n_threads is None else 1)
        results.append([a.tobytes() for a in kl(direction, scores, target, n_threads=n_threads, **given)])
    assert results[1:] == results[:1] * 3


def test_layouts() -> None:
    scores, target = np.random.default_rng(6).standard_normal((2, 3, 4, 7))
    expected, expected_grad = kl_divergence(scores, target, return_grad=True)
    for layout in (*layouts(scores).values(), scores.tolist()):
        loss, grad = kl_divergence(layout, target, return_grad=True)
        assert loss == expected
        assert grad.tobytes() == expected_grad.tobytes()
        assert kl_divergence(target, layout) == kl_divergence(target, scores)
    half = scores.astype(np.float16)
    assert kl_divergence(half, half) == 0
    assert kl_divergence(half, half).dtype == np.float32
    one = kl_divergence(scores[0, 0], target[0, 0], reduction="none")
    assert type(one) is np.float64
    assert one == kl_divergence(scores, target, reduction="none")[0, 0]


def test_no_rows() -> None:
    none = np.empty((0, 3))
    assert kl_divergence(none, none, reduction="sum") == 0
    for reduction in ("batchmean", "mean"):
        loss, grad = kl_divergence(none, none, reduction=reduction, return_grad=True)  # type: ignore[call-overload]
        assert np.isnan(loss)
        assert grad.shape == (0, 3)
    assert kl_divergence(none, none, reduction="none").shape == (0,)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(1, 40),
    scale=st.floats(0.01, 30),
    shift=st.floats(-50, 50),
    temperature=st.floats(0.1, 10),
)
def test_properties(seed: int, k: int, scale: float, shift: float, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    scores, target = scale * rng.standard_normal((2, k))
    given = {"temperature": temperature, "target_temperature": temperature}
    for direction in DIRECTIONS:
        loss = kl(direction, scores, target, **given)
        slack = 1e-14 * (10 + (abs(shift) + 6 * scale) / temperature)
        assert loss >= 0
        assert kl(direction, scores + shift, target, **given) == pytest.approx(loss, rel=1e-12, abs=slack)
        assert kl(direction, scores / temperature, target / temperature) == pytest.approx(loss, rel=1e-12, abs=slack)
        assert kl(direction, scores, scores, **given) == 0
    assert kl("forward", scores, target) == kl("reverse", target, scores)


def test_errors() -> None:
    x = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"^scores: expected float32 or float64 \(or .*\), got int64$"):
        kl_divergence(np.zeros((2, 3), np.int64), x)
    with pytest.raises(TypeError, match=r"^target_scores: expected float32 or float64 \(or .*\), got bool$"):
        kl_divergence(x, np.zeros((2, 3), bool))
    for shape in ((), (0,), (2, 0)):
        with pytest.raises(ValueError, match=r"^scores: expected shape \(\.\.\., K\) with K of 1 or more, got"):
            kl_divergence(np.zeros(shape), np.zeros(shape))
    with pytest.raises(ValueError, match=r"^target_scores: expected shape \(2, 3\), that of scores, got \(3,\)$"):
        kl_divergence(x, np.zeros(3))
    with pytest.raises(ValueError, match=r'^direction: expected "forward" or "reverse", got \'backward\'$'):
        kl("backward", x, x)
    with pytest.raises(ValueError, match=r'^reduction: expected "none", "sum", "batchmean" or "mean", got None$'):
        kl("forward", x, x, reduction=None)
    with pytest.raises(ValueError, match=r"^direction: expected .*, got array"):
        kl(np.zeros(2), x, x)
    with pytest.raises(ValueError, match=r"^n_threads: expected 1 or more, got 0$"):
        kl_divergence(x, x, n_threads=0)
    for bad in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"^temperature: expected a finite number above 0, got"):
            kl_divergence(x, x, temperature=bad)
        with pytest.raises(ValueError, match=r"^target_temperature: expected a finite number above 0, got"):
            kl_divergence(x, x, target_temperature=bad)
