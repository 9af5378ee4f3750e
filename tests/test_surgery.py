"""Laws 1 to 3 on tiny models: what a cut does, that it can be undone, that it can be saved."""

import copy
from pathlib import Path

import pytest
import torch
from states import fingerprint
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from pressft.errors import UsageError
from pressft.spec import Removal
from pressft.surgery import remove, removed

CUTS = [(0,), (1,), (2,), (3,), (0, 3), (1, 2)]


def silence(model: PreTrainedModel, layer: int) -> None:
    """Let a layer write nothing into the residual stream, without removing it."""
    block = model.model.layers[layer]
    torch.nn.init.zeros_(block.self_attn.o_proj.weight)
    torch.nn.init.zeros_(block.mlp.down_proj.weight)


def greedy(model: PreTrainedModel, ids: torch.Tensor, *, cache: bool) -> torch.Tensor:
    mask = torch.ones_like(ids)
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=8,
        do_sample=False,
        use_cache=cache,
        eos_token_id=None,
        pad_token_id=256,
    )


@pytest.mark.parametrize("layers", CUTS)
def test_law_1_a_removed_layer_is_a_layer_that_writes_nothing(
    model: PreTrainedModel, ids: torch.Tensor, layers: tuple[int, ...]
) -> None:
    silent = copy.deepcopy(model)
    for layer in layers:
        silence(silent, layer)
    whole = model(ids).logits
    remove(model, layers)
    assert torch.equal(model(ids).logits, silent(ids).logits)
    assert not torch.allclose(model(ids).logits, whole)


@pytest.mark.parametrize("layers", CUTS)
def test_law_2_leaving_the_block_restores_the_model(
    model: PreTrainedModel, ids: torch.Tensor, layers: tuple[int, ...]
) -> None:
    before, logits = fingerprint(model), model(ids).logits
    with removed(model, layers):
        assert fingerprint(model) != before
    assert fingerprint(model) == before
    assert torch.equal(model(ids).logits, logits)


def test_law_2_an_error_inside_restores_too(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="inside"), removed(model, [0]):
        raise RuntimeError("inside")
    assert fingerprint(model) == before


@pytest.mark.parametrize("layers", CUTS)
def test_law_3_a_saved_cut_loads_with_plain_transformers(
    model: PreTrainedModel, ids: torch.Tensor, layers: tuple[int, ...], tmp_path: Path
) -> None:
    remove(model, layers)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("layers", CUTS)
def test_law_3_generation_with_and_without_cache_agrees(
    model: PreTrainedModel, ids: torch.Tensor, layers: tuple[int, ...]
) -> None:
    with removed(model, layers):
        assert torch.equal(greedy(model, ids, cache=True), greedy(model, ids, cache=False))
    assert torch.equal(greedy(model, ids, cache=True), greedy(model, ids, cache=False))


def test_the_receipt_counts_what_went(model: PreTrainedModel) -> None:
    before = sum(p.numel() for p in model.parameters())
    receipt = remove(model, [2, 0])
    after = sum(p.numel() for p in model.parameters())
    assert receipt == Removal(layers=(0, 2), of=4, parameters=before - after)
    assert receipt.kept == (1, 3)
    assert model.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("layers", "message"),
    [([4], "layer 4 of a 4-layer model: 0 to 3"), ([-1], "layer -1"), ([0, 1, 2, 3], "keep one")],
)
def test_what_cannot_be_cut_is_refused_by_name(
    model: PreTrainedModel, layers: list[int], message: str
) -> None:
    before = fingerprint(model)
    with pytest.raises(UsageError, match=message):
        remove(model, layers)
    assert fingerprint(model) == before


def test_layers_are_found_by_structure_not_by_class_name(ids: torch.Tensor) -> None:
    config = GPT2Config(vocab_size=257, n_embd=32, n_layer=3, n_head=2, n_positions=64)
    gpt2 = GPT2LMHeadModel(config).eval()
    silent = copy.deepcopy(gpt2)
    for part in (silent.transformer.h[1].attn.c_proj, silent.transformer.h[1].mlp.c_proj):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    assert remove(gpt2, [1]).of == 3
    assert torch.equal(gpt2(ids).logits, silent(ids).logits)
