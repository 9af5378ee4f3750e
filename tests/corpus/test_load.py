"""Which corpus a name means: built-in ones and plain text files."""

import bz2
from pathlib import Path

import pytest

from pressft import _assets
from pressft.corpus import wikipedia
from pressft.corpus.load import load_corpus
from pressft.errors import DataError

MARKUP = (
    "{{Infobox|name=X}}\n[[File:a.jpg|thumb|A picture]]\n"
    "'''Brelin''' ({{IPA|x}}; , ''Brelinum'') is a town on the [[River Ilm|Ilm]]<ref>A book, "
    "1990.</ref> with a harbour, two markets, a tram and a fair that is held every second autumn "
    "in the old town hall.\n\n* a list entry\n"
    "The second paragraph of the article says that ferries have been built in the town since the "
    "year 1890, and that most of them still run.\n\n== History ==\n"
    "This paragraph stands below the first heading and is therefore no part of the opening of the "
    "article, however long it may be."
)


def dump(pages: dict[str, str]) -> bytes:
    body = "".join(
        f"<page><title>{title}</title><ns>0</ns><revision>"
        f"<timestamp>2016-04-27T20:04:40Z</timestamp><text>{text.replace('<', '&lt;')}</text>"
        "</revision></page>"
        for title, text in pages.items()
    )
    return bz2.compress(f'<mediawiki xmlns="urn:wiki">{body}</mediawiki>'.encode())


def test_an_opening_is_the_prose_before_the_first_heading() -> None:
    assert wikipedia.opening(MARKUP) == (
        "Brelin is a town on the Ilm with a harbour, two markets, a tram and a fair that is held "
        "every second autumn in the old town hall.\n\nThe second paragraph of the article says "
        "that ferries have been built in the town since the year 1890, and that most of them still "
        "run."
    )
    assert wikipedia.opening("#REDIRECT [[Brelin]]") == ""


def test_wikipedia_is_read_from_the_dump_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESSFT_CACHE", str(tmp_path))
    pages = {f"Town {i}": MARKUP.replace("Brelin", f"Town {i}") for i in range(40)}
    (tmp_path / _assets.WIKIPEDIA.name).write_bytes(dump(pages | {"Away": "#REDIRECT [[Town 1]]"}))
    found = load_corpus("wikipedia")
    assert {article.title for article in found.articles} == set(pages)
    assert len(found.articles) == 40
    assert found.articles[0].url.startswith("https://en.wikipedia.org/wiki/Town_")


def test_a_text_file_is_a_corpus_of_its_paragraphs(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    notes = [f"Note {i}\nabout number {i * i} and the fair of Brelin, no. {i}" for i in range(50)]
    file.write_text("\n\n\n".join([*notes, notes[0], "  "]) + "\n")
    found = load_corpus(str(file))
    assert sorted(article.text for article in found.articles) == sorted(notes)
    assert load_corpus(str(file)).fingerprint == found.fingerprint
    file.write_text("one paragraph\nalone")
    with pytest.raises(DataError, match="1 articles leave none for the"):
        load_corpus(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8 text: byte 0"):
        load_corpus(str(file))
