"""From texts to training blocks: tokenised, joined, packed without padding, put in order."""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pressft.errors import DataError

AT_ONCE = 256  # texts: what the tokenizer holds of each meanwhile is 100 times its size


@dataclass(frozen=True, slots=True)
class Document:
    """A text as token ids, without any special token; its size in UTF-8 bytes and in words."""

    ids: Sequence[int]
    bytes: int
    words: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """Training data: `rows` of token ids in the order to take them in, (n, length) int64."""

    rows: Tensor

    @property
    def digest(self) -> str:
        """16 hex digits of the very tokens in their order: equal for equal data."""
        return hashlib.sha256(self.rows.numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Separators:
    """Token ids around a document: `before` it, as the tokenizer itself would (BOS) or else the
    end of the text in front; `end` after it."""

    before: int
    end: int

    @property
    def begins(self) -> bool:
        """Whether the model wants a token of its own at the start (Gemma, Llama 2 and 3)."""
        return self.before != self.end


def separators(tokenizer: PreTrainedTokenizerBase) -> Separators:
    """The tokens that stand between documents, read off what the tokenizer does to no text.

    The convention moves perplexity (Gemma 2B without BOS 650, with it 21), so training and
    scoring share this one.
    """
    end = int(tokenizer.eos_token_id)
    own = tokenizer("")["input_ids"]
    begins = own and own[0] == tokenizer.bos_token_id
    return Separators(int(own[0]) if begins else end, end)


def tokenize(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> tuple[Document, ...]:
    """Documents in the order of the texts, four bytes a token; empty ones are left out."""
    return tuple(_documents(list(texts), tokenizer))


def _documents(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[Document]:
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        # verbose=False: a text longer than the context is cut into windows and blocks later
        found = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for ids, text in zip(found, part, strict=True):
            if ids:
                yield Document(array("i", ids), len(text.encode()), len(re.split(r"\s+", text)))


def up_to(documents: Sequence[Document], tokens: int) -> tuple[Document, ...]:
    """The first documents that together hold at most `tokens`; one at least, whole."""
    chosen: list[Document] = []
    for document in documents:
        tokens -= len(document.ids)
        if chosen and tokens < 0:
            break
        chosen.append(document)
    return tuple(chosen)


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
