"""Self-RAG: whether to retrieve, which document's segment is best, which short answer wins."""

import numpy as np

from ragfast.rag.methods import self_rag_answers, self_rag_retrieve, self_rag_scores

print("retrieve:", bool(self_rag_retrieve(np.log([0.35, 0.65]))))  # [Retrieval], [No Retrieval]
token_logprobs = np.log([[0.6, 0.9], [0.5, 0.8], [0.7, 0.7]])  # the segment under each of 3 documents
relevance = np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])  # [Relevant], [Irrelevant]
support = np.log([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])  # fully, partially, not
scores = self_rag_scores(token_logprobs, relevance=relevance, support=support)
print("segments", scores.round(3), "answers", self_rag_answers(scores, ["true", "false", "false"]))
