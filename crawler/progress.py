"""What a person sees of a crawl, on stderr: progress with the time left, and a table at its end.

Without a terminal plain lines replace the first, and the second is left out. All of it is read from
the statistics under `newsroom/`. Left to others: counting (`spiders.press`), the last line and the
exit code (`commands.crawl`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scrapy import signals
from scrapy.crawler import Crawler
from scrapy.statscollectors import StatsCollector
from scrapy.utils.asyncio import create_looping_call

REFRESH_S = 0.5
PLAIN_S = 10.0  # between lines where nothing can be redrawn
_PAGES = ("found", "known", "fetched", "kept", "dropped", "failed")
_BY_REASON = ("dropped", "failed", "paragraphs")


class ProgressExtension:
    """Redraws one line while the spider runs."""

    def __init__(self, stats: StatsCollector) -> None:
        self._stats = stats
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._live = Progress(*columns, console=self._console, transient=True)
        self._task = self._live.add_task("reading feeds", total=None, rate="")
        terminal = self._console.is_terminal
        self._update = self._redraw if terminal else self._say
        self._loop = create_looping_call(self._update)
        self._interval = REFRESH_S if terminal else PLAIN_S

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """An extension that starts and ends with the crawl."""
        assert crawler.stats
        extension = cls(crawler.stats)
        crawler.signals.connect(extension.opened, signals.spider_opened)
        crawler.signals.connect(extension.closed, signals.spider_closed)
        return extension

    def opened(self) -> None:
        """Start the line."""
        if self._console.is_terminal:
            self._live.start()
        self._loop.start(self._interval, now=False)

    def closed(self) -> None:
        """Stop, leaving no line behind."""
        if self._loop.running:
            self._loop.stop()
        if self._console.is_terminal:  # or it ends with an empty line
            self._live.stop()

    def _redraw(self) -> None:
        speed = self._live.tasks[0].speed
        self._live.update(
            self._task,
            description=self._counts(),
            completed=self._done(),
            total=self._total(),
            rate=f"{speed:.1f}/s" if speed else "",
        )

    def _say(self) -> None:
        self._console.print(f"{self._counts()}, {self._done()} of {self._total()} pages")

    def _counts(self) -> str:
        names = ("found", "fetched", "kept", "dropped")
        return ", ".join(f"{self._count(name)} {name}" for name in names)

    def _done(self) -> int:
        return self._count("fetched") + self._count("failed")

    def _total(self) -> int:
        return self._count("found") - self._count("known")

    def _count(self, name: str) -> int:
        return int(self._stats.get_value(f"newsroom/{name}", 0))


def print_table(stats: Mapping[str, Any]) -> None:
    """Print the statistics under `newsroom/`: pages, then reasons, then paragraphs left out."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return
    drawn = Table(title="pages and paragraphs", title_justify="left", show_header=False)
    drawn.add_column()
    drawn.add_column(justify="right")
    for name in _PAGES:
        if f"newsroom/{name}" in stats:
            drawn.add_row(name, f"{stats[f'newsroom/{name}']:,}")
    for kind in _BY_REASON:
        drawn.add_section()
        found = {n: c for n, c in stats.items() if n.startswith(f"newsroom/{kind}/")}
        for name, count in sorted(found.items(), key=lambda item: -item[1]):
            reason = name.split("/", 2)[2]
            drawn.add_row(f"{kind}: {reason}", f"{count:,}")
    console.print(drawn)


def losses(stats: Mapping[str, Any]) -> str:
    """What was dropped or failed, by reason, after a comma each; "" for nothing."""
    found = [
        (*name.split("/", 2)[1:], count)
        for name, count in sorted(stats.items())
        if name.startswith(("newsroom/dropped/", "newsroom/failed/"))
    ]
    return "".join(f", {count} {kind} ({reason})" for kind, reason, count in found)


@contextmanager
def counting(total: int) -> Iterator[Callable[[], None]]:
    """A progress line over `total` pages; yields the function to call after each."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as line:
        task = line.add_task("extracting stored pages", total=total)
        yield lambda: line.advance(task)
