"""Tiny random models with tokenizers made on the spot: nothing is downloaded. Without the extra `models`
(`make test-all` has it) each file shows as skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import without_extra
from tiny_models import BOS, ENCODER_DECODER, EOS, PAD, config

pytest_pycollect_makemodule = without_extra.needs("models", ("torch", "transformers"), __file__)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """A tokenizer whose tokens are the bytes of a text, and the special ones: bos and eos around it, if asked."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(*, bos: bool = False, eos: bool = False, **options: Any) -> Any:
        letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        vocab = {letter: i for i, letter in enumerate(letters)} | {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
        special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(special | options))

    return make


@pytest.fixture(scope="session")
def make_generator(make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]) -> Callable[..., Any]:
    """A generator around a model of one of these kinds, with a tokenizer such as that kind has."""
    from ragfast.rag.hf import CausalLM, EncoderDecoder

    def make(kind: str, *, dtype: Any = None, **options: Any) -> Any:
        model = make_model(kind) if dtype is None else make_model(kind, dtype)
        tokenizer = make_tokenizer(bos=kind in ("llama", "gemma2", "bart"), eos=kind in ENCODER_DECODER)
        return (EncoderDecoder if kind in ENCODER_DECODER else CausalLM)(model, tokenizer, **options)

    return make


@pytest.fixture(scope="session")
def bare_logits() -> Callable[..., Any]:
    """The logits (T,V) of an answer's tokens by the model alone: one row, no padding, no cache, no position numbers."""
    import torch

    def bare(generator: Any, question: str, passage: str, answer: Any) -> Any:
        text, tokens = generator.template(question, passage), torch.as_tensor(answer)
        if generator.model.config.is_encoder_decoder:
            start = torch.tensor([generator.model.config.decoder_start_token_id])
            prompt = generator.tokenizer(text, return_tensors="pt")["input_ids"]
            decoded = torch.cat([start, tokens[:-1]])[None]
            return generator.model(input_ids=prompt, decoder_input_ids=decoded).logits[0]
        prompt = torch.tensor(generator.tokenizer(text)["input_ids"])
        return generator.model(torch.cat([prompt, tokens[:-1]])[None]).logits[0, len(prompt) - 1 :]

    return bare


@pytest.fixture
def passes() -> Callable[[Any], list[tuple[int, ...]]]:
    """Begins to list the shapes of the tokens that a module is called with."""

    def count(module: Any) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []

        def note(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            tokens = keywords.get("decoder_input_ids", keywords.get("input_ids"))
            shapes.append(tuple((arguments[0] if tokens is None else tokens).shape))

        module.register_forward_pre_hook(note, with_kwargs=True)
        return shapes

    return count


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """A random model of one of these kinds, with weights large enough that its answers differ."""
    import torch
    import transformers as hf

    def make(kind: str, dtype: torch.dtype = torch.float32) -> Any:
        torch.manual_seed(0)
        automatic = hf.AutoModelForSeq2SeqLM if kind in ENCODER_DECODER else hf.AutoModelForCausalLM
        model = automatic.from_config(config(kind), attn_implementation="eager" if kind == "gemma2" else None)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.3 if "embed" in name or "shared" in name else 0.2)
        return model.to(dtype)  # in training mode, with its dropout

    return make
