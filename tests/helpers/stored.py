"""A small directory of ragfast.index.storage for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ragfast.index import storage
from ragfast.index.storage import manifest

ARRAYS = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "part/doubles": np.arange(3.0),
    "part/bits": np.array([True, False]),
    "part/codes": np.arange(-4, 4, dtype=np.int8).reshape(2, 2, 2),
    "none": np.empty((0, 7), np.uint16),
    "nothing": np.empty((5, 0), np.int64),
}


def save(path: Path, arrays: dict[str, Any] = ARRAYS, meta: dict[str, Any] | None = None) -> None:
    with storage.change(path) as transaction:
        for name, array in arrays.items():
            transaction.put(name, array)
        transaction.commit({} if meta is None else meta)


def file_of(path: Path, name: str) -> Path:
    return Path(storage.open(path).file(name))


def own_files(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()} - {"lock", manifest.NAME}


def commit_in_a_loop(path: Path, n: int) -> None:
    """In a module that a spawned process can import."""
    for i in range(n):
        with storage.change(path) as transaction:
            if i % 3 and "kept" in transaction.before.arrays:
                transaction.keep("kept")
            else:
                transaction.put("kept", np.arange(3))
            transaction.put("count", np.full(100, i))
            transaction.put("again", np.full((5, 2), i))
            transaction.commit({"count": i})
