"""REALM: masked tokens predicted with the help of documents, of which one is the null document."""

import numpy as np

from ragfast.rag.methods import realm_nll, realm_reader_nll

token_logprobs = np.log(
    [[[0.7, 0.6], [0.2, 0.1], [0.3, 0.3]]]
)  # two documents, then the null document; 2 masked tokens
nll = realm_nll(token_logprobs, [[1.5, 0.5]], null_score=0.0, grad=["doc_scores"], return_posterior=True)
print(f"loss {nll.loss:.4f}, p(z|x,y) {nll.posterior.round(3)}, gradient {nll.doc_scores_grad.round(3)}")

span_scores = np.array([[[2.0, 0.5, -1.0], [0.0, 0.0, -np.inf]]])  # the second document has two spans
correct = np.array([[[True, False, False], [False, True, False]]])
print(f"reader {realm_reader_nll(span_scores, [[1.5, 0.5]], correct):.4f}")
