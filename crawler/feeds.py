"""Entries from the bytes of a feed, a sitemap or a home page that names its feeds.

RSS 0.9x to 2.0, RDF and Atom by feedparser, JSON Feed 1.1, sitemaps with Google's news extension.
A pure function; hostile bytes can make it take long, so it belongs into the sandbox. Left to
others: fetching, following the next page, choosing among entries (`spiders.press`).
"""

import calendar
import codecs
import html
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from time import struct_time
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import feedparser
import lxml.html
from lxml import etree
from lxml.html.defs import tags as HTML_TAGS
from w3lib.encoding import http_content_type_encoding, resolve_encoding

from pressft.errors import DataError

UNZIPPED_BYTES = 5 * 1024 * 1024  # of a sitemap.xml.gz, as of every other body
HOME_FEEDS = 10  # of those that a home page names

_SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_NAMES = "|".join(sorted({*HTML_TAGS, *(tag.upper() for tag in HTML_TAGS if len(tag) > 1)}))
# In linear time; of "Generics<T>" nothing is markup.
_TAG = re.compile(rf"<!--.*?(?:-->|$)|<[!?][a-zA-Z][^<>]*>|</?(?:{_NAMES})\b[^<>]*>", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,200}encoding\s*=\s*["']([\w.:-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_SITEMAP = re.compile(r"<(?:\w+:)?(urlset|sitemapindex)[\s>]")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\x00", "utf-16-le"),
    (b"\x00<", "utf-16-be"),
)
_FEED_TYPES = ("application/rss+xml", "application/atom+xml", "application/feed+json")
_PAGE_KEYS = ("page", "paged")


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
    """One page of a feed, entries in its order.

    `next_url` is the page after it as the feed says, `numbered_url` as others count their pages;
    None where there is none. `feeds` are to be read in its place: those that a home page names,
    the parts of a sitemap.
    """

    entries: tuple[Entry, ...]
    next_url: str | None
    numbered_url: str | None = None
    feeds: tuple[str, ...] = ()


def parse(body: bytes, url: str, content_type: str = "", since: date | None = None) -> Feed:
    """The entries with an http(s) link in a feed fetched from `url` with this Content-Type.

    From a sitemap those are left out that have not changed `since`.

    Raises:
        DataError: the bytes are no feed and name none.
    """
    text = _text(_unzipped(body), content_type)
    start = text[:2000].lstrip()
    try:
        found = _parsed(text, start, url, since)
    except Exception as error:  # whatever a parser makes of bytes from the web
        why = f"{url} breaks the parser of feeds ({type(error).__name__})"
        raise DataError(f"{why}: give the address of another feed") from None
    if found is None:
        seen = plain(start)[:40]
        seen = f"it begins {seen!r}" if seen else "it has no text"
        raise DataError(f"{url} is no RSS or Atom feed, {seen}: give the address of the feed")
    return found


def _parsed(text: str, start: str, url: str, since: date | None) -> Feed | None:
    if start.startswith("{"):
        return _json_feed(text, url)
    if _SITEMAP.search(start):
        return _sitemap(text, url, since)
    return _xml_feed(text, url) or _home_page(text, url)


def plain(text: str) -> str:
    """`text` without markup, control characters and runs of white space."""
    text = _TAG.sub("", _SCRIPT.sub("", text))
    return " ".join(_CONTROL.sub("", html.unescape(text)).split())


def web_url(link: str, base: str) -> str | None:
    """`link` as an absolute http(s) address without fragment; None if it is empty or no such."""
    if not link:
        return None
    try:
        url = urljoin(base, _CONTROL.sub("", link).strip())
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts._replace(fragment="").geturl()


def iso_moment(value: str) -> datetime | None:
    """A date of ISO 8601 as aware UTC to the second, midnight where it has no time; or None."""
    try:
        moment = datetime.fromisoformat(value.strip())
        return moment.replace(tzinfo=moment.tzinfo or UTC, microsecond=0).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _unzipped(body: bytes) -> bytes:
    """A gzipped body as it was, cut where it is too large or broken; any other as it is."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        return zlib.decompressobj(wbits=31).decompress(body, UNZIPPED_BYTES)
    except zlib.error:
        return b""


def _text(body: bytes, content_type: str) -> str:
    """The body decoded, without XML declaration and control characters.

    What decodes as UTF-8 is UTF-8 whatever it declares, but for encodings in ASCII bytes; in what
    declares UTF-8 bad bytes are replaced: one makes feedparser mis-decode the whole.
    """
    encoding = next((name for bom, name in _BOMS if body.startswith(bom)), None)
    text = body.decode(encoding or "utf-8", "replace")
    if not encoding and (body.isascii() or "\N{REPLACEMENT CHARACTER}" in text):
        match = _DECLARED.match(body)
        declared = match[1].decode() if match else http_content_type_encoding(content_type)
        text = _decoded(body, declared) if declared else _guessed(body, text)
    return _CONTROL.sub("", _DECLARATION.sub("", text))


def _decoded(body: bytes, declared: str) -> str:
    """The body in the encoding that the web understands by a name, UTF-8 for an unknown one."""
    name = resolve_encoding(declared)
    try:
        return body.decode(name or "utf-8", "replace")
    except (LookupError, UnicodeError):  # Python has codecs that are no encodings of text
        return body.decode("utf-8", "replace")


def _guessed(body: bytes, text: str) -> str:
    """`text`, the body as UTF-8, unless more bytes of it are bad than good: then Windows-1252."""
    bad = text.count("\N{REPLACEMENT CHARACTER}")
    good = sum(not char.isascii() for char in text) - bad
    return body.decode("cp1252", "replace") if bad > good else text


def _xml_feed(text: str, url: str) -> Feed | None:
    # Bytes in a stream: handed a string, feedparser opens it as a path or an address.
    parsed = feedparser.parse(
        io.BytesIO(text.encode("utf-8", "replace")),
        sanitize_html=False,
        resolve_relative_uris=False,
    )
    if not parsed.get("version") and not parsed.entries:
        return None
    following = _next_url(parsed.feed, url)
    by_wordpress = "wordpress" in str(parsed.feed.get("generator", "")).lower()
    numbered = None if following else _numbered_url(url, "paged" if by_wordpress else "page")
    return Feed(_entries(_entry(item, url) for item in parsed.entries), following, numbered)


def _entry(item: Mapping[str, Any], base: str) -> Entry | None:
    url = web_url(item.get("link") or "", base)
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


def _numbered_url(url: str, key: str) -> str:
    """The address of the page after `url` where pages are counted from 1 in the query."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    key = next((name for name in _PAGE_KEYS if query.get(name, "").isdecimal()), key)
    number = query.get(key, "1")[:9]
    query[key] = str(int(number) + 1) if number.isdecimal() else "2"
    return parts._replace(query=urlencode(query)).geturl()


def _json_feed(text: str, url: str) -> Feed | None:
    """A JSON Feed (jsonfeed.org, version 1.1)."""
    try:
        feed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    items = feed.get("items")
    if "jsonfeed.org" not in str(feed.get("version")) or not isinstance(items, list):
        return None
    following = feed.get("next_url")
    return Feed(
        _entries(_json_entry(item, url) for item in items if isinstance(item, dict)),
        web_url(following, url) if isinstance(following, str) else None,
    )


def _json_entry(item: Mapping[str, Any], base: str) -> Entry | None:
    def first(*names: str) -> str:
        return next((item[n] for n in names if isinstance(item.get(n), str) and item[n]), "")

    url = web_url(first("url", "external_url"), base)
    if url is None:
        return None
    tags = item.get("tags")
    terms = [plain(tag) for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    text = "".join(f"<p>{html.escape(line)}</p>" for line in first("content_text").split("\n\n"))
    return Entry(
        url=url,
        title=plain(first("title")),
        published=iso_moment(first("date_published", "date_modified")),
        tags=tuple(dict.fromkeys(filter(None, terms))),
        summary_html=first("content_html") or (text if first("content_text") else first("summary")),
        guid=_CONTROL.sub("", str(item.get("id", ""))),
    )


def _sitemap(text: str, url: str, since: date | None) -> Feed | None:
    """A sitemap or an index of sitemaps (sitemaps.org, protocol 0.9)."""
    parser = etree.XMLParser(
        recover=True, resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    if root is None:
        return None
    if etree.QName(root).localname == "sitemapindex":
        found = (_child(part, "loc") for part in root.iterchildren("{*}sitemap"))
        return Feed((), None, feeds=tuple(filter(None, (web_url(loc, url) for loc in found))))
    return Feed(_entries(_sitemap_entry(item, url, since) for item in root.iter("{*}url")), None)


def _sitemap_entry(item: etree._Element, base: str, since: date | None) -> Entry | None:
    url = web_url(_child(item, "loc"), base)
    changed = iso_moment(_child(item, "lastmod"))
    if url is None or (since and changed and changed.date() < since):
        return None
    terms = (plain(term) for term in _child(item, "keywords").split(","))
    return Entry(
        url=url,
        title=plain(_child(item, "title")),
        published=iso_moment(_child(item, "publication_date")),
        tags=tuple(dict.fromkeys(filter(None, terms))),
        summary_html="",
        guid="",
    )


def _child(item: etree._Element, name: str) -> str:
    """The text of the first element of that name, but for pictures' titles."""
    found = (e for e in item.iter("{*}" + name) if "image" not in (e.tag or "").partition("}")[0])
    return next((e.text.strip() for e in found if e.text), "")


def _home_page(text: str, url: str) -> Feed | None:
    """The feeds that a page names in its head, those of comments left out; None without one."""
    try:
        tree = lxml.html.document_fromstring(text.encode(), lxml.html.HTMLParser(encoding="utf-8"))
    except etree.LxmlError:
        return None
    base = urljoin(url, next(iter(tree.xpath("//base/@href")), ""))
    links = [
        web_url(link.get("href"), base)
        for link in tree.xpath("//link[@href]")
        if "alternate" in (link.get("rel") or "").lower().split()
        and (link.get("type") or "").lower().strip() in _FEED_TYPES
        and "comment" not in f"{link.get('title')} {link.get('href')}".lower()
    ]
    found = tuple(dict.fromkeys(link for link in links if link))[:HOME_FEEDS]
    return Feed((), None, feeds=found) if found else None


def _entries(found: Iterable[Entry | None]) -> tuple[Entry, ...]:
    return tuple(entry for entry in found if entry)
