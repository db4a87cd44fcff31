"""Documents that lie together: arrays with spare capacity, and immutable views of the rows that a search sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays, interruptible
from ragfast.index.quantizer import MAX_CODED_DIM, MIN_CODED_DOCS, Quantizer

if TYPE_CHECKING:
    from ragfast.index.storage import IndexFormatError, Stored

MAX_DOCS = 2**31
BLOCK_BYTES = 2**24
"""What is copied at once where documents move from one segment to another."""


class Settings(NamedTuple):
    """What all documents of an index have in common, as :class:`FlatIndex` takes it."""

    dim: int
    scan: str
    dtype: str
    metric: str

    @property
    def vector_dtype(self) -> np.dtype[Any]:
        """Of the array that holds the vectors: 16-bit floats as bits."""
        return np.dtype(np.float32 if self.dtype == "float32" else np.uint16)

    @property
    def row_bytes(self) -> int:
        return self.dim * self.vector_dtype.itemsize

    def wants_codes(self, n: int) -> bool:
        """Whether n documents of one segment are scanned by codes."""
        return self.dim <= MAX_CODED_DIM and (self.scan == "int8" or (self.scan == "auto" and n >= MIN_CODED_DOCS))


def checked_dim(dim: object, scan: str) -> int:
    """Return dim. ValueError or TypeError if no index that is scanned like this can have it."""
    checked = arrays.positive_int(dim, "dim")
    if checked > arrays.MAX_DIM:
        raise ValueError(f"dim: expected at most {arrays.MAX_DIM}, got {dim}")
    if scan == "int8" and checked > MAX_CODED_DIM:
        raise ValueError(f"scan: int8 codes exist for D of at most {MAX_CODED_DIM}, got {dim}")
    return checked


class Rows(NamedTuple):
    """Documents on their way into a segment, as the segment keeps them."""

    vectors: NDArray[Any] | None  # None: they are in its buffers already
    norms: NDArray[np.float32]
    half_squares: NDArray[np.float64] | None
    ids: NDArray[np.int64] | None = None
    columns: Mapping[str, NDArray[Any]] = {}


class _Run(NamedTuple):
    """Ids of consecutive rows, ascending, and which rows these are: None where they lay in this order."""

    first: int
    ids: NDArray[np.int64]
    rows: NDArray[np.int32] | None


class Lookup:
    """Rows by id, made when first asked for and shared by all versions of a segment.

    The ids are sorted in runs of which each is less than half as long as the one before, so that a segment that grows
    sorts each id a few times only. Runs are replaced, never changed: two threads that make them do the same twice.
    """

    def __init__(self) -> None:
        self._runs: tuple[_Run, ...] = ()

    def runs(self, ids: NDArray[np.int64]) -> tuple[_Run, ...]:
        """Runs of at least these ids (of all rows from 0): what they hold beyond belongs to a later version."""
        runs = self._runs
        done = sum(len(run.ids) for run in runs)
        if done < len(ids):
            run = _sorted(done, ids[done:])
            while runs and len(runs[-1].ids) <= 2 * len(run.ids):
                run = _merged(runs[-1], run, ids)
                runs = runs[:-1]
            runs = self._runs = (*runs, run)
        return runs

    @property
    def nbytes(self) -> int:
        return sum(run.ids.nbytes + run.rows.nbytes for run in self._runs if run.rows is not None)


def _sorted(first: int, ids: NDArray[np.int64]) -> _Run:
    if (ids[1:] > ids[:-1]).all():
        return _Run(first, ids, None)
    order = interruptible.argsort(ids)
    return _Run(first, ids[order], (first + order).astype(np.int32))


def _merged(one: _Run, other: _Run, ids: NDArray[np.int64]) -> _Run:
    if one.rows is None and other.rows is None and one.ids[-1] < other.ids[0]:
        return _Run(one.first, ids[one.first : other.first + len(other.ids)], None)
    both = np.concatenate([one.ids, other.ids])
    rows = [
        np.arange(r.first, r.first + len(r.ids), dtype=np.int32) if r.rows is None else r.rows for r in (one, other)
    ]
    order = interruptible.argsort(both)  # fast, of two runs; of equal ids the later row comes last
    return _Run(one.first, both[order], np.concatenate(rows)[order])


def new_segment_name() -> str:
    """A unique name, under which the arrays of a segment are stored."""
    return f"segment-{os.urandom(8).hex()}"


@dataclass(frozen=True, eq=False)
class Buffers:
    """The arrays of a segment. Those in memory may have spare capacity: the index that owns the buffers writes new
    documents beyond the rows that any search reads."""

    vectors: NDArray[Any]  # (capacity,D) float32, or the bits of 16-bit floats
    norms: NDArray[np.float32]
    ids: NDArray[np.int64] | None
    half_squares: NDArray[np.float64] | None
    columns: Mapping[str, NDArray[Any]]
    codes: _kernels.Codes | None = None
    quantizer: Quantizer | None = None
    row_sums: NDArray[np.uint32] | None = None
    files: Stored | None = None  # what the arrays are mapped from
    unchecked: set[str] = field(default_factory=set)  # mapped arrays to verify as a whole before their first use
    lookup: Lookup = field(default_factory=Lookup)
    name: str = field(default_factory=new_segment_name)
    group_numbers: dict[str, tuple[int, NDArray[np.int32]]] = field(default_factory=dict)  # and the rows done

    def __len__(self) -> int:
        return len(self.norms)


def _address(a: NDArray[Any]) -> int:
    address: int = a.__array_interface__["data"][0]  # a.ctypes.data takes five times as long
    return address


def _memory_on_line(n_bytes: int) -> NDArray[np.uint8]:
    """Uninitialised memory that begins on a cache line; its base owns it."""
    memory = np.empty(n_bytes + 64, np.uint8)
    first = -_address(memory) % 64
    return memory[first : first + n_bytes]


def rows_on_lines(n: int, dim: int, dtype: Any) -> NDArray[Any]:
    """An uninitialised read-only (n, dim) array that begins on a cache line; where it does not, as NumPy has it, loads
    of 64 bytes straddle two lines. Its base owns the memory."""
    rows: Any = _memory_on_line(n * dim * np.dtype(dtype).itemsize).view(dtype).reshape(n, dim)
    rows.base.flags.writeable = rows.flags.writeable = False
    return rows  # type: ignore[no-any-return]  # its base is Any


def writable(rows: NDArray[Any], first: int, end: int) -> NDArray[Any]:
    """A writable view of some rows that :func:`rows_on_lines` made. The rows themselves stay read-only, as do views of
    them: no caller changes a row without its norm."""
    memory: Any = rows.base
    begin, row = _address(rows) - _address(memory), rows.shape[1] * rows.itemsize
    memory.flags.writeable = True
    part: NDArray[Any] = memory[begin + first * row : begin + end * row]
    memory.flags.writeable = False
    return part.view(rows.dtype).reshape(-1, rows.shape[1])


def aligned(a: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins on a cache line."""
    copied = _memory_on_line(a.nbytes).view(a.dtype).reshape(a.shape)
    interruptible.copy(copied, a)
    return copied


def new_buffers(n: int, settings: Settings, columns: Mapping[str, NDArray[Any]], *, with_ids: bool) -> Buffers:
    """Return buffers for n documents, with empty columns (n,). Memory that is not used yet is not touched."""
    return Buffers(
        rows_on_lines(n, settings.dim, settings.vector_dtype),
        np.empty(n, np.float32),
        np.empty(n, np.int64) if with_ids else None,
        np.empty(n) if settings.metric == "l2" else None,
        columns,
    )


@dataclass(frozen=True, eq=False)
class Segment:
    """The first n rows of its buffers, minus those that were removed: never changed, only replaced."""

    buffers: Buffers
    storage: str
    n: int = 0
    first_id: int = 0  # if the buffers have no ids: that of row 0
    alive: NDArray[np.uint32] | None = None  # a bit for each row of the buffers, 1 beyond n; None: all are there
    n_removed: int = 0
    lowest: int = 2**63 - 1  # bounds of all ids of the rows, removed or not
    highest: int = -1
    _docs: _kernels.Docs | None = field(default=None, init=False)

    def __len__(self) -> int:
        """Documents that are there."""
        return self.n - self.n_removed

    @property
    def docs(self) -> _kernels.Docs:
        """For C, made when first asked for: by several readers at once, to the same end. (Not a cached_property, which
        has a lock before Python 3.12.) Reads what a search of one query looks at, where that is mapped; one of several
        checks "low"."""
        made = self._docs
        if made is None:
            made = self._new_docs()
            object.__setattr__(self, "_docs", made)
        return made

    def _new_docs(self) -> _kernels.Docs:
        buffers, n = self.buffers, self.n
        self.check("high", "bounds", "norms", "ids", "squares", "row_sums")
        return _kernels.Docs(
            buffers.vectors[:n],
            buffers.norms[:n],
            None if buffers.ids is None else self.all_ids,
            buffers.codes,
            bfloat16=self.storage == "bfloat16",
            first_id=self.first_id,
            allowed=None if self.alive is None else self.alive[: (n + 31) // 32],
            half_squares=None if buffers.half_squares is None else buffers.half_squares[:n],
            row_sums=buffers.row_sums,
            mapped=buffers.files is not None,
        )

    def check(self, *parts: str) -> None:
        """That these arrays are as they were written, where they are mapped files."""
        for part in self.buffers.unchecked.intersection(parts):
            assert self.buffers.files is not None
            self.buffers.files.verify(f"{self.buffers.name}/{part}")
            self.buffers.unchecked.discard(part)  # two threads may both do this

    def check_vectors(self) -> None:
        """The same for all vectors, which are read."""
        if self.buffers.files is not None and self.buffers.row_sums is not None:
            self.buffers.files.verify(f"{self.buffers.name}/vectors")

    def check_rows(self, rows: NDArray[np.integer[Any]]) -> None:
        """The same for the vectors of these rows."""
        buffers = self.buffers
        if buffers.files is not None and buffers.row_sums is not None and len(rows):
            self.check("row_sums")
            if not (rows[1:] > rows[:-1]).all():
                rows = np.unique(rows)
            wrong = np.flatnonzero(_kernels.row_sums(buffers.vectors[rows]) != buffers.row_sums[rows])
            if wrong.size:
                raise self.corrupt_row(int(rows[wrong[0]]))

    def corrupt_row(self, row: int) -> IndexFormatError:
        """The error for a row of the vectors, which are mapped."""
        from ragfast.index.storage import IndexFormatError

        assert self.buffers.files is not None
        where = self.buffers.files.file(f"{self.buffers.name}/vectors")
        return IndexFormatError(f"{where}: expected row {row} as it was written, found other bytes")

    @property
    def vectors(self) -> NDArray[Any]:
        """All rows, those that were removed included."""
        rows: NDArray[Any] = self.buffers.vectors[: self.n]
        return rows

    @property
    def all_ids(self) -> NDArray[np.int64]:
        """The ids of all rows, removed ones included; not to be written to."""
        if self.buffers.ids is not None:
            self.check("ids")
            return self.buffers.ids[: self.n]
        return self.first_id + np.arange(self.n)  # so that the last may be 2**63 - 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """Of the documents that are there."""
        return self.all_ids if self.alive is None else self.all_ids[self.rows]

    @property
    def rows(self) -> NDArray[np.intp]:
        """The rows of documents that are there, ascending."""
        return np.arange(self.n) if self.alive is None else np.flatnonzero(arrays.unpacked_bits(self.alive, self.n))

    def column(self, name: str) -> NDArray[Any]:
        """A metadata column of all rows, removed ones included."""
        if self.buffers.files is not None:
            self.check(f"column-{list(self.buffers.columns).index(name)}")
        values: NDArray[Any] = self.buffers.columns[name][: self.n]
        return values

    def holds(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which of these rows of the buffers are documents of this version."""
        there = (rows >= 0) & (rows < self.n)
        if self.alive is not None:
            places = np.where(there, rows, 0)
            there &= (self.alive[places >> 5] >> (places & 31).astype(np.uint32) & np.uint32(1)).astype(bool)
        return there

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each id (n,), -1 where there is no such document. Sorted ids are found faster."""
        found = np.full(len(ids), -1, np.int64)
        if len(ids) == 0 or ids.min() > self.highest or ids.max() < self.lowest:
            return found
        if self.buffers.ids is None:
            rows = ids - self.first_id
            return np.where(self.holds(rows), rows, -1)
        for run in reversed(self.buffers.lookup.runs(self.all_ids)):
            wanted = np.flatnonzero(found < 0)
            places = np.searchsorted(run.ids, ids[wanted], side="right") - 1
            while wanted.size:  # an id that was removed and came again has several rows, the last of them last
                same = (places >= 0) & (run.ids[places] == ids[wanted])
                wanted, places = wanted[same], places[same]
                rows = run.first + places if run.rows is None else run.rows[places]
                held = self.holds(rows)
                found[wanted[held]] = rows[held]
                wanted, places = wanted[~held], places[~held] - 1
        return found

    def with_removed(self, rows: NDArray[np.int64]) -> Segment:
        """Without these rows, distinct ones that it holds."""
        if len(rows) == 0:
            return self
        alive = (
            np.full((len(self.buffers) + 31) // 32, 2**32 - 1, np.uint32) if self.alive is None else self.alive.copy()
        )
        np.bitwise_and.at(alive, rows >> 5, ~(np.uint32(1) << (rows & 31).astype(np.uint32)))
        return replace(self, alive=alive, n_removed=self.n_removed + len(rows))

    def accepting(self, ids: NDArray[np.int64] | None, first_id: int) -> Segment:
        """A segment whose buffers can hold these ids: with an array of ids if they do not follow its own."""
        follow = self.n == 0 or first_id == self.first_id + self.n
        if self.buffers.ids is not None or (ids is None and follow):
            return self
        ids = np.empty(len(self.buffers), np.int64)
        ids[: self.n] = self.all_ids
        return replace(self, buffers=replace(self.buffers, ids=ids), first_id=0)

    def placed(self, vectors: NDArray[Any], first_row: int) -> Rows:
        """Writes vectors behind the others, where no search reads yet, and measures them: it reads each row once.
        Returns what :meth:`extended` takes. ValueError for NaN and infinity, with the row counted from first_row."""
        n, buffers = self.n, self.buffers
        copy = writable(buffers.vectors, n, n + len(vectors))
        l2, bfloat16 = buffers.half_squares is not None, self.storage == "bfloat16"
        norms, squares, bad_row = _kernels.measure_rows(vectors, bfloat16, l2, 0, copy)
        if bad_row is not None:
            bad_row += first_row
            raise ValueError(f"vectors: row {bad_row} holds NaN or an infinity; every value must be finite")
        assert norms is not None
        return Rows(None, norms, squares)

    def extended(self, new: Rows, first_id: int = 0) -> Segment:
        """With these documents behind the others, written into the buffers where no search reads yet. Codes are made by
        :meth:`with_codes`. first_id is the id of the first of them where they have no ids of their own."""
        buffers, n = self.buffers, self.n
        total = n + len(new.norms)
        if new.vectors is not None:
            interruptible.copy(writable(buffers.vectors, n, total), new.vectors)
        buffers.norms[n:total] = new.norms
        if buffers.half_squares is not None:
            buffers.half_squares[n:total] = new.half_squares
        if buffers.ids is not None:
            ids = first_id + np.arange(total - n) if new.ids is None else new.ids
            buffers.ids[n:total] = ids
            lowest, highest = int(ids.min()), int(ids.max())
        else:
            lowest, highest = first_id, first_id + total - n - 1
        for name, column in new.columns.items():
            buffers.columns[name][n:total] = column
        return replace(
            self,
            n=total,
            first_id=self.first_id if n or buffers.ids is not None else first_id,
            lowest=min(self.lowest, lowest),
            highest=max(self.highest, highest),
        )

    def with_codes(self, first: int, quantizer: Quantizer, always: bool) -> Segment:
        """With codes of rows from `first` on; of all rows, by this quantizer, where there were none."""
        buffers = self.buffers
        if buffers.codes is None:
            buffers = replace(
                buffers, codes=quantizer.new_codes(len(buffers), buffers.vectors.shape[1], always), quantizer=quantizer
            )
            first = 0
        assert buffers.codes is not None
        squares = None if buffers.half_squares is None else buffers.half_squares[: self.n]
        buffers.codes.encode(self.vectors, first, self.storage == "bfloat16", 0, squares)
        return self if buffers is self.buffers else replace(self, buffers=buffers)

    def group_numbers(self, name: str, number: Callable[[NDArray[np.int64]], NDArray[np.int32]]) -> NDArray[np.int32]:
        """number(the column of this name), (n,): kept, so that only rows that are new are asked about."""
        done, known = self.buffers.group_numbers.get(name, (0, None))
        if known is None:
            known = np.empty(len(self.buffers), np.int32)
        if done < self.n:
            known[done : self.n] = number(self.column(name)[done:])
            self.buffers.group_numbers[name] = self.n, known
        return known[: self.n]

    def blocks(self) -> Iterator[Rows]:
        """The documents that are there, as copies of some at a time."""
        buffers, there = self.buffers, self.rows
        step = max(1, BLOCK_BYTES // (buffers.vectors.shape[1] * buffers.vectors.itemsize))
        for first in range(0, len(there), step):
            rows = there[first : first + step]
            self.check_rows(rows)
            self.check("norms", "squares")
            yield Rows(
                buffers.vectors[rows],
                buffers.norms[rows],
                None if buffers.half_squares is None else buffers.half_squares[rows],
                self.first_id + rows if buffers.ids is None else self.all_ids[rows],
                {name: self.column(name)[rows] for name in buffers.columns},
            )

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, spare capacity included; mapped files count as well."""
        buffers = self.buffers
        held: list[Any] = [buffers.vectors, buffers.norms, buffers.ids, buffers.half_squares, buffers.row_sums]
        held += [buffers.codes, buffers.lookup, self.alive, *buffers.columns.values()]
        return sum(a.nbytes for a in held if a is not None)
