"""What a training tells and keeps as it goes: its points, its validation, its checkpoints."""

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pressft._signals import Stopping
from pressft.errors import PressftError
from pressft.score import Score, as_rows, from_rows
from pressft.spec import TrialSpec
from pressft.training import checkpoint

OnPoint = Callable[[int, dict[str, float]], None]  # tokens seen, metrics there

N_LOGGED = 50  # points of a training curve, where there are that many steps
CHECKPOINT_S = 60.0  # between two checkpoints
STATE = "teller.json"  # of a checkpoint: what Trainer does not keep


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


class Teller(TrainerCallback):
    """Hands every point on, with the tokens seen; scores validation at set steps; saves all that
    is needed to go on."""

    def __init__(
        self,
        spec: TrialSpec,
        validate: Callable[[], Score],
        on_point: OnPoint,
        safety: Safety | None,
    ) -> None:
        """Of one training; without `safety` nothing is saved."""
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
        found, damaged = checkpoint.newest(self.safety.folder)
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
        """Hand a point on, and keep it for the checkpoint."""
        self.curve.append((tokens, metrics))
        self.on_point(tokens, metrics)

    def on_step_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Seconds are counted from here."""
        self.started = time.perf_counter()

    def on_step_end(
        self,
        _: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **__: Any,  # noqa: ANN401
    ) -> None:
        """Say whether to save, and whether to end here."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was launched is not done
        self.seconds += time.perf_counter() - self.started
        if not self.safety or state.global_step == state.max_steps:
            return
        rests = state.global_step * self.step_tokens == self.safety.until
        if rests or self.safety.stopping.signum:
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self.saved > CHECKPOINT_S:
            control.should_save = True

    def on_log(self, _: Any, state: TrainerState, *__: Any, **also: Any) -> None:  # noqa: ANN401
        """A point every few steps, validation at its own."""
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
        kept = 1 if self.rests() else checkpoint.KEPT  # many may rest at a time
        checkpoint.seal(written, written.parent.parent, state.global_step, kept)
        self.saved = time.monotonic()
