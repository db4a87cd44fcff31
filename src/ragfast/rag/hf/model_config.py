"""What a model and its tokenizer say of themselves: how much it reads, and what ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragfast._core import arrays

__all__ = ["context_length", "encoder_context_length", "stop_tokens_of"]


def context_length(model: Any, tokenizer: Any, max_length: int | None) -> int | None:
    """How many tokens the model reads at most."""
    if max_length is not None:
        return arrays.positive_int(max_length, "max_length")
    config = model.config.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if limit is None and tokenizer.model_max_length < 10**9:  # else transformers' way to say that there is none
        limit = tokenizer.model_max_length
    return limit


def encoder_context_length(model: Any, tokenizer: Any) -> int:
    """How many tokens an encoder reads at most."""
    limit = int(tokenizer.model_max_length)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions:
        embedding = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
        padding = getattr(embedding, "padding_idx", None)
        # RoBERTa and its kin count positions from there.
        limit = min(limit, positions if padding is None else positions - padding - 1)
    return limit


def stop_tokens_of(model: Any, tokenizer: Any, given: Sequence[int] | None, vocab_size: int) -> tuple[int, ...]:
    """The tokens that end an answer; the first is the one with which a text ends."""
    if given is not None:
        wrong = [token for token in given if not 0 <= token < vocab_size]
        if len(given) == 0 or wrong:
            raise ValueError(f"stop_tokens: expected at least one, each from 0 to {vocab_size - 1}, got {list(given)}")
        return tuple(int(token) for token in given)
    found: list[int] = []
    configs = (getattr(model, "generation_config", None), model.config.get_text_config(decoder=True))
    for tokens in (tokenizer.eos_token_id, *(getattr(config, "eos_token_id", None) for config in configs)):
        if tokens is not None:
            found += tokens if isinstance(tokens, (list, tuple)) else [tokens]
    known = tuple(token for token in dict.fromkeys(found) if 0 <= token < vocab_size)
    if not known:
        raise ValueError("tokenizer, model: neither has a token that ends an answer; pass stop_tokens=")
    return known
