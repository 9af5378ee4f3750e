"""A training step against the arithmetic limit of the machine, and against PEFT as it comes.

    python benchmarks/step.py --model smollm2-135m --rounds 5

A step is 8 blocks of 256 tokens, forward and backward, rank 8. The variants add one lever each and
take turns, the order turned round every time; before each turn the rate of a large float32 matrix
product is measured. Limit: that rate over the operations of a trained token, which are

- 4 for every weight of a frozen layer and of the head: multiply and add, forward and for the
  gradient of its input (there is none of the weight);
- 6 for every weight of the adapter: forward, gradient of the input, gradient of the weight;
- causal attention, (tokens + 1) / 2 keys on average: 4 for every element of a query and key
  forward (scores and values), and 2.5 times as many backward, where the scores are made again.

On CUDA the base is in bfloat16 and steps run under autocast, as in training; a turn is many steps,
all blocks fit one pass, and the last lever is to play passes from a recording (made before the
turn: a training makes one).

Norms, rotations, activations and the softmax over the vocabulary are left out: a part of what is
lost. Peak memory is that of a process of its own that makes one step, over what it held before; on
CUDA what the steps add to what is allocated.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pressft.model import adapter as adapters
from pressft.model.base import load_model
from pressft.model.fused import cuda_graph, loss, norm
from pressft.training.passes import MICRO_TOKENS

BATCH, BLOCK, RANK = 8, 256, 8
GPU = torch.cuda.is_available()
SIDE = 8192 if GPU else 2048  # of the matrices that the machine's rate is measured on
STEPS = 10 if GPU else 1  # a turn


@dataclass(frozen=True)
class Variant:
    """What a step is made of: base unpacked once, layers fused, loss without logits, blocks a
    pass, norms fused, passes played from a recording."""

    unpack: bool = True
    fused: bool = False
    head: bool = False
    micro: int = BATCH
    norms: bool = False
    recorded: bool = False


OURS = min(BATCH, MICRO_TOKENS["cuda" if GPU else "cpu"] // BLOCK)
DEVICE = torch.cuda.get_device_name() if GPU else f"{torch.get_num_threads()} threads"
VARIANTS = {
    "PEFT over bitsandbytes, one pass": Variant(unpack=False),
    "base unpacked once": Variant(),
    "and fewer blocks a pass": Variant(micro=OURS),
    "and layer and update in one operation": Variant(fused=True, micro=OURS),
    "and no logits of a batch": Variant(fused=True, head=True, micro=OURS),
}
if GPU:
    del VARIANTS["and fewer blocks a pass"]
    last = Variant(fused=True, head=True, norms=True)
    VARIANTS["and norms as one operation"] = last
    VARIANTS["and played from a recording"] = replace(last, recorded=True)
*_, LAST = VARIANTS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny-llama")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", metavar="VARIANT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(peak(options.model, VARIANTS[options.memory])))
        return
    times, rates, memory, operations = timed(options.model, options.rounds)
    if not GPU:
        memory = {name: held(options.model, name) for name in VARIANTS}
    all_rates = sorted(rate for turns in rates.values() for rate in turns)
    low, rate, high = (x / 1e9 for x in (all_rates[0], statistics.median(all_rates), all_rates[-1]))
    print(
        f"{operations / 1e6:.1f} million operations a token; {rate:.0f} GFLOP/s (from {low:.0f} to "
        f"{high:.0f}) in products of {SIDE} x {SIDE}: {1e9 * rate / operations:,.0f} tokens/s; "
        f"{DEVICE}, torch {torch.__version__}"
    )
    first = next(iter(VARIANTS))
    for name, taken in times.items():
        tokens = BATCH * BLOCK
        # the machine's rate drifts: a turn is compared with what was measured beside it
        near = zip(taken, rates[name], strict=True)
        share = statistics.median(tokens * operations / seconds / rate for seconds, rate in near)
        gain = statistics.median(a / b for a, b in zip(times[first], taken, strict=True))
        mark = " (ours)" if name == LAST else ""
        print(
            f"{name}{mark}: {tokens / statistics.median(taken):,.0f} tokens/s, ratio {gain:.2f}, "
            f"{share:.0%} of the limit; peak {memory[name] / 1e9:.2f} GB, "
            f"ratio {memory[name] / max(1, memory[first]):.2f}"
        )


Times = dict[str, list[float]]


def timed(name: str, rounds: int) -> tuple[Times, Times, dict[str, int], float]:
    """Of each variant seconds a step, the machine's rate beside each and, on CUDA, bytes that it
    adds to what is held; operations a token."""
    loaded = {
        unpack: load_model(name, "nf4", quiet, unpack=unpack).model for unpack in (True, False)
    }
    rows = some_rows()
    times: Times = {variant: [] for variant in VARIANTS}
    rates: Times = {variant: [] for variant in VARIANTS}
    memory: dict[str, int] = {}
    for number in range(rounds + 1):  # the first one warms up
        for variant in list(VARIANTS)[:: 1 if number % 2 else -1]:
            what, near = VARIANTS[variant], machine()
            if GPU:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            with adapted(loaded[what.unpack], what) as step:
                began = time.perf_counter()
                for _ in range(STEPS):
                    step(rows)
                synchronize()
                if GPU:
                    memory[variant] = torch.cuda.max_memory_allocated() - before
                if number:
                    times[variant].append((time.perf_counter() - began) / STEPS)
                    rates[variant].append(near)
    return times, rates, memory, per_token(loaded[True])


def quiet(*_: object) -> None:
    """Tell nobody."""


@contextmanager
def adapted(base: PreTrainedModel, what: Variant) -> Iterator[Callable[[Tensor], None]]:
    """A step, forward and backward of all rows, of the base with an adapter, run as the variant has
    it."""
    with adapters.attached(base, RANK, 0) as model:
        for module in model.modules():
            layer = hasattr(module, "lora_A") and not what.fused
            if layer or hasattr(module, "variance_epsilon"):
                vars(module).pop("forward", None)
        if what.norms:
            norm.fuse(model)
        head = loss.of(model) if what.head else None
        recorded = None
        model.train()

        def loss_of(part: Tensor) -> Tensor:
            share = len(part) / BATCH
            with torch.autocast(
                "cuda", torch.bfloat16, enabled=GPU, cache_enabled=not what.recorded
            ):
                if head:
                    return head.loss_of(part) * (share / part[:, 1:].numel())
                return model(input_ids=part, labels=part).loss * share  # type: ignore[no-any-return]

        def step(rows: Tensor) -> None:
            for part in torch.split(rows, what.micro):
                if recorded:
                    recorded(part)
                else:
                    torch.autograd.backward(loss_of(part))
            model.zero_grad()

        if what.recorded:
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            recorded = cuda_graph.Recorded(loss_of, trained, [some_rows()[: what.micro]])
        yield step


def some_rows() -> Tensor:
    """A batch, always the same, where the model is."""
    rows = torch.randint(0, 256, (BATCH, BLOCK), generator=torch.Generator().manual_seed(0))
    return rows.cuda() if GPU else rows


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if GPU:
        torch.cuda.synchronize()


def machine() -> float:
    """Operations a second of a large matrix product: float32, on CUDA bfloat16."""
    kind = {"device": "cuda", "dtype": torch.bfloat16} if GPU else {}
    a, b = (torch.randn(SIDE, SIDE, **kind) for _ in "ab")  # type: ignore[call-overload]
    began, n = time.perf_counter(), 0
    while n < 2 or time.perf_counter() - began < 0.5:
        torch.mm(a, b)
        synchronize()
        n += 1
    return n * 2 * SIDE**3 / (time.perf_counter() - began)


def per_token(model: PreTrainedModel) -> float:
    """Operations of a trained token, as the top of this file counts them."""
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    frozen = 4 * sum(m.in_features * m.out_features for m in linear)
    adapter = 6 * RANK * sum(m.in_features + m.out_features for m in linear if m is not head)
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 3.5 * 4 * config.num_attention_heads * width * (BLOCK + 1) / 2
    return float(frozen + adapter + config.num_hidden_layers * attention)


def held(name: str, variant: str) -> int:
    """Bytes that a step of the variant needs at the most, in a process of its own."""
    command = [sys.executable, __file__, "--model", name, "--memory", variant]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(name: str, what: Variant) -> int:
    """Bytes that one step adds to the peak of this process."""
    model = load_model(name, "nf4", quiet, unpack=what.unpack).model
    rows = some_rows()
    with adapted(model, what) as step:
        step(rows[:1, :8])
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
        before = resident("VmRSS")
        step(rows)
        return resident("VmHWM") - before


def resident(what: str) -> int:
    """Bytes of memory that this process has (VmRSS) or has had at the most (VmHWM); getrusage
    would count what the parent process had, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


if __name__ == "__main__":
    main()
