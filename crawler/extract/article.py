"""An article from a fetched page and the feed entry that led to it; a pure function.

Title and date are the feed's where it has them, the language is the page's, tags are of both; the
text is the page's. Left to others: what repeats over the newsroom (`repeats`), near duplicates
(`export`), doing this in a process with limits (`pipelines`).
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from crawler.arguments import preset_of
from crawler.extract.clean import EMPTY, Drop, clean
from crawler.extract.language import language_of
from crawler.extract.page import extract
from crawler.items import FetchedPage
from pressft.corpus.format import Article, text_sha256

NO_TEXT, TOO_SHORT, OTHER_LANGUAGE = "no text", "too short", "other language"
MIN_WORDS = 5  # fewer are a menu or a notice, not an article, whatever the criteria


@dataclass(frozen=True, slots=True)
class Criteria:
    """What an article must have: so many words, and one of these languages; () is any."""

    min_words: int = MIN_WORDS
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was extracted from the page `id`: an article without a group as yet, or None and why.

    `drops` are the paragraphs left out; where there is no article, all that have text.
    """

    id: str
    article: Article | None
    reason: str = ""
    drops: tuple[Drop, ...] = ()


def build(stored: FetchedPage, criteria: Criteria | None = None) -> Extraction:
    """The article on a page, if it meets the criteria."""
    entry, criteria = stored.entry, criteria or Criteria()
    page = extract(stored.html, entry.url, preset_of(stored.newsroom))
    cleaned = clean(page.paragraphs, (entry.title, page.title))
    drops = tuple(drop for drop in cleaned.drops if drop.reason != EMPTY)
    text = cleaned.text
    language = language_of(text, page.language)
    if reason := _refusal(text, language, criteria):
        rest = tuple(Drop(reason, paragraph) for paragraph in cleaned.paragraphs)
        return Extraction(stored.id, None, reason, drops + rest)
    article = Article(
        id=stored.id,
        url=_address(entry.url, page.canonical),
        title=entry.title or page.title,
        text=text,
        published=entry.published or page.published,
        language=language,
        newsroom=stored.newsroom,
        tags=tuple(dict.fromkeys((*entry.tags, *page.tags))),
        group="",
        fetched=stored.fetched,
        sha256=text_sha256(text),
    )
    return Extraction(stored.id, article, drops=drops)


def _refusal(text: str, language: str, criteria: Criteria) -> str:
    n_words = len(text.split())
    if n_words < MIN_WORDS:
        return NO_TEXT
    if n_words < criteria.min_words:
        return TOO_SHORT
    if criteria.languages and language not in criteria.languages:
        return OTHER_LANGUAGE
    return ""


def _address(url: str, canonical: str) -> str:
    """The canonical address if it differs in the query alone: many name another page."""
    found, named = urlsplit(url), urlsplit(canonical)
    same = (found.hostname, found.path) == (named.hostname, named.path)
    return canonical if same else url
