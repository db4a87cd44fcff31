"""The open loop, on a clock that only the server moves: what queueing theory says must come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from ragfast_bench import data, latency
from ragfast_bench.results import BenchError, Machine, Task
from ragfast_bench.sections import Settings


class VirtualClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def wait(self, until: float) -> None:
        self.time = max(self.time, until)


def server(clock: VirtualClock, seconds: Callable[[int], float]) -> Callable[[int], None]:
    def answer(i: int) -> None:
        clock.time += seconds(i)

    return answer


def run(rate: float, seconds: float, service: float, patience: float = np.inf) -> latency.Served:
    clock = VirtualClock()
    return latency.serve(latency.schedule(rate, seconds, 0), server(clock, lambda i: service), clock, patience)


def test_the_schedule_has_the_rate_and_is_the_same_each_time() -> None:
    arrivals = latency.schedule(800, 25, seed=3)
    assert len(arrivals) == 20_000
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] <= 25
    np.testing.assert_array_equal(arrivals, latency.schedule(800, 25, seed=3))
    assert not np.array_equal(arrivals, latency.schedule(800, 25, seed=4))
    gaps = np.diff(arrivals) * 800
    assert abs(gaps.std() - 1) < 0.05  # exponential: as wide as their mean
    assert abs((gaps > 1).mean() - np.exp(-1)) < 0.02
    assert len(latency.schedule(0.01, 1, 0)) == 1


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_waits_are_those_of_a_queue_with_constant_service(load: float) -> None:
    """M/D/1, Pollaczek and Khinchine: a mean wait of load / (2 (1 - load)) services."""
    service = 0.002
    served = run(load / service, 400, service)
    assert not served.gave_up
    waits = (served.latencies - service) / service
    assert waits.min() > -1e-6
    assert waits.mean() == pytest.approx(load / (2 * (1 - load)), rel=0.05)
    assert (waits > 1e-6).mean() == pytest.approx(load, rel=0.03)  # who finds it busy
    np.testing.assert_allclose(served.services, service, atol=1e-9)


def test_a_pause_delays_all_who_come_meanwhile() -> None:
    clock = VirtualClock()
    arrivals = np.arange(1000) / 1000
    served = latency.serve(arrivals, server(clock, lambda i: 0.2 if i == 300 else 1e-4), clock, patience=np.inf)
    slow = served.latencies > 0.05
    assert 150 < slow.sum() < 250
    assert (served.services > 0.05).sum() == 1
    assert served.latencies.max() == pytest.approx(0.2)


def test_an_overloaded_server_gives_up_and_has_no_percentiles() -> None:
    served = run(900, 10, 1 / 310, patience=2)
    assert served.gave_up
    assert served.latencies.max() == pytest.approx(2, rel=0.01)
    assert served.seconds == pytest.approx(2 / (1 - 310 / 900), rel=0.05)
    found, note = latency.measures([served], 900, 10)
    assert set(found) == {"rate", "served", "requests"}
    assert found["served"] == pytest.approx(310, rel=0.01)
    assert note == "overloaded: asked 900/s, served 310/s"


def test_a_request_at_least_is_answered() -> None:
    clock = VirtualClock()
    served = latency.serve(np.array([-5.0, -5.0]), server(clock, lambda i: 1.0), clock, patience=1)
    assert served.gave_up
    assert served.latencies.tolist() == [6.0]


def test_a_little_too_slow_is_overloaded_too() -> None:
    served = run(1000, 2, 1 / 990, patience=1)
    assert not served.gave_up
    found, note = latency.measures([served], 1000, 2)
    assert "overloaded" in note
    assert "p50" not in found


@pytest.mark.parametrize(("requests", "told"), [(298, ["p50"]), (300, ["p50", "p99"]), (3000, ["p50", "p99", "p999"])])
def test_rare_percentiles_need_requests(requests: int, told: list[str]) -> None:
    turns = [run(requests / 2, 1, 1e-5) for _ in range(2)]
    found, note = latency.measures(turns, requests / 2, 1)
    assert note == ""
    assert [name for name in found if name.startswith("p")] == told
    assert found["requests"] == requests
    assert found["served"] == pytest.approx(requests / 2, rel=1e-3)
    assert found["p50"] == pytest.approx(1e-5, rel=1e-3)


def test_percentiles_are_of_all_turns() -> None:
    latencies = np.arange(1, 3001) / 3000
    turns = [latency.Served(part, np.full(1500, 1e-5), 1.0, False) for part in np.split(latencies, 2)]
    found, _ = latency.measures(turns, 1500, 1)
    assert found["p50"] == pytest.approx(0.5, abs=0.002)
    assert found["p99"] == pytest.approx(0.99, abs=0.002)
    assert found["p999"] == pytest.approx(0.999, abs=0.002)


def test_the_wall_clock_is_never_early() -> None:
    clock = latency.WallClock()
    for wait in (-1, 0, 1e-4, 3e-3):
        due = clock.now() + wait
        clock.wait(due)
        assert clock.now() >= due


MACHINE = Machine("", 1, 1e9, {"L1": 1.0}, "", "", "", 1, (), 1e10, {"float32": 1e11})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "names", lambda settings: ["wiki", "glosses", "random"])

    def load(name: str, settings: Settings, say: Callable[[str], None]) -> data.DataSet:
        if name == "glosses":
            raise BenchError("no dictionary")
        return data.made("random", 3000, 32, 256)

    monkeypatch.setattr(data, "load", load)


def serve_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_can_serve", lambda *asked: {"ragfast": 125.0})
    monkeypatch.setattr(latency, "_serve_in_turns", lambda *asked: {"ragfast": [run(100, 1, 1e-4)]})


def tasks(settings: Settings) -> tuple[list[Task], dict[str, str]]:
    missing: dict[str, str] = {}
    found = list(latency.measure(settings, MACHINE, lambda what: None, missing.__setitem__))
    assert len(found) <= latency.planned(settings)
    return found, missing


def test_the_section(small: None) -> None:
    found, missing = tasks(Settings(size="quick", peers=frozenset({"NumPy", "pgvector"})))
    assert missing == {}
    assert len(found) == 2
    assert all("quick" in task.left_out["pgvector"] for task in found)
    for task in found:
        assert (task.section, task.data, task.shape["B"], task.shape["k"]) == ("latency", "random", 1, 10)
        assert [result.contender for result in task.results] == ["ragfast", "NumPy"]
        assert task.results[0].ours
        for result in task.results:
            assert result.recall == 1
            assert result.exact
            assert result.times is not None
            assert result.measures["requests"] <= round(result.measures["rate"])
    assert len({task.name for task in found}) == 2


def test_what_can_be_served_counts_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    monkeypatch.setattr(latency.time, "perf_counter", clock.now)
    calls = iter(range(10**6))

    def even(query: object) -> None:
        clock.time += 0.002

    def uneven(query: object) -> None:
        clock.time += 0.011 if next(calls) % 10 == 0 else 0.001  # 2 ms on average, most often 1

    found = latency._can_serve({"even": even, "uneven": uneven}, [0], 20)
    assert found["even"] == pytest.approx(500, rel=0.01)
    assert found["uneven"] == pytest.approx(500, rel=0.02)


def test_random_data_stand_in_for_what_is_missing(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_in_no_time(monkeypatch)
    monkeypatch.setattr(latency, "other_cores", lambda: 0)
    found, missing = tasks(Settings(size="full", peers=frozenset()))
    assert missing["glosses"] == "no dictionary"
    assert len(found) == 2  # each at one rate, as there is no peer


def test_every_data_set_that_was_asked_for_is_measured() -> None:
    assert latency._data_names(Settings(data=("wiki", "sparse", "random"))) == ["wiki", "sparse", "random"]


def test_busy_cores_need_other_cores(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    busy: list[int] = []

    @contextmanager
    def busy_cores(n: int) -> Iterator[None]:
        busy.append(n)
        yield

    monkeypatch.setattr(latency, "busy_cores", busy_cores)
    serve_in_no_time(monkeypatch)
    monkeypatch.setattr(latency, "other_cores", lambda: 3)
    found, _ = tasks(Settings(size="full", peers=frozenset()))
    assert busy == [0, 3, 0, 3]
    assert "other cores busy" in found[1].name
    monkeypatch.setattr(latency, "other_cores", lambda: 0)
    found, missing = tasks(Settings(size="full", peers=frozenset()))
    assert len(found) == 2
    assert "uses all of them" in missing["latency with the other cores busy"]


def test_busy_cores_ends_what_it_started() -> None:
    import psutil

    before = {child.pid for child in psutil.Process().children()}
    with latency.busy_cores(1):
        (spinner,) = (child for child in psutil.Process().children() if child.pid not in before)
        assert spinner.is_running()
    assert not psutil.pid_exists(spinner.pid)
