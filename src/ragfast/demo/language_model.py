"""SmolLM2-135M-Instruct as the generator p(y | x, z), a `ragfast.generator.DecodingGenerator`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

import ragfast

INSTRUCTION = "Answer the question in a few words, using the passage."
"""So asked, greedy RAG-Token has 49 of the demo's 70 known answers in what it says. It answers in sentences, so that a
known answer of one word gets a low log p(y|x); worked examples in the prompt mend that, and fewer answers are right.
"""


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the model in `gguf` to `folder` as float32 safetensors and a tokenizer, which load 50 times faster."""
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    quantized: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # transformers refuses to save a model that came from GGUF; its weights are plain tensors by now.
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantized.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class _Read:
    """What the model keeps of K prompts, padded on the left so that every answer starts in the same column."""

    past: Any
    mask: torch.Tensor  # (K, P) int64, 1 on tokens and 0 on padding
    next_logits: torch.Tensor  # (K, V) float32


class LanguageModel:
    """A chat model that reads one document and the question per row; a target is an array of its tokens.

    Parameters
    ----------
    folder
        A Hugging Face model folder: configuration, safetensors, tokenizer. Nothing is downloaded.

    Notes
    -----
    Reading the documents is most of the work. What was read last is kept, so scoring by RAG-Sequence, scoring by
    RAG-Token and decoding an answer to the same question share one reading.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model.eval()
        self.eos_token: int = self._tokenizer.eos_token_id
        self._last: tuple[tuple[str, ...], _Read] | None = None

    def prompt(self, question: str, passage: str) -> str:
        """The chat up to where the answer begins; it ends in a line break, which no token of an answer merges with."""
        turns = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": f"Passage: {passage}\nQuestion: {question}"},
        ]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

    def answer_tokens(self, answer: str) -> NDArray[np.int64]:
        """(T,) int64: the answer's tokens and the end token, without which longer answers would count as it."""
        tokens = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
        return np.array([*tokens, self.eos_token], dtype=np.int64)

    def text(self, tokens: NDArray[np.int64]) -> str:
        """The text of tokens (T,), without the end token."""
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True)).strip()

    def pieces(self, tokens: NDArray[np.int64]) -> list[str]:
        """The text of each of tokens (T,) by itself; the end token by its name."""
        return [str(self._tokenizer.decode([token])) for token in tokens.tolist()]

    def token_logprobs(
        self, query_tokens: str, doc_tokens: Sequence[str], target_tokens: NDArray[np.int64], /
    ) -> NDArray[np.float32]:
        """(K, T) float32: log p(y_t | x, z, y_<t) of targets (T,) under K documents, all in one padded batch."""
        decoder = self.open(query_tokens, doc_tokens)
        logprobs = decoder.step(None)[:, None]
        if len(target_tokens) > 1:
            logprobs = np.concatenate([logprobs, decoder.extend(target_tokens[:-1])], axis=1)
        chosen: NDArray[np.float32] = logprobs[:, np.arange(len(target_tokens)), target_tokens]
        return chosen

    def open(self, query_tokens: str, doc_tokens: Sequence[str], /) -> Decoder:
        """A decoder whose answer is still empty."""
        key = (query_tokens, *doc_tokens)
        if self._last is None or self._last[0] != key:
            self._last = key, self._read([self.prompt(query_tokens, passage) for passage in doc_tokens])
        return Decoder(self._model, self._last[1])

    def _read(self, prompts: Sequence[str]) -> _Read:
        rows = self._tokenizer(prompts, add_special_tokens=False)["input_ids"]
        width = max(len(row) for row in rows)
        tokens = torch.full((len(rows), width), self.eos_token)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for i, row in enumerate(rows):
            tokens[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        with torch.inference_mode():
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=True,
                logits_to_keep=1,
            )
        return _Read(output.past_key_values, mask, output.logits[:, -1])


class Decoder:
    """One answer growing under K documents; owns its copy of what was read."""

    def __init__(self, model: Any, read: _Read) -> None:
        self._model = model
        self._past = copy.deepcopy(read.past)
        self._mask = read.mask
        self._next_logits = read.next_logits

    def step(self, token: int | None, /) -> NDArray[np.float32]:
        """Appends `token` (None: nothing yet) to every document's answer; (K, V) log-probabilities of what follows."""
        if token is None:
            return np.asarray(ragfast.log_softmax(self._next_logits.numpy()))
        return self.extend(np.array([token]))[:, -1]

    def extend(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Appends tokens (T,) to every document's answer; (K, T, V) log-probabilities of what follows each of them."""
        documents, positions = len(self._mask), self._mask.sum(1, keepdim=True) + torch.arange(len(tokens))
        self._mask = torch.cat([self._mask, self._mask.new_ones((documents, len(tokens)))], dim=1)
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(tokens).expand(documents, -1),
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._past,
                use_cache=True,
            )
        self._past = output.past_key_values
        self._next_logits = output.logits[:, -1]
        return np.asarray(ragfast.log_softmax(output.logits.numpy()))
