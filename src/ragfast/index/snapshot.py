"""Searching and reading one version of an index, which never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast._core import _kernels, arrays
from ragfast._core._kernels import Hits, SearchStats
from ragfast.index import gather, selection
from ragfast.index.filters import Predicate
from ragfast.index.segment import Segment, Settings
from ragfast.index.selection import Contents, Filter

__all__ = ["METRICS", "SCANS", "Contents", "Filter", "Hits", "SearchStats", "Searchable", "Snapshot", "search_docs"]

SCANS = ("auto", "float32", "int8")
METRICS = ("ip", "cosine", "l2")

_CACHED_FILTERS = 8
"""Filters that a snapshot remembers, so that a repeated predicate is not evaluated again."""


Options: TypeAlias = tuple[object, object, object, int]
"""Of a search, as the caller gave them: k, n_threads, temperature; and the type number of scores."""
Limits: TypeAlias = tuple[NDArray[np.int32] | None, int]
"""The group (B,) that each query must not find, and the most documents of a group, 0 for all."""


def search_docs(
    queries: NDArray[Any],
    docs: tuple[_kernels.Docs, ...],
    options: Options,
    name: str = "queries",
    limits: Limits = (None, 0),
    cosine: bool = False,
) -> Hits:
    """The search behind all others, of plain queries; name is what errors call them."""
    k, n_threads, temperature, out_type = options
    k = arrays.positive_int(k, "k")
    temperature = arrays.finite_float(temperature, "temperature", above_zero=True)
    threads = arrays.thread_count(n_threads)
    try:
        return _kernels.search(queries, docs, k, temperature, threads, out_type, *limits, cosine)
    except _kernels.CorruptDocument:
        raise
    except ValueError:
        arrays.refuse_nonfinite(queries, name)
        if cosine:
            arrays.lengths(queries, name)  # refuses zeros
        raise


class Searchable:
    """Everything that reads documents: the methods that :class:`FlatIndex` and :class:`Snapshot` have in common.

    A subclass has ``_snapshot``, the version to read. Each method takes it once, so that one call sees one version.
    """

    _snapshot: Snapshot

    def search(
        self,
        queries: arrays.ArrayLike,
        k: int = 10,
        *,
        filter: Any = None,
        group_by: str | None = None,
        exclude_groups: Any = None,
        max_per_group: int | None = None,
        n_threads: int | None = None,
        temperature: float = 1.0,
        dtype: DTypeLike = np.float32,
    ) -> Hits:
        """Return the exact top-k documents of each query.

        Parameters
        ----------
        queries : array_like of shape (B, D)
            float32, float16 or bfloat16.
        k : int
            Number of documents to return for each query. The top k are taken after all constraints are applied.
        filter : array_like, Predicate or Filter, optional
            Which documents may be found: a mask (N,) of bool in the order of :attr:`ids`; ids (n,), of which those that
            the index does not hold are ignored; a :class:`Predicate` of metadata; or what :meth:`filter` made of one of
            these.
        group_by : str, optional
            The metadata column, of integers or strings, that says which documents belong together. It needs
            `exclude_groups` or `max_per_group`.
        exclude_groups : array_like of shape (B,), optional
            For each query the group that it must not find, or None.
        max_per_group : int, optional
            The number of documents of one group that a query may find, the best of them. A document whose group is None
            is alone in its group.
        n_threads : int, optional
            See :func:`ragfast.set_num_threads`.
        temperature : float
            Divides the scores in `logprobs`; above 0.
        dtype : dtype
            Of scores and log probabilities: float32 (rounded from float64) or float64.

        Returns
        -------
        Hits
            ``scores`` (B, K) and ``logprobs`` (B, K) in `dtype`, and ``ids`` (B, K), int64 or an object array of str.
            Where fewer than k documents qualify the rest is -inf and -1, or None. (A score beyond float32 is infinite
            too: the ids tell which.) ``logprobs`` are log_softmax(scores / temperature), the p(z|x) of Lewis et al.
            2020, section 2.2, over these k documents.

        Raises
        ------
        TypeError
            For another dtype.
        ValueError
            For another shape, `k` or `n_threads` below 1, a temperature that is not above 0, and NaN or infinity.

        Notes
        -----
        Scores are computed in float64: the inner product; for "cosine" that of the query and the stored document,
        divided by the query's length; for "l2" -|q - d|^2. Documents are sorted by (score descending, id ascending;
        strings in the order in which they were first added). The result has the same bits at every instruction-set
        level, thread count and batch size, and whatever was added and removed before. (Inner products that differ may
        be the same cosine once divided: of such documents those of the largest products are among the k, and they are
        sorted by their ids too.)

        Examples
        --------
        >>> import numpy as np, ragfast
        >>> pages = {"book": ["a", "a", "b"], "year": [1999, 2001, 2005]}
        >>> index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [2, 0], [3, 0]]), metadata=pages)
        >>> query = np.float32([[1, 1]])
        >>> index.search(query, k=2, filter=ragfast.column("year") < 2005).ids.tolist()
        [[1, 0]]
        >>> index.search(query, k=2, group_by="book", max_per_group=1).ids.tolist()
        [[2, 1]]
        """
        snapshot = self._snapshot
        rows = arrays.matrix(queries, "queries", letters="(B, D)", dim=snapshot._dim)
        out_type = arrays.FLOAT if dtype is np.float32 else arrays.float_dtype(dtype)
        options = (k, n_threads, temperature, out_type)
        if filter is group_by is exclude_groups is max_per_group is None:
            if snapshot._direct and snapshot._docs is not None:  # as search_rows, without the time of its call
                return search_docs(rows, snapshot._docs, options, cosine=snapshot._cosine)
            return snapshot.search_rows(rows, options)
        constraints = snapshot._constraints(len(rows), filter, group_by, exclude_groups, max_per_group)
        return snapshot._search_segments(rows, options, "queries", *constraints)

    def gather_scores(
        self,
        queries: arrays.ArrayLike,
        ids: arrays.ArrayLike,
        *,
        n_threads: int | None = None,
        dtype: DTypeLike | None = None,
    ) -> NDArray[Any]:
        """Return the scores (B, K) of chosen documents, with the same bits as :meth:`search` gives them.

        Parameters
        ----------
        queries : array_like of shape (B, D)
            As in :meth:`search`, or float64.
        ids : array_like of shape (B, K)
            Documents of the index, or -1 (None among strings) for no document, whose score is -inf.
        n_threads : int, optional
            See :func:`ragfast.set_num_threads`.
        dtype : dtype, optional
            float64 for float64 queries, else float32, by default.

        Raises
        ------
        ValueError
            For an id that the index does not hold; otherwise as :func:`ragfast.gather_scores`.

        Notes
        -----
        If the ids of the index do not ascend, the first call sorts them and keeps 12 bytes a document.

        Examples
        --------
        >>> import numpy as np, ragfast
        >>> index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [0, 2]]), ids=[30, 7])
        >>> index.gather_scores(np.float32([[1, 2]]), [[7, 30, -1]]).tolist()
        [[4.0, 1.0, -inf]]
        """
        snapshot = self._snapshot
        asked = arrays.matrix(queries, "queries", letters="(B, D)", dim=snapshot._dim, dtypes=arrays.EITHER_FLOAT)
        out_type = asked.dtype.num if dtype is None else arrays.float_dtype(dtype)
        return snapshot._gather_scores(asked, ids, n_threads, out_type)

    def gather_scores_grad(
        self,
        grad: arrays.ArrayLike,
        ids: arrays.ArrayLike,
        *,
        n_threads: int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> NDArray[Any]:
        """Return the gradient (B, D) of :meth:`gather_scores` with regard to the queries.

        `grad` (B, K) is the gradient with regard to the scores of documents `ids` (B, K); see
        :func:`ragfast.gather_scores_grad`. ValueError unless the metric is "ip".
        """
        return self._snapshot._gather_scores_grad(grad, ids, n_threads, dtype)

    def filter(self, filter: Any) -> Filter:
        """Prepare a filter for searches of this version, to be passed as ``filter=`` to :meth:`search`.

        Parameters
        ----------
        filter : array_like, Predicate or Filter
            A mask (N,) of bool in the order of :attr:`ids`, ids (n,) of documents that may be found, a
            :class:`Predicate` of metadata (``ragfast.column("year") >= 2000``), or a Filter of this or another version.
            Ids that the index does not hold are ignored.

        Raises
        ------
        TypeError, ValueError
            For anything else, and for columns that do not exist.
        """
        return self._snapshot._prepared_filter(filter)

    def __contains__(self, doc_id: object) -> bool:
        """Whether there is a document of this id."""
        return self._snapshot._holds(doc_id)

    def __len__(self) -> int:
        return self._snapshot._n

    @property
    def version(self) -> int:
        """A number that grows with every change of the index: use it as the key of caches about its documents."""
        return self._snapshot._version

    @property
    def dim(self) -> int:
        """D."""
        return self._snapshot._dim

    @property
    def scan(self) -> str:
        """How documents are scanned: "auto", "float32" or "int8", as the index was made."""
        return self._snapshot._scan

    @property
    def dtype(self) -> str:
        """What the vectors are stored as: "float32", "float16" or "bfloat16"."""
        return self._snapshot._storage

    @property
    def metric(self) -> str:
        """What scores are: "ip", "cosine" or "l2", as the index was made."""
        return self._snapshot._metric

    @property
    def vectors(self) -> NDArray[Any]:
        """The documents (N, D), read-only, in the order of :attr:`ids`.

        float32 or float16 as stored (of length 1 for "cosine"); bfloat16, which NumPy lacks, as float32. They are a
        copy unless all lie together and none was removed. For an index with mapped files they are the files, which
        :meth:`FlatIndex.verify` checks.
        """
        storage, stored = self._snapshot._storage, self._snapshot.stored_vectors
        vectors = stored.view(np.float16) if storage == "float16" else arrays.widen(stored, storage)
        vectors.flags.writeable = False
        return vectors

    @property
    def ids(self) -> NDArray[Any]:
        """The ids (N,) of the documents, int64, or an object array of str: a copy."""
        snapshot = self._snapshot
        names = snapshot._contents.names
        return snapshot.keys if names is None else names.take(snapshot.keys)

    @property
    def columns(self) -> dict[str, str]:
        """The kinds of the metadata columns by name: "int64", "float64", "bool" or "str"."""
        return self._snapshot._contents.columns.kinds

    @property
    def metadata(self) -> dict[str, NDArray[Any]]:
        """The metadata columns by name, each (N,) in the order of :attr:`ids`: copies."""
        snapshot = self._snapshot
        contents = snapshot._contents
        return contents.columns.decode(snapshot.stored_columns(), contents.vocabularies)

    @property
    def nbytes(self) -> int:
        """Memory of the documents in bytes: vectors, norms, ids, codes and metadata, with spare capacity.

        Mapped files count as well.
        """
        snapshot = self._snapshot
        contents = snapshot._contents
        names = () if contents.names is None else (contents.names,)
        return sum(held.nbytes for held in (*snapshot._segments, *contents.vocabularies.values(), *names))


class Snapshot(Searchable):
    """The documents of an index at one moment: what :meth:`FlatIndex.snapshot` returns.

    It has everything that reads of :class:`FlatIndex` and never changes. Taking one costs nothing. Memory of documents
    that the index has since removed is in use until no snapshot holds them.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [0, 2]]), ids=["sun", "rain"])
    >>> before = index.snapshot()
    >>> index.remove(["sun"])
    1
    >>> before.ids.tolist(), index.ids.tolist(), before.version < index.version
    (['sun', 'rain'], ['rain'], True)
    """

    def __init__(self, settings: Settings, version: int, segments: tuple[Segment, ...], contents: Contents) -> None:
        self.settings = settings
        self._dim, self._scan, self._storage, self._metric = settings
        self._version = version
        self._segments = segments
        self._contents = contents
        self._n = sum(map(len, segments))
        self._filters: dict[Predicate, Filter] = {}
        self._mapped = any(segment.buffers.files is not None for segment in segments)
        self._cosine = settings.metric == "cosine"
        self._direct = contents.names is None and not self._mapped  # C's hits are the result
        self._docs: tuple[_kernels.Docs, ...] | None = None

    def replaced(self, segments: Iterable[Segment], contents: Contents, version: int | None = None) -> Snapshot:
        """A snapshot of the same settings with other documents."""
        version = self._version if version is None else version
        return Snapshot(self.settings, version, tuple(segments), contents)

    @property
    def _snapshot(self) -> Snapshot:  # type: ignore[override]  # an attribute would be a cycle that keeps memory
        return self

    def __copy__(self) -> Snapshot:
        return self

    def __deepcopy__(self, memo: object) -> Snapshot:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a snapshot cannot be pickled; pickle its index, or save it")

    def __repr__(self) -> str:
        return f"Snapshot({self.described()}, version {self._version}"

    def described(self) -> str:
        """What the representation of an index says after the bracket."""
        removed = sum(segment.n_removed for segment in self._segments)
        metric = "" if self._metric == "ip" else f", metric={self._metric!r}"
        left = f" ({removed} removed ones still take memory)" if removed else ""
        settings = f"dim={self._dim}, scan={self._scan!r}, dtype={self._storage!r}{metric}"
        return f"{settings}) of {self._n} documents{left}"

    # ---- searches

    def search_rows(self, queries: NDArray[Any], options: Options, name: str = "queries") -> Hits:
        """Search for plain float32 queries (B, D); see :func:`search_docs`."""
        docs = self._docs
        if docs is None:
            docs = self._docs = tuple(segment.docs for segment in self._segments) or (self._no_docs,)
        if self._direct:
            return search_docs(queries, docs, options, name, cosine=self._cosine)
        return self._search_segments(queries, options, name, docs, self._segments)

    @property
    def _no_docs(self) -> _kernels.Docs:
        squares = np.empty(0) if self._metric == "l2" else None
        bfloat16 = self._storage == "bfloat16"
        return _kernels.Docs(self._no_vectors, np.empty(0, np.float32), bfloat16=bfloat16, half_squares=squares)

    @property
    def _no_vectors(self) -> NDArray[Any]:
        return np.empty((0, self._dim), self.settings.vector_dtype)

    def _search_segments(
        self,
        queries: NDArray[Any],
        options: Options,
        name: str,
        docs: tuple[_kernels.Docs, ...],
        segments: tuple[Segment, ...],
        limits: Limits = (None, 0),
    ) -> Hits:
        """Search docs of these segments, with names and mapped files, which C does not know."""
        if self._mapped and len(queries) > 1:
            for segment in segments:
                segment.check("low")
        try:
            hits = search_docs(queries, docs, options, name, limits, self._cosine)
        except _kernels.CorruptDocument as error:
            raise segments[error.segment].corrupt_row(error.row) from None
        names = self._contents.names
        return hits if names is None else Hits(hits.scores, names.take(hits.ids), hits.logprobs, hits.stats)

    def _constraints(
        self, n_queries: int, filter: Any, group_by: str | None, exclude_groups: Any, max_per_group: int | None
    ) -> tuple[tuple[_kernels.Docs, ...], tuple[Segment, ...], Limits]:
        """The last arguments of :meth:`_search_segments`, under a filter or limits of groups."""
        excluded, most = None, 0
        if group_by is None:
            if exclude_groups is not None or max_per_group is not None:
                given = "exclude_groups" if exclude_groups is not None else "max_per_group"
                raise ValueError(f"{given}: expected together with group_by, the metadata column of the groups")
        else:
            if exclude_groups is None and max_per_group is None:
                raise ValueError("group_by: expected exclude_groups or max_per_group with it; alone it says nothing")
            groups = selection.group_codes(self._segments, group_by, self._contents)
            most = 0 if max_per_group is None else arrays.positive_int(max_per_group, "max_per_group")
            if exclude_groups is not None:
                excluded = selection.excluded_groups(group_by, exclude_groups, n_queries, self._contents)
        bits = () if filter is None else self._prepared_filter(filter).allowed
        docs, segments = [], []
        for i, segment in enumerate(self._segments):
            if filter is None or bits[i] is not None:
                changes: dict[str, Any] = {} if filter is None else {"allowed": bits[i]}
                if group_by is not None:
                    changes["groups"] = groups[i]
                docs.append(segment.docs.changed(**changes))
                segments.append(segment)
        return tuple(docs) or (self._no_docs,), tuple(segments), (excluded, most)

    # ---- filters

    def _prepared_filter(self, filter: Any) -> Filter:
        """:meth:`filter` of this version."""
        if isinstance(filter, Filter):
            if filter.segments is self._segments:
                return filter
            if filter.source is None:
                raise ValueError(
                    f"filter: a mask of version {filter.version} of an index, made for its rows alone; this is version "
                    f"{self._version} of that index, of another or of a copy: make it again, or search that snapshot"
                )
            return self._prepared_filter(filter.source)
        if isinstance(filter, Predicate):
            try:
                prepared = self._filters.get(filter)
                if prepared is None:
                    masks = selection.predicate_masks(self._segments, filter, self._contents)
                    prepared = self._filter_of(filter, masks)
                    if len(self._filters) >= _CACHED_FILTERS:
                        self._filters = {}
                    self._filters[filter] = prepared
            except RecursionError:
                raise ValueError(
                    "filter: the predicate is nested too deep; isin(...) is one comparison with many values"
                ) from None
            return prepared
        kept = selection.frozen_filter(
            filter, f"a mask ({self._n},) of bool, a list or an array of ids, or a Predicate"
        )
        if isinstance(kept, np.ndarray) and kept.dtype.kind == "b":
            if kept.shape != (self._n,):
                raise ValueError(f"filter: expected a mask ({self._n},), a value for each document, got {kept.shape}")
            return self._filter_of(None, selection.split_mask(self._segments, kept))
        return self._filter_of(kept, selection.key_masks(self._segments, self.keys_of(kept, "filter")))

    def _filter_of(self, source: Any, masks: Iterator[NDArray[np.bool_]]) -> Filter:
        return Filter(source, self._version, self._segments, selection.allowed(self._segments, masks))

    # ---- documents by their ids

    def keys_of(self, ids: Any, name: str) -> NDArray[np.int64]:
        """The keys (n,) of ids as a user has them, -1 for strings that were never given. TypeError for the other
        kind."""
        names = self._contents.names
        if names is not None:
            if not arrays.are_strings(ids) and np.size(ids):
                raise TypeError(f"{name}: expected ids that are str, as the documents have")
            return names.find(ids) if np.size(ids) else np.empty(0, np.int64)
        if arrays.are_strings(ids):
            if self._contents.numbering == "":  # no document came yet that could tell
                return np.full(len(ids), -1, np.int64)
            raise TypeError(f"{name}: expected integers, as the documents' ids are, got str")
        return arrays.integers(ids, name, "(n,)", (None,))

    def _gather_scores(
        self, asked: NDArray[Any], ids: arrays.ArrayLike, n_threads: object, out_type: int
    ) -> NDArray[Any]:
        keys, segment_rows = self._rows_of(ids, len(asked))
        wide = out_type if self._metric != "cosine" else arrays.DOUBLE
        scores: NDArray[Any] = np.full(keys.shape, -np.inf, np.float32 if wide == arrays.FLOAT else np.float64)
        for segment, rows in segment_rows:
            segment.check_rows(rows[rows >= 0])
            segment.check("squares")
            squares = segment.buffers.half_squares
            squares = None if squares is None else squares[: segment.n]
            of_segment = gather.scores_plain(asked, segment.vectors, self._storage, rows, n_threads, wide, squares)
            scores = np.where(rows < 0, scores, of_segment)
        if not segment_rows:
            arrays.thread_count(n_threads)
            arrays.refuse_nonfinite(asked, "queries")
        if self._metric == "cosine":
            scores = scores / arrays.lengths(asked, "queries")[:, None]
            if out_type == arrays.FLOAT:
                scores = _kernels.narrowed(scores)
        return scores

    def _gather_scores_grad(
        self, grad: arrays.ArrayLike, ids: arrays.ArrayLike, n_threads: object, dtype: DTypeLike
    ) -> NDArray[Any]:
        if self._metric != "ip":
            raise ValueError(
                f"gather_scores_grad: expected an index of inner products (metric 'ip'), got {self._metric!r}"
            )
        keys, segment_rows = self._rows_of(ids, None)
        for segment, rows in segment_rows:
            segment.check_rows(rows[rows >= 0])
        if len(segment_rows) == 1:
            segment, rows = segment_rows[0]
            vectors = segment.vectors
        else:  # the documents that are wanted, side by side: sums are over all segments in the order of k
            rows = np.full(keys.shape, -1, np.int64)
            chosen, n = [self._no_vectors], 0
            for segment, of_segment in segment_rows:
                used = np.unique(of_segment[of_segment >= 0])
                chosen.append(segment.vectors[used])
                rows = np.where(of_segment < 0, rows, n + np.searchsorted(used, of_segment))
                n += len(used)
            vectors = np.concatenate(chosen)
        return gather.grad_plain(grad, vectors, self._storage, rows, n_threads, dtype, arrays.FLOAT)

    def _rows_of(
        self, ids: arrays.ArrayLike, n_queries: int | None
    ) -> tuple[NDArray[np.int64], list[tuple[Segment, NDArray[np.int64]]]]:
        """Keys (B,K) of documents, -1 for none; and the segments that hold any, with the rows (B,K) there, or -1."""
        letters = f"({'B' if n_queries is None else n_queries}, K)"
        names = self._contents.names
        if names is None:
            keys = given = arrays.integers(ids, "ids", letters, (n_queries, None))
        else:
            given = np.asarray(ids, object)
            if given.ndim != 2 or n_queries not in (None, len(given)):
                raise ValueError(f"ids: expected shape {letters}, got {given.shape}")
            none = np.array([doc_id is None for doc_id in given.ravel()], np.bool_).reshape(given.shape)
            keys = np.full(given.shape, -1, np.int64)
            keys[~none] = names.find(given[~none].tolist())
            keys[~none & (keys < 0)] = -2
        segment_rows, missing = [], keys != -1
        different, places = np.unique(keys, return_inverse=True)
        for segment in self._segments:
            rows = segment.find(different)[places].reshape(keys.shape)
            if (rows >= 0).any():
                missing &= rows < 0
                segment_rows.append((segment, rows))
        if missing.any():
            b, k = np.argwhere(missing)[0]
            none_is = "-1" if names is None else "None"
            raise ValueError(
                f"ids: expected ids of documents in the index, or {none_is} for none, got {given[b, k]} at ({b}, {k})"
            )
        return keys, segment_rows

    def _holds(self, doc_id: object) -> bool:
        names = self._contents.names
        if names is not None:
            keys = names.find([doc_id] if isinstance(doc_id, str) else [])
        else:
            is_id = isinstance(doc_id, (int, np.integer)) and not isinstance(doc_id, bool) and 0 <= doc_id < 2**63
            keys = np.array([doc_id] if is_id else [], np.int64)
        return any((segment.find(keys) >= 0).any() for segment in self._segments)

    # ---- documents as they are kept

    @property
    def ids_are_strings(self) -> bool:
        """Whether documents were added with ids that are strings."""
        return self._contents.names is not None

    def _joined(self, part: Callable[[Segment], NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
        """An array of all documents, copied; `empty` if there are none."""
        return np.concatenate([part(segment) for segment in self._segments]) if self._segments else empty

    @property
    def keys(self) -> NDArray[np.int64]:
        """The integers (N,) that stand for the documents inside the index, in the order of their ids: a copy."""
        return self._joined(lambda segment: segment.ids, np.empty(0, np.int64))

    @property
    def stored_vectors(self) -> NDArray[Any]:
        """The documents (N, D) as they are kept, read-only: 16-bit vectors as bits."""
        if len(self._segments) == 1 and self._segments[0].alive is None:
            return self._segments[0].vectors
        for segment in self._segments:
            segment.check_vectors()
        copied = self._joined(lambda s: s.vectors if s.alive is None else s.vectors[s.rows], self._no_vectors)
        copied.flags.writeable = False
        return copied

    def stored_columns(self) -> dict[str, NDArray[Any]]:
        """The metadata (N,) as it is kept, copied: strings as codes of their vocabulary."""

        def column(name: str, empty: NDArray[Any]) -> NDArray[Any]:
            return self._joined(lambda segment: segment.column(name)[segment.rows], empty)

        return {name: column(name, empty) for name, empty in self._contents.columns.empty(0).items()}
