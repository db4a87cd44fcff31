"""SmolLM2-135M-Instruct as the generator p(y | x, z), a `ragfast.rag.hf.CausalLM`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ragfast.rag.hf import CausalLM, chat_template

INSTRUCTION = "Answer the question in a few words, using the passage."
"""So asked, greedy RAG-Token has 49 of the demo's 70 known answers in what it says. It answers in sentences, so that a
known answer of one word gets a low log p(y|x); worked examples in the prompt mend that, and fewer answers are right.
"""


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the model in `gguf` to `folder` as float32 safetensors and a tokenizer, which load 50 times faster."""
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    quantized: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # transformers refuses to save a model that came from GGUF; its weights are plain tensors by now.
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantized.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class LanguageModel(CausalLM):
    """SmolLM2 with its chat template, in float32.

    Parameters
    ----------
    folder
        A Hugging Face model folder: configuration, safetensors, tokenizer. Nothing is downloaded.
    """

    def __init__(self, folder: Path) -> None:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        super().__init__(model, tokenizer, template=chat_template(tokenizer, INSTRUCTION))
