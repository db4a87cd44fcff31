"""Questions with known answers: the leaves of FanOutQA's development set (Zhu et al. 2024; data CC BY-SA 4.0)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ragfast_demo.corpus import Corpus, load_corpus
from ragfast_demo.packages import FANOUTQA, WIKIPEDIA, DemoError, data_file, require


class Question(NamedTuple):
    """A question, its answer, and the title of the article that the annotators found the answer in."""

    text: str
    answer: str
    title: str


def contains_answer(passage: str, answer: str) -> bool:
    """Whether `answer` stands in `passage` between word boundaries, whatever its case.

    This chose the 70 questions, and stays as it is so that they stay the same. It never finds answers that end in a
    mark, "Washington, D.C."; recall is measured by `ragfast.rag.evaluation.contains_answer`, which does.

    >>> contains_answer("Paris is the capital of France.", "france"), contains_answer("Parisian", "Paris")
    (True, False)
    """
    return re.search(rf"\b{re.escape(answer)}\b", passage, re.IGNORECASE) is not None


def load_questions(corpus: Corpus) -> list[Question]:
    """The distinct leaf questions of one answer whose article is in the corpus and contains that answer.

    All 10,033 documents answer 70 of them.
    """
    text_of = dict(zip(corpus.titles, corpus.texts, strict=True))
    found: dict[str, Question] = {}
    for leaf in (leaf for question in _development_set() for leaf in _leaves(question)):
        title = (leaf["evidence"] or {}).get("title")
        answer = _single_answer(leaf["answer"])
        if answer and title in text_of and contains_answer(text_of[title], answer):
            found.setdefault(leaf["question"], Question(leaf["question"], answer, title))
    return list(found.values())


def load_texts() -> list[str]:
    """The distinct questions, 2,465, whatever answers them: the whole ones and all that they are taken apart into."""
    texts: dict[str, None] = {}
    waiting = _development_set()
    while waiting:
        question = waiting.pop()
        texts[question["question"]] = None
        waiting += question["decomposition"]
    return list(texts)


def main() -> int:
    """Print the questions that all documents answer, as `python examples/demo eval` reads them: JSON lines."""
    try:
        require((FANOUTQA, WIKIPEDIA), "demo")
        for question in load_questions(load_corpus()):
            print(json.dumps({"question": question.text, "answers": [question.answer], "title": question.title}))
    except DemoError as error:
        print(f"ragfast: {error}", file=sys.stderr)
        return 2
    return 0


def _development_set() -> list[dict[str, Any]]:
    questions: list[dict[str, Any]] = json.loads(
        data_file(FANOUTQA, "fanoutqa/data/fanout-final-dev.json").read_bytes()
    )
    return questions


def _leaves(question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in question["decomposition"]:
        if part["decomposition"]:
            yield from _leaves(part)
        else:
            yield part


def _single_answer(answer: Any) -> str | None:
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    return None if isinstance(answer, (bool, list, dict)) else str(answer)


if __name__ == "__main__":
    sys.exit(main())
