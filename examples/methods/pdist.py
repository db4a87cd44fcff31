"""Atlas, perplexity distillation: the retriever learns which document makes the answer likely."""

import numpy as np

from ragfast.rag.methods import pdist_loss

token_logprobs = np.log([[[0.6, 0.5, 0.9], [0.1, 0.2, 0.9], [0.3, 0.1, 0.9]]])  # 1 question, 3 documents, 3 tokens
doc_scores = np.zeros((1, 3))
for _ in range(60):
    loss, grad = pdist_loss(doc_scores, token_logprobs, return_grad=True)
    doc_scores -= 2 * grad
print(f"KL {loss:.4f}, p(z|x)", (np.exp(doc_scores) / np.exp(doc_scores).sum()).round(3))
