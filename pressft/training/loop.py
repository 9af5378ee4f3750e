"""One training: blocks in their order through AdamW, as a generator of its steps.

Between two steps the caller decides what follows from them (scores, records, an end), and finds the
process as it was: neither random numbers nor torch's settings are changed there.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from pressft.errors import UsageError
from pressft.score import Score
from pressft.spec import Optimizer, TrialSpec
from pressft.study.results import Point
from pressft.study.trials import now_ms
from pressft.training import checkpoint, passes
from pressft.training.packing import Blocks
from pressft.training.passes import Passes

WARMUP = 0.1  # of the steps
MAX_NORM = 1.0  # of the gradient; what is longer is scaled down
N_LOGGED = 50  # points of a training curve, where there are that many steps
CHECKPOINT_S = 60.0  # between two checkpoints
SEEDS = 1_000_003  # apart, or the steps of one seed would draw what others of the next one do
STATE = ("number", "seconds", "logged_seconds", "losses", "curve")  # in a checkpoint


@dataclass(slots=True)
class Step:
    """An optimizer step that is done: its number, from 1; tokens seen and seconds spent in steps
    until then; blocks per pass.

    `point` belongs to the training curve; most steps have none. A step that was `replayed` was done
    before the checkpoint that the training resumes from.
    """

    number: int
    tokens: int
    seconds: float
    micro: int
    point: Point | None
    replayed: bool
    _training: "_Training" = field(repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Those of its point, if it has one."""
        return self.point.metrics if self.point else {}

    @property
    def diverged(self) -> bool:
        """Whether the loss has left the finite numbers."""
        return not math.isfinite(self.metrics.get("train/loss", 0.0))

    def validated(self, score: Score) -> None:
        """Put the validation score after this step into the curve."""
        self.metrics.update({"eval/loss": score.loss, "eval/perplexity": score.perplexity})

    def save(self, kept: int = checkpoint.KEPT) -> None:
        """Write a checkpoint of the training after this step, before the next one is asked for;
        the newest `kept` stay. Nothing is written after the last step, which scores follow."""
        self._training.save(self.number, kept)


def check_optimizer(name: Optimizer) -> None:
    """Refuse an optimizer that this machine cannot run.

    Raises:
        UsageError: 8-bit state without a CUDA device.
    """
    if name != "adamw" and not torch.cuda.is_available():
        raise UsageError(f"optimizer {name!r} needs a CUDA device: choose adamw on this machine")


def steps(
    model: PeftModel,
    data: Blocks,
    spec: TrialSpec,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Generator[Step, None, None]:
    """Train the adapter of `model` on `data`, in that very order, and yield every step.

    With a `folder` for checkpoints, training resumes from the newest whole one: the points before
    it are yielded again, then the steps after it. Where memory does not hold a pass, the step is
    done in passes of half as many blocks: the same batch, the same result but for rounding. `say`
    hears of that and of checkpoints that are passed over.

    Raises:
        UsageError: an optimizer that this machine cannot run.
    """
    check_optimizer(spec.optimizer)
    was_training = model.training
    training = _Training(model, spec, folder, say)
    batches = torch.split(data.rows, spec.batch)
    try:
        yield from training.resume()
        saved = time.monotonic()
        for batch in batches[training.number : spec.steps]:
            step = training.step(batch)
            yield step
            if time.monotonic() - saved > CHECKPOINT_S:
                step.save()
                saved = time.monotonic()
    finally:
        training.passes.recorded = None  # or a caller that keeps a step would keep its memory
        model.train(was_training)


class _Training:
    """A training between two steps, and all that a checkpoint keeps of it."""

    def __init__(
        self, model: PeftModel, spec: TrialSpec, folder: Path | None, say: Callable[[str], None]
    ) -> None:
        self.spec, self.folder, self.say = spec, folder, say
        self.step_tokens = spec.batch * spec.block
        self.passes = Passes(model, spec, say)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = _optimizer(list(self.trained.values()), spec)
        self.number = self.saved = 0  # steps done, and those in a checkpoint
        self.seconds = self.logged_seconds = 0.0
        self.losses: list[float] = []  # of the steps since the last point
        self.curve: list[Point] = []

    def step(self, batch: Tensor) -> Step:
        """One optimizer step on a batch (blocks, tokens)."""
        began = time.perf_counter()
        rate = self.spec.learning_rate * _schedule(self.number, self.spec.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with passes.repeatable(SEEDS * self.spec.seed + self.number):
            mean = self.passes.gradients(batch)
            norm = self.passes.accelerator.clip_grad_norm_(self.trained.values(), MAX_NORM)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.number += 1
        self.losses.append(float(mean))
        metrics = {"train/learning_rate": rate, "train/grad_norm": float(norm)}
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was launched is not done
        self.seconds += time.perf_counter() - began
        return self.as_step(self.number, self.point(metrics))

    def point(self, metrics: dict[str, float]) -> Point | None:
        """The point of the curve after this step, with its metrics, where one is due."""
        every = max(1, self.spec.steps // N_LOGGED)
        due = self.number % every == 0 or self.number in self.spec.validated_at
        if not due and math.isfinite(self.losses[-1]):
            return None
        mean = math.fsum(self.losses) / len(self.losses)
        speed = len(self.losses) * self.step_tokens / (self.seconds - self.logged_seconds)
        metrics = {"train/loss": mean, **metrics, "train/tokens_per_second": speed}
        self.losses, self.logged_seconds = [], self.seconds
        self.curve.append(Point(self.number * self.step_tokens, metrics, now_ms()))
        return self.curve[-1]

    def as_step(self, number: int, point: Point | None, *, replayed: bool = False) -> Step:
        """A step as the caller gets it."""
        tokens = number * self.step_tokens
        return Step(number, tokens, self.seconds, self.passes.micro, point, replayed, self)

    def save(self, number: int, kept: int) -> None:
        """Write a checkpoint, unless there is one or nothing to resume."""
        if not self.folder or not self.saved < number < self.spec.steps:
            return
        facts = {name: getattr(self, name) for name in STATE} | {"micro": self.passes.micro}
        adapter = {name: parameter.detach() for name, parameter in self.trained.items()}
        tensors = {"adapter": adapter, "optimizer": self.optimizer.state_dict()}
        checkpoint.save(self.folder, number, facts, tensors, kept)
        self.saved = number

    def resume(self) -> Iterator[Step]:
        """Go on from the newest whole checkpoint, if there is one; yields its points again."""
        if not self.folder:
            return
        found, passed_over = checkpoint.newest(self.folder)
        for line in passed_over:
            self.say(line)
        if not found:
            return
        facts, tensors = checkpoint.load(found)
        for name in STATE:
            setattr(self, name, facts[name])
        self.passes.take(facts["micro"])
        self.saved = self.number
        self.optimizer.load_state_dict(tensors["optimizer"])
        for name, parameter in self.trained.items():
            parameter.data.copy_(tensors["adapter"][name])
        self.curve = [Point(*point) for point in facts["curve"]]
        for point in self.curve:
            yield self.as_step(point.tokens // self.step_tokens, point, replayed=True)


def _optimizer(parameters: list[nn.Parameter], spec: TrialSpec) -> torch.optim.Optimizer:
    """AdamW without weight decay, its state in 8 bits where the spec wants that."""
    options: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": 0.0}
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=torch.cuda.is_available(), **options)
    import bitsandbytes as bnb

    kinds = {"adamw-8bit": bnb.optim.AdamW8bit, "paged-adamw-8bit": bnb.optim.PagedAdamW8bit}
    return kinds[spec.optimizer](parameters, **options)  # type: ignore[no-any-return]


def _schedule(done: int, n_steps: int) -> float:
    """Share of the peak learning rate after so many steps: a line from zero, then a cosine to
    zero (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    warm = math.ceil(WARMUP * n_steps)
    if done < warm:
        return done / warm
    return 0.5 * (1.0 + math.cos(math.pi * ((done - warm) / (n_steps - warm))))
