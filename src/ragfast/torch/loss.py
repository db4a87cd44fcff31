"""Differentiable losses of RAG-Sequence and RAG-Token, and log-probabilities of targets."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragfast._core import _kernels, arrays
from ragfast._core.signatures import options_of
from ragfast.marginal.loss import (
    LogitsOptions,
    LogprobsOptions,
    LossInputs,
    inputs_from_logits,
    inputs_from_logprobs,
    targets_of_rows,
)
from ragfast.torch.tensors import as_array, as_double, cpu_tensor, floating, logits_array, once_only


def _run(inputs: LossInputs, scores: Tensor, doc_scores: Tensor, weights: Any = None, **outputs: Any) -> Any:
    values, is_bfloat16 = logits_array(scores)
    return inputs.run(values, is_bfloat16, as_array(doc_scores), weights, **outputs)


class _NLL(torch.autograd.Function):
    """(B,K,T,V) logits or (B,K,T) float64 token_logprobs, (B,K) float64 doc_scores -> (B,) float64, posterior.

    The gradients of doc_scores and token_logprobs are small, and linear in the incoming gradient, so that the forward
    pass calculates them. For the gradient of the logits it keeps the log-sum-exp of each row; the backward pass then
    reads the logits once and writes their gradient once.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, doc_scores: Tensor, inputs: LossInputs, return_posterior: bool, inplace: bool
    ) -> tuple[Tensor, Tensor | None]:
        of_scores, of_docs, *_ = ctx.needs_input_grad
        of_logits = of_scores and scores.ndim == 4
        ctx.inputs, ctx.inplace = inputs, inplace
        ctx.lse = np.empty(scores.shape[:3]) if of_logits else None
        nll, posterior, ctx.docs_grad, ctx.tokens_grad = _run(
            inputs,
            scores,
            doc_scores,
            lse=ctx.lse,
            with_posterior=return_posterior,
            with_docs_grad=of_docs,
            with_tokens_grad=of_scores and not of_logits,
        )
        if of_logits:
            ctx.save_for_backward(scores, doc_scores)
        if posterior is None:
            return torch.from_numpy(nll), None
        constant = torch.from_numpy(posterior)
        ctx.mark_non_differentiable(constant)
        return torch.from_numpy(nll), constant

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        weights = as_array(grad)
        of_docs = of_scores = None
        if ctx.docs_grad is not None:
            of_docs = torch.from_numpy(ctx.docs_grad * weights[:, None])
        if ctx.tokens_grad is not None:
            of_scores = torch.from_numpy(ctx.tokens_grad * weights[:, None, None])
        if ctx.lse is not None:
            logits, doc_scores = ctx.saved_tensors
            of_scores = logits.detach() if ctx.inplace else arrays.empty_logits(logits)
            memory, _ = logits_array(of_scores)
            _run(ctx.inputs, logits, doc_scores, weights, lse=ctx.lse, lse_known=True, logits_grad=memory)
            if ctx.inplace:  # so that another backward pass that saved the logits raises torch's error
                torch.autograd.graph.increment_version(logits)
        return of_scores, of_docs, None, None, None


def _nll(
    by_token: bool,
    scores: Tensor,
    doc_scores: Tensor,
    targets: tuple[Tensor, ...],
    options: Any,
    return_posterior: bool,
    inplace: bool = False,
) -> Any:
    """Return the loss of logits, with their targets, or of token_logprobs, without."""
    inputs_of: Any = inputs_from_logits if targets else inputs_from_logprobs
    docs, null_score = as_double(doc_scores, "doc_scores"), options.get("null_score")
    if isinstance(null_score, Tensor):
        null_score = as_double(null_score, "null_score")
        options = {**options, "null_score": null_score.detach()}
    inputs = inputs_of(by_token, tuple(scores.shape), docs.detach(), *targets, **options)
    if null_score is not None:
        constant = torch.from_numpy(inputs.doc_scores[:, -1])
        null = null_score.expand(len(docs)) if isinstance(null_score, Tensor) else constant
        docs = torch.cat([docs, null.unsqueeze(1)], 1)
    docs = docs.contiguous()
    if docs.is_inference() and not torch.is_inference_mode_enabled():  # autograd cannot save it
        docs = docs.clone()
    given = scores.contiguous() if targets else scores.double()
    nll, posterior = _NLL.apply(given, docs, inputs, return_posterior, inplace)
    if inputs.divisor is not None:
        nll = nll.sum() / inputs.divisor
    found = [x if scores.dtype == torch.float64 else x.float() for x in (nll, posterior) if x is not None]
    return tuple(found) if return_posterior else found[0]


def _from_logits(
    by_token: bool,
    logits: Tensor,
    doc_scores: Tensor,
    targets: Tensor,
    options: Any,
    return_posterior: bool,
    inplace: bool,
) -> Any:
    if inplace and floating(logits, "logits").is_leaf and logits.requires_grad:
        raise ValueError(
            "inplace: the logits are a leaf that requires a gradient, which would then be its own gradient; pass what "
            "a model has calculated"
        )
    scores, tokens = floating(logits, "logits"), cpu_tensor(targets, "targets")
    return _nll(by_token, scores, doc_scores, (tokens,), options, return_posterior, inplace)


def _from_logprobs(
    by_token: bool, token_logprobs: Tensor, doc_scores: Tensor, options: Any, return_posterior: bool
) -> Any:
    if options.get("mask") is not None:
        options = {**options, "mask": as_array(cpu_tensor(options["mask"], "mask"))}
    return _nll(by_token, floating(token_logprobs, "token_logprobs"), doc_scores, (), options, return_posterior)


@options_of(inputs_from_logits)
def rag_sequence_nll(
    logits: Tensor,
    doc_scores: Tensor,
    targets: Tensor,
    *,
    return_posterior: bool = False,
    inplace: bool = False,
    **options: Unpack[LogitsOptions],
) -> Any:
    """Return :func:`ragfast.rag_sequence_nll` with gradients to the logits, the document scores and the null score.

    Parameters
    ----------
    logits : Tensor of shape (B, K, T, V)
    doc_scores : Tensor of shape (B, K)
    targets : Tensor of shape (B, T)
    return_posterior : bool, default False
        Return p(z|x,y) of shape (B, K) too, which has no gradient.
    inplace : bool, default False
        The backward pass writes the gradient of the logits over the logits, so that training needs their memory once.
        They must be the result of a model, not a leaf, and they are lost: if another backward pass uses them, torch
        raises its error about an inplace operation.
    **options
        As in :func:`ragfast.rag_sequence_nll`; `null_score` may be a Tensor.

    Returns
    -------
    Tensor, or tuple of Tensor
        The loss, or the loss and the posterior.

    Examples
    --------
    >>> import torch, ragfast.torch
    >>> logits, doc_scores = torch.zeros(1, 2, 3, 10), torch.zeros(1, 2, requires_grad=True)
    >>> targets = torch.tensor([[4, 5, 2]])
    >>> _ = logits[0, 0].scatter_(-1, targets[0, :, None], 2.0)  # the first document makes the answer likelier
    >>> nll = ragfast.torch.rag_sequence_nll(logits, doc_scores, targets)
    >>> nll.backward()
    >>> doc_scores.grad.sign()
    tensor([[-1.,  1.]])
    """
    return _from_logits(False, logits, doc_scores, targets, options, return_posterior, inplace)


@options_of(inputs_from_logits)
def rag_token_nll(
    logits: Tensor,
    doc_scores: Tensor,
    targets: Tensor,
    *,
    return_posterior: bool = False,
    inplace: bool = False,
    **options: Unpack[LogitsOptions],
) -> Any:
    """Return :func:`ragfast.rag_token_nll` with gradients to the logits, the document scores and the null score.

    Parameters and results are those of :func:`rag_sequence_nll`, except that the posterior is p(z | x, y_t, y_<t), of
    shape (B, K, T).

    Examples
    --------
    >>> import torch, ragfast.torch
    >>> logits = torch.zeros(1, 2, 3, 10, requires_grad=True)
    >>> nll = ragfast.torch.rag_token_nll(logits, torch.zeros(1, 2), torch.tensor([[4, 5, 2]]), reduction="token_mean")
    >>> nll.backward()
    >>> round(nll.exp().item(), 4), round(logits.grad[0, 0, 0, 4].item(), 4)
    (10.0, -0.15)
    """
    return _from_logits(True, logits, doc_scores, targets, options, return_posterior, inplace)


@options_of(inputs_from_logprobs)
def rag_sequence_nll_from_logprobs(
    token_logprobs: Tensor, doc_scores: Tensor, *, return_posterior: bool = False, **options: Unpack[LogprobsOptions]
) -> Any:
    """Return :func:`ragfast.rag_sequence_nll_from_logprobs` with gradients to all scores.

    Parameters
    ----------
    token_logprobs : Tensor of shape (B, K, T)
    doc_scores : Tensor of shape (B, K)
    return_posterior : bool, default False
        Return p(z|x,y) of shape (B, K) too, which has no gradient.
    **options
        As in :func:`ragfast.rag_sequence_nll_from_logprobs`; `mask` is a Tensor, `null_score` may be one.

    Examples
    --------
    >>> import torch, ragfast.torch
    >>> token_logprobs = torch.log(torch.tensor([[[0.5, 0.8], [0.2, 0.4]]]))
    >>> round(ragfast.torch.rag_sequence_nll_from_logprobs(token_logprobs, torch.zeros(1, 2)).exp().item(), 4)
    4.1667
    """
    return _from_logprobs(False, token_logprobs, doc_scores, options, return_posterior)


@options_of(inputs_from_logprobs)
def rag_token_nll_from_logprobs(
    token_logprobs: Tensor, doc_scores: Tensor, *, return_posterior: bool = False, **options: Unpack[LogprobsOptions]
) -> Any:
    """Return :func:`ragfast.rag_token_nll_from_logprobs` with gradients to all scores.

    Parameters are those of :func:`rag_sequence_nll_from_logprobs`; the posterior has shape (B, K, T).

    Examples
    --------
    >>> import torch, ragfast.torch
    >>> token_logprobs = torch.log(torch.tensor([[[0.5, 0.8], [0.2, 0.4]]]))
    >>> round(ragfast.torch.rag_token_nll_from_logprobs(token_logprobs, torch.zeros(1, 2)).exp().item(), 4)
    4.7619
    """
    return _from_logprobs(True, token_logprobs, doc_scores, options, return_posterior)


class _TargetLogprobs(torch.autograd.Function):
    """(n,V) logits -> (n,) float64, and sums over v or None; tokens -1 where a row is not read."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: NDArray[np.int64], return_sums: bool, n_threads: int
    ) -> tuple[Tensor, Tensor | None]:
        wanted = ctx.needs_input_grad[0]
        values, is_bfloat16 = logits_array(logits)
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
        values, is_bfloat16 = logits_array(logits)
        scored = ctx.tokens >= 0
        scale = np.zeros(len(scored)) if grad is None else np.where(scored, -as_array(grad), 0.0)
        shift = None if sums_grad is None else np.where(scored, -as_array(sums_grad), 0.0)
        out = arrays.empty_logits(logits)
        _kernels.target_grad(
            logits_array(out)[0], values, ctx.tokens, ctx.lse, scale, shift, is_bfloat16, ctx.n_threads
        )
        return out, None, None, None


def target_logprobs(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = None,
    return_sums: bool = False,
    n_threads: int | None = None,
) -> Any:
    """Return :func:`ragfast.target_logprobs` with gradients to the logits (..., T, V), also through the sums.

    Examples
    --------
    >>> import torch, ragfast.torch
    >>> logits = torch.zeros(2, 10, requires_grad=True)
    >>> ragfast.torch.target_logprobs(logits, torch.tensor([3, 0])).sum().backward()
    >>> [round(x, 4) for x in logits.grad[0].tolist()]
    [-0.1, -0.1, -0.1, 0.9, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1]
    """
    shape = tuple(floating(logits, "logits").shape)
    tokens = targets_of_rows(cpu_tensor(targets, "targets"), shape, ignore_index)
    rows = logits.contiguous().view(len(tokens), shape[-1])
    logprobs, sums = _TargetLogprobs.apply(rows, tokens, return_sums, arrays.thread_count(n_threads))
    found = [x.view(shape[:-1]) for x in (logprobs, sums) if x is not None]
    if logits.dtype != torch.float64:
        found = [x.float() for x in found]
    return tuple(found) if return_sums else found[0]
