# The public names of ragfast.rag, for type checkers and for _core/lazy.py.
from ragfast.rag import (
    evaluation as evaluation,
    hf as hf,
    mcp as mcp,
    methods as methods,
    plots as plots,
    tool as tool,
    training as training,
)
from ragfast.rag.decoding import Decoding as Decoding, Generation as Generation, Retrieved as Retrieved, Step as Step
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
