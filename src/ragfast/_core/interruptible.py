"""Long operations of NumPy that let signal handlers run.

A signal handler runs between two bytecodes of the main thread, so Ctrl-C waits for the end of a NumPy call. These
functions keep that wait below 100 ms (`python tests/stress_interrupts.py` measures it): they work in blocks, or let
another thread do what cannot be divided.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast._core.turns import Helper

BLOCK = 2**22
"""Elements that are converted together."""
MIN_SORTED = 2**20
"""Elements from which another thread sorts."""

Result = TypeVar("Result")


def run(call: Callable[[], Result]) -> Result:
    """Return call(), which takes long in operations that release the GIL.

    On the main thread, another thread makes the call, and signal handlers run meanwhile. If one of them raises, the
    other thread goes on to its end, and its result is dropped: the call must not write to anything that others use.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    helper = Helper()
    helper.call(call)
    result: Result = helper.result()
    return result


def convert(a: NDArray[Any], dtype: DTypeLike, of_block: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return of_block(a), an array of this dtype and the shape of a, block by block along the first axis."""
    if a.size <= BLOCK or len(a) == 1:
        return of_block(a)
    out = np.empty(a.shape, dtype)
    step = max(1, BLOCK * len(a) // a.size)
    for first in range(0, len(a), step):
        out[first : first + step] = of_block(a[first : first + step])
    return out


def copy(out: NDArray[Any], a: NDArray[Any]) -> None:
    """Write a to out, of the same shape, block by block along the first axis."""
    step = BLOCK * len(a) // max(1, a.size) + 1
    for first in range(0, len(a), step):
        out[first : first + step] = a[first : first + step]


def sort(a: NDArray[Any]) -> NDArray[Any]:
    """Return a sorted copy of a, as np.sort; stable, which is fast where a consists of ascending runs."""
    return run(lambda: np.sort(a, kind="stable")) if len(a) >= MIN_SORTED else np.sort(a, kind="stable")


def argsort(a: NDArray[Any]) -> NDArray[np.intp]:
    """Return the order that sorts a, as np.argsort; stable."""
    return run(lambda: a.argsort(kind="stable")) if len(a) >= MIN_SORTED else a.argsort(kind="stable")
