"""The gradient of a batch, summed over passes that memory holds.

The loss is made without logits where the model has a plain head (see `fused.loss`), and on CUDA
passes are played from a recording (see `fused.cuda_graph`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# without it the products of CUDA's library differ from run to run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from peft import PeftModel
from torch import Tensor

from pressft.model.fused import cuda_graph, loss
from pressft.spec import TrialSpec

MICRO_TOKENS = {"cpu": 512, "cuda": 8192}  # a pass: more is slower on 2 cores, and takes memory


def blocks_per_pass(spec: TrialSpec) -> int:
    """As many as the device takes well, a divisor of the batch."""
    fitting = MICRO_TOKENS["cuda" if torch.cuda.is_available() else "cpu"] // spec.block
    return _divisor(spec.batch, fitting)


class Passes:
    """Forward and backward passes of one training, `micro` blocks at a time."""

    def __init__(self, model: PeftModel, spec: TrialSpec, say: Callable[[str], None]) -> None:
        """`say` hears of passes that became smaller."""
        self.model, self.spec, self.say = model, spec, say
        self.head = loss.of(model)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if model.get_base_model().dtype == torch.bfloat16 else "no",
            # a recording must not read casts that are freed when it is made
            kwargs_handlers=[AutocastKwargs(cache_enabled=False)],
        )
        self.recorded: cuda_graph.Recorded | None = None
        self.take(blocks_per_pass(spec))

    def take(self, micro: int) -> None:
        """Let passes be of so many blocks, and recorded where that pays."""
        self.micro, self.recorded = micro, None
        n_passes = self.spec.steps * self.spec.batch // micro
        self.to_record = bool(self.head) and cuda_graph.pays(n_passes)

    def gradients(self, batch: Tensor) -> Tensor:
        """Mean loss of a batch (blocks, tokens); its gradient is put into the parameters, which
        have none yet. Where memory is short, it is begun again with fewer blocks per pass."""
        self.model.train()
        batch = batch.to(self.accelerator.device)
        while True:
            try:
                losses = [self._pass(ids) for ids in torch.split(batch, self.micro)]
                return torch.stack(losses).sum()
            except RuntimeError as error:
                if self.micro == 1 or not _out_of_memory(error):
                    raise
            self.take(_divisor(self.spec.batch, self.micro // 2))
            self.say(f"out of memory: continuing with {self.micro} blocks per pass")
            self.model.zero_grad()
            torch.cuda.empty_cache()

    def _pass(self, ids: Tensor) -> Tensor:
        """Share of some blocks in the mean loss; its gradient is added to the parameters'."""
        if self.to_record:
            self.to_record = False
            trained = [p for p in self.model.parameters() if p.requires_grad]
            try:
                self.recorded = cuda_graph.Recorded(self._loss, trained, [ids])
            except RuntimeError as error:  # a model that waits for its own numbers, say
                if _out_of_memory(error):
                    raise
        if self.recorded:
            return self.recorded(ids)
        share = self._loss(ids)
        torch.autograd.backward(share)
        return share.detach()

    def _loss(self, ids: Tensor) -> Tensor:
        """Share of some blocks in the mean loss of the batch, whose blocks are all equally long."""
        with self.accelerator.autocast():
            if self.head:
                return self.head.loss_of(ids) / (self.spec.batch * (ids.shape[1] - 1))
            mean: Tensor = self.model(input_ids=ids, labels=ids, use_cache=False).loss
            return mean * (len(ids) / self.spec.batch)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Draw random numbers (of dropout) from `seed`, and let CUDA add in the same order every time,
    without which the gradient of attention differs; afterwards the process is as it was."""
    on_gpu = torch.cuda.is_available()
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if not on_gpu:
            yield
            return
        torch.cuda.manual_seed(seed)
        with _deterministic():
            yield


@contextmanager
def _deterministic() -> Iterator[None]:
    fill: Any = torch.utils.deterministic
    filled, fill.fill_uninitialized_memory = fill.fill_uninitialized_memory, False  # for nobody
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        fill.fill_uninitialized_memory = filled


def _divisor(batch: int, at_most: int) -> int:
    """The largest divisor of a batch that is no more than `at_most`, one at least."""
    return next(n for n in range(max(1, min(batch, at_most)), 0, -1) if batch % n == 0)


def _out_of_memory(error: Exception) -> bool:
    """CUDA has an error of its own; a CPU only says so."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
