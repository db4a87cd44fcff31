"""The losses by their formulas, in extended precision on explicit (B,K,T,V) arrays; and as Hugging Face has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Exact(NamedTuple):
    nll: Array  # (B,)
    posterior: Array  # (B,K), by token (B,K,T)
    doc_scores_grad: Array  # (B,K), of the weighted sum of nll, as is
    logits_grad: Array  # (B,K,T,V)


def lse(x: Array, axis: int) -> Array:
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis)


def softmax(x: Array, axis: int) -> Array:
    """0 where all is -inf."""
    total = np.expand_dims(lse(x, axis), axis)
    return np.exp(np.where(total == -np.inf, -np.inf, x - np.where(total == -np.inf, 0, total)))


def exact_nll(
    by_token: bool,
    logits: Array,
    doc_scores: Array,
    targets: Array,
    *,
    smoothing: float = 0.0,
    temperature: float = 1.0,
    hf: bool = False,
    skip_first: bool = False,
    weights: Array | None = None,
    dtype: Any = np.longdouble,
) -> Exact:
    """logits (B,K,T,V), doc_scores (B,K), -inf for a missing document; targets (B,T), negative where not scored."""
    n_queries, _, n_tokens, vocab = logits.shape
    missing = doc_scores == -np.inf
    x = np.where(missing[:, :, None, None], 0, logits.astype(dtype))
    wide_scores = doc_scores.astype(dtype) / dtype(temperature)
    log_prior = wide_scores - np.where(missing.all(axis=1), 0, lse(wide_scores, 1))[:, None]
    logp = x - lse(x, 3)[..., None]
    scored = targets >= 0
    onehot = (np.arange(vocab) == targets[:, :, None])[:, None] & scored[:, None, :, None]  # (B,1,T,V)
    weight = np.ones(n_queries) if weights is None else weights
    e = dtype(smoothing)
    # What each log p(v|z,t) and each log p_z weighs in the loss: logp_weight (B,K,T,V), prior_weight (B,K).
    if by_token:
        joint = np.where(missing[:, :, None, None], -np.inf, log_prior[:, :, None, None] + logp)
        mixture = lse(joint, 1)  # (B,T,V)
        of_v = np.where(scored[:, :, None], e / vocab, 0) + np.where(onehot[:, 0], 1 - e, 0)
        terms = np.where(of_v > 0, of_v * -np.where(of_v > 0, mixture, 0), 0)
        nll = terms.sum(axis=(1, 2))
        at_v = softmax(joint, 1)  # (B,K,T,V)
        logp_weight = -of_v[:, None] * at_v
        possible = (of_v * (mixture > -np.inf)).sum(axis=(1, 2))[:, None]
        prior_weight = logp_weight.sum(axis=(2, 3))
        posterior = np.where(onehot, at_v, 0).sum(axis=3)
    else:
        in_nll = onehot & ~((np.arange(n_tokens) == 0) & skip_first)[None, None, :, None]
        has_prior = (scored[:, 1] if n_tokens > 1 else np.zeros(n_queries, bool)) if hf else np.ones(n_queries, bool)
        prior = np.where(has_prior[:, None], np.where(missing, 0, log_prior), 0)
        in_smooth = np.broadcast_to(scored[:, None, :, None], logp.shape)
        token_sums = np.where(in_nll, logp, 0).sum(axis=(2, 3))
        smooth_sums = np.where(in_smooth, logp, 0).sum(axis=(2, 3))
        smooth_prior = vocab * prior if hf else prior
        smooth_sums = smooth_sums if hf else smooth_sums / vocab
        joint = np.where(missing, -np.inf, token_sums + prior)
        smooth_joint = np.where(missing, -np.inf, smooth_sums + smooth_prior)
        smooth_times = 1 / dtype(vocab) if hf else dtype(1)
        nll = -(1 - e) * lse(joint, 1)
        posterior, pseudo = softmax(joint, 1), softmax(smooth_joint, 1)
        if e > 0:
            nll = nll - e * smooth_times * lse(smooth_joint, 1)
        logp_weight = -(1 - e) * posterior[:, :, None, None] * in_nll - e / vocab * pseudo[:, :, None, None] * in_smooth
        prior_weight = -np.where(has_prior[:, None], (1 - e) * posterior + e * pseudo, 0)
        possible = -prior_weight.sum(axis=1, keepdims=True)
    logp_weight, prior_weight = logp_weight * weight[:, None, None, None], prior_weight * weight[:, None]
    possible = possible * weight[:, None]
    logits_grad = logp_weight - softmax(x, 3) * logp_weight.sum(axis=3, keepdims=True)
    logits_grad = np.where(missing[:, :, None, None], 0, logits_grad)
    docs_grad = (prior_weight + softmax(wide_scores, 1) * possible) / dtype(temperature)
    return Exact(nll, posterior, np.where(missing, 0, docs_grad), logits_grad)


def shifted(target: Array, pad: int) -> Array:
    return np.concatenate([target[:, 1:], np.full((len(target), 1), pad, target.dtype)], axis=1)


def hf_sequence_nll(
    logits: Array, doc_scores: Array, target: Array, pad: int, epsilon: float, bos: int | None, exclude_bos: bool
) -> Array:
    """transformers 5.23, RagSequenceForGeneration.get_nll, line by line; target (B,T) begins with its first token."""
    target = shifted(target, pad)
    use_bos = bos is not None and (target[:, 0] == bos).all()
    scores = logits - lse(logits, 3)[..., None]
    docs = (doc_scores - lse(doc_scores, 1)[:, None])[:, :, None, None]
    scores = np.concatenate([scores[:, :, :1], scores[:, :, 1:2] + docs, scores[:, :, 2:]], axis=2)
    index = np.repeat(target[:, None, :, None], logits.shape[1], axis=1)
    padded = index[..., 0] == pad
    ll = np.where(padded, 0, np.take_along_axis(scores, index, 3)[..., 0])
    smooth = np.where(padded, 0, scores.sum(axis=3))
    ll = ll[:, :, 1:].sum(axis=2) if exclude_bos and use_bos else ll.sum(axis=2)
    loss: Array = -(1 - epsilon) * lse(ll, 1) - epsilon / logits.shape[3] * lse(smooth.sum(axis=2), 1)
    return loss


def hf_token_nll(logits: Array, doc_scores: Array, target: Array, pad: int, epsilon: float) -> Array:
    """transformers 5.23, RagTokenForGeneration.get_nll and marginalize."""
    target = shifted(target, pad)
    docs = doc_scores - lse(doc_scores, 1)[:, None]
    scores = lse(logits - lse(logits, 3)[..., None] + docs[:, :, None, None], 1)
    ll = np.where(target == pad, 0, np.take_along_axis(scores, target[..., None], 2)[..., 0])
    smooth = np.where(target == pad, 0, scores.sum(axis=2))
    loss: Array = -(1 - epsilon) * ll.sum(axis=1) - epsilon / logits.shape[3] * smooth.sum(axis=1)
    return loss
