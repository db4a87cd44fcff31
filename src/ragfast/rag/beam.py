"""Greedy decoding, sampling and beam search over the rows of a decoder, for several questions at once."""

from __future__ import annotations

import itertools
import math
import numbers
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast.marginal.decode_step import marginalize_step
from ragfast.marginal.lse import marginalize_token
from ragfast.rag.protocols import Decoder

__all__ = ["Beam", "Decoding", "Hypothesis", "decode", "tokens_as_tuple"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How to decode: the options of ``generate`` and ``stream``, which are checked when it is made.

    max_new_tokens: an answer that gets so long ends as it is. min_new_tokens: so many tokens come before a stop token.
    stop_tokens, None for the generator's: the first of them ends an answer, and counts as its last token, though its
    text is without it; [] for none. Stop tokens that are not yet allowed keep their probability.

    n_beams: beam search with more than 1, else greedy. n_returned: at most n_beams for RAG-Token. Ended answers compete
    by logprob / T**length_penalty, T their tokens. The search is over when n_beams have ended, if early_stopping, or
    else when also the best live answer, scored at its present length, is no better than the worst of them. That is how
    Hugging Face searches too: of 2 n_beams continuations, more with several stop tokens, those that end count if they
    are among the n_beams best, and the n_beams best of the others go on.

    sample: tokens are drawn, with one beam, from p(v | x, y_<t) ** (1 / temperature) made to add up to 1; of its top_k
    greatest, None for all; of those, from the fewest whose probabilities then add up to top_p, None for all; each by
    one uniform number of rng, None for numpy.random.default_rng(). n_returned answers are drawn independently;
    questions that are decoded together take their numbers in position, token by token.

    TypeError for another type; ValueError for a value out of range, or options that do not go together.

    >>> import ragfast
    >>> ragfast.rag.Decoding(n_beams=4, n_returned=2, stop_tokens=[2]).stop_tokens
    (2,)
    """

    max_new_tokens: int = 32
    min_new_tokens: int = 0
    n_beams: int = 1
    n_returned: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    stop_tokens: tuple[int, ...] | None = None  # None: the generator's
    sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    rng: np.random.Generator | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "n_beams", "n_returned"):
            arrays.positive_int(getattr(self, name), name)
        least = _integer(self.min_new_tokens, "min_new_tokens")
        if not 0 <= least <= self.max_new_tokens:
            raise ValueError(f"min_new_tokens: expected 0 to max_new_tokens, {self.max_new_tokens}, got {least}")
        penalty = self.length_penalty
        if isinstance(penalty, bool) or not isinstance(penalty, numbers.Real) or not -10 <= penalty <= 10:
            raise ValueError(f"length_penalty: expected a number from -10 to 10, got {penalty!r}")
        for name in ("early_stopping", "sample"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if self.stop_tokens is not None:
            object.__setattr__(self, "stop_tokens", tokens_as_tuple(self.stop_tokens, "stop_tokens"))
        self._check_sampling()

    def _check_sampling(self) -> None:
        if self.rng is not None and not isinstance(self.rng, np.random.Generator):
            raise TypeError(f"rng: expected a numpy.random.Generator, got {type(self.rng).__name__}")
        if not self.sample:
            if (self.temperature, self.top_k, self.top_p) != (1.0, None, None):
                raise ValueError("temperature, top_k, top_p: these are for sampling; expected sample=True with them")
            return
        if self.n_beams > 1:
            raise ValueError(f"n_beams: expected 1 with sample=True, as beams are not sampled, got {self.n_beams}")
        arrays.finite_float(self.temperature, "temperature", above_zero=True)
        if self.top_k is not None:
            arrays.positive_int(self.top_k, "top_k")
        if self.top_p is not None and arrays.finite_float(self.top_p, "top_p", above_zero=True) > 1:
            raise ValueError(f"top_p: expected a probability above 0 and at most 1, got {self.top_p}")

    @classmethod
    def of(cls, options: dict[str, Any]) -> Decoding:
        """Of the keyword arguments of a generate method. TypeError for one that is no option, which lists them."""
        known = [field.name for field in fields(cls)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise TypeError(f"{', '.join(unknown)}: no option of decoding; expected some of {', '.join(known)}")
        return cls(**options)


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """An answer so far, the last token of it: its parent has the others. token_logprobs (K,) = log p(token | x, z, ...)
    of that token under each document, logprob = log p of the whole answer."""

    parent: Hypothesis | None
    token: int
    token_logprobs: NDArray[np.float64]
    logprob: float
    length: int

    def _path(self) -> list[Hypothesis]:
        path, node = [], self
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    def score(self, decoding: Decoding) -> float:
        """What answers are ranked by."""
        return self.logprob / float(self.length) ** decoding.length_penalty if decoding.n_beams > 1 else self.logprob

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(node.token for node in self._path())

    def table(self) -> NDArray[np.float64]:
        """token_logprobs (K,T) of all its tokens."""
        return np.stack([node.token_logprobs for node in self._path()], axis=1)


class Beam:
    """The answers in the making to one question under K documents, whose tokens are drawn from the documents' mixture.

    Each of ``live`` has K rows of the decoder; ``finished`` are best first. ``name`` and ``doc_ids`` are for messages.
    """

    def __init__(self, doc_logprobs: NDArray[np.float64], doc_ids: NDArray[np.int64], name: str) -> None:
        self.doc_logprobs = doc_logprobs
        self.doc_ids = doc_ids
        self.n_docs = len(doc_logprobs)
        self.name = name
        self.live = [Hypothesis(None, -1, np.empty(0), 0.0, 0)]
        self.finished: list[Hypothesis] = []
        self.parents: list[int] = []
        """Which of the former ``live`` each of ``live`` goes on from."""

    def add(self, answer: Hypothesis, parent: int, position: _Position) -> None:
        if position.ends(answer.token):
            self.finished.append(answer)
            self.finished.sort(key=lambda answer: -answer.score(position.decoding))
        else:
            self.live.append(answer)
            self.parents.append(parent)


class _Position(NamedTuple):
    """One more token for all: it will be the length-th of its answer."""

    decoding: Decoding
    stop_tokens: tuple[int, ...]
    length: int

    @property
    def banned(self) -> tuple[int, ...]:
        return self.stop_tokens if self.length <= self.decoding.min_new_tokens else ()

    def ends(self, token: int) -> bool:
        return token in self.stop_tokens or self.length == self.decoding.max_new_tokens


class _NextTokens:
    """What each of n live answers may go on with: log p(v | x, y_<t), the mixture of what K documents predict."""

    def __init__(self, logits: NDArray[Any], doc_logprobs: NDArray[np.float64]) -> None:
        self.logits = logits  # (n,K,V)
        self.doc_logprobs = doc_logprobs  # (n,K)
        rows, is_bfloat16 = arrays.logits(logits.reshape(-1, logits.shape[-1]))
        any_token = np.zeros(len(rows), np.int64)
        _, lse, _ = _kernels.target_logprobs(rows, any_token, is_bfloat16, True, False, arrays.thread_count(None))
        self.lse = cast(NDArray[np.float64], lse).reshape(doc_logprobs.shape)

    def best(self, n: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The n likeliest tokens of each answer, or all there are, and their log p."""
        n = min(n, self.logits.shape[-1])
        found: tuple[NDArray[Any], NDArray[np.int64]] = marginalize_step(self.logits, self.doc_logprobs, n_best=n)
        return found

    def exact(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For m tokens of each answer, (n,m): log p(v | x, y_<t) (n,m), and under each document (n,K,m).

        Not rounded to float32 as the kernel's are, so that a long answer's sum is as good as what scoring it gives.
        """
        logprobs = np.take_along_axis(self.logits, tokens[:, None, :], axis=-1).astype(np.float64)
        lse = self.lse[:, :, None]
        logprobs -= np.where(lse == -np.inf, 0.0, lse)  # a document that predicts nothing: -inf, not NaN
        return marginalize_token(self.doc_logprobs, logprobs), logprobs


def decode(decoder: Decoder, beams: Sequence[Beam], decoding: Decoding, stop_tokens: tuple[int, ...]) -> Iterator[None]:
    """Takes the beams to their end, and yields each time that all have their next token, before the decoder reads it.

    The decoder's rows are, beam by beam, those of the documents of each live answer; a beam that has ended has none.
    Groups with equally many documents that follow each other share a call of the kernel.

    ValueError where the decoder gives logits of another shape, NaN or +inf, and for a stop token of V or more.
    """
    rng = decoding.rng or np.random.default_rng()
    capacity = getattr(decoder, "capacity", None)
    if capacity is not None and capacity < decoding.max_new_tokens:  # at once, not when most of the work is done
        raise ValueError(
            f"max_new_tokens: {decoding.max_new_tokens}, where the prompts leave room for {capacity} tokens; "
            "expected no more, or a generator that cuts its prompts further (answer_capacity of ragfast.rag.hf)"
        )
    logits = decoder.logits
    for length in range(1, decoding.max_new_tokens + 1):
        position = _Position(decoding, stop_tokens, length)
        live = [beam for beam in beams if beam.live]
        _check_shape(logits, sum(len(beam.live) * beam.n_docs for beam in live), stop_tokens)
        rows: list[NDArray[np.int64]] = []
        tokens: list[int] = []
        first = 0
        for n_docs, several in itertools.groupby(live, key=lambda beam: beam.n_docs):
            run = list(several)
            n_live = [len(beam.live) for beam in run]
            after = first + n_docs * sum(n_live)
            following = _NextTokens(
                logits[first:after].reshape(-1, n_docs, logits.shape[1]),
                np.repeat([beam.doc_logprobs for beam in run], n_live, axis=0),
            )
            _refuse_broken(following, run, length)
            if decoding.sample:
                _sample(following, run, position, rng)
            else:
                _search(following, run, position)
            for beam, n_before in zip(run, n_live, strict=True):
                parents = np.array(beam.parents, np.int64)[:, None]
                rows.append((first + parents * n_docs + np.arange(n_docs)).ravel())
                tokens += [answer.token for answer in beam.live for _ in range(n_docs)]
                first += n_before * n_docs
        yield
        if not tokens:
            return
        logits = decoder.step(np.concatenate(rows), np.array(tokens, np.int64))


def _search(following: _NextTokens, run: Sequence[Beam], position: _Position) -> None:
    """A step of beam search; with one beam, of greedy decoding, which ends with its first stop token.

    So many candidates are looked at that a full beam goes on even if every live answer could end in every stop token.
    But an answer ends only if it is among the n_beams best candidates, and then competes by its score with those that
    ended before. The beam ends with n_beams ended answers if early_stopping, or if the best live one, were it to end
    as it is, would not be among them: a guess, since with length_penalty a longer answer may still gain.
    """
    decoding, n_beams = position.decoding, position.decoding.n_beams
    n_candidates = n_beams * (1 + max(1, len(position.stop_tokens))) if n_beams > 1 else 1
    _, best = following.best(n_candidates + len(position.banned))
    values, logprobs = following.exact(best)
    values[np.isin(best, position.banned)] = -np.inf
    first = 0
    for beam in run:
        own = slice(first, first + len(beam.live))
        first = own.stop
        sums = (values[own] + np.array([answer.logprob for answer in beam.live])[:, None]).ravel()
        before, beam.live, beam.parents = beam.live, [], []
        # A stable order: of equals first the continuation of the better answer, then the lower token.
        for rank, place in enumerate(np.argsort(-sums, kind="stable")[:n_candidates].tolist()):
            parent, i = divmod(place, best.shape[1])
            token, logprob = int(best[own][parent, i]), float(sums[place])
            if logprob == -math.inf:
                break
            if rank < n_beams if position.ends(token) else len(beam.live) < n_beams:
                answer = Hypothesis(before[parent], token, logprobs[own][parent, :, i].copy(), logprob, position.length)
                beam.add(answer, parent, position)
        del beam.finished[n_beams:]
        if len(beam.finished) == n_beams and beam.live:
            hope, worst = beam.live[0].score(decoding), beam.finished[-1].score(decoding)
            if decoding.early_stopping or hope <= worst:
                beam.live, beam.parents = [], []


def _sample(following: _NextTokens, run: Sequence[Beam], position: _Position, rng: np.random.Generator) -> None:
    """The next token of each live answer; the first time, n_returned answers begin."""
    decoding = position.decoding
    if decoding.top_k is None:
        values = marginalize_step(following.logits, following.doc_logprobs)
        tokens = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    else:
        values, tokens = following.best(decoding.top_k + len(position.banned))
    n_draws = decoding.n_returned if position.length == 1 else 1
    drawn = np.full((len(values), n_draws), -1, np.int64)
    for i, allowed in enumerate(~np.isin(tokens, position.banned) & (values > -np.inf)):
        if allowed.any():
            drawn[i] = _draw(values[i][allowed], tokens[i][allowed], n_draws, decoding, rng)
    exact, logprobs = following.exact(np.maximum(drawn, 0))
    first = 0
    for beam in run:
        before, beam.live, beam.parents = beam.live, [], []
        for parent, i in enumerate(range(first, first + len(before))):
            for j, token in enumerate(drawn[i].tolist()):
                if token >= 0:  # else there was none to draw
                    logprob = before[parent].logprob + float(exact[i, j])
                    answer = Hypothesis(before[parent], token, logprobs[i, :, j].copy(), logprob, position.length)
                    beam.add(answer, parent, position)
        first += len(before)


def _draw(
    logprobs: NDArray[Any], tokens: NDArray[np.int64], n: int, decoding: Decoding, rng: np.random.Generator
) -> NDArray[np.int64]:
    """n tokens, each by one uniform number, after temperature, top_k and top_p."""
    if decoding.top_k is not None or decoding.top_p is not None:
        order = np.argsort(-logprobs, kind="stable")[: decoding.top_k]
        logprobs, tokens = logprobs[order], tokens[order]
    up_to = np.cumsum(np.exp((logprobs.astype(np.float64) - logprobs.max()) / decoding.temperature))
    if decoding.top_p is not None:  # the fewest whose probabilities add up to top_p
        up_to = up_to[: np.searchsorted(up_to, decoding.top_p * up_to[-1]) + 1]
    places = np.searchsorted(up_to, rng.random(n) * up_to[-1], side="right")
    chosen: NDArray[np.int64] = tokens[np.minimum(places, len(up_to) - 1)]
    return chosen


def _check_shape(logits: NDArray[Any], n_rows: int, stop_tokens: tuple[int, ...]) -> None:
    if logits.ndim != 2 or len(logits) != n_rows or logits.shape[1] == 0:
        raise ValueError(f"generator: expected logits of shape ({n_rows}, V), got {logits.shape}")
    if stop_tokens and max(stop_tokens) >= logits.shape[1]:
        raise ValueError(
            f"stop_tokens: expected tokens below the vocabulary's {logits.shape[1]}, got {max(stop_tokens)}"
        )


def _refuse_broken(following: _NextTokens, run: Sequence[Beam], length: int) -> None:
    broken = ~(following.lse < np.inf)  # also NaN
    if broken.any():
        answer, doc = np.argwhere(broken)[0].tolist()
        beam = [beam for beam in run for _ in beam.live][answer]
        raise ValueError(
            f"generator: NaN or +inf in the logits of token {length - 1} of {beam.name} "
            f"under document {beam.doc_ids[doc]}"
        )


def tokens_as_tuple(tokens: Any, name: str) -> tuple[int, ...]:
    """Distinct token ids, checked."""
    if isinstance(tokens, (str, bytes)) or not hasattr(tokens, "__iter__"):
        raise TypeError(f"{name}: expected a sequence of tokens, got {type(tokens).__name__}")
    several = tuple(dict.fromkeys(_integer(token, name) for token in tokens))
    if several and min(several) < 0:
        raise ValueError(f"{name}: expected tokens of 0 or more, got {min(several)}")
    return several


def _integer(x: Any, name: str) -> int:
    try:
        if isinstance(x, bool):
            raise TypeError
        return operator.index(x)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(x).__name__}") from None
