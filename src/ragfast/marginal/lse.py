"""Log-sum-exp, log-softmax and marginalization over documents: log p(y|x) of Lewis et al. 2020, section 2.1."""

from __future__ import annotations

import operator
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays

__all__ = ["log_softmax", "logsumexp", "marginalize_sequence", "marginalize_token", "segment_logsumexp"]


def logsumexp(x: arrays.ArrayLike, axis: int = -1) -> Any:
    """log sum exp x along an axis, without overflow and without losing small results: float32 to 2 units in the last
    place, float64 to 4, save where the maximum and the logarithm of the sum cancel.

    x is float32, float64, or float16 or bfloat16, which are widened exactly to float32; the result has that type and
    the shape of x without the axis, a NumPy scalar where none is left. -inf for nothing but -inf, or for nothing;
    +inf where there is one; NaN where there is one.

    TypeError for another dtype, ValueError for no axis or one out of range.

    >>> import numpy as np, ragfast
    >>> ragfast.logsumexp(np.log([[1.0, 2.0, 5.0], [0.25, 0.5, 0.25]])).round(4).tolist()
    [2.0794, 0.0]
    """
    if axis != -1 or not _kernels.is_plain_floats(x):
        x = arrays.plain(np.moveaxis(*_along(x, axis), -1))
    return _kernels.logsumexp(x, 0)


def log_softmax(x: arrays.ArrayLike, axis: int = -1) -> NDArray[Any]:
    """x - logsumexp(x) along an axis, also accurate where it is nearly 0; dtypes and errors as :func:`logsumexp`.

    The shape of x, in a new array. Where all is -inf (no document qualifies) the result is -inf, not NaN.

    >>> import numpy as np, ragfast
    >>> ragfast.log_softmax(np.log([1.0, 2.0, 5.0])).round(4).tolist()
    [-2.0794, -1.3863, -0.47]
    """
    if axis == -1 and _kernels.is_plain_floats(x):
        return _kernels.log_softmax(x, 0)
    a, position = _along(x, axis)
    return np.moveaxis(_kernels.log_softmax(arrays.plain(np.moveaxis(a, position, -1)), 0), -1, position)


@overload
def marginalize_sequence(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: Literal[True]
) -> tuple[Any, NDArray[Any]]: ...
@overload
def marginalize_sequence(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: bool = False
) -> Any: ...
def marginalize_sequence(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: bool = False
) -> Any:
    """RAG-Sequence: log p(y|x) = log sum_z p(z|x) prod_t p(y_t | x, z, y_<t).

    doc_logprobs (...,K) = log p(z|x), with -inf for a document that is missing, which then has no part whatever finite
    values stand for its tokens. token_logprobs (...,K,T) = log p(y_t | x, z, y_<t); T may be 0. float32 or float64;
    where they differ, both are taken as float64; sums over tokens are float64. Returns (...,) and, with
    return_posterior, p(z|x,y) (...,K), which sums to 1, or is all 0 where no document is possible and log p(y|x) -inf.

    TypeError for another dtype, ValueError for shapes that do not go together or K of 0.

    >>> import numpy as np, ragfast
    >>> log_prob, posterior = ragfast.marginalize_sequence(
    ...     np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.25, 1.0]]), return_posterior=True
    ... )
    >>> round(float(np.exp(log_prob)), 4), posterior.round(4).tolist()
    (0.25, [0.5, 0.5])
    """
    log_probs, posterior = _kernels.marginalize(
        doc_logprobs, token_logprobs, False, return_posterior, 0
    ) or _marginalize(doc_logprobs, token_logprobs, False, return_posterior)
    return (log_probs, posterior) if return_posterior else log_probs


@overload
def marginalize_token(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: Literal[False] = False
) -> NDArray[Any]: ...
@overload
def marginalize_token(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: Literal[True]
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def marginalize_token(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: bool
) -> Any: ...
def marginalize_token(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: bool = False
) -> Any:
    """RAG-Token: log p(y_t | x, y_<t) = log sum_z p(z|x) p(y_t | x, z, y_<t) for each t; their sum is log p(y|x).

    Arguments and errors as :func:`marginalize_sequence`. Returns (...,T) and, with return_posterior,
    p(z_t | x, y_t, y_<t) (...,K,T), which sums to 1 over K.

    >>> import numpy as np, ragfast
    >>> ragfast.marginalize_token(np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.25, 1.0]])).round(4).tolist()
    [-0.9808, -0.2877]
    """
    log_probs, posterior = _kernels.marginalize(
        doc_logprobs, token_logprobs, True, return_posterior, 0
    ) or _marginalize(doc_logprobs, token_logprobs, True, return_posterior)
    return (log_probs, posterior) if return_posterior else log_probs


@overload
def segment_logsumexp(
    x: arrays.ArrayLike, keys: arrays.ArrayLike, n_keys: int, *, n_threads: int | None = None
) -> NDArray[Any]: ...
@overload
def segment_logsumexp(
    x: arrays.ArrayLike, keys: arrays.ArrayLike, n_keys: None = None, *, n_threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[Any]]: ...
def segment_logsumexp(
    x: arrays.ArrayLike, keys: arrays.ArrayLike, n_keys: int | None = None, *, n_threads: int | None = None
) -> Any:
    """For each key the logsumexp of the elements that have it: log sum_{i: keys_i = key} exp x_i. It adds up the votes
    of neighbours for tokens (kNN-LM: Khandelwal et al. 2020, section 2), or the documents' shares in equal hypotheses
    (Lewis et al. 2020, section 2.5, Fast Decoding).

    x (...,n) float64 or float32; keys of the same shape, integers. With n_keys, keys are 0 to n_keys - 1 and the result
    is (...,n_keys), -inf for a key that no element has; elements of negative keys are left out, such as the -1 of a
    search that found no document. Without it x is (n,) and keys are any integers: returns the distinct keys, int64,
    ascending, and their values. The values have the type of x, and the accuracy of :func:`logsumexp`.
    n_threads: see :func:`ragfast.set_num_threads`; it changes no bit.

    TypeError for another dtype, ValueError for shapes that differ, a key of n_keys or more, or n_keys below 1.

    >>> import numpy as np, ragfast
    >>> votes, tokens = np.log([0.5, 0.2, 0.3]), [7, 2, 7]  # of three neighbours for the next token
    >>> keys, values = ragfast.segment_logsumexp(votes, tokens)
    >>> keys.tolist(), np.exp(values).round(4).tolist()
    ([2, 7], [0.2, 0.8])
    >>> np.exp(ragfast.segment_logsumexp(votes, tokens, 8)).round(4).tolist()
    [0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.8]
    """
    a = arrays.floats(x, "x")
    if a.ndim == 0:
        raise ValueError("x: expected at least one axis, got shape ()")
    given = arrays.as_array(keys, "keys")
    if given.shape != a.shape:
        raise ValueError(f"keys: expected shape {a.shape}, that of x, got {given.shape}")
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"keys: expected integers, got {given.dtype}")
    if given.size and given.max() >= 2**63:
        raise ValueError(f"keys: expected less than 2**63, got {given.max()}")
    chosen, threads = given.astype(np.int64), arrays.thread_count(n_threads)
    if n_keys is None:
        if a.ndim != 1:
            raise ValueError(f"n_keys: expected a number for x of shape {a.shape}; without it x is (n,)")
        distinct, places = np.unique(chosen, return_inverse=True)
        return distinct, _keyed(a, places.astype(np.int64), len(distinct), threads)
    most = arrays.positive_int(n_keys, "n_keys")
    if chosen.size and chosen.max() >= most:
        raise ValueError(f"keys: expected less than n_keys, {most}, got {chosen.max()}")
    return _keyed(a, chosen, most, threads)


def _keyed(a: NDArray[Any], keys: NDArray[np.int64], n_keys: int, threads: int) -> NDArray[Any]:
    values = _kernels.segment_logsumexp(arrays.wide(a), np.ascontiguousarray(keys), n_keys, threads)
    return _kernels.narrowed(values) if a.dtype.num == arrays.FLOAT else values


def _marginalize(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, by_token: bool, with_posterior: bool
) -> tuple[Any, NDArray[Any] | None]:
    docs, tokens = arrays.floats(doc_logprobs, "doc_logprobs"), arrays.floats(token_logprobs, "token_logprobs")
    if docs.ndim == 0:
        raise ValueError("doc_logprobs: expected shape (..., K), got ()")
    if tokens.shape[:-1] != docs.shape or tokens.ndim == 0:
        expected = "".join(f"{n}, " for n in docs.shape)
        raise ValueError(
            f"token_logprobs: expected shape ({expected}T), as doc_logprobs has shape {docs.shape}, got {tokens.shape}"
        )
    if docs.shape[-1] == 0:
        raise ValueError(f"doc_logprobs: expected at least one document (K of 1 or more), got shape {docs.shape}")
    if docs.dtype.num != tokens.dtype.num:
        docs, tokens = docs.astype(np.float64), tokens.astype(np.float64)
    found = _kernels.marginalize(arrays.plain(docs), arrays.plain(tokens), by_token, with_posterior, 0)
    return cast(tuple[Any, NDArray[Any] | None], found)  # None is for what is not plain


def _along(x: arrays.ArrayLike, axis: int) -> tuple[NDArray[Any], int]:
    """x as an array, and which of its axes is meant."""
    a = arrays.floats(x, "x")
    try:
        position = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}") from None
    if a.ndim == 0:
        raise ValueError("x: expected at least one axis, got shape ()")
    if not -a.ndim <= position < a.ndim:
        raise ValueError(f"axis: expected {-a.ndim} to {a.ndim - 1} for shape {a.shape}, got {position}")
    return a, position
