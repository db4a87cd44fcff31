"""Log p of targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragfast._core import _kernels, arrays
from ragfast.marginal import loss as nll
from ragfast.torch.tensors import array_of, floating_of, logits_of, once_only, tensor_of


class _TargetLogprobs(torch.autograd.Function):
    """(n,V) logits -> (n,) float64, and sums over v or None; tokens -1 where a row is not read."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: NDArray[np.int64], return_sums: bool, n_threads: int
    ) -> tuple[Tensor, Tensor | None]:
        wanted = ctx.needs_input_grad[0]
        values, is_bfloat16 = logits_of(logits)
        logprobs, ctx.lse, sums = _kernels.target_logprobs(values, tokens, is_bfloat16, wanted, return_sums, n_threads)
        ctx.tokens, ctx.n_threads = tokens, n_threads
        ctx.set_materialize_grads(False)
        if wanted:
            ctx.save_for_backward(logits)
        return torch.from_numpy(logprobs), None if sums is None else torch.from_numpy(sums)

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor | None, sums_grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if grad is None and sums_grad is None:
            return None, None, None, None
        (logits,) = ctx.saved_tensors
        values, is_bfloat16 = logits_of(logits)
        scored = ctx.tokens >= 0
        scale = np.zeros(len(scored)) if grad is None else np.where(scored, -array_of(grad), 0.0)
        shift = None if sums_grad is None else np.where(scored, -array_of(sums_grad), 0.0)
        out = arrays.empty_logits(logits)
        _kernels.target_grad(logits_of(out)[0], values, ctx.tokens, ctx.lse, scale, shift, is_bfloat16, ctx.n_threads)
        return out, None, None, None


def target_logprobs(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = None,
    return_sums: bool = False,
    n_threads: int | None = None,
) -> Any:
    """:func:`ragfast.target_logprobs` with gradients to logits (...,T,V), also through the sums.

    >>> import torch, ragfast.torch
    >>> logits = torch.zeros(2, 10, requires_grad=True)
    >>> ragfast.torch.target_logprobs(logits, torch.tensor([3, 0])).sum().backward()
    >>> [round(x, 4) for x in logits.grad[0].tolist()]
    [-0.1, -0.1, -0.1, 0.9, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1]
    """
    shape = tuple(floating_of(logits, "logits").shape)
    if not shape or shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., T, V) with V of 1 or more, got {shape}")
    tokens = nll.targets_of_rows(tensor_of(targets, "targets"), shape, ignore_index)
    rows = logits.contiguous().view(len(tokens), shape[-1])
    logprobs, sums = _TargetLogprobs.apply(rows, tokens, return_sums, arrays.thread_count(n_threads))
    found = [x.view(shape[:-1]) for x in (logprobs, sums) if x is not None]
    if logits.dtype != torch.float64:
        found = [x.float() for x in found]
    return tuple(found) if return_sums else found[0]
