"""The collapse monitor: its statistics against their definition, what it warns of, and what it leaves alone."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from ragfast.rag.training import CollapseMonitor, CollapseStatistics, CollapseWarning

Array = NDArray[Any]
N_DOCS, K = 1000, 5


def zipf(rng: np.random.Generator, n_questions: int, exponent: float) -> Array:
    """Documents (n,K) of questions about topics whose popularity follows a Zipf law; each topic has its K documents."""
    ranks = np.arange(1, N_DOCS // K + 1)
    popularity = ranks**-exponent / (ranks**-exponent).sum()
    topics = rng.choice(len(ranks), n_questions, p=popularity)
    return topics[:, None] * K + np.arange(K)


def by_definition(ids: Array, shares: Array, n_docs: int) -> float:
    """The overlap from all pairs of questions, each written out as p(z|x) over all documents."""
    table = np.zeros((len(ids), n_docs))
    for row, documents, weights in zip(table, ids, shares, strict=True):
        row[documents] = weights
    between = np.mean([one @ other for one, other in itertools.combinations(table, 2)])
    within = np.mean((table**2).sum(axis=1))
    chance = 1 / n_docs / within
    return float((between / within - chance) / (1 - chance))


def quietly(monitor: CollapseMonitor, *given: Any) -> CollapseStatistics:
    """An update that must not warn; warnings are errors here."""
    statistics = monitor.update(*given)
    assert not statistics.collapsed
    return statistics


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 6), st.booleans())
def test_overlap_is_that_of_all_pairs(seed: int, n_questions: int, k: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    n_docs = int(rng.integers(2 * k, 30))
    ids = np.array([rng.permutation(n_docs)[:k] for _ in range(n_questions)])
    logprobs = np.log(rng.dirichlet(np.ones(k), n_questions)) if weighted else None
    shares = np.full(ids.shape, 1 / k) if logprobs is None else np.exp(logprobs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        found = CollapseMonitor(n_docs).update(ids, logprobs)
    assert found.overlap == pytest.approx(by_definition(ids, shares, n_docs), abs=1e-9)


def test_statistics_by_hand() -> None:
    found = CollapseMonitor(100).update([[7, 1], [7, 2], [7, -1]])
    assert (found.n_questions, found.n_distinct, found.most_common, found.largest_share) == (3, 3, 7, 1.0)
    assert found.distinct_share == 3 / 5
    shares = np.array([2 / 3, 1 / 6, 1 / 6])  # of documents 7, 1 and 2
    assert found.entropy == pytest.approx(-(shares * np.log(shares)).sum())
    assert found.effective_documents == pytest.approx(math.exp(found.entropy))
    weighted = CollapseMonitor(100).update([[7, 1], [7, 2]], np.log([[0.9, 0.1], [0.8, 0.2]]))
    assert weighted.overlap == pytest.approx(
        by_definition(np.array([[7, 1], [7, 2]]), np.array([[0.9, 0.1], [0.8, 0.2]]), 100)
    )


def test_only_the_window_counts() -> None:
    rng = np.random.default_rng(0)
    monitor, last = CollapseMonitor(N_DOCS, window=50), CollapseMonitor(N_DOCS, window=50)
    ids = rng.integers(0, N_DOCS, (90, K))
    for batch in np.split(ids, 9):
        by_batches = quietly(monitor, batch)
    assert by_batches == quietly(last, ids[-50:])
    assert by_batches.n_questions == 50


@pytest.mark.parametrize("weighted", [False, True])
def test_two_lists_whatever_the_question_are_a_collapse(weighted: bool) -> None:
    ids = np.tile(np.arange(2 * K).reshape(2, K), (128, 1))
    logprobs = np.log(np.tile([0.6, 0.1, 0.1, 0.1, 0.1], (256, 1))) if weighted else None
    with pytest.warns(CollapseWarning, match=r"which is 2\.0 lists"):
        found = CollapseMonitor(N_DOCS).update(ids, logprobs)
    assert found.overlap < 0.5
    assert found.effective_lists == pytest.approx(2)
    quietly(CollapseMonitor(N_DOCS, threshold=0.7), ids, logprobs)
    quietly(CollapseMonitor(9 * K), ids)  # of few documents, so that there are few lists
    three = np.tile(np.arange(3 * K).reshape(3, K), (85, 1))
    assert quietly(CollapseMonitor(N_DOCS), three).effective_lists == pytest.approx(3)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_popular_topics_are_no_collapse(exponent: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    monitor = CollapseMonitor(N_DOCS)
    for _ in range(30):
        quietly(monitor, zipf(rng, 16, exponent))


def test_the_thresholds_figures() -> None:
    """What the documentation says of healthy and of collapsed traffic."""
    rng = np.random.default_rng(0)
    monitor = CollapseMonitor(N_DOCS, window=5_000)
    ranks = np.arange(1, 1001)
    for exponent, expected in ((1.0, 0.03), (2.0, 0.4)):
        popularity = ranks**-exponent / (ranks**-exponent).sum()
        found = CollapseMonitor(10**6, window=5_000).update(rng.choice(1000, 5_000, p=popularity)[:, None])
        assert found.overlap == pytest.approx(expected, abs=0.02)
    ids = rng.integers(0, N_DOCS, (5_000, K))
    ids[:4_500] = np.arange(K)
    with pytest.warns(CollapseWarning):
        assert monitor.update(rng.permutation(ids)).overlap == pytest.approx(0.81, abs=0.01)


def test_a_collapse_warns_once_and_again_only_after_it_was_over() -> None:
    rng = np.random.default_rng(0)
    monitor = CollapseMonitor(N_DOCS, window=64)
    same, varied = np.tile([3, 1, 4, 15, 9], (16, 1)), lambda: rng.integers(0, N_DOCS, (16, K))
    caught = []

    def feed(batch: Any, times: int) -> CollapseStatistics:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(times):
                found = monitor.update(batch() if callable(batch) else batch)
        caught.append(len(seen))
        return found

    assert not feed(varied, 4).collapsed
    assert feed(same, 10).collapsed
    assert not feed(varied, 10).collapsed
    assert feed(same, 10).collapsed
    assert caught == [0, 1, 0, 1]


def test_an_episode_is_over_only_well_below_the_threshold() -> None:
    """Traffic that hovers about the threshold is one episode."""
    monitor = CollapseMonitor(10**6, window=100)

    def mixed(n_same: int) -> Array:
        return np.concatenate([np.zeros(n_same, np.int64), np.arange(1, 101 - n_same)])[:, None]

    with pytest.warns(CollapseWarning):
        assert monitor.update(mixed(75)).collapsed  # 0.56
    for n_same in (70, 75, 70, 65):  # 0.49, 0.56, 0.49, 0.42
        assert monitor.update(mixed(n_same)).collapsed
    quietly(monitor, mixed(60))  # 0.36


def test_the_warning_says_what_was_seen_and_what_to_do() -> None:
    message = (
        r"last 40 questions share 100% .*\(3 distinct documents, 3\.0 in effect, which is 1\.0 lists; "
        r"document 7 for 100% of .*learning rate"
    )
    with pytest.warns(CollapseWarning, match=message) as caught:
        CollapseMonitor(N_DOCS).update([[9, 7, 8]] * 40)
    assert caught[0].filename == __file__


def test_too_little_to_tell_is_left_alone() -> None:
    same = [[0, 1, 2, 3, 4]]
    assert math.isnan(quietly(CollapseMonitor(N_DOCS), same).overlap)
    assert quietly(CollapseMonitor(N_DOCS), same * 31).overlap == pytest.approx(1)  # few questions
    for n_docs in (5, 9):  # K is all there are, or most
        assert math.isnan(quietly(CollapseMonitor(n_docs), same * 200).overlap)
    assert math.isnan(quietly(CollapseMonitor(1), [[0]] * 200).overlap)
    assert math.isnan(quietly(CollapseMonitor(3), [[0, 1, 2, -1, -1]] * 200).overlap)
    nothing = quietly(CollapseMonitor(5), [[-1, -1]] * 200)
    assert (nothing.n_questions, nothing.most_common) == (0, -1)


def test_chance_is_taken_off() -> None:
    """Of ten documents any two questions share half of their five; that is no collapse, the same five each time are."""
    rng = np.random.default_rng(0)
    ids = np.array([rng.permutation(10)[:5] for _ in range(256)])
    assert quietly(CollapseMonitor(10), ids).overlap == pytest.approx(0, abs=0.02)
    with pytest.warns(CollapseWarning):
        CollapseMonitor(10).update([[0, 1, 2, 3, 4]] * 256)


def test_probabilities_see_one_document_that_takes_all() -> None:
    """Four of five documents vary, but the fifth has all the weight: only the probabilities tell."""
    rng = np.random.default_rng(0)
    ids = np.concatenate([np.full((200, 1), 999), [rng.permutation(900)[:4] for _ in range(200)]], axis=1)
    logprobs = np.log(np.tile([0.96, 0.01, 0.01, 0.01, 0.01], (200, 1)))
    quietly(CollapseMonitor(N_DOCS), ids)
    with pytest.warns(CollapseWarning):
        found = CollapseMonitor(N_DOCS).update(ids, logprobs)
    assert found.effective_documents < 2
    # And where all documents are retrieved every time, whether their weights look at the question.
    peaked = np.log(np.eye(5) * 0.9 + 0.02)
    every = [[0, 1, 2, 3, 4]] * 200
    assert quietly(CollapseMonitor(5), every, peaked[rng.integers(0, 5, 200)]).overlap < 0.1
    with pytest.warns(CollapseWarning):
        CollapseMonitor(5).update(every, peaked[[2] * 200])


def test_a_document_of_no_probability_counts_for_nothing() -> None:
    found = quietly(CollapseMonitor(50), [[1, 2], [3, 4]], [[0.0, -math.inf], [0.0, -math.inf]])
    assert (found.effective_documents, found.effective_lists) == (pytest.approx(2), pytest.approx(2))


def test_rows_may_differ_in_length() -> None:
    found = quietly(CollapseMonitor(50), [np.array([1, 2, 3]), np.array([4])], [np.log([0.5, 0.5, 0.0001]), [0.0]])
    assert (found.n_questions, found.n_distinct, found.overlap) == (2, 4, pytest.approx(0, abs=0.1))


def test_bad_input_is_refused() -> None:
    monitor = CollapseMonitor(N_DOCS)
    with pytest.raises(ValueError, match=r"doc_ids\[0\]: expected shape \(K,\)"):
        monitor.update([1, 2, 3])
    with pytest.raises(TypeError, match=r"doc_ids\[0\]: expected integers"):
        monitor.update([[1.5]])
    with pytest.raises(ValueError, match="doc_logprobs: expected 2 rows, as doc_ids has, got 1"):
        monitor.update([[1], [2]], [[0.0]])
    with pytest.raises(ValueError, match=r"doc_logprobs\[0\]: expected shape \(2,\), that of doc_ids\[0\]"):
        monitor.update([[1, 2]], [[0.0]])
    for bad in (math.nan, -math.inf):
        with pytest.raises(ValueError, match=r"doc_logprobs\[0\]: expected log-probabilities"):
            monitor.update([[1]], [[bad]])
    assert monitor.update([]).n_questions == 0  # nothing of those was taken in
    with pytest.raises(ValueError, match="window: expected 32 or more"):
        CollapseMonitor(10, window=31)
    with pytest.raises(ValueError, match="threshold: expected a share"):
        CollapseMonitor(10, threshold=1.0)
    with pytest.raises(ValueError, match="n_docs: expected 1 or more"):
        CollapseMonitor(0)


def test_ids_that_are_strings() -> None:
    """The same statistics as of integers, whatever the names."""
    rng = np.random.default_rng(3)
    ids = zipf(rng, 80, 1.0)
    ids[::7, 3:] = -1
    logprobs = rng.standard_normal(ids.shape)
    names = np.array([*(f"n{i:04}" for i in range(N_DOCS)), None], object)
    for given_logprobs in (None, logprobs):
        numbers, words = CollapseMonitor(N_DOCS), CollapseMonitor(N_DOCS)
        expected, found = numbers.update(ids, given_logprobs), words.update(names[ids], given_logprobs)
        assert found.most_common == names[expected.most_common]
        for field in CollapseStatistics.__dataclass_fields__:
            if field != "most_common":
                assert getattr(found, field) == getattr(expected, field)
    with pytest.warns(CollapseWarning, match="document letter for 92% of the questions"):
        words.update([["news", "letter"]] * 236)
    before = words._last.copy()
    for mixed in ([[1, 2]], [["a"], [1]]):
        with pytest.raises(TypeError, match="doc_ids: expected integers for all questions or str for all, got both"):
            words.update(mixed)
    assert list(words._last) == list(before)  # nothing was taken in
    assert CollapseMonitor(N_DOCS).update(np.full((2, 3), None)).n_questions == 0
