"""robots.txt, asked for once a host and then obeyed by every request.

Scrapy's own middleware hands the rules to the first two requests of a host and lets those that
waited beside them pass: awaiting one Deferred takes its result away from the next. Left for later:
Crawl-delay, and staying away where robots.txt is not available (RFC 9309).
"""

import asyncio
import logging
from collections import defaultdict

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.robotstxt import RobotParser
from scrapy.utils.httpobj import urlparse_cached

# It prints a traceback for an unreachable host, whose page then says so in a line.
logging.getLogger(RobotsTxtMiddleware.__module__).setLevel(logging.CRITICAL)


class ObeyRobotsMiddleware(RobotsTxtMiddleware):
    """Lets one request of a host fetch its robots.txt while the others wait."""

    def __init__(self, crawler: Crawler) -> None:
        """Obeys only with the setting ROBOTSTXT_OBEY."""
        super().__init__(crawler)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def robot_parser(self, request: Request) -> RobotParser | None:
        """The rules for this request's host, None where there are none."""
        async with self._turns[urlparse_cached(request).netloc]:
            return await super().robot_parser(request)
