"""An index directory made from blocks of documents as they come, in memory for a few of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays, interruptible
from ragfast._core.turns import Helper
from ragfast.index import persistence, storage, writing
from ragfast.index.quantizer import PANEL, Quantizer
from ragfast.index.readers import Block
from ragfast.index.segment import MAX_DOCS, Segment, Settings, checked_dim, new_buffers, new_segment_name
from ragfast.index.snapshot import Snapshot

BATCH_BYTES = 2**25
"""Of vectors that are checked, encoded and written together."""
WRITTEN_BYTES = 2**23
"""Bytes that are written together: an interrupt waits for no more."""
SAMPLE_DOCS = 65_536
SAMPLE_BYTES = 2**28
"""The first documents, from which the quantizer of the codes is chosen: so many, or as many as have so many bytes."""
PROGRESS_DELAY = 2.0
"""Seconds before a progress bar shows."""


def build(
    path: str | os.PathLike[str],
    blocks: Any,
    dim: int | None,
    dtype: Any,
    metric: str,
    scan: str,
    n_docs: int | None,
    progress: bool,
) -> None:
    """:meth:`ragfast.FlatIndex.build`, but for opening what was built; scan and metric are ones that there are."""
    n_docs = getattr(blocks, "n_docs", None) if n_docs is None else arrays.positive_int(n_docs, "n_docs")
    reader = _BatchReader(_block_iterable(blocks), dim, scan, arrays.storage_type(dtype), metric)
    segment = new_segment_name()
    batch: Segment | None = None
    quantizer: Quantizer | None = None
    lowest, highest, n = 2**63 - 1, -1, 0
    changing = storage.change(path)
    try:
        with changing as transaction, _progress_bar(progress, n_docs) as bar:
            helper, stopped = Helper(), list[bool]()
            with ExitStack() as streams:
                out: dict[str, storage.ArrayWriter] = {}
                try:
                    for batch in reader.batches():
                        if n == 0:
                            quantizer = _choose_quantizer(batch, reader.settings, n_docs)
                        if quantizer is not None:
                            batch = batch.with_codes(0, quantizer, scan == "int8")
                        named_arrays = persistence.segment_arrays(batch)
                        if n == 0:
                            for name, array in named_arrays.items():
                                stream = transaction.stream(
                                    f"{segment}/{name}", array.dtype, array.shape[1:], rows_checked=name == "vectors"
                                )
                                out[name] = streams.enter_context(stream)
                        else:
                            helper.result()  # the batch before is written while the next one is made
                        lowest, highest, n = min(lowest, batch.lowest), max(highest, batch.highest), n + batch.n
                        helper.call(partial(_append, out, named_arrays, stopped))
                        if bar is not None:
                            bar.update(batch.n)
                    if n:
                        helper.result()
                except BaseException:
                    stopped.append(True)
                    raise
                finally:
                    helper.end()  # before the files that it writes are closed
            reader.refuse_repeated_ids()
            for name, array in ({} if quantizer is None else persistence.quantizer_arrays(quantizer)).items():
                transaction.put(f"{segment}/{name}", array)
            for name, array in persistence.strings_arrays(reader.contents).items():
                transaction.put(name, array)
            now = reader.now(version=1)
            if batch is not None:
                batch = replace(batch, buffers=replace(batch.buffers, name=segment), n=n, first_id=0)
                now = now.replaced([replace(batch, lowest=lowest, highest=highest)], now._contents)
            names = now._contents.names
            commit = persistence.new_commit(persistence.new_writer())
            transaction.commit(persistence.index_meta(now, commit, None if names is None else names.next_key))
    finally:
        changing.gen.close()


def _append(
    out: Mapping[str, storage.ArrayWriter], named_arrays: Mapping[str, NDArray[Any]], stopped: list[bool]
) -> None:
    """Writes arrays behind what there is, unless the build has ended meanwhile by an error or an interrupt."""
    for name, array in named_arrays.items():
        step = WRITTEN_BYTES * len(array) // max(1, array.nbytes) + 1
        for first in range(0, len(array), step):
            if stopped:
                return
            out[name].append(array[first : first + step])


def _block_iterable(blocks: Any) -> Iterable[Any]:
    """The blocks, of which there may be one."""
    if isinstance(blocks, Block) or getattr(blocks, "ndim", None) == 2:
        return [blocks]
    if isinstance(blocks, (str, bytes, os.PathLike)) or not hasattr(blocks, "__iter__"):
        hint = "; ragfast.index.readers reads files" if isinstance(blocks, (str, os.PathLike)) else ""
        raise TypeError(f"blocks: expected an iterable of Blocks or arrays (n, D), got {blocks!r:.80}{hint}")
    return blocks  # type: ignore[no-any-return]  # the caller's: anything that iterates


def _progress_bar(progress: bool, n_docs: int | None) -> AbstractContextManager[Any]:
    """A progress bar, or None without tqdm."""
    if progress:
        try:
            from tqdm import tqdm
        except ImportError:
            return nullcontext()
        return tqdm(  # type: ignore[no-any-return]  # mypy does not follow extras
            total=n_docs,
            desc="Building the index",
            unit=" documents",
            unit_scale=True,
            delay=PROGRESS_DELAY,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # seconds: a log keeps every line
        )
    return nullcontext()


def _choose_quantizer(batch: Segment, settings: Settings, n_docs: int | None) -> Quantizer | None:
    """The quantizer for n_docs documents of which these are the first; None where codes do not serve."""
    if not settings.wants_codes(batch.n):
        return None
    n, panels = max(batch.n, n_docs or 0), batch.n // PANEL

    def rows_at(numbers: NDArray[np.intp]) -> NDArray[np.float32]:
        """Of all documents; those that are not there yet are as the first ones, whose panels are spread over all."""
        if n > batch.n and panels:
            numbers = numbers // PANEL * panels // (-(-n // PANEL)) * PANEL + numbers % PANEL
        return arrays.widen(batch.vectors[numbers], batch.storage)

    return Quantizer.choose(n, settings.dim, rows_at, with_prefix=settings.metric != "l2")


class _BatchReader:
    """The documents of blocks, checked as :meth:`FlatIndex.add` checks them and put together in batches."""

    def __init__(self, blocks: Iterable[Any], dim: int | None, scan: str, dtype: str, metric: str) -> None:
        self._blocks = iter(blocks)
        dim = self._first_dim(dtype) if dim is None else dim
        self.settings = Settings(checked_dim(dim, scan), scan, dtype, metric)
        self.contents = writing.NOTHING
        self._ids: list[NDArray[np.int64]] = []

    def _first_dim(self, dtype: str) -> int:
        for block in self._blocks:
            self._blocks = chain([block], self._blocks)
            vectors = block.vectors if isinstance(block, Block) else block
            with _position_in_errors(0, 0):
                return int(arrays.stored_rows(_with_len(vectors)[:1], "vectors", None, dtype).shape[1])
        raise ValueError("blocks: expected documents, got none; for an index without documents pass dim")

    def now(self, version: int) -> Snapshot:
        """What there is so far, but for the segment."""
        return Snapshot(self.settings, version, (), self.contents)

    def batches(self) -> Iterator[Segment]:
        """Each has whole panels, but for the last. Their memory is their own: a caller may use that of a block
        again for the next one."""
        size = _whole_panels(min(SAMPLE_DOCS, SAMPLE_BYTES // self.settings.row_bytes))
        batch: Segment | None = None
        for number, given in enumerate(self._blocks):
            block = given if isinstance(given, Block) else Block(given)
            first = self.contents.next_id
            with _position_in_errors(number, first):
                n = len(_with_len(block.vectors))
                writing.prepared(block.vectors[:0], self.now(0))  # says what is wrong before ids are read
                keys, columns = self._read(block, n) if n else (None, {})
            done = 0
            while done < n:
                if batch is None:
                    empty = self.contents.columns.empty(size)
                    buffers = new_buffers(size, self.settings, empty, with_ids=keys is not None)
                    batch = Segment(buffers, self.settings.dtype)
                end = min(n, done + len(batch.buffers) - batch.n)
                with _position_in_errors(number, first + done):
                    measured = batch.placed(writing.prepared(block.vectors[done:end], self.now(0)), 0)
                rows = measured._replace(
                    ids=None if keys is None else keys[done:end],
                    columns={name: values[done:end] for name, values in columns.items()},
                )
                batch = batch.extended(rows, first + done)
                done = end
                if batch.n == len(batch.buffers):
                    yield batch
                    batch, size = None, _whole_panels(BATCH_BYTES // self.settings.row_bytes)
        if batch is not None:
            yield batch

    def _read(self, block: Block, n: int) -> tuple[NDArray[np.int64] | None, Mapping[str, NDArray[Any]]]:
        """The ids, integers or keys, and columns of n documents, which the contents have from now on."""
        if self.contents.next_id + n >= MAX_DOCS:
            raise ValueError("vectors: an index holds fewer than 2**31 documents")
        given = writing.read_documents(self.now(0), block.ids, block.metadata, n)
        assert given is not None
        keys = given.keys
        if given.strings is not None:
            assert given.contents.names is not None
            keys = given.contents.names.append(given.strings)
        elif keys is not None:
            self._ids.append(keys)
        columns = given.encoded()
        self.contents = given.contents
        return keys, columns

    def refuse_repeated_ids(self) -> None:
        """Integers; strings were checked as they came, and so was each block by itself."""
        if self._ids:
            ids = np.concatenate(self._ids)
            self._ids.clear()
            ids = interruptible.sort(ids)
            again = ids[1:][ids[1:] == ids[:-1]]
            if again.size:
                raise ValueError(f"ids: expected distinct ids, got {again[0]} in several blocks")


def _whole_panels(n: int) -> int:
    """n as a multiple of what codes lie in, and not none."""
    return max(PANEL, n // PANEL * PANEL)


def _with_len(vectors: Any) -> Any:
    """vectors, or what says why they cannot be cut into parts."""
    try:
        len(vectors)
    except TypeError:
        return arrays.stored_rows(vectors, "vectors", None, "float32")
    return vectors


@contextmanager
def _position_in_errors(block: int, first: int) -> Iterator[None]:
    """Errors about a part of a block, which begins with document `first`, tell the block, and rows of all documents."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        words = re.sub(r"\brow (\d+)", lambda found: f"row {int(found[1]) + first}", str(error), count=1)
        raise kind(f"block {block}: {words}") from error
