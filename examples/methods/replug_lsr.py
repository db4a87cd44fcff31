"""REPLUG LSR: the retriever learns what the language model prefers, by KL(P || Q)."""

import numpy as np

from ragfast.rag.methods import replug_lsr_loss

token_logprobs = np.log([[[0.6, 0.5], [0.1, 0.2], [0.3, 0.1]]])  # 1 context, 3 documents, 2 tokens of the continuation
for direction in ("reverse", "forward"):  # the paper's, and that of the released code
    doc_scores = np.zeros((1, 3))
    for _ in range(100):
        loss, grad = replug_lsr_loss(doc_scores, token_logprobs, direction=direction, return_grad=True)
        doc_scores -= grad
    print(f"{direction}: KL {loss:.1e}, p(z|x)", (np.exp(doc_scores) / np.exp(doc_scores).sum()).round(3))
