"""An index as a directory of arrays, and back: which array is called what, and what must hold between them.

The arrays of each segment are named ``segment-<name>/``: vectors (N,D), norms (N,), row_sums (N,), and if there are any
ids (N,), squares (N,), metadata column-0, column-1, ..., the planes of codes high, low, bounds with their quantizer's
center, weight, rotation, and alive (N / 32 rounded up,), the bits of the rows that are not removed. Strings are stored
as text and offsets: names/, and words-0/, ... of the columns. docs/index-format.md has the details.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays, interruptible
from ragfast.index import storage
from ragfast.index.columns import DTYPES, Schema, Vocabulary
from ragfast.index.names import Names
from ragfast.index.quantizer import MAX_CODED_DIM, PANEL, Quantizer
from ragfast.index.segment import MAX_DOCS, Buffers, Segment, Settings, aligned, rows_on_lines, writable
from ragfast.index.selection import Contents
from ragfast.index.snapshot import METRICS, SCANS, Snapshot

LAYOUT = 1
"""Of the arrays; storage has a number for that of the files."""
PLANES = ("high", "low", "bounds")
QUANTIZER_ARRAYS = ("center", "weight", "rotation")

MAX_ID = 2**63 - 1

Arrays = dict[str, NDArray[Any]]


def segment_arrays(segment: Segment) -> Arrays:
    """The arrays of a segment, all rows of it, removed or not. Those of several segments, of whole panels all but the
    last, may be written one behind the other. The quantizer is not among them, nor which rows are alive."""
    return _rows(segment) | _ids(segment) | _codes(segment)


def _rows(segment: Segment) -> Arrays:
    buffers, n = segment.buffers, segment.n
    segment.check_vectors()  # what is wrong would get a checksum that is right
    segment.check("norms", "row_sums", "squares")
    sums = _kernels.row_sums(segment.vectors) if buffers.row_sums is None else buffers.row_sums[:n]
    found = {"vectors": segment.vectors, "norms": buffers.norms[:n], "row_sums": sums}
    if buffers.half_squares is not None:
        found["squares"] = buffers.half_squares[:n]
    return found | {f"column-{i}": segment.column(name) for i, name in enumerate(buffers.columns)}


def _ids(segment: Segment) -> Arrays:
    return {} if segment.buffers.ids is None else {"ids": segment.all_ids}


def _codes(segment: Segment) -> Arrays:
    if segment.buffers.codes is None:
        return {}
    segment.check(*PLANES)
    planes: tuple[NDArray[Any], ...] = segment.buffers.codes.planes
    panels, capacity = -(-segment.n // PANEL), max(1, len(planes[2]))
    return {name: plane[: panels * (len(plane) // capacity)] for name, plane in zip(PLANES, planes, strict=True)}


def quantizer_arrays(quantizer: Quantizer) -> Arrays:
    """The arrays of the quantizer of the codes of a segment, which stand beside its others."""
    return {name: array for name in QUANTIZER_ARRAYS if (array := getattr(quantizer, name)) is not None}


def strings_arrays(contents: Contents) -> Arrays:
    """The names of the documents and the words of the columns."""
    return {name: part for group, key, _ in _strings_groups(contents) for name, part in _packed(group, key).items()}


def _packed(group: str, key: GroupKey) -> Arrays:
    """The arrays of n strings."""
    found = zip(("text", "offsets", "keys"), key.source.packed(key.n), strict=False)
    return {f"{group}/{name}": part for name, part in found if part is not None}


def segment_meta(segment: Segment) -> dict[str, Any]:
    """What the manifest says of a segment."""
    quantizer = None if segment.buffers.codes is None else segment.buffers.quantizer
    codes = None if quantizer is None else {"prefix": quantizer.prefix, "rotation_error": quantizer.rotation_error}
    return {
        "name": segment.buffers.name,
        "n": segment.n,
        "removed": segment.n_removed,
        "first_id": segment.first_id,
        "lowest": segment.lowest,
        "highest": segment.highest,
        "codes": codes,
    }


def index_meta(now: Snapshot, commit: str, next_key: int | None) -> dict[str, Any]:
    """What the manifest says of an index; commit is another for each version that is written anywhere, next_key that of
    the names that are written."""
    contents = now._contents
    return {
        "layout": LAYOUT,
        "commit": commit,
        "version": now.version,
        "dim": now.dim,
        "dtype": now.dtype,
        "metric": now.metric,
        "scan": now.scan,
        "numbering": contents.numbering,
        "next_id": contents.next_id,
        "next_key": next_key,
        "columns": None if contents.schema is None else [list(item) for item in contents.schema.kinds.items()],
        "segments": [segment_meta(segment) for segment in now._segments],
    }


def new_commit(writer: str) -> str:
    return f"{writer}-{os.urandom(8).hex()}"


def new_writer() -> str:
    return os.urandom(8).hex()


# ---- writing


class GroupKey(NamedTuple):
    """What a group of arrays was made of: made of the same again they would be the same."""

    source: Any
    n: int

    def same(self, other: GroupKey | None) -> bool:
        return other is not None and self.source is other.source and self.n == other.n


@dataclass(frozen=True)
class SavedState:
    """What an index knows of the arrays in a directory, by groups: true as long as the directory is at this commit."""

    path: str
    commit: str
    group_keys: Mapping[str, GroupKey]


def _group(name: str) -> str:
    """Of an array: those of a group are written together, or kept."""
    prefix, _, part = name.partition("/")
    if part in ("ids", "alive"):
        return name
    return f"{prefix}/codes" if part in PLANES + QUANTIZER_ARRAYS else prefix


def _groups(now: Snapshot) -> Iterator[tuple[str, GroupKey, Callable[[], Arrays]]]:
    for segment in now._segments:
        yield from _segment_groups(segment)
    yield from _strings_groups(now._contents)


def _strings_groups(contents: Contents) -> Iterator[tuple[str, GroupKey, Callable[[], Arrays]]]:
    """Their keys say how many strings there are now: a writer may append meanwhile."""
    keys = {
        f"words-{i}": GroupKey(words, len(words))
        for i, name in enumerate(contents.columns.kinds)
        if (words := contents.vocabularies.get(name)) is not None
    }
    if contents.names is not None:
        keys["names"] = GroupKey(contents.names, contents.names.next_key)
    for group, key in keys.items():
        yield group, key, partial(_packed, group, key)


def _segment_groups(segment: Segment) -> Iterator[tuple[str, GroupKey, Callable[[], Arrays]]]:
    buffers, n, prefix = segment.buffers, segment.n, segment.buffers.name

    def under(found: Arrays) -> Arrays:
        return {f"{prefix}/{name}": values for name, values in found.items()}

    yield prefix, GroupKey(buffers.lookup, n), lambda: under(_rows(segment))
    yield f"{prefix}/ids", GroupKey(buffers.lookup, n), lambda: under(_ids(segment))
    if buffers.codes is not None:
        assert buffers.quantizer is not None
        quantizer = quantizer_arrays(buffers.quantizer)
        yield f"{prefix}/codes", GroupKey(buffers.codes, n), lambda: under(_codes(segment) | quantizer)
    alive = segment.alive
    if alive is not None:
        yield f"{prefix}/alive", GroupKey(alive, n), lambda: under({"alive": alive[: (n + 31) // 32]})


def save(
    path: str | os.PathLike[str], now: Snapshot, saved: SavedState | None, overwrite: bool, writer: str
) -> SavedState:
    """Writes a version; what lies there unchanged since `saved` is not written again. Not over what another writer put
    where `saved` was, unless overwrite. A commit of this writer that is not `saved` is of a save that was interrupted
    at its very end, or of one that ran inside another."""
    where = os.path.abspath(path)
    commit, group_keys = new_commit(writer), {}
    changing = storage.change(path)
    try:
        with changing as transaction:
            before = transaction.before
            there = before.meta.get("commit")
            if saved is not None and saved.path == where and before.version and not overwrite:
                ours = isinstance(there, str) and there.startswith(f"{writer}-")
                if there != saved.commit and not ours:
                    raise FileExistsError(
                        f"{os.fspath(path)}: another writer saved an index there since this one was opened or saved; "
                        "open it and make the changes again, save elsewhere, or pass overwrite=True"
                    )
            known = saved.group_keys if saved is not None and there == saved.commit else {}
            for group, key, make in _groups(now):
                group_keys[group] = key  # from before it is written: names and words may grow meanwhile
                unchanged = (
                    [name for name in before.arrays if _group(name) == group] if key.same(known.get(group)) else []
                )
                if unchanged and all(transaction.has(name) for name in unchanged):
                    for name in unchanged:
                        transaction.keep(name)
                else:
                    for name, values in make().items():
                        transaction.put(name, values, rows_checked=name.endswith("/vectors"))
            next_key = group_keys["names"].n if "names" in group_keys else None
            transaction.commit(index_meta(now, commit, next_key))
    finally:
        changing.gen.close()
    return SavedState(where, commit, group_keys)


# ---- reading


def open(
    path: str | os.PathLike[str], mmap: object = True, verify: bool = True
) -> tuple[Snapshot, SavedState, Quantizer | None, int]:
    """The index that lies there: :meth:`ragfast.FlatIndex.open`. Returns also the quantizer of the largest segment, for
    those to come, and its number of documents."""
    if not (isinstance(mmap, bool) or mmap == "vectors"):
        raise ValueError(f'mmap: expected True, False or "vectors", got {mmap!r}')
    return _Reader(storage.open(path), mmap, verify).index()


class _Reader:
    """Nothing in a directory is trusted: what C or NumPy would be led by is checked against what else is there."""

    def __init__(self, stored: storage.Stored, mmap: object, verify: bool) -> None:
        self._stored, self._mmap, self._verify = stored, mmap, verify
        self._names = frozenset(stored.names)
        self._unused = set(stored.names)
        self._where = os.path.join(stored.path, "manifest.json")

    def _error(self, expected: str, found: object) -> storage.IndexFormatError:
        return storage.IndexFormatError(f"{self._where}: expected {expected}, found {found!r:.200}")

    def _require(self, holds: Any, expected: str, found: object) -> None:
        if not holds:
            raise self._error(expected, found)

    def _field(self, about: Any, key: str, kinds: type | tuple[type, ...]) -> Any:
        self._require(isinstance(about, dict), f"a description with {key!r}", about)
        value = about.get(key)
        fits = key in about and isinstance(value, kinds) and not (isinstance(value, bool) and kinds is int)
        self._require(fits, f"{key!r} in the description of the index", value)
        return value

    def _integer(self, about: Any, key: str, least: int, most: int) -> int:
        value: int = self._field(about, key, int)
        self._require(least <= value <= most, f"{key} from {least} to {most}", value)
        return value

    def _choice(self, about: Any, key: str, choices: tuple[str, ...]) -> str:
        value: str = self._field(about, key, str)
        self._require(value in choices, f"{key} of {', '.join(map(repr, choices))}", value)
        return value

    def index(self) -> tuple[Snapshot, SavedState, Quantizer | None, int]:
        meta = self._stored.meta
        layout = self._integer(meta, "layout", 1, MAX_ID)
        self._require(layout == LAYOUT, f"layout {LAYOUT}, which this version of ragfast reads", layout)
        dim = self._integer(meta, "dim", 1, arrays.MAX_DIM)
        scan, dtype = self._choice(meta, "scan", SCANS), self._choice(meta, "dtype", arrays.STORAGE)
        metric, version = self._choice(meta, "metric", METRICS), self._integer(meta, "version", 0, MAX_ID)
        contents = self._contents(meta)
        empty = Snapshot(Settings(dim, scan, dtype, metric), version, (), contents)
        segments = [self._segment(empty, about) for about in self._field(meta, "segments", list)]
        names = [segment.buffers.name for segment in segments]
        fits = len(set(names)) == len(names) and sum(s.n for s in segments) < MAX_DOCS
        self._require(fits, "different segments of fewer than 2**31 rows", names)
        self._require(contents.schema is not None or not segments, "columns where there are documents", None)
        if self._unused:
            raise self._error("arrays that the description speaks of", min(self._unused))
        snapshot = empty.replaced(segments, contents)
        coded = max((s for s in segments if s.buffers.quantizer is not None), key=lambda s: s.n, default=None)
        group_keys = {group: key for group, key, _ in _groups(snapshot)}
        saved = SavedState(os.path.abspath(self._stored.path), self._field(meta, "commit", str), group_keys)
        return (snapshot, saved, None, 0) if coded is None else (snapshot, saved, coded.buffers.quantizer, coded.n)

    def _mapped_array(self, name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """The mapped array, None in the shape standing for any size."""
        a = self._stored.array(name)
        self._unused.discard(name)
        fits = a.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, a.shape, strict=True))
        right = a.dtype == np.dtype(dtype) and fits
        self._require(right, f"{name} to be {np.dtype(dtype)} {shape}", f"{a.dtype} {a.shape}")
        return a

    def _read_array(self, name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """In memory, verified."""
        a = self._mapped_array(name, dtype, shape)
        if self._verify:
            self._stored.verify(name)
        return np.array(a)

    def _read_strings(self, prefix: str, make: Callable[..., Any], *more: Any) -> Any:
        """What make makes of text and offsets, which are read."""
        text = self._read_array(f"{prefix}/text", np.uint8, (None,))
        offsets = self._read_array(f"{prefix}/offsets", np.int64, (None,))
        try:
            made = make(text, offsets, *more)
            made.check()
        except ValueError as error:
            raise storage.IndexFormatError(f"{self._stored.file(f'{prefix}/text')}: {error}") from None
        return made

    def _contents(self, meta: Any) -> Contents:
        numbering = self._choice(meta, "numbering", ("", "numbered", "int", "str"))
        names = None
        if numbering == "str":
            keys = self._read_array("names/keys", np.int64, (None,)) if "names/keys" in self._names else None
            names = self._read_strings("names", Names, keys, self._integer(meta, "next_key", 0, MAX_ID))
        contents = Contents(numbering, self._integer(meta, "next_id", 0, MAX_ID), names)
        columns = meta.get("columns")
        if columns is None:
            return contents
        try:
            pairs = [(name, kind) for name, kind in columns]
            schema = Schema(dict(pairs))
        except (TypeError, ValueError) as error:
            raise self._error("columns, a list of names and kinds", f"{columns!r:.100} ({error})") from None
        self._require(len(schema) == len(pairs), "columns of different names", pairs)
        kinds = schema.kinds
        vocabularies = {
            n: self._read_strings(f"words-{i}", Vocabulary) for i, n in enumerate(kinds) if kinds[n] == "str"
        }
        return contents.with_schema(schema, vocabularies)

    def _segment(self, now: Snapshot, about: Any) -> Segment:
        name, n = self._field(about, "name", str), self._integer(about, "n", 1, MAX_DOCS)
        first_id = self._integer(about, "first_id", 0, MAX_ID - n + 1)
        with_ids = f"{name}/ids" in self._names
        buffers = self._buffers(now, about, name, n, with_ids)
        alive, removed = None, self._integer(about, "removed", 0, n)
        if f"{name}/alive" in self._names:
            alive = self._read_array(f"{name}/alive", np.uint32, ((n + 31) // 32,))
            counted = n - int(arrays.unpacked_bits(alive, n).sum())
            self._require(counted == removed, f"{name} to have as many rows removed as its bits say", removed)
        else:
            self._require(removed == 0, f"{name}/alive, as {removed} rows are removed", "none")
        lowest, highest = first_id, first_id + n - 1
        if with_ids:
            lowest, highest = self._integer(about, "lowest", 0, MAX_ID), self._integer(about, "highest", 0, MAX_ID)
        return Segment(buffers, now.dtype, n, first_id, alive, removed, lowest, highest)

    def _buffers(self, now: Snapshot, about: Any, name: str, n: int, with_ids: bool) -> Buffers:
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "vectors": (now.settings.vector_dtype, (n, now.dim)),
            "norms": (np.float32, (n,)),
            "row_sums": (np.uint32, (n,)),
        }
        if with_ids:
            expected["ids"] = np.int64, (n,)
        if now.metric == "l2":
            expected["squares"] = np.float64, (n,)
        kinds = now._contents.columns.kinds
        for i, kind in enumerate(kinds.values()):
            expected[f"column-{i}"] = DTYPES[kind], (n,)
        coded = self._field(about, "codes", (dict, type(None)))
        if coded is not None:
            self._require(now.dim <= MAX_CODED_DIM, f"no codes of {now.dim} elements", coded)
            of_panel: tuple[NDArray[Any], ...] = _kernels.Codes(PANEL, now.dim, None, None, None, 0.0, 0, False).planes
            panels = -(-n // PANEL)
            for plane, one in zip(PLANES, of_panel, strict=True):
                expected[plane] = one.dtype, (panels * len(one), *one.shape[1:])
        mapped = {part: self._mapped_array(f"{name}/{part}", *what) for part, what in expected.items()}
        held = mapped if self._mmap is True else {part: self._copied_array(f"{name}/{part}") for part in expected}
        files = None if self._mmap is False else self._stored
        unchecked = set(expected) - {"vectors"} if self._mmap is True and self._verify else set()
        quantizer = None if coded is None else self._quantizer(now, coded, name)
        codes = None
        if quantizer is not None:
            codes = quantizer.codes_over((held[p] for p in PLANES), now.scan == "int8", now.metric == "l2")
        return Buffers(
            held["vectors"],
            held["norms"],
            held.get("ids"),
            held.get("squares"),
            {column: held[f"column-{i}"] for i, column in enumerate(kinds)},
            codes,
            quantizer,
            held["row_sums"] if self._verify and files is not None else None,
            files,
            unchecked,
            name=name,
        )

    def _copied_array(self, name: str) -> NDArray[Any]:
        """A copy, verified; of vectors only where they are not to be mapped."""
        a = self._stored.array(name)
        of_vectors = name.endswith("/vectors")
        if of_vectors and self._mmap == "vectors":
            return a
        if self._verify:
            self._stored.verify(name)
        if not of_vectors:
            return aligned(a)
        rows = rows_on_lines(len(a), a.shape[1], a.dtype)
        interruptible.copy(writable(rows, 0, len(a)), a)
        return rows

    def _quantizer(self, now: Snapshot, coded: Any, name: str) -> Quantizer:
        found: dict[str, NDArray[Any] | None] = {}
        for part in QUANTIZER_ARRAYS:
            shape = (now.dim, now.dim) if part == "rotation" else (now.dim,)
            values = self._read_array(f"{name}/{part}", np.float32, shape) if f"{name}/{part}" in self._names else None
            found[part] = values
            finite = values is None or np.isfinite(values).all()
            self._require(finite, f"finite values in {name}/{part}", "NaN or infinity")
        prefix = self._integer(coded, "prefix", 0, now.dim - 1)
        error = self._field(coded, "rotation_error", (int, float))
        weight = found["weight"]
        usable = prefix % 16 == 0 and (prefix == 0 or now.metric != "l2")
        self._require(usable, "a prefix that is a multiple of 16, and 0 for l2", prefix)
        self._require(0 <= error < 0.01, "rotation_error from 0 to below 0.01", error)
        if weight is not None and not ((np.frexp(weight)[0] == 0.5) & (weight >= 2.0**-30) & (weight <= 2.0**30)).all():
            raise self._error(f"powers of two from 2^-30 to 2^30 in {name}/weight", "others")
        return Quantizer(found["center"], weight, found["rotation"], float(error), prefix)


def verify(now: Snapshot, saved: SavedState | None) -> None:
    """Reads every byte of the files that a version looks at, and of the directory that the index was opened from or
    saved to; IndexFormatError where one is not as it was written, ValueError where there are none."""
    mapped = {id(s.buffers.files): s.buffers.files for s in now._segments if s.buffers.files}
    if saved is None and not mapped:
        raise ValueError("verify: expected an index that was opened or saved; this one has no files")
    for stored in mapped.values():
        stored.verify_all()
    if saved is not None:
        storage.open(saved.path).verify_all()
