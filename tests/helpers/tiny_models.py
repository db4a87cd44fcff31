"""The configurations of the tiny models, and the vocabulary of their tokenizer: bytes and three special tokens."""

from __future__ import annotations

from typing import Any

PAD, BOS, EOS = 256, 257, 258
VOCAB = 260

SMALL = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
LLAMA_LIKE = SMALL | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
CAUSAL = ["llama", "gpt2", "gemma2", "mistral", "bloom", "lfm2"]
ENCODER_DECODER = ["bart", "t5"]


def config(kind: str) -> Any:
    """Of a model of one of these kinds."""
    import transformers as hf

    if kind == "llama":
        return hf.LlamaConfig(**LLAMA_LIKE)
    if kind == "gpt2":  # learned positions
        return hf.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=512)
    if kind == "gemma2":  # full and sliding layers in turn, soft-capped logits
        return hf.Gemma2Config(**LLAMA_LIKE, sliding_window=24, query_pre_attn_scalar=8)
    if kind == "mistral":  # every layer slides
        return hf.MistralConfig(**LLAMA_LIKE, sliding_window=16)
    if kind == "bloom":  # no position numbers
        return hf.BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=4)
    if kind == "lfm2":  # a convolution with a state of its own, then attention
        return hf.Lfm2Config(**LLAMA_LIKE, layer_types=["conv", "full_attention"], block_multiple_of=16)
    if kind == "bart":
        return hf.BartConfig(
            **SMALL,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=512,
            decoder_start_token_id=EOS,
            forced_eos_token_id=None,
        )
    assert kind == "t5"
    return hf.T5Config(**SMALL, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=PAD)
