"""Exact match, F1, recall and MRR against values worked out by hand."""

from __future__ import annotations

import math
import sys
import unicodedata

import pytest
from hypothesis import given, strategies as st

from ragfast.rag.evaluation import (
    contains_answer,
    dpr_tokens,
    exact_match,
    f1,
    first_hit,
    mrr,
    normalize_answer,
    recall_at,
    retrieval_measures,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("a  man,\tan apple\nand THE end.", "man apple and end"),
        ("8,849", "8849"),
        ("well-known", "wellknown"),  # punctuation leaves no space
        ("the-end", "theend"),  # and goes before articles are looked for
        ("t.h.e end", "end"),
        ("theatre of Ana", "theatre of ana"),  # articles are whole words
        ("Brasília", "brasília"),  # accents stay
        ("“quoted” … 5 €", "“quoted” … 5 €"),  # so does punctuation beyond ASCII
        ("$5_000", "5000"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalize_answer(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the Eiffel Tower.", "Eiffel tower", 1.0),
        ("Eiffel", ["Eiffel Tower", "eiffel!"], 1.0),
        ("8849", ["8,849"], 1.0),
        ("8,849 m", ["8,849"], 0.0),
        ("Brasilia", ["Brasília"], 0.0),
        ("Brasília", ["Bras\u0131\u0301lia"], 0.0),
        ("", ["Paris"], 0.0),
        ("", [""], 1.0),
        ("The.", ["a"], 1.0),
        ("yes", ["no"], 0.0),
    ],
)
def test_exact_match(prediction: str, answers: str | list[str], expected: float) -> None:
    assert exact_match(prediction, answers) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the Eiffel Tower in Paris", "Eiffel Tower", 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("Gustave Eiffel", ["Paris", "Alexandre Gustave Eiffel"], 4 / 5),
        ("new new york", "new york", 4 / 5),  # a word counts as often as both have it
        ("york new", "new york", 1.0),  # order does not
        ("8849 m", "8,849", 2 / 3),
        ("Lyon", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("Paris", "", 0.0),
        ("", "the", 1.0),
        ("no", "no one", 2 / 3),
        ("no", "yes", 0.0),
    ],
)
def test_f1(prediction: str, answers: str | list[str], expected: float) -> None:
    assert f1(prediction, answers) == pytest.approx(expected, rel=1e-15)


TEXT = st.text(st.sampled_from("aAthe nNyes .,-'8é\u0301İΣ"), max_size=12)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3))
def test_an_exact_match_has_f1_of_1_and_order_of_answers_does_not_matter(prediction: str, answers: list[str]) -> None:
    em, overlap = exact_match(prediction, answers), f1(prediction, answers)
    assert em <= overlap <= 1
    assert (em, overlap) == (exact_match(prediction, answers[::-1]), f1(prediction, answers[::-1]))
    assert exact_match(prediction, [*answers, prediction]) == f1(prediction, [*answers, prediction]) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("In 1889, Paris!", ["in", "1889", ",", "paris", "!"]),
        ("8,849", ["8", ",", "849"]),
        ("don't", ["don", "'", "t"]),
        ("snake_case", ["snake", "_", "case"]),  # the underscore is no letter, unlike in \w
        ("Brasília", ["brasi\u0301lia"]),  # a mark belongs to its word
        ("\u00bd of H\u2082O", ["\u00bd", "of", "h\u2082o"]),
        ("soft\u00adhyphen\u200bs", ["soft", "hyphen", "s"]),
        ("ΟΔΟΣ", ["οδος"]),
        ("北京 is Beijing", ["北京", "is", "beijing"]),
        ("$5 -- 6€", ["$", "5", "-", "-", "6", "€"]),
        (" \n\x00", []),
    ],
)
def test_dpr_tokens(text: str, expected: list[str]) -> None:
    assert dpr_tokens(text) == expected


@given(st.text(max_size=20))
def test_dpr_tokens_are_those_of_dpr(text: str) -> None:
    """Its regular expression, [letters, numbers, marks]+ | [no separator, nothing of Other], character by character."""
    found: list[str] = []
    within = False
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)[0]
        if kind in "LNM" and within:
            found[-1] += character
        elif kind not in "ZC":
            found.append(character)
        within = kind in "LNM"
    assert dpr_tokens(text) == [word.lower() for word in found]


@pytest.mark.parametrize(
    ("passage", "answers", "expected"),
    [
        ("It lies in PARIS, France.", "Paris", True),
        ("A Parisian habit", "Paris", False),
        ("built in 1889.", ["1888", "1889"], True),
        ("18890 tons", "1889", False),
        ("8,849 m above the sea", "8,849", True),
        ("8849 m above the sea", "8,849", False),
        ("8,849 m above the sea", "8", True),
        ("a+b", "a.b", False),
        ("It costs $5.", "$5", True),
        ("Bras\u00edlia is the capital", "bras\u0069\u0301lia", True),  # composed or not
        ("Brasília", "Brasilia", False),
        ("the 7th  century\nBC", "7th century BC", True),
        ("the 7th-century BC", "7th century BC", False),
        ("New, York", "New York", False),
        ("", "Paris", False),
        ("Paris", "", False),
        ("Paris", " \t", False),
    ],
)
def test_contains_answer(passage: str, answers: str | list[str], expected: bool) -> None:
    assert contains_answer(passage, answers) is expected


def test_first_hit_counts_from_1_and_looks_no_further() -> None:
    def passages() -> object:
        yield "Lyon"
        yield "Paris"
        raise AssertionError("looked on after the first hit")

    assert first_hit(passages(), "Paris") == 2  # type: ignore[arg-type]
    assert first_hit(["Lyon", "Nice"], ["Paris", "Nice"]) == 2
    assert first_hit(["Lyon"], "Paris") is None
    assert first_hit([], "Paris") is None


def test_recall_and_mrr() -> None:
    pytest.importorskip("ir_measures")
    ranks = [1, 2, None, 5, 20, 21]
    assert recall_at(ranks, 1) == 1 / 6
    assert recall_at(ranks, 5) == 3 / 6
    assert recall_at(ranks, 20) == 4 / 6
    assert recall_at(ranks, 100) == 5 / 6
    assert mrr(ranks) == pytest.approx((1 + 1 / 2 + 0 + 1 / 5 + 1 / 20 + 1 / 21) / 6, rel=1e-15)
    assert [mrr([rank]) for rank in (1, 8, None)] == [1.0, 0.125, 0.0]
    assert mrr([None]) == recall_at([None], 20) == 0.0


def test_measures_of_rankings() -> None:
    pytest.importorskip("ir_measures")
    retrieved, relevant = [["b", "a", "c", "d"], ["x"], []], [{"a": 2, "d": 1}, {"x": 1, "y": 1}, {"z": 1}]
    found = retrieval_measures(retrieved, relevant, ["R@2", "RR", "nDCG@4", "Success@1"])
    assert found["R@2"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found["RR"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    first = (2 / math.log2(3) + 1 / math.log2(5)) / (2 + 1 / math.log2(3))
    second = 1 / (1 + 1 / math.log2(3))
    assert found["nDCG@4"] == pytest.approx((first + second + 0) / 3)
    assert found["Success@1"] == pytest.approx(1 / 3)


def test_measures_of_rankings_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(ImportError, match=r"ragfast-kernels\[eval\]"):
        mrr([1])


def test_no_answer_no_question_no_rank() -> None:
    pytest.importorskip("ir_measures")
    for measure in (exact_match, f1, contains_answer):
        with pytest.raises(ValueError, match="at least one"):
            measure("Paris", [])
    with pytest.raises(ValueError, match="at least one"):
        first_hit([], [])
    with pytest.raises(ValueError, match="at least one question"):
        recall_at([], 1)
    with pytest.raises(ValueError, match="at least one question"):
        mrr([])
    with pytest.raises(ValueError, match="1 or more"):
        recall_at([1], 0)
    with pytest.raises(ValueError, match="rank"):
        mrr([0])
    with pytest.raises(ValueError, match="at least one question"):
        retrieval_measures([], [])
    with pytest.raises(ValueError, match="2 mappings"):
        retrieval_measures([[1], [2]], [{1: 1}])
