"""Finding the decoder layers of a model, and the attention and the MLP of a layer, by structure.

No class is known by name, so that any decoder-only model built in the usual way can be cut.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from torch import nn
from transformers import PreTrainedModel

from pressft.errors import UsageError
from pressft.spec import FORMS, WHOLE, Part, resolve

Parts = SupportsIndex | str | Iterable[SupportsIndex | str]  # of a model: 14, "12-15", [3, "mlp:5"]


def decoder_layers(model: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList]:
    """Owner, attribute and list of the decoder layers: the one ModuleList as long as the config
    says the model is deep.

    Raises:
        UsageError: none or several such lists, a model with an encoder or with an adapter on it,
            or no model: nothing we know how to cut.
    """
    if not isinstance(model, PreTrainedModel) or hasattr(model, "peft_config"):
        raise UsageError(_why_not(model))
    if model.config.is_encoder_decoder:
        raise UsageError(
            f"{type(model).__name__} has an encoder: only decoder-only models can be cut"
        )
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


def _why_not(model: object) -> str:
    """A message that says what to give instead of `model`."""
    name = type(model).__name__
    if hasattr(model, "peft_config"):
        return f"{name} has a PEFT adapter on it: cut its base first, or merge_and_unload() it"
    if isinstance(getattr(model, "model", None), PreTrainedModel):
        return f"{name} is no transformers model: give its .model"
    return f"{name} is no transformers model: give one as from_pretrained() returns it"


def parts_of(named: Parts, n_layers: int) -> tuple[Part, ...]:
    """What `named` means in a model of `n_layers`: whole layers ascending, then halves.

    An index, text as `remove` of a trial takes it, or several of both; nothing for "none" and [].

    Raises:
        UsageError: neither of these, an index out of range, or no layer left.
    """
    if isinstance(named, str):
        return resolve(named, n_layers)
    items: list[Any]
    try:
        items = list(named)  # type: ignore[arg-type]  # tried: a tensor of no dimension has no items
    except TypeError:
        items = [named]
    return resolve(",".join(_written(item, n_layers) for item in items) or WHOLE, n_layers)


def _written(item: SupportsIndex | str, n_layers: int) -> str:
    """An item as text; an index by its digits."""
    if isinstance(item, str):
        return item
    try:
        if isinstance(item, bool):
            raise TypeError
        index = operator.index(item)
    except TypeError:
        raise UsageError(f"remove {item!r} ({type(item).__name__}): choose {FORMS}") from None
    if index < 0:
        raise UsageError(
            f"layer {index} of a {n_layers}-layer model: indices count from 0, and the last layer "
            f"is {n_layers - 1} or 'last'"
        )
    return str(index)


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


def runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last index of each run of neighbours in ascending `layers`."""
    found: list[tuple[int, int]] = []
    for index in layers:
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def writers(half: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of the last matrix of a half layer: what it writes is linear in them."""
    matrices = [
        inner
        for inner in half.modules()
        if any(p.ndim == 2 for p in inner.parameters(recurse=False))
    ]
    return list(matrices[-1].parameters(recurse=False))


def count(parameter: nn.Parameter) -> int:
    """Weights of a parameter, those of a packed 4-bit one counted unpacked."""
    state = getattr(parameter, "quant_state", None)
    return int((state.shape if state is not None else parameter.shape).numel())
