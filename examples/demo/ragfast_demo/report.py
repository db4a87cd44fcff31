"""What the demo prints, as text: no models, no files, at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 100
BAR = 40
TITLE = 34
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""A document's letter is its rank; beyond Z, all share the last."""


def heading(left: str, right: str = "") -> str:
    """A rule, and under it one line with text at both ends, or two lines where they do not fit in one."""
    gap = WIDTH - len(left) - len(right)
    return "─" * WIDTH + "\n" + (f"{left}{' ' * gap}{right}" if gap > 1 else f"{left}\n{right:>{WIDTH}}").rstrip()


def documents(
    titles: Sequence[str],
    doc_logprobs: NDArray[np.floating],
    answer_logprobs: NDArray[np.floating] | None = None,
    posterior: NDArray[np.floating] | None = None,
) -> str:
    """One line for each of K documents: log p(z|x) and, for a known answer, log p(y|x,z) and p(z|x,y)."""
    scored = answer_logprobs is not None and posterior is not None
    lines = [f"     {'document':<{TITLE}}  log p(z|x)" + ("  log p(y|x,z)  p(z|x,y)" if scored else "")]
    for i, title in enumerate(titles):
        line = f"  {_letter(i)}  {_cut(title, TITLE):<{TITLE}}  {doc_logprobs[i]:10.2f}"
        if answer_logprobs is not None and posterior is not None:
            line += f"  {answer_logprobs[i]:12.2f}  {posterior[i]:8.3f}"
        lines.append(line)
    return "\n".join(lines)


def leaning(
    pieces: Sequence[str], titles: Sequence[str], doc_probs: NDArray[np.floating], posterior: NDArray[np.floating]
) -> str:
    """One line for each of T tokens: the document it leaned on most, and a bar shared out by posterior (K, T)."""
    label = 16
    lines = [f"     {'token':<{label}}  {'leaned on most':<26}  p(z|x,y_t,y_<t), one letter a document"]
    columns = [("(before: p(z|x))", doc_probs)] + [(repr(piece), posterior[:, t]) for t, piece in enumerate(pieces)]
    for name, probs in columns:
        top = int(probs.argmax())
        most = f"{_letter(top)} {_cut(titles[top], 18):<18} {probs[top]:5.0%}"
        lines.append(f"     {_cut(name, label):<{label}}  {most:<26}  {share(probs, BAR)}")
    return "\n".join(lines)


def share(probs: NDArray[np.floating], cells: int) -> str:
    """A bar of `cells` letters, each document's share rounded so that they add up.

    >>> share(np.array([0.5, 0.26, 0.24]), 8)
    'AAAABBCC'
    """
    ends = np.rint(np.cumsum(probs) / np.sum(probs) * cells).astype(int)
    return "".join(_letter(i) * count for i, count in enumerate(np.diff(ends, prepend=0)))


def _letter(rank: int) -> str:
    return LETTERS[min(rank, len(LETTERS) - 1)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
