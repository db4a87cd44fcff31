"""Divergence; scores of chosen documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragfast._core import arrays
from ragfast.index import FlatIndex, Snapshot, gather
from ragfast.marginal import divergence
from ragfast.marginal.divergence import kl_divergence as kl_of_arrays
from ragfast.torch.tensors import array_of, double_of, once_only, tensor_of, wide_of


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
        weights = array_of(grad)[..., None]
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
    own, target = double_of(scores, "scores"), double_of(target_scores, "target_scores")
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


class _GatherScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, vectors: Any, rows: NDArray[np.int64], n_threads: int | None) -> Tensor:
        # The gradient is of the documents that were scored, whatever became of the index meanwhile.
        ctx.vectors = vectors = vectors.snapshot() if isinstance(vectors, FlatIndex) else vectors
        ctx.rows, ctx.n_threads = rows, n_threads
        ctx.dtype = np.float64 if queries.dtype == torch.float64 else np.float32
        if isinstance(vectors, Snapshot):
            return torch.from_numpy(vectors.gather_scores(queries.detach(), rows, n_threads=n_threads))
        if isinstance(vectors, Tensor) and not vectors.is_inference():  # so that a change of them is noticed
            ctx.vectors = None
            ctx.save_for_backward(vectors)
        return torch.from_numpy(gather.gather_scores(queries.detach(), vectors, rows, n_threads=n_threads))

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        keywords = {"dtype": ctx.dtype, "n_threads": ctx.n_threads}
        if isinstance(ctx.vectors, Snapshot):
            found = ctx.vectors.gather_scores_grad(grad, ctx.rows, **keywords)
        else:
            vectors = ctx.saved_tensors[0] if ctx.vectors is None else ctx.vectors
            found = gather.gather_scores_grad(grad, vectors, ctx.rows, **keywords)
        return torch.from_numpy(found), None, None, None


def gather_scores(queries: Tensor, vectors: Any, rows: Any, *, n_threads: int | None = None) -> Tensor:
    """:func:`ragfast.gather_scores` with a gradient to queries (B,D), to train a query encoder by; the documents are
    constant. vectors (N,D) may be a tensor or array and rows (B,K) their rows; or vectors a
    :class:`ragfast.FlatIndex`, or a snapshot of one, and rows the ids that a search found.

    >>> import torch, ragfast, ragfast.torch
    >>> index = ragfast.FlatIndex.from_vectors(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    >>> queries = torch.tensor([[1.0, 1.0]], requires_grad=True)
    >>> scores = ragfast.torch.gather_scores(queries, index, index.search(queries.detach(), 2).ids)
    >>> scores.sum().backward()
    >>> scores.tolist(), queries.grad.tolist()
    ([[3.0, 2.0]], [[3.0, 2.0]])
    """
    chosen = np.array(
        array_of(tensor_of(rows, "rows")) if isinstance(rows, Tensor) else rows
    )  # a copy, kept for the gradient
    found: Tensor = _GatherScores.apply(wide_of(queries, "queries"), vectors, chosen, n_threads)
    return found
