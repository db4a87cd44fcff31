"""One step of RAG-Token decoding: Lewis et al. 2020, section 2.5."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast._core.arrays import ArrayLike
from ragfast.marginal.lse import documents_error

__all__ = ["marginalize_step"]


@overload
def marginalize_step(
    logits: ArrayLike, doc_logprobs: ArrayLike, *, n_best: None = None, n_threads: int | None = None
) -> NDArray[Any]: ...
@overload
def marginalize_step(
    logits: ArrayLike, doc_logprobs: ArrayLike, *, n_best: int, n_threads: int | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]: ...
def marginalize_step(
    logits: ArrayLike, doc_logprobs: ArrayLike, *, n_best: int | None = None, n_threads: int | None = None
) -> Any:
    """Return the log-probabilities of the next token under RAG-Token, marginalized over documents.

    log p'(v | x, y_<t) = log sum_z p(z|x) p(v | x, z, y_<t) is the transition probability with which a standard beam
    decoder decodes RAG-Token [1]_. It is the mixture of the K distributions, not the softmax of their mixed logits.

    Parameters
    ----------
    logits : array_like of shape (..., K, V)
        The generator's scores of the next token given each document, with one leading index a beam; float64, float32,
        float16 or bfloat16. A banned token has -inf.
    doc_logprobs : array_like of shape (..., K)
        log p(z|x), float64 or float32, such as ``log_softmax(doc_scores)``, or a posterior so far. A missing document
        has -inf, and its logits do not count.
    n_best : int, optional
        Return only the `n_best` greatest log-probabilities of each beam and their tokens, without storing the others.
    n_threads : int, optional
        See :func:`ragfast.set_num_threads`. It changes no bit.

    Returns
    -------
    logprobs : ndarray of shape (..., V), or (..., n_best)
        float64 for float64 logits, else float32.
    tokens : ndarray of int64 of shape (..., n_best)
        Only with `n_best`. The order is by (log-probability descending, token ascending).

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For shapes that do not go together, no document, no token, or `n_best` not from 1 to V.

    Notes
    -----
    A document all of whose logits are -inf predicts nothing, and its share of the probability is lost. If a document
    that is not missing has a NaN or +inf, all V log-probabilities of the beam are NaN, and the first tokens are its
    best.

    The absolute error is below 1e-15 times the largest of 1 and the magnitudes of logits and doc_logprobs, all within
    float64; float32 results are then within 4 units in the last place, also near 0.

    References
    ----------
    .. [1] Lewis et al. 2020, Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks, section 2.5.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])  # K = 2 documents, V = 3 tokens
    >>> np.exp(ragfast.marginalize_step(logits, np.log([0.75, 0.25]))).round(4).tolist()
    [0.4, 0.3875, 0.2125]
    >>> logprobs, tokens = ragfast.marginalize_step(logits, np.log([0.75, 0.25]), n_best=2)
    >>> logprobs.round(4).tolist(), tokens.tolist()
    ([-0.9163, -0.948], [0, 1])
    """
    rows, is_bfloat16 = arrays.logits(logits)
    docs = arrays.doubles(doc_logprobs, "doc_logprobs")
    if docs.ndim == 0 or rows.shape[:-1] != docs.shape:
        raise documents_error(rows.shape, "logits", "V", docs.shape)
    if 0 in rows.shape[-2:]:
        raise ValueError(f"logits: expected K and V of 1 or more in shape (..., K, V), got {rows.shape}")
    n = 0 if n_best is None else arrays.positive_int(n_best, "n_best")
    if n > rows.shape[-1]:
        raise ValueError(f"n_best: expected at most V, {rows.shape[-1]}, got {n}")
    return _kernels.marginalize_step(rows, docs, is_bfloat16, n, arrays.thread_count(n_threads))
