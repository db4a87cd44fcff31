"""The training losses of ragfast.rag.methods over CPU tensors of torch, differentiable: names, keywords and numbers of
the functions there, less return_grad and grad, which autograd makes superfluous.

They are put together from :mod:`ragfast.torch`, whose conventions they have: results are float64 for float64, else
float32, gradients can be taken once, TypeError for what is not a tensor, ValueError for one that is not in CPU memory.
Where a paper takes the language model or the reader as constant, so do these: no gradient goes there.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

import ragfast.torch
from ragfast._core import arrays
from ragfast._core.signatures import options_of
from ragfast.marginal.divergence import Direction, DivergenceOptions
from ragfast.marginal.loss import Reduction
from ragfast.rag.methods.inputs import (
    MARGINALS,
    Marginal,
    MaskedDivergenceOptions,
    MaskedMarginalOptions,
    refuse_token_mean,
)
from ragfast.rag.methods.realm import NORMALIZATIONS, Normalization

__all__ = [
    "adist_loss",
    "emdr2_loss",
    "fid_distillation_loss",
    "loop_loss",
    "marginal_log_loss",
    "pdist_loss",
    "realm_nll",
    "realm_reader_nll",
    "replug_lsr_loss",
]


def _tensor(x: Any, name: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}; ragfast.rag.methods takes arrays")
    return x


def _bools(x: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    given = _tensor(x, name)
    if given.dtype != torch.bool:
        raise TypeError(f"{name}: expected torch.bool, got {given.dtype}")
    if tuple(given.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(given.shape)}")
    return given


@options_of(ragfast.torch.kl_divergence, without=["direction"])
def _from_answers(
    doc_scores: Tensor,
    token_logprobs: Tensor,
    name: str,
    direction: Direction,
    leave_one_out: bool = False,
    /,
    *,
    mask: Tensor | None = None,
    length_normalized: bool = False,
    **options: Unpack[DivergenceOptions],
) -> Tensor:
    """Return the divergence from answers, given under each document or, with leave_one_out, without each document."""
    given = _tensor(token_logprobs, name).detach()
    if given.ndim < 2:
        raise ValueError(f"{name}: expected shape (..., K, T), got {tuple(given.shape)}")
    shape = (*given.shape[:-2], given.shape[-1])
    scored = torch.ones(shape, dtype=torch.bool) if mask is None else _bools(mask, "mask", shape)
    target = given.double().masked_fill(~scored.unsqueeze(-2), 0.0).sum(-1)
    if length_normalized:
        n = scored.sum(-1)
        if n.numel() and n.min() == 0:
            raise ValueError(f"{name}: expected an answer of one scored token or more to take the mean of")
        target = target / n.unsqueeze(-1)
    target = -target if leave_one_out else target
    return _distilled(doc_scores, target, given.dtype, name, leave_one_out, direction=direction, **options)


@options_of(ragfast.torch.kl_divergence, without=["direction"])
def _from_scores(
    doc_scores: Tensor, target_scores: Tensor, name: str, /, **options: Unpack[DivergenceOptions]
) -> Tensor:
    """Return the forward divergence from scores that are given, one for each document."""
    given = _tensor(target_scores, name).detach()
    if not given.is_floating_point():
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {given.dtype}")
    return _distilled(doc_scores, given.double(), given.dtype, name, False, direction="forward", **options)


def _distilled(
    doc_scores: Tensor, target: Tensor, dtype: torch.dtype, name: str, infinity_has_all: bool, **options: Any
) -> Tensor:
    """Return the divergence from target (...,K) float64, calculated from the argument `name`, which has that dtype."""
    scores = _tensor(doc_scores, "doc_scores")
    if target.shape != scores.shape:
        raise ValueError(
            f"{name}: expected one answer or score for each of doc_scores, {tuple(scores.shape)}, got "
            f"{tuple(target.shape)}"
        )
    preferred = target.masked_fill(scores == -torch.inf, -torch.inf)
    if infinity_has_all:  # as ragfast.rag.methods.distillation has it
        infinite = preferred == torch.inf
        limit = torch.where(infinite, 0.0, -torch.inf).to(preferred.dtype)
        preferred = torch.where(infinite.any(-1, keepdim=True) & ~preferred.isnan(), limit, preferred)
    loss = ragfast.torch.kl_divergence(scores, preferred, **options)
    return loss if torch.float64 in (dtype, scores.dtype) else loss.float()


@options_of(ragfast.torch.rag_sequence_nll_from_logprobs, without=["compat", "null_score", "return_posterior"])
def _marginal_nll(
    token_logprobs: Tensor, doc_scores: Tensor, /, *, marginal: Marginal = "sequence", **options: Any
) -> Any:
    """Return the loss that marginalizes whole answers, or each token."""
    arrays.one_of(marginal, "marginal", MARGINALS)
    by_sequence, by_token = ragfast.torch.rag_sequence_nll_from_logprobs, ragfast.torch.rag_token_nll_from_logprobs
    return (by_sequence if marginal == "sequence" else by_token)(token_logprobs, doc_scores, compat="paper", **options)


@options_of(_from_answers)
def pdist_loss(doc_scores: Tensor, token_logprobs: Tensor, **options: Unpack[MaskedDivergenceOptions]) -> Tensor:
    """:func:`ragfast.rag.methods.pdist_loss` with a gradient to doc_scores (...,K).

    >>> import torch, ragfast.rag.methods.torch
    >>> doc_scores = torch.zeros(1, 2, requires_grad=True)
    >>> token_logprobs = torch.log(torch.tensor([[[0.5, 0.5], [0.75, 1.0]]]))
    >>> ragfast.rag.methods.torch.pdist_loss(doc_scores, token_logprobs).backward()
    >>> [round(x, 4) for x in doc_scores.grad[0].tolist()]
    [0.25, -0.25]
    """
    return _from_answers(doc_scores, token_logprobs, "token_logprobs", "forward", **options)


@options_of(_from_answers)
def loop_loss(doc_scores: Tensor, left_out_logprobs: Tensor, **options: Unpack[MaskedDivergenceOptions]) -> Tensor:
    """:func:`ragfast.rag.methods.loop_loss` with a gradient to doc_scores (...,K)."""
    return _from_answers(doc_scores, left_out_logprobs, "left_out_logprobs", "forward", True, **options)


@options_of(_from_scores)
def adist_loss(doc_scores: Tensor, attention_scores: Tensor, **options: Unpack[DivergenceOptions]) -> Tensor:
    """:func:`ragfast.rag.methods.adist_loss` with a gradient to doc_scores (...,K)."""
    return _from_scores(doc_scores, attention_scores, "attention_scores", **options)


@options_of(_from_scores)
def fid_distillation_loss(doc_scores: Tensor, reader_scores: Tensor, **options: Unpack[DivergenceOptions]) -> Tensor:
    """:func:`ragfast.rag.methods.fid_distillation_loss` with a gradient to doc_scores (...,K)."""
    return _from_scores(doc_scores, reader_scores, "reader_scores", **options)


@options_of(_from_answers)
def replug_lsr_loss(
    doc_scores: Tensor,
    token_logprobs: Tensor,
    *,
    direction: Direction = "reverse",
    **options: Unpack[MaskedDivergenceOptions],
) -> Tensor:
    """:func:`ragfast.rag.methods.replug_lsr_loss` with a gradient to doc_scores (...,K)."""
    return _from_answers(doc_scores, token_logprobs, "token_logprobs", direction, **options)


@options_of(_marginal_nll)
def emdr2_loss(
    token_logprobs: Tensor,
    doc_scores: Tensor,
    *,
    null_score: Tensor | float | None = None,
    return_posterior: bool = False,
    **options: Unpack[MaskedMarginalOptions],
) -> Any:
    """:func:`ragfast.rag.methods.emdr2_loss` with gradients to doc_scores (B,K) and null_score; the reader is constant.

    >>> import torch, ragfast.rag.methods.torch
    >>> doc_scores = torch.zeros(1, 2, requires_grad=True)
    >>> token_logprobs = torch.log(torch.tensor([[[0.5, 0.8], [0.2, 0.4]]]))
    >>> ragfast.rag.methods.torch.emdr2_loss(token_logprobs, doc_scores).backward()
    >>> [round(x, 4) for x in doc_scores.grad[0].tolist()]
    [-0.3333, 0.3333]
    """
    reader = _tensor(token_logprobs, "token_logprobs").detach()
    return _marginal_nll(reader, doc_scores, null_score=null_score, return_posterior=return_posterior, **options)


@options_of(_marginal_nll)
def realm_nll(
    token_logprobs: Tensor,
    doc_scores: Tensor,
    *,
    null_score: Tensor | float | None,
    return_posterior: bool = False,
    **options: Unpack[MaskedMarginalOptions],
) -> Any:
    """:func:`ragfast.rag.methods.realm_nll` with gradients to token_logprobs (B,K+1,T), doc_scores and null_score."""
    return _marginal_nll(
        token_logprobs, doc_scores, null_score=null_score, return_posterior=return_posterior, **options
    )


def marginal_log_loss(
    scores: Tensor,
    correct: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Tensor:
    """:func:`ragfast.rag.methods.marginal_log_loss` with a gradient to scores (B,n).

    >>> import torch, ragfast.rag.methods.torch
    >>> scores = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    >>> loss = ragfast.rag.methods.torch.marginal_log_loss(scores, torch.tensor([[True, False, True]]))
    >>> round(loss.neg().exp().item(), 4)
    0.75
    """
    given = _tensor(scores, "scores")
    if given.ndim != 2 or given.shape[1] == 0:
        raise ValueError(f"scores: expected shape (B, n) with n of 1 or more, got {tuple(given.shape)}")
    refuse_token_mean(reduction)
    right = _bools(correct, "correct", tuple(given.shape))
    likelihood = torch.zeros(given.shape, dtype=given.dtype).masked_fill(~right, -torch.inf)
    found: Tensor = ragfast.torch.rag_sequence_nll_from_logprobs(
        likelihood[..., None], given, temperature=temperature, reduction=reduction, n_threads=n_threads
    )
    return found


def realm_reader_nll(
    span_scores: Tensor,
    doc_scores: Tensor,
    correct: Tensor,
    *,
    normalization: Normalization = "document",
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Tensor:
    """:func:`ragfast.rag.methods.realm_reader_nll` with gradients to span_scores (B,K,S) and doc_scores (B,K).

    >>> import torch, ragfast.rag.methods.torch
    >>> span_scores = torch.log(torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]))
    >>> correct = torch.tensor([[[True, False], [False, True]]])
    >>> loss = ragfast.rag.methods.torch.realm_reader_nll(span_scores, torch.zeros(1, 2), correct)
    >>> round(loss.neg().exp().item(), 4)
    0.625
    """
    arrays.one_of(normalization, "normalization", NORMALIZATIONS)
    spans, docs = _tensor(span_scores, "span_scores"), _tensor(doc_scores, "doc_scores")
    if spans.ndim != 3 or 0 in spans.shape[1:]:
        raise ValueError(f"span_scores: expected shape (B, K, S) with K and S of 1 or more, got {tuple(spans.shape)}")
    if docs.shape != spans.shape[:2]:
        raise ValueError(f"doc_scores: expected shape {tuple(spans.shape[:2])}, got {tuple(docs.shape)}")
    right = _bools(correct, "correct", tuple(spans.shape))
    refuse_token_mean(reduction)
    spans = spans.masked_fill((docs == -torch.inf).unsqueeze(-1), -torch.inf)
    if normalization == "joint":
        both = (spans + docs.unsqueeze(-1)).flatten(1)
        return marginal_log_loss(both, right.flatten(1), reduction=reduction, n_threads=n_threads)
    by_doc = marginal_log_loss(spans.flatten(0, 1), right.flatten(0, 1), reduction="none", n_threads=n_threads)
    found: Tensor = ragfast.torch.rag_sequence_nll_from_logprobs(
        -by_doc.view(*docs.shape, 1), docs, reduction=reduction, n_threads=n_threads
    )
    return found
