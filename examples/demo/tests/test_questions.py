"""The corpus and the questions that it answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from ragfast_demo.corpus import load_corpus
from ragfast_demo.questions import contains_answer, load_questions, main
from ragfast_demo.records import read_questions

from ragfast.rag import evaluation


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


def test_they_are_printed_as_an_evaluation_takes_them(
    installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main() == 0
    file = tmp_path / "questions.jsonl"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    lines, corpus = read_questions(file), load_corpus()
    assert [(line.question, *line.answers, line.given["title"]) for line in lines] == load_questions(corpus)
    text_of = dict(zip(corpus.titles, corpus.texts, strict=True))
    assert all(evaluation.contains_answer(str(line.gold(text_of)), line.answers) for line in lines)
