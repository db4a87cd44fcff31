"""Making an index: how long it takes, and how much memory it holds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import ragfast
from ragfast_bench import data, search_peers
from ragfast_bench.documents import SPARE, Documents, Matrix
from ragfast_bench.machine import available_memory
from ragfast_bench.results import BenchError, Machine, Result, Task
from ragfast_bench.search_oracle import Oracle
from ragfast_bench.sections import LeaveOut, Say, Settings, floor
from ragfast_bench.timing import OtherLoad, in_turns

NAME = "build"
TITLE = "Making an index, and the memory it holds"

CHECKED = 16  # queries that each index is asked, to see that it is one
HELD = 12.0  # bytes for each element of the vectors, at the most while a peer builds
RANDOM, RANDOM_QUICK = (50_000, 768), (10_000, 384)  # N, D of the random set

NOTHING_TO_BUILD = dict.fromkeys(
    ("NumPy", "torch", "usearch exact"), "searches the vectors as they are: there is nothing to make"
)


@dataclass(frozen=True)
class Builder:
    """A contender: what makes its index of the documents, and how that is asked and weighed."""

    build: Callable[[Documents], Any]
    held: Callable[[Any], float]  # bytes
    search: Callable[[Any, Matrix, int], Any]
    ours: bool = False
    exact: bool = True
    note: str = ""
    full_only: bool = False


def _ours(note: str, exact: bool = True, **how: Any) -> Builder:
    return Builder(
        lambda docs: ragfast.FlatIndex.from_vectors(docs.vectors, **how),
        lambda index: float(index.nbytes),
        lambda index, queries, k: index.search(queries, k).ids,
        ours=True,
        exact=exact,
        note=note,
    )


def _faiss_flat(docs: Documents) -> Any:
    import faiss

    index = faiss.IndexFlatIP(docs.vectors.shape[1])
    index.add(docs.vectors)
    return index


def _faiss_sq8(docs: Documents) -> Any:
    import faiss

    index = faiss.IndexScalarQuantizer(docs.vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(docs.vectors)
    index.add(docs.vectors)
    return index


def _pgvector(docs: Documents) -> Any:
    from ragfast_bench.store_peers import PgvectorSearch

    return PgvectorSearch(docs)


def _table(search: Any) -> float:
    (size,) = search.connection.execute("SELECT pg_total_relation_size('documents')").fetchone()
    return float(size)


def _codes(index: Any) -> float:
    return float(index.codes.size())


def _panorama_held(search: Any) -> float:
    """Of the codes, the sums that Panorama keeps beside them, and the rotation."""
    return _codes(search.index) + 4.0 * float(search.index.cum_sums.size() + search.rotation.A.size())


def _faiss_search(index: Any, queries: Matrix, k: int) -> Any:
    return index.search(queries, k)[1]


BUILDERS = {
    "ragfast": _ours("memory by its nbytes"),
    "ragfast float32": _ours("scan float32: no codes; memory by its nbytes", scan="float32"),
    "ragfast float16": _ours("vectors rounded to float16; memory by its nbytes", exact=False, dtype="float16"),
    "FAISS flat": Builder(_faiss_flat, _codes, _faiss_search, note="a copy; memory by its codes"),
    "FAISS SQ8": Builder(_faiss_sq8, _codes, _faiss_search, exact=False, note="memory by its codes"),
    "FAISS Panorama": Builder(
        search_peers.PanoramaSearch,
        _panorama_held,
        lambda search, queries, k: search(queries),
        note="with its PCA; memory by its codes, sums and rotation",
    ),
    "pgvector": Builder(
        _pgvector,
        _table,
        lambda search, queries, k: search(queries),
        note="COPY, and start and stop of its server; memory by the size of its table",
        full_only=True,
    ),
}


def planned(settings: Settings) -> int:
    return len(_data_names(settings))


def measure(settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
    for name in _data_names(settings):
        try:
            if name == "random":
                found = data.made("random", *settings.pick(RANDOM_QUICK, RANDOM, RANDOM), data.LEAST_QUERIES)
            else:
                found = data.load(name, settings, say)
        except BenchError as error:
            if name == "yours":
                raise
            leave_out(name, str(error))
        else:
            yield _task(found, settings, machine, say)


def _data_names(settings: Settings) -> list[str]:
    if settings.vectors:
        return ["yours"]
    if settings.data:
        return list(settings.data)
    return settings.pick(["random"], ["wiki", "glosses"], ["wiki", "glosses", "random"])


def _task(found: data.DataSet, settings: Settings, machine: Machine, say: Say) -> Task:
    docs = Documents(found.vectors, settings.k, settings.threads)
    queries = found.queries[:CHECKED]
    oracle = Oracle(found.vectors, queries, settings.k)
    left_out = {name: why for name, why in NOTHING_TO_BUILD.items() if settings.wants(name)}
    held, recalls, verdicts = {}, {}, {}
    for name, builder in BUILDERS.items():
        if not builder.ours and not settings.wants(name):
            continue
        if reason := _unfit(builder, docs, settings):
            left_out[name] = reason
            continue
        say(f"{NAME}: {found.name}, {name}")
        try:
            index = builder.build(docs)
        except ImportError:
            left_out[name] = "not installed"
        except Exception as error:
            if builder.ours:
                raise
            left_out[name] = search_peers.trouble(error)
        else:
            try:
                answer = builder.search(index, queries, settings.k)
                recalls[name], verdicts[name] = oracle.recall(answer), oracle.verdict(answer, builder.exact)
                held[name] = builder.held(index)
            except Exception as error:
                if builder.ours:
                    raise
                left_out[name] = search_peers.trouble(error)
            finally:
                search_peers.close([index])
            index = None  # before the next is made
    gc.collect()
    say(f"{NAME}: {found.name}, in turns")

    def build_and_close(build: Callable[[Documents], Any]) -> None:
        search_peers.close([build(docs)])

    others = OtherLoad()
    calls = {name: partial(build_and_close, BUILDERS[name].build) for name in held}
    times = in_turns(calls, settings.pick(1.0, 2.0, 30.0), least=settings.pick(1, 2, 3))
    n, dim = found.vectors.shape
    read = float(found.vectors.nbytes)
    results = tuple(
        Result(
            name,
            BUILDERS[name].ours,
            BUILDERS[name].exact,
            times[name],
            recall=recalls[name],
            floor=floor(machine, bytes=read + held[name], held=read + held[name]),
            measures={"bytes per vector": held[name] / n, "input bytes per second": read / times[name].median},
            note=verdicts[name] + BUILDERS[name].note,
        )
        for name in held
    )
    shape = {"N": n, "D": dim}
    return Task(NAME, found.name, found.name, shape, settings.threads, results, left_out, others.cores())


def _unfit(builder: Builder, docs: Documents, settings: Settings) -> str:
    """Why a peer is not asked to build, or ""."""
    if builder.full_only and settings.size != "full":
        return "in full runs only: copying into a server takes long"
    held = HELD * docs.vectors.size
    if not builder.ours and held + SPARE > available_memory():
        return f"would hold {held / 1e9:.1f} GB"
    return ""
