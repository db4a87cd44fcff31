"""RETRO: the nearest chunks of each chunk, none of its own document, ties by id."""

import numpy as np

from ragfast.rag.methods import retro_neighbours

rng = np.random.default_rng(0)
chunks = rng.standard_normal((500, 32)).astype(np.float32)
documents = np.repeat(np.arange(25), 20)  # 25 documents of 20 chunks
chunks[480:] = chunks[:20]  # the last is a copy of the first
scores, ids = retro_neighbours(chunks, documents, k=2)
print("chunk 0: neighbours", ids[0].tolist(), "squared distances", (0 - scores[0]).round(3).tolist())
print("of its own document:", int((documents[ids] == documents[:, None]).sum()))
