"""Retrieval collapse: a retriever that returns the same documents whatever the question (Lewis et al. 2020, app. H)."""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.rag.protocols import was_found

__all__ = ["CollapseMonitor", "CollapseStatistics", "CollapseWarning"]

MIN_QUESTIONS = 32
"""Questions from which the monitor judges: a few may well be about the same thing."""
MOST_CHANCE = 0.5
"""Overlap by chance up to which it judges: of fewer documents than twice K, questions share most in any case."""
FEWEST_LISTS = 1.25
"""Over the threshold: below so many separate lists it is a collapse as well, for the default threshold 2.5. Traffic of
one Zipf law has an overlap above the threshold by then."""
MOST_CHANCE_OF_LISTS = 0.1
"""Overlap by chance up to which lists are counted: of few documents, few lists can be made."""
RECOVERED = 0.8
"""Of the threshold: below it an episode is over, so that one that hovers about the threshold warns once."""


class CollapseWarning(UserWarning):
    """The retriever returns nearly the same documents for every question."""


@dataclass(frozen=True, slots=True)
class CollapseStatistics:
    """What the last questions retrieved.

    n_questions, those that found a document; n_distinct, the documents they found together; distinct_share, n_distinct
    of the most there could be, min(all that was retrieved, n_docs); largest_share, the share of the questions that
    found the commonest document, which is most_common (-1 without questions).

    entropy, in nats, of the share of each document in what was retrieved, weighted by p(z|x) where that was given, and
    effective_documents = exp(entropy): as many equally common documents have this entropy.

    overlap: how much two questions have in common on average, beyond what chance would give them: 0 if documents were
    drawn at random, 1 if all questions get the same. NaN where that cannot be told: for less than two questions, or
    documents of which each question uses more than half.

    effective_lists = effective_documents / exp(the mean entropy of p(z|x)), the exponential of what x and z tell of
    each other: of as many lists, equally common and without a document in common, the questions get one each.
    collapsed: whether the monitor takes this for a collapse.
    """

    n_questions: int
    n_distinct: int
    distinct_share: float
    most_common: int | str
    largest_share: float
    entropy: float
    effective_documents: float
    overlap: float
    effective_lists: float
    collapsed: bool


class CollapseMonitor:
    """Watches what a retriever returns during training, and warns when it stops looking at the question.

    Lewis et al. 2020 (appendix H) saw it on tasks that need little knowledge: the retriever learns to return the same
    documents regardless of the input, whereupon the generator learns to ignore them, and the loss, which still falls,
    does not show it.

    n_docs is N, the number of documents there are; window is the number of last questions that count, 32 or more.
    The measure is the overlap of two random questions x and x' of the window, with p(z|x) over its documents, or 1/K
    each where probabilities are not given:

        o = E[sum_z p(z|x) p(z|x')] / E[sum_z p(z|x)^2],    overlap = (o - c) / (1 - c),    c = 1/N / E[sum_z p(z|x)^2].

    Without probabilities o is the share of documents in common and c = K/N, what random documents have. Questions whose
    documents follow a Zipf law over a thousand topics have an overlap of 0.03, with exponent 2, where six of ten are
    about the same topic, 0.4; a retriever that gives nine of ten questions the same documents has 0.8. The default
    threshold is 0.5. Fewer than 32 questions, or than 2 K documents, are not judged.

    A retriever that has kept two lists, whatever the question, has an overlap of just 0.5 or so. So of 10 K documents
    or more, fewer than 1.25 / threshold lists in effect are a collapse too: 2.5 by default, where Zipf traffic of
    exponent 2 has 5. Questions that truly are of two kinds, each with one right list, look the same: for those set a
    higher threshold. Three lists or more in equal parts are not called a collapse: look at effective_lists.

    >>> import warnings
    >>> from ragfast.rag.training import CollapseMonitor
    >>> monitor = CollapseMonitor(n_docs=1000)
    >>> monitor.update([[3, 1, 4], [1, 5, 9], [2, 6, 5]]).n_distinct
    7
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     statistics = monitor.update([[3, 1, 4]] * 500)
    >>> statistics.collapsed, round(statistics.effective_documents, 1), len(caught)
    (True, 3.0, 1)
    """

    def __init__(self, n_docs: int, *, window: int = 256, threshold: float = 0.5) -> None:
        self.n_docs = arrays.positive_int(n_docs, "n_docs")
        self.window = arrays.positive_int(window, "window")
        if self.window < MIN_QUESTIONS:
            raise ValueError(f"window: expected {MIN_QUESTIONS} or more questions, got {window}")
        self.threshold = arrays.finite_float(threshold, "threshold", above_zero=True)
        if self.threshold >= 1:
            raise ValueError(f"threshold: expected a share of documents between 0 and 1, got {threshold}")
        self._last: deque[tuple[NDArray[Any], NDArray[np.float64]]] = deque(maxlen=self.window)
        self._collapsed = False

    def update(self, doc_ids: Any, doc_logprobs: Any = None) -> CollapseStatistics:
        """Takes in what B questions retrieved and returns the statistics of the window.

        doc_ids (B,K) integers with -1 for none, or str with None for none, or B arrays (K,), each with its own K;
        doc_logprobs = log p(z|x), of the same shapes, or None. Warns with CollapseWarning where a collapse begins, and
        again only after it was over.

        ValueError for other shapes, NaN, or a question of which every document has log p of -inf; TypeError for ids of
        another kind than those before.
        """
        found = [(ids, shares) for ids, shares in _questions(doc_ids, doc_logprobs) if len(ids)]
        kinds = {ids.dtype for ids, _ in [*list(self._last)[-1:], *found]}
        if len(kinds) > 1:
            raise TypeError("doc_ids: expected integers for all questions or str for all, got both")
        self._last += found
        statistics = self._statistics()
        if statistics.collapsed and not self._collapsed:
            warnings.warn(_message(statistics), CollapseWarning, stacklevel=2)
        self._collapsed = statistics.collapsed
        return statistics

    def _statistics(self) -> CollapseStatistics:
        n = len(self._last)
        if n == 0:
            return CollapseStatistics(
                0, 0, math.nan, -1, math.nan, math.nan, math.nan, math.nan, math.nan, self._collapsed
            )
        ids = np.concatenate([ids for ids, _ in self._last])
        shares = np.concatenate([shares for _, shares in self._last])
        distinct, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
        totals = np.zeros(len(distinct))
        np.add.at(totals, places, shares)
        entropy = _entropy(totals / n)
        within = float((shares**2).sum()) / n
        overlap = self._overlap(totals, within, n)
        lists = math.exp(entropy - _entropy(shares) / n)
        # With too little to judge by, what was found before stands.
        limit = self.threshold * (RECOVERED if self._collapsed else 1.0)
        judged = n >= MIN_QUESTIONS and not math.isnan(overlap)
        has_few_lists = lists < FEWEST_LISTS / limit and 1 / self.n_docs <= MOST_CHANCE_OF_LISTS * within
        return CollapseStatistics(
            n_questions=n,
            n_distinct=len(distinct),
            distinct_share=len(distinct) / min(len(ids), self.n_docs),
            most_common=distinct[counts.argmax() : counts.argmax() + 1].tolist()[0],
            largest_share=int(counts.max()) / n,
            entropy=entropy,
            effective_documents=math.exp(entropy),
            overlap=overlap,
            effective_lists=lists,
            collapsed=overlap > limit or has_few_lists if judged else self._collapsed,
        )

    def _overlap(self, totals: NDArray[np.float64], within: float, n: int) -> float:
        """Of n questions: totals, the sum of p(z|x) over them for each document, within, their mean sum of p(z|x)^2."""
        chance = 1 / self.n_docs / within
        if n < 2 or chance > MOST_CHANCE:
            return math.nan
        between = (float(totals @ totals) - n * within) / (n * (n - 1))  # every pair of two questions
        return (between / within - chance) / (1 - chance)


def _entropy(shares: NDArray[np.float64]) -> float:
    """-sum p log p, in nats."""
    found = shares[shares > 0]
    return float(-(found * np.log(found)).sum())


def _questions(doc_ids: Any, doc_logprobs: Any) -> list[tuple[NDArray[Any], NDArray[np.float64]]]:
    """The documents of each question, without the -1 or None, and their shares of it."""
    rows = [arrays.id_array(ids, f"doc_ids[{b}]", "(K,)", (None,)) for b, ids in enumerate(doc_ids)]
    if doc_logprobs is None:
        doc_logprobs = [np.zeros(len(ids)) for ids in rows]
    if len(doc_logprobs) != len(rows):
        raise ValueError(f"doc_logprobs: expected {len(rows)} rows, as doc_ids has, got {len(doc_logprobs)}")
    found = []
    for b, (ids, given) in enumerate(zip(rows, doc_logprobs, strict=True)):
        name = f"doc_logprobs[{b}]"
        logprobs, _ = arrays.shaped_doubles(given, name, f"({len(ids)},), that of doc_ids[{b}]", ids.shape)
        ids, logprobs = ids[was_found(ids)], logprobs[was_found(ids)]
        powers = np.exp(logprobs)
        total = float(powers.sum())
        if len(ids) and not (0 < total < math.inf):
            raise ValueError(f"{name}: expected log-probabilities of which one at least is finite, got {given}")
        found.append((ids, powers / total if len(ids) else powers))
    return found


def _message(found: CollapseStatistics) -> str:
    return (
        f"retrieval collapse: the last {found.n_questions} questions share {found.overlap:.0%} of what they retrieve "
        f"beyond chance ({found.n_distinct} distinct documents, {found.effective_documents:.1f} in effect, which is "
        f"{found.effective_lists:.1f} lists; "
        f"document {found.most_common} for {found.largest_share:.0%} of the questions). The retriever no longer looks "
        "at the question. Go back to weights from before, then lower the retriever's learning rate, or let the "
        "generator learn first with the retriever frozen; check too that the answers need the documents, and that the "
        "index belongs to this document encoder."
    )
