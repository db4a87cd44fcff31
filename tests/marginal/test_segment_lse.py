"""Log-sum-exp by key against the same sums in extended precision, at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import CANCELLED, LEVELS, MOST_ULPS, layouts, lse_terms
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

import ragfast
from ragfast import log_softmax, logsumexp, segment_logsumexp

Array = NDArray[Any]

pytestmark = LEVELS


def assert_close(found: Array, x: Array, keys: Array) -> None:
    """(n_keys,) of x and keys (n,)."""
    for key, value in enumerate(found):
        segment = x[keys == key]
        exact = sum(lse_terms(segment)) if segment.size else -np.longdouble(np.inf)
        if not np.isfinite(exact):
            assert np.array_equal(value, exact.astype(x.dtype), equal_nan=True)
            continue
        terms = np.abs(x[(keys == key) & np.isfinite(x)]).max()
        allowed = MOST_ULPS[x.dtype.type] * np.spacing(np.abs(exact).astype(x.dtype)) + CANCELLED * max(1.0, terms)
        assert abs(value.astype(np.longdouble) - exact) <= allowed, (key, value, exact)


@pytest.mark.parametrize(("n", "n_keys"), [(0, 3), (1, 1), (5, 2), (255, 7), (257, 1), (1000, 300), (5000, 4)])
def test_accuracy(dtype: type[Any], n: int, n_keys: int) -> None:
    rng = np.random.default_rng(n)
    normal = rng.standard_normal(n)
    keys = rng.integers(-1, n_keys, n)
    kinds = {
        "votes": 3 * normal,
        "wide": 300 * normal,
        "far": 1e4 + normal,
        "equal": np.full(n, 0.1),
        "one ahead": np.where(np.arange(n) % 50 == 3, 0.0, -40 + normal),
        "missing": np.where(rng.random(n) < 0.7, -np.inf, normal),
        "nothing": np.full(n, -np.inf),
        "infinities": np.where(rng.random(n) < 0.01, np.inf, normal),
        "huge": normal * (float(np.finfo(dtype).max) / 10),
        "tiny": normal * float(np.finfo(dtype).tiny),
    }
    for x in kinds.values():
        found = segment_logsumexp(x.astype(dtype), keys, n_keys)
        assert found.shape == (n_keys,)
        assert found.dtype == dtype
        assert_close(found, x.astype(dtype), keys)


def test_many_equal_terms() -> None:
    """300,000 terms of which a plain sum is off by hundreds of units in the last place."""
    x = np.full(300_001, np.log(0.1))
    x[0] = 0
    assert_close(segment_logsumexp(x, np.zeros(len(x), int), 1), x, np.zeros(len(x), int))


def test_nan_stays_with_its_key(dtype: type[Any]) -> None:
    x = np.array([0.0, np.nan, 1.0, np.inf, np.nan, 5.0, np.nan, -np.inf], dtype)
    keys = np.array([0, 1, 1, 2, 2, 3, -1, 4])
    found = segment_logsumexp(x, keys, 6)
    np.testing.assert_array_equal(found, [0, np.nan, np.nan, 5, -np.inf, -np.inf])


def test_one_key_is_logsumexp(dtype: type[Any]) -> None:
    x = np.random.default_rng(1).standard_normal((3, 4, 700)).astype(dtype)
    found = segment_logsumexp(x, np.zeros(x.shape, int), 1)
    np.testing.assert_allclose(found[..., 0], logsumexp(x), rtol=4 * np.finfo(dtype).eps)


def test_without_n_keys(dtype: type[Any]) -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0], dtype)
    keys, found = segment_logsumexp(x, [2**62, -7, 5, 2**62, -7])
    assert keys.dtype == np.int64
    assert keys.tolist() == [-7, 5, 2**62]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, [np.logaddexp(1, 4), 2, np.logaddexp(0, 3)], rtol=1e-6)
    for nothing in ([], np.empty(0, np.int64)):
        keys, found = segment_logsumexp(x[:0], nothing)
        assert (keys.tolist(), found.tolist()) == ([], [])
        assert (keys.dtype, found.dtype) == (np.int64, dtype)


def test_knn_lm_votes() -> None:
    """p(y) = sum of softmax(-distance) over the neighbours that vote y, beside kNN-LM's -10000 for the others."""
    distances, votes = np.array([[1.0, 2.0, 2.5, 7.0]]), np.array([[4, 0, 4, 1]])
    log_p = segment_logsumexp(log_softmax(-distances), votes, 6)
    weights = np.exp(-distances[0]) / np.exp(-distances[0]).sum()
    np.testing.assert_allclose(np.exp(log_p), [[weights[1], weights[3], 0, 0, weights[0] + weights[2], 0]], rtol=1e-14)
    np.testing.assert_allclose(logsumexp(log_p), 0, atol=1e-15)
    as_published = logsumexp(log_softmax(-distances) + np.where(votes == 4, 0, -10000.0))
    np.testing.assert_allclose(log_p[:, 4], as_published, rtol=1e-14)


def test_equal_hypotheses_of_fast_decoding() -> None:
    hypotheses = [("a", "b"), ("c",), ("a", "b"), ("c",), ("d",)]
    names = list(dict.fromkeys(hypotheses))
    keys, found = segment_logsumexp(np.log([0.1, 0.2, 0.3, 0.05, 0.35]), [names.index(h) for h in hypotheses])
    assert [names[key] for key in keys] == names
    np.testing.assert_allclose(np.exp(found), [0.4, 0.25, 0.35], rtol=1e-14)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", [(40, 5000, 30), (3, 1000, 50_265), (600, 500, 70)])
def test_threads_change_no_bit(shape: tuple[int, int, int]) -> None:
    n_rows, n, n_keys = shape
    rng = np.random.default_rng(2)
    x, keys = rng.standard_normal((n_rows, n)), rng.integers(0, n_keys, (n_rows, n))
    expected = segment_logsumexp(x, keys, n_keys, n_threads=1).tobytes()
    assert segment_logsumexp(x, keys, n_keys, n_threads=3).tobytes() == expected
    ragfast.set_num_threads(2)
    assert segment_logsumexp(x, keys, n_keys).tobytes() == expected
    with pytest.raises(ValueError, match=r"^n_threads: expected 1 or more, got 0$"):
        segment_logsumexp(x, keys, n_keys, n_threads=0)


def test_layouts(dtype: type[Any]) -> None:
    rng = np.random.default_rng(3)
    x, keys = rng.standard_normal((2, 3, 50)).astype(dtype), rng.integers(0, 9, (2, 3, 50))
    expected = segment_logsumexp(x, keys, 9)
    assert expected.shape == (2, 3, 9)
    for layout in layouts(x).values():
        assert segment_logsumexp(layout, keys, 9).tobytes() == expected.tobytes()
    strided_keys = np.repeat(keys, 2, axis=-1)[..., ::2]
    for other_keys in (strided_keys, np.asfortranarray(keys), keys.astype(np.uint8), keys.astype(">i4"), keys.tolist()):
        assert segment_logsumexp(x, other_keys, 9).tobytes() == expected.tobytes()
    assert segment_logsumexp(x[1, 2], keys[1, 2], 9).tobytes() == expected[1, 2].tobytes()
    assert segment_logsumexp(x[:0], keys[:0], 9).shape == (0, 3, 9)
    assert segment_logsumexp(x.astype(np.float16), keys, 9).dtype == np.float32


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 600), n_keys=st.integers(1, 50), scale=st.floats(0.01, 100))
def test_properties(seed: int, n: int, n_keys: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, keys = scale * rng.standard_normal(n), rng.integers(0, n_keys, n)
    found = segment_logsumexp(x, keys, n_keys)
    slack = 1e-14 * (10 + 6 * scale)
    assert logsumexp(found) == pytest.approx(logsumexp(x), abs=slack)  # nothing is lost
    order = rng.permutation(n)
    np.testing.assert_allclose(segment_logsumexp(x[order], keys[order], n_keys), found, rtol=0, atol=slack)
    distinct, values = segment_logsumexp(x, keys)
    assert distinct.tolist() == np.unique(keys).tolist()
    assert values.tobytes() == found[distinct].tobytes()


def test_errors() -> None:
    x, keys = np.zeros(3), np.zeros(3, int)
    with pytest.raises(TypeError, match=r"^x: expected float32 or float64 \(or .*\), got int64$"):
        segment_logsumexp(keys, keys, 2)
    for bad in (np.zeros(3), np.zeros(3, bool), np.array(["a"] * 3)):
        with pytest.raises(TypeError, match=rf"^keys: expected integers, got {bad.dtype}$"):
            segment_logsumexp(x, bad, 2)
    with pytest.raises(ValueError, match=r"^keys: expected shape \(3,\), that of x, got \(4,\)$"):
        segment_logsumexp(x, np.zeros(4, int), 2)
    with pytest.raises(ValueError, match=r"^keys: expected less than n_keys, 2, got 5$"):
        segment_logsumexp(x, [0, 5, 1], 2)
    with pytest.raises(ValueError, match=r"^keys: expected less than 2\*\*63, got 9223372036854775808$"):
        segment_logsumexp(x, np.array([0, 2**63, 1], np.uint64), 2)
    with pytest.raises(
        ValueError, match=r"^n_keys: expected a number for x of shape \(2, 3\); without it x is \(n,\)$"
    ):
        segment_logsumexp(np.zeros((2, 3)), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"^x: expected at least one axis, got shape \(\)$"):
        segment_logsumexp(np.float64(0), np.int64(0), 2)
    with pytest.raises(ValueError, match=r"^n_keys: expected 1 or more, got 0$"):
        segment_logsumexp(x, keys, 0)
    with pytest.raises(TypeError, match=r"^n_keys: expected an integer of 1 or more, got float$"):
        segment_logsumexp(x, keys, 2.0)  # type: ignore[call-overload]
