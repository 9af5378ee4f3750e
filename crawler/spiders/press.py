"""The spider `press`: feeds, page by page, and every entry's page; all it sees goes to the store.

Left to others: checking the arguments (`plan`), what is made of a page (`articles`), writing the
corpus (`exporter`), polite and safe requests (`settings`, `addresses`).
"""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from scrapy import Request, Spider
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import HtmlResponse, Response
from scrapy.settings import BaseSettings
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.python.failure import Failure

from crawler import articles, feeds
from crawler.addresses import RefusedAddress
from crawler.feeds import Entry, Feed
from crawler.plan import Plan, Source
from crawler.store import Store, StoredPage
from pressft.corpus import Article, article_id
from pressft.errors import DataError, MissingError, PressftError, RefusedError

FEED_PRIORITY = 10  # the whole list first: then the time left is known
_REASONS = {
    "CannotResolveHostError": "unknown host",
    "DownloadCancelledError": "too large",
    "DownloadConnectionRefusedError": "connection refused",
    "DownloadFailedError": "broken off",
    "DownloadTimeoutError": "timed out",
    "ResponseDataLossError": "broken off",
}


class PressSpider(Spider):
    """Fetches what a `Plan` asks for into a `Store`.

    Afterwards `articles` holds what was made of the pages fetched, `listed` the entries followed in
    their order, and `problems` what went wrong with a feed or the store.
    """

    name = "press"

    def __init__(self, plan: Plan, store: Store, **arguments: str) -> None:
        """Both are the caller's, who closes the store."""
        super().__init__(**arguments)
        self.plan = plan
        self.store = store
        self.articles: dict[str, Article] = {}
        self.listed: dict[str, Entry] = {}
        self.problems: list[PressftError] = []

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Sign requests with name, version and the contact that the settings give."""
        super().update_settings(settings)
        contact = settings.get("PRESS_CONTACT")
        agent = f"{settings['BOT_NAME']}/{version('pressft')}" + (f" (+{contact})" * bool(contact))
        settings.set("USER_AGENT", agent, priority="spider")

    async def start(self) -> AsyncIterator[Request]:
        """The first page of every feed."""
        for source in self.plan.sources:
            yield self._feed_request(source.url, source, first=True)

    def parse_feed(self, response: Response, source: Source, first: bool) -> Iterator[Request]:
        """Follow the entries of one page of a feed, and its next page."""
        try:
            feed = feeds.parse(response.body, response.url)
            if first and not feed.entries:
                raise DataError(f"{source.url} has no entries: give a feed that lists articles")
        except DataError as problem:
            if first:
                self.problems.append(problem)
            else:  # some newsrooms answer with a page where their feed ends
                self._count("feed_ends_without_feed")
            return
        for entry in filter(self._is_recent, feed.entries):
            if self._is_full():
                return
            yield from self._follow(entry, source)
        if feed.next_url and self._goes_on(feed):
            yield self._feed_request(feed.next_url, source, first=False)

    def parse_page(self, response: Response, entry: Entry, source: Source) -> None:
        """Store the page as it came, then make an article of it."""
        self._count("fetched")
        if not isinstance(response, HtmlResponse):
            self._drop(entry, "not html")
            return
        page = StoredPage(
            entry=entry,
            newsroom=source.newsroom,
            fetched=datetime.now(UTC).replace(microsecond=0),
            body=response.body,
            encoding=response.encoding,
            etag=(response.headers.get("ETag") or b"").decode("latin-1"),
            last_modified=(response.headers.get("Last-Modified") or b"").decode("latin-1"),
        )
        with self._storing():
            self.store.save(page)
        self.derive(page)

    def derive(self, page: StoredPage) -> None:
        """Make an article of a stored page, or note why there is none."""
        made = articles.build(page)
        if isinstance(made, Article):
            self.articles[made.id] = made
            self._count("kept")
        else:
            self._drop(page.entry, made.reason)

    def feed_failed(self, failure: Failure, source: Source, first: bool) -> None:
        """Note why a feed could not be fetched."""
        if isinstance(failure.value, RefusedAddress):
            hint = "pass -s PRESS_ALLOW_PRIVATE=True if that is meant"
            self.problems.append(RefusedError(f"{source.url}: {failure.value}; {hint}"))
        elif first:
            why = f"{source.url} could not be fetched ({_reason(failure)})"
            self.problems.append(DataError(f"{why}: check the address"))
        else:
            self._count("feed_ends_without_feed")

    def page_failed(self, failure: Failure, entry: Entry) -> None:
        """Note why a page could not be fetched."""
        reason = _reason(failure)
        self._count("failed")
        self._count(f"failed/{reason}")
        with self._storing():
            self.store.failed(entry.url, reason)

    def _feed_request(self, url: str, source: Source, first: bool) -> Request:
        arguments: dict[str, Any] = {"source": source, "first": first}
        return Request(
            url,
            self.parse_feed,
            priority=FEED_PRIORITY,
            dont_filter=False,  # a next page that is an earlier one ends there
            cb_kwargs=arguments,
            errback=lambda failure: self.feed_failed(failure, **arguments),
        )

    def _follow(self, entry: Entry, source: Source) -> Iterator[Request]:
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
            self.store.found(entry, source.newsroom)
        yield Request(
            entry.url,
            self.parse_page,
            cb_kwargs={"entry": entry, "source": source},
            errback=lambda failure: self.page_failed(failure, entry),
        )

    def _is_recent(self, entry: Entry) -> bool:
        """Whether an entry is not older than asked; one without a date passes."""
        since = self.plan.since
        return not (since and entry.published and entry.published.date() < since)

    def _is_full(self) -> bool:
        return self.plan.limit is not None and len(self.listed) >= self.plan.limit

    def _goes_on(self, feed: Feed) -> bool:
        """Whether the next page may hold more: feeds are newest first."""
        return not self._is_full() and any(map(self._is_recent, feed.entries))

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


def _reason(failure: Failure) -> str:
    """Why a request failed, in a few words that can be counted."""
    error = failure.value
    if isinstance(error, HttpError):
        return f"HTTP {error.response.status}"
    if isinstance(error, RefusedAddress):
        return "not a public address"
    if isinstance(error, IgnoreRequest):
        return "robots.txt" if "robots.txt" in str(error) else "ignored"
    if "certificate verify failed" in str(error):
        return "certificate not trusted"
    return _REASONS.get(type(error).__name__, type(error).__name__)
