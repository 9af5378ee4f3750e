"""The spider `press`: feeds, page by page, and every entry's page; all it sees goes to the store.

Left to others: checking the arguments (`arguments`), what is made of a page (`pipelines`), writing
the corpus (`export`), polite and safe requests (`middlewares`).
"""

import hashlib
import html
import re
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal, Self
from urllib.parse import urljoin, urlsplit

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, DontCloseSpider
from scrapy.http import HtmlResponse, Response
from scrapy.settings import BaseSettings
from twisted.python.failure import Failure

from crawler import feeds
from crawler.arguments import NO_CONTACT, Plan, Source
from crawler.extract.article import Demands, Made
from crawler.feeds import Entry, Feed
from crawler.middlewares.addresses import MissingContact, RefusedAddress
from crawler.middlewares.politeness import STOPPED, Patience
from crawler.pipelines import built
from crawler.reasons import reason
from crawler.sandbox import Workers
from crawler.store import Store, StoredFeed, StoredPage
from pressft.corpus import article_id
from pressft.errors import DataError, MissingError, PressftError, RefusedError, UsageError

FEED_PRIORITY = 10  # the whole list first: then the time left is known
FEED_PAGES = 1000  # of one source; BMW's has 750, an endless one is no archive
SITEMAP_DEPTH = 3  # an index of indexes at most
FULL_TEXT_WORDS = 100  # in a feed; fewer are a teaser


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A page of a feed to be fetched from `url`; `depth` counts the pages that led to it."""

    source: Source
    url: str
    role: Literal["feed", "next", "sitemap"]
    depth: int = 0


class PressSpider(Spider):
    """Fetches what a `Plan` asks for into a `Store`.

    Afterwards `made` holds what became of the pages fetched, `listed` the entries followed in
    their order, and `problems` what went wrong with a feed or the store.
    """

    name = "press"

    def __init__(self, plan: Plan, store: Store, **arguments: str) -> None:
        """Both are the caller's, who closes the store."""
        super().__init__(**arguments)
        self.plan = plan
        self.store = store
        self.workers = Workers()
        self.patience = Patience()
        self.made: dict[str, Made] = {}
        self.listed: dict[str, Entry] = {}
        self.problems: list[PressftError] = []
        self._told: dict[Source, PressftError | None] = {}
        self._pages: Counter[Source] = Counter()
        self._asked: set[str] = set()
        self._bodies: set[bytes] = set()
        self._seen: dict[Source, set[str]] = {source: set() for source in plan.sources}
        self._went_back = False

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """Connected to the moment when nothing is left to do."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.go_back, signals.spider_idle)
        return spider

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Sign requests with name, version and the contact that the settings give."""
        super().update_settings(settings)
        contact = settings.get("PRESS_CONTACT")
        agent = f"{settings['BOT_NAME']}/{version('pressft')}" + (f" (+{contact})" * bool(contact))
        settings.set("USER_AGENT", agent, priority="spider")

    def closed(self, why: str) -> None:
        """Say which sources list nothing, and why if that is known and not yet said."""
        if why == "shutdown":  # they were not read to their end
            return
        for source in (source for source, seen in self._seen.items() if not seen):
            nothing = DataError(f"{source.url} has no entries: give a feed that lists articles")
            problem = self._told.get(source, nothing)
            self.problems += [problem] if problem else []

    async def start(self) -> AsyncIterator[Request]:
        """The first page of every feed."""
        for source in self.plan.sources:
            for request in self._feed_request(FeedPage(source, source.url, "feed")):
                yield request

    def go_back(self) -> None:
        """Follow entries that an earlier crawl found and this one's feeds no longer list.

        Raises:
            DontCloseSpider: there are some.
        """
        if self._went_back:
            return
        self._went_back = True
        found = self.store.pending({source.newsroom for source in self.plan.sources})
        requests = [
            request
            for entry, newsroom in found
            if self._is_recent(entry) and not self._is_full()
            for request in self._follow(entry, newsroom)
        ]
        assert self.crawler.engine
        for request in requests:
            self.crawler.engine.crawl(request)
        if requests:
            raise DontCloseSpider

    async def parse_feed(self, response: Response, page: FeedPage) -> AsyncIterator[Request]:
        """Follow the entries of one page of a feed, its next page, or the feeds it names."""
        came = self._came(response, page)
        self._pages[page.source] += 1
        key = hashlib.sha256(page.source.url.encode() + came.body).digest()
        if page.role == "next" and key in self._bodies:  # its server does not know of pages
            return
        self._bodies.add(key)
        try:
            feed = await self.workers.run(
                feeds.parse, came.body, response.url, came.content_type, self.plan.since
            )
        except DataError as problem:
            for request in self._without(response, page, problem):
                yield request
            return
        with self._storing():
            if not self.plan.dry_run:
                self.store.save_feed(came)
        for request in self._read(feed, page):
            yield request

    async def parse_page(self, response: Response, entry: Entry, newsroom: str) -> None:
        """Store the page as it came, then make an article of it."""
        self._count("fetched")
        if not isinstance(response, HtmlResponse):
            self._drop(entry, "not html")
            return
        page = StoredPage(
            entry=entry,
            newsroom=newsroom,
            fetched=_now(),
            body=response.body,
            encoding=response.encoding,
            etag=_header(response, "ETag"),
            last_modified=_header(response, "Last-Modified"),
        )
        self._save(page)
        await self.derive(page)

    @property
    def demands(self) -> Demands:
        """What an article must be, by settings and arguments."""
        return Demands(self.settings.getint("PRESS_MIN_WORDS"), self.plan.languages)

    async def derive(self, page: StoredPage) -> None:
        """Make an article of a stored page, or note why there is none."""
        made = await built(self.workers, page, self.demands)
        full = b"" if made.article else _full_text(page.entry)
        if full and page.body != full:
            await self._take_full_text(page.entry, page.newsroom, full)
            return
        self.made[made.id] = made
        if made.article:
            self._count("kept")
        else:
            self._drop(page.entry, made.reason)

    def feed_failed(self, failure: Failure, page: FeedPage) -> None:
        """Note why a page of a feed could not be fetched."""
        why = reason(failure.value)
        if page.role == "sitemap" or why.endswith(STOPPED):
            return
        if page.role == "next":
            self._count("feed_ends_without_feed")
        elif isinstance(failure.value, MissingContact):
            self._tell(page, UsageError(f"{page.url}: {failure.value}, {NO_CONTACT}"))
        elif isinstance(failure.value, RefusedAddress):
            hint = "pass -s PRESS_ALLOW_PRIVATE=True if that is meant"
            self._tell(page, RefusedError(f"{page.url}: {failure.value}; {hint}"))
        else:
            self._tell(
                page, DataError(f"{page.url} could not be fetched ({why}): check the address")
            )

    async def page_failed(self, failure: Failure, entry: Entry, newsroom: str) -> None:
        """Note why a page could not be fetched; a full text in the feed takes its place."""
        why = reason(failure.value)
        if why.endswith(STOPPED):  # it stays found
            return
        full = _full_text(entry)
        if full:
            self._count("fetched")
            await self._take_full_text(entry, newsroom, full)
            return
        self._count("failed")
        self._count(f"failed/{why}")
        with self._storing():
            self.store.failed(entry.url, why)

    def _came(self, response: Response, page: FeedPage) -> StoredFeed:
        """What the server sent, or sent before and has not changed."""
        if response.status == 304 and (known := self.store.feed(page.url)):
            self._count("feeds_unchanged")
            return known
        return StoredFeed(
            url=page.url,
            content_type=_header(response, "Content-Type"),
            etag=_header(response, "ETag"),
            last_modified=_header(response, "Last-Modified"),
            body=response.body,
        )

    def _read(self, feed: Feed, page: FeedPage) -> Iterator[Request]:
        """Requests for what a page of a feed lists."""
        entries = feed.entries
        if page.role == "sitemap":
            entries = tuple(e for e in entries if _is_beneath(e.url, page.source.url))
        seen = self._seen[page.source]
        news = {article_id(entry.url) for entry in entries} - seen
        seen |= news
        for entry in filter(self._is_recent, entries):
            if self._is_full():
                return
            yield from self._follow(entry, page.source.newsroom)
        if self._pages[page.source] + len(feed.feeds) > FEED_PAGES:
            self._count("feed_pages_cut")
            return
        for url in feed.feeds if page.depth < SITEMAP_DEPTH else ():
            yield from self._feed_request(replace(page, url=url, depth=page.depth + 1))
        # A server that does not page by number answers with the same entries again.
        following = feed.next_url or feed.numbered_url
        if following and news and any(map(self._is_recent, entries)):
            yield from self._feed_request(replace(page, url=following, role="next"))

    def _without(
        self, response: Response, page: FeedPage, problem: PressftError
    ) -> Iterator[Request]:
        """Look for a sitemap where there is no feed."""
        if page.role == "next":  # some newsrooms answer with a page where their feed ends
            self._count("feed_ends_without_feed")
        elif page.role == "feed" and isinstance(response, HtmlResponse):
            self._told.setdefault(page.source, problem)
            known = response.meta.get("sitemaps") or [urljoin(page.url, "/sitemap.xml")]
            for url in (url for url in known if feeds.web_url(url, page.url)):
                yield from self._feed_request(replace(page, url=url, role="sitemap"))
        elif page.role == "feed":
            self._tell(page, problem)

    def _tell(self, page: FeedPage, problem: PressftError) -> None:
        self.problems.append(problem)
        self._told[page.source] = None

    def _feed_request(self, page: FeedPage) -> Iterator[Request]:
        """The request for a page of a feed, none if it was made before."""
        if page.url in self._asked:
            return
        self._asked.add(page.url)
        arguments: dict[str, Any] = {"page": page}
        known = self.store.feed(page.url)
        validators = {
            "If-None-Match": known.etag if known else "",
            "If-Modified-Since": known.last_modified if known else "",
        }
        yield Request(
            page.url,
            self.parse_feed,
            headers={name: value for name, value in validators.items() if value},
            priority=FEED_PRIORITY,
            meta={"handle_httpstatus_list": [304]},
            cb_kwargs=arguments,
            errback=lambda failure: self.feed_failed(failure, **arguments),
        )

    def _follow(self, entry: Entry, newsroom: str) -> Iterator[Request]:
        if article_id(entry.url) in self.listed:
            return
        self.listed[article_id(entry.url)] = entry
        self._count("found")
        if not self.store.wants(entry.url):
            self._count("known")
            return
        if self.plan.dry_run:
            return
        with self._storing():
            self.store.found(entry, newsroom)
        arguments: dict[str, Any] = {"entry": entry, "newsroom": newsroom}
        yield Request(
            entry.url,
            self.parse_page,
            cb_kwargs=arguments,
            errback=lambda failure: self.page_failed(failure, **arguments),
        )

    def _is_recent(self, entry: Entry) -> bool:
        """Whether an entry is not older than asked; one without a date passes."""
        since = self.plan.since
        return not (since and entry.published and entry.published.date() < since)

    def _is_full(self) -> bool:
        return self.plan.limit is not None and len(self.listed) >= self.plan.limit

    async def _take_full_text(self, entry: Entry, newsroom: str, full: bytes) -> None:
        self._count("from_feed")
        page = StoredPage(entry, newsroom, _now(), full, "utf-8")
        self._save(page)
        await self.derive(page)

    def _save(self, page: StoredPage) -> None:
        with self._storing():
            self.store.save(page)

    def _drop(self, entry: Entry, reason: str) -> None:
        self._count("dropped")
        self._count(f"dropped/{reason}")
        with self._storing():
            self.store.dropped(entry.url, reason)

    def _count(self, name: str) -> None:
        assert self.crawler.stats
        self.crawler.stats.inc_value(f"newsroom/{name}")

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """End the crawl with one line where the store cannot be written, as on a full disk."""
        try:
            yield
        except sqlite3.Error as error:
            why = f"corpus {self.plan.corpus} cannot be written ({error})"
            self.problems.append(MissingError(f"{why}: free space and crawl again"))
            raise CloseSpider("store") from None


def _full_text(entry: Entry) -> bytes:
    """A page of the text in the feed, empty where that is a teaser."""
    if len(feeds.plain(entry.summary_html).split()) < FULL_TEXT_WORDS:
        return b""
    title = html.escape(entry.title)
    return (
        f'<html><head><meta charset="utf-8"><title>{title}</title></head>'
        f"<body><article><h1>{title}</h1>\n{entry.summary_html}\n</article></body></html>"
    ).encode("utf-8", "replace")


def _is_beneath(url: str, home: str) -> bool:
    """Whether a page belongs to the part of a site that begins at `home`, and is not `home`."""
    page, start = urlsplit(url), urlsplit(home)
    path = re.sub(r"(/index)?\.x?html?$", "", start.path).rstrip("/")
    return (
        (page.hostname or "").removeprefix("www.") == (start.hostname or "").removeprefix("www.")
        and page.path.startswith(f"{path}/")
        and page.path.strip("/") != start.path.strip("/")
    )


def _header(response: Response, name: str) -> str:
    return (response.headers.get(name) or b"").decode("latin-1")


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
