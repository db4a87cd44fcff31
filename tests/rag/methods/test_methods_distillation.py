"""The losses that distil into a retriever against transcriptions of their formulas, and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from method_cases import differences, softmax
from numpy.typing import NDArray

import ragfast
from ragfast.rag import methods

Array = NDArray[Any]

B, K, T = 3, 4, 5
RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((B, K))
TOKENS = -RNG.exponential(size=(B, K, T))
MASK = np.arange(T) < np.array([[5], [3], [1]])
GOLD = 3 * RNG.standard_normal((B, K))


def kl(p: Array, q: Array) -> float:
    """sum_z p log(p / q), summed over questions; what p has not counts for nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum())


def answers(mask: Array | None, normalized: bool = False) -> Array:
    """log p(y|x,z), one by one."""
    out = np.empty((B, K))
    for b in range(B):
        for z in range(K):
            scored = [TOKENS[b, z, t] for t in range(T) if mask is None or mask[b, t]]
            out[b, z] = sum(scored) / (len(scored) if normalized else 1)
    return out


Losses = dict[str, tuple[Callable[..., Any], Array, Callable[[Array, Array], float], Array]]

LOSSES: Losses = {  # the function, what it is given, its divergence from the target's softmax, and the target
    "pdist": (methods.pdist_loss, TOKENS, lambda p, q: kl(q, p), answers(None)),
    "loop": (methods.loop_loss, TOKENS, lambda p, q: kl(q, p), -answers(None)),
    "adist": (methods.adist_loss, GOLD, lambda p, q: kl(q, p), GOLD),
    "fid": (methods.fid_distillation_loss, GOLD, lambda p, q: kl(q, p), GOLD),
    "replug_lsr": (methods.replug_lsr_loss, TOKENS, kl, answers(None)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("temperature", "target_temperature"), [(1.0, 1.0), (0.3, 2.0), (0.01, 0.01)])
def test_formula(name: str, temperature: float, target_temperature: float) -> None:
    loss, given, divergence, target = LOSSES[name]
    expected = divergence(softmax(SCORES / temperature), softmax(target / target_temperature))
    taus = {"temperature": temperature, "target_temperature": target_temperature}
    assert loss(SCORES, given, **taus) == pytest.approx(expected / B, rel=1e-10)
    assert loss(SCORES, given, reduction="sum", **taus) == pytest.approx(expected, rel=1e-10)
    assert loss(SCORES, given, reduction="mean", **taus) == pytest.approx(expected / (B * K), rel=1e-10)
    by_question = loss(SCORES, given, reduction="none", **taus)
    assert by_question.shape == (B,)
    assert by_question.sum() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "sum", "batchmean", "mean"])
def test_gradient(name: str, reduction: str) -> None:
    loss, given, _, _ = LOSSES[name]
    options = {"temperature": 0.7, "target_temperature": 1.5, "reduction": reduction}
    value, grad = loss(SCORES, given, return_grad=True, **options)
    np.testing.assert_array_equal(value, loss(SCORES, given, **options))
    found = differences(lambda scores: loss(scores, given, **options), SCORES)
    np.testing.assert_allclose(grad, found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_missing_documents(name: str) -> None:
    """As if they had never been retrieved, whatever the language model is said to think of them."""
    loss, given, _, _ = LOSSES[name]
    scores, said = SCORES.copy(), given.copy()
    scores[:, 2], said[:, 2] = -np.inf, np.nan
    value, grad = loss(scores, said, return_grad=True)
    kept = [0, 1, 3]
    expected, expected_grad = loss(SCORES[:, kept], given[:, kept], return_grad=True)
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(grad[:, kept], expected_grad, rtol=1e-13)
    assert (grad[:, 2] == 0).all()
    assert np.isnan(loss(np.full((1, K), -np.inf), given[:1]))


@pytest.mark.parametrize("name", LOSSES)
def test_types_and_leading_axes(name: str) -> None:
    loss, given, _, _ = LOSSES[name]
    narrow, wide = given.astype(np.float32), given.astype(np.float32).astype(float)
    value, grad = loss(SCORES.astype(np.float32), narrow, return_grad=True)
    assert (value.dtype, grad.dtype) == (np.float32, np.float32)
    assert value == pytest.approx(loss(SCORES.astype(np.float32).astype(float), wide), rel=1e-6)
    assert type(loss(SCORES, narrow)) is np.float64
    one = loss(SCORES[0], given[0], reduction="none")
    assert one == loss(SCORES, given, reduction="none")[0]
    more = loss(SCORES[None], given[None], reduction="none")
    assert more.shape == (1, B)
    assert more[0, 0] == one


@pytest.mark.parametrize("loss", [methods.pdist_loss, methods.loop_loss, methods.replug_lsr_loss])
@pytest.mark.parametrize("normalized", [False, True])
def test_mask_and_length(loss: Any, normalized: bool) -> None:
    target = answers(MASK, normalized) * (-1 if loss is methods.loop_loss else 1)
    p, q = softmax(SCORES), softmax(target)
    expected = kl(p, q) if loss is methods.replug_lsr_loss else kl(q, p)
    hidden = np.where(MASK[:, None], TOKENS, np.nan)  # what is not scored is not read
    found = loss(SCORES, hidden, mask=MASK, length_normalized=normalized, reduction="sum")
    assert found == pytest.approx(expected, rel=1e-12)


def test_released_atlas() -> None:
    """KLDivLoss of default reduction, temperatures of 0.01, scores over the root of D, mean log-probabilities."""
    dim = 64
    p, q = softmax(SCORES / np.sqrt(dim) / 0.01), softmax(answers(MASK, True) / 0.01)
    found = methods.pdist_loss(
        SCORES / np.sqrt(dim),
        TOKENS,
        mask=MASK,
        length_normalized=True,
        temperature=0.01,
        target_temperature=0.01,
        reduction="mean",
    )
    assert found == pytest.approx(kl(q, p) / (B * K), rel=1e-10)


def test_directions_of_replug() -> None:
    p, q = softmax(SCORES), softmax(answers(None))
    assert methods.replug_lsr_loss(SCORES, TOKENS, reduction="sum") == pytest.approx(kl(p, q), rel=1e-12)
    forward = methods.replug_lsr_loss(SCORES, TOKENS, direction="forward", reduction="sum")
    assert forward == pytest.approx(kl(q, p), rel=1e-12)
    assert forward == methods.pdist_loss(SCORES, TOKENS, reduction="sum")
    ruled_out = TOKENS.copy()
    ruled_out[0, 0, 0] = -np.inf
    assert methods.replug_lsr_loss(SCORES, ruled_out) == np.inf
    assert np.isfinite(methods.replug_lsr_loss(SCORES, ruled_out, direction="forward"))


def test_loop_where_the_answer_is_impossible_without_a_document() -> None:
    """Its limit, as p(y | x, all documents but z) goes to 0; of a missing document that is not read."""
    scores = np.array([[1.0, 0.0, -1.0]])
    for impossible in ([1], [0, 2]):
        left_out = np.full((1, 3, 2), -0.5)
        left_out[:, impossible, 1] = -900.0
        limit = methods.loop_loss(scores, left_out, return_grad=True)
        left_out[:, impossible, 1] = -np.inf
        found = methods.loop_loss(scores, left_out, return_grad=True)
        assert found[0] == pytest.approx(limit[0], rel=1e-12)
        np.testing.assert_allclose(found[1], limit[1], atol=1e-12)
    scores[0, 2] = -np.inf
    left_out = np.array([[[-1.0], [-2.0], [-np.inf]]])
    assert methods.loop_loss(scores, left_out) == methods.loop_loss(scores[:, :2], left_out[:, :2])
    left_out[0, :2, 0] = np.nan, -np.inf
    assert np.isnan(methods.loop_loss(scores, left_out))


def test_training_moves_scores_to_the_target() -> None:
    for name, (loss, given, _, target) in LOSSES.items():
        scores = SCORES.copy()
        for _ in range(1000):
            scores -= 2 * loss(scores, given / 4, reduction="sum", return_grad=True)[1]
        np.testing.assert_allclose(softmax(scores), softmax(target / 4), atol=1e-3, err_msg=name)


# ---- attention


def attention_by_hand(
    attention: Array, norms: Array | None, tokens: Array, targets: Array, length: int | None
) -> Array:
    n_questions, n_layers, n_heads, n_targets, n_docs, n_tokens = attention.shape
    out = np.full((n_questions, n_docs), -np.inf)
    for b in range(n_questions):
        for z in range(n_docs):
            total, own = 0.0, [s for s in range(n_tokens) if tokens[b, z, s]]
            for layer in range(n_layers):
                for head in range(n_heads):
                    for t in range(n_targets):
                        for s in own:
                            norm = 1.0 if norms is None else norms[b, layer, head, z, s]
                            total += float(attention[b, layer, head, t, z, s]) * float(norm) * int(targets[b, t])
            if own:
                divisor = len(own) if length is None else length
                out[b, z] = total / (n_layers * n_heads * targets[b].sum() * divisor)
    return out


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("length", [None, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_scores(with_norms: bool, length: int | None, dtype: type) -> None:
    rng = np.random.default_rng(1)
    attention = rng.random((2, 2, 3, 4, 3, 5)).astype(dtype)
    norms = rng.random((2, 2, 3, 3, 5)).astype(dtype) if with_norms else None
    tokens = np.arange(5) < np.array([[5, 2, 0], [1, 4, 3]])[..., None]
    targets = np.arange(4) < np.array([[4], [2]])
    expected = attention_by_hand(attention, norms, tokens, targets, length)
    hidden = np.where(tokens[:, None, None, None] & targets[:, None, None, :, None, None], attention, np.nan)
    found = methods.attention_scores(
        hidden.astype(dtype), norms, token_mask=tokens, target_mask=targets, context_length=length
    )
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    everything = methods.attention_scores(attention, norms)
    np.testing.assert_allclose(
        everything,
        attention_by_hand(attention, norms, np.ones((2, 3, 5), bool), np.ones((2, 4), bool), None),
        rtol=1e-12,
    )
    missing = methods.adist_loss(np.where(found == -np.inf, -np.inf, 0.0), found)
    assert np.isfinite(missing)


# ---- bad input


def test_errors() -> None:
    for loss, given, _, _ in LOSSES.values():
        with pytest.raises(
            ValueError, match=r"expected one answer or score for each of doc_scores, \(3, 3\), got \(3, 4\)"
        ):
            loss(SCORES[:, :3], given)
        with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(\.\.\., K\) with K of 1 or more, got"):
            loss(np.zeros((3, 0)), given[:, :0])
        with pytest.raises(TypeError, match=r"^doc_scores: expected float32 or float64 .*, got int64$"):
            loss(np.zeros((3, 4), np.int64), given)
        with pytest.raises(ValueError, match=r"^temperature: expected a finite number above 0"):
            loss(SCORES, given, temperature=0.0)
        with pytest.raises(ValueError, match=r"^reduction: expected"):
            loss(SCORES, given, reduction="token_mean")
    with pytest.raises(ValueError, match=r"^token_logprobs: expected shape \(\.\.\., K, T\), got \(4,\)$"):
        methods.pdist_loss(SCORES[0], TOKENS[0, :, 0])
    with pytest.raises(TypeError, match=r"^left_out_logprobs: expected float32"):
        methods.loop_loss(SCORES, TOKENS.astype(int))
    with pytest.raises(TypeError, match=r"^mask: expected bool, got int64$"):
        methods.pdist_loss(SCORES, TOKENS, mask=MASK.astype(int))
    with pytest.raises(ValueError, match=r"^mask: expected shape \(3, 5\), .*, got \(3, 4\)$"):
        methods.pdist_loss(SCORES, TOKENS, mask=MASK[:, :4])
    with pytest.raises(ValueError, match=r"^token_logprobs: expected an answer of one scored token or more"):
        methods.pdist_loss(SCORES, TOKENS, mask=np.zeros_like(MASK), length_normalized=True)
    with pytest.raises(ValueError, match=r"^direction: expected"):
        methods.replug_lsr_loss(SCORES, TOKENS, direction="backward")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^attention_scores: expected float32"):
        methods.adist_loss(SCORES, GOLD.astype(int))
    with pytest.raises(TypeError, match=r"^reader_scores: expected float32"):
        methods.fid_distillation_loss(SCORES, GOLD.astype(int))
    attention = np.zeros((2, 1, 1, 3, 2, 4))
    with pytest.raises(ValueError, match=r"^attention: expected shape \(B, L, H, T, K, S\)"):
        methods.attention_scores(attention[0])
    with pytest.raises(ValueError, match=r"^value_norms: expected shape \(2, 1, 1, 2, 4\)"):
        methods.attention_scores(attention, np.zeros((2, 1, 1, 2, 3)))
    with pytest.raises(ValueError, match=r"^token_mask: expected shape \(2, 2, 4\)"):
        methods.attention_scores(attention, token_mask=np.ones((2, 2, 3), bool))
    with pytest.raises(ValueError, match=r"^target_mask: expected one target token or more"):
        methods.attention_scores(attention, target_mask=np.zeros((2, 3), bool))


def test_no_answer_tokens() -> None:
    """An answer of no tokens says nothing of documents: the target is uniform."""
    found = methods.pdist_loss(SCORES, TOKENS[..., :0], reduction="sum")
    assert found == pytest.approx(ragfast.kl_divergence(SCORES, np.zeros_like(SCORES), reduction="sum"), rel=1e-15)
