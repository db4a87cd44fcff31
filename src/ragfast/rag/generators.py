"""The generator of the reference notebook, p(y|x,z), and one around a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ragfast._core import arrays
from ragfast._core.turns import map_on_threads
from ragfast.marginal.lse import logsumexp
from ragfast.rag.parameters import Number, Weight, initial_weight, read_only_weight
from ragfast.runtime import get_num_threads

__all__ = ["CallableGenerator", "GeneratorGrads", "SimpleGenerator"]


class GeneratorGrads(NamedTuple):
    """The gradient of a loss with regard to each of a SimpleGenerator's weights, float64, of their shapes."""

    encoder_W: NDArray[np.float64]
    decoder_W: NDArray[np.float64]
    output_W: NDArray[np.float64]


class CallableGenerator:
    """A generator around a function of (question, documents, answer) that returns token_logprobs (K,T), for instance a
    call of a service that gives the log-probabilities of a text. It scores; decoding needs a DecodingGenerator.

    >>> import numpy as np, ragfast
    >>> def spelled(question, docs, answer):  # a letter is likely where the document has it
    ...     return np.log([[0.9 if letter in doc else 0.1 for letter in answer] for doc in docs])
    >>> generator = ragfast.rag.CallableGenerator(spelled)
    >>> np.exp(generator.token_logprobs("who?", ["ada", "bob"], "abba")).round(1).tolist()
    [[0.9, 0.1, 0.1, 0.9], [0.1, 0.9, 0.9, 0.1]]
    """

    def __init__(self, logprobs: Callable[[Any, Sequence[Any], Any], Any]) -> None:
        if not callable(logprobs):
            raise TypeError(f"logprobs: expected a function, got {type(logprobs).__name__}")
        self._logprobs = logprobs

    def token_logprobs(self, query_tokens: Any, doc_tokens: Sequence[Any], target_tokens: Any, /) -> NDArray[Any]:
        """What the function returns, as an array."""
        return np.asarray(self._logprobs(query_tokens, doc_tokens, target_tokens))


# output_W is multiplied in panels of this many rows, each transposed to (H, PANEL). Products of at most SMALL_PRODUCT
# multiplications are what OpenBLAS runs without first copying its operands, which for a few dozen columns costs as much
# as the product: at (V,H) = (50265,768) and 30 columns, float64 takes 46 ms in panels and 66 ms as one product.
PANEL = 32
SMALL_PRODUCT = 10**6
# Panels whose logits are summed while they are in cache. Not a power of two: rows of logits a multiple of 4 KiB apart
# would share cache sets.
BLOCK = 50


class SimpleGenerator:
    """A generator of one hidden layer: logits = output_W @ (tanh(encoder_W @ m) + tanh(decoder_W @ y_t)).

    m is the mean token of query and document together, y_t (D,) a target token as a vector; its index in the vocabulary
    is argmax(y_t), as in the notebook. vocab_size is V, embedding_dim D, hidden_dim H. encoder_W (H,D), decoder_W (H,D)
    and output_W (V,H) are float64, drawn in this order as 0.01 times a standard normal from rng, or from NumPy's global
    generator, so that ``np.random.seed`` repeats the notebook's weights. Assign to change one (a copy is kept, float32
    is widened; ValueError for another shape, NaN or infinity); the arrays themselves are read-only.

    eps is added to each token's probability before its logarithm: 0.0 gives the exact log p, 1e-8 the notebook's
    number. ValueError if it is negative or not finite.

    dtype is that of the products of which the softmax's normaliser is made, nearly all of the work; they read a second
    copy of output_W. float64 gives log p to a few roundings of the largest logit. float32 takes half the time and half
    the copy, and changes log p of a token by less than 2 (H + 4) 2**-24 (1 + L), L = max_v sum_h |output_W[v,h]|: 7e-4
    at (V,H) = (50265,768) with weights as drawn. That is the worst case; measured there, it is 2e-9.

    The logits of K documents and T tokens are sums A[z] + C[t], so the normalisers of all K x T cells,
    log sum_v exp(A[z,v] + C[t,v]), are the logarithm of the product exp(A) @ exp(C).T: K + T products with output_W and
    (K + T) V exponentials serve them all.

    >>> import numpy as np, ragfast
    >>> generator = ragfast.SimpleGenerator(vocab_size=3, embedding_dim=3, hidden_dim=2)
    >>> generator.output_W = np.zeros((3, 2))
    >>> round(generator.generate_prob(np.eye(3), np.eye(3), np.eye(3)[:2]), 4)  # two tokens, each of log(1/3)
    -2.1972
    """

    eps = Number("Added to each token's probability before its logarithm.", above_zero=False)
    encoder_W = Weight(
        "From the mean token of query and document to the hidden layer (H,D), read-only.", "hidden_dim", "embedding_dim"
    )
    decoder_W = Weight("From a target token to the hidden layer (H,D), read-only.", "hidden_dim", "embedding_dim")
    _eps: float
    _encoder_W: NDArray[np.float64]
    _decoder_W: NDArray[np.float64]

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        hidden_dim: int,
        eps: float = 0.0,
        *,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.vocab_size = arrays.positive_int(vocab_size, "vocab_size")
        self.embedding_dim = arrays.positive_int(embedding_dim, "embedding_dim")
        self.hidden_dim = arrays.positive_int(hidden_dim, "hidden_dim")
        self.eps = eps
        arrays.float_dtype(dtype)
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self.encoder_W = initial_weight(rng, self.hidden_dim, self.embedding_dim)
        self.decoder_W = initial_weight(rng, self.hidden_dim, self.embedding_dim)
        self.output_W = initial_weight(rng, self.vocab_size, self.hidden_dim)

    @property
    def output_W(self) -> NDArray[np.float64]:
        """From the hidden layer to the logits (V,H), read-only."""
        return self._output_W

    @output_W.setter
    def output_W(self, value: arrays.ArrayLike) -> None:
        output_W = read_only_weight(value, "output_W", (self.vocab_size, self.hidden_dim))
        blocks = [slice(i, i + PANEL) for i in range(0, self.vocab_size, PANEL)]
        # tanh lies in [-1, 1], so no element of A or C passes the largest absolute row sum of output_W.
        largest = max(float(np.abs(output_W[rows]).sum(axis=1).max()) for rows in blocks)
        limit = float(np.finfo(self._dtype).max)
        if largest > limit / 4:
            raise ValueError(f"output_W: too large, logits up to {largest:.3g} would overflow {self._dtype}")
        panels = np.zeros((len(blocks), self.hidden_dim, PANEL), self._dtype)
        for panel, rows in zip(panels, blocks, strict=True):
            panel[:, : len(output_W[rows])] = output_W[rows].T
        self._output_W, self._panels = output_W, panels
        # Then exp(A) and exp(C), their products and the sums of those stay far from either end of the exponent's range:
        # no maximum need be subtracted first, and nothing overflows, vanishes or loses a bit.
        self._within_range = largest < math.log(limit) / 4

    def token_logprobs(
        self, query_tokens: arrays.ArrayLike, doc_tokens: Sequence[arrays.ArrayLike], target_tokens: arrays.ArrayLike, /
    ) -> NDArray[np.float64]:
        """l[z,t] = log(p(y_t | x, z) + eps), (K,T) float64, of one target under K documents.

        query_tokens (n,D), each of the K doc_tokens (m,D), m its own, and target_tokens (T,D), or a sequence of T
        vectors (D,), are float32 or float64. T may be 0, n or m too, but not n + m.

        ValueError for another shape, NaN or infinity; TypeError for another dtype.
        """
        inputs, n_docs = self._inputs(query_tokens, doc_tokens, target_tokens)
        if n_docs in (0, len(inputs)):
            return np.zeros((n_docs, len(inputs) - n_docs))
        hidden = self._hidden(inputs, n_docs)
        doc_hidden, target_hidden = hidden[:n_docs], hidden[n_docs:]
        target_W = self._output_W[self._target_ids(inputs[n_docs:])]
        logprobs: NDArray[np.float64] = doc_hidden @ target_W.T
        logprobs += np.vecdot(target_hidden, target_W)
        logprobs -= self._log_normalisers(hidden, n_docs)
        np.minimum(logprobs, 0.0, out=logprobs)  # rounding may lift a certain token above it
        if self._eps:
            np.logaddexp(logprobs, math.log(self._eps), out=logprobs)
        return logprobs

    def generate_prob(
        self, query_tokens: arrays.ArrayLike, doc_tokens: arrays.ArrayLike, target_tokens: arrays.ArrayLike
    ) -> float:
        """log p(y|x,z), despite its name, which is the notebook's: one row of :meth:`token_logprobs`, summed."""
        return float(self.token_logprobs(query_tokens, [doc_tokens], target_tokens).sum())

    def target_ids(self, target_tokens: arrays.ArrayLike) -> NDArray[np.int64]:
        """The indices (T,) in the vocabulary of target_tokens (T,D): the argmax of each. Errors as
        :meth:`token_logprobs`."""
        inputs, _ = self._inputs(np.empty((0, self.embedding_dim)), [], target_tokens)
        return self._target_ids(inputs)

    def logits(
        self, query_tokens: arrays.ArrayLike, doc_tokens: Sequence[arrays.ArrayLike], target_tokens: arrays.ArrayLike
    ) -> NDArray[np.float64]:
        """What :meth:`token_logprobs` is the log-softmax of, before the target is picked: (K,T,V) float64.

        Arguments and errors are its own; eps has no part in them.
        """
        inputs, n_docs = self._inputs(query_tokens, doc_tokens, target_tokens)
        by_input = self._hidden(inputs, n_docs) @ self._output_W.T
        logits: NDArray[np.float64] = by_input[:n_docs, None] + by_input[n_docs:]
        return logits

    def logits_grad(
        self,
        grad: arrays.ArrayLike,
        query_tokens: arrays.ArrayLike,
        doc_tokens: Sequence[arrays.ArrayLike],
        target_tokens: arrays.ArrayLike,
    ) -> GeneratorGrads:
        """The gradients with regard to the weights, from that of :meth:`logits`, grad (K,T,V), float32 or float64."""
        inputs, n_docs = self._inputs(query_tokens, doc_tokens, target_tokens)
        shape = (n_docs, len(inputs) - n_docs, self.vocab_size)
        above, _ = arrays.shaped_doubles(grad, "grad", f"{shape}, that of the logits", shape)
        hidden = self._hidden(inputs, n_docs)
        # A document's logits are in all T cells of its row, a token's in all K of its column.
        of_inputs = np.concatenate([above.sum(axis=1), above.sum(axis=0)])
        before_tanh = (of_inputs @ self._output_W) * (1.0 - hidden**2)
        return GeneratorGrads(
            encoder_W=before_tanh[:n_docs].T @ inputs[:n_docs],
            decoder_W=before_tanh[n_docs:].T @ inputs[n_docs:],
            output_W=of_inputs.T @ hidden,
        )

    def _hidden(self, inputs: NDArray[np.float64], n_docs: int) -> NDArray[np.float64]:
        """The hidden layer (K+T,H) of what _inputs gave."""
        hidden = np.empty((len(inputs), self.hidden_dim))
        np.matmul(inputs[:n_docs], self._encoder_W.T, out=hidden[:n_docs])
        np.matmul(inputs[n_docs:], self._decoder_W.T, out=hidden[n_docs:])
        return np.tanh(hidden, out=hidden)

    def _target_ids(self, targets: NDArray[np.float64]) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = targets.argmax(axis=1)
        if self.embedding_dim > self.vocab_size and len(ids) and ids.max() >= self.vocab_size:
            raise ValueError(f"target_tokens: a token stands for word {ids.max()}, with vocab_size {self.vocab_size}")
        return ids

    def _inputs(
        self, query_tokens: arrays.ArrayLike, doc_tokens: Sequence[arrays.ArrayLike], target_tokens: arrays.ArrayLike
    ) -> tuple[NDArray[np.float64], int]:
        """The mean token of the query and each document, then the target tokens: (K+T,D), and K."""
        query = self._tokens(query_tokens, "query_tokens")
        docs = [self._tokens(tokens, f"doc_tokens[{z}]") for z, tokens in enumerate(doc_tokens)]
        no_target = hasattr(target_tokens, "__len__") and len(target_tokens) == 0  # as [], whose shape is (0,)
        target = np.empty((0, self.embedding_dim)) if no_target else self._tokens(target_tokens, "target_tokens")
        n_tokens = np.array([[len(query) + len(doc)] for doc in docs])
        if not n_tokens.all():
            raise ValueError("query_tokens: expected a token in the query or in the document, got none in either")
        inputs = np.empty((len(docs) + len(target), self.embedding_dim))
        means = inputs[: len(docs)]
        for mean, doc in zip(means, docs, strict=True):
            np.add.reduce(doc, axis=0, out=mean)
        if docs:
            means += np.add.reduce(query, axis=0, dtype=np.float64)
            means /= n_tokens
        inputs[len(docs) :] = target
        if not math.isfinite(np.add.reduce(inputs, axis=None)):
            arrays.refuse_nonfinite(query, "query_tokens")
            for z, doc in enumerate(docs):
                arrays.refuse_nonfinite(doc, f"doc_tokens[{z}]")
            arrays.refuse_nonfinite(target, "target_tokens")
            raise ValueError("query_tokens, doc_tokens, target_tokens: too large, their sums overflow float64")
        return inputs, len(docs)

    def _tokens(self, tokens: arrays.ArrayLike, name: str) -> NDArray[Any]:
        return arrays.matrix(tokens, name, letters="(n, D)", dim=self.embedding_dim, dtypes=arrays.EITHER_FLOAT)

    def _log_normalisers(self, hidden: NDArray[np.float64], n_docs: int) -> NDArray[np.float64]:
        """log sum_v exp(A[z,v] + C[t,v]), (K,T), for hidden (K+T,H) of documents, then tokens."""
        n_chunks = -(-len(hidden) // max(1, SMALL_PRODUCT // (self.hidden_dim * PANEL)))
        height = -(-len(hidden) // n_chunks)
        chunks, all_panels = np.zeros((n_chunks, height, self.hidden_dim), self._dtype), self._panels
        chunks.reshape(-1, self.hidden_dim)[: len(hidden)] = hidden

        def block_lse(start: int) -> NDArray[np.float64]:
            panels = all_panels[start : start + BLOCK]
            logits = np.empty((n_chunks, height, len(panels), PANEL), self._dtype)
            # In C order a panel meets all chunks of hidden while it is in cache.
            np.matmul(chunks, panels[:, None], out=logits.transpose(2, 0, 1, 3), order="C")
            rows = logits.reshape(n_chunks * height, -1)[: len(hidden), : self.vocab_size - start * PANEL]
            return self._sum_logits(rows, n_docs)

        starts = range(0, len(all_panels), BLOCK)
        n_threads = min(get_num_threads(), len(starts))
        if n_threads == 1:
            lse_of_blocks = [block_lse(start) for start in starts]
        else:  # NumPy lets go of the interpreter in all that is large here
            lse_of_blocks = map_on_threads(n_threads, block_lse, starts)
        return lse_of_blocks[0] if len(lse_of_blocks) == 1 else logsumexp(np.stack(lse_of_blocks, axis=-1))

    def _sum_logits(self, logits: NDArray[Any], n_docs: int) -> NDArray[np.float64]:
        """The same over the part of the vocabulary whose logits these are: (K+T,v), overwritten."""
        if self._within_range:
            powers = np.exp(logits, out=logits).astype(np.float64, copy=False)
            sums: NDArray[np.float64] = powers[:n_docs] @ powers[n_docs:].T
            return np.log(sums, out=sums)
        logits = logits.astype(np.float64, copy=False)
        largest = logits.max(axis=1, keepdims=True)
        powers = np.exp(logits - largest)
        sums = powers[:n_docs] @ powers[n_docs:].T
        # Terms below the smallest normal number are lost, v of them at most. A sum that is larger than all of those by
        # 1/eps keeps every bit; for the others, document and token disagree by hundreds of nats on where the mass is.
        smallest = logits.shape[1] * np.finfo(np.float64).tiny / np.finfo(np.float64).eps
        lse: NDArray[np.float64] = np.log(np.maximum(sums, smallest))
        lse += largest[:n_docs] + largest[n_docs:].T
        for z, t in np.argwhere(sums < smallest):
            lse[z, t] = logsumexp(logits[z] + logits[n_docs + t])
        return lse
