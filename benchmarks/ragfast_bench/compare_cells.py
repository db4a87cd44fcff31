"""The calls whose speed ``compare.py`` compares: sizes that stay near the caches, and a part of it for ``--quick``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ragfast_bench.compare_builds import Build

Call = Callable[[], Any]
Setup = Callable[[Build], Call]  # makes one build's indexes and returns the call to be timed


@dataclasses.dataclass(frozen=True)
class Cell:
    """A call to be timed. prepare makes the inputs that both builds share."""

    name: str
    prepare: Callable[[], Setup]
    quick: bool = False


def normal(*shape: int, dtype: Any = np.float32, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> Any:
    """Return normal values, the same ones at every call."""
    values = np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)
    return (values * scale + shift).astype(dtype)


def integers(most: int, *shape: int) -> Any:
    """Return integers below most."""
    return np.random.default_rng([most, *shape]).integers(0, most, shape)


def log_softmax(*shape: int) -> Any:
    """Return log probabilities over the last axis, float32."""
    values = normal(*shape, dtype=np.float64)
    return (values - np.log(np.exp(values).sum(axis=-1, keepdims=True))).astype(np.float32)


def of(function: str, *inputs: Callable[[], Any], **options: Any) -> Callable[[], Setup]:
    """Return what prepares a call of a public function: each input is made once, at the start of the cell."""

    def prepare() -> Setup:
        made = [make() for make in inputs]
        return lambda build: build.bind(function, *made, **options)

    return prepare


def searching(
    n: int, dim: int, b: int, k: int = 10, limits: Callable[[Build], dict[str, Any]] | None = None, **how: Any
) -> Callable[[], Setup]:
    """Return what prepares a search of an index; limits returns its filter or its rule of groups."""

    def prepare() -> Setup:
        vectors, queries = normal(n, dim), normal(b, dim, seed=1)
        metadata = {"page": np.arange(n) // 4, "year": integers(100, n)} if limits else None

        def setup(build: Build) -> Call:
            index = build.find("FlatIndex").from_vectors(vectors, metadata=metadata, **how)
            return build.bind(index.search, queries, k, **(limits(build) if limits else {}))

        return setup

    return prepare


def adding(n: int, dim: int, batch: int) -> Callable[[], Setup]:
    """Return what prepares adding to an empty index batch by batch."""

    def prepare() -> Setup:
        vectors = normal(n, dim)

        def setup(build: Build) -> Call:
            make = build.bind("FlatIndex", dim)

            def call() -> Any:
                index = make()
                for i in range(0, n, batch):
                    index.add(vectors[i : i + batch])
                return index

            return call

        return setup

    return prepare


def search_cells() -> Iterator[Cell]:
    """Yield the cells of retrieval."""
    sizes = itertools.product((1_000, 10_000, 100_000), (128, 384), (1, 16, 128), ("int8", "float32"))
    for n, dim, b, scan in sizes:
        quick = n == 10_000 and dim == 384 and b < 128
        yield Cell(f"search N{n} D{dim} B{b} k10 {scan}", searching(n, dim, b, scan=scan), quick)
    for k in (1, 100, 1000):
        yield Cell(f"search N10000 D128 B16 k{k}", searching(10_000, 128, 16, k))
    for dtype, b in itertools.product(("float16", "bfloat16"), (1, 16)):
        prepare = searching(10_000, 384, b, dtype=dtype, scan="float32")
        yield Cell(f"search N10000 D384 B{b} k10 {dtype}", prepare, b == 1)
    for metric in ("cosine", "l2"):
        yield Cell(f"search N10000 D128 B16 k10 {metric}", searching(10_000, 128, 16, metric=metric))
    limits: dict[str, Callable[[Build], dict[str, Any]]] = {
        "mask": lambda build: {"filter": np.arange(10_000) % 2 == 0},
        "ids": lambda build: {"filter": np.arange(0, 10_000, 100)},
        "predicate": lambda build: {"filter": build.find("column")("year") < 30},
        "max_per_group": lambda build: {"group_by": "page", "max_per_group": 1},
    }
    for name, limit in limits.items():
        yield Cell(f"search N10000 D128 B16 k10 {name}", searching(10_000, 128, 16, limits=limit), name == "mask")
    for n, b, dtype in ((20, 1, "float32"), (10_000, 1, "float32"), (10_000, 16, "float32"), (2_000, 4, "float64")):
        prepare = of("search", partial(normal, b, 64, dtype=dtype), partial(normal, n, 64, dtype=dtype))
        yield Cell(f"one-shot search N{n} D64 B{b} {dtype}", prepare, n == 20)
    documents, rows = partial(normal, 10_000, 128), partial(integers, 10_000, 32, 100)
    for name, shape in (("gather_scores", (32, 128)), ("gather_scores_grad", (32, 100))):
        yield Cell(f"{name} N10000 D128 B32 K100", of(name, partial(normal, *shape), documents, rows))
    lists = -np.sort(-normal(8, 16, 50), axis=-1), np.arange(8 * 16 * 50).reshape(8, 16, 50)
    yield Cell("merge_topk S8 B16 K50", of("merge_topk", lambda: lists[0], lambda: lists[1]), True)
    for option, value in (("scan", "int8"), ("scan", "float32"), ("metric", "cosine"), ("dtype", "float16")):
        prepare = of("FlatIndex.from_vectors", partial(normal, 10_000, 384), **{option: value})
        yield Cell(f"from_vectors N10000 D384 {value}", prepare)
    yield Cell("add N10000 D128 batch 500", adding(10_000, 128, 500), True)


def marginal_cells() -> Iterator[Cell]:
    """Yield the cells of log-sum-exps, marginals and losses."""
    for name in ("logsumexp", "log_softmax"):
        for shape, dtype in itertools.product(((5,), (64, 500), (8, 50_265)), ("float32", "float64")):
            prepare = of(name, partial(normal, *shape, dtype=dtype))
            yield Cell(f"{name} {shape} {dtype}", prepare, shape == (64, 500) and dtype == "float32")
    for kind, (b, t) in itertools.product(("sequence", "token"), ((1, 4), (32, 40))):
        inputs = partial(log_softmax, b, 10), partial(normal, b, 10, t, shift=-5)
        prepare = of(f"marginalize_{kind}", *inputs, return_posterior=b > 1)
        yield Cell(f"marginalize_{kind} B{b} K10 T{t}", prepare, b > 1)
    small, large = (1, 5, 4, 100), (2, 5, 12, 8_000)
    losses = (small, "float32"), (large, "float32"), (large, "float16")
    for kind, (shape, dtype), grad in itertools.product(("sequence", "token"), losses, ((), ("doc_scores", "logits"))):
        b, k, t, v = shape
        logits, scores = partial(normal, *shape, dtype=dtype, scale=3), partial(normal, b, k)
        name = f"rag_{kind}_nll B{b} K{k} T{t} V{v} {dtype}{' gradient' if grad else ''}"
        prepare = of(f"rag_{kind}_nll", logits, scores, partial(integers, v, b, t), grad=grad)
        yield Cell(name, prepare, shape == large and dtype == "float32")
    for kind in ("sequence", "token"):
        name, inputs = f"rag_{kind}_nll_from_logprobs", (partial(normal, 32, 10, 40, shift=-5), partial(normal, 32, 10))
        yield Cell(f"{name} B32 K10 T40", of(name, *inputs, grad=["doc_scores"]))
    for dtype in ("float32", "float16"):
        prepare = of("target_logprobs", partial(normal, 16, 50_265, dtype=dtype), partial(integers, 50_265, 16))
        yield Cell(f"target_logprobs T16 V50265 {dtype}", prepare, dtype == "float32")
    for n_best in (None, 4):
        logits, docs = partial(normal, 4, 5, 8_000, scale=3), partial(log_softmax, 4, 5)
        name = f"marginalize_step 4 beams K5 V8000{' n_best 4' if n_best else ''}"
        yield Cell(name, of("marginalize_step", logits, docs, n_best=n_best), n_best == 4)
    inputs = partial(normal, 64, 1000), partial(integers, 97, 64, 1000)
    yield Cell("segment_logsumexp (64, 1000)", of("segment_logsumexp", *inputs, n_segments=97))
    for with_grad in (False, True):
        inputs = partial(normal, 64, 20), partial(normal, 64, 20, seed=1)
        name = f"kl_divergence (64, 20){' gradient' if with_grad else ''}"
        yield Cell(name, of("kl_divergence", *inputs, return_grad=with_grad))
