"""Tensors for the tests of ragfast.torch, and its losses by name. Imported only where torch is."""

from __future__ import annotations

import zlib
from typing import Any

import torch

import ragfast.torch as rt

B, K, T, V = 2, 2, 3, 37  # V beyond the rows that are short, and no multiple of a vector
PAD = 5
VARIANTS = {"sequence": rt.rag_sequence_nll, "token": rt.rag_token_nll}
FROM_LOGPROBS = {"sequence": rt.rag_sequence_nll_from_logprobs, "token": rt.rag_token_nll_from_logprobs}
MARGINALS = {"sequence": rt.marginalize_sequence, "token": rt.marginalize_token}


def random(*shape: int, seed: int = 0, grad: bool = False, dtype: Any = torch.float64) -> Any:
    x = torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed + zlib.crc32(repr(shape).encode())), dtype=torch.float64
    )
    return (2 * x).to(dtype).requires_grad_(grad)


def random_targets(*, padded: bool = False) -> Any:
    targets = torch.randint(PAD + 1, V, (B, T), generator=torch.Generator().manual_seed(1))
    if padded:
        targets[0, 2:] = PAD
        targets[1, 0] = PAD
    return targets


def as_numpy(x: Any) -> Any:
    return x.detach().float().numpy() if x.dtype == torch.bfloat16 else x.detach().numpy()
