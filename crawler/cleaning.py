"""Which paragraphs of an article are kept, and why the others are not: a pure function.

Now: white space, empty paragraphs, the title again, paragraphs repeated within the document.
Contact blocks, disclaimers and what repeats over a whole newsroom will be judged here, too.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The kept paragraphs in order, and how many were dropped by reason."""

    paragraphs: tuple[str, ...]
    dropped: Counter[str]

    @property
    def text(self) -> str:
        """The paragraphs, separated by a blank line."""
        return "\n\n".join(self.paragraphs)


def clean(paragraphs: Iterable[str], titles: Iterable[str] = ()) -> Cleaned:
    """The paragraphs worth keeping of an article that has one of these titles."""
    headings = {normalise(title).casefold() for title in titles}
    kept: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for paragraph in map(normalise, paragraphs):
        key = paragraph.casefold()
        if not paragraph:
            dropped["empty"] += 1
        elif key in headings and not kept:
            dropped["title"] += 1
        elif key in kept:
            dropped["repeated"] += 1
        else:
            kept[key] = paragraph
    return Cleaned(tuple(kept.values()), dropped)


def normalise(text: str) -> str:
    """Composed characters, single spaces, nothing invisible."""
    text = unicodedata.normalize("NFC", text)
    seen = (c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return " ".join("".join(seen).split())
