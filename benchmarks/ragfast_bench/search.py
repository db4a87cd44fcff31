"""Exact top-k search of real and of made data, against all peers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ragfast
from ragfast_bench import data, results, search_peers, sections, timing
from ragfast_bench.documents import SPARE, Documents, Matrix, Search
from ragfast_bench.machine import available_memory
from ragfast_bench.search_oracle import Oracle
from ragfast_bench.search_peers import PEERS

NAME = "search"
TITLE = "Exact top-k search"

OURS, FLOAT32, ONE_SHOT = "ragfast", "ragfast, float32 scan", "ragfast.search, one shot"
SPARED = {
    "quick": "to save time; a longer run has it",
    "default": "on real embeddings only, to save time; a full run has it on all data",
}
BATCHES_SAVE = 4
"""How many times shorter than by its single calls a batch may be hoped to take, before a contender is given up."""
LONG = 0.1  # seconds of a call that is not repeated to learn how long it takes
TOUCHED = 1e9  # bytes of vectors from which contenders read their memory before each turn


def planned(settings: sections.Settings) -> int:
    return len(data.names(settings)) * len(batches(settings))


def batches(settings: sections.Settings) -> tuple[int, ...]:
    return settings.pick((1, 16), (1, 16, 256), (1, 16, 256))


def measure(
    settings: sections.Settings,
    machine: results.Machine,
    say: sections.Say,
    leave_out: sections.LeaveOut,
) -> Iterator[results.Task]:
    for name in data.names(settings):
        try:
            chosen = data.load(name, settings, say)
        except results.BenchError as error:
            leave_out(name, str(error))
            continue
        docs = Documents(chosen.vectors, settings.k, settings.threads, chosen.unit)
        real = name in sections.REAL  # which get more time
        names = [peer for peer in PEERS if settings.wants(peer)]
        spared = {}
        if settings.size == "quick" or (settings.size == "default" and not real):
            spared = {peer: SPARED[settings.size] for peer in names if PEERS[peer].store}
        limits = Limits(
            settings.pick(3.0, 5.0 if real else 2.0, 15.0),
            least=settings.pick(2, 2, 3),
            patience=settings.pick(0.3, 1.0 if real else 0.5, 10.0),
        )
        names = [peer for peer in names if peer not in spared]
        ours = (OURS, FLOAT32, ONE_SHOT)
        queries = chosen.queries[: max(batches(settings))]
        with Contest(NAME, chosen.name, docs, queries, ours, names, say, spared) as contest:
            for b in sorted({min(b, len(queries)) for b in batches(settings)}):
                say(f"{chosen.name}, {b} queries")
                yield contest.task(b, machine, limits, f"{chosen.name}, B {b}")
        del chosen, docs, contest  # before the next data set is made


@dataclass(frozen=True)
class Limits:
    """Of one task."""

    seconds: float  # in all, about
    least: int  # calls of each contender
    patience: float  # a contender whose call takes longer is called once; one that is bound to is left out


@dataclass
class Contest:
    """All contenders over one set of documents. Leaving it stops what they started."""

    section: str
    data: str
    docs: Documents
    queries: Matrix
    ours: tuple[str, ...]
    peers: list[str]
    say: sections.Say
    left_out: dict[str, str] = field(default_factory=dict)  # before it began, too
    searches: dict[str, Search] = field(default_factory=dict)
    seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # the last B of a contender, and its seconds

    def __enter__(self) -> Contest:
        self.say("the exact answer")
        self.oracle = Oracle(self.docs.vectors, self.queries, self.docs.k)
        self.say("building ragfast")
        ours, without = build_ours(self.docs, self.ours)
        peers, missing = search_peers.build_peers(self.docs, self.peers, self.say)
        self.searches, self.left_out = ours | peers, self.left_out | without | missing
        timing.limit_threads(self.docs.threads)  # again: building has loaded libraries with threads of their own
        return self

    def __exit__(self, *_: object) -> None:
        search_peers.close(self.searches.values())
        self.searches.clear()

    def task(self, b: int, machine: results.Machine, limits: Limits, name: str) -> results.Task:
        """The first b queries, by every contender that fits."""
        n, dim = self.docs.vectors.shape
        queries = self.queries[:b]
        fitting, without = search_peers.fitting(self.searches, n, b)
        left_out = {**self.left_out, **without}
        found: dict[str, Any] = {}
        times: dict[str, results.Spread] = {}
        calls: dict[str, timing.Call] = {}
        firsts: dict[str, float] = {}
        begin = time.perf_counter()
        for contender, search in fitting.items():
            if reason := self._too_long(contender, b, limits):
                left_out[contender] = reason
                continue
            try:
                taken, found[contender] = timed(search, queries)
                if limits.patience < taken < 10 * limits.patience and contender not in self.seen:
                    taken, found[contender] = timed(search, queries)  # the first ever may have loaded code
            except Exception as error:
                if contender in self.ours:
                    raise
                left_out[contender] = search_peers.trouble(error)
                continue
            if taken > limits.patience:
                times[contender] = timing.spread([taken])
            else:
                calls[contender] = partial(search, queries)
                if taken > LONG:
                    firsts[contender] = taken
        seconds = max(limits.seconds / 4, limits.seconds - (time.perf_counter() - begin))
        touch = None
        if self.docs.vectors.nbytes > TOUCHED:
            touch = {contender: partial(self.searches[contender], queries[:1]) for contender in calls}
        others = timing.OtherLoad()
        times |= timing.in_turns(calls, seconds, limits.least, touch, firsts)
        busy = others.cores()
        self.seen |= {contender: (b, spread.median) for contender, spread in times.items()}
        return results.Task(
            section=self.section,
            name=name,
            data=self.data,
            shape={"N": n, "D": dim, "B": b, "k": self.docs.k},
            threads=self.docs.threads,
            results=tuple(self._result(c, times[c], found[c], b, machine) for c in fitting if c in times),
            left_out=left_out,
            other_cores=busy,
        )

    def _too_long(self, contender: str, b: int, limits: Limits) -> str:
        """Why so many queries are not asked, from what fewer took, or ""."""
        if contender in self.ours or contender not in self.seen or contender == self._fastest_peer():
            return ""
        before, taken = self.seen[contender]
        expected = taken * b / before
        # One call for all queries takes a good deal less than as many calls as queries.
        if expected <= limits.patience * (BATCHES_SAVE if PEERS[contender].batches else 1):
            return ""
        asked = "1 query" if before == 1 else f"{before} queries"
        return f"{b} queries would take about {expected:.1f} s: {asked} took {taken:.2g} s"

    def _fastest_peer(self) -> str | None:
        """Of the exact ones, so far: without it there would be nobody to compare with."""
        exact = [name for name in self.seen if name in PEERS and PEERS[name].exact]
        return min(exact, key=lambda name: self.seen[name][1] / self.seen[name][0], default=None)

    def _result(self, name: str, times: results.Spread, found: Any, b: int, machine: results.Machine) -> results.Result:
        peer = PEERS.get(name)
        if peer is None:
            wrong = "" if self.oracle.agrees(found.ids) else "WRONG: not the exact top-k; "
            floor = our_floor(machine, found, self.docs.vectors.shape, b)
            recall = self.oracle.recall(found.ids)
            return results.Result(name, True, True, times, recall, floor=floor, note=wrong + how(found))
        floor = None
        if peer.bytes is not None and peer.arithmetic is not None:
            passes = 1 if peer.batches else b
            floor = scan_floor(machine, self.docs.vectors.shape, b, peer.bytes, peer.arithmetic, passes)
        note = self.oracle.verdict(found, peer.exact) + peer.note
        return results.Result(name, False, peer.exact, times, self.oracle.recall(found), floor=floor, note=note)


def timed(search: Search, queries: Matrix) -> tuple[float, Any]:
    """Seconds, and what was found."""
    start = time.perf_counter()
    found = search(queries)
    return time.perf_counter() - start, found


def build_ours(docs: Documents, names: tuple[str, ...]) -> tuple[dict[str, Search], dict[str, str]]:
    """{name: search}, and {name: reason} of those left out."""
    found: dict[str, Search] = {}
    left_out = {}
    for name in names:
        if name == ONE_SHOT:
            found[name] = partial(ragfast.search, vectors=docs.vectors, k=docs.k)
        elif name != OURS and docs.vectors.nbytes + SPARE > available_memory():
            left_out[name] = f"would hold {docs.vectors.nbytes / 1e9:.1f} GB"
        else:
            scan = "float32" if name == FLOAT32 else "auto"
            found[name] = partial(ragfast.FlatIndex.from_vectors(docs.vectors, scan=scan).search, k=docs.k)
    return found, left_out


def how(found: ragfast.Hits) -> str:
    """What the statistics of a search say, if there are any."""
    if found.stats is None:
        return ""
    paths = Counter(found.stats.path.tolist())
    path = next(iter(paths)) if len(paths) == 1 else ", ".join(f"{n} {name}" for name, n in paths.items())
    prefix = f" by prefix {found.stats.prefix}" if found.stats.prefix else ""
    return f"{path}{prefix}, rescored {found.stats.rescored.mean():.1f} a query"


def our_floor(machine: results.Machine, found: ragfast.Hits, shape: tuple[int, ...], b: int) -> results.Floor | None:
    """Of the high plane of the codes, 3/4 byte an element, or of the vectors; none where queries went both ways."""
    n, dim = shape
    paths = set() if found.stats is None else set(found.stats.path.tolist())
    if found.stats is not None and paths == {"int8"}:
        return scan_floor(machine, (n, found.stats.prefix or dim), b, 0.75, "int8")
    if paths <= {"float32"}:
        return scan_floor(machine, (n, dim), b, 4, "float32")
    return None


def scan_floor(
    machine: results.Machine, shape: tuple[int, ...], b: int, element: float, arithmetic: str, passes: int = 1
) -> results.Floor | None:
    """Of b queries over documents of so many bytes an element."""
    n, dim = shape
    held = element * n * dim
    operations = 2.0 * n * dim * b
    return sections.floor(machine, bytes=held * passes, held=held, operations=operations, arithmetic=arithmetic)
