"""Log-sum-exp, log-softmax and marginalization over documents: log p(y|x) of Lewis et al. 2020, section 2.1."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast._core.arrays import ArrayLike

__all__ = ["log_softmax", "logsumexp", "marginalize_sequence", "marginalize_token", "segment_logsumexp"]

Logprobs = TypeVar("Logprobs", covariant=True)


def logsumexp(x: ArrayLike, axis: int = -1) -> Any:
    """Return log sum exp x along an axis, without overflow and without losing small results.

    Parameters
    ----------
    x : array_like
        float32 or float64; float16 and bfloat16 are widened to float32 exactly.
    axis : int, default -1

    Returns
    -------
    NumPy scalar or ndarray of the shape of `x` without the axis
        Of the dtype of `x`, float32 to 2 units in the last place and float64 to 4, unless the maximum and the logarithm
        of the sum cancel. -inf if there is nothing but -inf, or nothing; +inf or NaN if there is one.

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For no axis, or one out of range.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> ragfast.logsumexp(np.log([[1.0, 2.0, 5.0], [0.25, 0.5, 0.25]])).round(4).tolist()
    [2.0794, 0.0]
    """
    if axis != -1 or not _kernels.is_plain_floats(x):
        x = arrays.plain(np.moveaxis(*_along(x, axis), -1))
    return _kernels.logsumexp(x, 0)


def log_softmax(x: ArrayLike, axis: int = -1) -> NDArray[Any]:
    """Return x - logsumexp(x) along an axis, accurate also where the result is nearly 0.

    Parameters and errors are those of :func:`logsumexp`. The result is a new array of the shape of `x`. It is -inf, not
    NaN, if there is nothing but -inf, as when no document qualifies.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> ragfast.log_softmax(np.log([1.0, 2.0, 5.0])).round(4).tolist()
    [-2.0794, -1.3863, -0.47]
    """
    if axis == -1 and _kernels.is_plain_floats(x):
        return _kernels.log_softmax(x, 0)
    a, position = _along(x, axis)
    return np.moveaxis(_kernels.log_softmax(arrays.plain(np.moveaxis(a, position, -1)), 0), -1, position)


class Marginalization(Protocol[Logprobs]):
    """The type of the two marginals."""

    __name__: str

    @overload
    def __call__(
        self, doc_logprobs: ArrayLike, token_logprobs: ArrayLike, *, return_posterior: Literal[False] = False
    ) -> Logprobs: ...
    @overload
    def __call__(
        self, doc_logprobs: ArrayLike, token_logprobs: ArrayLike, *, return_posterior: Literal[True]
    ) -> tuple[Logprobs, NDArray[Any]]: ...
    @overload
    def __call__(self, doc_logprobs: ArrayLike, token_logprobs: ArrayLike, *, return_posterior: bool) -> Any: ...


def _scalar_or_array(function: Callable[..., Any]) -> Marginalization[Any]:
    return cast(Marginalization[Any], function)


def _array(function: Callable[..., Any]) -> Marginalization[NDArray[Any]]:
    return cast(Marginalization[NDArray[Any]], function)


@_scalar_or_array
def marginalize_sequence(doc_logprobs: ArrayLike, token_logprobs: ArrayLike, *, return_posterior: bool = False) -> Any:
    """Return the log-likelihood of answers under RAG-Sequence, from log-probabilities.

    log p(y|x) = log sum_z p(z|x) prod_t p(y_t | x, z, y_<t).

    Parameters
    ----------
    doc_logprobs : array_like of shape (..., K)
        log p(z|x). A missing document has -inf; it has no part for any finite log-probabilities of its tokens.
    token_logprobs : array_like of shape (..., K, T)
        log p(y_t | x, z, y_<t). T may be 0.
    return_posterior : bool, default False
        Return the posterior too.

    Returns
    -------
    logprobs : NumPy scalar or ndarray of shape (...,)
        float32 or float64 as the arguments, float64 if they differ. Sums over tokens are float64.
    posterior : ndarray of shape (..., K)
        Only with `return_posterior`: p(z|x,y). It sums to 1, or is 0 if no document is possible and log p(y|x) is -inf.

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For shapes that do not go together, or for K of 0.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> logprob, posterior = ragfast.marginalize_sequence(
    ...     np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.25, 1.0]]), return_posterior=True
    ... )
    >>> round(float(np.exp(logprob)), 4), posterior.round(4).tolist()
    (0.25, [0.5, 0.5])
    """
    marginals = _kernels.marginalize(doc_logprobs, token_logprobs, False, return_posterior, 0) or _marginalize(
        doc_logprobs, token_logprobs, False, return_posterior
    )
    return marginals if return_posterior else marginals[0]


@_array
def marginalize_token(doc_logprobs: ArrayLike, token_logprobs: ArrayLike, *, return_posterior: bool = False) -> Any:
    """Return the log-likelihood of each token under RAG-Token, from log-probabilities.

    log p(y_t | x, y_<t) = log sum_z p(z|x) p(y_t | x, z, y_<t) for each t; their sum is log p(y|x). Parameters and
    errors are those of :func:`marginalize_sequence`.

    Returns
    -------
    logprobs : ndarray of shape (..., T)
    posterior : ndarray of shape (..., K, T)
        Only with `return_posterior`: p(z_t | x, y_t, y_<t), which sums to 1 over K.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> ragfast.marginalize_token(np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.25, 1.0]])).round(4).tolist()
    [-0.9808, -0.2877]
    """
    marginals = _kernels.marginalize(doc_logprobs, token_logprobs, True, return_posterior, 0) or _marginalize(
        doc_logprobs, token_logprobs, True, return_posterior
    )
    return marginals if return_posterior else marginals[0]


@overload
def segment_logsumexp(x: ArrayLike, keys: ArrayLike, n_keys: int, *, n_threads: int | None = None) -> NDArray[Any]: ...
@overload
def segment_logsumexp(
    x: ArrayLike, keys: ArrayLike, n_keys: None = None, *, n_threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[Any]]: ...
def segment_logsumexp(x: ArrayLike, keys: ArrayLike, n_keys: int | None = None, *, n_threads: int | None = None) -> Any:
    """Return the log-sum-exp of each segment: of the elements that have the same key.

    log sum_{i: keys_i = key} exp x_i adds up the votes of neighbours for tokens [1]_, or the documents' shares in equal
    hypotheses [2]_.

    Parameters
    ----------
    x : array_like of shape (..., n)
        float64 or float32.
    keys : array_like of int of shape (..., n)
        With `n_keys` below `n_keys`; elements of negative keys are skipped, such as the -1 of a search that found no
        document. Without it any integers, for `x` of shape (n,).
    n_keys : int, optional
        The number of segments.
    n_threads : int, optional
        See :func:`ragfast.set_num_threads`. It changes no bit.

    Returns
    -------
    keys : ndarray of int64
        Only without `n_keys`: the distinct keys, ascending.
    logsumexps : ndarray of shape (..., n_keys), or one for each distinct key
        Of the dtype of `x`, as accurate as :func:`logsumexp`; -inf for a key that no element has.

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For shapes that differ, a key of `n_keys` or more, or `n_keys` below 1.

    References
    ----------
    .. [1] Khandelwal et al. 2020, Generalization through Memorization (kNN-LM), section 2.
    .. [2] Lewis et al. 2020, section 2.5, Fast Decoding.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> votes, tokens = np.log([0.5, 0.2, 0.3]), [7, 2, 7]  # of three neighbours for the next token
    >>> keys, logsumexps = ragfast.segment_logsumexp(votes, tokens)
    >>> keys.tolist(), np.exp(logsumexps).round(4).tolist()
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
    segments, threads = given.astype(np.int64), arrays.thread_count(n_threads)
    distinct = None
    if n_keys is None:
        if a.ndim != 1:
            raise ValueError(f"n_keys: expected a number for x of shape {a.shape}; without it x is (n,)")
        distinct, inverse = np.unique(segments, return_inverse=True)
        segments, n_segments = inverse.astype(np.int64), len(distinct)
    else:
        n_segments = arrays.positive_int(n_keys, "n_keys")
        if segments.size and segments.max() >= n_segments:
            raise ValueError(f"keys: expected less than n_keys, {n_segments}, got {segments.max()}")
    exact = _kernels.segment_logsumexp(arrays.wide(a), np.ascontiguousarray(segments), n_segments, threads)
    found = _kernels.narrowed(exact) if a.dtype.num == arrays.FLOAT else exact
    return found if distinct is None else (distinct, found)


def documents_error(shape: tuple[int, ...], name: str, last: str, docs_shape: tuple[int, ...]) -> ValueError:
    """Return the error of an array that does not have one row, of the length called last, for each of doc_logprobs."""
    if not docs_shape:
        return ValueError("doc_logprobs: expected shape (..., K), got ()")
    expected = "".join(f"{n}, " for n in docs_shape)
    return ValueError(f"{name}: expected shape ({expected}{last}), as doc_logprobs has shape {docs_shape}, got {shape}")


def _marginalize(
    doc_logprobs: ArrayLike, token_logprobs: ArrayLike, by_token: bool, with_posterior: bool
) -> tuple[Any, NDArray[Any] | None]:
    docs, tokens = arrays.floats(doc_logprobs, "doc_logprobs"), arrays.floats(token_logprobs, "token_logprobs")
    if docs.ndim == 0 or tokens.shape[:-1] != docs.shape:
        raise documents_error(tokens.shape, "token_logprobs", "T", docs.shape)
    if docs.shape[-1] == 0:
        raise ValueError(f"doc_logprobs: expected at least one document (K of 1 or more), got shape {docs.shape}")
    if docs.dtype.num != tokens.dtype.num:
        docs, tokens = docs.astype(np.float64), tokens.astype(np.float64)
    found = _kernels.marginalize(arrays.plain(docs), arrays.plain(tokens), by_token, with_posterior, 0)
    return cast(tuple[Any, NDArray[Any] | None], found)  # None is for what is not plain


def _along(x: ArrayLike, axis: int) -> tuple[NDArray[Any], int]:
    """Return x as an array, and which of its axes is meant."""
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
