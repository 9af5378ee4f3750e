"""Removing decoder layers from a model in place, and putting them back bit for bit.

A cut is a change of references: no weight is copied, so a quantised base is shared by all arms of a
study. Cutting a layer equals letting it write nothing into the residual stream (law 1).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from pressft.errors import UsageError
from pressft.model.layers import Parts, count, decoder_layers, half_of, parts_of, runs, writers
from pressft.model.repair import divide, norms_its_writes, scale, unscale
from pressft.spec import Removal

_CUT = "pressft_cut"  # of a model: that something of it is removed


def is_cut(model: PreTrainedModel) -> bool:
    """Whether something is removed from a model now."""
    return _CUT in model.__dict__


def remove(model: PreTrainedModel, parts: Parts, scales: Sequence[float] = ()) -> Removal:
    """Cut `parts` out of any decoder-only `model` of transformers, in place and for good.

    `parts` is a layer by its 0-based index (14), text as `remove` of a trial takes it ("middle",
    "12-15", "attention:14", "3,5"), or a sequence of both.

    Where there are `scales`, as `gaps` measures them, the states behind each run of removed layers
    are multiplied by them.

    Raises:
        UsageError: an index out of range, no layer left, a layer without such a half, or a model
            that cannot be cut; the message says what to give instead.
    """
    owner, name, old = decoder_layers(model)
    n_layers = len(old)
    found = parts_of(parts, n_layers)
    layers = [part for part in found if isinstance(part, int)]
    halves = [part for part in found if isinstance(part, str)]
    kept = [i for i in range(n_layers) if i not in layers]
    places = [half_of(old[int(half.split(":")[1])], half.split(":")[0]) for half in halves]
    gone = [*(old[i] for i in layers), *(layer.get_submodule(child) for layer, child in places)]
    saved = sum(count(parameter) for module in gone for parameter in module.parameters())
    for (layer, child), half in zip(places, halves, strict=True):
        setattr(layer, child, Silent(attention=half.startswith("attention")))
    _apply(model, owner, name, nn.ModuleList([old[i] for i in kept]), _trimmed(model, kept))
    for (first, last), factor in zip(runs(layers) if scales else (), scales, strict=True):
        scale(old[last + 1] if last + 1 < n_layers else old[first - 1], factor, last, n_layers)
    if found:
        model.__dict__[_CUT] = True
    return Removal(tuple(layers), n_layers, saved, tuple(halves), tuple(scales))


@contextmanager
def removed(
    model: PreTrainedModel, parts: Parts, scales: Sequence[float] = ()
) -> Iterator[Removal]:
    """`remove` for the length of a `with` block; afterwards the model is as it was (law 2)."""
    owner, name, old = decoder_layers(model)
    settings = {key: getattr(model.config.get_text_config(), key) for key in _per_layer(model)}
    children = [dict(layer.named_children()) for layer in old]
    was_cut = is_cut(model)
    removal = remove(model, parts, scales)
    try:
        yield removal
    finally:
        if not was_cut:
            model.__dict__.pop(_CUT, None)
        unscale(old)
        for layer, before in zip(old, children, strict=True):
            for child, module in before.items():
                setattr(layer, child, module)
        _apply(model, owner, name, old, settings)


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
            if isinstance(value, Cache):  # the length of the text is read from layer 0's slot
                slot = nothing[:, None, :, :1]  # (rows, heads, tokens, head width)
                value.update(slot, slot, self.layer_idx)
        return nothing, None


def dense(model: PreTrainedModel, removal: Removal) -> Callable[[], None]:
    """Repeat a cut on a model that is to be saved: call the result once adapters are merged.

    A half layer has no form of its own in a checkpoint. The call puts the halves back with their
    last matrix zeroed: a plain model, the same logits. Nor has a scaled state: what is written
    behind it is divided instead, which changes the output of no norm.

    Raises:
        UsageError: layers that norm what they write cannot be divided so.
    """
    _, _, layers = decoder_layers(model)
    halves = [half.split(":") for half in removal.halves]
    places = [half_of(layers[int(index)], kind) for kind, index in halves]
    originals = [layer.get_submodule(child) for layer, child in places]
    if removal.scales and norms_its_writes(layers[0]):
        raise UsageError(
            f"{type(layers[0]).__name__} norms what it writes: a scaled cut of it has no plain form"
        )
    remove(model, removal.parts, removal.scales)

    def put_back() -> None:
        unscale(layers)
        for (layer, child), module in zip(places, originals, strict=True):
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", layer.get_submodule(child).layer_idx)  # noqa: B010
            setattr(layer, child, module)
            for parameter in writers(module):
                nn.init.zeros_(parameter)
        divide(layers, removal)

    return put_back


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
