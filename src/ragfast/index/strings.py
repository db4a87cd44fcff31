"""Lists of strings that grow, and the two arrays that one is stored as.

A list of n strings is stored as its UTF-8, one after the other: data (bytes,) uint8 and offsets (n + 1,) int64, string
i being data[offsets[i]:offsets[i + 1]].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays

BLOCK = 2**16
"""Strings that are put into a dictionary or a set together."""


def plain_str(x: str) -> str:
    """x without whatever a subclass of str adds to it (np.str_, an enumeration), so that it is what it compares as."""
    return x if type(x) is str else str.__str__(x)


def blocks(strings: Sequence[str]) -> Iterator[Sequence[str]]:
    """Them in parts that take a few milliseconds each to look up, so that signal handlers run in between."""
    return (strings[first : first + BLOCK] for first in range(0, len(strings), BLOCK))


def refuse_surrogates(strings: Iterable[str], name: str) -> None:
    """Raises for a string that has no UTF-8: such a string cannot be stored."""
    for string in strings:
        if not string.isascii():
            try:
                string.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"{name}: {string!r} holds half of a surrogate pair, which UTF-8 cannot store"
                ) from None


def string_list(x: object, name: str, *, missing: bool = False) -> list[Any]:
    """The strings of a sequence, or of a NumPy array of any type of strings, 1-D; None among them where `missing`.

    TypeError for anything else, one string included: it is a sequence of strings too.
    """
    if isinstance(x, (str, bytes)) or not (isinstance(x, Sequence) or hasattr(x, "__array__")):
        raise TypeError(f"{name}: expected a sequence of strings, got {x!r:.80}")
    if isinstance(x, Sequence):
        values = list(x)
    else:
        a = arrays.as_array(x, name)
        if a.ndim != 1:
            raise ValueError(f"{name}: expected one dimension, got shape {a.shape}")
        if a.dtype.kind not in "OUT":
            raise TypeError(f"{name}: expected strings, got {a.dtype}")
        values = a.tolist()
        if a.dtype.kind == "T":  # what is not a string is the type's own sign for "missing"
            values = [value if isinstance(value, str) else None for value in values]
    kinds = set(map(type, values))
    if kinds <= {str} or (missing and kinds <= {str, type(None)}):
        return values
    for i, value in enumerate(values):
        if not isinstance(value, str) and not (missing and value is None):
            expected = "str or None" if missing else "str"
            raise TypeError(f"{name}: expected {expected}, got {type(value).__qualname__} {value!r:.80} in row {i}")
    return [value if value is None else plain_str(value) for value in values]


def pack(strings: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(data, offsets) of strings without surrogates."""
    encoded = [string.encode() for string in strings]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def check_shapes(data: NDArray[Any], offsets: NDArray[Any]) -> None:
    """ValueError unless these can be (data, offsets), as far as can be said without reading them."""
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"the text of strings: expected uint8 of one dimension, got {data.dtype} {data.shape}")
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) == 0:
        raise ValueError(f"offsets of strings: expected int64 (n + 1,), got {offsets.dtype} {offsets.shape}")


def check(data: NDArray[Any], offsets: NDArray[Any]) -> None:
    """ValueError unless these are (data, offsets) of strings; reads both."""
    check_shapes(data, offsets)
    if offsets[0] != 0 or offsets[-1] != len(data):
        raise ValueError(
            f"offsets of strings: expected them to run from 0 to {len(data)}, the bytes of text there are; "
            f"they run from {offsets[0]} to {offsets[-1]}"
        )
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if falls.size:
        raise ValueError(f"offsets of strings: expected them to ascend; string {falls[0]} ends before it begins")
    try:
        str(memoryview(data), "utf-8")  # type: ignore[arg-type]  # an array offers its buffer
    except UnicodeDecodeError as error:
        i = int(np.searchsorted(offsets, error.start, "right")) - 1
        raise ValueError(f"the text of string {i}: expected UTF-8; {error.reason} at byte {error.start}") from None
    inner = offsets[(offsets > 0) & (offsets < len(data))]
    split = inner[(data[inner] & 0xC0) == 0x80]  # of a character, the bytes after its first
    if split.size:
        raise ValueError(f"offsets of strings: byte {split[0]} is inside of a character")


class Strings:
    """Strings by position, and positions by string. The first ones may lie in mapped arrays, and are read when needed.

    Strings are added and never removed, so that older versions of an index can share them. One writer may append while
    others read.
    """

    kind = "strings"
    """What errors call them."""

    def __init__(self, data: NDArray[np.uint8] | None = None, offsets: NDArray[np.int64] | None = None) -> None:
        """Begin with what :func:`pack` returned, or with nothing. See :func:`check` for arrays from elsewhere."""
        self._data = np.empty(0, np.uint8) if data is None else data
        self._offsets = np.zeros(1, np.int64) if offsets is None else offsets
        check_shapes(self._data, self._offsets)
        self.n_stored = len(self._offsets) - 1
        self._stored: list[str] | None = None  # read when all are wanted
        self._stored_positions: dict[str, int] | None = None  # never changed once it is made
        self._added: list[str] = []
        self._added_positions: dict[str, int] = {}

    def __len__(self) -> int:
        return self.n_stored + len(self._added_positions)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays it began with, and an estimate of what each string added to it takes."""
        return self._data.nbytes + self._offsets.nbytes + 80 * len(self._added)

    def check(self) -> None:
        """Read all that is stored: ValueError if these are not strings, or not distinct."""
        check(self._data, self._offsets)
        self._stored_by_position()

    def stored(self) -> list[str]:
        """The strings it began with; not to be changed."""
        if self._stored is None:  # two readers may both do this, to the same end
            check(self._data, self._offsets)
            text, ends = self._data.tobytes(), self._offsets.tolist()
            self._stored = [text[first:end].decode() for first, end in pairwise(ends)]
        return self._stored

    def all(self) -> list[str]:
        return self.stored() + self._added[:]

    def _stored_by_position(self) -> dict[str, int]:
        if self._stored_positions is None:  # two readers may both do this too
            strings = self.stored()
            positions = {string: i for i, string in enumerate(strings)}
            if len(positions) < len(strings):
                raise ValueError(f"{self.kind}: expected distinct {self.kind}, got {repeated(strings)!r:.80} twice")
            self._stored_positions = positions
        return self._stored_positions

    def positions(self, strings: Iterable[str]) -> NDArray[np.int64]:
        """The position of each string, -1 if it is unknown."""
        stored, added = self._stored_by_position(), self._added_positions
        if not stored:
            return np.array([added.get(string, -1) for string in strings], np.int64)
        return np.array([added.get(string, stored.get(string, -1)) for string in strings], np.int64)

    def append(self, strings: Sequence[str]) -> None:
        """Append distinct unknown strings that :func:`refuse_surrogates` has seen."""
        first = len(self)
        del self._added[first - self.n_stored :]  # left by an append that was interrupted
        self._added.extend(strings)  # before any of them can be found
        for part in blocks(strings):  # of an append that is interrupted, the first strings stay
            self._added_positions.update(zip(part, range(first, first + len(part)), strict=True))
            first += len(part)

    def take(self, positions: NDArray[Any]) -> NDArray[np.object_]:
        """The strings at positions, of any shape, each below len(self); None at positions below 0."""
        flat = positions.ravel()
        if flat.size and flat.max() >= self.n_stored + len(self._added):
            raise ValueError(f"there are {len(self)} {self.kind}, and no position {flat.max()}")
        if self._stored is None and flat.size > self.n_stored // 8:
            self.stored()
        out = np.empty(flat.size, object)
        out[:] = [None if i < 0 else self._at(i) for i in flat.tolist()]
        return out.reshape(positions.shape)

    def _at(self, i: int) -> str:
        if i >= self.n_stored:
            return self._added[i - self.n_stored]
        if self._stored is not None:
            return self._stored[i]
        first, end = int(self._offsets[i]), int(self._offsets[i + 1])
        if not 0 <= first <= end <= len(self._data):
            raise ValueError(f"offsets of strings: string {i} goes from {first} to {end} of {len(self._data)} bytes")
        try:
            return self._data[first:end].tobytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"the text of string {i}: expected UTF-8; {error.reason}") from None

    def packed(self, n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(data, offsets) of the first n, no fewer than it began with, for storage: a writer may append meanwhile."""
        added = self._added[: n - self.n_stored]
        if not added:
            return self._data, self._offsets
        data, offsets = pack(added)
        return np.concatenate([self._data, data]), np.concatenate([self._offsets, offsets[1:] + self._offsets[-1]])


def repeated(strings: Sequence[str]) -> str:
    """The first string that is there twice."""
    seen: set[str] = set()
    return next(string for string in strings if string in seen or seen.add(string))  # type: ignore[func-returns-value]  # set.add returns None, which is false
