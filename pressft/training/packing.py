"""Training blocks: tokenised texts packed into full rows without padding, in a drawn order."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pressft.errors import DataError
from pressft.model.tokens import Document, Separators


@dataclass(frozen=True, slots=True)
class Blocks:
    """Training data: `rows` of token ids in the order to take them in, (n, length) int64."""

    rows: Tensor

    @property
    def digest(self) -> str:
        """16 hex digits of the very tokens in their order: equal for equal data."""
        return hashlib.sha256(self.rows.numpy().tobytes()).hexdigest()[:16]


def pack(documents: Sequence[Document], length: int, between: Separators) -> Tensor:
    """Documents as full rows, (N, length) int32, that begin as scoring does: with a document,
    `between.before` in front of it.

    Others follow, each with its separators, and the last one is cut off; the ends cut off, joined,
    are the last rows. No text is there twice, and none is lost but a tail shorter than a row.

    Raises:
        DataError: fewer than `length` tokens in all.
    """
    stream = np.empty(sum(len(document.ids) + 3 for document in documents), np.int32)
    at = 0

    def put(*tokens: Sequence[int]) -> None:
        nonlocal at
        for part in tokens:
            stream[at : at + len(part)] = part
            at += len(part)

    before, end = [between.before], [between.end]
    ends = []  # of documents that a row has cut off, from where
    for document in documents:
        if between.begins:
            put(before)
        if at % length == 0:
            put(before)
        room = length - at % length
        if len(document.ids) < room:
            put(document.ids, end)
        else:
            put(document.ids[:room])
            ends.append((document, room))
    for document, seen in ends:
        put(document.ids[seen:], end)
    rows = at // length
    if not rows:
        raise DataError(
            f"{len(documents)} training documents hold {at} tokens, less than one block "
            f"of {length}: crawl more text or choose a smaller block"
        )
    return torch.from_numpy(stream[: rows * length]).view(rows, length)


def taken(packed: Tensor, n_wanted: int, seed: int) -> Blocks:
    """So many of the `packed` rows, in the order of `order`."""
    return Blocks(packed[order(len(packed), n_wanted, seed)].long())


def mixed(own: Blocks, general: Blocks, seed: int) -> Blocks:
    """Both in one, the blocks of each in their own order, at places drawn with `seed`."""
    rows = torch.cat([own.rows, general.rows])
    places = order(len(rows), len(rows), seed)
    n_own = len(own.rows)
    blended = torch.empty_like(rows)
    blended[places[:n_own].sort().values] = own.rows
    blended[places[n_own:].sort().values] = general.rows
    return Blocks(blended)


def order(n_blocks: int, n_wanted: int, seed: int) -> Tensor:
    """Indices of the blocks to train on, (n_wanted,) int64: shuffled epochs, one after the other.

    It depends on nothing else, so that all arms see the same data in the same order (law 7).
    """
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-n_wanted // n_blocks)
    drawn = [torch.randperm(n_blocks, generator=generator) for _ in range(epochs)]
    return torch.cat(drawn)[:n_wanted]
