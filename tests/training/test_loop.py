"""Training through Trainer: equal data, honest numbers, refusals."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pressft._signals import Stopping
from pressft.errors import UsageError
from pressft.model import adapter, surgery
from pressft.model.base import Base
from pressft.model.fused import cuda_graph
from pressft.score import Score
from pressft.spec import TrialSpec
from pressft.training import loop, teller
from pressft.training.packing import Blocks

Load = Callable[..., Base]
SPEC = TrialSpec(model="tiny-llama", corpus="invented", rank=2, tokens=8 * 64, batch=2, block=32)


def blocks(spec: TrialSpec) -> Blocks:
    """Random rows."""
    generator = torch.Generator().manual_seed(0)
    n = spec.steps * spec.batch
    rows = torch.randint(0, 256, (n, spec.block), generator=generator)
    return Blocks(rows)


def train(base: Base, spec: TrialSpec, data: Blocks) -> list[tuple[int, dict[str, float]]]:
    points: list[tuple[int, dict[str, float]]] = []
    validation = Score(math.log(9) * 4, 4, 4)
    with adapter.attached(base.model, spec.rank, spec.seed) as model:
        done = loop.train(model, data, spec, lambda: validation, lambda *p: points.append(p))
    assert done.validation == validation
    assert done.tokens == spec.trained_tokens
    return points


def test_points_lie_on_tokens_seen(load: Load) -> None:
    points = train(load("tiny-llama"), SPEC, blocks(SPEC))
    train_points = [(at, m) for at, m in points if "train/loss" in m]
    assert [at for at, _ in train_points] == [64 * (i + 1) for i in range(8)]
    assert set(train_points[0][1]) == {
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens_per_second",
    }
    evaluated = [(at, m) for at, m in points if "eval/loss" in m]
    assert [at // 64 for at, _ in evaluated] == list(SPEC.validated_at)
    expected = {"eval/loss": math.log(9), "eval/perplexity": 9}
    assert evaluated[-1] == (512, pytest.approx(expected))


def test_validation_does_not_depend_on_how_often_the_loss_is_logged(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = train(load("tiny-llama"), SPEC, blocks(SPEC))
    monkeypatch.setattr(teller, "N_LOGGED", 2)  # every fourth of eight steps
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
    losses = []
    for micro_tokens in (1024, 32):
        monkeypatch.setitem(loop.MICRO_TOKENS, "cpu", micro_tokens)
        points = train(load("tiny-llama"), SPEC, blocks(SPEC))
        losses.append([m["train/loss"] for _, m in points if "train/loss" in m])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("words", ["CUDA out of memory", "can't allocate memory: you tried"])
def test_where_memory_is_short_a_pass_takes_fewer_blocks_of_the_same_batch(
    load: Load, words: str, tmp_path: Path
) -> None:
    base, spec = load("tiny-llama"), dataclasses.replace(SPEC, batch=4)
    error = torch.OutOfMemoryError if "CUDA" in words else RuntimeError
    whole = [m["train/loss"] for _, m in train(base, spec, blocks(spec)) if "train/loss" in m]
    rows: list[int] = []

    def short(_: nn.Module, __: object, given: dict[str, torch.Tensor]) -> None:
        rows.append(len(given["input_ids"]))
        if rows[-1] > 1 and len(rows) > 2:  # two passes fit: steps are done already
            raise error(words)

    said: list[str] = []
    losses: dict[int, float] = {}
    safety = teller.Safety(tmp_path, Stopping(), said.append)
    hook = base.model.get_decoder().register_forward_pre_hook(short, with_kwargs=True)
    with adapter.attached(base.model, spec.rank, spec.seed) as model:
        done = loop.train(
            model,
            blocks(spec),
            spec,
            lambda: Score(1, 1, 1),
            lambda at, m: losses.update({at: m["train/loss"]} if "train/loss" in m else {}),
            safety,
        )
    hook.remove()
    assert done.micro == 1
    assert said == [f"out of memory: going on with {n} blocks a pass" for n in (2, 1)]
    assert sorted(losses) == [128 * (i + 1) for i in range(4)]
    assert [losses[at] for at in sorted(losses)] == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("micro_tokens", [1024, 32])
def test_recorded_passes_train_as_others_do(
    load: Load, monkeypatch: pytest.MonkeyPatch, micro_tokens: int
) -> None:
    monkeypatch.setitem(loop.MICRO_TOKENS, "cpu", micro_tokens)
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
    assert made == [[(min(64, micro_tokens) // 32, 32), ()]]


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


def losses(points: list[tuple[int, dict[str, float]]]) -> list[float]:
    return [metrics["train/loss"] for _, metrics in points if "train/loss" in metrics]


def test_an_error_that_is_not_about_memory_is_not_tried_again(load: Load, tmp_path: Path) -> None:
    base = load("tiny-llama")

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    safety = teller.Safety(tmp_path, Stopping(), lambda _: None)
    with adapter.attached(base.model, SPEC.rank, SPEC.seed) as model:
        hook = base.model.get_decoder().register_forward_pre_hook(broken)
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            loop.train(model, blocks(SPEC), SPEC, lambda: Score(1, 1, 1), lambda *_: None, safety)
        hook.remove()


def test_training_twice_gives_the_same_numbers(load: Load) -> None:
    base = load("tiny-qwen3")
    runs = []
    for _ in range(2):
        with surgery.removed(base.model, [1]):
            points = train(base, SPEC, blocks(SPEC))
        runs.append([m["train/loss"] for _, m in points if "train/loss" in m])
    assert runs[0] == runs[1]


def test_a_diverged_loss_ends_the_training_with_its_reason(load: Load) -> None:
    base = load("tiny-llama")
    with adapter.attached(base.model, 2, 0) as model:
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.constant_(parameter, math.nan)
        with pytest.raises(teller.DivergedError, match="loss nan after 64 tokens"):
            loop.train(model, blocks(SPEC), SPEC, lambda: Score(1, 1, 1), lambda *_: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("name", ["adamw-8bit", "paged-adamw-8bit"])
def test_optimizers_for_cuda_are_refused_without_it(name: str) -> None:
    with pytest.raises(UsageError, match=f"optimizer '{name}' needs a CUDA device: choose adamw"):
        loop.check_optimizer(name)  # type: ignore[arg-type]
