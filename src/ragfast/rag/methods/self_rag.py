"""Self-RAG: segments ranked by what the model's reflection tokens say of them (Asai et al. 2024)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast._core.arrays import ArrayLike
from ragfast.marginal.lse import log_softmax
from ragfast.rag.methods.inputs import bools, summed_logprobs

__all__ = ["self_rag_answers", "self_rag_retrieve", "self_rag_scores"]

Answer = TypeVar("Answer", bound=Hashable)

RELEVANCE = np.array([1.0, 0.0])
SUPPORT = np.array([1.0, 0.5, 0.0])
UTILITY = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def self_rag_scores(
    token_logprobs: ArrayLike,
    *,
    relevance: ArrayLike | None = None,
    support: ArrayLike | None = None,
    utility: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
    length_normalized: bool = False,
) -> NDArray[np.float64]:
    """The score of a segment y_t generated given document d: p(y_t | x, d, y_<t) + sum_G w_G s_G over the groups of
    reflection tokens (Asai et al. 2024, section 3.3 and its appendix on inference).

    token_logprobs (...,K,T), of the segment's tokens under each of K documents; mask (...,K,T) is True where there is
    one. The groups hold log-probabilities, or logits, of their tokens where the model put one, in this order:
    relevance (...,K,2): [Relevant], [Irrelevant], s = p(Relevant); support (...,K,3): [Fully supported], [Partially
    supported], [No support / Contradictory], s = p(Fully) + p(Partially) / 2; utility (...,K,5): [Utility:1] to
    [Utility:5], s = sum_i {-1, -1/2, 0, 1/2, 1}_i p(i). Each p is normalised within its group. A group that is not
    given, or all -inf where the segment has no such token, adds nothing. weights are w of relevance, support and
    utility, by default the paper's.

    Returns (...,K) float64. A document that is missing, of which every token has a log-probability of -inf or mask
    scores none, has a score of -inf, since others may have one below 0. length_normalized takes the mean of
    token_logprobs before the exponential, as the released code does; its long-form script sums utility over the wrong
    group of tokens, so that it is always 0, which is not reproduced.

    TypeError for other dtypes, ValueError for shapes that do not go together.

    >>> import numpy as np, ragfast.rag.methods
    >>> scores = ragfast.rag.methods.self_rag_scores(
    ...     np.log([[0.5, 0.5], [0.9, 0.9]]), relevance=np.log([[0.8, 0.2], [0.1, 0.4]]), length_normalized=True
    ... )
    >>> scores.round(4).tolist()
    [1.3, 1.1]
    """
    given = arrays.floats(token_logprobs, "token_logprobs")
    if given.ndim < 2:
        raise ValueError(f"token_logprobs: expected shape (..., K, T), got {given.shape}")
    why = f"as token_logprobs has shape {given.shape}"
    scored = np.ones(given.shape, bool) if mask is None else bools(mask, "mask", given.shape, why)
    missing = ~(scored & (given != -np.inf)).any(axis=-1)
    # A missing document may have no token to take the mean of, and anything where mask is False.
    scored, tokens = scored | missing[..., None], np.where(missing[..., None], -np.inf, given)
    # Segments differ in length from document to document, so that each is an answer of its own.
    total, _ = summed_logprobs(tokens[..., None, :], scored, length_normalized, "token_logprobs")
    score: NDArray[np.float64] = np.exp(total[..., 0])
    if len(weights) != 3:
        raise ValueError(f"weights: expected three, of relevance, support and utility, got {len(weights)}")
    groups = (relevance, "relevance", RELEVANCE), (support, "support", SUPPORT), (utility, "utility", UTILITY)
    for (group, name, worth), weight in zip(groups, weights, strict=True):
        if group is not None:
            wide = arrays.doubles(group, name)
            expected = (*given.shape[:-1], len(worth))
            if wide.shape != expected:
                raise ValueError(f"{name}: expected shape {expected}, {why}, got {wide.shape}")
            score = score + float(weight) * (np.exp(log_softmax(wide)) @ worth)
    return np.where(missing, -np.inf, score)


def self_rag_answers(scores: ArrayLike, answers: Sequence[Answer]) -> list[tuple[Answer, float]]:
    """Answers of one question, each with the sum of the scores of the documents under which it was generated, the best
    first, equal ones in the order they came: how Self-RAG decides short-form questions with a closed set of answers
    (the released run_short_form.py; where answers are open, it takes the document of the best score).

    scores (K,) and K answers, such as str, or tuples of tokens. TypeError for other dtypes, ValueError for lengths that
    differ.

    >>> import ragfast.rag.methods
    >>> ragfast.rag.methods.self_rag_answers([1.0, 1.5, 1.0], ["yes", "no", "yes"])
    [('yes', 2.0), ('no', 1.5)]
    """
    given, _ = arrays.shaped_doubles(scores, "scores", f"({len(answers)},), one for each answer", (len(answers),))
    places: dict[Answer, int] = {}
    keys = [places.setdefault(answer, len(places)) for answer in answers]
    sums = np.bincount(keys, weights=given, minlength=len(places)) if keys else np.empty(0)
    best = np.argsort(-sums, kind="stable")
    names = list(places)
    return [(names[i], float(sums[i])) for i in best]


def self_rag_retrieve(retrieve_logprobs: ArrayLike, *, threshold: float = 0.2) -> Any:
    """Whether to retrieve: p([Retrieval]), normalised over the tokens of its group, is above threshold (Asai et al.
    2024, section 3.3).

    retrieve_logprobs (...,R) are log-probabilities or logits of [Retrieval], which comes first, [No Retrieval] and
    perhaps [Continue to Use Evidence]. Returns bool (...,). The released short-form script divides log-probabilities
    by their sum instead, which is small where p([Retrieval]) is great: that is not reproduced.

    TypeError for other dtypes, ValueError for fewer than two tokens or a threshold that is not from 0 to 1.

    >>> import numpy as np, ragfast.rag.methods
    >>> ragfast.rag.methods.self_rag_retrieve(np.log([[0.3, 0.7], [0.02, 0.18], [0.9, 0.1]])).tolist()
    [True, False, True]
    """
    given = arrays.floats(retrieve_logprobs, "retrieve_logprobs")
    if given.ndim == 0 or given.shape[-1] < 2:
        raise ValueError(f"retrieve_logprobs: expected shape (..., R) with R of 2 or more, got {given.shape}")
    limit = arrays.finite_float(threshold, "threshold", above_zero=False)
    if limit > 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {limit}")
    return np.exp(log_softmax(arrays.wide(given))[..., 0]) > limit
