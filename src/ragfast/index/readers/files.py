"""Sources of ``.npy`` files, and what all sources share whose rows lie in files one after the other.

Blocks of ``.npy`` files are read rather than mapped, so that a file that is cut short is an error and not a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index.readers.block import ROWS, Block, Paths, Source, path_list, refuse_type, rounded_floats, same_dim

__all__ = ["npy"]


class RowFile(NamedTuple):
    """A file of n rows."""

    path: Path
    n: int
    dim: int
    read: Callable[[int], Iterator[NDArray[Any]]]
    """Returns the rows in order, in arrays of so many or fewer: floats of NumPy, or uint16 bits of bfloat16."""


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
    return source_of([_npy_file(path, bfloat16, rounded) for path in path_list(paths)], ids, metadata, rows)


def source_of(files: list[RowFile], ids: Any, metadata: Mapping[str, Any] | None, rows: int) -> Source:
    """The rows of all files, with ids and metadata for all of them together."""
    rows = arrays.positive_int(rows, "rows")
    dim: int | None = None
    for file in files:
        dim = same_dim(dim, file.dim, str(file.path))
    n_docs = sum(file.n for file in files)
    columns = dict(metadata or {})
    for name, column in [("ids", ids), *((f"metadata {name!r}", column) for name, column in columns.items())]:
        if column is not None and len(column) != n_docs:
            raise ValueError(f"{name}: expected {n_docs} values, one for each row of the files, got {len(column)}")
    return Source(partial(_blocks, files, ids, columns, rows), n_docs, dim)


def _blocks(files: list[RowFile], ids: Any, columns: dict[str, Any], rows: int) -> Iterator[Block]:
    first = 0
    for file in files:
        for vectors in file.read(rows):
            if vectors.dtype.kind != "f":
                vectors = arrays.widen(vectors.astype(np.uint16, copy=False), "bfloat16")
            here = slice(first, first + len(vectors))
            metadata = {name: column[here] for name, column in columns.items()} or None
            yield Block(rounded_floats(vectors, str(file.path), True), None if ids is None else ids[here], metadata)
            first += len(vectors)


def _npy_file(path: Path, bfloat16: bool, rounded: bool) -> RowFile:
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
    (n, dim), offset = array.shape, array.offset

    def read(rows: int) -> Iterator[NDArray[Any]]:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            for first in range(0, n, rows):
                values = np.fromfile(file, dtype, min(rows, n - first) * dim)
                if values.size < min(rows, n - first) * dim:
                    raise ValueError(f"{path}: the file became shorter while it was read")
                yield values.reshape(-1, dim)

    return RowFile(path, n, dim, read)
