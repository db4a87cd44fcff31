"""RAG models over a retriever and a generator (Lewis et al. 2020), and what belongs to them.

`protocols` defines what a retriever and a generator are. `retrievers` and `generators` implement them, `models` has the
two RAG models, `decoding` and `beam` generate answers, `evaluation` measures them, and `tool` and `mcp` offer retrieval
as a tool. `hf` wraps Hugging Face models as generators and encoders, `training` trains, `methods` has the losses of
later papers, and `plots` draws posteriors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragfast._core import lazy

if TYPE_CHECKING:
    from ragfast.rag.decoding import (
        Decoding as Decoding,
        Generation as Generation,
        Retrieved as Retrieved,
        Step as Step,
    )
    from ragfast.rag.generators import CallableGenerator as CallableGenerator, SimpleGenerator as SimpleGenerator
    from ragfast.rag.models import RAGSequence as RAGSequence, RAGToken as RAGToken, Score as Score
    from ragfast.rag.protocols import (
        BatchGenerator as BatchGenerator,
        BatchRetriever as BatchRetriever,
        Decoder as Decoder,
        DecodingGenerator as DecodingGenerator,
        FilteringRetriever as FilteringRetriever,
        Generator as Generator,
        Retriever as Retriever,
    )
    from ragfast.rag.retrievers import DenseRetriever as DenseRetriever, SimpleRetriever as SimpleRetriever

__all__, __getattr__, __dir__ = lazy.exports(
    __name__,
    {
        "decoding": "Decoding Generation Retrieved Step",
        "generators": "CallableGenerator SimpleGenerator",
        "models": "RAGSequence RAGToken Score",
        "protocols": "BatchGenerator BatchRetriever Decoder DecodingGenerator FilteringRetriever Generator Retriever",
        "retrievers": "DenseRetriever SimpleRetriever",
    },
    ("evaluation", "hf", "mcp", "methods", "plots", "tool", "training"),
)
