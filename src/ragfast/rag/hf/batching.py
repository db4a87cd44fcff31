"""Batches of token sequences for a model, their padding, and the model in evaluation mode while it reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["batches", "evaluating", "padded"]


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of the sequences, the longest first: what is too large for the memory fails at once.

    A batch has at most batch_tokens tokens, padding included, but at least one sequence.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    first = 0
    while first < len(longest_first):
        n = max(1, batch_tokens // lengths[longest_first[first]])
        yield longest_first[first : first + n]
        first += n


def padded(
    sequences: Sequence[Sequence[int] | NDArray[np.int64]], pad: int, device: Any, *, on_the_left: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the tokens (R,P) int64 and their mask (R,P), which is 1 on tokens and 0 on padding, on a device."""
    width = max(len(sequence) for sequence in sequences)
    tokens, mask = np.full((len(sequences), width), pad), np.zeros((len(sequences), width), np.int64)
    for i, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if on_the_left else slice(len(sequence))
        tokens[i, place], mask[i, place] = sequence, 1
    return torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run the model without dropout and restore the mode of each of its modules: a model in training also retrieves."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
