"""Costs of cut models: what can be known beforehand is what is measured."""

from collections.abc import Callable

import torch
from states import fingerprint

from pressft.evaluation import cost as costs
from pressft.model.base import Base


def test_costs_of_cuts(load: Callable[..., Base]) -> None:
    base = load("tiny-llama")
    before = fingerprint(base.model)
    steps: list[tuple[float, float]] = []
    arms = {"none": (), "two": (1, 2), "half": ("mlp:0",)}
    found = costs.measure(base, arms, lambda _, done, of: steps.append((done, of)))
    assert fingerprint(base.model) == before
    assert steps[-1] == (len(steps) - 1,) * 2 == (len(arms) * (costs.ROUNDS + 1),) * 2
    whole, two, half = (found[arm] for arm in arms)
    n = sum(parameter.numel() for parameter in base.model.parameters())
    layer = sum(p.numel() for p in base.model.model.layers[1].parameters())
    assert whole.checkpoint_bytes == half.checkpoint_bytes == 4 * n
    assert two.checkpoint_bytes == 4 * (n - 2 * layer)
    assert whole.peak_bytes > 4 * n
    assert whole.peak_bytes - two.peak_bytes >= 4 * 2 * layer
    assert half.peak_bytes < whole.peak_bytes
    assert min(cost.tokens_per_second for cost in found.values()) > 0


def test_what_is_allocated_beside_the_weights_is_seen() -> None:
    class Wasteful(torch.nn.Linear):
        def generate(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
            waste = torch.ones(250_000)
            return torch.zeros_like(input_ids) + int(waste.sum() > 0)

    held, beside = costs._memory(Wasteful(10, 10, bias=False))
    assert held == 400
    assert 1_000_000 <= beside < 1_010_000
