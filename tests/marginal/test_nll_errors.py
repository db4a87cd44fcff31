"""What losses from logits refuse, and what they say of it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from nll_cases import LEVELS, LOSSES, LOSSES_FROM_LOGPROBS

from ragfast import rag_sequence_nll, rag_sequence_nll_from_logprobs, rag_token_nll
from ragfast.marginal.loss import LogitsOptions, LogprobsOptions

pytestmark = LEVELS


GOOD = (np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 3)), np.zeros((2, 4), int))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": np.zeros((2, 3, 4, 5), int)}, TypeError, "logits: expected float32, float64, .* got int64"),
        ({"logits": np.ma.zeros((2, 3, 4, 5))}, TypeError, "logits: a masked array"),
        ({"logits": np.zeros((2, 3, 4))}, ValueError, r"logits: expected shape \(B, K, T, V\) .*, got \(2, 3, 4\)"),
        ({"logits": np.zeros((2, 0, 4, 5))}, ValueError, r"logits: .*K and V of 1 or more, got \(2, 0, 4, 5\)"),
        ({"logits": np.zeros((2, 3, 4, 0))}, ValueError, r"logits: .*K and V of 1 or more, got \(2, 3, 4, 0\)"),
        ({"logits": "text"}, TypeError, "logits: expected float32, float64"),
        ({"doc_scores": np.zeros((2, 4))}, ValueError, r"doc_scores: expected shape \(2, 3\), as logits has shape "),
        ({"doc_scores": np.zeros((2, 3), int)}, TypeError, "doc_scores: expected float32 or float64 .*, got int64"),
        ({"doc_scores": np.ma.zeros((2, 3))}, TypeError, "doc_scores: a masked array"),
        (
            {"targets": np.zeros((2, 3), int)},
            ValueError,
            r"targets: expected shape \(2, 4\), as logits .* got \(2, 3\)",
        ),
        ({"targets": np.zeros((2, 4))}, TypeError, "targets: expected integers, got float64"),
        ({"targets": np.zeros((2, 4), bool)}, TypeError, "targets: expected integers, got bool"),
        ({"targets": [[0, 0, 0, 0], [0, 5, 0, 0]]}, ValueError, r"targets: .*0 to 4, as V is 5, got 5 at \(1, 1\)$"),
        (
            {"targets": [[0, 0, -100, 0], [0, 1, 0, 0]]},
            ValueError,
            r"targets: .* got -100 at \(0, 2\); ignore_index=-100 leaves such positions out$",
        ),
        ({"targets": [[0] * 4, [0, 0, 0, -1]], "ignore_index": 0}, ValueError, r"targets: .*, got -1 at \(1, 3\)$"),
        ({"targets": np.full((2, 4), 2**64 - 1, np.uint64)}, ValueError, "targets: .* got 18446744073709551615 at"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index: expected an integer, got float"),
        ({"ignore_index": True}, TypeError, "ignore_index: expected an integer, got bool"),
        ({"label_smoothing": 1}, ValueError, "label_smoothing: expected a number from 0 to below 1, got 1.0"),
        ({"label_smoothing": -0.1}, ValueError, "label_smoothing: expected a finite number of 0 or more, got -0.1"),
        ({"label_smoothing": np.nan}, ValueError, "label_smoothing: .* got nan"),
        ({"temperature": 0}, ValueError, "temperature: expected a finite number above 0, got 0"),
        ({"temperature": "1"}, TypeError, "temperature: expected a number above 0, got str"),
        ({"reduction": "avg"}, ValueError, 'reduction: expected "none", "sum", "mean" or "token_mean", got \'avg\''),
        ({"reduction": None}, ValueError, 'reduction: expected "none", .* got None'),
        ({"compat": "huggingface"}, ValueError, 'compat: expected "paper" or "hf", got \'huggingface\''),
        ({"bos_token_id": 0}, ValueError, 'bos_token_id: only rag_sequence_nll with compat="hf" leaves'),
        ({"grad": "logits"}, TypeError, "grad: expected a collection of names, .* got 'logits'"),
        ({"grad": None}, TypeError, "grad: expected a collection of names, .* got None"),
        ({"grad": ["logit"]}, ValueError, 'grad: expected names out of "doc_scores" and "logits", got \'logit\''),
        ({"grad": [["logits"]]}, ValueError, r"grad: expected names .* got \['logits'\]"),
        ({"null_score": 0.0}, ValueError, r"doc_scores: expected shape \(2, 2\), as logits .* the null document last"),
        ({"null_score": [0.0] * 3, "doc_scores": np.zeros((2, 2))}, ValueError, r"null_score: .* \(2,\), got \(3,\)"),
        ({"null_score": True, "doc_scores": np.zeros((2, 2))}, TypeError, "null_score: .* got bool"),
        ({"out": np.zeros((2, 3, 4, 5), np.float32)}, ValueError, 'out: given, but grad does not ask for "logits"'),
        ({"n_threads": 0}, ValueError, "n_threads: expected 1 or more, got 0"),
        (
            {"targets": np.full((2, 4), -1), "ignore_index": -1, "reduction": "token_mean"},
            ValueError,
            "reduction: token_mean over no tokens: none is scored",
        ),
    ],
)
def test_errors(by_token: bool, change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {**dict(zip(("logits", "doc_scores", "targets"), GOOD, strict=True)), **change}
    with pytest.raises(error, match=f"^{message}"):
        LOSSES[by_token](**arguments)


def test_errors_of_out(by_token: bool) -> None:
    logits = np.zeros((2, 3, 4, 5), np.float32)
    read_only = np.zeros_like(logits)
    read_only.flags.writeable = False
    room = np.zeros(2 * logits.size, np.float32)
    inside = room[: logits.size].reshape(logits.shape)
    for out, error, message in (
        (np.zeros((2, 3, 4, 5)), TypeError, "out: expected float32, as the logits are, got float64"),
        (np.zeros((2, 3, 4, 6), np.float32), ValueError, r"out: expected shape \(2, 3, 4, 5\), .* got \(2, 3, 4, 6\)"),
        (read_only, ValueError, "out: expected an array that is contiguous, aligned, writeable"),
        (np.asfortranarray(logits), ValueError, "out: expected an array that is contiguous"),
        (logits.astype(">f4"), ValueError, "out: .* native byte order"),
        (np.ma.zeros((2, 3, 4, 5), np.float32), TypeError, "out: a masked array"),
        (logits.tolist(), TypeError, "out: expected an array or a torch tensor to write to, got list"),
        (room[5 : 5 + logits.size].reshape(logits.shape), ValueError, "out: overlaps the logits"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            LOSSES[by_token](inside, *GOOD[1:], grad=["logits"], out=out)
    with pytest.raises(ValueError, match=r"^bos_token_id: only"):
        rag_token_nll(*GOOD, compat="hf", bos_token_id=1)
    with pytest.raises(TypeError, match=r"^bos_token_id: expected an integer, got str"):
        rag_sequence_nll(*GOOD, compat="hf", bos_token_id="1")


def test_options_have_one_default_and_one_type() -> None:
    """help() shows every option, a type checker knows every option, and an unknown one is refused by name."""
    for losses, options, own in (
        (LOSSES, LogitsOptions, {"grad", "return_posterior", "out"}),
        (LOSSES_FROM_LOGPROBS, LogprobsOptions, {"grad", "return_posterior"}),
    ):
        for loss in losses:
            parameters = inspect.signature(loss).parameters.values()
            keywords = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
            assert keywords.keys() == options.__annotations__.keys() | own
            assert not [p for p in keywords.values() if p.default is p.empty]
            assert not [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            scores = [np.zeros((1, 2, 3, 4)), np.zeros((1, 2)), np.zeros((1, 3), int)]
            given = scores if losses is LOSSES else [scores[0][..., 0], scores[1]]
            unknown = rf"^{loss.__name__}\(\) got an unexpected keyword argument 'heat'"
            with pytest.raises(TypeError, match=unknown):
                loss(*given, heat=1.0)
    for option in ("label_smoothing", "bos_token_id", "ignore_index"):  # which log-probabilities do not have
        with pytest.raises(TypeError, match=f"got an unexpected keyword argument '{option}'"):
            rag_sequence_nll_from_logprobs(np.zeros((1, 2, 3)), np.zeros((1, 2)), **{option: 1})
