"""-log p(y|x) of a RAG model of torch parts: end-to-end training (Lewis et al. 2020, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ragfast.torch
from ragfast._core import arrays
from ragfast.index import FlatIndex, Snapshot
from ragfast.rag.models import tokens_of

__all__ = ["Monitor", "QueryEncoder", "RAGLoss", "TrainableGenerator", "TrainingStep"]

IGNORED = -100
"""What stands for no token in targets, as transformers has it."""
VARIANTS = ("sequence", "token")
REDUCTIONS = ("sum", "mean", "token_mean")

Variant: TypeAlias = Literal["sequence", "token"]
Reduction: TypeAlias = Literal["sum", "mean", "token_mean"]


class QueryEncoder(Protocol):
    """What RAGLoss asks of an encoder; those of ragfast.rag.hf.encoders have it."""

    def embed(self, texts: Sequence[Any], /) -> Tensor:
        """The embeddings (B,D) of B questions, with gradients to the encoder's weights."""


class TrainableGenerator(Protocol):
    """What RAGLoss asks of a generator; CausalLM and EncoderDecoder of ragfast.rag.hf have it."""

    def logits(
        self, questions: Sequence[Any], docs: Sequence[Sequence[Any]], answers: Sequence[Any]
    ) -> tuple[Tensor, Tensor]:
        """Logits (B,K,T,V) of B answers under K documents each, and their tokens (B,T), -100 where there is none.

        logits[b,k,t] predicts targets[b,t]. The logits are new at each call: the backward pass overwrites them.
        """


class Monitor(Protocol):
    """What watches retrieval: :class:`ragfast.rag.training.CollapseMonitor`, or anything with this method."""

    def update(self, doc_ids: Any, doc_logprobs: Any = None) -> object:
        """Takes in what B questions retrieved: ids (B,K) and log p(z|x) (B,K)."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingStep:
    """A loss and what it was made of.

    loss is a scalar to call ``backward()`` on, once. Everything else has no gradient: nll (B,) = -log p(y|x) of each
    question, with label smoothing if that was asked for; n_tokens, how many tokens were scored; doc_ids (B,K) int64,
    doc_scores (B,K) = q . d and doc_logprobs (B,K) = log p(z|x), best first; posterior, p(z|x,y) (B,K) for
    RAG-Sequence, p(z | x, y_t, y_<t) (B,K,T) for RAG-Token. The retriever learns from how far it is from the posterior:
    for RAG-Sequence the gradient of a question's nll with regard to its doc_scores is (p(z|x) - posterior) /
    temperature.
    """

    loss: Tensor
    nll: Tensor
    n_tokens: int
    doc_ids: NDArray[np.int64]
    doc_scores: Tensor
    doc_logprobs: Tensor
    posterior: Tensor


@dataclass(eq=False, repr=False)
class RAGLoss:
    """The loss of a RAG model, with gradients to the query encoder and the generator; documents stay as they are.

    Each call embeds B questions, finds the k documents of each in the index, runs the generator once over all B x K
    pairs and marginalizes: log p(y|x) = log sum_z p(z|x) p(y|x,z) for variant "sequence", its product over tokens for
    "token" (Lewis et al. 2020, section 2.1), p(z|x) = softmax(q . d_z / temperature) over the k. The document encoder
    and the index are constant, as there (section 2.4). Where documents are embedded by weights that are being trained
    too, make the index anew now and then (:func:`ragfast.rag.training.refresh`) and assign it to ``index``.

    - encoder: a :class:`QueryEncoder`, such as ``ragfast.rag.hf.encoders.MeanPooled``; its D is the index's.
    - generator: a :class:`TrainableGenerator`, such as ``ragfast.rag.hf.CausalLM``.
    - index: a :class:`ragfast.FlatIndex`. With fewer than k documents, each question gets all there are.
    - documents: what the generator reads for each id of the index, ``documents[id]``: a list, or a mapping.
    - reduction: "mean" over questions, "token_mean" over scored tokens, or "sum". For equal weights while gradients
      are accumulated over several batches, take "sum" and divide by the number of questions of them all.
    - label_smoothing: as for :func:`ragfast.rag_sequence_nll`.
    - train_retriever, train_generator: False runs that part without gradients, so that it keeps no activations. Which
      weights learn is for their ``requires_grad`` to say, and for your optimizer; a part that is to be trained and has
      no such weight is an error, except under ``torch.no_grad()``.
    - monitor: told of each retrieval; a :class:`ragfast.rag.training.CollapseMonitor` warns of collapse.
    - inplace: the gradient of the logits is written over the logits, so that nothing of their size is made. Set it to
      False for a generator whose own backward pass needs its logits; torch refuses with an error where that is so.

    Mode (train or eval), device, dtype and autocast are the models' affair: embeddings and logits that are not in CPU
    memory are copied there, and gradients back.

    >>> import torch, ragfast
    >>> class Words(torch.nn.Embedding):  # as an encoder: a vector a word
    ...     def embed(self, texts):
    ...         return torch.stack([self(torch.tensor([int(word) for word in text.split()])).mean(0) for text in texts])
    >>> class Copier(torch.nn.Linear):  # as a generator: one token, the likelier the more often the document has it
    ...     def logits(self, questions, docs, answers):
    ...         counts = [[[doc.split().count(str(v)) for v in range(4)] for doc in several] for several in docs]
    ...         return self(torch.tensor(counts).float())[:, :, None], torch.tensor([[int(y)] for y in answers])
    >>> _ = torch.manual_seed(0)
    >>> encoder, generator = Words(4, 2), Copier(4, 4)
    >>> index = ragfast.FlatIndex.from_vectors(torch.eye(2))
    >>> rag_loss = RAGLoss(encoder, generator, index, ["1 3", "2 2"], k=2)
    >>> step = rag_loss(["0 1", "0 2"], ["3", "2"])
    >>> step.loss.backward()
    >>> step.doc_ids.shape, step.posterior.shape, encoder.weight.grad.shape, generator.weight.grad.shape
    ((2, 2), torch.Size([2, 2]), torch.Size([4, 2]), torch.Size([4, 4]))
    """

    encoder: QueryEncoder
    generator: TrainableGenerator
    index: FlatIndex
    documents: Any
    _: KW_ONLY
    variant: Variant = "sequence"
    k: int = 5
    temperature: float = 1.0
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    train_retriever: bool = True
    train_generator: bool = True
    monitor: Monitor | None = None
    inplace: bool = True
    n_threads: int | None = None

    def __post_init__(self) -> None:
        for given, name, method in ((self.encoder, "encoder", "embed"), (self.generator, "generator", "logits")):
            if not callable(getattr(given, method, None)):
                raise TypeError(f"{name}: expected a method {method}, which {type(given).__name__} lacks")
        if not isinstance(self.index, FlatIndex):
            raise TypeError(f"index: expected a ragfast.FlatIndex, got {type(self.index).__name__}")
        if not (self.train_retriever or self.train_generator):
            raise ValueError(
                "train_retriever, train_generator: expected one of them at least; to evaluate, call a "
                "loss under torch.no_grad()"
            )
        arrays.one_of(self.variant, "variant", VARIANTS)
        arrays.one_of(self.reduction, "reduction", REDUCTIONS)
        self.k = arrays.positive_int(self.k, "k")
        self.temperature = arrays.finite_float(self.temperature, "temperature", above_zero=True)

    def __call__(self, questions: Sequence[Any], answers: Sequence[Any], *, doc_ids: Any = None) -> TrainingStep:
        """The loss of B questions and one answer to each, with a graph for ``loss.backward()``.

        questions and answers are what encoder and generator take, such as texts. doc_ids (B,K), ids in the index, take
        the place of the search, for documents found earlier or elsewhere; their scores are calculated anew.

        ValueError for no questions, another number of answers, an index without documents or of another dimension than
        the embeddings, a document that is not in documents, an answer without tokens, NaN from the encoder or the
        generator (naming the question), and a part to be trained that gives no gradient.
        """
        for name, given in (("questions", questions), ("answers", answers)):
            if isinstance(given, (str, bytes)):
                raise TypeError(f"{name}: expected a sequence, such as a list of one, got {type(given).__name__}")
        if len(questions) == 0:
            raise ValueError("questions: expected at least one, got none")
        if len(answers) != len(questions):
            raise ValueError(f"answers: expected {len(questions)}, one a question, got {len(answers)}")
        queries = self._queries(questions)
        index = self.index.snapshot()  # one version, whoever changes the index meanwhile
        ids = self._search(index, queries) if doc_ids is None else _given(index, doc_ids, len(questions))
        docs = [[tokens_of(doc_id, self.documents, "documents") for doc_id in row] for row in ids.tolist()]
        doc_scores = ragfast.torch.gather_scores(queries, index, ids, n_threads=self.n_threads)
        logits, targets = self._logits(questions, docs, answers)
        marginalize = ragfast.torch.rag_token_nll if self.variant == "token" else ragfast.torch.rag_sequence_nll
        nll, posterior = marginalize(
            logits,
            doc_scores,
            targets,
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            temperature=self.temperature,
            reduction="none",
            return_posterior=True,
            inplace=self.inplace,
            n_threads=self.n_threads,
        )
        found = nll.detach()
        for b in np.flatnonzero(found.isnan()).tolist():
            raise ValueError(f"generator: NaN in the logits of answers[{b}] to questions[{b}], {questions[b]!r}")
        n_tokens = int((targets != IGNORED).sum())
        divisor = {"sum": 1, "mean": len(questions), "token_mean": n_tokens}[self.reduction]
        scores = doc_scores.detach()
        doc_logprobs = ragfast.torch.log_softmax(scores / self.temperature)
        if self.monitor is not None:
            self.monitor.update(ids, doc_logprobs.numpy())
        return TrainingStep(nll.sum() / divisor, found, n_tokens, ids, scores, doc_logprobs, posterior)

    def _queries(self, questions: Sequence[Any]) -> Tensor:
        """(B,D) in CPU memory, finite."""
        with torch.set_grad_enabled(self.train_retriever and torch.is_grad_enabled()):
            queries = self.encoder.embed(questions)
        expected = (len(questions), self.index.dim)
        if tuple(queries.shape) != expected:
            raise ValueError(
                f"encoder: expected embeddings of shape {expected}, as the index has {self.index.dim} dimensions, got "
                f"{tuple(queries.shape)}"
            )
        _refuse_constant(queries, self.train_retriever, "encoder: embeddings", "train_retriever")
        queries = queries.cpu()
        for b in np.flatnonzero(~queries.detach().isfinite().all(1)).tolist():
            raise ValueError(f"encoder: NaN or infinity in the embedding of questions[{b}], {questions[b]!r}")
        return queries

    def _search(self, index: Snapshot, queries: Tensor) -> NDArray[Any]:
        if len(index) == 0:
            raise ValueError("index: expected at least one document, got none")
        # The index searches by float32; scores for the gradient are of the queries as they are.
        return index.search(queries.detach().float(), min(self.k, len(index)), n_threads=self.n_threads).ids

    def _logits(self, questions: Sequence[Any], docs: list[list[Any]], answers: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """(B,K,T,V) and (B,T), in CPU memory."""
        with torch.set_grad_enabled(self.train_generator and torch.is_grad_enabled()):
            logits, targets = self.generator.logits(questions, docs, answers)
        expected = (len(docs), len(docs[0]), *targets.shape[1:])
        if logits.ndim != 4 or tuple(logits.shape[:3]) != expected or len(targets) != len(docs):
            raise ValueError(
                f"generator: expected logits of shape (B, K, T, V) and targets (B, T) with B {len(docs)} and K "
                f"{len(docs[0])}, got {tuple(logits.shape)} and {tuple(targets.shape)}"
            )
        for b in np.flatnonzero(~(targets.cpu() != IGNORED).any(1)).tolist():
            raise ValueError(f"answers[{b}]: expected at least one token, got none from {answers[b]!r}")
        _refuse_constant(logits, self.train_generator, "generator: logits", "train_generator")
        return logits.cpu(), targets.cpu()


def _given(index: Snapshot, doc_ids: Any, n_questions: int) -> NDArray[Any]:
    """Ids (B,K), int64, or strings in an object array where the index has such."""
    shape = f"({n_questions}, K)"
    if index.ids_are_strings:
        ids = np.asarray(doc_ids, object)
        if ids.ndim != 2 or len(ids) != n_questions:
            raise ValueError(f"doc_ids: expected shape {shape}, got {ids.shape}")
        return ids
    return arrays.integers(doc_ids, "doc_ids", shape, (n_questions, None))


def _refuse_constant(x: Tensor, to_train: bool, what: str, switch: str) -> None:
    """Training that silently trains nothing is the worst of errors."""
    if to_train and torch.is_grad_enabled() and not x.requires_grad:
        raise ValueError(
            f"{what} have no gradient, so that nothing there would learn; let some of its weights require one, or say "
            f"{switch}=False"
        )
