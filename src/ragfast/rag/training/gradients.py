"""Training of the simple retriever and generator together (Lewis et al. 2020, section 2.4), in NumPy and kernels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index import FlatIndex, Snapshot
from ragfast.index.gather import gather_scores_grad
from ragfast.marginal.loss import rag_sequence_nll, rag_token_nll
from ragfast.rag.generators import SimpleGenerator
from ragfast.rag.models import RAGSequence, RAGToken
from ragfast.rag.retrievers import SimpleRetriever

__all__ = ["Adam", "NLLGradients", "nll_and_gradients"]

# Each weight that is trained, and the part of the model it belongs to.
OWNERS = {
    "query_encoder_W": "retriever",
    "encoder_W": "generator",
    "decoder_W": "generator",
    "output_W": "generator",
}


@dataclass(frozen=True, slots=True, eq=False)
class NLLGradients:
    """The loss of B questions and its gradients.

    loss, the mean over B of losses (B,) = -log p(y|x); query_encoder_W (D,D), encoder_W (H,D), decoder_W (H,D) and
    output_W (V,H), the gradients of loss with regard to these weights, all float64. For each question, what it
    retrieved: doc_ids (K,), doc_logprobs (K,) = log p(z|x), and the posterior, (K,) = p(z|x,y) for RAG-Sequence, (K,T)
    = p(z_t | x, y_t, y_<t) for RAG-Token.
    """

    loss: float
    losses: NDArray[np.float64]
    query_encoder_W: NDArray[np.float64]
    encoder_W: NDArray[np.float64]
    decoder_W: NDArray[np.float64]
    output_W: NDArray[np.float64]
    doc_ids: tuple[NDArray[np.int64], ...]
    doc_logprobs: tuple[NDArray[np.float64], ...]
    posteriors: tuple[NDArray[np.float64], ...]


def nll_and_gradients(
    model: RAGSequence | RAGToken, questions: Sequence[Any], answers: Sequence[Any], *, k: int | None = None
) -> NLLGradients:
    """The mean of -log p(y|x), exact and so without any eps, and its gradients with regard to all weights.

    model has documents, a SimpleRetriever and a SimpleGenerator. questions are B arrays (n,D), answers B arrays (T,D)
    whose words are argmax(y_t), n and T their own; k (the model's by default) documents are retrieved for each.

    The gradient goes through p(z|x), the softmax over the documents that were retrieved, to the query's embedding and
    its encoder. Document embeddings are held fixed, as in the paper, and so is the choice of the top k, which has no
    derivative. With float32 documents the embedding's rounding to float32 counts as none.

    The notebook's decoder reads y_t where it predicts y_t, so with one-hot targets decoder_W learns to copy the answer,
    and no document is needed: examples/train_simple.py has targets that show it the word before instead.

    TypeError for another retriever or generator; ValueError for no questions, another number of answers, and where
    ``retrieve`` or the generator's ``token_logprobs`` raise it.

    >>> import numpy as np, ragfast
    >>> from ragfast.rag.training import Adam, nll_and_gradients
    >>> rng = np.random.default_rng(0)
    >>> retriever, generator = ragfast.SimpleRetriever(4, rng=rng), ragfast.SimpleGenerator(4, 4, 8, rng=rng)
    >>> documents = rng.standard_normal((6, 4)), [rng.standard_normal((3, 4)) for _ in range(6)]
    >>> rag = ragfast.RAGToken(retriever, generator, index=documents[0], documents=documents[1])
    >>> adam = Adam(rag, lr=0.01)
    >>> for _ in range(40):
    ...     gradients = nll_and_gradients(rag, [np.eye(4)[:2]], [np.eye(4)[2:]])
    ...     adam.step(gradients)
    >>> round(float(-np.log(1 / 4) * 2), 1), gradients.loss < 1.0
    (2.8, True)
    """
    retriever, generator = _simple_pair(model)
    if len(questions) != len(answers):
        raise ValueError(f"answers: expected {len(questions)}, one a question, got {len(answers)}")
    if len(questions) == 0:
        raise ValueError("questions: expected at least one, got none")
    model = copy.copy(model)  # with the documents of this moment, whatever a refresh swaps in meanwhile
    found = model.retrieve(questions, k=k)
    loss_of = rag_token_nll if isinstance(model, RAGToken) else rag_sequence_nll

    sums = {name: np.zeros_like(getattr(getattr(model, owner), name)) for name, owner in OWNERS.items()}
    losses, posteriors = np.empty(len(found)), []
    for b, (question, answer, documents) in enumerate(zip(questions, answers, found, strict=True)):
        logits = generator.logits(question, documents.doc_tokens, answer)[None]
        # log p(z|x) serves as scores: they differ by a constant, of which the softmax and its gradient know nothing.
        nll = loss_of(
            logits,
            documents.doc_logprobs[None],
            generator.target_ids(answer)[None],
            reduction="sum",
            grad=["doc_scores", "logits"],
            return_posterior=True,
            out=logits,
        )
        assert nll.posterior is not None
        assert nll.doc_scores_grad is not None
        losses[b] = nll.loss
        posteriors.append(nll.posterior[0])
        embedding_grad = _embedding_grad(model.index, documents.doc_ids, nll.doc_scores_grad)
        sums["query_encoder_W"] += retriever.encode_query_grad(embedding_grad, question)
        of_generator = generator.logits_grad(nll.logits_grad[0], question, documents.doc_tokens, answer)
        for name, grad in of_generator._asdict().items():
            sums[name] += grad
    return NLLGradients(
        loss=float(losses.mean()),
        losses=losses,
        **{name: total / len(losses) for name, total in sums.items()},
        doc_ids=tuple(documents.doc_ids for documents in found),
        doc_logprobs=tuple(documents.doc_logprobs for documents in found),
        posteriors=tuple(posteriors),
    )


def _embedding_grad(index: Any, doc_ids: NDArray[np.int64], scores_grad: NDArray[Any]) -> NDArray[np.float64]:
    """dL/dq (D,) = sum_z dL/ds_z d_z."""
    if isinstance(index, FlatIndex | Snapshot):
        grads = index.gather_scores_grad(scores_grad, doc_ids[None], dtype=np.float64)
    else:
        grads = gather_scores_grad(scores_grad, index, doc_ids[None], dtype=np.float64)
    of_query: NDArray[np.float64] = grads[0]
    return of_query


def _simple_pair(model: RAGSequence | RAGToken) -> tuple[SimpleRetriever, SimpleGenerator]:
    if not isinstance(model, RAGSequence | RAGToken):
        raise TypeError(f"model: expected a RAGSequence or RAGToken, got {type(model).__name__}")
    if not isinstance(model.retriever, SimpleRetriever):
        raise TypeError(f"retriever: expected a SimpleRetriever, got {type(model.retriever).__name__}")
    if not isinstance(model.generator, SimpleGenerator):
        raise TypeError(f"generator: expected a SimpleGenerator, got {type(model.generator).__name__}")
    return model.retriever, model.generator


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) over the weights of a model's simple retriever and generator.

    lr is the learning rate of the generator, retriever_lr that of the retriever, by default the same. Both may be
    changed between steps; at 0 a part stays as it is. A step assigns new weights to retriever and generator, so models
    that share these parts learn together.
    """

    def __init__(
        self,
        model: RAGSequence | RAGToken,
        lr: float = 1e-3,
        *,
        retriever_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        retriever, generator = _simple_pair(model)
        self._owners: dict[str, Any] = {"retriever": retriever, "generator": generator}
        self.lr = arrays.finite_float(lr, "lr", above_zero=False)
        self.retriever_lr = self.lr
        if retriever_lr is not None:
            self.retriever_lr = arrays.finite_float(retriever_lr, "retriever_lr", above_zero=False)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected two numbers from 0 to below 1, got {betas}")
        self._betas = betas
        self._eps = arrays.finite_float(eps, "eps", above_zero=True)
        self._steps = 0
        self._means: dict[str, NDArray[np.float64]] = {}
        self._squares: dict[str, NDArray[np.float64]] = {}

    def step(self, gradients: NLLGradients) -> None:
        """Moves every weight against its gradient."""
        self._steps += 1
        decay_mean, decay_square = self._betas
        seen_mean, seen_square = 1 - decay_mean**self._steps, 1 - decay_square**self._steps
        for name, owner in OWNERS.items():
            grad = getattr(gradients, name)
            mean = self._means.setdefault(name, np.zeros_like(grad))
            square = self._squares.setdefault(name, np.zeros_like(grad))
            mean += (1 - decay_mean) * (grad - mean)
            square += (1 - decay_square) * (grad**2 - square)
            rate = self.retriever_lr if owner == "retriever" else self.lr
            step = rate * (mean / seen_mean) / (np.sqrt(square / seen_square) + self._eps)
            setattr(self._owners[owner], name, getattr(self._owners[owner], name) - step)
