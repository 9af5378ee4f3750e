"""Norms as one operation are those of the models, and only where they are that."""

import copy

import pytest
import torch
from families import FAMILIES, layers_of, make
from torch import nn

from pressft.model.fused import norm


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_every_family_says_what_it_said(name: str, dtype: torch.dtype) -> None:
    model = weighted(name).to(dtype)
    ids = torch.arange(40)[None]
    before = model(ids).logits.float()
    norm.fuse(model)
    after = model(ids).logits.float()
    rounding = 1e-6 if dtype == torch.float32 else 3e-2
    assert float((after - before).norm() / before.norm()) < rounding


@pytest.mark.parametrize(
    ("name", "n"), [("tiny-llama", 2), ("tiny-qwen3", 4), ("gpt2", 0), ("gemma3", 0)]
)
def test_norms_that_say_more_are_left_alone(name: str, n: int) -> None:
    """GPT-2 takes the mean off, Gemma multiplies by one more than its weight."""
    layer = layers_of(weighted(name))[0]
    norm.fuse(layer)
    assert sum("forward" in vars(module) for module in layer.modules()) == n


def test_a_copy_has_norms_of_its_own() -> None:
    model = weighted("tiny-llama")
    norm.fuse(model)
    copied, ids = copy.deepcopy(model), torch.arange(9)[None]
    before = model(ids).logits
    copied.model.norm.weight.data.zero_()
    assert torch.equal(model(ids).logits, before)
    assert not copied(ids).logits.any()


def weighted(name: str) -> nn.Module:
    """A frozen model whose norms have weights of their own."""
    torch.manual_seed(0)
    model = make(name).requires_grad_(False)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model
