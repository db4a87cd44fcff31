"""RAGLoss: its gradients are those of the formula by plain autograd, go where they should, and nothing else is kept."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import ragfast
from ragfast.rag.hf import CausalLM, EncoderDecoder
from ragfast.rag.hf.encoders import MeanPooled
from ragfast.rag.training.collapse import CollapseMonitor, CollapseWarning
from ragfast.rag.training.loss import RAGLoss, TrainingStep

DOCUMENTS = ["Nuuk is the capital of Greenland.", "Oslo lies by a fjord.", "Paris", "Rome was not built in a day.", "?"]
QUESTIONS, ANSWERS = ["What is the capital?", "Where is Oslo?", "When?"], ["Nuuk", "by a fjord", "1889"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
VARIANTS = ["sequence", "token"]

Part = Any
MakeLoss = Callable[..., RAGLoss]


@pytest.fixture(scope="module")
def make_encoder(make_tokenizer: Callable[..., Any]) -> Callable[..., MeanPooled]:
    def make(dtype: torch.dtype = torch.float32, dim: int = 16) -> MeanPooled:
        torch.manual_seed(1)
        config = transformers.BertConfig(
            vocab_size=260, hidden_size=dim, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
        )
        model = transformers.BertModel(config, add_pooling_layer=False).to(dtype).eval()
        return MeanPooled(model, make_tokenizer())

    return make


@pytest.fixture(scope="module")
def make_loss(
    make_encoder: Callable[..., MeanPooled], make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> MakeLoss:
    """A RAG of a tiny BERT and a tiny generator of this kind, whose documents another such BERT has embedded."""

    def make(kind: str = "llama", dtype: torch.dtype = torch.float32, *, ids: Any = None, **options: Any) -> RAGLoss:
        of_encoder_decoder = kind in ("bart", "t5")
        model, tokenizer = make_model(kind, dtype).eval(), make_tokenizer(eos=of_encoder_decoder)
        generator = (EncoderDecoder if of_encoder_decoder else CausalLM)(model, tokenizer)
        encoder = make_encoder(dtype)
        index = ragfast.FlatIndex.from_vectors(encoder(DOCUMENTS), ids)
        documents = DOCUMENTS if ids is None else dict(zip(ids, DOCUMENTS, strict=True))
        return RAGLoss(encoder, generator, index, documents, **({"k": 3, "temperature": 0.1} | options))

    return make


def plain_loss(rag_loss: RAGLoss, step: TrainingStep) -> Tensor:
    """The formula, by torch alone, over the documents that were found."""
    rows = {doc_id: row for row, doc_id in enumerate(rag_loss.index.ids.tolist())}
    found = torch.tensor([[rows[doc_id] for doc_id in row] for row in step.doc_ids.tolist()])
    queries = rag_loss.encoder.embed(QUESTIONS)
    vectors = torch.tensor(rag_loss.index.vectors).to(queries.dtype)[found]
    doc_logprobs = (torch.einsum("bd,bkd->bk", queries, vectors) / rag_loss.temperature).log_softmax(1)
    docs = [[rag_loss.documents[doc_id] for doc_id in row] for row in step.doc_ids.tolist()]
    logits, targets = rag_loss.generator.logits(QUESTIONS, docs, ANSWERS)
    scored = (targets != -100)[:, None]
    chosen = targets.clamp(min=0)[:, None, :, None].expand(-1, docs_of(step), -1, 1)
    token_logprobs = logits.log_softmax(-1).gather(-1, chosen)[..., 0].masked_fill(~scored, 0.0)
    if rag_loss.variant == "sequence":
        return -(doc_logprobs + token_logprobs.sum(2)).logsumexp(1).mean()
    per_token = (doc_logprobs[..., None] + token_logprobs).logsumexp(1)
    return -(per_token * scored[:, 0]).sum(1).mean()


def docs_of(step: TrainingStep) -> int:
    return int(step.doc_ids.shape[1])


def weights(rag_loss: RAGLoss) -> dict[str, torch.nn.Parameter]:
    parts: list[Part] = [rag_loss.encoder, rag_loss.generator]
    return {f"{type(part).__name__}.{name}": w for part in parts for name, w in part.model.named_parameters()}


def gradients(rag_loss: RAGLoss, loss: Tensor) -> dict[str, Tensor | None]:
    """And none are left behind."""
    loss.backward()
    found = {name: w.grad for name, w in weights(rag_loss).items()}
    for w in weights(rag_loss).values():
        w.grad = None
    return found


def largest(grads: dict[str, Tensor | None], part: str) -> float:
    return max(
        (float(g.abs().max()) for name, g in grads.items() if name.startswith(part) and g is not None), default=0.0
    )


# gemma2's soft cap stands between its logits and the gradient that overwrites them; its softmax is float32 in any case.
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("gemma2", torch.float32)] + [(kind, dtype) for kind in ("llama", "gpt2", "bart") for dtype in TOLERANCE],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_the_formula(make_loss: MakeLoss, kind: str, variant: str, dtype: torch.dtype) -> None:
    rag_loss = make_loss(kind, dtype, variant=variant)
    step = rag_loss(QUESTIONS, ANSWERS)
    ours = gradients(rag_loss, step.loss)
    expected_loss = plain_loss(rag_loss, step)
    expected = gradients(rag_loss, expected_loss)
    assert step.loss.dtype == dtype
    assert step.loss.item() == pytest.approx(expected_loss.item(), rel=TOLERANCE[dtype])
    assert min(largest(expected, "MeanPooled"), largest(expected, type(rag_loss.generator).__name__)) > 1e-3
    for name, grad in expected.items():
        assert (grad is None) == (ours[name] is None), name
        if grad is not None:
            assert ours[name] is not None
            scale = max(1.0, float(grad.abs().max()))
            torch.testing.assert_close(ours[name], grad, rtol=0, atol=TOLERANCE[dtype] * scale, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_step_tells(make_loss: MakeLoss, variant: str) -> None:
    rag_loss = make_loss(variant=variant, ids=[40, 7, 19, 3, 28])
    step = rag_loss(QUESTIONS, ANSWERS)
    hits = rag_loss.index.search(rag_loss.encoder.embed(QUESTIONS).detach(), 3, temperature=0.1)
    np.testing.assert_array_equal(step.doc_ids, hits.ids)
    np.testing.assert_array_equal(step.doc_scores.numpy(), hits.scores)
    np.testing.assert_allclose(step.doc_logprobs.numpy(), hits.logprobs, atol=1e-6)
    lengths = [len(answer) + 1 for answer in ANSWERS]  # a token a letter, and the stop token
    assert step.n_tokens == sum(lengths)
    assert step.loss.item() == pytest.approx(step.nll.mean().item())
    sums = step.posterior.sum(1)
    if variant == "sequence":
        torch.testing.assert_close(sums, torch.ones(3))
    else:
        torch.testing.assert_close(sums, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).float())
    assert not any(x.requires_grad for x in (step.nll, step.doc_scores, step.doc_logprobs, step.posterior))


def test_it_scores_as_the_rag_classes_do(make_loss: MakeLoss) -> None:
    for variant, rag_class in (("sequence", ragfast.RAGSequence), ("token", ragfast.RAGToken)):
        rag_loss = make_loss(variant=variant)
        nll = rag_loss(QUESTIONS, ANSWERS).nll
        found = rag_loss.index.search(rag_loss.encoder(QUESTIONS), 3, temperature=0.1)
        for b, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
            docs = [DOCUMENTS[i] for i in found.ids[b]]
            table = rag_loss.generator.token_logprobs(question, docs, answer)
            marginalize = (
                ragfast.marginalize_sequence if rag_class is ragfast.RAGSequence else ragfast.marginalize_token
            )
            assert nll[b].item() == pytest.approx(-marginalize(found.logprobs[b], table).sum(), abs=1e-4)


def test_a_frozen_part_makes_no_graph(make_loss: MakeLoss) -> None:
    rag_loss = make_loss(train_generator=False)
    seen: list[Tensor] = []
    logits = rag_loss.generator.logits

    def watched(*arguments: Any) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = logits(*arguments)
        seen.append(found[0])
        return found

    rag_loss.generator.logits = watched
    step = rag_loss(QUESTIONS, ANSWERS)
    assert seen[0].grad_fn is None
    assert not seen[0].requires_grad
    only = gradients(rag_loss, step.loss)
    assert all(grad is None for name, grad in only.items() if name.startswith("CausalLM"))
    rag_loss.train_generator = True
    both = gradients(rag_loss, rag_loss(QUESTIONS, ANSWERS).loss)
    rag_loss.train_retriever = False
    generator_only = gradients(rag_loss, rag_loss(QUESTIONS, ANSWERS).loss)
    assert min(largest(both, "MeanPooled"), largest(generator_only, "CausalLM")) > 0
    assert all(grad is None for name, grad in generator_only.items() if name.startswith("MeanPooled"))
    for name, grad in (*only.items(), *generator_only.items()):
        if grad is not None:
            torch.testing.assert_close(grad, both[name])


def test_some_of_the_weights(make_loss: MakeLoss) -> None:
    rag_loss = make_loss()
    full = gradients(rag_loss, rag_loss(QUESTIONS, ANSWERS).loss)
    chosen = {"MeanPooled.encoder.layer.1.output.dense.weight", "CausalLM.model.norm.weight"}
    for name, w in weights(rag_loss).items():
        w.requires_grad_(name in chosen)
    some = gradients(rag_loss, rag_loss(QUESTIONS, ANSWERS).loss)
    assert {name for name, grad in some.items() if grad is not None} == chosen
    for name in chosen:
        torch.testing.assert_close(some[name], full[name])


def test_the_document_encoder_gets_nothing(make_loss: MakeLoss, make_encoder: Callable[..., MeanPooled]) -> None:
    """Neither weights of its own, nor the documents' embeddings, nor the query encoder by way of them."""
    rag_loss, document_encoder = make_loss(), make_encoder()
    embedded = document_encoder.embed(DOCUMENTS)
    rag_loss.index = ragfast.FlatIndex.from_vectors(embedded.detach())
    before = rag_loss.index.vectors.copy()
    rag_loss(QUESTIONS, ANSWERS).loss.backward()
    assert all(w.grad is None for w in document_encoder.model.parameters())
    np.testing.assert_array_equal(rag_loss.index.vectors, before)


def test_accumulated_gradients_are_those_of_the_whole_batch(make_loss: MakeLoss) -> None:
    rag_loss = make_loss(dtype=torch.float64)
    whole = gradients(rag_loss, rag_loss(QUESTIONS, ANSWERS).loss)
    rag_loss.reduction = "sum"
    for b in range(len(QUESTIONS)):
        (rag_loss(QUESTIONS[b : b + 1], ANSWERS[b : b + 1]).loss / len(QUESTIONS)).backward()
    for name, w in weights(rag_loss).items():
        torch.testing.assert_close(w.grad, whole[name], rtol=0, atol=1e-10)


def test_reductions_and_label_smoothing(make_loss: MakeLoss) -> None:
    rag_loss = make_loss(variant="token")
    step = rag_loss(QUESTIONS, ANSWERS)
    rag_loss.reduction = "sum"
    assert rag_loss(QUESTIONS, ANSWERS).loss.item() == pytest.approx(step.nll.sum().item())
    rag_loss.reduction = "token_mean"
    assert rag_loss(QUESTIONS, ANSWERS).loss.item() == pytest.approx(step.nll.sum().item() / step.n_tokens)
    rag_loss.label_smoothing = 0.1
    smoothed = rag_loss(QUESTIONS, ANSWERS)
    docs = [[DOCUMENTS[i] for i in row] for row in step.doc_ids]
    logits, targets = rag_loss.generator.logits(QUESTIONS, docs, ANSWERS)
    expected = ragfast.rag_token_nll(
        logits.detach(),
        step.doc_scores,
        targets,
        ignore_index=-100,
        temperature=0.1,
        reduction="token_mean",
        label_smoothing=0.1,
    )
    assert smoothed.loss.item() == pytest.approx(float(expected), rel=1e-5)


def test_fewer_documents_than_k(make_loss: MakeLoss) -> None:
    step = make_loss(k=50)(QUESTIONS, ANSWERS)
    assert step.doc_ids.shape == (3, len(DOCUMENTS))
    assert sorted(step.doc_ids[0]) == list(range(len(DOCUMENTS)))


def test_given_documents(make_loss: MakeLoss) -> None:
    rag_loss = make_loss(variant="token")
    searched = rag_loss(QUESTIONS, ANSWERS)
    reversed_ids = searched.doc_ids[:, ::-1]
    given = rag_loss(QUESTIONS, ANSWERS, doc_ids=reversed_ids)
    torch.testing.assert_close(given.loss, searched.loss)
    torch.testing.assert_close(given.posterior, searched.posterior.flip(1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"documents: no entry for document id -1"):
        rag_loss(QUESTIONS, ANSWERS, doc_ids=[[0, -1]] * 3)
    with pytest.raises(ValueError, match=r"doc_ids: expected shape \(3, K\)"):
        rag_loss(QUESTIONS, ANSWERS, doc_ids=[[0, 1]])


def test_a_monitor_sees_each_retrieval(make_loss: MakeLoss) -> None:
    monitor = CollapseMonitor(1000, window=32)
    rag_loss = make_loss(k=1, monitor=monitor)
    step = rag_loss(QUESTIONS, ANSWERS)
    with pytest.warns(CollapseWarning):
        rag_loss(QUESTIONS[:1] * 32, ANSWERS[:1] * 32)
    assert monitor.update([]).most_common == step.doc_ids[0, 0]


def test_it_learns(make_loss: MakeLoss) -> None:
    rag_loss = make_loss()
    optimizer = torch.optim.Adam(weights(rag_loss).values(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = rag_loss(QUESTIONS, ANSWERS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_no_grad_evaluates(make_loss: MakeLoss) -> None:
    rag_loss = make_loss()
    with torch.no_grad():
        step = rag_loss(QUESTIONS, ANSWERS)
    assert not step.loss.requires_grad
    assert step.loss.item() == pytest.approx(rag_loss(QUESTIONS, ANSWERS).loss.item())


def peak_bytes(step: Callable[[], Tensor], trace: Path) -> int:
    """The most that torch and NumPy allocate in the memory of a forward and a backward pass."""
    step().backward()
    tracemalloc.start()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        step().backward()
        _, of_numpy = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    profile.export_chrome_trace(str(trace))
    events = [event["args"] for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    totals = [args["Total Allocated"] for args in events]
    return max(totals) - (totals[0] - events[0]["Bytes"]) + of_numpy


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_takes_no_memory_beside_the_model(
    make_encoder: Callable[..., MeanPooled], make_tokenizer: Callable[..., Any], tmp_path: Path, variant: str
) -> None:
    """With logits that outweigh all else, 24 MB of them: the worst case for whatever comes after the model."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50_000,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    generator, encoder = CausalLM(model, make_tokenizer()), make_encoder()
    rag_loss = RAGLoss(
        encoder, generator, ragfast.FlatIndex.from_vectors(encoder(DOCUMENTS)), DOCUMENTS, variant=variant
    )
    docs = [[DOCUMENTS[i] for i in row] for row in rag_loss(QUESTIONS[:2], ANSWERS[:2]).doc_ids]
    n_logits = generator.logits(QUESTIONS[:2], docs, ANSWERS[:2])[0].numel()
    assert n_logits > 5e6
    alone = peak_bytes(lambda: generator.logits(QUESTIONS[:2], docs, ANSWERS[:2])[0].sum(), tmp_path / "alone.json")
    with_loss = peak_bytes(lambda: rag_loss(QUESTIONS[:2], ANSWERS[:2]).loss, tmp_path / "loss.json")
    assert alone >= 4 * n_logits  # what was measured is there
    assert with_loss <= 1.05 * alone
    rag_loss.inplace = False
    not_in_place = peak_bytes(lambda: rag_loss(QUESTIONS[:2], ANSWERS[:2]).loss, tmp_path / "new.json")
    assert not_in_place >= with_loss + 3 * n_logits  # it would be seen


class Broken:
    """Gives what it is told to, as encoder or generator."""

    def __init__(self, *given: Tensor) -> None:
        self.given = given

    def embed(self, texts: Sequence[Any], /) -> Tensor:
        return self.given[0]

    def logits(self, *_: Any) -> tuple[Tensor, Tensor]:
        logits, targets = self.given
        return logits, targets


def test_bad_input(make_loss: MakeLoss, make_encoder: Callable[..., MeanPooled]) -> None:
    rag_loss = make_loss()
    with pytest.raises(ValueError, match="questions: expected at least one, got none"):
        rag_loss([], [])
    with pytest.raises(ValueError, match="answers: expected 3, one a question, got 2"):
        rag_loss(QUESTIONS, ANSWERS[:2])
    with pytest.raises(TypeError, match="questions: expected a sequence"):
        rag_loss("Where?", ["Oslo"])
    with pytest.raises(ValueError, match=r"answers\[1\]: expected at least one token, got none"):
        rag_loss(QUESTIONS, [np.array([1, 2]), np.empty(0, np.int64), np.array([3])])
    rag_loss.documents = DOCUMENTS[:1]
    with pytest.raises(ValueError, match=r"documents: no entry for document id \d"):
        rag_loss(QUESTIONS, ANSWERS)
    rag_loss.index = ragfast.FlatIndex(16)
    with pytest.raises(ValueError, match="index: expected at least one document"):
        rag_loss(QUESTIONS, ANSWERS)
    rag_loss.encoder = make_encoder(dim=8)
    with pytest.raises(ValueError, match=r"encoder: expected embeddings of shape \(3, 16\).*got \(3, 8\)"):
        rag_loss(QUESTIONS, ANSWERS)


def test_nan_says_which_question(make_loss: MakeLoss) -> None:
    rag_loss = make_loss()
    queries = torch.ones(3, 16, requires_grad=True) * 1.0
    queries[2, 5] = torch.nan
    rag_loss.encoder = Broken(queries)
    with pytest.raises(ValueError, match=r"encoder: NaN or infinity in the embedding of questions\[2\], 'When\?'"):
        rag_loss(QUESTIONS, ANSWERS)
    rag_loss = make_loss()
    logits = torch.zeros(3, 3, 2, 9, requires_grad=True) * 1.0
    logits[1, 2, 0, 4] = torch.nan
    rag_loss.generator = Broken(logits, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"NaN in the logits of answers\[1\] to questions\[1\], 'Where is Oslo\?'"):
        rag_loss(QUESTIONS, ANSWERS)
    rag_loss.generator = Broken(logits[:, :2], torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"generator: expected logits of shape .* K 3, got \(3, 2, 2, 9\)"):
        rag_loss(QUESTIONS, ANSWERS)


def test_a_part_that_would_not_learn_is_an_error(make_loss: MakeLoss) -> None:
    rag_loss = make_loss()
    rag_loss.encoder.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"encoder: embeddings have no gradient.*train_retriever=False"):
        rag_loss(QUESTIONS, ANSWERS)
    rag_loss = make_loss()
    rag_loss.generator.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"generator: logits have no gradient.*train_generator=False"):
        rag_loss(QUESTIONS, ANSWERS)
    with pytest.raises(ValueError, match="expected one of them at least"):
        make_loss(train_retriever=False, train_generator=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "both"}, "variant"),
        ({"k": 0}, "k"),
        ({"temperature": 0.0}, "temperature"),
        ({"reduction": "none"}, "reduction"),
    ],
)
def test_bad_options(make_loss: MakeLoss, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}: "):
        make_loss(**options)


def test_parts_of_another_kind(make_loss: MakeLoss) -> None:
    good = make_loss()
    with pytest.raises(TypeError, match="encoder: expected a method embed, which object lacks"):
        RAGLoss(object(), good.generator, good.index, DOCUMENTS)
    with pytest.raises(TypeError, match="generator: expected a method logits, which object lacks"):
        RAGLoss(good.encoder, object(), good.index, DOCUMENTS)
    with pytest.raises(TypeError, match=r"index: expected a ragfast.FlatIndex, got ndarray"):
        RAGLoss(good.encoder, good.generator, np.eye(3), DOCUMENTS)
