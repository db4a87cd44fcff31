"""Weights of the toy retriever and generator: how they are drawn and kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays

EITHER_FLOAT = (arrays.FLOAT, arrays.DOUBLE)


def draw(rng: np.random.Generator | None, *shape: int) -> NDArray[np.float64]:
    """0.01 times a standard normal, from rng or from NumPy's global generator (what ``np.random.seed`` seeds)."""
    return 0.01 * (np.random.randn(*shape) if rng is None else rng.standard_normal(shape))


def keep(value: arrays.ArrayLike, name: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A read-only float64 copy, so that nobody changes weights behind what was derived from them."""
    given = arrays.as_array(value, name)
    if given.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {given.shape}")
    if given.dtype.num not in EITHER_FLOAT:
        raise TypeError(f"{name}: expected float32 or float64, got {given.dtype}")
    arrays.refuse_nonfinite(given, name)
    kept = np.array(given, dtype=np.float64, order="C")
    kept.flags.writeable = False
    return kept
