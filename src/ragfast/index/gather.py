"""Scores of chosen documents, q . D[rows], and their gradient: re-ranking, and training of a query encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast._core import _kernels, arrays

__all__ = ["gather_scores", "gather_scores_grad"]


def gather_scores(
    queries: arrays.ArrayLike,
    vectors: arrays.ArrayLike,
    rows: arrays.ArrayLike,
    *,
    dtype: DTypeLike | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """The inner products of each query with documents that are chosen already: (B,K), the same bits as
    :func:`ragfast.search` gives these documents.

    They are Hugging Face's doc_scores (``torch.bmm(question_hidden_states.unsqueeze(1), retrieved_doc_embeds...)`` in
    RagModel), the scores of documents found under an older query encoder, or of candidates to be ranked anew; nothing
    of shape (B,K,D) is ever made.

    queries (B,D) and vectors (N,D) are float32 or float64; where they differ, the chosen documents are taken as
    float64. float16 and bfloat16 are read as they lie, widened exactly. rows (B,K) are integers below N, or -1 for no
    document, of which the score is -inf. dtype is float32 or float64, by default that of the input.
    n_threads: see :func:`ragfast.set_num_threads`.

    TypeError for another dtype, ValueError for another shape and for NaN or infinity in queries or in documents that
    are chosen, IndexError for rows that do not exist.

    >>> import numpy as np, ragfast
    >>> vectors = np.float32([[1, 0], [0, 2], [3, 0]])
    >>> ragfast.gather_scores(np.float32([[1, 1], [2, 0]]), vectors, [[2, 0], [1, -1]]).tolist()
    [[3.0, 1.0], [0.0, -inf]]
    """
    docs, storage = arrays.rows_as_stored(vectors, "vectors")
    asked = arrays.matrix(queries, "queries", letters="(B, D)", dim=docs.shape[1], dtypes=arrays.EITHER_FLOAT)
    chosen = _existing(rows, len(asked), len(docs))
    default = max(asked.dtype.num, arrays.DOUBLE if storage == "float64" else arrays.FLOAT)
    out_type = default if dtype is None else arrays.float_dtype(dtype)
    return scores_plain(asked, docs, storage, chosen, n_threads, out_type)


def gather_scores_grad(
    grad: arrays.ArrayLike,
    vectors: arrays.ArrayLike,
    rows: arrays.ArrayLike,
    *,
    dtype: DTypeLike | None = None,
    n_threads: int | None = None,
) -> NDArray[Any]:
    """The gradient of :func:`gather_scores` with regard to the queries: (B,D) = sum_k grad[b,k] vectors[rows[b,k]].

    grad (B,K), float32 or float64, is dL/dscores. What stands at a row of -1 counts for nothing, NaN included; where
    grad is 0 the document is not read. Sums are float64 in the order of k, the same bits for any n_threads (between
    instruction-set levels they may differ in the last place), rounded once to dtype: by default float32, or float64 if
    grad or vectors are. NaN and infinity pass through. vectors, rows, n_threads and errors are as in
    :func:`gather_scores`.

    >>> import numpy as np, ragfast
    >>> vectors = np.float32([[1, 0], [0, 2], [3, 0]])
    >>> ragfast.gather_scores_grad(np.float32([[0.5, 0.25]]), vectors, [[2, 1]]).tolist()
    [[1.5, 0.5]]
    """
    docs, storage = arrays.rows_as_stored(vectors, "vectors")
    chosen = _existing(rows, None, len(docs))
    default = arrays.DOUBLE if storage == "float64" else arrays.FLOAT
    return grad_plain(grad, docs, storage, chosen, n_threads, dtype, default)


def scores_plain(
    queries: NDArray[Any],
    vectors: NDArray[Any],
    storage: str,
    rows: NDArray[np.int64],
    n_threads: object,
    out_type: int,
    half_squares: NDArray[np.float64] | None = None,
) -> NDArray[Any]:
    """Of plain arrays: vectors as :func:`arrays.rows_as_stored` has them, rows (B,K) that exist, or -1. With
    half_squares (N,), half the squared norm of each vector, the scores are -|q - d|^2."""
    threads = arrays.thread_count(n_threads)
    asked, docs, places, squares = queries, vectors, rows, half_squares
    if storage == "float64" and queries.dtype.num == arrays.FLOAT:
        asked = _kernels.widened(queries)
    elif storage != "float64" and queries.dtype.num == arrays.DOUBLE:  # of N documents only what is asked for
        used = np.unique(rows[rows >= 0])
        docs = _kernels.widened(arrays.widen(vectors[used], storage))
        places = np.where(rows < 0, -1, np.searchsorted(used, rows))
        squares = None if squares is None else squares[used]
    try:
        return _kernels.gather_scores(asked, docs, places, threads, out_type, storage == "bfloat16", squares)
    except ValueError:
        arrays.refuse_nonfinite(queries, "queries")
        used = np.unique(rows[rows >= 0])
        finite = np.isfinite(vectors[used] if storage == "float64" else arrays.widen(vectors[used], storage))
        bad = used[~finite.all(axis=1)]
        if bad.size:
            raise ValueError(f"vectors: row {bad[0]} holds NaN or an infinity; every value must be finite") from None
        raise


def grad_plain(
    grad: arrays.ArrayLike,
    vectors: NDArray[Any],
    storage: str,
    rows: NDArray[np.int64],
    n_threads: object,
    dtype: DTypeLike | None,
    default: int,
) -> NDArray[Any]:
    """Likewise; grad as the caller gave it, default the type without a dtype where grad is not wider."""
    threads = arrays.thread_count(n_threads)
    weights, type_num = arrays.shaped_doubles(grad, "grad", f"{rows.shape}, that of the documents chosen", rows.shape)
    out_type = max(default, type_num) if dtype is None else arrays.float_dtype(dtype)
    return _kernels.gather_scores_grad(weights, vectors, rows, threads, out_type, storage == "bfloat16")


def _existing(rows: arrays.ArrayLike, n_queries: int | None, n_docs: int) -> NDArray[np.int64]:
    """rows (B,K), each below n_docs or -1."""
    chosen = arrays.integers(rows, "rows", f"({'B' if n_queries is None else n_queries}, K)", (n_queries, None))
    if chosen.size and (chosen.min() < -1 or chosen.max() >= n_docs):
        b, k = np.argwhere((chosen < -1) | (chosen >= n_docs))[0]
        raise IndexError(f"rows: expected rows of {n_docs} vectors, or -1 for none, got {chosen[b, k]} at ({b}, {k})")
    return chosen
