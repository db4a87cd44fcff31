"""EMDR2: the retriever is trained by the marginal likelihood of the answer; the reader is constant."""

import numpy as np

from ragfast.rag.methods import emdr2_loss, emdr2_utility

token_logprobs = np.log([[[0.6, 0.5], [0.1, 0.2], [0.3, 0.1]]])  # 1 question, 3 documents, 2 tokens
null_logprobs = np.log([[0.2, 0.1]])  # the same answer under the empty document
nll = emdr2_loss(token_logprobs, np.zeros((1, 3)), grad=["doc_scores"], return_posterior=True)
utility = emdr2_utility(token_logprobs, null_logprobs, np.zeros((1, 3)))
print(f"loss {nll.loss:.4f}, posterior {nll.posterior.round(3)}, retrieval is worth {utility:.3f} nats")
