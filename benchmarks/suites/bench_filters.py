"""What filters, groups and metrics cost, against the plain search and against what peers do in their place.

    python benchmarks/suites/bench_filters.py                           50,000 x 384, some minutes
    python benchmarks/suites/bench_filters.py --full --json filters.json     1,000,000 x 768
    pytest benchmarks/suites/bench_filters.py                                all parts in seconds, each result checked

Tables, with medians of calls in turns and ratios to the first row: above 1 a contender takes longer than that. Peers
select among what they calculate (FAISS, by a selector), calculate all and mask, or copy the rows that are left.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tasks import Part, Sizes, Way, check, main, measured, touching, trouble
from numpy.typing import NDArray
from ragfast_bench import contest, results
from ragfast_bench.data import made, unit_vectors
from ragfast_bench.documents import SPARE
from ragfast_bench.machine import available_memory
from ragfast_bench.search_oracle import Oracle
from ragfast_bench.search_peers import select

import ragfast

Matrix = NDArray[np.float32]
Ids = NDArray[np.int64]
Search = Callable[[Matrix], Any]

KEPT = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.99)
ARTICLE = 10  # documents of each, in a row
CHECKED = 16  # queries that are calculated in float64
BLOCK = 8192  # documents


def columns(n: int) -> dict[str, NDArray[Any]]:
    articles = np.arange(n) // ARTICLE
    return {
        "draw": np.random.default_rng(5).random(n),
        "place": np.arange(n),
        "article": articles,
        "title": np.array([f"article {i}" for i in articles], object),
    }


# ---- filters


Saying = Callable[[int], ragfast.index.Predicate]


def selections(n: int) -> Iterator[tuple[str, NDArray[np.bool_], Saying]]:
    """Which documents, and predicates on the columns that all say the same, each with another constant: an index
    remembers predicates that come again."""
    draws = columns(n)["draw"]
    for part in KEPT:
        mask = draws < part
        yield f"{100 * part:g} % at random", mask, drawn_below(draws, mask)
    for part in KEPT:
        size = max(1, round(part * n))
        first = min(n // 3, n - size)
        mask = np.zeros(n, bool)
        mask[first : first + size] = True
        yield f"{100 * part:g} % in one stretch", mask, placed_within(first, first + size)


def drawn_below(draws: NDArray[np.float64], mask: NDArray[np.bool_]) -> Saying:
    last, above = float(draws[mask].max(initial=0.0)), float(draws[~mask].min(initial=1.0))
    return lambda i: ragfast.column("draw") < above - (above - last) * i / 1e6


def placed_within(first: int, end: int) -> Saying:
    place = ragfast.column("place")
    return lambda i: (place >= first - i / 1e6) & (place < end)


def filters(sizes: Sizes) -> Iterator[results.Task]:
    vectors = unit_vectors(sizes.docs, sizes.dim)
    queries = unit_vectors(max(sizes.batches), sizes.dim, 1)
    index = ragfast.FlatIndex.from_vectors(vectors, metadata=columns(sizes.docs))
    peers = Peers(vectors, sizes)
    for what, mask, predicate in selections(sizes.docs):
        kept = np.flatnonzero(mask)
        prepared = index.snapshot().filter(mask)
        given = {"mask": mask, "ids": kept, "predicate, remembered": predicate(0), "prepared": prepared}
        found = index.search(queries, sizes.k, filter=mask).ids
        right = np.array_equal(found[:CHECKED], exact(vectors, kept, queries[:CHECKED], sizes.k))
        for b in sizes.batches:
            asked = queries[:b]
            ways = [
                Way(name, partial(index.search, asked, sizes.k, filter=chosen), note="" if right else "WRONG")
                for name, chosen in given.items()
            ]
            ways.append(Way("predicate, new", partial(searched_anew, index, asked, sizes.k, predicate)))
            every = partial(index.search, asked, sizes.k)
            ways.append(Way("unfiltered", every, checked=False, touch=touching(sizes, index.search, asked)))
            theirs, left_out = peers.ways(mask, kept, asked)
            yield measured(
                sizes,
                f"filter that keeps {what}, B {b}",
                ways + theirs,
                found[:b],
                left_out,
                B=b,
                k=sizes.k,
                kept=len(kept),
            )


_said = itertools.count(1)


def searched_anew(index: ragfast.FlatIndex, asked: Matrix, k: int, predicate: Saying) -> ragfast.Hits:
    return index.search(asked, k, filter=predicate(next(_said)))


def exact(vectors: Matrix, kept: NDArray[np.intp], queries: Matrix, k: int) -> Ids:
    """Ids (B,k), in float64; -1 where there are too few."""
    found = np.full((len(queries), k), -1, np.int64)
    if len(kept):
        best = Oracle(vectors[kept], queries, k).ids
        # The oracle looks at all of so few queries.
        found[:, : best.shape[1]] = kept[best]
    return found


class Peers:
    """Each is given the mask as it would want it, so that only searching is timed; but the rows that are copied for
    each call."""

    def __init__(self, vectors: Matrix, sizes: Sizes) -> None:
        self._vectors, self._sizes = vectors, sizes
        self._slow: dict[tuple[str, int], float] = {}  # seconds a query, by name and documents kept
        self._builds: dict[str, Callable[[NDArray[np.bool_], NDArray[np.intp]], Search]] = {
            "NumPy, rows copied each time": lambda mask, kept: self._numpy(lambda: vectors[mask], kept),
            "NumPy, rows copied before": self._numpy_before,
            "NumPy, all scores masked": self._numpy_masked,
        }
        self._missing: dict[str, str] = {}
        for names, build in (
            (("FAISS, IDSelectorBitmap", "FAISS, IDSelectorBatch"), self._faiss),
            (("torch, rows copied each time", "torch, all scores masked"), self._torch),
        ):
            try:
                self._builds |= dict(zip(names, build(), strict=True))
            except Exception as error:  # a peer that is not here costs only itself
                self._missing |= dict.fromkeys(names, trouble(error))

    def ways(self, mask: NDArray[np.bool_], kept: NDArray[np.intp], asked: Matrix) -> tuple[list[Way], dict[str, str]]:
        found, left_out = [], dict(self._missing)
        b, limit = len(asked), self._sizes.patience
        for name, build in self._builds.items():
            expected = self._slow.get((name, len(kept)), 0.0) * b
            scratch = 4 * (2 * kept.size * self._sizes.dim + 3 * len(mask) * b)
            if not kept.size:
                left_out[name] = "nothing is left to search"
            elif expected > limit * (1 if name.startswith("FAISS") else 4):  # the others' batches save time
                left_out[name] = f"would take up to {expected:.0f} s"
            elif scratch + SPARE > available_memory():
                left_out[name] = f"would take {scratch / 1e9:.1f} GB"
            else:
                search = build(mask, kept)
                start = time.perf_counter()
                search(asked)
                self._slow[name, len(kept)] = (time.perf_counter() - start) / b
                found.append(Way(name, partial(search, asked), ours=False))
        return found, left_out

    def _padded(self, ids: Any) -> Any:
        return np.pad(ids, ((0, 0), (0, self._sizes.k - ids.shape[1])), constant_values=-1)

    def _numpy(self, rows: Callable[[], Matrix], kept: NDArray[np.intp]) -> Search:
        k = min(self._sizes.k, len(kept))
        return lambda queries: self._padded(kept[select(queries @ rows().T, k)])

    def _numpy_before(self, mask: NDArray[np.bool_], kept: NDArray[np.intp]) -> Search:
        rows = self._vectors[mask]
        return self._numpy(lambda: rows, kept)

    def _numpy_masked(self, mask: NDArray[np.bool_], kept: NDArray[np.intp]) -> Search:
        k = min(self._sizes.k, len(kept))

        def search(queries: Matrix) -> Any:
            scores = queries @ self._vectors.T
            scores[:, ~mask] = -np.inf
            return self._padded(select(scores, k))

        return search

    def _faiss(self) -> list[Callable[[NDArray[np.bool_], NDArray[np.intp]], Search]]:
        import faiss

        index = faiss.IndexFlatIP(self._vectors.shape[1])
        index.add(self._vectors)

        def by(selector: Any) -> Search:
            parameters = faiss.SearchParameters(sel=selector)
            return lambda queries: index.search(queries, self._sizes.k, params=parameters)[1]

        return [
            lambda mask, kept: by(faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))),
            lambda mask, kept: by(faiss.IDSelectorBatch(kept.astype(np.int64))),
        ]

    def _torch(self) -> list[Callable[[NDArray[np.bool_], NDArray[np.intp]], Search]]:
        import torch

        held = torch.from_numpy(self._vectors)

        def copied(mask: NDArray[np.bool_], kept: NDArray[np.intp]) -> Search:
            chosen, k = torch.from_numpy(kept), min(self._sizes.k, len(kept))

            def search(queries: Matrix) -> Any:
                best = torch.topk(torch.from_numpy(queries) @ held.index_select(0, chosen).T, k).indices
                return self._padded(chosen[best].numpy())

            return search

        def masked(mask: NDArray[np.bool_], kept: NDArray[np.intp]) -> Search:
            without, k = torch.from_numpy(~mask), min(self._sizes.k, len(kept))

            def search(queries: Matrix) -> Any:
                scores = (torch.from_numpy(queries) @ held.T).masked_fill_(without, -torch.inf)
                return self._padded(torch.topk(scores, k).indices.numpy())

            return search

        return [copied, masked]


# ---- groups


def groups(sizes: Sizes) -> Iterator[results.Task]:
    """Queries are documents, disturbed, as they are where each looks for others than its own article."""
    vectors = unit_vectors(sizes.docs, sizes.dim)
    rng = np.random.default_rng(1)
    own = rng.integers(0, sizes.docs, max(sizes.batches))
    queries = vectors[own] + rng.standard_normal((len(own), sizes.dim), dtype=np.float32) / sizes.dim**0.5
    index = ragfast.FlatIndex.from_vectors(vectors, metadata=columns(sizes.docs))
    articles = own // ARTICLE
    titles = np.array([f"article {i}" for i in articles], object)
    more = index.search(queries, min(sizes.docs, sizes.k * (ARTICLE + 1))).ids
    without = np.array([row[row // ARTICLE != own][: sizes.k] for row, own in zip(more, articles, strict=True)])
    single = np.array([row[np.sort(np.unique(row // ARTICLE, return_index=True)[1])][: sizes.k] for row in more])
    for b in sizes.batches:
        asked = queries[:b]
        plain = Way("plain", partial(index.search, asked, sizes.k), checked=False)
        search = partial(index.search, asked, sizes.k)
        ways = [
            Way("not my own article, an int column", partial(search, group_by="article", exclude_groups=articles[:b])),
            Way("the same, a str column", partial(search, group_by="title", exclude_groups=titles[:b])),
        ]
        yield measured(sizes, f"group exclusion, B {b}", [plain, *ways], without[:b], B=b, k=sizes.k)
        ways = [
            Way("at most one of each article, an int column", partial(search, group_by="article", max_per_group=1)),
            Way("the same, a str column", partial(search, group_by="title", max_per_group=1)),
        ]
        yield measured(sizes, f"groups, B {b}", [plain, *ways], single[:b], B=b, k=sizes.k)


# ---- metrics


def metrics(sizes: Sizes) -> Iterator[results.Task]:
    """Documents of many lengths, half as many as elsewhere: five contenders hold them."""
    n = max(1, sizes.docs // 2)
    data = made("log-normal norms", n, sizes.dim, max(256, *sizes.batches))
    vectors = data.vectors
    held = {metric: ragfast.FlatIndex.from_vectors(vectors, metric=metric) for metric in ("ip", "l2", "cosine")}
    peers, missing = metric_peers(vectors, sizes)
    for b in sizes.batches:
        asked = data.queries[:b]
        for metric in ("l2", "cosine"):
            ways = [
                Way(f"ragfast {name}", partial(one.search, asked, sizes.k), checked=name == metric)
                for name, one in held.items()
            ]
            ways.sort(key=lambda way: not way.checked)  # the one in question first
            theirs = [Way(name, partial(search, asked), ours=False) for name, search in peers[metric].items()]
            expected = by_definition(metric, vectors, asked[:CHECKED], sizes.k)
            found = held[metric].search(asked, sizes.k).ids
            note = "" if np.array_equal(found[: len(expected)], expected) else "WRONG: not the exact top-k"
            ways[0] = Way(ways[0].name, ways[0].call, note=note)
            yield measured(sizes, f"metric {metric}, B {b}", ways + theirs, found, missing, N=n, B=b, k=sizes.k)


def by_definition(metric: str, vectors: Matrix, queries: Matrix, k: int) -> Ids:
    """In float64, as NumPy adds. Random documents have no scores that this does not tell apart."""
    asked = queries.astype(np.float64)
    scores = np.empty((len(asked), len(vectors)))
    for first in range(0, len(vectors), BLOCK):
        wide = vectors[first : first + BLOCK].astype(np.float64)
        if metric == "cosine":  # as they are stored: normalised, and rounded
            stored = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
            scores[:, first : first + BLOCK] = asked @ stored.T
        else:
            scores[:, first : first + BLOCK] = [-((wide - query) ** 2).sum(axis=1) for query in asked]
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def metric_peers(vectors: Matrix, sizes: Sizes) -> tuple[dict[str, dict[str, Search]], dict[str, str]]:
    found: dict[str, dict[str, Search]] = {"l2": {}, "cosine": {}}
    missing = {}
    try:
        import faiss
    except ImportError:
        missing["FAISS"] = contest.NOT_INSTALLED
    else:
        squared = faiss.IndexFlatL2(sizes.dim)
        squared.add(vectors)
        of_units = faiss.IndexFlatIP(sizes.dim)
        of_units.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        default = faiss.cvar.distance_compute_blas_threshold

        def search(index: Any, threshold: int, queries: Matrix) -> Any:
            faiss.cvar.distance_compute_blas_threshold = threshold
            ids = index.search(queries, sizes.k)[1]
            faiss.cvar.distance_compute_blas_threshold = default
            return ids

        for metric, index in (("l2", squared), ("cosine", of_units)):
            found[metric]["FAISS default"] = partial(search, index, default)
            found[metric]["FAISS tuned"] = partial(search, index, 1)
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        missing["scikit-learn"] = contest.NOT_INSTALLED
    else:
        for metric, name in (("l2", "euclidean"), ("cosine", "cosine")):
            neighbors = NearestNeighbors(algorithm="brute", metric=name, n_jobs=sizes.threads).fit(vectors)
            found[metric]["scikit-learn"] = partial(neighbors.kneighbors, n_neighbors=sizes.k, return_distance=False)
    return found, missing


PACKAGES: dict[str, Part] = {"filters": filters, "groups": groups, "metrics": metrics}


@pytest.mark.parametrize("part", PACKAGES)
def test_part(part: str, tmp_path: Path) -> None:
    check(PACKAGES[part], tmp_path)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(PACKAGES, __doc__))
