"""-log p(y|x) and its gradients from logits (B,K,T,V), beside torch, transformers, SciPy and NumPy.

Like is held against like: RAG-Sequence apart from RAG-Token, and a gradient into new memory, as autograd leaves it,
apart from one into memory that is there already: 200 MB of new memory cost more than the gradient itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, get_args

import ragfast
from ragfast_bench import contest, loss_peers as peers
from ragfast_bench.contest import Call, Contender, Question
from ragfast_bench.loss_peers import Answers, Dtype, Reference
from ragfast_bench.results import Machine, Task
from ragfast_bench.sections import LeaveOut, Say, Settings, floor

NAME = "loss"
TITLE = "From logits to the loss, and back"

Shape = tuple[int, int, int, int]
Asked = Literal["value", "value and gradient", "gradient into a buffer"]

QUICK: Shape = (2, 5, 8, 50_265)
WHOLE: Shape = (8, 5, 25, 50_265)  # of BART's vocabulary
SMALLER: Shape = (2, 5, 25, 50_265)
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}

COMPILING = "compiling takes long: in the full size"
SLOW = "takes as long as others of its kind: in the full size"
NO_BFLOAT16 = "has no bfloat16"
IN_PLACE = "on its own logits, which are a gradient after the first call"


def shape_of(settings: Settings) -> Shape:
    return settings.pick(QUICK, WHOLE, WHOLE)


def dtypes_of(settings: Settings) -> tuple[Dtype, ...]:
    both: tuple[Dtype, ...] = get_args(Dtype)
    return settings.pick(both[:1], both, both)


# ---- ours


def our_loss(by_token: bool) -> Callable[..., Any]:
    return ragfast.rag_token_nll if by_token else ragfast.rag_sequence_nll


def our_value(answers: Answers, by_token: bool, **options: Any) -> Call:
    return partial(our_loss(by_token), answers.logits, answers.doc_scores, answers.targets, reduction="none", **options)


def our_gradient(answers: Answers, by_token: bool, where: Literal["new memory", "buffer", "in place"]) -> Call:
    loss = our_loss(by_token)
    own = answers if where == "new memory" else answers.copy()
    logits = own.logits if where == "in place" else answers.logits
    out = None if where == "new memory" else own.logits

    def value_and_grad() -> Any:
        found = loss(
            logits,
            answers.doc_scores,
            answers.targets,
            reduction="none",
            grad=("logits", "doc_scores"),
            out=out,
        )
        return found.loss, found.logits_grad, found.doc_scores_grad

    return value_and_grad


def our_autograd(answers: Answers, by_token: bool, inplace: bool = False) -> Call:
    import torch

    import ragfast.torch

    loss = ragfast.torch.rag_token_nll if by_token else ragfast.torch.rag_sequence_nll
    logits, doc_scores, targets = (answers.copy() if inplace else answers).tensors()
    leaves = logits.requires_grad_(), doc_scores.detach().requires_grad_()

    def value_and_grad() -> Any:
        given = leaves[0].view_as(leaves[0]) if inplace else leaves[0]  # a leaf itself must not be overwritten
        nll = loss(given, leaves[1], targets, reduction="none", inplace=inplace)
        return nll.detach(), *torch.autograd.grad(nll.sum(), leaves)

    return value_and_grad


# ---- who takes part

COMPILED = {"log_softmax, gather": peers.by_log_softmax, "gather - logsumexp": peers.by_logsumexp}
CERTAIN = ("torch log_softmax, gather", "torch cross_entropy")


def contenders(
    answers: Answers, reference: Reference | None, by_token: bool, asked: Asked, settings: Settings
) -> list[Contender]:
    """reference: by which Hugging Face's value is judged; None where nobody judges."""
    hf_error = reference.error(by_token, asked != "value", skipped=1) if reference else None
    of_hf = partial(peers.hugging_face, answers, by_token)
    compiling = settings.pick(COMPILING, COMPILING, "")
    # In the default size every formulation takes part with float32 and RAG-Sequence; they differ in log p(y_t|z) alone,
    # so that elsewhere the faster ones will do.
    later = SLOW if settings.size == "default" and (by_token or answers.dtype == "bfloat16") else ""
    slow_ways = (peers.by_logsumexp, peers.by_hand if asked == "value" else peers.by_log_softmax)

    if asked == "value":
        of_arrays = "" if answers.dtype == "float32" else NO_BFLOAT16
        return [
            Contender("ragfast", partial(our_value, answers, by_token), ours=True),
            *(
                Contender(
                    name,
                    partial(peers.plain, way, answers, by_token),
                    left_out=later if way in slow_ways else "",
                )
                for name, way in peers.PLAIN.items()
            ),
            Contender("torch cross_entropy, a document at a time", partial(peers.per_document, answers, by_token)),
            Contender("torch log_softmax in parts, one buffer", partial(peers.in_parts, answers, by_token)),
            *(
                Contender(f"torch.compile of {of}", partial(peers.compiled, way, answers, by_token), left_out=compiling)
                for of, way in COMPILED.items()
            ),
            Contender("Hugging Face get_nll", of_hf, note=peers.HF_NOTE, error=hf_error),
            Contender("SciPy logsumexp", partial(peers.with_scipy, answers, by_token), left_out=of_arrays or later),
            Contender("NumPy max, exp, sum", partial(peers.with_numpy, answers, by_token), left_out=of_arrays),
        ]
    ours = partial(our_gradient, answers, by_token)
    if asked == "gradient into a buffer":
        return [
            Contender("ragfast, into a buffer", partial(ours, "buffer"), ours=True),
            Contender("ragfast, in place", partial(ours, "in place"), ours=True, note=IN_PLACE),
            Contender(
                "ragfast.torch autograd, in place",
                partial(our_autograd, answers, by_token, inplace=True),
                ours=True,
                note=IN_PLACE,
            ),
            Contender(
                "torch softmax in parts, into a buffer", partial(peers.gradient_in_parts, answers, by_token, False)
            ),
        ]
    return [
        Contender("ragfast, new memory", partial(ours, "new memory"), ours=True),
        Contender("ragfast.torch autograd", partial(our_autograd, answers, by_token), ours=True),
        *(
            Contender(
                f"{name}, autograd",
                partial(peers.plain_gradient, way, answers, by_token),
                left_out=later if way in slow_ways else "",
            )
            for name, way in peers.PLAIN.items()
            if way is not peers.by_hand  # which overwrites what autograd needs
        ),
        Contender("torch softmax in parts", partial(peers.gradient_in_parts, answers, by_token, True)),
        *(
            Contender(
                f"torch.compile of {of}, autograd",
                partial(peers.compiled_gradient, way, answers, by_token),
                left_out=compiling,
            )
            for of, way in COMPILED.items()
        ),
        Contender("Hugging Face get_nll, autograd", partial(of_hf, gradient=True), note=peers.HF_NOTE, error=hf_error),
    ]


def certain_contenders(answers: Answers) -> list[Contender]:
    """Of RAG-Sequence where every target is nearly certain, so that ours sums rows in float64."""
    return [
        Contender("ragfast", partial(our_value, answers, False), ours=True),
        *(Contender(name, partial(peers.plain, peers.PLAIN[name], answers, False)) for name in CERTAIN),
        Contender("torch log_softmax in parts, one buffer", partial(peers.in_parts, answers, False)),
    ]


def smoothed_contenders(answers: Answers, reference: Reference) -> list[Contender]:
    """Of RAG-Token with label smoothing, which mixes the documents at every word."""
    of_hf = partial(peers.hugging_face, answers, True, epsilon=peers.SMOOTHING)
    return [
        Contender("ragfast", partial(our_value, answers, True, label_smoothing=peers.SMOOTHING), ours=True),
        Contender("torch log_softmax, logsumexp", partial(peers.smoothed, answers, True)),
        Contender(
            "Hugging Face get_nll",
            of_hf,
            note=peers.HF_NOTE,
            error=reference.error(True, False, smoothing=True, skipped=1),
        ),
    ]


# ---- the section


def planned(settings: Settings) -> int:
    return len(get_args(Asked)) * sum(len(variants_of(settings, dtype)) for dtype in dtypes_of(settings)) + 2


def variants_of(settings: Settings, dtype: Dtype) -> tuple[tuple[bool, str], ...]:
    """Whether by token, and the name. In bfloat16 the two differ by nothing that float32 does not show."""
    both = ((False, "RAG-Sequence"), (True, "RAG-Token"))
    return both if dtype == "float32" or settings.size == "full" else both[:1]


def letters(shape: Shape) -> dict[str, int]:
    return dict(zip("BKTV", shape, strict=True))


def measure(settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
    for dtype in dtypes_of(settings):
        try:
            yield from of_dtype(dtype, settings, machine, say)
        except NoBFloat16:
            leave_out("loss of bfloat16 logits", "neither torch nor ml_dtypes is installed")
    yield from slow_path(settings, machine, say)


class NoBFloat16(Exception):
    """No installed library has the type."""


def of_dtype(dtype: Dtype, settings: Settings, machine: Machine, say: Say) -> Iterator[Task]:
    shape = shape_of(settings)
    say(f"making {dtype} logits and the reference")
    answers = peers.random_answers(shape, dtype)
    try:
        n_bytes = answers.held.nbytes
        answers.logits  # noqa: B018  # asks whether there is the type
    except ImportError:
        raise NoBFloat16 from None
    reference = Reference(answers)
    every: tuple[Asked, ...] = get_args(Asked)
    for asked in every:
        for by_token, variant in variants_of(settings, dtype):
            question = Question(
                section=NAME,
                name=f"{variant}, {asked}, {dtype}",
                shape=letters(shape),
                error=reference.error(by_token, asked != "value"),
                tolerance=TOLERANCE[dtype],
                floor=floor(machine, bytes=n_bytes if asked == "value" else 2 * n_bytes, held=n_bytes),
            )
            taking_part = contenders(answers, reference, by_token, asked, settings)
            seconds, least = seconds_of(settings), least_of(settings, asked)
            yield contest.measured(question, taking_part, settings, say, seconds, least)


def seconds_of(settings: Settings) -> float:
    return settings.pick(0.25, 1.0, 10.0)


def least_of(settings: Settings, asked: Asked) -> int:
    """Calls of each; Hugging Face's take a second."""
    return settings.pick(1, 3 if asked == "gradient into a buffer" else 1, 3)


def slow_path(settings: Settings, machine: Machine, say: Say) -> Iterator[Task]:
    """What leaves our fast path."""
    shape = settings.pick(QUICK, SMALLER, WHOLE)
    for certain in (True, False):
        answers = peers.random_answers(shape, certain=certain)
        reference = Reference(answers)
        question = Question(
            section=NAME,
            name="RAG-Sequence, value, every target certain" if certain else "RAG-Token, value, label smoothing",
            shape=letters(shape),
            error=reference.error(not certain, False, smoothing=not certain),
            tolerance=TOLERANCE["float32"],
            floor=floor(machine, bytes=answers.held.nbytes, held=answers.held.nbytes),
        )
        taking_part = certain_contenders(answers) if certain else smoothed_contenders(answers, reference)
        yield contest.measured(question, taking_part, settings, say, settings.pick(0.3, 1.0, 10.0))
