"""Pages of our own writing, with the structure that newsrooms use."""

from datetime import UTC, datetime

import pytest

from crawler.arguments import Preset, Selectors, preset_of
from crawler.extract.page import extract

TEXT = [
    "The first paragraph tells what happened at the harbour, and it is long enough to be believed.",
    "The second one gives figures: 42 ships, 7 of them blue, and 3.5 million tons of grain & rye.",
    "The third closes the matter with a <quotation> that nobody has ever said in this form before.",
]
URL = "https://press.example/news/1"


def page(body: str, head: str = "") -> str:
    return f'<!DOCTYPE html><html lang="en-GB"><head>{head}</head><body>{body}</body></html>'


def paragraphs(texts: list[str] = TEXT) -> str:
    return "".join(f"<p>{t.replace('&', '&amp;').replace('<', '&lt;')}</p>" for t in texts)


def test_an_article_among_what_pages_carry() -> None:
    found = extract(
        page(
            "<nav><ul><li><a href=/>Home</a></li></ul></nav><main><article><h1>Big  news</h1>"
            f"{paragraphs()}<table><tr><td>1</td><td>a cell with words</td></tr></table></article>"
            "<aside><p>Press Contact: desk@press.example, +49 89 1234</p></aside></main>"
            "<footer><p>All rights reserved by everybody.</p></footer>",
            '<meta property="article:published_time" content="2024-02-29T13:00:00+01:00">',
        ),
        URL,
    )
    assert [p for p in found.paragraphs if p != "Big news"] == TEXT
    assert (found.title, found.language) == ("Big news", "en")
    assert found.published == datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_a_preset_is_data_for_title_date_tags_text_and_noise() -> None:
    # written by us after the shape of BMW PressClub's pages
    found = extract(
        page(
            "<h1>A car</h1><h2 class=teaser>Teaser</h2>"
            "<span class=date>Wed Oct 29 06:00:00 UTC 2025</span>"
            f"<div id=article-text>{paragraphs()}"
            "<div class='text co2_summary'><p>CO2: 1 g.</p></div></div>"
            "<div><h3>Press Contact.</h3><p>Jane Doe, jane@press.example</p></div>"
            "<div class=tagging-info><a class=tag>Cars</a> <a class=tag>Cars</a></div>"
        ),
        URL,
        preset_of("bmw"),
    )
    assert list(found.paragraphs) == TEXT
    assert (found.title, found.tags) == ("A car", ("Cars",))
    assert found.published == datetime(2025, 10, 29, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    "block",
    [
        "<h3>Author.</h3><p>Jane Doe wrote all of this on a Sunday.</p>",
        "<div><h3>Author.</h3></div><p>Jane Doe wrote all of this on a Sunday.</p>",
        "<section><div><h3> Author. </h3></div><p>Jane Doe wrote all of this.</p></section>",
    ],
)
def test_a_noise_heading_takes_its_block_and_no_more(block: str) -> None:
    preset = Preset(noise_headings=("Author.",), select=Selectors())
    body = f"<h1>T</h1>{paragraphs(TEXT[:2])}{block}<h3>More</h3>{paragraphs(TEXT[2:])}"
    found = extract(page(f"<article>{body}</article>"), URL, preset)
    assert not any("Jane" in p or "Author" in p for p in found.paragraphs)
    assert set(TEXT) <= set(found.paragraphs)


@pytest.mark.parametrize(
    "source", ["", " ", "\x00", "<html></html>", "<!-- x -->", "no markup", "<"]
)
def test_a_page_without_an_article_has_little(source: str) -> None:
    assert len("".join(extract(source, URL).paragraphs)) <= len(source)


def test_a_giant_table_costs_little_and_leaves_nothing() -> None:
    rows = "<tr><td>cell</td><td>1</td></tr>" * 10_000
    found = extract(page(f"<article>{paragraphs()}<table>{rows}</table></article>"), URL)
    assert list(found.paragraphs) == TEXT


@pytest.mark.parametrize(
    ("head", "moment"),
    [
        ('<meta name="date" content="2024-01-02">', datetime(2024, 1, 2, tzinfo=UTC)),
        (
            '<meta itemprop="datePublished" content="2024-01-02T03:04:05.678Z">',
            datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        ),
        ('<meta name="date" content="soon">', None),
        ("", None),
    ],
)
def test_declared_dates(head: str, moment: datetime | None) -> None:
    assert extract(page(paragraphs(), head), URL).published == moment
