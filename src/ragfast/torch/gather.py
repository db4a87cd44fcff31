"""Scores of chosen documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragfast.index import FlatIndex, Snapshot, gather
from ragfast.torch.tensors import as_array, cpu_tensor, once_only, single_or_double


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
        as_array(cpu_tensor(rows, "rows")) if isinstance(rows, Tensor) else rows
    )  # a copy, kept for the gradient
    found: Tensor = _GatherScores.apply(single_or_double(queries, "queries"), vectors, chosen, n_threads)
    return found
