"""Exact top-k retrieval and log-sum-exp marginalization for Retrieval-Augmented Generation (Lewis et al. 2020)."""

from ragfast import levels as _levels
from ragfast import threads as _threads
from ragfast.generator import Decoder, DecodingGenerator, Generator, SimpleGenerator
from ragfast.index import FlatIndex, Hits, SearchStats, search
from ragfast.levels import available_isas, isa, set_isa
from ragfast.marginal import log_softmax, logsumexp, marginalize_sequence, marginalize_token
from ragfast.rag import Generation, RAGSequence, RAGToken, Score
from ragfast.retriever import Retriever, SimpleRetriever
from ragfast.threads import get_num_threads, register_threadpoolctl, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "Decoder",
    "DecodingGenerator",
    "FlatIndex",
    "Generation",
    "Generator",
    "Hits",
    "RAGSequence",
    "RAGToken",
    "Retriever",
    "Score",
    "SearchStats",
    "SimpleGenerator",
    "SimpleRetriever",
    "available_isas",
    "get_num_threads",
    "isa",
    "log_softmax",
    "logsumexp",
    "marginalize_sequence",
    "marginalize_token",
    "register_threadpoolctl",
    "search",
    "set_isa",
    "set_num_threads",
]

_levels.set_isa_from_environment()
_threads.set_num_threads(_threads.default_num_threads())
