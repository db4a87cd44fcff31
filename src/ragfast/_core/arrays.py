"""What may come in as an array, and what is said when it may not. Every public function checks its input here."""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.ma  # else imported on first use, where a child forked beside a writer could hang in the import lock
from numpy.typing import DTypeLike, NDArray

from ragfast._core import _kernels, interruptible

ArrayLike: TypeAlias = Any  # an ndarray, or what offers DLPack or __array__, such as a torch tensor

FLOAT = np.dtype(np.float32).num
DOUBLE = np.dtype(np.float64).num
EITHER_FLOAT = (FLOAT, DOUBLE)
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
        halves = bits if bits.dtype.num == HALF else bits.view(np.float16)
        return interruptible.convert(halves, np.float32, lambda block: block.astype(np.float32))
    # A bfloat16 is the upper half of the float32 of the same value.
    return interruptible.convert(
        bits, np.float32, lambda block: (block.astype(np.uint32) << np.uint32(16)).view(np.float32)
    )


def _from_tensor(x: Any, name: str) -> tuple[NDArray[Any], bool]:
    """As _read, of a CPU tensor. One elsewhere, or that needs a gradient, is refused rather than copied unasked."""
    if getattr(x, "requires_grad", False):
        raise ValueError(f"{name}: a tensor that requires a gradient; pass {name}.detach()")
    try:
        device, _ = x.__dlpack_device__()
        if device == 1:
            if _is_torch(x) and x.dtype == sys.modules["torch"].bfloat16:
                return np.from_dlpack(x.view(sys.modules["torch"].int16)).view(np.uint16), True
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
    if a.dtype.num not in (FLOAT, DOUBLE, HALF) and a.dtype.kind not in "biu" and a.dtype.name == "bfloat16":
        return a.view(np.uint16), True  # not NumPy's own; the name is looked at last, being slow to make
    return a, False


def _widened(a: NDArray[Any], is_bfloat16: bool) -> NDArray[Any]:
    """What _read found, float16 and bfloat16 widened (exactly) to float32."""
    if is_bfloat16:
        return widen(a, "bfloat16")
    return widen(a, "float16") if a.dtype.num == HALF else a


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
    return plain(a)


def plain(a: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, aligned and in native byte order: a itself if it is."""
    if _kernels.is_plain_floats(a) or (a.flags.c_contiguous and a.flags.aligned and a.dtype.isnative):
        return a
    dtype = a.dtype.newbyteorder("=")
    return interruptible.convert(a, dtype, lambda block: np.require(block, dtype, ["C", "A"]))


def matrix(
    x: ArrayLike, name: str, *, letters: str = "(N, D)", dim: int | None = None, dtypes: tuple[int, ...] = (FLOAT,)
) -> NDArray[Any]:
    """A plain (contiguous, aligned, native) 2-D array of one of `dtypes`, or an error that says what came instead."""
    for type_num in dtypes:
        if _kernels.is_plain(x, type_num, 2) and (x.shape[1] == dim or (dim is None and 0 < x.shape[1] <= MAX_DIM)):
            as_given: NDArray[Any] = x
            return as_given
    a = as_array(x, name)
    if a.dtype.num not in dtypes:
        if dtypes == (FLOAT,):
            hint = f"; np.asarray({name}, np.float32) rounds it" if a.dtype.kind in "fiu" else ""
            raise TypeError(f"{name}: expected float32 (or float16, bfloat16), got {a.dtype}{hint}")
        raise TypeError(f"{name}: expected float32 or float64, got {a.dtype}")
    return _plain_rows(a, name, letters, dim)


def floats(x: ArrayLike, name: str) -> NDArray[Any]:
    """x as an array of float32 or float64, which :func:`plain` then makes plain."""
    if _kernels.is_plain_floats(x):
        as_given: NDArray[Any] = x
        return as_given
    a = as_array(x, name)
    if a.dtype.num not in (FLOAT, DOUBLE):
        raise TypeError(f"{name}: expected float32 or float64 (or float16, bfloat16), got {a.dtype}")
    return a


def wide(a: NDArray[Any]) -> NDArray[np.float64]:
    """What :func:`floats` found as plain float64, widened exactly: a itself if it is."""
    a = plain(a)
    return a if a.dtype.num == DOUBLE else _kernels.widened(a)


def doubles(x: ArrayLike, name: str) -> NDArray[np.float64]:
    """x as a plain array of float64, widened exactly."""
    return wide(floats(x, name))


def logits(x: ArrayLike, name: str = "logits") -> tuple[NDArray[Any], bool]:
    """Logits for C: plain float32 or float64, or the bits, as uint16, of float16 or bfloat16; and whether they are
    those of bfloat16. The caller's own memory if it is contiguous, else a copy."""
    if _kernels.is_plain_floats(x):
        return x, False
    a, is_bfloat16 = _read(x, name)
    if not is_bfloat16 and a.dtype.num not in (FLOAT, DOUBLE, HALF):
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {a.dtype}")
    a = plain(a)
    return (a.view(np.uint16) if a.dtype.num == HALF else a), is_bfloat16


def logits_type(values: NDArray[Any], is_bfloat16: bool) -> str:
    """The name of the type of what :func:`logits` found."""
    return "bfloat16" if is_bfloat16 else "float16" if values.dtype.itemsize == 2 else values.dtype.name


def _is_torch(x: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def empty_logits(x: ArrayLike) -> Any:
    """A new contiguous array of the shape and type of x, which :func:`logits` took: of torch if x is, else of NumPy."""
    if _is_torch(x):
        torch = sys.modules["torch"]
        # NumPy asks for huge pages, torch does not: 200 MB of new memory cost 50 ms against 115.
        return torch.from_numpy(np.empty(tuple(x.shape), f"i{x.element_size()}")).view(x.dtype)
    of_numpy = isinstance(x, np.ndarray) or not hasattr(x, "__dlpack_device__")
    a = np.asarray(x) if of_numpy else np.from_dlpack(x)
    return np.empty(a.shape, a.dtype.newbyteorder("="))


def memory_of(x: Any, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """What :func:`logits` would find in an array or torch tensor, to be written to: never a copy."""
    if not isinstance(x, np.ndarray) and not _is_torch(x):
        raise TypeError(f"{name}: expected an array or a torch tensor to write to, got {_type_name(x)}")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array, of which the mask would be wrong; pass {name}.data")
    given = str(x.dtype).removeprefix("torch.") if _is_torch(x) else x.dtype.name
    if given != dtype:
        raise TypeError(f"{name}: expected {dtype}, as the logits are, got {given}")
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, as the logits have, got {tuple(x.shape)}")
    if _is_torch(x):
        if x.device.type != "cpu" or x.requires_grad or not x.is_contiguous():
            raise ValueError(f"{name}: expected a contiguous tensor in CPU memory that requires no gradient")
        x = (x.view(sys.modules["torch"].int16) if x.element_size() == 2 else x).numpy()
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable and x.dtype.isnative):
        raise ValueError(f"{name}: expected an array that is contiguous, aligned, writeable and in native byte order")
    a = np.asarray(x)
    return a.view(np.uint16) if a.dtype.itemsize == 2 else a


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
    _check_int64(a, "ids")
    ids = np.array(a, dtype=np.int64)
    rise = bool((ids[1:] > ids[:-1]).all())
    ordered = ids if rise else interruptible.sort(ids)  # np.unique hashes, which takes longer
    if n_docs and ordered[0] < 0:
        raise ValueError(f"ids: expected 0 or more, got {ordered[0]} (search returns -1 for no document)")
    if not rise and (ordered[1:] == ordered[:-1]).any():
        values, counts = np.unique(ids, return_counts=True)
        repeated = counts.argmax()
        raise ValueError(f"ids: expected distinct ids, got {values[repeated]} {counts[repeated]} times")
    return ids


def refuse_nonfinite(a: NDArray[Any], name: str) -> None:
    """Raises for the first row that holds NaN or an infinity."""
    step = max(1, interruptible.BLOCK // max(1, a.shape[1]))
    for first in range(0, len(a), step):
        bad = np.flatnonzero(~np.isfinite(a[first : first + step]).all(axis=1))
        if bad.size:
            raise ValueError(f"{name}: row {first + bad[0]} holds NaN or an infinity; every value must be finite")


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
    if type(x) is float and 0.0 < x < math.inf:
        return x
    expected = "above 0" if above_zero else "of 0 or more"
    if isinstance(x, Real) and not isinstance(x, bool):
        try:
            value = float(x)
        except OverflowError:
            value = math.inf
    else:
        raise TypeError(f"{name}: expected a number {expected}, got {_type_name(x)}")
    if not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        raise ValueError(f"{name}: expected a finite number {expected}, got {value}")
    return value


def one_of(x: object, name: str, choices: tuple[str, ...]) -> None:
    """Raises unless x is one of these words."""
    if not isinstance(x, str) or x not in choices:
        words = [f'"{word}"' for word in choices]
        raise ValueError(f"{name}: expected {', '.join(words[:-1])} or {words[-1]}, got {x!r}")


def float_dtype(dtype: DTypeLike, name: str = "dtype") -> int:
    try:
        given = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64
    except TypeError:
        given = None
    if given is None or given.num not in (FLOAT, DOUBLE):
        raise TypeError(f"{name}: expected float32 or float64, got {given or repr(dtype)}")
    return given.num


# ---- chosen documents, shards


def rows_as_stored(x: ArrayLike, name: str) -> tuple[NDArray[Any], str]:
    """Rows (N,D), plain, of whatever type they have: float32, float64, or the bits (uint16) of 16-bit floats; and its
    name."""
    a, is_bfloat16 = _read(x, name)
    if not is_bfloat16 and a.dtype.num not in (FLOAT, DOUBLE, HALF):
        raise TypeError(f"{name}: expected float32 or float64 (or float16, bfloat16), got {a.dtype}")
    storage = "bfloat16" if is_bfloat16 else a.dtype.name
    rows = _plain_rows(a, name, "(N, D)", None)
    return (rows.view(np.uint16) if storage == "float16" else rows), storage


def integers(x: ArrayLike, name: str, letters: str, shape: tuple[int | None, ...]) -> NDArray[np.int64]:
    """Integers, plain; None in the shape (called letters in errors) stands for any size."""
    a = as_array(x, name)
    if a.ndim == 0 and a.dtype.kind == "O":  # a set, a generator: not what NumPy reads
        raise TypeError(f"{name}: expected integers {letters}, in a list or an array, got {_type_name(x)}")
    _check_shape(a, name, letters, shape)
    _check_int64(a, name)
    return np.require(a, np.int64, ["C", "A"])


def _check_int64(a: NDArray[Any], name: str) -> None:
    if a.dtype.kind not in "iu" and a.size:
        raise TypeError(f"{name}: expected integers below 2**63, got {a.dtype}")
    if a.dtype.kind == "u" and a.size and a.max() >= 2**63:
        raise ValueError(f"{name}: expected less than 2**63, got {a.max()}")


def shaped_doubles(
    x: ArrayLike, name: str, letters: str, shape: tuple[int | None, ...]
) -> tuple[NDArray[np.float64], int]:
    """float32 or float64 as plain float64, likewise; and the number of the type that came."""
    a = floats(x, name)
    _check_shape(a, name, letters, shape)
    return wide(a), a.dtype.num


def _check_shape(a: NDArray[Any], name: str, letters: str, shape: tuple[int | None, ...]) -> None:
    if a.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, a.shape, strict=True)):
        raise ValueError(f"{name}: expected shape {letters}, got {a.shape}")


# ---- ids and bitmaps of an index


def are_strings(x: object) -> bool:
    """Whether x is a sequence or array of str, as its first element tells."""
    kind = getattr(getattr(x, "dtype", None), "kind", "O")
    if kind != "O":
        return kind in "UT"
    if hasattr(x, "__array__") and not hasattr(x, "__dlpack_device__"):  # as pandas has them
        x = np.asarray(x)
    return isinstance(x, (Sequence, np.ndarray)) and len(x) > 0 and isinstance(x[0], str)


def id_array(x: ArrayLike, name: str, letters: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Ids of documents as searches give them: int64, or an object array of str and None. None in the shape (called
    letters in errors) stands for any size."""
    a = as_array(x, name)
    if a.ndim == 0 or a.dtype.kind not in "OUT":
        return integers(x, name, letters, shape)
    _check_shape(a, name, letters, shape)
    strings = a.astype(object)
    for value in strings.ravel().tolist():
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name}: expected integers, or str and None, got {type(value).__name__} {value!r:.80}")
    return strings


def packed_bits(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """(n,) as bits: bit j % 32 of word j / 32, 0 beyond n."""
    bits = np.packbits(mask, bitorder="little")
    bits.resize((len(mask) + 31) // 32 * 4, refcheck=False)  # adds zeros
    return bits.view("<u4").astype(np.uint32, copy=False)


def unpacked_bits(words: NDArray[np.uint32], n: int) -> NDArray[np.bool_]:
    """The first n of such bits."""
    return np.unpackbits(words.astype("<u4", copy=False).view(np.uint8), count=n, bitorder="little").view(np.bool_)


# ---- vectors of length 1


def lengths(rows: NDArray[Any], name: str, first: int = 0) -> NDArray[np.float64]:
    """Return the Euclidean length of each plain row (N,D) of float32 or float64: the root of its float64 inner product
    with itself, the same bits at every level. ValueError for NaN or infinity, and for a row of zeros, which has no
    direction; errors count rows from `first`."""
    squares: NDArray[np.float64] = _kernels.gather_scores(rows, rows, np.arange(len(rows))[:, None], 0, DOUBLE, False)
    zeros = np.flatnonzero(squares == 0)
    if zeros.size:
        raise ValueError(f"{name}: row {first + zeros[0]} holds zeros alone, which has no direction; cosine needs one")
    return np.sqrt(squares[:, 0])


def unit_rows(rows: NDArray[np.float32], name: str, storage: str) -> NDArray[Any]:
    """Rows (N,D) divided by their lengths in float64, rounded once to what an index of this storage keeps.
    ValueError for NaN or infinity, and for a row of zeros, which has no direction."""
    out = np.empty(rows.shape, np.float32 if storage == "float32" else np.uint16)
    step = max(1, 2**18 // rows.shape[1])
    refuse_nonfinite(rows, name)
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        exact = _kernels.widened(block) / lengths(block, name, first)[:, None]
        near: NDArray[Any] = _kernels.narrowed(exact)
        if storage != "float32":  # float32 is odd where it is not exact, so that the second rounding is as of one
            bits = near.view(np.uint32)
            toward = np.sign(np.abs(exact) - np.abs(near)).astype(np.int32)
            even = (bits & 1) == 0
            near = _rounded(
                np.where(even & (toward != 0), bits + toward.view(np.uint32), bits).view(np.float32), storage
            )
        out[first : first + step] = near
    return out
