"""What the demo prints."""

from __future__ import annotations

import numpy as np
import pytest
from ragfast_demo import report


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_a_bar_is_as_long_as_asked_and_in_proportion(k: int) -> None:
    rng = np.random.default_rng(k)
    for probs in rng.dirichlet(np.ones(k), size=50):
        bar = report.share(probs, 40)
        assert len(bar) == 40
        assert list(bar) == sorted(bar)
        for i in range(min(k, 25)):
            assert abs(bar.count(report.LETTERS[i]) - 40 * probs[i]) <= 1


def test_the_documents_table_says_what_it_was_given() -> None:
    doc_probs = np.array([0.75, 0.25])
    table = report.documents(["Aa", "Bb"], np.log(doc_probs), np.array([-3.0, -1.0]), np.array([0.289, 0.711]))
    head, first, second = table.splitlines()
    assert head.split() == ["document", "log", "p(z|x)", "log", "p(y|x,z)", "p(z|x,y)"]
    assert first.split() == ["A", "Aa", "-0.29", "-3.00", "0.289"]
    assert second.split() == ["B", "Bb", "-1.39", "-1.00", "0.711"]


def test_leaning_names_the_first_document_of_each_token() -> None:
    posterior = np.array([[0.9, 0.1], [0.1, 0.9]])
    _, before, first, second = report.leaning(
        [" yes", "\n"], ["Aa", "Bb"], np.array([0.5, 0.5]), posterior
    ).splitlines()
    assert before.endswith("A" * 20 + "B" * 20)
    assert "' yes'" in first
    assert "A Aa" in first
    assert "90%" in first
    assert first.endswith("A" * 36 + "B" * 4)
    assert r"'\n'" in second
    assert "B Bb" in second
    assert "90%" in second
    assert second.endswith("A" * 4 + "B" * 36)


def test_long_titles_and_questions_stay_within_the_width() -> None:
    long = "x" * 99
    posterior = np.full((2, 1), 0.5)
    shown = [
        report.documents([long, long], np.log([0.5, 0.5]), np.array([-200.0, -1.0]), np.array([0.0, 1.0])),
        report.leaning([long], [long, long], np.array([0.5, 0.5]), posterior),
        report.heading(long, "known answer"),
    ]
    assert max(len(line) for text in shown for line in text.splitlines()) <= report.WIDTH
