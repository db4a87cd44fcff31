"""The types that logits may have, for the tests of what takes them: the fixture `kind` goes through them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MOST_ULPS = {"float64": 4.0, "float32": 2.0, "float16": 2.0, "bfloat16": 2.0}


def dtype_of(kind: str) -> Any:
    if kind == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(kind)


def cast(x: Array, kind: str) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(dtype_of(kind))


def result_type(kind: str) -> Any:
    return np.float64 if kind == "float64" else np.float32
