"""Removing decoder layers from a model in place, and putting them back bit for bit.

Layers are found by structure, not by class name. A cut is a change of references: no weight is
copied, so a quantised base is shared by all arms of a study. Cutting a layer equals letting it
write nothing into the residual stream (law 1).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from pressft.errors import UsageError
from pressft.spec import HALVES, Part, Removal

_HOOKS = "pressft_scales"  # of a layer: the handles of what multiplies its states


def decoder_layers(model: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList]:
    """Owner, attribute and list of the decoder layers: the one ModuleList as long as the config
    says the model is deep.

    Raises:
        UsageError: none or several such lists: not a decoder-only model we know how to cut.
    """
    depth = model.config.get_text_config().num_hidden_layers
    found = [
        (owner, name, child)
        for owner in model.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    if len(found) != 1:
        raise UsageError(
            f"{type(model).__name__}: {len(found)} lists of {depth} layers found, one expected; "
            "only decoder-only models can be cut"
        )
    return found[0]


def remove(model: PreTrainedModel, parts: Sequence[Part], scales: Sequence[float] = ()) -> Removal:
    """Cut `parts` (layers by 0-based index, halves as `attention:5`) out of `model` for good.

    Where there are `scales`, as `gaps` measures them, the states behind each run of removed layers
    are multiplied by them.

    Raises:
        UsageError: an index out of range, no layer left, or a layer without such a half.
    """
    owner, name, old = decoder_layers(model)
    n_layers = len(old)
    layers = sorted({part for part in parts if isinstance(part, int)})
    halves = [part for part in parts if isinstance(part, str)]
    for index in [*layers, *(int(half.split(":")[1]) for half in halves)]:
        if not 0 <= index < n_layers:
            raise UsageError(f"layer {index} of a {n_layers}-layer model: 0 to {n_layers - 1}")
    kept = [i for i in range(n_layers) if i not in layers]
    if not kept:
        raise UsageError(f"all {n_layers} layers named: keep one")
    places = [half_of(old[int(half.split(":")[1])], half.split(":")[0]) for half in halves]
    gone = [*(old[i] for i in layers), *(layer.get_submodule(child) for layer, child in places)]
    saved = sum(count(parameter) for module in gone for parameter in module.parameters())
    for (layer, child), half in zip(places, halves, strict=True):
        setattr(layer, child, Silent(attention=half.startswith("attention")))
    _apply(model, owner, name, nn.ModuleList([old[i] for i in kept]), _trimmed(model, kept))
    for (first, last), factor in zip(_runs(layers) if scales else (), scales, strict=True):
        _scale(old[last + 1] if last + 1 < n_layers else old[first - 1], factor, last, n_layers)
    return Removal(tuple(layers), n_layers, saved, tuple(halves), tuple(scales))


@contextmanager
def removed(
    model: PreTrainedModel, parts: Sequence[Part], scales: Sequence[float] = ()
) -> Iterator[Removal]:
    """`remove` for the length of a `with` block; afterwards the model is as it was (law 2)."""
    owner, name, old = decoder_layers(model)
    settings = {key: getattr(model.config.get_text_config(), key) for key in _per_layer(model)}
    children = [dict(layer.named_children()) for layer in old]
    removal = remove(model, parts, scales)
    try:
        yield removal
    finally:
        _unscale(old)
        for layer, before in zip(old, children, strict=True):
            for child, module in before.items():
                setattr(layer, child, module)
        _apply(model, owner, name, old, settings)


def gaps(
    model: PreTrainedModel, parts: Sequence[Part], rows: Sequence[Tensor]
) -> tuple[float, ...]:
    """By how much each run of `parts` that is whole layers lengthens the states, the mean over the
    tokens of `rows`, (1, tokens) each: the free repair of Prune&Comp (arXiv:2507.18212).

    What follows a cut is used to states as long as those; it is given them by one multiplication.
    """
    _, _, layers = decoder_layers(model)
    runs = _runs(sorted(part for part in parts if isinstance(part, int)))
    found: list[list[float]] = [[] for _ in runs]
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
    for run, (first, last) in enumerate(runs):
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


@contextmanager
def replaced(model: PreTrainedModel, module: nn.Module) -> Iterator[None]:
    """`module` in the place of all layers, for the length of a `with` block: what stands before
    and after them is run as the model itself would."""
    owner, name, old = decoder_layers(model)
    settings = {key: getattr(model.config.get_text_config(), key) for key in _per_layer(model)}
    _apply(model, owner, name, nn.ModuleList([module]), _trimmed(model, [0]))
    try:
        yield
    finally:
        _apply(model, owner, name, old, settings)


def half_of(layer: nn.Module, half: str) -> tuple[nn.Module, str]:
    """The layer and the name of its child that is its attention or its MLP.

    Found by structure: of the two children that hold matrices, the attention knows its place in
    the cache (`layer_idx`).

    Raises:
        UsageError: the layer has no such two halves.
    """
    heavy = [
        (name, hasattr(child, "layer_idx"))
        for name, child in layer.named_children()
        if any(parameter.ndim > 1 for parameter in child.parameters())
    ]
    found = [name for name, is_attention in heavy if is_attention == (half == "attention")]
    if len(heavy) != 2 or len(found) != 1:
        raise UsageError(
            f"{type(layer).__name__} holds {', '.join(name for name, _ in heavy)}: "
            "one attention and one MLP expected; choose whole layers"
        )
    return layer, found[0]


class Silent(nn.Module):
    """In the place of a half layer: writes nothing, but keeps its slot in the cache filled."""

    def __init__(self, *, attention: bool) -> None:
        """An attention returns its output and no weights, an MLP its output alone."""
        super().__init__()
        self.attention = attention
        if attention:
            self.layer_idx = 0

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> object:
        """Zeros of the shape (rows, tokens, width) of what came in."""
        nothing = torch.zeros_like(hidden_states)
        if not self.attention:
            return nothing
        for value in (*args, *kwargs.values()):
            if isinstance(value, Cache):  # layer 0's slot tells how long the text is
                slot = nothing[:, None, :, :1]  # (rows, heads, tokens, head width)
                value.update(slot, slot, self.layer_idx)
        return nothing, None


def dense(model: PreTrainedModel, removal: Removal) -> Callable[[], None]:
    """Repeat a cut on a model that is to be saved: call the result once adapters are merged.

    A half layer has no form of its own in a checkpoint. The call puts the halves back with their
    last matrix zeroed: a plain model, the same logits. Nor has a scaled state: what is written
    behind it is divided instead, which no norm can tell apart.

    Raises:
        UsageError: layers that norm what they write cannot be divided so.
    """
    _, _, layers = decoder_layers(model)
    halves = [half.split(":") for half in removal.halves]
    places = [half_of(layers[int(index)], kind) for kind, index in halves]
    originals = [layer.get_submodule(child) for layer, child in places]
    if removal.scales and _norms_its_writes(layers[0]):
        raise UsageError(
            f"{type(layers[0]).__name__} norms what it writes: a scaled cut of it has no plain form"
        )
    remove(model, removal.parts, removal.scales)

    def put_back() -> None:
        _unscale(layers)
        for (layer, child), module in zip(places, originals, strict=True):
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", layer.get_submodule(child).layer_idx)  # noqa: B010
            setattr(layer, child, module)
            for parameter in _writers(module):
                nn.init.zeros_(parameter)
        _divide(layers, removal)

    return put_back


def _writers(half: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of the last matrix of a half layer: what it writes is linear in them."""
    matrices = [
        inner
        for inner in half.modules()
        if any(p.ndim == 2 for p in inner.parameters(recurse=False))
    ]
    return list(matrices[-1].parameters(recurse=False))


def _norms_its_writes(layer: nn.Module) -> bool:
    """Whether more stands beside the halves than the norms in front of them (Gemma 3)."""
    light = [c for c in layer.children() if not any(p.ndim > 1 for p in c.parameters())]
    return sum(any(True for _ in child.parameters()) for child in light) > len(HALVES)


@torch.no_grad()
def _divide(layers: nn.ModuleList, removal: Removal) -> None:
    """Divide what each kept layer writes by all factors in front of it."""
    for (_, last), factor in zip(_runs(removal.layers), removal.scales, strict=False):
        for index in removal.kept:
            if index > last:
                for half in HALVES:
                    owner, child = half_of(layers[index], half)
                    for parameter in _writers(owner.get_submodule(child)):
                        parameter.div_(factor)


def _runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last index of each run of neighbours in ascending `layers`."""
    runs: list[tuple[int, int]] = []
    for index in layers:
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return runs


def _scale(layer: nn.Module, factor: float, last: int, n_layers: int) -> None:
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


def _unscale(layers: nn.ModuleList) -> None:
    for layer in layers:
        for hook in layer.__dict__.pop(_HOOKS, ()):
            hook.remove()


def _apply(
    model: PreTrainedModel,
    owner: nn.Module,
    name: str,
    layers: nn.ModuleList,
    settings: dict[str, Any],
) -> None:
    layers.train(owner.training)
    setattr(owner, name, layers)
    for position, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                # the cache finds its slot by it: renumber, or IndexError
                setattr(module, "layer_idx", position)  # noqa: B010  (typed as a submodule)
    config = model.config.get_text_config()
    for key, value in settings.items():
        setattr(config, key, value)


def _per_layer(model: PreTrainedModel) -> list[str]:
    """Config entries that grow with depth, its count first (`layer_types` and its like)."""
    config = model.config.get_text_config()
    depth = config.num_hidden_layers
    return ["num_hidden_layers"] + [
        key
        for key, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == depth
    ]


def _trimmed(model: PreTrainedModel, kept: list[int]) -> dict[str, Any]:
    config = model.config.get_text_config()
    depth, *lists = _per_layer(model)
    return {depth: len(kept)} | {key: [getattr(config, key)[i] for i in kept] for key in lists}


def count(parameter: nn.Parameter) -> int:
    """Weights of a parameter, those of a packed 4-bit one counted unpacked."""
    state = getattr(parameter, "quant_state", None)
    return int((state.shape if state is not None else parameter.shape).numel())
