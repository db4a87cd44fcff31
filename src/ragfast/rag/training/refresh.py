"""The index made anew after the document encoder moved or the documents changed, and swapped in whole.

Lewis et al. 2020 (section 4.5) swap the index of a trained model for one of another year; REALM (Guu et al. 2020,
section 3.3) re-encodes all documents beside training, while training goes on with the stale index.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast._core.turns import Turns
from ragfast.index import FlatIndex, Snapshot, writing
from ragfast.index.names import Names
from ragfast.rag.models import Corpus, RAGSequence, RAGToken

__all__ = ["Refreshed", "refresh", "refresh_in_background", "topk_drift"]

_swapping = Turns("a model's documents")


@dataclass(frozen=True, slots=True, eq=False)
class Refreshed:
    """index, which the model now searches; n_docs, the documents in it; drift, the share of the probe questions' top k
    that changed (:func:`topk_drift`), or None without probes."""

    index: FlatIndex
    n_docs: int
    drift: float | None


def refresh(
    model: RAGSequence | RAGToken,
    encode: Callable[[Any], Any],
    texts: Sequence[Any],
    *,
    ids: arrays.ArrayLike | None = None,
    documents: Any = None,
    metadata: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    probes: Sequence[Any] = (),
    progress: Callable[[int, int], object] | None = None,
) -> Refreshed:
    """Encodes all documents into a new FlatIndex, then makes it the model's index.

    encode takes up to batch_size of the texts, a slice of them, and returns their embeddings (b,D), float32, float64
    (rounded to float32), float16 or bfloat16. texts are in the order of the ids: by default those of the model's index,
    where that has as many documents, else 0, 1, ..., counted anew. The dtype, metric and scan of an index, or of a
    Snapshot, are kept, and its metadata with the ids, of which none is given a second time; metadata, as in
    :meth:`FlatIndex.add`, takes its place: give it with ids where anything filters by it, such as a retriever's own
    filter. documents, if given, take the place of the model's in the same moment; give them where documents come, go or
    change.

    The model answers from the old documents all the while, and a retrieval, whichever thread it is in, sees the old
    ones or the new ones, never some of each: both are ``model.corpus``, which is replaced as one. Other models over
    the same documents follow by ``other.corpus = model.corpus``. The query encoder is left alone.

    probes are questions that are retrieved before and after, to measure the drift; a failure there is one of the
    refresh. progress is called after each batch with the number of texts done and that of all; what it raises ends the
    refresh. On any error the old documents stay. Until the swap there is room for both indexes and, N D 4 bytes, what
    encode returned.

    ValueError where encode returns another number of rows or another D than the model's documents have, NaN or
    infinity, for no texts, and where the model's index has ids of its own but another number of documents, so that ids
    must say which is which. RuntimeError where the documents were replaced, or added to, in the meantime: they are
    then newer than what this would put in their place.

    >>> import numpy as np, ragfast
    >>> from ragfast.rag.training import refresh
    >>> texts = ["sun", "rain rain", "sun rain"]
    >>> encode = lambda texts: np.float32([[text.count("sun"), text.count("rain")] for text in texts])
    >>> retriever, generator = ragfast.SimpleRetriever(2), ragfast.SimpleGenerator(4, 2, 3)
    >>> retriever.query_encoder_W = np.eye(2)
    >>> index = ragfast.FlatIndex.from_vectors(encode(texts), ids=[10, 20, 30])
    >>> tokens = {10: np.eye(2), 20: np.eye(2), 30: np.eye(2)}
    >>> rag = ragfast.RAGToken(retriever, generator, index=index, documents=tokens, k=1)
    >>> rain = np.float32([[0, 1]])
    >>> before = rag.retrieve([rain])[0].doc_ids.tolist()
    >>> done = refresh(rag, lambda texts: encode(texts)[:, ::-1], texts, probes=[rain])
    >>> before, rag.retrieve([rain])[0].doc_ids.tolist(), done.drift
    ([20], [10], 1.0)
    """
    if not isinstance(model, RAGSequence | RAGToken):
        raise TypeError(f"model: expected a RAGSequence or RAGToken, got {type(model).__name__}")
    batch_size = arrays.positive_int(batch_size, "batch_size")
    before = model.corpus
    old = before.index
    version = _version(old)
    if isinstance(texts, str | bytes):
        raise TypeError("texts: expected a sequence of documents, got a string")
    if len(texts) == 0:
        raise ValueError("texts: expected at least one, got none")
    held = old.snapshot() if isinstance(old, FlatIndex) else old if isinstance(old, Snapshot) else None
    same = held is not None and ids is None and len(held) == len(texts)
    # Before the long work: what is wrong shows now.
    new_ids = None if same else _ids(ids, held, len(texts))
    dim = held.dim if held is not None else None if old is None else int(np.shape(old)[1])
    vectors = _encoded(encode, texts, batch_size, dim, progress)
    how = {} if held is None else {"scan": held.scan, "dtype": held.dtype, "metric": held.metric}
    if held is not None and same:
        index = FlatIndex(held.dim, **how)
        index.swap(writing.with_vectors(held, vectors, metadata))
    else:
        index = FlatIndex.from_vectors(vectors, new_ids, metadata=metadata or None, **how)
    after = Corpus(index, before.documents if documents is None else documents)
    drift = topk_drift(_found(model, before, probes), _found(model, after, probes)) if len(probes) else None

    def swap() -> None:
        if model.corpus is not before or _version(old) != version:
            raise RuntimeError(
                "the model's documents were replaced or added to during the refresh; nothing was swapped"
            )
        model.corpus = after

    _swapping.take("refresh", swap)
    return Refreshed(index, len(index), drift)


def refresh_in_background(
    model: RAGSequence | RAGToken, encode: Callable[[Any], Any], texts: Sequence[Any], **options: Any
) -> Future[Refreshed]:
    """:func:`refresh` in a thread of its own, with its options, while training goes on with the old documents.

    The future's ``done()`` says whether it is over, ``result()`` waits, and raises what the refresh raised. A failure
    is logged as well, since nobody may ask. The program does not end before it; a progress that raises ends it.

    encode runs beside training: give it a copy of the encoder as it is now. Of one that is trained meanwhile, early
    documents would have other weights than late ones.

    >>> import numpy as np, ragfast
    >>> from ragfast.rag.training import refresh_in_background
    >>> retriever, generator = ragfast.SimpleRetriever(2), ragfast.SimpleGenerator(4, 2, 3)
    >>> rag = ragfast.RAGToken(retriever, generator, index=np.eye(2), documents=[np.eye(2)] * 2)
    >>> refresh_in_background(rag, np.stack, 2 * np.eye(2)).result().n_docs
    2
    """
    future: Future[Refreshed] = Future()
    future.set_running_or_notify_cancel()
    future.add_done_callback(_log_failure)

    def run() -> None:
        try:
            future.set_result(refresh(model, encode, texts, **options))
        except BaseException as error:
            future.set_exception(error)

    # No executor: one that a handler interrupts while it submits has a lock that the handler's own would wait for.
    threading.Thread(target=run, name="ragfast-refresh").start()
    return future


def topk_drift(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The share of the top k that changed, the mean over questions of 1 - |A & B| / max(|A|, |B|): 0 where all
    documents are the same, in whatever order, 1 where none is.

    before and after are B arrays of ids (K,), or (B,K); -1 or None is no document. A high drift says that the index was
    stale; ValueError for no questions, or for different numbers of them.

    >>> from ragfast.rag.training import topk_drift
    >>> topk_drift([[1, 2], [3, 4]], [[2, 1], [3, 5]])
    0.25
    """
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"after: expected as many questions as before, 1 or more, got {len(before)} and {len(after)}")
    changed = []
    for first, second in zip(before, after, strict=True):
        one, other = (set(np.asarray(ids).tolist()) - {-1, None} for ids in (first, second))
        most = max(len(one), len(other))
        changed.append(1 - len(one & other) / most if most else 0.0)
    return float(np.mean(changed))


def _encoded(
    encode: Callable[[Any], Any],
    texts: Sequence[Any],
    batch_size: int,
    dim: int | None,
    progress: Callable[[int, int], object] | None,
) -> NDArray[np.float32]:
    """The embeddings (N,D) of all texts."""
    n = len(texts)
    vectors = None if dim is None else np.empty((n, dim), np.float32)
    for first in range(0, n, batch_size):
        batch = texts[first : first + batch_size]
        rows = arrays.floats(encode(batch), "encode's embeddings")
        width = dim if dim is not None else rows.shape[-1] if rows.ndim else 0
        if rows.shape != (len(batch), width):
            reason = "" if dim is None else ", as the documents have"
            raise ValueError(f"encode's embeddings: expected shape ({len(batch)}, {width}){reason}, got {rows.shape}")
        if vectors is None:
            vectors, dim = np.empty((n, width), np.float32), width
        arrays.refuse_nonfinite(rows, "encode's embeddings")
        with np.errstate(over="ignore"):  # the index refuses infinities
            vectors[first : first + len(batch)] = rows
        if progress is not None:
            progress(first + len(batch), n)
    assert vectors is not None
    return vectors


def _version(index: Any) -> int:
    """Another after any change that can be seen."""
    if isinstance(index, FlatIndex):
        return index.version
    return 0 if index is None else len(index)


def _ids(ids: Any, held: Snapshot | None, n: int) -> NDArray[Any] | list[str] | None:
    """The ids of n documents in the new index, None for 0, 1, ...: those given, as the index has another number."""
    if ids is not None and arrays.are_strings(ids):
        names = Names().read(ids)
        if len(names) != n:
            raise ValueError(f"ids: expected {n}, one for each text, got {len(names)}")
        return names
    if ids is not None:
        return arrays.document_ids(ids, n)
    if held is not None and not np.array_equal(held.ids, np.arange(len(held))):
        raise ValueError(f"ids: the model's {len(held)} documents have ids of their own; give those of the {n} texts")
    return None


def _found(model: RAGSequence | RAGToken, corpus: Corpus, probes: Sequence[Any]) -> list[NDArray[Any]]:
    """What the model would retrieve from this corpus."""
    trial = copy.copy(model)
    trial.corpus = corpus
    return [found.doc_ids for found in trial.retrieve(probes)]


def _log_failure(future: Future[Refreshed]) -> None:
    error = future.exception()
    if error is not None:
        logging.getLogger(__name__).error("refresh failed, the model keeps its documents: %r", error)
