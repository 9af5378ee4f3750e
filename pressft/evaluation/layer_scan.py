"""Perplexity without each layer or half layer, before any training, in one pass over the text.

Hidden states in front of a cut are those of the whole model, so they are computed once: a stack of
states, one row a cut, is carried from layer to layer, and a row joins it where its cut ends. With
L layers that takes L(L-1)/2 + L layer applications instead of L(L-1) + L; the output head is run
for every cut alike. The scores are those of really cutting the model (a test says so).

Beside them, the cheap criteria of the literature, from the same pass:

- influence: 1 - mean cosine of the states behind the part with and without it (ShortGPT's block
  influence, Men et al. 2024, arXiv:2403.03853)
- angular distance: arccos of that cosine at a text's last token, over pi (Gromov et al. 2024,
  arXiv:2403.17887)
- taylor: the loss increase, in nats per token, that a first-order expansion predicts: the gradient
  at the state behind the part times what the state loses (Molchanov et al. 2017,
  arXiv:1611.06440; on activations, so that a 4-bit base will do)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pressft.evaluation.perplexity import Window, windows
from pressft.model.layers import decoder_layers
from pressft.model.surgery import removed, replaced
from pressft.model.tokens import Document
from pressft.score import Score
from pressft.spec import HALVES, Part
from pressft.study.scans import Cut

STACK_TOKENS = {"cpu": 1024, "cuda": 4096}  # of states a pass, all of whose logits are made


@dataclass(slots=True)
class _Sums:
    """Running sums of one cut: what `Cut` is made of."""

    nats: float = 0.0
    cosine: float = 0.0
    angle: float = 0.0
    taylor: float = 0.0


@dataclass(slots=True)
class _Pass:
    """One window through the whole model: what entered each layer, and how it was called."""

    window: Window
    nats: float = 0.0
    states: list[Tensor] = field(default_factory=list)  # (1, tokens, width), before each and last
    gradients: list[Tensor] = field(default_factory=list)  # of the nats, alike
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


def parts_of(n_layers: int, *, halves: bool, block: int) -> list[tuple[Part, ...]]:
    """Every cut of a scan: each layer, each half where asked for, each `block` of layers (0: none).

    A cut lies within a layer or is a run of layers.
    """
    cuts: list[tuple[Part, ...]] = [(i,) for i in range(n_layers)]
    if halves:
        cuts += [(f"{half}:{i}",) for half in HALVES for i in range(n_layers)]
    if block > 1:
        starts = range(n_layers - block + 1)
        cuts += [tuple(range(start, start + block)) for start in starts if block < n_layers]
    return cuts


def scan(
    model: PreTrainedModel,
    documents: Sequence[Document],
    before: int,
    window: int,
    cuts: Sequence[tuple[Part, ...]],
    on_tokens: Callable[[int], None] = lambda _: None,
) -> tuple[Score, list[Cut]]:
    """Score of the whole model on the documents, and each cut's, in the order of `cuts`.

    Windows are those of `scoring.score`; `on_tokens` hears of tokens done.
    """
    sums = {cut: _Sums() for cut in cuts}
    base, rows = 0.0, 0
    for row in windows(documents, before, window):
        run = _whole(model, row)
        base += run.nats
        rows += 1
        _follow(model, run, sums)
        on_tokens(row.n_counted)
    tokens, size, words = (
        sum(counts)
        for counts in zip(*((len(d.ids), d.bytes, d.words) for d in documents), strict=True)
    )
    whole = Score(base, tokens, size, words)
    return whole, [
        Cut(
            remove=_name(cut),
            score=Score(found.nats, tokens, size, words),
            influence=1 - found.cosine / tokens,
            angular_distance=found.angle / rows,
            taylor=found.taylor / tokens,
        )
        for cut, found in sums.items()
    ]


def _name(cut: tuple[Part, ...]) -> str:
    return f"{cut[0]}-{cut[-1]}" if len(cut) > 1 else str(cut[0])


def _whole(model: PreTrainedModel, window: Window) -> _Pass:
    """Run the whole model on a window, and differentiate its counted nats by every state."""
    run = _Pass(window)
    _, _, layers = decoder_layers(model)

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run.states.append(args[0] if args else kwargs.pop("hidden_states"))
        run.calls.append((args[1:], kwargs))

    def leaving(_: nn.Module, __: Any, output: Tensor) -> None:  # noqa: ANN401
        run.states.append(output)

    hooks = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(leaving))
    embeddings = model.get_input_embeddings()
    hooks.append(embeddings.register_forward_hook(lambda *parts: parts[2].requires_grad_()))
    ids = torch.tensor([window.ids[:-1]], device=model.device)
    try:
        with torch.enable_grad():
            nats = _nats(model(input_ids=ids, use_cache=False).logits, window)[0]
            run.gradients = list(torch.autograd.grad(nats, run.states))
    finally:
        for hook in hooks:
            hook.remove()
    run.nats = float(nats.detach())
    run.states = [state.detach() for state in run.states]
    return run


@torch.inference_mode()
def _follow(model: PreTrainedModel, run: _Pass, sums: dict[tuple[Part, ...], _Sums]) -> None:
    """Carry the stack of cuts through the layers, and add what each costs to its sums."""
    _, _, layers = decoder_layers(model)
    joining: dict[int, list[tuple[Part, ...]]] = {}
    for cut in sums:
        joining.setdefault(_place(cut[-1]), []).append(cut)
    stack: list[Tensor] = []
    order: list[tuple[Part, ...]] = []
    for index, layer in enumerate(layers):
        stack = _apply(layer, stack, run.calls[index])
        for cut in joining.get(index, ()):
            state = _without(model, run, cut)
            _compare(run, index + 1, state, sums[cut])
            stack.append(state)
            order.append(cut)
    for cut, nats in zip(order, _head(model, stack, run.window), strict=True):
        sums[cut].nats += nats


def _place(part: Part) -> int:
    """Index of the layer that a part is, or is in."""
    return part if isinstance(part, int) else int(part.split(":")[1])


def _without(model: PreTrainedModel, run: _Pass, cut: tuple[Part, ...]) -> Tensor:
    """State behind a cut: what entered its first layer, and what a half layer leaves of it."""
    index = _place(cut[0])
    if isinstance(cut[0], int):
        return run.states[index]
    _, _, layers = decoder_layers(model)
    layer = layers[index]
    with removed(model, cut):
        return _apply(layer, [run.states[index]], run.calls[index])[0]


def _apply(
    layer: nn.Module, stack: list[Tensor], call: tuple[tuple[Any, ...], dict[str, Any]]
) -> list[Tensor]:
    """The layer on every state of the stack, a few at a time."""
    args, kwargs = call
    return [
        row for chunk in _chunks(stack) for row in layer(torch.cat(chunk), *args, **kwargs).split(1)
    ]


def _head(model: PreTrainedModel, stack: list[Tensor], window: Window) -> list[float]:
    """Nats of every state of the stack, through what stands behind the layers."""
    given = _Given()
    found: list[float] = []
    with replaced(model, given):
        for chunk in _chunks(stack):
            given.state = torch.cat(chunk)
            ids = torch.tensor([window.ids[:-1]] * len(chunk), device=model.device)
            found += _nats(model(input_ids=ids, use_cache=False).logits, window).tolist()
    return found


def _chunks(stack: list[Tensor]) -> list[list[Tensor]]:
    """The stack in groups of about STACK_TOKENS."""
    if not stack:
        return []
    size = max(1, STACK_TOKENS[stack[0].device.type] // stack[0].shape[1])
    return [stack[i : i + size] for i in range(0, len(stack), size)]


class _Given(nn.Module):
    """A layer that writes what it was given, whatever enters it."""

    state: Tensor

    def forward(self, *_: object, **__: object) -> Tensor:
        """The given state, (rows, tokens, width)."""
        return self.state


def _nats(logits: Tensor, window: Window) -> Tensor:
    """Summed loss of the counted predictions of each row, (rows,) float64."""
    targets = torch.tensor(window.ids[-window.n_counted :], device=logits.device)
    counted = logits[:, -window.n_counted :].float()
    losses = nn.functional.cross_entropy(
        counted.flatten(0, 1), targets.repeat(len(counted)), reduction="none"
    )
    return losses.view(len(counted), -1).double().sum(1)


def _compare(run: _Pass, behind: int, state: Tensor, sums: _Sums) -> None:
    """Add to the cheap criteria: `state` instead of the whole model's at the same place."""
    n = run.window.n_counted
    with_, without = run.states[behind][0, -n:].double(), state[0, -n:].double()
    cosine = nn.functional.cosine_similarity(with_, without, dim=-1)
    sums.cosine += float(cosine.sum())
    sums.angle += math.acos(max(-1.0, min(1.0, float(cosine[-1])))) / math.pi
    # all tokens of the window: a state also moves the losses behind it
    lost = state[0].double() - run.states[behind][0].double()
    sums.taylor += float((run.gradients[behind][0].double() * lost).sum())
