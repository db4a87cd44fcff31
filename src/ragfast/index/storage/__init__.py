"""A directory of arrays that is always of one version: .npy files that never change, under a manifest that is replaced.

Nothing here knows of indexes. A version is named arrays and a JSON object, ``meta``. The files of an array have a name
that is used once; a change writes those that are new beside the others, forces them to the disk, and then renames a new
manifest over the old one: whoever is killed before that leaves the old version, after that the new one. Files that no
manifest names any more go last, or with the next change. docs/index-format.md has the format.

One writer at a time: it holds the lock of the file ``lock``, and a second one is refused. Readers take no lock; what
they opened stays readable, because the system keeps a mapped file until nobody maps it. Nobody may shorten a file that
is mapped: the system ends a process that reads beyond the end.

>>> import numpy as np, tempfile, os
>>> path = os.path.join(tempfile.mkdtemp(), "numbers")
>>> with change(path) as transaction:
...     transaction.put("first", np.arange(3))
...     transaction.commit({"made": "today"})
>>> stored = open(path)
>>> stored.array("first").tolist(), stored.meta
([0, 1, 2], {'made': 'today'})
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels
from ragfast.index.storage import manifest
from ragfast.index.storage.manifest import Entry, IndexFormatError, Manifest
from ragfast.index.storage.transaction import ArrayWriter, Transaction, change

__all__ = ["ArrayWriter", "IndexFormatError", "Stored", "Transaction", "change", "open"]

VERIFIED = 1 << 23
"""Bytes that are summed together: an interrupt waits for no more."""


def open(path: str | os.PathLike[str]) -> Stored:
    """The version of the directory at this moment. Reads the manifest and the header of each array, no data.

    FileNotFoundError or NotADirectoryError where path is no directory, :class:`IndexFormatError` for a directory
    without a manifest and for every file that is not what the manifest says: its length, dtype and shape (its data are
    checked by :meth:`Stored.verify`).
    """
    directory = os.path.abspath(path)
    before, missing = None, ""
    while True:  # where a file is gone, because a writer has committed meanwhile
        try:
            data = manifest.read(directory)
        except FileNotFoundError:
            os.stat(directory)  # says so if it is the directory that is not there
            where = os.path.join(directory, manifest.NAME)
            raise manifest.wrong(where, "an index, which has a manifest", "none") from None
        if data == before:
            raise manifest.wrong(missing, "the file, which the manifest names", "none")
        try:
            return Stored(directory, manifest.parse(data, directory))
        except FileNotFoundError as error:
            before, missing = data, str(error.filename)


class Stored:
    """One version of a directory, mapped. Its arrays stay as they are whatever writers do."""

    def __init__(self, directory: str, read: Manifest) -> None:
        self.path = directory
        self._manifest = read
        self._mapped = {name: manifest.mapped(directory, entry) for name, entry in read.arrays.items()}
        self._verdicts: dict[str, str] = {}  # the sum found for each array that was read

    @property
    def version(self) -> int:
        """How many changes were committed to the directory."""
        return self._manifest.version

    @property
    def meta(self) -> dict[str, Any]:
        """What was committed with this version; the caller's to leave as it is."""
        return self._manifest.meta

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays."""
        return tuple(self._mapped)

    def array(self, name: str) -> NDArray[Any]:
        """The mapped array, read-only, its data on a cache line. IndexFormatError where this version has none."""
        self._entry(name)
        return self._mapped[name]

    def file(self, name: str) -> str:
        """The path of its file, for those who find something wrong in it."""
        return os.path.join(self.path, self._entry(name).file)

    def _entry(self, name: str) -> Entry:
        entry = self._manifest.arrays.get(name)
        if entry is None:
            raise manifest.wrong(os.path.join(self.path, manifest.NAME), f"an array {name}", "none of that name")
        return entry

    def verify(self, name: str) -> None:
        """Read the array and compare its checksum, the first time; from then on the verdict is known.
        IndexFormatError if it differs.

        Threads may call this together, and so may a handler or finalizer in the middle of it. Nobody waits, since what
        it waits for may be waiting for it: each reads until one has the verdict. They keep pace with each other, as
        the one that is behind finds its bytes in memory."""
        entry = self._entry(name)
        if name not in self._verdicts:
            data, sums = self._mapped[name].reshape(-1).view(np.uint8), _kernels.Checksum()
            for first in range(0, entry.nbytes, VERIFIED):
                sums.update(data[first : first + VERIFIED].data)
                if name in self._verdicts:
                    break
            else:
                self._verdicts[name] = f"{sums.value:016x}"
        if self._verdicts[name] != entry.xxh64:
            raise manifest.wrong(self.file(name), f"data of which the XXH64 is {entry.xxh64}", self._verdicts[name])

    def verify_all(self) -> None:
        """Verify every array."""
        for name in self.names:
            self.verify(name)
