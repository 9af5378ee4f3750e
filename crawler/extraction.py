"""Text, title, date, language and tags out of one HTML page: a pure function.

trafilatura finds the article; tables and a preset's noise go before it looks. Left to others:
which of feed and page to believe (`articles`), what to keep of the paragraphs (`cleaning`).
"""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import trafilatura
from lxml import etree, html
from lxml.cssselect import CSSSelector

from crawler.cleaning import normalise
from crawler.plan import Preset

_HEADING = re.compile(r"h[1-6]")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_DATES = (
    "//meta[@property='article:published_time']/@content",
    "//meta[@name='date' or @name='dc.date' or @name='DC.date.issued']/@content",
    "//meta[@itemprop='datePublished']/@content",
    "//*[@itemprop='datePublished']/@datetime",
    "//article//time/@datetime",
)
_TITLES = (
    "//article//h1",
    "//main//h1",
    "//meta[@property='og:title']/@content",
    "//h1",
    "//title",
)


@dataclass(frozen=True, slots=True)
class Page:
    """What a page itself says; `published` is aware UTC, absent values are None, "" or ()."""

    paragraphs: tuple[str, ...]
    title: str
    published: datetime | None
    language: str
    tags: tuple[str, ...]


def extract(source: str, url: str, preset: Preset | None = None) -> Page:
    """The article on a page, in the order of the page; no paragraphs where there is none."""
    preset = preset or Preset()
    tree = _parse(source)
    if tree is None:
        return Page((), "", None, "", ())
    select = preset.select
    tags = (normalise(_text(element)) for element in _matches(tree, select.tags))
    title, published, language = _title(tree, preset), _published(tree, preset), _language(tree)
    for element in [*tree.iter("table"), *_matches(tree, select.noise)]:
        _drop(element)
    _drop_blocks(tree, preset.noise_headings)
    return Page(
        paragraphs=_paragraphs(_focus(tree, select.text), url),
        title=title,
        published=published,
        language=language,
        tags=tuple(dict.fromkeys(tag for tag in tags if tag)),
    )


def _parse(source: str) -> html.HtmlElement | None:
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    data = source.replace("\x00", "").encode("utf-8", "replace")
    try:
        return html.document_fromstring(data, parser=parser)
    except etree.LxmlError:  # an empty page
        return None


def _paragraphs(tree: html.HtmlElement, url: str) -> tuple[str, ...]:
    text = trafilatura.extract(
        tree,
        url=url,
        favor_precision=True,
        include_comments=False,
        include_tables=False,
        deduplicate=False,
    )
    return tuple(line for line in (text or "").splitlines() if line.strip())


def _focus(tree: html.HtmlElement, selector: str) -> html.HtmlElement:
    """A page of the selected elements alone, the whole page where nothing is selected."""
    parts = _matches(tree, selector)
    if not parts:
        return tree
    page = html.document_fromstring("<html><body><article></article></body></html>")
    page.find(".//article").extend([copy.deepcopy(part) for part in parts])
    return page


def _drop_blocks(tree: html.HtmlElement, titles: Iterable[str]) -> None:
    """Remove each heading of these titles with what follows it, up to the next heading."""
    wanted = set(titles)
    headings = [e for e in tree.iter() if isinstance(e.tag, str) and _HEADING.fullmatch(e.tag)]
    for heading in headings if wanted else ():
        if normalise(_text(heading)) not in wanted:
            continue
        top = heading
        while top.getnext() is None and top.getparent() is not None and _wraps(top.getparent()):
            top = top.getparent()  # a heading wrapped in a bar of its own
        for element in [top, *top.itersiblings()]:
            if element is not top and _HEADING.fullmatch(str(element.tag)):
                break
            _drop(element)


def _wraps(element: html.HtmlElement) -> bool:
    """Whether an element is no more than a frame around its only child."""
    return len(element) == 1 and element.tag not in ("body", "main", "article")


def _drop(element: html.HtmlElement) -> None:
    if element.getparent() is not None:
        element.drop_tree()


def _title(tree: html.HtmlElement, preset: Preset) -> str:
    chosen = [_text(element) for element in _matches(tree, preset.select.title)]
    general = [_text(found) for path in _TITLES for found in tree.xpath(path)]
    return next((title for title in map(normalise, chosen + general) if title), "")


def _published(tree: html.HtmlElement, preset: Preset) -> datetime | None:
    for element in _matches(tree, preset.select.date):
        try:
            moment = datetime.strptime(normalise(_text(element)), preset.select.date_format)
            return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except ValueError:
            continue
    for value in (str(found) for path in _DATES for found in tree.xpath(path)):
        try:
            moment = datetime.fromisoformat(value.strip())
            return moment.replace(tzinfo=moment.tzinfo or UTC, microsecond=0).astimezone(UTC)
        except (ValueError, OverflowError):
            continue
    return None


def _language(tree: html.HtmlElement) -> str:
    """The declared language without region, lower case, "" if none is declared."""
    declared = [*tree.xpath("/html/@lang"), *tree.xpath("//meta[@property='og:locale']/@content")]
    found = (_LANGUAGE.match(str(value).strip().lower()) for value in declared)
    return next((match[0] for match in found if match), "")


def _matches(tree: html.HtmlElement, selector: str) -> list[html.HtmlElement]:
    return CSSSelector(selector, translator="html")(tree) if selector else []


def _text(found: html.HtmlElement | str) -> str:
    return found if isinstance(found, str) else " ".join(found.itertext())
