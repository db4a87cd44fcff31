"""Exact top-k retrieval and log-sum-exp marginalization for Retrieval-Augmented Generation (Lewis et al. 2020)."""

from ragfast import levels as _levels
from ragfast import sources
from ragfast import threads as _threads
from ragfast.decoding import marginalize_step
from ragfast.direct import search
from ragfast.divergence import kl_divergence
from ragfast.gather import gather_scores, gather_scores_grad
from ragfast.generation import Decoding, Generation, Retrieved, Step
from ragfast.generator import BatchGenerator, CallableGenerator, Decoder, DecodingGenerator, Generator, SimpleGenerator
from ragfast.index import FlatIndex, Hits, SearchStats, Snapshot
from ragfast.index.filters import Predicate, column
from ragfast.levels import available_isas, isa, set_isa
from ragfast.marginal import keyed_logsumexp, log_softmax, logsumexp, marginalize_sequence, marginalize_token
from ragfast.merge import merge_topk
from ragfast.nll import (
    NLL,
    rag_sequence_nll,
    rag_sequence_nll_from_logprobs,
    rag_token_nll,
    rag_token_nll_from_logprobs,
    target_logprobs,
)
from ragfast.rag import RAGSequence, RAGToken, Score
from ragfast.retriever import BatchRetriever, DenseRetriever, FilteringRetriever, Retriever, SimpleRetriever
from ragfast.storage import IndexFormatError
from ragfast.threads import get_num_threads, register_threadpoolctl, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "NLL",
    "BatchGenerator",
    "BatchRetriever",
    "CallableGenerator",
    "Decoder",
    "Decoding",
    "DecodingGenerator",
    "DenseRetriever",
    "FilteringRetriever",
    "FlatIndex",
    "Generation",
    "Generator",
    "Hits",
    "IndexFormatError",
    "Predicate",
    "RAGSequence",
    "RAGToken",
    "Retrieved",
    "Retriever",
    "Score",
    "SearchStats",
    "SimpleGenerator",
    "SimpleRetriever",
    "Snapshot",
    "Step",
    "available_isas",
    "column",
    "gather_scores",
    "gather_scores_grad",
    "get_num_threads",
    "isa",
    "keyed_logsumexp",
    "kl_divergence",
    "log_softmax",
    "logsumexp",
    "marginalize_sequence",
    "marginalize_step",
    "marginalize_token",
    "merge_topk",
    "rag_sequence_nll",
    "rag_sequence_nll_from_logprobs",
    "rag_token_nll",
    "rag_token_nll_from_logprobs",
    "register_threadpoolctl",
    "search",
    "set_isa",
    "set_num_threads",
    "sources",
    "target_logprobs",
]

_levels.set_isa_from_environment()
_threads.set_num_threads(_threads.default_num_threads())
