"""A step of RAG-Token decoding against the mixture in extended precision, at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import LEVELS, layouts
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

import ragfast
from ragfast import log_softmax, logsumexp, marginalize_step
from ragfast._core import _kernels, arrays

Array = NDArray[Any]
DTYPES = ["float64", "float32", "float16", "bfloat16"]
SIZES = [(1, 1), (1, 7), (2, 33), (5, 31), (5, 1024), (3, 1025), (9, 4099), (5, 50_265), (130, 40)]
MOST_ULPS = {np.float32: 4.0, np.float64: 4.0}
CANCELLED = 1e-15  # of the terms, where they cancel

pytestmark = LEVELS


def exact_step(logits: Array, docs: Array) -> Array:
    """The mixture (...,V); missing documents are left out."""
    x = logits.astype(np.longdouble)
    top = x.max(axis=-1, keepdims=True)
    logprobs = x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))
    joint = docs.astype(np.longdouble)[..., None] + logprobs
    joint[docs == -np.inf] = -np.inf
    top = joint.max(axis=-2, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        mixture: Array = (top + np.log(np.exp(joint - top).sum(axis=-2, keepdims=True)))[..., 0, :]
    return mixture


def errors_in_ulps(found: Array, exact: Array, terms: float) -> Array:
    """Of each entry, less what cancelling terms allow."""
    finite = np.isfinite(exact)
    assert (found[~finite] == exact[~finite]).all()
    rounded = np.abs(exact[finite]).astype(found.dtype)
    error = np.abs(found[finite].astype(np.longdouble) - exact[finite]) - CANCELLED * max(1.0, terms)
    return np.maximum(error, 0) / np.spacing(np.maximum(rounded, np.finfo(found.dtype).smallest_normal))


def as_dtype(x: Array, dtype: str) -> tuple[Array, Array, bool]:
    """x rounded to that type: as it is handed in, its values, and whether it is the bits of bfloat16."""
    if dtype == "bfloat16":
        bits = arrays.stored_rows(x.reshape(-1, x.shape[-1]).astype(np.float32), "x", None, dtype).reshape(x.shape)
        return bits, arrays.widen(bits, dtype), True
    given = x.astype(dtype)
    return given, given, False


@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(isa: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    worst = (0.0, "")
    for n_docs, vocab in SIZES:
        normal = rng.standard_normal((2, n_docs, vocab))
        docs = log_softmax(rng.standard_normal((2, n_docs)) * 2)
        peaks = np.arange(vocab) == (7 * np.arange(n_docs)[:, None] + 3) % vocab
        kinds = {
            "logits": 3 * normal,
            "flat": 0.01 * normal,
            "wide": 30 * normal,
            "equal": np.full(normal.shape, 1.1),
            "one ahead": np.where(peaks, 20.0, normal),
            "all ahead in one place": np.where(np.arange(vocab) == vocab // 2, 40.0, 3 * normal),
            "all but certain": np.where(np.arange(vocab) == 0, 0.0, -20 + normal),
            "far": 3 * normal + 20_000,
            "banned": np.where((rng.random(normal.shape) < 0.5) & (np.arange(vocab) > 0), -np.inf, normal),
        }
        if dtype != "float16":
            kinds["huge"] = np.clip(normal, -3, 3) * 1e37
        for name, x in kinds.items():
            logits, values, is_bfloat16 = as_dtype(x, dtype)
            found = _kernels.marginalize_step(logits, docs, is_bfloat16, 0, 1)
            assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
            terms = float(np.abs(values[np.isfinite(values)]).max()) + float(np.abs(docs).max())
            error = errors_in_ulps(found, exact_step(values, docs), terms).max()
            worst = max(worst, (float(error), f"{name}, K {n_docs}, V {vocab}"))
            if name != "huge":
                np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=-1), 1, rtol=2e-6)
    print(f"largest error of marginalize_step at {isa}, {dtype}: {worst[0]:.3f} ulp ({worst[1]})")
    assert worst[0] <= (MOST_ULPS[np.float64] if dtype == "float64" else MOST_ULPS[np.float32]), worst


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_document_is_log_softmax(dtype: type[Any]) -> None:
    rng = np.random.default_rng(4)
    for scale in (0.1, 3.0, 30.0):
        x = (scale * rng.standard_normal((3, 1, 5003))).astype(dtype)
        exact = log_softmax(x[:, 0].astype(np.float64))
        found = marginalize_step(x, np.zeros((3, 1)))
        assert errors_in_ulps(found, exact.astype(np.longdouble), 5 * scale).max() <= MOST_ULPS[dtype]
        np.testing.assert_allclose(logsumexp(found), 0, atol=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_documents_are_one(dtype: type[Any]) -> None:
    x = np.random.default_rng(5).standard_normal((1, 1000)).astype(dtype)
    many = marginalize_step(np.repeat(x, 7, axis=0), log_softmax(np.arange(7.0)))
    np.testing.assert_allclose(many, marginalize_step(x, np.zeros(1)), rtol=8 * np.finfo(dtype).eps)


def test_it_is_a_mixture_of_distributions_and_not_of_logits() -> None:
    """FlashRAG's REPLUGLogitsProcessor adds weighted logits, which is a product of experts."""
    logits = np.array([[8.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
    weights = np.array([0.6, 0.4])
    right = np.exp(marginalize_step(logits, np.log(weights)))
    np.testing.assert_allclose(right, weights @ np.exp(log_softmax(logits)), rtol=1e-12)
    wrong = np.exp(log_softmax(weights @ logits))
    assert 0.5 * np.abs(right - wrong).sum() > 0.2
    assert right[1] > 0.39 > 0.11 > wrong[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_missing_documents(dtype: str) -> None:
    rng = np.random.default_rng(6)
    logits, _, is_bfloat16 = as_dtype(rng.standard_normal((3, 4, 3000)), dtype)
    docs = log_softmax(rng.standard_normal((3, 4)))
    docs[0, [0, 2]] = -np.inf
    docs[1] = -np.inf
    nan = as_dtype(np.full((1, 1), np.nan), dtype)[0][0, 0]
    infinity = as_dtype(np.full((1, 1), np.inf), "float32" if dtype == "bfloat16" else dtype)[0][0, 0]
    logits[0, 0], logits[1, 1, ::2] = nan, nan
    if dtype != "bfloat16":
        logits[0, 2, 5] = infinity
    present = [1, 3]
    for n_best in (0, 4):
        found = _kernels.marginalize_step(logits, docs, is_bfloat16, n_best, 1)
        without = _kernels.marginalize_step(
            np.ascontiguousarray(logits[:1, present]), np.ascontiguousarray(docs[:1, present]), is_bfloat16, n_best, 1
        )
        if n_best == 0:
            np.testing.assert_allclose(found[0], without[0], rtol=1e-6)
            assert (found[1] == -np.inf).all()
            assert np.isfinite(found[2]).all()
        else:
            assert found[1][0].tolist() == without[1][0].tolist()
            assert (found[0][1] == -np.inf).all()
            assert found[1][1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_beam_that_is_no_distribution_is_nan(dtype: type[Any], bad: float) -> None:
    logits, docs = np.zeros((3, 2, 2500), dtype), np.log(np.full((3, 2), 0.5))
    logits[1, 1, 2000] = bad
    docs[2, 0] = bad
    found = marginalize_step(logits, docs)
    assert np.isnan(found).all(axis=1).tolist() == np.isnan(found).any(axis=1).tolist() == [False, True, True]
    values, tokens = marginalize_step(logits, docs, n_best=5)
    assert np.isnan(values[1:]).all()
    assert tokens.tolist() == [list(range(5))] * 3


def test_a_document_that_predicts_nothing_loses_its_share() -> None:
    logits = np.array([[0.0, 0.0], [-np.inf, -np.inf]])
    np.testing.assert_allclose(np.exp(marginalize_step(logits, np.log([0.25, 0.75]))), [0.125, 0.125], rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_best", [1, 2, 5, 1000, 2999, 3000])
def test_n_best_is_a_full_sort(dtype: str, n_best: int) -> None:
    rng = np.random.default_rng(7)
    docs = log_softmax(rng.standard_normal((2, 3)))
    rising = np.tile(np.linspace(-3, 3, 3000), (2, 3, 1))
    for x in (rng.standard_normal((2, 3, 3000)), rng.integers(0, 3, (2, 1, 3000)) + np.zeros((2, 3, 1)), rising):
        logits, _, is_bfloat16 = as_dtype(x, dtype)
        mixture = _kernels.marginalize_step(logits, docs, is_bfloat16, 0, 1)
        values, tokens = _kernels.marginalize_step(logits, docs, is_bfloat16, n_best, 1)
        order = np.argsort(-mixture, axis=-1, kind="stable")[:, :n_best]
        assert tokens.dtype == np.int64
        assert tokens.tolist() == order.tolist()
        assert values.tobytes() == np.take_along_axis(mixture, order, axis=-1).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_threads_change_no_bit(dtype: str, n: int) -> None:
    rng = np.random.default_rng(8)
    logits, _, is_bfloat16 = as_dtype(3 * rng.standard_normal((n, 3, 50_265)), dtype)
    docs = log_softmax(rng.standard_normal((n, 3)))
    docs[0, 1] = -np.inf
    results = []
    for n_threads in (1, 2, 3, 7):
        best = _kernels.marginalize_step(logits, docs, is_bfloat16, 9, n_threads)
        results.append([_kernels.marginalize_step(logits, docs, is_bfloat16, 0, n_threads), *best])
    for other in results[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in results[0]]
    if not is_bfloat16:
        assert marginalize_step(logits, docs, n_threads=2).tobytes() == results[0][0].tobytes()
        assert marginalize_step(logits, docs, n_best=9, n_threads=2)[1].tobytes() == results[0][2].tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_layouts(dtype: str) -> None:
    rng = np.random.default_rng(9)
    x, docs = rng.standard_normal((2, 3, 4, 1001)).astype(dtype), log_softmax(rng.standard_normal((2, 3, 4)))
    expected = marginalize_step(x, docs)
    assert expected.shape == (2, 3, 1001)
    for layout in layouts(x).values():
        assert marginalize_step(layout, docs).tobytes() == expected.tobytes()
    for given_docs in (np.asfortranarray(docs), docs.astype(docs.dtype.newbyteorder()), docs.tolist()):
        assert marginalize_step(x, given_docs).tobytes() == expected.tobytes()
    assert marginalize_step(x[1, 2], docs[1, 2]).tobytes() == expected[1, 2].tobytes()
    values, tokens = marginalize_step(x, docs, n_best=3)
    assert values.shape == tokens.shape == (2, 3, 3)
    single = marginalize_step(x, docs.astype(np.float32))
    assert single.tobytes() == marginalize_step(x, docs.astype(np.float32).astype(np.float64)).tobytes()
    empty = marginalize_step(x[:0], docs[:0], n_best=2)
    assert [a.shape for a in empty] == [(0, 3, 2)] * 2


def test_bfloat16_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(10).standard_normal((2, 3, 500)).astype(ml_dtypes.bfloat16)
    docs = log_softmax(np.zeros((2, 3)))
    found = marginalize_step(x, docs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, marginalize_step(x.astype(np.float32), docs), rtol=1e-6)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(1, 6),
    v=st.integers(1, 70),
    scale=st.floats(0.01, 50),
    shift=st.floats(-100, 100),
)
def test_properties(seed: int, k: int, v: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    logits, docs = scale * rng.standard_normal((k, v)), log_softmax(rng.standard_normal(k))
    mixture = marginalize_step(logits, docs)
    slack = 1e-13 * (100 + 10 * scale)
    assert logsumexp(mixture) == pytest.approx(0, abs=slack)
    np.testing.assert_allclose(marginalize_step(logits + shift, docs), mixture, rtol=1e-12, atol=slack)
    order = rng.permutation(k)
    np.testing.assert_allclose(marginalize_step(logits[order], docs[order]), mixture, rtol=1e-12, atol=slack)
    # What scoring says of a token is what a step says of it.
    by_token = ragfast.marginalize_token(docs, log_softmax(logits))
    np.testing.assert_allclose(mixture, by_token, rtol=1e-12, atol=slack)


def test_errors() -> None:
    x, docs = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3))
    for bad in (np.zeros((2, 3, 4), np.int32), np.zeros((2, 3, 4), bool), np.full((2, 3, 4), None)):
        with pytest.raises(TypeError, match=rf"^logits: expected float32, .* or bfloat16, got {bad.dtype}$"):
            marginalize_step(bad, docs)
    with pytest.raises(TypeError, match=r"^doc_logprobs: expected float32 or float64 .*, got int64$"):
        marginalize_step(x, np.zeros((2, 3), np.int64))
    for shape in ((2, 3), (3, 4), (3, 2, 4), (), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match=r"^logits: expected shape \(2, 3, V\), as doc_logprobs has .*, got"):
            marginalize_step(np.zeros(shape, np.float32), docs)
    with pytest.raises(ValueError, match=r"^doc_logprobs: expected shape \(\.\.\., K\), got \(\)$"):
        marginalize_step(np.zeros(3, np.float32), np.float64(0))
    for shape in ((2, 0, 4), (2, 3, 0)):
        with pytest.raises(ValueError, match=r"^logits: expected K and V of 1 or more in shape .*, got"):
            marginalize_step(np.zeros(shape, np.float32), np.zeros(shape[:2]))
    with pytest.raises(ValueError, match=r"^n_best: expected at most V, 4, got 5$"):
        marginalize_step(x, docs, n_best=5)
    with pytest.raises(ValueError, match=r"^n_best: expected 1 or more, got 0$"):
        marginalize_step(x, docs, n_best=0)
    with pytest.raises(TypeError, match=r"^n_best: expected an integer of 1 or more, got float$"):
        marginalize_step(x, docs, n_best=2.0)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"^n_threads: expected 1 or more, got 0$"):
        marginalize_step(x, docs, n_threads=0)
