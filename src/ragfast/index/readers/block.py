"""What a source is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ragfast._core import arrays

__all__ = ["Block", "Source"]

PathLike: TypeAlias = str | Path
Paths: TypeAlias = PathLike | Sequence[PathLike]

ROWS = 65_536
"""Rows of a block, by default: 200 MB of 768 float32 values a row."""


class Block(NamedTuple):
    """Some documents, in their order: what :meth:`ragfast.FlatIndex.build` takes one after the other.

    vectors (n,D) are float32, float16 or bfloat16 as :meth:`ragfast.FlatIndex.add` takes them; ids (n,) integers or
    strings, in all blocks or in none; metadata name -> (n,) values, the same names in all blocks.

    >>> import numpy as np
    >>> from ragfast.index.readers import Block
    >>> Block(np.zeros((2, 3), np.float32), ids=["a", "b"], metadata={"year": [1999, 2004]}).ids
    ['a', 'b']
    """

    vectors: Any
    ids: Any = None
    metadata: Mapping[str, Any] | None = None


class Source:
    """Blocks to iterate over, read as they are asked for. ``n_docs`` and ``dim`` are None where they are not known
    before all is read."""

    def __init__(self, blocks: Callable[[], Iterator[Block]], n_docs: int | None, dim: int | None) -> None:
        self._blocks = blocks
        self.n_docs = n_docs
        self.dim = dim

    def __iter__(self) -> Iterator[Block]:
        return self._blocks()

    def __repr__(self) -> str:
        return f"Source(n_docs={self.n_docs}, dim={self.dim})"


def path_list(paths: Paths) -> list[Path]:
    """One path or several, that exist as files with something in them."""
    found = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not found:
        raise ValueError("expected at least one path, got none")
    for path in found:
        if path.is_dir():
            raise IsADirectoryError(f"{path}: a directory; pass the paths of the files in it")
        if path.stat().st_size == 0:  # FileNotFoundError, which names it, where there is none
            raise ValueError(f"{path}: the file is empty")
    return found


def same_dim(dim: int | None, found: int, where: str) -> int:
    """dim, or the one found where there was none; ValueError where they differ."""
    if found < 1:
        raise ValueError(f"{where}: expected vectors of D of 1 or more, got {found}")
    if dim not in (None, found):
        raise ValueError(f"{where}: expected vectors of D = {dim} as before, got D = {found}")
    return found


def rounded_floats(values: Any, where: str, rounded: bool) -> Any:
    """float32 and float16 as they are; float64 rounded if that was asked for; TypeError for anything else."""
    if values.dtype.num in (arrays.FLOAT, arrays.HALF):
        return values
    refuse_type(str(values.dtype), values.dtype.num == arrays.DOUBLE, where, rounded)
    with np.errstate(over="ignore"):  # what overflows is refused as infinite, with its row
        return values.astype(np.float32)


def refuse_type(found: str, is_float64: bool, where: str, rounded: bool) -> None:
    """TypeError, unless the type is float64 and is to be rounded."""
    if is_float64 and rounded:
        return
    hint = "; rounded=True rounds float64 to float32" if is_float64 else ""
    raise TypeError(f"{where}: expected float32 or float16 (or bfloat16), got {found}{hint}")
