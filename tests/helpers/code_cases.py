"""Documents, queries and quantizers that are hard, and an oracle of searches that is fast enough for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragfast import FlatIndex, Hits
from ragfast.index.quantizer import Quantizer

Rows = NDArray[np.float32]
DIMS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 100, 200, 384]
FEW, MANY = 3, 33  # queries: from 16, 24 or 32 on, as the level has it, codes are unpacked


def normal(seed: int, *shape: int) -> Rows:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def integers(seed: int, *shape: int) -> Rows:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


# ---- what is expected ----------------------------------------------------------------------------------------------


def canonical_scores(queries: NDArray[Any], docs: NDArray[Any]) -> NDArray[np.float64]:
    """oracle.canonical_score of all pairs (B,N). Lanes that D does not fill stay 0 and are left out."""
    dim, n_lanes = docs.shape[1], 16
    while n_lanes // 2 >= dim:
        n_lanes //= 2
    padding = ((0, 0), (0, -dim % n_lanes))
    q, d = np.pad(queries.astype(np.float64), padding), np.pad(docs.astype(np.float64), padding)
    scores = np.empty((len(q), len(d)))
    for b in range(len(q)):
        lanes = np.zeros((len(d), n_lanes))
        for e in range(0, q.shape[1], n_lanes):
            lanes += q[b, e : e + n_lanes] * d[:, e : e + n_lanes]
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        scores[b] = lanes[:, 0]
    return scores


def best(
    queries: NDArray[Any], docs: NDArray[Any], k: int, ids: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """oracle.top_k for many documents."""
    names = np.arange(len(docs)) if ids is None else ids
    scores, found = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
    for b, row in enumerate(canonical_scores(queries, docs)):
        order = np.lexsort((names, -row))[:k]
        scores[b, : len(order)], found[b, : len(order)] = row[order], names[order]
    return scores, found


Expected = tuple[NDArray[np.float64], NDArray[np.int64]]


def assert_finds(index: FlatIndex, queries: Rows, expected: Expected, n_threads: int = 1) -> Hits:
    hits = index.search(queries, expected[0].shape[1], n_threads=n_threads, dtype=np.float64)
    assert hits.ids.tolist() == expected[1].tolist()
    assert hits.scores.tobytes() == expected[0].tobytes()
    assert hits.stats is not None
    assert hits.stats.n_docs == len(index)
    return hits


def assert_exact(
    queries: Rows, docs: Rows, k: int, ids: NDArray[np.int64] | None = None, n_threads: int = 1, scan: str = "int8"
) -> Hits:
    index = FlatIndex.from_vectors(docs, ids, scan=scan)
    return assert_finds(index, queries, best(queries, docs, k, ids), n_threads)


# ---- problems -------------------------------------------------------------------------------------------------------


@cache
def large() -> tuple[Rows, Rows, Expected]:
    docs, queries = normal(1, 9000, 64), normal(2, MANY, 64)
    return docs, queries, best(queries, docs, 10)


@cache
def corpora() -> dict[str, Rows]:
    rng = np.random.default_rng(5)
    n, dim = 1300, 40
    base = normal(6, n, dim)
    in_mean, in_variance = base.copy(), base.copy()
    in_mean[:, 3] += 50
    in_variance[:, 3] *= 50
    sparse = base * (rng.random((n, dim)) < 0.05)
    zeros, both_ends, within = base.copy(), base.copy(), base.copy()
    zeros[::2] = 0
    zeros[1::4] = -0.0
    both_ends[::3] *= np.float32(1e-38)
    both_ends[::5] *= np.float32(5e37)
    within *= np.exp(30 * rng.standard_normal((n, dim))).clip(1e-38, 1e37).astype(np.float32)
    near_limits = base / np.abs(base).max(axis=1, keepdims=True)
    for i, exponent in enumerate((-62, -61, -60, -59, 59, 60, 61)):
        near_limits[i::14] *= np.float32(2.0**exponent)
    ulps = np.repeat(normal(7, 1, dim), n, axis=0)
    ulps[np.arange(n), rng.integers(0, dim, n)] *= np.float32(1) + np.float32(2**-23)
    clusters = np.repeat(normal(8, 4, dim), n // 4, axis=0) + np.float32(1e-6) * base
    return {
        "random": base,
        "outlier in the mean": in_mean,
        "outlier in the variance": in_variance,
        "log-normal norms": base * np.exp(4 * rng.standard_normal((n, 1))).astype(np.float32),
        "sparse": sparse,
        "half zero": zeros,
        "all zero": np.zeros((n, dim), np.float32),
        "all equal": np.repeat(base[:1], n, axis=0),
        "constant rows": np.repeat(base[:, :1], dim, axis=1),
        "one ulp apart": ulps,
        "clusters": clusters,
        "both ends of the range": both_ends,
        "magnitudes mixed in a row": within,
        "about the least and the most that is coded": near_limits,
        "denormal": base * np.float32(1e-42),
        "negative scores only": -np.abs(base),
        "orthogonal to the queries": np.concatenate([np.zeros((n, dim // 2), np.float32), base[:, : dim // 2]], axis=1),
        "half way between codes": (np.floor(20 * base).clip(-126, 125) + np.float32(0.5)).astype(np.float32),
        "one element in each": np.eye(dim, dtype=np.float32)[rng.integers(0, dim, n)] * base[:, :1],
    }


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
small = st.integers(-3, 3).map(float)
factors = st.sampled_from(
    [1.0, -1.0, 1 + 2**-23, 1 - 2**-24, 50.0, 0.0, -0.0, 1e-6, 1e6, 1e38, 1e-38, 1e-45, 2.0**60, 2.0**-60]
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Rows, Rows, int, NDArray[np.int64] | None]:
    dim, n_docs, n_queries = (
        draw(st.integers(1, 70)),
        draw(st.integers(65, 230)),
        draw(st.sampled_from([1, 2, 13, 24, 33])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["integers", "normal", "cluster", "mixed"]))
    if kind == "integers":
        docs = rng.integers(-3, 4, (n_docs, dim)).astype(np.float64)
    else:
        docs = rng.standard_normal((n_docs, dim))
    if kind == "cluster":
        docs = docs[0] + draw(st.sampled_from([1e-7, 1e-4, 1e-2])) * docs
    if kind == "mixed":
        docs *= np.exp(
            draw(st.sampled_from([1, 5, 20])) * rng.standard_normal(draw(st.sampled_from([(n_docs, 1), (n_docs, dim)])))
        )
    queries = rng.standard_normal((n_queries, dim)) if draw(st.booleans()) else docs[rng.integers(0, n_docs, n_queries)]
    with np.errstate(all="ignore"):
        for _ in range(draw(st.integers(0, 5))):
            rows = docs if draw(st.booleans()) else queries
            part = rows[draw(st.integers(0, 9)) :: draw(st.integers(1, 40))]
            change = draw(st.sampled_from(["scale", "element", "value", "sparse"]))
            if change == "scale":
                part *= draw(factors)
            elif change == "element":
                part[:, draw(st.integers(0, dim - 1))] *= draw(factors)
            elif change == "value":
                part[...] = draw(st.one_of(small, finite))
            else:
                part[rng.random(part.shape) < 0.8] = 0
        limit = float(np.finfo(np.float32).max)
        single = [rows.clip(-limit, limit).astype(np.float32) for rows in (queries, docs)]
    ids = rng.permutation(1000)[:n_docs] if draw(st.booleans()) else None
    return single[0], single[1], draw(st.integers(1, 40)), ids


# ---- quantizers ---------------------------------------------------------------------------------------------------


@cache
def orthogonal(seed: int, dim: int) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def error_of(rotation: Rows) -> float:
    exact = rotation.astype(np.float64)
    return float(np.linalg.norm(exact.T @ exact - np.eye(len(exact)))) * (1 + 1e-9) + 1e-9


def rotated_quantizer(rotation: NDArray[np.float64], prefix: int = 0, **others: Any) -> Quantizer:
    single = np.ascontiguousarray(rotation, np.float32)
    return Quantizer(rotation=single, rotation_error=error_of(single), prefix=prefix, **others)


@cache
def quantizers(dim: int) -> dict[str, Quantizer]:
    weight = np.float32(2) ** np.random.default_rng(1).integers(-9, 10, dim).astype(np.float32)
    center, rotation = 3 * normal(2, dim), orthogonal(3, dim)
    stretched = rotation + 0.0045 * np.outer(normal(4, dim), normal(5, dim)) / dim
    return {
        "plain": Quantizer(),
        "center": Quantizer(center=center),
        "weight": Quantizer(weight=weight),
        "weights at their ends": Quantizer(weight=np.where(np.arange(dim) % 2, 2.0**30, 2.0**-30).astype(np.float32)),
        "center and weight": Quantizer(center, weight),
        "prefix": Quantizer(prefix=64),
        "rotation": rotated_quantizer(rotation),
        "rotation and prefix": rotated_quantizer(rotation, 64),
        "all": rotated_quantizer(rotation, dim // 64 * 64 - 64, center=center, weight=weight),
        "imperfect rotation": rotated_quantizer(stretched, 64, center=center),
        "a center far away": Quantizer(center=center * np.float32(1e7)),
        "a center at the end of the range": Quantizer(center=np.full(dim, 3e38, np.float32)),
    }


@cache
def decaying(dim: int) -> tuple[Rows, Rows, list[Expected]]:
    """Documents with most of their energy in few directions, after which a prefix can tell."""
    rotation = orthogonal(3, dim)
    y = normal(7, 900, dim) * np.exp(-np.arange(dim) / 12).astype(np.float32)
    docs = (y @ rotation).astype(np.float32)
    docs[300:320] = docs[300]
    docs[400:404] *= np.float32(1e30)
    docs[404:410] = 0
    queries = np.concatenate([docs[5:32] + np.float32(0.02) * normal(8, 27, dim), normal(9, 6, dim), 0 * docs[:1]])
    return docs, queries, [best(queries[:n], docs, 10) for n in (FEW, len(queries))]
