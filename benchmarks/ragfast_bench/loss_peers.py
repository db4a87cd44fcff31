"""The contenders of the loss benchmarks: -log p(y|x) of RAG-Sequence and RAG-Token as torch, transformers, SciPy and
NumPy calculate it, and a float64 reference.

Formulations of torch differ in how they come by token_logprobs, on which all the time goes. "Plain" ones are what
people write; those in parts keep what they make in the caches and reuse its memory, which is several times as fast;
torch.compile fuses. All take the maximum off first: exp without it overflows.

A value is the losses (B,); a value and gradient are these, the gradients of their sum by the logits, in any shape of
B K T V elements, and by doc_scores (B,K).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ragfast_bench.contest import Array, Call, array_of, difference, lse, without_autograd

PAD = 1  # of Hugging Face; no target is this
PART = 25  # rows of logits at a time, 5 MB: the fastest of 1 to 200 on a machine with 1 MB of second-level cache
SMOOTHING = 0.1

Tensor = Any  # of torch, which may be absent
Logprobs = Callable[[Tensor, Tensor], Tensor]
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Answers:
    """Made by NumPy, so that they are the same with and without torch."""

    held: NDArray[Any]  # (B,K,T,V) float32, or the bits of bfloat16 as uint16
    doc_scores: NDArray[np.float32]  # (B,K)
    targets: NDArray[np.int64]  # (B,T)

    @property
    def dtype(self) -> Dtype:
        return "float32" if self.held.dtype == np.float32 else "bfloat16"

    @property
    def logits(self) -> Any:
        """(B,K,T,V) as ragfast takes them, in the memory held here. ImportError where bfloat16 is asked for and neither
        torch nor ml_dtypes is installed."""
        if self.dtype == "float32":
            return self.held
        try:
            return self._tensor()
        except ImportError:
            import ml_dtypes

            return self.held.view(ml_dtypes.bfloat16)

    def copy(self) -> Answers:
        """With logits in memory of their own, all of it resident."""
        return replace(self, held=self.held.copy())

    def _tensor(self) -> Tensor:
        import torch

        if self.dtype == "float32":
            return torch.from_numpy(self.held)
        return torch.from_numpy(self.held.view(np.int16)).view(torch.bfloat16)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B,K,T,V), doc_scores, targets of torch, in the same memory."""
        import torch

        return self._tensor(), torch.from_numpy(self.doc_scores), torch.from_numpy(self.targets)

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B K T,V), doc_scores and the targets of these rows (B K T,)."""
        logits, doc_scores, targets = self.tensors()
        b, k, t, v = logits.shape
        return logits.view(-1, v), doc_scores, targets[:, None].expand(b, k, t).reshape(-1)

    def wide(self, b: int, k: int) -> NDArray[np.float64]:
        """The logits (T,V) of one document."""
        part: Array = self.held[b, k]
        if self.dtype == "bfloat16":
            part = (part.astype(np.uint32) << 16).view(np.float32)
        return part.astype(np.float64)


def random_answers(shape: tuple[int, int, int, int], dtype: Dtype = "float32", certain: bool = False) -> Answers:
    """certain: every target has a logit of 40, where others have a standard deviation of 3."""
    b, k, t, v = shape
    rng = np.random.default_rng(0)
    held = np.empty(shape, np.float32 if dtype == "float32" else np.uint16)
    targets = rng.integers(PAD + 1, v, (b, t))
    for i in range(b):
        for j in range(k):
            part = rng.standard_normal((t, v), np.float32)
            part *= 3
            if certain:
                part[np.arange(t), targets[i]] = 40
            held[i, j] = part if dtype == "float32" else bfloat16_bits(part)
    return Answers(held, rng.standard_normal((b, k), np.float32), targets)


def bfloat16_bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest, to even where two are as near; of finite numbers."""
    bits = x.view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


# ---- the reference


class Reference:
    """The formulas in float64 with NumPy, a document at a time."""

    def __init__(self, answers: Answers) -> None:
        b, k, t, _ = answers.held.shape
        self.answers = answers
        self.lse, self.chosen = np.empty((b, k, t)), np.empty((b, k, t))
        for i in range(b):
            for j in range(k):
                x = answers.wide(i, j)
                self.lse[i, j] = lse(x)
                self.chosen[i, j] = x[np.arange(t), answers.targets[i]]
        scores = answers.doc_scores.astype(np.float64)
        self.prior = scores - lse(scores)[:, None]

    def loss(self, by_token: bool, scored: int) -> tuple[Array, Array]:
        """Of the first `scored` tokens: losses (B,), and what log p(y_t|z) weighs in them, (B,K,T)."""
        logprobs = (self.chosen - self.lse)[:, :, :scored]
        weights = np.zeros_like(self.lse)
        if by_token:
            joint = self.prior[:, :, None] + logprobs
            found = lse(joint, 1)
            weights[:, :, :scored] = np.exp(joint - found[:, None])
            return -found.sum(-1), weights
        joint = self.prior + logprobs.sum(-1)
        total = lse(joint, 1)
        weights[:, :, :scored] = np.exp(joint - total[:, None])[:, :, None]
        return -total, weights

    def smoothed(self, scored: int) -> Array:
        """RAG-Token with label smoothing, (B,)."""
        n_docs, n_tokens, vocab = self.answers.held.shape[1:]
        nll, _ = self.loss(True, scored)
        found = (1 - SMOOTHING) * nll
        for i in range(len(nll)):
            mixture = np.zeros((n_tokens, vocab))  # of probabilities of 1e-20 and more, with these logits
            for j in range(n_docs):
                mixture += np.exp(self.answers.wide(i, j) - self.lse[i, j][:, None] + self.prior[i, j])
            found[i] -= SMOOTHING / vocab * np.log(mixture[:scored]).sum()
        return found

    def gradients(self, by_token: bool, scored: int) -> tuple[list[int], Array, Array]:
        """Some of the B K T rows of logits, their gradients (n,V), and those of doc_scores (B,K)."""
        b, k, t, vocab = self.answers.held.shape
        _, weights = self.loss(by_token, scored)
        rows, found = [], []
        for i in sorted({0, b - 1}):
            for j in range(k):
                x = self.answers.wide(i, j)
                for token in sorted({0, t - 1}):  # the last is one that Hugging Face leaves out
                    grad = np.exp(x[token] - self.lse[i, j, token])
                    grad[self.answers.targets[i, token]] -= 1
                    found.append(weights[i, j, token] * grad)
                    rows.append((i * k + j) * t + token)
        docs = weights.sum(-1) if by_token else weights[:, :, 0]
        times = scored if by_token else 1
        return rows, np.array(found).reshape(-1, vocab), times * np.exp(self.prior) - docs

    def error(
        self, by_token: bool, gradient: bool, smoothing: bool = False, skipped: int = 0
    ) -> Callable[[Any], float]:
        """Of what a contender returns. skipped: how many tokens at the end it does not score. A loss below 1 counts
        by its absolute error: where every target is certain, float32 cannot tell the loss from 0."""
        scored = self.answers.targets.shape[1] - skipped
        exact = self.smoothed(scored) if smoothing else self.loss(by_token, scored)[0]
        if not gradient:
            return lambda found: difference(found, exact, least_scale=1.0)
        rows, of_rows, of_docs = self.gradients(by_token, scored)

        def largest(found: Any) -> float:
            losses, logits_grad, docs_grad = found
            of_found = array_of(logits_grad.reshape(-1, of_rows.shape[1])[rows])
            return max(
                difference(losses, exact, least_scale=1.0),
                difference(of_found, of_rows),
                difference(docs_grad, of_docs),
            )

        return largest


# ---- torch


def marginal(by_token: bool, doc_scores: Tensor, token_logprobs: Tensor) -> Tensor:
    """(B,K) and (B K T,) -> (B,)."""
    import torch

    logprobs = token_logprobs.view(*doc_scores.shape, -1).float()
    prior = torch.log_softmax(doc_scores, -1)
    if by_token:
        return -torch.logsumexp(prior[:, :, None] + logprobs, 1).sum(-1)
    return -torch.logsumexp(prior + logprobs.sum(-1), -1)


# token_logprobs of rows: (n,V), (n,) -> (n,)


def by_log_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def by_logsumexp(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def by_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    import torch

    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def by_hand(logits: Tensor, targets: Tensor) -> Tensor:
    top = logits.amax(-1, keepdim=True)
    rest = (logits - top).exp_().sum(-1).log_()
    return logits.gather(-1, targets[:, None])[:, 0] - top[:, 0] - rest


PLAIN: dict[str, Logprobs] = {
    "torch log_softmax, gather": by_log_softmax,
    "torch gather - logsumexp": by_logsumexp,
    "torch cross_entropy": by_cross_entropy,
    "torch max, exp, sum": by_hand,
}


def loss_of(by_token: bool, logprobs: Logprobs, logits: Tensor, doc_scores: Tensor, targets: Tensor) -> Tensor:
    return marginal(by_token, doc_scores, logprobs(logits, targets))


def plain(logprobs: Logprobs, answers: Answers, by_token: bool) -> Call:

    rows = answers.rows()

    def value() -> Tensor:
        return loss_of(by_token, logprobs, *rows)

    return without_autograd(value)


def per_document(answers: Answers, by_token: bool) -> Call:
    """A plain formulation of one document at a time: what it makes is then small enough for the allocator to reuse."""
    import torch

    logits, doc_scores, targets = answers.rows()
    n_tokens = answers.targets.shape[1]

    def value() -> Tensor:
        both = zip(logits.split(n_tokens), targets.split(n_tokens), strict=True)
        return marginal(by_token, doc_scores, torch.cat([by_cross_entropy(x, y) for x, y in both]))

    return without_autograd(value)


def in_parts(answers: Answers, by_token: bool) -> Call:
    """log_softmax of some rows at a time into one buffer; 16-bit logits are widened on the way, as ours are."""
    import torch

    logits, doc_scores, targets = answers.rows()
    buffer = torch.empty(PART, logits.shape[1])
    out = torch.empty(len(logits))

    def value() -> Tensor:
        for first in range(0, len(logits), PART):
            rows, part = logits[first : first + PART], buffer[: len(logits) - first]
            if rows.dtype != torch.float32:
                rows = part.copy_(rows)
            torch.log_softmax(rows, -1, out=part)
            torch.gather(part, -1, targets[first : first + PART, None], out=out[first : first + PART, None])
        return marginal(by_token, doc_scores, out)

    return without_autograd(value)


def compiled(logprobs: Logprobs, answers: Answers, by_token: bool) -> Call:
    import torch

    rows = answers.rows()
    loss = torch.compile(partial(loss_of, by_token, logprobs))

    def value() -> Tensor:
        return loss(*rows)

    call = without_autograd(value)
    call()  # compiles, or says here why it cannot
    return call


def smoothed(answers: Answers, by_token: bool) -> Call:
    """RAG-Token with label smoothing: the mixture of the documents at every word."""
    import torch

    assert by_token
    logits, doc_scores, targets = answers.tensors()

    def value() -> Tensor:
        prior = torch.log_softmax(doc_scores, -1)[:, :, None, None]
        mixture = torch.logsumexp(torch.log_softmax(logits, -1) + prior, 1)  # (B,T,V)
        chosen = mixture.gather(-1, targets[:, :, None])[..., 0].sum(-1)
        return -(1 - SMOOTHING) * chosen - SMOOTHING * mixture.mean(-1).sum(-1)

    return without_autograd(value)


def with_autograd(loss: Callable[[Tensor, Tensor, Tensor], Tensor], answers: Answers) -> Call:
    import torch

    logits, doc_scores, targets = answers.rows()
    leaves = logits.detach().requires_grad_(), doc_scores.detach().requires_grad_()

    def value_and_grad() -> Any:
        nll = loss(*leaves, targets)
        return nll.detach(), *torch.autograd.grad(nll.sum(), leaves)

    return value_and_grad


def plain_gradient(logprobs: Logprobs, answers: Answers, by_token: bool) -> Call:
    return with_autograd(partial(loss_of, by_token, logprobs), answers)


def compiled_gradient(logprobs: Logprobs, answers: Answers, by_token: bool) -> Call:
    import torch

    call = with_autograd(torch.compile(partial(loss_of, by_token, logprobs)), answers)
    call()
    return call


def gradient_in_parts(answers: Answers, by_token: bool, new_memory: bool) -> Call:
    """The gradient that autograd would find, written out: softmax of some rows at a time, times what log p(y_t|z)
    weighs. The rows of a query are looked at again while they may still be in the caches."""
    import torch

    b, k, t, _ = answers.held.shape
    logits, doc_scores, targets = answers.rows()
    held = None if new_memory else logits.clone()

    def value_and_grad() -> Any:
        grad = torch.empty_like(logits) if held is None else held
        prior = torch.log_softmax(doc_scores, -1)
        nll, docs_grad = torch.empty(b), torch.empty(b, k)
        for i in range(b):
            first, last = i * k * t, (i + 1) * k * t
            target = targets[first:last, None]
            for start in range(first, last, PART):
                end = min(start + PART, last)
                torch.softmax(logits[start:end], -1, out=grad[start:end])
            rows = grad[first:last]
            logprobs = rows.gather(-1, target).float().log_().view(k, t)
            if by_token:
                joint = prior[i][:, None] + logprobs
                total = torch.logsumexp(joint, 0)
                posterior = (joint - total).exp_()
                nll[i] = -total.sum()
                docs_grad[i] = t * prior[i].exp() - posterior.sum(-1)
            else:
                joint = prior[i] + logprobs.sum(-1)
                nll[i] = -torch.logsumexp(joint, 0)
                posterior = (joint + nll[i]).exp_()[:, None].expand(k, t)
                docs_grad[i] = prior[i].exp() - posterior[:, 0]
            weights = posterior.reshape(-1, 1).to(grad.dtype)
            rows.mul_(weights).scatter_add_(-1, target, -weights)
        return nll, grad, docs_grad

    return without_autograd(value_and_grad)


# ---- Hugging Face


HF_NOTE = "scores T - 1 of the T tokens: get_nll shifts the targets itself and pads the last"


def hugging_face(answers: Answers, by_token: bool, gradient: bool = False, epsilon: float = 0.0) -> Call:
    """get_nll, called without a model. It drops the first of the targets and pads the last, so that of ours it scores
    all but the last."""
    import torch
    from transformers.models.rag.modeling_rag import RagSequenceForGeneration, RagTokenForGeneration

    cls = RagTokenForGeneration if by_token else RagSequenceForGeneration
    b, k, t, v = answers.held.shape
    logits, doc_scores, targets = answers.tensors()
    shifted = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
    generator = SimpleNamespace(pad_token_id=PAD, bos_token_id=0)
    model = SimpleNamespace(config=SimpleNamespace(n_docs=k, bos_token_id=0, generator=generator))
    model.marginalize = partial(RagTokenForGeneration.marginalize, model)
    flat = logits.view(b * k, t, v)

    def value() -> Any:
        with torch.inference_mode():
            return cls.get_nll(model, flat, doc_scores, shifted, epsilon=epsilon)

    def value_and_grad() -> Any:
        leaves = flat.detach().requires_grad_(), doc_scores.detach().requires_grad_()
        nll = cls.get_nll(model, *leaves, shifted)
        return nll.detach(), *torch.autograd.grad(nll.sum(), leaves)

    return value_and_grad if gradient else value


# ---- NumPy, SciPy


def _of_arrays(answers: Answers, by_token: bool, logsumexp: Callable[..., Any]) -> Call:
    """logsumexp (x, axis) of arrays; bfloat16 would take NumPy seconds, each element being converted alone."""
    assert answers.dtype == "float32"
    logits, doc_scores, targets = answers.held, answers.doc_scores, answers.targets

    def value() -> Any:
        chosen = np.take_along_axis(logits, targets[:, None, :, None], -1)[..., 0]
        logprobs = chosen - logsumexp(logits, axis=-1)
        prior = doc_scores - logsumexp(doc_scores, axis=-1)[:, None]
        if by_token:
            return -logsumexp(prior[:, :, None] + logprobs, axis=1).sum(-1)
        return -logsumexp(prior + logprobs.sum(-1), axis=-1)

    return value


def with_numpy(answers: Answers, by_token: bool) -> Call:
    return _of_arrays(answers, by_token, lse)


def with_scipy(answers: Answers, by_token: bool) -> Call:
    from scipy.special import logsumexp

    return _of_arrays(answers, by_token, logsumexp)
