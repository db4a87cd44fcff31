"""Every family of kernels at every level that this CPU runs, in sizes that stay in its caches: pytest-benchmark.

    pytest benchmarks/suites/bench_kernels.py                    all in 20 s, each result checked against float64
    pytest benchmarks/suites/bench_kernels.py -k "avx2 and kl"    some
    ... --benchmark-autosave, then --benchmark-compare     before and after a change

Needs NumPy and pytest-benchmark alone. It says what a change does to a kernel; how ragfast stands beside its peers,
``ragfast bench`` says, where contenders take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ragfast_bench import machine

import ragfast
from ragfast._core import _kernels

Float64 = NDArray[np.float64]
Case = tuple[Callable[[], Any], Callable[[Any], None]]  # what is timed, and what checks its result

N, D, K = 4000, 128, 10  # documents of 2 MB in float32
B, DOCS, T, V = 2, 5, 4, 2000  # logits of 320 KB
ROWS, COLUMNS, KEYS = 64, 500, 40

pytestmark = pytest.mark.benchmark(max_time=0.15, min_rounds=5, min_time=0.00005)


@pytest.fixture(params=ragfast.runtime.available_isas())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ragfast.runtime.isa()
    ragfast.runtime.set_isa(request.param)
    yield request.param
    ragfast.runtime.set_isa(before)


# ---- float64 oracles


def near(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=tolerance, atol=tolerance)


def lse(x: Any, axis: int = -1) -> Float64:
    wide = np.asarray(x, np.float64)
    top = wide.max(axis, keepdims=True)
    out: Float64 = np.log(np.exp(wide - top).sum(axis)) + top.squeeze(axis)
    return out


def log_softmax(x: Any) -> Float64:
    return np.asarray(x, np.float64) - lse(x)[..., None]


def uniform(*shape: int, scale: float = 1.0, seed: int = 0) -> Float64:
    return np.random.default_rng([seed, *shape]).uniform(-scale, scale, shape)


# ---- retrieval: kernels dot_* and code_*


def search(n_queries: int, scan: str, dtype: Any = np.float32) -> Case:
    vectors, queries = uniform(N, D).astype(np.float32), uniform(n_queries, D, seed=1).astype(np.float32)
    index = ragfast.FlatIndex.from_vectors(vectors, scan=scan, dtype=dtype)
    stored = vectors.astype(dtype).astype(np.float64)

    def check(hits: ragfast.Hits) -> None:
        exact = queries.astype(np.float64) @ stored.T
        ids = np.argsort(-exact, axis=1)[:, :K]
        assert hits.ids.tolist() == ids.tolist()
        near(hits.scores, np.take_along_axis(exact, ids, 1), 1e-12)

    return lambda: index.search(queries, K, dtype=np.float64, n_threads=1), check


def build_codes() -> Case:
    """What add() costs with codes; a search by them must then find what is there."""
    vectors, query = uniform(N, D).astype(np.float32), uniform(1, D, seed=1).astype(np.float32)

    def check(index: ragfast.FlatIndex) -> None:
        exact = query.astype(np.float64) @ vectors.astype(np.float64).T
        assert index.search(query, K).ids[0].tolist() == np.argsort(-exact[0])[:K].tolist()

    return lambda: ragfast.FlatIndex.from_vectors(vectors, scan="int8"), check


def gather(with_grad: bool) -> Case:
    vectors, queries = uniform(N, D).astype(np.float32), uniform(32, D, seed=1).astype(np.float32)
    rows = np.random.default_rng(2).integers(0, N, (32, 100))
    chosen = vectors.astype(np.float64)[rows]  # (B,K,D)
    if not with_grad:
        exact = np.einsum("bd,bkd->bk", queries.astype(np.float64), chosen)
        scores = partial(ragfast.gather_scores, queries, vectors, rows, dtype=np.float64)
        return scores, lambda found: near(found, exact, 1e-12)
    grad = uniform(32, 100, seed=3)
    exact = np.einsum("bk,bkd->bd", grad, chosen)
    return partial(ragfast.gather_scores_grad, grad, vectors, rows), lambda found: near(found, exact, 1e-5)


def merge() -> Case:
    """Scalar at every level: what search of several shards ends with."""
    scores = -np.sort(-uniform(8, 16, 50), axis=-1)
    ids = np.arange(8 * 16 * 50).reshape(scores.shape)

    def check(found: tuple[Float64, NDArray[np.int64]]) -> None:
        all_scores, all_ids = (x.transpose(1, 0, 2).reshape(16, -1) for x in (scores, ids))
        order = np.argsort(-all_scores, axis=1)[:, :50]
        assert found[1].tolist() == np.take_along_axis(all_ids, order, 1).tolist()
        assert found[0].tolist() == np.take_along_axis(all_scores, order, 1).tolist()

    return lambda: _kernels.merge_topk(scores, ids, 50), check


# ---- rows: kernels lse_*


def rows_lse(dtype: Any) -> Case:
    x = uniform(ROWS, COLUMNS, scale=20).astype(dtype)
    return lambda: ragfast.logsumexp(x), lambda found: near(found, lse(x), 4 * float(np.finfo(dtype).eps))


def rows_log_softmax() -> Case:
    x = uniform(ROWS, COLUMNS, scale=20).astype(np.float32)
    return lambda: ragfast.log_softmax(x), lambda found: near(found, log_softmax(x), 1e-6)


def marginalize(by_token: bool) -> Case:
    docs = log_softmax(uniform(32, K, scale=3)).astype(np.float32)
    tokens = (uniform(32, K, 40, scale=4) - 5).astype(np.float32)
    wide = tokens.astype(np.float64)
    exact = lse(docs[..., None] + wide, 1) if by_token else lse(docs + wide.sum(-1))
    function = ragfast.marginalize_token if by_token else ragfast.marginalize_sequence
    return partial(function, docs, tokens), lambda found: near(found, exact, 1e-6)


def kl() -> Case:
    p, q = uniform(ROWS, COLUMNS, scale=5), uniform(ROWS, COLUMNS, scale=5, seed=1)
    log_p, log_q = log_softmax(q), log_softmax(p)  # forward: KL(target || scores)
    exact = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return lambda: ragfast.kl_divergence(p, q, reduction="none"), lambda found: near(found, exact, 1e-11)


def segments() -> Case:
    x, keys = uniform(ROWS, COLUMNS, scale=5), np.random.default_rng(1).integers(0, KEYS, (ROWS, COLUMNS))
    exact = np.log([np.bincount(k, np.exp(row), KEYS) for k, row in zip(keys, x, strict=True)])
    return lambda: ragfast.segment_logsumexp(x, keys, KEYS), lambda found: near(found, exact, 1e-11)


# ---- logits: kernels logits_*


def target_logprobs(dtype: Any) -> Case:
    logits = uniform(B * DOCS * T, V, scale=8).astype(dtype)
    targets = np.random.default_rng(1).integers(0, V, len(logits))
    exact = np.take_along_axis(log_softmax(logits), targets[:, None], 1)[:, 0]
    return lambda: ragfast.target_logprobs(logits, targets), lambda found: near(found, exact, 1e-5)


def nll(by_token: bool, with_grad: bool) -> Case:
    logits, scores = uniform(B, DOCS, T, V, scale=8).astype(np.float32), uniform(B, DOCS, scale=3)
    targets = np.random.default_rng(1).integers(0, V, (B, T))
    log_probs = log_softmax(logits)
    given = np.take_along_axis(log_probs, targets[:, None, :, None], 3)[..., 0]  # (B,K,T)
    joint = log_softmax(scores)[..., None] + (given if by_token else given.sum(-1, keepdims=True))
    exact = -lse(joint, 1).sum(-1)
    function = ragfast.rag_token_nll if by_token else ragfast.rag_sequence_nll
    call = partial(function, logits, scores, targets, reduction="none")
    if not with_grad:
        return call, lambda found: near(found, exact, 1e-6)

    def check(found: ragfast.NLL) -> None:
        posterior = np.exp(joint - lse(joint, 1)[:, None])[..., None]  # (B,K,1 or T,1)
        wrong = np.exp(log_probs)
        np.put_along_axis(wrong, targets[:, None, :, None], np.expm1(given)[..., None], 3)
        near(found.loss, exact, 1e-6)
        near(found.logits_grad, posterior * wrong, 1e-6)

    return partial(call, grad=["logits"]), check


def step() -> Case:
    logits, docs = uniform(B, DOCS, V, scale=8).astype(np.float32), log_softmax(uniform(B, DOCS))
    exact = lse(docs[..., None] + log_softmax(logits), 1)
    return lambda: ragfast.marginalize_step(logits, docs), lambda found: near(found, exact, 1e-6)


# ---- what the machine can do at most


def operations(arithmetic: str) -> Case:
    rounds = 500
    return lambda: machine.peak_operations(arithmetic, rounds), lambda found: near(
        found, rounds * machine.peak_operations(arithmetic, 1), 0
    )


def read() -> Case:
    words = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint64)
    return lambda: machine.peak_read(words), lambda found: near(found, int(words.sum()), 0)


CASES: dict[str, Callable[[], Case]] = {
    "dot: search float32, B 1": lambda: search(1, "float32"),
    "dot: search float32, B 24": lambda: search(24, "float32"),
    "dot: search float16, B 1": lambda: search(1, "float32", np.float16),
    "dot: gather_scores": lambda: gather(False),
    "code: encode": build_codes,
    "code: search int8, B 1": lambda: search(1, "int8"),
    "code: search int8, B 64": lambda: search(64, "int8"),
    "lse: logsumexp float32": lambda: rows_lse(np.float32),
    "lse: logsumexp float64": lambda: rows_lse(np.float64),
    "lse: log_softmax": rows_log_softmax,
    "lse: marginalize_sequence": lambda: marginalize(False),
    "lse: marginalize_token": lambda: marginalize(True),
    "lse: kl_divergence": kl,
    "lse: segment_logsumexp": segments,
    "logits: target_logprobs float32": lambda: target_logprobs(np.float32),
    "logits: target_logprobs float16": lambda: target_logprobs(np.float16),
    "logits: rag_sequence_nll": lambda: nll(False, False),
    "logits: rag_sequence_nll, gradient": lambda: nll(False, True),
    "logits: rag_token_nll": lambda: nll(True, False),
    "logits: marginalize_step": step,
    "logits: gather_scores_grad": lambda: gather(True),
    "peak: operations float32": lambda: operations("float32"),
    "peak: operations int8": lambda: operations("int8"),
    "peak: read": read,
    "all levels: merge_topk": merge,
}


@pytest.mark.parametrize("case", list(CASES))
def test_kernel(benchmark: Any, case: str, level: str) -> None:
    ragfast.set_num_threads(1)
    call, check = CASES[case]()
    benchmark.group = case
    benchmark.name = level
    found = benchmark(call)
    check(found)
    assert ragfast.runtime.isa() == level
