"""`scrapy crawl`, as Scrapy has it, but for `press`: plan, crawl, export, one summary, exit codes.

The whole of a crawl on one page. What a failed crawl created it takes away again.
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
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from scrapy import signals
from scrapy.commands import crawl
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider

from crawler import arguments, export, progress, store
from crawler.arguments import DATABASE, NO_CONTACT, Plan
from crawler.export import Exported
from crawler.extract import repeats
from crawler.extract.article import Demands, Made
from crawler.middlewares.addresses import is_private_host
from crawler.pipelines import built_all
from crawler.sandbox import Workers
from crawler.spiders.press import PressSpider
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
        """Crawl; the exit code tells how it went."""
        try:
            if args != [PressSpider.name]:
                raise UsageError(f"no spider {' '.join(args)!r}: choose {PressSpider.name}")
            self._crawl(arguments.parse(opts.spargs))
        except PressftError as error:
            _say(f"error: {error}")
            self.exitcode = error.exit_code

    def _crawl(self, asked: Plan) -> None:
        assert self.settings
        _check_contact(asked, self.settings.get("PRESS_CONTACT"))
        created = [path for path in (asked.corpus, *asked.corpus.parents) if not path.exists()]
        if asked.reextract and not (asked.corpus / DATABASE).exists():
            why = f"{asked.corpus} holds no {DATABASE}"
            raise DataError(f"{why}: there is nothing to read again, crawl it first")
        with _locked(asked):
            fresh = not (asked.corpus / DATABASE).exists()
            export.existing(asked.corpus)  # a damaged corpus is told before an hour of crawling
            pages = store.Store(None if asked.dry_run and fresh else asked.corpus)
            try:
                if asked.reextract:
                    n = self.settings.getint("PRESS_MIN_WORDS")
                    _reextract(asked, pages, Demands(n, asked.languages))
                else:
                    self._crawl_into(asked, pages)
            finally:
                worthless = fresh and not pages.is_worth_keeping()
                pages.close()
                if worthless:
                    _remove(asked.corpus, created)

    def _crawl_into(self, asked: Plan, pages: store.Store) -> None:
        spider, stopped_by = self._fetch(asked, pages)
        try:
            if asked.dry_run:
                _list(spider)
            else:
                _finish(spider)
        finally:
            spider.workers.close()
        for problem in spider.problems[1:]:
            _say(f"error: {problem}")
        if spider.problems:
            raise spider.problems[0]
        if stopped_by:
            self.exitcode = 128 + stopped_by

    def _fetch(self, asked: Plan, pages: store.Store) -> tuple[PressSpider, int]:
        """The spider after its crawl, and the signal that ended it, or 0."""
        assert self.crawler_process
        for name in _COUNTED:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        crawler = self.crawler_process.create_crawler(PressSpider)
        watch = _SignalWatch(crawler)
        self.crawler_process.crawl(crawler, plan=asked, store=pages)
        self.crawler_process.start()
        assert isinstance(crawler.spider, PressSpider)
        return crawler.spider, watch.received


class _SignalWatch:
    """Notes the first signal that asks for an end, and lets Scrapy answer it."""

    def __init__(self, crawler: Crawler) -> None:
        self.received = 0
        self._crawler = crawler
        self._answers = {number: signal.getsignal(number) for number in _SIGNALS}
        crawler.signals.connect(self._opened, signals.spider_opened)

    def _opened(self) -> None:
        for number in _SIGNALS:
            self._answers[number] = signal.getsignal(number)
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if isinstance(self._crawler.spider, PressSpider):
            self._crawler.spider.patience.give_up()
        answer = self._answers[signal.Signals(number)]
        if callable(answer):
            answer(number, frame)


def _check_contact(asked: Plan, contact: str) -> None:
    """Refuse to crawl public hosts without a contact; one that is given must be one.

    Raises:
        UsageError: it is missing, or would not do in a header.
    """
    if contact and not _CONTACT.fullmatch(contact):
        raise UsageError(f"PRESS_CONTACT {contact!r} is neither an e-mail address nor a URL")
    for source in asked.sources if not contact else ():
        host = urlsplit(source.url).hostname or ""
        if not is_private_host(host):
            raise UsageError(f"{host} is a public host, {NO_CONTACT}")


@contextmanager
def _locked(asked: Plan) -> Iterator[None]:
    """Keep other crawls out of the corpus folder, which is made; a dry run disturbs none.

    Raises:
        RefusedError: another crawl is at it.
        MissingError: the folder cannot be made.
    """
    if asked.dry_run:
        yield
        return
    try:
        asked.corpus.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(asked.corpus, os.O_RDONLY)
    except OSError as error:
        why = f"corpus folder {asked.corpus} cannot be written ({error})"
        raise MissingError(f"{why}: choose a writable folder, -a corpus=DIR") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, leaves none
        yield
    except BlockingIOError:
        why = f"corpus {asked.corpus} is being written by another crawl"
        raise RefusedError(f"{why}: wait for its end or choose another folder") from None
    finally:
        os.close(descriptor)


def _finish(spider: PressSpider) -> None:
    """Write the corpus, with pages that an earlier, killed crawl left, and sum up."""
    folder = spider.plan.corpus
    done = {article.id for article in export.existing(folder)}
    with suppress(CloseSpider):  # a full disk, already among the problems
        asyncio.run(_derive(spider, done | spider.made.keys()))
    made = spider.made.values()
    receipt = export.export(
        folder,
        [one.article for one in made if one.article],
        {one.id: one.drops for one in made},
        spider.demands.min_words,
    )
    _count(spider, receipt)
    if not receipt.total:
        if not (spider.problems or spider.patience.stopped):
            raise DataError(_nothing(spider))
        return
    assert spider.crawler.stats
    progress.table(spider.crawler.stats.get_stats())
    _say(f"{folder}: {receipt.total} articles, {receipt.new} new{_losses(spider)}")


async def _derive(spider: PressSpider, but: set[str]) -> None:
    """Make articles of the pages that an earlier crawl left, one after the other."""
    for page in spider.store.pages(but=but):
        await spider.derive(page)


def _count(spider: PressSpider, receipt: Exported) -> None:
    """Put what cleaning left out into the statistics."""
    assert spider.crawler.stats
    stats = spider.crawler.stats
    counts = Counter(drop.reason for one in spider.made.values() for drop in one.drops)
    counts[repeats.REASON] += receipt.repeats
    for why, n in (+counts).items():
        stats.inc_value(f"newsroom/paragraphs/{why}", n)


def _reextract(asked: Plan, pages: store.Store, demands: Demands) -> None:
    """Repeat extraction and cleaning on every stored page and write the corpus anew, offline.

    Raises:
        DataError: there is nothing to read, or nothing would be left.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop)
    made, reasons = asyncio.run(_rebuild(asked, pages, demands))
    receipt = export.export_anew(
        asked.corpus,
        [one.article for one in made if one.article],
        {one.id: one.drops for one in made},
        demands.min_words,
    )
    losses = "".join(f", {n} dropped ({why})" for why, n in sorted((+reasons).items()))
    _say(f"{asked.corpus}: {receipt.total} articles from {len(made)} stored pages{losses}")


def _stop(number: int, _: FrameType | None) -> None:
    _say("stopped: the corpus is as it was")
    sys.exit(128 + number)


async def _rebuild(
    asked: Plan, pages: store.Store, demands: Demands
) -> tuple[list[Made], Counter[str]]:
    n_pages, n_workers = pages.n_pages(), os.cpu_count() or 1
    if not n_pages:
        raise DataError(f"{asked.corpus} holds no stored pages: crawl it first, without reextract")
    workers = Workers(n_workers)
    made: list[Made] = []
    reasons: Counter[str] = Counter()
    try:
        stored = pages.pages(but=set(), dropped=True)
        with progress.counting(n_pages) as advance:
            async for page, one in built_all(workers, stored, demands, ahead=2 * n_workers):
                made.append(one)
                if one.article:
                    pages.kept(page.entry.url)
                else:
                    reasons[one.reason] += 1
                    pages.dropped(page.entry.url, one.reason)
                advance()
    finally:
        workers.close()
    return made, reasons


def _nothing(spider: PressSpider) -> str:
    """Why a crawl without a problem ends without an article."""
    feeds = ", ".join(source.url for source in spider.plan.sources)
    if not spider.listed:
        return f"{feeds} has no entry since {spider.plan.since}: choose an earlier date"
    n = len(spider.listed)
    return f"{feeds}: no article with text on {n} pages{_losses(spider)}: give another feed"


def _losses(spider: PressSpider) -> str:
    """What was dropped or failed, by reason, "" for nothing."""
    assert spider.crawler.stats
    counts = spider.crawler.stats.get_stats()
    parts = [
        f", {count} {name.split('/')[1]} ({name.split('/')[2]})"
        for name, count in sorted(counts.items())
        if name.startswith(("newsroom/dropped/", "newsroom/failed/"))
    ]
    return "".join(parts)


def _list(spider: PressSpider) -> None:
    """Say on stdout what a crawl would fetch, a line each: date, address, title."""
    for entry in spider.listed.values():
        if spider.store.wants(entry.url):
            day = entry.published.date().isoformat() if entry.published else "----------"
            sys.stdout.write(f"{day}  {entry.url}  {entry.title}\n")


def _remove(folder: Path, created: list[Path]) -> None:
    store.remove(folder)
    for path in created:
        with suppress(OSError):
            path.rmdir()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
