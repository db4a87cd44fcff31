"""Formulas that the tests of ragfast.rag.methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def softmax(x: Array) -> Array:
    weights: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def differences(loss: Callable[[Array], Any], at: Array, step: float = 1e-5) -> Array:
    """The gradient of a loss by central differences."""
    out = np.empty_like(at)
    for place in np.ndindex(at.shape):
        moved = at.copy()
        moved[place] += step
        above = float(np.sum(loss(moved)))
        moved[place] -= 2 * step
        out[place] = (above - float(np.sum(loss(moved)))) / (2 * step)
    return out
