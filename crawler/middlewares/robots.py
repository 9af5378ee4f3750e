"""robots.txt, fetched once a host and then obeyed by every request (RFC 9309).

Where it does not exist (4xx) everything is allowed; where it cannot be had (5xx, 429, a time-out,
no connection, an address that may not be reached) no page of the host is requested. Scrapy's own
middleware would allow it then, and let requests pass that waited beside the first. Left to others:
waiting as long as the file demands (`politeness`).
"""

import asyncio
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

from protego import Protego
from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http.request import NO_CALLBACK

from crawler.middlewares.addresses import RefusedAddress
from crawler.middlewares.politeness import Throttle
from crawler.reasons import UNREACHABLE, RefusedByRobots, reason
from crawler.sandbox import OverLimit, Sandbox

PRIORITY = 1000  # before anything else of the host
READ_BYTES = 500 * 1024  # RFC 9309, 2.5: at least so much


@dataclass(frozen=True, slots=True)
class Rules:
    """Whether a page may be fetched, seconds between two requests (or 0), the sitemaps named."""

    allowed: bool = True
    delay_s: float = 0.0
    sitemaps: tuple[str, ...] = ()


class ObeyRobotsMiddleware:
    """Lets one request of a host fetch its robots.txt while the others wait."""

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._agent: str = crawler.settings["ROBOTSTXT_USER_AGENT"]
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._bodies: dict[str, bytes | RefusedByRobots] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """A middleware that fetches as `crawler` does."""
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
        sandbox: Sandbox = self._crawler.spider.sandbox  # type: ignore[union-attr]
        throttle: Throttle = self._crawler.spider.throttle  # type: ignore[union-attr]
        try:
            found = await sandbox.run(read_rules, body, request.url, self._agent)
        except OverLimit:
            raise RefusedByRobots("robots.txt unreadable") from None
        if not found.allowed:
            raise RefusedByRobots("robots.txt")
        throttle.set_delay(parts.hostname or "", found.delay_s)
        request.meta["sitemaps"] = found.sitemaps

    async def _body(self, origin: str) -> bytes:
        async with self._locks[origin]:
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
            raise  # as it is: the page would be refused for the same reason
        except Exception as error:
            why = reason(error)
            return RefusedByRobots(why if why in UNREACHABLE else f"robots.txt unavailable: {why}")
        if 200 <= response.status < 300:
            return bytes(response.body)
        if 400 <= response.status < 500 and response.status != 429:
            return b""
        return RefusedByRobots(f"robots.txt unavailable: HTTP {response.status}")


def read_rules(body: bytes, url: str, agent: str) -> Rules:
    """What the robots.txt with this body allows `agent` to do with `url`: a plain function.

    Its patterns become regular expressions that a hostile file can make take for ever: run it in
    the sandbox.
    """
    parsed = _parse(body[:READ_BYTES])
    rate = parsed.request_rate(agent)
    delays = [parsed.crawl_delay(agent) or 0.0, rate.seconds / rate.requests if rate else 0.0]
    return Rules(
        allowed=bool(parsed.can_fetch(url, agent)),
        delay_s=max((delay for delay in delays if math.isfinite(delay)), default=0.0),
        sitemaps=tuple(parsed.sitemaps)[:100],
    )


@lru_cache(maxsize=32)
def _parse(body: bytes) -> Protego:
    return Protego.parse(body.decode("utf-8-sig", "replace"))
