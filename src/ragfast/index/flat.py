"""Exact retrieval: documents that are added, replaced and removed while they are searched, with log p(z|x)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ragfast._core import arrays
from ragfast._core.turns import Turns

# Files too, which a program that only searches does not need: a signal handler that saves must not find the module half
# imported by what it interrupted.
from ragfast.index import building, persistence, writing
from ragfast.index.segment import Settings, checked_dim
from ragfast.index.snapshot import METRICS, SCANS, Hits, Searchable, SearchStats, Snapshot

__all__ = ["FlatIndex", "Hits", "SearchStats", "Snapshot"]


class FlatIndex(Searchable):
    """Documents held for exact retrieval.

    dim is D, from 1 to 2**20. The index holds vectors of dtype (float32, or float16 or bfloat16 in half the memory),
    contiguous, and a norm for each. It may be searched from many threads, also while documents are added, replaced and
    removed: a search sees one version of the index, that of the moment it began, and never waits.

    Changes take turns. One that begins inside another one of the same index, in a signal handler or a finalizer that
    runs in the middle of it, is a RuntimeError; whatever reads, and :meth:`save`, may be called there.

    metric is what scores are: "ip" inner products; "cosine" those of vectors of length 1, documents being normalised
    when they are added; "l2" -|q - d|^2, so that the nearest come first here too.

    scan is how documents are looked through, and cannot change a bit of any result: "int8" by codes of a byte an
    element that are kept beside the vectors, "float32" by the vectors themselves in less memory, "auto" by codes where
    they repay themselves. ``search(...).stats`` tells what was done.

    >>> import numpy as np, ragfast
    >>> index = ragfast.FlatIndex(2)
    >>> index.add(np.float32([[1, 0], [0, 2], [3, 0]]))
    >>> hits = index.search(np.float32([[1, 1]]), k=2, dtype=np.float64)
    >>> hits.ids.tolist(), hits.scores.tolist()
    ([[2, 1]], [[3.0, 2.0]])
    >>> hits.logprobs.round(4).tolist()
    [[-0.3133, -1.3133]]
    """

    def __init__(self, dim: int, *, scan: str = "auto", dtype: Any = np.float32, metric: str = "ip") -> None:
        dim = checked_dim(dim, scan)
        if scan not in SCANS:
            raise ValueError(f"scan: expected one of {', '.join(SCANS)}, got {scan!r}")
        arrays.one_of(metric, "metric", METRICS)
        settings = Settings(dim, scan, arrays.storage_type(dtype), metric)
        self._begin(Snapshot(settings, 0, (), writing.NOTHING))

    def _begin(
        self, snapshot: Snapshot, writer: writing.Writer | None = None, saved: persistence.SavedState | None = None
    ) -> None:
        self._turns = Turns("the same index")
        self._snapshot = snapshot
        self._writer = writing.Writer() if writer is None else writer
        self._saved = saved  # the directory of arrays that this index last wrote or opened
        self._saves_as: dict[int, str] = {}  # by process: the writer in its commits

    @classmethod
    def from_vectors(
        cls,
        vectors: arrays.ArrayLike,
        ids: arrays.ArrayLike | Sequence[str] | None = None,
        scan: str = "auto",
        dtype: Any = np.float32,
        metric: str = "ip",
        metadata: Mapping[str, Any] | None = None,
    ) -> FlatIndex:
        """An index over vectors (N,D), which are copied. As ``FlatIndex(D, ...)`` and ``add(vectors, ids, metadata)``,
        without spare capacity, which the next add makes."""
        storage = arrays.storage_type(dtype)
        rows = arrays.stored_rows(vectors, "vectors", None, "float32" if metric == "cosine" else storage)
        index = cls(rows.shape[1], scan=scan, dtype=storage, metric=metric)
        stored = writing.prepared_rows(rows, index._snapshot)
        index._change("from_vectors", lambda now: index._writer.added(now, stored, ids, metadata, exact_capacity=True))
        return index

    def _change(self, name: str, make: Callable[[Snapshot], Snapshot]) -> tuple[Snapshot, Snapshot]:
        """Puts in place of the snapshot what `make` makes of it; returns both. One change at a time, and if it fails,
        none. Errors call the change `name`."""

        def change() -> tuple[Snapshot, Snapshot]:
            before = self._snapshot
            after = self._snapshot = make(before)
            return before, after

        return self._turns.take(name, change)

    def add(
        self,
        vectors: arrays.ArrayLike,
        ids: arrays.ArrayLike | Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds documents; on any error the index is as it was.

        vectors (N,D) float32, float16 or bfloat16, as an array or a CPU tensor. What the index's dtype does not hold
        exactly is rounded to the nearest value, and the scores are those of the rounded vectors. With metric "cosine"
        each is divided by its length in float64 before.
        ids (N,) distinct integers of 0 or more, or distinct strings, given for all documents of an index or for none;
        without them a document's id is the number of documents added before it. An id that was removed may come again.
        metadata maps names of columns to N values each: integers, floats, bools, or strings and None, the same columns
        in every call; see :func:`ragfast.column` for what they are good for.

        TypeError for another dtype (float64 included: rounding is yours to ask for), ValueError for another shape,
        for NaN or infinity, for what overflows the index's dtype, for zeros alone where the metric is "cosine", for
        ids that repeat or that the index holds, and for other columns than those of the documents before.
        """
        rows = writing.prepared(vectors, self._snapshot)
        self._change("add", lambda now: self._writer.added(now, rows, ids, metadata))

    def upsert(
        self,
        ids: arrays.ArrayLike | Sequence[str],
        vectors: arrays.ArrayLike,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Puts documents in the place of those with the same ids (N,), and adds those that are new, all at once.

        Everything is as in :meth:`add`. Documents that came without ids are replaced under their numbers; there, ids
        that the index does not hold are a ValueError.

        >>> import numpy as np, ragfast
        >>> index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [0, 2]]), ids=["sun", "rain"])
        >>> index.upsert(["rain", "fog"], np.float32([[0, 3], [1, 1]]))
        >>> index.search(np.float32([[0, 1]]), k=2).ids.tolist()
        [['rain', 'fog']]
        """
        rows = writing.prepared(vectors, self._snapshot)
        self._change("upsert", lambda now: self._writer.upserted(now, rows, ids, metadata))

    def remove(self, ids: arrays.ArrayLike | Sequence[str], *, missing_ok: bool = False) -> int:
        """Removes the documents of these ids (n,), and returns how many went. Searches no longer look at them; their
        memory is given back when there are many of them, or by :meth:`compact`.

        ValueError, and nothing is removed, for an id that the index does not hold, unless missing_ok.
        """
        before, after = self._change("remove", lambda now: self._writer.removed(now, ids, missing_ok))
        return len(before) - len(after)

    def compact(self) -> None:
        """Puts all documents side by side in memory, without those that were removed. Results do not change, and
        searches meanwhile see the documents where they were."""
        self._change("compact", self._writer.compacted)

    def swap(self, other: FlatIndex | Snapshot) -> Snapshot:
        """Puts the documents of another index, or of a snapshot, in the place of these at once; returns what was there
        before. Both share memory, and neither sees what is done to the other later.

        ValueError unless dim, dtype and metric are the same.
        """
        if not isinstance(other, (FlatIndex, Snapshot)):
            raise TypeError(f"other: expected a FlatIndex or a Snapshot, got {type(other).__name__}")
        theirs = other if isinstance(other, Snapshot) else other._snapshot
        return self._change("swap", lambda now: self._writer.swapped(now, theirs))[0]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the index as it is at this moment into a directory, which is made, or which holds an index: that is
        replaced at once when all is written. Whatever happens before, a crash included, it stays as it was; what of
        this index lies there already is not written again. docs/index-format.md describes the files.

        BlockingIOError while another writer is at work there; FileExistsError for a directory of other things, and
        unless `overwrite` where this index was opened or saved before but another writer has saved since.
        """
        now = self._snapshot
        self._writer.seal(now)
        writer = self._saves_as.setdefault(os.getpid(), persistence.new_writer())
        self._saved = persistence.save(path, now, self._saved, overwrite, writer)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool | str = True, verify: bool = True) -> FlatIndex:
        """The index that was saved there. It can be searched, changed and saved again, there or elsewhere.

        mmap=True maps the files: opening reads next to nothing, and they take what memory the system has to spare.
        mmap="vectors" has everything but the vectors in memory, as is best for more documents than fit there; False
        has all of it there. Where verify is True, nothing is looked at that was not compared with its checksum: files
        that are read into memory when that is done, mapped ones at the first use, vectors row by row.

        :class:`IndexFormatError`, which names the file, for whatever is not as it was written, when it is opened or
        used; FileNotFoundError where there is no directory.

        >>> import numpy as np, os, ragfast, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "index")
        >>> ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [0, 2]]), ids=["sun", "rain"]).save(path)
        >>> ragfast.FlatIndex.open(path).search(np.float32([[1, 1]]), k=1).ids.tolist()
        [['rain']]
        """
        snapshot, saved, quantizer, quantizer_docs = persistence.open(path, mmap, verify)
        index = cls.__new__(cls)
        index._begin(snapshot, writing.Writer(quantizer, quantizer_docs), saved)
        return index

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        blocks: Any,
        *,
        dim: int | None = None,
        dtype: Any = np.float32,
        metric: str = "ip",
        scan: str = "auto",
        n_docs: int | None = None,
        progress: bool = True,
    ) -> FlatIndex:
        """An index made in a directory, block by block, of more documents than fit into memory; then opened with
        mmap="vectors".

        blocks is an iterable of arrays (n,D) or of :class:`ragfast.index.readers.Block`, which have ids and metadata as
        well: a generator, or what :mod:`ragfast.index.readers` reads from files. They may have any sizes, and one may
        use the memory of the one before. dim is that of the first unless it is given; dtype, metric and scan are as in
        :class:`FlatIndex`, and so is what is refused, the errors telling the block, and rows counted over all blocks.

        Memory is needed for some 0.5 GB of documents whatever their number, and for their ids: 16 bytes each where they
        are integers, some 200 where they are str, nothing where there are none. The quantizer of the codes is chosen
        from the first 65,536 documents, and is the better the more these are like the others: it is what a search takes
        its time from, never its result. n_docs is their number as far as it is known, for that choice and for the
        progress bar (tqdm, if it is installed) that shows after two seconds unless progress is False.

        An index that is there already is replaced when all is written; on an error or an interrupt it stays, and what
        was begun is removed. BlockingIOError while another writer is at work there; FileExistsError for a directory of
        other things.

        >>> import numpy as np, os, ragfast, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "index")
        >>> blocks = (np.full((1000, 4), i, np.float32) for i in range(3))
        >>> ragfast.FlatIndex.build(path, blocks, dtype="float16").search(np.ones((1, 4), np.float32), k=2).ids.tolist()
        [[2000, 2001]]
        """
        arrays.one_of(scan, "scan", SCANS)
        arrays.one_of(metric, "metric", METRICS)
        building.build(path, blocks, dim, dtype, metric, scan, n_docs, progress)
        return cls.open(path, mmap="vectors")

    def verify(self) -> None:
        """Reads every byte of the files in the directory that the index was opened from or last saved to, and of those
        that it has mapped. :class:`IndexFormatError` where one is not as it was written, ValueError where the index was
        neither opened nor saved."""
        persistence.verify(self._snapshot, self._saved)

    def snapshot(self) -> Snapshot:
        """This version of the index, to be searched and read while the index goes on."""
        return self._snapshot

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold documents of their own."""
        return FlatIndex._restored, (writing.state(self._snapshot),)

    @staticmethod
    def _restored(state: tuple[Any, ...]) -> FlatIndex:
        index = FlatIndex.__new__(FlatIndex)
        index._begin(writing.restored(state))
        return index

    def __repr__(self) -> str:
        return f"FlatIndex({self._snapshot.described()}"
