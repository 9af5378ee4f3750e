"""Which paragraphs of an article are kept, and why the others are not: a pure function.

Sentences are judged one by one. A heading of a contact, media or link block drops the lines under
it, that of a company's portrait the prose as well, up to the next heading. What repeats over a
newsroom can only be seen on the whole corpus: `repeats`.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from crawler.extract import sentences
from crawler.extract.mask import mask
from crawler.extract.noise import (
    CONTACT,
    Opening,
    is_card_line,
    is_heading,
    is_prose,
    opening,
    reason_of,
)

EMPTY, TITLE, REPEATED = "empty", "title", "repeated"
_CARD_LINES = 4  # name, role, company, address: more above a telephone number is text
_RUN_IN = (": ", " – ", " | ", ". ")  # noqa: RUF001 what stands between a heading and its text


@dataclass(frozen=True, slots=True)
class Drop:
    """A paragraph, or sentences of one, left out of an article."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The kept paragraphs in order, and what was dropped."""

    paragraphs: tuple[str, ...]
    drops: tuple[Drop, ...]

    @property
    def text(self) -> str:
        """The paragraphs, separated by a blank line."""
        return "\n\n".join(self.paragraphs)


def clean(paragraphs: Iterable[str], titles: Iterable[str] = ()) -> Cleaned:
    """The paragraphs worth keeping of an article that has one of these titles.

    Cleaning is repeated until it changes nothing: a dropped paragraph may turn the next to noise.
    """
    kept, drops = _tidied(map(normalise, paragraphs), {_key(normalise(t)) for t in titles})
    while True:
        again, more = _judged(kept)
        drops += more
        if again == kept:
            return Cleaned(tuple(kept), tuple(drops))
        kept, repeated = _tidied(again, set())
        drops += repeated


def normalise(text: str) -> str:
    """Composed characters, single spaces, nothing invisible."""
    text = unicodedata.normalize("NFC", text)
    if text.isprintable():  # nothing of the kinds below: most paragraphs, at once
        return " ".join(text.split())
    seen = (c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return " ".join("".join(seen).split())


def _key(text: str) -> str:
    return text.casefold()


def _tidied(paragraphs: Iterable[str], titles: set[str]) -> tuple[list[str], list[Drop]]:
    """Masked paragraphs, without the empty ones, the title and repetitions."""
    kept: dict[str, str] = {}
    drops = []
    for paragraph in paragraphs:
        text = mask(paragraph)
        if not text:
            drops.append(Drop(EMPTY, ""))
        elif _key(paragraph) in titles and not kept:
            drops.append(Drop(TITLE, text))
        elif _key(text) in kept:
            drops.append(Drop(REPEATED, text))
        else:
            kept[_key(text)] = text
    return list(kept.values()), drops


@dataclass(slots=True)
class _Block:
    """An open block: why its lines are dropped, and how many paragraphs of prose it still drops."""

    reason: str
    prose: int = 0
    is_portrait: bool = False  # lines that look like a heading end it
    is_card: bool = False  # begun by a telephone number: it drops lines of a visiting card


def _judged(paragraphs: Sequence[str]) -> tuple[list[str], list[Drop]]:
    """One pass over the paragraphs, each judged by itself and by the block around it."""
    kept: list[str] = []
    drops: list[Drop] = []
    block: _Block | None = None
    for index, text in enumerate(paragraphs):
        opened = _opened(text, " ".join(paragraphs[index + 1 : index + 3]))
        if opened:
            late = 2 * index >= len(paragraphs)  # portraits end a release: early ones are short
            n_prose = (len(paragraphs) if late else 1) if opened.prose else 0
            block = _Block(opened.reason, n_prose, is_portrait=opened.prose)
            drops.append(Drop(block.reason, text))
        elif block and _belongs(text, block):
            drops.append(Drop(block.reason, text))
        else:
            rest, lost = _sentences(text)
            drops += lost
            if rest:
                kept.append(rest)
                block = None
            elif not is_prose(text) and lost[0].reason == CONTACT:
                drops += _card_above(kept)
                block = block or _Block(CONTACT, is_card=True)
    return kept, drops


def _opened(text: str, following: str) -> Opening | None:
    """The block that a paragraph opens as its heading, or by the words it begins with."""
    if found := opening(text, following):
        return found
    for mark in _RUN_IN:
        head, _, rest = text.partition(mark)
        found = opening(head, rest) if rest else None
        if found and (found.prose or not is_prose(rest)):
            return found
    return None


def _belongs(text: str, block: _Block) -> bool:
    if block.is_card:
        return is_card_line(text)
    if is_prose(text):
        block.prose -= 1
        return block.prose >= 0
    return not (block.is_portrait and is_heading(text))


def _sentences(text: str) -> tuple[str, list[Drop]]:
    """What is kept of a paragraph and what is dropped, neighbours of one reason together."""
    reason = reason_of(text) if not is_prose(text) else ""
    if reason:
        return "", [Drop(reason, text)]
    judged = [(sentence, reason_of(sentence)) for sentence in sentences.split(text)]
    kept = " ".join(sentence for sentence, why in judged if not why)
    runs = groupby(judged, key=itemgetter(1))
    drops = [Drop(why, " ".join(sentence for sentence, _ in run)) for why, run in runs if why]
    return kept, drops


def _card_above(kept: list[str]) -> list[Drop]:
    """Remove name, role and address above a telephone number from what was kept."""
    taken: list[Drop] = []
    while kept and len(taken) < _CARD_LINES and is_card_line(kept[-1]):
        taken.append(Drop(CONTACT, kept.pop()))
    return taken
