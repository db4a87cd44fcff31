"""Which documents an answer came from: the heat map of Lewis et al. 2020 (figure 2), and entropies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ragfast.rag.decoding import Generation
from ragfast.rag.models import Score
from ragfast.rag.plots import style

__all__ = ["posterior_entropy", "posterior_heatmap", "token_entropy"]

# From nearly white to dark without the last quarter, which is too black to tell apart: lightness falls evenly, so that
# it reads the same in grey and to the colour-blind.
COLOURS = ListedColormap(mpl.colormaps["magma_r"](np.linspace(0.0, 0.78, 256)), "magma_r, light part")
PER_LINE = 16
"""Tokens side by side; a longer answer goes on below, as text does."""
MOST_VALUES = 240
CELL = 0.44, 0.32  # inches

OF_TOKEN = r"$p(z \mid x, y_t, y_{<t})$"
OF_ANSWER = r"$p(z \mid x, y)$"
OF_QUESTION = r"$p(z \mid x)$"


def posterior_heatmap(
    posterior: Any,
    tokens: Sequence[str],
    titles: Sequence[str],
    *,
    prior: Any = None,
    title: str | None = None,
    annotate: bool | None = None,
    ax: Axes | None = None,
) -> Figure:
    """How much each document had to do with each token of an answer, as figure 2 of Lewis et al. 2020.

    posterior, as a Generation has it or a Score for each candidate, is (K,T) = p(z | x, y_t, y_<t) of RAG-Token, each
    column of which sums to 1 (or is 0 where no document is possible); or (K,) = p(z|x,y) of RAG-Sequence, drawn as one
    column under the whole answer. tokens are the T pieces of the answer, titles those of the K documents. prior (K,) =
    p(z|x) is a column of its own to the left. title stands above; annotate says whether each cell has its number, by
    default where there are at most 240.

    More than 16 tokens go on in further lines, each as wide, unless all are drawn into ax.

    ValueError for shapes that do not go together and for what are not probabilities, TypeError for what is not text.

    >>> from ragfast.rag.plots import posterior_heatmap
    >>> figure = posterior_heatmap(
    ...     [[0.9, 0.2], [0.1, 0.8]], [" Nu", "uk"], ["Greenland", "Iceland"], prior=[0.6, 0.4]
    ... )
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['Greenland', 'Iceland']
    """
    probs = style.probabilities(posterior, "posterior", "(K, T) or (K,)", (1, 2))
    rows = [style.title(each) for each in style.names(titles, len(probs), "titles", "K")]
    by_token = probs.ndim == 2
    if by_token:
        columns = [style.token(each) for each in style.names(tokens, probs.shape[1], "tokens", "T")]
    else:
        answer = "".join(style.names(tokens, len(tokens), "tokens", "T"))
        columns, probs = [OF_ANSWER], probs[:, None]
    before = None if prior is None else style.probabilities(prior, "prior", "(K,)", (1,))
    if before is not None and len(before) != len(probs):
        raise ValueError(f"prior: expected shape ({len(probs)},), as posterior has documents, got {before.shape}")
    if annotate is None:
        annotate = probs.size <= MOST_VALUES

    n_tokens = len(columns)
    line = n_tokens if ax is not None else min(PER_LINE, n_tokens)
    starts = range(0, n_tokens, line)
    left = 0.0 if before is None else -1.4
    width = 1.2 + 0.075 * max(map(len, rows)) + CELL[0] * (line - left) + 0.04 * max(map(len, columns))
    height = len(starts) * (0.35 + CELL[1] * len(rows) + 0.055 * max(map(len, columns))) + 0.1
    width = max(width, 4.5)
    head = style.heading(title, width)
    size = (width, max(height + 0.2 * len(head.splitlines()), 2.2))
    with style.page(size, ax, n_plots=len(starts)) as (figure, *all_axes):
        if head and ax is None:
            figure.suptitle(head, x=0.01, ha="left", fontsize=11, parse_math=False)
        elif head:
            all_axes[0].set_title(head, parse_math=False)
        turned: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "ha": "left", "va": "bottom"}
        if not by_token:
            turned = {"ha": "center", "va": "bottom"}
            all_axes[0].set_xlabel(style.heading(answer, width), fontsize=9, parse_math=False)
        for axes, start in zip(all_axes, starts, strict=True):
            part = probs[:, start : start + line]
            axes.set(xlim=(left, line), ylim=(len(rows), 0))
            if before is not None and start == 0:
                _cells(axes, before[:, None], left, annotate)
                axes.annotate(OF_QUESTION, (left + 0.5, 0), (0, 3), textcoords="offset points", fontsize=9, **turned)
            mesh = _cells(axes, part, 0.0, annotate)
            names = columns[start : start + line]
            axes.set_xticks(np.arange(part.shape[1]) + 0.5, names, parse_math=not by_token, **turned)
            axes.set_yticks(np.arange(len(rows)) + 0.5, rows, parse_math=False)
            axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False, pad=3)
            axes.spines[:].set_visible(False)
        length = min(2.4, height)  # a tall map needs no taller bar
        bar = figure.colorbar(
            mesh,
            ax=all_axes,
            label=OF_TOKEN if by_token else OF_ANSWER,
            pad=0.02,
            shrink=length / height,
            aspect=length / 0.16,
            anchor=(0, 1),
        )
        bar.outline.set_visible(False)
        return figure


def _cells(axes: Axes, probs: NDArray[np.float64], left: float, annotate: bool) -> Any:
    """A column for each token from left on, with white lines between the cells."""
    mesh = axes.pcolormesh(
        left + np.arange(probs.shape[1] + 1),
        np.arange(len(probs) + 1),
        probs,
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        edgecolors=style.PAPER,
        linewidth=1.2,
    )
    if annotate:
        for (row, column), p in np.ndenumerate(probs):
            axes.text(
                left + column + 0.5,
                row + 0.5,
                f"{p:.2f}" if p else "0",
                ha="center",
                va="center",
                fontsize=8,
                color=style.INK if p < 0.5 else style.PAPER,
            )
    return mesh


def posterior_entropy(answers: Sequence[Any], *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """How much each answer narrows the documents down: the entropy over them after it against that before, in bits.

    answers are one or more of Score (its best candidate counts), Generation, or pairs (prior (K,), posterior (K,) or
    (K,T)) of probabilities. A dot is one question: to the right the entropy of p(z|x), upwards that of p(z|x,y), or of
    RAG-Token's p(z | x, y_t, y_<t) the mean over tokens. Below the diagonal, the answer told more of the document than
    retrieval did; log2 K is the entropy of K documents that are all alike. Those without a possible document are left
    out, and counted in the title.

    ValueError for no answer and for what are not probabilities, TypeError for anything else.

    >>> from ragfast.rag.plots import posterior_entropy
    >>> figure = posterior_entropy([([0.5, 0.5], [0.9, 0.1]), ([0.6, 0.4], [[1.0, 0.2], [0.0, 0.8]])])
    >>> figure.axes[0].get_title(loc="left").splitlines()[0]
    'mean of 2 questions: 0.99 bits before, 0.41 after'
    """
    pairs = [_prior_and_posterior(answer, f"answers[{i}]") for i, answer in enumerate(answers)]
    if not pairs:
        raise ValueError("answers: expected at least one, got none")
    before = np.array([_entropy(prior) for prior, _ in pairs])
    after = np.array([_mean_entropy(posterior) for _, posterior in pairs])
    there = ~(np.isnan(before) | np.isnan(after))
    if not there.any():
        raise ValueError("answers: no document is possible for any of them")
    by_token = {posterior.ndim == 2 for _, posterior in pairs}
    n_docs = max(len(prior) for prior, _ in pairs)
    most = np.log2(n_docs)
    with style.page((4.8, 4.9), ax) as (figure, axes):
        end = 1.08 * max(most, 0.1)
        axes.plot([0, end], [0, end], color=style.FAINT, linewidth=1, zorder=1)
        _most_line(axes.axvline, most)
        _most_line(axes.axhline, most)
        dots = {"color": style.PRODUCT, "alpha": 0.55, "markersize": 6, "markeredgewidth": 0}
        axes.plot(before[there], after[there], "o", clip_on=False, zorder=3, **dots)
        means = before[there].mean(), after[there].mean()
        below = int((after < before)[there].sum())
        left_out = f"\n{int((~there).sum())} without a possible document left out" if not there.all() else ""
        head = style.heading(title, 4.8) + "\n" if title else ""
        axes.set_title(
            f"{head}mean of {there.sum()} questions: {means[0]:.2f} bits before, {means[1]:.2f} after\n"
            f"narrowed down, so below the diagonal: {below} of {there.sum()}{left_out}",
            fontsize=10,
            parse_math=False,
        )
        axes.set_xlabel(f"bits before the answer: entropy of {OF_QUESTION}")
        one_kind = f"mean over tokens of that of {OF_TOKEN}" if True in by_token else f"entropy of {OF_ANSWER}"
        axes.set_ylabel(f"bits after it: {one_kind if len(by_token) == 1 else 'entropy of the posterior'}")
        alike = f"$\\log_2 {n_docs}$ = {most:.2f}: all alike"
        axes.annotate(alike, (0, most), (4, 2), textcoords="offset points", fontsize=9)
        axes.set(xlim=(0, end), ylim=(0, end), aspect="equal")
        return figure


def token_entropy(answer: Any, tokens: Sequence[str], *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """The entropy of RAG-Token's posterior over documents at each token, in bits, beside that of p(z|x).

    answer is a Generation or Score (its best candidate) of RAG-Token, or a pair (prior (K,), posterior (K,T)) of
    probabilities; tokens are its T pieces. A low bar is a token that only some of the documents explain.

    ValueError for a posterior of RAG-Sequence, another number of tokens or what are not probabilities.

    >>> from ragfast.rag.plots import token_entropy
    >>> figure = token_entropy(([0.5, 0.5], [[1.0, 0.5], [0.0, 0.5]]), [" Nu", "uk"])
    >>> [float(bar.get_height()) for bar in figure.axes[0].patches]
    [0.0, 1.0]
    """
    prior, posterior = _prior_and_posterior(answer, "answer")
    if posterior.ndim != 2:
        raise ValueError(f"answer: expected RAG-Token's posterior (K, T), got {posterior.shape}, one for all tokens")
    columns = [style.token(each) for each in style.names(tokens, posterior.shape[1], "tokens", "T")]
    bits, before, most = _entropy(posterior), float(_entropy(prior)), np.log2(len(prior))
    width = max(4.8, 1.0 + 0.34 * len(columns))
    head = style.heading(title, width)
    with style.page((width, 3.4 + 0.2 * len(head.splitlines())), ax) as (figure, axes):
        axes.bar(np.arange(len(columns)), bits, 0.75, color=style.PRODUCT)
        _most_line(axes.axhline, most)
        axes.axhline(before, color=style.SUM, linewidth=1.4, linestyle=(0, (5, 2)))
        where = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 9, "va": "center"}
        gap = (most - before) / max(most, 0.1)  # where both are nearly one, their names move apart
        axes.annotate(f"$\\log_2 {len(prior)}$: all alike", (1, most), (4, 6 if gap < 0.1 else 0), **where)
        axes.annotate(OF_QUESTION, (1, before), (4, -6 if gap < 0.1 else 0), color=style.SUM, **where)
        axes.set_xticks(np.arange(len(columns)), columns, rotation=90, parse_math=False)
        axes.tick_params(axis="x", length=0)
        axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(0, 1.06 * max(most, 0.1)))
        axes.set_ylabel(f"bits: entropy of\n{OF_TOKEN}")
        if head:
            axes.set_title(head, parse_math=False)
        return figure


def _most_line(draw: Any, most: float) -> None:
    draw(most, color=style.FAINT, linewidth=1, linestyle=(0, (1, 2)))


def _prior_and_posterior(answer: Any, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if isinstance(answer, Generation):
        prior, posterior = np.exp(answer.doc_logprobs), answer.posterior
    elif isinstance(answer, Score):
        prior, posterior = np.exp(answer.doc_logprobs), answer.posteriors[answer.best]
    elif isinstance(answer, (tuple, list)) and len(answer) == 2:
        prior, posterior = answer
    else:
        raise TypeError(f"{name}: expected a Score, a Generation or a pair of arrays, got {type(answer).__name__}")
    prior = style.probabilities(prior, f"prior of {name}", "(K,)", (1,))
    posterior = style.probabilities(posterior, f"posterior of {name}", "(K, T) or (K,)", (1, 2))
    if len(prior) != len(posterior):
        raise ValueError(f"{name}: expected as many documents before as after, got {len(prior)} and {len(posterior)}")
    return prior, posterior


def _entropy(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """-sum p log2 p over the first axis; NaN where all are 0, as no document is possible."""
    # abs: of one certain document it is 0, not -0.
    bits = np.abs(np.sum(probs * np.log2(probs, where=probs > 0, out=np.zeros_like(probs)), axis=0))
    found: NDArray[np.float64] = np.where(probs.sum(axis=0) > 0, bits, np.nan)
    return found


def _mean_entropy(posterior: NDArray[np.float64]) -> float:
    """Over the tokens that are possible."""
    bits = np.atleast_1d(_entropy(posterior))
    possible = bits[~np.isnan(bits)]
    return float(possible.mean()) if len(possible) else float("nan")
