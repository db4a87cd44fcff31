"""log p(y_t) from logits against extended precision, at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import LEVELS, error_in_ulps, rows
from logit_types import MOST_ULPS, cast, result_type
from nll_oracle import lse
from numpy.typing import NDArray

from ragfast import target_logprobs

Array = NDArray[Any]

pytestmark = LEVELS


LEADS = (3, 8, 12, 16, 20, 30, 60, 100)
SIZES = [*range(1, 40), 63, 64, 65, 127, 1000, 4095, 8200, 50265, 300_000]


def test_accuracy_of_target_logprobs(isa: str, kind: str) -> None:
    """log p(y) for the likeliest target, one in the middle and one at random, within 2 ulp of the exact value."""
    rng = np.random.default_rng(7)
    worst, compared = (0.0, ""), 0
    for n in SIZES:
        ahead = np.arange(n) == n // 2
        near_0 = {f"{lead} ahead": np.where(ahead, lead, rng.standard_normal(n) - 3) for lead in LEADS}
        huge = {
            "1e38": np.where(rng.random(n) < 0.5, 1e38, -1e38),
            "one huge": np.where(ahead, 1e38, rng.standard_normal(n)),
        }
        for name, row in (rows(n, result_type(kind), rng) | near_0 | huge).items():
            x = cast(row, kind)
            exact_x = x.astype(np.longdouble)
            top = int(np.argmax(x))
            targets = [top, n // 2, int(rng.integers(n))]
            found = target_logprobs(np.broadcast_to(x, (3, n)), targets)
            assert found.dtype == result_type(kind)
            peak = exact_x[top]
            if not np.isfinite(peak):  # 16 bits overflow; or nothing is possible
                continue
            rest = np.log1p(np.exp(np.delete(exact_x, top) - peak).sum())
            for target, logprob in zip(targets, found, strict=True):
                exact = exact_x[target] - peak - rest
                with np.errstate(over="ignore"):
                    if not np.isfinite(exact.astype(found.dtype)):
                        assert logprob == -np.inf
                        continue
                error = error_in_ulps(logprob, exact)
                compared += 1
                worst = max(worst, (error, f"{name}, {n} values, target {target}"))
    print(f"{isa} {kind} target_logprobs: largest error {worst[0]:.3f} ulp ({worst[1]})")
    assert compared > 1000
    assert worst[0] <= MOST_ULPS[kind], worst[1]


def test_infinities_and_nan_in_logits(kind: str) -> None:
    for n in (1, 2, 5, 33, 5000):
        x = np.zeros(n)
        for at in {0, n // 2, n - 1}:
            x[:] = -np.inf
            x[at] = 3
            others = [(at + 1) % n] if n > 1 else []
            assert target_logprobs(cast(x, kind), at) == 0
            assert all(target_logprobs(cast(x, kind), other) == -np.inf for other in others)
            x[:] = 1
            x[at] = np.nan
            assert all(np.isnan(target_logprobs(cast(x, kind), target)) for target in (at, *others))
            x[at] = np.inf
            assert np.isnan(target_logprobs(cast(x, kind), at))
            assert all(target_logprobs(cast(x, kind), other) == -np.inf for other in others)
        assert target_logprobs(cast(np.full(n, -np.inf), kind), 0) == -np.inf


def test_sums_over_the_vocabulary(kind: str) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 31, 33, 1000, 50_265):
        x = cast(3 * rng.standard_normal((2, 3, n)), kind)
        targets = rng.integers(0, n, (2, 3))
        found, sums = target_logprobs(x, targets, return_sums=True)
        assert found.tolist() == target_logprobs(x, targets).tolist()
        extended = x.astype(np.longdouble)
        exact = (extended - lse(extended, 2)[..., None]).sum(axis=2).astype(float)
        assert sums.dtype == result_type(kind)
        np.testing.assert_allclose(sums, exact, rtol=1e-13 if kind == "float64" else 5e-7, atol=1e-12)


def test_targets_broadcast() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((2, 3, 4, 9)), rng.integers(0, 9, (2, 1, 4))
    full = target_logprobs(logits, np.repeat(targets, 3, axis=1))
    assert full.shape == (2, 3, 4)
    assert target_logprobs(logits, targets).tolist() == full.tolist()
    assert target_logprobs(logits[0], targets[0]).tolist() == full[0].tolist()
    assert target_logprobs(logits[0], targets[0, 0].tolist()).tolist() == full[0].tolist()
    one = target_logprobs(logits[1, 2, 3], targets[1, 0, 3])
    assert type(one) is np.float64
    assert one == full[1, 2, 3]
    ignoring = np.where(targets == targets[0, 0, 0], -1, targets)
    found, sums = target_logprobs(logits, ignoring, ignore_index=-1, return_sums=True)
    assert found.tolist() == np.where(ignoring == -1, 0, full).tolist()
    assert ((sums == 0) == (np.broadcast_to(ignoring, sums.shape) == -1)).all()
    for dtype in (np.uint8, np.int8, np.uint64, np.int16, ">i4"):
        assert target_logprobs(logits, targets.astype(dtype)).tolist() == full.tolist()
    assert target_logprobs(np.empty((0, 3)), np.empty(0, np.int32)).shape == (0,)
    assert target_logprobs(np.empty((2, 0, 3)), [[], []]).shape == (2, 0)


def test_errors_of_target_logprobs() -> None:
    for logits, targets, error, message in (
        (np.zeros(()), 0, ValueError, r"logits: expected shape \(\.\.\., T, V\) with V of 1 or more, got \(\)"),
        (np.zeros((2, 0)), [0, 0], ValueError, r"logits: .* got \(2, 0\)"),
        (np.zeros((2, 3), bool), [0, 0], TypeError, "logits: expected float32, .* got bool"),
        (np.zeros((2, 3)), [0, 0, 0], ValueError, r"targets: expected shape \(2,\) or what broadcasts .* got \(3,\)"),
        (np.zeros((2, 3)), [[0, 0]], ValueError, r"targets: expected shape \(2,\) .* got \(1, 2\)"),
        (np.zeros((2, 3)), [0, 3], ValueError, r"targets: expected 0 to 2, as V is 3, got 3 at \(1,\)"),
        (np.zeros((2, 3)), [0.0, 1.0], TypeError, "targets: expected integers, got float64"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            target_logprobs(logits, targets)
