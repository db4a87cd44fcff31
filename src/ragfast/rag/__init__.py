"""RAG models over a retriever and a generator (Lewis et al. 2020), and what belongs to them.

`protocols` defines what a retriever and a generator are. `retrievers` and `generators` implement them, `models` has the
two RAG models, `decoding` and `beam` generate answers, `evaluation` measures them, and `tool` and `mcp` offer retrieval
as a tool. `hf` wraps Hugging Face models as generators and encoders, `training` trains, `methods` has the losses of
later papers, and `plots` draws posteriors.
"""

from ragfast._core import lazy

__all__, __getattr__, __dir__ = lazy.exports(__name__, __file__)
