"""Top-k lists of the shards of a corpus, merged into the top-k list of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast._core._kernels import Hits

__all__ = ["merge_topk"]


@overload
def merge_topk(scores: Sequence[Hits], ids: None = None, k: int | None = None, *, temperature: float = 1.0) -> Hits: ...
@overload
def merge_topk(
    scores: arrays.ArrayLike, ids: arrays.ArrayLike, k: int | None = None, *, temperature: float = 1.0
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def merge_topk(
    scores: Any, ids: arrays.ArrayLike | None = None, k: int | None = None, *, temperature: float = 1.0
) -> Any:
    """The top-k lists of S shards merged: the best k of their union, by (score descending, id ascending).

    Either scores (S,B,K), float32 or float64, and ids (S,B,K), integers or str; or a sequence of S :class:`Hits` of one
    B, of which K may differ. Each list is by score descending, and ended by ids of -1, or None among str, where it is
    shorter than K. An id that several lists have is taken once, at its best score. k is by default K, the largest.

    Strings ascend by their code points: outside of an index nobody knows the order in which they were added, and this
    one does not depend on the order of the lists. So of documents that tie, a list may come out in another order than
    its index gave it; and which of those that tie for its last place a list has, is as its index chose.

    Returns (scores, ids), (B,k) each, -inf and -1 or None where there are fewer than k documents; of Hits, Hits with
    logprobs = log_softmax(scores / temperature) over these k. Where every shard was asked for k documents or more,
    these are the scores that a search of the whole would have found, to the bit if they are float64, and the ids, but
    for strings that tie. float32 scores are rounded, and where that makes them equal the order is by id.

    TypeError for another dtype and for ids of both kinds, ValueError for shapes that do not go together and for a list
    that is not sorted.

    >>> import numpy as np, ragfast
    >>> scores, ids = ragfast.merge_topk(np.array([[[3.0, 1.0]], [[2.0, 1.0]]]), [[[7, 2]], [[5, 1]]], k=3)
    >>> ids.tolist(), scores.tolist()
    ([[7, 5, 1]], [[3.0, 2.0, 1.0]])
    >>> docs, query = np.eye(4, dtype=np.float32), np.float32([[1, 4, 2, 3]])
    >>> shards = [ragfast.search(query, docs[part], 2, ids=part) for part in (np.arange(2), np.arange(2, 4))]
    >>> ragfast.merge_topk(shards).ids.tolist()
    [[1, 3]]
    """
    temperature = arrays.finite_float(temperature, "temperature", above_zero=True)
    wanted = None if k is None else arrays.positive_int(k, "k")
    if isinstance(scores, Sequence) and any(isinstance(part, Hits) for part in scores) and ids is not None:
        raise TypeError("ids: Hits hold their own; pass k by its name, merge_topk(hits, k=...)")
    if ids is None:
        return _merged_hits(scores, wanted, temperature)
    doubles, type_num = arrays.shaped_doubles(scores, "scores", "(S, B, K)", (None, None, None))
    given = arrays.id_array(ids, "ids", f"{doubles.shape}, that of scores", doubles.shape)
    (places,), strings = _places([given], ["ids"])
    best, best_places = _merged(doubles, places, doubles.shape[2] if wanted is None else wanted)
    return (_kernels.narrowed(best) if type_num == arrays.FLOAT else best), _named(best_places, strings)


def _merged_hits(hits: Any, k: int | None, temperature: float) -> Hits:
    if isinstance(hits, Hits) or not isinstance(hits, Sequence) or not all(isinstance(part, Hits) for part in hits):
        raise TypeError("scores: expected a sequence of Hits, or scores (S, B, K) together with ids (S, B, K)")
    if not hits:
        raise ValueError("scores: expected Hits of one shard or more, got none")
    single = np.ndim(hits[0].scores) == 1
    lists = []
    for i, part in enumerate(hits):
        expected = "(K,)" if single else f"({len(hits[0].scores)}, K)"
        shape = (None,) if single else (len(hits[0].scores), None)
        scores, type_num = arrays.shaped_doubles(part.scores, f"scores of list {i}", expected, shape)
        ids = arrays.id_array(part.ids, f"ids of list {i}", f"{scores.shape}, that of its scores", scores.shape)
        lists.append((np.atleast_2d(scores), np.atleast_2d(ids), type_num))
    places, strings = _places([ids for _, ids, _ in lists], [f"ids of list {i}" for i in range(len(lists))])
    n_queries, longest = len(lists[0][0]), max(scores.shape[1] for scores, _, _ in lists)
    all_scores = np.full((len(lists), n_queries, longest), -np.inf)
    all_ids = np.full(all_scores.shape, -1, np.int64)
    for i, (scores, _, _) in enumerate(lists):
        all_scores[i, :, : scores.shape[1]] = scores
        all_ids[i, :, : scores.shape[1]] = places[i]
    best_scores: NDArray[Any]
    best_scores, best_places = _merged(all_scores, all_ids, longest if k is None else k)
    best_ids = _named(best_places, strings)
    logprobs: NDArray[Any] = list_logprobs(best_scores, temperature)
    if all(type_num == arrays.FLOAT for _, _, type_num in lists):
        best_scores, logprobs = _kernels.narrowed(best_scores), _kernels.narrowed(logprobs)
    rows: Any = 0 if single else slice(None)
    return Hits(best_scores[rows], best_ids[rows], logprobs[rows])


def _places(several: list[NDArray[Any]], names: list[str]) -> tuple[list[NDArray[np.int64]], list[str] | None]:
    """Ids as integers that ascend as they do, and for strings which ones they are. Integers among strings may only be
    -1, as of an index without documents."""
    of_strings = [i for i, ids in enumerate(several) if ids.dtype == object]
    if not of_strings:
        return several, None
    for ids, name in zip(several, names, strict=True):
        if ids.dtype != object and (ids != -1).any():
            raise TypeError(f"{name}: expected str or None, as {names[of_strings[0]]} have, got integers")
    strings = sorted({string for i in of_strings for string in several[i].ravel().tolist() if string is not None})
    place: dict[Any, int] = {string: i for i, string in enumerate(strings)}
    found = [
        np.array([place.get(string, -1) for string in ids.ravel().tolist()], np.int64).reshape(ids.shape)
        for ids in several
    ]
    return found, strings


def _named(places: NDArray[np.int64], strings: list[str] | None) -> NDArray[Any]:
    if strings is None:
        return places
    return np.array([*strings, None], object)[places]  # the place of None, -1, is that of the last


def list_logprobs(scores: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """log_softmax(scores / temperature), of scores less the best one: that changes no probability, and no division by
    a small temperature overflows where it matters. Scores that float32 had rounded to infinity are equal."""
    with np.errstate(over="ignore", invalid="ignore"):
        below = np.where(scores == scores[:, :1], 0, scores - scores[:, :1]) / temperature
    below[scores == -np.inf] = -np.inf
    return _kernels.log_softmax(below, 0)


def _merged(
    scores: NDArray[np.float64], ids: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of plain (S,B,K) arrays."""
    try:
        return _kernels.merge_topk(scores, ids, k)
    except ValueError:
        _refuse_unsorted(scores, ids)
    # What is left are equal scores with ids in another order, as rounding to float32 leaves them.
    order = np.lexsort((ids, -scores, ids < 0))
    return _kernels.merge_topk(np.take_along_axis(scores, order, -1), np.take_along_axis(ids, order, -1), k)


def _refuse_unsorted(scores: NDArray[np.float64], ids: NDArray[np.int64]) -> None:
    """Raises for the first list that is not by score descending, then ids of -1."""
    there = ids >= 0
    both = there[..., 1:] & there[..., :-1]
    for bad, message in (
        (ids < -1, "ids: list {0}, query {1} holds {3} at {2}; expected 0 or more, or -1 after the last document"),
        (there & np.isnan(scores), "scores: list {0}, query {1} holds NaN at {2}"),
        (there[..., 1:] & ~there[..., :-1], "ids: list {0}, query {1} goes on at {4}, after an id of -1"),
        (
            both & (scores[..., 1:] > scores[..., :-1]),
            "scores: list {0}, query {1} is not sorted: expected the best first, got {5} at {2} before {6} at {4}",
        ),
    ):
        if bad.any():
            s, b, i = (int(n) for n in np.argwhere(bad)[0])
            after = min(i + 1, ids.shape[2] - 1)
            values = ids[s, b, i], after, scores[s, b, i], scores[s, b, after]
            raise ValueError(message.format(s, b, i, *values))
