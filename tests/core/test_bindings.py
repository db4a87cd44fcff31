"""What the border takes as documents and codes: nothing that C would read beyond, or read as something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ragfast._core import _kernels
from ragfast.index.quantizer import Quantizer

DOUBLE = np.dtype(np.float64).num
VECTORS = np.random.default_rng(0).standard_normal((70, 20)).astype(np.float32)
HALVES = _kernels.measure_rows(VECTORS, False, True, 1)[1]


def codes_of(n: int, prefix: int = 0) -> _kernels.Codes:
    return Quantizer(prefix=prefix).new_codes(n, 20, True)


@pytest.mark.parametrize("wrong", [None, VECTORS, 1])
@pytest.mark.parametrize("first", [True, False])
def test_only_docs_are_searched(wrong: Any, first: bool) -> None:
    docs = _kernels.Docs(VECTORS)
    with pytest.raises(TypeError, match="docs: expected segments"):
        _kernels.search(VECTORS[:1], (wrong, docs) if first else (docs, wrong), 1, 1.0, 1, DOUBLE)


def test_what_is_made_is_not_made_again() -> None:
    """It would have another size under those who read it."""
    codes = codes_of(70)
    codes.encode(VECTORS, 0, False, 1)
    docs = _kernels.Docs(VECTORS, _kernels.measure_rows(VECTORS, False, False, 1)[0], codes=codes)
    with pytest.raises(TypeError, match="codes:"):
        codes.__init__(1, 20, None, None, None, 0.0, 0, True)  # type: ignore[misc]
    with pytest.raises(TypeError, match="docs:"):
        docs.__init__(VECTORS[:1])  # type: ignore[misc]
    with pytest.raises(TypeError, match="docs:"):
        docs.changed().__init__(VECTORS[:1])  # type: ignore[misc]
    assert codes.n_docs == len(docs) == 70
    assert _kernels.search(VECTORS[69:], (docs,), 1, 1.0, 1, DOUBLE).ids.tolist() == [[69]]
    over = _kernels.Codes.over(*codes.planes, None, None, None, 0.0, 0, True)
    with pytest.raises(TypeError, match="codes:"):
        over.__init__(1, 20, None, None, None, 0.0, 0, True)  # type: ignore[misc]


def test_empty_planes_with_a_prefix() -> None:
    planes = codes_of(0, 16).planes
    over = _kernels.Codes.over(*planes, None, None, None, 0.0, 16, True)
    hits = _kernels.search(VECTORS[:1], (_kernels.Docs(VECTORS[:0], codes=over),), 1, 1.0, 1, DOUBLE)
    assert (over.n_docs, over.prefix, hits.ids.tolist()) == (0, 16, [[-1]])
    with pytest.raises(ValueError, match="a multiple of 16"):
        _kernels.Codes.over(*planes, None, None, None, 0.0, 8, True)
    with pytest.raises(ValueError, match="below D"):
        codes_of(0, 32)


def test_codes_of_fewer_documents_than_there_are() -> None:
    codes = codes_of(70)
    with pytest.raises(ValueError, match="expected 70 documents or more to be encoded, got 0"):
        _kernels.Docs(VECTORS, codes=codes)
    codes.encode(VECTORS[:40], 0, False, 1)
    assert (codes.n_encoded, codes.half_squares) == (40, False)
    older = _kernels.Docs(VECTORS[:40], codes=codes)
    with pytest.raises(ValueError, match="expected 70 documents or more to be encoded, got 40"):
        _kernels.Docs(VECTORS, codes=codes)
    with pytest.raises(ValueError, match="first: expected at most 40"):
        codes.encode(VECTORS, 41, False, 1)
    codes.encode(VECTORS, 40, False, 1)
    assert codes.n_encoded == len(_kernels.Docs(VECTORS, codes=codes)) == 70
    codes.encode(VECTORS[:10], 0, False, 1)
    assert codes.n_encoded == 70
    assert len(older.changed(allowed=None)) == 40


def test_codes_of_another_metric() -> None:
    codes, squared = codes_of(70), codes_of(70)
    codes.encode(VECTORS, 0, False, 1)
    squared.encode(VECTORS, 0, False, 1, HALVES)
    assert squared.half_squares
    with pytest.raises(ValueError, match="encoded with half_squares"):
        _kernels.Docs(VECTORS, codes=codes, half_squares=HALVES)
    with pytest.raises(ValueError, match="encoded without half_squares"):
        _kernels.Docs(VECTORS, codes=squared)
    with pytest.raises(ValueError, match="half_squares: expected some"):
        squared.encode(VECTORS, 0, False, 1)
    with pytest.raises(ValueError, match="half_squares: expected none"):
        codes.encode(VECTORS, 0, False, 1, HALVES)
    for whole, squares in ((codes, None), (squared, HALVES)):
        over = _kernels.Codes.over(*whole.planes, None, None, None, 0.0, 0, True, squares is not None)
        assert over.n_encoded == over.n_docs == 96
        assert len(_kernels.Docs(VECTORS, codes=over, half_squares=squares)) == 70
        with pytest.raises(ValueError, match="half_squares"):
            _kernels.Docs(VECTORS, codes=over, half_squares=HALVES if squares is None else None)


FLOAT32, FLOAT64, INT64 = (np.zeros(6, dtype) for dtype in (np.float32, np.float64, np.int64))
LOGITS = FLOAT32.reshape(2, 3)
RIGHT_CALLS: dict[str, tuple[Any, ...]] = {
    "narrowed": (FLOAT64,),
    "widened": (FLOAT32,),
    "logsumexp": (FLOAT32, 1),
    "log_softmax": (FLOAT32, 1),
    "target_logprobs": (LOGITS, INT64[:2], False, True, True, 1),
    "target_grad": (LOGITS.copy(), LOGITS, INT64[:2], FLOAT64[:2], FLOAT64[:2], FLOAT64[:2], False, 1),
    "rag_nll": (
        *(np.zeros((2, 2, 2, 3), np.float32), np.zeros((2, 2)), np.zeros((2, 2), np.int64), FLOAT64[:2]),
        *(np.zeros((2, 2, 2)), np.zeros((2, 2, 2, 3), np.float32)),
        *(False, False, False, False, False, True, True, False, 1.0, 0.0, 1),
    ),
    "marginalize_step": (LOGITS, FLOAT64[:2], False, 0, 1),
    "kl": (FLOAT64, FLOAT64, 1.0, 1.0, True, True, 1),
    "segment_logsumexp": (FLOAT64, INT64, 2, 1),
    "gather_scores": (LOGITS, LOGITS, INT64[:4].reshape(2, 2), 1, DOUBLE, False),
    "gather_scores_grad": (FLOAT64[:4].reshape(2, 2), LOGITS, INT64[:4].reshape(2, 2), 1, DOUBLE, False),
    "merge_topk": (FLOAT64.reshape(2, 1, 3), INT64.reshape(2, 1, 3), 2),
}


def wrong_arrays(right: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Arrays that C would read beyond, or as something else, in the place of this one."""
    swapped = right.astype(right.dtype.newbyteorder())
    spread = np.zeros((*right.shape[:-1], 2 * right.shape[-1]), right.dtype)[..., ::2]
    misaligned = np.zeros(right.nbytes + 1, np.uint8)[1:].view(right.dtype).reshape(right.shape)
    return [right.astype(np.int8), right.astype(np.complex128), right[..., 0][()], swapped, spread, misaligned]


@pytest.mark.parametrize("name", RIGHT_CALLS)
def test_arrays_that_c_cannot_read_are_refused(name: str) -> None:
    call, right = getattr(_kernels, name), RIGHT_CALLS[name]
    call(*right)
    for i, argument in enumerate(right):
        if not isinstance(argument, np.ndarray):
            continue
        for wrong in wrong_arrays(argument):
            if wrong.shape != argument.shape and argument.ndim == 1 and len(right) < 3:
                wrong = np.asarray(0, np.int16)  # any number of axes is right, but of these floats only
            with pytest.raises((ValueError, TypeError)):
                call(*right[:i], wrong, *right[i + 1 :])
        if sum(isinstance(x, np.ndarray) for x in right) > 1 and (name[:6], i) != ("gather", 1):  # N may be anything
            with pytest.raises(ValueError, match=r"fit|must be"):
                call(*right[:i], argument[:-1], *right[i + 1 :])  # shorter than the others say
