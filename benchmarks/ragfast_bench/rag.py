"""RAGSequence.forward and RAGToken.forward beside the reference notebook's loops: same weights, same documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import ragfast
from ragfast_bench import contest, reference_notebook
from ragfast_bench.contest import Call, Contender, Question
from ragfast_bench.results import Machine, Task
from ragfast_bench.sections import LeaveOut, Say, Settings

NAME = "rag"
TITLE = "A whole RAG model against the notebook's loops"

TOLERANCE = 1e-4
LOOPS = "the notebook's loops"
NOTE = "its floors of 1e-8 set to 0, with which it would be wrong here; the other results are held against its own"


@dataclass(frozen=True)
class Size:
    name: str
    vocab_size: int
    dim: int
    hidden_dim: int
    n_docs: int
    k: int
    n_target: int
    n_query: int = 10
    n_doc_tokens: int = 15


NOTEBOOK = Size("notebook", vocab_size=1000, dim=64, hidden_dim=128, n_docs=20, k=5, n_target=8)
BART = Size("bart", vocab_size=50_265, dim=768, hidden_dim=768, n_docs=10_000, k=5, n_target=25)
SHORT_BART = Size("bart, 4 tokens", vocab_size=50_265, dim=768, hidden_dim=768, n_docs=10_000, k=5, n_target=4)
"""The loops take seconds for 25."""

VARIANTS: dict[Any, Callable[..., Any]] = {
    ragfast.RAGSequence: reference_notebook.rag_sequence,
    ragfast.RAGToken: reference_notebook.rag_token,
}


def sizes_of(settings: Settings) -> tuple[Size, ...]:
    return settings.pick((NOTEBOOK,), (NOTEBOOK, SHORT_BART), (NOTEBOOK, BART))


def planned(settings: Settings) -> int:
    return len(VARIANTS) * len(sizes_of(settings))


def contenders(size: Size) -> dict[str, list[Contender]]:
    """{variant: contenders}, whose retrievers and generators hold the same weights; the first is what a translation of
    the notebook gets."""
    rng = np.random.default_rng(0)
    retriever = ragfast.SimpleRetriever(size.dim, rng=rng)
    loop_retriever = reference_notebook.Retriever(size.dim)
    loop_retriever.query_encoder_W = retriever.query_encoder_W
    documents = rng.standard_normal((size.n_docs, size.dim))
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    some_texts = list(rng.standard_normal((20, size.n_doc_tokens, size.dim)))  # all 10,000 would fill 900 MB
    texts = [some_texts[i % 20] for i in range(size.n_docs)]
    query = rng.standard_normal((size.n_query, size.dim))
    target = rng.standard_normal((size.n_target, size.dim))
    index = ragfast.FlatIndex.from_vectors(documents.astype(np.float32))

    found: dict[str, list[Contender]] = {variant.__name__: [] for variant in VARIANTS}
    for dtype in (np.float64, np.float32):
        generator = ragfast.SimpleGenerator(
            size.vocab_size, size.dim, size.hidden_dim, dtype=dtype, rng=np.random.default_rng(1)
        )
        for variant in VARIANTS:
            model = variant(retriever, generator)
            for where, held in (("arrays", documents), ("FlatIndex", index)):
                name = f"ragfast, {np.dtype(dtype).name}, {where}"
                call = partial(model.forward, query, target, held, texts, size.k)
                found[variant.__name__].append(Contender(name, partial(_itself, call), ours=True))
    # All weights are replaced, so a vocabulary of 1 is enough.
    loop_generator = reference_notebook.Generator(1, size.dim, size.hidden_dim)
    loop_generator.floor = 0.0
    loop_generator.encoder_W, loop_generator.decoder_W = generator.encoder_W, generator.decoder_W
    loop_generator.output_W = generator.output_W
    for variant, loops in VARIANTS.items():
        call = partial(loops, loop_retriever, loop_generator, query, target, documents, texts, size.k, floor=0.0)
        found[variant.__name__].append(Contender(LOOPS, partial(_itself, call), note=NOTE))
    return found


def _itself(call: Call) -> Call:
    return call


def log_prob(found: Any) -> Any:
    """Whatever a model or the loops return, log p(y|x) of it."""
    return found[0] if isinstance(found, tuple) else found


def measure(settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
    for size in sizes_of(settings):
        say(f"making the weights of {size.name}")
        for variant, taking_part in contenders(size).items():
            yield contest.measured(
                question(size, variant, taking_part),
                taking_part,
                settings,
                say,
                settings.pick(0.5, 1.0, 10.0),
                least=1 if size.n_docs > 1000 else 3,
            )


def question(size: Size, variant: str, taking_part: list[Contender]) -> Question:
    """The loops give the reference: they are the formulas one by one, in float64."""
    loops = next(contender for contender in taking_part if contender.name == LOOPS)
    exact = np.asarray(log_prob(loops.build()()))
    return Question(
        section=NAME,
        name=f"{variant}, {size.name}",
        shape={"N": size.n_docs, "D": size.dim, "K": size.k, "T": size.n_target, "V": size.vocab_size},
        error=lambda found: contest.difference(log_prob(found), exact),
        tolerance=TOLERANCE,
    )
