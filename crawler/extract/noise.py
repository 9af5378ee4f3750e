"""What in a press release is no news: headings that open a block of noise, and noisy sentences.

The patterns are data, `noise.toml`, English and German; they are compiled here, once. A fuel figure
in running prose is news; a label with a figure is a note. Left to others: how far a block reaches
(`clean`), what repeats over a newsroom (`repeats`).
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from crawler.extract.mask import EMAIL, PHONE

CONTACT, AUTHOR, ABOUT = "contact", "author", "about the company"
FUEL, MEDIA, LINKS, LEGAL = "fuel and CO2 note", "media note", "links", "legal note"

_LONGEST = 1500  # characters: no note is longer, and patterns are slow on longer texts
_REMEMBERED = 1024  # texts, none longer: cleaning judges each again, until nothing changes
_EDGE = " *#•·:.–—-|>»►▶"
_URL = re.compile(
    r"(?:https?://|www\.)\S+"
    r"|\b(?:[\w-]+\.)+(?:com|de|org|net|eu|info|io|example|co\.uk|at|ch)\b(?:/\S*)?",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(re.escape(EMAIL) + "|" + re.escape(PHONE))
_LABEL = r"e-?mails?|mail|tel\w*|phone|fon|fax|mobil\w*|cell|web|internet|twitter|[tmfpew]"
_LABELS = re.compile(rf"\b(?:{_LABEL})\b\s?[.:]*\s*(?=\[|$)", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^()]*\)")


@dataclass(frozen=True, slots=True)
class Opening:
    """A heading of a block: its reason, and whether prose belongs to it, or lines alone."""

    reason: str
    prose: bool


def _patterns(table: Mapping[str, Any]) -> list[str]:
    return [pattern for language in ("en", "de", "both") for pattern in table.get(language, ())]


def _any(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_WHOM = "|".join(f"{_DATA['whom']['en']} {_DATA['whom']['de']}".split())
_HEADINGS = [
    (
        _any(pattern.replace("<whom>", _WHOM) for pattern in _patterns(table)),
        Opening(table["reason"], table.get("prose", False)),
    )
    for table in _DATA["headings"]
]
_PORTRAIT = [_any([pattern]) for pattern in _patterns(_DATA["portrait"])]
_FOUND = {
    name: _any(_patterns(table))
    for name, table in _DATA.items()
    if name not in ("whom", "headings", "portrait")
}


def opening(line: str, following: str = "") -> Opening | None:
    """The block that a heading opens, None for any other line; `following` is what comes next."""
    phrase = line.strip(_EDGE)
    if not phrase or len(phrase) > 90 or len(phrase.split()) > 12:
        return None
    for pattern, found in _HEADINGS:
        if pattern.fullmatch(phrase):
            about = phrase.lower().startswith(("about", "über"))
            return Opening(found.reason, found.prose or about)
    return Opening(ABOUT, prose=True) if _is_about(phrase, following) else None


def _is_about(phrase: str, following: str) -> bool:
    """Whether a heading names a company: by its legal form, or by the portrait under it."""
    match = _FOUND["about"].fullmatch(phrase)
    if not match:
        return False
    name = match["name"] or match["brief"]
    traits = sum(bool(pattern.search(following)) for pattern in _PORTRAIT)
    if _has("legal_form", name):
        return traits >= 1
    start = " ".join(following.split()[:12]).lower()
    named = any(word.lower() in start for word in re.findall(r"\w{3,}", name) if word[0].isupper())
    return traits >= (2 if named else 3)


def _has(name: str, text: str) -> bool:
    return _FOUND[name].search(text) is not None


def is_prose(text: str) -> bool:
    """Whether a text is a full sentence or more, not a heading, name, address, label or link."""
    return _is_prose(text) if len(text) <= _LONGEST else _is_prose.__wrapped__(text)


@lru_cache(_REMEMBERED)
def _is_prose(text: str) -> bool:
    bare = _LABELS.sub("", _PLACEHOLDER.sub("", text)).strip()
    words = re.findall(r"[^\W\d_]+", bare)
    small = sum(word[0].islower() and len(word) > 1 for word in words)
    ends = re.search(r"[.!?…][\"'”“’»«)\]*¹²]*$", bare) is not None
    return ends and len(words) >= 5 and small >= 0.3 * len(words)


def is_heading(text: str) -> bool:
    """Whether a line may stand above a new section."""
    return (
        not is_prose(text)
        and len(text.split()) <= 10
        and text[-1:] not in ".;,!"
        and not re.search(r"\d|:.", text)
        and not _URL.search(text)
        and not _PLACEHOLDER.search(text)
    )


def is_card_line(text: str) -> bool:
    """Whether a line is a name, a role, an address or a link, as on a visiting card."""
    words = re.findall(r"[^\W\d_]{2,}", text)
    linked = bool(_URL.search(text) or _PLACEHOLDER.search(text))
    if is_prose(text) or not words or len(text.split()) > 12 or text[-1:] in ".!?":
        return linked and not is_prose(text)
    if linked or _has("address", text) or _has("role", text):
        return True
    large = sum(word[0].isupper() for word in words)
    return not any(c.isdigit() for c in text) and large >= 0.7 * len(words) and len(words) <= 5


def reason_of(sentence: str) -> str:
    """Why a sentence or line is noise, "" if it is none."""
    return "" if len(sentence) > _LONGEST else _reason_of(sentence)


@lru_cache(_REMEMBERED)
def _reason_of(sentence: str) -> str:
    prose = is_prose(sentence)
    masked = _PLACEHOLDER.search(sentence) is not None
    if (masked and (not prose or _has("asks", sentence))) or _has("asks_alone", sentence):
        return CONTACT
    if _FOUND["byline"].fullmatch(sentence.rstrip(".")) and not prose:
        return AUTHOR
    if _has("fuel_note", sentence) or _is_fuel_label(sentence):
        return FUEL
    if _has("legal_note", sentence):
        return LEGAL
    if _has("media_note", sentence) or (not prose and _has("media_line", sentence)):
        return MEDIA
    return LINKS if _is_link(sentence, prose) else ""


def _is_fuel_label(sentence: str) -> bool:
    """Whether a sentence is a label with a figure, not one about a model named with its figures."""
    bare = _BRACKETS.sub("", sentence)
    label = _FOUND["fuel_label"].search(sentence)
    if not label or (is_prose(bare) and not _has("fuel_label", bare)):
        return False
    return not _has("fuel_verb", label["rest"]) and _has("fuel_figure", label["rest"])


def _is_link(sentence: str, prose: bool) -> bool:
    n_words = len(sentence.split())
    if _URL.search(sentence):
        bare = _URL.sub("", sentence)
        if n_words <= 35 and _has("points", bare):
            return True
        return not prose and len(bare.split()) <= 8
    if prose:
        return False
    if sentence.count("|") >= 2 or _has("link_line", sentence):
        return True
    return len(_FOUND["channel"].findall(sentence)) >= max(2, 0.5 * n_words)
