"""The losses of RAG-Sequence and RAG-Token, from logits and from log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragfast._core import _kernels, arrays
from ragfast.marginal import loss as nll
from ragfast.torch.tensors import array_of, double_of, floating_of, logits_of, once_only, tensor_of


@dataclass(frozen=True)
class _Loss:
    """What the losses are calculated with, apart from tensors."""

    tokens: NDArray[np.int64]  # (B,T), -1 where not scored
    by_token: bool
    as_hf: bool
    skip_first: bool
    temperature: float
    label_smoothing: float
    n_threads: int
    with_posterior: bool
    inplace: bool

    def run(self, scores: Tensor, doc_scores: Tensor, **outputs: Any) -> Any:
        values, is_bfloat16 = logits_of(scores) if scores.ndim == 4 else (array_of(scores), False)
        given = {"weights": None, "lse": None, "logits_grad": None, "lse_known": False}
        wanted = {"with_posterior": False, "with_docs_grad": False, "with_tokens_grad": False}
        return _kernels.rag_nll(
            values,
            array_of(doc_scores),
            self.tokens,
            bfloat16=is_bfloat16,
            by_token=self.by_token,
            as_hf=self.as_hf,
            skip_first=self.skip_first,
            temperature=self.temperature,
            label_smoothing=self.label_smoothing,
            n_threads=self.n_threads,
            **(given | wanted | outputs),
        )


class _NLL(torch.autograd.Function):
    """(B,K,T,V) logits or (B,K,T) float64 token_logprobs, (B,K) float64 doc_scores -> (B,) float64, posterior.

    The gradients of doc_scores and token_logprobs are small, and linear in the one that comes in: they are calculated
    at once. For that of the logits the LSE of each row is kept; the backward pass then reads them once and writes once.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, doc_scores: Tensor, loss: _Loss) -> tuple[Tensor, Tensor | None]:
        of_scores, of_docs, _ = ctx.needs_input_grad
        of_logits = of_scores and scores.ndim == 4
        lse = np.empty(scores.shape[:3]) if of_logits else None
        nll, posterior, ctx.docs_grad, ctx.tokens_grad = loss.run(
            scores,
            doc_scores,
            lse=lse,
            with_posterior=loss.with_posterior,
            with_docs_grad=of_docs,
            with_tokens_grad=of_scores and not of_logits,
        )
        ctx.loss, ctx.lse = loss, lse
        if of_logits:
            ctx.save_for_backward(scores, doc_scores)
        if posterior is None:
            return torch.from_numpy(nll), None
        weights = torch.from_numpy(posterior)
        ctx.mark_non_differentiable(weights)
        return torch.from_numpy(nll), weights

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, None]:
        weights = array_of(grad)
        of_docs = of_scores = None
        if ctx.docs_grad is not None:
            of_docs = torch.from_numpy(ctx.docs_grad * weights[:, None])
        if ctx.tokens_grad is not None:
            of_scores = torch.from_numpy(ctx.tokens_grad * weights[:, None, None])
        if ctx.lse is not None:
            logits, doc_scores = ctx.saved_tensors
            of_scores = logits.detach() if ctx.loss.inplace else arrays.empty_logits(logits)
            ctx.loss.run(
                logits, doc_scores, weights=weights, lse=ctx.lse, lse_known=True, logits_grad=logits_of(of_scores)[0]
            )
            if ctx.loss.inplace:  # whoever saved the logits for a backward pass of their own is told
                torch.autograd.graph.increment_version(logits)
        return of_scores, of_docs, None


def _loss(
    scores: Tensor,
    doc_scores: Tensor,
    tokens: NDArray[np.int64],
    skip_first: bool,
    null_score: Any,
    reduction: nll.Reduction,
    return_posterior: bool,
    **options: Any,
) -> Any:
    """The loss of (B,K,T,V) logits or (B,K,T) token_logprobs, which are known to be such."""
    name, wide = ("logits" if scores.ndim == 4 else "token_logprobs"), scores.dtype == torch.float64
    docs, null = double_of(doc_scores, "doc_scores"), null_score
    if isinstance(null_score, Tensor):
        null = double_of(null_score, "null_score").detach()
    both = nll.doc_scores_of(docs.detach(), null, tuple(scores.shape), name)  # which says what is wrong with them
    if isinstance(null_score, Tensor):
        docs = torch.cat([docs, null_score.double().expand(len(docs)).unsqueeze(1)], 1)
    elif null_score is not None:
        docs = torch.cat([docs, torch.from_numpy(both[:, -1:])], 1)
    divisor = nll.divisor_of(reduction, tokens, skip_first)
    loss = _Loss(tokens, skip_first=skip_first, with_posterior=return_posterior, **options)
    docs = docs.contiguous()
    if docs.is_inference() and not torch.is_inference_mode_enabled():  # which autograd cannot save
        docs = docs.clone()
    found, posterior = _NLL.apply(scores if scores.ndim == 4 else scores.double(), docs, loss)
    if reduction != "none":
        found = found.sum() / divisor
    if not wide:
        found = found.float()
    if not return_posterior:
        return found
    return found, posterior if wide else posterior.float()


def _scalars(
    by_token: bool, temperature: float, label_smoothing: float, compat: nll.Compat, n_threads: int | None
) -> dict[str, Any]:
    return {
        "by_token": by_token,
        "as_hf": nll.is_hf(compat) and not by_token,  # whose RAG-Token is the paper's
        "temperature": arrays.finite_float(temperature, "temperature", above_zero=True),
        "label_smoothing": nll.smoothing_of(label_smoothing),
        "n_threads": arrays.thread_count(n_threads),
    }


def _of_logits(
    by_token: bool,
    logits: Tensor,
    doc_scores: Tensor,
    targets: Tensor,
    ignore_index: int | None,
    bos_token_id: int | None,
    scalars: dict[str, Any],
    null_score: Any,
    reduction: nll.Reduction,
    return_posterior: bool,
    inplace: bool,
) -> Any:
    shape = tuple(floating_of(logits, "logits").shape)
    if len(shape) != 4 or shape[1] == 0 or shape[3] == 0:
        raise ValueError(f"logits: expected shape (B, K, T, V) with K and V of 1 or more, got {shape}")
    if inplace and logits.is_leaf and logits.requires_grad:
        raise ValueError(
            "inplace: the logits are a leaf that requires a gradient, which would then be its own gradient; pass what "
            "a model has calculated"
        )
    tokens = nll.targets_of_answers(tensor_of(targets, "targets"), shape, ignore_index)
    skip_first = nll.skips_first(targets, bos_token_id, scalars["as_hf"])
    return _loss(
        logits.contiguous(),
        doc_scores,
        tokens,
        skip_first,
        null_score,
        reduction,
        return_posterior,
        inplace=inplace,
        **scalars,
    )


def rag_sequence_nll(
    logits: Tensor,
    doc_scores: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: nll.Reduction = "mean",
    compat: nll.Compat = "paper",
    bos_token_id: int | None = None,
    null_score: Tensor | float | None = None,
    return_posterior: bool = False,
    inplace: bool = False,
    n_threads: int | None = None,
) -> Any:
    """:func:`ragfast.rag_sequence_nll` with gradients to logits (B,K,T,V), doc_scores (B,K) and null_score, if they
    want them. Returns the loss, with return_posterior also p(z|x,y) (B,K), which has no gradient.

    inplace: the backward pass writes the gradient of the logits over the logits, so that training needs their memory
    once. They must be what a model has calculated, not a leaf, and are then lost: a use of them by another backward
    pass raises torch's error about an inplace operation.

    >>> import torch, ragfast.torch
    >>> logits, doc_scores = torch.zeros(1, 2, 3, 10), torch.zeros(1, 2, requires_grad=True)
    >>> targets = torch.tensor([[4, 5, 2]])
    >>> _ = logits[0, 0].scatter_(-1, targets[0, :, None], 2.0)  # the first document makes the answer likelier
    >>> nll = ragfast.torch.rag_sequence_nll(logits, doc_scores, targets)
    >>> nll.backward()
    >>> doc_scores.grad.sign()
    tensor([[-1.,  1.]])
    """
    scalars = _scalars(False, temperature, label_smoothing, compat, n_threads)
    return _of_logits(
        False,
        logits,
        doc_scores,
        targets,
        ignore_index,
        bos_token_id,
        scalars,
        null_score,
        reduction,
        return_posterior,
        inplace,
    )


def rag_token_nll(
    logits: Tensor,
    doc_scores: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: nll.Reduction = "mean",
    compat: nll.Compat = "paper",
    bos_token_id: int | None = None,
    null_score: Tensor | float | None = None,
    return_posterior: bool = False,
    inplace: bool = False,
    n_threads: int | None = None,
) -> Any:
    """:func:`ragfast.rag_token_nll`; all else as :func:`rag_sequence_nll`, the posterior being p(z | x, y_t, y_<t)
    (B,K,T).

    >>> import torch, ragfast.torch
    >>> logits = torch.zeros(1, 2, 3, 10, requires_grad=True)
    >>> nll = ragfast.torch.rag_token_nll(logits, torch.zeros(1, 2), torch.tensor([[4, 5, 2]]), reduction="token_mean")
    >>> nll.backward()
    >>> round(nll.exp().item(), 4), round(logits.grad[0, 0, 0, 4].item(), 4)
    (10.0, -0.15)
    """
    scalars = _scalars(True, temperature, label_smoothing, compat, n_threads)
    return _of_logits(
        True,
        logits,
        doc_scores,
        targets,
        ignore_index,
        bos_token_id,
        scalars,
        null_score,
        reduction,
        return_posterior,
        inplace,
    )


def _of_logprobs(
    token_logprobs: Tensor,
    doc_scores: Tensor,
    mask: Tensor | None,
    scalars: dict[str, Any],
    null_score: Any,
    reduction: nll.Reduction,
    return_posterior: bool,
) -> Any:
    shape = tuple(floating_of(token_logprobs, "token_logprobs").shape)
    if len(shape) != 3 or shape[1] == 0:
        raise ValueError(f"token_logprobs: expected shape (B, K, T) with K of 1 or more, got {shape}")
    tokens = np.zeros((shape[0], shape[2]), np.int64)
    if mask is not None:
        scored = tensor_of(mask, "mask")
        if scored.dtype != torch.bool:
            raise TypeError(f"mask: expected torch.bool, True where a token is scored, got {scored.dtype}")
        if tuple(scored.shape) != tokens.shape:
            expected = f"{tokens.shape}, as token_logprobs has shape {shape}"
            raise ValueError(f"mask: expected shape {expected}, got {tuple(scored.shape)}")
        tokens[~array_of(scored)] = -1
    return _loss(
        token_logprobs, doc_scores, tokens, False, null_score, reduction, return_posterior, inplace=False, **scalars
    )


def rag_sequence_nll_from_logprobs(
    token_logprobs: Tensor,
    doc_scores: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    reduction: nll.Reduction = "mean",
    compat: nll.Compat = "paper",
    null_score: Tensor | float | None = None,
    return_posterior: bool = False,
    n_threads: int | None = None,
) -> Any:
    """:func:`ragfast.rag_sequence_nll_from_logprobs` with gradients to token_logprobs (B,K,T), doc_scores and
    null_score.

    >>> import torch, ragfast.torch
    >>> token_logprobs = torch.log(torch.tensor([[[0.5, 0.8], [0.2, 0.4]]]))
    >>> round(ragfast.torch.rag_sequence_nll_from_logprobs(token_logprobs, torch.zeros(1, 2)).exp().item(), 4)
    4.1667
    """
    scalars = _scalars(False, temperature, 0.0, compat, n_threads)
    return _of_logprobs(token_logprobs, doc_scores, mask, scalars, null_score, reduction, return_posterior)


def rag_token_nll_from_logprobs(
    token_logprobs: Tensor,
    doc_scores: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    reduction: nll.Reduction = "mean",
    compat: nll.Compat = "paper",
    null_score: Tensor | float | None = None,
    return_posterior: bool = False,
    n_threads: int | None = None,
) -> Any:
    """:func:`ragfast.rag_token_nll_from_logprobs`, likewise.

    >>> import torch, ragfast.torch
    >>> token_logprobs = torch.log(torch.tensor([[[0.5, 0.8], [0.2, 0.4]]]))
    >>> round(ragfast.torch.rag_token_nll_from_logprobs(token_logprobs, torch.zeros(1, 2)).exp().item(), 4)
    4.7619
    """
    scalars = _scalars(True, temperature, 0.0, compat, n_threads)
    return _of_logprobs(token_logprobs, doc_scores, mask, scalars, null_score, reduction, return_posterior)
