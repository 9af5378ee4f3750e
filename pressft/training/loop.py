"""One training: blocks in a given order through transformers' Trainer, numbers handed on.

What the numbers are for (tracking, progress, pruning) is left to the caller.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or its products are not repeatable

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from pressft.errors import UsageError
from pressft.model.fused import cuda_graph
from pressft.model.fused import loss as heads
from pressft.score import Score
from pressft.spec import Optimizer, TrialSpec
from pressft.training.packing import Blocks
from pressft.training.teller import OnPoint, Rested, Safety, Teller

MICRO_TOKENS = {"cpu": 512, "cuda": 8192}  # a pass: more is slower on 2 cores, and takes memory
WARMUP = 0.1  # of the steps
OPTIMIZERS = dict(
    zip(get_args(Optimizer), ("adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit"), strict=True)
)


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
            return _train(model, data, spec, Teller(spec, validate, on_point, safety), micro)
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


def _train(model: PeftModel, data: Blocks, spec: TrialSpec, teller: Teller, micro: int) -> Training:
    caches = model.config.use_cache
    with tempfile.TemporaryDirectory() as unused:
        folder = teller.work() or Path(unused)
        trainer = _InOrder(
            head=heads.of(model),
            model=model,
            args=_arguments(spec, folder, micro, model.get_base_model().dtype),
            train_dataset=_Ordered(data),
            callbacks=[teller],
        )
        trainer.pop_callback(_printer(trainer))
        checkpoint = teller.resume()
        try:
            with teller.patience(), _repeatable():
                if not teller.rests():
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            model.config.use_cache = caches  # Trainer switches it off for good
            trainer.recorded = None  # or its memory is held until garbage is collected
        if teller.rests():
            raise Rested
    return Training(spec.trained_tokens, teller.seconds, teller.validation, micro)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Let CUDA add in the same order every time; the gradient of attention is not, else."""
    also: Any = torch.utils.deterministic
    filled, also.fill_uninitialized_memory = also.fill_uninitialized_memory, False  # for nobody
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        also.fill_uninitialized_memory = filled


def blocks_a_pass(spec: TrialSpec) -> int:
    """As many as the device takes well, a divisor of the batch."""
    room = MICRO_TOKENS["cuda" if torch.cuda.is_available() else "cpu"] // spec.block
    return next(n for n in range(max(1, min(spec.batch, room)), 0, -1) if spec.batch % n == 0)


def _out_of_memory(error: Exception) -> bool:
    """CUDA has an error of its own; a CPU only says so."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _arguments(spec: TrialSpec, folder: Path, micro: int, dtype: torch.dtype) -> TrainingArguments:
    gpu = torch.cuda.is_available()
    fused = gpu and spec.optimizer == "adamw"
    arguments = TrainingArguments(
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
        bf16=dtype == torch.bfloat16,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        seed=spec.seed,
        logging_strategy="steps",
        logging_steps=1,  # `teller` makes points of several: it can go on within one
        logging_nan_inf_filter=False,  # or a diverged loss would be hidden
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # of several it would use all, for larger batches
    return arguments


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
    """A Trainer that takes its data as given: the order was drawn before, alike for all arms.

    Its loss is the model's own, made without logits where there is a head (see `heads`), and on
    CUDA its passes are played from a recording (see `graphs`)."""

    def __init__(self, *, head: heads.Head | None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._head = head
        self.recorded: cuda_graph.Recorded | None = None
        passes = self.args.max_steps * self.args.gradient_accumulation_steps
        self._to_record = bool(head) and cuda_graph.pays(passes)

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:  # noqa: ANN401
        return SequentialSampler(self.train_dataset)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Loss of a pass, whose gradients are added to those of the step."""
        given: Any = self._prepare_inputs(inputs)["input_ids"], num_items_in_batch
        if self._to_record:
            self._to_record = False
            adapted = [p for p in model.train().parameters() if p.requires_grad]
            try:
                self.recorded = cuda_graph.Recorded(self._mean, adapted, given)
            except RuntimeError as error:  # a model that waits for its own numbers, say
                if _out_of_memory(error):
                    raise
        if self.recorded:
            return self.recorded(*given)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Loss of a pass as its share of the step's."""
        if self._head is None or num_items_in_batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return self._mean(inputs["input_ids"], num_items_in_batch)

    def _mean(self, ids: Tensor, n: Tensor | int) -> Tensor:
        """Loss of ids (rows, tokens), summed and divided by n."""
        assert self._head
        with torch.autocast("cuda", torch.bfloat16, enabled=self.args.bf16, cache_enabled=False):
            return self._head.loss_of(ids) / n
