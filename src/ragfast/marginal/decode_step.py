"""One step of RAG-Token decoding: Lewis et al. 2020, section 2.5."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays

__all__ = ["marginalize_step"]


@overload
def marginalize_step(
    logits: arrays.ArrayLike, doc_logprobs: arrays.ArrayLike, *, top_b: None = None, n_threads: int | None = None
) -> NDArray[Any]: ...
@overload
def marginalize_step(
    logits: arrays.ArrayLike, doc_logprobs: arrays.ArrayLike, *, top_b: int, n_threads: int | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]: ...
def marginalize_step(
    logits: arrays.ArrayLike,
    doc_logprobs: arrays.ArrayLike,
    *,
    top_b: int | None = None,
    n_threads: int | None = None,
) -> Any:
    """log p'(v | x, y_<t) = log sum_z p(z|x) p(v | x, z, y_<t): the transition probability with which a standard beam
    decoder decodes RAG-Token (Lewis et al. 2020, section 2.5). It is the mixture of the K distributions, not the
    softmax of their mixed logits.

    logits (...,K,V): what the generator says of the next token given each document, one leading index a beam; float64,
    float32, float16 or bfloat16. -inf is a token that is banned. doc_logprobs (...,K) = log p(z|x), float64 or float32,
    such as ``log_softmax(doc_scores)``, or a posterior so far; -inf is a document that is missing, and then nothing in
    its logits counts. A document all of whose logits are -inf predicts nothing, and its share of the probability is
    lost.

    Returns (...,V), float64 for float64 logits and else float32; or, with top_b, the top_b greatest of each beam and
    their tokens, (...,top_b) and int64, by (value descending, token ascending), without storing the others. Where a
    document that is not missing has a NaN or +inf, all V of the beam are NaN, and the first tokens are its best.

    The absolute error is below 1e-15 times the largest of 1 and the magnitudes of logits and doc_logprobs, all within
    float64; float32 results are then within 4 units in the last place, also near 0. n_threads changes no bit.

    TypeError for another dtype; ValueError for shapes that do not go together, no document, no token, or top_b not from
    1 to V.

    >>> import numpy as np, ragfast
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])  # K = 2 documents, V = 3 tokens
    >>> np.exp(ragfast.marginalize_step(logits, np.log([0.75, 0.25]))).round(4).tolist()
    [0.4, 0.3875, 0.2125]
    >>> values, tokens = ragfast.marginalize_step(logits, np.log([0.75, 0.25]), top_b=2)
    >>> values.round(4).tolist(), tokens.tolist()
    ([-0.9163, -0.948], [0, 1])
    """
    rows, is_bfloat16 = arrays.logits(logits)
    docs = arrays.doubles(doc_logprobs, "doc_logprobs")
    if docs.ndim == 0:
        raise ValueError("doc_logprobs: expected shape (..., K), got ()")
    if rows.shape[:-1] != docs.shape or rows.ndim == 0:
        expected = "".join(f"{n}, " for n in docs.shape)
        raise ValueError(
            f"logits: expected shape ({expected}V), as doc_logprobs has shape {docs.shape}, got {rows.shape}"
        )
    if 0 in rows.shape[-2:]:
        raise ValueError(f"logits: expected K and V of 1 or more in shape (..., K, V), got {rows.shape}")
    n_best = 0 if top_b is None else arrays.positive_int(top_b, "top_b")
    if n_best > rows.shape[-1]:
        raise ValueError(f"top_b: expected at most V, {rows.shape[-1]}, got {n_best}")
    return _kernels.marginalize_step(rows, docs, is_bfloat16, n_best, arrays.thread_count(n_threads))
