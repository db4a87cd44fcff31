"""Codes of every quantizer, and bounds at their tightest: a part that was missing would lose the best document."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from code_cases import (
    FEW,
    MANY,
    Rows,
    assert_exact,
    assert_finds,
    decaying,
    normal,
    orthogonal,
    quantizers,
    rotated_quantizer,
)

from ragfast import FlatIndex
from ragfast._core import _kernels
from ragfast.index.quantizer import Quantizer


@pytest.mark.parametrize("dim", [130, 200])
@pytest.mark.parametrize("name", quantizers(128))
def test_forms(isa: str, dim: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = quantizers(dim)[name]
    monkeypatch.setattr(Quantizer, "choose", lambda *_, **__: quantizer)
    docs, queries, expected = decaying(dim)
    index = FlatIndex.from_vectors(docs, scan="int8")
    for scores, ids in expected:
        hits = assert_finds(index, queries[: len(scores)], (scores, ids), n_threads=2)
        assert hits.stats is not None
        assert hits.stats.prefix == quantizer.prefix


@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_a_prefix_that_repays_nothing_is_left(isa: str, n_queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantizer, "choose", lambda *_, **__: Quantizer(prefix=64))
    docs, queries = normal(1, 9000, 80), normal(2, n_queries, 80)
    docs[:, :64] *= np.float32(0.1)
    assert_exact(queries, docs, 5, n_threads=2)


# ---- bounds at their tightest: a document whose score is as far above its codes' as the bound allows ---------------


def assert_found_behind_an_equal(
    query: Rows, target: Rows, quantizer: Quantizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The floor is the target's own score, from an earlier row of a higher id: nothing of the bound can be missing."""
    monkeypatch.setattr(Quantizer, "choose", lambda *_, **__: quantizer)
    docs = np.float32(1e-3) * normal(1, 99, len(query))
    docs[0] = docs[80] = target
    ids = np.arange(99) + 1000
    ids[80] = 3
    index = FlatIndex.from_vectors(docs, ids, scan="int8")
    for n_queries in (1, FEW, MANY):
        hits = index.search(np.repeat(query[None], n_queries, axis=0), 1, dtype=np.float64)
        assert hits.stats is not None
        assert hits.stats.path.tolist() == ["int8"] * n_queries
        assert hits.ids.tolist() == [[3]] * n_queries
    codes = quantizer.new_codes(99, len(query), True)
    codes.encode(docs, 0, False, 1)
    far = _kernels.Docs(docs, _kernels.measure_rows(docs, False, False, 1)[0], ids, codes, mapped=True)
    for n_queries in (1, FEW, MANY):
        queries = np.repeat(query[None], n_queries, axis=0)
        hits = _kernels.search(queries, (far,), 1, 1.0, 1, np.dtype(np.float64).num)
        assert hits.stats is not None
        assert (hits.stats.by_float32 == 0).all()
        assert hits.ids.tolist() == [[3]] * n_queries


def on_high_grid(sign: Rows) -> Rows:
    """Code units of this sign that the high plane holds exactly, save the first, 127: it makes the scale 1."""
    values = np.where(sign > 0, np.float32(125.5), np.float32(-126.5))
    values[0] = 127 * sign[0]
    return values


def on_grid(sign: Rows) -> Rows:
    return (127 * sign).astype(np.float32)


@pytest.mark.parametrize("dim", [16, 64, 100])
@pytest.mark.parametrize("grid", [on_grid, on_high_grid])
def test_the_querys_residual_is_needed(isa: str, dim: int, grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = np.sign(normal(dim, dim))
    query = sign * np.float32(100.499)  # all codes 100: each too small by nearly a half
    query[0] = 127 * sign[0]
    assert_found_behind_an_equal(query, grid(sign), Quantizer(), monkeypatch)


@pytest.mark.parametrize("dim", [16, 64, 100])
@pytest.mark.parametrize("off", [0.499, 1.0, 1.5, 2.499])
def test_the_documents_residual_is_needed(isa: str, dim: int, off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # off 0.499 from the whole code, up to 2.499 from the middle that the high plane stands for, all to the same side.
    sign = np.sign(normal(dim, dim))
    middle = np.where(sign > 0, np.float32(101.5), np.float32(-102.5)) if off != 0.499 else 100 * sign
    target = (middle + np.float32(off) * sign).astype(np.float32)
    target[0] = 127 * sign[0]
    assert_found_behind_an_equal(on_grid(sign), target, Quantizer(), monkeypatch)


@pytest.mark.parametrize("dim", [80, 128, 300])
def test_the_tail_is_needed(isa: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for sign in (np.sign(normal(dim, dim)), np.ones(dim, np.float32), -np.ones(dim, np.float32)):
        for grid in (on_grid, on_high_grid):
            query, target = on_grid(sign), grid(sign)
            target[1:64], query[:64] = 0, 0
            assert_found_behind_an_equal(query, target, Quantizer(prefix=64), monkeypatch)


@pytest.mark.parametrize("prefix", [0, 64])
def test_the_rotations_error_is_needed(isa: str, prefix: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The rotation shortens the one direction in which the query and the best document lie, whose codes are exact.
    dim = 128
    rotation = orthogonal(1, dim)
    y = (
        np.concatenate([on_high_grid(np.sign(normal(2, 64))), np.zeros(64)])
        if prefix
        else on_grid(np.sign(normal(2, dim)))
    )
    target = y @ rotation
    along = target / np.linalg.norm(target)
    quantizer = rotated_quantizer(rotation - 0.0049 * np.outer(rotation @ along, along), prefix)
    assert 0.009 < quantizer.rotation_error < 0.01
    assert_found_behind_an_equal(target.astype(np.float32), target.astype(np.float32), quantizer, monkeypatch)


@pytest.mark.parametrize("dim", [523, 1009, 2039])
def test_the_roundings_of_the_comparison_are_needed(isa: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every other part of the bound is attained or nearly 0, so that the limit in float32 is the score itself.
    for i in range(8):
        query, target = np.full(dim, 127, np.float32), np.full(dim, 3, np.float32)
        target[0] = 127
        assert_found_behind_an_equal(
            query * np.float32(1.07**i), target * np.float32(1.13**i), Quantizer(), monkeypatch
        )
