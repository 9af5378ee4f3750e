"""Honest perplexity: each document by itself, in strided windows, summed and divided once (law 4).

A document is read as `before` + its tokens. The first window holds `window` tokens; each further
one starts `window // 2` later and counts only what the one before did not, so every token of the
document is predicted exactly once, with at least `window // 2` tokens of context where the text
has them. (As in transformers' guide to perplexity of fixed-length models, with a half stride.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pressft.errors import DataError
from pressft.model.base import Base
from pressft.model.fused import loss
from pressft.model.tokens import Document, separators, tokenize
from pressft.score import Score, total

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # padded tokens a forward pass: more is no faster


@dataclass(frozen=True, slots=True)
class Window:
    """A row to run: ids with the token before, and how many of its last predictions count."""

    document: int
    ids: tuple[int, ...]
    n_counted: int


def perplexity(base: Base, texts: str | Iterable[str], window: int = 1024) -> Score:
    """Score of all texts together by the model of `base`, as it is: cut, adapted or whole.

    `window` is the context in tokens; the stride is half of it. Of the result, `.perplexity` is the
    exponential of the mean loss a token, `.bits_per_byte` compares between tokenizers.

    Raises:
        DataError: there is no token to score.
    """
    documents = tokenize([texts] if isinstance(texts, str) else texts, base.tokenizer)
    if not documents:
        raise DataError("perplexity of no text: give at least one that is not empty")
    return total(score(base.model, documents, separators(base.tokenizer).before, window))


def score(
    model: nn.Module,
    documents: Sequence[Document],
    before: int,
    window: int,
    *,
    batch_tokens: int = 0,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> tuple[Score, ...]:
    """Score of each document, in order; `on_tokens` hears of tokens done.

    `before` is the id read in front of every document, `window` the context in tokens; a pass takes
    `batch_tokens` with padding, as many as the device takes well unless that is said.
    """
    rows = windows(documents, before, window)
    summed = nats(model, rows, len(documents), batch_tokens=batch_tokens, on_tokens=on_tokens)
    return tuple(
        Score(value, len(document.ids), document.bytes, document.words)
        for value, document in zip(summed, documents, strict=True)
    )


def nats(
    model: nn.Module,
    rows: Iterable[Window],
    n_documents: int,
    *,
    batch_tokens: int = 0,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Summed loss of the counted predictions of each document's windows."""
    found = [0.0] * n_documents
    batch_tokens = batch_tokens or BATCH_TOKENS[next(model.parameters()).device.type]
    with evaluating(model):
        for batch in _batches(rows, batch_tokens):
            for row, value in zip(batch, _nats(model, batch), strict=True):
                found[row.document] += value
            on_tokens(sum(row.n_counted for row in batch))
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients within a `with` block; the mode is put back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


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


def _batches(windows: Iterable[Window], batch_tokens: int) -> Iterator[list[Window]]:
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
    inputs, targets = inputs.to(device), targets.to(device)
    # padding stands on the right, where no real token sees it
    attention = None if bool(mask.all()) else mask.to(device)
    counted = targets != -100
    if head := loss.of(model):
        nats = head.nats(head.hidden(inputs, attention)[counted], targets[counted])
    else:
        output = model(input_ids=inputs, attention_mask=attention, use_cache=False)
        logits = output.logits[counted].float()
        nats = nn.functional.cross_entropy(logits, targets[counted], reduction="none")
    rows = torch.zeros(counted.shape, dtype=torch.float64, device=device)
    rows[counted] = nats.double()
    return [float(row) for row in rows.sum(1)]
