"""Marginalization, its losses, divergence and chosen scores over CPU tensors of torch, differentiable: names, keywords
and numbers of the functions of ragfast, less what autograd makes superfluous (grad, out).

``import ragfast.torch`` is the caller's: ragfast itself never imports torch, which the extra ``torch`` brings. Tensors
are read where they lie (a copy is made only of what is not contiguous); results are float64 for float64, else float32.
Gradients are the analytic ones: of the logits, one read and one write of their size in the backward pass and nothing of
that size besides. They can be taken once, not twice. Whatever needs no gradient gets none calculated, so that a frozen
generator costs nothing.

torch.compile does not see through these functions: where a compiled model calls one, call
``torch.compiler.disable(ragfast.torch.rag_token_nll)``.

ValueError for a tensor that is not in CPU memory, TypeError for what is not a tensor; all else as in the functions of
the same names in ragfast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError("ragfast.torch needs torch: pip install 'ragfast-kernels[torch]'") from error

from ragfast import _kernels, arrays, divergence, gather, marginal, nll
from ragfast.divergence import kl_divergence as kl_of_arrays
from ragfast.index import FlatIndex, Snapshot

__all__ = [
    "gather_scores",
    "kl_divergence",
    "log_softmax",
    "logsumexp",
    "marginalize_sequence",
    "marginalize_token",
    "rag_sequence_nll",
    "rag_sequence_nll_from_logprobs",
    "rag_token_nll",
    "rag_token_nll_from_logprobs",
    "target_logprobs",
]


def _tensor(x: Any, name: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {type(x).__name__}; the functions of ragfast take arrays"
        )
    if x.device.type != "cpu":
        raise ValueError(
            f"{name}: expected a tensor in CPU memory, got one on {x.device}: ragfast calculates on the CPU. "
            f"Pass {name}.cpu(), through which gradients flow back"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {x.layout}")
    return x


def _wide(x: Tensor, name: str) -> Tensor:
    """A tensor as float32 or float64, with its gradient."""
    x = _tensor(x, name)
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _double(x: Any, name: str) -> Tensor:
    x = _tensor(x, name)
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {x.dtype}")
    return x.double()


class _Twice(torch.autograd.Function):
    """A gradient, which has none itself."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, anchor: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError("ragfast.torch: the gradients of these functions cannot be differentiated again")


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """As torch's once_differentiable, which keeps silent where the gradient that comes in is a constant: the second
    derivative would then count as 0."""

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *(x if x is None else x.detach() for x in grads))
        if not torch.is_grad_enabled():  # it is under create_graph=True
            return found
        anchor = torch.zeros((), requires_grad=True)
        return tuple(_Twice.apply(x, anchor) if isinstance(x, Tensor) else x for x in found)

    return once


def _array(x: Tensor) -> NDArray[Any]:
    """The tensor's own memory if it is contiguous."""
    array: NDArray[Any] = x.detach().contiguous().numpy(force=True)
    return array


# ---- log-sum-exp and marginalization


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.axis = axis
        return torch.from_numpy(np.asarray(marginal.logsumexp(x.detach(), axis)))

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        softmax = torch.from_numpy(marginal.log_softmax(x.detach(), ctx.axis)).exp_()
        return softmax.mul_(grad.unsqueeze(ctx.axis)), None


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        out = torch.from_numpy(marginal.log_softmax(x.detach(), axis))
        ctx.save_for_backward(out)
        ctx.axis = axis
        return out

    @staticmethod
    @_once
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
    out: Tensor = _LogSumExp.apply(_wide(x, "x"), axis)
    return out


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """:func:`ragfast.log_softmax`.

    >>> import torch, ragfast.torch
    >>> ragfast.torch.log_softmax(torch.log(torch.tensor([1.0, 1.0, 2.0]))).exp().tolist()
    [0.25, 0.25, 0.5]
    """
    out: Tensor = _LogSoftmax.apply(_wide(x, "x"), axis)
    return out


class _Marginal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, doc_logprobs: Tensor, token_logprobs: Tensor, by_token: bool) -> tuple[Tensor, Tensor]:
        marginalize = marginal.marginalize_token if by_token else marginal.marginalize_sequence
        out, posterior = map(
            np.asarray, marginalize(doc_logprobs.detach(), token_logprobs.detach(), return_posterior=True)
        )
        log_prob, posterior = torch.from_numpy(out), torch.from_numpy(posterior)
        ctx.mark_non_differentiable(posterior)
        ctx.save_for_backward(posterior)
        ctx.n_tokens = token_logprobs.shape[-1]
        ctx.by_token = by_token
        return log_prob, posterior

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, Tensor, None]:
        (posterior,) = ctx.saved_tensors
        if ctx.by_token:
            by_token = posterior * grad.unsqueeze(-2)
            return by_token.sum(-1), by_token, None
        by_doc = posterior * grad.unsqueeze(-1)
        return by_doc, by_doc.unsqueeze(-1).expand(*by_doc.shape, ctx.n_tokens), None


def _marginalize(doc_logprobs: Tensor, token_logprobs: Tensor, by_token: bool, return_posterior: bool) -> Any:
    docs, tokens = _wide(doc_logprobs, "doc_logprobs"), _wide(token_logprobs, "token_logprobs")
    if docs.dtype != tokens.dtype and docs.is_floating_point() and tokens.is_floating_point():
        docs, tokens = docs.double(), tokens.double()
    log_probs, posterior = _Marginal.apply(docs, tokens, by_token)
    return (log_probs, posterior) if return_posterior else log_probs


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


# ---- the loss


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
        values, is_bfloat16 = _logits(scores) if scores.ndim == 4 else (_array(scores), False)
        given = {"weights": None, "lse": None, "logits_grad": None, "lse_known": False}
        wanted = {"with_posterior": False, "with_docs_grad": False, "with_tokens_grad": False}
        return _kernels.rag_nll(
            values,
            _array(doc_scores),
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


def _logits(x: Tensor) -> tuple[NDArray[Any], bool]:
    """A contiguous tensor's memory, the bits of 16-bit floats as uint16; and whether these are bfloat16."""
    if x.element_size() == 2:
        return x.detach().view(torch.int16).numpy(force=True).view(np.uint16), x.dtype == torch.bfloat16
    return _array(x), False


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
    @_once
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, None]:
        weights = _array(grad)
        of_docs = of_scores = None
        if ctx.docs_grad is not None:
            of_docs = torch.from_numpy(ctx.docs_grad * weights[:, None])
        if ctx.tokens_grad is not None:
            of_scores = torch.from_numpy(ctx.tokens_grad * weights[:, None, None])
        if ctx.lse is not None:
            logits, doc_scores = ctx.saved_tensors
            of_scores = logits.detach() if ctx.loss.inplace else arrays.empty_logits(logits)
            ctx.loss.run(
                logits, doc_scores, weights=weights, lse=ctx.lse, lse_known=True, logits_grad=_logits(of_scores)[0]
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
    docs, null = _double(doc_scores, "doc_scores"), null_score
    if isinstance(null_score, Tensor):
        null = _double(null_score, "null_score").detach()
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


def _floating(x: Any, name: str) -> Tensor:
    x = _tensor(x, name)
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {x.dtype}")
    return x


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
    shape = tuple(_floating(logits, "logits").shape)
    if len(shape) != 4 or shape[1] == 0 or shape[3] == 0:
        raise ValueError(f"logits: expected shape (B, K, T, V) with K and V of 1 or more, got {shape}")
    if inplace and logits.is_leaf and logits.requires_grad:
        raise ValueError(
            "inplace: the logits are a leaf that requires a gradient, which would then be its own gradient; pass what "
            "a model has calculated"
        )
    tokens = nll.targets_of_answers(_tensor(targets, "targets"), shape, ignore_index)
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
    shape = tuple(_floating(token_logprobs, "token_logprobs").shape)
    if len(shape) != 3 or shape[1] == 0:
        raise ValueError(f"token_logprobs: expected shape (B, K, T) with K of 1 or more, got {shape}")
    tokens = np.zeros((shape[0], shape[2]), np.int64)
    if mask is not None:
        scored = _tensor(mask, "mask")
        if scored.dtype != torch.bool:
            raise TypeError(f"mask: expected torch.bool, True where a token is scored, got {scored.dtype}")
        if tuple(scored.shape) != tokens.shape:
            expected = f"{tokens.shape}, as token_logprobs has shape {shape}"
            raise ValueError(f"mask: expected shape {expected}, got {tuple(scored.shape)}")
        tokens[~_array(scored)] = -1
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


# ---- log p of targets


class _TargetLogprobs(torch.autograd.Function):
    """(n,V) logits -> (n,) float64, and sums over v or None; tokens -1 where a row is not read."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: NDArray[np.int64], return_sums: bool, n_threads: int
    ) -> tuple[Tensor, Tensor | None]:
        wanted = ctx.needs_input_grad[0]
        values, is_bfloat16 = _logits(logits)
        logprobs, ctx.lse, sums = _kernels.target_logprobs(values, tokens, is_bfloat16, wanted, return_sums, n_threads)
        ctx.tokens, ctx.n_threads = tokens, n_threads
        ctx.set_materialize_grads(False)
        if wanted:
            ctx.save_for_backward(logits)
        return torch.from_numpy(logprobs), None if sums is None else torch.from_numpy(sums)

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Tensor | None, sums_grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if grad is None and sums_grad is None:
            return None, None, None, None
        (logits,) = ctx.saved_tensors
        values, is_bfloat16 = _logits(logits)
        scored = ctx.tokens >= 0
        scale = np.zeros(len(scored)) if grad is None else np.where(scored, -_array(grad), 0.0)
        shift = None if sums_grad is None else np.where(scored, -_array(sums_grad), 0.0)
        out = arrays.empty_logits(logits)
        _kernels.target_grad(_logits(out)[0], values, ctx.tokens, ctx.lse, scale, shift, is_bfloat16, ctx.n_threads)
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
    shape = tuple(_floating(logits, "logits").shape)
    if not shape or shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., T, V) with V of 1 or more, got {shape}")
    tokens = nll.targets_of_rows(_tensor(targets, "targets"), shape, ignore_index)
    rows = logits.contiguous().view(len(tokens), shape[-1])
    logprobs, sums = _TargetLogprobs.apply(rows, tokens, return_sums, arrays.thread_count(n_threads))
    found = [x.view(shape[:-1]) for x in (logprobs, sums) if x is not None]
    if logits.dtype != torch.float64:
        found = [x.float() for x in found]
    return tuple(found) if return_sums else found[0]


# ---- divergence, scores of chosen documents


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
    @_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights = _array(grad)[..., None]
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
    own, target = _double(scores, "scores"), _double(target_scores, "target_scores")
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
    @_once
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
        _array(_tensor(rows, "rows")) if isinstance(rows, Tensor) else rows
    )  # a copy, kept for the gradient
    found: Tensor = _GatherScores.apply(_wide(queries, "queries"), vectors, chosen, n_threads)
    return found
