"""FiD: cross-attention scores before their softmax, averaged for each document, distilled into the retriever."""

import numpy as np

from ragfast.rag.methods import attention_scores, fid_distillation_loss

rng = np.random.default_rng(0)
before_softmax = rng.standard_normal((1, 2, 4, 3, 3, 6))  # (B,L,H,T,K,S)
token_mask = np.arange(6) < np.array([[[6], [4], [2]]])  # documents of 6, 4 and 2 tokens
reader = attention_scores(before_softmax[:, :, :, :1], token_mask=token_mask)  # of the first target token alone
loss, grad = fid_distillation_loss(np.zeros((1, 3)), reader, reduction="sum", return_grad=True)
print("reader's scores", reader.round(3), f"KL {loss:.4f}, gradient", grad.round(3))
