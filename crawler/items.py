"""What the spider yields: pages of feeds, their entries, and pages of these or why not.

Scrapy takes dataclasses as items. Left to others: what is done with them (`pipelines`).
"""

import html
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Self

from crawler.feeds import Entry, plain
from pressft.corpus.format import article_id

FULL_TEXT_WORDS = 100  # in a feed; fewer are a teaser


@dataclass(frozen=True, slots=True)
class FetchedFeed:
    """One page of a feed as it was fetched, with the validators of a conditional request."""

    url: str
    content_type: str
    etag: str
    last_modified: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FoundEntries:
    """Entries of a newsroom's feed whose pages will be fetched."""

    newsroom: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A fetched page with the feed entry that led to it; `body` is decompressed, not decoded."""

    entry: Entry
    newsroom: str
    fetched: datetime
    body: bytes = field(repr=False)
    encoding: str
    etag: str = ""
    last_modified: str = ""

    @classmethod
    def from_feed(cls, entry: Entry, newsroom: str) -> Self | None:
        """A page made of the full text in the feed; None where that is a teaser."""
        if len(plain(entry.summary_html).split()) < FULL_TEXT_WORDS:
            return None
        title = html.escape(entry.title)
        body = (
            f'<html><head><meta charset="utf-8"><title>{title}</title></head>'
            f"<body><article><h1>{title}</h1>\n{entry.summary_html}\n</article></body></html>"
        )
        return cls(entry, newsroom, now(), body.encode("utf-8", "replace"), "utf-8")

    @property
    def id(self) -> str:
        """The article's id."""
        return article_id(self.entry.url)

    @property
    def html(self) -> str:
        """The page as text; bytes that its encoding does not know are replaced."""
        return self.body.decode(self.encoding, "replace")


@dataclass(frozen=True, slots=True)
class UnusablePage:
    """A page that was dropped for its content, or could not be fetched; `reason` is counted."""

    entry: Entry
    state: Literal["dropped", "failed"]
    reason: str


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
