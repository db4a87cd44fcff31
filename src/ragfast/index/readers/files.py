"""Sources whose rows lie one behind the other in a file: .npy and safetensors. Both are read by parts rather than
mapped, so that memory stays bounded and a file that somebody cuts short is an error and not a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index.readers.block import ROWS, Block, Paths, Source, path_list, refuse_type, rounded_floats, same_dim

__all__ = ["npy", "safetensors"]

_SAFETENSORS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_MOST_HEADER = 100_000_000  # bytes, as the format's own reader has it


class _Rows(NamedTuple):
    path: Path
    offset: int  # bytes before the first row
    dtype: np.dtype[Any]
    n: int
    dim: int


def npy(
    paths: Paths,
    *,
    ids: Any = None,
    metadata: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    bfloat16: bool = False,
    rounded: bool = False,
) -> Source:
    """Vectors (N,D) of a ``.npy`` file, or of several one after the other, float32 or float16.

    ids (N,) integers or strings and metadata name -> (N,) values go with the rows of all files together; arrays that
    ``np.load(..., mmap_mode="r")`` maps need no memory either. A block has `rows` rows, and memory for one is all that
    is needed. bfloat16=True takes uint16 (or two bytes without a type, as ml_dtypes are saved) for the bits of
    bfloat16; rounded=True rounds float64 to float32.

    FileNotFoundError for a path that is not there; TypeError for another type; ValueError for another shape, files of
    different D, Fortran order, and a file that is empty, truncated or no .npy at all.

    >>> import tempfile
    >>> import numpy as np
    >>> from ragfast.index import readers
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/vectors.npy", np.eye(5, 3, dtype=np.float32))
    ...     source = readers.npy(f"{folder}/vectors.npy", ids=[7, 5, 3, 2, 1], rows=2)
    ...     print(source.n_docs, [(block.vectors.shape, block.ids) for block in source])
    5 [((2, 3), [7, 5]), ((2, 3), [3, 2]), ((1, 3), [1])]
    """
    return _source([_npy_rows(path, bfloat16, rounded) for path in path_list(paths)], ids, metadata, rows, bfloat16)


def safetensors(
    paths: Paths,
    name: str | None = None,
    *,
    ids: Any = None,
    metadata: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    rounded: bool = False,
) -> Source:
    """The tensor `name` (N,D) of a safetensors file, or of several one after the other: float32, float16, bfloat16.

    The name may be left out where a file has one tensor. The format is read here, without the package of that name.
    Everything else is as in :func:`npy`.

    >>> import json, pathlib, tempfile
    >>> import numpy as np
    >>> from ragfast.index import readers
    >>> header = json.dumps({"docs": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]}}).encode()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "docs.safetensors")
    ...     data = np.ones((3, 2), np.float16).tobytes()
    ...     _ = file.write_bytes(len(header).to_bytes(8, "little") + header + data)
    ...     print([block.vectors.tolist() for block in readers.safetensors(file, "docs", rows=2)])
    [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0]]]
    """
    found = [_tensor_rows(path, name, rounded) for path in path_list(paths)]
    is_bfloat16 = found[0][1]
    if any(other != is_bfloat16 for _, other in found):
        raise TypeError(f"{found[0][0].path}: bfloat16 and other types in one source")
    return _source([part for part, _ in found], ids, metadata, rows, is_bfloat16)


def _source(parts: list[_Rows], ids: Any, metadata: Mapping[str, Any] | None, rows: int, is_bfloat16: bool) -> Source:
    rows = arrays.positive_int(rows, "rows")
    dim: int | None = None
    for part in parts:
        dim = same_dim(dim, part.dim, str(part.path))
    n_docs = sum(part.n for part in parts)
    columns = dict(metadata or {})
    for name, column in [("ids", ids), *((f"metadata {name!r}", column) for name, column in columns.items())]:
        if column is not None and len(column) != n_docs:
            raise ValueError(f"{name}: expected {n_docs} values, one for each row of the files, got {len(column)}")
    return Source(partial(_blocks, parts, ids, columns, rows, is_bfloat16), n_docs, dim)


def _blocks(parts: list[_Rows], ids: Any, columns: dict[str, Any], rows: int, is_bfloat16: bool) -> Iterator[Block]:
    done = 0
    for part in parts:
        with open(part.path, "rb", buffering=0) as file:
            file.seek(part.offset)
            for first in range(0, part.n, rows):
                n = min(rows, part.n - first)
                values = np.fromfile(file, part.dtype, n * part.dim)
                if values.size < n * part.dim:
                    raise ValueError(f"{part.path}: the file became shorter while it was read")
                vectors: NDArray[Any] = values.reshape(n, part.dim)
                if is_bfloat16:
                    vectors = arrays.widen(vectors.astype(np.uint16, copy=False), "bfloat16")
                else:
                    vectors = rounded_floats(vectors, str(part.path), True)
                here = slice(done, done + n)
                some = {name: column[here] for name, column in columns.items()} or None
                yield Block(vectors, None if ids is None else ids[here], some)
                done += n


def _npy_rows(path: Path, bfloat16: bool, rounded: bool) -> _Rows:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a .npy file that can be read: {error}") from error
    if not isinstance(array, np.memmap):
        array.close()
        raise ValueError(f"{path}: an archive of several arrays; save the vectors alone, by np.save")
    if array.ndim != 2:
        raise ValueError(f"{path}: expected shape (N, D), got {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{path}: in Fortran order, rows do not lie together; save np.ascontiguousarray(vectors)")
    dtype = array.dtype
    if bfloat16:
        if dtype.kind not in "uV" or dtype.itemsize != 2 or dtype.fields is not None:
            raise TypeError(f"{path}: expected the bits of bfloat16, as uint16, got {dtype}")
        dtype = np.dtype(np.uint16) if dtype.kind == "V" else dtype
    elif dtype.num not in (arrays.FLOAT, arrays.HALF):
        if dtype.kind in "uV" and dtype.itemsize == 2:
            raise TypeError(f"{path}: got {dtype}; bfloat16=True takes it for the bits of bfloat16")
        refuse_type(str(dtype), dtype.num == arrays.DOUBLE, str(path), rounded)
    return _Rows(path, array.offset, dtype, *array.shape)


def _tensor_rows(path: Path, name: str | None, rounded: bool) -> tuple[_Rows, bool]:
    """Of the tensor of that name, and whether it is of bfloat16."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise ValueError(f"{path}: not a safetensors file: its header would end beyond the file")
        header = file.read(length)
    try:
        tensors = json.loads(header)
        tensors = {key: value for key, value in tensors.items() if key != "__metadata__"}
        described = {
            key: (str(value["dtype"]), tuple(map(int, value["shape"])), tuple(map(int, value["data_offsets"])))
            for key, value in tensors.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a safetensors file: no header that can be read ({error!r})") from error
    if name is None and len(described) == 1:
        name = next(iter(described))
    if name not in described:
        asked = "which tensor is meant? Pass its name" if name is None else f"no tensor {name!r}"
        raise ValueError(f"{path}: {asked}; there are {', '.join(map(repr, sorted(described))) or 'none'}")
    kind, shape, ends = described[name]
    where = f"{path}: {name}"
    if kind not in _SAFETENSORS or kind == "F64":
        refuse_type(kind, kind == "F64", where, rounded)
    if len(shape) != 2:
        raise ValueError(f"{where}: expected shape (N, D), got {shape}")
    dtype = np.dtype(_SAFETENSORS[kind])
    start, stop = ends if len(ends) == 2 else (0, -1)
    if min(shape) < 0 or not 0 <= start <= stop or stop - start != shape[0] * shape[1] * dtype.itemsize:
        raise ValueError(f"{where}: {shape} of {kind} does not lie at bytes {list(ends)}")
    if 8 + length + stop > size:
        raise ValueError(f"{where}: truncated, {size} bytes where {8 + length + stop} were expected")
    return _Rows(path, 8 + length + start, dtype, *shape), kind == "BF16"
