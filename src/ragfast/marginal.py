"""Log-sum-exp, log-softmax and marginalization over documents: log p(y|x) of Lewis et al. 2020, section 2.1."""

from __future__ import annotations

import operator
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from ragfast import _kernels, arrays

__all__ = ["keyed_logsumexp", "log_softmax", "logsumexp", "marginalize_sequence", "marginalize_token"]

FLOATS = (arrays.FLOAT, arrays.DOUBLE)


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
        x = np.moveaxis(*_along(x, axis), -1)
    return _kernels.logsumexp(_plain(x), 0)


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
    return np.moveaxis(_kernels.log_softmax(_plain(np.moveaxis(a, position, -1)), 0), -1, position)


@overload
def marginalize_sequence(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: Literal[False] = False
) -> Any: ...
@overload
def marginalize_sequence(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, *, return_posterior: Literal[True]
) -> tuple[Any, NDArray[Any]]: ...
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
def keyed_logsumexp(x: arrays.ArrayLike, keys: arrays.ArrayLike, n_keys: int) -> NDArray[Any]: ...
@overload
def keyed_logsumexp(
    x: arrays.ArrayLike, keys: arrays.ArrayLike, n_keys: None = None
) -> tuple[NDArray[np.int64], NDArray[Any]]: ...
def keyed_logsumexp(x: arrays.ArrayLike, keys: arrays.ArrayLike, n_keys: int | None = None) -> Any:
    """For each key the logsumexp of the elements that have it: log sum_{i: keys_i = key} exp x_i. It adds up the votes
    of neighbours for tokens (kNN-LM: Khandelwal et al. 2020, section 2), or the documents' shares in equal hypotheses
    (Lewis et al. 2020, section 2.5, Fast Decoding).

    x (...,n) float64 or float32; keys of the same shape, integers. With n_keys, keys are 0 to n_keys - 1 and the result
    is (...,n_keys), -inf for a key that no element has; elements of negative keys are left out, such as the -1 of a
    search that found no document. Without it x is (n,) and keys are any integers: returns the distinct keys, int64,
    ascending, and their values. The values have the type of x, and the accuracy of :func:`logsumexp`.

    TypeError for another dtype, ValueError for shapes that differ, a key of n_keys or more, or n_keys below 1.

    >>> import numpy as np, ragfast
    >>> votes, tokens = np.log([0.5, 0.2, 0.3]), [7, 2, 7]  # of three neighbours for the next token
    >>> keys, values = ragfast.keyed_logsumexp(votes, tokens)
    >>> keys.tolist(), np.exp(values).round(4).tolist()
    ([2, 7], [0.2, 0.8])
    >>> np.exp(ragfast.keyed_logsumexp(votes, tokens, 8)).round(4).tolist()
    [0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.8]
    """
    a = _floats(x, "x")
    if a.ndim == 0:
        raise ValueError("x: expected at least one axis, got shape ()")
    given = arrays.as_array(keys, "keys")
    if given.shape != a.shape:
        raise ValueError(f"keys: expected shape {a.shape}, that of x, got {given.shape}")
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"keys: expected integers, got {given.dtype}")
    if given.size and given.max() >= 2**63:
        raise ValueError(f"keys: expected less than 2**63, got {given.max()}")
    chosen = given.astype(np.int64)
    if n_keys is None:
        if a.ndim != 1:
            raise ValueError(f"n_keys: expected a number for x of shape {a.shape}; without it x is (n,)")
        distinct, places = np.unique(chosen, return_inverse=True)
        return distinct, _keyed(a, places.astype(np.int64), len(distinct))
    most = arrays.positive_int(n_keys, "n_keys")
    if chosen.size and chosen.max() >= most:
        raise ValueError(f"keys: expected less than n_keys, {most}, got {chosen.max()}")
    return _keyed(a, chosen, most)


def _keyed(a: NDArray[Any], keys: NDArray[np.int64], n_keys: int) -> NDArray[Any]:
    plain, places = _plain(a), np.ascontiguousarray(keys)
    if plain.dtype.num == arrays.FLOAT:
        return _kernels.narrowed(_kernels.keyed_logsumexp(_kernels.widened(plain), places, n_keys, 0))
    return _kernels.keyed_logsumexp(plain, places, n_keys, 0)


def _marginalize(
    doc_logprobs: arrays.ArrayLike, token_logprobs: arrays.ArrayLike, by_token: bool, with_posterior: bool
) -> tuple[Any, NDArray[Any] | None]:
    docs, tokens = _floats(doc_logprobs, "doc_logprobs"), _floats(token_logprobs, "token_logprobs")
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
    found = _kernels.marginalize(_plain(docs), _plain(tokens), by_token, with_posterior, 0)
    return cast(tuple[Any, NDArray[Any] | None], found)  # None is for what is not plain


def _floats(x: arrays.ArrayLike, name: str) -> NDArray[Any]:
    """x as an array of float32 or float64, not necessarily plain."""
    if _kernels.is_plain_floats(x):
        plain: NDArray[Any] = x
        return plain
    a = arrays.as_array(x, name)
    if a.dtype.num not in FLOATS:
        raise TypeError(f"{name}: expected float32 or float64 (or float16, bfloat16), got {a.dtype}")
    return a


def _along(x: arrays.ArrayLike, axis: int) -> tuple[NDArray[Any], int]:
    """x as an array, and which of its axes is meant."""
    a = _floats(x, "x")
    try:
        position = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}") from None
    if a.ndim == 0:
        raise ValueError("x: expected at least one axis, got shape ()")
    if not -a.ndim <= position < a.ndim:
        raise ValueError(f"axis: expected {-a.ndim} to {a.ndim - 1} for shape {a.shape}, got {position}")
    return a, position


def _plain(a: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, aligned and in native byte order: a itself if it is."""
    return a if _kernels.is_plain_floats(a) else np.require(a, a.dtype.newbyteorder("="), ["C", "A"])
