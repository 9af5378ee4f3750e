"""The pipelines of the spider's items: store them, extract articles in the sandbox, export these.

The pipelines alone write: the spider only reads the store. Left to others: what an article is
(`extract`), limits of time and memory (`sandbox`), the database (`store`), the corpus' files
(`export`), the last line and the exit code (`commands.crawl`).
"""

import asyncio
import os
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from scrapy.crawler import Crawler
from scrapy.exceptions import DropItem

from crawler import export
from crawler.extract import repeats
from crawler.extract.article import Criteria, Extraction, build
from crawler.items import FetchedFeed, FetchedPage, FoundEntries, UnusablePage
from crawler.sandbox import OverLimit, Sandbox
from crawler.spiders.press import PressSpider
from crawler.store import Store
from pressft.errors import MissingError, PressftError


class _Pipeline:
    """What the pipelines share: the spider's arguments, its store, and counting."""

    def __init__(self, crawler: Crawler) -> None:
        assert isinstance(crawler.spider, PressSpider)
        self._crawler = crawler
        self._spider = crawler.spider
        self._store = crawler.spider.store
        arguments = crawler.spider.arguments
        min_words = crawler.settings.getint("PRESS_MIN_WORDS")
        self._criteria = Criteria(min_words, arguments.languages)
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """The pipeline of a crawl whose spider exists already."""
        return cls(crawler)

    def _count(self, name: str, n: int = 1) -> None:
        assert self._crawler.stats
        self._crawler.stats.inc_value(f"newsroom/{name}", n)

    def _lose(self, page: UnusablePage) -> None:
        self._count(page.state)
        self._count(f"{page.state}/{page.reason}")
        with self._writing():
            self._store.set_unusable(page)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """End the crawl with one line where the store cannot be written, as on a full disk."""
        try:
            yield
        except sqlite3.Error as error:
            why = f"corpus {self._spider.arguments.corpus} cannot be written ({error})"
            self._spider.report(MissingError(f"{why}: free space and crawl again"))
            engine = self._crawler.engine
            if engine and engine.running:
                self._closing = asyncio.ensure_future(engine.close_spider_async(reason="store"))
            raise DropItem("the store cannot be written", log_level="DEBUG") from None


class StorePipeline(_Pipeline):
    """Writes what was fetched and found to the store, before anything is made of it."""

    def process_item(self, item: object) -> object:
        """The item, stored.

        Raises:
            DropItem: the store cannot be written; the crawl ends.
        """
        if isinstance(item, UnusablePage):
            self._count("fetched", int(item.state == "dropped"))
            self._lose(item)
        with self._writing():
            if isinstance(item, FetchedFeed):
                self._store.save_feed(item)
            elif isinstance(item, FoundEntries):
                self._store.found(item)
            elif isinstance(item, FetchedPage):
                self._count("fetched")
                self._store.save(item)
        return item


class ExtractPipeline(_Pipeline):
    """Turns a fetched page into an `Extraction`, counted as kept or dropped."""

    async def process_item(self, item: object) -> object:
        """What was extracted from a page; any other item as it is."""
        return await self.extract(item) if isinstance(item, FetchedPage) else item

    async def extract(self, page: FetchedPage) -> Extraction:
        """What was extracted from a page, or from the full text in the feed where it has none."""
        found = await extract(self._spider.sandbox, page, self._criteria)
        if found.article:
            self._count("kept")
            return found
        stand_in = FetchedPage.from_feed(page.entry, page.newsroom)
        if stand_in and stand_in.body != page.body:
            self._count("from_feed")
            with self._writing():
                self._store.save(stand_in)
            return await self.extract(stand_in)
        self._lose(UnusablePage(page.entry, "dropped", found.reason))
        return found


class ExportPipeline(_Pipeline):
    """Holds what was extracted, and adds it to the corpus when the crawl ends."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._found: dict[str, Extraction] = {}
        self.is_done = False

    def process_item(self, item: object) -> object:
        """The item; what was extracted is kept for the end."""
        if isinstance(item, Extraction):
            self._found[item.id] = item
        return item

    async def close_spider(self) -> None:
        """Write the corpus, with the pages that an earlier, killed crawl left; count articles."""
        if not self._spider.arguments.dry_run:
            try:
                await self._export(self._spider.arguments.corpus)
            except PressftError as error:
                self._spider.report(error)
        self.is_done = True

    async def _export(self, folder: Path) -> None:
        old = export.existing(folder)
        await self._extract_leftovers(self._found.keys() | {article.id for article in old})
        found, self._found = self._found, {}
        receipt = export.export(
            folder,
            [one.article for one in found.values() if one.article],
            {one.id: one.drops for one in found.values()},
            self._criteria.min_words,
            old,
        )
        counts = Counter(drop.reason for one in found.values() for drop in one.drops)
        counts[repeats.REASON] += receipt.repeats
        for reason, n in (+counts).items():
            self._count(f"paragraphs/{reason}", n)
        self._count("articles", receipt.total)
        self._count("new", receipt.new)

    async def _extract_leftovers(self, known: set[str]) -> None:
        """Extract the pages that an earlier crawl stored and never exported, one by one."""
        pipeline = self._crawler.get_item_pipeline(ExtractPipeline)
        assert pipeline
        with suppress(DropItem):  # a full disk, which the spider knows of
            for page in self._store.pages(but=known):
                found = await pipeline.extract(page)
                self._found[found.id] = found


async def extract(sandbox: Sandbox, page: FetchedPage, criteria: Criteria) -> Extraction:
    """What was extracted from a page; one over the limits, or that breaks a parser, is dropped."""
    try:
        return await sandbox.run(build, page, criteria)
    except OverLimit as error:
        return Extraction(page.id, None, str(error))
    except Exception as error:  # whatever a parser makes of bytes from the web
        return Extraction(page.id, None, f"unreadable ({type(error).__name__})")


async def extract_all(
    sandbox: Sandbox, pages: Iterable[FetchedPage], criteria: Criteria, ahead: int = 4
) -> AsyncIterator[tuple[FetchedPage, Extraction]]:
    """Each page with what was extracted from it, in order; no more than `ahead` are in memory."""
    waiting: deque[tuple[FetchedPage, asyncio.Task[Extraction]]] = deque()
    for page in pages:
        waiting.append((page, asyncio.ensure_future(extract(sandbox, page, criteria))))
        if len(waiting) >= ahead:
            first, task = waiting.popleft()
            yield first, await task
    for first, task in waiting:
        yield first, await task


async def reextract(
    store: Store, criteria: Criteria, advance: Callable[[], None]
) -> list[Extraction]:
    """What is extracted anew from every stored page, offline; `advance` is called after each."""
    n_workers = os.cpu_count() or 1
    sandbox = Sandbox(n_workers)
    found: list[Extraction] = []
    try:
        pages = store.pages(but=set(), dropped=True)
        async for page, one in extract_all(sandbox, pages, criteria, ahead=2 * n_workers):
            found.append(one)
            if one.article:
                store.set_usable(page)
            else:
                store.set_unusable(UnusablePage(page.entry, "dropped", one.reason))
            advance()
    finally:
        sandbox.close()
    return found
