"""Cosine searches: one call of C, whose log-probabilities have the same bits at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ragfast
from ragfast import runtime
from ragfast._core import _kernels

RNG = np.random.default_rng(62)


@pytest.fixture(autouse=True)
def level_of_before() -> Any:
    level = runtime.isa()
    yield
    runtime.set_isa(level)


@pytest.mark.parametrize("temperature", [1.0, 0.05, 1e-300])
@pytest.mark.parametrize(("k", "dtype"), [(1, "float32"), (7, "bfloat16"), (200, "float32"), (200, "float16")])
def test_cosines_have_the_same_bits_at_every_level(k: int, dtype: str, temperature: float) -> None:
    docs, queries = RNG.standard_normal((1500, 48), np.float32), RNG.standard_normal((40, 48), np.float32)
    index = ragfast.FlatIndex.from_vectors(docs, metric="cosine", dtype=dtype)
    runtime.set_isa("scalar")
    expected = index.search(queries, k, temperature=temperature, dtype=np.float64)
    with np.errstate(over="ignore"):
        below = (expected.scores - expected.scores[:, :1]) / temperature
    assert np.array_equal(expected.logprobs, _kernels.log_softmax(below, 1))
    for level in runtime.available_isas():
        runtime.set_isa(level)
        found = index.search(queries, k, temperature=temperature, dtype=np.float64)
        for part in ("scores", "ids", "logprobs"):
            assert np.array_equal(getattr(found, part), getattr(expected, part)), (level, part)


def test_equal_cosines_are_in_order_of_ids() -> None:
    index = ragfast.FlatIndex.from_vectors(np.float32([[1, 0], [1, 0], [0, 1]]), ids=[9, 4, 2], metric="cosine")
    query = np.float32([[1, 1]])
    assert index.search(query, 3).ids.tolist() == [[2, 4, 9]]
    docs = RNG.integers(-2, 3, (400, 4)).astype(np.float32)
    docs = docs[np.abs(docs).any(axis=1)]
    ids = RNG.permutation(len(docs))
    index = ragfast.FlatIndex.from_vectors(docs, ids=ids, metric="cosine")
    queries = RNG.standard_normal((200, 4), np.float32)
    hits = index.search(queries, len(docs), dtype=np.float64)
    tied = hits.scores[:, 1:] == hits.scores[:, :-1]
    assert tied.any()
    assert (hits.ids[:, 1:] > hits.ids[:, :-1])[tied].all()
    assert (np.diff(hits.scores) <= 0).all()
    assert np.array_equal(index.gather_scores(queries, hits.ids, dtype=np.float64), hits.scores)


@pytest.mark.parametrize("ids", [None, list("abc")])
def test_queries_that_have_no_direction_are_refused_by_row(ids: Any, tmp_path: Any) -> None:
    index = ragfast.FlatIndex.from_vectors(np.eye(3, dtype=np.float32), ids=ids, metric="cosine")
    index.save(tmp_path / "index")
    for searched in (index, ragfast.FlatIndex.open(tmp_path / "index")):
        with pytest.raises(ValueError, match=r"queries: row 1 holds zeros"):
            searched.search(np.float32([[1, 0, 0], [0, 0, 0]]), 2)
        with pytest.raises(ValueError, match=r"queries: row 2 holds NaN"):
            searched.search(np.float32([[1, 0, 0], [0, 0, 0], [np.nan, 0, 0]]), 2)
        assert len(searched.search(np.empty((0, 3), np.float32), 2).ids) == 0


def test_a_cosine_search_calls_c_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index = ragfast.FlatIndex.from_vectors(np.eye(3, dtype=np.float32), metric="cosine")
    calls: list[str] = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            if callable(found := getattr(_kernels, name)) and name not in {"is_plain", "CorruptDocument"}:
                calls.append(name)
            return found

    monkeypatch.setattr("ragfast.index.snapshot._kernels", Counted())
    monkeypatch.setattr("ragfast._core.arrays._kernels", Counted())
    index.search(np.float32([[1, 2, 3]]), 2)
    assert calls == ["search"]
