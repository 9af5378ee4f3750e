"""Where a crawl may go: http and https, to public addresses, on every request.

A downloader middleware, so that feeds, pages, redirects, meta refreshes and robots.txt all pass.
It asks the resolver that the connection asks next, whose cache answers both alike. Left for
later: pinning the address at connect time, IPv6-only hosts.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import CannotResolveHostError, IgnoreRequest
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.error import DNSLookupError


class RefusedAddress(IgnoreRequest):
    """A request that may not be made; the message names host and address."""


class PublicAddressMiddleware:
    """Refuses requests that leave the public web, unless PRESS_ALLOW_PRIVATE is set."""

    def __init__(self, allow_private: bool) -> None:
        """`allow_private` lets loopback and private addresses be reached."""
        self._allow_private = allow_private

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """As the settings say."""
        return cls(crawler.settings.getbool("PRESS_ALLOW_PRIVATE"))

    async def process_request(self, request: Request) -> None:
        """Let the request pass.

        Raises:
            RefusedAddress: it is not http or https, or its host has an address that is not public.
            CannotResolveHostError: the host has no address.
        """
        parts = urlsplit(request.url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https"):
            raise RefusedAddress(f"{parts.scheme}: is neither http nor https")
        if self._allow_private:
            if _is_loopback(host):
                request.meta.pop("proxy", None)  # a proxy would look on its own machine
            return
        proxied = bool(request.meta.get("proxy"))
        address = _literal(host) or (None if proxied else await _resolve(host))
        if address and not is_public(address):
            seen = host if host == str(address) else f"{host} ({address})"
            raise RefusedAddress(f"{seen} is not a public address")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one host on the public internet, also where IPv6 wraps IPv4."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if wrapped:
            return is_public(wrapped)
    return address.is_global and not address.is_multicast


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    literal = _literal(host)
    return host == "localhost" or (literal is not None and literal.is_loopback)


async def _resolve(host: str) -> IPv4Address | IPv6Address:
    from twisted.internet import reactor  # importing it at the top would install another loop

    try:
        found = await maybe_deferred_to_future(reactor.resolve(host))  # type: ignore[arg-type]
    except (DNSLookupError, UnicodeError) as error:
        raise CannotResolveHostError(f"{host} has no address") from error
    return ip_address(found)
