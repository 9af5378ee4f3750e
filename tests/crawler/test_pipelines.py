"""Pages extracted in the sandbox: in order, within limits, whatever they do to a parser."""

import asyncio

from test_article import NOW, TEXT, page

from crawler.extract.article import Criteria, Extraction
from crawler.items import FetchedPage
from crawler.pipelines import extract, extract_all
from crawler.sandbox import Sandbox


def test_pages_come_back_in_order_and_those_over_the_limits_are_dropped() -> None:
    costly = page("<p>" + "<a href=/x>some link or other</a> " * 150_000, "costly")
    pages = [page(f"<p>{TEXT} {i}</p>", f"p{i}") for i in range(5)]

    async def work() -> tuple[list[Extraction], Extraction]:
        sandbox = Sandbox(2, time_s=10)
        try:
            found = [one async for _, one in extract_all(sandbox, pages, Criteria(), ahead=3)]
            return found, await extract(sandbox, costly, Criteria())
        finally:
            sandbox.close()

    found, dropped = asyncio.run(work())
    assert [made.id for made in found] == [stored.id for stored in pages]
    assert all(made.article for made in found)
    assert dropped.article is None
    assert dropped.reason.startswith("too much ")


def test_a_page_that_breaks_a_parser_is_dropped() -> None:
    broken = FetchedPage(page("").entry, "press.example", NOW, b"x", "no such encoding")

    async def work() -> Extraction:
        sandbox = Sandbox()
        try:
            return await extract(sandbox, broken, Criteria())
        finally:
            sandbox.close()

    assert asyncio.run(work()).reason == "unreadable (LookupError)"
