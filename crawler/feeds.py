"""Entries out of the bytes of an RSS or Atom feed: a pure function around feedparser.

Left to others: fetching feeds, following the next page, choosing among entries (`spiders.press`).
"""

import calendar
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import struct_time
from typing import Any
from urllib.parse import urljoin, urlsplit

import feedparser

from pressft.errors import DataError

_SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<!--.*?-->|<[/!?]?[a-zA-Z][^>]*>", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)["']""")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a feed says of one article; `published` is aware UTC or None, absent strings are ""."""

    url: str
    title: str
    published: datetime | None
    tags: tuple[str, ...]
    summary_html: str
    guid: str


@dataclass(frozen=True, slots=True)
class Feed:
    """One page of a feed, entries in its order; `next_url` is the page after it, or None."""

    entries: tuple[Entry, ...]
    next_url: str | None


def parse(body: bytes, url: str) -> Feed:
    """The entries with an http(s) link in a feed fetched from `url`.

    Raises:
        DataError: the bytes are no feed.
    """
    # Bytes in a stream: handed a string, feedparser opens it as a path or an address.
    parsed = feedparser.parse(
        io.BytesIO(_repaired(body)), sanitize_html=False, resolve_relative_uris=False
    )
    if not parsed.get("version") and not parsed.entries:
        start = plain(body[:2000].decode("utf-8", "replace"))[:40]
        seen = f"it begins {start!r}" if start else "it has no text"
        raise DataError(f"{url} is no RSS or Atom feed, {seen}: give the address of the feed")
    entries = (_entry(item, url) for item in parsed.entries)
    return Feed(tuple(entry for entry in entries if entry), _next_url(parsed.feed, url))


def plain(text: str) -> str:
    """`text` without markup, control characters and runs of white space."""
    text = _TAG.sub("", _SCRIPT.sub("", text))
    return " ".join(_CONTROL.sub("", html.unescape(text)).split())


def web_url(link: str, base: str) -> str | None:
    """`link` as an absolute http(s) address without fragment, None if it is none."""
    try:
        url = urljoin(base, link.strip())
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts._replace(fragment="").geturl()


def _repaired(body: bytes) -> bytes:
    """UTF-8 feeds with their bad bytes replaced: one makes feedparser mis-decode the whole."""
    declared = _DECLARED.match(body)
    if declared and declared[1].lower() not in (b"utf-8", b"utf8"):
        return body
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body
    return body.decode("utf-8", "replace").encode()


def _entry(item: Mapping[str, Any], base: str) -> Entry | None:
    link = item.get("link", "")
    url = web_url(link, base) if link else None
    if url is None:
        return None
    moments = [item[key] for key in ("published_parsed", "updated_parsed") if key in item]
    terms = (plain(tag.get("term") or "") for tag in item.get("tags", ()))
    content = [part.get("value") or "" for part in item.get("content", ())]
    return Entry(
        url=url,
        title=plain(item.get("title") or ""),
        published=next(filter(None, map(_moment, moments)), None),
        tags=tuple(dict.fromkeys(term for term in terms if term)),
        summary_html=max([item.get("summary") or "", *content], key=len),
        guid=_CONTROL.sub("", item.get("id") or ""),
    )


def _moment(parsed: struct_time | None) -> datetime | None:
    """feedparser's UTC `struct_time` as a datetime; None for none and for impossible ones."""
    try:
        return datetime.fromtimestamp(calendar.timegm(parsed), UTC) if parsed else None
    except (ValueError, OverflowError, OSError):
        return None


def _next_url(feed: Mapping[str, Any], base: str) -> str | None:
    links = [link for link in feed.get("links", ()) if link.get("rel") == "next"]
    return web_url(links[0].get("href") or "", base) if links else None
