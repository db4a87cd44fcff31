"""Log-sum-exp, marginals, losses from logits, the decode step and divergences.

`lse` has log-sum-exp and the two marginals, `loss` the losses and their gradients, `decode_step` one step of RAG-Token
decoding, `divergence` the Kullback-Leibler divergence. A name loads its module when it is first used.
"""

from ragfast._core import lazy

__all__, __getattr__, __dir__ = lazy.exports(__name__, __file__)
