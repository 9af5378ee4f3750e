"""Tiny random models with a byte tokenizer, made from a config: for tests and `smoke.py`.

They know nothing, but they have every part of the real ones: grouped-query attention, tied
embeddings, and for Qwen3 the norms of queries and keys.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

END = "<|end|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a UTF-8 byte, and one for the end of a text: 257 in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(BPE({symbol: i for i, symbol in enumerate([*alphabet, END])}, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token=END, pad_token=END)


def model(family: str, n_layers: int = 4, seed: int = 0) -> PreTrainedModel:
    """Random model of `n_layers`, width 64: some 200,000 parameters in four layers.

    The weights are drawn wider than usual (0.1), so that every layer matters to the logits.
    """
    shape = {
        "vocab_size": 257,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 256,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "tiny-qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def save(family: str, folder: Path) -> None:
    """Write model and tokenizer as transformers would."""
    model(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
