"""One training: blocks in a given order through transformers' Trainer, numbers handed on.

What the numbers are for (tracking, progress, pruning) is left to the caller.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pressft.blocks import Blocks
from pressft.errors import PressftError, UsageError
from pressft.scores import Score
from pressft.spec import Optimizer, TrialSpec

OnPoint = Callable[[int, dict[str, float]], None]  # tokens seen, metrics there

MICRO_TOKENS = {"cpu": 1024, "cuda": 8192}  # a pass: more is no faster on 2 cores, and costs memory
N_LOGGED = 50  # points of a training curve, where there are that many steps
N_VALIDATED = 5  # times the validation text is scored while training, the end included
WARMUP = 0.1  # of the steps
OPTIMIZERS = dict(
    zip(get_args(Optimizer), ("adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit"), strict=True)
)


class DivergedError(PressftError):
    """The loss left the finite numbers; the same cell would diverge again."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Training:
    """What a training took: tokens, seconds in steps alone, and its last validation."""

    tokens: int
    seconds: float
    validation: Score


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
) -> Training:
    """Train the adapter of `model` on `data`, in that very order.

    `on_point` hears of `train/...` and `eval/...` metrics as they come.

    Raises:
        DivergedError: a loss that is not finite.
    """
    check_optimizer(spec.optimizer)
    teller = _Teller(spec, validate, on_point)
    caches = model.config.use_cache
    with tempfile.TemporaryDirectory() as unused:
        trainer = _InOrder(
            model=model,
            args=_arguments(spec, unused),
            train_dataset=_Ordered(data),
            callbacks=[teller],
        )
        trainer.pop_callback(_printer(trainer))
        try:
            trainer.train()
        finally:
            model.config.use_cache = caches  # Trainer switches it off for good
    return Training(spec.trained_tokens, teller.seconds, teller.validation)


def _arguments(spec: TrialSpec, folder: str) -> TrainingArguments:
    gpu = torch.cuda.is_available()
    micro = max(1, min(spec.batch, MICRO_TOKENS["cuda" if gpu else "cpu"] // spec.block))
    while spec.batch % micro:
        micro -= 1
    return TrainingArguments(
        output_dir=folder,
        max_steps=spec.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec.batch // micro,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(WARMUP * spec.steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=OPTIMIZERS[spec.optimizer],
        bf16=gpu,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        seed=spec.seed,
        logging_strategy="steps",
        logging_steps=max(1, spec.steps // N_LOGGED),
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
        return len(self.data.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.data.rows[self.data.order[index]]
        return {"input_ids": row, "labels": row}


class _InOrder(Trainer):
    """A Trainer that takes its data as given: the order was drawn before, alike for all arms."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:  # noqa: ANN401
        return SequentialSampler(self.train_dataset)


class _Teller(TrainerCallback):
    """Hands every logged number on, with the tokens seen; scores validation at set steps."""

    def __init__(self, spec: TrialSpec, validate: Callable[[], Score], on_point: OnPoint) -> None:
        self.validate, self.on_point = validate, on_point
        self.step_tokens = spec.batch * spec.block
        n = min(N_VALIDATED, spec.steps)
        self.validated_at = {round(spec.steps * (i + 1) / n) for i in range(n)}
        self.seconds = self.logged_seconds = self.started = 0.0
        self.logged_tokens = 0
        self.validation = Score()

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
        if state.global_step in self.validated_at:
            control.should_log = True  # so that `on_log` comes by at every validation

    def on_log(self, _: Any, state: TrainerState, *__: Any, **also: Any) -> None:  # noqa: ANN401
        logs: dict[str, float] = also["logs"]
        if "loss" not in logs:
            return  # the summary at the end
        tokens = state.global_step * self.step_tokens
        speed = (tokens - self.logged_tokens) / (self.seconds - self.logged_seconds)
        self.logged_tokens, self.logged_seconds = tokens, self.seconds
        metrics = {f"train/{k}": float(logs[k]) for k in ("loss", "learning_rate", "grad_norm")}
        self.on_point(tokens, metrics | {"train/tokens_per_second": speed})
        if not math.isfinite(logs["loss"]):
            raise DivergedError(
                f"loss {logs['loss']} after {tokens:,} tokens: a lower learning rate"
            )
        if state.global_step in self.validated_at:
            self.validation = self.validate()
            loss = self.validation.loss
            self.on_point(
                tokens, {"eval/loss": loss, "eval/perplexity": self.validation.perplexity}
            )
