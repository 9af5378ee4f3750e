"""Pages of our own writing, each with the article that is expected of it beside it as JSON.

`python tests/crawler/test_recorded.py` records the articles anew, after a change that is meant.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crawler.extract.article import build
from crawler.feeds import Entry
from crawler.items import FetchedPage

PAGES = sorted((Path(__file__).parent / "recorded").glob("*.html"))


def article(page: Path) -> dict[str, object]:
    """What the crawler makes of a page, and what it leaves out, with its reasons."""
    entry = Entry(f"https://press.nordlicht.example/{page.stem}", "", None, (), "", "")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = build(FetchedPage(entry, "press.nordlicht.example", now, page.read_bytes(), "utf-8"))
    assert made.article is not None
    return {
        "title": made.article.title,
        "published": str(made.article.published),
        "language": made.article.language,
        "url": made.article.url,
        "tags": list(made.article.tags),
        "text": made.article.text.split("\n\n"),
        "dropped": [[drop.reason, drop.text] for drop in made.drops],
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_recorded_page_gives_the_article_that_was_recorded(page: Path) -> None:
    assert article(page) == json.loads(page.with_suffix(".json").read_text())


if __name__ == "__main__":
    for found in PAGES:
        text = json.dumps(article(found), indent=1, ensure_ascii=False)
        found.with_suffix(".json").write_text(f"{text}\n")
