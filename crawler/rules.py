"""What a robots.txt says to us: a pure function around Protego (RFC 9309).

Its patterns become regular expressions that a hostile file can make take for ever: call it in a
worker. Left to others: fetching the file, and what its absence means (`robots`).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from protego import Protego

READ_BYTES = 500 * 1024  # RFC 9309, 2.5: at least so much


@dataclass(frozen=True, slots=True)
class Rules:
    """Whether a page may be fetched, seconds between two requests (or 0), known sitemaps."""

    allowed: bool = True
    delay_s: float = 0.0
    sitemaps: tuple[str, ...] = ()


def read(body: bytes, url: str, agent: str) -> Rules:
    """What the robots.txt with this body says to `agent` about `url`."""
    parsed = _parse(body[:READ_BYTES])
    rate = parsed.request_rate(agent)
    asked = [parsed.crawl_delay(agent) or 0.0, rate.seconds / rate.requests if rate else 0.0]
    return Rules(
        allowed=bool(parsed.can_fetch(url, agent)),
        delay_s=max((delay for delay in asked if math.isfinite(delay)), default=0.0),
        sitemaps=tuple(parsed.sitemaps)[:100],
    )


@lru_cache(maxsize=32)
def _parse(body: bytes) -> Protego:
    return Protego.parse(body.decode("utf-8-sig", "replace"))
