"""Labelled press releases of our own writing: invented companies, people, numbers and addresses.

`releases.txt` holds one release after each `= title`: `+` is text that must stay, `>` what must go,
`~` a heading of which either is fine; `{p:…}` marks a telephone number, `{e:…}` an e-mail address.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_MARK = re.compile(r"\{([pe]):([^}]*)\}")
_PLACEHOLDERS = {"p": "[phone]", "e": "[e-mail]"}


@dataclass(frozen=True, slots=True)
class Release:
    """A release as it comes, with the paragraphs to keep (masked), to drop, and what to hide."""

    title: str
    paragraphs: tuple[str, ...]
    true: tuple[str, ...]
    noise: tuple[str, ...]
    hidden: tuple[str, ...]


def releases() -> list[Release]:
    text = Path(__file__).with_name("releases.txt").read_text(encoding="utf-8")
    return [_release(block) for block in re.split(r"^= ", text, flags=re.MULTILINE)[1:]]


def _release(block: str) -> Release:
    title, *lines = filter(None, block.splitlines())
    marked = [(line[0], line[2:]) for line in lines]
    return Release(
        title=title,
        paragraphs=tuple(_MARK.sub(r"\2", text) for _, text in marked),
        true=tuple(_MARK.sub(_placeholder, text) for kind, text in marked if kind == "+"),
        noise=tuple(_MARK.sub(_placeholder, text) for kind, text in marked if kind == ">"),
        hidden=tuple(match[2] for _, text in marked for match in _MARK.finditer(text)),
    )


def _placeholder(match: re.Match[str]) -> str:
    return _PLACEHOLDERS[match[1]]
