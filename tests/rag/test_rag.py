"""RAG-Sequence and RAG-Token: the notebook's numbers, exact values beyond its floors, and sums countable by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from ragfast_bench import reference_notebook
from toys import DOUBTFUL, SURE, TABLES, FixedRetriever, TableGenerator

import ragfast
from ragfast.rag.protocols import BatchGenerator, BatchRetriever, DecodingGenerator, Generator, Retriever

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
        self.loops = reference_notebook.Retriever(dim), reference_notebook.Generator(vocab_size, dim, hidden_dim)
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
        return ragfast.RAGSequence(self.retriever, self.generator, self.eps, **self.bound())

    def token(self) -> ragfast.RAGToken:
        return ragfast.RAGToken(self.retriever, self.generator, self.eps, **self.bound())

    def bound(self) -> dict[str, Any]:
        return {"index": self.documents, "documents": self.texts}

    def score(self, model: Any, k: int | None = None) -> ragfast.rag.Score:
        """Of the one question and its one target."""
        (score,) = model.score([self.query], [self.target], k=k)
        assert len(score.logprobs) == len(score.posteriors) == 1
        return score


def by_hand(rag: Any = ragfast.RAGToken) -> Any:
    return rag(FixedRetriever([0.75, 0.25]), TableGenerator(), index=0, documents=TABLES)


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
    expected, expected_ids, expected_probs = reference_notebook.rag_sequence(*case.loops, *case.question)
    assert log_prob == pytest.approx(expected, rel=1e-9)
    assert doc_ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(doc_probs, expected_probs, rtol=1e-9)

    assert case.token().forward(*case.question) == pytest.approx(
        reference_notebook.rag_token(*case.loops, *case.question), rel=1e-9
    )
    one_token: Any = case.query, case.target[0], case.documents, case.texts
    prob, doc_ids, doc_probs = case.token().forward_token(*one_token)
    expected, expected_ids, expected_probs = reference_notebook.rag_token_step(*case.loops, *one_token)
    assert prob == pytest.approx(expected, rel=1e-9)
    assert doc_ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(doc_probs, expected_probs, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", SIZES)
def test_exact_by_default(seed: int, size: dict[str, Any]) -> None:
    """The notebook's loops without their floors, where a probability still is a float64."""
    case = Case(seed, **size)
    expected, _, _ = reference_notebook.rag_sequence(*case.loops, *case.question, floor=0.0)
    assert case.sequence().forward(*case.question)[0] == pytest.approx(expected, rel=1e-11, abs=1e-14)
    expected = reference_notebook.rag_token(*case.loops, *case.question, floor=0.0)
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
    question, answer = [""], [np.array([0, 1])]
    (sequence,) = by_hand(ragfast.RAGSequence).score(question, answer)
    assert np.exp(sequence.logprobs) == pytest.approx([0.75 * 3 / 8 + 0.25 * 1 / 4])
    assert sequence.posteriors[0].tolist() == pytest.approx([9 / 11, 2 / 11])
    (token,) = by_hand().score(question, answer)
    assert np.exp(token.logprobs) == pytest.approx([(0.75 * 3 / 4 + 0.25 * 1 / 4) * (0.75 * 1 / 2 + 0.25 * 1)])
    np.testing.assert_allclose(token.posteriors[0], [[9 / 10, 6 / 10], [1 / 10, 4 / 10]])
    for score in (sequence, token):
        np.testing.assert_allclose(np.exp(score.token_logprobs[0]), [[3 / 4, 1 / 2], [1 / 4, 1]])
        np.testing.assert_allclose(np.exp(score.doc_logprobs), [0.75, 0.25])
        assert score.doc_ids.tolist() == [0, 1]
    prob, ids, probs = by_hand().forward_token("", 0, None, TABLES)
    assert prob == pytest.approx(0.625)
    assert ids.tolist() == [0, 1]
    assert probs.tolist() == pytest.approx([0.75, 0.25])


def test_score_agrees_with_forward() -> None:
    for eps in (0.0, 1e-8):
        case = Case(eps=eps)
        score = case.score(case.sequence())
        log_prob, ids, probs = case.sequence().forward(*case.question)
        assert (score.logprobs.tolist(), score.doc_ids.tolist()) == ([log_prob], ids.tolist())
        assert np.exp(score.doc_logprobs).tolist() == probs.tolist()
        assert score.posteriors[0].sum() == pytest.approx(1)
        token_score = case.score(case.token())
        assert token_score.logprobs.tolist() == [case.token().forward(*case.question)]
        np.testing.assert_allclose(token_score.posteriors[0].sum(axis=0), 1)
        assert np.array_equal(token_score.token_logprobs[0], score.token_logprobs[0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 15), st.floats(0.0, 1e3))
@settings(deadline=None)
def test_one_token_makes_both_variants_equal(seed: int, k: int, n_docs: int, scale: float) -> None:
    case = Case(seed, n_docs=n_docs, n_target=1, scale=scale)
    sequence, token = case.score(case.sequence(), k), case.score(case.token(), k)
    assert token.logprobs == pytest.approx(sequence.logprobs, rel=1e-13, abs=1e-13)
    np.testing.assert_allclose(token.posteriors[0][:, 0], sequence.posteriors[0], rtol=1e-11)
    one_token: Any = case.query, case.target[0], case.documents, case.texts
    log_prob = math.log(case.token().forward_token(*one_token, k)[0])
    assert log_prob == pytest.approx(token.logprobs[0], rel=1e-12, abs=1e-13)


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
def test_documents_whose_ids_are_strings(rag: Any) -> None:
    case = Case()
    documents = case.documents.astype(np.float32)
    names = [f"page {i:02}" for i in range(len(documents))]
    index = ragfast.FlatIndex.from_vectors(documents, names)
    by_name = dict(zip(names, case.texts, strict=True))
    model = rag(case.retriever, case.generator, index=index, documents=by_name, k=20)
    plain = rag(case.retriever, case.generator, index=documents, documents=case.texts, k=20)
    score, expected = model.score([case.query], [case.target])[0], plain.score([case.query], [case.target])[0]
    assert score.doc_ids.tolist() == [names[i] for i in expected.doc_ids]
    np.testing.assert_array_equal(score.logprobs, expected.logprobs)
    index.remove(names[3:])
    assert sorted(model.retrieve([case.query])[0].doc_ids.tolist()) == names[:3]  # the rest of Hits is None
    model.documents = case.texts
    with pytest.raises(ValueError, match="documents: expected a mapping, as ids of documents are strings"):
        model.retrieve([case.query])
    model.documents = {"another": case.texts[0]}
    with pytest.raises(ValueError, match="documents: no entry for document id 'page 0"):
        model.retrieve([case.query])


@pytest.mark.parametrize("rag", [ragfast.RAGSequence, ragfast.RAGToken])
def test_empty_answer_is_certain(rag: Any) -> None:
    case = Case(n_target=0)
    score = case.score(rag(case.retriever, case.generator, **case.bound()))
    assert score.logprobs == pytest.approx([0], abs=1e-15)
    assert score.token_logprobs[0].shape == (5, 0)
    found = rag(case.retriever, case.generator).forward(case.query, [], case.documents, case.texts)
    assert (found[0] if isinstance(found, tuple) else found) == pytest.approx(0, abs=1e-15)


def test_retrieves_once() -> None:
    question = "", [0, 1], None, TABLES
    sequence, token = by_hand(ragfast.RAGSequence), by_hand()
    retriever = token.retriever = sequence.retriever
    assert isinstance(retriever, FixedRetriever)
    answers = [[np.array([0, 1]), np.array([1]), np.array([0, 1, 2])]]
    calls: list[Callable[[], Any]] = [
        lambda: sequence.forward(*question),
        lambda: sequence.score([""], answers),
        lambda: token.forward(*question),
        lambda: token.score([""], answers),
        lambda: token.forward_token("", 0, None, TABLES),
        lambda: sequence.retrieve([""]),
    ]
    for call in calls:
        retriever.asked.clear()
        call()
        assert retriever.asked == ["encode_query", "search"]
    retrieved = sequence.retrieve([""])
    retriever.asked.clear()
    for model in (sequence, token):
        model.score([""], answers, retrieved=retrieved)
    assert retriever.asked == []


def test_a_function_as_generator() -> None:
    generator = ragfast.rag.CallableGenerator(TableGenerator().token_logprobs)
    model = ragfast.RAGToken(FixedRetriever([0.75, 0.25]), generator, index=0, documents=TABLES)
    answer = [np.array([0, 1])]
    assert model.score([""], answer)[0].logprobs.tolist() == by_hand().score([""], answer)[0].logprobs.tolist()
    with pytest.raises(TypeError, match="generate needs stop_tokens and an open method, which CallableGenerator lacks"):
        model.generate([""])
    with pytest.raises(TypeError, match="logprobs: expected a function, got int"):
        ragfast.rag.CallableGenerator(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("rag", [ragfast.RAGSequence, ragfast.RAGToken])
class TestManyAtOnce:
    def test_candidates_and_questions_as_one_by_one(self, rag: Any) -> None:
        case = Case()
        model = rag(case.retriever, case.generator, **case.bound(), k=3)
        rng = np.random.default_rng(1)
        questions = [rng.standard_normal((n, 6)) for n in (2, 5, 1)]
        answers = [[rng.standard_normal((t, 6)) for t in lengths] for lengths in ((4, 1, 7), (2,), (3, 3))]
        scores = model.score(questions, answers)
        for question, candidates, score in zip(questions, answers, scores, strict=True):
            found = [model.forward(question, one, case.documents, case.texts, 3) for one in candidates]
            expected = [one[0] if isinstance(one, tuple) else one for one in found]
            np.testing.assert_allclose(score.logprobs, expected, rtol=1e-13)
            assert score.best == np.argmax(expected)
            assert np.exp(score.candidate_logprobs).sum() == pytest.approx(1)
            assert [len(table.T) for table in score.token_logprobs] == [len(one) for one in candidates]

    def test_a_batch_retriever_searches_once(self, rag: Any) -> None:
        class Batch(FixedRetriever):
            def encode_queries(self, query_tokens: Sequence[Any], /) -> Array:
                self.asked.append("encode_queries")
                return np.zeros((len(query_tokens), 1))

            def search_queries(self, query_embeddings: Array, document_embeddings: Any, /, k: int) -> ragfast.Hits:
                """The second question finds one document, padded as an index pads."""
                self.asked.append("search_queries")
                ids, logprobs = np.array([[0, 1], [1, -1]]), np.log([[0.75, 0.25], [1.0, np.finfo(float).tiny]])
                logprobs[1, 1] = -np.inf
                return ragfast.Hits(logprobs, ids, logprobs)

        model = rag(Batch([1.0]), TableGenerator(), index=0, documents=TABLES)
        first, second = model.score(["a", "b"], [np.array([0, 1])] * 2)
        assert model.retriever.asked == ["encode_queries", "search_queries"]
        assert first.logprobs == by_hand(rag).score([""], [np.array([0, 1])])[0].logprobs
        assert second.doc_ids.tolist() == [1]
        assert np.exp(second.logprobs) == pytest.approx([1 / 4])

    def test_batches_change_nothing(self, rag: Any) -> None:
        class Batch(TableGenerator):
            def batch_token_logprobs(self, queries: Any, docs: Any, targets: Any, /) -> Any:
                self.sizes = [*getattr(self, "sizes", []), len(queries)]
                both = zip(queries, docs, targets, strict=True)
                return [[self.token_logprobs(query, z, y) for y in ys] for query, z, ys in both]

        generator = Batch()
        model = rag(FixedRetriever([0.75, 0.25]), generator, index=0, documents=TABLES)
        answers = [[np.array([0, 1]), np.array([1])], np.array([0]), np.array([0, 1, 2])]
        whole = model.score([""] * 3, answers)
        parts = model.score([""] * 3, answers, batch_size=2)
        assert generator.sizes == [3, 2, 1]  # asked once a batch
        plain = by_hand(rag).score([""] * 3, answers)
        for found in (whole, parts):
            assert [score.logprobs.tolist() for score in found] == [score.logprobs.tolist() for score in plain]
        with pytest.raises(ValueError, match="batch_size: expected 1 or more, got 0"):
            model.score([""], [np.array([0])], batch_size=0)
        with pytest.raises(ValueError, match="batch_size: expected 1 or more, got 0"):
            model.generate([""], batch_size=0)

    def test_documents_by_hand(self, rag: Any) -> None:
        """A gold passage, without a retriever's say."""
        gold = ragfast.rag.Retrieved(np.array([1]), np.zeros(1), [DOUBTFUL])
        (score,) = by_hand(rag).score([""], [np.array([0, 1])], retrieved=[gold])
        assert np.exp(score.logprobs) == pytest.approx([1 / 4])


def test_protocols_of_the_toys() -> None:
    assert isinstance(TableGenerator(), DecodingGenerator)
    assert isinstance(TableGenerator(), Generator)
    assert not isinstance(TableGenerator(), BatchGenerator)
    assert isinstance(FixedRetriever([1.0]), Retriever)
    assert not isinstance(FixedRetriever([1.0]), BatchRetriever)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_k(k: int) -> None:
    case = Case(n_docs=4)
    _, ids, probs = case.sequence().forward(*case.question, k=k)
    assert len(ids) == len(probs) == min(k, 4)
    assert probs.sum() == pytest.approx(1)
    for model in (case.sequence(), case.token()):
        with pytest.raises(ValueError, match="k: expected 1 or more, got 0"):
            model.forward(*case.question, k=0)


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
        with pytest.raises(ValueError, match="documents_tokens: no entry for document id 2"):
            rag(case.retriever, case.generator).forward(case.query, case.target, case.documents, case.texts[:2])
        with pytest.raises(ValueError, match="documents_tokens: no entry for document id 7"):
            rag(FixedRetriever([1.0], ids=[7]), TableGenerator()).forward("", [0], None, TABLES)

    def test_padding_from_a_retriever(self, rag: Any) -> None:
        with pytest.raises(ValueError, match="query_tokens: no document was found"):
            rag(FixedRetriever([1.0], ids=[-1]), TableGenerator()).forward("", [0], None, [SURE])
        padded = rag(FixedRetriever([1.0, 1e-300], ids=[0, -1]), TableGenerator())
        alone = rag(FixedRetriever([1.0], ids=[0]), TableGenerator())
        assert str(padded.forward("", [0], None, [SURE])) == str(alone.forward("", [0], None, [SURE]))

    def test_a_generator_that_answers_in_another_shape(self, rag: Any) -> None:
        class Flat(TableGenerator):
            def token_logprobs(self, *arguments: Any) -> Array:
                return np.zeros(2)

        with pytest.raises(ValueError, match=r"generator: expected token_logprobs of shape \(2, T\), got \(2,\)"):
            rag(FixedRetriever([0.75, 0.25]), Flat()).forward("", [0, 1], None, TABLES)

    def test_nan_from_a_generator(self, rag: Any) -> None:
        class Broken(TableGenerator):
            def token_logprobs(self, query_tokens: Any, doc_tokens: Any, target_tokens: Any, /) -> Array:
                return np.array([[0.0, -1.0], [-1.0, math.nan if len(target_tokens) == 2 else 0.0]])

        model = rag(FixedRetriever([0.75, 0.25], ids=[7, 3]), Broken(), index=0, documents=[0] * 8)
        with pytest.raises(ValueError, match="generator: NaN in the token_logprobs under document 3"):
            model.forward("", [0, 1], None, [0] * 8)
        with pytest.raises(ValueError, match=r"NaN in the token_logprobs for answers\[1\]\[0\] under document 3"):
            model.score(["", ""], [np.array([0]), [np.array([0, 1])]])

    @pytest.mark.parametrize("names", [("index", "document_embeddings"), ("documents", "documents_tokens")])
    def test_two_names_of_one_argument(self, rag: Any, names: tuple[str, str]) -> None:
        with pytest.raises(TypeError, match=f"{names[0]}, {names[1]}: two names of one argument"):
            rag(FixedRetriever([1.0]), TableGenerator(), **dict.fromkeys(names, TABLES))

    def test_score_without_documents(self, rag: Any) -> None:
        model = rag(FixedRetriever([1.0]), TableGenerator())
        with pytest.raises(ValueError, match="index, documents: expected both"):
            model.score([""], [np.array([0])])
        model = rag(FixedRetriever([0.5], ids=[-1]), TableGenerator(), index=0, documents=TABLES)
        with pytest.raises(ValueError, match=r"questions\[0\]: no document was found"):
            model.score([""], [np.array([0])])
        nothing = ragfast.rag.Retrieved(np.empty(0, int), np.empty(0), [])
        with pytest.raises(ValueError, match=r"retrieved\[0\]: expected at least one document, got none"):
            model.score([""], [np.array([0])], retrieved=[nothing])

    def test_mixed_lengths(self, rag: Any) -> None:
        model = by_hand(rag)
        with pytest.raises(ValueError, match="answers: expected 2, one or a list of several a question, got 1"):
            model.score(["", ""], [np.array([0])])
        with pytest.raises(ValueError, match="retrieved: expected 2, one a question, got 1"):
            model.score(["", ""], [np.array([0])] * 2, retrieved=model.retrieve([""]))
        with pytest.raises(ValueError, match=r"answers\[1\]: expected at least one candidate, got none"):
            model.score(["", ""], [np.array([0]), []])

    def test_what_is_not_retrieved(self, rag: Any) -> None:
        model = by_hand(rag)
        (found,) = model.retrieve([""])
        with pytest.raises(TypeError, match="retrieved: expected a sequence, such as a list of one, got Retrieved"):
            model.score([""], [np.array([0])], retrieved=found)
        with pytest.raises(TypeError, match=r"retrieved\[0\]: expected a Retrieved, got list"):
            model.score([""], [np.array([0])], retrieved=[[found]])
        with pytest.raises(ValueError, match="k, retrieved: expected one of them"):
            model.score([""], [np.array([0])], k=1, retrieved=[found])

    def test_a_batch_generator_that_leaves_an_answer_out(self, rag: Any) -> None:
        class Short(TableGenerator):
            def batch_token_logprobs(self, *arguments: Any) -> Any:
                return [[np.zeros((2, 1))]]

        model = rag(FixedRetriever([0.75, 0.25]), Short(), index=0, documents=TABLES)
        with pytest.raises(ValueError, match=r"expected token_logprobs of \[2\] answers to each question, got \[1\]"):
            model.score([""], [[np.array([0]), np.array([1])]])

    def test_a_question_that_is_no_sequence_of_questions(self, rag: Any) -> None:
        with pytest.raises(TypeError, match="questions: expected a sequence, such as a list of one, got str"):
            by_hand(rag).score("who?", ["he"])
        with pytest.raises(TypeError, match="answers: expected a sequence, such as a list of one, got str"):
            by_hand(rag).score(["who?"], "he")
