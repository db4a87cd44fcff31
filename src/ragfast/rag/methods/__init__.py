"""Methods that followed RAG, as losses and scorers on the kernels of ragfast: NumPy alone, gradients included.

Atlas, EMDR2, REALM, REPLUG, kNN-LM, FiD distillation, Self-RAG and RETRO. Where released code and paper differ, the
paper is followed, and an option gives the released numbers. The losses for torch are in ``ragfast.rag.methods.torch``,
which is the caller's to import.

>>> import numpy as np, ragfast.rag.methods
>>> token_logprobs = np.log([[[0.5, 0.5], [0.75, 1.0]]])  # an answer of 2 tokens under 2 documents
>>> loss, grad = ragfast.rag.methods.pdist_loss([[0.0, 0.0]], token_logprobs, return_grad=True)
>>> grad.round(4).tolist()  # the second document makes the answer likelier: its score should grow
[[0.25, -0.25]]
"""

from ragfast.rag.methods.attention import attention_scores
from ragfast.rag.methods.distillation import adist_loss, fid_distillation_loss, loop_loss, pdist_loss, replug_lsr_loss
from ragfast.rag.methods.emdr2 import atlas_emdr2_loss, emdr2_loss, emdr2_utility
from ragfast.rag.methods.knn_lm import KNNDatastore, knn_lm_logprobs, knn_lm_target_logprobs
from ragfast.rag.methods.realm import marginal_log_loss, realm_nll, realm_reader_nll
from ragfast.rag.methods.replug import replug_logprobs, replug_nll
from ragfast.rag.methods.retro import retro_neighbours
from ragfast.rag.methods.self_rag import self_rag_answers, self_rag_retrieve, self_rag_scores

__all__ = [
    "KNNDatastore",
    "adist_loss",
    "atlas_emdr2_loss",
    "attention_scores",
    "emdr2_loss",
    "emdr2_utility",
    "fid_distillation_loss",
    "knn_lm_logprobs",
    "knn_lm_target_logprobs",
    "loop_loss",
    "marginal_log_loss",
    "pdist_loss",
    "realm_nll",
    "realm_reader_nll",
    "replug_logprobs",
    "replug_lsr_loss",
    "replug_nll",
    "retro_neighbours",
    "self_rag_answers",
    "self_rag_retrieve",
    "self_rag_scores",
]
