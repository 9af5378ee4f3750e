"""Adapters come off without a trace, start alike, and refuse a cut that is not theirs."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from states import fingerprint

from pressft.errors import RefusedError
from pressft.model import adapter, surgery
from pressft.model.base import Base

Load = Callable[..., Base]


def nudge(model: torch.nn.Module) -> None:
    """Change every trainable weight, as training would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1


@pytest.mark.parametrize("unpack", [True, False], ids=["unpacked", "packed"])
def test_law_2_cutting_adapting_and_training_leave_no_trace(
    family: str, load: Load, ids: torch.Tensor, unpack: bool
) -> None:
    base = load(family, unpack=unpack)
    before, logits = fingerprint(base.model), base.model(ids).logits
    for rank in (2, 4):
        with surgery.removed(base.model, [1]), adapter.attached(base.model, rank, 0) as wrapped:
            wrapped(input_ids=ids, labels=ids).loss.backward()
            nudge(wrapped)
            assert not torch.equal(base.model(ids).logits, logits)
    assert fingerprint(base.model) == before
    assert torch.equal(base.model(ids).logits, logits)


def test_an_adapter_starts_as_nothing_on_every_linear_layer(load: Load, ids: torch.Tensor) -> None:
    base = load("tiny-llama")
    logits = base.model(ids).logits
    with adapter.attached(base.model, 4, 0) as wrapped:
        assert torch.equal(wrapped(ids).logits, logits)
        names = [name for name, p in wrapped.named_parameters() if p.requires_grad]
        assert len(names) == 4 * 7 * 2  # layers, linear layers in each, A and B
        # rank x (in + out) of q, k, v, o, gate, up, down
        sides = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 128)
        n_trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        assert n_trainable == 4 * 4 * sides


def test_the_start_depends_on_the_seed_alone(load: Load) -> None:
    base = load("tiny-llama")
    starts = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        with adapter.attached(base.model, 4, seed) as wrapped:
            weights = [p.detach().clone() for p in wrapped.parameters() if p.requires_grad]
        starts.append(torch.cat([w.flatten() for w in weights]))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_saved_adapter_gives_the_same_logits_on_its_cut(
    family: str, load: Load, ids: torch.Tensor, tmp_path: Path
) -> None:
    base = load(family)
    with surgery.removed(base.model, [1]) as removal:
        with adapter.attached(base.model, 4, 0) as wrapped:
            nudge(wrapped)
            logits = wrapped(ids).logits
            adapter.save(wrapped, removal, base, tmp_path)
        loaded = adapter.load(base.model, removal, base.identity, tmp_path)
        assert torch.equal(loaded(ids).logits, logits)
        loaded.unload()
        base.model.__dict__.pop("peft_config", None)


@pytest.mark.parametrize("layers", [[], [2]])
def test_an_adapter_of_another_cut_is_refused(
    load: Load, layers: list[int], tmp_path: Path
) -> None:
    base = load("tiny-llama")
    with (
        surgery.removed(base.model, [1]) as removal,
        adapter.attached(base.model, 2, 0) as wrapped,
    ):
        adapter.save(wrapped, removal, base, tmp_path)
    with surgery.removed(base.model, layers) as other, pytest.raises(RefusedError, match=r"\[1\]"):
        adapter.load(base.model, other, base.identity, tmp_path)
    with pytest.raises(RefusedError, match="trained on tiny-llama"):
        adapter.load(base.model, removal, "another", tmp_path)


def test_an_update_in_one_operation_is_that_of_peft(family: str, load: Load) -> None:
    base = load(family)
    with adapter.attached(base.model, 4, 0) as wrapped:
        nudge(wrapped)
        layers = [m for m in wrapped.modules() if "forward" in vars(m) and hasattr(m, "lora_A")]
        assert len(layers) == 4 * 7
        for layer in layers:
            torch.manual_seed(0)
            weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
            x = torch.randn(2, 9, layer.in_features, requires_grad=True)
            slope = torch.randn(2, 9, layer.out_features)
            ours, theirs = layer(x), type(layer).forward(layer, x)
            torch.testing.assert_close(ours, theirs)
            found = torch.autograd.grad(ours, [x, *weights], slope)
            torch.testing.assert_close(found, torch.autograd.grad(theirs, [x, *weights], slope))


def test_an_update_in_bfloat16_is_that_of_peft_but_for_rounding(load: Load) -> None:
    model = copy.deepcopy(load("tiny-llama", "none").model).to(torch.bfloat16)
    with adapter.attached(model, 4, 0) as wrapped, torch.autocast("cpu", torch.bfloat16):
        nudge(wrapped)
        for layer in (m for m in wrapped.modules() if hasattr(m, "lora_A")):
            weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
            x = torch.randn(2, 9, layer.in_features, dtype=torch.bfloat16, requires_grad=True)
            ours, theirs = layer(x), type(layer).forward(layer, x)
            slope = torch.randn_like(ours)
            found = torch.autograd.grad(ours, [x, *weights], slope)
            expected = torch.autograd.grad(theirs, [x, *weights], slope)
            for seen, right in zip([ours, *found], [theirs, *expected], strict=True):
                assert seen.dtype == right.dtype
                apart = (seen - right).detach().float().norm() / right.detach().float().norm()
                assert float(apart) < 1e-2


def test_packed_layers_keep_the_forward_of_peft(load: Load) -> None:
    base = load("tiny-llama", unpack=False)
    with adapter.attached(base.model, 4, 0) as wrapped:
        assert not [m for m in wrapped.modules() if "forward" in vars(m) and hasattr(m, "lora_A")]
