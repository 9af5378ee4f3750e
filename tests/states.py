"""All that a model is, as a comparable value: every tensor, name, flag and setting."""

import hashlib
from typing import Any

import torch
from torch import nn


def tensor_hash(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Tensors by name and bytes, modules by name, class and mode, flags, layer indices, config."""
    return {
        "tensors": {
            name: (tensor_hash(value), str(value.dtype), tuple(value.shape))
            for name, value in model.state_dict().items()
        },
        "parameters": {
            name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()
        },
        "modules": [
            (name, type(module).__name__, module.training, getattr(module, "layer_idx", None))
            for name, module in model.named_modules()
        ],
        "attributes": sorted(vars(model)),
        "config": model.config.to_dict(),
    }
