"""compare.py: the interval, the verdicts, builds side by side, and which differences are found."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from installed import copy_of_installed
from ragfast_bench import compare
from ragfast_bench.compare_builds import Build, BuildError, check_separate, digest, load
from ragfast_bench.compare_cells import Cell, marginal_cells, search_cells

import ragfast


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("builds")
    return copy_of_installed(folder / "old"), copy_of_installed(folder / "new")


@pytest.fixture(scope="module")
def pair(sites: tuple[Path, Path]) -> tuple[Build, Build]:
    return load(sites[0]), load(sites[1])


# ---- statistics


@pytest.mark.parametrize(("n", "first", "last"), [(6, 0, 5), (8, 0, 7), (9, 1, 7), (15, 3, 11), (30, 9, 20)])
def test_the_interval_lies_between_the_order_statistics_of_the_sign_test(n: int, first: int, last: int) -> None:
    values = np.random.default_rng(n).permutation(n).tolist()
    assert compare.median_interval(values) == (first, last)


def test_the_interval_of_too_few_values_is_infinite() -> None:
    assert compare.median_interval([1.0] * 5) == (-math.inf, math.inf)


def test_the_interval_holds_the_median_of_a_skewed_distribution_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).exponential(size=(4000, 15))
    ends = np.array([compare.median_interval(sample) for sample in samples.tolist()])
    held = ((ends[:, 0] < math.log(2)) & (math.log(2) < ends[:, 1])).mean()
    assert 0.955 < held < 0.975  # 0.9648 from the binomial distribution


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [(1.0301, 1.2, "slower"), (1.03, 1.2, "same"), (0.9, 1.5, "same"), (0.9, 1 / 1.03, "same"), (0.9, 0.97, "faster")],
)
def test_a_verdict_needs_the_whole_interval_beyond_three_percent(lower: float, upper: float, verdict: str) -> None:
    assert compare.Outcome(1.0, 1.0, 1.0, lower, upper, 15).verdict == verdict


def turns(ratio: float, seconds: float = 0.004, noise: float = 0.02) -> Callable[[], tuple[compare.Turn, compare.Turn]]:
    """Two calls of which the second takes `ratio` times as long, on a machine that slows down and stutters."""
    rng = np.random.default_rng(0)
    drift = iter(np.linspace(1, 2, 100_000).tolist())

    def turn(factor: float) -> compare.Turn:
        def time_of_call(repeat: int) -> float:
            stutter = 3.0 if rng.random() < 0.05 else 1.0
            return seconds * factor * next(drift) * stutter * math.exp(noise * rng.standard_normal())

        return time_of_call

    return lambda: (turn(1.0), turn(ratio))


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.1, "slower"), (1.06, "slower"), (1.01, "same"), (1.0, "same"), (0.9, "faster")]
)
def test_a_slow_build_is_found_among_noise_and_drift(ratio: float, verdict: str) -> None:
    found = compare.measured(turns(ratio), 15, 2.0)
    assert (found.verdict, found.rounds) == (verdict, 15)
    assert found.ratio == pytest.approx(ratio, rel=0.02)


def test_a_steady_drift_cancels() -> None:
    drift = iter(range(10_000))

    def turn(repeat: int) -> float:
        return 0.01 * (1 + 0.1 * next(drift))

    assert compare.measured(lambda: (turn, turn), 15, 2.0).ratio == pytest.approx(1.0, abs=1e-9)


def test_slow_calls_get_the_fewest_rounds_and_short_ones_are_repeated() -> None:
    assert compare.measured(turns(1.0, seconds=10.0), 15, 2.0).rounds == compare.FEWEST
    repeats: list[int] = []

    def turn(repeat: int) -> float:
        repeats.append(repeat)
        return 1e-5

    compare.one_round((turn, turn), 1.0)
    assert repeats == [1] * 4 + [300] * 4 * compare.EXCHANGES


# ---- builds


def test_copies_of_one_build_have_their_own_threads_levels_and_types(pair: tuple[Build, Build]) -> None:
    check_separate(*pair)
    before = ragfast.get_num_threads()
    for n, build in enumerate(pair, 5):
        build.call("set_num_threads", n)
    assert [build.call("get_num_threads") for build in pair] == [5, 6]
    pair[0].call("set_isa", "scalar" if "scalar" in pair[0].call("available_isas") else pair[0].call("isa"))
    old, new = (build.call("search", np.eye(3), np.eye(3), 1) for build in pair)
    assert type(old) is not type(new)
    assert digest(old) == digest(new)
    assert sys.modules["ragfast"] is ragfast
    assert ragfast.get_num_threads() == before


def test_a_build_is_not_separate_from_itself(pair: tuple[Build, Build]) -> None:
    with pytest.raises(BuildError, match="share a library"):
        check_separate(pair[0], pair[0])


def test_a_folder_without_ragfast_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="must hold"):
        load(tmp_path)
    assert str(tmp_path) not in sys.path


def test_within_a_build_imports_mean_that_build(pair: tuple[Build, Build]) -> None:
    with pair[1].active():
        import ragfast as found

        assert Path(found.__file__ or "").is_relative_to(pair[1].folder)
    assert sys.modules["ragfast"] is ragfast


def test_a_module_that_a_build_imports_late_is_imported_once(sites: tuple[Path, Path]) -> None:
    build = load(sites[0])
    with build.active():
        import ragfast.index.filters as first

        assert build.find("column") is first.column  # which makes the build active within itself
        assert sys.modules["ragfast.index.filters"] is first
    with build.active():
        assert sys.modules["ragfast.index.filters"] is first
    assert build.modules["ragfast.index.filters"] is first


def test_options_are_passed_by_the_names_of_the_build(pair: tuple[Build, Build]) -> None:
    def old(*, group: str | None = None, k: int = 1) -> Any:
        return group, k

    def new(*, group_by: str | None = None, k: int = 1) -> Any:
        return group_by, k

    assert [pair[0].call(function, group_by="page", k=2) for function in (old, new)] == [("page", 2)] * 2
    with pytest.raises(BuildError, match="has no nothing_of_this_name"):
        pair[0].find("nothing_of_this_name")


def test_a_digest_sees_every_bit_type_and_shape_but_not_which_nan() -> None:
    x = np.ones((2, 3))
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000001], np.uint64).view(np.float64)
    others = [x.astype(np.float32), x.ravel(), x * np.nextafter(1, 2), -x * 0, x * 0, (x, x), (x,), None, "", [None]]
    assert len({digest(value) for value in [x, *others]}) == 1 + len(others)
    assert digest(nans[0]) == digest(nans[1])
    assert digest(x[:, ::2]) == digest(x[:, ::2].copy())


# ---- the comparison


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[Path, float]:
    """How many times longer the calls of a build take, by its folder; without a clock."""
    factors: dict[Path, float] = {}

    def turn_of(build: Build, call: Any, clock: Any) -> compare.Turn:
        return lambda repeat: 0.01 * next((f for folder, f in factors.items() if folder == build.folder), 1.0)

    monkeypatch.setattr(compare, "turn_of", turn_of)
    return factors


def test_a_cell_that_looks_slower_is_measured_again_with_new_copies(
    pair: tuple[Build, Build], slow: dict[Path, float]
) -> None:
    cell = Cell("constant", lambda: lambda build: lambda: 1.0)
    again = Build(Path("old again"), pair[0].modules), Build(Path("new again"), pair[1].modules)
    slow[pair[1].folder] = 1.2
    row = compare.compared(cell, pair, lambda: again, 15, 2.0)
    assert (row["verdict"], row["repeated"], row["rounds"]) == ("same", True, 30)
    slow[again[1].folder] = 1.1
    row = compare.compared(cell, pair, lambda: again, 15, 2.0)
    assert (row["verdict"], row["repeated"], row["bits"]) == ("slower", True, True)
    assert row["ratio"] == pytest.approx(1.1)
    assert "slower" in compare.line(row)


def test_other_bits_and_failures_are_reported(pair: tuple[Build, Build], slow: dict[Path, float]) -> None:
    other = Cell("other", lambda: lambda build: lambda: 1.0 if build is pair[0] else 1.0 + 2**-52)
    assert "DIFFERENT BITS" in compare.line(compare.compared(other, pair, lambda: pair, 9, 2.0))
    absent = Cell("absent", lambda: lambda build: build.bind("nothing_of_this_name"))
    assert "has no nothing_of_this_name" in compare.line(compare.compared(absent, pair, lambda: pair, 9, 2.0))


def test_the_command_fails_where_a_build_is_slower(
    sites: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        compare, "turn_of", lambda build, call, clock: lambda repeat: 0.01 * (1 + (build.folder.name == "new"))
    )
    arguments = [str(sites[0]), "--head", str(sites[1]), "--json", str(tmp_path / "out.json"), "--cells"]
    assert compare.main([*arguments, "logsumexp (5,)"]) == 1
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["cell"], row["verdict"], row["bits"]) for row in rows] == [
        (f"logsumexp (5,) {dtype}", "slower", True) for dtype in ("float32", "float64")
    ]
    assert "2 slower, 0 faster" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        compare.main([*arguments, "no such cell"])


def test_every_quick_cell_runs(pair: tuple[Build, Build]) -> None:
    cells = [*search_cells(), *marginal_cells()]
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        if cell.quick:
            assert digest(cell.prepare()(pair[0])())
