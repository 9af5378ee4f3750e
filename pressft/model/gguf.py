"""Safetensors out of a GGUF file, once: loading them takes a second instead of half a minute."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pressft._assets import Progress


def convert(gguf: Path, target: Path, progress: Progress) -> None:
    """Safetensors out of a GGUF file: a model loaded from GGUF refuses to be saved itself."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def counted(tensors: Collection[Any], **_: object) -> Iterator[Any]:
        for done, tensor in enumerate(tensors):
            progress("converting smollm2-135m", done, len(tensors))
            yield tensor

    tqdm, reader.tqdm = reader.tqdm, counted  # its own bar would write over ours
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        source = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    finally:
        reader.tqdm = tqdm
    settings = source.config.to_diff_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = AutoModelForCausalLM.from_config(type(source.config).from_dict(settings))
    model.load_state_dict(source.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    progress("converting smollm2-135m", 1, 1)
