"""What generators around Hugging Face models share: rows of (question, document), read once, then extended."""

from __future__ import annotations

import abc
import inspect
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ragfast
from ragfast._core import arrays
from ragfast.rag.hf import kv_cache
from ragfast.rag.hf.batching import batches, evaluating, padded
from ragfast.rag.hf.model_config import context_length, stop_tokens_of
from ragfast.rag.hf.prompts import Template, TruncationWarning, plain_template

__all__ = ["EncodedPrompts", "HuggingFaceDecoder", "HuggingFaceGenerator"]

# Where a core is busy from about 500 tokens on, a larger pass only brings more padding: reading 20 prompts of 78 to 251
# tokens with SmolLM2 took 12, 11, 15 and 21 s of one core in passes of 512, 1024, 2048 and 8192 tokens.
BATCH_TOKENS = 1024

# A pass over answers also holds the cache of what each of its rows has read, and logits of its own positions.
CACHED_TOKENS = 4  # times batch_tokens
MAX_LOGITS = 2**27  # half a gigabyte of float32


@dataclass(frozen=True)
class EncodedPrompts:
    """What the model keeps of R prompts, and what it says of the first token of an answer to each."""

    cache: kv_cache.Cache
    mask: Tensor  # (R,P) int64, 1 on tokens and 0 on padding
    states: Tensor | None  # of the encoder (R,P,H)
    next_logits: Tensor  # (R,V)
    rows: dict[tuple[int, ...], int]  # of each prompt

    def select(self, rows: Tensor) -> EncodedPrompts:
        """The reading of these rows (R',), some perhaps several times."""
        new = replace(self, cache=kv_cache.fork(self.cache), next_logits=self.next_logits[rows])
        return new.reordered(rows)

    def reordered(self, rows: Tensor) -> EncodedPrompts:
        """The same with this cache itself, which is overwritten, and without new logits."""
        self.cache.reorder_cache(rows)
        return replace(self, mask=self.mask[rows], states=None if self.states is None else self.states[rows])


class HuggingFaceGenerator(abc.ABC):
    """The base of CausalLM and EncoderDecoder, whose docstrings say what users need."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: Template | None = None,
        max_length: int | None = None,
        answer_capacity: int = 64,
        batch_tokens: int = BATCH_TOKENS,
        stop_tokens: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.template = plain_template() if template is None else template
        self.answer_capacity = arrays.positive_int(answer_capacity, "answer_capacity")
        self.batch_tokens = arrays.positive_int(batch_tokens, "batch_tokens")
        self.max_length = context_length(model, tokenizer, max_length)
        self.vocab_size: int = model.config.get_text_config(decoder=True).vocab_size
        self.stop_tokens: tuple[int, ...] = stop_tokens_of(model, tokenizer, stop_tokens, self.vocab_size)
        # An adapter of peft takes whatever it is given and hands it on.
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._accepted = inspect.signature(bare.forward).parameters
        # It is masked, so that any token would do, but for encoders that number positions by it.
        pads = (tokenizer.pad_token_id, model.config.get_text_config(decoder=True).pad_token_id, 0)
        self._pad = next(pad for pad in pads if pad is not None and 0 <= pad < self.vocab_size)
        self._last: tuple[Any, EncodedPrompts] | None = None
        self._lock = threading.RLock()
        self._set_up()

    @abc.abstractmethod
    def _set_up(self) -> None:
        """Read what else a subclass needs of the model."""

    # ---- text and tokens

    @abc.abstractmethod
    def answer_tokens(self, answer: str) -> NDArray[np.int64]:
        """The tokens (T,) int64 of an answer, the last of them a stop token."""

    def text(self, tokens: Any) -> str:
        """The text of tokens (T,), without special tokens and without space around it."""
        # Cleaning up spaces would change, with a later token, what has been streamed.
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(np.asarray(tokens).tolist(), **options)).strip()

    def pieces(self, tokens: Any) -> list[str]:
        """The text of each of tokens (T,) by itself, special tokens by their names."""
        return [str(self.tokenizer.decode([token])) for token in np.asarray(tokens).tolist()]

    def forget(self) -> None:
        """Drops what was read last. Needed only where the model changed unnoticed: otherwise than in its parameters, or
        in them by way of ``.data``."""
        self._last = None

    # ---- the protocols

    def token_logprobs(self, query_tokens: str, doc_tokens: Sequence[str], target_tokens: Any, /) -> NDArray[Any]:
        """log p(y_t | x, z, y_<t), (K,T) float32 (float64 of a float64 model), of one target under K documents."""
        return self.batch_token_logprobs([query_tokens], [doc_tokens], [[target_tokens]])[0][0]

    def batch_token_logprobs(
        self,
        query_tokens: Sequence[str],
        doc_tokens: Sequence[Sequence[str]],
        target_tokens: Sequence[Sequence[Any]],
        /,
    ) -> list[list[NDArray[Any]]]:
        """For each of B questions with its K_b documents and C_b targets: C_b arrays of token_logprobs, (K_b,T).

        A target is a text, or an array of tokens (T,), T >= 0. What was read last is not read again.

        ValueError for a question without documents, a target that is not one-dimensional or has a token outside the
        vocabulary, a question that does not fit the context, and a target for which the prompt leaves no room (see
        answer_capacity); TypeError for a target that is not of integers.
        """
        pairs = self._pairs(query_tokens, doc_tokens)
        targets = [
            [self._target(target, f"target_tokens[{b}][{c}]") for c, target in enumerate(several)]
            for b, several in enumerate(target_tokens)
        ]
        if len(targets) != len(query_tokens):
            raise ValueError(f"target_tokens: expected {len(query_tokens)}, one list a question, got {len(targets)}")
        longest = max((len(target) for several in targets for target in several), default=0)
        wide = np.float64 if self.model.dtype == torch.float64 else np.float32
        results = [
            [np.empty((len(docs), len(target)), wide) for target in several]
            for docs, several in zip(doc_tokens, targets, strict=True)
        ]
        if longest == 0:
            return results
        prompts = self._prompts(pairs)
        self._refuse_beyond(prompts, longest)
        with self._evaluating():
            reading = self._read_once(prompts)
            todo, first = [], 0
            for docs, several, tables in zip(doc_tokens, targets, results, strict=True):
                rows = [reading.rows[prompt] for prompt in prompts[first : first + len(docs)]]
                for target, table in zip(several, tables, strict=True):
                    if len(target):
                        todo += [(row, target, table[z]) for z, row in enumerate(rows)]
                first += len(docs)
            self._score(reading, todo)
        return results

    def open(self, query_tokens: Sequence[str], doc_tokens: Sequence[Sequence[str]], /) -> HuggingFaceDecoder:
        """A decoder with an empty answer for each of B questions under each of its K_b documents, in that order."""
        prompts = self._prompts(self._pairs(query_tokens, doc_tokens))
        with self._evaluating():
            reading = self._read_once(prompts)
            rows = [reading.rows[prompt] for prompt in prompts]
            if rows != list(range(len(reading.mask))):
                reading = reading.select(torch.tensor(rows, device=self.model.device))
        return HuggingFaceDecoder(self, reading, np.array(rows), self._answer_limit(prompts))

    # ---- reading

    @abc.abstractmethod
    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """As the model reads prompts."""

    def _prompt_limit(self) -> int | None:
        """How many tokens a prompt may have, here in a context of its own."""
        return self.max_length

    def _answer_limit(self, prompts: Sequence[tuple[int, ...]]) -> int | None:
        """How many tokens an answer after any of these prompts may have, here in a context of its own."""
        return self.max_length

    @abc.abstractmethod
    def _read(self, tokens: Tensor, mask: Tensor) -> tuple[kv_cache.Cache, Tensor | None, Tensor]:
        """The cache, the encoder's states and the logits (R,V) of what comes first, of prompts (R,P)."""

    @abc.abstractmethod
    def _extend(self, reading: EncodedPrompts, n_before: int, tokens: Tensor) -> Tensor:
        """The logits (R,T,V) of what follows each of tokens (R,T), which come after n_before others of the answer."""

    ends_align: bool
    """Whether prompts are padded on the left."""

    def _pairs(self, questions: Sequence[str], docs: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
        if len(docs) != len(questions):
            raise ValueError(f"doc_tokens: expected {len(questions)}, one a question, got {len(docs)}")
        for b, several in enumerate(docs):
            if isinstance(several, str):
                raise TypeError(f"doc_tokens[{b}]: expected a sequence of passages, got a text")
            if len(several) == 0:
                raise ValueError(f"doc_tokens[{b}]: expected at least one document, got none")
        return [(question, doc) for question, several in zip(questions, docs, strict=True) for doc in several]

    def _target(self, target: Any, name: str) -> NDArray[np.int64]:
        if isinstance(target, str):
            return self.answer_tokens(target)
        tokens = np.asarray(target)
        if tokens.ndim != 1:
            raise ValueError(f"{name}: expected a text or tokens of shape (T,), got shape {tokens.shape}")
        if len(tokens) == 0:
            return np.empty(0, np.int64)
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected a text or an array of integers, got {tokens.dtype}")
        outside = tokens[(tokens < 0) | (tokens >= self.vocab_size)]
        if len(outside):
            raise ValueError(f"{name}: token {outside[0]} is not in the vocabulary, 0 to {self.vocab_size - 1}")
        return tokens.astype(np.int64, copy=False)

    def _prompts(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, ...]]:
        """The tokens of the prompt of each (question, passage), with passages cut so that none passes the limit.

        They are the same whatever is then asked of them, so that decoding and scoring see the same passages.
        """
        prompts = self._tokenize([self.template(*pair) for pair in pairs])
        limit = self._prompt_limit()
        too_long = [] if limit is None else [i for i, prompt in enumerate(prompts) if len(prompt) > limit]
        if limit is not None and too_long:
            n_left = []
            for i in too_long:
                prompts[i], n = self._cut(*pairs[i], limit)
                n_left.append(n)
            question, passage = pairs[too_long[0]]
            warnings.warn(
                f"{len(too_long)} of {len(pairs)} passages are too long for prompts of {limit} tokens and were cut at "
                f"their end, to {min(n_left)} tokens or more; the first is {passage[:60]!r}, for the question "
                f"{question[:60]!r}",
                TruncationWarning,
                stacklevel=3,  # the caller of the public method
            )
        if [] in prompts:
            question = pairs[prompts.index([])][0]
            raise ValueError(f"template: no token in the prompt for question {question[:60]!r}; expected one at least")
        return [tuple(prompt) for prompt in prompts]

    def _cut(self, question: str, passage: str, limit: int) -> tuple[list[int], int]:
        """The prompt with as much of the passage's beginning as fits the limit, and how many tokens that is."""
        is_fast = self.tokenizer.is_fast
        encoded = self.tokenizer(passage, add_special_tokens=False, return_offsets_mapping=is_fast, verbose=False)
        tokens, n_left = encoded["input_ids"], len(encoded["input_ids"])
        prompt = self._tokenize([self.template(question, passage)])[0]
        while len(prompt) > limit:
            if n_left <= 0:
                raise ValueError(
                    f"question {question[:60]!r}: takes {len(prompt)} tokens with the template alone, where prompts "
                    f"may have {limit}"
                )
            # Not exact where tokens merge across the cut, hence the loop; each round takes at least one away.
            n_left = max(0, n_left - (len(prompt) - limit))
            if n_left == 0:
                text = ""
            elif is_fast:
                text = passage[: encoded["offset_mapping"][n_left - 1][1]]
            else:
                text = self.tokenizer.decode(tokens[:n_left])
            prompt = self._tokenize([self.template(question, text)])[0]
        return prompt, n_left

    def _refuse_beyond(self, prompts: Sequence[tuple[int, ...]], n_answer: int) -> None:
        limit = self._answer_limit(prompts)
        if limit is not None and n_answer > limit:
            raise ValueError(
                f"an answer of {n_answer} tokens: there is room for {limit} beside the prompt in the context of "
                f"{self.max_length}; passages are cut so that answer_capacity={self.answer_capacity} tokens remain"
            )

    def _padded(
        self, rows: Sequence[Sequence[int] | NDArray[np.int64]], *, on_the_left: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Tokens (R,P) and their mask on the model's device."""
        return padded(rows, self._pad, self.model.device, on_the_left=on_the_left)

    def _read_once(self, prompts: Sequence[tuple[int, ...]]) -> EncodedPrompts:
        """A reading that has all these prompts; it may have others, and it is shared."""
        state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters()]
        last = self._last  # no other thread is here (_evaluating), but a signal handler may be, and forget
        if last is None or last[0] != state or not all(p in last[1].rows for p in prompts):
            self._last = last = None  # its memory is not needed beside that of the next
            self._last = last = state, self._read_all(list(dict.fromkeys(prompts)))
        return last[1]

    def _read_all(self, prompts: Sequence[tuple[int, ...]]) -> EncodedPrompts:
        lengths = [len(prompt) for prompt in prompts]
        all_at_once = [list(range(len(prompts)))]
        fit = len(lengths) * max(lengths) <= self.batch_tokens
        plan = all_at_once if fit else list(batches(lengths, self.batch_tokens))
        results: list[tuple[Any, Tensor, Tensor | None, Tensor]] = []
        while len(results) < len(plan):
            tokens, mask = self._padded([prompts[row] for row in plan[len(results)]], on_the_left=self.ends_align)
            cache, states, logits = self._read(tokens, mask)
            if len(plan) > 1 and not kv_cache.mergeable(cache):  # as of recurrent layers: all in one pass then
                plan = all_at_once
                continue
            results.append((cache, mask, states, logits))

        def together(tensors: Sequence[Tensor]) -> Tensor:
            return kv_cache.stacked(list(zip(tensors, plan, strict=True)), dim=1, ends_align=self.ends_align)

        return EncodedPrompts(
            kv_cache.merge([(cache, batch) for (cache, _, _, _), batch in zip(results, plan, strict=True)]),
            together([mask for _, mask, _, _ in results]),
            None if results[0][2] is None else together([states for _, _, states, _ in results if states is not None]),
            together([logits for _, _, _, logits in results]),
            {prompt: row for row, prompt in enumerate(prompts)},
        )

    # ---- scoring

    def _score(self, reading: EncodedPrompts, todo: Sequence[tuple[int, NDArray[np.int64], NDArray[Any]]]) -> None:
        """Writes the log-probabilities of each target after each row into the array that comes with them."""
        n_prompt = reading.mask.shape[1]
        longest = max(len(target) for _, target, _ in todo)
        n_rows = min(
            MAX_LOGITS // (self.vocab_size * longest),
            self.batch_tokens // longest,
            CACHED_TOKENS * self.batch_tokens // (n_prompt + longest),
        )
        by_length = sorted(todo, key=lambda item: len(item[1]))
        for start in range(0, len(by_length), max(1, n_rows)):
            items = by_length[start : start + max(1, n_rows)]
            rows = torch.tensor([row for row, _, _ in items], device=self.model.device)
            logits = reading.next_logits[rows][:, None]
            tokens, _ = self._padded([target for _, target, _ in items])
            if tokens.shape[1] > 1:
                logits = torch.cat([logits, self._extend(reading.select(rows), 0, tokens[:, :-1])], dim=1)
            found = ragfast.target_logprobs(logits.cpu().contiguous(), tokens.cpu())
            for (_, target, table), scores in zip(items, found, strict=True):
                table[:] = scores[: len(target)]

    # ---- training

    def logits(
        self, questions: Sequence[str], docs: Sequence[Sequence[str]], answers: Sequence[Any]
    ) -> tuple[Tensor, Tensor]:
        """For training: the logits (B,K,T,V) of one answer to each of B questions under each of K documents, with
        gradient, and the answers' tokens (B,T) int64, filled up with -100; both on the model's device.

        One forward pass, in the mode (train or eval) in which the model is; only the answers' positions are kept.
        ``ragfast.torch.rag_sequence_nll`` and ``rag_token_nll`` take them with ``ignore_index=-100``.

        ValueError for another number of documents or answers, and as for batch_token_logprobs.
        """
        pairs = self._pairs(questions, docs)
        if len(answers) != len(questions):
            raise ValueError(f"answers: expected {len(questions)}, one a question, got {len(answers)}")
        n_docs = {len(several) for several in docs}
        if len(n_docs) != 1:
            raise ValueError(f"docs: expected as many for each question, got {sorted(n_docs)}")
        targets = [self._target(answer, f"answers[{b}]") for b, answer in enumerate(answers)]
        longest = max(len(target) for target in targets)
        if longest == 0:
            raise ValueError("answers: expected a token in one of them at least, got none")
        prompts = self._prompts(pairs)
        self._refuse_beyond(prompts, longest)
        k = n_docs.pop()
        tokens, mask = self._padded(targets)
        logits = self._answer_logits(prompts, tokens.repeat_interleave(k, dim=0))
        shape = (len(questions), k, longest, logits.shape[-1])
        return logits.view(shape), tokens.masked_fill(mask == 0, -100).to(logits.device)

    @abc.abstractmethod
    def _answer_logits(self, prompts: Sequence[tuple[int, ...]], targets: Tensor) -> Tensor:
        """The logits (R,T,V) of targets (R,T) after R prompts."""

    # ---- the model

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout and gradients, one thread at a time; the model is left as it was."""
        with self._lock, evaluating(self.model), torch.inference_mode():
            yield


class HuggingFaceDecoder:
    """A ``ragfast.rag.Decoder``: R answers growing, each under one document.

    logits (R,V) are float32 (float64 of a float64 model), and not normalised; capacity is how many tokens an
    answer may have, None without a limit.
    """

    def __init__(
        self, generator: HuggingFaceGenerator, reading: EncodedPrompts, sources: NDArray[np.int64], capacity: int | None
    ) -> None:
        self._generator = generator
        self._reading = replace(reading, cache=kv_cache.fork(reading.cache))
        self._sources = sources  # whose prompt each row has read
        self._n_answer = 0
        self.capacity = capacity
        self.logits: NDArray[Any] = _array(reading.next_logits).copy()  # the reading is shared

    def step(self, rows: NDArray[np.int64], tokens: NDArray[np.int64], /) -> NDArray[Any]:
        """Goes on to other rows: new row i is what row rows[i] (R',) was, followed by tokens[i]; their logits (R',V).

        ValueError for no rows, a row or a token that there is not, and where there is no room for what would follow.
        """
        rows, tokens = np.asarray(rows), np.asarray(tokens)
        n_rows, generator = len(self._sources), self._generator
        if rows.ndim != 1 or len(rows) == 0 or rows.shape != tokens.shape:
            raise ValueError(f"rows, tokens: expected shapes (R,), R of 1 or more, got {rows.shape}, {tokens.shape}")
        if rows.min() < 0 or rows.max() >= n_rows:
            raise ValueError(f"rows: expected 0 to {n_rows - 1}, got {rows.min()} to {rows.max()}")
        if tokens.min() < 0 or tokens.max() >= generator.vocab_size:
            raise ValueError(f"tokens: expected 0 to {generator.vocab_size - 1}, got {tokens.min()} to {tokens.max()}")
        if self.capacity is not None and self._n_answer + 1 >= self.capacity:
            raise ValueError(
                f"rows: the answers have {self._n_answer} tokens, and the context of {generator.max_length} has room "
                f"for {self.capacity} beside the prompt, after passages cut to leave {generator.answer_capacity}"
            )
        with generator._evaluating():
            self._select(rows)
            column = torch.from_numpy(tokens.astype(np.int64)).to(self._reading.mask.device)[:, None]
            logits = generator._extend(self._reading, self._n_answer, column)[:, -1]
        self._n_answer += 1
        self.logits = _array(logits)
        return self.logits

    def _select(self, rows: NDArray[np.int64]) -> None:
        if np.array_equal(rows, np.arange(len(self._sources))):
            return
        mask, sources = self._reading.mask, self._sources[rows]
        chosen = torch.from_numpy(rows.astype(np.int64)).to(mask.device)
        if self._n_answer > 0 and np.array_equal(sources, self._sources):
            kv_cache.reorder_answers(self._reading.cache, chosen, mask.shape[1])
        else:
            self._reading, self._sources = self._reading.reordered(chosen), sources


def _array(logits: Tensor) -> NDArray[Any]:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return np.asarray(wide.numpy(force=True))
