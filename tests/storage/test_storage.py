"""float16 and bfloat16 as what an index stores: rounding on the way in, exact values on the way out."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

from ragfast import FlatIndex
from ragfast._core import arrays

ALL_BITS = np.arange(2**16, dtype=np.uint16)
HALVES = ("float16", "bfloat16")


def value_of(bits: int, storage: str) -> float:
    """From the definition of the formats: (-1)^sign 2^exponent 1.fraction, below the least exponent 0.fraction."""
    exponent_bits, fraction_bits = (5, 10) if storage == "float16" else (8, 7)
    sign = -1.0 if bits >> 15 else 1.0
    exponent, fraction = bits >> fraction_bits & (2**exponent_bits - 1), bits & (2**fraction_bits - 1)
    if exponent == 2**exponent_bits - 1:
        return np.nan if fraction else sign * np.inf
    least = 2 - 2 ** (exponent_bits - 1)
    whole = 2**fraction_bits if exponent else 0
    return sign * float(np.ldexp(whole + fraction, max(exponent - 1, 0) + least - fraction_bits))


def values(storage: str) -> NDArray[np.float64]:
    return np.array([value_of(b, storage) for b in range(2**16)])


@pytest.mark.parametrize("storage", HALVES)
def test_all_patterns_widen_to_their_values(storage: str) -> None:
    wide = arrays.widen(ALL_BITS.reshape(-1, 16), storage)
    assert (wide.dtype, wide.shape) == (np.float32, (4096, 16))
    expected = values(storage)
    wide = wide.ravel()
    numbers = ~np.isnan(expected)
    assert wide[numbers].astype(np.float64).tobytes() == expected[numbers].tobytes()
    assert np.isnan(wide[~numbers]).all()
    every_other = arrays.widen(ALL_BITS[::2].reshape(-1, 16), storage).ravel()
    np.testing.assert_array_equal(every_other, wide[::2])


def test_float32_widens_to_itself() -> None:
    rows = np.ones((2, 3), np.float32)
    assert arrays.widen(rows, "float32") is rows


@pytest.mark.parametrize("storage", HALVES)
def test_all_patterns_survive(storage: str) -> None:
    """What a 16-bit type holds is stored with the same bits, as float32 or as itself; a NaN stays one."""
    numbers = ALL_BITS[np.isfinite(values(storage))]
    wide = arrays.widen(numbers, storage)
    assert arrays.stored_rows(wide[:, None], "x", 1, storage).tobytes() == numbers.tobytes()
    every = arrays.widen(arrays.stored_rows(arrays.widen(ALL_BITS, storage)[:, None], "x", 1, storage), storage)
    np.testing.assert_array_equal(every.ravel(), arrays.widen(ALL_BITS, storage))
    nans = np.array([0x7F800001, 0xFF800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(arrays.widen(arrays.stored_rows(nans[:, None], "x", 1, storage), storage)).all()


@pytest.mark.parametrize("storage", HALVES)
def test_rounds_to_nearest_and_ties_to_even(storage: str) -> None:
    """Between every two neighbours: the midpoint goes to the even one, what is beside the midpoint to the nearer."""
    positive = np.arange(np.flatnonzero(~np.isfinite(values(storage)))[0], dtype=np.uint16)
    lower, upper = positive[:-1], positive[1:]
    middle = ((arrays.widen(lower, storage).astype(np.float64) + arrays.widen(upper, storage)) / 2).astype(
        np.float32
    )  # exact: one bit more than the type has
    for sign in (0, 0x8000):
        signed = middle * np.float32(-1 if sign else 1)
        for x, expected in (
            (signed, np.where(lower % 2 == 0, lower, upper)),
            (np.nextafter(signed, np.float32(0)), lower),
            (np.nextafter(signed, np.float32(np.copysign(np.inf, signed[-1]))), upper),
        ):
            stored = arrays.stored_rows(x[:, None], "x", 1, storage)
            assert stored.ravel().tolist() == (expected | sign).tolist()


def test_float16_is_as_numpy_rounds() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((500, 33)) * 10.0 ** rng.integers(-9, 4, (500, 33))).astype(np.float32)
    assert arrays.stored_rows(x, "x", 33, "float16").tobytes() == x.astype(np.float16).tobytes()


def test_bits_of_the_stored_type_are_taken_as_they_are() -> None:
    half = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float16)
    for x in (half, half[::-1], half.T, half[:, ::2], half.astype(">f2"), half.tolist()):
        given = np.asarray(x, np.float16)
        stored = arrays.stored_rows(np.asarray(x, np.float32) if isinstance(x, list) else x, "x", None, "float16")
        assert (stored.dtype, stored.shape) == (np.uint16, given.shape)
        assert stored.flags.c_contiguous
        assert stored.tobytes() == given.tobytes()
    assert arrays.stored_rows(half, "x", 6, "float32").tolist() == half.tolist()
    to_bfloat16 = arrays.stored_rows(half, "x", 6, "bfloat16")
    assert to_bfloat16.tobytes() == arrays.stored_rows(half.astype(np.float32), "x", 6, "bfloat16").tobytes()


@pytest.mark.parametrize(
    ("storage", "greatest", "half_step", "wider"),
    [("float16", 65504.0, 16.0, "float32 or bfloat16"), ("bfloat16", (2 - 2**-7) * 2.0**127, 2.0**119, "float32,")],
)
@pytest.mark.parametrize("dim", [3, 2**18 + 1])
def test_what_would_be_infinite_is_refused(
    storage: str, greatest: float, half_step: float, wider: str, dim: int
) -> None:
    x = np.zeros((4, dim), np.float32)
    below = np.nextafter(np.float32(greatest + half_step), np.float32(0))
    x[1, -1] = -below
    assert arrays.widen(arrays.stored_rows(x, "x", dim, storage), storage)[1, -1] == -greatest
    x[2, 1] = -(greatest + half_step)  # the tie goes to the even neighbour, which is infinity
    x[3, 0] = 3e38
    with pytest.raises(ValueError, match=rf"vectors: row 2 holds -.*, which {storage} rounds to infinity; .*{wider}"):
        arrays.stored_rows(x, "vectors", dim, storage)
    x[2, 1], x[3, 0] = np.inf, np.nan  # not this function's to refuse
    assert np.isinf(arrays.widen(arrays.stored_rows(x, "x", dim, storage), storage)[2, 1])


@pytest.mark.parametrize("storage", arrays.STORAGE)
def test_refused_as_in_float32(storage: str) -> None:
    for x, error, message in (
        (np.zeros((2, 3)), TypeError, r"x: expected float32 \(or float16, bfloat16\), got float64; np.asarray"),
        (np.zeros((2, 3), np.uint16), TypeError, "got uint16"),
        (np.zeros((2, 3), np.float16), ValueError, r"x: expected shape \(N, 4\), got \(2, 3\)"),
        (np.zeros(4, np.float16), ValueError, r"pass x\[None, :\] for one row"),
        (np.zeros(4, np.float32), ValueError, r"pass x\[None, :\] for one row"),
        (np.ma.masked_array(np.zeros((2, 4), np.float16)), TypeError, "masked"),
        (None, TypeError, "x: expected"),
    ):
        with pytest.raises(error, match=message):
            arrays.stored_rows(x, "x", 4, storage)
    with pytest.raises(ValueError, match="D of 1 or more"):
        arrays.stored_rows(np.zeros((2, 0), np.float16), "x", None, storage)
    with pytest.raises(ValueError, match="D of at most"):
        arrays.stored_rows(np.zeros((1, 2**20 + 1), np.float16), "x", None, storage)
    assert arrays.stored_rows(np.zeros((0, 4), np.float32), "x", 4, storage).shape == (0, 4)


class NotNumPy:
    """Called as torch calls its types."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@pytest.mark.parametrize("name", arrays.STORAGE)
def test_storage_types(name: str) -> None:
    assert arrays.storage_type(name) == name
    assert arrays.storage_type(NotNumPy(f"torch.{name}")) == name
    if name != "bfloat16":
        for dtype in (getattr(np, name), np.dtype(name), np.dtype(name).str):
            assert arrays.storage_type(dtype) == name


@pytest.mark.parametrize(
    "dtype", [None, "float64", np.float64, float, np.int8, "half a float", 16, NotNumPy("torch.x"), {}]
)
def test_other_storage_types_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="dtype: expected float32, float16 or bfloat16, got "):
        arrays.storage_type(dtype)


def test_bfloat16_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert arrays.storage_type(ml_dtypes.bfloat16) == arrays.storage_type(np.dtype(ml_dtypes.bfloat16)) == "bfloat16"
    x = np.random.default_rng(0).standard_normal((9, 8), np.float32)
    given = x.astype(ml_dtypes.bfloat16)
    for rows in (given, given.T, given[:, ::2]):
        assert arrays.stored_rows(rows, "x", None, "bfloat16").tobytes() == rows.tobytes()
        wide = rows.astype(np.float32)
        assert arrays.stored_rows(rows, "x", None, "float32").tobytes() == wide.tobytes()
        assert arrays.stored_rows(rows, "x", None, "float16").tobytes() == wide.astype(np.float16).tobytes()
    assert arrays.stored_rows(x, "x", 8, "bfloat16").tobytes() == given.tobytes()


def rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def wide_range(n: int, dim: int) -> NDArray[np.float32]:
    """Magnitudes from denormals of float16 to near its largest value."""
    return (rows(n, dim) * 2.0 ** np.random.default_rng(1).integers(-20, 13, (n, dim))).astype(np.float32)


def ties(n: int, dim: int) -> NDArray[np.float32]:
    """What float32 tells apart and 16 bits do not: the id decides."""
    return rows(1, dim) * (1 + np.float32(1e-6) * np.random.default_rng(1).integers(0, 9, (n, dim), dtype=np.int8))


@functools.cache  # of Python's arithmetic, and the same at every level
def expected_of(make: Any, storage: str, n: int, dim: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of 26 queries, the better half of the documents."""
    docs = make(n, dim)
    stored = arrays.widen(arrays.stored_rows(docs, "x", dim, storage), storage)
    assert not np.array_equal(stored, docs)
    return oracle.top_k(rows(26, dim, seed=2), stored, n // 2)


@pytest.mark.parametrize("scan", ["float32", "int8"])
@pytest.mark.parametrize("storage", HALVES)
@pytest.mark.parametrize("make", [rows, wide_range, ties])
@pytest.mark.parametrize(("n", "dim"), [(40, 5), (190, 33), (330, 100)])
def test_a_search_is_exact_of_the_stored_values(isa: str, make: Any, storage: str, scan: str, n: int, dim: int) -> None:
    index = FlatIndex.from_vectors(make(n, dim), scan=scan, dtype=storage)
    scores, ids = expected_of(make, storage, n, dim)
    queries = rows(26, dim, seed=2)
    for n_queries in (1, 3, 26):
        for k, n_threads in ((4, 1), (n // 2, 2)):
            hits = index.search(queries[:n_queries], k, n_threads=n_threads, dtype=np.float64)
            assert hits.ids.tolist() == ids[:n_queries, :k].tolist()
            assert hits.scores.tobytes() == scores[:n_queries, :k].tobytes()


@pytest.mark.parametrize("storage", HALVES)
def test_both_scans_agree_where_several_threads_work(isa: str, storage: str) -> None:
    docs, queries = rows(6000, 130), rows(40, 130, seed=1)
    by_codes, by_float32 = (FlatIndex.from_vectors(docs, scan=scan, dtype=storage) for scan in ("int8", "float32"))
    stored = FlatIndex.from_vectors(arrays.widen(arrays.stored_rows(docs, "x", 130, storage), storage), scan="float32")
    for n_queries in (1, 40):
        expected = stored.search(queries[:n_queries], 7, dtype=np.float64)
        for index in (by_codes, by_float32):
            hits = index.search(queries[:n_queries], 7, n_threads=2, dtype=np.float64)
            assert hits.ids.tobytes() == expected.ids.tobytes()
            assert hits.scores.tobytes() == expected.scores.tobytes()
            assert hits.stats is not None
            assert (hits.stats.by_codes.sum() > 0) == (index is by_codes)


@pytest.mark.parametrize("scan", ["float32", "int8"])
@pytest.mark.parametrize("storage", HALVES)
def test_an_index_of_16_bits_to_live_with(storage: str, scan: str) -> None:
    docs, queries, ids = rows(300, 17), rows(4, 17, seed=1), np.arange(300) * 7
    index = FlatIndex.from_vectors(docs, ids, scan=scan, dtype=storage)
    stored = arrays.widen(arrays.stored_rows(docs, "x", 17, storage), storage)
    assert index.dtype == storage
    assert f"dtype='{storage}'" in repr(index)
    assert index.vectors.dtype == (np.float16 if storage == "float16" else np.float32)
    assert index.vectors.astype(np.float32).tobytes() == stored.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0] = 0

    in_parts = FlatIndex(17, scan=scan, dtype=storage)
    for first, last in ((0, 1), (1, 1), (1, 40), (40, 299), (299, 300)):
        in_parts.add(docs[first:last], ids[first:last])
    of_stored_values = FlatIndex(17, scan=scan, dtype=storage)
    of_stored_values.add(index.vectors, ids)
    expected = index.search(queries, 5, dtype=np.float64)
    others = (in_parts, of_stored_values, copy.copy(index), copy.deepcopy(index), pickle.loads(pickle.dumps(index)))
    for other in others:
        assert other.dtype == storage
        assert other.vectors.tobytes() == index.vectors.tobytes()
        assert other.ids.tolist() == ids.tolist()
        hits = other.search(queries, 5, dtype=np.float64)
        assert hits.ids.tolist() == expected.ids.tolist()
        assert hits.scores.tobytes() == expected.scores.tobytes()


@pytest.mark.parametrize("storage", HALVES)
def test_half_the_memory(storage: str) -> None:
    docs = rows(500, 64)
    full, half = (FlatIndex.from_vectors(docs, scan="float32", dtype=dtype) for dtype in ("float32", storage))
    assert full.nbytes - half.nbytes == 500 * 64 * 2
    assert half.nbytes == 500 * (64 * 2 + 4)


@pytest.mark.parametrize("storage", HALVES)
def test_an_error_leaves_an_index_of_16_bits_as_it_was(storage: str) -> None:
    index = FlatIndex.from_vectors(rows(30, 4), dtype=storage)
    before = index.vectors.tobytes()
    too_large, infinite = rows(9, 4), rows(9, 4)
    too_large[5, 1], infinite[6, 2] = 3.4e38, -np.inf
    for bad, error, message in (
        (too_large, ValueError, rf"vectors: row 5 holds 3\.4.*, which {storage} rounds to infinity"),
        (infinite, ValueError, "vectors: row 6 holds NaN or an infinity"),
        (np.float16([[0, 1, 2, np.nan]]), ValueError, "vectors: row 0 holds NaN or an infinity"),
        (rows(9, 5), ValueError, r"vectors: expected shape \(N, 4\), got \(9, 5\)"),
        (rows(9, 4).astype(np.float64), TypeError, "vectors: expected float32 .* got float64"),
    ):
        with pytest.raises(error, match=message):
            index.add(bad)
        assert index.vectors.tobytes() == before
    with pytest.raises(ValueError, match="queries: row 0 holds NaN"):
        index.search(np.full((1, 4), np.nan, np.float32))
    for make in (lambda: FlatIndex(4, dtype="float64"), lambda: FlatIndex.from_vectors(rows(2, 2), dtype=np.int8)):
        with pytest.raises(TypeError, match="dtype: expected float32, float16 or bfloat16"):
            make()
