"""Base models: names, 4-bit loading, and what is refused."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from states import fingerprint

from pressft.errors import DataError, MissingError, PressftError, UsageError
from pressft.model import files, tiny
from pressft.model.base import Base, load_model

Load = Callable[..., Base]


def quiet(*_: object) -> None:
    """Tell nobody."""


def test_unpacked_weights_give_the_numbers_of_packed_ones_bit_for_bit(
    family: str, load: Load, ids: torch.Tensor
) -> None:
    packed, unpacked = load(family, unpack=False).model, load(family).model
    assert any(isinstance(m, bnb.nn.Linear4bit) for m in packed.modules())
    assert not any(isinstance(m, bnb.nn.Linear4bit) for m in unpacked.modules())
    assert torch.equal(packed(ids).logits, unpacked(ids).logits)
    found = []
    for model in (packed, unpacked):
        inputs = model.get_input_embeddings()(ids).requires_grad_()
        model(inputs_embeds=inputs, labels=ids).loss.backward()
        found.append(inputs.grad)
    assert torch.equal(*found)


def test_evaluation_leaves_packed_weights_as_they_are(load: Load, ids: torch.Tensor) -> None:
    model = load("tiny-llama", unpack=False).model
    before = fingerprint(model)
    for kept in (torch.no_grad, torch.inference_mode):
        with kept():
            model(ids)
    assert fingerprint(model) == before


def test_nf4_rounds_the_linear_layers_and_nothing_else(family: str, load: Load) -> None:
    whole, rounded = load(family, "none").model, load(family).model
    changed = {
        name
        for name, weight in whole.state_dict().items()
        if not torch.equal(weight, rounded.state_dict()[name])
    }
    linear = {f"{n}.weight" for n, m in whole.named_modules() if isinstance(m, torch.nn.Linear)}
    assert changed == linear - {"lm_head.weight"}


def test_a_base_asked_for_on_the_cpu_leaves_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # transformers would go there
    base = load_model("tiny-llama", "nf4", quiet, on_cpu=True)
    assert {p.device.type for p in base.model.parameters()} == {"cpu"}


def test_nothing_in_a_base_is_trainable(load: Load) -> None:
    model = load("tiny-qwen3").model
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_the_identity_is_that_of_the_weights(load: Load, tmp_path: Path) -> None:
    copied = tmp_path / "renamed"
    model = tiny.model("tiny-llama")
    model.save_pretrained(copied)
    tiny.tokenizer().save_pretrained(copied)
    assert load(str(copied), "none").identity == load("tiny-llama").identity
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.norm.weight[0] += 1
    changed.save_pretrained(copied)
    assert load_model(str(copied), "none", quiet).identity != load("tiny-llama").identity


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("qwen", UsageError, "no such folder or preset; choose qwen3-0.6b"),
        ("./nowhere/model", UsageError, "no such folder"),
        ("qwen3-0.6b", MissingError, "smollm2-135m comes from the package index"),
        ("org/model", MissingError, "org/model: not in the hub's local cache"),
    ],
)
def test_a_model_that_is_none_is_refused_by_name(
    name: str, error: type[PressftError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_model(name, "nf4", quiet)


@pytest.mark.parametrize("drop", ["model.safetensors", "config.json"])
def test_a_folder_without_weights_is_refused(tmp_path: Path, drop: str) -> None:
    tiny.save("tiny-llama", tmp_path)
    (tmp_path / drop).unlink()
    with pytest.raises(DataError, match=r"needs config.json and \*.safetensors; seen: "):
        load_model(str(tmp_path), "none", quiet)


def test_weights_that_miss_a_layer_are_refused(tmp_path: Path) -> None:
    tiny.model("tiny-llama", n_layers=2).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(DataError, match=r"weights missing: model.layers.2"):
        load_model(str(tmp_path), "none", quiet)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    tiny.save("tiny-llama", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="safetensors"):
        load_model(str(tmp_path), "none", quiet)


def test_auto_is_smollm2_where_no_hub_is_reachable() -> None:
    assert files.resolve("auto") == "smollm2-135m"
    assert files.resolve("tiny-llama") == "tiny-llama"


def test_a_tiny_tokenizer_round_trips_any_text() -> None:
    tokenizer = tiny.tokenizer()
    for text in ("Ünder die Brücke", "日本 \n\n\ttabs", "<|end|", "a" * 50):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_another_tokenizer_beside_the_same_weights_is_another_cell(tmp_path: Path) -> None:
    source = files.folder("tiny-llama", lambda *_: None)
    shutil.copytree(source, tmp_path / "same")
    shutil.copytree(source, tmp_path / "other")
    changed = json.loads((source / "tokenizer.json").read_text())
    changed["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True}
    changed["post_processor"] |= {"trim_offsets": False, "use_regex": True}
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(changed))
    (tmp_path / "same" / "tokenizer.json").write_text(
        json.dumps(json.loads((source / "tokenizer.json").read_text()), indent=4)
    )
    first, same, other = (
        load_model(str(path), "none", lambda *_: None)
        for path in (source, tmp_path / "same", tmp_path / "other")
    )
    assert first.identity == same.identity == other.identity
    assert first.computed == same.computed != other.computed
