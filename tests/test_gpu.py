"""What only a CUDA device shows: levers that round at most, and numbers that come again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pressft.model import adapter, surgery
from pressft.model.base import Base, load_model
from pressft.model.fused import cuda_graph, loss
from pressft.spec import TrialSpec
from pressft.training import loop, passes
from pressft.training.loop import Point
from pressft.training.packing import Blocks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
Load = Callable[..., Base]
SPEC = TrialSpec(
    model="tiny-qwen3", corpus="invented", rank=2, tokens=24 * 4 * 128, batch=4, block=128
)


def train(
    base: Base,
    spec: TrialSpec,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    until: int = 0,
) -> list[Point]:
    """Losses and lengths of gradients, point by point; left and saved after step `until`."""
    shape = spec.steps * spec.batch, spec.block
    rows = torch.randint(0, 16, shape, generator=torch.Generator().manual_seed(0))  # of few words
    points: list[Point] = []
    with surgery.removed(base.model, [1]), adapter.attached(base.model, spec.rank, 0) as model:
        for step in loop.steps(model, Blocks(rows), spec, folder, say):
            points.append((step.tokens, step.metrics))
            if step.number == until:
                step.save()
                break
    for _, metrics in points:
        metrics.pop("train/tokens_per_second")
    return points


def test_an_unpacked_base_gives_the_numbers_of_a_packed_one(load: Load) -> None:
    unpacked, packed = (load("tiny-qwen3", unpack=unpack).model for unpack in (True, False))
    ours, theirs = (dict(model.named_modules()) for model in (unpacked, packed))
    names = [name for name, module in theirs.items() if type(module).__name__ == "Linear4bit"]
    assert len(names) == 4 * 7
    for name in names:
        x = torch.randn(64, theirs[name].in_features, dtype=torch.bfloat16, device="cuda")
        assert type(ours[name]) is nn.Linear
        assert torch.equal(ours[name](x), theirs[name](x))


def test_an_update_in_one_operation_is_that_of_peft(load: Load) -> None:
    with adapter.attached(load("tiny-qwen3").model, 4, 0) as wrapped:
        for module in wrapped.modules():
            if not hasattr(module, "lora_A"):
                continue
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            nn.init.normal_(b, std=0.1)
            kind = {"dtype": torch.bfloat16, "device": "cuda"}
            x = torch.randn(2, 9, module.in_features, **kind).requires_grad_()
            slope = torch.randn(2, 9, module.out_features, **kind)
            with torch.autocast("cuda", torch.bfloat16):
                ours, theirs = module(x), type(module).forward(module, x)
            assert near(ours, theirs)
            found, expected = (torch.autograd.grad(y, [x, a, b], slope) for y in (ours, theirs))
            for gradient, right in zip(found, expected, strict=True):
                assert gradient.dtype == right.dtype
                assert near(gradient, right)


def near(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the rounding of bfloat16."""
    return float((found - expected).detach().norm() / expected.detach().norm()) < 1e-2


def test_a_loss_without_logits_is_that_of_the_model(load: Load) -> None:
    model = load("tiny-qwen3").model
    ids = torch.randint(0, 256, (3, 100), device="cuda")
    head = loss.of(model)
    assert head is not None
    with torch.no_grad():
        ours = head.loss_of(ids) / ids[:, 1:].numel()
        assert near(ours, model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("unpack", [True, False])
@pytest.mark.parametrize("micro", [4, 1])
def test_recorded_passes_train_as_others_do(
    load: Load, monkeypatch: pytest.MonkeyPatch, micro: int, *, unpack: bool
) -> None:
    monkeypatch.setitem(passes.MICRO_TOKENS, "cuda", micro * SPEC.block)
    base = load("tiny-qwen3", unpack=unpack)
    recorded = train(base, SPEC)
    monkeypatch.setattr(cuda_graph, "pays", lambda _: False)
    for (_, ours), (_, theirs) in zip(recorded, train(base, SPEC), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2)
    monkeypatch.undo()
    monkeypatch.setitem(passes.MICRO_TOKENS, "cuda", micro * SPEC.block)
    assert train(base, SPEC) == recorded


def test_where_memory_is_short_a_recorded_pass_takes_fewer_blocks(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load("tiny-qwen3")
    whole = train(base, SPEC)
    made_by = cuda_graph.Recorded.__init__

    def make(
        self: cuda_graph.Recorded, loss_of: object, trained: object, like: list[Tensor]
    ) -> None:
        made_by(self, loss_of, trained, like)
        if len(like[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_graph.Recorded, "__init__", make)
    said: list[str] = []
    fewer = train(base, SPEC, say=said.append)
    assert said == ["out of memory: continuing with 2 blocks per pass"]
    for (_, ours), (_, theirs) in zip(fewer, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2)


def test_training_twice_gives_the_same_numbers(load: Load) -> None:
    base = load("tiny-qwen3")
    assert train(base, SPEC) == train(base, SPEC)


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit", "paged-adamw-8bit"])
def test_law_10_training_resumes_to_the_very_same_numbers(
    load: Load, name: str, tmp_path: Path
) -> None:
    base, spec = load("tiny-qwen3"), dataclasses.replace(SPEC, optimizer=name)
    whole = train(base, spec)
    train(base, spec, tmp_path, until=9)
    assert train(base, spec, tmp_path) == whole


def test_between_two_steps_torch_is_as_it_was(load: Load) -> None:
    with adapter.attached(load("tiny-qwen3").model, SPEC.rank, 0) as model:
        rows = torch.randint(0, 16, (SPEC.steps * SPEC.batch, SPEC.block))
        before = torch.cuda.get_rng_state()
        for _ in loop.steps(model, Blocks(rows), SPEC):
            assert torch.equal(torch.cuda.get_rng_state(), before)
            assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit", "paged-adamw-8bit"])
def test_every_optimizer_trains(load: Load, name: str) -> None:
    spec = dataclasses.replace(SPEC, optimizer=name, learning_rate=1e-2)
    losses = [metrics["train/loss"] for _, metrics in train(load("tiny-qwen3"), spec)]
    assert losses[-1] < losses[0]


def test_a_base_asked_for_on_the_cpu_takes_its_adapter_there(load: Load, tmp_path: Path) -> None:
    base = load("tiny-qwen3")
    with surgery.removed(base.model, [1]) as removal:
        with adapter.attached(base.model, 2, 0) as wrapped:
            adapter.save(wrapped, removal, base, tmp_path)
        kept = load_model("tiny-qwen3", "nf4", lambda *_: None, on_cpu=True).model
    with (
        surgery.removed(kept, [1]) as removal,
        adapter.loaded(kept, removal, base.identity, tmp_path) as wrapped,
    ):
        assert {p.device.type for p in wrapped.parameters()} == {"cpu"}
        assert torch.isfinite(wrapped(torch.arange(9)[None]).logits).all()


def test_a_training_takes_one_device_of_several(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with adapter.attached(load("tiny-qwen3").model, SPEC.rank, 0) as model:
        accelerator = passes.Passes(model, SPEC, print).accelerator
    assert (accelerator.device.type, accelerator.num_processes) == ("cuda", 1)
