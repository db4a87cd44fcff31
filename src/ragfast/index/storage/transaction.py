"""Writing an index directory: what the next version will hold, and its commit."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ragfast._core import _kernels
from ragfast.index.storage import manifest
from ragfast.index.storage.manifest import Entry, Manifest

with suppress(ImportError):  # writing takes POSIX; reading does not
    import fcntl

LOCK = "lock"
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
BLOCK = 1 << 20
"""Bytes that are summed and written, or copied, together: they are in a cache the second time."""


@contextmanager
def change(path: str | os.PathLike[str]) -> Iterator[Transaction]:
    """The next version of the directory, which is created where there is none; its parent must exist.

    Nothing changes unless :meth:`Transaction.commit` returns. BlockingIOError while another writer has a transaction,
    in this process or another; FileExistsError where path is a file, or a directory that holds something but no index;
    IndexFormatError where its manifest cannot be read. A disk that is full, a permission that is missing: OSError, the
    old version stays and what was begun is removed.

    An interrupt that comes just as the block ends may keep the directory locked until the exception is gone. Close the
    generator (``gen``) in any case where somebody may write before that.
    """
    directory = os.path.abspath(path)
    _make_directory(directory)
    fd = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    process = os.getpid()
    try:
        _lock(fd, directory)
        current = nothing = Manifest(0, {}, {})
        with suppress(FileNotFoundError):
            current = manifest.parse(manifest.read(directory), directory)
        if current is nothing:
            _refuse_strangers(directory)
            with suppress(PermissionError):  # of a parent that may not be read
                _sync_directory(os.path.dirname(directory))  # whoever made the directory may have been killed since
        _remove_unnamed(directory, current)
        transaction = Transaction(directory, current)
        try:
            yield transaction
        finally:
            transaction._close()
    finally:
        try:
            if process == os.getpid():  # closing is not enough: a child that was forked meanwhile has the lock too
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)


class Transaction:
    """A version in the making, of one thread. ``before`` is the version that it follows: its version (0 where there is
    none), arrays (what may be kept) and meta."""

    def __init__(self, directory: str, before: Manifest) -> None:
        self._directory = directory
        self.before = before
        self._suffix = f"v{self.version}-{os.urandom(4).hex()}"
        self._arrays: dict[str, Entry] = {}
        self._streams: dict[str, ArrayWriter] = {}
        self._process = os.getpid()
        self._open = True
        self._renaming = False

    @property
    def version(self) -> int:
        """The number that this version will have."""
        return self.before.version + 1

    def has(self, name: str) -> bool:
        """Whether the file of an array of the version before is still there."""
        return os.path.lexists(os.path.join(self._directory, self.before.arrays[name].file))

    def keep(self, name: str) -> None:
        """Takes over an array of the version before, without reading or writing its data."""
        self._refuse(name)
        entry = self.before.arrays.get(name)
        if entry is None:
            raise ValueError(f"name: expected an array of version {self.before.version}, got {name!r}")
        try:
            manifest.mapped(self._directory, entry)
        except FileNotFoundError:
            raise manifest.wrong(os.path.join(self._directory, entry.file), "the file", "none") from None
        self._arrays[name] = entry

    def put(self, name: str, array: ArrayLike, *, rows_checked: bool = False) -> None:
        """Writes an array of 1 to 3 axes. One that is not contiguous is copied in blocks. rows_checked
        tells readers that its rows have checksums in another array, so that it need not be read as a whole before use.
        """
        given = np.asarray(array)
        if given.ndim == 0:
            raise ValueError("array: expected 1 to 3 axes, got a scalar")
        with self.stream(name, given.dtype, given.shape[1:], rows_checked=rows_checked) as out:
            out.append(given)

    @contextmanager
    def stream(
        self, name: str, dtype: DTypeLike, row_shape: tuple[int, ...] = (), *, rows_checked: bool = False
    ) -> Iterator[ArrayWriter]:
        """Writes an array block by block, in constant memory. rows_checked: see :meth:`put`."""
        self._refuse(name)
        file = f"{name.replace('/', '.')}.{self._suffix}.npy"
        spelt, axes = manifest.array_dtype(dtype), tuple(int(n) for n in row_shape)
        if len(axes) >= manifest.MAX_AXES or any(not 0 <= n <= manifest.MAX_AXIS for n in axes):
            raise ValueError(f"row_shape: expected at most {manifest.MAX_AXES - 1} axes, got {row_shape}")
        out = self._streams[name] = ArrayWriter(os.path.join(self._directory, file), spelt, axes)
        try:
            yield out
            sums = out._finish()
        except BaseException:
            out._abandon()
            raise
        finally:
            del self._streams[name]
        self._arrays[name] = Entry(file, spelt, (len(out), *axes), sums, rows_checked)

    def commit(self, meta: Mapping[str, Any]) -> None:
        """Makes this the version of the directory: when it returns, also after a loss of power. meta is JSON."""
        self._refuse_closed()
        if self._streams:
            raise ValueError(f"commit: expected complete arrays, but {next(iter(self._streams))} is being written")
        made = Manifest(self.version, self._arrays, dict(meta))
        data = made.encode()
        beside = os.path.join(self._directory, f"manifest.{self._suffix}.json")
        fd = os.open(beside, NEW_FILE, 0o666)
        try:
            _write(fd, data)
            _sync(fd)
        finally:
            os.close(fd)
        _sync_directory(self._directory)
        # From here to its end nobody can say which version a loss of power would leave: no file of either may go.
        self._renaming = True
        try:
            os.replace(beside, os.path.join(self._directory, manifest.NAME))
        except OSError:
            self._renaming = False
            raise
        _sync_directory(self._directory)
        self._renaming = self._open = False
        _remove_unnamed(self._directory, made)

    def _refuse_closed(self) -> None:
        _refuse_child(self._process)
        if not self._open:
            raise ValueError("transaction: expected one whose block has not ended and that was not committed")

    def _refuse(self, name: str) -> None:
        self._refuse_closed()
        if manifest.array_name(name) in self._arrays or name in self._streams:
            raise ValueError(f"name: expected a name that this version has not got yet, got {name!r}")

    def _close(self) -> None:
        if self._process == os.getpid():  # and not one that was forked meanwhile
            for out in self._streams.values():
                out._abandon()
            if self._open and not self._renaming:
                _remove_unnamed(self._directory, self.before)
        self._open = False


class ArrayWriter:
    """An array that is being written; its length is how many rows it has so far."""

    def __init__(self, path: str, dtype: str, row_shape: tuple[int, ...]) -> None:
        self._path = path
        self._process = os.getpid()
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._rows = 0
        self._sums = _kernels.Checksum()
        self._fd = os.open(path, NEW_FILE, 0o666)
        try:
            self._write(bytes(manifest.HEADER))  # in its place when the number of rows is known
        except BaseException:
            self._abandon()
            raise

    def __len__(self) -> int:
        return self._rows

    def append(self, block: ArrayLike) -> None:
        """Writes rows (n, *row_shape) of the array's dtype."""
        given = np.asarray(block)
        if given.dtype.newbyteorder("<") != self._dtype:
            raise TypeError(f"block: expected {self._dtype}, got {given.dtype}")
        if given.shape[1:] != self._row_shape or given.ndim == 0:
            raise ValueError(f"block: expected rows of shape {self._row_shape}, got {given.shape}")
        if self._fd < 0:
            raise ValueError("append: expected an array that is still being written")
        row_bytes = max(1, given.nbytes // max(1, len(given)))
        step = max(1, len(given) if given.flags.c_contiguous else BLOCK // row_bytes)
        for first in range(0, len(given) if given.nbytes else 0, step):
            data = np.ascontiguousarray(given[first : first + step], self._dtype).reshape(-1).view(np.uint8)
            for start in range(0, len(data), BLOCK):
                # A copy: of a panel of codes that lie beside it, an add may be writing those of rows to come.
                part = data[start : start + BLOCK].copy().data
                self._sums.update(part)
                self._write(part)
        self._rows += len(given)

    def _write(self, data: bytes | memoryview) -> None:
        _refuse_child(self._process)
        _write(self._fd, data)

    def _finish(self) -> str:
        """Completes the file and forces it to the disk; returns the sum of its data."""
        entry = Entry("", self._dtype.str, (self._rows, *self._row_shape), f"{self._sums.value:016x}", False)
        if self._rows > manifest.MAX_AXIS or entry.nbytes > manifest.MAX_DATA:
            raise ValueError(f"array: expected at most {manifest.MAX_AXIS} rows, got {self._rows}")
        _refuse_child(self._process)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._write(entry.header())
        _sync(self._fd)
        fd, self._fd = self._fd, -1
        os.close(fd)
        return entry.xxh64

    def _abandon(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)
        if self._process == os.getpid():
            with suppress(OSError):
                os.unlink(self._path)


def _refuse_child(process: int) -> None:
    """RuntimeError unless this process is the one that began to write: files are its own, and have one position."""
    if process != os.getpid():
        raise RuntimeError(
            "a signal handler forked this process while it was writing an index, which the child cannot complete"
        )


def _write(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(fd, rest) :]


def _sync(fd: int) -> None:
    """To the disk itself: what fsync leaves in the disk's own memory, macOS writes on another call."""
    os.fsync(fd)
    if sys.platform == "darwin":
        with suppress(OSError):  # not every file system has it
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)


def _sync_directory(directory: str) -> None:
    """The names in it."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        _sync(fd)
    finally:
        os.close(fd)


def _make_directory(directory: str) -> None:
    if os.path.isdir(directory):
        if not os.path.lexists(os.path.join(directory, manifest.NAME)):
            _refuse_strangers(directory)  # before a lock is put there
        return
    if os.path.lexists(directory):
        raise FileExistsError(errno.EEXIST, "expected a directory, or nothing, found a file", directory)
    parent = os.path.dirname(directory)
    if not os.path.isdir(parent):
        raise FileNotFoundError(errno.ENOENT, "expected a directory to make the index in, found none", parent)
    with suppress(FileExistsError):  # another writer came first
        os.mkdir(directory)


def _refuse_strangers(directory: str) -> None:
    """What a writer that was killed before its first commit leaves is none."""
    for name in sorted(os.listdir(directory)):
        if name != LOCK and not manifest.OWN_FILE.fullmatch(name):
            raise FileExistsError(errno.EEXIST, f"expected an index or an empty directory, found {name} in", directory)


def _remove_unnamed(directory: str, current: Manifest) -> None:
    """Removes what writers left that is not of this version. A file that cannot go is left for the next writer."""
    named = {entry.file for entry in current.arrays.values()}
    unnamed = [name for name in os.listdir(directory) if manifest.OWN_FILE.fullmatch(name) and name not in named]
    with suppress(OSError):
        if unnamed:
            _sync_directory(directory)  # the renaming by a writer that was killed must not come after this
        for name in unnamed:
            with suppress(OSError):
                os.unlink(os.path.join(directory, name))


def _lock(fd: int, directory: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = "expected one writer at a time, found another at work in"
        raise BlockingIOError(errno.EWOULDBLOCK, found, directory) from None
