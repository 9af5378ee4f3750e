"""Why a request failed, in a few words for people and statistics."""

from scrapy.exceptions import DownloadCancelledError, IgnoreRequest
from scrapy.spidermiddlewares.httperror import HttpError

from crawler.middlewares.addresses import MissingContact, RefusedAddress
from crawler.middlewares.politeness import StayAway

UNREACHABLE = ("certificate not trusted", "connection refused", "unknown host")
_NAMES = {
    "CannotResolveHostError": "unknown host",
    "DownloadConnectionRefusedError": "connection refused",
    "DownloadFailedError": "broken off",
    "DownloadTimeoutError": "timed out",
    "ResponseDataLossError": "broken off",
}
_SAID = {"redirect": "too many redirects", "DOWNLOAD_MAXSIZE": "too large"}
_PACKING = ("BadGzipFile", "ZstdError", "error")  # the last is zlib's and brotli's


class RefusedByRobots(IgnoreRequest):
    """A request that robots.txt forbids, or one to a host whose robots.txt cannot be had."""


def reason(error: BaseException | None) -> str:
    """Why, such as "HTTP 404"; the name of its class for an unforeseen error."""
    if isinstance(error, HttpError):
        return f"HTTP {error.response.status}"
    if isinstance(error, MissingContact):
        return "no contact for a public host"
    if isinstance(error, RefusedAddress):
        return "not a public address"
    if isinstance(error, RefusedByRobots | StayAway):
        return str(error)
    if isinstance(error, IgnoreRequest):  # Scrapy's own, which differ in their text alone
        return next((words for said, words in _SAID.items() if said in str(error)), "ignored")
    if "certificate verify failed" in str(error):
        return "certificate not trusted"
    if isinstance(error, DownloadCancelledError):  # also by a time-out amid the body
        return "too large" if "max size" in str(error) else "timed out"
    name = type(error).__name__
    if isinstance(error, ValueError | LookupError | EOFError) or name in _PACKING:
        return "unreadable"
    return _NAMES.get(name, name)
