"""RAG-Sequence and RAG-Token (Lewis et al. 2020, section 2.1) over any retriever and generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast import arrays
from ragfast.generator import DecodingGenerator, Generator
from ragfast.index import Hits
from ragfast.marginal import logsumexp, marginalize_sequence, marginalize_token
from ragfast.retriever import Retriever

__all__ = ["Generation", "RAGSequence", "RAGToken", "Score"]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """log p(y|x) of one answer and what it is made of.

    doc_ids (K,) best first; doc_logprobs (K,) = log p(z|x); token_logprobs (K,T) = log p(y_t | x, z, y_<t); posterior,
    how much each document had to do with the answer, sums to 1 over documents: (K,) = p(z|x,y) for RAG-Sequence,
    (K,T) = p(z_t | x, y_t, y_<t) for RAG-Token.
    """

    log_prob: float
    doc_ids: NDArray[np.int64]
    doc_logprobs: NDArray[Any]
    token_logprobs: NDArray[Any]
    posterior: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """One generated answer.

    tokens (T,) int64, with the eos token where there was one; log_prob = log p(tokens | x); doc_ids (K,), doc_logprobs
    (K,) and posterior (K,T) as in Score.
    """

    tokens: NDArray[np.int64]
    log_prob: float
    doc_ids: NDArray[np.int64]
    doc_logprobs: NDArray[Any]
    posterior: NDArray[Any]


class _RAG:
    """What both variants share: a retriever, a generator, eps, and one retrieval a question."""

    def __init__(self, retriever: Retriever, generator: Generator, eps: float = 0.0) -> None:
        if not isinstance(retriever, Retriever):
            raise TypeError(f"retriever: expected encode_query and search methods, got {type(retriever).__name__}")
        if not isinstance(generator, Generator):
            raise TypeError(f"generator: expected a token_logprobs method, got {type(generator).__name__}")
        self.retriever = retriever
        self.generator = generator
        self.eps = eps

    @property
    def eps(self) -> float:
        """Added to a probability before its logarithm; 0 or more."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        self._eps = arrays.finite_float(value, "eps", above_zero=False)

    def _plus_eps(self, log_probs: Any) -> Any:
        """log(p + eps) of log p."""
        return np.logaddexp(log_probs, math.log(self._eps)) if self._eps else log_probs

    def _retrieve(
        self, query_tokens: Any, document_embeddings: Any, documents_tokens: Any, k: int
    ) -> tuple[Hits, list[Any]]:
        """The hits of one question and the tokens of those documents."""
        k = arrays.positive_int(k, "k")
        hits = self.retriever.search(self.retriever.encode_query(query_tokens), document_embeddings, k=k)
        docs = []
        for doc_id in hits.ids.tolist():
            try:
                if doc_id < 0:  # would silently be an entry counted from the end
                    raise IndexError
                docs.append(documents_tokens[doc_id])
            except LookupError:
                size = f" among {len(documents_tokens)}" if hasattr(documents_tokens, "__len__") else ""
                raise ValueError(f"documents_tokens: no entry for document id {doc_id}{size}") from None
        return hits, docs

    def _evaluate(
        self, query_tokens: Any, target_tokens: Any, document_embeddings: Any, documents_tokens: Any, k: int
    ) -> tuple[Hits, NDArray[Any]]:
        """The hits of one question and the target's token_logprobs (K,T) under them."""
        hits, docs = self._retrieve(query_tokens, document_embeddings, documents_tokens, k)
        token_logprobs = self.generator.token_logprobs(query_tokens, docs, target_tokens)
        if token_logprobs.ndim != 2 or len(token_logprobs) != len(docs):
            raise ValueError(
                f"generator: expected token_logprobs of shape ({len(docs)}, T), got {token_logprobs.shape}"
            )
        return hits, token_logprobs


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
    """

    def forward(
        self,
        query_tokens: Any,
        target_tokens: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
    ) -> tuple[float, NDArray[np.int64], NDArray[Any]]:
        """log p(y|x), the ids of the documents (K,) and p(z|x) (K,), K = min(k, N).

        query_tokens and target_tokens are whatever the retriever and the generator take; for the simple pair (n,D) and
        (T,D) arrays. document_embeddings is an (N,D) array or a FlatIndex; documents_tokens anything that gives a
        document's tokens by id: a list, a dict. The documents are retrieved once. No target tokens: log p is log 1.

        ValueError where k is below 1 or documents_tokens lacks an id; otherwise what retriever and generator raise.
        """
        hits, token_logprobs = self._evaluate(query_tokens, target_tokens, document_embeddings, documents_tokens, k)
        log_prob = self._plus_eps(marginalize_sequence(hits.logprobs, token_logprobs))
        return float(log_prob), hits.ids, np.exp(hits.logprobs)

    def score(
        self,
        query_tokens: Any,
        target_tokens: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
    ) -> Score:
        """As :meth:`forward`, with the terms of the sum and p(z|x,y) (K,), which eps has no part in."""
        hits, token_logprobs = self._evaluate(query_tokens, target_tokens, document_embeddings, documents_tokens, k)
        log_prob, posterior = marginalize_sequence(hits.logprobs, token_logprobs, return_posterior=True)
        return Score(float(self._plus_eps(log_prob)), hits.ids, hits.logprobs, token_logprobs, posterior)


class RAGToken(_RAG):
    """RAG-Token: each token has its own document, p(y|x) = prod_t sum_z p(z|x) p(y_t | x, z, y_<t).

    eps is added to each token's probability before its logarithm: 0.0 gives the exact value, 1e-8 (on the generator
    too) the notebook's.

    >>> import numpy as np, ragfast
    >>> rng = np.random.default_rng(0)
    >>> rag = ragfast.RAGToken(ragfast.SimpleRetriever(4, rng=rng), ragfast.SimpleGenerator(10, 4, 8, rng=rng))
    >>> docs = [rng.standard_normal((3, 4)) for _ in range(6)]
    >>> score = rag.score(rng.standard_normal((2, 4)), np.eye(4), rng.standard_normal((6, 4)), docs, k=2)
    >>> round(score.log_prob, 2), score.posterior.shape
    (-9.21, (2, 4))
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
        hits, token_logprobs = self._evaluate(query_tokens, target_tokens, document_embeddings, documents_tokens, k)
        return float(np.add.reduce(self._plus_eps(marginalize_token(hits.logprobs, token_logprobs))))

    def forward_token(
        self,
        query_tokens: Any,
        target_token: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
    ) -> tuple[float, NDArray[np.int64], NDArray[Any]]:
        """p(y_1|x) (not its logarithm, and without this object's eps), the ids (K,) and p(z|x) (K,) for one token."""
        hits, token_logprobs = self._evaluate(query_tokens, [target_token], document_embeddings, documents_tokens, k)
        log_prob = marginalize_token(hits.logprobs, token_logprobs)
        return math.exp(log_prob[0]), hits.ids, np.exp(hits.logprobs)

    def score(
        self,
        query_tokens: Any,
        target_tokens: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
    ) -> Score:
        """As :meth:`forward`, with its terms and p(z_t | x, y_t, y_<t) (K,T), which eps has no part in."""
        hits, token_logprobs = self._evaluate(query_tokens, target_tokens, document_embeddings, documents_tokens, k)
        log_probs, posterior = marginalize_token(hits.logprobs, token_logprobs, return_posterior=True)
        log_prob = float(np.add.reduce(self._plus_eps(log_probs)))
        return Score(log_prob, hits.ids, hits.logprobs, token_logprobs, posterior)

    def generate(
        self,
        query_tokens: Any,
        document_embeddings: Any,
        documents_tokens: Any,
        k: int = 5,
        *,
        max_new_tokens: int = 32,
    ) -> Generation:
        """The greedy answer: at each step the v of the largest log p(v | x, y_<t), the lower id of equals.

        Stops after the eos token or max_new_tokens. The documents are retrieved once; eps plays no part.

        TypeError where the generator is no DecodingGenerator, ValueError where k or max_new_tokens is below 1.
        """
        if not isinstance(self.generator, DecodingGenerator):
            raise TypeError(
                f"generator: generate needs eos_token and an open method, which {type(self.generator).__name__} lacks"
            )
        max_new_tokens = arrays.positive_int(max_new_tokens, "max_new_tokens")
        hits, docs = self._retrieve(query_tokens, document_embeddings, documents_tokens, k)
        decoder = self.generator.open(query_tokens, docs)
        token: int | None = None
        tokens: list[int] = []
        log_probs: list[float] = []
        joints: list[NDArray[Any]] = []
        while len(tokens) < max_new_tokens and token != self.generator.eos_token:
            step = decoder.step(token)
            log_marginal = marginalize_token(hits.logprobs, step)  # over documents, for every v at once
            token = int(log_marginal.argmax())
            tokens.append(token)
            log_probs.append(float(log_marginal[token]))
            joints.append(hits.logprobs + step[:, token])
        joint = np.stack(joints, axis=1)
        posterior = np.exp(joint - logsumexp(joint, axis=0))
        return Generation(np.array(tokens), math.fsum(log_probs), hits.ids, hits.logprobs, posterior)
