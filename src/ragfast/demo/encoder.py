"""all-MiniLM-L6-v2 as the retriever p(z | x): a `ragfast.retriever.Retriever` whose queries are text."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from ragfast import FlatIndex, Hits
from ragfast.demo.embeddings import MAX_TOKENS

BATCH_TOKENS = 16 * MAX_TOKENS
"""Tokens in a batch, with the padding: fewer make the calls themselves cost, more leave the cache."""


class MiniLM:
    """The encoder and exact search over its embeddings, of which every one has length 1.

    Parameters
    ----------
    folder
        A Hugging Face model folder. Nothing is downloaded.
    temperature
        tau in log p(z|x) = log_softmax(q . d_z / tau). Cosines of good and bad documents differ by a few tenths, so
        that tau = 1 would make all K alike. From 1 down to 0.01, 0.05 to 0.07 made the demo's 70 known answers
        likeliest, by RAG-Sequence and by RAG-Token.
    """

    def __init__(self, folder: Path, temperature: float) -> None:
        self.temperature = temperature
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model.eval()
        self.dim: int = self._model.config.hidden_size

    def encode_query(self, query_tokens: str, /) -> NDArray[np.float32]:
        """(D,) float32, computed in float32."""
        tokens = self._tokenizer([query_tokens], truncation=True, max_length=MAX_TOKENS)["input_ids"]
        embedding: NDArray[np.float32] = self._embed(tokens, torch.float32)[0]
        return embedding

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        threads: int,
        dtype: torch.dtype,
        progress: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        """(N, D) float32, computed in `dtype`, with a progress bar on stderr, or telling `progress` of each few done.

        Each of `threads` Python threads runs one-threaded torch on batches of its own: no barrier, so a core that is
        busy with something else slows its own batches alone.
        """
        tokens = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        longest_first = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        embeddings = np.empty((len(tokens), self.dim), np.float32)
        stop = threading.Event()

        def embed(batch: list[int]) -> int:
            if not stop.is_set():
                embeddings[batch] = self._embed([tokens[i] for i in batch], dtype)
            return len(batch)

        with (
            tqdm(
                total=len(tokens),
                desc="Encoding the documents, once",
                unit=" documents",
                dynamic_ncols=True,
                mininterval=0.1 if sys.stderr.isatty() else 10,  # seconds: a log keeps every line
                disable=progress is not None,
            ) as bar,
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers,
        ):
            try:
                for done in workers.map(embed, _batches(tokens, longest_first)):
                    (progress or bar.update)(done)
            finally:
                stop.set()  # at an interrupt, so that leaving the pool does not wait for the batches in its queue
        return embeddings

    def search(self, query_embedding: NDArray[np.float32], document_embeddings: FlatIndex, /, k: int) -> Hits:
        """The k documents of one query: scores, ids and log p(z|x), each (K,) with K = min(k, N)."""
        hits = document_embeddings.search(
            query_embedding[None], min(k, len(document_embeddings)), temperature=self.temperature, dtype=np.float64
        )
        return Hits(hits.scores[0], hits.ids[0], hits.logprobs[0], hits.stats)

    def _embed(self, tokens: Sequence[Sequence[int]], dtype: torch.dtype) -> NDArray[np.float32]:
        """Mean over the tokens, then length 1, as this model's authors do."""
        width = max(len(row) for row in tokens)
        ids = torch.zeros((len(tokens), width), dtype=torch.int64)
        mask = torch.zeros((len(tokens), width), dtype=torch.int64)
        for i, row in enumerate(tokens):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask[..., None].float()
        mean = (states * weights).sum(1) / weights.sum(1)
        embeddings: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return embeddings


def _batches(tokens: Sequence[Sequence[int]], longest_first: list[int]) -> Iterator[list[int]]:
    """The texts in that order, as many at a time as BATCH_TOKENS has room for; the first is the longest."""
    first = 0
    while first < len(longest_first):
        n = max(1, BATCH_TOKENS // len(tokens[longest_first[first]]))
        yield longest_first[first : first + n]
        first += n
