"""Honest perplexity: each document by itself, in strided windows, summed and divided once (law 4).

A document is read as `before` + its tokens. The first window holds `window` tokens; each further
one starts `window // 2` later and counts only what the one before did not, so every token of the
document is predicted exactly once, with at least `window // 2` tokens of context where the text
has them. (As in transformers' guide to perplexity of fixed-length models, with a half stride.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pressft.blocks import Document
from pressft.scores import Score

BATCH_TOKENS = 1024  # padded tokens a forward pass: more is no faster on a CPU, and logits are big


@dataclass(frozen=True, slots=True)
class Window:
    """A row to run: ids with the token before, and how many of its last predictions count."""

    document: int
    ids: tuple[int, ...]
    n_counted: int


def score(
    model: nn.Module,
    documents: Sequence[Document],
    before: int,
    window: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> tuple[Score, ...]:
    """Score of each document, in order; `on_tokens` hears of tokens done.

    `before` is the id read in front of every document, `window` the context in tokens.
    """
    training = model.training
    model.eval()
    nats = [0.0] * len(documents)
    try:
        with torch.inference_mode():
            for batch in _batches(windows(documents, before, window), batch_tokens):
                for row, value in zip(batch, _nats(model, batch), strict=True):
                    nats[row.document] += value
                on_tokens(sum(row.n_counted for row in batch))
    finally:
        model.train(training)
    return tuple(
        Score(value, len(document.ids), document.bytes, document.words)
        for value, document in zip(nats, documents, strict=True)
    )


def windows(documents: Sequence[Document], before: int, window: int) -> Iterator[Window]:
    """The windows of all documents, each token of each counted in exactly one of them."""
    stride = max(1, window // 2)
    for number, document in enumerate(documents):
        ids = (before, *document.ids)
        end = counted = 0
        for start in range(0, len(document.ids), stride):
            end = min(start + window + 1, len(ids))  # + 1: the last token is only a target
            yield Window(number, ids[start:end], end - 1 - counted)
            counted = end - 1
            if end == len(ids):
                break


def _batches(windows: Iterator[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Windows of similar length together, so that little is padded."""
    batch: list[Window] = []
    for row in sorted(windows, key=lambda row: -len(row.ids)):
        if batch and (len(batch) + 1) * (len(batch[0].ids) - 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _nats(model: nn.Module, batch: list[Window]) -> list[float]:
    """Summed loss of each row's counted predictions, in float64."""
    device = next(model.parameters()).device
    longest = len(batch[0].ids) - 1
    inputs = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask = torch.zeros_like(inputs)
    targets = torch.full_like(inputs, -100)
    for i, row in enumerate(batch):
        size = len(row.ids) - 1
        inputs[i, :size] = torch.tensor(row.ids[:-1])
        mask[i, :size] = 1
        targets[i, size - row.n_counted : size] = torch.tensor(row.ids[-row.n_counted :])
    logits = _logits(model, inputs.to(device), mask.to(device))
    losses = [
        nn.functional.cross_entropy(row.float(), target, ignore_index=-100, reduction="none")
        for row, target in zip(logits, targets.to(device), strict=True)
    ]
    return [float(loss.double().sum()) for loss in losses]


def _logits(model: nn.Module, inputs: Tensor, mask: Tensor) -> Tensor:
    """(rows, tokens, vocabulary); padding stands on the right, where no real token sees it."""
    whole = bool(mask.all())
    output = model(input_ids=inputs, attention_mask=None if whole else mask, use_cache=False)
    return output.logits  # type: ignore[no-any-return]


def generate(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], before: int, end: int, n_new: int
) -> list[list[int]]:
    """Greedy continuations of each prompt: at most `n_new` ids each, `end` not included."""
    training = model.training
    model.eval()
    continuations = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([[before, *prompt]], device=next(model.parameters()).device)
            output = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=n_new,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
            )
            new = output[0, ids.shape[1] :].tolist()
            continuations.append(new[: new.index(end)] if end in new else new)
    model.train(training)
    return continuations
