"""Feed parsing and extraction under atheris (`make fuzz`): bytes end in a result or in DataError.

The parsers of the web are C libraries and Python alike; a crash of either stops the run and leaves
the input in a file.
"""

import contextlib
import sys
from datetime import UTC, datetime

import atheris

with atheris.instrument_imports(include=["crawler"]):
    from crawler.extract.article import build
    from crawler.feeds import Entry, parse
    from crawler.items import FetchedPage
    from pressft.errors import DataError

URL = "https://press.example/feed"


def one(data: bytes) -> None:
    """The same bytes as a feed and as a page."""
    with contextlib.suppress(DataError):
        parse(data, URL)
    entry = Entry(URL, "", None, (), "", "")
    build(FetchedPage(entry, "press.example", datetime(2026, 1, 1, tzinfo=UTC), data, "utf-8"))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
