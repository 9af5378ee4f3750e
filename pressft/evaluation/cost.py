"""Inference cost of a cut model: speed of generation, peak memory, size as a file.

Speed is measured on all arms in turn, several rounds of it, and each arm's fastest round counts:
one layer of thirty is three percent, less than a machine drifts in an hour.
"""

import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or its profiler prints to stderr

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pressft._assets import Progress
from pressft.model.base import Base
from pressft.model.layers import count
from pressft.model.surgery import removed
from pressft.spec import Part
from pressft.study.results import Cost

PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 32, 32, 3
EXPORTED_BYTES = 4  # a weight in an exported checkpoint: float32, as it was merged


def machine() -> str:
    """Name of the machine on which costs are measured; costs of different machines differ."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} threads of a {platform.machine()} CPU"


def measure(base: Base, arms: Mapping[str, Sequence[Part]], progress: Progress) -> dict[str, Cost]:
    """Cost of each cut of the base, generating NEW_TOKENS behind PROMPT_TOKENS, one text at a time.

    `peak_bytes` are the weights of the cut model as they are held here and what is allocated
    beside them.
    """
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    memory: dict[str, tuple[int, int]] = {}
    steps = len(arms) * (ROUNDS + 1)
    for step in range(steps):
        turn, position = divmod(step, len(arms))
        arm = list(arms)[position]
        progress("measuring costs", step, steps)
        with removed(base.model, arms[arm]):
            if turn == 0:  # it also warms up
                memory[arm] = _memory(base.model)
            else:
                began = time.perf_counter()
                _generate(base.model, NEW_TOKENS)
                seconds[arm].append(time.perf_counter() - began)
    progress("measuring costs", steps, steps)
    return {
        arm: Cost(machine(), NEW_TOKENS / min(seconds[arm]), sum(memory[arm]), _size(base, parts))
        for arm, parts in arms.items()
    }


def peak_so_far() -> int:
    """Bytes of memory that this process, or the CUDA device, has needed at the most."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@torch.inference_mode()
def _generate(model: nn.Module, n_new: int) -> Tensor:
    ids = torch.arange(PROMPT_TOKENS, device=next(model.parameters()).device)[None]
    output: Tensor = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n_new,
        min_new_tokens=n_new,
        do_sample=False,
        pad_token_id=0,
    )
    if output.is_cuda:
        torch.cuda.synchronize()
    return output


def _memory(model: nn.Module) -> tuple[int, int]:
    """Bytes of the weights held, and the most that was allocated beside them."""
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in _tensors(model)}
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _generate(model, NEW_TOKENS)
        return sum(held.values()), torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        _generate(model, NEW_TOKENS)
    events = found.profiler.kineto_results.events() if found.profiler else ()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return sum(held.values()), peak


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, those of packed 4-bit weights with them."""
    packed = [s for p in model.parameters() if (s := getattr(p, "quant_state", None))]
    states = [value for state in packed for value in state.as_dict(packed=True).values()]
    return [*model.parameters(), *model.buffers(), *states]


def _size(base: Base, parts: Sequence[Part]) -> int:
    """Bytes of the weights as exported: a half layer has no form of its own and stays in."""
    with removed(base.model, [part for part in parts if isinstance(part, int)]):
        return EXPORTED_BYTES * sum(count(p) for p in base.model.parameters())
