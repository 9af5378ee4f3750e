"""One training: blocks in a given order through transformers' Trainer, numbers handed on.

What the numbers are for (tracking, progress, pruning) is left to the caller.
"""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pressft import checkpoints, heads
from pressft.blocks import Blocks
from pressft.errors import PressftError, UsageError
from pressft.scores import Score, as_rows, from_rows
from pressft.signals import Stopping
from pressft.spec import Optimizer, TrialSpec

OnPoint = Callable[[int, dict[str, float]], None]  # tokens seen, metrics there

MICRO_TOKENS = {"cpu": 512, "cuda": 8192}  # a pass: more is slower on 2 cores, and takes memory
N_LOGGED = 50  # points of a training curve, where there are that many steps
CHECKPOINT_S = 60.0  # between two checkpoints
STATE = "teller.json"  # of a checkpoint: what Trainer does not keep
WARMUP = 0.1  # of the steps
OPTIMIZERS = dict(
    zip(get_args(Optimizer), ("adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit"), strict=True)
)


@dataclass(frozen=True, slots=True)
class Safety:
    """How a training survives: the folder of its checkpoints, who is asked whether to stop, who is
    told of trouble, and after how many tokens it is to rest."""

    folder: Path
    stopping: Stopping = field(default_factory=Stopping)
    say: Callable[[str], None] = lambda _: None
    until: int | None = None


class Rested(Exception):
    """A training has come as far as it was to, and is saved."""


class DivergedError(PressftError):
    """The loss left the finite numbers; the same cell would diverge again."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Training:
    """What a training took: tokens, seconds in steps alone, blocks a pass; its last validation."""

    tokens: int
    seconds: float
    validation: Score
    micro: int


def check_optimizer(name: Optimizer) -> None:
    """Refuse an optimizer that this machine cannot run.

    Raises:
        UsageError: 8-bit state without a CUDA device.
    """
    if name != "adamw" and not torch.cuda.is_available():
        raise UsageError(f"optimizer {name!r} needs a CUDA device: choose adamw on this machine")


def train(
    model: PeftModel,
    data: Blocks,
    spec: TrialSpec,
    validate: Callable[[], Score],
    on_point: OnPoint,
    safety: Safety | None = None,
) -> Training:
    """Train the adapter of `model` on `data`, in that very order.

    `on_point` hears of `train/...` and `eval/...` metrics as they come; where training goes on from
    a checkpoint, first of those before it. Where memory does not hold a pass, it is begun again
    with half as many blocks a pass: the same batch, the same result but for rounding.

    Raises:
        DivergedError: a loss that is not finite.
        Stopped: a signal; the step at hand is finished and saved.
        Rested: it has seen the tokens that it was to rest after, and is saved.
    """
    check_optimizer(spec.optimizer)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    micro = blocks_a_pass(spec)
    while True:
        try:
            return _train(model, data, spec, _Teller(spec, validate, on_point, safety), micro)
        except RuntimeError as error:
            if micro == 1 or not _out_of_memory(error):
                raise
        micro = next(n for n in range(micro // 2, 0, -1) if spec.batch % n == 0)
        if safety:
            safety.say(f"out of memory: going on with {micro} blocks a pass")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for name, parameter in model.named_parameters():
            if name in start:
                parameter.data.copy_(start[name])
                parameter.grad = None


def _train(
    model: PeftModel, data: Blocks, spec: TrialSpec, teller: "_Teller", micro: int
) -> Training:
    caches = model.config.use_cache
    with tempfile.TemporaryDirectory() as unused:
        folder = teller.work() or Path(unused)
        trainer = _InOrder(
            head=None if torch.cuda.is_available() else heads.of(model),  # autocast is not tried
            model=model,
            args=_arguments(spec, folder, micro),
            train_dataset=_Ordered(data),
            callbacks=[teller],
        )
        trainer.pop_callback(_printer(trainer))
        checkpoint = teller.resume()
        try:
            with teller.patience():
                if not teller.rests():
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            model.config.use_cache = caches  # Trainer switches it off for good
        if teller.rests():
            raise Rested
    return Training(spec.trained_tokens, teller.seconds, teller.validation, micro)


def blocks_a_pass(spec: TrialSpec) -> int:
    """As many as the device takes well, a divisor of the batch."""
    room = MICRO_TOKENS["cuda" if torch.cuda.is_available() else "cpu"] // spec.block
    return next(n for n in range(max(1, min(spec.batch, room)), 0, -1) if spec.batch % n == 0)


def _out_of_memory(error: Exception) -> bool:
    """CUDA has an error of its own; a CPU only says so."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _arguments(spec: TrialSpec, folder: Path, micro: int) -> TrainingArguments:
    gpu = torch.cuda.is_available()
    fused = gpu and spec.optimizer == "adamw"
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=spec.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec.batch // micro,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(WARMUP * spec.steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused" if fused else OPTIMIZERS[spec.optimizer],
        bf16=gpu,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        seed=spec.seed,
        logging_strategy="steps",
        logging_steps=1,  # `_Teller` makes points of several: it can go on within one
        logging_nan_inf_filter=False,  # or a diverged loss would be hidden
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _printer(trainer: Trainer) -> TrainerCallback:
    """The callback that prints every log as a dict."""
    from transformers import PrinterCallback

    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, PrinterCallback))


class _Ordered(Dataset[dict[str, Tensor]]):
    """Blocks in their order, as the model wants them."""

    def __init__(self, data: Blocks) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.data.rows[index]
        return {"input_ids": row, "labels": row}


class _InOrder(Trainer):
    """A Trainer that takes its data as given: the order was drawn before, alike for all arms."""

    def __init__(self, *, head: heads.Head | None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._head = head

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:  # noqa: ANN401
        return SequentialSampler(self.train_dataset)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """The model's own loss, without its logits where there is a head; see `heads`."""
        if self._head is None or num_items_in_batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return self._head.loss_of(inputs["input_ids"]) / num_items_in_batch


class _Teller(TrainerCallback):
    """Hands every point on, with the tokens seen; scores validation at set steps; saves all that
    is needed to go on."""

    def __init__(
        self,
        spec: TrialSpec,
        validate: Callable[[], Score],
        on_point: OnPoint,
        safety: Safety | None,
    ) -> None:
        self.validate, self.on_point, self.safety = validate, on_point, safety
        self.step_tokens = spec.batch * spec.block
        self.validated_at = spec.validated_at
        self.every = max(1, spec.steps // N_LOGGED)
        self.curve: list[tuple[int, dict[str, float]]] = []
        self.losses: list[float] = []  # of the steps since the last point
        self.seconds = self.logged_seconds = self.started = 0.0
        self.logged_tokens = 0
        self.validation = Score()
        self.saved = time.monotonic()

    def work(self) -> Path | None:
        """A new folder for Trainer to save in, beside the checkpoints; None without safety."""
        if not self.safety:
            return None
        folder = self.safety.folder / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def resume(self) -> Path | None:
        """Take over the state of the newest whole checkpoint, and tell its points again."""
        if not self.safety:
            return None
        found, damaged = checkpoints.newest(self.safety.folder)
        for path in damaged:
            self.safety.say(f"checkpoint {path.name} is damaged and passed over")
        if found:
            state = json.loads((found / STATE).read_text())
            self.validation = from_rows([state.pop("validation")])[0]
            for name, value in state.items():
                setattr(self, name, value)
            curve, self.curve = self.curve, []
            for tokens, metrics in curve:
                self.tell(tokens, metrics)
        return found

    def rests(self) -> bool:
        """Whether it has seen the tokens that it was to rest after."""
        until = self.safety.until if self.safety else None
        return until is not None and any(tokens >= until for tokens, _ in self.curve)

    def patience(self) -> AbstractContextManager[None]:
        """Within it a signal waits for the end of the step."""
        return self.safety.stopping.patience() if self.safety else nullcontext()

    def tell(self, tokens: int, metrics: dict[str, float]) -> None:
        self.curve.append((tokens, metrics))
        self.on_point(tokens, metrics)

    def on_step_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        self.started = time.perf_counter()

    def on_step_end(
        self,
        _: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **__: Any,  # noqa: ANN401
    ) -> None:
        self.seconds += time.perf_counter() - self.started
        if not self.safety or state.global_step == state.max_steps:
            return
        rests = state.global_step * self.step_tokens == self.safety.until
        if rests or self.safety.stopping.signum:
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self.saved > CHECKPOINT_S:
            control.should_save = True

    def on_log(self, _: Any, state: TrainerState, *__: Any, **also: Any) -> None:  # noqa: ANN401
        logs: dict[str, float] = also["logs"]
        if "loss" not in logs:
            return  # the summary at the end
        state.log_history.clear()  # it would grow with every step, and be saved each time
        step = state.global_step
        tokens = step * self.step_tokens
        self.losses.append(float(logs["loss"]))
        finite = math.isfinite(self.losses[-1])
        if finite and step % self.every and step not in self.validated_at:
            return
        speed = (tokens - self.logged_tokens) / (self.seconds - self.logged_seconds)
        self.logged_tokens, self.logged_seconds = tokens, self.seconds
        metrics = {f"train/{k}": float(logs[k]) for k in ("learning_rate", "grad_norm")}
        loss = math.fsum(self.losses) / len(self.losses)
        self.losses = []
        self.tell(tokens, {"train/loss": loss, **metrics, "train/tokens_per_second": speed})
        if not finite:
            raise DivergedError(f"loss {loss} after {tokens:,} tokens: a lower learning rate")
        if step in self.validated_at:
            self.validation = self.validate()
            found = {"eval/loss": self.validation.loss}
            self.tell(tokens, found | {"eval/perplexity": self.validation.perplexity})

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Complete what Trainer has written by our own state, and seal it."""
        written = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        (written / "training_args.bin").unlink()  # a pickle, which nobody may load
        names = ("curve", "losses", "seconds", "logged_seconds", "logged_tokens")
        ours = {name: getattr(self, name) for name in names}
        ours["validation"] = as_rows([self.validation])[0]
        (written / STATE).write_text(json.dumps(ours))
        kept = 1 if self.rests() else checkpoints.KEPT  # many may rest at a time
        checkpoints.seal(written, written.parent.parent, state.global_step, kept)
        self.saved = time.monotonic()
