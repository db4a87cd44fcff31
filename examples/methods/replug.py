"""REPLUG: the next token of a black-box language model, mixed over one prompt for each document."""

import numpy as np

from ragfast.rag.methods import replug_logprobs, replug_nll

logits = np.log([[0.70, 0.20, 0.10], [0.05, 0.90, 0.05]])  # 2 documents, 3 tokens
doc_scores = np.array([91.0, 90.0])
print("mixture", np.exp(replug_logprobs(logits, doc_scores)).round(4))
values, tokens = replug_logprobs(logits, doc_scores, n_best=1)
print("best token", tokens, np.exp(values).round(4))
token_logprobs = np.log([[[0.7, 0.4, 0.5], [0.1, 0.6, 0.5]]])  # a continuation under either document
print(f"perplexity {np.exp(replug_nll(token_logprobs, [doc_scores], reduction='token_mean')):.3f}")
