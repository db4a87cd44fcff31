"""RAG-Sequence and RAG-Token: the notebook's numbers, exact values beyond its floors, and sums countable by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ragfast
from ragfast.bench import notebook
from ragfast.generator import DecodingGenerator

Array = NDArray[Any]


class Case:
    """The notebook's pair, ragfast's with the same weights, and one question."""

    def __init__(
        self,
        seed: int = 0,
        vocab_size: int = 60,
        dim: int = 6,
        hidden_dim: int = 9,
        n_docs: int = 12,
        n_target: int = 5,
        eps: float = 0.0,
        scale: float = 30.0,
    ) -> None:
        np.random.seed(seed)
        self.loops = notebook.Retriever(dim), notebook.Generator(vocab_size, dim, hidden_dim)
        self.loops[1].output_W *= scale
        self.loops[1].floor = eps
        self.eps = eps
        self.retriever = ragfast.SimpleRetriever(dim)
        self.retriever.query_encoder_W = self.loops[0].query_encoder_W
        self.generator = ragfast.SimpleGenerator(vocab_size, dim, hidden_dim, eps=eps)
        self.generator.encoder_W = self.loops[1].encoder_W
        self.generator.decoder_W = self.loops[1].decoder_W
        self.generator.output_W = self.loops[1].output_W
        self.query = np.random.randn(3, dim)
        self.target = np.random.randn(n_target, dim)
        self.documents = np.random.randn(n_docs, dim)
        self.texts = [np.random.randn(np.random.randint(1, 9), dim) for _ in range(n_docs)]
        self.question: Any = self.query, self.target, self.documents, self.texts

    def sequence(self) -> ragfast.RAGSequence:
        return ragfast.RAGSequence(self.retriever, self.generator, eps=self.eps)

    def token(self) -> ragfast.RAGToken:
        return ragfast.RAGToken(self.retriever, self.generator, eps=self.eps)


class FixedRetriever:
    """Finds documents 0, 1, ... with the given p(z|x), and counts how often it is asked."""

    def __init__(self, probs: Sequence[float], ids: Sequence[int] | None = None) -> None:
        self.logprobs = np.log(np.array(probs))
        self.ids = np.arange(len(probs)) if ids is None else np.array(ids)
        self.asked: list[str] = []

    def encode_query(self, query_tokens: Any, /) -> Array:
        self.asked.append("encode_query")
        return np.zeros(1)

    def search(self, query_embedding: Array, document_embeddings: Any, /, k: int) -> ragfast.Hits:
        self.asked.append("search")
        return ragfast.Hits(self.logprobs[:k], self.ids[:k], self.logprobs[:k])


class TableGenerator:
    """Three words, of which 2 ends an answer; a document is {answer so far: p(next word)}."""

    eos_token = 2

    def token_logprobs(self, query_tokens: Any, doc_tokens: Sequence[Any], target_tokens: Any, /) -> Array:
        target = tuple(target_tokens)
        return np.log([[doc[target[:t]][word] for t, word in enumerate(target)] for doc in doc_tokens])

    def open(self, query_tokens: Any, doc_tokens: Sequence[Any], /) -> TableDecoder:
        return TableDecoder(doc_tokens)


class TableDecoder:
    def __init__(self, docs: Sequence[Any]) -> None:
        self.docs = docs
        self.prefix: tuple[int, ...] = ()

    def step(self, token: int | None, /) -> Array:
        if token is not None:
            self.prefix += (token,)
        with np.errstate(divide="ignore"):
            return np.log([doc[self.prefix] for doc in self.docs])


SURE = {(): [0.75, 0.25, 0.0], (0,): [0.0, 0.5, 0.5], (0, 1): [0.0, 0.0, 1.0], (1,): [0.5, 0.25, 0.25]}
DOUBTFUL = {(): [0.25, 0.25, 0.5], (0,): [0.0, 1.0, 0.0], (0, 1): [0.5, 0.25, 0.25], (1,): [0.25, 0.25, 0.5]}
TABLES = {0: SURE, 1: DOUBTFUL}


def by_hand() -> ragfast.RAGToken:
    return ragfast.RAGToken(FixedRetriever([0.75, 0.25]), TableGenerator())


SIZES = [
    {},
    {"vocab_size": 1000, "dim": 64, "hidden_dim": 128, "n_docs": 20, "n_target": 8, "scale": 1.0},
    {"vocab_size": 1, "dim": 1, "hidden_dim": 1, "n_docs": 1, "n_target": 1},
    {"vocab_size": 4001, "dim": 20, "n_docs": 3, "n_target": 2},
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", SIZES)
def test_eps_gives_the_notebooks_numbers(seed: int, size: dict[str, Any]) -> None:
    case = Case(seed, eps=1e-8, **size)
    log_prob, doc_ids, doc_probs = case.sequence().forward(*case.question)
    expected, expected_ids, expected_probs = notebook.rag_sequence(*case.loops, *case.question)
    assert log_prob == pytest.approx(expected, rel=1e-9)
    assert doc_ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(doc_probs, expected_probs, rtol=1e-9)

    assert case.token().forward(*case.question) == pytest.approx(
        notebook.rag_token(*case.loops, *case.question), rel=1e-9
    )
    one_token: Any = case.query, case.target[0], case.documents, case.texts
    prob, doc_ids, doc_probs = case.token().forward_token(*one_token)
    expected, expected_ids, expected_probs = notebook.rag_token_step(*case.loops, *one_token)
    assert prob == pytest.approx(expected, rel=1e-9)
    assert doc_ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(doc_probs, expected_probs, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", SIZES)
def test_exact_by_default(seed: int, size: dict[str, Any]) -> None:
    """The notebook's loops without their floors, where a probability still is a float64."""
    case = Case(seed, **size)
    expected, _, _ = notebook.rag_sequence(*case.loops, *case.question, floor=0.0)
    assert case.sequence().forward(*case.question)[0] == pytest.approx(expected, rel=1e-11, abs=1e-14)
    expected = notebook.rag_token(*case.loops, *case.question, floor=0.0)
    assert case.token().forward(*case.question) == pytest.approx(expected, rel=1e-11, abs=1e-14)


def test_exact_far_below_the_smallest_float() -> None:
    """1000 tokens of p = 1/4: the notebook's product is 0, its log the floor's."""
    rag = ragfast.RAGSequence(FixedRetriever([0.5, 0.5]), TableGenerator())
    tables = [{(0,) * t: [0.25, 0.5, 0.25] for t in range(1000)}] * 2
    assert rag.forward("", [0] * 1000, None, tables)[0] == pytest.approx(-1000 * math.log(4), rel=1e-14)
    rag.eps = 1e-8
    assert rag.forward("", [0] * 1000, None, tables)[0] == pytest.approx(math.log(1e-8), rel=1e-14)


def test_by_hand() -> None:
    """y = 0 1: under document 0 p = 3/4 * 1/2, under document 1 p = 1/4 * 1."""
    question = "", [0, 1], None, TABLES
    sequence = ragfast.RAGSequence(FixedRetriever([0.75, 0.25]), TableGenerator()).score(*question)
    assert math.exp(sequence.log_prob) == pytest.approx(0.75 * 3 / 8 + 0.25 * 1 / 4)
    assert sequence.posterior.tolist() == pytest.approx([9 / 11, 2 / 11])
    token = by_hand().score(*question)
    assert math.exp(token.log_prob) == pytest.approx((0.75 * 3 / 4 + 0.25 * 1 / 4) * (0.75 * 1 / 2 + 0.25 * 1))
    np.testing.assert_allclose(token.posterior, [[9 / 10, 6 / 10], [1 / 10, 4 / 10]])
    for score in (sequence, token):
        np.testing.assert_allclose(np.exp(score.token_logprobs), [[3 / 4, 1 / 2], [1 / 4, 1]])
        np.testing.assert_allclose(np.exp(score.doc_logprobs), [0.75, 0.25])
        assert score.doc_ids.tolist() == [0, 1]
    prob, ids, probs = by_hand().forward_token("", 0, None, TABLES)
    assert prob == pytest.approx(0.625)
    assert ids.tolist() == [0, 1]
    assert probs.tolist() == pytest.approx([0.75, 0.25])


def test_score_agrees_with_forward() -> None:
    for eps in (0.0, 1e-8):
        case = Case(eps=eps)
        score = case.sequence().score(*case.question)
        log_prob, ids, probs = case.sequence().forward(*case.question)
        assert (score.log_prob, score.doc_ids.tolist()) == (log_prob, ids.tolist())
        assert np.exp(score.doc_logprobs).tolist() == probs.tolist()
        assert score.posterior.sum() == pytest.approx(1)
        token_score = case.token().score(*case.question)
        assert token_score.log_prob == case.token().forward(*case.question)
        np.testing.assert_allclose(token_score.posterior.sum(axis=0), 1)
        assert np.array_equal(token_score.token_logprobs, score.token_logprobs)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 15), st.floats(0.0, 1e3))
@settings(deadline=None)
def test_one_token_makes_both_variants_equal(seed: int, k: int, n_docs: int, scale: float) -> None:
    case = Case(seed, n_docs=n_docs, n_target=1, scale=scale)
    sequence = case.sequence().score(*case.question, k=k)
    token = case.token().score(*case.question, k=k)
    assert token.log_prob == pytest.approx(sequence.log_prob, rel=1e-13, abs=1e-13)
    np.testing.assert_allclose(token.posterior[:, 0], sequence.posterior, rtol=1e-11)
    one_token: Any = case.query, case.target[0], case.documents, case.texts
    assert math.log(case.token().forward_token(*one_token, k)[0]) == pytest.approx(token.log_prob, rel=1e-12, abs=1e-13)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(deadline=None)
def test_permuting_documents_permutes_ids(seed: int, k: int) -> None:
    case = Case(seed)
    order = np.random.default_rng(seed).permutation(len(case.texts))
    permuted = case.query, case.target, case.documents[order], [case.texts[i] for i in order]
    log_prob, ids, probs = case.sequence().forward(*case.question, k)
    permuted_log_prob, permuted_ids, permuted_probs = case.sequence().forward(*permuted, k)
    assert order[permuted_ids].tolist() == ids.tolist()
    assert (permuted_log_prob, permuted_probs.tolist()) == (log_prob, probs.tolist())
    assert case.token().forward(*permuted, k) == case.token().forward(*case.question, k)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_sequence_lies_between_its_documents(seed: int) -> None:
    case = Case(seed)
    score = case.sequence().score(*case.question)
    each = score.token_logprobs.sum(axis=1)
    assert each.min() - 1e-12 <= score.log_prob <= each.max() + 1e-12


def test_an_index_serves_as_documents() -> None:
    case = Case()
    documents = case.documents.astype(np.float32)
    index = ragfast.FlatIndex.from_vectors(documents)
    assert case.token().forward(case.query, case.target, index, case.texts) == case.token().forward(
        case.query, case.target, documents, case.texts
    )
    ids = ragfast.FlatIndex.from_vectors(documents, ids=np.arange(100, 112))
    by_id = {100 + i: text for i, text in enumerate(case.texts)}
    log_prob, doc_ids, _ = case.sequence().forward(case.query, case.target, ids, by_id)
    plain_log_prob, plain_ids, _ = case.sequence().forward(case.query, case.target, index, case.texts)
    assert (log_prob, doc_ids.tolist()) == (plain_log_prob, (plain_ids + 100).tolist())


@pytest.mark.parametrize("rag", [ragfast.RAGSequence, ragfast.RAGToken])
@pytest.mark.parametrize("target", [[], np.empty((0, 6))])
def test_empty_answer_is_certain(rag: Any, target: Any) -> None:
    case = Case()
    score = rag(case.retriever, case.generator).score(case.query, target, case.documents, case.texts)
    assert score.log_prob == pytest.approx(0, abs=1e-15)
    assert score.token_logprobs.shape == (5, 0)


def test_retrieves_once() -> None:
    retriever, question = FixedRetriever([0.75, 0.25]), ("", [0, 1], None, TABLES)
    sequence, token = ragfast.RAGSequence(retriever, TableGenerator()), ragfast.RAGToken(retriever, TableGenerator())
    calls: list[Callable[[], Any]] = [
        lambda: sequence.forward(*question),
        lambda: sequence.score(*question),
        lambda: token.forward(*question),
        lambda: token.score(*question),
        lambda: token.forward_token("", 0, None, TABLES),
        lambda: token.generate("", None, TABLES),
    ]
    for call in calls:
        retriever.asked.clear()
        call()
        assert retriever.asked == ["encode_query", "search"]


def test_generate_by_hand() -> None:
    """First 0 (5/8 against 1/4 and 1/8), then 1 (5/8), then the end (13/16)."""
    generation = by_hand().generate("", None, TABLES)
    assert generation.tokens.tolist() == [0, 1, 2]
    assert generation.tokens.dtype == np.int64
    assert math.exp(generation.log_prob) == pytest.approx(5 / 8 * 5 / 8 * 13 / 16)
    np.testing.assert_allclose(generation.posterior, [[9 / 10, 6 / 10, 12 / 13], [1 / 10, 4 / 10, 1 / 13]])
    assert generation.doc_ids.tolist() == [0, 1]
    np.testing.assert_allclose(np.exp(generation.doc_logprobs), [0.75, 0.25])
    score = by_hand().score("", generation.tokens, None, TABLES)
    assert generation.log_prob == pytest.approx(score.log_prob, rel=1e-14)
    np.testing.assert_allclose(generation.posterior, score.posterior)


def test_generate_stops_at_max_new_tokens() -> None:
    generation = by_hand().generate("", None, TABLES, max_new_tokens=2)
    assert generation.tokens.tolist() == [0, 1]
    assert generation.posterior.shape == (2, 2)


def test_generate_prefers_the_lower_of_equals() -> None:
    table = {(): [0.2, 0.4, 0.4], (1,): [0.0, 0.5, 0.5], (1, 1): [0.0, 0.0, 1.0]}
    assert by_hand().generate("", None, [table, table]).tokens.tolist() == [1, 1, 2]


def test_generate_weighs_documents() -> None:
    """The less likely document's sure word beats the likelier one's doubtful ones."""
    end = {(0,): [0.0, 0.0, 1.0]}
    docs = [{(): [0.3, 0.3, 0.4], **end}, {(): [0.9, 0.1, 0.0], **end}]
    assert by_hand().generate("", None, docs).tokens.tolist() == [0, 2]
    rag = ragfast.RAGToken(FixedRetriever([0.95, 0.05]), TableGenerator())
    assert rag.generate("", None, docs).tokens.tolist() == [2]


def test_protocols_of_the_toys() -> None:
    assert isinstance(TableGenerator(), DecodingGenerator)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_k(k: int) -> None:
    case = Case(n_docs=4)
    _, ids, probs = case.sequence().forward(*case.question, k=k)
    assert len(ids) == len(probs) == min(k, 4)
    assert probs.sum() == pytest.approx(1)


@pytest.mark.parametrize("rag", [ragfast.RAGSequence, ragfast.RAGToken])
class TestRefuses:
    @pytest.mark.parametrize("eps", [-1e-8, math.nan, math.inf])
    def test_eps(self, rag: Any, eps: float) -> None:
        case = Case()
        with pytest.raises(ValueError, match="eps: expected a finite number of 0 or more"):
            rag(case.retriever, case.generator, eps=eps)
        model = rag(case.retriever, case.generator, eps=1e-8)
        with pytest.raises(ValueError, match="eps: expected a finite number of 0 or more"):
            model.eps = eps
        assert model.eps == 1e-8

    def test_what_is_no_retriever_or_generator(self, rag: Any) -> None:
        case = Case()
        with pytest.raises(TypeError, match="retriever: expected encode_query and search methods, got SimpleGenerator"):
            rag(case.generator, case.generator)
        with pytest.raises(TypeError, match="generator: expected a token_logprobs method, got SimpleRetriever"):
            rag(case.retriever, case.retriever)

    def test_too_few_documents_tokens(self, rag: Any) -> None:
        case = Case(n_docs=3)
        with pytest.raises(ValueError, match="documents_tokens: no entry for document id 2 among 2"):
            rag(case.retriever, case.generator).forward(case.query, case.target, case.documents, case.texts[:2])
        with pytest.raises(ValueError, match="documents_tokens: no entry for document id 7 among 2"):
            rag(FixedRetriever([1.0], ids=[7]), TableGenerator()).forward("", [0], None, TABLES)

    def test_padding_from_a_retriever(self, rag: Any) -> None:
        with pytest.raises(ValueError, match="documents_tokens: no entry for document id -1"):
            rag(FixedRetriever([1.0], ids=[-1]), TableGenerator()).forward("", [0], None, [SURE])

    def test_k(self, rag: Any) -> None:
        case = Case()
        with pytest.raises(ValueError, match="k: expected 1 or more, got 0"):
            rag(case.retriever, case.generator).forward(*case.question, k=0)

    def test_a_generator_that_answers_in_another_shape(self, rag: Any) -> None:
        class Flat(TableGenerator):
            def token_logprobs(self, *arguments: Any) -> Array:
                return np.zeros(2)

        with pytest.raises(ValueError, match=r"generator: expected token_logprobs of shape \(2, T\), got \(2,\)"):
            rag(FixedRetriever([0.75, 0.25]), Flat()).forward("", [0, 1], None, TABLES)

    def test_tokens_of_the_wrong_shape(self, rag: Any) -> None:
        case = Case()
        with pytest.raises(ValueError, match="query_tokens: expected shape"):
            rag(case.retriever, case.generator).forward(case.query[0], *case.question[1:])
        with pytest.raises(ValueError, match="target_tokens: expected shape"):
            rag(case.retriever, case.generator).forward(case.query, case.target[0], *case.question[2:])


def test_generate_refuses() -> None:
    case = Case()
    with pytest.raises(
        TypeError, match="generator: generate needs eos_token and an open method, which SimpleGenerator"
    ):
        case.token().generate(case.query, case.documents, case.texts)
    with pytest.raises(ValueError, match="max_new_tokens: expected 1 or more, got 0"):
        by_hand().generate("", None, TABLES, max_new_tokens=0)
