"""Search as a tool that a language model calls: by function calling, and in its text as Toolformer does."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import ragfast
from ragfast.rag.tool import SearchTool

PASSAGES = {
    "Eiffel Tower": "The Eiffel Tower in Paris was built in 1889 by Gustave Eiffel.",
    "Mount Everest": "Mount Everest is 8,849 meters tall and located in the Himalayas.",
    "Amazon": "The Amazon River flows through South America for 6,400 kilometers.",
}


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """A stand-in for an encoder: which groups of three letters are in a text. Yours may be any callable."""
    embeddings = np.zeros((len(texts), 512), np.float32)
    for embedding, text in zip(embeddings, texts, strict=True):
        letters = text.lower()
        for i in range(len(letters) - 2):
            embedding[int.from_bytes(letters[i : i + 3].encode()) % 509] = 1
    norms: NDArray[np.float32] = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / norms


titles, texts = list(PASSAGES), list(PASSAGES.values())
retriever = ragfast.rag.DenseRetriever(encode, temperature=0.05)
tool = SearchTool(retriever, ragfast.FlatIndex.from_vectors(encode(texts)), texts, titles=titles, k=2)

print("What the model is told:", json.dumps(tool.openai(), indent=1), sep="\n")

# What a model with function calling answers is a name and JSON; what it gets back is JSON.
print(json.dumps(tool.call('{"query": "How tall is Mount Everest?", "k": 1}'), indent=1))
try:
    tool.call('{"query": "How tall is Mount Everest?", "k": 1000}')
except ValueError as error:
    print("what the model is told of a wrong call:", error)

# A model that calls in its text stops at "]", is given the result, and writes on.
print(tool.fill('The Eiffel Tower was built in [Search("When was the Eiffel Tower built?")]'))
