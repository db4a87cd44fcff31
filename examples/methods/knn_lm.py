"""kNN-LM: what followed the nearest contexts votes for the next token."""

import numpy as np

from ragfast.rag.methods import KNNDatastore, knn_lm_logprobs

rng = np.random.default_rng(0)
store = KNNDatastore(rng.standard_normal((1000, 16)).astype(np.float32), tokens=np.arange(1000) % 5)
contexts = rng.standard_normal((2, 16)).astype(np.float32)
scores, tokens = store.search(contexts, 8)  # by squared distance
lm_logprobs = np.log(np.full((2, 5), 0.2))
print("neighbours' tokens", tokens.tolist())
print("p(v|x)", np.exp(knn_lm_logprobs(lm_logprobs, scores, tokens, knn_weight=0.25)).round(3).tolist())
