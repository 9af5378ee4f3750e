"""`scrapy crawl press`: arguments, the lock on the corpus, signals, one summary, exit codes.

What a failed crawl created it takes away again. Left to others: all that a crawl does.
"""

import asyncio
import fcntl
import logging
import os
import re
import signal
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from scrapy import signals
from scrapy.commands import crawl
from scrapy.crawler import Crawler

from crawler import arguments, export, pipelines, progress, store
from crawler.arguments import DATABASE, NO_CONTACT, Arguments
from crawler.extract.article import Criteria
from crawler.middlewares.addresses import is_private_host
from crawler.spiders.press import PressSpider
from crawler.store import Store
from pressft.errors import DataError, MissingError, PressftError, RefusedError, UsageError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CONTACT = re.compile(r"[!-'*-;=?A-~]+@[!-'*-;=?A-~]+|https?://[!-'*-;=?-~]+")  # safe in a header
_COUNTED = (  # loggers that warn of single pages, which the summary counts
    "scrapy.core.downloader.handlers.http11",
    "scrapy.downloadermiddlewares.httpcompression",
    "trafilatura",
)


class Command(crawl.Command):
    """Scrapy's own command with the exit codes of pressft."""

    def syntax(self) -> str:
        """What follows the command's name."""
        return (
            "press -a feed=URL|NAME[,…] -a corpus=DIR [-a since=DATE] [-a limit=N]"
            " [-a language=CODE[,…]] [-a dry_run=1], or press -a corpus=DIR -a reextract=1"
        )

    def short_desc(self) -> str:
        """One line of help."""
        return "Crawl newsrooms into a corpus"

    def run(self, args: list[str], opts: Namespace) -> None:
        """Crawl; the exit code says how it went."""
        try:
            if args != [PressSpider.name]:
                raise UsageError(f"no spider {' '.join(args)!r}: choose {PressSpider.name}")
            self._run(arguments.parse(opts.spargs))
        except PressftError as error:
            _say(f"error: {error}")
            self.exitcode = error.exit_code

    def _run(self, given: Arguments) -> None:
        assert self.settings
        _check_contact(given, self.settings.get("PRESS_CONTACT"))
        if given.reextract and not (given.corpus / DATABASE).exists():
            why = f"{given.corpus} holds no {DATABASE}"
            raise DataError(f"{why}: there are no pages to extract again, crawl it first")
        with _opened(given) as pages:
            export.existing(given.corpus)  # a damaged corpus is reported before an hour of crawling
            if given.reextract:
                criteria = Criteria(self.settings.getint("PRESS_MIN_WORDS"), given.languages)
                _reextract(given, pages, criteria)
            else:
                self._crawl(given, pages)

    def _crawl(self, given: Arguments, pages: Store) -> None:
        assert self.crawler_process
        for name in _COUNTED:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        crawler = self.crawler_process.create_crawler(PressSpider)
        watch = _SignalWatch(crawler)
        self.crawler_process.crawl(crawler, arguments=given, store=pages)
        self.crawler_process.start()
        spider = crawler.spider
        assert isinstance(spider, PressSpider)
        exporter = crawler.get_item_pipeline(pipelines.ExportPipeline)
        assert exporter
        try:
            if not exporter.is_done:  # a second signal ended Scrapy before its pipelines
                asyncio.run(exporter.close_spider())
        finally:
            spider.sandbox.close()
        sys.stdout.writelines(f"{line}\n" for line in spider.preview)
        if not given.dry_run:
            _sum_up(crawler, spider)
        for problem in spider.problems[1:]:
            _say(f"error: {problem}")
        if spider.problems:
            raise spider.problems[0]
        if watch.received:
            self.exitcode = 128 + watch.received


class _SignalWatch:
    """Notes the first signal that asks for an end, and lets Scrapy answer it."""

    def __init__(self, crawler: Crawler) -> None:
        self.received = 0
        self._crawler = crawler
        self._handlers: dict[int, Any] = {}
        crawler.signals.connect(self._install, signals.spider_opened)

    def _install(self) -> None:
        self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if isinstance(self._crawler.spider, PressSpider):
            self._crawler.spider.throttle.stop()
        handler = self._handlers.get(number)  # none yet while they are installed
        if callable(handler):
            handler(number, frame)


def _check_contact(given: Arguments, contact: str) -> None:
    """Refuse to crawl public hosts without a contact; one that is given must be one.

    Raises:
        UsageError: it is missing, or would not do in a header.
    """
    if contact and not _CONTACT.fullmatch(contact):
        raise UsageError(f"PRESS_CONTACT {contact!r} is neither an e-mail address nor a URL")
    for source in given.sources if not contact else ():
        host = urlsplit(source.url).hostname or ""
        if not is_private_host(host):
            raise UsageError(f"{host} is a public host, {NO_CONTACT}")


@contextmanager
def _opened(given: Arguments) -> Iterator[Store]:
    """The store of the corpus, locked; a folder made for a crawl that kept nothing is removed."""
    created = [path for path in (given.corpus, *given.corpus.parents) if not path.exists()]
    with _locked(given):
        is_new = not (given.corpus / DATABASE).exists()
        pages = Store(None if given.dry_run and is_new else given.corpus)
        try:
            yield pages
        finally:
            is_worthless = is_new and not pages.is_worth_keeping()
            pages.close()
            if is_worthless:
                store.remove(given.corpus)
                for path in created:
                    with suppress(OSError):
                        path.rmdir()


@contextmanager
def _locked(given: Arguments) -> Iterator[None]:
    """Keep other crawls out of the corpus folder, which is made; a dry run needs no lock.

    Raises:
        RefusedError: another crawl holds it.
        MissingError: the folder cannot be made.
    """
    if given.dry_run:
        yield
        return
    try:
        given.corpus.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(given.corpus, os.O_RDONLY)
    except OSError as error:
        why = f"corpus folder {given.corpus} cannot be written ({error})"
        raise MissingError(f"{why}: choose a writable folder, -a corpus=DIR") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, leaves none
        yield
    except BlockingIOError:
        why = f"corpus {given.corpus} is being written by another crawl"
        raise RefusedError(f"{why}: wait for its end or choose another folder") from None
    finally:
        os.close(descriptor)


def _sum_up(crawler: Crawler, spider: PressSpider) -> None:
    """Print what the crawl came to.

    Raises:
        DataError: it came to nothing, and no problem explains that.
    """
    assert crawler.stats
    stats = crawler.stats.get_stats()
    if n_articles := stats.get("newsroom/articles", 0):
        progress.print_table(stats)
        counts = f"{n_articles} articles, {stats.get('newsroom/new', 0)} new"
        _say(f"{spider.arguments.corpus}: {counts}{progress.losses(stats)}")
    elif not (spider.problems or spider.throttle.stopped):
        feeds = ", ".join(source.url for source in spider.arguments.sources)
        n_pages = stats.get("newsroom/found", 0)
        if not n_pages:
            since = spider.arguments.since
            raise DataError(f"{feeds} has no entry since {since}: choose an earlier date")
        why = f"no article with text on {n_pages} pages{progress.losses(stats)}"
        raise DataError(f"{feeds}: {why}: give another feed")


def _reextract(given: Arguments, pages: Store, criteria: Criteria) -> None:
    """Extract and clean every stored page again and write the corpus anew, offline.

    Raises:
        DataError: no page is stored, or nothing would be left.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop)
    if not (n_pages := pages.n_pages()):
        raise DataError(f"{given.corpus} holds no stored pages: crawl it first, without reextract")
    with progress.counting(n_pages) as advance:
        found = asyncio.run(pipelines.reextract(pages, criteria, advance))
    receipt = export.export_anew(
        given.corpus,
        [one.article for one in found if one.article],
        {one.id: one.drops for one in found},
        criteria.min_words,
    )
    reasons = Counter(one.reason for one in found if not one.article)
    losses = "".join(f", {n} dropped ({why})" for why, n in sorted(reasons.items()))
    _say(f"{given.corpus}: {receipt.total} articles from {len(found)} stored pages{losses}")


def _stop(number: int, _: FrameType | None) -> None:
    _say("stopped: the corpus is as it was")
    sys.exit(128 + number)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
