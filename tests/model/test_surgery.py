"""Laws 1 to 3 on tiny models of every shape: what a cut does, that it is undone, that it saves."""

import copy
from pathlib import Path

import numpy
import pytest
import torch
from families import FAMILIES, layers_of, make, silence_by_name
from states import fingerprint
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from pressft.errors import UsageError
from pressft.model import adapter
from pressft.model.base import load_model
from pressft.model.layers import Parts
from pressft.model.repair import gaps
from pressft.model.surgery import dense, remove, removed
from pressft.spec import Part, Removal

LAYERS: list[tuple[Part, ...]] = [(0,), (1,), (2,), (3,), (0, 3), (1, 2)]
HALVES: list[tuple[Part, ...]] = [
    *((f"{half}:{index}",) for half in ("attention", "mlp") for index in range(4)),
    ("attention:0", "attention:1", "mlp:3"),
    (1, "attention:2"),
]


def receipt(parts: tuple[Part, ...], scales: tuple[float, ...] = ()) -> Removal:
    layers = tuple(part for part in parts if isinstance(part, int))
    return Removal(layers, 4, 0, tuple(p for p in parts if isinstance(p, str)), scales)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make(request.param)


def greedy(model: PreTrainedModel, ids: torch.Tensor, *, cache: bool) -> torch.Tensor:
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
        use_cache=cache,
        eos_token_id=None,
        pad_token_id=256,
    )


@pytest.mark.parametrize("parts", LAYERS + HALVES, ids=str)
def test_law_1_a_removed_part_is_a_part_that_writes_nothing(
    model: PreTrainedModel, ids: torch.Tensor, parts: tuple[Part, ...]
) -> None:
    silent = copy.deepcopy(model)
    for part in parts:
        silence_by_name(silent, part)
    whole = model(ids).logits
    remove(model, parts)
    assert torch.equal(model(ids).logits, silent(ids).logits)
    assert not torch.allclose(model(ids).logits, whole)


@pytest.mark.parametrize("parts", LAYERS + HALVES, ids=str)
def test_law_2_leaving_the_block_restores_the_model(
    model: PreTrainedModel, ids: torch.Tensor, parts: tuple[Part, ...]
) -> None:
    before, logits = fingerprint(model), model(ids).logits
    with removed(model, parts):
        assert fingerprint(model) != before
    assert fingerprint(model) == before
    assert torch.equal(model(ids).logits, logits)


def test_law_2_an_error_inside_restores_too(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="inside"), removed(model, [0, "mlp:1"]):
        raise RuntimeError("inside")
    assert fingerprint(model) == before


@pytest.mark.parametrize("parts", LAYERS, ids=str)
def test_law_3_a_saved_cut_loads_with_plain_transformers(
    model: PreTrainedModel, ids: torch.Tensor, parts: tuple[Part, ...], tmp_path: Path
) -> None:
    remove(model, parts)
    assert torch.equal(reloaded(model, tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("parts", HALVES, ids=str)
def test_law_3_a_half_cut_saves_as_a_plain_model_that_writes_nothing_there(
    model: PreTrainedModel, ids: torch.Tensor, parts: tuple[Part, ...], tmp_path: Path
) -> None:
    put_back = dense(model, receipt(parts))
    logits = model(ids).logits
    put_back()
    assert torch.equal(model(ids).logits, logits)
    assert torch.equal(greedy(model, ids, cache=True), greedy(model, ids, cache=False))
    assert torch.equal(reloaded(model, tmp_path)(ids).logits, logits)


REPAIRS: list[tuple[tuple[Part, ...], tuple[float, ...]]] = [
    ((0,), (1.5,)),
    ((1, 2), (0.7,)),
    ((3,), (2.0,)),
    ((0, 2, "mlp:1"), (1.5, 0.7)),
    ((1, 3), (0.7, 2.0)),
]


@pytest.mark.parametrize(("parts", "scales"), REPAIRS, ids=str)
def test_a_repaired_cut_is_a_model_whose_layer_scales_and_adds_nothing(
    model: PreTrainedModel, ids: torch.Tensor, parts: tuple[Part, ...], scales: tuple[float, ...]
) -> None:
    before, whole = fingerprint(model), model(ids).logits
    factors = dict(zip([0, 2] if 2 in parts and 0 in parts else parts, scales, strict=False))
    hooks = []
    for part in parts:
        if isinstance(part, str):
            continue
        factor = factors.get(part, 1.0)
        hooks.append(
            layers_of(model)[part].register_forward_hook(
                lambda _, args, kwargs, out, by=factor: scaled(args, kwargs, by),  # noqa: ARG005
                with_kwargs=True,
            )
        )
    halves = tuple(part for part in parts if isinstance(part, str))
    with removed(model, halves):
        expected = model(ids).logits
    for hook in hooks:
        hook.remove()
    with removed(model, parts, scales) as removal:
        assert removal.scales == scales
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
        assert torch.equal(greedy(model, ids, cache=True), greedy(model, ids, cache=False))
    assert torch.equal(model(ids).logits, whole)  # the hooks are gone
    assert fingerprint(model) == before


def scaled(args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], by: float) -> object:
    return (args[0] if args else kwargs["hidden_states"]) * by


@pytest.mark.parametrize(("parts", "scales"), REPAIRS, ids=str)
def test_law_3_a_repaired_cut_saves_as_a_plain_model_where_it_has_one(
    model: PreTrainedModel,
    ids: torch.Tensor,
    parts: tuple[Part, ...],
    scales: tuple[float, ...],
    tmp_path: Path,
) -> None:
    if "gemma" in model.config.model_type:
        with pytest.raises(UsageError, match="norms what it writes"):
            dense(model, receipt(parts, scales))
        return
    put_back = dense(model, receipt(parts, scales))
    logits = model(ids).logits
    put_back()
    assert torch.allclose(model(ids).logits, logits, atol=2e-3)  # norms add a little to lengths
    assert torch.equal(reloaded(model, tmp_path)(ids).logits, model(ids).logits)


def test_gaps_are_how_much_longer_the_states_come_out(
    model: PreTrainedModel, ids: torch.Tensor
) -> None:
    before = fingerprint(model)
    states = [s.norm(dim=-1) for s in model(ids, output_hidden_states=True).hidden_states]
    found = gaps(model, (1, 2, 0, "mlp:3"), [ids[:1], ids[1:]])
    assert found == pytest.approx([longer(states[0], states[3])], rel=1e-5)
    found = gaps(model, (0, 2), [ids])
    assert found == pytest.approx([longer(states[i], states[i + 1]) for i in (0, 2)], rel=1e-5)
    assert gaps(model, ("mlp:1",), [ids]) == ()
    assert fingerprint(model) == before


def longer(before: torch.Tensor, after: torch.Tensor) -> float:
    return float((after / before)[before > 0].mean().detach())


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder)
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return loaded


@pytest.mark.parametrize("parts", LAYERS + HALVES, ids=str)
def test_law_3_generation_with_and_without_cache_agrees(
    model: PreTrainedModel, ids: torch.Tensor, parts: tuple[Part, ...]
) -> None:
    with removed(model, parts):
        assert torch.equal(greedy(model, ids, cache=True), greedy(model, ids, cache=False))
    assert torch.equal(greedy(model, ids, cache=True), greedy(model, ids, cache=False))


@pytest.mark.parametrize("parts", [(0, 2), (0, "mlp:2"), ("attention:1",)], ids=str)
def test_the_receipt_counts_what_went(model: PreTrainedModel, parts: tuple[Part, ...]) -> None:
    before = sum(p.numel() for p in model.parameters())
    receipt = remove(model, parts)
    after = sum(p.numel() for p in model.parameters())
    layers = tuple(part for part in parts if isinstance(part, int))
    halves = tuple(part for part in parts if isinstance(part, str))
    assert receipt == Removal(layers, 4, before - after, halves)
    assert before > after
    assert receipt.parts == parts
    assert receipt.kept == tuple(i for i in range(4) if i not in layers)
    assert model.config.num_hidden_layers == 4 - len(layers)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([4], "layer 4 of a 4-layer model: 0 to 3"),
        (-1, "layer -1 of a 4-layer model: indices count from 0, and the last layer is 3 or"),
        ([0, -4], "layer -4"),
        (4, "layer 4 of a 4-layer model: 0 to 3"),
        ("2-4", "layer 4 of a 4-layer model"),
        ("centre", "remove 'centre': choose none, first, middle"),
        ("-1", "remove '-1': choose none, first, middle"),
        (True, r"remove True \(bool\): choose none, first, middle, last, an index"),
        ([1.0], r"remove 1.0 \(float\): choose"),
        (None, r"remove None \(NoneType\): choose"),
        (["mlp:4"], "layer 4 of a 4-layer model"),
        ([0, 1, 2, 3], "keep one"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(
    model: PreTrainedModel, parts: Parts, message: str
) -> None:
    before = fingerprint(model)
    with pytest.raises(UsageError, match=message):
        remove(model, parts)
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("named", "parts"),
    [
        (2, (2,)),
        (numpy.int64(2), (2,)),
        (torch.tensor(2), (2,)),
        (numpy.arange(2), (0, 1)),
        (range(2, 4), (2, 3)),
        ([3, 1, 3], (1, 3)),
        ([0, "mlp:2"], (0, "mlp:2")),
        (["attention:1", "mlp:1"], (1,)),
        ("middle", (2,)),
        ("first,last", (0, 3)),
        ("1-2", (1, 2)),
        ("attention:1", ("attention:1",)),
        ("none", ()),
        ([], ()),
    ],
    ids=str,
)
def test_what_is_to_go_is_named_in_many_ways(named: Parts, parts: tuple[Part, ...]) -> None:
    model = make("tiny-llama")
    before = fingerprint(model)
    with removed(model, named) as removal:
        assert removal.parts == parts
    assert fingerprint(model) == before
    assert remove(model, named).parts == parts


def test_what_is_no_model_to_cut_is_refused_by_name() -> None:
    size = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_heads": 4, "vocab_size": 50}
    translator = T5ForConditionalGeneration(T5Config(num_layers=3, **size))
    with pytest.raises(UsageError, match="T5ForConditionalGeneration has an encoder"):
        remove(translator, 0)
    with pytest.raises(UsageError, match="str is no transformers model: give one as from_pretr"):
        remove("smollm2-135m", 0)
    base = load_model("tiny-llama")
    with pytest.raises(UsageError, match=r"Base is no transformers model: give its \.model"):
        remove(base, 0)
    with adapter.attached(base.model, 2, 0) as wrapped:
        for model in (wrapped, base.model):
            with pytest.raises(UsageError, match="has a PEFT adapter on it: cut its base first"):
                remove(model, 0)
    assert remove(base.model, 0).layers == (0,)


def test_a_layer_of_another_build_is_refused_by_name() -> None:
    model = make("tiny-llama")
    model.model.layers[1].second_mlp = nn.Linear(64, 64)
    with pytest.raises(UsageError, match="holds self_attn, mlp, second_mlp: one attention and one"):
        remove(model, ["mlp:1"])
    model.config.num_hidden_layers = 9
    with pytest.raises(UsageError, match="0 lists of 9 layers found"):
        remove(model, [1])
