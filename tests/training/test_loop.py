"""The training loop: equal data, honest numbers, checkpoints, refusals."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pressft.errors import UsageError
from pressft.model import adapter, surgery
from pressft.model.base import Base
from pressft.model.fused import cuda_graph
from pressft.score import Score
from pressft.spec import TrialSpec
from pressft.training import loop, passes
from pressft.training.loop import Point, Step
from pressft.training.packing import Blocks

Load = Callable[..., Base]
SPEC = TrialSpec(model="tiny-llama", corpus="invented", rank=2, tokens=8 * 64, batch=2, block=32)


def blocks(spec: TrialSpec) -> Blocks:
    """Random rows."""
    generator = torch.Generator().manual_seed(0)
    n = spec.steps * spec.batch
    rows = torch.randint(0, 256, (n, spec.block), generator=generator)
    return Blocks(rows)


def train(base: Base, spec: TrialSpec, data: Blocks) -> list[Point]:
    """The training curve."""
    with adapter.attached(base.model, spec.rank, spec.seed) as model:
        return [point for step in loop.steps(model, data, spec) for point in curve(step, spec)]


def curve(step: Step, spec: TrialSpec) -> list[Point]:
    """The point of a step, if it has one, with a made-up validation."""
    if step.number in spec.validated_at and not step.replayed:
        step.validated(Score(math.log(9) * 4, 4, 4))
    return [(step.tokens, step.metrics)] if step.metrics else []


def losses(points: list[Point]) -> list[float]:
    return [metrics["train/loss"] for _, metrics in points]


def test_points_lie_on_tokens_seen(load: Load) -> None:
    points = train(load("tiny-llama"), SPEC, blocks(SPEC))
    assert [at for at, _ in points] == [64 * (i + 1) for i in range(8)]
    keys = {"train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second"}
    assert set(points[1][1]) == keys
    evaluated = [(at, m) for at, m in points if "eval/loss" in m]
    assert [at // 64 for at, _ in evaluated] == list(SPEC.validated_at)
    last = evaluated[-1][1]
    assert (last["eval/loss"], last["eval/perplexity"]) == pytest.approx((math.log(9), 9))


def test_validation_does_not_depend_on_how_often_the_loss_is_logged(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = train(load("tiny-llama"), SPEC, blocks(SPEC))
    monkeypatch.setattr(loop, "N_LOGGED", 2)  # every fourth of eight steps
    seldom = train(load("tiny-llama"), SPEC, blocks(SPEC))
    for points in (often, seldom):
        assert [at // 64 for at, m in points if "eval/loss" in m] == [1, 3, 4, 6, 8]


def test_the_first_loss_is_that_of_the_first_batch(load: Load) -> None:
    base, data = load("tiny-llama"), blocks(SPEC)
    first = dict(train(base, SPEC, data)[0][1])["train/loss"]
    batch = data.rows[:2]
    logits = base.model(batch).logits[:, :-1].reshape(-1, 257)
    expected = nn.functional.cross_entropy(logits, batch[:, 1:].reshape(-1))
    assert first == pytest.approx(float(expected), rel=1e-5)


def test_micro_batches_do_not_change_the_numbers(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for micro_tokens in (1024, 32):
        monkeypatch.setitem(passes.MICRO_TOKENS, "cpu", micro_tokens)
        found.append(losses(train(load("tiny-llama"), SPEC, blocks(SPEC))))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("words", ["CUDA out of memory", "can't allocate memory: you tried"])
def test_where_memory_is_short_a_pass_takes_fewer_blocks_of_the_same_batch(
    load: Load, words: str
) -> None:
    base, spec = load("tiny-llama"), dataclasses.replace(SPEC, batch=4)
    error = torch.OutOfMemoryError if "CUDA" in words else RuntimeError
    whole = losses(train(base, spec, blocks(spec)))
    rows: list[int] = []

    def short(_: nn.Module, __: object, given: dict[str, torch.Tensor]) -> None:
        rows.append(len(given["input_ids"]))
        if rows[-1] > 1 and len(rows) > 2:  # two passes fit: steps are done already
            raise error(words)

    said: list[str] = []
    hook = base.model.get_decoder().register_forward_pre_hook(short, with_kwargs=True)
    with adapter.attached(base.model, spec.rank, spec.seed) as model:
        done = list(loop.steps(model, blocks(spec), spec, say=said.append))
    hook.remove()
    assert rows == [4, 4, 4, 2, *[1] * 8]  # the step at hand is taken again, those before it not
    assert [step.micro for step in done] == [4, 4, 1, 1]
    assert said == [f"out of memory: continuing with {n} blocks per pass" for n in (2, 1)]
    assert losses([(step.tokens, step.metrics) for step in done]) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("micro_tokens", [1024, 32])
def test_recorded_passes_train_as_others_do(
    load: Load, monkeypatch: pytest.MonkeyPatch, micro_tokens: int
) -> None:
    monkeypatch.setitem(passes.MICRO_TOKENS, "cpu", micro_tokens)
    expected = losses(train(load("tiny-llama"), SPEC, blocks(SPEC)))
    made = []

    class Replayed:
        """A recording that computes anew, as CPUs know no other."""

        def __init__(
            self, loss_of: Callable[..., Tensor], _: object, inputs: tuple[Tensor, ...]
        ) -> None:
            made.append([tuple(given.shape) for given in inputs])
            self.loss_of = loss_of

        def __call__(self, *inputs: Tensor) -> Tensor:
            loss = self.loss_of(*inputs)
            loss.backward()
            return loss.detach()

    monkeypatch.setattr(cuda_graph, "pays", lambda passes: passes == 512 // min(64, micro_tokens))
    monkeypatch.setattr(cuda_graph, "Recorded", Replayed)
    assert losses(train(load("tiny-llama"), SPEC, blocks(SPEC))) == expected
    assert made == [[(min(64, micro_tokens) // 32, 32)]]


def test_what_cannot_be_recorded_trains_all_the_same(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = losses(train(load("tiny-llama"), SPEC, blocks(SPEC)))
    tried = []

    def refuse(*_: object) -> None:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "pays", lambda _: True)
    monkeypatch.setattr(cuda_graph, "Recorded", refuse)
    assert losses(train(load("tiny-llama"), SPEC, blocks(SPEC))) == expected
    assert len(tried) == 1


def test_an_error_that_is_not_about_memory_is_not_tried_again(load: Load) -> None:
    base = load("tiny-llama")

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    with adapter.attached(base.model, SPEC.rank, SPEC.seed) as model:
        hook = base.model.get_decoder().register_forward_pre_hook(broken)
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            next(loop.steps(model, blocks(SPEC), SPEC))
        hook.remove()


def test_training_twice_gives_the_same_numbers(load: Load) -> None:
    base = load("tiny-qwen3")
    runs = []
    for _ in range(2):
        with surgery.removed(base.model, [1]):
            runs.append(losses(train(base, SPEC, blocks(SPEC))))
    assert runs[0] == runs[1]


def test_a_diverged_loss_is_a_point_at_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "N_LOGGED", 2)  # points every fourth step
    spec = dataclasses.replace(SPEC, tokens=80 * 64)
    base = load("tiny-llama")
    with adapter.attached(base.model, 2, 0) as model:
        for step in loop.steps(model, blocks(spec), spec):
            assert step.diverged == (step.number == 3)
            if step.diverged:
                break
            if step.number == 2:
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        nn.init.constant_(parameter, math.nan)
    assert math.isnan(step.metrics["train/loss"])


def test_law_10_training_resumes_from_a_checkpoint_to_the_very_same_numbers(
    load: Load, tmp_path: Path
) -> None:
    base, data = load("tiny-llama"), blocks(SPEC)
    whole = train(base, SPEC, data)
    with adapter.attached(base.model, SPEC.rank, SPEC.seed) as model:
        for step in loop.steps(model, data, SPEC, tmp_path):
            curve(step, SPEC)
            if step.number == 5:
                step.save()
                break
    with adapter.attached(base.model, SPEC.rank, SPEC.seed) as model:
        again = list(loop.steps(model, data, SPEC, tmp_path))
    assert [step.replayed for step in again] == [True] * 5 + [False] * 3
    assert [step.number for step in again] == [1, 2, 3, 4, 5, 6, 7, 8]
    points = [point for step in again for point in curve(step, SPEC)]
    for (at, found), (expected_at, expected) in zip(points, whole, strict=True):
        ours, theirs = dict(found), dict(expected)
        del ours["train/tokens_per_second"], theirs["train/tokens_per_second"]
        assert (at, ours) == (expected_at, theirs)
    assert again[-1].seconds > again[0].seconds > 0


def test_a_resumed_training_keeps_its_passes_and_its_losses_between_two_points(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "N_LOGGED", 1)  # points at the validated steps and the last
    monkeypatch.setitem(passes.MICRO_TOKENS, "cpu", 32)
    base, data = load("tiny-llama"), blocks(SPEC)
    whole = losses(train(base, SPEC, data))
    with adapter.attached(base.model, SPEC.rank, SPEC.seed) as model:
        for step in loop.steps(model, data, SPEC, tmp_path):
            if step.number == 5:
                step.save()
                break
    monkeypatch.setitem(passes.MICRO_TOKENS, "cpu", 1024)
    with adapter.attached(base.model, SPEC.rank, SPEC.seed) as model:
        again = list(loop.steps(model, data, SPEC, tmp_path))
    assert {step.micro for step in again} == {1}
    assert losses([(step.tokens, step.metrics) for step in again if step.metrics]) == whole


def test_checkpoints_are_kept_as_asked_and_never_of_the_last_step(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    kept: list[list[str]] = []
    with adapter.attached(load("tiny-llama").model, SPEC.rank, SPEC.seed) as model:
        for step in loop.steps(model, blocks(SPEC), SPEC, tmp_path):
            if step.number == 4:
                step.save(kept=1)
            kept.append(sorted(path.name[-1] for path in tmp_path.glob("step-*")))
    assert kept == [[], ["1"], ["1", "2"], ["4"], ["4"], ["4", "5"], ["5", "6"], ["6", "7"]]
    assert sorted(path.name[-1] for path in tmp_path.glob("step-*")) == ["6", "7"]


def test_a_training_that_is_left_changes_nothing_but_the_adapter(load: Load) -> None:
    base = load("tiny-llama")
    with adapter.attached(base.model, SPEC.rank, SPEC.seed) as model:
        model.eval()
        cached, state = model.config.use_cache, torch.get_rng_state()
        steps = loop.steps(model, blocks(SPEC), SPEC)
        next(steps)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.are_deterministic_algorithms_enabled()
        steps.close()
        assert not model.training
        assert model.config.use_cache == cached
        assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_depends_on_the_seed_and_the_step_alone(load: Load) -> None:
    base = load("tiny-llama")
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        hook = base.model.get_decoder().register_forward_hook(
            lambda module, _, output: output.__setitem__(
                "last_hidden_state", nn.functional.dropout(output[0], 0.5, module.training)
            )
        )
        with adapter.attached(base.model, SPEC.rank, 0) as model:
            spec = dataclasses.replace(SPEC, seed=seed)
            found.append(
                [step.metrics["train/loss"] for step in loop.steps(model, blocks(SPEC), spec)]
            )
        hook.remove()
    assert found[0] == found[1] != found[2]
    assert len(set(found[0])) == 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("name", ["adamw-8bit", "paged-adamw-8bit"])
def test_optimizers_for_cuda_are_refused_without_it(name: str) -> None:
    with pytest.raises(UsageError, match=f"optimizer '{name}' needs a CUDA device: choose adamw"):
        loop.check_optimizer(name)  # type: ignore[arg-type]
