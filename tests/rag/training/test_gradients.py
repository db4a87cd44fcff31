"""Gradients of the simple model against finite differences and torch, Adam against torch; the example learns."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from numpy.typing import NDArray
from toys import FixedRetriever, TableGenerator

import ragfast
from ragfast.rag.training import Adam, CollapseWarning, NLLGradients, nll_and_gradients
from ragfast.rag.training.gradients import OWNERS

Array = NDArray[Any]
Model = ragfast.RAGSequence | ragfast.RAGToken
VARIANTS = [ragfast.RAGSequence, ragfast.RAGToken]
VOCAB, DIM, HIDDEN, N_DOCS, K = 11, 7, 5, 9, 3


def simple_model(variant: type[Model], *, scale: float = 60.0, index: bool = False, seed: int = 0) -> Model:
    """Weights large enough that neither the softmax nor tanh is nearly linear."""
    rng = np.random.default_rng(seed)
    retriever, generator = ragfast.SimpleRetriever(DIM, rng=rng), ragfast.SimpleGenerator(VOCAB, DIM, HIDDEN, rng=rng)
    generator.encoder_W, generator.decoder_W = scale * generator.encoder_W, scale * generator.decoder_W
    generator.output_W = 2 * scale * generator.output_W
    embeddings = 2 * rng.standard_normal((N_DOCS, DIM))
    documents = [rng.standard_normal((1 + z % 4, DIM)) for z in range(N_DOCS)]
    given: Any = embeddings
    if index:
        given = ragfast.FlatIndex.from_vectors(embeddings.astype(np.float32), ids=10 + 3 * np.arange(N_DOCS))
    tokens: Any = {10 + 3 * z: document for z, document in enumerate(documents)} if index else documents
    return variant(retriever, generator, index=given, documents=tokens, k=K)


def batch(seed: int = 1, lengths: tuple[int, ...] = (4, 1, 2)) -> tuple[list[Array], list[Array]]:
    rng = np.random.default_rng(seed)
    questions = [rng.standard_normal((1 + b, DIM)) for b in range(len(lengths))]
    return questions, [rng.standard_normal((t, DIM)) for t in lengths]


def loss_of(model: Model, questions: list[Array], answers: list[Array]) -> float:
    """The definition: the notebook's forward, whose documents are checked to stay the same."""
    logs = [score.logprobs[0] for score in model.score(questions, answers)]
    return -float(np.mean(logs))


def central_differences(owner: Any, name: str, step: float, value: Callable[[], float]) -> NDArray[np.float64]:
    """The derivative of a value with regard to each of a part's weights, which are left moved."""
    weights = getattr(owner, name)
    numeric = np.empty_like(weights)
    for place in np.ndindex(weights.shape):
        sides = []
        for sign in (1, -1):
            moved = weights.copy()
            moved[place] += sign * step
            setattr(owner, name, moved)
            sides.append(value())
        numeric[place] = (sides[0] - sides[1]) / (2 * step)
    return numeric


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", list(OWNERS))
def test_gradients_are_those_of_finite_differences(variant: type[Model], name: str) -> None:
    model = simple_model(variant)
    questions, answers = batch()
    found = nll_and_gradients(model, questions, answers)
    assert found.loss == pytest.approx(loss_of(model, questions, answers), rel=1e-12)
    owner = getattr(model, OWNERS[name])
    ids = [ids.tolist() for ids in found.doc_ids]

    def loss() -> float:
        assert [r.doc_ids.tolist() for r in model.retrieve(questions)] == ids  # else there is no derivative
        return loss_of(model, questions, answers)

    numeric = central_differences(owner, name, 1e-5, loss)
    exact = getattr(found, name)
    assert np.abs(exact).max() > 1e-3  # there is something to be compared
    # The query encoder's weights are 0.01 and its output has length 1: its third derivatives are large.
    tolerance = 1e-4 if name == "query_encoder_W" else 1e-7
    np.testing.assert_allclose(numeric, exact, rtol=tolerance, atol=tolerance * np.abs(exact).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_autograd(variant: type[Model]) -> None:
    torch = pytest.importorskip("torch")
    model = simple_model(variant)
    questions, answers = batch()
    found = nll_and_gradients(model, questions, answers)
    w = {name: torch.tensor(getattr(getattr(model, owner), name), requires_grad=True) for name, owner in OWNERS.items()}
    total = torch.zeros((), dtype=torch.float64)
    for question, answer, ids in zip(questions, answers, found.doc_ids, strict=True):
        projected = w["query_encoder_W"] @ torch.tensor(question).mean(0)
        query = projected / (projected.norm() + 1e-8)
        log_prior = torch.log_softmax(torch.tensor(model.index[ids]) @ query, 0)
        by_doc = []
        for doc in ids:
            both = torch.tensor(np.concatenate([question, model.documents[doc]]))
            encoded = torch.tanh(w["encoder_W"] @ both.mean(0))
            logits = (encoded + torch.tanh(torch.tensor(answer) @ w["decoder_W"].T)) @ w["output_W"].T
            words = torch.tensor(answer.argmax(axis=1))
            by_doc.append(torch.log_softmax(logits, 1).gather(1, words[:, None])[:, 0])
        table = torch.stack(by_doc)
        if variant is ragfast.RAGSequence:
            total = total - torch.logsumexp(log_prior + table.sum(1), 0)
        else:
            total = total - torch.logsumexp(log_prior[:, None] + table, 0).sum()
    (total / len(questions)).backward()
    for name, tensor in w.items():
        np.testing.assert_allclose(getattr(found, name), tensor.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_batch_is_the_mean_of_its_questions(variant: type[Model]) -> None:
    model = simple_model(variant, index=True)
    questions, answers = batch()
    together = nll_and_gradients(model, questions, answers, k=2)
    alone = [nll_and_gradients(model, [x], [y], k=2) for x, y in zip(questions, answers, strict=True)]
    assert together.losses.tolist() == [found.loss for found in alone]
    for name in ("loss", *OWNERS):
        np.testing.assert_allclose(
            getattr(together, name), np.mean([getattr(found, name) for found in alone], axis=0), rtol=1e-12, atol=1e-15
        )
    scores = model.score(questions, answers, k=2)
    for b, score in enumerate(scores):
        assert together.doc_ids[b].tolist() == score.doc_ids.tolist()
        np.testing.assert_array_equal(together.doc_logprobs[b], score.doc_logprobs)
        np.testing.assert_allclose(together.posteriors[b], score.posteriors[0], rtol=1e-9)


def test_an_index_and_its_array_have_the_same_gradients() -> None:
    indexed = simple_model(ragfast.RAGToken, index=True)
    plain = ragfast.RAGToken(
        indexed.retriever,
        indexed.generator,
        index=indexed.index.vectors,
        documents=list(indexed.documents.values()),
        k=K,
    )
    questions, answers = batch()
    one, other = nll_and_gradients(indexed, questions, answers), nll_and_gradients(plain, questions, answers)
    for name in OWNERS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_eps_has_no_part_in_training() -> None:
    model = simple_model(ragfast.RAGSequence)
    questions, answers = batch()
    exact = nll_and_gradients(model, questions, answers)
    model.eps, model.generator.eps = 0.1, 0.1  # type: ignore[attr-defined]  # a SimpleGenerator
    floored = nll_and_gradients(model, questions, answers)
    assert floored.loss == exact.loss
    np.testing.assert_array_equal(floored.output_W, exact.output_W)


def test_an_answer_of_no_tokens_teaches_nothing() -> None:
    found = nll_and_gradients(simple_model(ragfast.RAGToken), [np.ones((2, DIM))], [np.empty((0, DIM))])
    assert found.loss == 0
    assert all(not getattr(found, name).any() for name in OWNERS)


def test_the_norm_of_a_query_counts() -> None:
    """The 1e-8 matters to a short query, and one of length 0 has a gradient: 1e8 times that of its embedding."""
    retriever = ragfast.SimpleRetriever(3)
    retriever.query_encoder_W = 1e-8 * np.array([[1.0, 2, 3], [0, 1, 0], [2, 0, 1]])
    question, grad = np.array([[1.0, -1, 2], [0, 3, 1]]), np.array([0.3, -1.0, 2.0])
    exact = retriever.encode_query_grad(grad, question)
    numeric = central_differences(
        retriever, "query_encoder_W", 1e-13, lambda: float(grad @ retriever.encode_query(question))
    )
    np.testing.assert_allclose(exact, numeric, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
    retriever.query_encoder_W = np.zeros((3, 3))
    np.testing.assert_allclose(retriever.encode_query_grad(grad, question), np.outer(grad, question.mean(0)) / 1e-8)


def test_logits_are_what_token_logprobs_come_from() -> None:
    model: Any = simple_model(ragfast.RAGToken)
    (question, *_), (answer, *_) = batch()
    docs = model.documents[:4]
    logits = model.generator.logits(question, docs, answer)
    assert logits.shape == (4, 4, VOCAB)
    words = model.generator.target_ids(answer)
    assert words.tolist() == answer.argmax(axis=1).tolist()
    np.testing.assert_allclose(
        ragfast.target_logprobs(logits, words), model.generator.token_logprobs(question, docs, answer), rtol=1e-12
    )
    assert model.generator.logits(question, [], answer).shape == (0, 4, VOCAB)
    for grad in model.generator.logits_grad(np.zeros((4, 4, VOCAB)), question, docs, answer):
        assert not grad.any()


def test_what_cannot_be_trained_is_refused() -> None:
    model = simple_model(ragfast.RAGToken)
    questions, answers = batch()
    with pytest.raises(ValueError, match="answers: expected 3, one a question, got 2"):
        nll_and_gradients(model, questions, answers[:2])
    with pytest.raises(ValueError, match="questions: expected at least one"):
        nll_and_gradients(model, [], [])
    with pytest.raises(TypeError, match="generator: expected a SimpleGenerator, got TableGenerator"):
        nll_and_gradients(ragfast.RAGToken(model.retriever, TableGenerator()), questions, answers)
    with pytest.raises(TypeError, match="retriever: expected a SimpleRetriever, got FixedRetriever"):
        Adam(ragfast.RAGToken(FixedRetriever([1.0]), model.generator))
    with pytest.raises(TypeError, match="model: expected a RAGSequence or RAGToken, got list"):
        Adam([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="index, documents: expected both"):
        nll_and_gradients(ragfast.RAGToken(model.retriever, model.generator), questions, answers)
    with pytest.raises(ValueError, match=r"grad: expected shape \(2, 4, 11\), that of the logits"):
        model.generator.logits_grad(  # type: ignore[attr-defined]
            np.zeros((1, 4, VOCAB)), questions[0], [questions[1]] * 2, answers[0]
        )
    with pytest.raises(ValueError, match=r"grad: expected shape \(7,\)"):
        model.retriever.encode_query_grad(np.zeros(3), questions[0])  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="retriever_lr: expected a finite number of 0 or more"):
        Adam(model, retriever_lr=-1.0)
    with pytest.raises(ValueError, match="betas"):
        Adam(model, betas=(0.9, 1.0))


def test_adam_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    model = simple_model(ragfast.RAGSequence)
    parts: dict[str, Any] = {"retriever": model.retriever, "generator": model.generator}
    tensors = {name: torch.tensor(getattr(parts[owner], name)) for name, owner in OWNERS.items()}
    adam = Adam(model, lr=0.03, retriever_lr=0.01)
    retriever = [tensors.pop("query_encoder_W")]
    peer = torch.optim.Adam([{"params": retriever, "lr": 0.01}, {"params": list(tensors.values())}], lr=0.03)
    tensors["query_encoder_W"] = retriever[0]
    for seed in range(5):
        gradients = nll_and_gradients(model, *batch(seed))
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(getattr(gradients, name))
        adam.step(gradients)
        peer.step()
    for name, owner in OWNERS.items():
        np.testing.assert_allclose(getattr(parts[owner], name), tensors[name].numpy(), rtol=1e-9, atol=1e-12)


def test_a_rate_of_zero_freezes_a_part() -> None:
    model: Any = simple_model(ragfast.RAGToken)
    before = model.retriever.query_encoder_W, model.generator.output_W
    adam = Adam(model, lr=0.01, retriever_lr=0)
    gradients: NLLGradients = nll_and_gradients(model, *batch())
    adam.step(gradients)
    assert (model.retriever.query_encoder_W == before[0]).all()
    assert (model.generator.output_W != before[1]).any()


def test_training_needs_numpy_alone() -> None:
    code = "import sys, ragfast.rag.training; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "tqdm", "scipy"} & set(done.stdout.split())


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return scripts.load("examples/train_simple.py")


def before_and_after(example: ModuleType, **options: Any) -> tuple[Any, Any]:
    small = {"n_landmarks": 20, "k": 10, "epochs": 10, **options}
    measured = [example.measure(model, test) for epoch, model, test in example.learn(**small) if epoch in (0, 10)]
    return measured[0], measured[1]


@pytest.mark.parametrize("by_token", [False, True])
def test_the_example_learns(example: ModuleType, by_token: bool) -> None:
    before, after = before_and_after(example, by_token=by_token)
    assert after.nll < before.nll - 4
    assert before.recall_1 < 0.15
    assert before.recall_5 < 0.4
    assert after.recall_1 > 0.5
    assert after.recall_5 > 0.75


def test_the_example_learns_nothing_from_answers_of_other_questions(example: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # a retriever led by noise may well collapse
        before, after = before_and_after(example, reshuffle=True)
    assert after.recall_1 < before.recall_1 + 0.1
    assert after.recall_5 < before.recall_5 + 0.15
