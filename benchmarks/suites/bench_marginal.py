"""The kernels after retrieval, beside what people write in their place: losses from logits and their gradients, a step
of decoding, marginals and other small calls. ``pytest benchmarks/suites/bench_marginal.py`` times each by itself;
``ragfast bench`` runs them in turns, with every peer, at the sizes of real models.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest
from ragfast_bench import decode_step, loss, loss_peers as peers, small_calls, timing
from ragfast_bench.contest import Contender, Question
from ragfast_bench.loss import Asked
from ragfast_bench.sections import Settings

pytest.importorskip("torch")

SETTINGS = Settings("quick")
SHAPE = (2, 5, 8, 5000)
GROUPS = [group for group in small_calls.GROUPS if group is not small_calls.search_group]  # which bench_search.py has


pytestmark = pytest.mark.benchmark(max_time=0.2, min_rounds=3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    timing.limit_threads(1)


def timed(benchmark: Any, contender: Contender, error: Any, tolerance: float) -> None:
    call = contender.build()
    found = call()  # of the first call: what calculates in place has other logits in the second
    assert (contender.error or error)(found) <= tolerance
    benchmark(call)


LOSSES = [
    (asked, contender.name)
    for asked in get_args(Asked)
    for contender in loss.contenders(peers.random_answers((1, 1, 1, 3)), None, False, asked, SETTINGS)
    if not contender.left_out and ("ragfast" in contender.name or "cross_entropy" in contender.name)
]


@pytest.mark.parametrize("by_token", [False, True], ids=["sequence", "token"])
@pytest.mark.parametrize(("asked", "name"), LOSSES)
def test_loss(benchmark: Any, asked: Asked, name: str, by_token: bool) -> None:
    answers = peers.random_answers(SHAPE)
    reference = peers.Reference(answers)
    every = loss.contenders(answers, reference, by_token, asked, SETTINGS)
    contender = next(contender for contender in every if contender.name == name)
    timed(benchmark, contender, reference.error(by_token, asked != "value"), loss.TOLERANCE["float32"])


@pytest.mark.parametrize("n_best", [None, 8])
@pytest.mark.parametrize("name", ["ragfast", "torch"])
def test_step(benchmark: Any, name: str, n_best: int | None) -> None:
    arrays = decode_step.random_step(4)
    contender = next(x for x in decode_step.contenders(arrays, n_best, False) if x.name.startswith(name))
    benchmark(contender.build())


SMALL: list[tuple[Question, Contender]] = []
for _group in GROUPS:
    _question, _contenders = _group()
    SMALL += [(_question, contender) for contender in _contenders]


@pytest.mark.parametrize(("question", "contender"), SMALL, ids=[f"{q.name}, {c.name}" for q, c in SMALL])
def test_small(benchmark: Any, question: Question, contender: Contender) -> None:
    if contender.name.startswith("SciPy"):
        pytest.importorskip("scipy")
    timed(benchmark, contender, question.error, question.tolerance)
