"""Decoding under several documents (Lewis et al. 2020, section 2.5): RAG-Token, RAG-Sequence thorough and fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.marginal.lse import marginalize_sequence, marginalize_token
from ragfast.rag.beam import Decoding, Group, Hypothesis, decode, tokens_as_tuple
from ragfast.rag.generators import BatchGenerator, DecodingGenerator

__all__ = ["Decoding", "Generation", "Retrieved", "Step"]


@dataclass(frozen=True, slots=True, eq=False)
class Retrieved:
    """The K documents of one question, retrieved once and then shared by all that is scored or decoded under them.

    doc_ids (K,) int64, or str in an object array; doc_logprobs (K,) float64 = log p(z|x); doc_tokens K entries, what
    the generator takes as a document. Make one by hand for documents that no retriever found: a gold passage, or none
    ([""]), at log p 0.
    """

    doc_ids: NDArray[Any]
    doc_logprobs: NDArray[np.float64]
    doc_tokens: Sequence[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """One generated answer.

    tokens (T,) int64, with the stop token where there was one; text where the generator can spell it; log_prob =
    log p(tokens | x), of fast decoding a lower bound; score, what answers are ranked by: log_prob / T^length_penalty
    for beams, else log_prob; doc_ids (K,) and doc_logprobs (K,) = log p(z|x); posterior, (K,T) = p(z_t | x, y_t, y_<t)
    for RAG-Token, (K,) = p(z|x,y) for RAG-Sequence.

    >>> import numpy as np, ragfast
    >>> class Coin:  # a document is p(heads); after it comes the end, token 2
    ...     stop_tokens = (2,)
    ...     def open(self, questions, docs):
    ...         self.logits = np.log([[p, 1 - p, 1e-9] for several in docs for p in several])
    ...         return self
    ...     def step(self, rows, tokens):
    ...         return np.log([[1e-9, 1e-9, 1.0]] * len(rows))
    ...     def token_logprobs(self, question, docs, answer):
    ...         return np.log([[p if answer[0] == 0 else 1 - p, 1.0] for p in docs])
    >>> rag = ragfast.RAGSequence(ragfast.SimpleRetriever(3), Coin())
    >>> found = ragfast.rag.Retrieved(np.arange(2), np.log([0.6, 0.4]), [0.65, 0.2])
    >>> for mode in ("thorough", "fast"):
    ...     answers = rag.generate(["?"], retrieved=[found], n_returned=2, mode=mode)[0]
    ...     print([(answer.tokens.tolist(), round(float(np.exp(answer.log_prob)), 3)) for answer in answers])
    [([1, 2], 0.53), ([0, 2], 0.47)]
    [([0, 2], 0.39), ([1, 2], 0.32)]
    """

    tokens: NDArray[np.int64]
    text: str | None
    log_prob: float
    score: float
    doc_ids: NDArray[Any]
    doc_logprobs: NDArray[np.float64]
    posterior: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One token of a streamed answer: token, the text it adds (None where the generator cannot spell), log_prob =
    log p(token | x, y_<t), and posterior (K,) = p(z_t | x, y_t, y_<t).

    >>> import numpy as np, ragfast
    >>> class Echo:  # a document is the answer, in bytes, of which 0 ends it
    ...     stop_tokens = (0,)
    ...     def open(self, questions, docs):
    ...         self.rows = [[*doc.encode(), 0] for several in docs for doc in several]
    ...         self.logits = np.log(np.eye(256)[[row.pop(0) for row in self.rows]] + 1e-30)
    ...         return self
    ...     def step(self, rows, tokens):
    ...         return np.log(np.eye(256)[[self.rows[row].pop(0) for row in rows]] + 1e-30)
    ...     def token_logprobs(self, question, docs, answer):
    ...         return np.zeros((len(docs), len(answer)))
    ...     def text(self, tokens):
    ...         return bytes(tokens.tolist()).decode(errors="replace")
    >>> rag = ragfast.RAGToken(ragfast.SimpleRetriever(3), Echo())
    >>> found = ragfast.rag.Retrieved(np.zeros(1, int), np.zeros(1), ["hé!"])
    >>> [step.text for step in rag.stream("?", retrieved=found)]
    ['h', '', 'é', '!', '']
    """

    token: int
    text: str | None
    log_prob: float
    posterior: NDArray[np.float64]


class _Documents:
    """The documents of one question that are possible, p(z|x) > 0; only they are read."""

    def __init__(self, retrieved: Retrieved, name: str) -> None:
        doc_logprobs = arrays.doubles(retrieved.doc_logprobs, f"{name}.doc_logprobs")
        n_docs = len(retrieved.doc_tokens)
        if doc_logprobs.shape != (n_docs,) or len(retrieved.doc_ids) != n_docs:
            raise ValueError(
                f"{name}: expected doc_ids and doc_logprobs of {n_docs} documents, got {len(retrieved.doc_ids)} ids "
                f"and log-probabilities of shape {doc_logprobs.shape}"
            )
        if not (doc_logprobs < np.inf).all():
            raise ValueError(f"{name}.doc_logprobs: expected no NaN and no +inf")
        self.retrieved = retrieved
        self.places = np.flatnonzero(doc_logprobs > -np.inf)
        if not len(self.places):
            raise ValueError(f"{name}: expected a document whose log p(z|x) is finite, got none among {n_docs}")
        self.doc_logprobs = doc_logprobs[self.places]
        self.doc_ids = np.asarray(retrieved.doc_ids)[self.places]
        self.tokens = [retrieved.doc_tokens[place] for place in self.places.tolist()]

    def of_all(self, posterior: NDArray[np.float64]) -> NDArray[np.float64]:
        """With the documents that are not possible: 0."""
        if len(posterior) == len(self.retrieved.doc_tokens):
            return posterior
        full = np.zeros((len(self.retrieved.doc_tokens), *posterior.shape[1:]))
        full[self.places] = posterior
        return full


def generate_token(
    generator: DecodingGenerator,
    questions: Sequence[Any],
    retrieved: Sequence[Retrieved],
    decoding: Decoding,
    batch_size: int,
) -> list[list[Generation]]:
    """RAG-Token's n_returned best answers to each of B questions, batch_size of them decoded together, best first."""
    if decoding.n_returned > decoding.n_beams and not decoding.sample:
        raise ValueError(f"n_returned: expected at most n_beams, {decoding.n_beams}, got {decoding.n_returned}")
    stop_tokens = _stop_tokens(generator, decoding)
    documents = _documents(retrieved)
    groups = [Group(docs.doc_logprobs, docs.doc_ids, f"questions[{b}]") for b, docs in enumerate(documents)]
    for batch in _batches(len(documents), batch_size):
        decoder = generator.open(questions[batch], [docs.tokens for docs in documents[batch]])
        for _ in decode(decoder, groups[batch], decoding, stop_tokens):
            pass
    generations = []
    for group, docs in zip(groups, documents, strict=True):
        _refuse_none(group.finished, group.name)
        answers = group.finished[: decoding.n_returned]
        generations.append([_of_token(generator, answer, docs, decoding, stop_tokens) for answer in answers])
    return generations


def _of_token(
    generator: DecodingGenerator,
    answer: Hypothesis,
    docs: _Documents,
    decoding: Decoding,
    stop_tokens: tuple[int, ...],
) -> Generation:
    _, posterior = marginalize_token(docs.doc_logprobs, answer.table(), return_posterior=True)
    tokens = np.array(answer.tokens, np.int64)
    return Generation(
        tokens=tokens,
        text=_text(generator, tokens, stop_tokens),
        log_prob=answer.log_prob,
        score=answer.score(decoding),
        doc_ids=docs.retrieved.doc_ids,
        doc_logprobs=docs.retrieved.doc_logprobs,
        posterior=docs.of_all(posterior),
    )


def stream_token(
    generator: DecodingGenerator, question: Any, retrieved: Retrieved, decoding: Decoding
) -> Iterator[Step]:
    """RAG-Token's greedy or sampled answer to one question, token by token."""
    if decoding.n_beams > 1 or decoding.n_returned > 1:
        raise ValueError("n_beams, n_returned: expected 1, since what is streamed cannot be taken back")
    stop_tokens = _stop_tokens(generator, decoding)
    return _steps(generator, question, _Documents(retrieved, "retrieved"), decoding, stop_tokens)


def _steps(
    generator: DecodingGenerator, question: Any, docs: _Documents, decoding: Decoding, stop_tokens: tuple[int, ...]
) -> Iterator[Step]:
    group = Group(docs.doc_logprobs, docs.doc_ids, "the question")
    said = ""
    for _ in decode(generator.open([question], [docs.tokens]), [group], decoding, stop_tokens):
        newest = (group.finished or group.live)[:1]
        _refuse_none(newest, group.name)
        log_probs, posterior = marginalize_token(
            docs.doc_logprobs, newest[0].token_logprobs[:, None], return_posterior=True
        )
        text = _text(generator, newest[0].tokens, stop_tokens)
        piece = text
        if text is not None:
            # A character of several tokens is U+FFFD until the last of them.
            piece = "" if text.endswith("\ufffd") and not group.finished else text[len(said) :]
            said += piece
        yield Step(newest[0].token, piece, float(log_probs[0]), docs.of_all(posterior[:, 0]))


def generate_sequence(
    generator: DecodingGenerator,
    questions: Sequence[Any],
    retrieved: Sequence[Retrieved],
    decoding: Decoding,
    mode: Literal["thorough", "fast"],
    batch_size: int,
) -> list[list[Generation]]:
    """RAG-Sequence's n_returned best answers to each of B questions, batch_size of them together, best first."""
    arrays.one_of(mode, "mode", ("thorough", "fast"))
    if decoding.sample:
        raise ValueError("sample: RAG-Sequence is decoded by beams, greedily with n_beams=1; expected sample=False")
    stop_tokens = _stop_tokens(generator, decoding)
    documents = _documents(retrieved)
    certain = np.zeros(1)  # a document by itself
    groups = [
        [Group(certain, docs.doc_ids[z : z + 1], f"questions[{b}]") for z in range(len(docs.tokens))]
        for b, docs in enumerate(documents)
    ]
    hypotheses: list[_Hypotheses] = []
    for batch in _batches(len(documents), batch_size):
        decoder = generator.open(questions[batch], [docs.tokens for docs in documents[batch]])
        for _ in decode(decoder, [group for several in groups[batch] for group in several], decoding, stop_tokens):
            pass
        found = [_merged(several, several[0].name) for several in groups[batch]]
        if mode == "thorough":  # now, while the generator still has what it read
            _score_missing(generator, questions[batch], documents[batch], found)
        hypotheses += found
    return [
        _of_sequence(generator, found, docs, decoding, stop_tokens)
        for found, docs in zip(hypotheses, documents, strict=True)
    ]


class _Hypotheses:
    """The distinct answers that the beams of K documents ended with: tokens, C of them, and log p(y|x,z) (C,K), NaN
    where the beam of z did not have y."""

    def __init__(self, tokens: list[tuple[int, ...]], logprobs: NDArray[np.float64]) -> None:
        self.tokens = tokens
        self.logprobs = logprobs


def _merged(groups: Sequence[Group], name: str) -> _Hypotheses:
    found = [(z, answer.tokens, answer.log_prob) for z, group in enumerate(groups) for answer in group.finished]
    _refuse_none(found, name)
    places = {tokens: c for c, tokens in enumerate(sorted({tokens for _, tokens, _ in found}))}
    logprobs = np.full((len(places), len(groups)), np.nan)
    for z, tokens, log_prob in found:
        logprobs[places[tokens], z] = log_prob
    return _Hypotheses(list(places), logprobs)


def _score_missing(
    generator: DecodingGenerator,
    questions: Sequence[Any],
    documents: Sequence[_Documents],
    hypotheses: Sequence[_Hypotheses],
) -> None:
    """log p(y|x,z) where the beam of z did not have y, all in one pass.

    Each document is asked as a question of its own, about the answers that it lacks. Where documents agree, few are:
    to ask every document about every answer would be as much again as what the beams already know.
    """
    asked, docs, targets, places = [], [], [], []
    for question, its_docs, found in zip(questions, documents, hypotheses, strict=True):
        for z, doc in enumerate(its_docs.tokens):
            missing = np.flatnonzero(np.isnan(found.logprobs[:, z])).tolist()
            if missing:
                asked.append(question)
                docs.append([doc])
                targets.append([np.array(found.tokens[c], np.int64) for c in missing])
                places.append((found.logprobs, missing, z, its_docs.doc_ids[z]))
    if not asked:
        return
    if isinstance(generator, BatchGenerator):
        given = generator.batch_token_logprobs(asked, docs, targets)
    else:
        given = [
            [generator.token_logprobs(question, doc, target) for target in several]
            for question, doc, several in zip(asked, docs, targets, strict=True)
        ]
    for tables, wanted, (logprobs, missing, z, doc_id) in zip(given, targets, places, strict=True):
        for c, table, target in zip(missing, tables, wanted, strict=True):
            rows = np.asarray(table)
            if rows.shape != (1, len(target)):
                raise ValueError(f"generator: expected token_logprobs of shape (1, {len(target)}), got {rows.shape}")
            logprobs[c, z] = np.add.reduce(rows[0], dtype=np.float64)
            if np.isnan(logprobs[c, z]):
                raise ValueError(f"generator: NaN in the token_logprobs of a hypothesis under document {doc_id}")


def _of_sequence(
    generator: DecodingGenerator,
    found: _Hypotheses,
    docs: _Documents,
    decoding: Decoding,
    stop_tokens: tuple[int, ...],
) -> list[Generation]:
    # Fast decoding: what a document's beam did not have counts as impossible under it.
    logprobs = np.where(np.isnan(found.logprobs), -np.inf, found.logprobs)
    log_probs, posteriors = marginalize_sequence(
        np.broadcast_to(docs.doc_logprobs, logprobs.shape), logprobs[:, :, None], return_posterior=True
    )
    generations = []
    # Stable, and the hypotheses are in the order of their tokens.
    for c in np.argsort(-log_probs, kind="stable")[: decoding.n_returned].tolist():
        tokens = np.array(found.tokens[c], np.int64)
        generations.append(
            Generation(
                tokens=tokens,
                text=_text(generator, tokens, stop_tokens),
                log_prob=float(log_probs[c]),
                score=float(log_probs[c]),
                doc_ids=docs.retrieved.doc_ids,
                doc_logprobs=docs.retrieved.doc_logprobs,
                posterior=docs.of_all(posteriors[c]),
            )
        )
    return generations


def _batches(n_questions: int, batch_size: int) -> list[slice]:
    return [slice(first, first + batch_size) for first in range(0, n_questions, batch_size)]


def _documents(retrieved: Sequence[Retrieved]) -> list[_Documents]:
    return [_Documents(found, f"retrieved[{b}]") for b, found in enumerate(retrieved)]


def _stop_tokens(generator: DecodingGenerator, decoding: Decoding) -> tuple[int, ...]:
    if decoding.stop_tokens is not None:
        return decoding.stop_tokens
    return tokens_as_tuple(generator.stop_tokens, "generator.stop_tokens")


def _text(generator: DecodingGenerator, tokens: Sequence[int] | NDArray[np.int64], stop_tokens: tuple[int, ...]) -> Any:
    """What the generator spells of an answer, without the token that ended it."""
    spell = getattr(generator, "text", None)
    if spell is None:
        return None
    ended = len(tokens) > 0 and int(tokens[-1]) in stop_tokens
    return spell(np.array(tokens[:-1] if ended else tokens, np.int64))


def _refuse_none(answers: Sequence[Any], name: str) -> None:
    if not answers:
        raise ValueError(
            f"generator: no answer to {name}: at some token all had probability 0, or only stop tokens had not before "
            "min_new_tokens"
        )
