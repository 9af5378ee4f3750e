"""Text, title, date, language and tags of one HTML page: a pure function.

trafilatura finds the article; tables of data and a preset's noise are removed first. Left to
others: which of feed and page to believe (`article`), what to keep of the paragraphs (`clean`),
limits of time and memory (`pipelines`).
"""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import trafilatura
from lxml import etree, html
from lxml.cssselect import CSSSelector

from crawler.arguments import Preset
from crawler.extract.clean import normalise
from crawler.feeds import iso_moment, web_url

_HEADING = re.compile(r"h[1-6]")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_DATES = (
    "//meta[@property='article:published_time']/@content",
    "//meta[@name='date' or @name='dc.date' or @name='DC.date.issued']/@content",
    "//meta[@itemprop='datePublished']/@content",
    "//*[@itemprop='datePublished']/@datetime",
    "//article//time/@datetime",
    "//main//time/@datetime",
    "//h1/following::time[1]/@datetime",
    "//time[@pubdate or contains(@class, 'publish') or contains(@class, 'date')]/@datetime",
)
_JSON_DATE = re.compile(r'"datePublished"\s*:\s*"([^"]{8,40})"')
_TAGS = "//meta[@property='article:tag']/@content | //a[@rel='tag']"
_CANONICAL = "//link[@rel='canonical']/@href | //meta[@property='og:url']/@content"
MAX_CELLS, LAYOUT_WORDS = 200, 30  # a table with more cells, or no cell of so many words, is data
SHORT = 400  # characters of text that may be all there is, or a teaser beside the article
_TITLES = (
    "//article//h1",
    "//main//h1",
    "//meta[@property='og:title']/@content",
    "//h1",
    "//title",
)


@dataclass(frozen=True, slots=True)
class Page:
    """What a page declares; `published` is aware UTC, absent values are None, "" or ()."""

    paragraphs: tuple[str, ...]
    title: str
    published: datetime | None
    language: str
    tags: tuple[str, ...]
    canonical: str = ""


def extract(source: str, url: str, preset: Preset | None = None) -> Page:
    """The article on a page, in the page's order; no paragraphs where there is no article.

    `canonical` is the absolute address that the page gives itself.
    """
    preset = preset or Preset()
    tree = _parse(source)
    if tree is None:
        return Page((), "", None, "", ())
    select = preset.select
    found = _matches(tree, select.tags) if select.tags else tree.xpath(_TAGS)
    tags = [normalise(_text(element)) for element in found]
    title, published, language = _title(tree, preset), _published(tree, preset), _language(tree)
    canonical = _canonical(tree, url)
    for element in _matches(tree, select.noise):
        _drop(element)
    _flatten_tables(tree)
    _drop_blocks(tree, preset.noise_headings)
    return Page(
        paragraphs=_paragraphs(_focus(tree, select.text), url),
        title=title,
        published=published,
        language=language,
        tags=tuple(dict.fromkeys(tag for tag in tags if tag)),
        canonical=canonical,
    )


def _parse(source: str) -> html.HtmlElement | None:
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    data = source.replace("\x00", "").encode("utf-8", "replace")
    try:
        return html.document_fromstring(data, parser=parser)
    except etree.LxmlError:  # an empty page
        return None


def _flatten_tables(tree: html.HtmlElement) -> None:
    """Drop tables of data, which cost trafilatura minutes, and unfold those that lay out text."""
    for table in reversed(list(tree.iter("table"))):
        cells = list(table.iter("td", "th"))
        sizes = (len(_text(cell).split()) for cell in cells)
        if len(cells) <= MAX_CELLS and any(size >= LAYOUT_WORDS for size in sizes):
            for element in table.iter("table", "tbody", "thead", "tfoot", "tr", "td", "th"):
                element.tag = "div"
        else:
            _drop(table)


def _paragraphs(tree: html.HtmlElement, url: str) -> tuple[str, ...]:
    text = _main_text(copy.deepcopy(tree), url, precise=True)
    if len(text) < SHORT:  # perhaps it was too strict: believe a much longer one
        longer = _main_text(tree, url, precise=False)
        text = longer if len(longer) >= 3 * len(text) else text
    return tuple(line for line in text.splitlines() if line.strip())


def _main_text(tree: html.HtmlElement, url: str, *, precise: bool) -> str:
    found = trafilatura.extract(
        tree,
        url=url,
        favor_precision=precise,
        include_comments=False,
        include_tables=False,
        deduplicate=False,
    )
    return found or ""


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
    declared = [str(found) for path in _DATES for found in tree.xpath(path)]
    scripts = tree.xpath("//script[@type='application/ld+json']/text()")
    declared += [match[1] for script in scripts for match in _JSON_DATE.finditer(script)]
    return next(filter(None, map(iso_moment, declared)), None)


def _language(tree: html.HtmlElement) -> str:
    """The declared language without region, lower case, "" if none is declared."""
    declared = [*tree.xpath("/html/@lang"), *tree.xpath("//meta[@property='og:locale']/@content")]
    found = (_LANGUAGE.match(str(value).strip().lower()) for value in declared)
    return next((match[0] for match in found if match), "")


def _canonical(tree: html.HtmlElement, url: str) -> str:
    """The address that the page gives itself, "" for none or one of no use."""
    found = (web_url(str(named), url) for named in tree.xpath(_CANONICAL))
    return next(filter(None, found), "")


def _matches(tree: html.HtmlElement, selector: str) -> list[html.HtmlElement]:
    return CSSSelector(selector, translator="html")(tree) if selector else []


def _text(found: html.HtmlElement | str) -> str:
    return found if isinstance(found, str) else " ".join(found.itertext())
