"""robots.txt, asked for once a host and then obeyed by every request (RFC 9309).

Where it does not exist (4xx) everything is allowed; where it cannot be had (5xx, 429, a time-out,
no connection, an address that may not be reached) the crawl stays away from the host. Scrapy's own
middleware allows then, and lets requests pass that waited beside the first. Left to others: what
the file says (`rules`), waiting as long as it asks (`patience`).
"""

import asyncio
from collections import defaultdict
from typing import Self
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http.request import NO_CALLBACK

from crawler import rules
from crawler.addresses import RefusedAddress
from crawler.patience import Patience
from crawler.reasons import UNREACHABLE, RefusedByRobots, reason
from crawler.workers import OverLimit, Workers

PRIORITY = 1000  # before anything else of the host


class ObeyRobotsMiddleware:
    """Lets one request of a host fetch its robots.txt while the others wait."""

    def __init__(self, crawler: Crawler) -> None:
        """As `crawler` fetches, with the workers and the patience of its spider."""
        self._crawler = crawler
        self._agent: str = crawler.settings["ROBOTSTXT_USER_AGENT"]
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._bodies: dict[str, bytes | RefusedByRobots] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """As `crawler` fetches."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Let the request pass, and note the host's sitemaps in its `meta`.

        Raises:
            RefusedByRobots: robots.txt forbids it or cannot be had.
        """
        parts = urlsplit(request.url)
        if request.meta.get("dont_obey_robotstxt") or parts.scheme not in ("http", "https"):
            return
        body = await self._body(f"{parts.scheme}://{parts.netloc}")
        workers: Workers = self._crawler.spider.workers  # type: ignore[union-attr]
        patience: Patience = self._crawler.spider.patience  # type: ignore[union-attr]
        try:
            found = await workers.run(rules.read, body, request.url, self._agent)
        except OverLimit:
            raise RefusedByRobots("robots.txt unreadable") from None
        if not found.allowed:
            raise RefusedByRobots("robots.txt")
        patience.ask(parts.hostname or "", found.delay_s)
        request.meta["sitemaps"] = found.sitemaps

    async def _body(self, origin: str) -> bytes:
        async with self._turns[origin]:
            if origin not in self._bodies:
                self._bodies[origin] = await self._fetch(f"{origin}/robots.txt")
        body = self._bodies[origin]
        if isinstance(body, RefusedByRobots):
            raise body
        return body

    async def _fetch(self, url: str) -> bytes | RefusedByRobots:
        """The body of a robots.txt, empty where there is none."""
        assert self._crawler.engine
        request = Request(url, NO_CALLBACK, priority=PRIORITY, meta={"dont_obey_robotstxt": True})
        try:
            response = await self._crawler.engine.download_async(request)
        except RefusedAddress:
            raise  # said as it is: the page would be refused for the same reason
        except Exception as error:
            why = reason(error)
            return RefusedByRobots(why if why in UNREACHABLE else f"robots.txt unavailable: {why}")
        if 200 <= response.status < 300:
            return bytes(response.body)
        if 400 <= response.status < 500 and response.status != 429:
            return b""
        return RefusedByRobots(f"robots.txt unavailable: HTTP {response.status}")
