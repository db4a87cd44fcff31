"""SmolLM2 with its own tokenizer and chat template. tests/rag/hf has what any model is tested for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ragfast
from ragfast.rag.protocols import BatchGenerator, DecodingGenerator

if TYPE_CHECKING:
    from ragfast_demo.language_model import LanguageModel

QUESTION, ANSWER = "When was the Eiffel Tower built?", "In 1889, for a fair"
PASSAGES = [
    "The Eiffel Tower was built in 1889 by Gustave Eiffel.",
    "Mount Everest is tall.",
    "Paris is the capital of France, and the Eiffel Tower stands there beside the river. " * 6,
]


@pytest.fixture(scope="module")
def batch(language_model: LanguageModel) -> Any:
    return language_model.token_logprobs(QUESTION, PASSAGES, ANSWER)


def test_scores_are_those_of_the_bare_model(
    language_model: LanguageModel, language_model_folder: Path, batch: Any
) -> None:
    """Against whole texts, tokenized in one piece, without padding, cache or position numbers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(language_model_folder)
    model: Any = AutoModelForCausalLM.from_pretrained(language_model_folder, dtype=torch.float32)
    for passage, scores in zip(PASSAGES, batch, strict=True):
        text = language_model.template(QUESTION, passage) + ANSWER + tokenizer.eos_token
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logprobs = model(tokens).logits[0, :-1].double().log_softmax(-1)
        expected = logprobs.gather(1, tokens[0, 1:, None])[-len(scores) :, 0]
        np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)


def test_step_by_step_equals_all_at_once(language_model: LanguageModel, batch: Any) -> None:
    target = language_model.answer_tokens(ANSWER)
    decoder = language_model.open([QUESTION], [PASSAGES])
    steps = [decoder.logits] + [decoder.step(np.arange(3), np.full(3, token)) for token in target[:-1]]
    assert all(step.shape == (3, 49_152) for step in steps)
    stepped = [ragfast.log_softmax(step)[:, token] for step, token in zip(steps, target, strict=True)]
    np.testing.assert_allclose(np.stack(stepped, axis=1), batch, atol=1e-4)


def test_the_prompt_is_a_chat(language_model: LanguageModel) -> None:
    from ragfast_demo.language_model import INSTRUCTION

    prompt = language_model.template("Why?", "Because.")
    assert prompt.startswith(f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\nPassage: Because.\n")
    assert prompt.endswith("Question: Why?<|im_end|>\n<|im_start|>assistant\n")  # no token of an answer merges with it
    assert "Passage" not in language_model.template("Why?", "")


def test_text_and_tokens_are_each_others_inverse(language_model: LanguageModel) -> None:
    tokens = language_model.answer_tokens("Brasília, 8,849 m")
    assert language_model.text(tokens) == "Brasília, 8,849 m"
    assert language_model.pieces(tokens)[-1] == "<|im_end|>"
    assert len(language_model.pieces(tokens)) == len(tokens)
    assert tokens[-1] in language_model.stop_tokens


def test_the_passage_with_the_answer_makes_it_likeliest(language_model: LanguageModel) -> None:
    """An invented fact, which the model cannot know from elsewhere."""
    assert isinstance(language_model, BatchGenerator)
    assert isinstance(language_model, DecodingGenerator)
    passages = ["Oslo lies by a fjord.", "The Zanthor Bridge was opened in 1742.", "The Zanthor Bridge is long."]
    target = "The Zanthor Bridge was opened in 1742."
    logprobs = language_model.token_logprobs("When was the Zanthor Bridge opened?", passages, target).astype(np.float64)
    log_prob, posterior = ragfast.marginalize_sequence(np.log(np.full(3, 1 / 3)), logprobs, return_posterior=True)
    assert logprobs.sum(axis=1).argmax() == posterior.argmax() == 1
    assert posterior[1] > 0.9
    assert log_prob == pytest.approx(np.logaddexp.reduce(logprobs.sum(axis=1)) - np.log(3), abs=1e-9)
