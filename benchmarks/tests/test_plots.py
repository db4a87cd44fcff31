"""What the plots draw: the data of their lines and bars, and the texts in them."""

from __future__ import annotations

import itertools
import math

import matplotlib as mpl
import pytest
import sample
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from ragfast_bench import drawing, plots, verdicts
from ragfast_bench.results import Result, Run, Task

RUN = sample.run()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that are drawn from now on, in order."""
    drawn: list[Figure] = []

    def kept(figure: Figure, number: int) -> str:
        drawn.append(figure)
        return ""

    monkeypatch.setattr(plots, "_svg", kept)
    return drawn


def axes_by_title(run: Run, figures: list[Figure]) -> dict[str, Axes]:
    found = [plot.title for section in plots.plots(run, sample.TITLES).values() for plot in section]
    return dict(zip(found, (figure.axes[0] for figure in figures), strict=True))


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def timed(name: str, seconds: float, exact: bool = True) -> Result:
    return Result(name, name.startswith("ragfast"), exact, sample.spread(seconds))


def many(section: str = "search", letter: str = "B") -> list[Task]:
    """Three ways of ours, nine exact peers from fast to slow, and three that are not exact."""

    def results(n: int) -> tuple[Result, ...]:
        ours = [timed("ragfast", 1e-3 * n), timed("ragfast float32", 2e-3 * n), timed("ragfast one shot", 3e-3 * n)]
        exact = [timed(f"peer {i}", (4 + i) * 1e-3 * n) for i in range(9)]
        return (*ours, *exact, *(timed(f"rounded {i}", (2 + i) * 1e-3 * n, False) for i in range(3)))

    return [Task(section, f"{letter} {n}", "wiki", {letter: n, "D": 8}, 1, results(n)) for n in (1, 16)]


def test_lines_that_are_named_are_few(figures: list[Figure]) -> None:
    axes = axes_by_title(sample.run(tasks=tuple(many())), figures)["wiki, D 8: time against the size of the batch"]
    named = [text.replace(" (not exact)", "") for text in texts(axes)]
    assert sorted(named) == sorted(
        [
            "ragfast",
            "ragfast float32",
            "ragfast one shot",
            *(f"peer {i}" for i in range(6)),
            "rounded 0",
            "rounded 1",
            drawing.OTHERS,
        ]
    )
    grey = [line for line in axes.lines if line.get_color() == drawing.FAINT]
    assert len(axes.lines) == 15
    assert len(grey) == 4
    assert {round(line.get_ydata()[0] * 1e3) for line in grey} == {10, 11, 12, 4}
    default = max(axes.lines, key=lambda line: line.get_linewidth())
    assert list(default.get_xdata()) == [1, 16]
    assert list(default.get_ydata()) == [1e-3, 16e-3]


def test_a_contender_has_one_colour_in_every_plot(figures: list[Figure]) -> None:
    fewer = [
        Task(**vars(task) | {"results": tuple(r for r in task.results if r.contender not in ("peer 0", "peer 2"))})
        for task in many("grid", "N")
    ]
    axes_by_title(sample.run(tasks=tuple(many() + fewer)), figures)
    seen: dict[str, set[str]] = {}
    for figure in figures:
        for text in figure.axes[0].texts:
            seen.setdefault(text.get_text(), set()).add(str(text.get_color()))
    assert len(seen["peer 3"]) == 1
    assert len(seen["ragfast"]) == 1
    both = [name for name, colours in seen.items() if name.startswith("peer")]
    assert len({colour for name in both for colour in seen[name]}) == len(both)


def test_the_roofline(figures: list[Figure]) -> None:
    axes = axes_by_title(RUN, figures)["Roofline: how near to the machine's limits"]
    limits = [line for line in axes.lines if line.get_color() == drawing.INK]
    machine = sample.MACHINE
    for line, peak in zip(limits, sorted(machine.peaks.values()), strict=True):
        low, ridge, high = line.get_xdata()
        assert ridge == pytest.approx(peak / machine.read_rate)
        assert list(line.get_ydata()) == pytest.approx([low * machine.read_rate / 1e9, peak / 1e9, peak / 1e9])
        assert low < ridge < high
    (ours,) = [line for line in axes.lines if line.get_label() == "ragfast"]
    expected = [
        (r.floor.operations / r.floor.bytes, r.floor.operations / r.times.median / 1e9)
        for task in (*RUN.section("search"), *RUN.section("grid"))
        for r in task.results
        if r.contender == "ragfast" and r.floor and r.times
    ]
    assert list(ours.get_xdata()) == pytest.approx([x for x, _ in expected])
    assert list(ours.get_ydata()) == pytest.approx([y for _, y in expected])


@pytest.mark.parametrize("suffix", ["", " with a name that goes on and on"])
def test_the_legend_of_the_roofline_is_inside(figures: list[Figure], suffix: str) -> None:
    tasks = [
        Task(
            **vars(task)
            | {"results": tuple(Result(**vars(r) | {"contender": r.contender + suffix}) for r in task.results)}
        )
        for task in sample.searches()
    ]
    axes_by_title(sample.run(tasks=tuple(tasks)), figures)
    (figure,) = [figure for figure in figures if figure.legends]
    figure.draw_without_rendering()
    inside = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= inside.x0 < inside.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= inside.y0


def test_the_heat_map(figures: list[Figure]) -> None:
    def cell(b: int, peer: float) -> Task:
        shape = {"N": 1000, "D": 8, "B": b}
        return Task("grid", f"B {b}", "random", shape, 1, (timed("ragfast", 1.0), timed("NumPy", peer)))

    peers = {1: 4.0, 2: 0.25, 3: 1.0, 4: 0.1}
    run = sample.run(tasks=tuple(cell(b, peer) for b, peer in peers.items()))
    axes = axes_by_title(run, figures)["random, D 8: ratio to the best exact peer"]
    assert texts(axes) == ["4.0", "0.25\npeer", "1.00", "0.10\npeer"]
    colours = [to_hex(patch.get_facecolor()) for patch in axes.patches]
    part = math.log(4) / math.log(8) / 2
    shades = mpl.colormaps["PuOr"]
    assert colours == [to_hex(shades(x)) for x in (0.5 + part, 0.5 - part, 0.5, 0.0)]


def test_bars_of_memory(figures: list[Figure]) -> None:
    axes = axes_by_title(sample.run(tasks=tuple(sample.memory())), figures)["value, float32"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0, 201, 410])
    assert texts(axes)[1:] == ["201 MB", "410 MB"]
    assert figures[-1].get_supxlabel().startswith("MB ")


def test_bars_of_losses_are_in_floors(figures: list[Figure]) -> None:
    axes = axes_by_title(sample.run(tasks=tuple(sample.losses())), figures)
    value = axes["value, float32"]
    assert [bar.get_width() for bar in value.patches] == pytest.approx([1.2, 1.19, 14.7, 3.8, 29, 1.1])
    labels = [figure.get_supxlabel() for figure in figures]
    assert any("201 MB read or written" in label for label in labels)
    assert any("402 MB read or written" in label for label in labels)


def test_every_ratio_has_a_dot_and_the_others_are_told(figures: list[Figure]) -> None:
    axes = axes_by_title(RUN, figures)["Every comparison of this run"]
    every = verdicts.all_comparisons(RUN, sample.TITLES)
    dots = [line for line in axes.lines if line.get_linestyle() == "None"]
    with_ratio = [one for one in every if one.ratio is not None and one.verdict != "wrong"]
    assert len(dots) == len(with_ratio)
    drawn = sorted(float(line.get_xdata()[0]) for line in dots)
    assert drawn == pytest.approx(sorted(min(max(one.ratio or 0, 0.01), 100) for one in with_ratio))
    assert "1 more without a ratio: one of the two was overloaded" in figures[0].get_supxlabel()
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert labels == [sample.TITLES[name] for name in verdicts.sections(RUN, sample.TITLES)]
    ticks = list(axes.get_xticks())
    assert all(b / a > 2.9 for a, b in itertools.pairwise(ticks))
