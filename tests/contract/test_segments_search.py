"""The search over segments against a walk through all documents: the same bits, whatever is allowed or grouped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import canonical_score, log_softmax

from ragfast._core import _kernels
from ragfast.index.quantizer import Quantizer

Floats = NDArray[np.float64]
DOUBLE = np.dtype(np.float64).num
SIZES = [0, 1, 31, 32, 33, 64, 1000]
DIMS = [1, 5, 16, 33, 64, 80]


# ---- what is expected ----------------------------------------------------------------------------------------------


def exact_scores(queries: NDArray[Any], docs: NDArray[Any], metric: str) -> Floats:
    """The score of all pairs (B,N) by 16 lanes, each operation rounded once."""
    padding = ((0, 0), (0, -docs.shape[1] % 16))
    q, d = np.pad(queries.astype(np.float64), padding), np.pad(docs.astype(np.float64), padding)
    scores = np.empty((len(q), len(d)))
    for b in range(len(q)):
        lanes = np.zeros((len(d), 16))
        for e in range(0, q.shape[1], 16):
            x, y = q[b, e : e + 16], d[:, e : e + 16]
            lanes += x * y if metric == "ip" else (x - y) * (x - y)
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        scores[b] = lanes[:, 0] if metric == "ip" else 0 - lanes[:, 0]
    return scores


def test_the_fast_oracle_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    for dim in (1, 7, 16, 40):
        queries, docs = rng.standard_normal((3, dim)), rng.standard_normal((9, dim))
        docs[0] = queries[0]
        products = [[canonical_score(q, d) for d in docs] for q in queries]
        distances = [[0 - canonical_score(q - d, q - d) for d in docs] for q in queries]
        assert exact_scores(queries, docs, "ip").tobytes() == np.array(products).tobytes()
        assert exact_scores(queries, docs, "l2").tobytes() == np.array(distances).tobytes()


def taken(groups: NDArray[np.int32], max_per_group: int) -> NDArray[np.bool_]:
    """Of documents in the order of results, those that a walk takes which passes over the rest of a full group."""
    by_group = np.argsort(groups, kind="stable")
    ordered = groups[by_group]
    begins = np.r_[True, ordered[1:] != ordered[:-1]] if len(groups) else np.zeros(0, bool)
    places = np.arange(len(groups))
    before = places - np.maximum.accumulate(np.where(begins, places, 0))
    take = np.empty(len(groups), bool)
    take[by_group] = (ordered < 0) | (before < max_per_group)
    return take


# ---- problems ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A segment, as its owner has it."""

    vectors: NDArray[Any]  # stored: float32, float64, or uint16
    values: Floats
    ids: NDArray[np.int64]
    explicit: bool
    allowed: NDArray[np.bool_] | None
    groups: NDArray[np.int32] | None
    quantizer: Quantizer | None
    always: bool
    norms: bool
    sums: bool
    mapped: bool


@dataclass(frozen=True)
class Problem:
    queries: NDArray[Any]
    parts: tuple[Part, ...]
    storage: str
    metric: str
    k: int
    excluded: NDArray[np.int32] | None = None
    max_per_group: int = 0

    @property
    def bfloat16(self) -> bool:
        return self.storage == "bfloat16"

    def expected(self) -> tuple[Floats, NDArray[np.int64]]:
        parts, n_queries = self.parts, len(self.queries)
        every = exact_scores(self.queries, np.concatenate([p.values for p in parts]), self.metric)
        ids = np.concatenate([p.ids for p in parts])
        allowed = np.concatenate([np.ones(len(p.ids), bool) if p.allowed is None else p.allowed for p in parts])
        groups = np.concatenate([np.full(len(p.ids), -1) if p.groups is None else p.groups for p in parts])
        scores, found = np.full((n_queries, self.k), -np.inf), np.full((n_queries, self.k), -1, np.int64)
        for b, row in enumerate(every):
            qualify = allowed
            if self.excluded is not None and self.excluded[b] >= 0:
                qualify = allowed & (groups != self.excluded[b])
            order = np.flatnonzero(qualify)
            order = order[np.lexsort((ids[order], -row[order]))]
            if self.max_per_group:
                order = order[taken(groups[order].astype(np.int32), self.max_per_group)]
            order = order[: self.k]
            scores[b, : len(order)], found[b, : len(order)] = row[order], ids[order]
        return scores, found


def bits_of(allowed: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint32]:
    """With something in the bits beyond N."""
    bits = rng.integers(0, 2, (len(allowed) + 31) // 32 * 32, dtype=np.uint8)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.uint32)


def codes_of(part: Part, problem: Problem, half_squares: Floats | None) -> _kernels.Codes:
    quantizer, (n, dim) = part.quantizer, part.vectors.shape
    assert quantizer is not None
    codes = _kernels.Codes(
        n,
        dim,
        quantizer.center,
        quantizer.weight,
        quantizer.rotation,
        quantizer.rotation_error,
        quantizer.prefix,
        part.always,
    )
    if half_squares is None:
        codes.encode(part.vectors, 0, problem.bfloat16, 1)
    else:
        codes.encode(part.vectors, 0, problem.bfloat16, 1, half_squares)
    return codes


def docs_of(part: Part, problem: Problem, seed: int) -> _kernels.Docs:
    l2 = problem.metric == "l2"
    half_squares = _kernels.measure_rows(part.vectors, problem.bfloat16, True, 1)[1] if l2 else None
    return _kernels.Docs(
        part.vectors,
        _kernels.measure_rows(part.vectors, problem.bfloat16, False, 1)[0] if part.norms else None,
        part.ids if part.explicit else None,
        None if part.quantizer is None else codes_of(part, problem, half_squares),
        bfloat16=problem.bfloat16,
        first_id=0 if part.explicit or len(part.ids) == 0 else int(part.ids[0]),
        allowed=None if part.allowed is None else bits_of(part.allowed, np.random.default_rng(seed)),
        groups=part.groups,
        half_squares=half_squares,
        row_sums=_kernels.row_sums(part.vectors) if part.sums else None,
        mapped=part.mapped,
    )


def all_docs(problem: Problem) -> tuple[_kernels.Docs, ...]:
    return tuple(docs_of(part, problem, seed) for seed, part in enumerate(problem.parts))


def stored(x: Floats, storage: str) -> tuple[NDArray[Any], Floats]:
    """x in the type of the index, and what it is then."""
    if storage == "float64":
        return x, x
    single = x.astype(np.float32)
    if storage == "float32":
        return single, single.astype(np.float64)
    if storage == "float16":
        half = np.clip(x, -6e4, 6e4).astype(np.float16)
        return half.view(np.uint16), half.astype(np.float64)
    bits = single.view(np.uint32) & np.uint32(0xFFFF0000)
    return (bits >> np.uint32(16)).astype(np.uint16), bits.view(np.float32).astype(np.float64)


def rows_of(kind: str, n: int, dim: int, rng: np.random.Generator) -> Floats:
    """Documents that are alike in all segments, so that scores are equal, or nearly, across them."""
    few = np.random.default_rng(1).standard_normal((7, dim))
    if kind == "normal":
        return rng.standard_normal((n, dim))
    if kind == "integers":
        return rng.integers(-2, 3, (n, dim)).astype(np.float64)
    if kind == "copies":
        return few[rng.integers(0, 7, n)]
    if kind == "nearly copies":
        return few[rng.integers(0, 3, n)] * (1 + rng.integers(-3, 4, (n, dim)) * 2.0**-22)
    if kind == "far away":
        return 1000 + rng.standard_normal((n, dim))
    if kind == "all lengths":
        return rng.standard_normal((n, dim)) * 2.0 ** rng.integers(-14, 15, (n, 1)) * (rng.random((n, 1)) > 0.05)
    return rng.standard_normal((n, dim)) * 1e30 ** rng.integers(0, 2, (n, 1))


KINDS = ["normal", "integers", "copies", "nearly copies", "far away", "all lengths", "huge"]


def quantizer_of(dim: int, prefix: bool, values: Floats, rng: np.random.Generator) -> Quantizer:
    center = weight = rotation = None
    error = 0.0
    if rng.random() < 0.5:
        center = (values[:50].mean(0) if len(values) else rng.standard_normal(dim)).astype(np.float32)
    if rng.random() < 0.4:
        weight = np.float32(2) ** rng.integers(-3, 4, dim).astype(np.float32)
    if rng.random() < 0.4:
        exact = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        rotation = np.ascontiguousarray(exact, np.float32)
        wide = rotation.astype(np.float64)
        error = float(np.linalg.norm(wide.T @ wide - np.eye(dim))) * (1 + 1e-9) + 1e-9
    some = 16 * int(rng.integers(1, (dim - 1) // 16 + 1)) if prefix and dim > 16 and rng.random() < 0.6 else 0
    return Quantizer(center, weight, rotation, error, some)


def mask_of(n: int, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    choice = rng.integers(7)
    if choice == 0:
        return None
    mask = np.zeros(n, bool)
    if choice == 2 and n:
        mask[rng.integers(n)] = True
    if choice > 2:
        mask = rng.random(n) < [0.01, 0.1, 0.5, 1][choice - 3]
    return mask


def ids_of(sizes: list[int], explicit: list[bool], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Distinct over all segments, whose order is not that of ids; explicit ones lie among each other."""
    ids: dict[int, NDArray[np.int64]] = {}
    at = int(rng.integers(0, 1000))
    for i in rng.permutation(len(sizes)):
        if not explicit[i]:
            ids[i] = np.arange(at, at + sizes[i])
            at += sizes[i] + int(rng.integers(0, 50))
    total = sum(n for n, own in zip(sizes, explicit, strict=True) if own)
    free = np.setdiff1d(np.arange(at + 3 * total + 1), np.concatenate([*ids.values(), np.zeros(0, np.int64)]))
    rest = rng.permutation(free)[:total]
    for i, own in enumerate(explicit):
        if own:
            ids[i], rest = rest[: sizes[i]], rest[sizes[i] :]
    return [ids[i] for i in range(len(sizes))]


@cache
def problem_of(seed: int) -> tuple[Problem, Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    metric, dim = ("ip", "l2")[seed % 2], int(rng.choice(DIMS))
    storage = str(rng.choice(["float32", "float32", "float16", "bfloat16", "float64"]))
    kind = KINDS[seed // 2 % len(KINDS)]
    n_queries = int(rng.choice([1, 3, 40]))
    sizes = [int(n) for n in rng.choice(SIZES, rng.integers(1, 6))]
    if rng.random() < 0.3:
        sizes[int(rng.integers(len(sizes)))] = 5000
    explicit = [bool(own) for own in rng.random(len(sizes)) < 0.5]
    queries = rows_of(kind, n_queries, dim, rng)
    queries[0] = np.round(queries[0])
    coded, grouped, masked = rng.random() < 0.7 and storage != "float64", rng.random() < 0.6, rng.random() < 0.7
    parts = []
    for n, own, ids in zip(sizes, explicit, ids_of(sizes, explicit, rng), strict=True):
        vectors, values = stored(rows_of(kind, n, dim, rng), storage)
        quantizer = quantizer_of(dim, metric == "ip", values, rng) if coded and rng.random() < 0.8 else None
        groups = rng.integers(-1, int(rng.choice([2, 10, 500])), n).astype(np.int32) if grouped else None
        parts.append(
            Part(
                vectors,
                values,
                ids,
                own,
                mask_of(n, rng) if masked else None,
                None if rng.random() < 0.1 else groups,
                quantizer,
                bool(rng.random() < 0.8),
                storage != "float64" and (quantizer is not None or storage != "float32" or bool(rng.random() < 0.7)),
                bool(rng.random() < 0.3),
                bool(rng.random() < 0.3),
            )
        )
    problem = Problem(
        queries if storage == "float64" else stored(queries, "float32")[0],
        tuple(parts),
        storage,
        metric,
        int(rng.choice([1, 3, 10, 60, 200, sum(sizes) + 3])),
        rng.integers(-2, 3, n_queries).astype(np.int32) if grouped and rng.random() < 0.5 else None,
        int(rng.choice([0, 1, 2])) if grouped else 0,
    )
    return problem, *problem.expected()


def found(problem: Problem, docs: tuple[_kernels.Docs, ...], n_threads: int) -> Any:
    return _kernels.search(
        problem.queries, docs, problem.k, 0.7, n_threads, DOUBLE, problem.excluded, problem.max_per_group
    )


def assert_finds(problem: Problem, expected: Floats, expected_ids: NDArray[np.int64], hits: Any) -> None:
    assert hits.ids.tolist() == expected_ids.tolist()
    assert hits.scores.tobytes() == expected.tobytes()
    there = expected_ids >= 0
    below = np.where(there, expected, 0) - np.where(there[:, :1], expected[:, :1], 0)  # exact where it matters
    logprobs = np.array([log_softmax(row, 0.7) for row in np.where(there, below, -np.inf)])
    np.testing.assert_allclose(hits.logprobs[there], logprobs[there], rtol=1e-12, atol=1e-12)
    assert (hits.logprobs[~there] == -np.inf).all()


# ---- any problem ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(110))
def test_any_problem(isa: str, seed: int) -> None:
    problem, expected, expected_ids = problem_of(seed)
    docs = all_docs(problem)
    for n_threads in (1, 2):
        assert_finds(problem, expected, expected_ids, found(problem, docs, n_threads))


def test_problems_are_of_every_kind() -> None:
    """Or the test above would say little."""
    problems = [problem_of(seed) for seed in range(110)]
    for metric in ("ip", "l2"):
        some = [(p, ids) for p, _, ids in problems if p.metric == metric]
        assert {p.storage for p, _ in some} == {"float32", "float16", "bfloat16", "float64"}
        assert any(p.excluded is not None and p.max_per_group for p, _ in some)
        assert {p.max_per_group for p, _ in some} == {0, 1, 2}
        assert any((ids < 0).any() for _, ids in some)
        assert any((ids >= 0).all() for _, ids in some)
        coded = [part for p, _ in some for part in p.parts if part.quantizer is not None and len(part.ids) > 900]
        assert {part.always for part in coded} == {True, False}
        assert any(part.quantizer is not None and part.quantizer.rotation is not None for part in coded)
    assert any(part.quantizer is not None and part.quantizer.prefix for p, _, _ in problems for part in p.parts)


# ---- what is hard for one metric or rule ---------------------------------------------------------------------------


def one_part(values: Floats, ids: NDArray[np.int64], storage: str = "float32", **others: Any) -> Part:
    vectors, exact = stored(values, storage)
    plain = {"allowed": None, "groups": None, "quantizer": Quantizer(), "always": True, "norms": True}
    return Part(vectors, exact, ids, True, **{**plain, "sums": False, "mapped": False, **others})  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("n_queries", [2, 40])
def test_distances_far_from_the_origin(isa: str, n_queries: int, coded: bool, storage: str) -> None:
    # |q|^2 - 2 q.x + |x|^2 cancels: all of the distance is in the last places of its parts.
    rng = np.random.default_rng(4)
    center = 200 * rng.standard_normal(48)
    rows = center + rng.standard_normal((3000, 48)) * np.repeat([1e-3, 1.0, 30.0], 1000)[:, None]
    queries = stored(rows[rng.integers(0, 3000, n_queries)], storage)[1].astype(np.float32)
    quantizers = [Quantizer(center.astype(np.float32)), Quantizer()] if coded else [None, None]
    parts = tuple(
        one_part(rows[i::2], np.arange(i, 3000, 2), storage, quantizer=quantizer)
        for i, quantizer in enumerate(quantizers)
    )
    problem = Problem(queries, parts, storage, "l2", 5)
    hits = found(problem, all_docs(problem), 1)
    assert_finds(problem, *problem.expected(), hits)
    assert (hits.scores[:, 0] == 0).all()
    assert not np.signbit(hits.scores[:, 0]).any()


@pytest.mark.parametrize("quantizer", [Quantizer(), Quantizer(center=np.full(20, 2.0**70, np.float32)), None])
def test_distances_beyond_the_range_of_codes(isa: str, quantizer: Quantizer | None) -> None:
    # |x|^2 / 2 in code units overflows float32, where x - center is small or zero; rows at both ends of the range.
    rng = np.random.default_rng(5)
    rows = np.concatenate(
        [
            np.full((40, 20), 2.0**70),
            2.0**70 + rng.integers(-4, 5, (200, 20)) * 2.0**47,
            rng.standard_normal((200, 20)) * 2.0 ** rng.integers(-140, 125, (200, 1)),
            np.zeros((5, 20)),
        ]
    )
    queries = stored(rows[[0, 50, 239, 300, 301, 302, 303, 444]], "float32")[0]
    problem = Problem(queries, (one_part(rows, np.arange(445), quantizer=quantizer),), "float32", "l2", 7)
    for many in (1, 5):
        tall = replace(problem, queries=np.tile(queries, (many, 1)))
        assert_finds(tall, *tall.expected(), found(tall, all_docs(tall), 1))


@pytest.mark.parametrize("max_per_group", [1, 2])
@pytest.mark.parametrize("coded", [False, True])
def test_one_group_has_all_the_best(isa: str, coded: bool, max_per_group: int) -> None:
    # Floors that counted all of the group's documents would exclude every other one.
    rng = np.random.default_rng(6)
    query = rng.standard_normal(24).astype(np.float32)
    rows = rng.standard_normal((3000, 24))
    rows[1000:2000] += 3 * query
    groups = np.where((np.arange(3000) // 1000) == 1, 7, rng.integers(-1, 400, 3000)).astype(np.int32)
    quantizer = Quantizer() if coded else None
    others = [{"groups": groups[i::3].copy(), "quantizer": quantizer, "always": coded} for i in range(3)]
    parts = tuple(one_part(rows[i::3], np.arange(i, 3000, 3), **other) for i, other in enumerate(others))
    problem = Problem(np.stack([query, -query]), parts, "float32", "ip", 12, max_per_group=max_per_group)
    for excluded in (None, np.array([7, -1], np.int32)):
        part = replace(problem, excluded=excluded)
        for n_threads in (1, 2):
            assert_finds(part, *part.expected(), found(part, all_docs(part), n_threads))


# ---- rows on a far medium: a second look by whole codes --------------------------------------------------------------


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("n_queries", [1, 4, 7, 16, 31])
def test_far_segments(isa: str, n_queries: int, constrained: bool, metric: str) -> None:
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((3000, 80)) * np.arange(1, 81) ** -0.5
    queries = stored(rows[:n_queries] + rng.standard_normal((n_queries, 80)) / 3, "float32")[0]
    quantizers = [
        Quantizer(prefix=0 if metric == "l2" else 32),
        Quantizer(rows.mean(0).astype(np.float32)),
        Quantizer(),
    ]
    masks = [rng.random(1000) < 0.8, None, rng.random(1000) < 0.05] if constrained else [None] * 3
    groups = [rng.integers(-1, 40, 1000).astype(np.int32) if constrained else None for _ in quantizers]
    parts = tuple(
        one_part(
            rows[i::3],
            np.arange(i, 3000, 3),
            "float16",
            quantizer=quantizers[i],
            allowed=masks[i],
            groups=groups[i],
            sums=i < 2,
        )
        for i in range(3)
    )
    constraints = {"excluded": np.arange(n_queries, dtype=np.int32), "max_per_group": 2} if constrained else {}
    problem = Problem(queries, parts, "float16", metric, 9, **constraints)  # type: ignore[arg-type]
    expected = problem.expected()
    for far in ((True, True, True), (False, True, False), (True, False, True)):
        mixed = replace(problem, parts=tuple(replace(p, mapped=f) for p, f in zip(parts, far, strict=True)))
        docs = all_docs(mixed)
        for n_threads in (1, 2):
            assert_finds(mixed, *expected, found(mixed, docs, n_threads))


@pytest.mark.parametrize(("metric", "prefix"), [("ip", 0), ("ip", 32), ("l2", 0)])
@pytest.mark.parametrize("n_queries", [1, 3, 12])
def test_far_segments_read_fewer_rows(isa: str, n_queries: int, metric: str, prefix: int) -> None:
    rng = np.random.default_rng(10)
    spread = 0.1 if metric == "ip" else 0.3
    rows = 1 + spread * rng.standard_normal((6000, 64))  # so alike that six bits hardly tell them apart
    queries = 1 + spread * rng.standard_normal((n_queries, 64)).astype(np.float32)
    quantizer = Quantizer(prefix=prefix)
    near = Problem(queries, (one_part(rows, np.arange(6000), quantizer=quantizer),), "float32", metric, 10)
    far = replace(near, parts=(replace(near.parts[0], mapped=True),))
    hits = [found(problem, all_docs(problem), 1) for problem in (near, far)]
    assert_finds(near, *near.expected(), hits[1])
    if isa not in ("avx2", "avx512"):  # those multiply six bits alone
        assert (hits[1].stats.by_codes == 6000).all()
        assert hits[1].stats.rescored.sum() < 0.75 * hits[0].stats.rescored.sum()


def test_changed_docs_are_new_docs(isa: str) -> None:
    problem, _, _ = problem_of(0)
    docs = all_docs(problem)
    rng = np.random.default_rng(7)
    masks = [rng.random(len(p.ids)) < 0.3 for p in problem.parts]
    groups = [rng.integers(-1, 5, len(p.ids)).astype(np.int32) for p in problem.parts]
    parts = tuple(replace(p, allowed=m, groups=g) for p, m, g in zip(problem.parts, masks, groups, strict=True))
    other = replace(problem, parts=parts, max_per_group=3)
    changed = tuple(d.changed(allowed=bits_of(m, rng), groups=g) for d, m, g in zip(docs, masks, groups, strict=True))
    assert_finds(other, *other.expected(), found(other, changed, 1))
    assert_finds(problem, *problem.expected(), found(problem, docs, 1))


# ---- distances of chosen documents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16", "float64"])
def test_distances_of_chosen_documents(isa: str, storage: str) -> None:
    rng = np.random.default_rng(8)
    vectors, values = stored(rows_of("nearly copies", 300, 33, rng), storage)
    queries = values[:5] if storage == "float64" else values[:5].astype(np.float32)
    rows = rng.integers(-1, 300, (5, 90))
    rows[:, 0] = np.arange(5)
    half_squares = _kernels.measure_rows(vectors, storage == "bfloat16", True, 1)[1]
    zero = np.zeros((1, 33), queries.dtype)
    assert half_squares.tobytes() == (exact_scores(zero, values, "l2")[0] / -2).tobytes()
    scores = _kernels.gather_scores(queries, vectors, rows, 1, DOUBLE, storage == "bfloat16", half_squares)
    expected = np.take_along_axis(exact_scores(queries, values, "l2"), np.maximum(rows, 0), 1)
    assert scores.tobytes() == np.where(rows < 0, -np.inf, expected).tobytes()
    assert scores[:, 0].tobytes() == np.zeros(5).tobytes()  # +0


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros(5, np.float32), np.zeros((5, 1)), np.zeros(10)[::2]])
def test_half_squares_of_the_wrong_kind(wrong: NDArray[Any]) -> None:
    vectors, rows = np.ones((5, 20), np.float32), np.zeros((1, 1), np.int64)
    with pytest.raises(ValueError, match=r"half_squares: expected a plain float64 array \(5,\), got"):
        _kernels.gather_scores(vectors[:1], vectors, rows, 1, DOUBLE, False, wrong)
    codes = Quantizer().new_codes(5, 20, True)
    with pytest.raises(ValueError, match="half_squares: expected"):
        codes.encode(vectors, 0, False, 1, wrong)


def test_a_prefix_does_not_go_with_distances() -> None:
    vectors = np.ones((5, 20), np.float32)
    codes = Quantizer(prefix=16).new_codes(5, 20, True)
    with pytest.raises(ValueError, match="range"):
        codes.encode(vectors, 0, False, 1, _kernels.measure_rows(vectors, False, True, 1)[1])


# ---- damaged rows --------------------------------------------------------------------------------------------------


def damaged(seed: int) -> Iterator[tuple[Problem, tuple[_kernels.Docs, ...], set[tuple[int, int]]]]:
    """The problem with one and with some rows that changed after all that is known of them was noted."""
    problem, _, expected_ids = problem_of(seed)
    parts = tuple(
        replace(p, sums=True, norms=p.norms or problem.storage == "float32", vectors=p.vectors.copy())
        for p in problem.parts
    )
    problem = replace(problem, parts=parts)
    rng = np.random.default_rng(seed)
    places = [(s, r) for s, p in enumerate(parts) for r in range(len(p.ids))]
    first = set(expected_ids[:, 0].tolist())
    best = [(s, r) for s, r in places if int(parts[s].ids[r]) in first][:1]
    some = [places[i] for i in rng.permutation(len(places))[:1]]
    for chosen, turned in ((best, False), (best, True), (some, False), (places[:: len(places) // 9 + 1], False)):
        docs = all_docs(problem)
        for s, r in chosen:
            row = parts[s].vectors[r].view(np.uint8)
            if turned:  # to where it looks like the worst
                row[parts[s].vectors.itemsize - 1 :: parts[s].vectors.itemsize] ^= np.uint8(128)
            else:
                row[rng.integers(len(row))] ^= np.uint8(1 << rng.integers(8))
        yield problem, docs, set(chosen)
        for s, r in chosen:
            parts[s].vectors[r] = stored(parts[s].values[r : r + 1], problem.storage)[0][0]


@pytest.mark.parametrize("seed", range(4, 24))
def test_damaged_rows(isa: str, seed: int) -> None:
    _, expected, expected_ids = problem_of(seed)
    for problem, docs, places in damaged(seed):
        needed = {int(i) for s, r in places if (i := problem.parts[s].ids[r]) in expected_ids}
        result: Any = None
        refused: Any = None
        try:
            result = found(problem, docs, 2)
        except _kernels.CorruptDocument as error:
            refused = error
        if refused is None:
            assert not needed
            assert_finds(problem, expected, expected_ids, result)
        else:
            assert isinstance(refused, ValueError)
            assert (refused.segment, refused.row) in places


@pytest.mark.parametrize(("storage", "norms"), [("float32", True), ("float32", False), ("float64", False)])
def test_a_damaged_row_that_is_not_finite(isa: str, storage: str, norms: bool) -> None:
    # What is wrong is its bytes: that it holds NaN now is what came of it.
    rows = np.random.default_rng(9).standard_normal((300, 20))
    parts = [
        one_part(rows[i::2].copy(), np.arange(i, 300, 2), storage, quantizer=None, norms=norms, sums=True)
        for i in (0, 1)
    ]
    problem = Problem(parts[0].vectors[:3].copy(), tuple(parts), storage, "ip", 3)
    docs = all_docs(problem)
    assert_finds(problem, *problem.expected(), found(problem, docs, 1))
    parts[1].vectors[140, 7] = np.nan
    with pytest.raises(_kernels.CorruptDocument) as refused:
        found(problem, docs, 1)
    assert (refused.value.segment, refused.value.row) == (1, 140)


# ---- groups of queries, seeds, rows that do not take part ------------------------------------------------------------


def coded_docs(vectors: NDArray[np.float32], always: bool, first_id: int = 0, prefix: int = 0, **rest: Any) -> Any:
    codes = Quantizer(prefix=prefix).new_codes(*vectors.shape, always)
    codes.encode(vectors, 0, False, 1)
    norms = _kernels.measure_rows(vectors, False, False, 1)[0]
    return _kernels.Docs(vectors, norms, codes=codes, first_id=first_id, **rest)


def nothing(n: int, dim: int) -> _kernels.Docs:
    """So many rows that there is a worker for every thread, none of which is ever read."""
    return _kernels.Docs(np.zeros((n, dim), np.float32), np.zeros(n, np.float32), allowed=np.zeros(n // 32, np.uint32))


@pytest.mark.parametrize("always", [False, True])
def test_several_groups_of_queries(always: bool) -> None:
    """256 workers have room for the candidates of 65 queries a time, or with codes of fewer. The last group is of one
    query: codes that would serve it alone must not be taken, as there is no room for them."""
    rng = np.random.default_rng(0)
    n_queries, dim, k = 65 * 64 + 1 if not always else 101, 16, 62
    vectors = rng.standard_normal((3990, dim)).astype(np.float32)
    queries = rng.standard_normal((n_queries, dim)).astype(np.float32)
    n_large = 256 * (256 << 10) // (4 * dim)
    docs = nothing(n_large, dim), coded_docs(vectors, always, n_large)
    hits = _kernels.search(queries, docs, k, 1.0, 256, DOUBLE)
    few = np.r_[0, 30, 55, 80, n_queries - 2, n_queries - 1]
    alone = _kernels.search(queries[few], (_kernels.Docs(vectors, first_id=n_large),), k, 1.0, 1, DOUBLE)
    assert hits.ids[few].tolist() == alone.ids.tolist()
    assert hits.scores[few].tobytes() == alone.scores.tobytes()
    assert ((hits.stats.by_codes > 0) == always).all()


def test_seeds_are_looked_at_once(isa: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4100, 16)).astype(np.float32)
    vectors[:128] *= 10
    queries = rng.standard_normal((5, 16)).astype(np.float32)
    expected = np.argsort(-exact_scores(queries, vectors, "ip"), axis=1, kind="stable")[:, :120]
    for n_threads in (1, 2):
        hits = _kernels.search(queries, (coded_docs(vectors, True),), 120, 1.0, n_threads, DOUBLE)
        assert hits.ids.tolist() == expected.tolist()
        assert (hits.stats.by_codes == len(vectors)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("n_queries", [1, 5, 40])
def test_rows_that_are_not_allowed_may_hold_anything(dtype: Any, share: float, n_queries: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((3000, 8)).astype(dtype), rng.standard_normal((n_queries, 8)).astype(dtype)
    allowed = rng.random(3000) < share
    bits, sums = bits_of(allowed, rng), _kernels.row_sums(vectors)
    scores = np.where(allowed, exact_scores(queries, vectors, "ip"), -np.inf)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :7]
    wrong = vectors.copy()
    wrong[~allowed] = np.resize(np.array([np.nan, np.inf, -np.inf, 1e38], dtype), (int((~allowed).sum()), 8))
    for row_sums in (None, sums):
        docs = _kernels.Docs(wrong, allowed=bits, row_sums=row_sums)
        assert _kernels.search(queries, (docs,), 7, 1.0, 1, DOUBLE).ids.tolist() == expected.tolist()
    wrong[np.flatnonzero(allowed)[-1]] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        _kernels.search(queries, (_kernels.Docs(wrong, allowed=bits),), 7, 1.0, 1, DOUBLE)


def test_a_prefix_where_little_is_allowed(isa: str) -> None:
    """Chunks without any row that is allowed say nothing of the prefix."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40_000, 80)).astype(np.float32)
    queries = rng.standard_normal((3, 80)).astype(np.float32)
    allowed = np.zeros(40_000, bool)
    allowed[:7000] = allowed[39_000:] = True
    scores = np.where(allowed, exact_scores(queries, vectors, "ip"), -np.inf)
    docs = coded_docs(vectors, True, prefix=32, allowed=bits_of(allowed, rng))
    hits = _kernels.search(queries, (docs,), 5, 1.0, 2, DOUBLE)
    assert hits.ids.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :5].tolist()


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize(("n_groups", "collide"), [(1, False), (3, False), (40, False), (300, False), (40, True)])
@pytest.mark.parametrize("max_per_group", [1, 3])
def test_fewer_qualify_than_are_wanted(isa: str, coded: bool, n_groups: int, collide: bool, max_per_group: int) -> None:
    """No floor rises; groups have floors of their own, k, or all the same one. Copies: a tie is not below."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6000, 16)).astype(np.float32)[rng.integers(0, 900, 6000)]
    queries, groups = vectors[:3] * 2, rng.integers(0, n_groups, 6000).astype(np.int32)
    norms, k = _kernels.measure_rows(vectors, False, False, 1)[0], n_groups * max_per_group + 4
    groups *= np.int32(k if collide else 1)
    docs = coded_docs(vectors, True, groups=groups) if coded else _kernels.Docs(vectors, norms, groups=groups)
    order = np.argsort(-exact_scores(queries, vectors, "ip"), axis=1, kind="stable")
    for n_threads in (1, 2):
        hits = _kernels.search(queries, (docs,), k, 1.0, n_threads, DOUBLE, None, max_per_group)
        for ids, by_score in zip(hits.ids, order, strict=True):
            expected = by_score[taken(groups[by_score], max_per_group)]
            assert ids.tolist() == expected.tolist() + [-1] * 4
