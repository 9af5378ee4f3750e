"""Real crawls, as subprocesses against real servers on loopback."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from loopback import LOOPBACK, ROOT, Answer, Crawl, Site, rss, scrapy

from crawler import arguments
from pressft.corpus import format as corpus
from pressft.corpus.format import Article
from pressft.corpus.invented import Story
from pressft.demo.newsroom import Newsroom

HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = (
    "<html><body><article><h1>News</h1>"
    + "<p>Long enough to be kept, as it has more than ten words.</p>" * 9
).encode()


def articles_in(folder: Path) -> list[Article]:
    shards = corpus.read_manifest(folder)
    return [article for shard in shards for article in corpus.read_shard(folder, shard)]


@pytest.fixture(scope="module")
def crawled(newsroom: Newsroom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "whole"
    arguments = ("-a", f"feed={newsroom.feed_url}", "-a", f"corpus={folder}", *LOOPBACK)
    done = scrapy("crawl", "press", *arguments)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines()[-1] == f"{folder}: 60 articles, 60 new"
    return folder


def test_a_crawl_holds_every_story_as_it_was_written(crawled: Path, stories: list[Story]) -> None:
    found = {article.title: article for article in articles_in(crawled)}
    assert len(found) == len(stories)
    for story in stories:
        article = found[" ".join(story.title.replace("<b>", "").replace("</b>", "").split())]
        assert article.text == "\n\n".join(story.paragraphs)
        assert (article.published, article.tags) == (story.published, story.tags)
        assert (article.language, article.newsroom) == ("en", "127.0.0.1")


def test_a_corpus_holds_shard_manifest_card_database_and_dropped_paragraphs_and_nothing_else(
    crawled: Path,
) -> None:
    names = {path.name for path in crawled.iterdir()}
    beside = {"manifest.json", "README.md", "crawl.db", "dropped.jsonl"}
    assert names == {"articles-00000.parquet", *beside}


def test_a_second_crawl_adds_only_what_is_new(
    crawled: Path, newsroom: Newsroom, crawl: Crawl, site: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "grown"
    shutil.copytree(crawled, folder)
    before = corpus.read(folder)
    assert crawl(newsroom.atom_url, folder).stderr == f"{folder}: 60 articles, 0 new\n"
    assert sorted(path.name for path in folder.glob("*.parquet")) == ["articles-00000.parquet"]
    answers: dict[str, Answer] = {"/new": (200, HTML, PAGE)}
    with site(answers) as url:
        answers["/rss"] = (200, {}, rss(f"{url}/new"))
        assert crawl(f"{url}/rss", folder).stderr == f"{folder}: 61 articles, 1 new\n"
    after = corpus.read(folder)
    assert set(before.articles) < set(after.articles)
    assert set(before.splits.test) <= set(after.splits.test)


def test_a_crawl_that_is_stopped_saves_what_it_has(newsroom: Newsroom, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    command = [sys.executable, "-m", "scrapy", "crawl", "press", "-a", f"feed={newsroom.feed_url}"]
    options = ["-a", f"corpus={folder}", "-s", "DOWNLOAD_DELAY=0.05", *LOOPBACK[2:]]
    process = subprocess.Popen(command + options, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_pages(folder, 20)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert 20 <= len(articles_in(folder)) < 60


def wait_for_pages(folder: Path, n: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.05)
        try:
            with closing(sqlite3.connect(f"file:{folder}/crawl.db?mode=ro", uri=True)) as db:
                query = "SELECT COUNT(*) FROM urls WHERE state = 'fetched'"
                if db.execute(query).fetchone()[0] >= n:
                    return
        except sqlite3.OperationalError:
            continue
    raise AssertionError(f"no {n} pages in {folder} after 30 s")


def test_limit_and_since_choose_among_the_newest(
    newsroom: Newsroom, crawl: Crawl, stories: list[Story], tmp_path: Path
) -> None:
    day = stories[-5].published.date()
    wanted = {story.published for story in stories if story.published.date() >= day}
    crawl(newsroom.feed_url, tmp_path / "since", *LOOPBACK, "-a", f"since={day}")
    assert {article.published for article in articles_in(tmp_path / "since")} == wanted
    crawl(newsroom.feed_url, tmp_path / "limit", *LOOPBACK, "-a", "limit=3")
    newest = {story.published for story in stories[-3:]}
    assert {article.published for article in articles_in(tmp_path / "limit")} == newest


def test_a_dry_run_lists_and_writes_nothing(
    newsroom: Newsroom, crawl: Crawl, stories: list[Story], tmp_path: Path
) -> None:
    options = (*LOOPBACK, "-a", "limit=2", "-a", "dry_run=1")
    done = crawl(newsroom.feed_url, tmp_path / "dry", *options)
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == [
        f"{newsroom.url}/news/{story.slug}" for story in (stories[-1], stories[-2])
    ]
    assert list(tmp_path.iterdir()) == []


ROBOTS: Mapping[str, Answer] = {
    "/robots.txt": (200, {}, b"User-agent: pressft\nDisallow: /forbidden\n")
}
BAD_FEEDS: Mapping[str, tuple[Answer, str]] = {
    "/html": ((200, HTML, b"<!DOCTYPE html><p>Hello <b>you</b></p>"), "begins 'Hello you'"),
    "/nothing": ((200, {}, b""), "is no RSS or Atom feed, it has no text"),
    "/noise": ((200, {}, bytes(range(256)) * 9), "is no RSS or Atom feed"),
    "/no-entries": ((200, {}, rss()), "has no entries"),
    "/no-links": ((200, {}, rss("javascript:alert(1)", "file:///etc/passwd")), "has no entries"),
    "/missing": ((404, {}, b"no"), "could not be fetched (HTTP 404)"),
    "/too-large": ((200, {}, b" " * 6_000_000), "could not be fetched (too large)"),
    "/elsewhere": (
        (302, {"Location": "file:///etc/passwd"}, b""),
        "could not be fetched (HTTP 302)",
    ),
    "/forbidden": ((200, {}, rss("/page")), "could not be fetched (robots.txt)"),
}
PAGES: Mapping[str, Answer] = {
    "/feed": (200, {}, rss("/empty", "/picture", "/missing", "/forbidden")),
    "/empty": (200, HTML, b"<html><body><nav>Home</nav></body></html>"),
    "/picture": (200, {"Content-Type": "image/png"}, b"\x89PNG\r\n\x1a\n"),
    "/forbidden": (200, HTML, PAGE),
}


def test_bad_feeds_give_one_line_each_and_nothing_is_written(
    crawl: Crawl, site: Site, tmp_path: Path
) -> None:
    answers = {path: answer for path, (answer, _) in BAD_FEEDS.items()}
    with site({**answers, **ROBOTS}) as url:
        feeds = [f"{url}{path}" for path in BAD_FEEDS] + ["http://127.0.0.1:1/closed"]
        done = crawl(",".join(feeds), tmp_path / "deep" / "corpus")
    messages = [message for _, message in BAD_FEEDS.values()] + ["(connection refused)"]
    lines = {line.split()[1]: line for line in done.stderr.splitlines() if "error: " in line}
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    for feed, message in zip(feeds, messages, strict=True):
        assert message in lines.get(feed, ""), (
            done.stderr
        )  # robots.txt is for the last of many, too
    assert list(tmp_path.iterdir()) == []


def test_pages_without_an_article_are_counted_by_reason(
    crawl: Crawl, site: Site, tmp_path: Path
) -> None:
    with site({**PAGES, **ROBOTS}) as url:
        done = crawl(f"{url}/feed", tmp_path / "corpus")
    assert done.returncode == 4
    assert done.stderr == (
        f"error: {url}/feed: no article with text on 4 pages, 1 dropped (no text), "
        "1 dropped (not html), 1 failed (HTTP 404), 1 failed (robots.txt): give another feed\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_one_bad_feed_among_good_ones_is_reported_and_the_rest_kept(
    newsroom: Newsroom, crawl: Crawl, tmp_path: Path
) -> None:
    feeds = f"{newsroom.url}/news/story-1,{newsroom.feed_url}"
    done = crawl(feeds, tmp_path / "c", *LOOPBACK, "-a", "limit=2")
    assert done.returncode == 4
    assert f"error: {newsroom.url}/news/story-1 is no RSS or Atom feed" in done.stderr
    assert len(articles_in(tmp_path / "c")) == 2


def test_a_private_address_is_refused_unless_allowed(
    newsroom: Newsroom, crawl: Crawl, tmp_path: Path
) -> None:
    for url in (newsroom.feed_url, newsroom.feed_url.replace("127.0.0.1", "localhost")):
        done = crawl(url, tmp_path / "c", "-s", "DOWNLOAD_DELAY=0")
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert "127.0.0.1" in done.stderr
        assert "PRESS_ALLOW_PRIVATE=True" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bad_argument_is_exit_2_and_an_unwritable_folder_5(crawl: Crawl, tmp_path: Path) -> None:
    done = crawl("nowhere", tmp_path / "c")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: unknown newsroom 'nowhere': give an http or https URL, or a name, "
        f"{', '.join(arguments.presets())}\n"
    )
    done = crawl("http://127.0.0.1/", Path("/proc/none/c"))
    assert done.returncode == 5
    assert done.stderr.startswith("error: corpus folder /proc/none/c cannot be written")
    assert scrapy("crawl", "other").returncode == 2


def test_a_damaged_corpus_is_reported_before_crawling(
    crawled: Path, newsroom: Newsroom, crawl: Crawl, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(crawled, folder)
    shard = folder / "articles-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    done = crawl(newsroom.feed_url, folder)
    assert done.returncode == 4
    assert str(shard) in done.stderr
