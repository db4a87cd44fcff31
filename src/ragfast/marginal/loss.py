"""-log p(y|x) of RAG models (Lewis et al. 2020, section 2.1) from logits or token log-probabilities, with gradients.

An option of a loss has its type in a TypedDict (`LossOptions`, `LogitsOptions`, `LogprobsOptions`), and its default and
its check in the function that prepares the inputs (`inputs_from_logits`, `inputs_from_logprobs`). The losses of NumPy
arrays and those of torch tensors share both.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from ragfast._core import _kernels, arrays
from ragfast._core.arrays import ArrayLike
from ragfast._core.signatures import options_of, refuse_unknown

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
LogitsGrad: TypeAlias = Collection[Literal["doc_scores", "logits"]]
LogprobsGrad: TypeAlias = Collection[Literal["doc_scores", "token_logprobs"]]

REDUCTIONS = ("none", "sum", "mean", "token_mean")
COMPATS = ("paper", "hf")


class CommonOptions(TypedDict, total=False):
    """Options of every loss over documents. The functions that use them have their defaults."""

    temperature: float
    reduction: Reduction
    n_threads: int | None


class LossOptions(CommonOptions, total=False):
    """Options of the four RAG losses."""

    compat: Compat
    null_score: ArrayLike | None


class LogitsOptions(LossOptions, total=False):
    """Options of the losses from logits."""

    ignore_index: int | None
    label_smoothing: float
    bos_token_id: int | None


class LogprobsOptions(LossOptions, total=False):
    """Options of the losses from log-probabilities."""

    mask: ArrayLike | None


class _TargetOptions(TypedDict, total=False):
    ignore_index: int | None
    n_threads: int | None


@dataclass(frozen=True, slots=True, eq=False)
class NLL:
    """A loss and what was asked for with it; a field that was not asked for is None.

    Gradients are of the loss, or of its sum if it is not reduced. With a null document, K counts it too and its column
    is the last one.

    Attributes
    ----------
    loss : NumPy scalar, or ndarray of shape (B,) if it is not reduced
    posterior : ndarray of shape (B, K), or (B, K, T) for RAG-Token
        p(z|x,y), or p(z | x, y_t, y_<t) for RAG-Token. It sums to 1 over K. It is 0 where no document can give the
        answer, or where the position is not scored.
    doc_scores_grad : ndarray of shape (B, K)
    logits_grad : ndarray or torch.Tensor of shape (B, K, T, V)
    token_logprobs_grad : ndarray of shape (B, K, T)
    """

    loss: Any
    posterior: NDArray[Any] | None = None
    doc_scores_grad: NDArray[Any] | None = None
    logits_grad: Any = None
    token_logprobs_grad: NDArray[Any] | None = None


class LossFromLogits(Protocol):
    """The type of the losses from logits."""

    __name__: str

    @overload
    def __call__(
        self,
        logits: ArrayLike,
        doc_scores: ArrayLike,
        targets: ArrayLike,
        *,
        grad: LogitsGrad = ...,
        return_posterior: Literal[True],
        out: Any = ...,
        **options: Unpack[LogitsOptions],
    ) -> NLL: ...
    @overload
    def __call__(
        self,
        logits: ArrayLike,
        doc_scores: ArrayLike,
        targets: ArrayLike,
        *,
        grad: LogitsGrad = ...,
        return_posterior: bool = ...,
        out: Any = ...,
        **options: Unpack[LogitsOptions],
    ) -> Any: ...


class LossFromLogprobs(Protocol):
    """The type of the losses from log-probabilities."""

    __name__: str

    @overload
    def __call__(
        self,
        token_logprobs: ArrayLike,
        doc_scores: ArrayLike,
        *,
        grad: LogprobsGrad = ...,
        return_posterior: Literal[True],
        **options: Unpack[LogprobsOptions],
    ) -> NLL: ...
    @overload
    def __call__(
        self,
        token_logprobs: ArrayLike,
        doc_scores: ArrayLike,
        *,
        grad: LogprobsGrad = ...,
        return_posterior: bool = ...,
        **options: Unpack[LogprobsOptions],
    ) -> Any: ...


@overload
def target_logprobs(
    logits: ArrayLike, targets: ArrayLike, *, return_sums: Literal[True], **options: Unpack[_TargetOptions]
) -> tuple[Any, Any]: ...
@overload
def target_logprobs(
    logits: ArrayLike, targets: ArrayLike, *, return_sums: bool = False, **options: Unpack[_TargetOptions]
) -> Any: ...
def target_logprobs(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int | None = None,
    return_sums: bool = False,
    n_threads: int | None = None,
) -> Any:
    """Return the log-probabilities of target tokens: the log-softmax of logits, at the targets only.

    The logits are read once, and no array of their size is allocated. They are copied only if they are not contiguous.

    Parameters
    ----------
    logits : array_like of shape (..., T, V)
        float32, float64, float16 or bfloat16, from NumPy, ml_dtypes or torch.
    targets : array_like of int, broadcast to shape (..., T)
        Tokens from 0 to V - 1, or `ignore_index`.
    ignore_index : int, optional
        Where a target is this number, the result is 0 and the row of logits is not read.
    return_sums : bool, default False
        Return sum_v log p(v) too.
    n_threads : int, optional
        See :func:`ragfast.set_num_threads`. It changes no bit.

    Returns
    -------
    logprobs : ndarray of shape (..., T)
        float64 for float64 logits, else float32 within 2 units in the last place, also near 0.
    sums : ndarray of shape (..., T)
        Only with `return_sums`.

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For shapes that do not go together, for V of 0, or for a target out of range.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> ragfast.target_logprobs(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), [0, 2]).round(4).tolist()
    [-0.6931, -0.2231]
    """
    values, is_bfloat16 = arrays.logits(logits)
    shape = values.shape
    tokens = targets_of_rows(targets, shape, ignore_index)
    logprobs, _, sums = _kernels.target_logprobs(
        values.reshape(len(tokens), shape[-1]),
        tokens,
        is_bfloat16,
        False,
        bool(return_sums),
        arrays.thread_count(n_threads),
    )
    is_double = values.dtype.num == arrays.DOUBLE
    logprobs = _result(logprobs.reshape(shape[:-1]), is_double)[()]
    return logprobs if sums is None else (logprobs, _result(sums.reshape(shape[:-1]), is_double)[()])


# ---- inputs of a loss


class LossInputs(NamedTuple):
    """The checked inputs of a loss, except the logits or log-probabilities themselves."""

    by_token: bool
    targets: NDArray[np.int64]  # (B,T), -1 where a position is not scored
    doc_scores: NDArray[np.float64]  # (B,K), with the null document
    divisor: int | None  # of the sum over B, None where it is not reduced
    as_hf: bool
    skip_first: bool
    temperature: float
    label_smoothing: float
    n_threads: int

    def run(
        self,
        scores: NDArray[Any],
        is_bfloat16: bool,
        doc_scores: NDArray[np.float64],
        weights: NDArray[np.float64] | None,
        *,
        lse: NDArray[np.float64] | None = None,
        lse_known: bool = False,
        logits_grad: NDArray[Any] | None = None,
        with_posterior: bool = False,
        with_docs_grad: bool = False,
        with_tokens_grad: bool = False,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Return the losses (B,), the posterior, and the gradients of doc_scores and of token_logprobs.

        The scores are logits (B,K,T,V), or token_logprobs (B,K,T) in float64.
        """
        return _kernels.rag_nll(
            scores,
            doc_scores,
            self.targets,
            weights,
            lse,
            logits_grad,
            is_bfloat16,
            self.by_token,
            self.as_hf,
            self.skip_first,
            lse_known,
            with_posterior,
            with_docs_grad,
            with_tokens_grad,
            self.temperature,
            self.label_smoothing,
            self.n_threads,
        )


def _loss_inputs(
    by_token: bool,
    shape: tuple[int, ...],
    doc_scores: Any,
    tokens: NDArray[np.int64],
    label_smoothing: float,
    targets: Any,
    bos_token_id: int | None,
    /,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    compat: Compat = "paper",
    null_score: ArrayLike | None = None,
    n_threads: int | None = None,
    **unknown: Any,
) -> LossInputs:
    """Check what all losses have; tokens (B,T) are the targets, -1 where a position is not scored."""
    of_logits = len(shape) == 4
    if unknown:
        refuse_unknown(unknown, f"rag_{'token' if by_token else 'sequence'}_nll{'' if of_logits else '_from_logprobs'}")
    arrays.one_of(compat, "compat", COMPATS)
    as_hf = compat == "hf" and not by_token  # RAG-Token of Hugging Face is that of the paper
    skip_first = bos_token_id is not None and _skips_first(targets, bos_token_id, as_hf)
    return LossInputs(
        by_token,
        tokens,
        _doc_scores(doc_scores, null_score, shape, "logits" if of_logits else "token_logprobs"),
        _divisor(reduction, tokens, skip_first),
        as_hf,
        skip_first,
        arrays.finite_float(temperature, "temperature", above_zero=True),
        label_smoothing,
        arrays.thread_count(n_threads),
    )


@options_of(_loss_inputs)
def inputs_from_logits(
    by_token: bool,
    shape: tuple[int, ...],
    doc_scores: Any,
    targets: Any,
    /,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    bos_token_id: int | None = None,
    **options: Unpack[LossOptions],
) -> LossInputs:
    """Check the inputs of a loss from logits of this shape."""
    if len(shape) != 4 or shape[1] == 0 or shape[3] == 0:
        raise ValueError(f"logits: expected shape (B, K, T, V) with K and V of 1 or more, got {shape}")
    tokens = _targets(targets, shape[3], ignore_index)
    if tokens.shape != (shape[0], shape[2]):
        expected = f"({shape[0]}, {shape[2]}), as logits has shape {shape}"
        raise ValueError(f"targets: expected shape {expected}, got {tokens.shape}")
    smoothing = arrays.finite_float(label_smoothing, "label_smoothing", above_zero=False)
    if smoothing >= 1:
        raise ValueError(f"label_smoothing: expected a number from 0 to below 1, got {smoothing}")
    return _loss_inputs(by_token, shape, doc_scores, tokens, smoothing, targets, bos_token_id, **options)


@options_of(_loss_inputs)
def inputs_from_logprobs(
    by_token: bool,
    shape: tuple[int, ...],
    doc_scores: Any,
    /,
    *,
    mask: ArrayLike | None = None,
    **options: Unpack[LossOptions],
) -> LossInputs:
    """Check the inputs of a loss from token_logprobs of this shape."""
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
    return _loss_inputs(by_token, shape, doc_scores, tokens, 0.0, None, None, **options)


# ---- losses


def _loss_from_logits(function: Callable[..., Any]) -> LossFromLogits:
    return cast(LossFromLogits, options_of(inputs_from_logits)(function))


def _loss_from_logprobs(function: Callable[..., Any]) -> LossFromLogprobs:
    return cast(LossFromLogprobs, options_of(inputs_from_logprobs)(function))


@_loss_from_logits
def rag_sequence_nll(
    logits: ArrayLike,
    doc_scores: ArrayLike,
    targets: ArrayLike,
    *,
    grad: LogitsGrad = (),
    return_posterior: bool = False,
    out: Any = None,
    **options: Any,
) -> Any:
    """Return the negative log-likelihood of answers under RAG-Sequence, from logits.

    The loss of an answer is -log p(y|x) = -log sum_z p(z|x) prod_t p(y_t | x, z, y_<t), with p(z|x) =
    softmax(doc_scores / temperature) over K documents. The logits are read once; their gradient needs a second pass.
    They are copied only if they are not contiguous.

    Parameters
    ----------
    logits : array_like of shape (B, K, T, V), or (B, K + 1, T, V) with `null_score`
        ``logits[b, k, t]`` predicts ``targets[b, t]``; nothing is shifted. float32, float64, float16 or bfloat16, from
        NumPy, ml_dtypes or torch. T may be 0.
    doc_scores : array_like of shape (B, K)
        float32 or float64. A missing document has -inf, and its logits are not read.
    targets : array_like of int of shape (B, T)
        Tokens from 0 to V - 1, or `ignore_index`.
    grad : collection of {"doc_scores", "logits"}, default ()
        The gradients to return.
    return_posterior : bool, default False
        Return p(z|x,y) too.
    out : ndarray or torch.Tensor, optional
        Contiguous memory for the gradient of the logits, of their shape and dtype. The logits themselves are allowed;
        they are then overwritten.
    ignore_index : int, optional
        A target of this number is not scored.
    label_smoothing : float, default 0.0
        From 0 to below 1. With e the loss is (1 - e) nll + e times the nll of an answer of which each token has the
        mean over v of log p(v).
    temperature : float, default 1.0
        Divides `doc_scores`.
    reduction : {"mean", "none", "sum", "token_mean"}, default "mean"
        "none" returns (B,), "mean" divides the sum by B, "token_mean" by the number of scored tokens.
    compat : {"paper", "hf"}, default "paper"
        "hf" returns the numbers of transformers' ``RagSequenceForGeneration.get_nll``. It adds log p(z|x) at position 1
        only, so not at all if that position is not scored or T is 1; in label smoothing it adds it V times. Its
        ``reduce_loss`` is reduction "sum".
    bos_token_id : int, optional
        With compat "hf", position 0 is skipped, except in label smoothing, if every target there is this token
        (``exclude_bos_score``).
    null_score : float or array_like of shape (B,), optional
        Score of the null document, which is the generator without any document [2]_ [3]_. It is the last document of
        the logits.
    n_threads : int, optional
        See :func:`ragfast.set_num_threads`. It changes no bit.

    Returns
    -------
    loss : NumPy scalar, ndarray of shape (B,) or NLL
        An :class:`NLL` with `grad` or `return_posterior`. The loss, the posterior and the gradient of `doc_scores` are
        float64 for float64 logits, else float32. The gradient of the logits has their dtype and is a torch tensor if
        they are. If no document can give an answer, or if all its documents are missing, its loss is +inf and its
        gradients and posterior are 0.

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For shapes that do not go together, for K or V of 0, for a target or a number out of range, or for a mean over
        nothing.

    References
    ----------
    .. [1] Lewis et al. 2020, Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks, section 2.1.
    .. [2] Guu et al. 2020, REALM: Retrieval-Augmented Language Model Pre-Training.
    .. [3] Lewis et al. 2020, appendix F.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> logits = np.log([[[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]]])  # (1,2,2,3)
    >>> nll = ragfast.rag_sequence_nll(logits, [[0.0, 0.0]], [[0, 2]], grad=["doc_scores"], return_posterior=True)
    >>> round(float(np.exp(-nll.loss)), 4), nll.posterior.round(4).tolist(), nll.doc_scores_grad.round(4).tolist()
    (0.24, [[0.8333, 0.1667]], [[-0.3333, 0.3333]])
    """
    return _from_logits(False, logits, doc_scores, targets, grad, return_posterior, out, options)


@_loss_from_logits
def rag_token_nll(
    logits: ArrayLike,
    doc_scores: ArrayLike,
    targets: ArrayLike,
    *,
    grad: LogitsGrad = (),
    return_posterior: bool = False,
    out: Any = None,
    **options: Any,
) -> Any:
    """Return the negative log-likelihood of answers under RAG-Token, from logits.

    The loss of an answer is -log p(y|x) = -sum_t log sum_z p(z|x) p(y_t | x, z, y_<t), with p(z|x) = softmax(doc_scores
    / temperature). Parameters, results and errors are those of :func:`rag_sequence_nll`, except:

    - The posterior is p(z | x, y_t, y_<t), of shape (B, K, T).
    - With label smoothing e the loss is the cross-entropy (1 - e) nll - (e/V) sum_t sum_v log sum_z p(z|x) p(v | x, z,
      y_<t).
    - transformers' ``RagTokenForGeneration.get_nll`` returns the same numbers, so `compat` changes nothing. It has no
      `bos_token_id`, which is refused.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> logits = np.log([[[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]]])  # (1,2,2,3)
    >>> nll = ragfast.rag_token_nll(logits, [[0.0, 0.0]], [[0, 2]])
    >>> round(float(np.exp(-nll)), 4)
    0.21
    """
    return _from_logits(True, logits, doc_scores, targets, grad, return_posterior, out, options)


@_loss_from_logprobs
def rag_sequence_nll_from_logprobs(
    token_logprobs: ArrayLike,
    doc_scores: ArrayLike,
    *,
    grad: LogprobsGrad = (),
    return_posterior: bool = False,
    **options: Any,
) -> Any:
    """Return the negative log-likelihood of answers under RAG-Sequence, from log-probabilities of their tokens.

    Use it for models that return log-probabilities. Options, results and errors are those of :func:`rag_sequence_nll`,
    except:

    Parameters
    ----------
    token_logprobs : array_like of shape (B, K, T)
        log p(y_t | x, z, y_<t), float32 or float64. Results are float64 for float64.
    doc_scores : array_like of shape (B, K)
        float32 or float64. A missing document has -inf, and its log-probabilities are not read.
    mask : array_like of bool of shape (B, T), optional
        True where a token is scored, by default everywhere. Elsewhere the log-probabilities are not read.
    grad : collection of {"doc_scores", "token_logprobs"}, default ()
        The gradients to return.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> nll = ragfast.rag_sequence_nll_from_logprobs(np.log([[[0.5, 0.8], [0.2, 0.4]]]), [[0.0, 0.0]])
    >>> round(float(np.exp(-nll)), 4)
    0.24
    """
    return _from_logprobs(False, token_logprobs, doc_scores, grad, return_posterior, options)


@_loss_from_logprobs
def rag_token_nll_from_logprobs(
    token_logprobs: ArrayLike,
    doc_scores: ArrayLike,
    *,
    grad: LogprobsGrad = (),
    return_posterior: bool = False,
    **options: Any,
) -> Any:
    """Return the negative log-likelihood of answers under RAG-Token, from log-probabilities of their tokens.

    Parameters are those of :func:`rag_sequence_nll_from_logprobs`, results those of :func:`rag_token_nll`.

    Examples
    --------
    >>> import numpy as np, ragfast
    >>> nll = ragfast.rag_token_nll_from_logprobs(np.log([[[0.5, 0.8], [0.2, 0.4]]]), [[0.0, 0.0]])
    >>> round(float(np.exp(-nll)), 4)
    0.21
    """
    return _from_logprobs(True, token_logprobs, doc_scores, grad, return_posterior, options)


def _from_logits(
    by_token: bool,
    logits: Any,
    doc_scores: Any,
    targets: Any,
    grad: Any,
    return_posterior: bool,
    out: Any,
    options: dict[str, Any],
) -> Any:
    scores, is_bfloat16 = arrays.logits(logits)
    inputs = inputs_from_logits(by_token, scores.shape, doc_scores, targets, **options)
    wanted = _wanted(grad, "logits")
    memory = None
    if "logits" in wanted:
        out = arrays.empty_logits(logits) if out is None else out
        memory = arrays.memory_of(out, "out", arrays.logits_type(scores, is_bfloat16), scores.shape)
        if np.may_share_memory(memory, scores) and memory.ctypes.data != scores.ctypes.data:
            raise ValueError("out: overlaps the logits; expected the logits themselves or memory apart from them")
    elif out is not None:
        raise ValueError('out: given, but grad does not ask for "logits", which would go there')
    return _nll(inputs, scores, is_bfloat16, wanted, return_posterior, memory, out)


def _from_logprobs(
    by_token: bool, token_logprobs: Any, doc_scores: Any, grad: Any, return_posterior: bool, options: dict[str, Any]
) -> Any:
    scores = arrays.plain(arrays.floats(token_logprobs, "token_logprobs"))
    inputs = inputs_from_logprobs(by_token, scores.shape, doc_scores, **options)
    return _nll(inputs, scores, False, _wanted(grad, "token_logprobs"), return_posterior)


def _nll(
    inputs: LossInputs,
    scores: NDArray[Any],
    is_bfloat16: bool,
    wanted: frozenset[str],
    return_posterior: bool,
    memory: NDArray[Any] | None = None,
    out: Any = None,
) -> Any:
    """Return the loss of plain logits (B,K,T,V) or token_logprobs (B,K,T); memory, a view of out, is for the gradient
    of logits."""
    is_double = scores.dtype.num == arrays.DOUBLE
    divisor = inputs.divisor
    nll, posterior, docs_grad, tokens_grad = inputs.run(
        scores if is_double or scores.ndim == 4 else _kernels.widened(scores),
        is_bfloat16,
        inputs.doc_scores,
        None if divisor is None or divisor == 1 else np.full(len(scores), 1 / divisor),
        logits_grad=memory,
        with_posterior=bool(return_posterior),
        with_docs_grad="doc_scores" in wanted,
        with_tokens_grad="token_logprobs" in wanted,
    )
    if divisor is None:
        loss = _result(nll, is_double)
    else:
        total = functools.reduce(operator.add, nll.tolist(), 0.0)  # Python does not warn of an overflow
        loss = _result(np.array([total / divisor]), is_double)[0]
    if not wanted and not return_posterior:
        return loss
    return NLL(loss, _result(posterior, is_double), _result(docs_grad, is_double), out, _result(tokens_grad, is_double))


# ---- checks


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
    if not shape or shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., T, V) with V of 1 or more, got {shape}")
    tokens = _targets(x, shape[-1], ignore_index)
    try:
        return np.broadcast_to(tokens, shape[:-1]).ravel()
    except ValueError:
        expected = f"{shape[:-1]} or what broadcasts to it, as logits has shape {shape}"
        raise ValueError(f"targets: expected shape {expected}, got {tokens.shape}") from None


def _skips_first(targets: Any, bos_token_id: Any, as_hf: bool) -> bool:
    """Whether position 0 is skipped, as transformers does if all targets (B,T) there are this token."""
    if not as_hf:
        raise ValueError('bos_token_id: only rag_sequence_nll with compat="hf" leaves the first position out')
    first = arrays.as_array(targets, "targets")[:, :1]
    return first.size > 0 and bool((first == _integer(bos_token_id, "bos_token_id")).all())


def _doc_scores(x: Any, null_score: Any, shape: tuple[int, ...], name: str) -> NDArray[np.float64]:
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
    if type(grad) is tuple and not grad:  # the default; to ask the abstract class takes longer
        return frozenset()
    if isinstance(grad, str) or not isinstance(grad, Collection):
        raise TypeError(f'grad: expected a collection of names, such as ["doc_scores"], got {grad!r}')
    for given in grad:
        if given not in ("doc_scores", name):
            raise ValueError(f'grad: expected names out of "doc_scores" and "{name}", got {given!r}')
    return frozenset(grad)


def _divisor(reduction: Any, tokens: NDArray[np.int64], skip_first: bool) -> int | None:
    """What the sum over B is divided by, or None where there is no sum."""
    arrays.one_of(reduction, "reduction", REDUCTIONS)
    if reduction == "mean":
        divisor, what = len(tokens), "answers (B is 0)"
    elif reduction == "token_mean":
        divisor, what = int(np.count_nonzero(tokens[:, int(skip_first) :] >= 0)), "tokens: none is scored"
    else:
        return 1 if reduction == "sum" else None
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


def _result(x: NDArray[np.float64] | None, is_double: bool) -> Any:
    return x if is_double or x is None else _kernels.narrowed(x)
