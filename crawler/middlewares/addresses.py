"""Where a crawl may go: http and https, to public addresses, on every hop.

Every connection resolves its host here and goes to the very addresses that were checked: this holds
for redirects, meta refreshes, robots.txt, feeds, IPv6 and names that change their address between
two lookups. The middleware refuses, before a connection, what needs no lookup, and names the reason
after one.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import CannotResolveHostError, IgnoreRequest
from scrapy.resolver import HostResolution
from scrapy.settings import BaseSettings
from twisted.internet.interfaces import IHostnameResolver, IResolutionReceiver
from zope.interface import implementer

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: IPv4 in the last four bytes

Address = IPv4Address | IPv6Address


class RefusedAddress(IgnoreRequest):
    """A request that may not be made; the message names host and address."""


class MissingContact(RefusedAddress):
    """A request to a public host without a contact in the User-Agent."""


class Policy:
    """Which addresses a crawl may reach: public ones with a contact, private ones if allowed."""

    def __init__(self, settings: BaseSettings) -> None:
        self._allow_private = settings.getbool("PRESS_ALLOW_PRIVATE")
        self._has_contact = bool(settings.get("PRESS_CONTACT"))

    def check(self, host: str, address: Address) -> None:
        """Allow a connection to an address of `host`.

        Raises:
            RefusedAddress: the address is not public.
            MissingContact: it is, and the host would have no address to write to.
        """
        public = is_public(address)
        seen = host if host == str(address) else f"{host} ({address})"
        if not public and not self._allow_private:
            raise RefusedAddress(f"{seen} is not a public address")
        if public and not self._has_contact:
            raise MissingContact(f"{seen} is a public host")


class PublicAddressMiddleware:
    """Refuses requests that leave the public web, and reports what the resolver refused."""

    def __init__(self, settings: BaseSettings) -> None:
        self._policy = Policy(settings)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """The middleware with the policy that the settings give."""
        return cls(crawler.settings)

    def process_request(self, request: Request) -> None:
        """Allow the request, which the resolver checks next.

        Raises:
            RefusedAddress: it is not http or https, or its host is a refused address itself.
        """
        parts = urlsplit(request.url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https"):
            raise RefusedAddress(f"{parts.scheme}: is neither http nor https")
        address = literal(host)
        if address:
            self._policy.check(host, address)
        if is_loopback(host):
            request.meta.pop("proxy", None)  # a proxy would look on its own machine
        elif host in _proxies():  # which the resolver lets pass
            raise RefusedAddress(f"{host} is the proxy of this machine")

    def process_exception(self, request: Request, exception: Exception) -> None:
        """Name the address where the resolver refused a host.

        Raises:
            RefusedAddress: it did.
        """
        from twisted.internet import reactor  # importing it at the top would install another loop

        resolver = reactor.nameResolver
        host = urlsplit(request.url).hostname or ""
        if isinstance(exception, CannotResolveHostError) and host in resolver.refused:
            raise resolver.refused[host]


@implementer(IHostnameResolver)
class PublicResolver:
    """Gives a connection the addresses of a host if all of them may be reached, or none.

    `refused` holds, by host, why its last lookup gave none.
    """

    def __init__(self, settings: BaseSettings, reactor: Any) -> None:  # noqa: ANN401 - no one type
        self.refused: dict[str, RefusedAddress] = {}
        self._policy = Policy(settings)
        self._reactor = reactor
        self._inner = reactor.nameResolver

    @classmethod
    def from_crawler(cls, crawler: Crawler, reactor: Any) -> Self:  # noqa: ANN401
        """The resolver with the policy that the settings give."""
        return cls(crawler.settings, reactor)

    def install_on_reactor(self) -> None:
        """Resolve every name for the reactor from now on."""
        self._reactor.installNameResolver(self)

    def resolveHostName(  # Twisted's interface
        self,
        resolutionReceiver: Any,  # noqa: ANN401
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,  # noqa: ANN401
        transportSemantics: str = "TCP",
    ) -> Any:  # noqa: ANN401
        """Twisted's lookup; uncached, so that a connection uses the addresses checked for it."""
        receiver = _CheckedReceiver(resolutionReceiver, hostName, self)
        return self._inner.resolveHostName(
            receiver, hostName, portNumber, addressTypes, transportSemantics
        )

    def check(self, host: str, addresses: list[Address]) -> bool:
        """Whether a host may be reached: only if all of its addresses may."""
        self.refused.pop(host, None)
        if host in _proxies():
            return True
        try:
            for address in addresses:
                self._policy.check(host, address)
        except RefusedAddress as error:
            self.refused[host] = error
        return host not in self.refused


@implementer(IResolutionReceiver)
class _CheckedReceiver:
    """Withholds the addresses of a host until all are known and checked."""

    def __init__(self, receiver: Any, host: str, resolver: PublicResolver) -> None:  # noqa: ANN401
        self._receiver = receiver
        self._host = host
        self._resolver = resolver
        self._found: list[Any] = []

    def resolutionBegan(self, resolution: HostResolution) -> None:
        self._receiver.resolutionBegan(resolution)

    def addressResolved(self, address: Any) -> None:  # noqa: ANN401
        self._found.append(address)

    def resolutionComplete(self) -> None:
        addresses = [ip_address(found.host.partition("%")[0]) for found in self._found]
        if self._resolver.check(self._host, addresses):
            for found in self._found:
                self._receiver.addressResolved(found)
        self._receiver.resolutionComplete()


def is_public(address: Address) -> bool:
    """Whether an address is one host on the public internet, also where IPv6 wraps IPv4."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped:
            return is_public(wrapped)
        if address.teredo or address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast


def is_private_host(host: str) -> bool:
    """Whether a host has addresses and none is public; blocks on the system's resolver."""
    address = literal(host)
    if address:
        return not is_public(address)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return not any(is_public(ip_address(str(item[4][0]).partition("%")[0])) for item in found)


def literal(host: str) -> Address | None:
    """The address that a host is, also in the old forms 127.1 and 0x7f000001; None for a name."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:  # as the C library reads it; Twisted would take it for a name
        return IPv4Address(socket.inet_aton(host)) if host[:1].isdecimal() else None
    except (OSError, UnicodeError):
        return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    address = literal(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _proxies() -> set[str]:
    """Hosts of the proxies that the environment names, which are meant to be reached."""
    return {urlsplit(url).hostname or "" for url in getproxies().values()} - {""}
