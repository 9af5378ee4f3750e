"""One training: blocks in their order through AdamW, as a generator of its steps.

Between two steps the caller decides what follows from them (scores, records, an end), and finds the
process as it was: neither random numbers nor torch's settings are changed there.
"""

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# without it the products of CUDA's library differ from run to run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from peft import PeftModel
from torch import Tensor, nn

from pressft.errors import UsageError
from pressft.model.fused import cuda_graph, loss
from pressft.score import Score
from pressft.spec import Optimizer, TrialSpec
from pressft.training import checkpoint
from pressft.training.packing import Blocks

MICRO_TOKENS = {"cpu": 512, "cuda": 8192}  # a pass: more is slower on 2 cores, and takes memory
WARMUP = 0.1  # of the steps
MAX_NORM = 1.0  # of the gradient; what is longer is scaled down
N_LOGGED = 50  # points of a training curve, where there are that many steps
CHECKPOINT_S = 60.0  # between two checkpoints
SEEDS = 1_000_003  # apart, or the steps of one seed would draw what others of the next one do

Point = tuple[int, dict[str, float]]  # of a training curve: tokens seen, metrics there


@dataclass(slots=True)
class Step:
    """An optimizer step that is done: its number, from 1; tokens seen and seconds spent in steps
    until then; blocks per pass.

    `metrics` are those of a point of the training curve, empty between two points. A step that was
    `replayed` was done before the checkpoint that the training resumes from.
    """

    number: int
    tokens: int
    seconds: float
    micro: int
    metrics: dict[str, float]
    replayed: bool
    _training: "_Training" = field(repr=False)

    @property
    def diverged(self) -> bool:
        """Whether the loss has left the finite numbers."""
        return not math.isfinite(self.metrics.get("train/loss", 0.0))

    def validated(self, score: Score) -> None:
        """Put the validation score after this step into the curve."""
        self.metrics |= {"eval/loss": score.loss, "eval/perplexity": score.perplexity}

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


def blocks_per_pass(spec: TrialSpec) -> int:
    """As many as the device takes well, a divisor of the batch."""
    fitting = MICRO_TOKENS["cuda" if torch.cuda.is_available() else "cpu"] // spec.block
    return _divisor(spec.batch, fitting)


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
        for batch in batches[training.number :]:
            step = training.step(batch)
            yield step
            if time.monotonic() - saved > CHECKPOINT_S:
                step.save()
                saved = time.monotonic()
    finally:
        training.recorded = None  # a caller may hold its last step, and with it the memory
        model.train(was_training)


class _Training:
    """A training between two steps, and all that a checkpoint keeps of it."""

    def __init__(
        self, model: PeftModel, spec: TrialSpec, folder: Path | None, say: Callable[[str], None]
    ) -> None:
        self.model, self.spec, self.folder, self.say = model, spec, folder, say
        self.step_tokens = spec.batch * spec.block
        self.head = loss.of(model)
        self.accelerator = _accelerator(model.get_base_model().dtype)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = _optimizer(list(self.trained.values()), spec)
        self.number = self.saved = 0  # steps done, and those in a checkpoint
        self.seconds = self.logged_seconds = 0.0
        self.losses: list[float] = []  # of the steps since the last point
        self.curve: list[Point] = []
        self.recorded: cuda_graph.Recorded | None = None
        self.take(blocks_per_pass(spec))

    def take(self, micro: int) -> None:
        """Let passes be of so many blocks, and recorded where that pays."""
        self.micro, self.recorded = micro, None
        passes = self.spec.steps * self.spec.batch // micro
        self.to_record = bool(self.head) and cuda_graph.pays(passes)

    def step(self, batch: Tensor) -> Step:
        """One optimizer step on a batch (blocks, tokens)."""
        began = time.perf_counter()
        rate = self.spec.learning_rate * _schedule(self.number, self.spec.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with _repeatable(SEEDS * self.spec.seed + self.number):
            mean = self.gradients(batch.to(self.accelerator.device))
            norm = self.accelerator.clip_grad_norm_(self.trained.values(), MAX_NORM)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.number += 1
        self.losses.append(float(mean))
        metrics = {"train/learning_rate": rate, "train/grad_norm": float(norm)}
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was launched is not done
        self.seconds += time.perf_counter() - began
        return self.told(self.number, self.point(metrics))

    def point(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics of the curve after this step, those of the step among them; empty where no point
        is due."""
        every = max(1, self.spec.steps // N_LOGGED)
        due = self.number % every == 0 or self.number in self.spec.validated_at
        if not due and math.isfinite(self.losses[-1]):
            return {}
        mean = math.fsum(self.losses) / len(self.losses)
        speed = len(self.losses) * self.step_tokens / (self.seconds - self.logged_seconds)
        found = {"train/loss": mean, **metrics, "train/tokens_per_second": speed}
        self.losses, self.logged_seconds = [], self.seconds
        self.curve.append((self.number * self.step_tokens, found))
        return found

    def told(self, number: int, metrics: dict[str, float], *, replayed: bool = False) -> Step:
        """A step as the caller gets it."""
        tokens = number * self.step_tokens
        return Step(number, tokens, self.seconds, self.micro, metrics, replayed, self)

    def gradients(self, batch: Tensor) -> Tensor:
        """Mean loss of a batch, whose gradients are added to the parameters'."""
        while True:
            try:
                losses = [self.one_pass(ids) for ids in torch.split(batch, self.micro)]
                return torch.stack(losses).sum()
            except RuntimeError as error:
                if self.micro == 1 or not _out_of_memory(error):
                    raise
            self.take(_divisor(self.spec.batch, self.micro // 2))
            self.say(f"out of memory: continuing with {self.micro} blocks per pass")
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()

    def one_pass(self, ids: Tensor) -> Tensor:
        """Share of a pass in the mean loss, whose gradients are added to the parameters'."""
        if self.to_record:
            self.to_record = False
            try:
                trained = list(self.trained.values())
                self.recorded = cuda_graph.Recorded(self.loss, trained, [ids])
            except RuntimeError as error:  # a model that waits for its own numbers, say
                if _out_of_memory(error):
                    raise
        if self.recorded:
            return self.recorded(ids)
        share = self.loss(ids)
        torch.autograd.backward(share)
        return share.detach()

    def loss(self, ids: Tensor) -> Tensor:
        """Loss of a pass as its share of the batch's mean; all blocks are of the same length. It is
        made without logits where there is a head."""
        with self.accelerator.autocast():
            if self.head:
                return self.head.loss_of(ids) / (self.spec.batch * (ids.shape[1] - 1))
            found: Tensor = self.model(input_ids=ids, labels=ids, use_cache=False).loss
            return found * (len(ids) / self.spec.batch)

    def save(self, number: int, kept: int) -> None:
        """Write a checkpoint, unless there is one or nothing to resume."""
        if not self.folder or not self.saved < number < self.spec.steps:
            return
        state = {name: getattr(self, name) for name in checkpoint.STATE}
        adapter = {name: parameter.detach() for name, parameter in self.trained.items()}
        tensors = {"adapter": adapter, "optimizer": self.optimizer.state_dict()}
        checkpoint.save(self.folder, number, state, tensors, kept)
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
        state, tensors = checkpoint.load(found)
        for name in checkpoint.STATE:
            setattr(self, name, state[name])
        self.take(self.micro)
        self.saved = self.number
        self.optimizer.load_state_dict(tensors["optimizer"])
        for name, parameter in self.trained.items():
            parameter.data.copy_(tensors["adapter"][name])
        for tokens, metrics in self.curve:
            yield self.told(tokens // self.step_tokens, metrics, replayed=True)


def _accelerator(dtype: torch.dtype) -> Accelerator:
    """The device of this process, and its mixed precision: bfloat16 for a base of that type."""
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
        kwargs_handlers=[AutocastKwargs(cache_enabled=False)],  # a cache outlives no recording
    )


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


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Random numbers (of dropout) from `seed`, and on CUDA additions in the same order every time,
    without which the gradient of attention differs; afterwards the process is as it was."""
    on_gpu = torch.cuda.is_available()
    fill: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), fill.fill_uninitialized_memory
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
            torch.use_deterministic_algorithms(mode=True)
            fill.fill_uninitialized_memory = False  # nobody reads it
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            fill.fill_uninitialized_memory = before[1]


def _divisor(batch: int, at_most: int) -> int:
    """The largest divisor of a batch that is no more than `at_most`, one at least."""
    return next(n for n in range(max(1, min(batch, at_most)), 0, -1) if batch % n == 0)


def _out_of_memory(error: Exception) -> bool:
    """CUDA has an error of its own; a CPU only says so."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
