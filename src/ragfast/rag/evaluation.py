"""How good retrieval and answers are, by the measures of open-domain question answering.

Answers are held against known ones as SQuAD does (Rajpurkar et al. 2016), passages as DPR does (Karpukhin et al. 2020).
Wherever known answers are taken, one text is one answer and a sequence of texts several, any of which is right.
`ir_measures <https://ir-measur.es>`_ (extra ``eval``) calculates the measures of rankings: recall, MRR, nDCG.

>>> from ragfast.rag import evaluation
>>> evaluation.exact_match("The Eiffel Tower!", "eiffel tower"), evaluation.f1("in Paris, France", ["Paris", "Lyon"])
(1.0, 0.5)
>>> passages = ["Lyon is a city.", "Paris is the capital of France.", "In Paris."]
>>> ranks = [evaluation.first_hit(passages, "paris"), evaluation.first_hit(passages, "Rome")]
>>> ranks, evaluation.recall_at(ranks, 1), evaluation.recall_at(ranks, 2), evaluation.mrr(ranks)
([2, None], 0.0, 0.5, 0.25)
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "contains_answer",
    "dpr_tokens",
    "exact_match",
    "f1",
    "first_hit",
    "mrr",
    "normalize_answer",
    "recall_at",
    "retrieval_measures",
]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """What SQuAD compares: lower case, then no ASCII punctuation, no articles, and single spaces, in this order.

    Rajpurkar et al. 2016, section 6.1, and its official script: punctuation goes without leaving a space, so "8,849" is
    "8849" and "well-known" "wellknown"; only ASCII punctuation goes, and nothing is done about accents.

    >>> normalize_answer("  The Wright  Brothers' plane: a Flyer ")
    'wright brothers plane flyer'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 where the prediction is one of the answers, both normalised, else 0.0.

    As in SQuAD, what normalisation leaves nothing of ("", "The") equals other such texts. ValueError without an answer.

    >>> exact_match("8849", ["8,849", "8,848"]), exact_match("Brasilia", "Brasília")
    (1.0, 0.0)
    """
    found = normalize_answer(prediction)
    return float(any(found == normalize_answer(answer) for answer in _several(answers)))


def f1(prediction: str, answers: str | Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the normalised words, the largest over the answers; in [0, 1].

    A word counts as often as both texts have it. Where prediction or answer has no words left, it is 1.0 if both have
    none and 0.0 otherwise (the SQuAD 2.0 script; that of 1.1 gives 0.0 to both). Yes and no are words like others, as
    in SQuAD: "no" has 2/3 of "no one" (HotpotQA's script gives it 0). ValueError without an answer.

    >>> f1("built in 1889", "1889"), f1("Lyon", "Paris")
    (0.5, 0.0)
    """
    found = normalize_answer(prediction).split()
    return max(_overlap(found, normalize_answer(answer).split()) for answer in _several(answers))


def dpr_tokens(text: str) -> list[str]:
    """The words that passages and answers are compared by: those of DPR's SimpleTokenizer after NFD, in lower case.

    A word is a run of letters, numbers and marks, or one character of anything else that is neither a space nor a
    control or formatting character (Unicode categories Z and C, which part words).

    >>> dpr_tokens("Mt. Everest is 8,849 m")
    ['mt', '.', 'everest', 'is', '8', ',', '849', 'm']
    """
    return unicodedata.normalize("NFD", text).translate(_APART).lower().split()


def contains_answer(passage: str, answers: str | Sequence[str]) -> bool:
    """Whether the words of an answer stand in the passage, one after the other.

    What DPR and its followers call a hit (Karpukhin et al. 2020, section 5; `has_answer`, matching strings). "Paris" is
    not in "Parisian"; "7th century BC" is in "the 7th-century BC" no more than in DPR. An answer without words is in no
    passage (in every one with DPR's code). ValueError without an answer.

    >>> contains_answer("It lies in PARIS, France.", "Paris"), contains_answer("18890 tons", ["1889", "1890"])
    (True, False)
    """
    # No word has a space in it, so that one after the other is a substring with a space at both ends.
    spaced = f" {' '.join(dpr_tokens(passage))} "
    wanted = [" ".join(dpr_tokens(answer)) for answer in _several(answers)]
    return any(answer and f" {answer} " in spaced for answer in wanted)


def first_hit(passages: Iterable[str], answers: str | Sequence[str]) -> int | None:
    """The rank, from 1, of the first passage that contains an answer, or None. ValueError without an answer.

    >>> first_hit(["Lyon", "Paris", "Paris"], "Paris")
    2
    """
    several = _several(answers)
    return next((rank for rank, passage in enumerate(passages, 1) if contains_answer(passage, several)), None)


def retrieval_measures(
    retrieved: Sequence[Sequence[Any]], relevant: Sequence[Mapping[Any, int]], measures: Sequence[str] = ("R@5", "RR")
) -> dict[str, float]:
    """Return the mean over questions of standard measures of rankings, calculated by ir_measures.

    Parameters
    ----------
    retrieved : sequence of B sequences
        The ids of the documents that each question found, best first, such as ``doc_ids.tolist()``.
    relevant : sequence of B mappings of an id to int
        For each question the relevance of documents: 1 or more if a document is relevant. Others are not relevant.
    measures : sequence of str
        Names of ir_measures, such as "R@20", "RR", "Success@5", "nDCG@10".

    Raises
    ------
    ValueError
        If there is no question, or `retrieved` and `relevant` differ in length.
    ImportError
        If ir_measures is not installed.

    Examples
    --------
    >>> from ragfast.rag import evaluation
    >>> found = evaluation.retrieval_measures([[4, 2, 9], [1, 3, 5]], [{2: 1, 9: 1}, {7: 1}], ["R@2", "RR", "nDCG@3"])
    >>> {name: round(value, 3) for name, value in found.items()}
    {'R@2': 0.25, 'RR': 0.25, 'nDCG@3': 0.347}
    """
    try:
        import ir_measures
    except ImportError as error:
        raise ImportError("measures of rankings need ir_measures: pip install 'ragfast-kernels[eval]'") from error
    if len(retrieved) != len(relevant):
        raise ValueError(f"relevant: must be {len(retrieved)} mappings, one a question; got {len(relevant)}")
    if len(relevant) == 0:
        raise ValueError("relevant: must have at least one question; got none")
    wanted = {name: ir_measures.parse_measure(name) for name in measures}
    judged = {str(q): {str(doc_id): gain for doc_id, gain in gains.items()} for q, gains in enumerate(relevant)}
    ranked = {str(q): {str(doc_id): -rank for rank, doc_id in enumerate(ids)} for q, ids in enumerate(retrieved)}
    found = ir_measures.calc_aggregate(wanted.values(), judged, ranked)
    return {name: float(found[measure]) for name, measure in wanted.items()}


def recall_at(ranks: Sequence[int | None], k: int) -> float:
    """The part of the questions, each given by its first hit's rank, that have a hit among their first k passages.

    The top-k retrieval accuracy of DPR (Karpukhin et al. 2020, table 2), "Success@k" of ir_measures. ValueError without
    a question, for k below 1.

    >>> recall_at([1, 3, None, 21], 20)
    0.5
    """
    if k < 1:
        raise ValueError(f"k: expected 1 or more, got {k}")
    return _of_first_hits(ranks, f"Success@{k}")


def mrr(ranks: Sequence[int | None]) -> float:
    """The mean reciprocal rank of the first hits (Voorhees 1999), over as many passages as were looked through.

    MRR@20 is that of ranks that are None beyond 20. ValueError without a question.

    >>> mrr([1, 4, None, None])
    0.3125
    """
    return _of_first_hits(ranks, "RR")


def _of_first_hits(ranks: Sequence[int | None], measure: str) -> float:
    """A measure of rankings in which the passage of that rank, the first of which is 1, is the only relevant one."""
    for rank in ranks:
        if rank is not None and rank < 1:
            raise ValueError(f"rank: expected 1 or more, as the first passage has rank 1, or None, got {rank}")
    if not ranks:
        raise ValueError("ranks: expected at least one question, got none")
    rankings = [range(1, 1 if rank is None else rank + 1) for rank in ranks]
    return retrieval_measures(rankings, [{rank or 0: 1} for rank in ranks], [measure])[measure]


class _Apart(dict[int, str]):
    """For str.translate: spaces for what parts words, and spaces around what is a word by itself."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        self[code] = character if kind in "LMN" else " " if kind in "CZ" else f" {character} "
        return self[code]


_APART = _Apart()


def _several(answers: str | Sequence[str]) -> Sequence[str]:
    several = [answers] if isinstance(answers, str) else answers
    if not several:
        raise ValueError("answers: expected at least one, got none")
    return several


def _overlap(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    # 2 P R / (P + R) with P = common / len(found) and R = common / len(wanted)
    return 2 * (Counter(found) & Counter(wanted)).total() / (len(found) + len(wanted))
