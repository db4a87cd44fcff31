"""The corpus and the questions that it answers."""

from __future__ import annotations

import pytest

from ragfast.demo.corpus import load_corpus
from ragfast.demo.questions import contains_answer, load_questions


@pytest.mark.parametrize(
    ("passage", "answer", "expected"),
    [
        ("It lies in PARIS, France.", "Paris", True),
        ("A Parisian habit", "Paris", False),
        ("built in 1889.", "1889", True),
        ("18890 tons", "1889", False),
        ("a+b", "a.b", False),
        ("Brasília is the capital", "brasília", True),
    ],
)
def test_contains_answer(passage: str, answer: str, expected: bool) -> None:
    assert contains_answer(passage, answer) is expected


def test_all_documents_answer_70_questions(installed: None) -> None:
    corpus = load_corpus()
    questions = load_questions(corpus)
    assert (len(corpus), len(questions), len({q.text for q in questions})) == (10_033, 70, 70)
    texts = dict(zip(corpus.titles, corpus.texts, strict=True))
    assert all(q.answer.lower() in texts[q.title].lower() for q in questions)


def test_fewer_documents_answer_fewer_questions(installed: None) -> None:
    whole, part = load_corpus(), load_corpus(250)
    assert part.texts == whole.texts[:250]
    assert part.sha256() != whole.sha256()
    assert {q.title for q in load_questions(part)} == {
        q.title for q in load_questions(whole) if q.title in set(part.titles)
    }
