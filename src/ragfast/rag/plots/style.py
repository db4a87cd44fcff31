"""What all pictures share: a light page, colours, and the users' own text in them."""

from __future__ import annotations

import functools
import os
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

__all__ = ["save"]

INK, FAINT, PAPER = "#1f2328", "#8b949e", "#ffffff"
SUM, PRODUCT = "#b34700", "#0b5cad"  # over documents, over tokens; also told apart by dashes
STYLE: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "font.size": 10,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": INK,
    "xtick.labelsize": 9,
    "ytick.color": INK,
    "ytick.labelsize": 9,
}
WHITE = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}
BOX = "\u25a1"


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 100) -> None:
    """Writes a figure to a file, as SVG, PNG or what else the name ends in.

    An SVG has its text as outlines, looks the same everywhere, and is the same bytes for the same picture, as is a PNG;
    dpi is that of a PNG.
    """
    ending = os.fspath(path).rpartition(".")[2].lower()
    metadata = {
        "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
        "png": {"Software": None},
        "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    }.get(ending)
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ragfast", "savefig.bbox": "standard"}):
        figure.savefig(path, dpi=dpi, metadata=metadata)


@contextmanager
def page(size: tuple[float, float], ax: Axes | None = None, n_plots: int = 1) -> Iterator[tuple[Any, ...]]:
    """Yield a figure and its plots, one below the other, or that of the caller's axes and these, to draw in our style.

    size is the width and height of a new figure in inches.
    """
    with mpl.rc_context(STYLE):
        if ax is None:
            figure = Figure(figsize=size, layout="constrained")
            yield figure, *figure.subplots(n_plots, 1, squeeze=False)[:, 0]
            figure.draw_without_rendering()  # makes the ticks, which would otherwise take later settings
        else:
            yield ax.get_figure(root=True), ax


def plain(text: str) -> str:
    """The text, of characters that matplotlib has a glyph for; it warns of every other one."""
    return "".join(c if ord(c) in _glyphs(*_families()) else BOX for c in unicodedata.normalize("NFC", text))


def title(text: str, length: int = 36) -> str:
    """A document's title on one line, cut where it is longer."""
    text = plain(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1].rstrip() + "\u2026"


def heading(text: str | None, width: float) -> str:
    """The text above a picture of so many inches: its first two lines, each on two at most."""
    lines = [plain(line) for line in (text or "").splitlines()][:2]
    return "\n".join(
        part for line in lines for part in textwrap.wrap(line, int(11 * width), max_lines=2, placeholder=" \u2026")
    )


def token(text: str, length: int = 14) -> str:
    """A token with its spaces and line breaks to be seen; one of nothing is a pair of quotation marks."""
    shown = "".join(WHITE.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)
    shown = plain(shown) or "''"
    return shown if len(shown) <= length else shown[: length - 1] + "\u2026"


def names(given: Sequence[str], n: int, name: str, letter: str) -> list[str]:
    """As many strings as documents or tokens."""
    if isinstance(given, str) or not all(isinstance(each, str) for each in given):
        raise TypeError(f"{name}: expected {n} strings, got {given!r:.60}")
    if len(given) != n:
        raise ValueError(f"{name}: expected {n}, as {letter} is, got {len(given)}")
    return list(given)


def probabilities(given: Any, name: str, shapes: str, ndims: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Distributions over the first axis, as float64: between 0 and 1, each sum 1, or 0 where nothing is possible."""
    array = np.asarray(given, np.float64)
    if array.ndim not in ndims or array.size == 0:
        raise ValueError(f"{name}: expected shape {shapes}, got {array.shape}")
    outside = array[~((array >= 0) & (array <= 1 + 1e-6))]
    if outside.size:
        hint = f"; of log-probabilities, pass np.exp({name})" if outside[0] < 0 else ""
        raise ValueError(f"{name}: expected probabilities, got {outside[0]:g}{hint}")
    sums = array.sum(axis=0)
    wrong = (np.abs(sums - 1) > 1e-3) & (sums != 0)
    if wrong.any():
        where = f" of token {int(np.argmax(wrong))}" if array.ndim == 2 else ""
        raise ValueError(
            f"{name}: expected probabilities that sum to 1 over the {len(array)} documents, shape {shapes}; "
            f"the sum{where} is {float(sums[wrong].flat[0] if array.ndim == 2 else sums):.4g}"
        )
    return array


def _families() -> tuple[str, ...]:
    """The fonts that matplotlib looks for, in order, with what rcParams say of generic names such as sans-serif."""
    families = FontProperties().get_family()
    return tuple(name for family in families for name in mpl.rcParams.get(f"font.{family}", [family]))


@functools.lru_cache(maxsize=8)
def _glyphs(*families: str) -> frozenset[int]:
    """The characters that one of these fonts has, or that of matplotlib's own that stands in for all."""
    paths = set()
    for family in families:
        with suppress(ValueError):  # not installed
            paths.add(font_manager.findfont(FontProperties(family=[family]), fallback_to_default=False))
    if not paths:
        paths.add(font_manager.findfont(FontProperties(family=["DejaVu Sans"])))
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in paths))
