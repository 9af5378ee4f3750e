"""The newsroom says what its stories say, as a browser or feed reader would find it."""

import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree

import pytest
from lxml import html

from pressft.corpus.invented import Story
from pressft.demo.newsroom import serve, split_sentences, stories_from_lines

TEXT = """\
Mr. Smith  paid $3.50 for a U.S. map. "It is old." He left. Then it rained? Yes! At 4 p.m. they met.

No full stop here
One. Two.  Three. Four.
"""
STORIES = [
    Story("A & <b>", ("One < two & three.", 'Say "four".'), datetime(2020, 1, 1, tzinfo=UTC), "a"),
    *(
        Story(f"T{i}", (f"Text {i}.",), datetime(2020, 1, 2, i // 60, i % 60, tzinfo=UTC), f"t{i}")
        for i in range(119)
    ),
]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:
        return bytes(response.read())


def test_joined_paragraphs_are_the_line_again() -> None:
    stories = stories_from_lines(TEXT)
    lines = [" ".join(line.split()) for line in TEXT.splitlines() if line.strip()]
    assert [" ".join(story.paragraphs) for story in stories] == lines
    assert stories[2].paragraphs == ("One. Two. Three.", "Four.")
    assert stories[0].title == "Mr. Smith paid $3.50 for a U.S. map"
    assert stories[1].slug == "0002-no-full-stop-here"
    assert stories == stories_from_lines(TEXT)
    assert len({story.published for story in stories}) == 3


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("Dr. No met J. Bond. He ran.", ["Dr. No met J. Bond.", "He ran."]),
        ('He said "go." She went.', ['He said "go."', "She went."]),
        ("It cost 3.5 dollars. 4 left.", ["It cost 3.5 dollars.", "4 left."]),
        ("what? no capital", ["what? no capital"]),
        ("", [""]),
    ],
)
def test_sentences_by_hand(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_both_feeds_list_every_story_newest_first_over_pages() -> None:
    atom = "{http://www.w3.org/2005/Atom}"
    with serve(STORIES, port=0) as newsroom:
        titles, dates, url, n_pages = [], [], newsroom.feed_url, 0
        while url:
            channel = ElementTree.fromstring(get(url))[0]
            titles += [item.findtext("title") for item in channel.iter("item")]
            dates += [parsedate_to_datetime(e.text or "") for e in channel.iter("pubDate")]
            following = channel.find(f"{atom}link[@rel='next']")
            url = "" if following is None else following.attrib["href"]
            n_pages += 1
        entries = ElementTree.fromstring(get(f"{newsroom.atom_url}?page=3")).findall(f"{atom}entry")
    assert n_pages == 3
    assert titles == [story.title for story in sorted(STORIES, key=lambda s: s.published)][::-1]
    assert dates == sorted((story.published for story in STORIES), reverse=True)
    assert [entry.findtext(f"{atom}title") for entry in entries] == titles[100:]


def test_a_page_shows_its_story_and_what_pages_carry() -> None:
    with serve(STORIES, port=0) as newsroom:
        page = html.document_fromstring(get(f"{newsroom.url}/news/a").decode())
        robots = get(f"{newsroom.url}/robots.txt").decode()
    assert page.findtext(".//article/h1") == STORIES[0].title
    paragraphs = [p.text_content() for p in page.findall(".//article/p")]
    assert tuple(paragraphs[1:]) == STORIES[0].paragraphs
    for path in (".//nav", ".//table", ".//aside", ".//footer", ".//*[@id='cookie-notice']"):
        assert page.find(path) is not None
    assert "@" in page.find(".//aside").text_content()
    assert robots.startswith("User-agent: *")


def test_an_unchanged_page_is_not_sent_again_and_a_missing_one_is_404() -> None:
    with serve(STORIES, port=0) as newsroom:
        url = f"{newsroom.url}/news/a"
        with urllib.request.urlopen(url) as response:
            tag = response.headers["ETag"]
            assert response.headers["Last-Modified"]
        for request in (
            urllib.request.Request(url, headers={"If-None-Match": tag}),
            urllib.request.Request(f"{newsroom.url}/news/none"),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request)
            caught.value.close()
            assert caught.value.code == (304 if request.headers else 404)


def test_two_newsrooms_do_not_get_in_each_others_way() -> None:
    with serve(STORIES[:1]) as one, serve(STORIES[1:2]) as other:
        assert one.url != other.url
        assert b"T0" not in get(one.feed_url)
        assert b"T0" in get(other.feed_url)
