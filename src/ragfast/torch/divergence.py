"""Kullback-Leibler divergence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ragfast._core import arrays
from ragfast.marginal import divergence
from ragfast.marginal.divergence import kl_divergence as kl_of_arrays
from ragfast.torch.tensors import as_array, as_double, once_only


class _KL(torch.autograd.Function):
    """Float64 scores and target_scores (...,K) -> (...,). The gradient of the second is that of the first in the same
    divergence seen from the other side."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, target_scores: Tensor, keywords: dict[str, Any], swapped: dict[str, Any]
    ) -> Tensor:
        own, target = scores.detach(), target_scores.detach()
        of_scores, of_target, _, _ = ctx.needs_input_grad
        loss, of_own = kl_of_arrays(own, target, return_grad=True, **keywords) if of_scores else (None, None)
        other, of_other = kl_of_arrays(target, own, return_grad=True, **swapped) if of_target else (None, None)
        ctx.grads = of_own, of_other
        loss = other if loss is None else loss
        return torch.from_numpy(np.asarray(kl_of_arrays(own, target, **keywords) if loss is None else loss))

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights = as_array(grad)[..., None]
        of_scores, of_target = (None if x is None else torch.from_numpy(x * weights) for x in ctx.grads)
        return of_scores, of_target, None, None


def kl_divergence(
    scores: Tensor,
    target_scores: Tensor,
    *,
    temperature: float = 1.0,
    target_temperature: float = 1.0,
    direction: divergence.Direction = "forward",
    reduction: divergence.Reduction = "batchmean",
    n_threads: int | None = None,
) -> Tensor:
    """:func:`ragfast.kl_divergence` with gradients to scores and to target_scores, if they want them: pass
    target_scores.detach() for the usual distillation into the retriever.

    >>> import torch, ragfast.torch
    >>> scores = torch.log(torch.tensor([[0.5, 0.5]])).requires_grad_()
    >>> loss = ragfast.torch.kl_divergence(scores, torch.log(torch.tensor([[0.75, 0.25]])))
    >>> loss.backward()
    >>> round(loss.item(), 4), scores.grad.tolist()
    (0.1308, [[-0.25, 0.25]])
    """
    arrays.one_of(direction, "direction", divergence.DIRECTIONS)
    arrays.one_of(reduction, "reduction", divergence.REDUCTIONS)
    own, target = as_double(scores, "scores"), as_double(target_scores, "target_scores")
    keywords: dict[str, Any] = {
        "temperature": temperature,
        "target_temperature": target_temperature,
        "direction": direction,
    }
    swapped: dict[str, Any] = {
        "temperature": target_temperature,
        "target_temperature": temperature,
        "direction": "reverse" if direction == "forward" else "forward",
    }
    both = {"reduction": "none", "n_threads": n_threads}
    loss: Tensor = _KL.apply(own, target, keywords | both, swapped | both)
    if reduction != "none":
        n = {"sum": 1, "batchmean": loss.numel(), "mean": own.numel()}[reduction]
        loss = loss.sum() / n if n else loss.sum() * torch.nan
    return loss if torch.float64 in (scores.dtype, target_scores.dtype) else loss.float()
