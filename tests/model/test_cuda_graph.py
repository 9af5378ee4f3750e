"""What stands around a CUDA graph: the graph itself is made up here, `test_gpu` has real ones."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from pressft.model.fused import cuda_graph


class Graph:
    """Computes anew into the memory that was recorded, as playing a graph does."""

    recorded: cuda_graph.Recorded

    def replay(self) -> None:
        loss = loss_of(self.recorded.parameters[0], *self.recorded.inputs)
        self.recorded.loss.copy_(loss.detach())
        self.recorded.found[0].copy_(*torch.autograd.grad(loss, self.recorded.parameters))


class Stream:
    def wait_stream(self, _: object) -> None:
        pass


def loss_of(weight: Tensor, x: Tensor, n: Tensor) -> Tensor:
    return (weight * x).square().sum() / n


def test_gradients_of_passes_are_summed_until_they_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    used, unused = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.ones(3))
    inputs = torch.tensor([3.0, 4.0]), torch.tensor(2.0)
    recorded = cuda_graph.Recorded(lambda *given: loss_of(used, *given), [unused, used], inputs)
    recorded.graph.recorded = recorded
    assert used.grad is None
    for _ in range(2):
        first = recorded(*inputs)
        second = recorded(torch.tensor([1.0, 0.0]), torch.tensor(1.0))
        assert (float(first), float(second)) == (36.5, 1.0)
        assert used.grad is not None
        assert used.grad.tolist() == [9 + 2, 32 + 0]
        assert unused.grad is None
        used.grad = None
