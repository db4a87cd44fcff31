"""The whole model beside the notebook's loops: the same log p(y|x), and what is not the same is told."""

from __future__ import annotations

import dataclasses

import pytest
from ragfast_bench import rag, verdicts
from ragfast_bench.rag import LOOPS, NOTEBOOK
from ragfast_bench.results import Machine
from ragfast_bench.sections import Settings

MACHINE = Machine("", 1, 0, {"L1": 1.0}, "", "", "", 1, (), 1e9, {"float32": 1e9})
TINY = dataclasses.replace(NOTEBOOK, name="tiny", vocab_size=30, dim=8, hidden_dim=6, n_docs=7, k=3, n_target=4)


def test_contenders_agree() -> None:
    every = rag.contenders(TINY)
    assert list(every) == ["RAGSequence", "RAGToken"]
    values = {}
    for variant, contenders in every.items():
        loops = contenders[-1]
        assert (loops.name, loops.ours) == (LOOPS, False)
        expected = rag.log_prob(loops.build()())
        for contender in contenders[:-1]:
            assert contender.ours
            rel = 1e-12 if contender.name == "ragfast, float64, arrays" else 1e-5
            assert rag.log_prob(contender.build()()) == pytest.approx(expected, rel=rel), contender.name
        values[variant] = expected
        error = rag.question(TINY, variant, contenders).error
        assert error(expected) == 0
        assert error(expected * 1.001) > rag.TOLERANCE
    assert values["RAGSequence"] != values["RAGToken"]
    assert values["RAGSequence"] < -4  # of four tokens of 30, no floor takes part


def test_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag, "NOTEBOOK", TINY)
    monkeypatch.setattr(rag, "SHORT_BART", dataclasses.replace(TINY, name="larger", n_docs=1001))
    settings = Settings("default")
    tasks = list(rag.measure(settings, MACHINE, str, lambda what, why: pytest.fail(what)))
    assert len(tasks) == rag.planned(settings) == 4
    assert rag.planned(Settings("quick")) == 2
    for task in tasks:
        assert len(task.results) == 5
        assert not [result for result in task.results if "WRONG" in result.note]
        assert [one.verdict for one in verdicts.comparisons(task)] != ["alone"]
    assert [task.name for task in tasks][::3] == ["RAGSequence, tiny", "RAGToken, larger"]
