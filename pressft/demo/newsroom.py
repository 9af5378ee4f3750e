"""A small newsroom on loopback, for the demo and the tests: two feeds and an HTML page per story.

As on real sites, the text of a page is surrounded by navigation, a table, related links, a contact
block, a cookie notice and a footer, which a crawl has to remove. Crawling is left to `crawler`, the
choice of stories to `demo.run`.
"""

import hashlib
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cached_property
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from pressft.corpus.invented import Story

PORT = 8817  # preferred, so that pages keep their addresses from run to run
PAGE_ITEMS = 50  # items on one page of a feed
FIRST_DAY = datetime(2001, 12, 1, 6, tzinfo=UTC)
ROBOTS = "User-agent: *\nDisallow: /private/\n"
CONTACT = "Press Contact. Newsroom desk, e-mail: desk@newsroom.example, phone: +49 89 5550 1234."

_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Rev|St|Sen|Gen|Lt|Col|No|vs)|\b[A-Z])\.$")
_BOUNDARY = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')])) (?=[\"'(]?[A-Z0-9])")


@dataclass(frozen=True, slots=True)
class Newsroom:
    """A running newsroom; its feeds are paged, newest story first; `url` has no trailing slash."""

    url: str

    @property
    def feed_url(self) -> str:
        """The address of the RSS 2.0 feed."""
        return f"{self.url}/rss"

    @property
    def atom_url(self) -> str:
        """The address of the Atom feed, with the same stories."""
        return f"{self.url}/atom"


@contextmanager
def serve(stories: Sequence[Story], port: int = PORT) -> Iterator[Newsroom]:
    """Serve `stories` on 127.0.0.1 until the block ends: on `port`, or on a free one if taken."""
    try:
        server = _Server(("127.0.0.1", port), _Handler)
    except OSError:
        server = _Server(("127.0.0.1", 0), _Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    newest_first = sorted(stories, key=lambda story: story.published, reverse=True)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"site": _Site(url, newest_first)})
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Newsroom(url)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def stories_from_lines(text: str) -> tuple[Story, ...]:
    """One story per non-blank line of `text`, four per day from 1 December 2001.

    A paragraph has three sentences; joined with spaces, the paragraphs are the line again with its
    white space normalised. The title is the first sentence, at most its first ten words.
    """
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return tuple(_story(i, line) for i, line in enumerate(filter(None, lines)))


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, split at single spaces: joined with spaces they are `text` again."""
    sentences = [""]
    for piece in _BOUNDARY.split(text):
        if sentences[-1] and not _ABBREVIATION.search(sentences[-1]):
            sentences.append(piece)
        else:
            sentences[-1] = f"{sentences[-1]} {piece}".lstrip()
    return sentences


def _story(index: int, line: str) -> Story:
    sentences = split_sentences(line)
    title = " ".join(sentences[0].split()[:10]).rstrip(" .,;:")
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return Story(
        title=title,
        paragraphs=tuple(" ".join(sentences[i : i + 3]) for i in range(0, len(sentences), 3)),
        published=FIRST_DAY + index * timedelta(hours=6),
        slug=f"{index + 1:04d}-{slug}",
        tags=("news",),
    )


@dataclass(frozen=True)
class _Site:
    """The pages of one newsroom, as text; `stories` are newest first."""

    url: str
    stories: Sequence[Story]

    def page_url(self, story: Story) -> str:
        return f"{self.url}/news/{story.slug}"

    def page(self, target: str) -> tuple[str, str] | None:
        """Content type and text of a request target; None if there is no such page."""
        parts = urlsplit(target)
        number = parse_qs(parts.query).get("page", ["1"])[0]
        number = number if number.isdecimal() and int(number) else "1"
        pages: dict[str, Callable[[], tuple[str, str]]] = {
            "/": lambda: ("text/html", self.home()),
            "/robots.txt": lambda: ("text/plain", ROBOTS),
            "/rss": lambda: ("application/rss+xml", self.rss(int(number))),
            "/atom": lambda: ("application/atom+xml", self.atom(int(number))),
        }
        if parts.path in pages:
            return pages[parts.path]()
        index = self.places.get(parts.path)
        if index is None:
            return None
        return "text/html", self.article(self.stories[index], self.stories[index + 1 : index + 4])

    @cached_property
    def places(self) -> dict[str, int]:
        """The index of each story by the path of its page."""
        return {f"/news/{story.slug}": index for index, story in enumerate(self.stories)}

    def items(self, number: int) -> tuple[Sequence[Story], bool]:
        """The stories on a page of a feed, 1-based, and whether another page follows."""
        end = number * PAGE_ITEMS
        return self.stories[end - PAGE_ITEMS : end], end < len(self.stories)

    def rss(self, number: int) -> str:
        stories, more = self.items(number)
        following = f'<atom:link rel="next" href="{self.url}/rss?page={number + 1}"/>'
        items = "\n".join(
            f"<item><title>{escape(story.title)}</title><link>{self.page_url(story)}</link>"
            f'<guid isPermaLink="false">{story.slug}</guid>'
            f"<pubDate>{format_datetime(story.published, usegmt=True)}</pubDate>"
            + "".join(f"<category>{escape(tag)}</category>" for tag in story.tags)
            + f"<description>{escape(f'<p>{escape(story.paragraphs[0])}</p>')}</description></item>"
            for story in stories
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom"><channel>'
            f"<title>Loopback Newsroom</title><link>{self.url}/</link>"
            f"<description>All releases</description><language>en</language>"
            f"{following if more else ''}\n{items}\n</channel></rss>\n"
        )

    def atom(self, number: int) -> str:
        stories, more = self.items(number)
        following = f'<link rel="next" href="{self.url}/atom?page={number + 1}"/>'
        updated = stories[0].published if stories else FIRST_DAY
        entries = "\n".join(
            f"<entry><title>{escape(story.title)}</title><id>{self.page_url(story)}</id>"
            f'<link href="{self.page_url(story)}"/>'
            f"<published>{story.published.isoformat()}</published>"
            f"<updated>{story.published.isoformat()}</updated>"
            + "".join(f'<category term="{escape(tag)}"/>' for tag in story.tags)
            + f"<summary>{escape(story.paragraphs[0])}</summary></entry>"
            for story in stories
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
            f"<title>Loopback Newsroom</title><id>{self.url}/</id>"
            f"<updated>{updated.isoformat()}</updated><author><name>Newsroom</name></author>"
            f"{following if more else ''}\n{entries}\n</feed>\n"
        )

    def home(self) -> str:
        links = "".join(
            f'<link rel="alternate" type="application/{kind}+xml" href="/{kind}">'
            for kind in ("rss", "atom")
        )
        return _frame("Loopback Newsroom", links, _links(self.stories[:PAGE_ITEMS]))

    def article(self, story: Story, related: Sequence[Story]) -> str:
        rows = "".join(
            f"<tr><td>{number}</td><td>{len(text.split())}</td><td>{len(text)}</td></tr>"
            for number, text in enumerate(story.paragraphs, 1)
        )
        tags = "".join(f'<li class="tag">{escape(tag)}</li>' for tag in story.tags)
        body = (
            f"<article>\n<h1>{escape(story.title)}</h1>\n"
            f'<p class="date"><time datetime="{story.published.isoformat()}">'
            f"{story.published:%a %b %d %H:%M:%S UTC %Y}</time></p>\n"
            + "\n".join(f"<p>{escape(text)}</p>" for text in story.paragraphs)
            + "\n<table><tr><th>Paragraph</th><th>Words</th><th>Characters</th></tr>"
            f"{rows}</table>\n</article>\n"
            f'<ul class="tagging-info">{tags}</ul>\n'
            f'<aside class="contact"><p>{CONTACT}</p></aside>\n'
            f'<section class="related"><h2>Related releases</h2>{_links(related)}</section>'
        )
        date = f'<meta property="article:published_time" content="{story.published.isoformat()}">'
        return _frame(story.title, date, body)


def _links(stories: Sequence[Story]) -> str:
    items = (f'<li><a href="/news/{s.slug}">{escape(s.title)}</a></li>' for s in stories)
    return f"<ul>{''.join(items)}</ul>"


def _frame(title: str, head: str, body: str) -> str:
    """A whole page: `body` between the parts that every page of the site repeats."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>{head}</head>\n<body>\n"
        '<header><a href="/">Loopback Newsroom</a></header>\n<nav><ul><li><a href="/">Home</a></li>'
        '<li><a href="/rss">Releases</a></li><li><a href="/atom">Subscribe</a></li></ul></nav>\n'
        f"<main>\n{body}\n</main>\n"
        '<div id="cookie-notice" role="dialog"><p>We use cookies to remember your choices.</p>'
        "<button>Accept all</button></div>\n"
        "<footer><p>© Loopback Newsroom. All rights reserved.</p>"
        '<a href="/private/imprint">Imprint</a></footer>\n</body></html>\n'
    )


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # beyond the default of 5, a client retries only after a second

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a crawl that is killed in the middle of a page."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD from `site`, without a log on the console."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: with two, Nagle and delayed ACK cost 40 ms
    site = _Site("", ())

    def do_GET(self) -> None:
        found = self.site.page(self.path)
        kind, text = found or ("text/plain", "Not found\n")
        body = text.encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        known = found is not None and self.headers.get("If-None-Match") == tag
        status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
        self.send_response(HTTPStatus.NOT_MODIFIED if known else status)
        self.send_header("ETag", tag)
        newest = self.site.stories[0].published if self.site.stories else FIRST_DAY
        self.send_header("Last-Modified", format_datetime(newest, usegmt=True))
        if not known:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not known and self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the demo shows its progress on the same console."""
