"""The `-a` arguments of `press`, checked before anything is fetched, and the presets.

Left to others: doing it (`spiders.press`), and whether the corpus folder can be written (`store`).
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from crawler.feeds import web_url
from pressft.corpus.format import MANIFEST
from pressft.errors import UsageError, meant

DATABASE = "crawl.db"
NO_CONTACT = "which must know whom to write to: give -s PRESS_CONTACT=you@example.org"
_ARGUMENTS = ("feed", "corpus", "since", "limit", "language", "dry_run", "reextract")
_ONLINE = ("feed", "since", "limit", "dry_run")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Selectors:
    """CSS selectors of a newsroom's pages, "" where the general rules do; the date's strptime."""

    title: str = ""
    date: str = ""
    date_format: str = ""
    tags: str = ""
    text: str = ""
    noise: str = ""


@dataclass(frozen=True, slots=True)
class Preset:
    """A newsroom known by name, as `presets.toml` describes it."""

    name: str = ""
    title: str = ""
    feeds: tuple[str, ...] = ()
    noise_headings: tuple[str, ...] = ()
    select: Selectors = field(default_factory=Selectors)


@dataclass(frozen=True, slots=True)
class Source:
    """One feed to read; `newsroom` is the preset's name, or the host where there is none."""

    url: str
    newsroom: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """Checked arguments. `limit` counts the entries of the feeds, old and new, in their order.

    With `reextract` there are no sources: the pages stored before are extracted again. `languages`
    are those to keep, () for all.
    """

    sources: tuple[Source, ...]
    corpus: Path
    since: date | None = None
    limit: int | None = None
    dry_run: bool = False
    reextract: bool = False
    languages: tuple[str, ...] = ()


@cache
def presets() -> dict[str, Preset]:
    """Every preset by name."""
    body = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
    return {
        name: Preset(
            name=name,
            title=values["title"],
            feeds=tuple(values["feeds"]),
            noise_headings=tuple(values.get("noise_headings", ())),
            select=Selectors(**values.get("select", {})),
        )
        for name, values in body.items()
    }


def preset_of(newsroom: str) -> Preset:
    """The preset of a newsroom; an empty one for a plain feed."""
    return presets().get(newsroom, Preset())


def parse(arguments: Mapping[str, str]) -> Arguments:
    """The checked form of these `-a` arguments.

    Raises:
        UsageError: an argument is missing, unknown or of no use; it says what would work.
    """
    unknown = sorted(set(arguments) - set(_ARGUMENTS))
    if unknown:
        raise UsageError(f"unknown argument -a {unknown[0]}: choose {', '.join(_ARGUMENTS)}")
    reextract = _flag("reextract", arguments.get("reextract", "0"))
    useless = [name for name in _ONLINE if reextract and arguments.get(name, "0") != "0"]
    if useless:
        raise UsageError(f"reextract=1 makes no request: leave out {useless[0]}")
    names = [name.strip() for name in arguments.get("feed", "").split(",") if name.strip()]
    if not names and not reextract:
        raise UsageError(f"no feed: give -a feed=URL or a name, {', '.join(presets())}")
    return Arguments(
        sources=tuple(source for name in names for source in _sources(name)),
        corpus=_corpus(arguments.get("corpus", "")),
        since=_since(arguments.get("since", "")),
        limit=_limit(arguments.get("limit", "")),
        dry_run=_flag("dry_run", arguments.get("dry_run", "0")),
        reextract=reextract,
        languages=_languages(arguments.get("language", "")),
    )


def _sources(name: str) -> list[Source]:
    """The feeds behind a preset's name or a URL."""
    if name in presets():
        return [Source(url, name) for url in presets()[name].feeds]
    if url := web_url(name, name):
        return [Source(url, urlsplit(url).hostname or "")]
    hint = f"give an http or https URL, or a name, {', '.join(presets())}"
    if ":" in name:
        raise UsageError(f"feed {name!r} cannot be crawled: {hint}")
    raise UsageError(f"unknown newsroom {name!r}: {hint}{meant(name, presets())}")


def _corpus(value: str) -> Path:
    """The corpus folder: a new or empty one, or one that a crawl made."""
    if not value:
        raise UsageError("no corpus: give the folder to write, -a corpus=corpora/NAME")
    path = Path(value)
    if path.exists() and not path.is_dir():
        raise UsageError(f"corpus {path} is a file: give a folder, such as corpora/{path.stem}")
    ours = any((path / name).exists() for name in (MANIFEST, DATABASE))
    if path.is_dir() and not ours and any(path.iterdir()):
        raise UsageError(f"corpus {path} holds other files: give a new folder, corpora/NAME")
    return path


def _languages(value: str) -> tuple[str, ...]:
    found = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    wrong = [name for name in found if not _LANGUAGE.fullmatch(name)]
    if wrong:
        raise UsageError(f"language={wrong[0]!r} is no code: write en, de or several with commas")
    return found


def _since(value: str) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except ValueError:
        raise UsageError(f"since={value!r} is no date: write YYYY-MM-DD") from None


def _limit(value: str) -> int | None:
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"limit={value!r} is no count: write a whole number of at least 1")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value.lower() not in _FLAGS:
        raise UsageError(f"{name}={value!r}: write 1 or 0")
    return _FLAGS[value.lower()]
