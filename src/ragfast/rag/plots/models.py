"""The architecture of RAG-Sequence and of RAG-Token (Lewis et al. 2020, section 2.1), with or without real numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray

from ragfast.marginal.lse import marginalize_sequence, marginalize_token
from ragfast.rag.models import Score
from ragfast.rag.plots import style

__all__ = ["architecture"]

# Inches, from the lower left corner of one variant's drawing.
WIDTH = 5.9
BOTTOM, LANE = 1.5, 0.42
CELLS_LEFT, CELLS_WIDTH = 2.9, 1.75
RESULT = 0.95
FILL = "#f6f8fa"
Place: TypeAlias = tuple[float, float, float, float]  # left, middle of the height, width, height
MOST_DOCS, MOST_TOKENS = 5, 4
SEQUENCE, TOKEN = "sequence", "token"
NAMES = {
    SEQUENCE: ("RAG-Sequence", "one document answers the whole question"),
    TOKEN: ("RAG-Token", "every token may draw on another document"),
}
SUM_PART = (r"$\sum_z\,p(z \mid x)$", style.SUM)
PRODUCT_PART = (r"$\prod_t$", style.PRODUCT)
START, END = (r"$p(y \mid x) =$", style.INK), (r"$p(y_t \mid x, z, y_{<t})$", style.INK)
FORMULAS = {
    SEQUENCE: (START, SUM_PART, PRODUCT_PART, END),
    TOKEN: (START, PRODUCT_PART, SUM_PART, END),
}


@dataclass(frozen=True)
class _Numbers:
    """Of one answer: what stands in the boxes. Without a Score, names alone, four of each with a gap among them."""

    docs: list[str]  # K
    tokens: list[str]  # T
    doc_logprobs: NDArray[np.float64]  # (K,)
    token_logprobs: NDArray[np.float64]  # (K,T)
    is_schematic: bool = False

    def answer(self, logprob: Any) -> str:
        return r"$p(y \mid x)$" if self.is_schematic else f"$\\log\\,p(y \\mid x)$\n{logprob:.2f}"


class _Grid:
    """Where the table of documents and tokens is: the rows and columns that are drawn (None is a gap) with their
    middles."""

    def __init__(self, numbers: _Numbers) -> None:
        rows, columns = _drawn_places(len(numbers.docs), MOST_DOCS), _drawn_places(len(numbers.tokens), MOST_TOKENS)
        if numbers.is_schematic:
            rows[2] = columns[2] = None
        self.cell = min(CELLS_WIDTH / len(columns), 0.6)  # width
        left = CELLS_LEFT + (CELLS_WIDTH - self.cell * len(columns)) / 2
        self.rows = [(row, BOTTOM + LANE * (len(rows) - i - 0.5)) for i, row in enumerate(rows)]
        self.columns = [(column, left + self.cell * (j + 0.5)) for j, column in enumerate(columns)]
        self.left, self.right = self.columns[0][1] - self.cell / 2, self.columns[-1][1] + self.cell / 2
        self.top = BOTTOM + LANE * len(rows)
        # The names of the tokens are slanted where one is longer than its column is wide.
        self.is_slanted = not numbers.is_schematic and max(map(len, numbers.tokens)) > 5
        self.turn = self.top + (0.86 if self.is_slanted else 0.62)  # of the line from the index down to the documents
        self.height = self.turn + 1.9  # of the whole drawing


def architecture(
    variant: Literal["sequence", "token", "both"] = "both",
    *,
    score: Score | None = None,
    titles: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
    question: str | None = None,
    figure: Any = None,
) -> Figure:
    """What RAG-Sequence and RAG-Token do with a question, and where they part: a drawing, or two side by side.

    The question is encoded, the exact index finds K documents with p(z|x), and one generator reads each of them and
    says p(y_t | x, z, y_<t) of every token of an answer: a table of documents and tokens. RAG-Sequence multiplies along
    its rows and sums the products over documents; RAG-Token sums each column over documents and multiplies the sums.

    With score, from either variant, the numbers in the boxes are those of its best candidate, titles (K) name its
    documents, tokens (T) are the pieces of that answer, and question is what was asked. The first documents and tokens
    are drawn, and the last one where there are more than fit; all count.

    figure is a Figure or SubFigure to draw into, for each variant 5.9 inches wide and up to 6.4 high.

    ValueError for another variant, and where titles or tokens are not as many as score has, or are missing.

    >>> from ragfast.rag.plots import architecture
    >>> figure = architecture("token")
    >>> figure.axes[0].texts[0].get_text()
    'RAG-Token'
    """
    variants = {"both": (SEQUENCE, TOKEN), SEQUENCE: (SEQUENCE,), TOKEN: (TOKEN,)}.get(variant)
    if variants is None:
        raise ValueError(f"variant: expected 'sequence', 'token' or 'both', got {variant!r}")
    numbers = _numbers(score, titles, tokens)
    grid = _Grid(numbers)
    with mpl.rc_context(style.STYLE):
        if figure is None:
            figure = Figure(figsize=(WIDTH * len(variants), grid.height))
        panels = figure.subfigures(1, len(variants), squeeze=False)[0] if len(variants) > 1 else [figure]
        for panel, name in zip(panels, variants, strict=True):
            axes = panel.add_axes((0, 0, 1, 1))
            axes.set(xlim=(0, WIDTH), ylim=(0, grid.height), aspect="equal")
            axes.set_axis_off()
            _draw(axes, name, numbers, grid, question)
        found: Figure = figure.get_figure(root=True)
        return found


def _numbers(score: Score | None, titles: Sequence[str] | None, tokens: Sequence[str] | None) -> _Numbers:
    if score is None:
        if titles is not None or tokens is not None:
            raise ValueError("titles, tokens: expected a score with them, whose documents and tokens they name")
        docs, pieces = ["document $z_1$", "document $z_2$", "", "document $z_K$"], ["$y_1$", "$y_2$", "", "$y_T$"]
        return _Numbers(docs, pieces, np.zeros(4), np.zeros((4, 4)), is_schematic=True)
    if titles is None or tokens is None:
        raise ValueError("titles, tokens: expected both, of the documents and the answer of score")
    logprobs = np.asarray(score.token_logprobs[score.best], np.float64)
    docs = [style.title(each, 21) for each in style.names(titles, logprobs.shape[0], "titles", "K")]
    pieces = [style.token(each, 12) for each in style.names(tokens, logprobs.shape[1], "tokens", "T")]
    return _Numbers(docs, pieces, np.asarray(score.doc_logprobs, np.float64), logprobs)


def _drawn_places(n: int, most: int) -> list[int | None]:
    """Which of n are drawn: all, or the first ones and the last, with None for those between."""
    return list(range(n)) if n <= most else [*range(most - 2), None, n - 1]


def _draw(axes: Axes, variant: str, numbers: _Numbers, grid: _Grid, question: str | None) -> None:
    name, idea = NAMES[variant]
    axes.text(0.1, grid.height - 0.28, name, fontsize=15, fontweight="bold", va="center")
    axes.text(0.1, grid.height - 0.58, idea, fontsize=11, va="center", color=style.INK)

    asked = "question $x$" if question is None else textwrap.fill(style.title(question, 60), 20)
    y = grid.height - 1.2
    _box(axes, (0.1, y, 1.75, 0.62), asked, fill=FILL, size=9, parse_math=question is None)
    _arrow(axes, (1.85, y), (2.15, y))
    _box(axes, (2.15, y, 1.35, 0.62), "query encoder\n$q(x)$")
    _arrow(axes, (3.5, y), (3.8, y))
    _box(axes, (3.8, y, 2.0, 0.62), "exact MIPS index\ntop $K$ of $q(x) \\cdot d(z)$")
    axes.plot([4.8, 4.8, 1.0], [y - 0.31, grid.turn, grid.turn], color=style.INK, linewidth=1)
    _arrow(axes, (1.0, grid.turn), (1.0, grid.top))
    axes.text(4.65, grid.turn + 0.09, r"$p(z \mid x) \propto \exp(q(x) \cdot d(z))$", ha="right", fontsize=10)

    for row, lane in grid.rows:
        if row is None:
            axes.text(1.0, lane, "\u22ee", ha="center", va="center", fontsize=12)
            continue
        _box(axes, (0.1, lane, 1.8, LANE - 0.04), "", fill=FILL)
        which = f"_{'12?K'[row]}" if numbers.is_schematic else ""
        p = "" if numbers.is_schematic else f" = {_p(np.exp(numbers.doc_logprobs[row]))}"
        centred = {"ha": "center", "va": "center", "fontsize": 8.5}
        axes.text(1.0, lane + 0.085, numbers.docs[row], parse_math=numbers.is_schematic, **centred)
        axes.text(1.0, lane - 0.085, rf"$p(z{which} \mid x)${p}", **centred)
        _arrow(axes, (1.9, lane), (2.08, lane))
        _arrow(axes, (2.68, lane), (grid.left - 0.04, lane))
    middle = (grid.top + BOTTOM) / 2
    _box(axes, (2.08, middle, 0.6, grid.top - BOTTOM - 0.04), "")
    axes.text(2.38, middle, "generator,\nfor each document", rotation=90, ha="center", va="center", fontsize=8.5)
    _table(axes, numbers, grid)
    (_sequence if variant == SEQUENCE else _token)(axes, numbers, grid)
    pieces = [TextArea(text, textprops={"fontsize": 14, "color": colour}) for text, colour in FORMULAS[variant]]
    packed = HPacker(children=pieces, pad=0, sep=5, align="baseline")
    axes.add_artist(AnnotationBbox(packed, (0.1, 0.3), box_alignment=(0, 0.5), frameon=False, pad=0))


def _table(axes: Axes, numbers: _Numbers, grid: _Grid) -> None:
    """What both variants start from."""
    axes.text((grid.left + grid.right) / 2, grid.turn - 0.22, END[0], ha="center", va="center", fontsize=10)
    place: dict[str, Any] = {"ha": "center", "va": "center"}
    if grid.is_slanted:
        place = {"rotation": 30, "rotation_mode": "anchor", "ha": "left", "va": "center"}
    for column, x in grid.columns:
        name = "\u2026" if column is None else numbers.tokens[column]
        axes.text(x, grid.top + 0.12, name, fontsize=8.5, parse_math=numbers.is_schematic, **place)
        for row, y in grid.rows:
            if row is None:
                text = "" if column is None else "\u22ee"
            elif column is None:
                text = "\u22ef"
            else:
                text = "$p$" if numbers.is_schematic else _p(np.exp(numbers.token_logprobs[row, column]))
            axes.text(x, y, text, ha="center", va="center", fontsize=8.5)


def _sequence(axes: Axes, numbers: _Numbers, grid: _Grid) -> None:
    """Products along the rows, then the sum of them."""
    left = grid.right + 0.2
    products = np.exp(numbers.token_logprobs.sum(axis=1))
    for row, y in grid.rows:
        if row is None:
            continue
        _band(axes, (grid.left, y - LANE / 2 + 0.05), (grid.right - grid.left, LANE - 0.1), style.PRODUCT)
        _arrow(axes, (grid.right, y), (left, y), style.PRODUCT)
        text = rf"$p(y \mid x, z_{'12?K'[row]})$" if numbers.is_schematic else _p(products[row])
        _box(axes, (left, y, RESULT, LANE - 0.08), text, edge=style.PRODUCT, size=9)
    _step(axes, (grid.right, BOTTOM - 0.16), r"1. $\prod$ over the tokens of each row", style.PRODUCT)
    y = BOTTOM - 0.62
    _arrow(axes, (left + RESULT / 2, BOTTOM + 0.02), (left + RESULT / 2, y + 0.24), style.SUM)
    answer = numbers.answer(marginalize_sequence(numbers.doc_logprobs, numbers.token_logprobs))
    _box(axes, (left, y, RESULT, 0.5), answer, edge=style.SUM, size=9)
    _step(axes, (left - 0.1, y), r"2. $\sum$ of those products, weighted by $p(z \mid x)$", style.SUM)


def _token(axes: Axes, numbers: _Numbers, grid: _Grid) -> None:
    """Sums down the columns, then the product of them."""
    y = BOTTOM - 0.38
    sums = marginalize_token(numbers.doc_logprobs, numbers.token_logprobs)  # logarithms
    for column, x in grid.columns:
        if column is None:
            axes.text(x, y, "\u22ef", ha="center", va="center", fontsize=8.5)
            continue
        width = grid.cell - 0.06
        _band(axes, (x - width / 2, BOTTOM), (width, grid.top - BOTTOM), style.SUM)
        _arrow(axes, (x, BOTTOM), (x, y + 0.15), style.SUM)
        text = "$p$" if numbers.is_schematic else _p(np.exp(sums[column]))
        _box(axes, (x - width / 2, y, width, 0.3), text, edge=style.SUM)
    _step(axes, (grid.left - 0.08, y + 0.1), r"1. $\sum$ down each column,", style.SUM)
    _step(axes, (grid.left - 0.08, y - 0.1), r"weighted by $p(z \mid x)$: $p(y_t \mid x, y_{<t})$", style.SUM)
    _arrow(axes, (grid.right, y), (grid.right + 0.2, y), style.PRODUCT)
    _box(axes, (grid.right + 0.2, y, RESULT, 0.5), numbers.answer(sums.sum()), edge=style.PRODUCT, size=9)
    _step(axes, (grid.right + 0.2 + RESULT, y - 0.42), r"2. $\prod$ of those sums over tokens", style.PRODUCT)


def _step(axes: Axes, end: tuple[float, float], text: str, colour: str) -> None:
    axes.text(*end, text, color=colour, ha="right", va="center", fontsize=10)


def _p(p: float) -> str:
    return f"{p:.2f}" if p >= 0.01 else f"{p:.0e}".replace("e-0", "e-") if p else "0"


def _box(axes: Axes, at: Place, text: str, *, fill: str = style.PAPER, edge: str = style.INK, **font: Any) -> None:
    """A rounded box with a text in its middle."""
    left, y, width, height = at
    corner = left + 0.04, y - height / 2 + 0.04
    shape = FancyBboxPatch(corner, width - 0.08, height - 0.08, "round,pad=0.04,rounding_size=0.06", linewidth=1)
    shape.set(facecolor=fill, edgecolor=edge)
    axes.add_patch(shape)
    axes.text(left + width / 2, y, text, ha="center", va="center", **font)


def _band(axes: Axes, corner: tuple[float, float], size: tuple[float, float], colour: str) -> None:
    """Around the cells that one operation takes."""
    shape = FancyBboxPatch(corner, *size, "round,pad=0,rounding_size=0.08", linewidth=1.4, edgecolor=colour)
    shape.set(facecolor=(*mpl.colors.to_rgb(colour), 0.12), zorder=0.5)
    axes.add_patch(shape)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = style.INK) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    )
