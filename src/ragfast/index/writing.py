"""How an index changes: from one snapshot to the next."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays, interruptible
from ragfast.index.columns import Schema, Vocabulary
from ragfast.index.id_set import IdSet, ascending, distinct
from ragfast.index.names import Names
from ragfast.index.quantizer import Quantizer
from ragfast.index.segment import MAX_DOCS, Rows, Segment, Settings, new_buffers
from ragfast.index.selection import Contents
from ragfast.index.snapshot import Snapshot

NOTHING = Contents()
MIN_CAPACITY = 4096
MIN_CAPACITY_BYTES = 2**26  # of vectors, where fewer than MIN_CAPACITY are that long
MAX_CAPACITY_BYTES = 2**32  # beyond what comes at once; then an eighth of what is there
REQUANTIZE_FACTOR = 4
"""The quantizer is chosen again when there are so many times the documents that it was chosen from, or as few."""
MIN_REMOVED = 1000
"""Fewer removed rows are never worth a copy of a segment."""
MAX_SEGMENTS = 16
SEALED_ROWS = 65_536
"""Rows with which the last segment, once saved, grows no more."""


def prepared(vectors: arrays.ArrayLike, now: Snapshot) -> NDArray[Any]:
    """Vectors (N, D) as an index like this one keeps them. NaN and infinity are refused where they are measured."""
    storage = "float32" if now.metric == "cosine" else now.dtype
    return prepared_rows(arrays.stored_rows(vectors, "vectors", now.dim, storage), now)


def prepared_rows(rows: NDArray[Any], now: Snapshot) -> NDArray[Any]:
    """The same for what :func:`arrays.stored_rows` returned, float32 for "cosine"."""
    return arrays.unit_rows(rows, "vectors", now.dtype) if now.metric == "cosine" else rows


class Placed(NamedTuple):
    """Documents of which the vectors lie in buffers already, behind the rows that the segments show."""

    segments: list[Segment]
    """All of an index; the last ones take the documents."""
    parts: list[Rows]
    """For each of these, in order, what was measured of its vectors."""


class Writer:
    """Makes each snapshot from the one before, for one index, one at a time. On an error nothing that a snapshot shows
    has changed; meanwhile, and after an interrupt, what readers share (strings, lookups, buffers) holds more than the
    snapshot shows, never less or other."""

    def __init__(self, quantizer: Quantizer | None = None, quantizer_docs: int = 0) -> None:
        self._tail = ""  # name of the buffers that this index may write to
        self._sealed = ""  # unless they have this name
        self._quantizer = quantizer
        self._quantizer_docs = quantizer_docs  # how many there were when it was chosen
        self._ids: IdSet | None = None  # all ids of documents at least; None: not asked for yet

    def seal(self, now: Snapshot) -> None:
        """Before this version is saved: a last segment that is long enough is not written again by later saves, because
        no more is added to it. From any thread: a change that is under way may still add to it, and what it adds is
        beyond the rows of this version."""
        if now._segments and now._segments[-1].n >= SEALED_ROWS:
            self._sealed = now._segments[-1].buffers.name

    def added(
        self,
        now: Snapshot,
        vectors: NDArray[Any],
        ids: Any,
        metadata: Mapping[str, Any] | None,
        *,
        exact_capacity: bool = False,
    ) -> Snapshot:
        if (given := read_documents(now, ids, metadata, len(vectors))) is None:
            return now
        contents, keys, strings = given.contents, given.keys, given.strings
        first_id = now._contents.next_id
        new = np.empty(0, np.int64)
        if keys is not None:
            held, new = self._find_held(now, keys)
            if held is not None:
                taken = held if strings is None else repr(strings[int(np.flatnonzero(keys == held)[0])])
                raise ValueError(f"ids: expected ids that the index does not hold, got {taken}")
        placed = self._placed(now, now._segments, vectors, contents, exact_capacity)
        if keys is not None:
            unnamed = np.flatnonzero(keys < 0)
            keys = given.named_keys()
            new = np.concatenate([new, keys[unnamed]])  # greater than all before
            if _consecutive(keys):
                first_id, keys = int(keys[0]), None
        segments = self._appended(now, placed, keys, given.encoded(), first_id)
        if self._ids is not None:
            self._ids.add(new)
        return self._changed(now, segments, contents)

    def upserted(self, now: Snapshot, vectors: NDArray[Any], ids: Any, metadata: Mapping[str, Any] | None) -> Snapshot:
        if ids is None:
            raise TypeError("ids: expected those of the documents, got None; add numbers documents by itself")
        if (given := read_documents(now, ids, metadata, len(vectors), replacing=True)) is None:
            return now
        contents, keys = given.contents, given.keys
        assert keys is not None
        segments, found = _without_keys(now._segments, keys)
        if contents.numbering == "numbered":
            if not found.all():
                raise ValueError(
                    f"ids: expected ids that the index holds, as it numbers its documents itself, got "
                    f"{keys[~found][0]}; add those that are new"
                )
            contents = contents._replace(next_id=now._contents.next_id)
        placed = self._placed(now, segments, vectors, contents)
        keys = given.named_keys()
        segments = self._appended(now, placed, keys, given.encoded(), 0)
        if self._ids is not None:
            others = ascending(keys[~found])
            self._ids.add(others[~self._ids.among(others)])
        return self._changed(now, segments, contents)

    def removed(self, now: Snapshot, ids: Any, missing_ok: bool) -> Snapshot:
        keys = now.keys_of(ids, "ids")
        asked = distinct(keys[keys >= 0])
        segments, found = _without_keys(now._segments, asked)
        if not missing_ok and not (found.all() and len(asked) == len(keys)):
            missing = ~np.isin(keys, asked[found])
            if missing.any():
                place = int(np.flatnonzero(missing)[0])
                first = list(ids)[place] if arrays.are_strings(ids) else int(keys[place])
                raise ValueError(
                    f"ids: expected ids that the index holds, got {first!r}; missing_ok=True passes over others"
                )
        return self._changed(now, segments, now._contents) if found.any() else now

    def compacted(self, now: Snapshot) -> Snapshot:
        contents = now._contents
        segments = [segment for segment in now._segments if len(segment)]
        self._quantizer = None
        if segments:
            segments = [self._rewritten(now, segments, contents)]
        if contents.names is not None:
            contents = contents._replace(names=contents.names.subset(now.keys))
        self._tail = ""
        self._ids = None
        return now.replaced(*_with_used_words(tuple(segments), contents), now.version + 1)

    def swapped(self, now: Snapshot, other: Snapshot) -> Snapshot:
        mine, theirs = (f"dim {s.dim}, dtype {s.dtype}, metric {s.metric}" for s in (now, other))
        if mine != theirs:
            raise ValueError(f"other: expected {mine}, as this index has, got {theirs}")
        self._tail = ""  # its owner alone extends their last segment
        self._quantizer = self._ids = None
        return now.replaced(other._segments, _own_contents(other), now.version + 1)

    def _find_held(self, now: Snapshot, keys: NDArray[np.int64]) -> tuple[int | None, NDArray[np.int64]]:
        """The smallest of these distinct keys (-1: none) that a document has; and those that no document ever had,
        for :attr:`_ids`."""
        keys = ascending(keys if now._contents.names is None else keys[keys >= 0])
        if len(keys) == 0:
            return None, keys
        if self._ids is None and keys[0] > max((s.highest for s in now._segments), default=-1):
            return None, keys
        if self._ids is None or len(self._ids) > 2 * len(now) + MIN_CAPACITY:  # of documents that went, for the most
            self._ids = IdSet(now.keys)
        known = self._ids.among(keys)
        if not known.any():
            return None, keys
        asked = keys[known]
        held = [int(asked[there][0]) for s in now._segments if (there := s.find(asked) >= 0).any()]
        return min(held, default=None), keys[~known]

    # ---- segments

    def _changed(self, now: Snapshot, segments: Sequence[Segment], contents: Contents) -> Snapshot:
        return now.replaced(self._consolidated(now, list(segments), contents), contents, now.version + 1)

    def _placed(
        self,
        now: Snapshot,
        before: Sequence[Segment],
        vectors: NDArray[Any],
        contents: Contents,
        exact_capacity: bool = False,
    ) -> Placed:
        """Writes these vectors into the spare capacity of the last segment, and into a new one. It raises for NaN and
        infinity; nothing else has changed then."""
        segments, n, done = list(before), len(vectors), 0
        parts: list[Rows] = []
        if sum(s.n for s in segments) + n >= MAX_DOCS:
            total = sum(map(len, segments)) + n
            raise ValueError(f"vectors: an index holds fewer than 2**31 documents, got {total}")
        tail = segments[-1] if segments else None
        if tail is not None and tail.buffers.name == self._tail != self._sealed and tail.n < len(tail.buffers):
            done = min(n, len(tail.buffers) - tail.n)
            parts.append(tail.placed(vectors[:done], 0))
        if done < n:
            size = n - done if exact_capacity else self._capacity_for(now, segments, n - done)
            buffers = new_buffers(size, now.settings, contents.columns.empty(size), with_ids=False)
            segments.append(Segment(buffers, now.dtype))
            parts.append(segments[-1].placed(vectors[done:], done))
        return Placed(segments, parts)

    def _appended(
        self,
        now: Snapshot,
        placed: Placed,
        ids: NDArray[np.int64] | None,
        columns: Mapping[str, NDArray[Any]],
        first_id: int,
    ) -> list[Segment]:
        """With these documents, of the ids or numbered from first_id on, and codes of them."""
        segments, done = placed.segments, 0
        for i, rows in enumerate(placed.parts, len(segments) - len(placed.parts)):
            end = done + len(rows.norms)
            part = rows._replace(
                ids=None if ids is None else ids[done:end],
                columns={name: column[done:end] for name, column in columns.items()},
            )
            first = segments[i].n
            segments[i] = segments[i].accepting(part.ids, first_id + done).extended(part, first_id + done)
            segments[i] = self._with_codes(now, segments[: i + 1], first)
            if first == 0:
                self._tail = segments[i].buffers.name
            done = end
        return segments

    def _capacity_for(self, now: Snapshot, segments: Sequence[Segment], n: int) -> int:
        """As much again as there is in memory, so that there are few segments and no row is copied by growth."""
        row = now.settings.row_bytes
        held = sum(s.n for s in segments if s.buffers.files is None)
        capacity = max(
            min(MIN_CAPACITY, MIN_CAPACITY_BYTES // row), min(held, max(held // 8, MAX_CAPACITY_BYTES // row))
        )
        return -(-max(n, capacity) // 32) * 32

    def _with_codes(self, now: Snapshot, segments: Sequence[Segment], first: int, *, are_all: bool = True) -> Segment:
        """The last segment with codes from row `first` on, if it is one to have them. are_all: these are segments of
        the index, so that the quantizer of codes may be chosen by them."""
        last = segments[-1]
        if not now.settings.wants_codes(last.n):
            return last
        n = sum(s.n for s in segments)
        if self._quantizer is None or (
            are_all and not self._quantizer_docs < REQUANTIZE_FACTOR * n < REQUANTIZE_FACTOR**2 * self._quantizer_docs
        ):
            self._quantizer = _choose_quantizer(now, segments, self._quantizer)
            self._quantizer_docs = n
            if last.buffers.codes is not None and last.buffers.quantizer is not self._quantizer and 2 * last.n >= n:
                # Its codes are of a quantizer for few documents: encode all of it again.
                last = replace(last, buffers=replace(last.buffers, codes=None))
        return last.with_codes(first, self._quantizer, now.scan == "int8")

    def _rewritten(self, now: Snapshot, segments: Sequence[Segment], contents: Contents) -> Segment:
        """One segment of all documents that these have, in memory."""
        n = sum(map(len, segments))
        columns = contents.columns.empty(n)
        follows = all(s.buffers.ids is None and s.alive is None for s in segments) and all(
            a.first_id + a.n == b.first_id for a, b in itertools.pairwise(segments)
        )
        buffers = new_buffers(n, now.settings, columns, with_ids=not follows)
        made = Segment(buffers, now.dtype, first_id=segments[0].first_id)
        for segment in segments:
            for block in segment.blocks():
                made = made.extended(block, made.first_id + made.n)
        return self._with_codes(now, [made], 0, are_all=2 * n >= len(now))

    def _consolidated(self, now: Snapshot, segments: list[Segment], contents: Contents) -> list[Segment]:
        """Without removed rows where these are most of a segment, and with few segments; large ones that lie in files
        are left as they are. The order of the documents stays."""
        segments = [segment for segment in segments if len(segment)]
        for i, segment in enumerate(segments):
            if _may_move(segment) and segment.n_removed > max(MIN_REMOVED, segment.n // 2):
                segments[i] = self._rewritten(now, [segment], contents)
        while len(segments) > MAX_SEGMENTS:
            pairs = [
                (len(one) + len(other), i)
                for i, (one, other) in enumerate(itertools.pairwise(segments))
                if _may_move(one) and _may_move(other)
            ]
            if not pairs:
                break
            i = min(pairs)[1]
            segments[i : i + 2] = [self._rewritten(now, segments[i : i + 2], contents)]
        return segments


def _may_move(segment: Segment) -> bool:
    """Whether it may be read into memory to be put together with another: few rows of a file may."""
    return segment.buffers.files is None or segment.n < SEALED_ROWS


def _with_used_words(segments: tuple[Segment, ...], contents: Contents) -> tuple[tuple[Segment, ...], Contents]:
    """The one segment, in memory, with vocabularies of the words that its documents have, and group numbers."""
    schema = contents.schema
    if schema is None:
        return segments, contents
    vocabularies = schema.vocabularies()
    for segment in segments:
        columns = dict(segment.buffers.columns)
        for name, vocabulary in vocabularies.items():
            codes = columns[name][: segment.n]
            used = np.flatnonzero(np.bincount(codes[codes >= 0]))
            placed = np.full(len(contents.vocabularies[name]) + 1, -1, np.int32)  # the last is that of None, -1
            placed[used] = vocabulary.add(contents.vocabularies[name].take(used.astype(np.int32)).tolist())
            columns[name] = placed[codes]
        segments = (replace(segment, buffers=replace(segment.buffers, columns=columns)),)
    return segments, contents.with_schema(schema, vocabularies)


def _choose_quantizer(now: Snapshot, segments: Sequence[Segment], current: Quantizer | None) -> Quantizer:
    """Chosen from rows of all segments."""
    ends = np.cumsum([s.n for s in segments])

    def rows_at(numbers: NDArray[np.intp]) -> NDArray[np.float32]:
        of = np.searchsorted(ends, numbers, side="right")
        chosen = [segment.vectors[numbers[of == i] - (ends[i] - segment.n)] for i, segment in enumerate(segments)]
        return arrays.widen(np.concatenate(chosen), now.dtype)

    return Quantizer.choose(int(ends[-1]), now.dim, rows_at, with_prefix=now.metric != "l2", current=current)


def _without_keys(segments: Sequence[Segment], keys: NDArray[np.int64]) -> tuple[list[Segment], NDArray[np.bool_]]:
    """The segments without the documents of these distinct keys, and which of these there were."""
    order = interruptible.argsort(keys)
    ascending, found, left = keys[order], np.zeros(len(keys), np.bool_), []
    for segment in segments:
        rows = segment.find(ascending)
        there = rows >= 0
        found[order[there]] = True
        left.append(segment.with_removed(rows[there]))
    return left, found


def _consecutive(keys: NDArray[np.int64]) -> bool:
    """Such keys need no array."""
    return bool(keys[-1] - keys[0] == len(keys) - 1 and (keys[1:] - keys[:-1] == 1).all())


# ---- ids and metadata


class Described(NamedTuple):
    """The ids and metadata of documents, checked, and what an index that holds these documents has beside segments."""

    contents: Contents
    keys: NDArray[np.int64] | None  # distinct; -1 for strings that no document ever had; None without ids
    strings: list[str] | None
    metadata: Mapping[str, Any]

    def named_keys(self) -> NDArray[np.int64]:
        """The keys, strings that are new being given one. Call it once."""
        assert self.keys is not None
        if self.strings is None:
            return self.keys
        assert self.contents.names is not None
        keys, new = self.keys.copy(), np.flatnonzero(self.keys < 0)
        keys[new] = self.contents.names.append_read([self.strings[i] for i in new.tolist()])
        return keys

    def encoded(self) -> dict[str, NDArray[Any]]:
        """The columns as segments keep them; words that are new come into the vocabularies."""
        return self.contents.columns.encode(self.metadata, self.contents.vocabularies)


def read_documents(
    now: Snapshot, ids: Any, metadata: Mapping[str, Any] | None, n: int, *, replacing: bool = False
) -> Described | None:
    """Check what a user gave for ids and metadata of n documents; None for no documents. Documents that are numbered
    have ids only where they are replaced. ValueError where the documents before came otherwise."""
    contents, before = now._contents, now._contents.numbering
    keys, strings = None, None
    if ids is None:
        numbering = "numbered"
    elif not (replacing and before == "numbered") and (
        arrays.are_strings(ids) or (before == "str" and np.size(ids) == 0)
    ):
        numbering, strings = "str", Names().read(ids)
        if len(strings) != n:
            raise ValueError(f"ids: expected {n}, one for each document, got {len(strings)}")
    else:
        numbering, keys = "numbered" if replacing and before == "numbered" else "int", arrays.document_ids(ids, n)
    if n and before not in ("", numbering):
        state = {"numbered": "without ids", "int": "with ids", "str": "with ids that are str"}[before]
        raise ValueError(
            f"ids: the {contents.next_id} documents before were added {state}; give ids for all documents or for "
            f"none, all of one kind"
        )
    contents, values = read_metadata(contents, metadata, n)
    if n == 0:
        return None
    if strings is not None:
        names = Names() if contents.names is None else contents.names
        contents, keys = contents._replace(names=names), names.find(strings)
    contents = contents._replace(numbering=numbering, next_id=contents.next_id + n)
    return Described(contents, keys, strings, values)


def read_metadata(contents: Contents, metadata: Mapping[str, Any] | None, n: int) -> tuple[Contents, Mapping[str, Any]]:
    """The contents, with a schema if they had none; and the values of n documents, checked."""
    if n == 0 and (metadata is None or contents.schema is None):  # which say nothing of columns
        return contents, {}
    if contents.schema is None:
        schema = Schema({}) if metadata is None else Schema.of(metadata)
        contents = contents.with_schema(schema, schema.vocabularies())
    return contents, contents.columns.read({} if metadata is None else metadata, n)


def _own_contents(snapshot: Snapshot) -> Contents:
    """Names of its documents only, and vocabularies that no other index writes to. Group numbers can be shared."""
    contents = snapshot._contents
    return contents._replace(
        names=None if contents.names is None else contents.names.subset(snapshot.keys),
        vocabularies={name: Vocabulary(*words.packed(len(words))) for name, words in contents.vocabularies.items()},
    )


# ---- copies


def state(now: Snapshot) -> tuple[Any, ...]:
    """All documents of a snapshot in what can be pickled: without spare capacity, codes and removed rows."""
    for segment in now._segments:
        segment.check_vectors()
    contents, keys = now._contents, now.keys
    names = None if contents.names is None else contents.names.subset(keys)
    packed_names = None if names is None else (*names.packed(names.next_key), names.next_key)
    vocabularies = {name: vocabulary.packed(len(vocabulary)) for name, vocabulary in contents.vocabularies.items()}
    kinds = None if contents.schema is None else contents.schema.kinds
    about = contents.numbering, contents.next_id, packed_names, kinds, vocabularies
    return (*now.settings, now.version), about, now.stored_vectors, keys, now.stored_columns()


def restored(state: tuple[Any, ...]) -> Snapshot:
    """What :func:`state` was made of, in memory of its own."""
    how, (numbering, next_id, names, kinds, vocabularies), vectors, keys, columns = state
    contents = Contents(numbering, next_id, None if names is None else Names(*names))
    if kinds is not None:
        contents = contents.with_schema(
            Schema(kinds), {name: Vocabulary(*packed) for name, packed in vocabularies.items()}
        )
    *settings, version = how
    empty = Snapshot(Settings(*settings), version, (), contents)
    return _with_documents(empty, vectors, keys, columns)


def with_vectors(now: Snapshot, vectors: arrays.ArrayLike, metadata: Mapping[str, Any] | None) -> Snapshot:
    """The documents under other vectors (N,D), in memory of their own, with other metadata where that is given. Ids
    that were given to documents that went are not given again. Errors as of :meth:`FlatIndex.add`."""
    contents = now._contents
    rows = prepared(vectors, now)
    if metadata is None:
        columns = now.stored_columns()
    else:
        contents, values = read_metadata(contents._replace(schema=None), metadata, len(now))
        columns = contents.columns.encode(values, contents.vocabularies)
    return _with_documents(now.replaced((), contents), rows, now.keys, columns)


def _with_documents(
    empty: Snapshot, vectors: NDArray[Any], keys: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]
) -> Snapshot:
    """With documents of these keys, which its contents know."""
    if len(keys) == 0:
        return empty
    contents, first = empty._contents, int(keys[0])
    ids = None if contents.numbering == "numbered" and np.array_equal(keys, first + np.arange(len(keys))) else keys
    writer = Writer()
    placed = writer._placed(empty, (), vectors, contents, exact_capacity=True)
    return empty.replaced(writer._appended(empty, placed, ids, columns, first), contents)
