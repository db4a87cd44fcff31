"""A generator of random but repeatable distributions, which counts what it is asked; and its answers, all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ragfast

Array = NDArray[Any]


class HashedGenerator:
    """Questions and documents are numbers; the logits after each prefix are drawn from a generator of that seed, those
    of ``eager`` tokens greater than others.

    `opened` counts decoders, `stepped` has the rows of each of their forward passes, `scored` the (question, document,
    target) of each scored target, `passes` how often targets were scored.
    """

    def __init__(
        self, vocab: int = 4, stop_tokens: Sequence[int] = (3,), scale: float = 1.5, eager: Sequence[int] = ()
    ) -> None:
        self.vocab = vocab
        self.stop_tokens = tuple(stop_tokens)
        self.scale = scale
        self.eager = list(eager)
        self.dtype: Any = np.float64
        self.opened = 0
        self.stepped: list[int] = []
        self.scored: list[tuple[int, int, tuple[int, ...]]] = []
        self.passes = 0

    def logits(self, question: int, doc: int, prefix: Sequence[int]) -> Array:
        """Not normalised: each row is off by its own constant."""
        rng = np.random.default_rng([question, doc, *prefix])
        drawn = self.scale * rng.standard_normal(self.vocab) + rng.uniform(-5, 5)
        drawn[self.eager] += 1.5 * self.scale
        return drawn.astype(self.dtype)

    def token_logprobs(self, query_tokens: Any, doc_tokens: Sequence[Any], target_tokens: Any, /) -> Array:
        self.passes += 1
        return self._table(query_tokens, doc_tokens, target_tokens)

    def open(self, query_tokens: Sequence[Any], doc_tokens: Sequence[Sequence[Any]], /) -> HashedDecoder:
        self.opened += 1
        pairs = zip(query_tokens, doc_tokens, strict=True)
        return HashedDecoder(self, [(question, doc, ()) for question, docs in pairs for doc in docs])

    def _table(self, question: int, docs: Sequence[int], target: Any) -> Array:
        tokens = tuple(int(token) for token in target)
        self.scored += [(question, doc, tokens) for doc in docs]
        rows = [[self.logits(question, doc, tokens[:t])[y] for t, y in enumerate(tokens)] for doc in docs]
        lse = [[ragfast.logsumexp(self.logits(question, doc, tokens[:t])) for t in range(len(tokens))] for doc in docs]
        table: Array = np.array(rows, np.float64) - np.array(lse, np.float64)
        return table


class BatchHashedGenerator(HashedGenerator):
    def batch_token_logprobs(
        self, query_tokens: Sequence[Any], doc_tokens: Sequence[Sequence[Any]], targets: Sequence[Sequence[Any]], /
    ) -> list[list[Array]]:
        self.passes += 1
        triples = zip(query_tokens, doc_tokens, targets, strict=True)
        return [[self._table(question, docs, target) for target in several] for question, docs, several in triples]


class HashedDecoder:
    """Overwrites its logits at each step, as a decoder may."""

    def __init__(self, generator: HashedGenerator, rows: list[tuple[int, int, tuple[int, ...]]]) -> None:
        self._generator = generator
        self.rows = rows
        self._read()

    def step(self, rows: NDArray[np.int64], tokens: NDArray[np.int64], /) -> Array:
        assert rows.dtype == tokens.dtype == np.int64
        self.logits.fill(np.nan)
        pairs = zip(rows.tolist(), tokens.tolist(), strict=True)
        self.rows = [(*self.rows[row][:2], (*self.rows[row][2], token)) for row, token in pairs]
        return self._read()

    def _read(self) -> Array:
        self._generator.stepped.append(len(self.rows))
        self.logits: Array = np.stack([self._generator.logits(*row) for row in self.rows])
        return self.logits


def answers(vocab: int, stop_tokens: Sequence[int], max_new_tokens: int) -> Iterator[tuple[int, ...]]:
    """Every answer that ends in its first stop token or at max_new_tokens."""
    going_on = [token for token in range(vocab) if token not in stop_tokens]
    for length in range(1, max_new_tokens + 1):
        last = range(vocab) if length == max_new_tokens else stop_tokens
        for prefix in itertools.product(going_on, repeat=length - 1):
            yield from ((*prefix, token) for token in last)
