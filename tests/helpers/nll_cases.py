"""Losses from logits, and what the tests of them share: problems, and results within what their type allows."""

from __future__ import annotations

from typing import Any

import numpy as np
from exact import LEVELS as LEVELS
from logit_types import cast, dtype_of, result_type
from nll_oracle import Exact, exact_nll
from numpy.typing import NDArray

from ragfast import NLL, rag_sequence_nll, rag_sequence_nll_from_logprobs, rag_token_nll, rag_token_nll_from_logprobs

Array = NDArray[Any]
LOSSES = [rag_sequence_nll, rag_token_nll]
LOSSES_FROM_LOGPROBS = [rag_sequence_nll_from_logprobs, rag_token_nll_from_logprobs]
IGNORED = -100

ALL = {"reduction": "none", "grad": ("doc_scores", "logits"), "return_posterior": True}


def case(kind: str, *shape: int, seed: int = 0, spread: float = 3.0, padded: bool = True) -> tuple[Array, Array, Array]:
    """Logits (B,K,T,V), doc_scores, and targets of which the later ones of some answers are ignored."""
    b, k, t, v = shape
    rng = np.random.default_rng(seed)
    logits = cast(spread * rng.standard_normal(shape), kind)
    targets = rng.integers(0, v, (b, t))
    if padded:
        targets[np.arange(t) >= rng.integers(min(t, 2), t + 1, (b, 1))] = IGNORED
    return logits, rng.standard_normal((b, k)).astype(result_type(kind)), targets


def exactly(by_token: bool, logits: Array, docs: Array, targets: Array, **options: Any) -> Exact:
    return exact_nll(by_token, logits.astype(np.float64), docs, np.where(targets == IGNORED, -1, targets), **options)


def assert_is(found: NLL, exact: Exact, kind: str, smoothing: float = 0) -> None:
    """Within what the type of logits allows: float32 sums leave 3.4e-7 in each log p, and their difference in the
    posterior. With smoothing, p(v) and what is expected of each v cancel in the gradient."""
    n_tokens, vocab = exact.logits_grad.shape[2:]
    eps = float(np.finfo(result_type(kind)).eps)
    of_token = 1e-14 if kind == "float64" else 4e-7
    of_posterior = 4 * eps + 3 * n_tokens * of_token
    np.testing.assert_allclose(found.loss, exact.nll.astype(float), rtol=4 * eps, atol=n_tokens * of_token)
    assert found.posterior is not None
    assert found.doc_scores_grad is not None
    np.testing.assert_allclose(found.posterior, exact.posterior.astype(float), rtol=of_posterior, atol=1e-37)
    np.testing.assert_allclose(
        found.doc_scores_grad, exact.doc_scores_grad.astype(float), rtol=4 * eps, atol=2 * n_tokens * of_posterior
    )
    rounding, denormal = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 1e-37)}.get(kind, (eps, 1e-37))
    grad = np.asarray(found.logits_grad)
    assert grad.dtype == dtype_of(kind)
    rtol = rounding + of_posterior + (2e-13 if kind == "float64" else 4e-6)
    np.testing.assert_allclose(
        grad.astype(float),
        exact.logits_grad.astype(float),
        rtol=rtol,
        atol=denormal + 1e-20 + rtol * smoothing / vocab,
    )
    assert type(found.loss[0]) is found.posterior.dtype.type is found.doc_scores_grad.dtype.type is result_type(kind)
