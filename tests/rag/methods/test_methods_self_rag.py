"""Self-RAG's scores, answers and decision to retrieve, against transcriptions of their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ragfast.rag import methods

B, K, T = 2, 3, 4
RNG = np.random.default_rng(0)
TOKENS = -RNG.exponential(size=(B, K, T))
GROUPS = {
    "relevance": RNG.standard_normal((B, K, 2)),
    "support": RNG.standard_normal((B, K, 3)),
    "utility": RNG.standard_normal((B, K, 5)),
}
MASK = RNG.random((B, K, T)) < 0.7
MASK[..., 0] = True


def expected_score(b: int, z: int, given: list[str], weights: Any, mask: Any, normalized: bool) -> float:
    scored = [TOKENS[b, z, t] for t in range(T) if mask is None or mask[b, z, t]]
    score = np.exp(sum(scored) / (len(scored) if normalized else 1))
    p = {name: np.exp(GROUPS[name][b, z]) for name in GROUPS}
    if "relevance" in given:
        score += weights[0] * p["relevance"][0] / (p["relevance"][0] + p["relevance"][1])
    if "support" in given:
        score += weights[1] * (p["support"][0] + 0.5 * p["support"][1]) / p["support"].sum()
    if "utility" in given:
        worth = sum(w * p["utility"][i] for i, w in enumerate((-1, -0.5, 0, 0.5, 1)))
        score += weights[2] * worth / p["utility"].sum()
    return float(score)


@pytest.mark.parametrize("given", [[], ["relevance"], ["support", "utility"], list(GROUPS)])
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("normalized", [False, True])
def test_scores(given: list[str], mask: Any, normalized: bool) -> None:
    for weights in ((1.0, 1.0, 0.5), (0.3, 2.0, -1.0)):
        tokens = TOKENS if mask is None else np.where(mask, TOKENS, np.nan)
        found = methods.self_rag_scores(
            tokens,
            mask=mask,
            weights=weights,
            length_normalized=normalized,
            **{name: GROUPS[name] for name in given},  # type: ignore[arg-type]
        )
        expected = [[expected_score(b, z, given, weights, mask, normalized) for z in range(K)] for b in range(B)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    default = methods.self_rag_scores(TOKENS, **GROUPS)  # type: ignore[arg-type]
    assert default[0, 0] == pytest.approx(expected_score(0, 0, list(GROUPS), (1, 1, 0.5), None, False))


def test_utility_counts() -> None:
    """The released long-form script adds 0 whatever the utility."""
    best, worst = (methods.self_rag_scores(TOKENS[0], utility=100 * np.eye(5)[[i] * K]) for i in (4, 0))
    np.testing.assert_allclose(best - worst, 1.0)


def test_missing_groups_and_documents() -> None:
    none = np.full((B, K, 2), -np.inf)
    np.testing.assert_array_equal(methods.self_rag_scores(TOKENS, relevance=none), methods.self_rag_scores(TOKENS))
    tokens = TOKENS.copy()
    tokens[0, 1] = -np.inf
    assert methods.self_rag_scores(tokens, relevance=none)[0, 1] == -np.inf
    narrow = methods.self_rag_scores(TOKENS[0].astype(np.float32))
    np.testing.assert_allclose(narrow, np.exp(TOKENS[0].sum(axis=-1)), rtol=1e-5)


@pytest.mark.parametrize("normalized", [False, True])
def test_missing_documents_are_last(normalized: bool) -> None:
    """Also behind a document of which the model thinks the worst, and whatever was put where mask scores nothing."""
    mask = np.array([[True, False], [True, True], [False, False], [False, False], [True, True]])
    tokens = np.array([[-9.0, np.nan], [-np.inf] * 2, [-np.inf] * 2, [1e9, np.nan], [-np.inf, -1.0]])
    worst = [[0.0, *[-np.inf] * 4]] * 5
    found = methods.self_rag_scores(tokens, mask=mask, utility=worst, length_normalized=normalized)
    np.testing.assert_array_equal(found, [np.exp(-9.0) - 0.5, -np.inf, -np.inf, -np.inf, -0.5])
    unmasked = methods.self_rag_scores(tokens[[1, 4]], utility=worst[:2], length_normalized=normalized)
    np.testing.assert_array_equal(unmasked, [-np.inf, -0.5])  # p of 0 under one document, and no document


def test_answers() -> None:
    scores = np.array([0.5, -0.25, 0.75, 0.25, 1.0])
    found = methods.self_rag_answers(scores, ["b", "c", "a", "b", "d"])
    assert found == [("d", 1.0), ("b", 0.75), ("a", 0.75), ("c", -0.25)]  # b came before a
    assert methods.self_rag_answers(scores[:2], [(1, 2), (1, 2)]) == [((1, 2), 0.25)]
    empty: list[str] = []
    assert methods.self_rag_answers(np.empty(0), empty) == []


def test_retrieve() -> None:
    p = np.array([[0.3, 0.7], [0.1, 0.9], [0.19, 0.81], [0.21, 0.79]])
    assert methods.self_rag_retrieve(np.log(p)).tolist() == [True, False, False, True]
    assert methods.self_rag_retrieve(np.log(p) - 3).tolist() == [True, False, False, True]  # normalised in its group
    assert methods.self_rag_retrieve(np.log(p), threshold=0.25).tolist() == [True, False, False, False]
    assert methods.self_rag_retrieve(np.log([0.15, 0.15, 0.7])) == np.bool_(False)
    likely, unlikely = np.log([0.99, 0.01]), np.log([0.01, 0.99])
    released = [x[0] / x.sum() > 0.2 for x in (likely, unlikely)]  # the wrong way round
    assert released == [False, True]
    assert [bool(methods.self_rag_retrieve(x)) for x in (likely, unlikely)] == [True, False]


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^token_logprobs: expected shape \(\.\.\., K, T\), got \(4,\)$"):
        methods.self_rag_scores(TOKENS[0, 0])
    with pytest.raises(TypeError, match=r"^token_logprobs: expected float32"):
        methods.self_rag_scores(TOKENS.astype(int))
    with pytest.raises(ValueError, match=r"^support: expected shape \(2, 3, 3\), .*, got \(2, 3, 2\)$"):
        methods.self_rag_scores(TOKENS, support=GROUPS["relevance"])
    with pytest.raises(
        ValueError, match=r"^mask: expected shape \(2, 3, 4\), as .* has shape \(2, 3, 4\), got \(2, 4\)$"
    ):
        methods.self_rag_scores(TOKENS, mask=MASK[:, 0])
    with pytest.raises(ValueError, match=r"^weights: expected three, .*, got 2$"):
        methods.self_rag_scores(TOKENS, weights=(1.0, 1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^scores: expected shape \(1,\), one for each answer, got \(2,\)$"):
        methods.self_rag_answers([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match=r"^retrieve_logprobs: expected shape \(\.\.\., R\) with R of 2 or more"):
        methods.self_rag_retrieve(np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"^threshold: expected a number from 0 to 1, got 1.5$"):
        methods.self_rag_retrieve(np.zeros(2), threshold=1.5)
