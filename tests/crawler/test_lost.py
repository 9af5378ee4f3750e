"""Nothing is lost: crawls killed at any moment, feeds that forget, two crawls at once."""

import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hostile import GOOD, HTML, Host, Pieces, answer, rss, serve, silence, wrapped
from loopback import LOOPBACK, ROOT, Crawl, write_stories
from test_crawl import articles_in

from pressft.corpus import format as corpus
from pressft.corpus.invented import Story
from pressft.demo.newsroom import serve as serve_stories

LONG = "<p>" + "These words are the whole text, which the feed holds as well as its page. " * 12


def crawl_killed_after(seconds: float, feed: str, folder: Path, delay_s: float) -> bool:
    """Whether the crawl was still running when it was killed."""
    command = [sys.executable, "-m", "scrapy", "crawl", "press", "-a", f"feed={feed}"]
    options = ["-a", f"corpus={folder}", *LOOPBACK[2:], "-s", f"DOWNLOAD_DELAY={delay_s}"]
    process = subprocess.Popen(command + options, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def check_kills(stories: Sequence[Story], n_kills: int, delay_s: float, folder: Path) -> None:
    rng = random.Random(0)
    n_killed = 0
    with serve_stories(stories, port=0) as newsroom:
        whole_s = delay_s * len(stories)
        while n_killed < n_kills:
            after = rng.uniform(0.3, 2 + 2 * whole_s / n_kills)
            n_killed += crawl_killed_after(after, newsroom.feed_url, folder, delay_s)
        end = time.monotonic() + 60
        while crawl_killed_after(30, newsroom.feed_url, folder, 0) and time.monotonic() < end:
            pass
    found = articles_in(folder)
    assert len(found) == len({article.id for article in found}) == len(stories)
    assert Counter(a.published for a in found) == Counter(s.published for s in stories)
    corpus.read(folder)  # checks every shard against the manifest


def test_a_crawl_killed_thrice_holds_each_article_once(tmp_path: Path) -> None:
    check_kills(write_stories(60), 3, 0.03, tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_crawl_of_300_articles_killed_20_times_holds_each_once(tmp_path: Path) -> None:
    check_kills(write_stories(300), 20, 0.1, tmp_path / "killed")


def test_a_crawl_stopped_while_it_waits_ends_soon(tmp_path: Path) -> None:
    asked: list[str] = []
    busy = answer(b"", "Retry-After: 200", status="503 Busy")
    with serve({"127.0.0.1": Host({"/feed": busy}, asked)}) as port:
        command = [sys.executable, "-m", "scrapy", "crawl", "press"]
        options = ["-a", f"feed=http://127.0.0.1:{port}/feed", "-a", f"corpus={tmp_path / 'c'}"]
        process = subprocess.Popen(
            command + options + [*LOOPBACK], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while not [path for path in asked if path.endswith("/feed")]:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 143, said
    assert "Traceback" not in said


def test_a_crawl_stopped_twice_ends_at_once_and_saves_what_it_has(tmp_path: Path) -> None:
    asked: list[str] = []
    links = b"".join(b"<item><link>/%d</link></item>" % n for n in range(3))
    answers: dict[str, Pieces] = {
        "/feed": rss(links),
        "/0": answer(GOOD),
        "/1": answer(GOOD),
        "/2": silence,
    }
    with serve({"127.0.0.1": Host(answers, asked)}) as port:
        command = [sys.executable, "-m", "scrapy", "crawl", "press"]
        options = ["-a", f"feed=http://127.0.0.1:{port}/feed", "-a", f"corpus={tmp_path / 'c'}"]
        process = subprocess.Popen(
            command + options + [*LOOPBACK], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while not [path for path in asked if path.endswith("/2")]:
            time.sleep(0.05)
        time.sleep(1)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, said = process.communicate(timeout=15)
    assert process.returncode == 130
    assert said.endswith(f"{tmp_path / 'c'}: 2 articles, 2 new\n")


def test_a_full_disk_ends_a_crawl_with_one_line(tmp_path: Path) -> None:
    with serve_stories(write_stories(60), port=0) as newsroom:
        options = ["-a", f"feed={newsroom.feed_url}", "-a", f"corpus={tmp_path / 'c'}", *LOOPBACK]
        command = shlex.join([sys.executable, "-m", "scrapy", "crawl", "press", *options])
        done = subprocess.run(
            ["bash", "-c", f"ulimit -f 100; exec {command}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert "free space and crawl again" in done.stderr


def test_a_second_crawl_into_the_same_corpus_is_refused(crawl: Crawl, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with serve_stories(write_stories(60), port=0) as newsroom:
        command = [sys.executable, "-m", "scrapy", "crawl", "press"]
        options = ["-a", f"feed={newsroom.feed_url}", "-a", f"corpus={folder}", *LOOPBACK[2:]]
        first = subprocess.Popen(command + options, cwd=ROOT, stderr=subprocess.DEVNULL)
        while not (folder / "crawl.db").exists():
            time.sleep(0.05)
        done = crawl(newsroom.feed_url, folder)
        assert done.returncode == 3
        assert done.stderr == (
            f"error: corpus {folder} is being written by another crawl: "
            "wait for its end or choose another folder\n"
        )
        dry = crawl(newsroom.feed_url, folder, *LOOPBACK, "-a", "dry_run=1")
        assert dry.returncode == 0
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert crawl(newsroom.feed_url, folder, *LOOPBACK, "-a", "limit=1").returncode == 0


@pytest.mark.whole
def test_entries_gone_from_the_feed_are_fetched_all_the_same(crawl: Crawl, tmp_path: Path) -> None:
    answers: dict[str, Pieces] = {
        "/feed": rss(b"<item><link>/a</link></item><item><link>/b</link></item>"),
        "/a": wrapped(LONG.encode()),
        "/b": answer(b"", status="500 Oops"),
    }
    with serve({"127.0.0.1": Host(answers)}) as port:
        feed = f"http://127.0.0.1:{port}/feed"
        crawl(feed, tmp_path / "c", *LOOPBACK, "-s", "RETRY_TIMES=0")
        assert len(articles_in(tmp_path / "c")) == 1
        answers["/feed"] = rss(b"<item><link>/a</link></item>")
        answers["/b"] = answer(GOOD)
        dry = crawl(feed, tmp_path / "c", *LOOPBACK, "-a", "dry_run=1")
        assert [line.split()[1] for line in dry.stdout.splitlines()] == [feed[:-4] + "b"]
        crawl(feed, tmp_path / "c")
    assert {article.url[-1] for article in articles_in(tmp_path / "c")} == {"a", "b"}


def test_an_unchanged_newsroom_is_not_fetched_again(crawl: Crawl, tmp_path: Path) -> None:
    asked: list[str] = []
    heads: list[str] = []
    feed_body = rss(b"<item><link>/a</link></item>").partition(b"\r\n\r\n")[2]
    kind = "Content-Type: application/rss+xml"
    answers: dict[str, Pieces] = {
        "/feed": answer(feed_body, kind, 'ETag: "one"', "Last-Modified: yesterday"),
        "/a": answer(GOOD, HTML, 'ETag: "two"'),
    }
    with serve({"127.0.0.1": Host(answers, asked, heads=heads)}) as port:
        feed = f"http://127.0.0.1:{port}/feed"
        assert crawl(feed, tmp_path / "c").returncode == 0
        answers["/feed"] = answer(b"", 'ETag: "one"', status="304 Not Modified")
        asked.clear()
        heads.clear()
        done = crawl(feed, tmp_path / "c")
        assert done.returncode == 0, done.stderr
    assert not [path for path in asked if path.endswith("/a")]
    (head,) = [head for head in heads if head.startswith("GET /feed ")]
    assert 'If-None-Match: "one"' in head
    assert "If-Modified-Since: yesterday" in head
    assert len(articles_in(tmp_path / "c")) == 1


def test_the_text_in_the_feed_stands_in_for_a_page_that_fails(crawl: Crawl, tmp_path: Path) -> None:
    pages = {
        "/missing": answer(b"", status="404 Not Found"),
        "/broken": answer(b"", status="500 Oops"),
        "/empty": wrapped(b"<div id=app></div><script>render()</script>"),
    }

    def item(path: str, text: str) -> str:
        escaped = text.replace("<", "&lt;")
        return (
            f"<item><title>{path}</title><link>{path}</link>"
            f"<description>{escaped}</description></item>"
        )

    full = "".join(item(path, f"{LONG} It was {path}.") for path in pages)
    teaser = item("/broken?teaser", "Only a few words")
    answers: dict[str, Pieces] = {"/feed": rss(f"{full}{teaser}".encode()), **pages}
    with serve({"127.0.0.1": Host(answers)}) as port:
        crawl(f"http://127.0.0.1:{port}/feed", tmp_path / "c", *LOOPBACK, "-s", "RETRY_TIMES=0")
    found = {article.title: article.text for article in articles_in(tmp_path / "c")}
    assert set(found) == set(pages)
    assert all(f"It was {path}." in text for path, text in found.items())
