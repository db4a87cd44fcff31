"""Atlas, attention distillation: the retriever learns what the reader's cross-attention looked at."""

import numpy as np

from ragfast.rag.methods import adist_loss, attention_scores

rng = np.random.default_rng(0)
weights = rng.dirichlet(np.ones(12), size=(1, 2, 4, 3)).reshape(1, 2, 4, 3, 3, 4)  # (B,L,H,T,K,S), a softmax over K x S
value_norms = rng.random((1, 2, 4, 3, 4))
attention = attention_scores(weights, value_norms)
loss, grad = adist_loss(np.zeros((1, 3)), attention, target_temperature=0.01, return_grad=True)
print("attention", attention.round(4), f"KL {loss:.4f}, gradient", grad.round(4))
