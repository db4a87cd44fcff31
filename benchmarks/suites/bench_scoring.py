"""Where the time of scoring goes with real models: 4 questions x 5 documents x 4 candidates by MiniLM and SmolLM2.

``pytest benchmarks/suites/bench_scoring.py``, with the demo's packages: a minute. The share of all that is not the
generator is printed, and kept beside the time as ``retrieval and marginalization``.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from ragfast_bench import timing
from ragfast_demo import packages

import ragfast

K, N_QUESTIONS, N_CANDIDATES = 5, 4, 4


class Timed:
    """A generator and the seconds that it takes."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.token_logprobs = generator.token_logprobs
        self.seconds = 0.0

    def batch_token_logprobs(self, *arguments: Any) -> Any:
        self._generator.forget()  # what the round before has read
        start = time.perf_counter()
        found = self._generator.batch_token_logprobs(*arguments)
        self.seconds += time.perf_counter() - start
        return found


@pytest.mark.parametrize("variant", [ragfast.RAGSequence, ragfast.RAGToken], ids=lambda variant: variant.__name__)
def test_score(benchmark: Any, variant: Any) -> None:
    try:
        packages.require_all()
    except packages.DemoError as error:
        pytest.skip(str(error))
    from ragfast_demo.corpus import load_corpus
    from ragfast_demo.encoder import index_of, load_encoder
    from ragfast_demo.language_model import LanguageModel
    from ragfast_demo.questions import load_questions
    from ragfast_demo.run import language_model_folder

    timing.limit_threads(1)
    corpus = load_corpus()
    encoder = load_encoder(temperature=0.05, threads=1)
    generator = Timed(LanguageModel(language_model_folder()))
    model = variant(encoder, generator, index=index_of(corpus, encoder, 1), documents=corpus.texts, k=K)
    known = load_questions(corpus)
    questions = [question.text for question in known[:N_QUESTIONS]]
    answers = [[question.answer for question in known[b : b + N_CANDIDATES]] for b in range(N_QUESTIONS)]
    model.score(questions[:1], answers[:1])
    generator.seconds = 0.0

    start = time.perf_counter()
    scores = benchmark.pedantic(model.score, args=(questions, answers), rounds=1)
    whole = time.perf_counter() - start
    assert [len(score.logprobs) for score in scores] == [N_CANDIDATES] * N_QUESTIONS
    share = 1 - generator.seconds / whole
    benchmark.extra_info["retrieval and marginalization"] = f"{share:.2%}"
    print(f"{variant.__name__}: {whole:.2f} s, of which retrieval and marginalization {share:.2%}")
