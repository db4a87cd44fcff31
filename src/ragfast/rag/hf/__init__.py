"""Models as parts of a RAG model: language models of transformers as generators, text encoders as retrievers' encoders.

``import ragfast.rag.hf`` is the caller's: ragfast itself never imports it. The extra ``models`` brings what it needs.
"""

from __future__ import annotations

try:
    from ragfast.rag.hf.causal import CausalLM
    from ragfast.rag.hf.encoder_decoder import EncoderDecoder
    from ragfast.rag.hf.encoders import DPREncoder, MeanPooled, SentenceEncoder
    from ragfast.rag.hf.prompts import TruncationWarning, chat_template, plain_template
except ModuleNotFoundError as error:
    raise ImportError(f"ragfast.rag.hf needs {error.name}: pip install 'ragfast-kernels[models]'") from error

__all__ = [
    "CausalLM",
    "DPREncoder",
    "EncoderDecoder",
    "MeanPooled",
    "SentenceEncoder",
    "TruncationWarning",
    "chat_template",
    "plain_template",
]
