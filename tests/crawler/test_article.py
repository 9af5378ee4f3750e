"""An article from a page: what is kept, what is dropped and why."""

from datetime import UTC, datetime

import pytest

from crawler.extract.article import Criteria, build
from crawler.feeds import Entry
from crawler.items import FetchedPage

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
def test_criteria(criteria: Criteria, reason: str) -> None:
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
