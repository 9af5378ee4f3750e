"""From pages with noise to a clean corpus and back: crawls of real pages, read again offline."""

import os
import pty
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from loopback import LOOPBACK, ROOT, Answer, Crawl, Site, rss, scrapy
from releases import releases

from pressft.corpus import format as corpus
from pressft.corpus.format import DroppedParagraph
from pressft.corpus.invented import Story
from pressft.demo.newsroom import FIRST_DAY, serve

HTML = {"Content-Type": "text/html; charset=utf-8"}
RELEASES = releases()
BOILERPLATE = "Everyone at the mill wishes its readers a good week and a dry roof over their heads."
GERMAN = (
    "Die Brücke am Hafen ist wieder offen, und die Menschen gehen jeden Morgen über sie zur Arbeit."
)


def stories() -> list[Story]:
    """Every labelled release as a page, with one more paragraph that all of them have."""
    return [
        Story(
            title=release.title,
            paragraphs=(BOILERPLATE, *release.paragraphs),
            published=FIRST_DAY + timedelta(days=number),
            slug=f"release-{number}",
            tags=("works", f"kind {number % 3}"),
        )
        for number, release in enumerate(RELEASES)
    ]


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "releases"
    with serve(stories(), port=0) as newsroom:
        arguments = ("-a", f"feed={newsroom.feed_url}", "-a", f"corpus={folder}", *LOOPBACK)
        done = scrapy("crawl", "press", *arguments)
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.splitlines()[-1] == f"{folder}: {len(RELEASES)} articles, {len(RELEASES)} new"
    )
    return folder


def pressft(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pressft", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_crawled_corpus_holds_the_true_paragraphs_and_no_address(cleaned: Path) -> None:
    found = {article.title: article for article in corpus.read(cleaned).articles}
    for release in RELEASES:
        text = found[release.title].text
        assert set(release.true) <= set(text.split("\n\n")), release.title
        assert not [raw for raw in release.hidden if raw in text], release.title
        assert BOILERPLATE not in text
    assert {article.language for article in found.values()} == {"en", "de"}  # all declare en
    assert sum(article.language == "de" for article in found.values()) >= 10


def test_dropped_shows_reason_article_and_text_and_the_card_sums_them_up(cleaned: Path) -> None:
    left_out = corpus.read_dropped(cleaned)
    ids = {article.id for article in corpus.read(cleaned).articles}
    repeats = [one for one in left_out if one.reason == "repeats over the newsroom"]
    assert {one.text for one in repeats} == {BOILERPLATE}
    assert {one.id for one in repeats} == ids
    lines = pressft("corpus", str(cleaned), "--dropped").stdout.splitlines()
    assert lines == [f"{one.reason}\t{one.id}\t{one.text}" for one in left_out]
    card = (cleaned / "README.md").read_text()
    assert f"| repeats over the newsroom | {len(RELEASES)} |" in card
    for row in (
        f"| tag works | {len(RELEASES)} |",
        "| language de |",
        "| year 2001 |",
        "| contact |",
        "words;",
    ):
        assert row in card


@pytest.mark.whole
def test_reextract_repeats_all_of_it_offline(cleaned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(cleaned, folder)
    before, left_out = corpus.read(folder), corpus.read_dropped(folder)
    (folder / "dropped.jsonl").unlink()
    done = scrapy("crawl", "press", "-a", f"corpus={folder}", "-a", "reextract=1")
    n = len(RELEASES)
    assert done.stderr == f"{folder}: {n} articles from {n} stored pages\n"
    assert done.returncode == 0
    after = corpus.read(folder)
    assert after.fingerprint == before.fingerprint
    assert after.articles == before.articles
    assert corpus.read_dropped(folder) == left_out
    names = {path.name for path in folder.glob("articles-*")}
    assert names == {"articles-00001.parquet"}
    done = scrapy(
        "crawl", "press", "-a", f"corpus={folder}", "-a", "reextract=1", "-a", "language=de"
    )
    n_german = sum(article.language == "de" for article in before.articles)
    losses = f", {n - n_german} dropped (other language)"
    assert done.stderr == f"{folder}: {n_german} articles from {n} stored pages{losses}\n"
    assert {article.language for article in corpus.read(folder).articles} == {"de"}
    scrapy("crawl", "press", "-a", f"corpus={folder}", "-a", "reextract=1")
    assert corpus.read(folder).fingerprint == before.fingerprint  # what was dropped comes back


def test_reextract_needs_pages_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    done = scrapy("crawl", "press", "-a", f"corpus={folder}", "-a", "reextract=1")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "crawl it first" in done.stderr
    assert not folder.exists()
    arguments = ("-a", f"corpus={folder}", "-a", "reextract=1", "-a", "since=2024-01-01")
    done = scrapy("crawl", "press", *arguments)
    assert done.returncode == 2
    assert "leave out since" in done.stderr


def test_short_texts_and_other_languages_are_counted_drops(
    crawl: Crawl, site: Site, tmp_path: Path
) -> None:
    def page(text: str) -> bytes:
        body = f"<article><h1>News</h1><p>{text}</p></article>"
        return f'<html lang="en"><body>{body}</body></html>'.encode()

    answers: dict[str, Answer] = {
        "/de": (200, HTML, page(f"{GERMAN} Das freut die Stadt und alle, die dort wohnen.")),
        "/short": (200, HTML, page("The bridge is open again today.")),
        "/en": (200, HTML, page("The bridge is open again, and people walk to work across it.")),
    }
    with site(answers) as url:
        answers["/rss"] = (200, {}, rss(*(f"{url}/{name}" for name in ("de", "short", "en"))))
        done = crawl(f"{url}/rss", tmp_path / "c", *LOOPBACK, "-a", "language=en")
    end = "1 articles, 1 new, 1 dropped (other language), 1 dropped (too short)\n"
    assert done.stderr == f"{tmp_path / 'c'}: {end}"
    reasons = {one.reason: one.text for one in corpus.read_dropped(tmp_path / "c")}
    assert reasons["too short"] == "The bridge is open again today."


@pytest.mark.whole
def test_a_page_that_costs_too_much_is_a_counted_drop(
    crawl: Crawl, site: Site, tmp_path: Path
) -> None:
    good = b"<html lang=en><body><article><p>" + b"The crawl goes on after all of this. " * 9
    links = b"<a href=/x>some link or other</a> " * 150_000
    answers: dict[str, Answer] = {
        "/links": (200, HTML, b"<html><body><article><p>" + links),
        "/deep": (200, HTML, b"<html><body>" + b"<div><p>x" * 100_000),
        "/good": (200, HTML, good),
    }
    with site(answers) as url:
        answers["/rss"] = (200, {}, rss(*(f"{url}/{name}" for name in ("links", "deep", "good"))))
        done = crawl(f"{url}/rss", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "dropped (" in done.stderr
    assert "The crawl goes on" in corpus.read(tmp_path / "c").articles[-1].text


def test_a_terminal_shows_what_was_found_kept_and_dropped(tmp_path: Path) -> None:
    own, terminal = pty.openpty()
    with serve(stories()[:4], port=0) as newsroom:
        command = [sys.executable, "-m", "scrapy", "crawl", "press", *LOOPBACK]
        arguments = ["-a", f"feed={newsroom.feed_url}", "-a", f"corpus={tmp_path / 'c'}"]
        environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
        process = subprocess.Popen(command + arguments, cwd=ROOT, stderr=terminal, env=environment)
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(own, 4096):
                shown += piece
        except OSError:  # the other end is closed
            pass
        assert process.wait(30) == 0
    os.close(own)
    text = shown.decode()
    for part in ("4 found", "paragraphs: contact", "paragraphs: repeats over the newsroom"):
        assert part in text


def test_a_damaged_file_of_dropped_paragraphs_is_named(cleaned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(cleaned, folder)
    (folder / "dropped.jsonl").write_text('{"id": 1')
    done = pressft("corpus", str(folder), "--dropped")
    assert done.returncode == 4
    assert "dropped.jsonl is damaged" in done.stderr
    assert pressft("corpus", str(tmp_path), "--dropped").returncode == 4


def test_what_was_dropped_comes_back_as_it_went(tmp_path: Path) -> None:
    rows = [
        DroppedParagraph("a", "contact", 'Zoë said "hm".\u2028'),
        DroppedParagraph("b", "x", ""),
    ]
    (tmp_path / "dropped.jsonl").write_text(corpus.dropped_text(rows), encoding="utf-8")
    assert corpus.read_dropped(tmp_path) == rows
