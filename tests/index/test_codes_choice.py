"""Which quantizer is chosen. It moves no result, only what a search costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from ragfast import FlatIndex
from ragfast.index import quantizer
from ragfast.index.quantizer import Quantizer


def normal(shape: tuple[int, ...], seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("decay", "led"), [(1000.0, False), (12.0, True)])
def test_principal_components_are_looked_for_where_they_may_lead(
    decay: float, led: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dim, looked = 128, []
    docs = normal((20_000, dim)) * np.exp(-np.arange(dim) / decay).astype(np.float32)
    principal = quantizer._principal
    monkeypatch.setattr(quantizer, "_principal", lambda *given: looked.append(given) or principal(*given))
    made = Quantizer.choose(len(docs), dim, lambda numbers: docs[numbers])
    assert bool(looked) == led
    assert (made.prefix > 0) == (made.rotation is not None) == led


@given(st.integers(1, 100), st.floats(0, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_leading_components_are_never_missed(rank: int, power: float, seed: int) -> None:
    """Of rows that are their own population, whose energies are then known."""
    dim, rng = 96, np.random.default_rng(seed)
    spread = np.arange(1.0, dim + 1) ** -power * (np.arange(dim) < rank)
    rows = rng.standard_normal((2000, dim)) * spread
    energies = np.sort(spread**2)[::-1]
    if energies[: dim // 2].sum() > 1.05 * quantizer._LEADING * energies.sum():
        assert quantizer._may_lead(rows)
    assert not quantizer._may_lead(rng.standard_normal((2000, dim)))


def test_lengths_beyond_each_prefix() -> None:
    x = normal((7, 150))
    expected = np.stack([np.linalg.norm(x[:, first:], axis=1) for first in range(0, 150, 32)], axis=1)
    np.testing.assert_allclose(quantizer._lengths_beyond(x), expected, rtol=1e-6)


def chosen(docs: NDArray[np.float32], current: Quantizer | None = None) -> Quantizer:
    return Quantizer.choose(len(docs), docs.shape[1], lambda numbers: docs[numbers], current=current)


def test_a_quantizer_stays_while_it_is_nearly_as_good() -> None:
    lifted = normal((4000, 64)) + 3
    first = chosen(lifted)
    assert first.center is not None
    assert chosen(lifted, first) is first
    assert chosen(normal((4000, 64), 2) + 3, first) is first  # of other means, but nearly the same
    assert chosen(lifted, Quantizer()).center is not None
    other = chosen(lifted * -1, first)
    assert other is not first
    assert other.center is not None
    np.testing.assert_allclose(other.center, -first.center)


def test_codes_are_made_again_where_documents_are_no_longer_those_of_the_quantizer() -> None:
    alike, unlike = normal((40_000, 32)), normal((40_000, 32), 3) + 20
    index, quantizers, buffers = FlatIndex(32), [], []
    for first in range(0, 16_000, 2000):
        index.add(alike[first : first + 2000])
        quantizers.append(index._writer._quantizer)
        buffers.append(index.snapshot()._segments[-1].buffers)
    assert all(other is quantizers[0] for other in quantizers)
    assert all(b.quantizer is quantizers[0] for b in buffers)
    index.add(unlike)
    last = index.snapshot()._segments[-1].buffers
    assert index._writer._quantizer is not quantizers[0]
    assert last.quantizer is index._writer._quantizer
    assert last.quantizer.center is not None
