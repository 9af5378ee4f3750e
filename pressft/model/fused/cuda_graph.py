"""A pass on CUDA, forward and backward, as one launch: recorded once, played for every batch.

A pass over a small model is thousands of short kernels, and Python takes longer to launch them than
a GPU to run them. A CUDA graph launches them all at once. Its numbers are those of other passes but
for rounding (libraries choose some kernels otherwise while they are recorded), and the very same
whenever it is made again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WARM = 2  # passes before a recording: libraries choose their kernels and take their memory
PAYS = 10  # passes of a training from which on a recording saves more time than it takes


def pays(passes: int) -> bool:
    """Whether a training of so many passes is done sooner with a recording, on this machine."""
    return torch.cuda.is_available() and passes >= PAYS


class Recorded:
    """The loss of a pass and its gradients, played from a recording."""

    def __init__(
        self,
        loss_of: Callable[..., Tensor],
        parameters: Sequence[nn.Parameter],
        inputs: Sequence[Tensor],
    ) -> None:
        """Record `loss_of(*inputs)`, a scalar. `parameters`, all that it may have a gradient of,
        have none yet, and have none afterwards.

        Raises:
            RuntimeError: it cannot be recorded, or memory does not hold it.
        """
        self.inputs = [tensor.clone() for tensor in inputs]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM):
                    torch.autograd.backward(loss_of(*self.inputs))
                    _clear(parameters)
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                loss = loss_of(*self.inputs)
                torch.autograd.backward(loss)
            self.loss = loss.detach()
            self.parameters = [p for p in parameters if p.grad is not None]
            self.found: list[Any] = [parameter.grad for parameter in self.parameters]
        finally:
            _clear(parameters)
        self.summed = [torch.empty_like(gradient) for gradient in self.found]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Loss of inputs of the same shapes; its gradients are added to the parameters' own."""
        for tensor, new in zip(self.inputs, inputs, strict=True):
            tensor.copy_(new)
        self.graph.replay()
        if self.parameters[0].grad is None:
            torch._foreach_copy_(self.summed, self.found)
            for parameter, gradient in zip(self.parameters, self.summed, strict=True):
                parameter.grad = gradient
        else:
            torch._foreach_add_(self.summed, self.found)
        return self.loss.clone()


def _clear(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
