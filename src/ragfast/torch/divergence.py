"""Differentiable Kullback-Leibler divergence."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from ragfast._core.signatures import options_of
from ragfast.marginal.divergence import KLOptions, row_divergences
from ragfast.torch.tensors import as_array, as_double, once_only


class _KL(torch.autograd.Function):
    """Float64 scores and target_scores (...,K) -> (...,), and what their sum is divided by."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target_scores: Tensor, options: Any) -> tuple[Tensor, int | None]:
        with_grad, with_target_grad, _ = ctx.needs_input_grad
        loss, *ctx.grads, divisor = row_divergences(
            as_array(scores), as_array(target_scores), with_grad, with_target_grad, **options
        )
        return torch.from_numpy(loss), divisor

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, None]:
        weights = as_array(grad)[..., None]
        of_scores, of_target = (None if x is None else torch.from_numpy(x * weights) for x in ctx.grads)
        return of_scores, of_target, None


@options_of(row_divergences)
def kl_divergence(scores: Tensor, target_scores: Tensor, **options: Unpack[KLOptions]) -> Tensor:
    """Return :func:`ragfast.kl_divergence` with gradients to the scores and to the target scores.

    Pass ``target_scores.detach()`` for the usual distillation into the retriever.

    Examples
    --------
    >>> import torch, ragfast.torch
    >>> scores = torch.log(torch.tensor([[0.5, 0.5]])).requires_grad_()
    >>> loss = ragfast.torch.kl_divergence(scores, torch.log(torch.tensor([[0.75, 0.25]])))
    >>> loss.backward()
    >>> round(loss.item(), 4), scores.grad.tolist()
    (0.1308, [[-0.25, 0.25]])
    """
    own, target = as_double(scores, "scores"), as_double(target_scores, "target_scores")
    loss: Tensor
    loss, divisor = _KL.apply(own, target, options)
    if divisor is not None:
        loss = loss.sum() / divisor if divisor else loss.sum() * torch.nan
    return loss if torch.float64 in (scores.dtype, target_scores.dtype) else loss.float()
