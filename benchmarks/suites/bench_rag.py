"""RAG-Sequence and RAG-Token at the reference notebook's size, beside its loops.

``pytest benchmarks/suites/bench_rag.py`` times them; ``ragfast bench`` runs them in turns, at BART's size too.
"""

from __future__ import annotations

from typing import Any

import pytest
from ragfast_bench import rag, timing

EVERY = rag.contenders(rag.NOTEBOOK)
CASES = [(variant, contender) for variant, contenders in EVERY.items() for contender in contenders]


@pytest.mark.benchmark(max_time=0.3, min_rounds=3)
@pytest.mark.parametrize(("variant", "contender"), CASES, ids=[f"{variant}, {who.name}" for variant, who in CASES])
def test_forward(benchmark: Any, variant: str, contender: rag.Contender) -> None:
    timing.limit_threads(1)
    question = rag.question(rag.NOTEBOOK, variant, EVERY[variant])
    assert question.error(benchmark(contender.build())) <= question.tolerance
