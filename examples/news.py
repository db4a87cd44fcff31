"""An index that lives: news come and go, a question is asked of some of them, the program ends and begins again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ragfast
from ragfast import column

NEWS = {
    "moon-1": ("2025-03-02", "science", "a lander has set down on the moon with ten instruments"),
    "moon-2": ("2025-03-03", "science", "the moon lander has sent its first pictures of the ground"),
    "vote-1": ("2025-02-23", "politics", "polls have closed and the votes of the election are counted"),
    "vote-2": ("2025-02-24", "politics", "the election is decided and talks on a government begin"),
    "film-1": ("2025-03-02", "culture", "a film about a dancer has won the prize for the best picture"),
}
MORE = {
    "moon-3": ("2025-03-14", "science", "the moon lander is asleep now that the sun has set on the ground"),
    "film-1": ("2025-03-03", "culture", "a film about a dancer has won five prizes and the best picture"),  # corrected
}


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """A stand-in for an encoder: the words of a text, each at a place of its own or nearly so. Yours may be any."""
    embeddings = np.zeros((len(texts), 4096), np.float32)
    for embedding, text in zip(embeddings, texts, strict=True):
        for word in text.split():
            embedding[int.from_bytes(word.encode()) % 4093] += 1
    return embeddings


def put(index: ragfast.FlatIndex, news: dict[str, tuple[str, str, str]]) -> None:
    """What is new is added, what is known replaced; in one step for whoever searches meanwhile."""
    days, subjects, texts = (list(values) for values in zip(*news.values(), strict=True))
    stories = [name.partition("-")[0] for name in news]
    index.upsert(list(news), encode(texts), metadata={"day": days, "subject": subjects, "story": stories})


def show(what: str, index: ragfast.FlatIndex, question: str, **how: Any) -> None:
    hits = index.search(encode([question]), k=2, **how)
    print(f"{what}, version {index.version} of {len(index)} documents:")
    for name, score in zip(hits.ids[0], hits.scores[0], strict=True):
        if name is not None:
            print(f"  {score:.2f}  {name}")


QUESTION = "what has happened on the moon"

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "news.index"

    index = ragfast.FlatIndex(4096, metric="cosine")
    put(index, NEWS)
    show("at first", index, QUESTION)
    index.save(path)

    # Some other day.
    index = ragfast.FlatIndex.open(path)
    yesterday = index.snapshot()
    put(index, MORE)
    old = index.ids[index.metadata["day"] < "2025-03-01"]
    print(f"{index.remove(old)} old ones removed, {len(yesterday)} still in yesterday's snapshot")
    show("in March, from the third", index, QUESTION, filter=column("day") >= "2025-03-03")
    show("one of each story", index, QUESTION, group_by="story", max_per_group=1)
    show("not of the story that I read", index, QUESTION, group_by="story", exclude_groups=["moon"])
    index.save(path)

    assert ragfast.FlatIndex.open(path).ids.tolist() == index.ids.tolist()
