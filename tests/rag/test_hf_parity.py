"""Against the losses of Hugging Face transformers' RAG models, called without a model: no weights, no retriever. Runs
in `make test-all`."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ragfast

torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")
modeling_rag = pytest.importorskip(
    "transformers.models.rag.modeling_rag", reason="transformers is not installed: `make test-all` has it"
)

from ragfast.torch import rag_sequence_nll, rag_token_nll  # noqa: E402  # only where torch is

pytestmark = pytest.mark.usefixtures("isa")

BOS, PAD, EOS = 0, 1, 2  # as in BART
B, T, V = 4, 7, 101
RTOL = 1e-5

# Targets as transformers' models get them, of which get_nll drops the first and pads the last.
LENGTHS = {"full": (7, 7, 7, 7), "ragged": (7, 3, 5, 4), "one token": (2, 7, 2, 3), "nothing": (1, 7, 2, 4)}


def hf_nll(cls: str, n_docs: int, logits: Any, doc_scores: Any, targets: Any, **options: Any) -> Any:
    """get_nll of logits (B,K,T,V), which it wants as (B K,T,V)."""
    # bos_token_id 0 counts as none there, and the generator's is taken.
    generator = SimpleNamespace(pad_token_id=PAD, bos_token_id=BOS)
    model = SimpleNamespace(config=SimpleNamespace(n_docs=n_docs, bos_token_id=None, generator=generator))
    model.marginalize = partial(modeling_rag.RagTokenForGeneration.marginalize, model)
    return getattr(modeling_rag, cls).get_nll(model, logits.flatten(0, 1), doc_scores, targets, **options)


def shifted(targets: Any) -> Any:
    return torch.cat([targets[:, 1:], torch.full((len(targets), 1), PAD)], 1)


def inputs(n_docs: int, lengths: tuple[int, ...], dtype: Any, *, bos: bool = True) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(n_docs + sum(lengths))
    logits = 3 * torch.randn(B, n_docs, T, V, generator=generator, dtype=torch.float64)
    doc_scores = 2 * torch.randn(B, n_docs, generator=generator, dtype=torch.float64)
    targets = torch.randint(EOS + 1, V, (B, T), generator=generator)
    targets[:, 0] = EOS  # with which BART's decoder starts
    if bos:
        targets[:, 1] = BOS
    for row, length in zip(targets, lengths, strict=True):
        row[length:] = PAD
    return logits.to(dtype).requires_grad_(), doc_scores.to(dtype).requires_grad_(), targets


def compare(ours: Any, logits: Any, doc_scores: Any, hf: Any) -> None:
    """Values, and gradients of a weighted sum of the losses: their autograd against ours."""
    weights = torch.linspace(0.5, 2, max(hf.numel(), 1), dtype=hf.dtype).view(hf.shape)
    expected = torch.autograd.grad((weights * hf).sum(), (logits, doc_scores), allow_unused=True)
    wide = hf.dtype == torch.float64
    np.testing.assert_allclose(ours.detach(), hf.detach(), rtol=1e-12 if wide else RTOL)
    found = torch.autograd.grad((weights * ours).sum(), (logits, doc_scores))
    for ours_grad, hf_grad in zip(found, expected, strict=True):
        hf_values = torch.zeros_like(ours_grad) if hf_grad is None else hf_grad
        largest = float(hf_values.abs().max())
        np.testing.assert_allclose(
            ours_grad, hf_values, rtol=1e-10 if wide else RTOL, atol=(1e-13 if wide else RTOL) * largest
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_sequence_nll(lengths: tuple[int, ...], epsilon: float, dtype: Any) -> None:
    for n_docs, exclude_bos, reduce, bos in itertools.product((1, 2, 5), *[(False, True)] * 3):
        logits, doc_scores, targets = inputs(n_docs, lengths, dtype, bos=bos)
        hf = hf_nll(
            "RagSequenceForGeneration",
            n_docs,
            logits,
            doc_scores,
            targets,
            epsilon=epsilon,
            exclude_bos_score=exclude_bos,
            reduce_loss=reduce,
        )
        ours = rag_sequence_nll(
            logits,
            doc_scores,
            shifted(targets),
            ignore_index=PAD,
            label_smoothing=epsilon,
            reduction="sum" if reduce else "none",
            compat="hf",
            bos_token_id=BOS if exclude_bos else None,
        )
        compare(ours, logits, doc_scores, hf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("compat", ["paper", "hf"])
def test_token_nll(lengths: tuple[int, ...], epsilon: float, dtype: Any, compat: Any) -> None:
    """Which is the paper's: the default is the same."""
    for n_docs, reduce in itertools.product((1, 2, 5), (False, True)):
        logits, doc_scores, targets = inputs(n_docs, lengths, dtype)
        hf = hf_nll("RagTokenForGeneration", n_docs, logits, doc_scores, targets, epsilon=epsilon, reduce_loss=reduce)
        ours = rag_token_nll(
            logits,
            doc_scores,
            shifted(targets),
            ignore_index=PAD,
            label_smoothing=epsilon,
            reduction="sum" if reduce else "none",
            compat=compat,
        )
        compare(ours, logits, doc_scores, hf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_marginalize(dtype: Any) -> None:
    for n_docs in (1, 2, 5):
        logits, doc_scores, _ = inputs(n_docs, LENGTHS["full"], dtype)
        logits, doc_scores = logits.detach(), doc_scores.detach()
        model = SimpleNamespace(config=SimpleNamespace(n_docs=n_docs))
        hf = modeling_rag.RagTokenForGeneration.marginalize(model, logits.flatten(0, 1), doc_scores)  # (B,T,V)
        by_beam = logits.transpose(1, 2).flatten(0, 1)  # (B T,K,V)
        doc_logprobs = ragfast.log_softmax(doc_scores)[:, None].repeat(T, 1).reshape(-1, n_docs)
        ours = ragfast.marginalize_step(by_beam, doc_logprobs)
        np.testing.assert_allclose(ours.reshape(hf.shape), hf, rtol=1e-12 if dtype == torch.float64 else RTOL)


def test_default_differs_on_one_scored_token() -> None:
    """transformers adds log p(z|x) to the second position alone. Where only the first is scored, as in classification
    (section 2 of the paper: targets of length one, for which RAG-Sequence and RAG-Token are equivalent), the documents'
    scores have no part in its loss: the retriever learns nothing."""
    logits, doc_scores, targets = inputs(3, (2, 2, 2, 2), torch.float64, bos=False)
    arguments = logits, doc_scores, shifted(targets)
    hf = hf_nll("RagSequenceForGeneration", 3, logits, doc_scores, targets)
    of_hf, _ = torch.autograd.grad(hf.sum(), (doc_scores, logits), allow_unused=True)
    same = rag_sequence_nll(*arguments, ignore_index=PAD, reduction="none", compat="hf")
    ours = rag_sequence_nll(*arguments, ignore_index=PAD, reduction="none")

    logprobs = torch.log_softmax(logits[:, :, 0], -1).gather(-1, targets[:, 1, None, None].expand(B, 3, 1))[..., 0]
    paper = -torch.logsumexp(torch.log_softmax(doc_scores, -1) + logprobs, -1)  # -log sum_z p(z|x) p(y|x,z)
    without_prior = -torch.logsumexp(logprobs, -1)  # -log sum_z p(y|x,z), which can be above 1

    assert not of_hf.any()
    torch.testing.assert_close(hf, without_prior)
    torch.testing.assert_close(same, hf)
    torch.testing.assert_close(ours, paper)
    torch.testing.assert_close(ours, rag_token_nll(*arguments, ignore_index=PAD, reduction="none"))
    torch.testing.assert_close(ours, hf_nll("RagTokenForGeneration", 3, logits, doc_scores, targets))
    assert (ours - hf).abs().min() > 0.1
    assert torch.autograd.grad(ours.sum(), doc_scores)[0].abs().min() > 0


@pytest.mark.parametrize("lengths", [LENGTHS["full"], (7, 3, 5, 4)])
def test_default_is_the_same_on_two_scored_tokens_and_more(lengths: tuple[int, ...]) -> None:
    logits, doc_scores, targets = inputs(5, lengths, torch.float64)
    ours = rag_sequence_nll(logits, doc_scores, shifted(targets), ignore_index=PAD, reduction="none")
    compare(ours, logits, doc_scores, hf_nll("RagSequenceForGeneration", 5, logits, doc_scores, targets))


def test_default_differs_in_smoothing() -> None:
    """There everything counts V times, so that the logsumexp over documents is their maximum. By default it is the loss
    of an answer whose tokens are as likely as tokens are on average."""
    logits, doc_scores, targets = inputs(3, LENGTHS["full"], torch.float64)
    keywords: dict[str, Any] = {"ignore_index": PAD, "reduction": "none"}
    plain = rag_sequence_nll(logits, doc_scores, shifted(targets), **keywords)
    ours = rag_sequence_nll(logits, doc_scores, shifted(targets), label_smoothing=0.1, **keywords)
    hf = hf_nll("RagSequenceForGeneration", 3, logits, doc_scores, targets, epsilon=0.1)

    means = torch.log_softmax(logits, -1).mean(-1)[:, :, :-1].sum(-1)  # the last position is padded
    prior = torch.log_softmax(doc_scores, -1)
    smooth = torch.logsumexp(prior + means, -1)
    torch.testing.assert_close(ours, 0.9 * plain - 0.1 * smooth)
    torch.testing.assert_close(hf, 0.9 * plain - 0.1 / V * torch.logsumexp(V * (prior + means), -1))
