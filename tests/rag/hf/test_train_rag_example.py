"""examples/train_rag.py in small: its questions, its training and its measure, with parts that fit a test."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import scripts
import torch
from torch import Tensor

import ragfast
from ragfast.rag.training.loss import RAGLoss


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return scripts.load("examples/train_rag.py")


TRADES = ["baker", "sailor", "painter", "weaver", "miller", "farmer", "hunter", "tailor", "potter", "mason", "smith"]
TITLES = [f"{trade.title()} of {place}" for trade in TRADES for place in ("Arden", "Borland", "Corwick", "Dunmore")]


def summaries() -> list[str]:
    """44 passages, of which the second sentences differ in the words that matter and agree in most others."""
    rng = random.Random(0)
    years = rng.sample(range(1200, 1999), len(TITLES))
    return [
        f"The {title} is a legend. It is said that the old {title.split()[0].lower()} who lived near "
        f"{title.split()[2].lower()} came there in {year} to be the first of all. There is more to say."
        for title, year in zip(TITLES, years, strict=True)
    ]


class WordEncoder(torch.nn.Module):
    """The mean of word vectors, random at first, of length 1."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        self.words = {word: i for i, word in enumerate(sorted({word for text in texts for word in text.split()}))}
        self.vectors = torch.nn.EmbeddingBag(len(self.words) + 1, 24)

    def embed(self, texts: Sequence[str], /) -> Tensor:
        rows = [[self.words.get(word, len(self.words)) for word in text.split()] for text in texts]
        return torch.nn.functional.normalize(torch.stack([self.vectors(torch.tensor([row]))[0] for row in rows]), dim=1)


class YearReader(torch.nn.Module):
    """Answers with the passage's year; how much surer of it than of any other, is learned."""

    def __init__(self, years: Sequence[str]) -> None:
        super().__init__()
        self.years = {year: i for i, year in enumerate(years)}
        self.trust = torch.nn.Parameter(torch.tensor(1.0))

    def logits(
        self, questions: Sequence[str], docs: Sequence[Sequence[str]], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        seen = torch.tensor([[[year in doc for year in self.years] for doc in several] for several in docs])
        return self.trust * seen.float()[:, :, None], torch.tensor([[self.years[answer]] for answer in answers])


def train_a_little(example: ModuleType, *, shuffled: bool) -> tuple[Any, Any]:
    """What is measured before and after, on questions about passages that training does not ask about."""
    torch.manual_seed(0)
    texts = summaries()
    questions = example.cloze_questions(TITLES, texts, seed=0)
    assert len(questions) == len(texts)
    encoder, generator = WordEncoder(texts), YearReader([question.answer for question in questions])
    with torch.no_grad():
        index = ragfast.FlatIndex.from_vectors(encoder.embed(texts))
    held_out, questions = questions[:14], questions[14:]
    if shuffled:
        answers = [question.answer for question in questions[1:] + questions[:1]]
        questions = [question._replace(answer=answer) for question, answer in zip(questions, answers, strict=True)]
    rag_loss = RAGLoss(encoder, generator, index, texts, k=8, temperature=0.05)
    parameters = [*encoder.parameters(), *generator.parameters()]
    before = example.measure(rag_loss, held_out, len(held_out))
    steps = example.train(rag_loss, torch.optim.Adam(parameters, lr=0.03), questions, steps=60, batch=10)
    assert steps == 60
    return before, example.measure(rag_loss, held_out, len(held_out))


def test_it_learns(example: ModuleType) -> None:
    before, after = train_a_little(example, shuffled=False)
    assert before.recall[0] < 0.7
    assert after.nll < before.nll - 0.5
    assert after.recall[0] > before.recall[0]
    assert after.recall[1] >= before.recall[1]
    assert after.mrr > before.mrr + 0.05


def test_answers_of_other_questions_teach_no_retrieval(example: ModuleType) -> None:
    _, learned = train_a_little(example, shuffled=False)
    before, after = train_a_little(example, shuffled=True)
    assert after.mrr < before.mrr + 0.05 < learned.mrr


def test_the_questions(example: ModuleType) -> None:
    texts = [
        "Nuuk is a city. It has been the seat of the government since 1979 by law. Its people are few.",
        "Short. Too short 1999.",
        "Oslo lies by a fjord. In the year that followed the great fire of Oslo it was moved by the king Christian.",
    ]
    questions = sorted(example.cloze_questions(["Nuuk", "Short", "Oslo"], texts, seed=0), key=lambda x: x.doc_id)
    assert [(x.answer, x.doc_id) for x in questions] == [("1979", 0), ("Christian", 2)]
    assert questions[0].question == "It has been the seat of the government since ____ by law."
    for x in questions:
        assert x.question.replace(example.GAP, x.answer) in texts[x.doc_id]


def test_it_stops_in_time(example: ModuleType) -> None:
    texts = summaries()
    questions = example.cloze_questions(TITLES, texts, seed=0)
    encoder, generator = WordEncoder(texts), YearReader([question.answer for question in questions])
    index = ragfast.FlatIndex.from_vectors(encoder.embed(texts).detach())
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    rag_loss = RAGLoss(encoder, generator, index, texts)
    assert example.train(rag_loss, optimizer, questions, steps=5, batch=2, seconds=0.0) == 0
