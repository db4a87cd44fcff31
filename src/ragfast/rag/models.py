"""RAG-Sequence and RAG-Token (Lewis et al. 2020, section 2.1) over any retriever and generator."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index import Hits
from ragfast.marginal.lse import log_softmax, marginalize_sequence, marginalize_token
from ragfast.rag import decoding, protocols
from ragfast.rag.decoding import Decoding, Generation, Retrieved, Step
from ragfast.rag.parameters import Number
from ragfast.rag.protocols import Constraints, DecodingGenerator, Generator, Retriever

BATCH_SIZE = 8
"""Questions that a generator reads and decodes together, if not told otherwise."""

__all__ = ["Corpus", "RAGSequence", "RAGToken", "Score"]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """log p(y|x) of C candidate answers to one question, and what it is made of.

    logprobs (C,) float64; doc_ids (K,) best first, int64 or, of an index that has such, str in an object array;
    doc_logprobs (K,) = log p(z|x); token_logprobs, for each candidate (K,T) = log p(y_t | x, z, y_<t), T its own;
    posteriors, for each candidate how much each document had to do with it, which sums to 1 over documents: (K,) =
    p(z|x,y) for RAG-Sequence, (K,T) = p(z_t | x, y_t, y_<t) for RAG-Token.
    """

    logprobs: NDArray[np.float64]
    doc_ids: NDArray[Any]
    doc_logprobs: NDArray[np.float64]
    token_logprobs: tuple[NDArray[Any], ...]
    posteriors: tuple[NDArray[Any], ...]

    @property
    def best(self) -> int:
        """The candidate of the largest log p(y|x), the first of equals."""
        return int(self.logprobs.argmax())

    @property
    def candidate_logprobs(self) -> NDArray[np.float64]:
        """log p(candidate | x, it is one of these) (C,): log-softmax of logprobs, as multiple choice wants it."""
        return log_softmax(self.logprobs)


class Corpus(NamedTuple):
    """What a model retrieves from: a FlatIndex, Snapshot or array (N,D), and what the generator reads of each document
    by its id."""

    index: Any
    documents: Any


def _part_of_corpus(field: str, doc: str) -> Any:
    """A property that reads and replaces one field of ``corpus``."""

    def replace(model: _RAG, value: Any) -> None:
        model.corpus = model.corpus._replace(**{field: value})

    return property(operator.attrgetter(f"corpus.{field}"), replace, doc=doc)


class _RAG:
    """What both variants share: a retriever, a generator, eps, the corpus, and one retrieval a question."""

    index = _part_of_corpus("index", "The index, or embeddings, of ``corpus``; assign to replace it only.")
    documents = _part_of_corpus("documents", "The documents' tokens of ``corpus``; assign to replace them only.")
    document_embeddings, documents_tokens = index, documents  # the reference notebook's names
    eps = Number("Added to a probability before its logarithm; 0 or more.", above_zero=False)
    _eps: float

    def __init__(
        self,
        retriever: Retriever,
        generator: Generator,
        eps: float = 0.0,
        *,
        index: Any = None,
        documents: Any = None,
        document_embeddings: Any = None,
        documents_tokens: Any = None,
        k: int = 5,
    ) -> None:
        self.retriever = protocols.checked_retriever(retriever)
        if not isinstance(generator, Generator):
            raise TypeError(f"generator: expected a token_logprobs method, got {type(generator).__name__}")
        self.generator = generator
        self.eps = eps
        # Replaced as one, so that a retrieval beside a refresh sees the old documents or the new, never some of each.
        self.corpus = Corpus(
            _either("index", index, "document_embeddings", document_embeddings),
            _either("documents", documents, "documents_tokens", documents_tokens),
        )
        self.k = arrays.positive_int(k, "k")

    def retrieve(
        self, questions: Sequence[Any], *, k: int | None = None, **constraints: Unpack[Constraints]
    ) -> list[Retrieved]:
        """The documents of each of B questions, each retrieved once: what score and generate do where ``retrieved`` is
        not given. Share it between variants, or between scoring and decoding.

        k (this object's by default) documents each, or as many as there are. constraints say which: ``filter=``, and
        ``group_by=`` with ``max_per_group=`` or ``exclude_groups=`` (B,), as in :meth:`FlatIndex.search`; p(z|x) is
        over the documents that they leave.

        ValueError where the model has no documents, where the documents lack an id, and where a question found no
        document; TypeError for constraints where the retriever is no :class:`FilteringRetriever`.
        """
        k = self.k if k is None else arrays.positive_int(k, "k")
        questions = _several(questions, "questions")
        index, documents = self.corpus
        if index is None or documents is None:
            raise ValueError(
                "index, documents: expected both where the model is made, as "
                f"{type(self).__name__}(retriever, generator, index=..., documents=...)"
            )
        if not questions:
            return []
        found = self._search(questions, index, k, constraints)
        return [_retrieved(hits, documents, f"questions[{b}]") for b, hits in enumerate(found)]

    def _search(self, questions: list[Any], index: Any, k: int, constraints: Constraints) -> list[Hits]:
        """The hits (K,) of each question."""
        given: dict[str, Any] = {name: value for name, value in constraints.items() if value is not None}
        if given and not isinstance(self.retriever, protocols.FilteringRetriever):
            raise TypeError(
                f"{next(iter(given))}: expected a retriever that takes it, as DenseRetriever does (a "
                f"FilteringRetriever, with a filter of its own or None), got {type(self.retriever).__name__}"
            )
        if isinstance(self.retriever, protocols.BatchRetriever):
            search_queries: Any = self.retriever.search_queries  # with constraints, if it is a FilteringRetriever
            found = search_queries(self.retriever.encode_queries(questions), index, k=k, **given)
            rows = [Hits(*row) for row in zip(found.scores, found.ids, found.logprobs, strict=True)]
            if len(rows) != len(questions):
                raise ValueError(f"retriever: expected hits of {len(questions)} queries, got {len(rows)}")
            return rows
        each = [given] * len(questions)
        if "exclude_groups" in given:
            groups = _several(given["exclude_groups"], "exclude_groups")
            if len(groups) != len(questions):
                raise ValueError(f"exclude_groups: expected {len(questions)} groups, one a question, got {len(groups)}")
            # A question that excludes nothing needs group_by only together with max_per_group.
            still = ("filter", "group_by", "max_per_group") if "max_per_group" in given else ("filter",)
            without = {name: value for name, value in given.items() if name in still}
            each = [without if group is None else {**given, "exclude_groups": group} for group in groups]
        encode, search = self.retriever.encode_query, self.retriever.search
        return [
            search(encode(question), index, k=k, **its_constraints)
            for question, its_constraints in zip(questions, each, strict=True)
        ]

    def _answer_logprob(self, marginal: Any) -> Any:
        """log p(y|x) of what _marginalize gives, with eps: log(p + eps) of log p."""
        return np.logaddexp(marginal, math.log(self._eps)) if self._eps else marginal

    def _evaluate(
        self, query_tokens: Any, target_tokens: Any, document_embeddings: Any, documents_tokens: Any, k: int
    ) -> tuple[Hits, Any]:
        """The hits of one question and what _marginalize gives of the target under them."""
        k = arrays.positive_int(k, "k")
        given = self.retriever.search(self.retriever.encode_query(query_tokens), document_embeddings, k=k)
        hits, docs = _found(given, "query_tokens", documents_tokens, "documents_tokens")
        token_logprobs = _checked(self.generator.token_logprobs(query_tokens, docs, target_tokens), hits.ids, "")
        return hits, self._marginalize(hits.logprobs, token_logprobs)

    def _all_logprobs(
        self, questions: Sequence[Any], answers: Sequence[Any], retrieved: Sequence[Retrieved], batch_size: int
    ) -> list[list[NDArray[Any]]]:
        """For each question and each of its candidates the token_logprobs (K,T)."""
        docs = [found.doc_tokens for found in retrieved]
        given: list[Sequence[Any]] = []
        for batch in decoding.batches(len(questions), batch_size):
            given += decoding.score_with(self.generator, questions[batch], docs[batch], answers[batch])
        counts, expected = [len(tables) for tables in given], [len(candidates) for candidates in answers]
        if counts != expected:
            raise ValueError(f"generator: expected token_logprobs of {expected} answers to each question, got {counts}")
        return [
            [_checked(table, found.doc_ids, f" for answers[{b}][{c}]") for c, table in enumerate(tables)]
            for b, (tables, found) in enumerate(zip(given, retrieved, strict=True))
        ]

    def score(
        self,
        questions: Sequence[Any],
        answers: Sequence[Any],
        *,
        k: int | None = None,
        filter: Any = None,
        retrieved: Sequence[Retrieved] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Score]:
        """log p(y|x) of each answer, with the terms of its sum and the posterior, which eps has no part in.

        questions are B of what the retriever and the generator take. answers are B: a list or tuple is several
        candidates for its question (multiple choice), anything else one answer. Each question retrieves once, k
        documents or this object's, under the filter if there is one; or takes those that ``retrieve`` gave. A generator
        that scores several questions at once gets batch_size of them: memory grows with it, and results do not depend
        on it.

        ValueError for another number of answers or of ``retrieved``, a question without a candidate or a document, NaN
        from the generator, and where ``retrieve`` raises it; otherwise what retriever and generator raise.
        """
        asked, found = self._prepare(questions, k, filter, retrieved)
        tables = self._all_logprobs(asked, _candidates(answers, len(asked)), found, batch_size)
        return [self._score(documents, candidates) for documents, candidates in zip(found, tables, strict=True)]

    def _score(self, retrieved: Retrieved, token_logprobs: Sequence[NDArray[Any]]) -> Score:
        marginals = [self._marginalize(retrieved.doc_logprobs, t, return_posterior=True) for t in token_logprobs]
        return Score(
            logprobs=np.array([self._answer_logprob(marginal) for marginal, _ in marginals], np.float64),
            doc_ids=retrieved.doc_ids,
            doc_logprobs=retrieved.doc_logprobs,
            token_logprobs=tuple(token_logprobs),
            posteriors=tuple(posterior for _, posterior in marginals),
        )

    _marginalize: Callable[..., Any]
    """Of doc_logprobs (K,) and token_logprobs (K,T)."""

    def _prepare(
        self, questions: Sequence[Any], k: int | None, filter: Any, retrieved: Sequence[Retrieved] | None
    ) -> tuple[list[Any], list[Retrieved]]:
        """The questions and the documents of each."""
        asked = _several(questions, "questions")
        if retrieved is None:
            found = self.retrieve(asked, k=k, filter=filter)
        else:
            if k is not None:
                raise ValueError("k, retrieved: expected one of them, as what is retrieved has its number of documents")
            if filter is not None:
                raise ValueError(
                    "filter, retrieved: expected one of them; retrieve(..., filter=) is what takes it then"
                )
            found = _several(retrieved, "retrieved")
        if len(found) != len(asked):
            raise ValueError(f"retrieved: expected {len(asked)}, one a question, got {len(found)}")
        for b, documents in enumerate(found):
            if not isinstance(documents, Retrieved):
                raise TypeError(f"retrieved[{b}]: expected a Retrieved, got {type(documents).__name__}")
            if len(documents.doc_tokens) == 0:
                raise ValueError(f"retrieved[{b}]: expected at least one document, got none")
        return asked, found

    def _request(
        self, what: str, questions: Any, k: int | None, filter: Any, retrieved: Any, options: dict[str, Any]
    ) -> decoding.Request:
        """What `what`, a method that decodes, asks of the generator."""
        asked, found = self._prepare(questions, k, filter, retrieved)
        if not isinstance(self.generator, DecodingGenerator):
            raise TypeError(
                f"generator: {what} needs stop_tokens and an open method, which {type(self.generator).__name__} lacks"
            )
        return decoding.Request(self.generator, asked, found, Decoding.of(options))


class RAGSequence(_RAG):
    """RAG-Sequence: one document answers the whole question, p(y|x) = sum_z p(z|x) prod_t p(y_t | x, z, y_<t).

    eps is added to p(y|x) before its logarithm: 0.0 gives the exact value, 1e-8 (on the generator too) the notebook's.

    >>> import numpy as np, ragfast
    >>> rng = np.random.default_rng(0)
    >>> rag = ragfast.RAGSequence(ragfast.SimpleRetriever(4, rng=rng), ragfast.SimpleGenerator(10, 4, 8, rng=rng))
    >>> docs = [rng.standard_normal((3, 4)) for _ in range(6)]
    >>> log_prob, doc_ids, doc_probs = rag.forward(
    ...     rng.standard_normal((2, 4)), np.eye(4), rng.standard_normal((6, 4)), docs, k=2
    ... )
    >>> round(log_prob, 2), doc_ids.shape, round(float(doc_probs.sum()), 6)
    (-9.21, (2,), 1.0)

    A model may hold what it retrieves from: ``index``, a FlatIndex, a Snapshot or an array (N,D), and ``documents``,
    what the generator reads of each document by its id. The notebook's names ``document_embeddings`` and
    ``documents_tokens`` mean the same; TypeError for both names of one.

    >>> index = ragfast.FlatIndex.from_vectors(rng.standard_normal((6, 4)).astype(np.float32))
    >>> rag = ragfast.RAGSequence(rag.retriever, rag.generator, index=index, documents=docs, k=2)
    >>> rag.retrieve([rng.standard_normal((2, 4))])[0].doc_ids.shape, rag.document_embeddings is rag.index
    ((2,), True)
    """

    def forward(
        self,
        query_tokens: Any,
        target_tokens: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
    ) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """log p(y|x), the ids of the documents (K,) and p(z|x) (K,), K = min(k, N), or fewer under a filter.

        query_tokens and target_tokens are whatever the retriever and the generator take; for the simple pair (n,D) and
        (T,D) arrays. document_embeddings is an (N,D) array or a FlatIndex; documents_tokens anything that gives a
        document's tokens by id: a list, a dict. The documents are retrieved once. No target tokens: log p is log 1.

        ValueError where k is below 1 or documents_tokens lacks an id; otherwise what retriever and generator raise.
        """
        hits, marginal = self._evaluate(query_tokens, target_tokens, document_embeddings, documents_tokens, k)
        return float(self._answer_logprob(marginal)), hits.ids, np.exp(hits.logprobs)

    _marginalize = staticmethod(marginalize_sequence)

    def generate(
        self,
        questions: Sequence[Any],
        *,
        k: int | None = None,
        filter: Any = None,
        retrieved: Sequence[Retrieved] | None = None,
        mode: Literal["thorough", "fast"] = "thorough",
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> list[list[Generation]]:
        """The n_returned likeliest answers found for each of B questions, best first (Lewis et al. 2020, section 2.5).

        Beam search under each document by itself, greedy with one beam, finds hypotheses; equal ones are merged; each
        gets log p(y|x) = log sum_z p(z|x) p(y|x,z), by which they are ranked, then by their tokens. ``mode`` is which
        p(y|x,z) count: "thorough", all, of which those that the beam of z had are known and all others are scored in
        one pass; "fast", those that the beams had, so that logprob is a lower bound and nothing more is computed. Of
        the lists of :class:`Generation` each has n_returned or as many as there are hypotheses, at most K x n_beams.

        questions, k, filter, retrieved, batch_size, options and errors as for :meth:`RAGToken.generate`, but sample is
        refused, and n_returned may pass n_beams. length_penalty and early_stopping are of the search under each
        document. ValueError also for another mode, and for NaN where hypotheses are scored.
        """
        request = self._request("generate", questions, k, filter, retrieved, options)
        return decoding.generate_sequence(request, batch_size, mode)


class RAGToken(_RAG):
    """RAG-Token: each token has its own document, p(y|x) = prod_t sum_z p(z|x) p(y_t | x, z, y_<t).

    eps is added to each token's probability before its logarithm: 0.0 gives the exact value, 1e-8 (on the generator
    too) the notebook's.

    >>> import numpy as np, ragfast
    >>> rng = np.random.default_rng(0)
    >>> retriever, generator = ragfast.SimpleRetriever(4, rng=rng), ragfast.SimpleGenerator(10, 4, 8, rng=rng)
    >>> docs = [rng.standard_normal((3, 4)) for _ in range(6)]
    >>> rag = ragfast.RAGToken(retriever, generator, index=rng.standard_normal((6, 4)), documents=docs, k=2)
    >>> score = rag.score([rng.standard_normal((2, 4))], [np.eye(4)])[0]
    >>> score.logprobs.round(2).tolist(), score.posteriors[0].shape
    ([-9.21], (2, 4))
    """

    def forward(
        self,
        query_tokens: Any,
        target_tokens: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
    ) -> float:
        """log p(y|x). Arguments and errors as for :meth:`RAGSequence.forward`; the documents are retrieved once."""
        _, marginal = self._evaluate(query_tokens, target_tokens, document_embeddings, documents_tokens, k)
        return float(self._answer_logprob(marginal))

    _marginalize = staticmethod(marginalize_token)

    def _answer_logprob(self, marginal: Any) -> Any:
        return np.add.reduce(super()._answer_logprob(marginal))

    def forward_token(
        self,
        query_tokens: Any,
        target_token: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
    ) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """p(y_1|x) (not its logarithm, and without this object's eps), the ids (K,) and p(z|x) (K,) for one token."""
        hits, logprobs = self._evaluate(query_tokens, [target_token], document_embeddings, documents_tokens, k)
        return math.exp(logprobs[0]), hits.ids, np.exp(hits.logprobs)

    def generate(
        self,
        questions: Sequence[Any],
        *,
        k: int | None = None,
        filter: Any = None,
        retrieved: Sequence[Retrieved] | None = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> list[list[Generation]]:
        """The n_returned best answers to each of B questions, best first (Lewis et al. 2020, section 2.5).

        Each next token is chosen by log p(v | x, y_<t) = log sum_z p(z|x) p(v | x, z, y_<t), in which eps has no part:
        the greatest, the lower of equals; or as options say, the keyword arguments of :class:`Decoding`. A question
        retrieves once, k documents or this object's, under the filter if there is one; or takes those of ``retrieved``,
        one a question, that ``retrieve`` gave. batch_size questions are decoded together (memory grows with batch_size
        x k x n_beams), each as it would be alone; documents of p(z|x) = 0 are not read, and answers that have ended are
        no longer computed.

        logprob is the model's own log p(y|x): what is not allowed or not drawn keeps its probability. Answers that
        cannot go on, as all tokens have probability 0 or are stop tokens before their time, are dropped, so that there
        may be fewer than n_returned.

        TypeError for an unknown option; ValueError for options that do not go together, another number of
        ``retrieved``, NaN or +inf from the generator, a question to which no answer is left, and where ``retrieve``
        raises it. :class:`ragfast.rag.Generation` has an example.
        """
        return decoding.generate_token(self._request("generate", questions, k, filter, retrieved, options), batch_size)

    def stream(
        self,
        question: Any,
        *,
        k: int | None = None,
        filter: Any = None,
        retrieved: Retrieved | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """The greedy or sampled answer to one question, a :class:`Step` for each token as soon as it is chosen.

        Their tokens, and their texts together, are what ``generate`` gives. A text is "" while the character that it
        is part of is not complete. Nothing is computed before the first is asked for, nor after the last that is: an
        iterator may be dropped or closed at any time.

        question is one of what ``generate`` takes, retrieved the one :class:`Retrieved` for it; k, filter, options and
        errors as there, at once or with the token at hand; n_beams and n_returned must be 1.
        """
        given = None if retrieved is None else [retrieved]
        return decoding.stream_token(self._request("stream", [question], k, filter, given, options))


def _several(questions: Sequence[Any], name: str) -> list[Any]:
    if isinstance(questions, (str, bytes)) or not hasattr(questions, "__iter__"):
        raise TypeError(f"{name}: expected a sequence, such as a list of one, got {type(questions).__name__}")
    return list(questions)


def _candidates(answers: Sequence[Any], n_questions: int) -> list[list[Any]]:
    """The candidates of each question."""
    given = _several(answers, "answers")
    if len(given) != n_questions:
        raise ValueError(f"answers: expected {n_questions}, one or a list of several a question, got {len(given)}")
    candidates = [list(answer) if isinstance(answer, (list, tuple)) else [answer] for answer in given]
    for b, several in enumerate(candidates):
        if not several:
            raise ValueError(f"answers[{b}]: expected at least one candidate, got none")
    return candidates


def tokens_of(doc_id: int | str, documents: Any, name: str = "documents") -> Any:
    """A document's tokens by its id. ValueError, under that name, where there are none."""
    if isinstance(doc_id, str) and isinstance(documents, Sequence):
        raise ValueError(f"{name}: expected a mapping, as ids of documents are strings, got a sequence")
    try:
        if not isinstance(doc_id, str) and doc_id < 0:  # would silently be an entry counted from the end
            raise IndexError
        return documents[doc_id]
    except LookupError:
        raise no_entry(name, doc_id) from None


def no_entry(name: str, doc_id: int | str) -> ValueError:
    return ValueError(f"{name}: no entry for document id {doc_id!r}")


def _either(name: str, given: Any, notebook_name: str, notebook_given: Any) -> Any:
    """What is given under one of the two names of an argument, or None."""
    if given is not None and notebook_given is not None:
        raise TypeError(f"{name}, {notebook_name}: two names of one argument; expected one of them")
    return notebook_given if given is None else given


def _retrieved(hits: Hits, documents: Any, name: str) -> Retrieved:
    """What was found, with the tokens."""
    found, docs = _found(hits, name, documents, "documents")
    return Retrieved(found.ids, np.asarray(found.logprobs, np.float64), docs)


def _found(hits: Hits, name: str, documents: Any, documents_name: str) -> tuple[Hits, list[Any]]:
    """Without the padding with which a search fills up what it did not find, and each document's tokens."""
    ids = arrays.id_array(hits.ids, "retriever's ids", "(K,)", (None,))
    there = protocols.was_found(ids)
    if not there.any():
        raise ValueError(f"{name}: no document was found")
    found = Hits(np.asarray(hits.scores)[there], ids[there], np.asarray(hits.logprobs)[there])
    return found, [tokens_of(doc_id, documents, documents_name) for doc_id in found.ids.tolist()]


def _checked(token_logprobs: Any, doc_ids: NDArray[Any], where: str) -> NDArray[Any]:
    """The generator's answer, of the right shape and without NaN."""
    table = np.asarray(token_logprobs)
    if table.ndim != 2 or len(table) != len(doc_ids):
        raise ValueError(f"generator: expected token_logprobs of shape ({len(doc_ids)}, T){where}, got {table.shape}")
    broken = np.isnan(table).any(axis=1)
    if broken.any():
        raise ValueError(f"generator: NaN in the token_logprobs{where} under document {doc_ids[broken.argmax()]}")
    return table
