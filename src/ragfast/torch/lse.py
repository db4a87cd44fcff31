"""Log-sum-exp and marginalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ragfast.marginal import lse
from ragfast.torch.tensors import once_only, single_or_double


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.axis = axis
        return torch.from_numpy(np.asarray(lse.logsumexp(x.detach(), axis)))

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        softmax = torch.from_numpy(lse.log_softmax(x.detach(), ctx.axis)).exp_()
        return softmax.mul_(grad.unsqueeze(ctx.axis)), None


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        out = torch.from_numpy(lse.log_softmax(x.detach(), axis))
        ctx.save_for_backward(out)
        ctx.axis = axis
        return out

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.addcmul(grad, out.exp(), grad.sum(ctx.axis, keepdim=True), value=-1), None


def logsumexp(x: Tensor, axis: int = -1) -> Tensor:
    """:func:`ragfast.logsumexp`; its gradient is the softmax, 0 where all is -inf.

    >>> import torch, ragfast.torch
    >>> x = torch.log(torch.tensor([1.0, 2.0, 5.0])).requires_grad_()
    >>> ragfast.torch.logsumexp(x).backward()
    >>> x.grad.mul(8).round().tolist()
    [1.0, 2.0, 5.0]
    """
    out: Tensor = _LogSumExp.apply(single_or_double(x, "x"), axis)
    return out


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """:func:`ragfast.log_softmax`.

    >>> import torch, ragfast.torch
    >>> ragfast.torch.log_softmax(torch.log(torch.tensor([1.0, 1.0, 2.0]))).exp().tolist()
    [0.25, 0.25, 0.5]
    """
    out: Tensor = _LogSoftmax.apply(single_or_double(x, "x"), axis)
    return out


class _Marginal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, doc_logprobs: Tensor, token_logprobs: Tensor, by_token: bool) -> tuple[Tensor, Tensor]:
        marginalize = lse.marginalize_token if by_token else lse.marginalize_sequence
        out, posterior = map(
            np.asarray, marginalize(doc_logprobs.detach(), token_logprobs.detach(), return_posterior=True)
        )
        logprobs, posterior = torch.from_numpy(out), torch.from_numpy(posterior)
        ctx.mark_non_differentiable(posterior)
        ctx.save_for_backward(posterior)
        ctx.n_tokens = token_logprobs.shape[-1]
        ctx.by_token = by_token
        return logprobs, posterior

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, Tensor, None]:
        (posterior,) = ctx.saved_tensors
        if ctx.by_token:
            by_token = posterior * grad.unsqueeze(-2)
            return by_token.sum(-1), by_token, None
        by_doc = posterior * grad.unsqueeze(-1)
        return by_doc, by_doc.unsqueeze(-1).expand(*by_doc.shape, ctx.n_tokens), None


def _marginalize(doc_logprobs: Tensor, token_logprobs: Tensor, by_token: bool, return_posterior: bool) -> Any:
    docs, tokens = single_or_double(doc_logprobs, "doc_logprobs"), single_or_double(token_logprobs, "token_logprobs")
    if docs.dtype != tokens.dtype and docs.is_floating_point() and tokens.is_floating_point():
        docs, tokens = docs.double(), tokens.double()
    logprobs, posterior = _Marginal.apply(docs, tokens, by_token)
    return (logprobs, posterior) if return_posterior else logprobs


def marginalize_sequence(doc_logprobs: Tensor, token_logprobs: Tensor, *, return_posterior: bool = False) -> Any:
    """:func:`ragfast.marginalize_sequence`; the posterior has no gradient of its own, it is the gradient.

    >>> import torch, ragfast.torch
    >>> doc_logprobs = torch.log(torch.tensor([0.5, 0.5])).requires_grad_()
    >>> token_logprobs = torch.log(torch.tensor([[0.5, 0.5], [0.25, 0.25]]))
    >>> ragfast.torch.marginalize_sequence(doc_logprobs, token_logprobs).backward()
    >>> [round(x, 4) for x in doc_logprobs.grad.tolist()]
    [0.8, 0.2]
    """
    return _marginalize(doc_logprobs, token_logprobs, False, return_posterior)


def marginalize_token(doc_logprobs: Tensor, token_logprobs: Tensor, *, return_posterior: bool = False) -> Any:
    """:func:`ragfast.marginalize_token`, likewise.

    >>> import torch, ragfast.torch
    >>> doc_logprobs = torch.log(torch.tensor([0.5, 0.5]))
    >>> token_logprobs = torch.log(torch.tensor([[0.5, 0.5], [0.25, 1.0]]))
    >>> [round(x, 4) for x in ragfast.torch.marginalize_token(doc_logprobs, token_logprobs).tolist()]
    [-0.9808, -0.2877]
    """
    return _marginalize(doc_logprobs, token_logprobs, True, return_posterior)
