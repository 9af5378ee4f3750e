"""Removing decoder layers from a model in place, and putting them back bit for bit.

Layers are found by structure, not by class name. A cut is a change of references: no weight is
copied, so a quantised base is shared by all arms of a study. Cutting a layer equals letting it
write nothing into the residual stream (law 1).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from pressft.errors import UsageError
from pressft.spec import Removal


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


def remove(model: PreTrainedModel, layers: Sequence[int]) -> Removal:
    """Cut `layers` (0-based indices) out of `model` for good.

    Raises:
        UsageError: an index out of range, or no layer left.
    """
    owner, name, old = decoder_layers(model)
    n_layers = len(old)
    for index in layers:
        if not 0 <= index < n_layers:
            raise UsageError(f"layer {index} of a {n_layers}-layer model: 0 to {n_layers - 1}")
    kept = [i for i in range(n_layers) if i not in set(layers)]
    if not kept:
        raise UsageError(f"all {n_layers} layers named: keep one")
    saved = sum(count(parameter) for i in set(layers) for parameter in old[i].parameters())
    _apply(model, owner, name, nn.ModuleList([old[i] for i in kept]), _trimmed(model, kept))
    return Removal(tuple(sorted(set(layers))), n_layers, saved)


@contextmanager
def removed(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[Removal]:
    """`remove` for the length of a `with` block; afterwards the model is as it was (law 2)."""
    owner, name, old = decoder_layers(model)
    settings = {key: getattr(model.config.get_text_config(), key) for key in _per_layer(model)}
    removal = remove(model, layers)
    try:
        yield removal
    finally:
        _apply(model, owner, name, old, settings)


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
