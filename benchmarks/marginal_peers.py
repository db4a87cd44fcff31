"""The contenders of the marginalization benchmarks: -log p(y|x) of RAG-Sequence as torch and transformers calculate it.

Formulations of torch differ in how they come by token_logprobs, on which all the time goes. "Plain" ones are what
people write; those in parts keep what they make in the caches and reuse its memory, which is several times as fast;
torch.compile fuses. All take the maximum off first: exp without it overflows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

PAD = 1  # of Hugging Face; no target is this
PART = 25  # rows of logits at a time, 5 MB: the fastest of 1 to 200 here

Tensor = torch.Tensor


@dataclass(frozen=True)
class Answers:
    logits: Tensor  # (B,K,T,V)
    doc_scores: Tensor  # (B,K) float32
    targets: Tensor  # (B,T)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Logits (B K T,V) and their targets."""
        b, k, t, v = self.logits.shape
        return self.logits.view(-1, v), self.targets[:, None].expand(b, k, t).reshape(-1)


def random_answers(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> Answers:
    b, k, t, v = shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(shape, dtype=dtype).normal_(0, 3, generator=generator)
    doc_scores = torch.randn(b, k, generator=generator)
    return Answers(logits, doc_scores, torch.randint(PAD + 1, v, (b, t), generator=generator))


def marginal(doc_scores: Tensor, token_logprobs: Tensor) -> Tensor:
    """RAG-Sequence, (B,K) and (B K T,) -> (B,)."""
    by_doc = token_logprobs.view(*doc_scores.shape, -1).float().sum(-1)
    return -torch.logsumexp(F.log_softmax(doc_scores, -1) + by_doc, -1)


# ---- token_logprobs of rows: (n,V), (n,) -> (n,)


def by_log_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    return F.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]


def by_logsumexp(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(-1, targets[:, None])[:, 0] - torch.logsumexp(logits, -1)


def by_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(logits, targets, reduction="none")


def by_hand(logits: Tensor, targets: Tensor) -> Tensor:
    top = logits.amax(-1, keepdim=True)
    rest = (logits - top).exp_().sum(-1).log_()
    return logits.gather(-1, targets[:, None])[:, 0] - top[:, 0] - rest


PLAIN = {
    "log_softmax, gather": by_log_softmax,
    "gather - logsumexp": by_logsumexp,
    "cross_entropy": by_cross_entropy,
    "max, exp, sum": by_hand,
}


def in_parts(answers: Answers) -> Callable[[], Tensor]:
    """log_softmax of some rows at a time into one buffer; 16-bit logits are widened on the way, as ours are."""
    logits, targets = answers.rows
    buffer = torch.empty(PART, logits.shape[1])
    out = torch.empty(len(logits))

    @torch.inference_mode()
    def value() -> Tensor:
        for first in range(0, len(logits), PART):
            rows, part = logits[first : first + PART], buffer[: len(logits) - first]
            if rows.dtype != torch.float32:
                rows = part.copy_(rows)
            torch.log_softmax(rows, -1, out=part)
            torch.gather(part, -1, targets[first : first + PART, None], out=out[first : first + PART, None])
        return marginal(answers.doc_scores, out)

    return value


def per_document(answers: Answers, logprobs: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
    """A plain formulation of one document at a time: what it makes is then small enough for the allocator to reuse."""
    n_tokens = answers.targets.shape[1]

    @torch.inference_mode()
    def value() -> Tensor:
        parts = [logprobs(x, y) for x, y in zip(*(rows.split(n_tokens) for rows in answers.rows), strict=True)]
        return marginal(answers.doc_scores, torch.cat(parts))

    return value


def loss_of(
    logprobs: Callable[[Tensor, Tensor], Tensor], logits: Tensor, doc_scores: Tensor, targets: Tensor
) -> Tensor:
    return marginal(doc_scores, logprobs(logits, targets))


def torch_values(answers: Answers, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    logits, targets = answers.rows

    def of(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def value() -> Tensor:
            return loss(logits, answers.doc_scores, targets)

        return value

    calls = {f"torch {name}": of(partial(loss_of, logprobs)) for name, logprobs in PLAIN.items()}
    calls["torch cross_entropy, a document at a time"] = per_document(answers, by_cross_entropy)
    calls["torch log_softmax in parts, one buffer"] = in_parts(answers)
    if compiled:
        calls["torch.compile"] = of(torch.compile(partial(loss_of, by_logsumexp)))
    return calls


# ---- with gradients


def with_autograd(loss: Callable[[Tensor, Tensor, Tensor], Tensor], answers: Answers) -> Callable[[], Any]:
    flat, targets = answers.rows
    logits, doc_scores = flat.detach().requires_grad_(), answers.doc_scores.detach().requires_grad_()

    def value_and_grad() -> Any:
        nll = loss(logits, doc_scores, targets)
        return nll.detach(), *torch.autograd.grad(nll.mean(), (logits, doc_scores))

    return value_and_grad


def grad_in_parts(answers: Answers) -> Callable[[], Any]:
    """The gradient that autograd would find, written out: softmax of some rows at a time, times what the document
    weighs. The rows of a query are looked at again while they may still be in the caches."""
    b, k, t, _ = answers.logits.shape
    logits, targets = answers.rows
    grad = torch.zeros_like(logits)

    @torch.inference_mode()
    def value_and_grad() -> Any:
        prior = F.log_softmax(answers.doc_scores, -1)
        nll, docs_grad = torch.empty(b), torch.empty(b, k)
        for i in range(b):
            first, last = i * k * t, (i + 1) * k * t
            target = targets[first:last, None]
            for start in range(first, last, PART):
                torch.softmax(logits[start : start + PART], -1, out=grad[start : start + PART])
            rows = grad[first:last]
            joint = prior[i] + rows.gather(-1, target).float().log_().view(k, t).sum(-1)
            nll[i] = -torch.logsumexp(joint, 0)
            posterior = (joint + nll[i]).exp_()
            docs_grad[i] = (prior[i].exp() - posterior) / b
            weights = (posterior / b).repeat_interleave(t)[:, None].to(grad.dtype)
            rows.mul_(weights).scatter_add_(-1, target, -weights)
        return nll, grad, docs_grad

    return value_and_grad


def torch_grads(answers: Answers, compiled: bool) -> dict[str, Callable[[], Any]]:
    calls = {
        f"torch {name}, autograd": with_autograd(partial(loss_of, logprobs), answers)
        for name, logprobs in PLAIN.items()
        if logprobs is not by_hand
    }
    calls["torch softmax in parts, into one gradient"] = grad_in_parts(answers)
    if compiled:
        calls["torch.compile, autograd"] = with_autograd(torch.compile(partial(loss_of, by_logsumexp)), answers)
    return calls


# ---- Hugging Face


def hugging_face(answers: Answers) -> dict[str, Callable[[], Any]] | str:
    """{name: nll (B,), and with its gradients} of get_nll, called without a model; or why not. It shifts the targets
    left itself and pads the last, so that of T it scores T - 1."""
    try:
        from transformers.models.rag.modeling_rag import RagSequenceForGeneration, RagTokenForGeneration
    except ImportError as error:
        return str(error)
    b, k, t, v = answers.logits.shape
    generator = SimpleNamespace(pad_token_id=PAD, bos_token_id=0)
    model = SimpleNamespace(config=SimpleNamespace(n_docs=k, bos_token_id=0, generator=generator))
    model.marginalize = partial(RagTokenForGeneration.marginalize, model)
    flat = answers.logits.view(b * k, t, v)

    def value(cls: Any) -> Any:
        with torch.no_grad():
            return cls.get_nll(model, flat, answers.doc_scores, answers.targets)

    def value_and_grad(cls: Any) -> Any:
        logits, doc_scores = flat.detach().requires_grad_(), answers.doc_scores.detach().requires_grad_()
        nll = cls.get_nll(model, logits, doc_scores, answers.targets)
        return nll.detach(), *torch.autograd.grad(nll.mean(), (logits, doc_scores))

    classes = {"RagSequence": RagSequenceForGeneration, "RagToken": RagTokenForGeneration}
    calls = {f"Hugging Face {name}": partial(value, cls) for name, cls in classes.items()}
    return calls | {f"Hugging Face {name}, gradient": partial(value_and_grad, cls) for name, cls in classes.items()}


# ---- one read of memory


def reads(tensor: Tensor, threads: int, pool: Any) -> dict[str, Callable[[], Any]]:
    """Ways of reading it once; the fastest is what this machine can do."""
    flat = tensor.detach().view(-1)
    words = flat[: len(flat) // 2 * 2].view(torch.int32).numpy()
    parts = np.array_split(words, threads)

    def by_numpy(reduce: Any, dtype: Any) -> Callable[[], Any]:
        views = [part[: len(part) // 2 * 2].view(dtype) for part in parts]
        return lambda: list(pool.map(reduce, views)) if threads > 1 else reduce(views[0])

    floats = torch.from_numpy(words).view(torch.float32)
    return {
        "numpy or of int32": by_numpy(np.bitwise_or.reduce, np.int32),
        "numpy or of int64": by_numpy(np.bitwise_or.reduce, np.int64),
        "numpy max of float32": by_numpy(np.maximum.reduce, np.float32),
        "torch sum": lambda: floats.sum(),
        "torch aminmax": lambda: floats.aminmax(),
    }
