"""Which documents a search may find: bits and groups of the rows of each segment."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index.columns import Schema, Vocabulary
from ragfast.index.filters import Predicate
from ragfast.index.id_set import distinct
from ragfast.index.names import Names
from ragfast.index.segment import Segment
from ragfast.index.strings import string_list

Segments = tuple[Segment, ...]
Masks = Iterator[NDArray[np.bool_]]
"""Of each segment which rows, removed ones or not, bool (n,)."""


class GroupNumbers:
    """Numbers the values of a column of groups, int32, in the order in which they are met.

    All versions of an index share the numbers, and searches may ask for new ones at the same time."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._next = itertools.count()

    def assign(self, values: NDArray[np.int64]) -> NDArray[np.int32]:
        different, places = np.unique(values, return_inverse=True)
        of = self._of
        found = [of[v] if v in of else of.setdefault(v, next(self._next)) for v in different.tolist()]
        return np.array(found, np.int32)[places]

    def known(self, value: int) -> int:
        return self._of.get(value, -1)


class Contents(NamedTuple):
    """What a version holds beside its segments. Names, vocabularies and numbers only grow; a later version of the same
    index shares them."""

    numbering: str = ""  # "numbered", "int" or "str" ids; "": no document came yet
    next_id: int = 0
    names: Names | None = None
    schema: Schema | None = None  # None: no document came yet
    vocabularies: Mapping[str, Vocabulary] = {}
    group_numbers: Mapping[str, GroupNumbers] = {}

    @property
    def columns(self) -> Schema:
        """Those of the documents that there are."""
        return self.schema or Schema({})

    def with_schema(self, schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> Contents:
        """Return contents with these columns and new group numbers."""
        numbers = {name: GroupNumbers() for name, kind in schema.kinds.items() if kind == "int64"}
        return self._replace(schema=schema, vocabularies=vocabularies, group_numbers=numbers)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Filter:
    """Which documents a search may find, made ready by :meth:`Snapshot.filter` for the searches of that version.

    In a search of another version what it was made from is evaluated again; a mask cannot be, and is refused.
    len(filter) is the number of documents that it lets through. It never changes: other searches share it.
    """

    source: Any  # a Predicate or ids; None: a mask, or two filters put together
    version: int
    segments: Segments
    allowed: tuple[NDArray[np.uint32] | None, ...]  # bits of each segment, read-only; None: no document of it

    def __and__(self, other: object) -> Filter:
        """The documents that both let through, for this version only, as a mask is; ValueError for one of another."""
        if not isinstance(other, Filter):
            return NotImplemented
        if other.segments is not self.segments:
            raise ValueError(f"filter: expected one of version {self.version}, got one of another, {other.version}")
        pairs = zip(self.allowed, other.allowed, strict=True)
        both = tuple(None if a is None or b is None else _read_only(a & b) for a, b in pairs)
        return Filter(None, self.version, self.segments, both)

    def __len__(self) -> int:
        both = zip(self.allowed, self.segments, strict=True)
        return sum(int(arrays.unpacked_bits(bits, segment.n).sum()) for bits, segment in both if bits is not None)

    def __copy__(self) -> Filter:
        return self

    def __deepcopy__(self, memo: object) -> Filter:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a prepared filter belongs to its version in this process; pickle its predicate or ids instead")

    def __repr__(self) -> str:
        return f"Filter of {len(self)} of the {sum(map(len, self.segments))} documents of version {self.version}"


def allowed(segments: Segments, masks: Iterable[NDArray[np.bool_]]) -> tuple[NDArray[np.uint32] | None, ...]:
    """The masks as bits, without removed rows; None where no row is left."""
    found: list[NDArray[np.uint32] | None] = []
    for segment, mask in zip(segments, masks, strict=True):
        bits = arrays.packed_bits(mask)
        if segment.alive is not None:
            bits &= segment.alive[: len(bits)]
        found.append(_read_only(bits))
    return tuple(found)


def _read_only(bits: NDArray[np.uint32]) -> NDArray[np.uint32] | None:
    bits.flags.writeable = False
    return bits if bits.any() else None


def frozen_filter(filter: Any, expected: str) -> Any:
    """A filter as it may be kept: a Predicate or a Filter itself, str ids in a tuple, integers and a mask as a copy
    (n,), read-only. TypeError, which says what was expected, for anything else."""
    if isinstance(filter, (Predicate, Filter)):
        return filter
    if isinstance(filter, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"filter: expected {expected}, got {type(filter).__name__}")
    if arrays.are_strings(filter):
        return tuple(string_list(filter, "filter"))
    a = arrays.as_array(filter, "filter")
    if a.ndim == 0 and a.dtype.kind == "O":  # a set, a generator: not what NumPy reads
        raise TypeError(f"filter: expected {expected}, got {type(filter).__name__}")
    if a.dtype.kind != "b" and (a.ndim != 1 or (a.size and a.dtype.kind not in "iu")):
        raise TypeError(f"filter: expected {expected}, got {a.dtype} {a.shape}")
    copied = np.array(a) if a.size or a.dtype.kind == "b" else np.empty(0, np.int64)
    copied.flags.writeable = False
    return copied


def predicate_masks(segments: Segments, predicate: Predicate, contents: Contents) -> Masks:
    if contents.schema is None:  # no document came yet, so any column may come
        return iter(())
    bound = predicate.bind(contents.columns, contents.vocabularies)
    names = predicate.columns()
    return (bound({name: segment.column(name) for name in names}) for segment in segments)


def split_mask(segments: Segments, mask: NDArray[np.bool_]) -> Masks:
    """A mask of all documents that are there."""
    first = 0
    for segment in segments:
        part = mask[first : first + len(segment)]
        first += len(segment)
        if segment.alive is None:
            yield part
        else:
            rows = np.zeros(segment.n, np.bool_)
            rows[segment.rows] = part
            yield rows


def key_masks(segments: Segments, keys: NDArray[np.int64]) -> Masks:
    """The documents of these keys."""
    ascending = distinct(keys)
    for segment in segments:
        rows = segment.find(ascending)
        mask = np.zeros(segment.n, np.bool_)
        mask[rows[rows >= 0]] = True
        yield mask


# ---- groups


def group_codes(segments: Segments, name: str, contents: Contents) -> list[NDArray[np.int32]]:
    """Of each segment the groups (n,) of its rows; negative: of none."""
    if not isinstance(name, str):
        raise TypeError(f"group_by: expected the name of a metadata column, got {type(name).__name__}")
    if contents.schema is None:
        return []
    kind = contents.columns.kind(name)
    if kind == "str":
        return [segment.column(name) for segment in segments]
    if kind != "int64":
        raise TypeError(f"group_by: expected a column of int64 or str, {name!r} holds {kind}")
    numbers = contents.group_numbers[name]
    return [segment.group_numbers(name, numbers.assign) for segment in segments]


def excluded_groups(name: str, exclude_groups: Any, n_queries: int, contents: Contents) -> NDArray[np.int32]:
    """The group (B,) of a column that each query must not find, -1: none, or one that no document has."""
    readable = (
        isinstance(exclude_groups, Sequence)
        or hasattr(exclude_groups, "__array__")
        or hasattr(exclude_groups, "__dlpack_device__")
    )
    if not readable and not np.isscalar(exclude_groups):
        raise TypeError(
            f"exclude_groups: expected ({n_queries},) groups, a list or an array of one for each query, "
            f"got {type(exclude_groups).__name__}"
        )
    if contents.schema is None:
        return np.full(n_queries, -1, np.int32)
    is_text = isinstance(exclude_groups, (str, bytes))
    if contents.columns.kind(name) == "str":
        if is_text or np.ndim(exclude_groups) != 1 or len(exclude_groups) != n_queries:
            got = f"{exclude_groups!r:.80}" if is_text else f"shape {np.shape(exclude_groups)}"
            raise ValueError(f"exclude_groups: expected ({n_queries},) strings or None, one for each query, got {got}")
        groups = list(exclude_groups)
        if not all(group is None or isinstance(group, str) for group in groups):
            raise TypeError(f"exclude_groups: expected str or None, as column {name!r} holds")
        return np.maximum(contents.vocabularies[name].find(groups), np.int32(-1))  # None is in no vocabulary
    without = np.zeros(n_queries, np.bool_)
    of_objects = isinstance(exclude_groups, Sequence) or getattr(exclude_groups, "dtype", np.dtype(int)).kind == "O"
    if of_objects and not is_text and len(exclude_groups) == n_queries:  # None may be among them
        without = np.array([group is None for group in exclude_groups], np.bool_)
        if any(isinstance(group, (bool, np.bool_)) for group in exclude_groups):
            raise TypeError(f"exclude_groups: expected integers or None, as column {name!r} holds, got bool")
        exclude_groups = [0 if group is None else group for group in exclude_groups]
    numbers = arrays.integers(exclude_groups, "exclude_groups", f"({n_queries},)", (n_queries,))
    codes = np.array([contents.group_numbers[name].known(number) for number in numbers.tolist()], np.int32)
    codes[without] = -1
    return codes
