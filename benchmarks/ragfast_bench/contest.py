"""Tasks whose contenders each return a value, which is held against a reference that none of them calculated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast_bench import timing
from ragfast_bench.results import Floor, Result, Task
from ragfast_bench.sections import Say, Settings

Call = Callable[[], Any]
Array = NDArray[Any]

NOT_INSTALLED = "not installed"
WRONG = "WRONG"
LONG = 0.1  # seconds of a call that is not repeated to learn how long it takes


@dataclass(frozen=True)
class Contender:
    name: str
    build: Callable[[], Call]  # imports its library, makes what the call needs beside the question's own data
    ours: bool = False
    exact: bool = True
    note: str = ""
    error: Callable[[Any], float] | None = None  # where it answers a slightly different question
    left_out: str = ""  # why it does not take part this time


@dataclass(frozen=True)
class Question:
    """A task but for its contenders. error: of what a call returned, the largest difference from the reference,
    relative to the largest value; above `tolerance` a contender is marked as wrong."""

    section: str
    name: str
    shape: Mapping[str, int]
    error: Callable[[Any], float]
    tolerance: float
    data: str = ""
    floor: Floor | None = None
    ids: bool = False  # what is found are documents: the error is the part of the exact ones that is missing


def built(contenders: Iterable[Contender], settings: Settings) -> tuple[dict[Contender, Call], dict[str, str]]:
    """Those that take part and their calls; and {name: reason} of those that do not. Ours must not fail."""
    calls: dict[Contender, Call] = {}
    left_out: dict[str, str] = {}
    for contender in contenders:
        if not contender.ours and not settings.wants(contender.name):
            continue
        if contender.left_out:
            left_out[contender.name] = contender.left_out
            continue
        try:
            calls[contender] = contender.build()
        except ImportError:
            left_out[contender.name] = NOT_INSTALLED
        except Exception as error:  # a peer that is broken here costs only itself
            if contender.ours:
                raise
            left_out[contender.name] = failed(error)
    return calls, left_out


def failed(error: Exception) -> str:
    return f"failed: {(str(error).strip() or repr(error)).splitlines()[0]}"


def measured(
    question: Question,
    contenders: Iterable[Contender],
    settings: Settings,
    say: Say,
    seconds: float,
    least: int = 3,
) -> Task:
    """Each contender's first value is checked; then they take turns."""
    say(question.name)
    calls, left_out = built(contenders, settings)
    errors: dict[Contender, float] = {}
    firsts: dict[str, float] = {}
    for who, call in calls.items():
        try:
            start = time.perf_counter()
            value = call()
            taken = time.perf_counter() - start
        except Exception as error:  # a peer that is broken here costs only itself
            if who.ours:
                raise
            left_out[who.name] = failed(error)
            continue
        errors[who] = (who.error or question.error)(value)
        del value  # before the next contender's, which may be as large as memory bears
        if taken > LONG:
            firsts[who.name] = taken
    load = timing.OtherLoad()
    times = timing.in_turns({who.name: calls[who] for who in errors}, seconds, least, firsts=firsts)
    found = tuple(
        Result(
            contender=who.name,
            ours=who.ours,
            exact=who.exact,
            times=times[who.name],
            recall=1 - error if question.ids else None,
            error=None if question.ids else error,
            floor=question.floor,
            note=noted(who.note, error, question.tolerance),
        )
        for who, error in errors.items()
    )
    return Task(
        section=question.section,
        name=question.name,
        data=question.data,
        shape=question.shape,
        threads=settings.threads,
        results=found,
        left_out=left_out,
        other_cores=load.cores(),
    )


def noted(note: str, error: float, tolerance: float) -> str:
    """With the verdict, where it is a bad one; an error of NaN is."""
    return note if error <= tolerance else "; ".join(filter(None, [WRONG, note]))


def without_autograd(call: Call) -> Call:
    """The same, in torch's inference mode."""
    import torch

    found: Call = torch.inference_mode()(call)
    return found


# ---- arrays


def array_of(found: Any) -> Array:
    """float64 of an array or a tensor, also of 16-bit floats."""
    if hasattr(found, "detach"):
        found = found.detach().double().numpy()
    return np.asarray(found).astype(np.float64)


def missing(found: Any, exact: Array) -> float:
    """The part of the exact ids (B,k) that was not found."""
    rows = zip(np.asarray(found).reshape(exact.shape), exact, strict=True)
    return float(np.mean([1 - len(np.intersect1d(one, best)) / len(best) for one, best in rows]))


def difference(found: Any, exact: Array, least_scale: float = 0.0) -> float:
    """The largest difference, relative to the largest exact value or to least_scale, if that is more; infinite where
    one is infinite or NaN and the other is not."""
    wide = array_of(found)
    if wide.size != exact.size:
        return math.inf
    wide = wide.reshape(exact.shape)
    if not np.isfinite(wide).all():
        return math.inf
    scale = max(float(np.abs(exact).max(initial=0.0)), least_scale)
    most = float(np.abs(wide - exact).max(initial=0.0))
    return most / scale if scale else most


def lse(x: Array, axis: int = -1) -> Array:
    """The formula, in the type of x; of finite values."""
    top = x.max(axis=axis, keepdims=True)
    found: Array = np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis)
    return found
