"""Sources of safetensors files, by the extra ``safetensors``: the package safetensors, and ml_dtypes for bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast.index.readers.block import ROWS, Paths, Source, path_list, refuse_type
from ragfast.index.readers.files import RowFile, source_of

__all__ = ["safetensors"]


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

    The name may be left out where a file has one tensor. The files are mapped, and a block is a copy of its rows.
    Everything else is as in :func:`npy`; ImportError without the package safetensors.

    >>> import tempfile
    >>> import numpy as np, safetensors.numpy
    >>> from ragfast.index import readers
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     safetensors.numpy.save_file({"docs": np.ones((3, 2), np.float16)}, f"{folder}/docs.safetensors")
    ...     print([block.vectors.tolist() for block in readers.safetensors(f"{folder}/docs.safetensors", rows=2)])
    [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0]]]
    """
    return source_of([_tensor(path, name, rounded) for path in path_list(paths)], ids, metadata, rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import ml_dtypes  # noqa: F401  # with it NumPy, and so safetensors, knows bfloat16
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("safetensors sources need safetensors: pip install 'ragfast-kernels[safetensors]'") from error
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file that can be read: {error}") from error


def _tensor(path: Path, name: str | None, rounded: bool) -> RowFile:
    with _opened(path) as file:
        names = sorted(file.keys())
        chosen = names[0] if name is None and len(names) == 1 else name
        if chosen not in names:
            asked = "which tensor is meant? Pass its name" if name is None else f"no tensor {name!r}"
            raise ValueError(f"{path}: {asked}; there are {', '.join(map(repr, names)) or 'none'}")
        tensor = file.get_slice(chosen)
        kind, shape = tensor.get_dtype(), tuple(tensor.get_shape())
    if kind not in ("F32", "F16", "BF16"):
        refuse_type(kind, kind == "F64", f"{path}: {chosen}", rounded)
    if len(shape) != 2:
        raise ValueError(f"{path}: {chosen}: expected shape (N, D), got {shape}")

    def read(rows: int) -> Iterator[NDArray[Any]]:
        with _opened(path) as file:
            tensor = file.get_slice(chosen)
            for first in range(0, shape[0], rows):
                values = tensor[first : min(first + rows, shape[0])]
                yield values.view(np.uint16) if kind == "BF16" else values

    return RowFile(path, *shape, read)
