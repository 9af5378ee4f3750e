"""The free repair of a cut: states behind it are scaled to the length they had (Prune&Comp,
arXiv:2507.18212).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pressft.model.layers import decoder_layers, half_of, runs, writers
from pressft.spec import HALVES, Part, Removal

_HOOKS = "pressft_scales"  # of a layer: the handles of what multiplies its states


def gaps(
    model: PreTrainedModel, parts: Sequence[Part], rows: Sequence[Tensor]
) -> tuple[float, ...]:
    """By how much each run of `parts` that is whole layers lengthens the states, the mean over the
    tokens of `rows`, (1, tokens) each: the free repair of Prune&Comp (arXiv:2507.18212).

    What follows a cut is used to states as long as those; it is given them by one multiplication.
    """
    _, _, layers = decoder_layers(model)
    cut = runs(sorted(part for part in parts if isinstance(part, int)))
    found: list[list[float]] = [[] for _ in cut]
    entered: dict[int, Tensor] = {}

    def entering(run: int) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered[run] = args[0] if args else kwargs["hidden_states"]

        return keep

    def leaving(run: int) -> Callable[..., None]:
        def compare(_: nn.Module, __: Any, output: Tensor) -> None:  # noqa: ANN401
            before, after = (state.float().norm(dim=-1) for state in (entered[run], output))
            found[run] += (after / before)[before > 0].tolist()  # a padding token has no length

        return compare

    hooks = []
    for run, (first, last) in enumerate(cut):
        hooks.append(layers[first].register_forward_pre_hook(entering(run), with_kwargs=True))
        hooks.append(layers[last].register_forward_hook(leaving(run)))
    try:
        with torch.inference_mode():
            for row in rows:
                model(input_ids=row.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(sum(ratios) / len(ratios) for ratios in found)


def scale(layer: nn.Module, factor: float, last: int, n_layers: int) -> None:
    """Multiply what enters `layer`, or, where the cut reaches the end, what leaves it."""

    def entering(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0] * factor, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] * factor}

    def leaving(_: nn.Module, __: Any, output: Tensor) -> Tensor:  # noqa: ANN401
        return output * factor

    if last + 1 < n_layers:
        hook = layer.register_forward_pre_hook(entering, with_kwargs=True)
    else:
        hook = layer.register_forward_hook(leaving)
    layer.__dict__.setdefault(_HOOKS, []).append(hook)


def unscale(layers: nn.ModuleList) -> None:
    """Take off what multiplies the states of these layers."""
    for layer in layers:
        for hook in layer.__dict__.pop(_HOOKS, ()):
            hook.remove()


def norms_its_writes(layer: nn.Module) -> bool:
    """Whether more stands beside the halves than the norms in front of them (Gemma 3)."""
    light = [c for c in layer.children() if not any(p.ndim > 1 for p in c.parameters())]
    return sum(any(True for _ in child.parameters()) for child in light) > len(HALVES)


@torch.no_grad()
def divide(layers: nn.ModuleList, removal: Removal) -> None:
    """Divide what each kept layer writes by all factors in front of it."""
    for (_, last), factor in zip(runs(removal.layers), removal.scales, strict=False):
        for index in removal.kept:
            if index > last:
                for half in HALVES:
                    owner, child = half_of(layers[index], half)
                    for parameter in writers(owner.get_submodule(child)):
                        parameter.div_(factor)
