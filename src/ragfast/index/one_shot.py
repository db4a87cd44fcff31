"""Exact retrieval from plain arrays, without an index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast._core import _kernels, arrays
from ragfast.index.snapshot import Hits, Options, search_docs

__all__ = ["search"]


def search_plain(
    queries: NDArray[Any],
    vectors: NDArray[Any],
    ids: NDArray[np.int64] | None,
    options: Options,
    names: tuple[str, str] = ("queries", "vectors"),
) -> Hits:
    """Plain arrays of one type; names are what errors call queries and vectors."""
    try:
        return search_docs(queries, (_kernels.Docs(vectors, None, ids),), options, names[0])
    except ValueError:
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
    docs = arrays.matrix(vectors, "vectors", dtypes=arrays.EITHER_FLOAT)
    asked = arrays.matrix(queries, "queries", letters="(B, D)", dim=docs.shape[1], dtypes=arrays.EITHER_FLOAT)
    if docs.dtype != asked.dtype:
        docs, asked = (_kernels.widened(a) if a.dtype.num == arrays.FLOAT else a for a in (docs, asked))
    if len(asked) == 0:  # what is refused does not depend on B
        arrays.refuse_nonfinite(docs, "vectors")
    doc_ids = None if ids is None else arrays.document_ids(ids, len(docs))
    out_type = docs.dtype.num if dtype is None else arrays.float_dtype(dtype)
    return search_plain(asked, docs, doc_ids, (k, n_threads, temperature, out_type))
