"""Texts as token ids, and the tokens that stand between them in training and in scoring."""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

AT_ONCE = 256  # texts: what the tokenizer holds of each meanwhile is 100 times its size


@dataclass(frozen=True, slots=True)
class Document:
    """A text as token ids, without any special token; its size in UTF-8 bytes and in words."""

    ids: Sequence[int]
    bytes: int
    words: int


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
