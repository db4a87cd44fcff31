"""Encoders of text by torch: callables for :class:`ragfast.rag.DenseRetriever`, and with gradients for training."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DPRContextEncoder, DPRQuestionEncoder, PreTrainedTokenizerBase

from ragfast._core import arrays
from ragfast.rag.hf.batching import batches, evaluating, padded
from ragfast.rag.hf.model_config import encoder_context_length
from ragfast.rag.hf.prompts import TruncationWarning

__all__ = ["DPREncoder", "MeanPooled", "SentenceEncoder"]

Text: TypeAlias = str | tuple[str, str]

BATCH_TOKENS = 1536
"""Tokens in a batch, with the padding: on a CPU fewer make the calls themselves cost, more leave the cache."""


class _TokenEncoder(abc.ABC):
    """What the encoders over a model and its tokenizer share; a subclass pools what the model says of each token."""

    dim: int
    """D."""

    def __init__(self, model: Any, tokenizer: Any, prompt: str, max_length: int | None, batch_tokens: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.batch_tokens = arrays.positive_int(batch_tokens, "batch_tokens")
        limit = encoder_context_length(model, tokenizer)
        self.max_length = limit if max_length is None else arrays.positive_int(max_length, "max_length")
        if self.max_length > limit:
            raise ValueError(f"max_length: expected at most {limit}, the tokens that the model reads, got {max_length}")

    def __call__(self, texts: Sequence[Text], /) -> NDArray[np.float32]:
        """The embeddings (B,D) of B texts, without gradients and, whatever mode the model is in, without dropout."""
        tokens = self.tokenize(texts)
        embeddings = np.empty((len(tokens), self.dim), np.float32)
        with evaluating(self.model), torch.inference_mode():
            for batch in batches([len(row) for row in tokens], self.batch_tokens):
                embeddings[batch] = self.embed_tokens([tokens[i] for i in batch]).float().cpu().numpy()
        return embeddings

    def embed(self, texts: Sequence[Text], /) -> torch.Tensor:
        """The embeddings (B,D) of B texts in one batch, with gradients and in the mode (train, eval) of the model.

        They are on the model's device, float32, or float64 of a float64 model: 16-bit states are pooled in float32.
        """
        tokens = self.tokenize(texts)
        return self.embed_tokens(tokens) if tokens else torch.empty((0, self.dim), device=self.model.device)

    def tokenize(self, texts: Sequence[Text], /) -> list[list[int]]:
        """The tokens of each text, at most max_length of them; a TruncationWarning says so where some are cut."""
        given = [_prompted(text, self.prompt, f"texts[{i}]") for i, text in enumerate(_sequence(texts))]
        if not given:
            return []
        tokens: list[list[int]] = self.tokenizer(given, truncation=False, verbose=False)["input_ids"]
        if not all(tokens):
            raise ValueError(f"texts[{[bool(row) for row in tokens].index(False)}]: expected a token, got none")
        long = [i for i, row in enumerate(tokens) if len(row) > self.max_length]
        if long:
            _warn_of_cut([len(tokens[i]) for i in long], len(tokens), self.max_length)
            cut = self.tokenizer([given[i] for i in long], truncation=True, max_length=self.max_length)["input_ids"]
            for i, row in zip(long, cut, strict=True):
                tokens[i] = row
        return tokens

    def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """As :meth:`embed`, of B >= 1 texts that are tokens already."""
        ids, mask = padded(tokens, self.tokenizer.pad_token_id or 0, self.model.device)
        return self._pool(self.model(input_ids=ids, attention_mask=mask), mask)

    @abc.abstractmethod
    def _pool(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        """(B,D) of the model's output for tokens (B,n), of which mask (B,n) is 0 for padding."""


class MeanPooled(_TokenEncoder):
    """The mean of a model's last hidden states over a text's tokens, and of length 1 if normalize is set.

    So are the encoders of the sentence-transformers, E5 and GTE families, and Contriever without normalize. model is
    any Hugging Face encoder (AutoModel) and tokenizer its own; the device and the dtype stay as they are.

    prompt is put before each text (E5 asks for "query: " and "passage: "). max_length is where texts are cut, in
    tokens, by default what the model reads; a TruncationWarning tells of each cut. A call reads texts of like length
    together, batch_tokens at a time, padding included: more suits a GPU.

    >>> import ragfast
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "sun": 1, "rain": 2}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> config = BertConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> model = BertModel(config)  # random; yours come from AutoModel and AutoTokenizer
    >>> encoder = MeanPooled(model, PreTrainedTokenizerFast(tokenizer_object=words))
    >>> retriever = ragfast.rag.DenseRetriever(encoder, temperature=0.05)
    >>> index = ragfast.FlatIndex.from_vectors(encoder(["rain rain", "sun sun"]))
    >>> retriever.search(retriever.encode_query("sun sun"), index, k=1).ids.tolist()
    [1]
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        normalize: bool = True,
        prompt: str = "",
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        super().__init__(model, tokenizer, prompt, max_length, batch_tokens)
        self.normalize = normalize
        self.dim = int(model.config.hidden_size)

    def _pool(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        states = _at_least_float32(output.last_hidden_state)
        weights = mask[..., None].to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(mean, dim=1) if self.normalize else mean


class DPREncoder(_TokenEncoder):
    """Dense passage retrieval's encoder (Karpukhin et al. 2020), the retriever of Lewis et al. 2020, section 2.2.

    model is a DPRQuestionEncoder or a DPRContextEncoder, of which the pooled output is the embedding, as it is: DPR
    compares by inner product. A passage is read as the pair (title, text), as those weights were trained; a question
    as a string. Otherwise as :class:`MeanPooled`. TypeError for another model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_length: int | None = None, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        if not isinstance(model, (DPRQuestionEncoder, DPRContextEncoder)):
            raise TypeError(f"model: expected a DPRQuestionEncoder or DPRContextEncoder, got {type(model).__name__}")
        super().__init__(model, tokenizer, "", max_length, batch_tokens)
        self.dim = int(model.config.projection_dim or model.config.hidden_size)

    def _pool(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        return _at_least_float32(output.pooler_output)


class SentenceEncoder:
    """Any ``sentence_transformers.SentenceTransformer``, with its own pooling, normalisation and prompts.

    prompt is put before each text; None is the model's default. A call reads batch_size texts at a time; its result is
    what ``model.encode`` gives, and that of :meth:`embed` what its forward pass gives. Texts longer than the model's
    max_seq_length are cut with a TruncationWarning.
    """

    def __init__(self, model: Any, *, prompt: str | None = None, batch_size: int = 32) -> None:
        dim = model.get_embedding_dimension()
        if dim is None:
            raise ValueError("model: expected one that knows the dimension of its embeddings")
        self.model = model
        self.prompt = model.prompts.get(model.default_prompt_name) if prompt is None else prompt
        self.batch_size = arrays.positive_int(batch_size, "batch_size")
        self.dim = int(dim)

    def __call__(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """The embeddings (B,D) of B texts, without gradients and, whatever mode the model is in, without dropout."""
        given = self._given(texts)
        if not given:
            return np.empty((0, self.dim), np.float32)
        with evaluating(self.model):
            found = self.model.encode(
                given, prompt=self.prompt or "", batch_size=self.batch_size, show_progress_bar=False
            )
        return np.asarray(found, np.float32)

    def embed(self, texts: Sequence[str], /) -> torch.Tensor:
        """The embeddings (B,D) of B texts in one batch, with gradients, in the model's mode, device and dtype."""
        given = self._given(texts)
        if not given:
            return torch.empty((0, self.dim), device=self.model.device)
        features = self.model.preprocess(given, prompt=self.prompt or "")
        moved = {name: x.to(self.model.device) if isinstance(x, torch.Tensor) else x for name, x in features.items()}
        embeddings: torch.Tensor = self.model(moved)["sentence_embedding"]
        return embeddings[:, : self.dim]  # fewer than the model makes, where it was loaded with truncate_dim

    def _given(self, texts: Sequence[str]) -> list[str]:
        given = list(_sequence(texts))
        for i, text in enumerate(given):
            if not isinstance(text, str):
                raise TypeError(f"texts[{i}]: expected a string, got {type(text).__name__}")
        limit, tokenizer = self.model.max_seq_length, getattr(self.model, "tokenizer", None)
        if given and limit is not None and isinstance(tokenizer, PreTrainedTokenizerBase):
            prompted = [(self.prompt or "") + text for text in given]
            lengths = [len(row) for row in tokenizer(prompted, truncation=False, verbose=False)["input_ids"]]
            if long := [n for n in lengths if n > limit]:
                _warn_of_cut(long, len(given), limit)
        return given


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


def _sequence(texts: Any) -> Any:
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts: expected a sequence of texts, such as a list of one, got a string")
    return texts


def _prompted(text: Any, prompt: str, name: str) -> Text:
    if isinstance(text, str):
        return prompt + text
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text):
        return prompt + text[0], text[1]
    raise TypeError(f"{name}: expected a string, or a pair of strings, got {type(text).__name__}")


def _warn_of_cut(lengths: list[int], n_texts: int, limit: int) -> None:
    warnings.warn(
        f"{len(lengths)} of {n_texts} texts are longer than {limit} tokens and are cut there; "
        f"the longest has {max(lengths)}",
        TruncationWarning,
        stacklevel=4,
    )
