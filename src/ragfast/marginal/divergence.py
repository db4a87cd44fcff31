"""Kullback-Leibler divergence of temperature softmaxes: how a retriever is trained on what a language model prefers."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays

__all__ = ["kl_divergence"]

DIRECTIONS = ("forward", "reverse")
REDUCTIONS = ("none", "sum", "batchmean", "mean")

Direction = Literal["forward", "reverse"]
Reduction = Literal["none", "sum", "batchmean", "mean"]


@overload
def kl_divergence(
    scores: arrays.ArrayLike,
    target_scores: arrays.ArrayLike,
    *,
    temperature: float = 1.0,
    target_temperature: float = 1.0,
    direction: Direction = "forward",
    reduction: Reduction = "batchmean",
    return_grad: Literal[True],
    n_threads: int | None = None,
) -> tuple[Any, NDArray[Any]]: ...
@overload
def kl_divergence(
    scores: arrays.ArrayLike,
    target_scores: arrays.ArrayLike,
    *,
    temperature: float = 1.0,
    target_temperature: float = 1.0,
    direction: Direction = "forward",
    reduction: Reduction = "batchmean",
    return_grad: bool = False,
    n_threads: int | None = None,
) -> Any: ...
def kl_divergence(
    scores: arrays.ArrayLike,
    target_scores: arrays.ArrayLike,
    *,
    temperature: float = 1.0,
    target_temperature: float = 1.0,
    direction: Direction = "forward",
    reduction: Reduction = "batchmean",
    return_grad: bool = False,
    n_threads: int | None = None,
) -> Any:
    """KL divergence between P = softmax(scores / temperature) and Q = softmax(target_scores / target_temperature) over
    the last axis, the K documents.

    "forward" is KL(Q || P) = sum_z Q (log Q - log P): perplexity distillation of Atlas (Izacard et al. 2022, section
    2.2), distillation of Fusion-in-Decoder into its retriever (Izacard and Grave 2021), and REPLUG-LSR as it was
    released. "reverse" is KL(P || Q), as the paper of REPLUG has it (Shi et al. 2023, section 4). scores are the
    retriever's; target_scores what the language model prefers, such as log p(y | x, z).

    scores and target_scores (...,K), float64 or float32. A document that is missing has -inf in both. -inf in one alone
    is a document of probability 0: it makes the divergence +inf where the other distribution has it and the divergence
    is taken from that one, and adds nothing otherwise. A row of nothing but -inf is no distribution: NaN, as from a NaN
    or +inf.

    reduction: "none" (...,), or over all rows the "sum", "batchmean" (divided by the number of rows) or "mean" (by rows
    and columns: what ``torch.nn.KLDivLoss()`` does by default, Atlas and REPLUG with it); NaN for means of no rows.
    With return_grad also its gradient with regard to scores (...,K) (of the sum, for "none"); target_scores are taken
    as constant. Where a reverse divergence is +inf its gradient is NaN. Both are float32 if both arguments are, else
    float64, and calculated in float64. n_threads: see :func:`ragfast.set_num_threads`; it changes no bit.

    Never negative, and relatively accurate also near 0, where the difference of logarithms that defines it cancels: as
    P and Q both sum to 1, it is also sum_z Q (log(Q/P) - 1 + P/Q), of which no term is negative. What is left is the
    rounding of scores / temperature - target_scores / target_temperature: with one temperature, and scores that differ
    little, it is nothing, and the relative error is below 3e-15 whatever the divergence; otherwise it is below some
    4e-16 times the largest quotient by what log P and log Q differ by.

    TypeError for another dtype, ValueError for shapes that differ, no column, a temperature that is not above 0, or
    another direction or reduction.

    >>> import numpy as np, ragfast
    >>> loss, grad = ragfast.kl_divergence(np.log([[0.5, 0.5]]), np.log([[0.75, 0.25]]), return_grad=True)
    >>> round(float(loss), 4), grad.round(4).tolist()
    (0.1308, [[-0.25, 0.25]])
    """
    given, target = arrays.floats(scores, "scores"), arrays.floats(target_scores, "target_scores")
    if given.ndim == 0 or given.shape[-1] == 0:
        raise ValueError(f"scores: expected shape (..., K) with K of 1 or more, got {given.shape}")
    if target.shape != given.shape:
        raise ValueError(f"target_scores: expected shape {given.shape}, that of scores, got {target.shape}")
    arrays.one_of(direction, "direction", DIRECTIONS)
    arrays.one_of(reduction, "reduction", REDUCTIONS)
    own = arrays.wide(given), arrays.finite_float(temperature, "temperature", above_zero=True)
    other = arrays.wide(target), arrays.finite_float(target_temperature, "target_temperature", above_zero=True)
    threads = arrays.thread_count(n_threads)
    if direction == "forward":
        (p, p_temperature), (q, q_temperature) = other, own
        loss, _, gradient = _kernels.kl(p, q, p_temperature, q_temperature, False, bool(return_grad), threads)
    else:
        (p, p_temperature), (q, q_temperature) = own, other
        loss, gradient, _ = _kernels.kl(p, q, p_temperature, q_temperature, bool(return_grad), False, threads)
    result: Any = loss
    if reduction != "none":
        parts = {"sum": 1, "batchmean": loss.size, "mean": given.size}[reduction]
        result = np.float64(loss.sum() / parts if parts else np.nan)
        if gradient is not None and parts:
            gradient /= parts
    single = given.dtype.num == target.dtype.num == arrays.FLOAT
    result = _kernels.narrowed(np.asarray(result))[()] if single else result[()]
    if gradient is None:
        return result
    return result, _kernels.narrowed(gradient) if single else gradient
