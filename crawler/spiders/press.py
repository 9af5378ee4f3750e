"""The spider `press`: feeds, page by page, and every entry's page, yielded as items.

It reads the store, to know what is still to be fetched, and leaves writing to the pipelines. Left
to others: checking the arguments (`arguments`), what is made of the items (`pipelines`), polite and
safe requests (`middlewares`).
"""

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal, Self
from urllib.parse import urljoin, urlsplit

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import DontCloseSpider
from scrapy.http import HtmlResponse, Response
from scrapy.settings import BaseSettings
from twisted.python.failure import Failure

from crawler import feeds
from crawler.arguments import NO_CONTACT, Arguments, Source
from crawler.feeds import Entry, Feed
from crawler.items import FetchedFeed, FetchedPage, FoundEntries, UnusablePage, now
from crawler.middlewares.addresses import MissingContact, RefusedAddress
from crawler.middlewares.politeness import STOPPED, Throttle
from crawler.reasons import reason
from crawler.sandbox import Sandbox
from crawler.store import Store
from pressft.corpus.format import article_id
from pressft.errors import DataError, MissingError, PressftError, RefusedError, UsageError

FEED_PRIORITY = 10  # the whole list first: then the time left is known
FEED_PAGES = 1000  # of one source; BMW's has 750, an endless one is no archive
SITEMAP_DEPTH = 3  # an index of indexes at most

Item = FetchedFeed | FoundEntries | FetchedPage | UnusablePage


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A page of a feed to be fetched from `url`; `depth` counts the pages that led to it."""

    source: Source
    url: str
    role: Literal["feed", "next", "sitemap"]
    depth: int = 0


class PressSpider(Spider):
    """Fetches what the arguments ask for and the store does not hold.

    `problems` are what went wrong with a feed or with writing, `preview` the lines of a dry run.
    """

    name = "press"

    def __init__(self, arguments: Arguments, store: Store, **more: str) -> None:
        super().__init__(**more)
        self.arguments = arguments
        self.store = store
        self.sandbox = Sandbox()
        self.throttle = Throttle()
        self.problems: list[PressftError] = []
        self.preview: list[str] = []
        self._followed: set[str] = set()
        self._went_back = False
        # Of each source: ids of the entries seen, pages read, why it gave none (None: reported).
        self._seen: dict[Source, set[str]] = {source: set() for source in arguments.sources}
        self._n_pages: Counter[Source] = Counter()
        self._without_entries: dict[Source, PressftError | None] = {}
        self._requested: set[str] = set()  # pages of feeds, by address
        self._bodies: set[bytes] = set()  # and by what came

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """A spider that goes back to older entries when nothing else is left to do."""
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

    def report(self, problem: PressftError) -> None:
        """Note a problem; what the machine lacks comes first and once, however often it fails."""
        if not isinstance(problem, MissingError):
            self.problems.append(problem)
        elif not any(isinstance(known, MissingError) for known in self.problems):
            self.problems.insert(0, problem)

    def closed(self, why: str) -> None:
        """Report the sources that list nothing, with the reason where none was reported yet."""
        if why == "shutdown":  # they were not read to their end
            return
        for source in (source for source, seen in self._seen.items() if not seen):
            nothing = DataError(f"{source.url} has no entries: give a feed that lists articles")
            if problem := self._without_entries.get(source, nothing):
                self.report(problem)

    async def start(self) -> AsyncIterator[Request]:
        """The first page of every feed."""
        for source in self.arguments.sources:
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
        pending = self.store.pending({source.newsroom for source in self.arguments.sources})
        requests = [
            self._page_request(entry, newsroom)
            for entry, newsroom in pending
            if self._is_wanted(entry)
        ]
        assert self.crawler.engine
        for request in requests:
            self.crawler.engine.crawl(request)
        if requests:
            raise DontCloseSpider

    async def parse_feed(self, response: Response, page: FeedPage) -> AsyncIterator[Item | Request]:
        """A page of a feed, its entries, their pages, its next page or the feeds it names."""
        fetched = self._fetched(response, page)
        self._n_pages[page.source] += 1
        key = hashlib.sha256(page.source.url.encode() + fetched.body).digest()
        if page.role == "next" and key in self._bodies:  # its server does not know of pages
            return
        self._bodies.add(key)
        try:
            feed = await self.sandbox.run(
                feeds.parse,
                fetched.body,
                response.url,
                fetched.content_type,
                self.arguments.since,
            )
        except DataError as problem:
            for request in self._without(response, page, problem):
                yield request
            return
        if not self.arguments.dry_run:
            yield fetched
        for found in self._read(feed, page):
            yield found

    def parse_page(self, response: Response, entry: Entry, newsroom: str) -> Iterator[Item]:
        """The page as it was fetched; one that is no HTML is dropped."""
        if not isinstance(response, HtmlResponse):
            yield UnusablePage(entry, "dropped", "not html")
            return
        yield FetchedPage(
            entry=entry,
            newsroom=newsroom,
            fetched=now(),
            body=response.body,
            encoding=response.encoding,
            etag=_header(response, "ETag"),
            last_modified=_header(response, "Last-Modified"),
        )

    def feed_failed(self, failure: Failure, page: FeedPage) -> None:
        """Note why a page of a feed could not be fetched."""
        why = reason(failure.value)
        if page.role == "sitemap" or why.endswith(STOPPED):
            return
        if page.role == "next":
            self._count("feed_ends_without_feed")
        elif isinstance(failure.value, MissingContact):
            self._report(page, UsageError(f"{page.url}: {failure.value}, {NO_CONTACT}"))
        elif isinstance(failure.value, RefusedAddress):
            hint = "pass -s PRESS_ALLOW_PRIVATE=True if that is meant"
            self._report(page, RefusedError(f"{page.url}: {failure.value}; {hint}"))
        else:
            self._report(
                page, DataError(f"{page.url} could not be fetched ({why}): check the address")
            )

    def page_failed(self, failure: Failure, entry: Entry, newsroom: str) -> Iterator[Item]:
        """The full text in the feed in place of a page that failed, or why the page did."""
        why = reason(failure.value)
        if why.endswith(STOPPED):  # it is still to be fetched
            return
        page = FetchedPage.from_feed(entry, newsroom)
        if page:
            self._count("from_feed")
        yield page or UnusablePage(entry, "failed", why)

    def _fetched(self, response: Response, page: FeedPage) -> FetchedFeed:
        """The page of the feed, from the store where the server says that it has not changed."""
        if response.status == 304 and (known := self.store.feed(page.url)):
            self._count("feeds_unchanged")
            return known
        return FetchedFeed(
            url=page.url,
            content_type=_header(response, "Content-Type"),
            etag=_header(response, "ETag"),
            last_modified=_header(response, "Last-Modified"),
            body=response.body,
        )

    def _read(self, feed: Feed, page: FeedPage) -> Iterator[Item | Request]:
        """What a page of a feed lists: new entries, requests for their pages and for more feeds."""
        entries = feed.entries
        if page.role == "sitemap":
            entries = tuple(e for e in entries if _is_beneath(e.url, page.source.url))
        seen = self._seen[page.source]
        new_ids = {article_id(entry.url) for entry in entries} - seen
        seen |= new_ids
        if wanted := tuple(filter(self._is_wanted, entries)):
            yield FoundEntries(page.source.newsroom, wanted)
        for entry in wanted:
            yield self._page_request(entry, page.source.newsroom)
        if entries and self._is_full():
            return
        if self._n_pages[page.source] + len(feed.feeds) > FEED_PAGES:
            self._count("feed_pages_cut")
            return
        for url in feed.feeds if page.depth < SITEMAP_DEPTH else ():
            yield from self._feed_request(replace(page, url=url, depth=page.depth + 1))
        # A server that does not page by number answers with the same entries again.
        following = feed.next_url or feed.numbered_url
        if following and new_ids and any(map(self._is_recent, entries)):
            yield from self._feed_request(replace(page, url=following, role="next"))

    def _without(
        self, response: Response, page: FeedPage, problem: PressftError
    ) -> Iterator[Request]:
        """Look for a sitemap where there is no feed."""
        if page.role == "next":  # some newsrooms answer with a page where their feed ends
            self._count("feed_ends_without_feed")
        elif page.role == "feed" and isinstance(response, HtmlResponse):
            self._without_entries.setdefault(page.source, problem)
            known = response.meta.get("sitemaps") or [urljoin(page.url, "/sitemap.xml")]
            for url in (url for url in known if feeds.web_url(url, page.url)):
                yield from self._feed_request(replace(page, url=url, role="sitemap"))
        elif page.role == "feed":
            self._report(page, problem)

    def _report(self, page: FeedPage, problem: PressftError) -> None:
        self.report(problem)
        self._without_entries[page.source] = None

    def _feed_request(self, page: FeedPage) -> Iterator[Request]:
        """The request for a page of a feed, none if it was made before."""
        if page.url in self._requested:
            return
        self._requested.add(page.url)
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

    def _page_request(self, entry: Entry, newsroom: str) -> Request:
        arguments: dict[str, Any] = {"entry": entry, "newsroom": newsroom}
        return Request(
            entry.url,
            self.parse_page,
            cb_kwargs=arguments,
            errback=lambda failure: self.page_failed(failure, **arguments),
        )

    def _is_wanted(self, entry: Entry) -> bool:
        """Whether the page of an entry is to be fetched; counts the entry as found, once."""
        key = article_id(entry.url)
        if not self._is_recent(entry) or self._is_full() or key in self._followed:
            return False
        self._followed.add(key)
        self._count("found")
        if not self.store.wants(entry.url):
            self._count("known")
            return False
        if self.arguments.dry_run:
            day = entry.published.date().isoformat() if entry.published else "----------"
            self.preview.append(f"{day}  {entry.url}  {entry.title}")
        return not self.arguments.dry_run

    def _is_recent(self, entry: Entry) -> bool:
        """Whether an entry is not older than `since`; one without a date is not."""
        since = self.arguments.since
        return not (since and entry.published and entry.published.date() < since)

    def _is_full(self) -> bool:
        limit = self.arguments.limit
        return limit is not None and len(self._followed) >= limit

    def _count(self, name: str) -> None:
        assert self.crawler.stats
        self.crawler.stats.inc_value(f"newsroom/{name}")


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
