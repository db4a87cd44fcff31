"""Any causal language model of transformers as a generator p(y | x, z)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragfast.rag.hf import kv_cache
from ragfast.rag.hf.generator import EncodedPrompts, HuggingFaceGenerator

__all__ = ["CausalLM"]


class CausalLM(HuggingFaceGenerator):
    """A generator around a causal language model and its tokenizer, such as AutoModelForCausalLM and AutoTokenizer
    load.

    It is a BatchGenerator and a DecodingGenerator of :mod:`ragfast.rag.generators`. Questions and passages are texts; a
    target is a text, which is tokenized by itself and gets a stop token at its end ("" is the stop token alone), or an
    array of tokens (T,), which is scored as it is. A passage "" is a prompt without a passage.

    template(question, passage) is the prompt, by default ``plain_template()``; ``chat_template(tokenizer, ...)`` for a
    model that was trained to chat. It should end in a line break or a special token: the answer's tokens are appended
    to the prompt's. max_length is how many tokens prompt and answer may have, by default what the model's configuration
    says. A prompt may have all but answer_capacity of them; where it is longer its passage is cut at the end, with a
    TruncationWarning. An answer may have what the prompt leaves, answer_capacity at least: raise it for longer ones.
    batch_tokens is the tokens in one forward pass over prompts, with the padding; decoding has a row for each question,
    document and beam. stop_tokens are by default the tokenizer's eos_token and those of the model's generation_config;
    the first is what is appended to texts.

    Every (question, document) is read once, and the model's cache of it serves all candidates and beams. What was read
    last is kept: scoring and decoding of the same questions, or some of them, read nothing again. It is dropped when
    parameters of the model change; call ``forget()`` after any other change, such as switching an adapter off or
    writing to ``parameter.data``, or to have its memory back. Threads may share a generator; they take turns.

    A text is tokenized as the tokenizer does it: one that spells a special token out, such as "</s>", may get it.

    The model computes on the device and in the dtype that it has. Scoring and decoding put it in eval mode and leave it
    as it was; ``logits``, for training, does not. ValueError where neither tokenizer nor model has a stop token.

    >>> import tokenizers, transformers
    >>> from ragfast.rag.hf import CausalLM
    >>> vocab = {word: i for i, word in enumerate(["?", "</s>", "where", "is", "it", "in", "Oslo"])}
    >>> words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="?"))
    >>> words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    >>> tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    >>> config = transformers.GPT2Config(vocab_size=7, n_embd=8, n_layer=1, n_head=2)
    >>> generator = CausalLM(transformers.GPT2LMHeadModel(config), tokenizer)
    >>> generator.answer_tokens("in Oslo").tolist(), generator.stop_tokens
    ([5, 6, 1], (1,))
    >>> generator.token_logprobs("where is it", ["it is in Oslo", ""], "in Oslo").shape
    (2, 3)
    """

    ends_align = True

    def _set_up(self) -> None:
        bos = self.tokenizer.bos_token_id
        self._begins_with_bos = bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    def answer_tokens(self, answer: str) -> NDArray[np.int64]:
        """(T,) int64: the answer's tokens and the stop token, without which longer answers would count as it."""
        tokens = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return np.array([*tokens, self.stop_tokens[0]], np.int64)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """With the token that begins a text, where the tokenizer puts one and the template did not, but none after."""
        rows: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return [[bos, *row] if row[:1] != [bos] else row for row in rows] if self._begins_with_bos else rows

    def _prompt_limit(self) -> int | None:
        return None if self.max_length is None else self.max_length - self.answer_capacity

    def _answer_limit(self, prompts: Sequence[tuple[int, ...]]) -> int | None:
        return None if self.max_length is None else self.max_length - max(len(prompt) for prompt in prompts)

    def _read(self, tokens: Tensor, mask: Tensor) -> tuple[kv_cache.Cache, Tensor | None, Tensor]:
        output = self.model(
            input_ids=tokens,
            attention_mask=mask,
            use_cache=True,
            **self._optional(position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1),
        )
        return output.past_key_values, None, output.logits[:, -1]

    def _extend(self, reading: EncodedPrompts, n_before: int, tokens: Tensor) -> Tensor:
        mask, (n_rows, n_tokens) = reading.mask, tokens.shape
        positions = mask.sum(1, keepdim=True) + torch.arange(n_before, n_before + n_tokens, device=mask.device)
        logits: Tensor = self.model(
            input_ids=tokens,
            attention_mask=torch.cat([mask, mask.new_ones((n_rows, n_before + n_tokens))], dim=1),
            past_key_values=reading.cache,
            use_cache=True,
            **self._optional(position_ids=positions),
        ).logits
        return logits

    def _answer_logits(self, prompts: Sequence[tuple[int, ...]], targets: Tensor) -> Tensor:
        n_tokens = targets.shape[1]
        rows = [[*prompt, *target] for prompt, target in zip(prompts, targets[:, :-1].tolist(), strict=True)]
        tokens, mask = self._padded(rows, on_the_left=True)
        logits: Tensor = self.model(
            input_ids=tokens,
            attention_mask=mask,
            use_cache=False,
            **self._optional(position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=n_tokens),
        ).logits
        if logits.shape[1] == n_tokens:
            return logits
        return logits[:, -n_tokens:]  # whose backward pass copies the gradient into zeros of the whole size

    def _optional(self, **arguments: Any) -> dict[str, Any]:
        """Those that the model's forward has."""
        return {name: value for name, value in arguments.items() if name in self._accepted}
