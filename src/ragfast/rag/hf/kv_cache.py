"""What models of transformers keep of what they have read: shared, selected from and put together, never spoilt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache

__all__ = ["Cache", "fork", "merge", "mergeable", "reorder_answers", "stacked"]

Cache = Any  # of transformers, or an EncoderDecoderCache, which is two of them

# Their update makes new tensors, so that a shallow copy shares what is there and leaves it alone.
_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


def mergeable(cache: Cache) -> bool:
    """Whether this is made of keys and values alone, with a column for each token."""
    if isinstance(cache, EncoderDecoderCache):
        return mergeable(cache.self_attention_cache) and mergeable(cache.cross_attention_cache)
    return all(type(layer) in _PLAIN for layer in cache.layers)


def fork(cache: Cache) -> Cache:
    """A cache that goes its own way from here on."""
    if not mergeable(cache):
        return copy.deepcopy(cache)
    if isinstance(cache, EncoderDecoderCache):
        return EncoderDecoderCache(fork(cache.self_attention_cache), fork(cache.cross_attention_cache))
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    return new


def reorder_answers(cache: Cache, rows: Tensor, n_prompt: int) -> None:
    """As reorder_cache, for rows (R) that each take the place of one with the same prompt, which thus can stay.

    The prompt is the encoder's, or the first n_prompt columns. The cache's tensors are overwritten: nobody else may
    have them, that is, it has been extended since it was forked.
    """
    if isinstance(cache, EncoderDecoderCache):
        cache.self_attention_cache.reorder_cache(rows)
        return
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            layer.reorder_cache(rows)
        elif layer.is_initialized:  # else it uses another's keys and values
            for tensor in (layer.keys, layer.values):
                tensor[:, :, n_prompt:] = tensor[rows, :, n_prompt:]


def merge(parts: Sequence[tuple[Cache, Sequence[int]]]) -> Cache:
    """One cache of several whose rows are to stand where their numbers say; all rows end in the same column.

    What an encoder read begins in the same column instead.
    """
    if len(parts) == 1 and list(parts[0][1]) == list(range(len(parts[0][1]))):
        return parts[0][0]
    first = parts[0][0]
    if isinstance(first, EncoderDecoderCache):
        return EncoderDecoderCache(
            _merge([(cache.self_attention_cache, rows) for cache, rows in parts], ends_align=True),
            _merge([(cache.cross_attention_cache, rows) for cache, rows in parts], ends_align=False),
        )
    return _merge(parts, ends_align=True)


def _merge(parts: Sequence[tuple[Cache, Sequence[int]]], *, ends_align: bool) -> Cache:
    new = fork(parts[0][0])
    for i, layer in enumerate(new.layers):
        if not layer.is_initialized:  # it uses another's keys and values
            continue
        layers = [(cache.layers[i], rows) for cache, rows in parts]
        layer.keys = stacked([(part.keys, rows) for part, rows in layers], dim=2, ends_align=ends_align)
        layer.values = stacked([(part.values, rows) for part, rows in layers], dim=2, ends_align=ends_align)
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = max(part.cumulative_length for part, _ in layers)
    return new


def stacked(parts: Sequence[tuple[Tensor, Sequence[int]]], *, dim: int, ends_align: bool) -> Tensor:
    """One tensor of several whose rows are to stand where their numbers say, filled up with 0 along dim."""
    first = parts[0][0]
    shape = list(first.shape)
    shape[0], shape[dim] = sum(len(rows) for _, rows in parts), max(part.shape[dim] for part, _ in parts)
    whole = first.new_zeros(shape)
    for part, rows in parts:
        n = part.shape[dim]
        place = whole.narrow(dim, shape[dim] - n if ends_align else 0, n)
        place[torch.as_tensor(rows, device=first.device)] = part
    return whole
