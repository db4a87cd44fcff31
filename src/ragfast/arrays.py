"""What may come in as an array, and what is said when it may not. Every public function checks its input here."""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast import _kernels

ArrayLike: TypeAlias = Any  # an ndarray, or what offers DLPack or __array__, such as a torch tensor

FLOAT = np.dtype(np.float32).num
DOUBLE = np.dtype(np.float64).num
HALF = np.dtype(np.float16).num
MAX_DIM = 2**20
STORAGE = ("float32", "float16", "bfloat16")
INFINITY_BITS = {"float16": np.uint16(0x7C00), "bfloat16": np.uint16(0x7F80)}


def _type_name(x: object) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")


def widen(bits: NDArray[Any], storage: str) -> NDArray[np.float32]:
    """The values, exactly, of rows as :func:`stored_rows` has them; float32 rows are returned as they are."""
    if storage == "float32":
        return bits
    if storage == "float16":
        return bits.view(np.float16).astype(np.float32)
    # A bfloat16 is the upper half of the float32 of the same value.
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _from_tensor(x: Any, name: str) -> tuple[NDArray[Any], bool]:
    """As _read, of a CPU tensor. One elsewhere, or that needs a gradient, is refused rather than copied unasked."""
    if getattr(x, "requires_grad", False):
        raise ValueError(f"{name}: a tensor that requires a gradient; pass {name}.detach()")
    try:
        device, _ = x.__dlpack_device__()
        if device == 1:
            torch = sys.modules.get("torch")
            if torch is not None and isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16:
                return np.from_dlpack(x.view(torch.int16)).view(np.uint16), True
            return np.from_dlpack(x), False
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name}: NumPy cannot read this {_type_name(x)}: {error}") from error
    raise ValueError(f"{name}: expected a tensor in CPU memory, got one on DLPack device {device}; move it first")


def _read(x: ArrayLike, name: str) -> tuple[NDArray[Any], bool]:
    """An ndarray over the caller's data, tensors through DLPack; and whether it is the bits of bfloat16, as uint16."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array, of which the mask would be lost; pass {name}.filled(...)")
    if isinstance(x, np.ndarray):
        a = np.asarray(x)
    elif hasattr(x, "__dlpack_device__"):
        return _from_tensor(x, name)
    else:
        try:
            a = np.asarray(x)  # lists, and what offers __array__
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name}: expected an array, got {_type_name(x)}: {error}") from error
    if a.dtype.num not in (FLOAT, DOUBLE, HALF) and a.dtype.name == "bfloat16":
        return a.view(np.uint16), True  # not NumPy's own; the name is looked at last, being slow to make
    return a, False


def _widened(a: NDArray[Any], is_bfloat16: bool) -> NDArray[Any]:
    """What _read found, float16 and bfloat16 widened (exactly) to float32."""
    if is_bfloat16:
        return widen(a, "bfloat16")
    return a.astype(np.float32) if a.dtype.num == HALF else a


def as_array(x: ArrayLike, name: str) -> NDArray[Any]:
    """An ndarray over the caller's data: tensors through DLPack, float16 and bfloat16 widened (exactly) to float32."""
    return _widened(*_read(x, name))


def _plain_rows(a: NDArray[Any], name: str, letters: str, dim: int | None) -> NDArray[Any]:
    """A 2-D array contiguous, aligned, native, copied if need be; or an error that says what shape came instead."""
    expected = letters if dim is None else letters.replace("D", str(dim))
    if a.ndim != 2:
        hint = f"; pass {name}[None, :] for one row" if a.ndim == 1 else ""
        raise ValueError(f"{name}: expected shape {expected}, got {a.shape}{hint}")
    if a.shape[1] == 0 or (dim is not None and a.shape[1] != dim):
        hint = " with D of 1 or more" if dim is None else ""
        raise ValueError(f"{name}: expected shape {expected}{hint}, got {a.shape}")
    if a.shape[1] > MAX_DIM:
        raise ValueError(f"{name}: expected D of at most {MAX_DIM}, got shape {a.shape}")
    return np.require(a, a.dtype.newbyteorder("="), ["C", "A"])


def matrix(
    x: ArrayLike, name: str, *, letters: str = "(N, D)", dim: int | None = None, dtypes: tuple[int, ...] = (FLOAT,)
) -> NDArray[Any]:
    """A plain (contiguous, aligned, native) 2-D array of one of `dtypes`, or an error that says what came instead."""
    for type_num in dtypes:
        if _kernels.is_plain(x, type_num, 2) and (x.shape[1] == dim or (dim is None and 0 < x.shape[1] <= MAX_DIM)):
            plain: NDArray[Any] = x
            return plain
    a = as_array(x, name)
    if a.dtype.num not in dtypes:
        if dtypes == (FLOAT,):
            hint = f"; np.asarray({name}, np.float32) rounds it" if a.dtype.kind in "fiu" else ""
            raise TypeError(f"{name}: expected float32 (or float16, bfloat16), got {a.dtype}{hint}")
        raise TypeError(f"{name}: expected float32 or float64, got {a.dtype}")
    return _plain_rows(a, name, letters, dim)


def storage_type(dtype: object) -> str:
    """The name of a type that an index stores, from what NumPy, ml_dtypes or torch call it."""
    name = str(dtype).removeprefix("torch.")
    if name not in STORAGE and dtype is not None:  # which NumPy takes for float64
        with contextlib.suppress(TypeError, ValueError):
            name = np.dtype(dtype).name  # type: ignore[call-overload]  # anything may come; NumPy judges
    if name not in STORAGE:
        raise TypeError(f"dtype: expected float32, float16 or bfloat16, got {dtype!r}")
    return name


def _rounded(x: NDArray[np.float32], storage: str) -> NDArray[np.uint16]:
    """The bits of the nearest float16 or bfloat16, ties to even. In integers, or by NumPy's conversion, which does not
    depend on the caller's rounding mode either."""
    if storage == "float16":
        with np.errstate(all="ignore"):
            return x.astype(np.float16).view(np.uint16)
    bits = x.view(np.uint32)
    upper = bits >> np.uint32(16)
    nearest = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(x), upper | np.uint32(0x0040), nearest).astype(np.uint16)


def stored_rows(x: ArrayLike, name: str, dim: int | None, storage: str) -> NDArray[Any]:
    """Vectors (N,D) as an index of this :func:`storage_type` keeps them: plain float32, or uint16 bits of float16 or
    bfloat16. Bits of that type are taken as they are; anything else that `matrix` takes is rounded once, to nearest.
    """
    if storage == "float32":
        return matrix(x, name, dim=dim)
    a, is_bfloat16 = _read(x, name)
    if storage == ("bfloat16" if is_bfloat16 else a.dtype.name):
        return _plain_rows(a, name, "(N, D)", dim).view(np.uint16)
    rows = matrix(_widened(a, is_bfloat16), name, dim=dim)
    out = np.empty(rows.shape, np.uint16)
    step = max(1, 2**18 // rows.shape[1])  # what is made on the way stays in the caches
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        bits = out[first : first + step] = _rounded(part, storage)
        overflows = ((bits & np.uint16(0x7FFF)) == INFINITY_BITS[storage]) & np.isfinite(part)
        if overflows.any():
            row, column = np.argwhere(overflows)[0]
            wider = "float32 or bfloat16" if storage == "float16" else "float32"
            raise ValueError(
                f"{name}: row {first + row} holds {part[row, column]:g}, which {storage} rounds to infinity; "
                f"use an index of dtype {wider}, or scale the vectors"
            )
    return out


def document_ids(x: ArrayLike, n_docs: int) -> NDArray[np.int64]:
    """Ids (N,) as int64, distinct and not negative."""
    a = as_array(x, "ids")
    if a.shape != (n_docs,):
        raise ValueError(f"ids: expected shape ({n_docs},), one for each document, got {a.shape}")
    if a.dtype.kind not in "iu" and a.size:
        raise TypeError(f"ids: expected integers below 2**63, got {a.dtype}")
    if a.size and a.min() < 0:
        raise ValueError(f"ids: expected 0 or more, got {a.min()} (search returns -1 for no document)")
    if a.size and a.max() >= 2**63:
        raise ValueError(f"ids: expected less than 2**63, got {a.max()}")
    values, counts = np.unique(a, return_counts=True)
    if len(values) != n_docs:
        repeated = counts.argmax()
        raise ValueError(f"ids: expected distinct ids, got {values[repeated]} {counts[repeated]} times")
    return np.array(a, dtype=np.int64)


def refuse_nonfinite(a: NDArray[Any], name: str) -> None:
    """Raises for the first row that holds NaN or an infinity."""
    bad = np.flatnonzero(~np.isfinite(a).all(axis=1))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} holds NaN or an infinity; every value must be finite")


def positive_int(x: object, name: str) -> int:
    try:
        n = operator.index(x)  # type: ignore[arg-type]
    except TypeError:
        n = None
    if n is None or isinstance(x, bool):
        raise TypeError(f"{name}: expected an integer of 1 or more, got {_type_name(x)}")
    if n < 1:
        raise ValueError(f"{name}: expected 1 or more, got {n}")
    if n >= 2**31:
        raise ValueError(f"{name}: expected less than 2**31, got {n}")
    return n


def thread_count(n_threads: object) -> int:
    """0, the default in C, for None."""
    return 0 if n_threads is None else positive_int(n_threads, "n_threads")


def finite_float(x: object, name: str, *, above_zero: bool) -> float:
    expected = "above 0" if above_zero else "of 0 or more"
    if type(x) is float:
        value = x
    elif isinstance(x, Real) and not isinstance(x, bool):
        try:
            value = float(x)
        except OverflowError:
            value = math.inf
    else:
        raise TypeError(f"{name}: expected a number {expected}, got {_type_name(x)}")
    if not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        raise ValueError(f"{name}: expected a finite number {expected}, got {value}")
    return value


def float_dtype(dtype: DTypeLike, name: str = "dtype") -> int:
    try:
        given = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64
    except TypeError:
        given = None
    if given is None or given.num not in (FLOAT, DOUBLE):
        raise TypeError(f"{name}: expected float32 or float64, got {given or repr(dtype)}")
    return given.num
