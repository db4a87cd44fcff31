"""Texts as embeddings by MiniLM, from the cache where they are there. Imports torch when it must, and not before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ragfast_demo.cache import cached
from ragfast_demo.packages import MINILM, identity

if TYPE_CHECKING:
    import torch

DOCUMENTS = "documents"
"""The folder of the cache that the embeddings of the whole corpus are in."""
MAX_TOKENS = 96
"""Where documents are cut, in word pieces. The median summary has 101; 128 costs 15 % more time."""


def document_dtype() -> torch.dtype:
    """bfloat16 where the CPU multiplies it natively, which takes half the time, else float32.

    Over the 70 questions of the demo, the two give the same five documents for every question (in 4 of 70 in another
    order), and the scores differ by at most 0.003.
    """
    import torch

    capabilities: dict[str, Any] = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def digest(texts: Sequence[str]) -> str:
    """SHA-256 of the texts and their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def what_they_depend_on(texts: Sequence[str]) -> Mapping[str, str | int]:
    """The settings that the cache keeps embeddings under."""
    return {
        "corpus": digest(texts),
        "encoder": identity(MINILM),
        "max_tokens": MAX_TOKENS,
        "dtype": str(document_dtype()),
    }


def cached_embeddings(
    name: str, texts: Sequence[str], encode: Callable[[Sequence[str]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The embeddings (N, D) of texts, from the folder `name` of the cache, or by `encode`, once."""

    def build(folder: Path) -> None:
        np.save(folder / "embeddings.npy", encode(texts))

    embeddings: NDArray[np.float32] = np.load(cached(name, what_they_depend_on(texts), build) / "embeddings.npy")
    return embeddings
