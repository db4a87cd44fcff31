"""Marginalization, its losses, divergence and chosen scores over CPU tensors of torch, differentiable: names, keywords
and numbers of the functions of ragfast, less what autograd makes superfluous (grad, out).

``import ragfast.torch`` is the caller's: ragfast itself never imports torch, which the extra ``torch`` brings. Tensors
are read where they lie (a copy is made only of what is not contiguous); results are float64 for float64, else float32.
Gradients are the analytic ones: of the logits, one read and one write of their size in the backward pass and nothing of
that size besides. They can be taken once, not twice. Whatever needs no gradient gets none calculated, so that a frozen
generator costs nothing.

torch.compile does not see through these functions: where a compiled model calls one, call
``torch.compiler.disable(ragfast.torch.rag_token_nll)``.

ValueError for a tensor that is not in CPU memory, TypeError for what is not a tensor; all else as in the functions of
the same names in ragfast.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401  # so that who lacks it is told of the extra
except ImportError as error:
    raise ImportError("ragfast.torch needs torch: pip install 'ragfast-kernels[torch]'") from error

from ragfast.torch.divergence import kl_divergence
from ragfast.torch.gather import gather_scores
from ragfast.torch.loss import (
    rag_sequence_nll,
    rag_sequence_nll_from_logprobs,
    rag_token_nll,
    rag_token_nll_from_logprobs,
    target_logprobs,
)
from ragfast.torch.lse import log_softmax, logsumexp, marginalize_sequence, marginalize_token

__all__ = [
    "gather_scores",
    "kl_divergence",
    "log_softmax",
    "logsumexp",
    "marginalize_sequence",
    "marginalize_token",
    "rag_sequence_nll",
    "rag_sequence_nll_from_logprobs",
    "rag_token_nll",
    "rag_token_nll_from_logprobs",
    "target_logprobs",
]
