"""What becomes of a page, and of one that no parser survives."""

import asyncio
from datetime import UTC, datetime

import pytest

from crawler.extract.article import Criteria, Extraction, build
from crawler.feeds import Entry
from crawler.items import FetchedPage
from crawler.pipelines import extract, extract_all
from crawler.sandbox import Sandbox

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
TEXT = "The ferry left at noon with nobody on board but the captain and a dog that he had found."


def page(body: str, name: str = "a", head: str = "") -> FetchedPage:
    entry = Entry(f"https://press.example/{name}?from=rss", "A ferry", None, (), "", name)
    html = f"<html lang=en><head>{head}</head><body><article>{body}</article></body></html>"
    return FetchedPage(entry, "press.example", NOW, html.encode(), "utf-8")


def test_what_is_left_out_comes_with_its_reason() -> None:
    made = build(page(f"<h1>A ferry</h1><p>{TEXT}</p><p>Photo: Ferry Ltd</p>"))
    assert made.article is not None
    assert made.article.text == TEXT
    assert [(drop.reason, drop.text) for drop in made.drops][-1] == (
        "media note",
        "Photo: Ferry Ltd",
    )


@pytest.mark.parametrize(
    ("criteria", "reason"),
    [
        (Criteria(), ""),
        (Criteria(min_words=99), "too short"),
        (Criteria(languages=("de", "fr")), "other language"),
        (Criteria(languages=("de", "en")), ""),
    ],
)
def test_demands(criteria: Criteria, reason: str) -> None:
    made = build(page(f"<p>{TEXT}</p>"), criteria)
    assert (made.article is None, made.reason) == (bool(reason), reason)
    assert [drop.text for drop in made.drops if drop.reason == reason] == [TEXT] * bool(reason)


@pytest.mark.parametrize(
    ("canonical", "url"),
    [
        ("https://press.example/a", "https://press.example/a"),
        ("/a?lang=en", "https://press.example/a?lang=en"),
        ("https://press.example/", "https://press.example/a?from=rss"),
        ("https://other.example/a", "https://press.example/a?from=rss"),
        ("javascript:void(0)", "https://press.example/a?from=rss"),
        ("http://[", "https://press.example/a?from=rss"),
    ],
)
def test_a_canonical_address_changes_the_query_at_most(canonical: str, url: str) -> None:
    stored = page(f"<p>{TEXT}</p>", head=f'<link rel="canonical" href="{canonical}">')
    made = build(stored)
    assert made.article is not None
    assert (made.article.url, made.article.id) == (url, stored.id)


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
