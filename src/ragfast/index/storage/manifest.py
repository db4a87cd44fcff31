"""The manifest of an index directory and the files it names: what each must be, to the byte.

docs/index-format.md describes the format. Nothing that a file holds is believed: whatever is not as this module would
have written it is an :class:`IndexFormatError`.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import re
import stat
import sys
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast._core import _kernels

NAME = "manifest.json"
FORMAT = "ragfast index"
FORMAT_VERSION = 1
MAX_BYTES = 1 << 24
"""Of a manifest: some 50,000 arrays. JSON is read as a whole, and a hostile one shall not fill the memory."""
MAX_AXES = 3
MAX_AXIS = 1 << 40
MAX_DATA = 1 << 60
HEADER = 128
"""Bytes before the data of every array: data begin on a cache line, at the same place in each file."""
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")

PART = "[a-z0-9][a-z0-9_-]{0,63}"
ARRAY_NAME = re.compile(f"{PART}(?:/{PART})?")
SUFFIX = "v[0-9]{1,19}-[0-9a-f]{8}"
OWN_FILE = re.compile(rf"{PART}(?:\.{PART})?\.{SUFFIX}\.npy|manifest\.{SUFFIX}\.json")
"""The files that a writer makes, and that the next one may remove."""
SUM = re.compile("[0-9a-f]{16}")
LAST_LINE = re.compile(rb'"xxh64": "([0-9a-f]{16})"\}\n')
LAST_LINE_BYTES = 29
READ_ONLY = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"))
"""No link is followed, so that an index is what lies in its directory; a pipe in the place of a file does not block."""


class IndexFormatError(ValueError):
    """A file of an index directory is not what it should be: the message names the file, what was expected and what
    was found."""


def wrong(path: str, expected: str, found: object) -> IndexFormatError:
    shown = found if isinstance(found, str) else repr(found)
    shown = shown[:200] + "..." if len(shown) > 200 else shown
    return IndexFormatError(f"{path}: expected {expected}, found {shown.encode('ascii', 'backslashreplace').decode()}")


class Entry(NamedTuple):
    """An array of the manifest."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    xxh64: str
    rows_checked: bool

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype[2:])

    def header(self) -> bytes:
        """The first 128 bytes of its file: .npy, version 1.0, as numpy.save writes them."""
        shape = f"({self.shape[0]},)" if len(self.shape) == 1 else str(self.shape)
        text = f"{{'descr': '{self.dtype}', 'fortran_order': False, 'shape': {shape}, }}"
        return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.encode().ljust(HEADER - 11) + b"\n"


class Manifest(NamedTuple):
    """One version of a directory."""

    version: int
    arrays: dict[str, Entry]
    meta: dict[str, Any]

    def encode(self) -> bytes:
        """JSON; TypeError or ValueError for a meta that JSON cannot hold."""
        arrays = {
            name: {
                "file": entry.file,
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "bytes": HEADER + entry.nbytes,
                "xxh64": entry.xxh64,
                "rows_checked": entry.rows_checked,
            }
            for name, entry in self.arrays.items()
        }
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "version": self.version,
            "meta": self.meta,
            "arrays": arrays,
        }
        # All lines but the last, which holds their checksum.
        text = json.dumps(body, indent=1, allow_nan=False).removesuffix("\n}").encode() + b",\n"
        data = text + b'"xxh64": "%016x"}\n' % _kernels.checksum(text)
        if len(data) > MAX_BYTES:
            raise ValueError(f"meta: expected a manifest of at most {MAX_BYTES} bytes, got {len(data)}")
        return data


def array_name(name: str) -> str:
    """The name, if it may be one."""
    if not isinstance(name, str) or not ARRAY_NAME.fullmatch(name):
        raise ValueError(
            f"name: expected one or two parts of a-z, 0-9, - and _, at most 64 each, joined by /; got {name!r}"
        )
    return name


def array_dtype(dtype: DTypeLike) -> str:
    """How files spell it."""
    given = np.dtype(dtype)
    spelt = given.newbyteorder("<").str
    if spelt not in DTYPES:
        raise TypeError(f"dtype: expected one of {', '.join(DTYPES)}, got {given}")
    return spelt


def open_to_read(path: str, expected: str) -> int:
    """A descriptor of a plain file; FileNotFoundError where nothing is there."""
    try:
        fd = os.open(path, READ_ONLY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise wrong(path, expected, "a symbolic link or no file") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise wrong(path, expected, "a directory or a device")
    return fd


def mapped(directory: str, entry: Entry) -> NDArray[Any]:
    """The array of a file, once the file's length and its header are what they must be."""
    path = os.path.join(directory, entry.file)
    fd = open_to_read(path, "an array")
    try:
        size = os.fstat(fd).st_size
        if size != HEADER + entry.nbytes:
            raise wrong(path, f"{HEADER + entry.nbytes} bytes", f"{size} bytes")
        if sys.version_info >= (3, 13):  # which need not keep a descriptor for each array
            memory = mmap.mmap(fd, size, access=mmap.ACCESS_READ, trackfd=False)
        else:
            memory = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        header = memory[:HEADER]
        if header != entry.header():
            raise wrong(path, f"the header {entry.header()!r}", header)
        return np.ndarray(entry.shape, entry.dtype, buffer=memory, offset=HEADER)
    finally:
        os.close(fd)


def read(directory: str) -> bytes:
    """The bytes of the manifest; FileNotFoundError where there is none."""
    path = os.path.join(directory, NAME)
    fd = open_to_read(path, "a manifest")
    try:
        size = os.fstat(fd).st_size
        if size > MAX_BYTES:
            raise wrong(path, f"a manifest of at most {MAX_BYTES} bytes", f"{size} bytes")
        data = b""
        while len(data) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(data))):
            data += more
        return data
    finally:
        os.close(fd)


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that is given twice")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"the number {word}")


def parse(data: bytes, directory: str) -> Manifest:
    """The manifest in these bytes."""
    path = os.path.join(directory, NAME)

    def require(holds: bool, expected: str, found: object) -> None:
        if not holds:
            raise wrong(path, expected, found)

    def whole(value: Any, what: str, most: int) -> int:
        require(type(value) is int and 0 <= value <= most, f"{what} as an integer from 0 to {most}", value)
        return value  # type: ignore[no-any-return]  # an int

    def table(value: Any, what: str, keys: set[str] | None = None) -> dict[str, Any]:
        fits = type(value) is dict and (keys is None or value.keys() == keys)
        require(fits, f"{what} as an object" + (f" of {', '.join(sorted(keys))}" if keys else ""), value)
        return value  # type: ignore[no-any-return]  # a dict

    try:
        text = data.decode("utf-8")
        body = json.loads(text, object_pairs_hook=_only_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise wrong(path, "a manifest in JSON", f"{len(data)} bytes of which the parser says: {error}") from None
    if type(body) is not dict or body.get("format") != FORMAT:
        raise wrong(path, f'"format": "{FORMAT}"', body.get("format") if type(body) is dict else body)
    given = whole(body.get("format_version"), "format_version", 1 << 32)
    require(given == FORMAT_VERSION, f"format_version {FORMAT_VERSION}, the only one that this ragfast reads", given)
    last = LAST_LINE.fullmatch(data[-LAST_LINE_BYTES:])
    if last is None:
        raise wrong(path, "a last line with the checksum of all before it", data[-LAST_LINE_BYTES:])
    summed = b"%016x" % _kernels.checksum(data[:-LAST_LINE_BYTES])
    require(last[1] == summed, f"lines of which the checksum is {last[1].decode()}", summed.decode())
    table(body, "the manifest", {"format", "format_version", "version", "arrays", "meta", "xxh64"})

    arrays = {}
    for name, value in table(body["arrays"], "arrays").items():
        require(ARRAY_NAME.fullmatch(name) is not None, "names of arrays in one or two parts", name)
        what = f"array {name}"
        item = table(value, what, {"file", "dtype", "shape", "bytes", "xxh64", "rows_checked"})
        file, shape = item["file"], item["shape"]
        stem = re.escape(name.replace("/", "."))
        named = type(file) is str and re.fullmatch(rf"{stem}\.{SUFFIX}\.npy", file) is not None
        require(named, f"{what} in a file {stem}.v(version)-(8 digits).npy", file)
        dtype, sums, rows_checked = item["dtype"], item["xxh64"], item["rows_checked"]
        require(dtype in DTYPES, f"{what} of dtype {', '.join(DTYPES)}", dtype)
        require(type(shape) is list and 1 <= len(shape) <= MAX_AXES, f"{what} of 1 to {MAX_AXES} axes", shape)
        axes = tuple(whole(n, f"an axis of {what}", MAX_AXIS) for n in shape)
        has_sum = type(sums) is str and SUM.fullmatch(sums) is not None
        require(has_sum, f"{what} with an xxh64 of 16 digits", sums)
        require(type(rows_checked) is bool, f"{what} with rows_checked true or false", rows_checked)
        entry = Entry(file, dtype, axes, sums, rows_checked)
        if entry.nbytes > MAX_DATA or whole(item["bytes"], f"bytes of {what}", 2 * MAX_DATA) != HEADER + entry.nbytes:
            raise wrong(path, f"{what} of {HEADER + entry.nbytes} bytes, from its dtype and shape", item["bytes"])
        arrays[name] = entry
    return Manifest(whole(body["version"], "version", 1 << 62), arrays, table(body["meta"], "meta"))
