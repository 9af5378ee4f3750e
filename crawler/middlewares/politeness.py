"""One request at a time to a host, as slowly as it demands: Crawl-delay, Retry-After, backoff.

A download handler, because only a wait there holds back every request of the host. Left to others:
trying again (Scrapy's retry middleware), robots.txt (`robots`).
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.core.downloader.handlers.http11 import (
    HTTP11DownloadHandler,
    _LenientHTTP11ClientFactory,
    _LenientHTTP11ClientProtocol,
)
from scrapy.crawler import Crawler
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response
from twisted.internet.interfaces import IAddress

LONGEST_DELAY_S = 60  # between two requests; a host that demands more is not crawled
LONGEST_WAIT_S = 300  # after 429 or 503; a host that demands more waits for the next crawl
FIRST_WAIT_S = 1.0  # where it does not say how long; doubled each time
STRIKES = 5  # of 429 and 503 in a row: the host waits for the next crawl
HEADER_BYTES = 256 * 1024  # of status and headers; browsers take as much
STOPPED = "stopped"  # why requests fail while the crawl ends
_POLL_S = 0.5


class StayAway(IgnoreRequest):
    """A request to a host that may not be crawled now; the message says why."""


@dataclass(slots=True)
class _Host:
    """A host: seconds between requests, no request before (monotonic), refusals in a row."""

    delay_s: float = 0.0
    not_before: float = 0.0
    strikes: int = 0
    closed: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Throttle:
    """When the next request to each host may go out; `stop` ends all waiting."""

    def __init__(self) -> None:
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)
        self.stopped = False

    def stop(self) -> None:
        """Refuse every further request: the crawl is to end."""
        self.stopped = True

    def set_delay(self, host: str, delay_s: float) -> None:
        """Leave at least `delay_s` between two requests to `host`; a long delay closes it."""
        known = self._hosts[host]
        known.delay_s = max(known.delay_s, delay_s)
        if known.delay_s > LONGEST_DELAY_S:
            known.closed = "crawl delay too long"

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Begin when the next request to `host` may go out, and hold others back meanwhile.

        Without a delay Scrapy 2.19 would begin all requests to a host at once.

        Raises:
            StayAway: it may not be crawled now, or the crawl ends.
        """
        async with self._hosts[host].lock:
            await self._wait(self._hosts[host])
            yield

    async def _wait(self, known: _Host) -> None:
        while not (self.stopped or known.closed):
            wait = known.not_before - time.monotonic()
            if wait <= 0:
                known.not_before = time.monotonic() + known.delay_s
                return
            await asyncio.sleep(min(wait, _POLL_S))
        raise StayAway(known.closed or STOPPED)

    def record(self, host: str, response: Response) -> None:
        """Note an answer: the next request waits after 429 and 503 (RFC 9110, 10.2.3)."""
        known = self._hosts[host]
        if response.status not in (429, 503):
            known.strikes = 0
            return
        wait = retry_after((response.headers.get("Retry-After") or b"").decode("latin-1"))
        if wait is None:
            wait = max(FIRST_WAIT_S, known.delay_s) * 2**known.strikes
        known.strikes += 1
        if wait > LONGEST_WAIT_S or known.strikes >= STRIKES:
            known.closed = "asked to come back later"
        known.not_before = max(known.not_before, time.monotonic() + wait)


class ThrottledHandler(HTTP11DownloadHandler):
    """Fetches over http and https as the spider's throttle allows, and with headers bounded."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._pool._factory = _BoundedFactory

    async def download_request(self, request: Request) -> Response:
        """The answer, once the request may go out.

        Raises:
            StayAway: the host may not be crawled now.
        """
        host = urlsplit(request.url).hostname or ""
        throttle: Throttle = self._crawler.spider.throttle  # type: ignore[union-attr]
        async with throttle.turn(host):
            response = await super().download_request(request)
            throttle.record(host, response)
        return response


class _BoundedProtocol(_LenientHTTP11ClientProtocol):
    """Closes the connection on headers without end."""

    _head_bytes = 0

    def dataReceived(self, bytes: bytes) -> None:
        parser = self._parser
        if parser is None or parser.state in ("STATUS", "HEADER"):
            self._head_bytes += len(bytes)
        super().dataReceived(bytes)  # type: ignore[no-untyped-call]
        if self._parser is None or self._parser.state not in ("STATUS", "HEADER"):
            self._head_bytes = 0
        elif self._head_bytes > HEADER_BYTES and self.transport:
            self.transport.abortConnection()


class _BoundedFactory(_LenientHTTP11ClientFactory):
    """Builds the protocols of a pool of connections."""

    def buildProtocol(self, addr: IAddress | None) -> _BoundedProtocol:  # noqa: ARG002
        return _BoundedProtocol(self._quiescentCallback)  # type: ignore[no-untyped-call]


def retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header demands, in either form; None if it is invalid."""
    value = value.strip()
    if value.isdecimal() and value.isascii():
        return float(value) if len(value) < 10 else math.inf
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
