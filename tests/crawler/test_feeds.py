"""Feeds as they come: good, odd, broken, hostile."""

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler import feeds
from crawler.feeds import Entry
from pressft.errors import DataError

BASE = "https://press.example/feeds/rss"
RSS = """<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom"><channel><title>Press</title>
<atom:link rel="next" href="?page=2"/>
<item><title>Grüße &lt;b&gt;from&lt;/b&gt; here &amp; &lt;script&gt;x()&lt;/script&gt;there</title>
<link>/news/1?lang=en#top</link><guid isPermaLink="false">T1</guid>
<pubDate>Wed, 29 Oct 2025 06:00:00 +0100</pubDate>
<category>cars</category><category>cars</category><category> new  ones </category>
<description>&lt;p&gt;Whole &lt;em&gt;text&lt;/em&gt;&lt;/p&gt;</description></item>
</channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>t</title>
<link rel="next" href="https://press.example/atom?page=2"/>
<entry><title type="html">A &amp;amp; B</title><id>urn:1</id><link href="https://press.example/a"/>
<updated>2024-02-29T12:00:00Z</updated><category term="x"/><summary>s</summary>
<content type="html">longer &lt;p&gt;</content></entry></feed>"""


def test_an_rss_entry() -> None:
    feed = feeds.parse(RSS.encode(), BASE)
    assert feed.next_url == f"{BASE}?page=2"
    assert feed.entries == (
        Entry(
            url="https://press.example/news/1?lang=en",
            title="Grüße from here & there",
            published=datetime(2025, 10, 29, 5, tzinfo=UTC),
            tags=("cars", "new ones"),
            summary_html="<p>Whole <em>text</em></p>",
            guid="T1",
        ),
    )


def test_an_atom_entry() -> None:
    feed = feeds.parse(ATOM.encode(), BASE)
    assert feed.next_url == "https://press.example/atom?page=2"
    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    entry = Entry("https://press.example/a", "A & B", moment, ("x",), "longer <p>", "urn:1")
    assert feed.entries == (entry,)


@pytest.mark.parametrize(
    "body",
    [
        RSS.encode().replace("ü".encode(), b"\xff"),
        RSS.replace("UTF-8", "ISO-8859-1").encode("latin-1"),
        RSS.replace("UTF-8", "UTF-16").encode("utf-16"),
        b"\xef\xbb\xbf" + RSS.encode(),
        RSS.encode() + b"<trailing",
        RSS.replace("<pubDate>", "<pubDate>not a date ").encode(),
        RSS.replace("Grüße", "Gr\x00üße").encode(),
    ],
)
def test_an_odd_feed_keeps_its_entry(body: bytes) -> None:
    (entry,) = feeds.parse(body, BASE).entries
    assert entry.url == "https://press.example/news/1?lang=en"
    assert entry.title.endswith("from here & there")
    assert entry.title.startswith(("Grüße", "Gr\N{REPLACEMENT CHARACTER}"))


RSS_091 = """<rss version="0.91"><channel><title>t</title><item><title>A &amp; B</title>
<link>https://press.example/a</link></item></channel></rss>"""
RSS_092 = RSS_091.replace("0.91", "0.92")
RDF = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
xmlns="http://purl.org/rss/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<channel rdf:about="https://press.example/"><title>t</title></channel>
<item rdf:about="https://press.example/a"><title>A &amp; B</title>
<link>https://press.example/a</link><dc:date>2024-02-29T12:00:00Z</dc:date></item></rdf:RDF>"""
RSS_090 = RDF.replace("http://purl.org/rss/1.0/", "http://my.netscape.com/rdf/simple/0.9/")
ATOM_03 = """<feed version="0.3" xmlns="http://purl.org/atom/ns#"><title>t</title><entry>
<title>A &amp; B</title><link rel="alternate" href="https://press.example/a"/>
<issued>2024-02-29T12:00:00Z</issued></entry></feed>"""
JSON_FEED = """{"version": "https://jsonfeed.org/version/1.1", "title": "t", "items": [{"id": 1,
"url": "/a", "title": "A &amp; B", "date_published": "2024-02-29T13:00:00+01:00",
"content_text": "x < y\\n\\nz", "tags": ["x", "x"]}], "next_url": "?page=2"}"""


@pytest.mark.parametrize("text", [RSS_090, RSS_091, RSS_092, RDF, ATOM_03, JSON_FEED])
def test_every_kind_of_feed(text: str) -> None:
    (entry,) = feeds.parse(text.encode(), BASE).entries
    assert (entry.url, entry.title) == ("https://press.example/a", "A & B")
    assert entry.published in (None, datetime(2024, 2, 29, 12, tzinfo=UTC))
    assert (entry.published is None) == (text in (RSS_091, RSS_092))


def test_an_address_has_no_half_of_a_surrogate_pair() -> None:
    text = JSON_FEED.replace('"url": "/a"', r'"url": "/\ud800a"')
    assert feeds.parse(text.encode(), BASE).entries[0].url == "https://press.example/a"


def test_a_feed_that_breaks_its_parser_cannot_be_used() -> None:
    text = RSS.replace("/news/1", "/news/&#xD800;1")  # a UnicodeEncodeError in feedparser
    with pytest.raises(DataError, match="UnicodeEncodeError"):
        feeds.parse(text.encode(), BASE)


def test_a_json_feed_has_text_tags_and_a_next_page() -> None:
    feed = feeds.parse(JSON_FEED.encode(), BASE)
    assert feed.next_url == f"{BASE}?page=2"
    assert feed.entries[0].tags == ("x",)
    assert feed.entries[0].summary_html == "<p>x &lt; y</p><p>z</p>"


SAMPLES = {
    "utf-16": "Grüße 東京",
    "utf-16-le": "Grüße 東京",
    "utf-32": "Grüße 東京",
    "iso-8859-1": "Grüße",
    "iso-8859-15": "Grüße zu 5 €",
    "windows-1251": "Привет",
    "koi8-r": "Привет",
    "shift_jis": "東京",
    "iso-2022-jp": "東京",
    "euc-kr": "서울",
    "gb18030": "北京",
    "big5": "台北",
}


@pytest.mark.parametrize("declared", ["in the XML", "in the header"])
@pytest.mark.parametrize("encoding", SAMPLES)
def test_any_encoding(encoding: str, declared: str) -> None:
    title = SAMPLES[encoding]
    name = encoding.removesuffix("-le")
    in_xml = f'<?xml version="1.0" encoding="{name}"?>' if declared == "in the XML" else ""
    header = f"text/xml; charset={name}" if declared == "in the header" else "text/xml"
    text = (
        f"{in_xml}<rss><channel><item><title>{title}</title><link>/a</link></item></channel></rss>"
    )
    (entry,) = feeds.parse(text.encode(encoding), BASE, header).entries
    assert entry.title == title


@pytest.mark.parametrize(
    ("body", "title"),
    [  # what is UTF-8 is so whatever it declares; bad bytes are few or all
        (b'<?xml version="1.0" encoding="iso-8859-1"?>' + b"@" + "é".encode(), "é"),
        (b"@" + "é".encode() * 9 + b"\xe9", "é" * 9 + "\N{REPLACEMENT CHARACTER}"),
        (b"@\xe9\xe8\xfc", "éèü"),
    ],
)
def test_encodings_that_lie(body: bytes, title: str) -> None:
    start, _, text = body.partition(b"@")
    item = b"<rss><channel><item><link>/a</link><title>%s</title></item></channel></rss>" % text
    assert feeds.parse(start + item, BASE).entries[0].title == title


@pytest.mark.parametrize(
    ("url", "numbered"),
    [
        ("https://x.example/feed", "https://x.example/feed?page=2"),
        ("https://x.example/feed?lang=en", "https://x.example/feed?lang=en&page=2"),
        ("https://x.example/feed?page=2", "https://x.example/feed?page=3"),
        ("https://x.example/feed?paged=9", "https://x.example/feed?paged=10"),
    ],
)
def test_pages_counted_in_the_address(url: str, numbered: str) -> None:
    assert feeds.parse(RSS_091.encode(), url).numbered_url == numbered
    wordpress = "<generator>https://wordpress.org/?v=6</generator><item>"
    feed = feeds.parse(RSS_091.replace("<item>", wordpress).encode(), "https://x.example/feed")
    assert feed.numbered_url == "https://x.example/feed?paged=2"


SITEMAP = """<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"
xmlns:news="http://www.google.com/schemas/sitemap-news/0.9"
xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
<url><loc> https://press.example/a </loc><lastmod>2024-03-01</lastmod>
<image:image><image:title>A picture</image:title></image:image>
<news:news><news:publication_date>2024-02-29T12:00Z</news:publication_date>
<news:title>A &amp; B</news:title><news:keywords>x, y</news:keywords></news:news></url>
<url><loc>/old</loc><lastmod>2020-01-01</lastmod></url><url><loc>javascript:x</loc></url></urlset>"""


@pytest.mark.parametrize("pack", [lambda body: body, gzip.compress])
def test_a_sitemap(pack: Callable[[bytes], bytes]) -> None:
    new, old = feeds.parse(pack(SITEMAP.encode()), BASE).entries
    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert new == Entry("https://press.example/a", "A & B", moment, ("x", "y"), "", "")
    assert old == Entry("https://press.example/old", "", None, (), "", "")
    recent = feeds.parse(pack(SITEMAP.encode()), BASE, since=date(2024, 1, 1)).entries
    assert recent == (new,)


def test_an_index_of_sitemaps() -> None:
    text = "<sitemapindex><sitemap><loc>/s1.xml.gz</loc></sitemap><sitemap/></sitemapindex>"
    feed = feeds.parse(text.encode(), BASE)
    assert (feed.entries, feed.feeds) == ((), ("https://press.example/s1.xml.gz",))


def test_a_home_page_names_its_feeds() -> None:
    page = """<!doctype html><html><head><base href="/news/"><title>x</title>
    <link rel="stylesheet" href="a.css"><link rel="alternate" hreflang="de" href="/de/">
    <link rel="Alternate" type="application/rss+xml" href="feed.xml" title="News">
    <link rel=alternate type="application/atom+xml" href="/atom">
    <link rel=alternate type="application/rss+xml" href="/comments/feed/" title="Comments">
    <link rel=alternate type="application/feed+json" href="https://x.example/feed.json">
    <link rel=alternate type="application/rss+xml" href="javascript:x"></head></html>"""
    assert feeds.parse(page.encode(), BASE).feeds == (
        "https://press.example/news/feed.xml",
        "https://press.example/atom",
        "https://x.example/feed.json",
    )


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"<html><body>No</body></html>", b'{"a": 1}', b"/etc/passwd", b"\x89PNG\r\n\x1a\n"],
)
def test_what_is_no_feed_is_refused(body: bytes) -> None:
    with pytest.raises(DataError, match="is no RSS or Atom feed"):
        feeds.parse(body, BASE)


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("/a", "https://press.example/a"),
        (" //other.example/b ", "https://other.example/b"),
        ("http://press.example/a#b", "http://press.example/a"),
        ("javascript:alert(1)", None),
        ("file:///etc/passwd", None),
        ("data:text/html,x", None),
        ("http://[::1", None),
        ("http://press.example:port/", None),
        ("https://", "https://press.example/feeds/rss"),
    ],
)
def test_only_web_addresses_are_followed(link: str, url: str | None) -> None:
    assert feeds.web_url(link, BASE) == url


@settings(deadline=None)  # other processes may have the machine
@given(
    st.binary() | st.text().map(lambda t: f"<rss><item><title>{t}</title></item></rss>".encode())
)
def test_any_bytes_are_a_feed_or_refused(body: bytes) -> None:
    try:
        feed = feeds.parse(body, BASE)
    except DataError:
        return
    assert all(entry.url.startswith("http") for entry in feed.entries)


@given(st.text())
def test_plain_text_has_no_controls_and_single_spaces(text: str) -> None:
    plain = feeds.plain(text)
    assert "\x00" not in plain
    assert plain == " ".join(plain.split())
    plain.encode()
