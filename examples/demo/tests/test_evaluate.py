"""`python examples/demo eval`: arithmetic and resuming with stand-ins, then a run with the real models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from question_files import line, read, write
from ragfast_demo import evaluate, records
from ragfast_demo.cli import main
from ragfast_demo.corpus import Corpus

import ragfast
from ragfast.rag.decoding import Retrieved

CITIES = ["Paris", "Lyon", "Nice", "Brest"]
CORPUS = Corpus(CITIES, [f"{city} is a city in France." for city in CITIES])


# ---- measuring, with documents and answers made up


class Search:
    """Every question finds the documents in the corpus's order; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, questions: Sequence[str]) -> ragfast.Hits:
        self.asked.append(list(questions))
        scores = np.tile(np.arange(len(CITIES), 0.0, -1), (len(questions), 1))
        ids = np.tile(np.arange(len(CITIES)), (len(questions), 1))
        return ragfast.Hits(scores, ids, np.asarray(ragfast.log_softmax(scores)))


class Answers:
    """Says what it was told to; keeps what it was given."""

    def __init__(self, *said: dict[str, str]) -> None:
        self.said = iter(said)
        self.given: list[tuple[list[str], list[Retrieved], list[str | None]]] = []

    def __call__(
        self, questions: Sequence[str], retrieved: Sequence[Retrieved], golds: Sequence[str | None]
    ) -> list[dict[str, str]]:
        self.given.append((list(questions), list(retrieved), list(golds)))
        return [next(self.said) for _ in questions]


QUESTIONS = [line("A?", "Paris"), line("B?", "nice", "Lyon"), line("C?", "Rome", title="Brest")]


def measure(
    kept: records.Records, answers: Any = None, lines: Sequence[records.Line] = QUESTIONS, **options: int
) -> Any:
    search = Search()
    given = None if answers is None else lambda: answers
    measured = evaluate.measure(lines, CORPUS, kept, search, given, **{"k": 2, "batch_size": 2} | options)
    return measured, search.asked


def test_retrieval_is_one_search_and_ranks_are_of_first_hits() -> None:
    measured, asked = measure(records.Records(None, "now"))
    assert asked == [["A?", "B?", "C?"]]
    assert [record["first_hit"] for record in measured] == [1, 2, None]
    assert measured[1]["doc_ids"] == [0, 1, 2, 3]
    assert measured[1]["doc_titles"] == CITIES
    assert evaluate.results(measured, []) == {
        "n": 3,
        "recall@1": 1 / 3,
        "recall@5": 2 / 3,
        "recall@20": 2 / 3,
        "mrr": 0.5,
    }


def test_answers_come_in_batches_and_are_averaged_over_those_given() -> None:
    said: list[dict[str, str]] = [
        {"rag_sequence": "Paris", "gold_passage": "the city of Paris"},
        {"rag_sequence": "city"},
        {"rag_sequence": "Lyon"},
    ]
    answers = Answers(*said)
    measured, _ = measure(records.Records(None, "now"), answers)
    assert [questions for questions, _, _ in answers.given] == [["A?", "B?"], ["C?"]]
    assert [golds for _, _, golds in answers.given] == [[None, None], ["Brest is a city in France."]]
    documents = answers.given[0][1][0]
    assert documents.doc_ids.tolist() == [0, 1]
    assert documents.doc_tokens == CORPUS.texts[:2]
    np.testing.assert_allclose(documents.doc_logprobs, np.log([np.e / (np.e + 1), 1 / (np.e + 1)]), rtol=1e-15)
    found = evaluate.results(measured, ["sequence", "token", "gold"])
    assert found["em"] == {"rag_sequence": 1 / 3, "gold_passage": 0.0}
    assert found["f1"] == {"rag_sequence": 1 / 3, "gold_passage": 0.5}
    assert found["n_answered"] == {"rag_sequence": 3, "gold_passage": 1}
    table = evaluate.table(found, {"rag_sequence": 12.0})
    assert "recall@1 33.3%  recall@5 66.7%  recall@20 66.7%  MRR@20 0.500" in table
    assert "RAG-Sequence     33.3%   33.3%          3     12.0" in table
    assert "RAG-Token" not in table


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    said = [{"rag_token": name} for name in "XYZ"]

    class Interrupted(Answers):
        def __call__(self, questions: Sequence[str], *rest: Any) -> list[dict[str, str]]:
            if questions == ["C?"]:
                raise KeyboardInterrupt
            return super().__call__(questions, *rest)

    with pytest.raises(KeyboardInterrupt):
        measure(records.Records(path, "now"), Interrupted(*said))
    assert len(read(path)) == 2
    rest = Answers(said[2])
    measured, asked = measure(records.Records(path, "now"), rest)
    assert asked == [["C?"]]
    assert [questions for questions, _, _ in rest.given] == [["C?"]]
    assert measured == read(path) == measure(records.Records(None, "now"), Answers(*said))[0]
    assert measure(records.Records(path, "now"), None) == (measured, [])  # all there: nothing is searched or loaded


def test_every_duplicate_counts(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    lines = [QUESTIONS[0], QUESTIONS[2], QUESTIONS[0]]
    measured, _ = measure(records.Records(path, "now"), lines=lines)
    assert [record["question"] for record in measured] == ["A?", "C?", "A?"]
    assert measure(records.Records(path, "now"), lines=lines) == (measured, [])
    assert evaluate.results(measured, [])["recall@1"] == 2 / 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris.", "Paris"),
        ("\n Paris. \nIt is a city.", "Paris"),
        ("Washington, D.C.", "Washington, D.C"),
        ("8,849 m", "8,849 m"),
        ("", ""),
        (".", ""),
    ],
)
def test_short_answer(text: str, expected: str) -> None:
    assert evaluate.short_answer(text) == expected


class Echo:
    """A generator of one token, 0 for "a" and 1 for "b": documents are the logits; counts the rows it opens."""

    stop_tokens = (2,)

    def __init__(self) -> None:
        self.rows: list[int] = []

    def token_logprobs(self, query_tokens: Any, doc_tokens: Sequence[Any], target_tokens: Any, /) -> Any:
        decoder = self.open([query_tokens], [doc_tokens])
        first = np.asarray(ragfast.log_softmax(decoder.logits))[:, list(target_tokens)[:1]]
        return np.concatenate([first, np.zeros((len(first), len(target_tokens) - 1))], axis=1)

    def open(self, query_tokens: Sequence[Any], doc_tokens: Sequence[Sequence[Any]], /) -> Any:
        generator = self

        class Rows:
            logits = np.array([LOGITS[doc] for docs in doc_tokens for doc in docs])

            def step(self, rows: Any, tokens: Any, /) -> Any:
                self.logits = np.tile([-np.inf, -np.inf, 0.0], (len(rows), 1))
                return self.logits

        generator.rows.append(len(Rows.logits))
        return Rows()

    def text(self, tokens: Any) -> str:
        return "".join("ab"[token] for token in tokens if token < 2) + ".\nand more"


LOGITS = {"for a": [1.0, 0.0, -np.inf], "for b": [0.0, 3.0, -np.inf], "": [0.2, 0.0, -np.inf]}


class Nobody:
    def encode_query(self, query_tokens: Any, /) -> Any:
        raise AssertionError("retrieved again")

    search = encode_query


def test_all_variants_answer_from_their_own_documents() -> None:
    seconds: dict[str, float] = {}
    answering = evaluate.Answering(Nobody(), Echo(), list(evaluate.VARIANTS), 4, seconds)
    found = Retrieved(np.arange(2), np.log([0.5, 0.5]), ["for a", "for b"])
    sure = Retrieved(np.arange(1), np.zeros(1), ["for b"])
    answers = answering(["A?", "B?"], [found, sure], [None, "for a"])
    assert answers == [
        {"rag_sequence": "b", "rag_token": "b", "no_retrieval": "a"},
        {"rag_sequence": "b", "rag_token": "b", "no_retrieval": "a", "gold_passage": "a"},
    ]
    assert set(seconds) == {"rag_sequence", "rag_token", "no_retrieval", "gold_passage"}


# ---- the command


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is asked for is refused before any work, nothing is loaded."""

    def loaded(*_: object) -> None:
        raise AssertionError("the corpus was loaded")

    monkeypatch.setattr(evaluate, "load_corpus", loaded)


def test_what_cannot_work_is_told_before_the_work(
    nothing_loaded: None, installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(write(tmp_path / "questions.jsonl", {"question": "Where?", "answers": ["Paris"]}))
    bad = str(write(tmp_path / "bad.jsonl", {"question": "Where?"}))
    out = tmp_path / "out.json"
    out.write_text("before")
    for arguments, told in (
        ([good, "--json", str(tmp_path / "missing" / "out.json")], "cannot write"),
        ([good, "--json", str(tmp_path)], "is a folder"),
        ([good, "--json", str(out), "--records", str(tmp_path / "missing" / "r.jsonl")], "cannot write"),
        ([str(tmp_path / "missing.jsonl"), "--json", str(out)], "cannot read the questions"),
        ([bad, "--json", str(out)], 'line 1: "answers" is missing'),
    ):
        assert main(["eval", *arguments]) == 2
        shown, err = capsys.readouterr()
        assert shown == ""
        assert told in err
        assert err.count("\n") == 1
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "out.json", "questions.jsonl"]


TITLE = "2001: A Space Odyssey"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        tmp_path_factory.mktemp("eval") / "questions.jsonl",
        {"question": "Who directed 2001: A Space Odyssey?", "answers": ["Kubrick", "Stanley Kubrick"], "title": TITLE},
        {"question": "Who wrote the Aeneid?", "answers": ["Virgil"], "title": "Not there"},
        {"question": "What is the answer to everything?", "answers": ["forty-two thousand"]},
    )


def evaluated(*arguments: str) -> int:
    return main(["eval", *arguments, "--limit-documents", "30", "--threads", "1"])


def test_retrieval_only_never_loads_the_language_model(
    shared_cache: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the language model was loaded")

    monkeypatch.setattr(evaluate, "load_generator", load)
    out = questions.parent / "retrieval.json"
    assert evaluated(str(questions), "--json", str(out), "--retrieval-only") == 0
    shown, err = capsys.readouterr()
    assert "recall@1 66.7%  recall@5 66.7%  recall@20 66.7%  MRR@20 0.667" in shown
    assert "SmolLM2" not in shown
    assert "Questions: 100%" in err
    found = json.loads(out.read_text())
    assert {key: found[key] for key in list(found)[:5]} == {
        "n": 3,
        "recall@1": 2 / 3,
        "recall@5": 2 / 3,
        "recall@20": 2 / 3,
        "mrr": 2 / 3,
    }
    assert "em" not in found
    assert [record["doc_titles"][0] for record in read(out.with_suffix(".records.jsonl"))][:2] == [
        TITLE,
        "Aeneid",
    ]


def test_the_results_are_written_though_nobody_reads_the_table(
    shared_cache: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> str:
        raise BrokenPipeError

    monkeypatch.setattr(evaluate, "table", gone)
    out = questions.parent / "unread.json"
    options = evaluate.Options(
        file=questions,
        json=out,
        records=None,
        retrieval_only=True,
        variants=(),
        k=5,
        temperature=0.05,
        max_new_tokens=1,
        batch_size=1,
        threads=1,
        limit=None,
        limit_documents=30,
    )
    with pytest.raises(BrokenPipeError):
        evaluate.run_eval(options)
    assert json.loads(out.read_text())["n"] == 3


def test_fewer_than_20_documents(shared_cache: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = questions.parent / "few.json"
    arguments = ["eval", str(questions), "--json", str(out), "--retrieval-only", "--threads", "1"]
    assert main([*arguments, "--limit-documents", "3", "--limit", "2"]) == 0
    found = json.loads(out.read_text())
    assert found["n"] == 2
    assert [len(record["doc_ids"]) for record in read(out.with_suffix(".records.jsonl"))] == [3, 3]
    assert all(0 <= found[key] <= 1 for key in ("recall@1", "recall@5", "recall@20", "mrr"))


@pytest.fixture(scope="module")
def answered(language_model_folder: Path, questions: Path) -> Path:
    out = questions.parent / "answers.json"
    assert evaluated(str(questions), "--json", str(out), "--k", "2", "--max-new-tokens", "4", "--limit", "1") == 0
    return out


def test_the_real_models_answer(answered: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answered.read_text())
    assert set(found["em"]) == set(found["f1"]) == {"rag_sequence", "rag_token", "no_retrieval", "gold_passage"}
    assert all(0 <= value <= 1 for name in ("em", "f1") for value in found[name].values())
    assert found["n_answered"] == dict.fromkeys(found["em"], 1)
    assert found["settings"]["generator"]["parameters"] == 134_515_008
    kept = read(answered.with_suffix(".records.jsonl"))
    assert all(text and "\n" not in text for record in kept for text in record["predictions"].values())
    # The same command again has it all in its records.
    before = answered.with_suffix(".records.jsonl").read_bytes()
    assert evaluated(str(questions), "--json", str(answered), "--k", "2", "--max-new-tokens", "4", "--limit", "1") == 0
    assert "going on from the 1 record " in capsys.readouterr().err
    assert answered.with_suffix(".records.jsonl").read_bytes() == before
    assert {**json.loads(answered.read_text()), "run": None} == {**found, "run": None}


def test_questions_without_a_gold_passage_are_counted(
    answered: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kept = answered.with_name("two.json"), answered.with_name("two.records.jsonl")
    (record,) = read(answered.with_suffix(".records.jsonl"))
    second = records.read_questions(questions)[1]
    lacking = {
        key: {name: value for name, value in record[key].items() if name != "gold_passage"} for key in ("em", "f1")
    }
    write(
        kept,
        record,
        {**record, **lacking, "question": second.question, "answers": second.answers, "given": second.given},
    )
    assert evaluated(str(questions), "--json", str(out), "--k", "2", "--max-new-tokens", "4", "--limit", "2") == 0
    assert "1 of 2 questions name no gold passage" in capsys.readouterr().err
    assert json.loads(out.read_text())["n_answered"] == {**dict.fromkeys(record["em"], 2), "gold_passage": 1}


def test_the_model_has_the_size_that_is_reported(language_model_folder: Path) -> None:
    generator = evaluate.load_generator(language_model_folder)
    assert sum(weights.numel() for weights in generator.model.parameters()) == evaluate.GENERATOR["parameters"]


def test_the_prompt_shows_examples_with_passages_or_without() -> None:
    with_passage, without = evaluate.prompt("Where?", "Here."), evaluate.prompt("Where?", "")
    assert with_passage.endswith("\n\nPassage: Here.\nQuestion: Where?\nAnswer:")
    assert without.endswith("\n\nQuestion: Where?\nAnswer:")
    assert with_passage.count("Passage: ") == with_passage.count("Question: ") == 4
    assert (without.count("Passage: "), without.count("Question: ")) == (0, 4)
