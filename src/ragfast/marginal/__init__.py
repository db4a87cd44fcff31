"""Log-sum-exp, marginals, losses from logits, the decode step and divergences.

`lse` has log-sum-exp and the two marginals, `loss` the losses and their gradients, `decode_step` one step of RAG-Token
decoding, `divergence` the Kullback-Leibler divergence. A name loads its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragfast._core import lazy

if TYPE_CHECKING:
    from ragfast.marginal.decode_step import marginalize_step as marginalize_step
    from ragfast.marginal.divergence import kl_divergence as kl_divergence
    from ragfast.marginal.loss import (
        NLL as NLL,
    )
    from ragfast.marginal.loss import (
        rag_sequence_nll as rag_sequence_nll,
    )
    from ragfast.marginal.loss import (
        rag_sequence_nll_from_logprobs as rag_sequence_nll_from_logprobs,
    )
    from ragfast.marginal.loss import (
        rag_token_nll as rag_token_nll,
    )
    from ragfast.marginal.loss import (
        rag_token_nll_from_logprobs as rag_token_nll_from_logprobs,
    )
    from ragfast.marginal.loss import (
        target_logprobs as target_logprobs,
    )
    from ragfast.marginal.lse import (
        log_softmax as log_softmax,
    )
    from ragfast.marginal.lse import (
        logsumexp as logsumexp,
    )
    from ragfast.marginal.lse import (
        marginalize_sequence as marginalize_sequence,
    )
    from ragfast.marginal.lse import (
        marginalize_token as marginalize_token,
    )
    from ragfast.marginal.lse import (
        segment_logsumexp as segment_logsumexp,
    )

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
