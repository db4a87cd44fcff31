"""How clearly retrieval decides: the gaps between the scores of the documents it found."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ragfast.index import Hits
from ragfast.rag.decoding import Generation, Retrieved
from ragfast.rag.models import Score
from ragfast.rag.plots import style

__all__ = ["score_gap"]


def score_gap(scores: Any, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """By how much the first document of each question leads the second, and the last that was found.

    scores are those of B questions, in any order within one: an array (B,K) or Hits, in units of the inner product; or
    a sequence of Retrieved, Score or Generation, which have log p(z|x), so that gaps are those of the scores over the
    temperature; or of arrays, each with its own K. -inf and NaN stand for missing documents. Questions with fewer than
    two are left out, and counted in the legend.

    Each line is the share of questions (upwards) whose gap is at most that (to the right), a dot its median.

    ValueError for another shape, no question with two documents, or +inf.

    >>> from ragfast.rag.plots import score_gap
    >>> figure = score_gap([[0.9, 0.5, 0.25], [0.8, 0.7, 0.05]])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['first - second, median 0.25', 'first - last (K 3), median 0.7']
    """
    rows, in_logs = _rows(scores)
    found = [np.sort(row[~(np.isnan(row) | np.isneginf(row))])[::-1] for row in rows]
    several = [row for row in found if len(row) > 1]
    if not several:
        raise ValueError("scores: expected at least one question with two documents, got none")
    most = max(len(row) for row in several)
    lines: list[tuple[str, int, str, Any]] = [("second", 1, style.PRODUCT, "-")]
    if most > 2:
        lines.append((f"last (K {most})", -1, style.SUM, (0, (5, 2))))
    with style.page((5.6, 3.6), ax) as (figure, axes):
        for name, other, colour, dashes in lines:
            gap = np.sort([row[0] - row[other] for row in several])
            median = float(np.median(gap))
            axes.step(
                [0, *gap],
                [0, *np.arange(1, len(gap) + 1) / len(gap)],
                where="post",
                color=colour,
                linestyle=dashes,
                linewidth=1.8,
                label=f"first - {name}, median {median:.2g}",
            )
            axes.plot(median, 0.5, "o", color=colour, markersize=6)
        axes.set(xlim=(0, None), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.grid(True)
        if title:
            axes.set_title(style.heading(title, 5.6), parse_math=False)
        axes.set_ylabel("questions with at most that gap")
        axes.set_xlabel(r"gap in $\log p(z \mid x)$" if in_logs else "gap in score (inner product)")
        left_out = len(found) - len(several)
        counts = f"{len(several)} questions"
        counts += f", {left_out} with fewer than two documents left out" if left_out else ""
        axes.legend(loc="lower right", fontsize=9, title=counts, title_fontsize=9)
        return figure


def _rows(scores: Any) -> tuple[list[NDArray[np.float64]], bool]:
    """The scores of each question, and whether they are log-probabilities."""
    if isinstance(scores, Hits):
        scores = scores.scores
    if isinstance(scores, (Retrieved, Score, Generation)):
        raise TypeError(f"scores: expected a sequence of {type(scores).__name__}, one a question, got one alone")
    if hasattr(scores, "ndim") and scores.ndim != 2:
        raise ValueError(f"scores: expected shape (B, K), got {scores.shape}")
    rows = list(scores)
    in_logs = {isinstance(row, (Retrieved, Score, Generation)) for row in rows}
    if len(in_logs) > 1:
        raise TypeError("scores: expected log-probabilities or scores, got both")
    found = []
    for i, row in enumerate(rows):
        array = np.asarray(row.doc_logprobs if in_logs == {True} else row, np.float64)
        if array.ndim != 1:
            raise ValueError(f"scores[{i}]: expected shape (K,), got {array.shape}")
        if np.isposinf(array).any():
            raise ValueError(f"scores[{i}]: infinite")
        found.append(array)
    return found, in_logs == {True}
