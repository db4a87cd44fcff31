"""Retriever and generator learn together from questions and answers; nobody tells which document has the answer.

A small invented world: landmarks, a document about each, and questions about its facts, worded otherwise in training
than in the test. Both parts start from random weights, so half of all documents are retrieved to find something at all:
the paper starts from a trained retriever, and 5 or 10 do. The loss is -log p(y|x) (Lewis et al. 2020, section 2.4).
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import ragfast
from ragfast.rag.training import Adam, CollapseMonitor, nll_and_gradients

DOCUMENT = "the {name} was built in {year} by {builder} and stands {height} metres tall in {city}"
FACTS = [  # the answer, two wordings of training, one of the test
    (
        "in {year}",
        "when was the {name} built",
        "in which year was the {name} finished",
        "which year was the {name} built",
    ),
    ("{builder}", "who built the {name}", "which architect designed the {name}", "who was the architect of the {name}"),
    ("{height} metres", "how tall is the {name}", "what height has the {name}", "what is the height of the {name}"),
    ("{city}", "where does the {name} stand", "in which city is the {name}", "in which city does the {name} stand"),
]


class Example(NamedTuple):
    question: str
    answer: str
    document: int  # where it is found: measured by, never trained on


class Encoded(NamedTuple):
    questions: list[Any]
    answers: list[Any]
    documents: list[int]


class Measured(NamedTuple):
    nll: float
    recall_1: float
    recall_5: float


def world(n_landmarks: int, rng: np.random.Generator) -> tuple[list[str], list[Example], list[Example]]:
    """Documents, the examples of training and those of the test."""
    names = [f"{first}{last}" for first in ("al", "bre", "cor", "dun", "er", "fal", "gil", "har")
             for last in ("dor", "gate", "holm", "mar", "stan", "wick")]  # fmt: skip
    documents, training, test = [], [], []
    for document, name in enumerate(rng.permutation(names)[:n_landmarks]):
        things = {
            "name": name,
            "year": 1800 + rng.integers(n_landmarks),
            "builder": f"architect-{rng.integers(n_landmarks // 2)}",
            "height": 100 + rng.integers(n_landmarks),
            "city": f"city-{rng.integers(n_landmarks // 3)}",
        }
        documents.append(DOCUMENT.format(**things))
        for texts in FACTS:
            answer, *questions = (text.format(**things) for text in texts)
            training += [Example(question, answer, document) for question in questions[:2]]
            test.append(Example(questions[2], answer, document))
    return documents, training, test


class Words:
    """A text as an array of vectors, one a word."""

    def __init__(self, texts: list[str]) -> None:
        self.index = {word: i for i, word in enumerate(sorted({word for text in texts for word in text.split()}))}
        self.vectors = np.eye(len(self.index))

    def __call__(self, text: str) -> Any:
        return 5.0 * self.vectors[[self.index[word] for word in text.split()]]

    def examples(self, examples: list[Example]) -> Encoded:
        return Encoded(
            [self(example.question) for example in examples],
            [self.target(example.answer) for example in examples],
            [example.document for example in examples],
        )

    def target(self, text: str) -> Any:
        """Words to be predicted. The generator reads y_t itself where it predicts y_t, and would just copy it. So y_t
        says its own word by argmax alone, with a size of nothing, and shows the generator the word before it."""
        words = self.vectors[[self.index[word] for word in text.split()]]
        target = 1e-9 * words
        target[1:] -= words[:-1]
        return target


def learn(
    *,
    n_landmarks: int = 30,
    warm_up: int = 4,
    epochs: int = 12,
    k: int = 15,
    batch_size: int = 4,
    by_token: bool = False,
    reshuffle: bool = False,
    seed: int = 0,
    over_epochs: Callable[[range], Any] = iter,
) -> Iterator[tuple[int, ragfast.RAGSequence | ragfast.RAGToken, Encoded]]:
    """Yields how many epochs are over, the model, and the test: before training and after each epoch.

    reshuffle is the control: every epoch the questions get answers of others, and there is nothing to learn from.
    """
    rng = np.random.default_rng(seed)
    documents, training, test = world(n_landmarks, rng)
    words = Words([*documents, *(text for example in training + test for text in example[:2])])
    tokens = [words(text) for text in documents]
    embeddings = np.stack([text.mean(axis=0) for text in tokens])  # frozen: which words a document has
    embeddings -= embeddings.mean(axis=0)
    embeddings *= 4 / np.linalg.norm(embeddings, axis=1, keepdims=True)  # the query has length 1: scores reach 4
    variant = ragfast.RAGToken if by_token else ragfast.RAGSequence
    model = variant(
        ragfast.SimpleRetriever(len(words.index), rng=rng),
        ragfast.SimpleGenerator(len(words.index), len(words.index), hidden_dim=64, rng=rng),
        index=ragfast.FlatIndex.from_vectors(embeddings.astype(np.float32)),
        documents=tokens,
        k=k,
    )
    asked, answered, _ = words.examples(training)
    unseen = words.examples(test)
    monitor = CollapseMonitor(n_landmarks)
    adam = Adam(model, lr=0.02, retriever_lr=0.0)
    yield 0, model, unseen
    for epoch in over_epochs(range(epochs)):
        if epoch == warm_up:
            # A generator that cannot read yet would tell the retriever nothing but noise. From here on it is the slower
            # of the two, or it knew the answers by heart before the documents that have them were found.
            adam.retriever_lr, adam.lr = 0.03, 0.005
        if reshuffle:
            answered = [answered[i] for i in rng.permutation(len(answered))]
        for batch in rng.permutation(len(asked)).reshape(-1, batch_size):
            gradients = nll_and_gradients(model, [asked[i] for i in batch], [answered[i] for i in batch])
            adam.step(gradients)
            monitor.update(gradients.doc_ids, gradients.doc_logprobs)  # warns if all questions get the same documents
        yield epoch + 1, model, unseen


def measure(model: ragfast.RAGSequence | ragfast.RAGToken, test: Encoded) -> Measured:
    scores = model.score(test.questions, test.answers)
    found = [score.doc_ids.tolist() for score in scores]
    return Measured(
        nll=-float(np.mean([score.logprobs[0] for score in scores])),
        recall_1=float(np.mean([ids[0] == right for ids, right in zip(found, test.documents, strict=True)])),
        recall_5=float(np.mean([right in ids[:5] for ids, right in zip(found, test.documents, strict=True)])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--token", action="store_true", help="RAG-Token instead of RAG-Sequence")
    parser.add_argument(
        "--reshuffle", action="store_true", help="the control, which mostly collapses: answers of other questions"
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = iter
    print("questions of the test  -log p(y|x)  document found first  among five")
    for epoch, model, test in learn(
        by_token=options.token, reshuffle=options.reshuffle, epochs=options.epochs, seed=options.seed, over_epochs=tqdm
    ):
        if epoch % 2 == 0 or epoch == options.epochs:
            found = measure(model, test)
            print(f"after {epoch:2} epochs        {found.nll:11.2f}  {found.recall_1:20.0%}  {found.recall_5:10.0%}")


if __name__ == "__main__":
    main()
