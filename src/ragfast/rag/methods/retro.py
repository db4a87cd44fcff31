"""RETRO: the neighbours of chunks of text (Borgeaud et al. 2022)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast._core.arrays import ArrayLike
from ragfast.index import FlatIndex, Hits

__all__ = ["retro_neighbours"]


def retro_neighbours(
    chunks: ArrayLike,
    documents: ArrayLike,
    k: int,
    *,
    queries: ArrayLike | None = None,
    query_documents: ArrayLike | None = None,
    metric: str = "l2",
    n_threads: int | None = None,
) -> Hits:
    """The k nearest chunks of each chunk, leaving out those of its own document, as RETRO precomputes them for training
    (Borgeaud et al. 2022, section 2): exact where the paper's search is approximate.

    chunks (N,D) float32, float16 or bfloat16, the embedding of each; documents (N,) integers, which document it is of.
    queries (B,D) are by default the chunks, and query_documents (B,) theirs; for queries that are given without
    query_documents nothing is left out. metric is "l2", the paper's, or another of :class:`ragfast.FlatIndex`.

    Returns :class:`ragfast.Hits` of scores (B,k) float64, -|q - x|^2 for "l2", and ids (B,k), rows of chunks, by (score
    descending, id ascending); -inf and -1 where other documents have fewer than k chunks. RETRO-pytorch fetches some
    more than k, drops the first as the chunk itself and then what is of the same document; that runs short in long
    documents, and a duplicate may come before the chunk. Here neither can happen.

    For more than one call keep the index: ``FlatIndex.from_vectors(chunks, metric="l2", metadata={"document":
    documents})`` and ``search(queries, k, group_by="document", exclude_groups=query_documents)``, of which errors are.

    >>> import numpy as np, ragfast.rag.methods
    >>> chunks = np.float32([[0, 0], [0, 1], [0, 1], [3, 3]])
    >>> scores, ids = ragfast.rag.methods.retro_neighbours(chunks, [7, 7, 8, 9], 2)
    >>> ids.tolist(), scores.tolist()
    ([[2, 3], [2, 3], [1, 0], [1, 2]], [[-1.0, -18.0], [0.0, -13.0], [0.0, -1.0], [-13.0, -13.0]])
    """
    rows = arrays.matrix(chunks, "chunks")
    own: NDArray[np.int64] = arrays.integers(
        documents, "documents", f"({len(rows)},), one for each chunk", (len(rows),)
    )
    index = FlatIndex.from_vectors(rows, metric=metric, metadata={"document": own})
    if queries is None:
        if query_documents is not None:
            raise ValueError("query_documents: given without queries, whose documents they would be")
        asked, excluded = rows, own
    else:
        asked, excluded = arrays.matrix(queries, "queries", letters="(B, D)", dim=rows.shape[1]), None
        if query_documents is not None:
            expected = f"({len(asked)},), one for each query"
            excluded = arrays.integers(query_documents, "query_documents", expected, (len(asked),))
    group = None if excluded is None else "document"
    return index.search(asked, k, group_by=group, exclude_groups=excluded, dtype=np.float64, n_threads=n_threads)
