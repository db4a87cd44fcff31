"""Atlas, leave-one-out: a document counts for what the answer loses without it."""

import numpy as np

from ragfast.rag.methods import loop_loss

left_out = np.log([[[0.2, 0.3], [0.6, 0.8], [0.6, 0.7]]])  # log p(y_t | all documents but z): 1 question, 3 documents
doc_scores = np.zeros((1, 3))
for _ in range(60):
    loss, grad = loop_loss(doc_scores, left_out, return_grad=True)
    doc_scores -= 2 * grad
print(f"KL {loss:.4f}, p(z|x)", (np.exp(doc_scores) / np.exp(doc_scores).sum()).round(3))
