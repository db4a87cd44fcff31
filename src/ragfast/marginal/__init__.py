"""Log-sum-exp, marginals, losses from logits, the decode step and divergences.

`lse` has log-sum-exp and the two marginals, `loss` the losses and their gradients, `decode_step` one step of RAG-Token
decoding, `divergence` the Kullback-Leibler divergence.
"""
