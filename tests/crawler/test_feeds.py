"""Feeds as they come: good, odd, broken, hostile."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
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
