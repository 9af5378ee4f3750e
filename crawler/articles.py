"""An article out of a stored page: where feed and page meet; a pure function.

The feed is believed first for title and date, the page for language, both for tags; the text is
the page's. Left to others: near-duplicate groups (`exporter`).
"""

from dataclasses import dataclass

from crawler.cleaning import clean
from crawler.extraction import extract
from crawler.plan import preset_of
from crawler.store import StoredPage
from pressft.corpus import Article, text_sha256

MIN_WORDS = 5  # fewer are a menu or a notice, not an article


@dataclass(frozen=True, slots=True)
class Dropped:
    """A page that gives no article, and why."""

    reason: str


def build(stored: StoredPage) -> Article | Dropped:
    """The article on a page, without a group as yet."""
    entry = stored.entry
    page = extract(stored.html, entry.url, preset_of(stored.newsroom))
    text = clean(page.paragraphs, (entry.title, page.title)).text
    if len(text.split()) < MIN_WORDS:
        return Dropped("no text")
    return Article(
        id=stored.id,
        url=entry.url,
        title=entry.title or page.title,
        text=text,
        published=entry.published or page.published,
        language=page.language,
        newsroom=stored.newsroom,
        tags=tuple(dict.fromkeys((*entry.tags, *page.tags))),
        group="",
        fetched=stored.fetched,
        sha256=text_sha256(text),
    )
