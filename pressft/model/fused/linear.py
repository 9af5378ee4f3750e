"""A frozen linear layer and its low-rank update as one operation.

PEFT computes `base(x) + B(A(x)) * scale` in five operations, each of which passes over the whole
output, forward and backward. Here the update is added in place by the matrix product itself, and
the gradient of B is taken in the order that is fast for thin matrices. The same arithmetic but for
the order of additions; the weights stay PEFT's, float32, and take part in the type of the layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

ADAPTER = "default"


def fuse(wrapped: PeftModel) -> None:
    """Let the plain layers of an adapter run as one operation; others stay as they are."""
    for module in wrapped.modules():
        if isinstance(module, Linear) and _is_plain(module):
            module.forward = _forward(module)


def _is_plain(layer: Linear) -> bool:
    """Whether PEFT's own forward would do no more than ours."""
    base = layer.get_base_layer()
    return (
        type(base) is nn.Linear
        and base.weight.is_floating_point()
        and not base.weight.requires_grad
        and layer.active_adapters == [ADAPTER]
        and not layer.merged
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and not layer.lora_bias[ADAPTER]
    )


def _forward(layer: Linear) -> Callable[..., Tensor]:
    base, scale = layer.get_base_layer(), layer.scaling[ADAPTER]
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        found: Tensor = _Updated.apply(x, a, b, base, scale)  # type: ignore[no-untyped-call]
        return found

    return forward


class _Updated(torch.autograd.Function):
    """x (..., in) -> x W' + bias + scale x A' B', with W (out, in), A (rank, in), B (out, rank)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        a: Tensor,
        b: Tensor,
        base: nn.Linear,
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(base.weight.dtype)
        a, b = a.to(rows.dtype), b.to(rows.dtype)
        low = rows @ a.t()
        y = nn.functional.linear(rows, base.weight, base.bias).addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(rows, low, a, b)
        ctx.base, ctx.scale, ctx.shape = base, scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        rows, low, a, b = ctx.saved_tensors
        dy = outer.reshape(-1, outer.shape[-1])
        # on a CPU `dy @ b` takes up to 2.4 times as long at rank 8, from 16 on a little less
        dlow = (b.t() @ dy.t()).t().mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ ctx.base.weight).addmm_(dlow, a).view(ctx.shape)
        da, db = dlow.t() @ rows, (low.t() @ dy).mul_(ctx.scale).t()
        return dx, da.float(), db.float(), None, None
