"""Tiny random models of every shape we cut, and how to let a part of each write nothing."""

import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pressft.model import tiny

SHAPE = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
FAMILIES = ["tiny-llama", "tiny-qwen3", "qwen2", "mistral", "gemma3", "gpt2"]


def make(family: str) -> PreTrainedModel:
    """A model of four layers, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
        elif family == "mistral":
            model = MistralForCausalLM(MistralConfig(**SHAPE, head_dim=16, sliding_window=8))
        elif family == "gemma3":
            config = Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8)
            config.layer_types = ["sliding_attention", "full_attention"] * 2
            model = Gemma3ForCausalLM(config)
        elif family == "gpt2":
            shape = {"vocab_size": 257, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 64}
            ends = {"bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256}
            model = GPT2LMHeadModel(GPT2Config(**shape, **ends, initializer_range=0.1))
        else:
            model = tiny.model(family)
    return model.eval()


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def silence_by_name(model: PreTrainedModel, part: int | str) -> None:
    """Zero the output projections of a layer or of a half of it, by their names."""
    half, _, index = str(part).rpartition(":")
    layer = layers_of(model)[int(index)]
    if hasattr(layer, "attn"):
        outputs = {"attention": layer.attn.c_proj, "mlp": layer.mlp.c_proj}
    else:
        outputs = {"attention": layer.self_attn.o_proj, "mlp": layer.mlp.down_proj}
    for name, module in outputs.items():
        if half in ("", name):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
