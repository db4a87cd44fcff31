"""Codes and bounds read back, with more digits: as docs/exactness.md has them, and no wider than that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from code_cases import DIMS, FEW, MANY, Rows, corpora, decaying, large, normal, problems, quantizers, rotated_quantizer
from hypothesis import given, settings
from numpy.typing import NDArray

from ragfast import FlatIndex
from ragfast._core import _kernels
from ragfast.index.quantizer import Quantizer

PANEL = 32


def decoded(codes: _kernels.Codes, n_docs: int, dim: int) -> NDArray[np.int64]:
    """u (n_docs,D) of the planes, as i8_layout.h has them."""
    n_panels, n_groups = (n_docs + PANEL - 1) // PANEL, (dim + 15) // 16
    high_plane, low_plane, _ = codes.planes
    high = high_plane.reshape(n_panels, n_groups, 3, PANEL, 4).astype(np.int64)
    low = low_plane.reshape(n_panels, n_groups, PANEL, 4).astype(np.int64)
    steps = [high[:, :, s] & 0xFC | low >> 2 * s & 3 for s in range(3)]
    steps.append((high[:, :, 0] & 3) << 6 | (high[:, :, 1] & 3) << 4 | (high[:, :, 2] & 3) << 2 | low >> 6)
    u = np.stack(steps, axis=2).transpose(0, 3, 1, 2, 4)  # (panels, documents, groups, steps, elements)
    return u.reshape(n_panels * PANEL, -1)[:n_docs]


def coded(docs: Rows, quantizer: Quantizer) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    """Y in more digits than the bounds have, u, and the bounds (5,N), all of documents that can be coded."""
    n, dim = docs.shape
    codes = quantizer.new_codes(n, dim, True)
    codes.encode(docs, 0, False, 1)
    u = decoded(codes, n, dim)
    assert (u[:, dim:] == 128).all()  # what pads D
    bounds = codes.planes[2].transpose(1, 0, 2).reshape(5, -1)[:, :n].astype(np.longdouble)
    y = docs.astype(np.longdouble)
    if quantizer.center is not None:
        y = y - quantizer.center
    if quantizer.weight is not None:
        y = y * quantizer.weight
    if quantizer.rotation is not None:
        y = y @ quantizer.rotation.T.astype(np.longdouble)
    kept = np.isfinite(bounds[2])
    return (y * bounds[0][:, None])[kept], u[kept, :dim], bounds[:, kept]


def length(rows: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.sqrt(np.square(rows).sum(axis=1)))


def assert_bounds_hold(docs: Rows, quantizer: Quantizer) -> None:
    y, u, (_, high_residual, residual, norm, tail) = coded(docs, quantizer)
    c, coarse = u - 128, (u & 0xFC) - np.longdouble(126.5)
    assert (np.abs(c) <= 127).all()
    assert (length(y - coarse) <= high_residual).all()
    assert (length(y - c) <= residual).all()
    assert (length(c.astype(np.longdouble)) <= norm).all()
    assert (length(coarse) <= norm).all()
    assert np.isfinite(tail).all()
    if quantizer.prefix:
        assert (length(y[:, quantizer.prefix :]) <= tail).all()


@pytest.mark.parametrize("name", corpora())
def test_bounds_hold_for_hard_corpora(isa: str, name: str) -> None:
    docs = corpora()[name]
    for quantizer in (Quantizer(), Quantizer(center=docs.astype(np.float64).mean(axis=0).astype(np.float32))):
        assert_bounds_hold(docs, quantizer)


@pytest.mark.parametrize("dim", DIMS)
def test_bounds_hold_for_every_dim(isa: str, dim: int) -> None:
    docs = normal(dim, 300, dim)
    assert_bounds_hold(docs, Quantizer())
    assert_bounds_hold(docs, Quantizer(center=normal(1, dim) / np.float32(3)))


@pytest.mark.parametrize("dim", [1100, 9000, 18000])
def test_bounds_hold_where_sums_of_squares_are_rounded_down(isa: str, dim: int) -> None:
    # 125.5^2 added to float32 sums above 2^23 loses its quarter every time, in each of up to 16 lanes.
    assert_bounds_hold(np.repeat(normal(1, 5, 1), dim, axis=1), Quantizer())


def test_bounds_hold_where_a_rotation_rounds_to_one_side(isa: str) -> None:
    # All that the first element of x leaves of the others is lost in each partial sum.
    hadamard = np.ones((1, 1))
    while len(hadamard) < 256:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    docs = np.full((40, 256), 0.99 * 2.0**-24, np.float32)
    docs[:, 0] = 1
    assert_bounds_hold(docs, rotated_quantizer(hadamard / 16))


@pytest.mark.parametrize("name", quantizers(130))
def test_bounds_hold_in_every_form(isa: str, name: str) -> None:
    assert_bounds_hold(decaying(130)[0], quantizers(130)[name])


@given(problems())
@settings(max_examples=50)
def test_bounds_hold_for_what_hypothesis_finds(
    isa: str, problem: tuple[Rows, Rows, int, NDArray[np.int64] | None]
) -> None:
    queries, docs, _, _ = problem
    assert_bounds_hold(docs, Quantizer())
    assert_bounds_hold(docs, Quantizer(center=queries[0]))


def test_rows_beyond_coding_have_infinite_bounds(isa: str) -> None:
    docs = np.repeat(np.array([[1, -1, 0.5]], np.float32), 40, axis=0)
    docs[3] *= np.float32(2.0**61)
    docs[4] *= np.float32(2.0**-61)
    docs[5] = 0
    docs[6], docs[7] = docs[6] * np.float32(2.0**60), docs[7] * np.float32(2.0**-60)
    codes = Quantizer().new_codes(40, 3, True)
    codes.encode(docs, 0, False, 1)
    residual = codes.planes[2][:, 1:3].reshape(2, 2, 32)
    assert np.isinf(residual[0]).tolist() == [[j in (3, 4) for j in range(32)]] * 2


def test_bounds_are_not_vacuous(isa: str) -> None:
    for dim in (17, 64, 384):
        y, u, (_, high_residual, residual, norm, _) = coded(normal(dim, 640, dim), Quantizer())
        # The true loss is within a ten-thousandth, and about that of rounding evenly: sqrt(1/12), sqrt(1/12 + 5/4).
        assert (residual <= length(y - (u - 128)) * (1 + 1e-4)).all()
        assert (high_residual <= length(y - ((u & 0xFC) - np.longdouble(126.5))) * (1 + 1e-4)).all()
        assert (norm <= np.maximum(length(u - 128.0), length((u & 0xFC) - 126.5)) * (1 + 1e-4)).all()
        assert abs(residual.mean() / (dim / 12) ** 0.5 - 1) < 0.05
        assert abs(high_residual.mean() / (dim * 4 / 3) ** 0.5 - 1) < 0.05


def test_few_documents_are_scored_where_codes_can_tell(isa: str) -> None:
    docs, queries, _ = large()
    random = FlatIndex.from_vectors(docs, scan="int8")
    y = normal(3, 9000, 96) * np.exp(-np.arange(96) / 30).astype(np.float32)
    like_embeddings = FlatIndex.from_vectors(y / length(y)[:, None], scan="int8")
    for index, asked in ((random, queries), (like_embeddings, y[:MANY] + np.float32(0.3) * normal(4, MANY, 96))):
        few, many = (index.search(asked[:n], 10).stats for n in (FEW, MANY))
        assert few is not None
        assert many is not None
        assert few.path.tolist() == ["int8"] * FEW
        assert many.path.tolist() == ["int8"] * MANY
        for stats in (few, many):
            assert 10 <= stats.rescored.min() <= stats.rescored.max() <= 150, stats
