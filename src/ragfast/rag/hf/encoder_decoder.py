"""Any encoder-decoder of transformers (BART, T5) as a generator p(y | x, z)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ragfast.rag.hf import kv_cache
from ragfast.rag.hf.generator import EncodedPrompts, HuggingFaceGenerator

__all__ = ["EncoderDecoder"]


class EncoderDecoder(HuggingFaceGenerator):
    """A generator around an encoder-decoder and its tokenizer, such as AutoModelForSeq2SeqLM and AutoTokenizer load.

    All is as for :class:`CausalLM`, but:

    - The encoder reads the prompt, with the special tokens that the tokenizer gives it; max_length holds for prompts
      and for answers apart, and answer_capacity plays no part. What is kept includes the keys and values of
      cross-attention.
    - A target that is a text becomes what the tokenizer writes as a label, ending in a stop token. BART's labels begin
      with <s>, which BART then predicts first; T5's do not. An array of tokens is scored as it is, without a token
      added in front, and must have that <s> if the model is to have said it.
    - The decoder begins with the configuration's decoder_start_token_id; ValueError where there is none. No token is
      forced: forced_bos_token_id and forced_eos_token_id are rules of another search than ours, not of the model.

    >>> import tokenizers, transformers
    >>> from ragfast.rag.hf import EncoderDecoder
    >>> vocab = {word: i for i, word in enumerate(["?", "</s>", "where", "is", "it", "in", "Oslo"])}
    >>> words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="?"))
    >>> words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    >>> tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    >>> config = transformers.T5Config(
    ...     vocab_size=7, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    ... )
    >>> generator = EncoderDecoder(transformers.T5ForConditionalGeneration(config), tokenizer)
    >>> generator.token_logprobs("where is it", ["it is in Oslo", ""], "in Oslo").shape
    (2, 3)
    """

    ends_align = False

    def _set_up(self) -> None:
        configs = (self.model.config, getattr(self.model, "generation_config", None))
        starts = [getattr(config, "decoder_start_token_id", None) for config in configs]
        start = next((token for token in starts if token is not None), None)
        if start is None:
            raise ValueError("model: its configuration has no decoder_start_token_id, with which an answer begins")
        self._start: int = start

    def answer_tokens(self, answer: str) -> NDArray[np.int64]:
        """(T,) int64: the answer as the tokenizer writes labels, and a stop token where it puts none at their end."""
        tokens = self.tokenizer(text_target=answer)["input_ids"]
        ended = len(tokens) > 0 and tokens[-1] in self.stop_tokens
        return np.array(tokens if ended else [*tokens, self.stop_tokens[0]], np.int64)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        rows: list[list[int]] = self.tokenizer(texts, verbose=False)["input_ids"]
        return rows

    def _read(self, tokens: Tensor, mask: Tensor) -> tuple[kv_cache.Cache, Tensor | None, Tensor]:
        """The prompts by the encoder, the start token by the decoder: that fills the cache of cross-attention."""
        output = self.model(
            input_ids=tokens,
            attention_mask=mask,
            decoder_input_ids=tokens.new_full((len(tokens), 1), self._start),
            use_cache=True,
        )
        return output.past_key_values, output.encoder_last_hidden_state, output.logits[:, -1]

    def _extend(self, reading: EncodedPrompts, n_before: int, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=reading.states),
            attention_mask=reading.mask,
            decoder_input_ids=tokens,
            past_key_values=reading.cache,
            use_cache=True,
        ).logits
        return logits

    def _answer_logits(self, prompts: Sequence[tuple[int, ...]], targets: Tensor) -> Tensor:
        tokens, mask = self._padded(prompts)
        inputs = torch.nn.functional.pad(targets[:, :-1], (1, 0), value=self._start)
        logits: Tensor = self.model(
            input_ids=tokens, attention_mask=mask, decoder_input_ids=inputs, use_cache=False
        ).logits
        return logits
