# The public names of ragfast.marginal, for type checkers and for _core/lazy.py.
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
