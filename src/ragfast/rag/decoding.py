"""Decoding under several documents (Lewis et al. 2020, section 2.5): RAG-Token, RAG-Sequence thorough and fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.marginal.lse import marginalize_sequence, marginalize_token
from ragfast.rag.beam import Beam, Decoding, decode, tokens_as_tuple
from ragfast.rag.protocols import BatchGenerator, DecodingGenerator, Generator

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

    tokens (T,) int64, with the stop token where there was one; text where the generator can spell it; logprob =
    log p(tokens | x), of fast decoding a lower bound; score, what answers are ranked by: logprob / T^length_penalty
    for beams, else logprob; doc_ids (K,) and doc_logprobs (K,) = log p(z|x); posterior, (K,T) = p(z_t | x, y_t, y_<t)
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
    >>> found = ragfast.rag.Retrieved(np.arange(2), np.log([0.6, 0.4]), [0.9, 0.2])
    >>> rag = ragfast.RAGToken(ragfast.SimpleRetriever(3), Coin())
    >>> for answer in rag.generate(["?"], retrieved=[found], n_beams=2, n_returned=2)[0]:
    ...     print(answer.tokens, round(float(np.exp(answer.logprob)), 3), answer.posterior[:, 0].round(3))
    [0 2] 0.62 [0.871 0.129]
    [1 2] 0.38 [0.158 0.842]
    >>> rag = ragfast.RAGSequence(ragfast.SimpleRetriever(3), Coin())
    >>> found = ragfast.rag.Retrieved(np.arange(2), np.log([0.6, 0.4]), [0.65, 0.2])
    >>> for mode in ("thorough", "fast"):
    ...     answers = rag.generate(["?"], retrieved=[found], n_returned=2, mode=mode)[0]
    ...     print([(answer.tokens.tolist(), round(float(np.exp(answer.logprob)), 3)) for answer in answers])
    [([1, 2], 0.53), ([0, 2], 0.47)]
    [([0, 2], 0.39), ([1, 2], 0.32)]
    """

    tokens: NDArray[np.int64]
    text: str | None
    logprob: float
    score: float
    doc_ids: NDArray[Any]
    doc_logprobs: NDArray[np.float64]
    posterior: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One token of a streamed answer: token, the text it adds (None where the generator cannot spell), logprob =
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
    logprob: float
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
        full = np.zeros((len(self.retrieved.doc_tokens), *posterior.shape[1:]))
        full[self.places] = posterior
        return full


class Request(NamedTuple):
    """What a call of ``generate`` or ``stream`` asks of a generator."""

    generator: DecodingGenerator
    questions: Sequence[Any]
    retrieved: Sequence[Retrieved]
    decoding: Decoding


class _Answers:
    """The questions, documents and options of one call, and the Generations of what is decoded for them."""

    def __init__(self, request: Request, name: str = "retrieved[{}]") -> None:
        self.generator, self.questions, retrieved, self.decoding = request
        given = self.decoding.stop_tokens
        own = self.generator.stop_tokens if given is None else given
        self.stop_tokens = tokens_as_tuple(own, "generator.stop_tokens")
        self.documents = [_Documents(found, name.format(b)) for b, found in enumerate(retrieved)]

    def decode(self, beams: Sequence[Sequence[Beam]], batch: slice = slice(None)) -> Iterator[None]:
        """Decode the beams of a batch of questions together, and yield each time that all have their next token."""
        decoder = self.generator.open(self.questions[batch], [docs.tokens for docs in self.documents[batch]])
        together = [beam for several in beams[batch] for beam in several]
        return decode(decoder, together, self.decoding, self.stop_tokens)

    def text(self, tokens: Sequence[int]) -> Any:
        """What the generator spells of an answer, without the token that ended it."""
        spell = getattr(self.generator, "text", None)
        if spell is None:
            return None
        ended = len(tokens) > 0 and tokens[-1] in self.stop_tokens
        return spell(np.array(tokens[:-1] if ended else tokens, np.int64))

    def generation(
        self, tokens: Sequence[int], logprob: float, score: float, docs: _Documents, posterior: NDArray[np.float64]
    ) -> Generation:
        return Generation(
            tokens=np.array(tokens, np.int64),
            text=self.text(tokens),
            logprob=logprob,
            score=score,
            doc_ids=docs.retrieved.doc_ids,
            doc_logprobs=docs.retrieved.doc_logprobs,
            posterior=docs.of_all(posterior),
        )


def generate_token(request: Request, batch_size: int) -> list[list[Generation]]:
    """RAG-Token's n_returned best answers to each of B questions, batch_size of them decoded together, best first."""
    decoding = request.decoding
    if decoding.n_returned > decoding.n_beams and not decoding.sample:
        raise ValueError(f"n_returned: expected at most n_beams, {decoding.n_beams}, got {decoding.n_returned}")
    answers = _Answers(request)
    beams = [[Beam(docs.doc_logprobs, docs.doc_ids, f"questions[{b}]")] for b, docs in enumerate(answers.documents)]
    for batch in batches(len(beams), batch_size):
        for _ in answers.decode(beams, batch):
            pass
    generations = []
    for (beam,), docs in zip(beams, answers.documents, strict=True):
        _refuse_none(beam.finished, beam.name)
        best = []
        for found in beam.finished[: decoding.n_returned]:
            _, posterior = marginalize_token(docs.doc_logprobs, found.table(), return_posterior=True)
            best.append(answers.generation(found.tokens, found.logprob, found.score(decoding), docs, posterior))
        generations.append(best)
    return generations


def stream_token(request: Request) -> Iterator[Step]:
    """RAG-Token's greedy or sampled answer to one question, token by token."""
    if request.decoding.n_beams > 1 or request.decoding.n_returned > 1:
        raise ValueError("n_beams, n_returned: expected 1, since what is streamed cannot be taken back")
    return _steps(_Answers(request, "retrieved"))


def _steps(answers: _Answers) -> Iterator[Step]:
    docs = answers.documents[0]
    beam = Beam(docs.doc_logprobs, docs.doc_ids, "the question")
    said = ""
    for _ in answers.decode([[beam]]):
        newest = (beam.finished or beam.live)[:1]
        _refuse_none(newest, beam.name)
        logprobs, posterior = marginalize_token(
            docs.doc_logprobs, newest[0].token_logprobs[:, None], return_posterior=True
        )
        text = answers.text(newest[0].tokens)
        piece = text
        if text is not None:
            # A character of several tokens is U+FFFD until the last of them.
            piece = "" if text.endswith("\ufffd") and not beam.finished else text[len(said) :]
            said += piece
        yield Step(newest[0].token, piece, float(logprobs[0]), docs.of_all(posterior[:, 0]))


def generate_sequence(request: Request, batch_size: int, mode: Literal["thorough", "fast"]) -> list[list[Generation]]:
    """RAG-Sequence's n_returned best answers to each of B questions, batch_size of them together, best first."""
    arrays.one_of(mode, "mode", ("thorough", "fast"))
    if request.decoding.sample:
        raise ValueError("sample: RAG-Sequence is decoded by beams, greedily with n_beams=1; expected sample=False")
    answers = _Answers(request)
    certain = np.zeros(1)  # a document by itself
    beams = [
        [Beam(certain, docs.doc_ids[z : z + 1], f"questions[{b}]") for z in range(len(docs.tokens))]
        for b, docs in enumerate(answers.documents)
    ]
    hypotheses: list[_Hypotheses] = []
    for batch in batches(len(beams), batch_size):
        for _ in answers.decode(beams, batch):
            pass
        found = [_merged(several) for several in beams[batch]]
        if mode == "thorough":  # now, while the generator still has what it read
            _score_missing(answers, batch, found)
        hypotheses += found
    return [_best(answers, found, docs) for found, docs in zip(hypotheses, answers.documents, strict=True)]


class _Hypotheses(NamedTuple):
    """The distinct answers that the beams of K documents ended with: tokens, C of them, and log p(y|x,z) (C,K), NaN
    where the beam of z did not have y."""

    tokens: list[tuple[int, ...]]
    logprobs: NDArray[np.float64]


def _merged(beams: Sequence[Beam]) -> _Hypotheses:
    found = [(z, answer.tokens, answer.logprob) for z, beam in enumerate(beams) for answer in beam.finished]
    _refuse_none(found, beams[0].name)
    places = {tokens: c for c, tokens in enumerate(sorted({tokens for _, tokens, _ in found}))}
    logprobs = np.full((len(places), len(beams)), np.nan)
    for z, tokens, logprob in found:
        logprobs[places[tokens], z] = logprob
    return _Hypotheses(list(places), logprobs)


def _score_missing(answers: _Answers, batch: slice, hypotheses: Sequence[_Hypotheses]) -> None:
    """log p(y|x,z) where the beam of z did not have y, all in one pass.

    Each document is asked as a question of its own, about the answers that it lacks. Where documents agree, few are:
    to ask every document about every answer would be as much again as what the beams already know.
    """
    asked, docs, targets, places = [], [], [], []
    for question, its_docs, found in zip(answers.questions[batch], answers.documents[batch], hypotheses, strict=True):
        lacking = np.isnan(found.logprobs)
        for z in np.flatnonzero(lacking.any(axis=0)).tolist():
            missing = np.flatnonzero(lacking[:, z]).tolist()
            asked.append(question)
            docs.append([its_docs.tokens[z]])
            targets.append([np.array(found.tokens[c], np.int64) for c in missing])
            places.append((found.logprobs, missing, z, its_docs.doc_ids[z]))
    given = score_with(answers.generator, asked, docs, targets) if asked else []
    for tables, wanted, (logprobs, missing, z, doc_id) in zip(given, targets, places, strict=True):
        for c, table, target in zip(missing, tables, wanted, strict=True):
            rows = np.asarray(table)
            if rows.shape != (1, len(target)):
                raise ValueError(f"generator: expected token_logprobs of shape (1, {len(target)}), got {rows.shape}")
            logprobs[c, z] = np.add.reduce(rows[0], dtype=np.float64)
            if np.isnan(logprobs[c, z]):
                raise ValueError(f"generator: NaN in the token_logprobs of a hypothesis under document {doc_id}")


def _best(answers: _Answers, found: _Hypotheses, docs: _Documents) -> list[Generation]:
    # Fast decoding: what a document's beam did not have counts as impossible under it.
    by_document = np.where(np.isnan(found.logprobs), -np.inf, found.logprobs)
    logprobs, posteriors = marginalize_sequence(
        np.broadcast_to(docs.doc_logprobs, by_document.shape), by_document[:, :, None], return_posterior=True
    )
    # Stable, and the hypotheses are in the order of their tokens.
    best = np.argsort(-logprobs, kind="stable")[: answers.decoding.n_returned].tolist()
    return [
        answers.generation(found.tokens[c], float(logprobs[c]), float(logprobs[c]), docs, posteriors[c]) for c in best
    ]


def score_with(
    generator: Generator, questions: Sequence[Any], docs: Sequence[Sequence[Any]], targets: Sequence[Sequence[Any]]
) -> Sequence[Sequence[Any]]:
    """token_logprobs of each question's targets under its documents, in one call if the generator takes batches."""
    if isinstance(generator, BatchGenerator):
        return generator.batch_token_logprobs(questions, docs, targets)
    return [
        [generator.token_logprobs(question, documents, target) for target in several]
        for question, documents, several in zip(questions, docs, targets, strict=True)
    ]


def batches(n: int, batch_size: int) -> list[slice]:
    """The slices that divide n items into batches."""
    batch_size = arrays.positive_int(batch_size, "batch_size")
    return [slice(first, first + batch_size) for first in range(0, n, batch_size)]


def _refuse_none(answers: Sequence[Any], name: str) -> None:
    if not answers:
        raise ValueError(
            f"generator: no answer to {name}: at some token all had probability 0, or only stop tokens had not before "
            "min_new_tokens"
        )
