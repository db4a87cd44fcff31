"""A question answered end to end by RAG models of random BART base and DPR weights, beside Hugging Face's: question
encoder, retrieval of 5 contexts of 220 tokens, 4 beams, 20 new tokens. A minute and 3 GB:
``pytest benchmarks/suites/bench_decoding.py``; on a busy machine with ``--benchmark-timer=time.process_time``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ragfast_bench import timing

import ragfast

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
models = pytest.importorskip("ragfast.rag.hf")

Array = NDArray[Any]

PAD, EOS = 1, 2
K, N_BEAMS, N_NEW = 5, 4, 20
N_DOCUMENT, N_QUESTION = 204, 15


class Numbers:
    """A tokenizer of texts that are token ids with spaces between them."""

    pad_token_id, eos_token_id, is_fast, model_max_length = PAD, EOS, False, 1024

    def __call__(self, texts: Sequence[str], **ignored: Any) -> dict[str, Any]:
        return {"input_ids": [[int(token) for token in text.split()] for text in texts]}

    def decode(self, tokens: Sequence[int], **ignored: Any) -> str:
        return " ".join(map(str, tokens))


def context(question: str, passage: str) -> str:
    return f"{passage} {question} {EOS}"


def ids(text: str) -> Any:
    return torch.tensor(Numbers()([text])["input_ids"])


class Retriever(transformers.RagRetriever):  # type: ignore[misc]  # its base is Any to mypy
    """For both: Hugging Face's calls it, ours encodes and searches."""

    def __init__(self, dpr: Any, documents: Sequence[str], embeddings: Array) -> None:
        self.dpr, self.documents, self.index = dpr, documents, ragfast.FlatIndex.from_vectors(embeddings)
        self.embeddings = embeddings

    def __call__(self, questions: Any, hidden: Array, n_docs: int, **ignored: Any) -> dict[str, Any]:
        found = self.index.search(hidden, k=n_docs).ids
        texts = [" ".join(map(str, question.tolist())) for question in questions]
        rows = [
            ids(context(text, self.documents[i])) for text, own in zip(texts, found, strict=True) for i in own.tolist()
        ]
        contexts, embeddings = torch.cat(rows), torch.from_numpy(self.embeddings[found])
        return {
            "context_input_ids": contexts,
            "context_attention_mask": torch.ones_like(contexts),
            "retrieved_doc_embeds": embeddings,
            "doc_ids": torch.from_numpy(found),
        }

    def encode_query(self, question: str, /) -> Array:
        with torch.inference_mode():
            found: Array = self.dpr(ids(question))[0][0].numpy()
        return found

    def search(self, query: Array, index: Any, /, k: int) -> ragfast.Hits:
        hits = index.search(query[None], k=k)
        return ragfast.Hits(hits.scores[0], hits.ids[0], hits.logprobs[0])


@pytest.fixture(scope="module")
def contenders() -> dict[str, Callable[[], list[int]]]:
    timing.limit_threads(1)
    torch.manual_seed(0)
    sizes: dict[str, int] = {"vocab_size": 50_265, "d_model": 768}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 6, f"{part}_attention_heads": 12, f"{part}_ffn_dim": 3072}
    config = transformers.BartConfig(**sizes, init_std=0.06, forced_eos_token_id=None)
    bart = transformers.BartForConditionalGeneration(config).eval()
    bart.final_logits_bias[:, [0, PAD]] = -1e9  # which Hugging Face does not score
    dpr = transformers.DPRQuestionEncoder(transformers.DPRConfig()).eval()
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(3, 30_000, n))) for n in [N_DOCUMENT] * 50 + [N_QUESTION]]
    documents, question = texts[:-1], texts[-1]
    retriever = Retriever(dpr, documents, 0.1 * rng.standard_normal((50, 768)).astype(np.float32))
    rag_config = transformers.RagConfig.from_question_encoder_generator_configs(
        dpr.config, bart.config, n_docs=K, pad_token_id=PAD, bos_token_id=0, eos_token_id=EOS
    )
    parts = {"question_encoder": dpr, "generator": bart, "retriever": retriever}
    hf_sequence = transformers.RagSequenceForGeneration(rag_config, **parts).eval()
    hf_token = transformers.RagTokenForGeneration(rag_config, **parts).eval()
    generator = models.EncoderDecoder(bart, Numbers(), template=context)
    shared: dict[str, Any] = {"index": retriever.index, "documents": documents, "k": K}
    sequence = ragfast.RAGSequence(retriever, generator, **shared)
    token = ragfast.RAGToken(retriever, generator, **shared)

    def ours(rag: Any, **options: Any) -> list[int]:
        generator.forget()  # the contexts of the round before
        found: list[int] = rag.generate([question], n_beams=N_BEAMS, max_new_tokens=N_NEW, min_new_tokens=1, **options)[
            0
        ][0].tokens.tolist()
        return found

    def theirs(model: Any, **options: Any) -> list[int]:
        found = model.generate(ids(question), num_beams=N_BEAMS, **options)[0].tolist()[1:]
        return [int(x) for x in found]

    return {
        "thorough, ragfast": lambda: ours(sequence),
        "thorough, Hugging Face": lambda: theirs(hf_sequence, max_new_tokens=N_NEW, min_new_tokens=1),
        "fast, ragfast": lambda: ours(sequence, mode="fast"),
        "RAG-Token, ragfast": lambda: ours(token),
        "RAG-Token, Hugging Face": lambda: theirs(hf_token, max_length=N_NEW + 1, min_length=2),
    }


ANSWERS: dict[str, list[int]] = {}
NAMES = [
    "thorough, ragfast",
    "thorough, Hugging Face",
    "fast, ragfast",
    "RAG-Token, ragfast",
    "RAG-Token, Hugging Face",
]


@pytest.mark.parametrize("name", NAMES)
def test_generate(benchmark: Any, contenders: dict[str, Callable[[], list[int]]], name: str) -> None:
    """One round: the whole of Hugging Face's thorough decoding takes long enough to be timed once."""
    found = benchmark.pedantic(contenders[name], rounds=1)
    method = name.partition(",")[0]
    assert found == ANSWERS.setdefault(method, found)
