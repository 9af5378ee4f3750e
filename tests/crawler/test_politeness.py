"""What hosts ask for, and what they get: robots.txt, Crawl-delay, Retry-After, a contact."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hostile import GOOD, Host, Pieces, answer, rss, serve
from loopback import LOOPBACK, Crawl, scrapy

from crawler.middlewares.politeness import retry_after
from crawler.middlewares.robots import Rules, read_rules

N_PAGES = 3


class Clock:
    """A host with a feed of three pages that notes when each path was asked for."""

    def __init__(self, robots: str, page: Callable[[str, int], bytes] | None = None) -> None:
        self.times: list[tuple[str, float]] = []
        self._page = page or (lambda path, n: answer(GOOD))  # noqa: ARG005
        self._robots = answer(robots.encode(), "Content-Type: text/plain")
        self._lock = threading.Lock()
        self.open, self.most_open = 0, 0

    def answers(self) -> dict[str, Pieces]:
        links = "".join(f"<item><link>/page/{n}</link></item>" for n in range(N_PAGES))
        paths = {"/feed": rss(links.encode()), "/robots.txt": self._robots}
        paths |= {f"/page/{n}": answer(GOOD) for n in range(N_PAGES)}
        return {path: self._noted(path, body) for path, body in paths.items()}

    def _noted(self, path: str, body: bytes) -> Callable[[], Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            with self._lock:
                self.open += 1
                self.most_open = max(self.open, self.most_open)
                self.times.append((path, time.monotonic()))
                n = sum(asked == path for asked, _ in self.times)
            time.sleep(0.02)
            yield self._page(path, n) if path.startswith("/page") else body
            with self._lock:
                self.open -= 1

        return pieces

    @property
    def asked(self) -> list[str]:
        return [path for path, _ in self.times]

    def gaps_s(self) -> list[float]:
        moments = [moment for path, moment in self.times if path != "/robots.txt"]
        return [b - a for a, b in pairwise(moments)]


@contextmanager
def running(clock: Clock) -> Iterator[str]:
    with serve({"127.0.0.1": Host(clock.answers())}) as port:
        yield f"http://127.0.0.1:{port}/feed"


def test_a_crawl_delay_is_kept_and_one_connection_at_a_time(crawl: Crawl, tmp_path: Path) -> None:
    clock = Clock("User-agent: *\nCrawl-delay: 0.4")
    with running(clock) as feed:
        assert crawl(feed, tmp_path / "c").returncode == 0
    assert set(clock.asked) >= {f"/page/{n}" for n in range(N_PAGES)}
    assert min(clock.gaps_s()) >= 0.38
    assert clock.most_open == 1


def test_without_a_delay_there_is_still_one_request_at_a_time(crawl: Crawl, tmp_path: Path) -> None:
    clock = Clock("")
    with running(clock) as feed:
        assert crawl(feed, tmp_path / "c").returncode == 0
    assert clock.most_open == 1


@pytest.mark.parametrize(
    ("status", "form"),
    [
        ("429 Too Many", "seconds"),
        ("503 Busy", "seconds"),
        ("503 Busy", "date"),
        ("429 No", "none"),
    ],
)
def test_a_host_that_demands_a_wait_is_requested_later(
    status: str, form: str, crawl: Crawl, tmp_path: Path
) -> None:
    def page(path: str, n: int) -> bytes:
        if path != "/page/0" or n > 1:
            return answer(GOOD)
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)
        header = {"seconds": ["Retry-After: 1"], "date": [f"Retry-After: {later}"], "none": []}
        return answer(b"", *header[form], status=status)

    clock = Clock("", page)
    with running(clock) as feed:
        assert crawl(feed, tmp_path / "c").returncode == 0
    first = clock.asked.index("/page/0")
    assert clock.times[first + 1][1] - clock.times[first][1] >= 0.98  # whatever page it is
    assert clock.asked.count("/page/0") == 2


def test_a_host_that_demands_a_day_is_not_requested_again(crawl: Crawl, tmp_path: Path) -> None:
    clock = Clock("", lambda *_: answer(b"", "Retry-After: 86400", status="429 No"))
    begun = time.monotonic()
    with running(clock) as feed:
        done = crawl(feed, tmp_path / "c")
    assert time.monotonic() - begun < 20
    assert sum(path.startswith("/page") for path in clock.asked) == 1
    assert "asked to come back later" in done.stderr


@pytest.mark.parametrize(
    ("contact", "said"),
    [
        ("", "give -s PRESS_CONTACT=you@example.org"),
        ("us", "is neither an e-mail address nor a URL"),
        ("us@example.org\r\nX: y", "is neither an e-mail address nor a URL"),
    ],
)
def test_a_public_host_is_not_crawled_without_a_contact(
    contact: str, said: str, crawl: Crawl, tmp_path: Path
) -> None:
    for more in ([], ["-s", "PRESS_ALLOW_PRIVATE=True"])[: 1 if contact else 2]:
        options = ["-s", f"PRESS_CONTACT={contact}", *more]
        done = crawl("https://newsroom.invalid/rss", tmp_path / "c", *options)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_user_agent_names_the_contact(tmp_path: Path) -> None:
    heads: list[str] = []

    with serve({"127.0.0.1": Host({}, heads=heads)}) as port:
        feed = f"feed=http://127.0.0.1:{port}/feed"
        contact = ("-s", "PRESS_CONTACT=https://example.org/bot")
        scrapy("crawl", "press", "-a", feed, "-a", f"corpus={tmp_path / 'c'}", *LOOPBACK, *contact)
    agents = {line for head in heads for line in head.splitlines() if "User-Agent" in line}
    assert len(agents) == 1
    assert agents.pop().endswith(" (+https://example.org/bot)")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("120", 120), (" 7 ", 7), ("9" * 40, float("inf"))]
    + [(value, None) for value in ("", "soon", "-5", "1.5", "²", "Mon, 99 Foo")],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(minutes=2)
    assert 110 < (retry_after(format_datetime(soon, usegmt=True)) or 0) <= 120
    assert retry_after("Mon, 01 Jan 2001 00:00:00 GMT") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Rules()),
        ("User-agent: *\nDisallow: /a", Rules(allowed=False)),
        ("User-agent: *\nDisallow: /\n\nUser-agent: pressft\nDisallow:", Rules()),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", Rules()),
        ("User-agent: *\nCrawl-delay: 2.5", Rules(delay_s=2.5)),
        ("User-agent: *\nRequest-rate: 1/10", Rules(delay_s=10.0)),
        ("Sitemap: https://x.example/s.xml", Rules(sitemaps=("https://x.example/s.xml",))),
    ],
)
def test_rules(text: str, expected: Rules) -> None:
    assert read_rules(text.encode(), "https://x.example/a/b", "pressft") == expected
