"""What encoder-decoders have to themselves; all that they share with causal models is in test_causal.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import BOS, EOS, PAD, VOCAB

QUESTIONS, PASSAGES = ["Where is it?", "Who?"], [["In Oslo.", "Here and there."], ["A man.", "Nobody.", ""]]


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_one_encoder_pass_a_document(kind: str, make_generator: Any, passes: Any) -> None:
    generator = make_generator(kind)
    encoded = passes(generator.model.get_encoder())
    decoder = generator.open(QUESTIONS, PASSAGES)
    decoder.step(np.array([0, 0, 1, 2, 2, 2]), np.arange(6))
    generator.batch_token_logprobs(QUESTIONS, PASSAGES, [["one", "two"], ["three"]])
    generator.open(QUESTIONS[1:], PASSAGES[1:])
    assert [rows for rows, _ in encoded] == [5]


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_cross_attention_is_copied_only_where_rows_change_their_document(kind: str, make_generator: Any) -> None:
    generator = make_generator(kind)
    decoder = generator.open(QUESTIONS, PASSAGES)

    def kept() -> list[Any]:
        return [layer.keys for layer in decoder._reading.cache.cross_attention_cache.layers]

    read = kept()
    decoder.step(np.arange(5), np.arange(5))
    assert all(now is before for now, before in zip(kept(), read, strict=True))
    decoder.step(np.array([0, 0, 1, 1, 4, 4]), np.arange(6))
    expanded = kept()
    assert all(now is not before for now, before in zip(expanded, read, strict=True))
    decoder.step(np.array([1, 0, 2, 2, 5, 4]), np.arange(6))
    assert all(now is before for now, before in zip(kept(), expanded, strict=True))
    decoder.step(np.array([2, 0, 2, 2, 5, 4]), np.arange(6))
    assert all(now is not before for now, before in zip(kept(), expanded, strict=True))


def test_labels_are_what_the_tokenizer_writes(make_generator: Any, make_tokenizer: Any, make_model: Any) -> None:
    from ragfast.rag.hf import EncoderDecoder

    bart, t5 = make_generator("bart"), make_generator("t5")
    assert bart.answer_tokens("A").tolist() == [BOS, *t5.answer_tokens("A").tolist()]
    assert t5.answer_tokens("")[-1] == EOS
    assert t5.answer_tokens("").tolist() == [EOS]
    assert EncoderDecoder(make_model("t5"), make_tokenizer()).answer_tokens("").tolist() == [EOS]
    # Tokens are scored as they are: without <s>, whose row is the first of the labels'.
    labels = bart.token_logprobs(QUESTIONS[0], PASSAGES[0], "A")
    bare = bart.token_logprobs(QUESTIONS[0], PASSAGES[0], bart.answer_tokens("A")[1:])
    assert bare.shape == (2, labels.shape[1] - 1)
    assert np.abs(bare - labels[:, 1:]).max() > 0.01


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_pad_token_in_an_answer_is_a_token(kind: str, make_generator: Any, bare_logits: Any) -> None:
    import torch

    generator, tokens = make_generator(kind), torch.tensor([3, PAD, 5, EOS])
    given = generator.token_logprobs(QUESTIONS[0], PASSAGES[0][:1], tokens.numpy())[0]
    generator.model.eval()
    with torch.no_grad():
        expected = bare_logits(generator, QUESTIONS[0], PASSAGES[0][0], tokens).log_softmax(-1)
    np.testing.assert_allclose(given, expected.gather(1, tokens[:, None])[:, 0].numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_greedy_steps_equal_generate(kind: str, make_generator: Any) -> None:
    import torch

    generator, (question, docs) = make_generator(kind), (QUESTIONS[0], PASSAGES[0])
    decoder = generator.open([question], [docs])
    answers = [decoder.logits.argmax(1)]
    for _ in range(7):
        answers.append(decoder.step(np.arange(2), answers[-1]).argmax(1))
    prompts = generator.tokenizer([generator.template(question, doc) for doc in docs], padding=True)
    expected = generator.model.eval().generate(
        input_ids=torch.tensor(prompts["input_ids"]),
        attention_mask=torch.tensor(prompts["attention_mask"]),
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
    )[:, 1:]
    stopped = (np.array(answers) == EOS).any()
    assert not stopped
    np.testing.assert_array_equal(np.stack(answers, axis=1), expected.numpy())


def test_a_model_that_does_not_say_how_an_answer_begins(make_model: Any, make_tokenizer: Any) -> None:
    from ragfast.rag.hf import EncoderDecoder

    model = make_model("bart")
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="no decoder_start_token_id"):
        EncoderDecoder(model, make_tokenizer())
    assert EncoderDecoder(make_model("bart"), make_tokenizer()).vocab_size == VOCAB
