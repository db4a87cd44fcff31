"""EMDR2 as Atlas has it: from logits, with a temperature for the reader and one for the retriever."""

import numpy as np

from ragfast.rag.methods import atlas_emdr2_loss

rng = np.random.default_rng(0)
logits, doc_scores, targets = (
    rng.standard_normal((2, 3, 4, 50)),
    rng.standard_normal((2, 3)),
    rng.integers(0, 50, (2, 4)),
)
targets[1, 2:] = -100  # a shorter answer
options = {"ignore_index": -100, "temperature": 0.1, "target_temperature": 0.5}
released = {"marginal": "token", "reduction": "token_mean"}
print(f"as in the paper {atlas_emdr2_loss(logits, doc_scores, targets, **options):.4f}")
print(f"as released {atlas_emdr2_loss(logits, doc_scores, targets, **options, **released):.4f}")
