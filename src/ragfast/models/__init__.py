"""Models as parts of a RAG model: language models of transformers as generators, text encoders as retrievers' encoders.

``import ragfast.models`` is the caller's: ragfast itself never imports it. The extra ``models`` brings what it needs.
"""

from __future__ import annotations

try:
    from ragfast.models.causal import CausalLM
    from ragfast.models.encoder_decoder import EncoderDecoder
    from ragfast.models.encoders import DPREncoder, MeanPooled, SentenceEncoder
    from ragfast.models.prompts import TruncationWarning, chat_template, plain_template
except ModuleNotFoundError as error:
    raise ImportError(f"ragfast.models needs {error.name}: pip install 'ragfast-kernels[models]'") from error

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
