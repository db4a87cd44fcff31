"""The whole path of exact search with pytest-benchmark, ragfast and every installed peer, at sizes that take a minute
in all; ``ragfast bench`` measures them in turns, at sizes that matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ragfast_bench import search_peers, timing
from ragfast_bench.data import unit_vectors
from ragfast_bench.documents import Documents, Search
from ragfast_bench.search import FLOAT32, ONE_SHOT, OURS, build_ours
from ragfast_bench.search_oracle import Oracle
from ragfast_bench.search_peers import PEERS

import ragfast

QUERIES = unit_vectors(16, 384, 1)


@pytest.fixture(scope="module")
def docs() -> Documents:
    return Documents(unit_vectors(5_000, 384, 0), k=10, threads=1, unit=True)


@pytest.fixture(scope="module")
def oracle(docs: Documents) -> Oracle:
    return Oracle(docs.vectors, QUERIES, docs.k)


@pytest.fixture(scope="module", params=[OURS, FLOAT32, ONE_SHOT, *PEERS])
def contender(request: pytest.FixtureRequest, docs: Documents) -> Iterator[tuple[str, Search]]:
    name: str = request.param
    if name in PEERS:
        found, left_out = search_peers.build_peers(docs, [name])
    else:
        found, left_out = build_ours(docs, (name,))
    if left_out:
        pytest.skip(f"{name}: {left_out[name]}")
    timing.limit_threads(docs.threads)
    yield name, found[name]
    search_peers.close(found.values())


@pytest.mark.benchmark(max_time=0.3)
@pytest.mark.parametrize("n_queries", [1, 16])
def test_search(benchmark: Any, contender: tuple[str, Search], oracle: Oracle, n_queries: int) -> None:
    name, search = contender
    found = benchmark(search, QUERIES[:n_queries])
    if isinstance(found, ragfast.Hits):
        assert oracle.agrees(found.ids)
    elif PEERS[name].exact:
        assert oracle.recall(found) == 1
    else:
        assert oracle.recall(found) > 0.5
