"""Single queries that arrive on their own: how long after its arrival each is answered, the wait for its turn included.

The loop is open: when requests arrive is drawn beforehand, from a Poisson process of a given rate, and does not depend
on the server, which is one thread that takes them in order. A latency runs from the scheduled arrival to the answer.
Where instead each request is sent when the last is answered, nothing is sent while the server is stuck, so a pause
counts as one slow request, and not as all those that would have come meanwhile and waited (coordinated omission).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import ragfast
from ragfast_bench import data, search_peers
from ragfast_bench.documents import Documents
from ragfast_bench.encode import CPUS
from ragfast_bench.results import BenchError, Machine, Result, Task
from ragfast_bench.search_oracle import Oracle
from ragfast_bench.sections import LeaveOut, Say, Settings
from ragfast_bench.timing import OtherLoad, spread

NAME = "latency"
TITLE = "Latency of single queries that arrive on their own"

OURS = "ragfast"
PEERS = ("FAISS default", "FAISS Panorama", "usearch exact", "NumPy", "torch", "pgvector")
NOT_QUICK = {"pgvector": "not in quick runs: its server takes seconds to start"}
CHECKED = 16  # queries whose answers are checked
TURNS = 4  # of each contender when it is measured how much it can serve
SLICE = 1.0
"""Seconds for which a contender serves before it is another's turn, and after which its queue is empty again."""
SPIN = 1e-3
"""Seconds before a request is due from which on the server spins: a sleep ends late."""
PERCENTILES = {"p50": (50, 1), "p99": (99, 300), "p999": (99.9, 3000)}
"""Percentiles, and the requests from which on they are told: three at the least lie beyond."""

Times = NDArray[np.float64]


class Clock(Protocol):
    """Seconds since any moment."""

    def now(self) -> float: ...

    def wait(self, until: float) -> None:
        """At once where that is past."""


class WallClock:
    def now(self) -> float:
        return time.perf_counter()

    def wait(self, until: float) -> None:
        if (left := until - time.perf_counter()) > SPIN:
            time.sleep(left - SPIN)
        while time.perf_counter() < until:
            pass


def schedule(rate: float, seconds: float, seed: int) -> Times:
    """When requests arrive, ascending, in seconds from the start: a Poisson process that is known to bring just as
    many as its rate says, so that each contender is asked the same; one at the least."""
    n = max(1, round(rate * seconds))
    return np.sort(np.random.default_rng(seed).uniform(0, seconds, n))


@dataclass(frozen=True)
class Served:
    """n of the requests, in seconds."""

    latencies: Times  # (n,) from the scheduled arrival to the answer
    services: Times  # (n,) of the calls themselves
    seconds: float  # from the start to the last answer
    gave_up: bool  # before the last request, too far behind


def serve(arrivals: Times, answer: Callable[[int], object], clock: Clock, patience: float) -> Served:
    """Answers request i no earlier than it arrives, and one after another. Gives up where one but the first has waited
    longer than `patience` seconds: the queue of a server that is too slow only grows."""
    latencies, services = np.empty(len(arrivals)), np.empty(len(arrivals))
    begin = clock.now()
    n, end = 0, begin
    for due in (begin + arrivals).tolist():
        clock.wait(due)
        start = clock.now()
        if n and start - due > patience:
            break
        answer(n)
        end = clock.now()
        latencies[n], services[n] = end - due, end - start
        n += 1
    return Served(latencies[:n], services[:n], end - begin, n < len(arrivals))


def measures(served: list[Served], rate: float, seconds: float) -> tuple[dict[str, float], str]:
    """What several turns of `seconds` each came to, and a note. A server whose calls take longer than requests are
    apart has no latency: it grows for as long as one measures."""
    latencies = np.concatenate([turn.latencies for turn in served])
    services = np.concatenate([turn.services for turn in served])
    spent = sum(turn.seconds if turn.gave_up else max(turn.seconds, seconds) for turn in served)
    found = {"rate": rate, "served": len(latencies) / spent, "requests": float(len(latencies))}
    if any(turn.gave_up for turn in served) or services.mean() * rate >= 1:
        return found, f"overloaded: asked {_round(rate)}/s, served {_round(found['served'])}/s"
    for name, (part, least) in PERCENTILES.items():
        if len(latencies) >= least:
            found[name] = float(np.percentile(latencies, part))
    return found, ""


def _round(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def planned(settings: Settings) -> int:
    return len(_data_names(settings)) * len(_states(settings)) * 2


def measure(settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
    for found in _data_sets(settings, say, leave_out):
        docs = Documents(found.vectors, settings.k, settings.threads)
        say(f"{NAME}: building the index of {found.name}")
        ours = partial(ragfast.FlatIndex.from_vectors(found.vectors).search, k=settings.k)
        asked = [name for name in PEERS if settings.wants(name)]
        slow = {name: why for name, why in NOT_QUICK.items() if name in asked and settings.size == "quick"}
        peers, left_out = search_peers.build_peers(docs, [name for name in asked if name not in slow])
        left_out |= slow
        try:
            yield from _tasks(found, {OURS: ours, **peers}, left_out, settings, say, leave_out)
        finally:
            search_peers.close(peers.values())


def _data_names(settings: Settings) -> list[str]:
    return data.names(settings)[: None if settings.data else settings.pick(1, 1, 2)]


def _data_sets(settings: Settings, say: Say, leave_out: LeaveOut) -> Iterator[data.DataSet]:
    """Random ones in the place of those that are not there, once."""
    missing = False
    for name in _data_names(settings):
        try:
            found = data.load(name, settings, say)
        except BenchError as error:
            if name == "yours":
                raise
            leave_out(name, str(error))
            missing = True
        else:
            yield found
    if missing:
        yield data.load("random", settings, say)


def _states(settings: Settings) -> list[bool]:
    """Whether the other cores are kept busy."""
    return settings.pick([False], [False], [False, True])


def _tasks(
    found: data.DataSet,
    searches: Mapping[str, Callable[[Any], Any]],
    left_out: Mapping[str, str],
    settings: Settings,
    say: Say,
    leave_out: LeaveOut,
) -> Iterator[Task]:
    queries = [query[None] for query in found.queries]
    say(f"{NAME}: {found.name}, checking")
    oracle = Oracle(found.vectors, found.queries[:CHECKED], settings.k)
    checks: dict[str, tuple[float, str]] = {}
    left_out = dict(left_out)
    for name, search in searches.items():
        try:
            answers = np.concatenate([_ids(search(query)) for query in queries[:CHECKED]])
        except Exception as error:
            if name == OURS:
                raise
            left_out[name] = search_peers.trouble(error)
        else:
            exact = name == OURS or search_peers.PEERS[name].exact
            checks[name] = oracle.recall(answers), oracle.verdict(answers, exact)
    searches = {name: searches[name] for name in checks}
    say(f"{NAME}: {found.name}, what each can serve")
    can_serve = _can_serve(searches, queries, settings.pick(0.7, 1.5, 7.0))
    exact_peers = [can_serve[name] for name in searches if name != OURS and search_peers.PEERS[name].exact]
    rates = {f"80 % of what {OURS} can serve": 0.8 * can_serve[OURS]}
    if exact_peers:
        rates = {"half of what the fastest exact peer can serve": 0.5 * max(exact_peers), **rates}
    seconds = settings.pick(1.0, 2.0, 20.0)
    turns = max(1, round(seconds / SLICE))
    for busy in _states(settings):
        n_busy = other_cores() if busy else 0
        if busy and not n_busy:
            leave_out(f"{NAME} with the other cores busy", "this run uses all of them")
            continue
        for what, rate in rates.items():
            name = f"{found.name}, {what}" + (", other cores busy" if busy else "")
            say(f"{NAME}: {name}")
            with busy_cores(n_busy):
                others = OtherLoad()
                served = _serve_in_turns(searches, queries, rate, turns, seconds / turns)
                load = others.cores()
            results = tuple(_result(c, done, rate, seconds / turns, *checks[c]) for c, done in served.items())
            n, dim = found.vectors.shape
            shape = {"N": n, "D": dim, "B": 1, "k": settings.k}
            yield Task(NAME, name, found.name, shape, settings.threads, results, left_out, load)


def _can_serve(searches: Mapping[str, Callable[[Any], Any]], queries: list[Any], seconds: float) -> dict[str, float]:
    """Requests per second of each where the next comes when the last is answered, in turns, over about `seconds` in
    all. Of all the time that went by, not by the median call: a server loses the machine's pauses too."""
    share = seconds / len(searches) / TURNS
    calls, spent = dict.fromkeys(searches, 0), dict.fromkeys(searches, 0.0)
    waiting = itertools.cycle(queries)
    for _ in range(TURNS):
        for name, search in searches.items():
            search(next(waiting))  # memory that the others' turns have put out of the caches
            start = time.perf_counter()
            while True:
                search(next(waiting))
                calls[name] += 1
                if (taken := time.perf_counter() - start) >= share:
                    break
            spent[name] += taken
    return {name: calls[name] / spent[name] for name in searches}


def _ids(found: Any) -> Any:
    return found.ids if isinstance(found, ragfast.Hits) else found


def _serve_in_turns(
    searches: Mapping[str, Callable[[Any], Any]], queries: list[Any], rate: float, turns: int, seconds: float
) -> dict[str, list[Served]]:
    """All are asked the same at the same times, for so many turns of `seconds`. Who gave up has no further turn."""
    served: dict[str, list[Served]] = {name: [] for name in searches}
    for turn in range(turns):
        arrivals = schedule(rate, seconds, seed=turn)
        for name, search in searches.items():
            if served[name] and served[name][-1].gave_up:
                continue

            def answer(i: int, search: Callable[[Any], Any] = search) -> object:
                return search(queries[i % len(queries)])

            answer(0)  # memory that the others' turns have put out of the caches
            served[name].append(serve(arrivals, answer, WallClock(), patience=seconds / 2))
    return served


def _result(name: str, served: list[Served], rate: float, seconds: float, recall: float, verdict: str) -> Result:
    found, note = measures(served, rate, seconds)
    ours = name == OURS
    times = spread(np.concatenate([turn.services for turn in served]).tolist())
    exact = ours or search_peers.PEERS[name].exact
    return Result(name, ours, exact, times, recall=recall, measures=found, note=verdict + note)


def other_cores() -> int:
    """How many cores there are beside those that this process is held to."""
    if CPUS:
        return len(set(CPUS) - os.sched_getaffinity(0))
    return max(0, (os.cpu_count() or 1) - ragfast.get_num_threads())


@contextlib.contextmanager
def busy_cores(n: int) -> Iterator[None]:
    """n processes that do nothing but compute, for as long as the block lasts, on the other cores."""
    spin = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # ends with this process, whatever ends that
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(n)]
    try:
        if CPUS and (others := set(CPUS) - os.sched_getaffinity(0)):
            for spinner in spinners:
                os.sched_setaffinity(spinner.pid, others)
        if spinners:
            time.sleep(0.5)  # until they spin
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
