"""Decoding beside Hugging Face's: the same random BART and DPR weights, the same documents, and then the same tokens
and the same scores, from one retrieval a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

import ragfast
from ragfast.rag.hf import EncoderDecoder

Array = NDArray[Any]

PAD, BOS, EOS = 1, 0, 2
K = 3
VOCAB = 40
N_NEW = 7
SEEDS = (1, 3)  # of which random answers vary: test_answers_of_the_random_model_vary


class Numbers:
    """A tokenizer of texts that are token ids with spaces between them."""

    pad_token_id, eos_token_id, is_fast, model_max_length = PAD, EOS, False, 64

    def __call__(self, texts: Sequence[str], **ignored: Any) -> dict[str, Any]:
        return {"input_ids": [[int(token) for token in text.split()] for text in texts]}

    def decode(self, tokens: Sequence[int], **ignored: Any) -> str:
        return " ".join(map(str, tokens))


def template(question: str, passage: str) -> str:
    return f"{passage} {question} {EOS}"


def random_bart(seed: int) -> Any:
    """Its weights are large, and the output's its own, so that what comes next depends on what came before. Answers end
    early or late. Padding and the first token are never generated, as Hugging Face would not score them."""
    torch.manual_seed(seed)
    sizes: dict[str, int] = {}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 2, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 24}
    config = transformers.BartConfig(
        vocab_size=VOCAB,
        d_model=16,
        max_position_embeddings=64,
        init_std=0.4,
        tie_word_embeddings=False,
        forced_eos_token_id=None,
        forced_bos_token_id=None,
        **sizes,
    )
    bart = transformers.BartForConditionalGeneration(config).eval()
    bart.final_logits_bias[:, [PAD, BOS]] = -1e9
    bart.final_logits_bias[:, EOS] = 1.5
    return bart


def random_dpr(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.DPRConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    return transformers.DPRQuestionEncoder(config).eval()


def ids(text: str) -> Any:
    return torch.tensor([Numbers()([text])["input_ids"][0]])


class Theirs(transformers.RagRetriever):  # type: ignore[misc]  # its base is Any to mypy
    """What RagModel asks of a retriever, and a count of the questions it answers."""

    def __init__(self, documents: Sequence[str], embeddings: Array) -> None:
        self.documents, self.embeddings, self.searches = documents, embeddings, 0

    def __call__(self, question_input_ids: Any, hidden: Array, n_docs: int, **ignored: Any) -> dict[str, Any]:
        self.searches += len(hidden)
        doc_ids = ragfast.search(hidden, self.embeddings, k=n_docs).ids
        questions = [" ".join(map(str, question.tolist())) for question in question_input_ids]
        contexts = [
            ids(template(question, self.documents[i]))[0]
            for question, own in zip(questions, doc_ids, strict=True)
            for i in own
        ]
        padded = torch.nn.utils.rnn.pad_sequence(contexts, batch_first=True, padding_value=PAD)
        return {
            "context_input_ids": padded,
            "context_attention_mask": (padded != PAD).long(),
            "retrieved_doc_embeds": torch.from_numpy(self.embeddings[doc_ids]),
            "doc_ids": torch.from_numpy(doc_ids),
        }


class Both:
    """One set of weights in both libraries, and our retriever; the searches of each are counted."""

    def __init__(self, seed: int, doc_lengths: tuple[int, int] = (4, 12)) -> None:
        self.bart, self.dpr = random_bart(seed), random_dpr(seed)
        rng = np.random.default_rng(seed)
        texts = [rng.integers(3, VOCAB, n).tolist() for n in (*rng.integers(*doc_lengths, 12), 5, 5, 5)]
        *self.documents, q0, q1, q2 = [" ".join(map(str, text)) for text in texts]
        self.questions = [q0, q1, q2]
        self.input_ids = torch.cat([ids(question) for question in self.questions])
        self.embeddings = rng.standard_normal((12, 16)).astype(np.float32)
        self.retriever = Theirs(self.documents, self.embeddings)
        self.searches = 0

    def theirs(self, name: str) -> Any:
        config = transformers.RagConfig.from_question_encoder_generator_configs(
            self.dpr.config, self.bart.config, n_docs=K, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
        )
        model = getattr(transformers, name)
        return model(config, question_encoder=self.dpr, generator=self.bart, retriever=self.retriever).eval()

    def ours(self, rag: Any) -> Any:
        generator = EncoderDecoder(self.bart, Numbers(), template=template)
        index = ragfast.FlatIndex.from_vectors(self.embeddings)
        return rag(self, generator, index=index, documents=self.documents, k=K)

    def encode_query(self, question: Any, /) -> Array:
        with torch.no_grad():
            found: Array = self.dpr(ids(question))[0][0].numpy()
        return found

    def search(self, query: Array, index: Any, /, k: int) -> ragfast.Hits:
        self.searches += 1
        hits = index.search(query[None], k=k)
        return ragfast.Hits(hits.scores[0], hits.ids[0], hits.logprobs[0])


def answer(sequence: Any) -> list[int]:
    """Without what the decoder starts with, and the padding."""
    return [token for token in sequence.tolist()[1:] if token != PAD]


def answers(found: Sequence[Sequence[ragfast.rag.Generation]]) -> list[list[int]]:
    return [generation.tokens.tolist() for several in found for generation in several]


# RagTokenForGeneration passes over max_new_tokens; in max_length what the decoder starts with counts as one.
COMMON: dict[str, Any] = {"max_length": N_NEW + 1, "return_dict_in_generate": True, "output_scores": True}


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_token(seed: int) -> None:
    both = Both(seed)
    found = both.theirs("RagTokenForGeneration").generate(both.input_ids, num_beams=1, do_sample=False, **COMMON)
    ours = both.ours(ragfast.RAGToken).generate(both.questions, max_new_tokens=N_NEW)
    assert answers(ours) == [answer(sequence) for sequence in found.sequences]
    for b, (generation,) in enumerate(ours):
        by_token = [torch.log_softmax(found.scores[t][b], -1)[token] for t, token in enumerate(generation.tokens)]
        assert generation.logprob == pytest.approx(float(sum(by_token)), rel=1e-5)
    assert (both.retriever.searches, both.searches) == (3, 3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("n_beams", "n_returned", "length_penalty", "early_stopping"),
    [
        (2, 1, 1.0, False),
        (4, 3, 0.5, False),
        (3, 3, 2.0, False),
        (4, 4, 1.0, True),
        (3, 2, 0.5, True),
        (2, 2, 2.0, True),
    ],
)
def test_token_beams(seed: int, n_beams: int, n_returned: int, length_penalty: float, early_stopping: bool) -> None:
    both = Both(seed)
    shared = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    found = both.theirs("RagTokenForGeneration").generate(
        both.input_ids, num_beams=n_beams, num_return_sequences=n_returned, **shared, **COMMON
    )
    ours = both.ours(ragfast.RAGToken).generate(
        both.questions, max_new_tokens=N_NEW, n_beams=n_beams, n_returned=n_returned, **shared
    )
    assert answers(ours) == [answer(sequence) for sequence in found.sequences]
    scores = [generation.score for several in ours for generation in several]
    np.testing.assert_allclose(scores, found.sequences_scores.numpy(), rtol=1e-5)
    assert (both.retriever.searches, both.searches) == (3, 3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("n_beams", "length_penalty", "early_stopping"), [(1, 1.0, False), (2, 0.5, True), (3, 2.0, False), (4, 1.0, True)]
)
def test_thorough(seed: int, n_beams: int, length_penalty: float, early_stopping: bool) -> None:
    """With two tokens at least, as Hugging Face leaves out p(z|x) where one is scored, and documents of one length, as
    it searches their padding too (test_documents_of_different_lengths). It retrieves again for every hypothesis."""
    both = Both(seed, doc_lengths=(8, 9))
    model = both.theirs("RagSequenceForGeneration")
    shared: dict[str, Any] = {
        "max_new_tokens": N_NEW,
        "min_new_tokens": 1,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
    }
    found = model.generate(both.input_ids, num_beams=n_beams, num_return_sequences=2, **shared)
    searches = both.retriever.searches
    rag = both.ours(ragfast.RAGSequence)
    ours = rag.generate(both.questions, n_beams=n_beams, n_returned=2, **shared)
    assert both.searches == 3
    n_hypotheses = sum(map(len, rag.generate(both.questions, n_beams=n_beams, n_returned=K * n_beams, **shared)))
    assert searches == 3 + n_hypotheses
    assert answers(ours) == [answer(sequence) for sequence in found]
    with torch.no_grad():
        nll = model(both.input_ids.repeat_interleave(2, 0), labels=found, exclude_bos_score=True).loss
    log_probs = [generation.logprob for several in ours for generation in several]
    np.testing.assert_allclose(log_probs, -nll.numpy(), rtol=1e-5)


def test_documents_of_different_lengths() -> None:
    """Hugging Face's thorough decoding withholds the mask from its generator, so that padding is read while searching,
    though not while scoring. With the mask the generator finds what ours does."""
    both, differ = Both(3), 0
    model = both.theirs("RagSequenceForGeneration")
    shared = {"max_new_tokens": N_NEW, "min_new_tokens": 1}
    theirs = model.generate(both.input_ids, num_beams=1, **shared)
    ours = both.ours(ragfast.RAGSequence).generate(both.questions, n_returned=K, **shared)
    hidden = both.dpr(both.input_ids)[0].detach().numpy()
    contexts = both.retriever(both.input_ids, hidden, K)
    inputs, mask = contexts["context_input_ids"], contexts["context_attention_mask"]
    masked = both.bart.generate(inputs, attention_mask=mask, num_beams=1, **shared)
    for b, several in enumerate(ours):
        expected = {tuple(answer(sequence)) for sequence in masked[K * b : K * (b + 1)]}
        assert {tuple(generation.tokens.tolist()) for generation in several} == expected
        differ += tuple(answer(theirs[b])) not in expected
    assert differ > 0


def test_answers_of_the_random_model_vary() -> None:
    """Else the tests above would say little: some end early, some do not end, and beams find what greedy does not."""
    lengths, gains = set(), 0
    for seed in SEEDS:
        both = Both(seed)
        rag = both.ours(ragfast.RAGToken)
        greedy = rag.generate(both.questions, max_new_tokens=N_NEW)
        beams = rag.generate(both.questions, max_new_tokens=N_NEW, n_beams=4, length_penalty=0.0)
        lengths |= {len(several[0].tokens) for several in greedy + beams}
        gains += sum(g[0].logprob + 0.01 < b[0].logprob for g, b in zip(greedy, beams, strict=True))
    assert len(lengths) > 2
    assert gains > 0
