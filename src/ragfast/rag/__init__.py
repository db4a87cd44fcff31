"""RAG models over a retriever and a generator (Lewis et al. 2020), and what belongs to them.

`retrievers` and `generators` have the protocols and the classes that satisfy them, `models` the two RAG models,
`decoding` and `beam` how answers are generated, `evaluation` the measures, `tool` and `mcp` retrieval as a tool. `hf`
makes generators and encoders of Hugging Face models, `training` trains, `methods` has losses of later papers, `plots`
draws posteriors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragfast._core import lazy

if TYPE_CHECKING:
    from ragfast.rag.decoding import (
        Decoding as Decoding,
    )
    from ragfast.rag.decoding import (
        Generation as Generation,
    )
    from ragfast.rag.decoding import (
        Retrieved as Retrieved,
    )
    from ragfast.rag.decoding import (
        Step as Step,
    )
    from ragfast.rag.generators import (
        BatchGenerator as BatchGenerator,
    )
    from ragfast.rag.generators import (
        CallableGenerator as CallableGenerator,
    )
    from ragfast.rag.generators import (
        Decoder as Decoder,
    )
    from ragfast.rag.generators import (
        DecodingGenerator as DecodingGenerator,
    )
    from ragfast.rag.generators import (
        Generator as Generator,
    )
    from ragfast.rag.generators import (
        SimpleGenerator as SimpleGenerator,
    )
    from ragfast.rag.models import RAGSequence as RAGSequence
    from ragfast.rag.models import RAGToken as RAGToken
    from ragfast.rag.models import Score as Score
    from ragfast.rag.retrievers import (
        BatchRetriever as BatchRetriever,
    )
    from ragfast.rag.retrievers import (
        DenseRetriever as DenseRetriever,
    )
    from ragfast.rag.retrievers import (
        FilteringRetriever as FilteringRetriever,
    )
    from ragfast.rag.retrievers import (
        Retriever as Retriever,
    )
    from ragfast.rag.retrievers import (
        SimpleRetriever as SimpleRetriever,
    )

__all__, __getattr__, __dir__ = lazy.exports(
    __name__,
    {
        "decoding": "Decoding Generation Retrieved Step",
        "generators": "BatchGenerator CallableGenerator Decoder DecodingGenerator Generator SimpleGenerator",
        "models": "RAGSequence RAGToken Score",
        "retrievers": "BatchRetriever DenseRetriever FilteringRetriever Retriever SimpleRetriever",
    },
    ("evaluation", "hf", "mcp", "methods", "plots", "tool", "training"),
)
