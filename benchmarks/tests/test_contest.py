"""Contenders that return values: the wrong are marked, the absent named, and only those asked for take part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from ragfast_bench import contest
from ragfast_bench.contest import Contender, Question, measured
from ragfast_bench.results import Machine
from ragfast_bench.sections import Settings, floor

EXACT = np.array([1.0, -2.0])
MACHINE = Machine("", 1, 0, {"L2": 1000.0}, "", "", "", 1, (), 1e9, {"float32": 1e9})


def question(ids: bool = False) -> Question:
    error = partial(contest.missing, exact=EXACT[None]) if ids else partial(contest.difference, exact=EXACT)
    return Question("loss", "a question", {"B": 2}, error, 0.0 if ids else 1e-6, ids=ids)


def gives(found: Any) -> Callable[[], Any]:
    return lambda: lambda: found


def absent() -> Any:
    raise ImportError("no such library")


def broken() -> Any:
    raise RuntimeError("of another version\nand more")


def say(_: str) -> None:
    pass


def test_wrong_is_marked() -> None:
    contenders = [
        Contender("ours", gives(EXACT), ours=True),
        Contender("a peer", gives(EXACT * (1 + 1e-7)), note="a remark"),
        Contender("a wrong one", gives(EXACT + 1e-3), note="a remark"),
        Contender("one without a number", gives(EXACT * np.nan)),
        Contender("one of another shape", gives(EXACT[:1])),
    ]
    task = measured(question(), contenders, Settings(), say, 0.01)
    notes = {result.contender: result.note for result in task.results}
    assert notes == {
        "ours": "",
        "a peer": "a remark",
        "a wrong one": "WRONG; a remark",
        "one without a number": "WRONG",
        "one of another shape": "WRONG",
    }
    assert task.results[2].error == pytest.approx(1e-3 / 2)
    assert all(result.times is not None and result.times.calls > 0 for result in task.results)


def test_ids_have_recall() -> None:
    contenders = [Contender("ours", gives(EXACT[None]), ours=True), Contender("half", gives(np.array([[1.0, 7.0]])))]
    ours, half = measured(question(ids=True), contenders, Settings(), say, 0.01).results
    assert (ours.recall, ours.error, ours.note) == (1.0, None, "")
    assert (half.recall, half.note) == (0.5, "WRONG")


def test_absent_and_broken_are_named() -> None:
    contenders = [
        Contender("ours", gives(EXACT), ours=True),
        Contender("absent", absent),
        Contender("broken", broken),
        Contender("later", gives(EXACT), left_out="takes long"),
    ]
    task = measured(question(), contenders, Settings(), say, 0.01)
    assert [result.contender for result in task.results] == ["ours"]
    assert task.left_out == {"absent": "not installed", "broken": "failed: of another version", "later": "takes long"}


def test_ours_must_not_fail() -> None:
    with pytest.raises(RuntimeError, match="of another version"):
        measured(question(), [Contender("ours", broken, ours=True)], Settings(), say, 0.01)


def test_only_the_peers_asked_for() -> None:
    contenders = [Contender("ours", gives(EXACT), ours=True), *(Contender(name, gives(EXACT)) for name in "ab")]
    task = measured(question(), contenders, Settings(peers=frozenset("b")), say, 0.01)
    assert [result.contender for result in task.results] == ["ours", "b"]


def test_no_floor_of_memory_for_what_a_cache_holds() -> None:
    assert floor(MACHINE, bytes=1000, held=1000) is None
    found = floor(MACHINE, bytes=4000, held=2000)
    assert found is not None
    assert (found.seconds, found.bound) == (4e-6, "memory")
