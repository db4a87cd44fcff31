"""The small calls: every contender is right, and what is not right is told."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
from ragfast_bench import small_calls
from ragfast_bench.results import Machine
from ragfast_bench.sections import Settings

import ragfast

MACHINE = Machine("", 1, 0, {"L1": 1.0}, "", "", "", 1, (), 1e9, {"float32": 1e9})
TINY = {
    "search": small_calls.search_group,
    "merge": small_calls.merge_group,
    "logsumexp": small_calls.logsumexp_group,
    "log_softmax": partial(small_calls.log_softmax_group, 4, 100),
    "sequence": partial(small_calls.marginal_group, False, 3, 4, 5),
    "token": partial(small_calls.marginal_group, True, 3, 4, 5),
    "segments": partial(small_calls.segment_group, 50, 20),
    "gather": partial(small_calls.gather_group, False, 30, 4, 5, 16),
    "gather with gradient": partial(small_calls.gather_group, True, 30, 4, 5, 16),
    "KL": partial(small_calls.kl_group, False, 4, 10),
    "KL with gradient": partial(small_calls.kl_group, True, 4, 10),
}


def worse(found: Any, ids: bool) -> list[Any]:
    """Each value in turn, or the ids, as they should not be."""
    if isinstance(found, ragfast.Hits):
        return [found.ids + 1000]
    if ids:
        return [(found[0], found[1] + 1000) if isinstance(found, tuple) else found + 1000]
    if isinstance(found, tuple):
        return [tuple(x * 1.001 if i == j else x for j, x in enumerate(found)) for i in range(len(found))]
    return [found + 1e-3, found * np.nan]


@pytest.mark.parametrize("name", TINY)
def test_contenders(name: str) -> None:
    for library in ("torch", "scipy", "faiss"):
        pytest.importorskip(library)
    question, contenders = TINY[name]()
    assert contenders[0].ours
    assert any(not contender.ours for contender in contenders)
    assert len({contender.name for contender in contenders}) == len(contenders)
    for contender in contenders:
        found = contender.build()()
        assert question.error(found) <= question.tolerance, contender.name
    ours = contenders[0].build()()
    for wrong in worse(ours, question.ids):
        assert not question.error(wrong) <= question.tolerance


def test_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_calls, "GROUPS", [TINY["search"], TINY["KL"]])
    settings = Settings("quick")
    tasks = list(small_calls.measure(settings, MACHINE, str, lambda what, why: pytest.fail(what)))
    assert len(tasks) == small_calls.planned(settings) == 2
    search, kl = tasks
    assert all(result.recall == 1 and result.error is None for result in search.results)
    assert all(result.recall is None and result.error is not None for result in kl.results)
    assert not [result for task in tasks for result in task.results if "WRONG" in result.note]
    assert search.results[0].contender == "ragfast index"


def test_without_any_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "faiss", "scipy", "scipy.special"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(small_calls, "GROUPS", [TINY["search"], TINY["KL"]])
    search, kl = small_calls.measure(Settings("quick"), MACHINE, str, lambda what, why: pytest.fail(what))
    assert search.left_out == {"FAISS": "not installed", "torch topk": "not installed"}
    assert [result.contender for result in kl.results] == ["ragfast.kl_divergence"]
    assert set(kl.left_out.values()) == {"not installed"}
