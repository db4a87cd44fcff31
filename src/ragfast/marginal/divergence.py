"""Kullback-Leibler divergence of temperature softmaxes: how a retriever is trained on what a language model prefers."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast._core.arrays import ArrayLike
from ragfast._core.signatures import options_of, refuse_unknown

__all__ = ["kl_divergence"]

DIRECTIONS = ("forward", "reverse")
REDUCTIONS = ("none", "sum", "batchmean", "mean")

Direction = Literal["forward", "reverse"]
Reduction = Literal["none", "sum", "batchmean", "mean"]


class DivergenceOptions(TypedDict, total=False):
    """Options of every loss that is a divergence. :func:`row_divergences` has their defaults."""

    temperature: float
    target_temperature: float
    reduction: Reduction
    n_threads: int | None


class KLOptions(DivergenceOptions, total=False):
    """Options of the divergence itself."""

    direction: Direction


def row_divergences(
    scores: NDArray[Any],
    target_scores: NDArray[Any],
    with_grad: bool,
    with_target_grad: bool,
    /,
    *,
    temperature: float = 1.0,
    target_temperature: float = 1.0,
    direction: Direction = "forward",
    reduction: Reduction = "batchmean",
    n_threads: int | None = None,
    **unknown: Any,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None, int | None]:
    """Return the divergence of each row, not reduced, with the gradients that were asked for; and what their sum is to
    be divided by, None for reduction "none"."""
    if unknown:
        refuse_unknown(unknown, "kl_divergence")
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores: expected shape (..., K) with K of 1 or more, got {scores.shape}")
    if target_scores.shape != scores.shape:
        raise ValueError(f"target_scores: expected shape {scores.shape}, that of scores, got {target_scores.shape}")
    arrays.one_of(direction, "direction", DIRECTIONS)
    arrays.one_of(reduction, "reduction", REDUCTIONS)
    x, y = arrays.wide(scores), arrays.wide(target_scores)
    t = arrays.finite_float(temperature, "temperature", above_zero=True)
    u = arrays.finite_float(target_temperature, "target_temperature", above_zero=True)
    threads = arrays.thread_count(n_threads)
    if direction == "forward":
        loss, target_grad, grad = _kernels.kl(y, x, u, t, with_target_grad, with_grad, threads)
    else:
        loss, grad, target_grad = _kernels.kl(x, y, t, u, with_grad, with_target_grad, threads)
    if reduction == "batchmean":
        return loss, grad, target_grad, loss.size
    return loss, grad, target_grad, {"none": None, "sum": 1, "mean": scores.size}[reduction]


@overload
def kl_divergence(
    scores: ArrayLike, target_scores: ArrayLike, *, return_grad: Literal[True], **options: Unpack[KLOptions]
) -> tuple[Any, NDArray[Any]]: ...
@overload
def kl_divergence(
    scores: ArrayLike, target_scores: ArrayLike, *, return_grad: bool = False, **options: Unpack[KLOptions]
) -> Any: ...
@options_of(row_divergences)
def kl_divergence(
    scores: ArrayLike, target_scores: ArrayLike, *, return_grad: bool = False, **options: Unpack[KLOptions]
) -> Any:
    """Return the Kullback-Leibler divergence of two softmaxes over documents.

    With P = softmax(scores / temperature) and Q = softmax(target_scores / target_temperature) over the last axis,
    "forward" is KL(Q || P) = sum_z Q (log Q - log P): perplexity distillation of Atlas [1]_, distillation of
    Fusion-in-Decoder into its retriever [2]_, and REPLUG LSR as it was released. "reverse" is KL(P || Q), as in the
    paper of REPLUG [3]_.

    Parameters
    ----------
    scores : array_like of shape (..., K)
        Scores of the retriever, float32 or float64.
    target_scores : array_like of shape (..., K)
        What the language model prefers, such as log p(y | x, z); float32 or float64, taken as constant.
    return_grad : bool, default False
        Return the gradient with regard to `scores` too.
    temperature, target_temperature : float, default 1.0
    direction : {"forward", "reverse"}, default "forward"
    reduction : {"batchmean", "none", "sum", "mean"}, default "batchmean"
        "none" returns (...,), "batchmean" divides the sum by the number of rows, and "mean" by the numbers of rows and
        columns, as ``torch.nn.KLDivLoss()`` does by default, and Atlas and REPLUG with it. A mean over no rows is NaN.
    n_threads : int, optional
        See :func:`ragfast.set_num_threads`. It changes no bit.

    Returns
    -------
    loss : NumPy scalar, or ndarray of shape (...,) for reduction "none"
        float32 if both arguments are, else float64; calculated in float64.
    grad : ndarray of shape (..., K)
        Only with `return_grad`: the gradient of the loss, or of its sum for reduction "none". NaN where a reverse
        divergence is +inf.

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For shapes that differ, no column, a temperature that is not above 0, or another direction or reduction.

    Notes
    -----
    A missing document has -inf in both arguments. A document with -inf in one argument only has probability 0 there:
    the divergence is +inf if the other distribution has the document and the divergence is taken from that one;
    otherwise the document adds nothing. A row of -inf only is no distribution and gives NaN, as do NaN and +inf.

    The divergence is never negative. It is accurate relatively also near 0, where the difference of logarithms that
    defines it cancels: since P and Q both sum to 1, it is also sum_z Q (log(Q/P) - 1 + P/Q), which has no negative
    term. What is left is the rounding of scores / temperature - target_scores / target_temperature. With one
    temperature, and scores that differ little, there is none, and the relative error is below 3e-15 for any
    divergence. Otherwise it is below some 4e-16 times the largest quotient divided by the difference of log P and
    log Q.

    References
    ----------
    .. [1] Izacard et al. 2023, Atlas, section 2.2.
    .. [2] Izacard and Grave 2021, Distilling Knowledge from Reader to Retriever for Question Answering.
    .. [3] Shi et al. 2023, REPLUG, section 4.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> loss, grad = ragfast.kl_divergence(np.log([[0.5, 0.5]]), np.log([[0.75, 0.25]]), return_grad=True)
    >>> round(float(loss), 4), grad.round(4).tolist()
    (0.1308, [[-0.25, 0.25]])
    """
    given, target = arrays.floats(scores, "scores"), arrays.floats(target_scores, "target_scores")
    loss, grad, _, divisor = row_divergences(given, target, bool(return_grad), False, **options)
    result: Any = loss
    if divisor is not None:
        result = loss.sum() / divisor if divisor else np.float64(np.nan)
        if grad is not None and divisor:
            grad /= divisor
    is_single = given.dtype.num == target.dtype.num == arrays.FLOAT
    result = _kernels.narrowed(np.asarray(result))[()] if is_single else result[()]
    if grad is None:
        return result
    return result, _kernels.narrowed(grad) if is_single else grad
