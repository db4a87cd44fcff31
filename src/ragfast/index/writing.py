"""How an index changes: from one snapshot to the next."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast.index import quantizer as codes
from ragfast.index.columns import Schema, Vocabulary
from ragfast.index.id_set import Taken, ascending, distinct
from ragfast.index.names import Names
from ragfast.index.segment import MAX_DOCS, Rows, Segment, new_room
from ragfast.index.selection import Contents, new_numbers
from ragfast.index.snapshot import Snapshot

NOTHING = Contents()
MIN_ROOM = 4096
MIN_ROOM_BYTES = 2**26  # of vectors, where fewer than MIN_ROOM are that long
MAX_ROOM_BYTES = 2**32  # beyond what comes at once; then an eighth of what is there
GROWN = 4
"""The form of codes is chosen anew when there are so many times the documents that it was chosen from, or as few."""
MIN_REMOVED = 1000
"""Fewer removed rows are never worth a copy of a segment."""
MAX_SEGMENTS = 16
SEALED = 65_536
"""Rows with which the last segment, once saved, grows no more."""


class Documents(NamedTuple):
    """Vectors as the index keeps them, checked."""

    vectors: NDArray[Any]
    norms: NDArray[np.float32]
    half_squares: NDArray[np.float64] | None

    def rows(self, ids: NDArray[np.int64] | None, columns: Mapping[str, NDArray[Any]]) -> Rows:
        return Rows(self.vectors, self.norms, ids, self.half_squares, columns)


def prepared(rows: NDArray[Any], name: str, snapshot: Snapshot) -> Documents:
    """rows (N,D) as :func:`arrays.stored_rows` has them, float32 for "cosine". ValueError for NaN and infinity."""
    if snapshot.metric == "cosine":
        rows = arrays.unit_rows(rows, name, snapshot.dtype)
    return stored(rows, name, snapshot)


def stored(rows: NDArray[Any], name: str, snapshot: Snapshot) -> Documents:
    """Of vectors that have been in an index."""
    bfloat16 = snapshot.dtype == "bfloat16"
    norms, bad_row = _kernels.row_norms(rows, bfloat16, 0)
    if bad_row is not None:
        raise ValueError(f"{name}: row {bad_row} holds NaN or an infinity; every value must be finite")
    squares = _kernels.half_squares(rows, bfloat16, 0) if snapshot.metric == "l2" else None
    return Documents(rows, norms, squares)


class Writer:
    """Makes each snapshot from the one before, for one index and under its lock. On an error nothing that a snapshot
    shows has changed."""

    def __init__(self, form: codes.Form | None = None, form_docs: int = 0) -> None:
        self._tail = ""  # the room that this index may write to
        self._form = form
        self._form_docs = form_docs  # how many there were when it was chosen
        self._taken: Taken | None = None  # all ids of documents at least; None: not asked for yet

    def seal(self, now: Snapshot) -> Snapshot:
        """Before this version is saved: a last segment that is long enough is not written again by later saves, because
        no more is added to it."""
        if now._segments and now._segments[-1].n >= SEALED:
            self._tail = ""
        return now

    def added(
        self,
        now: Snapshot,
        documents: Documents,
        ids: Any,
        metadata: Mapping[str, Any] | None,
        *,
        exact_room: bool = False,
    ) -> Snapshot:
        n = len(documents.norms)
        numbering, keys, strings = read_ids(now, ids, n)
        contents, values = read_metadata(now, metadata, n)
        if n == 0:
            return now
        if strings is not None:
            keys = _keys(contents, strings)
        first_id = contents.next_id
        new = np.empty(0, np.int64)
        if keys is not None:
            held, new = self._looked_for(now, keys)
            if held is not None:
                taken = held if strings is None else repr(strings[int(np.flatnonzero(keys == held)[0])])
                raise ValueError(f"ids: expected ids that the index does not hold, got {taken}")
        contents = contents._replace(numbering=numbering, next_id=contents.next_id + n)
        if strings is not None:
            assert keys is not None
            unnamed = keys < 0
            contents, keys = _with_names(contents, strings, keys)
            new = np.concatenate([new, keys[unnamed]])  # greater than all before
        if keys is not None and _consecutive(keys):
            first_id, keys = int(keys[0]), None
        rows = documents.rows(keys, encoded(contents, values))
        segments = self._appended(now, now._segments, rows, first_id, contents, exact_room)
        if self._taken is not None:
            self._taken.add(new)
        return self._changed(now, segments, contents)

    def upserted(self, now: Snapshot, documents: Documents, ids: Any, metadata: Mapping[str, Any] | None) -> Snapshot:
        n = len(documents.norms)
        if ids is None:
            raise TypeError("ids: expected those of the documents, got None; add numbers documents by itself")
        if now._contents.numbering == "numbered":
            read: _Ids = _Ids("numbered", arrays.document_ids(ids, n), None)
        else:
            read = read_ids(now, ids, n)
        numbering, keys, strings = read
        contents, values = read_metadata(now, metadata, n)
        if n == 0:
            return now
        if strings is not None:
            keys = _keys(contents, strings)
        assert keys is not None
        segments, found = _without(now._segments, keys)
        if numbering == "numbered" and not found.all():
            raise ValueError(
                f"ids: expected ids that the index holds, as it numbers its documents itself, got "
                f"{keys[~found][0]}; add those that are new"
            )
        contents = contents._replace(numbering=numbering)
        if numbering != "numbered":
            contents = contents._replace(next_id=contents.next_id + n)
        if strings is not None:
            contents, keys = _with_names(contents, strings, keys)
        rows = documents.rows(keys, encoded(contents, values))
        segments = self._appended(now, segments, rows, 0, contents)
        if self._taken is not None:
            others = ascending(keys[~found])
            self._taken.add(others[~self._taken.among(others)])
        return self._changed(now, segments, contents)

    def removed(self, now: Snapshot, ids: Any, missing_ok: bool) -> Snapshot:
        keys = now.keys_of(ids, "ids")
        asked = distinct(keys[keys >= 0])
        segments, found = _without(now._segments, asked)
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
        self._form = None
        if segments:
            segments = [self._rewritten(now, segments, contents)]
        if contents.names is not None:
            contents = contents._replace(names=contents.names.kept(now.keys))
        self._tail = ""
        self._taken = None
        return _next(now, *_with_words_in_use(tuple(segments), contents))

    def swapped(self, now: Snapshot, other: Snapshot) -> Snapshot:
        mine, theirs = (f"dim {s.dim}, dtype {s.dtype}, metric {s.metric}" for s in (now, other))
        if mine != theirs:
            raise ValueError(f"other: expected {mine}, as this index has, got {theirs}")
        self._tail = ""  # their room is theirs to grow
        self._form = self._taken = None
        return _next(now, other._segments, _own(other))

    def _looked_for(self, now: Snapshot, keys: NDArray[np.int64]) -> tuple[int | None, NDArray[np.int64]]:
        """The smallest of these distinct keys (-1: none) that a document has; and those that no document ever had,
        for :attr:`_taken`."""
        keys = ascending(keys if now._contents.names is None else keys[keys >= 0])
        if len(keys) == 0:
            return None, keys
        if self._taken is None and keys[0] > max((s.highest for s in now._segments), default=-1):
            return None, keys
        if self._taken is None or len(self._taken) > 2 * len(now) + MIN_ROOM:  # of documents that went, for the most
            self._taken = Taken(now.keys)
        known = self._taken.among(keys)
        if not known.any():
            return None, keys
        asked = keys[known]
        held = [int(asked[there][0]) for s in now._segments if (there := s.find(asked) >= 0).any()]
        return min(held, default=None), keys[~known]

    # ---- segments

    def _changed(self, now: Snapshot, segments: Sequence[Segment], contents: Contents) -> Snapshot:
        return _next(now, tuple(self._tidied(now, list(segments), contents)), contents)

    def _appended(
        self,
        now: Snapshot,
        before: Sequence[Segment],
        rows: Rows,
        first_id: int,
        contents: Contents,
        exact_room: bool = False,
    ) -> list[Segment]:
        """With these documents in the room that the last segment has, and in a new one."""
        segments, n = list(before), len(rows.norms)
        if sum(s.n for s in segments) + n >= MAX_DOCS:
            total = sum(map(len, segments)) + n
            raise ValueError(f"vectors: an index holds fewer than 2**31 documents, got {total}")
        done = 0
        tail = segments[-1] if segments else None
        if tail is not None and tail.room.name == self._tail and tail.n < len(tail.room):
            done = min(n, len(tail.room) - tail.n)
            tail = tail.taking(rows.ids, first_id).grown(_part(rows, 0, done), first_id)
            segments[-1] = tail
            segments[-1] = self._coded(now, segments, tail.n - done)
        if done < n:
            size = n - done if exact_room else self._room_for(now, segments, n - done)
            columns = contents.columns.empty(size)
            with_ids = rows.ids is not None
            room = new_room(size, now.dim, now.dtype, now.metric, with_ids=with_ids, columns=columns)
            segments.append(Segment(room, now.dtype).grown(_part(rows, done, n), first_id + done))
            segments[-1] = self._coded(now, segments, 0)
            self._tail = room.name
        return segments

    def _room_for(self, now: Snapshot, segments: Sequence[Segment], n: int) -> int:
        """As much again as there is in memory, so that there are few segments and no row is copied by growth."""
        row = now.dim * (4 if now.dtype == "float32" else 2)
        held = sum(s.n for s in segments if s.room.source is None)
        room = max(min(MIN_ROOM, MIN_ROOM_BYTES // row), min(held, max(held // 8, MAX_ROOM_BYTES // row)))
        return -(-max(n, room) // 32) * 32

    def _coded(self, now: Snapshot, segments: Sequence[Segment], first: int, *, are_all: bool = True) -> Segment:
        """The last segment with codes from row `first` on, if it is one to have them. are_all: these are segments of
        the index, so that the form of codes may be chosen by them."""
        last = segments[-1]
        if now.scan == "float32" or now.dim > codes.MAX_DIM or (now.scan == "auto" and last.n < codes.MIN_CODED):
            return last
        n = sum(s.n for s in segments)
        if self._form is None or (are_all and not self._form_docs < GROWN * n < GROWN**2 * self._form_docs):
            self._form = _form(now, segments, self._form)
            self._form_docs = n
            if last.room.codes is not None and last.room.form is not self._form and 2 * last.n >= n:
                # Its own are of a form for few: once more, as a whole.
                last = replace(last, room=replace(last.room, codes=None))
        return last.encoded(first, self._form, now.scan == "int8")

    def _rewritten(self, now: Snapshot, segments: Sequence[Segment], contents: Contents) -> Segment:
        """One segment of all documents that these have, in memory."""
        n = sum(map(len, segments))
        columns = contents.columns.empty(n)
        follows = all(s.room.ids is None and s.alive is None for s in segments) and all(
            a.first_id + a.n == b.first_id for a, b in itertools.pairwise(segments)
        )
        room = new_room(n, now.dim, now.dtype, now.metric, with_ids=not follows, columns=columns)
        made = Segment(room, now.dtype, first_id=segments[0].first_id)
        for segment in segments:
            for block in segment.blocks():
                made = made.grown(block, made.first_id + made.n)
        return self._coded(now, [made], 0, are_all=2 * n >= len(now))

    def _tidied(self, now: Snapshot, segments: list[Segment], contents: Contents) -> list[Segment]:
        """Without removed rows where these are most of a segment, and with few segments; large ones that lie in files
        are left as they are. The order of the documents stays."""
        segments = [segment for segment in segments if len(segment)]
        for i, segment in enumerate(segments):
            if _is_movable(segment) and segment.n_removed > max(MIN_REMOVED, segment.n // 2):
                segments[i] = self._rewritten(now, [segment], contents)
        while len(segments) > MAX_SEGMENTS:
            pairs = [
                (len(one) + len(other), i)
                for i, (one, other) in enumerate(itertools.pairwise(segments))
                if _is_movable(one) and _is_movable(other)
            ]
            if not pairs:
                break
            i = min(pairs)[1]
            segments[i : i + 2] = [self._rewritten(now, segments[i : i + 2], contents)]
        return segments


def _is_movable(segment: Segment) -> bool:
    """Whether it may be read into memory to be put together with another: few rows of a file may."""
    return segment.room.source is None or segment.n < SEALED


def _with_words_in_use(segments: tuple[Segment, ...], contents: Contents) -> tuple[tuple[Segment, ...], Contents]:
    """The one segment, in memory, with vocabularies of the words that its documents have, and numbers likewise."""
    schema = contents.schema
    if schema is None:
        return segments, contents
    words, columns = schema.vocabularies(), {}
    for segment in segments:
        columns = dict(segment.room.columns)
        for name, vocabulary in words.items():
            codes = columns[name][: segment.n]
            used = np.flatnonzero(np.bincount(codes[codes >= 0]))
            placed = np.full(len(contents.vocabularies[name]) + 1, -1, np.int32)  # the last is that of None, -1
            placed[used] = vocabulary.add(contents.vocabularies[name].take(used.astype(np.int32)).tolist())
            columns[name] = placed[codes]
        segments = (replace(segment, room=replace(segment.room, columns=columns)),)
    return segments, contents._replace(vocabularies=words, numbers=new_numbers(schema))


def _next(now: Snapshot, segments: tuple[Segment, ...], contents: Contents) -> Snapshot:
    return Snapshot(now.dim, now.scan, now.dtype, now.metric, now.version + 1, segments, contents)


def _part(rows: Rows, first: int, end: int) -> Rows:
    if first == 0 and end == len(rows.norms):
        return rows
    part = slice(first, end)
    return Rows(
        rows.vectors[part],
        rows.norms[part],
        None if rows.ids is None else rows.ids[part],
        None if rows.half_squares is None else rows.half_squares[part],
        {name: values[part] for name, values in rows.columns.items()},
    )


def _form(now: Snapshot, segments: Sequence[Segment], at_hand: codes.Form | None) -> codes.Form:
    """Chosen from rows of all segments."""
    ends = np.cumsum([s.n for s in segments])

    def rows_at(numbers: NDArray[np.intp]) -> NDArray[np.float32]:
        of = np.searchsorted(ends, numbers, side="right")
        used = np.flatnonzero(np.bincount(of)).tolist()
        parts = [segments[i].vectors[numbers[of == i] - (ends[i] - segments[i].n)] for i in used]
        return arrays.widen(np.concatenate(parts), now.dtype)

    return codes.choose(int(ends[-1]), now.dim, rows_at, with_prefix=now.metric != "l2", at_hand=at_hand)


def _without(segments: Sequence[Segment], keys: NDArray[np.int64]) -> tuple[list[Segment], NDArray[np.bool_]]:
    """The segments without the documents of these distinct keys, and which of these there were."""
    order = keys.argsort(kind="stable")
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


class _Ids(NamedTuple):
    """Of what numbering they are, and the int64 or strings, distinct."""

    numbering: str
    keys: NDArray[np.int64] | None
    strings: list[str] | None


def read_ids(now: Snapshot, ids: Any, n: int) -> _Ids:
    """What a user gave for ids of n documents. ValueError where the documents before came otherwise."""
    if ids is None:
        read = _Ids("numbered", None, None)
    elif arrays.are_strings(ids) or (now._contents.numbering == "str" and np.size(ids) == 0):
        strings = Names().read(ids)
        if len(strings) != n:
            raise ValueError(f"ids: expected {n}, one for each document, got {len(strings)}")
        read = _Ids("str", None, strings)
    else:
        read = _Ids("int", arrays.document_ids(ids, n), None)
    before = now._contents.numbering
    if n and before not in ("", read.numbering):
        state = {"numbered": "without ids", "int": "with ids", "str": "with ids that are str"}[before]
        raise ValueError(
            f"ids: the {now._contents.next_id} documents before were added {state}; give ids for all documents or for "
            f"none, all of one kind"
        )
    return read


def _keys(contents: Contents, strings: list[str]) -> NDArray[np.int64]:
    """Of strings, -1 for those that no document ever had."""
    return np.full(len(strings), -1, np.int64) if contents.names is None else contents.names.find(strings)


def _with_names(contents: Contents, strings: list[str], keys: NDArray[np.int64]) -> tuple[Contents, NDArray[np.int64]]:
    """The keys of strings, those that are new being given one; keys is what :func:`_keys` returned."""
    names = Names() if contents.names is None else contents.names
    new = np.flatnonzero(keys < 0)
    if len(new) < len(keys):
        keys = keys.copy()
        keys[new] = names.append_read([strings[i] for i in new.tolist()])
    else:
        keys = names.append_read(strings)
    return contents._replace(names=names), keys


def read_metadata(now: Snapshot, metadata: Mapping[str, Any] | None, n: int) -> tuple[Contents, Mapping[str, Any]]:
    """What the index holds beside its segments, with a schema if it had none; and the values, checked."""
    return _read_metadata(now._contents, metadata, n)


def _read_metadata(
    contents: Contents, metadata: Mapping[str, Any] | None, n: int
) -> tuple[Contents, Mapping[str, Any]]:
    if n == 0 and (metadata is None or contents.schema is None):  # which say nothing of columns
        return contents, {}
    if contents.schema is None:
        schema = Schema({}) if metadata is None else Schema.of(metadata)
        contents = contents._replace(schema=schema, vocabularies=schema.vocabularies(), numbers=new_numbers(schema))
    assert contents.schema is not None
    return contents, contents.schema.read({} if metadata is None else metadata, n)


def encoded(contents: Contents, values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Columns as segments keep them, of values that :func:`read_metadata` checked."""
    assert contents.schema is not None
    return contents.schema.encode(values, contents.vocabularies)


def _own(snapshot: Snapshot) -> Contents:
    """Names, of its documents alone, and vocabularies that another index does not write to. Numbers can be shared."""
    contents = snapshot._contents
    return contents._replace(
        names=None if contents.names is None else contents.names.kept(snapshot.keys),
        vocabularies={name: Vocabulary(*words.packed(len(words))) for name, words in contents.vocabularies.items()},
    )


# ---- copies


def state(now: Snapshot) -> tuple[Any, ...]:
    """All documents of a snapshot in what can be pickled: without room, codes and removed rows."""
    for segment in now._segments:
        segment.check_vectors()
    contents, keys = now._contents, now.keys
    kept = None if contents.names is None else contents.names.kept(keys)
    names = None if kept is None else (*kept.packed(kept.next_key), kept.next_key)
    words = {name: vocabulary.packed(len(vocabulary)) for name, vocabulary in contents.vocabularies.items()}
    kinds = None if contents.schema is None else contents.schema.kinds
    about = contents.numbering, contents.next_id, names, kinds, words
    how = now.dim, now.scan, now.dtype, now.metric, now.version
    return how, about, now.stored_vectors, keys, now.stored_columns()


def restored(state: tuple[Any, ...]) -> Snapshot:
    """What :func:`state` was made of, in memory of its own."""
    how, (numbering, next_id, names, kinds, words), vectors, keys, columns = state
    contents = Contents(numbering, next_id, None if names is None else Names(*names))
    if kinds is not None:
        schema = Schema(kinds)
        contents = contents._replace(
            schema=schema,
            vocabularies={name: Vocabulary(*packed) for name, packed in words.items()},
            numbers=new_numbers(schema),
        )
    dim, scan, dtype, metric, version = how
    empty = Snapshot(dim, scan, dtype, metric, version, (), contents)
    return _filled(empty, stored(vectors, "vectors", empty), keys, columns)


def with_vectors(now: Snapshot, vectors: arrays.ArrayLike, metadata: Mapping[str, Any] | None) -> Snapshot:
    """The documents under other vectors (N,D), in memory of their own, with other metadata where that is given. Ids
    that were given to documents that went are not given again. Errors as of :meth:`FlatIndex.add`."""
    contents = now._contents
    storage = "float32" if now.metric == "cosine" else now.dtype
    documents = prepared(arrays.stored_rows(vectors, "vectors", now.dim, storage), "vectors", now)
    if metadata is None:
        columns = now.stored_columns()
    else:
        contents, values = _read_metadata(contents._replace(schema=None), metadata, len(now))
        columns = encoded(contents, values)
    empty = Snapshot(now.dim, now.scan, now.dtype, now.metric, now.version, (), contents)
    return _filled(empty, documents, now.keys, columns)


def _filled(
    empty: Snapshot, documents: Documents, keys: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]
) -> Snapshot:
    """With documents of these keys, which its contents know."""
    if len(keys) == 0:
        return empty
    contents, first = empty._contents, int(keys[0])
    ids = None if contents.numbering == "numbered" and np.array_equal(keys, first + np.arange(len(keys))) else keys
    segments = Writer()._appended(empty, (), documents.rows(ids, columns), first, contents, exact_room=True)
    return Snapshot(empty.dim, empty.scan, empty.dtype, empty.metric, empty.version, tuple(segments), contents)
