"""RETRO: the neighbours of chunks of text (Borgeaud et al. 2022)."""

from __future__ import annotations

from ragfast import arrays
from ragfast.methods.nearest import Metric, NearestIndex, Neighbours

__all__ = ["retro_neighbours"]


def retro_neighbours(
    chunks: arrays.ArrayLike,
    documents: arrays.ArrayLike,
    k: int,
    *,
    queries: arrays.ArrayLike | None = None,
    query_documents: arrays.ArrayLike | None = None,
    metric: Metric = "l2",
    n_threads: int | None = None,
) -> Neighbours:
    """The k nearest chunks of each chunk, leaving out those of its own document, as RETRO precomputes them for training
    (Borgeaud et al. 2022, section 2): exact where the paper's search is approximate.

    chunks (N,D) float32, float16 or bfloat16, the embedding of each; documents (N,) integers, which document it is of.
    queries (B,D) are by default the chunks, and query_documents (B,) theirs; for queries that are given without
    query_documents nothing is left out. metric is "l2", the paper's, or "inner_product".

    Returns scores (B,k) float64, -|q - x|^2 or the inner product, and ids (B,k), rows of chunks, by (score descending,
    id ascending): see :class:`ragfast.methods.NearestIndex`, which to keep for more than one call. -inf and -1 where
    other documents have fewer than k chunks. RETRO-pytorch fetches some more than k, drops the first as the chunk
    itself and then what is of the same document; that runs short in long documents, and a duplicate may come before the
    chunk. Here neither can happen.

    Errors are those of :class:`ragfast.methods.NearestIndex`.

    >>> import numpy as np, ragfast.methods
    >>> chunks = np.float32([[0, 0], [0, 1], [0, 1], [3, 3]])
    >>> scores, ids = ragfast.methods.retro_neighbours(chunks, [7, 7, 8, 9], 2)
    >>> ids.tolist(), scores.tolist()
    ([[2, 3], [2, 3], [1, 0], [1, 2]], [[-1.0, -18.0], [0.0, -13.0], [0.0, -1.0], [-13.0, -13.0]])
    """
    index = NearestIndex(chunks, documents, metric=metric)
    if queries is None:
        if query_documents is not None:
            raise ValueError("query_documents: given without queries, whose documents they would be")
        return index.search(chunks, k, groups=documents, n_threads=n_threads)
    return index.search(queries, k, groups=query_documents, n_threads=n_threads)
