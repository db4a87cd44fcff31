# The public names of ragfast, for type checkers and for _core/lazy.py.
from ragfast import index as index, marginal as marginal, rag as rag, torch as torch
from ragfast.index.filters import column as column
from ragfast.index.flat import FlatIndex as FlatIndex
from ragfast.index.gather import gather_scores as gather_scores, gather_scores_grad as gather_scores_grad
from ragfast.index.merge import merge_topk as merge_topk
from ragfast.index.one_shot import search as search
from ragfast.index.snapshot import Hits as Hits, SearchStats as SearchStats, Snapshot as Snapshot
from ragfast.index.storage import IndexFormatError as IndexFormatError
from ragfast.marginal.decode_step import marginalize_step as marginalize_step
from ragfast.marginal.divergence import kl_divergence as kl_divergence
from ragfast.marginal.loss import (
    NLL as NLL,
    rag_sequence_nll as rag_sequence_nll,
    rag_sequence_nll_from_logprobs as rag_sequence_nll_from_logprobs,
    rag_token_nll as rag_token_nll,
    rag_token_nll_from_logprobs as rag_token_nll_from_logprobs,
    target_logprobs as target_logprobs,
)
from ragfast.marginal.lse import (
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    marginalize_sequence as marginalize_sequence,
    marginalize_token as marginalize_token,
    segment_logsumexp as segment_logsumexp,
)
from ragfast.rag.generators import SimpleGenerator as SimpleGenerator
from ragfast.rag.models import RAGSequence as RAGSequence, RAGToken as RAGToken
from ragfast.rag.retrievers import SimpleRetriever as SimpleRetriever
from ragfast.runtime import get_num_threads as get_num_threads, set_num_threads as set_num_threads

__version__: str
