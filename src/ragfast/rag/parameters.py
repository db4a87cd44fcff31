"""Attributes that check what is assigned to them: the weights of the toy retriever and generator, and numbers."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays

__all__ = ["Number", "Weight", "initial_weight", "read_only_weight"]

T = TypeVar("T")


class _Checked(Generic[T]):
    """An attribute `name` that checks what is assigned to it; `_name` of the instance holds the value."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        value: Any = self if instance is None else getattr(instance, f"_{self._name}")
        return cast(T, value)


class Number(_Checked[float]):
    """A finite float."""

    def __init__(self, doc: str, *, above_zero: bool) -> None:
        super().__init__(doc)
        self._above_zero = above_zero

    def __set__(self, instance: Any, value: float) -> None:
        checked = arrays.finite_float(value, self._name, above_zero=self._above_zero)
        setattr(instance, f"_{self._name}", checked)


class Weight(_Checked[NDArray[np.float64]]):
    """A read-only float64 matrix, whose shape is the instance's attributes `rows` and `columns`."""

    def __init__(self, doc: str, rows: str, columns: str) -> None:
        super().__init__(doc)
        self._shape = rows, columns

    def __set__(self, instance: Any, value: arrays.ArrayLike) -> None:
        rows, columns = (getattr(instance, name) for name in self._shape)
        setattr(instance, f"_{self._name}", read_only_weight(value, self._name, (rows, columns)))


def initial_weight(rng: np.random.Generator | None, *shape: int) -> NDArray[np.float64]:
    """0.01 times a standard normal, from rng or from NumPy's global generator (what ``np.random.seed`` seeds)."""
    return 0.01 * (np.random.randn(*shape) if rng is None else rng.standard_normal(shape))


def read_only_weight(value: arrays.ArrayLike, name: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A read-only float64 copy, so that weights never change without what was derived from them."""
    given = arrays.as_array(value, name)
    if given.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {given.shape}")
    if given.dtype.num not in arrays.EITHER_FLOAT:
        raise TypeError(f"{name}: expected float32 or float64, got {given.dtype}")
    arrays.refuse_nonfinite(given, name)
    weight = np.array(given, dtype=np.float64, order="C")
    weight.flags.writeable = False
    return weight
