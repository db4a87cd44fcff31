"""Log-sum-exp, marginals, losses from logits, the decode step and divergences.

`lse` has log-sum-exp and the two marginals, `loss` the losses and their gradients, `decode_step` one step of RAG-Token
decoding, `divergence` the Kullback-Leibler divergence. A name loads its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragfast._core import lazy

if TYPE_CHECKING:
    from ragfast.marginal.decode_step import *  # noqa: F403  # what its __all__ names
    from ragfast.marginal.divergence import *  # noqa: F403  # what its __all__ names
    from ragfast.marginal.loss import *  # noqa: F403  # what its __all__ names
    from ragfast.marginal.lse import *  # noqa: F403  # what its __all__ names

__all__, __getattr__, __dir__ = lazy.exports(
    __name__,
    {
        "decode_step": "marginalize_step",
        "divergence": "kl_divergence",
        "loss": "NLL rag_sequence_nll rag_sequence_nll_from_logprobs rag_token_nll rag_token_nll_from_logprobs "
        "target_logprobs",
        "lse": "log_softmax logsumexp marginalize_sequence marginalize_token segment_logsumexp",
    },
)
