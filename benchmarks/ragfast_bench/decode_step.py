"""A step of decoding RAG-Token, for some beams: the mixture of the documents' next tokens, and its best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ragfast
from ragfast_bench import contest
from ragfast_bench.contest import Array, Call, Contender, Question, lse, without_autograd
from ragfast_bench.results import Machine, Task
from ragfast_bench.sections import LeaveOut, Say, Settings, floor

NAME = "step"
TITLE = "A step of decoding RAG-Token"

BEAMS = (1, 4, 16)
N_DOCS = 5
VOCAB = 50_265  # of BART
TOLERANCE = 1e-5

Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]  # logits (beams,K,V), log p(z|x) (beams,K)


def planned(settings: Settings) -> int:
    return 2 * len(BEAMS)


def random_step(beams: int, n_docs: int = N_DOCS, vocab: int = VOCAB) -> Arrays:
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((beams, n_docs, vocab), np.float32)
    scores = rng.standard_normal((beams, n_docs), np.float32)
    return logits, scores - lse(scores)[:, None]


def exact_step(logits: Array, prior: Array) -> Array:
    """(beams,V) in float64."""
    x = logits.astype(np.float64)
    return lse(x - lse(x)[..., None] + prior.astype(np.float64)[..., None], -2)


# ---- peers: to log p'(v) (beams,V)


def torch_tensors(arrays: Arrays) -> Any:
    import torch

    return tuple(map(torch.from_numpy, arrays))


def torch_mixture(arrays: Arrays) -> Call:
    import torch

    logits, prior = torch_tensors(arrays)

    def step() -> Any:
        return torch.logsumexp(torch.log_softmax(logits, -1) + prior[..., None], -2)

    return without_autograd(step)


def torch_probabilities(arrays: Arrays) -> Call:
    import torch

    logits, prior = torch_tensors(arrays)

    def step() -> Any:
        return torch.matmul(prior.exp()[..., None, :], torch.softmax(logits, -1))[..., 0, :].log_()

    return without_autograd(step)


def hugging_face(arrays: Arrays) -> Call:
    """What transformers' RagTokenForGeneration decodes by."""
    from transformers.models.rag.modeling_rag import RagTokenForGeneration

    logits, prior = torch_tensors(arrays)
    beams, n_docs, vocab = logits.shape
    flat = logits.view(beams * n_docs, 1, vocab)
    model = SimpleNamespace(config=SimpleNamespace(n_docs=n_docs))
    return without_autograd(lambda: RagTokenForGeneration.marginalize(model, flat, prior)[:, 0])


def torch_compiled(arrays: Arrays) -> Call:
    import torch

    logits, prior = torch_tensors(arrays)

    def mixture(logits: Any, prior: Any) -> Any:
        return torch.logsumexp(torch.log_softmax(logits, -1) + prior[..., None], -2)

    compiled = torch.compile(mixture)

    def step() -> Any:
        return compiled(logits, prior)

    call = without_autograd(step)
    call()  # compiles, or says here why it cannot
    return call


def numpy_mixture(arrays: Arrays) -> Call:
    logits, prior = arrays
    return lambda: lse(logits - lse(logits)[..., None] + prior[..., None], -2)


def numpy_best(arrays: Arrays, n_best: int) -> Call:
    mixture = numpy_mixture(arrays)

    def step() -> Any:
        found = mixture()
        tokens = np.argpartition(-found, n_best, axis=-1)[:, :n_best]
        order = np.argsort(-np.take_along_axis(found, tokens, -1), axis=-1, kind="stable")
        tokens = np.take_along_axis(tokens, order, -1)
        return np.take_along_axis(found, tokens, -1), tokens

    return step


def torch_best(mixture: Callable[[Arrays], Call], arrays: Arrays, n_best: int) -> Call:
    import torch

    step = mixture(arrays)

    def best() -> Any:
        return torch.topk(step(), n_best)

    return best


UNDERFLOWS = "gives -inf where p is below 1e-45"


def contenders(arrays: Arrays, n_best: int | None, full: bool) -> list[Contender]:
    compiling = "" if full else "compiling takes long: in the full size"
    ours = partial(ragfast.marginalize_step, *arrays, n_best=n_best)
    if n_best is None:
        return [
            Contender("ragfast", lambda: ours, ours=True),
            Contender("torch log_softmax, logsumexp", partial(torch_mixture, arrays)),
            Contender("torch softmax, matmul, log", partial(torch_probabilities, arrays), note=UNDERFLOWS),
            Contender("torch.compile", partial(torch_compiled, arrays), left_out=compiling),
            Contender("Hugging Face marginalize", partial(hugging_face, arrays)),
            Contender("NumPy max, exp, sum", partial(numpy_mixture, arrays)),
        ]
    by_torch = partial(partial, torch_best)
    return [
        Contender("ragfast", lambda: ours, ours=True),
        Contender("torch log_softmax, logsumexp, topk", by_torch(torch_mixture, arrays, n_best)),
        Contender("torch softmax, matmul, log, topk", by_torch(torch_probabilities, arrays, n_best), note=UNDERFLOWS),
        Contender("torch.compile, topk", by_torch(torch_compiled, arrays, n_best), left_out=compiling),
        Contender("NumPy max, exp, sum, argpartition", partial(numpy_best, arrays, n_best)),
    ]


def best_error(exact: Array, n_best: int, found: Any) -> float:
    """Of values and of what the tokens are worth; two tokens whose values differ by a rounding may change places."""
    best = -np.sort(-exact, axis=-1)[:, :n_best]
    found_values, tokens = found
    worth = np.take_along_axis(exact, np.asarray(tokens), -1)
    return max(contest.difference(found_values, best), contest.difference(worth, best))


def measure(settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
    for beams in BEAMS:
        arrays = random_step(beams)
        exact = exact_step(*arrays)
        for n_best in (None, 2 * beams):
            what = "every token" if n_best is None else f"the best {n_best}"
            error = partial(contest.difference, exact=exact) if n_best is None else partial(best_error, exact, n_best)
            n_bytes = arrays[0].nbytes + (exact.size * 4 if n_best is None else 0)
            question = Question(
                section=NAME,
                name=f"{beams} beam{'s' * (beams > 1)}, {what}",
                shape={"B": beams, "K": N_DOCS, "V": VOCAB},
                error=error,
                tolerance=TOLERANCE,
                floor=floor(machine, bytes=n_bytes, held=n_bytes),
            )
            taking_part = contenders(arrays, n_best, settings.size == "full")
            yield contest.measured(question, taking_part, settings, say, settings.pick(0.25, 0.8, 5.0))
