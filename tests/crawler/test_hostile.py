"""Hostile inputs: each ends in a counted drop or a clear line, and the crawl goes on."""

import re
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from hostile import FEEDS, GOOD, KEPT, PAGES, ROBOTS, Host, Pieces, answer, rss, serve
from loopback import scrapy

OPTIONS = (
    *("-s", "PRESS_ALLOW_PRIVATE=True", "-s", "DOWNLOAD_DELAY=0", "-s", "DOWNLOAD_TIMEOUT=4"),
    *("-s", "RETRY_TIMES=0", "-s", "CONCURRENT_REQUESTS=100"),
)
LONGEST_S = 60  # for a whole crawl of a hundred hosts; one of them may take 30

Done = subprocess.CompletedProcess[str]


def ends(folder: Path) -> dict[str, str]:
    """What became of every page by its host: "kept", or the reason that was counted."""
    with closing(sqlite3.connect(f"file:{folder}/crawl.db?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT json_extract(entry, '$.url'), state, reason FROM urls")
        return {
            url.split("/")[2].split(":")[0]: KEPT if s == "fetched" else r for url, s, r in rows
        }


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, str]]:
    """One crawl of all bad pages and all bad robots.txt: its end, and that of each case."""
    folder = tmp_path_factory.mktemp("hostile") / "pages"
    answers: dict[str, dict[str, Pieces]] = {
        name: {"/page": said} for name, (said, _) in PAGES.items()
    }
    for name, (said, _) in ROBOTS.items():
        answers[f"robots.txt: {name}"] = {"/page": answer(GOOD), "/robots.txt": said}
    names = {f"127.0.{1 + n // 200}.{1 + n % 200}": name for n, name in enumerate(answers)}
    hosts = {address: Host(answers[name]) for address, name in names.items()}
    hosts["127.0.0.1"] = Host({})
    with serve(hosts) as port:
        links = (b"<item><link>http://%s:%d/page</link></item>" % (a.encode(), port) for a in names)
        hosts["127.0.0.1"].answers = {"/feed": rss(b"".join(links))}
        begun = time.monotonic()
        feed = f"feed=http://127.0.0.1:{port}/feed"
        done = scrapy("crawl", "press", "-a", feed, "-a", f"corpus={folder}", *OPTIONS)
        assert time.monotonic() - begun < LONGEST_S
    return done, {names[host]: end for host, end in ends(folder).items()}


@pytest.mark.parametrize("name", [*PAGES, *(f"robots.txt: {name}" for name in ROBOTS)])
def test_a_hostile_page_is_counted(name: str, pages: tuple[Done, dict[str, str]]) -> None:
    done, found = pages
    table = ROBOTS if name.startswith("robots.txt: ") else PAGES
    assert found[name] in table[name.removeprefix("robots.txt: ")][1].split("|"), done.stderr


def test_after_hostile_pages_a_crawl_ends_well(pages: tuple[Done, dict[str, str]]) -> None:
    done, _ = pages
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\d+ found, ", line)]
    assert len(lines) == 1, done.stderr


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, str], dict[str, str]]:
    """One crawl of all bad feeds: its end, what became of each good page, and the addresses."""
    folder = tmp_path_factory.mktemp("hostile") / "feeds"
    names = {f"127.0.9.{1 + n}": name for n, name in enumerate(FEEDS)}
    hosts = {
        address: Host({"/feed": FEEDS[name][0], "/page": answer(GOOD)})
        for address, name in names.items()
    }
    with serve(hosts) as port:
        feed = "feed=" + ",".join(f"http://{address}:{port}/feed" for address in names)
        begun = time.monotonic()
        done = scrapy("crawl", "press", "-a", feed, "-a", f"corpus={folder}", *OPTIONS)
        assert time.monotonic() - begun < LONGEST_S
    found = {names[host]: end for host, end in ends(folder).items()}
    return done, found, {name: address for address, name in names.items()}


@pytest.mark.parametrize("name", FEEDS)
def test_a_hostile_feed_gives_its_good_page_or_a_line(
    name: str, feeds: tuple[Done, dict[str, str], dict[str, str]]
) -> None:
    done, found, addresses = feeds
    lines = [line for line in done.stderr.splitlines() if f"http://{addresses[name]}:" in line]
    expected = FEEDS[name][1]
    assert len(lines) < 12
    assert all(line.startswith("error: ") for line in lines)
    if expected == "":
        assert found.get(name) == KEPT, done.stderr
    elif expected == "*":
        assert found.get(name) == KEPT or lines, done.stderr
    else:
        assert any(expected in line for line in lines), done.stderr


def test_after_hostile_feeds_a_crawl_ends_well(
    feeds: tuple[Done, dict[str, str], dict[str, str]],
) -> None:
    done, _, _ = feeds
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "root:" not in done.stderr
