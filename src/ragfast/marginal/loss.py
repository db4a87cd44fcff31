"""-log p(y|x) of RAG models (Lewis et al. 2020, section 2.1) from logits or token log-probabilities, with gradients."""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays

__all__ = [
    "NLL",
    "rag_sequence_nll",
    "rag_sequence_nll_from_logprobs",
    "rag_token_nll",
    "rag_token_nll_from_logprobs",
    "target_logprobs",
]

Reduction: TypeAlias = Literal["none", "sum", "mean", "token_mean"]
Compat: TypeAlias = Literal["paper", "hf"]

REDUCTIONS = ("none", "sum", "mean", "token_mean")
COMPATS = ("paper", "hf")


class _OfBoth(TypedDict, total=False):
    """The keywords of the losses, for overloads; the functions themselves have them with defaults and meanings."""

    temperature: float
    reduction: Reduction
    compat: Compat
    null_score: arrays.ArrayLike | None
    n_threads: int | None


class _OfLogits(_OfBoth, total=False):
    ignore_index: int | None
    label_smoothing: float
    bos_token_id: int | None
    grad: Collection[Literal["doc_scores", "logits"]]
    out: Any


class _OfLogprobs(_OfBoth, total=False):
    mask: arrays.ArrayLike | None
    grad: Collection[Literal["doc_scores", "token_logprobs"]]


@dataclass(frozen=True, slots=True, eq=False)
class NLL:
    """A loss and what was asked for beside it; None where it was not.

    ``loss``: (B,), or a NumPy scalar if reduced. ``posterior``: for RAG-Sequence p(z|x,y) (B,K), for RAG-Token
    p(z | x, y_t, y_<t) (B,K,T); it sums to 1 over K, or is 0 where no document can give the answer or the position is
    not scored. Of the loss, or of its sum where it is not reduced: ``doc_scores_grad`` (B,K), ``logits_grad``
    (B,K,T,V), ``token_logprobs_grad`` (B,K,T). A null document's column is the last, also in ``doc_scores_grad``.
    """

    loss: Any
    posterior: NDArray[Any] | None = None
    doc_scores_grad: NDArray[Any] | None = None
    logits_grad: Any = None
    token_logprobs_grad: NDArray[Any] | None = None


@overload
def target_logprobs(
    logits: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    ignore_index: int | None = None,
    return_sums: Literal[True],
    n_threads: int | None = None,
) -> tuple[Any, Any]: ...
@overload
def target_logprobs(
    logits: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    ignore_index: int | None = None,
    return_sums: bool = False,
    n_threads: int | None = None,
) -> Any: ...
def target_logprobs(
    logits: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    ignore_index: int | None = None,
    return_sums: bool = False,
    n_threads: int | None = None,
) -> Any:
    """log p(y_t), the log-softmax of logits (...,T,V) at targets (...,T), in one pass and with no array of their size.

    logits are float32, float64, float16 or bfloat16, from NumPy, ml_dtypes or torch, and copied only where they are not
    contiguous. targets are integers from 0 to V - 1, broadcast to (...,T) as NumPy does; where they are ignore_index
    the result is 0, and that row is not read. Returns (...,T), float64 for float64 logits, else float32 within 2 units
    in the last place, also near 0; with return_sums also sum_v log p(v) (...,T).

    TypeError for other dtypes, ValueError for shapes that do not go together, V of 0 or a target out of range.

    >>> import numpy as np, ragfast
    >>> ragfast.target_logprobs(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), [0, 2]).round(4).tolist()
    [-0.6931, -0.2231]
    """
    values, is_bfloat16 = arrays.logits(logits)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., T, V) with V of 1 or more, got {values.shape}")
    *shape, vocab = values.shape
    tokens = targets_of_rows(targets, values.shape, ignore_index)
    logprobs, _, sums = _kernels.target_logprobs(
        values.reshape(len(tokens), vocab),
        tokens,
        is_bfloat16,
        False,
        bool(return_sums),
        arrays.thread_count(n_threads),
    )
    wide = values.dtype.num == arrays.DOUBLE
    found = _result(logprobs.reshape(shape), wide)[()]
    return found if sums is None else (found, _result(sums.reshape(shape), wide)[()])


@overload
def rag_sequence_nll(
    logits: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    return_posterior: Literal[True],
    **options: Unpack[_OfLogits],
) -> NLL: ...
@overload
def rag_sequence_nll(
    logits: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    return_posterior: bool = False,
    **options: Unpack[_OfLogits],
) -> Any: ...
def rag_sequence_nll(
    logits: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    compat: Compat = "paper",
    bos_token_id: int | None = None,
    null_score: arrays.ArrayLike | None = None,
    grad: Collection[Literal["doc_scores", "logits"]] = (),
    return_posterior: bool = False,
    out: Any = None,
    n_threads: int | None = None,
) -> Any:
    """RAG-Sequence: -log p(y|x) = -log sum_z p(z|x) prod_t p(y_t | x, z, y_<t), with p(z|x) = softmax(doc_scores /
    temperature), of answers y scored under K documents each.

    logits (B,K,T,V), float32, float64, float16 or bfloat16, from NumPy, ml_dtypes or torch; logits[b,k,t] predicts
    targets[b,t]: nothing is shifted. They are read once, once more for their gradient, and copied only where they are
    not contiguous. doc_scores (B,K); a document that is missing has -inf, and its logits are not read. targets (B,T)
    integers from 0 to V - 1, or ignore_index where a position is not scored. T may be 0.

    - label_smoothing e, from 0 to below 1: the loss is (1 - e) nll + e times the nll of an answer of which each token
      has the mean over v of log p(v).
    - reduction: "none" (B,), "sum", "mean" over B, or "token_mean": the sum over the number of scored tokens.
    - null_score, a number or (B,): the logits have one document more, (B,K+1,T,V), the last of which is the null
      document, the generator without any (REALM, Guu et al. 2020; Lewis et al., appendix F); this is its score.
    - compat "hf": the numbers of transformers' RagSequenceForGeneration.get_nll, which adds log p(z|x) at position 1
      alone, so not at all where that is not scored or T is 1, and in smoothing V times. With bos_token_id position 0 is
      left out, but not of smoothing, if every target there is that (exclude_bos_score). Its reduce_loss is "sum".
    - grad: which gradients, of "doc_scores" and "logits"; return_posterior: p(z|x,y) too. With any of them an
      :class:`NLL` is returned.
    - out: where the gradient of logits goes, contiguous and like them; they themselves will do, and are then lost.

    The loss, the posterior and the gradient of doc_scores are float64 for float64 logits, else float32; the gradient of
    logits has their type, and is a torch tensor if they are. An answer that no document can give, or of which every
    document is missing, has a loss of +inf, and gradients and posterior of 0.

    TypeError for other dtypes; ValueError for shapes that do not go together, K or V of 0, a target or scalar out of
    range, or a mean over nothing.

    >>> import numpy as np, ragfast
    >>> logits = np.log([[[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]]])  # (1,2,2,3)
    >>> nll = ragfast.rag_sequence_nll(logits, [[0.0, 0.0]], [[0, 2]], grad=["doc_scores"], return_posterior=True)
    >>> round(float(np.exp(-nll.loss)), 4), nll.posterior.round(4).tolist(), nll.doc_scores_grad.round(4).tolist()
    (0.24, [[0.8333, 0.1667]], [[-0.3333, 0.3333]])
    """
    return _from_logits(
        False,
        logits,
        doc_scores,
        targets,
        ignore_index,
        label_smoothing,
        bos_token_id,
        out,
        _Options(temperature, reduction, compat, null_score, grad, return_posterior, n_threads),
    )


@overload
def rag_token_nll(
    logits: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    return_posterior: Literal[True],
    **options: Unpack[_OfLogits],
) -> NLL: ...
@overload
def rag_token_nll(
    logits: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    return_posterior: bool = False,
    **options: Unpack[_OfLogits],
) -> Any: ...
def rag_token_nll(
    logits: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    targets: arrays.ArrayLike,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    compat: Compat = "paper",
    bos_token_id: int | None = None,
    null_score: arrays.ArrayLike | None = None,
    grad: Collection[Literal["doc_scores", "logits"]] = (),
    return_posterior: bool = False,
    out: Any = None,
    n_threads: int | None = None,
) -> Any:
    """RAG-Token: -log p(y|x) = -sum_t log sum_z p(z|x) p(y_t | x, z, y_<t), with p(z|x) = softmax(doc_scores /
    temperature).

    Everything as :func:`rag_sequence_nll`, except: the posterior is p(z | x, y_t, y_<t) (B,K,T); with label_smoothing e
    the loss is the cross-entropy (1 - e) nll - (e/V) sum_t sum_v log sum_z p(z|x) p(v | x, z, y_<t); Hugging Face's
    numbers (RagTokenForGeneration.get_nll) are the same, and bos_token_id, which it does not have, is refused.

    >>> import numpy as np, ragfast
    >>> logits = np.log([[[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]]])  # (1,2,2,3)
    >>> nll = ragfast.rag_token_nll(logits, [[0.0, 0.0]], [[0, 2]])
    >>> round(float(np.exp(-nll)), 4)
    0.21
    """
    return _from_logits(
        True,
        logits,
        doc_scores,
        targets,
        ignore_index,
        label_smoothing,
        bos_token_id,
        out,
        _Options(temperature, reduction, compat, null_score, grad, return_posterior, n_threads),
    )


@overload
def rag_sequence_nll_from_logprobs(
    token_logprobs: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    *,
    return_posterior: Literal[True],
    **options: Unpack[_OfLogprobs],
) -> NLL: ...
@overload
def rag_sequence_nll_from_logprobs(
    token_logprobs: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    *,
    return_posterior: bool = False,
    **options: Unpack[_OfLogprobs],
) -> Any: ...
def rag_sequence_nll_from_logprobs(
    token_logprobs: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    *,
    mask: arrays.ArrayLike | None = None,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    compat: Compat = "paper",
    null_score: arrays.ArrayLike | None = None,
    grad: Collection[Literal["doc_scores", "token_logprobs"]] = (),
    return_posterior: bool = False,
    n_threads: int | None = None,
) -> Any:
    """:func:`rag_sequence_nll` of token_logprobs (B,K,T) = log p(y_t | x, z, y_<t), for models that give these.

    token_logprobs are float32 or float64, and results float64 for float64. mask (B,T) is True where a token is scored,
    by default everywhere; elsewhere token_logprobs are not read. grad: of "doc_scores" and "token_logprobs".

    >>> import numpy as np, ragfast
    >>> nll = ragfast.rag_sequence_nll_from_logprobs(np.log([[[0.5, 0.8], [0.2, 0.4]]]), [[0.0, 0.0]])
    >>> round(float(np.exp(-nll)), 4)
    0.24
    """
    options = _Options(temperature, reduction, compat, null_score, grad, return_posterior, n_threads)
    return _from_logprobs(False, token_logprobs, doc_scores, mask, options)


@overload
def rag_token_nll_from_logprobs(
    token_logprobs: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    *,
    return_posterior: Literal[True],
    **options: Unpack[_OfLogprobs],
) -> NLL: ...
@overload
def rag_token_nll_from_logprobs(
    token_logprobs: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    *,
    return_posterior: bool = False,
    **options: Unpack[_OfLogprobs],
) -> Any: ...
def rag_token_nll_from_logprobs(
    token_logprobs: arrays.ArrayLike,
    doc_scores: arrays.ArrayLike,
    *,
    mask: arrays.ArrayLike | None = None,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    compat: Compat = "paper",
    null_score: arrays.ArrayLike | None = None,
    grad: Collection[Literal["doc_scores", "token_logprobs"]] = (),
    return_posterior: bool = False,
    n_threads: int | None = None,
) -> Any:
    """:func:`rag_token_nll` of token_logprobs (B,K,T); arguments as :func:`rag_sequence_nll_from_logprobs`.

    >>> import numpy as np, ragfast
    >>> nll = ragfast.rag_token_nll_from_logprobs(np.log([[[0.5, 0.8], [0.2, 0.4]]]), [[0.0, 0.0]])
    >>> round(float(np.exp(-nll)), 4)
    0.21
    """
    options = _Options(temperature, reduction, compat, null_score, grad, return_posterior, n_threads)
    return _from_logprobs(True, token_logprobs, doc_scores, mask, options)


class _Options(NamedTuple):
    """What all four losses have."""

    temperature: Any
    reduction: Any
    compat: Any
    null_score: Any
    grad: Any
    return_posterior: bool
    n_threads: Any


def _from_logits(
    by_token: bool,
    logits: Any,
    doc_scores: Any,
    targets: Any,
    ignore_index: Any,
    label_smoothing: Any,
    bos_token_id: Any,
    out: Any,
    options: _Options,
) -> Any:
    values, is_bfloat16 = arrays.logits(logits)
    shape = values.shape
    if len(shape) != 4 or shape[1] == 0 or shape[3] == 0:
        raise ValueError(f"logits: expected shape (B, K, T, V) with K and V of 1 or more, got {shape}")
    tokens = targets_of_answers(targets, shape, ignore_index)
    smoothing = smoothing_of(label_smoothing)
    as_hf = is_hf(options.compat) and not by_token
    skip_first = skips_first(targets, bos_token_id, as_hf)
    wanted = _wanted(options.grad, "logits")
    memory = None
    if "logits" in wanted:
        out = arrays.empty_logits(logits) if out is None else out
        memory = arrays.memory_of(out, "out", arrays.logits_type(values, is_bfloat16), shape)
        if np.may_share_memory(memory, values) and memory.ctypes.data != values.ctypes.data:
            raise ValueError("out: overlaps the logits; expected the logits themselves or memory apart from them")
    elif out is not None:
        raise ValueError('out: given, but grad does not ask for "logits", which would go there')
    loss, *others = _loss(
        by_token, values, is_bfloat16, doc_scores, tokens, smoothing, skip_first, wanted, memory, options
    )
    if not wanted and not options.return_posterior:
        return loss
    return NLL(loss, others[0], others[1], out)


def _from_logprobs(by_token: bool, token_logprobs: Any, doc_scores: Any, mask: Any, options: _Options) -> Any:
    values = arrays.plain(arrays.floats(token_logprobs, "token_logprobs"))
    shape = values.shape
    if len(shape) != 3 or shape[1] == 0:
        raise ValueError(f"token_logprobs: expected shape (B, K, T) with K of 1 or more, got {shape}")
    tokens = np.zeros((shape[0], shape[2]), np.int64)
    if mask is not None:
        scored = arrays.as_array(mask, "mask")
        if scored.dtype != np.bool_ and (scored.size or isinstance(mask, np.ndarray)):
            raise TypeError(f"mask: expected bool, True where a token is scored, got {scored.dtype}")
        if scored.shape != tokens.shape:
            expected = f"{tokens.shape}, as token_logprobs has shape {shape}"
            raise ValueError(f"mask: expected shape {expected}, got {scored.shape}")
        tokens[~scored.astype(np.bool_)] = -1
    wanted = _wanted(options.grad, "token_logprobs")
    loss, posterior, docs_grad, tokens_grad = _loss(
        by_token, values, False, doc_scores, tokens, 0.0, False, wanted, None, options
    )
    if not wanted and not options.return_posterior:
        return loss
    return NLL(loss, posterior, docs_grad, None, tokens_grad)


def _loss(
    by_token: bool,
    values: NDArray[Any],
    is_bfloat16: bool,
    doc_scores: Any,
    tokens: NDArray[np.int64],
    smoothing: float,
    skip_first: bool,
    wanted: frozenset[str],
    logits_grad: NDArray[Any] | None,
    options: _Options,
) -> tuple[Any, ...]:
    """The loss, the posterior, the gradients of doc_scores and of token_logprobs; values are logits (B,K,T,V) or
    token_logprobs (B,K,T), tokens (B,T) -1 where not scored."""
    wide = values.dtype.num == arrays.DOUBLE
    of_logits = values.ndim == 4
    scores = doc_scores_of(doc_scores, options.null_score, values.shape, "logits" if of_logits else "token_logprobs")
    temperature = arrays.finite_float(options.temperature, "temperature", above_zero=True)
    as_hf = is_hf(options.compat) and not by_token
    divisor = divisor_of(options.reduction, tokens, skip_first)
    nll, *others = _kernels.rag_nll(
        values if wide or of_logits else _kernels.widened(values),
        scores,
        tokens,
        None if divisor == 1 else np.full(len(tokens), 1 / divisor),
        None,
        logits_grad,
        is_bfloat16,
        by_token,
        as_hf,
        skip_first,
        False,
        bool(options.return_posterior),
        "doc_scores" in wanted,
        "token_logprobs" in wanted,
        temperature,
        smoothing,
        arrays.thread_count(options.n_threads),
    )
    if options.reduction == "none":
        loss = _result(nll, wide)
    else:
        total = functools.reduce(operator.add, nll.tolist(), 0.0)  # Python does not warn of an overflow
        loss = _result(np.array([total / divisor]), wide)[0]
    return loss, *(_result(other, wide) for other in others)


def _targets(x: Any, vocab: int, ignore_index: Any) -> NDArray[np.int64]:
    """Targets as plain int64, -1 where they are to be ignored, all others below V."""
    a = arrays.as_array(x, "targets")
    if a.dtype.kind not in "iu" and (a.size or isinstance(x, np.ndarray)):
        raise TypeError(f"targets: expected integers, got {a.dtype}")
    tokens = a.astype(np.int64, order="C")
    bad = tokens.view(np.uint64) >= vocab  # negative ones too, and what is above int64
    if ignore_index is not None:
        ignored = a == _integer(ignore_index, "ignore_index")
        bad &= ~ignored
        tokens[ignored] = -1
    if bad.any():
        at = tuple(np.argwhere(bad)[0].tolist())
        hint = f"; ignore_index={a[at]} leaves such positions out" if ignore_index is None and a[at] < 0 else ""
        raise ValueError(f"targets: expected 0 to {vocab - 1}, as V is {vocab}, got {a[at]} at {at}{hint}")
    return tokens


def targets_of_rows(x: Any, shape: tuple[int, ...], ignore_index: Any) -> NDArray[np.int64]:
    """One for each row of logits of that shape (...,T,V), flat, -1 where it is to be ignored."""
    tokens = _targets(x, shape[-1], ignore_index)
    try:
        return np.broadcast_to(tokens, shape[:-1]).ravel()
    except ValueError:
        expected = f"{shape[:-1]} or what broadcasts to it, as logits has shape {shape}"
        raise ValueError(f"targets: expected shape {expected}, got {tokens.shape}") from None


def targets_of_answers(x: Any, shape: tuple[int, ...], ignore_index: Any) -> NDArray[np.int64]:
    """(B,T) for logits of that shape (B,K,T,V), -1 where they are to be ignored."""
    tokens = _targets(x, shape[3], ignore_index)
    if tokens.shape != (shape[0], shape[2]):
        expected = f"({shape[0]}, {shape[2]}), as logits has shape {shape}"
        raise ValueError(f"targets: expected shape {expected}, got {tokens.shape}")
    return tokens


def skips_first(targets: Any, bos_token_id: Any, as_hf: bool) -> bool:
    """Whether position 0 is left out, as transformers does where all targets (B,T) there are that token."""
    if bos_token_id is None:
        return False
    if not as_hf:
        raise ValueError('bos_token_id: only rag_sequence_nll with compat="hf" leaves the first position out')
    first = arrays.as_array(targets, "targets")[:, :1]
    return first.size > 0 and bool((first == _integer(bos_token_id, "bos_token_id")).all())


def smoothing_of(x: Any) -> float:
    """A label_smoothing that is in range."""
    smoothing = arrays.finite_float(x, "label_smoothing", above_zero=False)
    if smoothing >= 1:
        raise ValueError(f"label_smoothing: expected a number from 0 to below 1, got {smoothing}")
    return smoothing


def is_hf(compat: Any) -> bool:
    """Whether it asks for the numbers of transformers."""
    arrays.one_of(compat, "compat", COMPATS)
    return bool(compat == "hf")


def doc_scores_of(x: Any, null_score: Any, shape: tuple[int, ...], name: str) -> NDArray[np.float64]:
    """(B,K) plain float64, the null document's score in the last column if there is one."""
    n_queries, n_docs = shape[:2]
    scores = arrays.doubles(x, "doc_scores")
    expected = (n_queries, n_docs if null_score is None else n_docs - 1)
    if scores.shape != expected:
        why = f"{name} has shape {shape}" + ("" if null_score is None else ", the null document last")
        raise ValueError(f"doc_scores: expected shape {expected}, as {why}, got {scores.shape}")
    if null_score is None:
        return scores
    is_number = isinstance(null_score, Real) and not isinstance(null_score, bool)
    null = arrays.doubles(float(null_score) if is_number else null_score, "null_score")
    if null.shape not in ((), (n_queries,)):
        raise ValueError(f"null_score: expected a number or shape ({n_queries},), got {null.shape}")
    both = np.empty((n_queries, n_docs))
    both[:, :-1] = scores
    both[:, -1] = null
    return both


def _wanted(grad: Any, name: str) -> frozenset[str]:
    if isinstance(grad, str) or not isinstance(grad, Collection):
        raise TypeError(f'grad: expected a collection of names, such as ["doc_scores"], got {grad!r}')
    for given in grad:
        if given not in ("doc_scores", name):
            raise ValueError(f'grad: expected names out of "doc_scores" and "{name}", got {given!r}')
    return frozenset(grad)


def divisor_of(reduction: Any, tokens: NDArray[np.int64], skip_first: bool) -> int:
    """What the sum over B is divided by."""
    arrays.one_of(reduction, "reduction", REDUCTIONS)
    if reduction == "mean":
        divisor, what = len(tokens), "answers (B is 0)"
    elif reduction == "token_mean":
        divisor, what = int(np.count_nonzero(tokens[:, int(skip_first) :] >= 0)), "tokens: none is scored"
    else:
        return 1
    if divisor == 0:
        raise ValueError(f"reduction: {reduction} over no {what}")
    return divisor


def _integer(x: Any, name: str) -> int:
    if isinstance(x, bool):
        raise TypeError(f"{name}: expected an integer, got bool")
    try:
        return operator.index(x)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(x).__name__}") from None


def _result(x: NDArray[np.float64] | None, wide: bool) -> Any:
    return x if wide or x is None else _kernels.narrowed(x)
