"""Reference values in extended precision, rows to try, and layouts in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]

LEVELS = pytest.mark.usefixtures("isa")
if np.finfo(np.longdouble).eps > 1e-18:
    LEVELS = pytest.mark.skip(reason="no extended precision here to calculate reference values in")

# What the header promises, and what it allows if the maximum and the logarithm of the sum cancel.
MOST_ULPS = {np.float32: 2.0, np.float64: 4.0}
CANCELLED = 4e-16


def lse_terms(x: Array) -> tuple[Any, Any]:
    """The maximum of a row and log(sum exp(x - maximum)), apart so that neither drowns the other."""
    extended = x.astype(np.longdouble)
    top = extended.max()
    if not np.isfinite(top):
        return top, np.longdouble(0)
    return top, np.log1p(np.exp(np.delete(extended, extended.argmax()) - top).sum())


def error_in_ulps(found: Any, exact: Any, terms: Any = 0.0) -> float:
    """The largest error in units in the last place of the exact value, minus what cancelling `terms` allow."""
    found = np.asarray(found)
    rounded = np.abs(np.asarray(exact).astype(found.dtype))
    unit = np.maximum(rounded - np.nextafter(rounded, 0), np.finfo(found.dtype).smallest_subnormal)
    error = np.abs(found.astype(np.longdouble) - exact)
    allowed = CANCELLED * np.maximum(np.abs(terms), 1) if np.any(terms) else 0
    return float((np.maximum(error - allowed, 0) / unit).max(initial=0))


def rows(n: int, dtype: Any, rng: np.random.Generator) -> dict[str, Array]:
    """Rows of n logits in float64, for results of this dtype."""
    normal = rng.standard_normal(n)
    largest = float(np.finfo(dtype).max)
    with np.errstate(over="ignore"):
        return {
            "logits": 3 * normal,
            "equal": np.full(n, 1.1),
            "spread": 30 * normal,
            "narrow": 0.01 * normal - 5,
            "large": 1e4 * normal,
            "past 2**16": 3 * normal - 70_000,
            "log-probabilities": 3 * normal - np.log(np.exp(3 * normal).sum()),
            "tiny": 1e-30 * normal,
            "denormal": normal * float(np.finfo(dtype).smallest_subnormal) * 1000,
            "float32 denormal": normal * float(np.finfo(np.float32).smallest_subnormal) * 1000,
            "huge": np.clip(normal, -3, 3) / 4 * largest,
            "largest": np.full(n, largest),
            "smallest": np.full(n, -largest),
            "missing": np.where(rng.random(n) < 0.5, normal, -np.inf),
            "masked": np.where(rng.random(n) < 0.5, normal, -1e9),
        }


def layouts(x: Array) -> dict[str, Array]:
    """The same values lying in memory in other ways."""
    buffer = np.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    buffer[..., ::2] = x
    raw = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    found = {
        "strided": buffer[..., ::2],
        "reversed": x[..., ::-1].copy()[..., ::-1],
        "reversed rows": x[::-1].copy()[::-1],
        "Fortran": np.asfortranarray(x),
        "unaligned": raw,
        "read-only": read_only,
    }
    if x.dtype.isbuiltin == 1:  # not bfloat16
        found["other byte order"] = x.astype(x.dtype.newbyteorder())
    return found
