"""Fixtures of the crawler's tests; what they are made of is in `loopback`."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import LOOPBACK, Crawl, Site, scrapy, serve_answers, write_stories

from pressft.corpus.invented import Story
from pressft.demo.newsroom import Newsroom, serve


@pytest.fixture(scope="session")
def stories() -> list[Story]:
    return write_stories(60)


@pytest.fixture(scope="session")
def newsroom(stories: list[Story]) -> Iterator[Newsroom]:
    with serve(stories, port=0) as running:
        yield running


@pytest.fixture
def crawl() -> Crawl:
    """`crawl(feed, folder, *more)` runs `scrapy crawl press` as a person would."""

    def run(feed: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = ("-a", f"feed={feed}", "-a", f"corpus={folder}")
        return scrapy("crawl", "press", *arguments, *(more or LOOPBACK))

    return run


@pytest.fixture
def site() -> Site:
    """`site({path: (status, headers, body)})` is a server that answers just that, at its URL."""
    return serve_answers
