"""Exact retrieval: the top-k documents by inner product, with log p(z|x)."""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast import _kernels, arrays, codes, gather
from ragfast._kernels import Hits, SearchStats

__all__ = ["FlatIndex", "Hits", "SearchStats", "search"]

SCANS = ("auto", "float32", "int8")
MIN_CODED = 1000
"""Documents from which the scan of codes is ever the faster one (csrc/search.c, codes_serve)."""


def search_plain(
    queries: NDArray[Any],
    vectors: NDArray[Any],
    norms: NDArray[np.float32] | None,
    ids: NDArray[np.int64] | None,
    k: object,
    n_threads: object,
    temperature: object,
    out_type: int,
    names: tuple[str, str] = ("queries", "vectors"),
    int8: _kernels.Codes | None = None,
    bfloat16: bool = False,
) -> Hits:
    """The search behind all others: plain arrays of one type; names are what errors call queries and vectors."""
    k = arrays.positive_int(k, "k")
    temperature = arrays.finite_float(temperature, "temperature", above_zero=True)
    threads = arrays.thread_count(n_threads)
    try:
        return _kernels.search(queries, vectors, norms, ids, int8, k, temperature, threads, out_type, bfloat16)
    except ValueError:
        arrays.refuse_nonfinite(queries, names[0])
        if norms is None:  # otherwise they were checked when the norms were made
            arrays.refuse_nonfinite(vectors, names[1])
        raise


def search(
    queries: arrays.ArrayLike,
    vectors: arrays.ArrayLike,
    k: int = 10,
    *,
    ids: arrays.ArrayLike | None = None,
    n_threads: int | None = None,
    temperature: float = 1.0,
    dtype: DTypeLike | None = None,
) -> Hits:
    """The exact top-k documents of each query by inner product, without building an index.

    queries (B,D) and vectors (N,D) are float32 or float64; where they differ, both are taken as float64. float16 and
    bfloat16 are widened exactly. float32 is the fast path; float64 is calculated in full, document by document.
    ids (N,) are distinct integers, the row numbers by default. Everything else is as in :meth:`FlatIndex.search`;
    dtype is by default that of the input.

    >>> import numpy as np, ragfast
    >>> scores, ids = ragfast.search(np.eye(2, dtype=np.float32), np.float32([[1, 0], [0, 2], [3, 0]]), k=2)
    >>> ids.tolist(), scores.tolist()
    ([[2, 0], [1, 0]], [[3.0, 1.0], [2.0, 0.0]])
    """
    both = (arrays.FLOAT, arrays.DOUBLE)
    docs = arrays.matrix(vectors, "vectors", dtypes=both)
    asked = arrays.matrix(queries, "queries", letters="(B, D)", dim=docs.shape[1], dtypes=both)
    if docs.dtype != asked.dtype:
        docs, asked = (_kernels.widened(a) if a.dtype.num == arrays.FLOAT else a for a in (docs, asked))
    if len(asked) == 0:  # what is refused does not depend on B
        arrays.refuse_nonfinite(docs, "vectors")
    doc_ids = None if ids is None else arrays.document_ids(ids, len(docs))
    out_type = docs.dtype.num if dtype is None else arrays.float_dtype(dtype)
    return search_plain(asked, docs, None, doc_ids, k, n_threads, temperature, out_type)


_indexes: weakref.WeakSet[FlatIndex] = weakref.WeakSet()


def _renew_locks() -> None:
    """A forked child has only the thread that forked: a lock that another one held would stay locked for ever."""
    for index in list(_indexes):
        index._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _rows_on_lines(n: int, dim: int, dtype: type[np.generic]) -> NDArray[Any]:
    """An uninitialised read-only (n, dim) array that begins on a cache line; where it does not, as NumPy has it, loads
    of 64 bytes straddle two lines. Its base owns the memory."""
    size = n * dim * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    rows = memory[first : first + size].view(dtype).reshape(n, dim)
    memory.flags.writeable = rows.flags.writeable = False
    return rows


class _Documents(NamedTuple):
    """What one search sees: never changed, only replaced, so that a search beside an add sees all of it or none."""

    vectors: NDArray[Any]  # float32, or the bits of 16-bit floats
    norms: NDArray[np.float32]
    ids: NDArray[np.int64] | None
    int8: _kernels.Codes | None


class FlatIndex:
    """Documents held for exact retrieval by inner product.

    dim is D, from 1 to 2**20. The index holds vectors of dtype (float32, or float16 or bfloat16 in half the memory),
    contiguous, and a norm for each. Searches may run from many threads, also while documents are added; a search sees
    the documents of the moment it began.

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

    def __init__(self, dim: int, *, scan: str = "auto", dtype: Any = np.float32) -> None:
        if arrays.positive_int(dim, "dim") > arrays.MAX_DIM:
            raise ValueError(f"dim: expected at most {arrays.MAX_DIM}, got {dim}")
        if scan not in SCANS:
            raise ValueError(f"scan: expected one of {', '.join(SCANS)}, got {scan!r}")
        if scan == "int8" and dim > codes.MAX_DIM:
            raise ValueError(f"scan: int8 codes exist for D of at most {codes.MAX_DIM}, got {dim}")
        self._dim = int(dim)
        self._scan = scan
        self._storage = arrays.storage_type(dtype)
        self._lock = threading.Lock()
        self._room = _Documents(self._new_rows(0), np.empty(0, np.float32), None, None)
        self._documents = self._room
        self._order: tuple[NDArray[np.int64], NDArray[np.intp]] | None = None  # of which ids, once looked up
        _indexes.add(self)

    def _new_rows(self, n: int) -> NDArray[Any]:
        return _rows_on_lines(n, self._dim, np.float32 if self._storage == "float32" else np.uint16)

    @classmethod
    def from_vectors(
        cls,
        vectors: arrays.ArrayLike,
        ids: arrays.ArrayLike | None = None,
        scan: str = "auto",
        dtype: Any = np.float32,
    ) -> FlatIndex:
        """An index over vectors (N,D), which are copied. As ``FlatIndex(D, ...)`` and ``add(vectors, ids)``."""
        storage = arrays.storage_type(dtype)
        rows = arrays.stored_rows(vectors, "vectors", None, storage)
        index = cls(rows.shape[1], scan=scan, dtype=storage)
        index._add_rows(rows, ids)
        return index

    def add(self, vectors: arrays.ArrayLike, ids: arrays.ArrayLike | None = None) -> None:
        """Adds documents; on any error the index is as it was.

        vectors (N,D) float32, float16 or bfloat16, as an array or a CPU tensor. What the index's dtype does not hold
        exactly is rounded to the nearest value, and the scores are those of the rounded vectors.
        ids (N,) distinct integers of 0 or more, given for all documents of an index or for none; without them a
        document's id is the number of documents before it.

        TypeError for another dtype (float64 included: rounding is yours to ask for), ValueError for another shape,
        for NaN or infinity, for what overflows the index's dtype, and for ids that repeat.
        """
        self._add_rows(arrays.stored_rows(vectors, "vectors", self._dim, self._storage), ids)

    def _add_rows(self, rows: NDArray[Any], ids: arrays.ArrayLike | None) -> None:
        norms, bad_row = _kernels.row_norms(rows, self._storage == "bfloat16", 0)
        if bad_row is not None:
            raise ValueError(f"vectors: row {bad_row} holds NaN or an infinity; every value must be finite")
        new_ids = None if ids is None else arrays.document_ids(ids, len(rows))
        if len(rows):
            with self._lock:
                self._append(rows, norms, new_ids)

    def _append(self, rows: NDArray[Any], norms: NDArray[np.float32], ids: NDArray[np.int64] | None) -> None:
        old, room = self._documents, self._room
        n = len(old.norms)
        total = n + len(rows)
        if total >= 2**31:
            raise ValueError(f"vectors: an index holds fewer than 2**31 documents, got {total}")
        if n and (ids is None) != (old.ids is None):
            state = "without ids" if old.ids is None else "with ids"
            raise ValueError(
                f"ids: the {n} documents before were added {state}; give ids for all documents or for none"
            )
        if n and ids is not None and old.ids is not None:
            known = np.intersect1d(ids, old.ids)
            if known.size:
                raise ValueError(f"ids: expected ids that the index does not hold, got {known[0]}")
        if total > len(room.norms):  # half as much again, so that many small adds copy each document a few times
            size = total if n == 0 else max(total, n + n // 2)
            room = _Documents(
                self._new_rows(size),
                np.empty(size, np.float32),
                None if ids is None else np.empty(size, np.int64),
                None,
            )
            room.norms[:n] = old.norms
            if room.ids is not None and old.ids is not None:
                room.ids[:n] = old.ids
        # Beyond what any search under way looks at; read-only again before anybody sees it, so that no row changes
        # behind its norm.
        memory: Any = room.vectors.base
        memory.flags.writeable = room.vectors.flags.writeable = True
        if room is not self._room:
            room.vectors[:n] = old.vectors
        room.vectors[n:total], room.norms[n:total] = rows, norms
        memory.flags.writeable = room.vectors.flags.writeable = False
        if room.ids is not None and ids is not None:
            room.ids[n:total] = ids
        room = self._encode(room, n, total)
        self._room = room
        self._documents = _Documents(
            room.vectors[:total], room.norms[:total], None if room.ids is None else room.ids[:total], room.int8
        )
        self._order = None

    def _encode(self, room: _Documents, n: int, total: int) -> _Documents:
        """Codes of documents n to total; of all of them, in a form chosen anew, whenever the room is new."""
        if self._scan == "float32" or self._dim > codes.MAX_DIM:
            return room
        if self._scan == "auto" and total < MIN_CODED:
            return room
        vectors = room.vectors[:total]
        if room.int8 is None:
            form = codes.choose(vectors, partial(arrays.widen, storage=self._storage))
            room = room._replace(int8=form.room(len(room.norms), self._dim, self._scan == "int8"))
            n = 0
        assert room.int8 is not None
        room.int8.encode(vectors, n, self._storage == "bfloat16", 0)
        return room

    def search(
        self,
        queries: arrays.ArrayLike,
        k: int = 10,
        *,
        n_threads: int | None = None,
        temperature: float = 1.0,
        dtype: DTypeLike = np.float32,
    ) -> Hits:
        """The exact top-k documents of each query by inner product.

        queries (B,D) float32, float16 or bfloat16. The score of a pair is its float64 inner product; documents come by
        (score descending, id ascending), the same bits at every instruction-set level, thread count and batch size.
        Returns :class:`Hits` of scores (B,K) and logprobs (B,K) in dtype (float32: rounded from float64; or float64)
        and ids (B,K) int64, -inf and -1 where the index holds fewer than k documents. logprobs are
        log_softmax(scores / temperature), p(z|x) of Lewis et al. 2020, section 2.2, over these k documents.
        n_threads: see :func:`ragfast.set_num_threads`.

        TypeError for another dtype, ValueError for another shape, k or n_threads below 1, a temperature that is not
        above 0, and for NaN or infinity.
        """
        rows = arrays.matrix(queries, "queries", letters="(B, D)", dim=self._dim)
        out_type = arrays.FLOAT if dtype is np.float32 else arrays.float_dtype(dtype)
        return self._search(rows, k, n_threads, temperature, out_type)

    def _search(
        self,
        queries: NDArray[Any],
        k: object,
        n_threads: object,
        temperature: object,
        out_type: int,
        names: tuple[str, str] = ("queries", "vectors"),
    ) -> Hits:
        """Of plain float32 queries (B,D); see :func:`search_plain`."""
        vectors, norms, ids, int8 = self._documents
        bfloat16 = self._storage == "bfloat16"
        return search_plain(queries, vectors, norms, ids, k, n_threads, temperature, out_type, names, int8, bfloat16)

    def gather_scores(
        self,
        queries: arrays.ArrayLike,
        ids: arrays.ArrayLike,
        *,
        n_threads: int | None = None,
        dtype: DTypeLike | None = None,
    ) -> NDArray[Any]:
        """The scores (B,K) of documents that are chosen already, the same bits as :meth:`search` gives them.

        queries (B,D) as in :meth:`search`, or float64; ids (B,K) integers, or -1 for no document, of which the score is
        -inf. dtype is by default float64 for float64 queries, else float32. Otherwise as :func:`ragfast.gather_scores`;
        ValueError for an id that the index does not hold. Where documents have ids of their own, the first call after
        an add sorts them, and 8 bytes a document are kept.

        >>> import numpy as np, ragfast
        >>> index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [0, 2]]), ids=[30, 7])
        >>> index.gather_scores(np.float32([[1, 2]]), [[7, 30, -1]]).tolist()
        [[4.0, 1.0, -inf]]
        """
        both = (arrays.FLOAT, arrays.DOUBLE)
        asked = arrays.matrix(queries, "queries", letters="(B, D)", dim=self._dim, dtypes=both)
        out_type = asked.dtype.num if dtype is None else arrays.float_dtype(dtype)
        documents = self._documents
        rows = self._rows_of(documents, ids, len(asked))
        return gather.scores_plain(asked, documents.vectors, self._storage, rows, n_threads, out_type)

    def gather_scores_grad(
        self,
        grad: arrays.ArrayLike,
        ids: arrays.ArrayLike,
        *,
        n_threads: int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> NDArray[Any]:
        """The gradient (B,D) of :meth:`gather_scores` with regard to the queries, from that of the scores, grad (B,K):
        :func:`ragfast.gather_scores_grad` by ids (B,K)."""
        documents = self._documents
        rows = self._rows_of(documents, ids, None)
        return gather.grad_plain(grad, documents.vectors, self._storage, rows, n_threads, dtype, arrays.FLOAT)

    def _rows_of(self, documents: _Documents, ids: arrays.ArrayLike, n_queries: int | None) -> NDArray[np.int64]:
        """Rows (B,K) of documents by their ids; -1 for -1."""
        letters = f"({'B' if n_queries is None else n_queries}, K)"
        wanted = arrays.integers(ids, "ids", letters, (n_queries, None))
        known = documents.ids
        if known is None:
            rows, held = wanted, wanted < len(documents.norms)
        else:
            kept = self._order
            if kept is None or kept[0] is not known:
                kept = self._order = known, known.argsort(kind="stable")  # stable: fast where they ascend
            places = np.searchsorted(known, wanted, sorter=kept[1])
            rows = kept[1][np.minimum(places, len(known) - 1)]
            held = known[rows] == wanted
        missing = (wanted < -1) | ((wanted >= 0) & ~held)
        if missing.any():
            b, k = np.argwhere(missing)[0]
            raise ValueError(
                f"ids: expected ids of documents in the index, or -1 for none, got {wanted[b, k]} at ({b}, {k})"
            )
        return np.where(wanted < 0, -1, rows)

    def __len__(self) -> int:
        return len(self._documents.norms)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold documents of their own."""
        documents = self._documents
        return FlatIndex._restored, (self._dim, self._scan, self._storage, documents.vectors, documents.ids)

    @staticmethod
    def _restored(dim: int, scan: str, storage: str, vectors: NDArray[Any], ids: NDArray[np.int64] | None) -> FlatIndex:
        index = FlatIndex(dim, scan=scan, dtype=storage)
        index._add_rows(vectors, ids)
        return index

    def __repr__(self) -> str:
        return f"FlatIndex(dim={self._dim}, scan={self._scan!r}, dtype={self._storage!r}) of {len(self)} documents"

    @property
    def dim(self) -> int:
        """D."""
        return self._dim

    @property
    def scan(self) -> str:
        """How documents are scanned: "auto", "float32" or "int8", as the index was made."""
        return self._scan

    @property
    def dtype(self) -> str:
        """What the vectors are stored as: "float32", "float16" or "bfloat16"."""
        return self._storage

    @property
    def vectors(self) -> NDArray[Any]:
        """The documents (N,D), read-only: float32 or float16 as stored; bfloat16, which NumPy lacks, a float32 copy."""
        stored = self._documents.vectors
        if self._storage != "bfloat16":
            return stored if self._storage == "float32" else stored.view(np.float16)
        widened = arrays.widen(stored, self._storage)
        widened.flags.writeable = False
        return widened

    @property
    def ids(self) -> NDArray[np.int64]:
        """Their ids (N,): a copy."""
        documents = self._documents
        return np.arange(len(documents.norms)) if documents.ids is None else documents.ids.copy()

    @property
    def nbytes(self) -> int:
        """Memory of the index in bytes: vectors, norms, ids and codes, with the room for documents to come."""
        room, order = self._room, self._order
        parts = room.vectors.nbytes + room.norms.nbytes + (0 if room.ids is None else room.ids.nbytes)
        parts += 0 if order is None else order[1].nbytes
        return parts + (0 if room.int8 is None else room.int8.nbytes)
