# ruff: noqa: E501 - a case a line reads as a table
"""A web that means harm: what each host answers, byte for byte, and what must become of it.

Every case has an address of its own on loopback, so that waiting for one holds up no other.
"""

import gzip
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import brotli
from backports import zstd

MIB = 2**20
TEXT = (
    b"<p>" + b"A paragraph of words that is long enough to be believed by everybody. " * 5 + b"</p>"
)
GOOD = b"<html><body><article><h1>News</h1>" + TEXT * 3 + b"</article></body></html>"
HTML = "Content-Type: text/html; charset=utf-8"

Pieces = bytes | Callable[[], Iterator[bytes]]
KEPT, TIME, LARGE, OFF = "kept", "timed out", "too large", "broken off"
ENDLESS = "too large|timed out"  # whichever limit a busy machine meets first
TEXTLESS = "no text|too short|kept|too much time to read|too much memory to read"  # any, but an end


def answer(body: bytes = GOOD, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer; a Content-Length is added where none is given."""
    head = [f"HTTP/1.1 {status}", *(headers or (HTML,))]
    if not any(line.lower().startswith(("content-length", "transfer-")) for line in head):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    return answer(b"", f"Location: {to}", status=status)


def packed(coding: str, body: bytes) -> bytes:
    return answer(body, HTML, f"Content-Encoding: {coding}")


def wrapped(body: bytes) -> bytes:
    return answer(b"<html><body>" + body + b"</body></html>")


def endless(head: bytes, piece: bytes, pause_s: float = 0.005) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        yield head
        while True:
            yield piece
            time.sleep(pause_s)

    return pieces


def silence() -> Iterator[bytes]:
    time.sleep(20)
    yield b""


def reset() -> Iterator[bytes]:
    raise ConnectionResetError
    yield b""


ZEROS = bytes(40 * MIB)
RAW_DEFLATE = zlib.compressobj(9, wbits=-15)
OK = b"HTTP/1.1 200 OK\r\n"
HEAD = OK + HTML.encode() + b"\r\n"
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a0 "ha">'
    + b"".join(b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 12))
    + b"]>"
)

# What a page answers, and the reason under which it must be counted ("|": one of these).
PAGES: Mapping[str, tuple[Pieces, str]] = {
    "silence": (silence, TIME),
    "headers byte by byte": (endless(OK, b"X: y\r\n", 0.1), TIME),
    "body byte by byte": (endless(HEAD + b"\r\n", b"<p>", 0.1), TIME),
    "chunks byte by byte": (endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", 0.1), TIME),
    "a body without end": (endless(HEAD + b"\r\n", b"x" * 65536), ENDLESS),
    "chunks without end": (
        endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        ENDLESS,
    ),
    "6 GB announced": (answer(b"x", HTML, "Content-Length: 6000000000"), LARGE),
    "6 MB": (answer(b"x" * 6_000_000), LARGE),
    "gzip bomb": (packed("gzip", gzip.compress(ZEROS)), LARGE),
    "gzip bomb in gzip": (packed("gzip, gzip", gzip.compress(gzip.compress(ZEROS))), LARGE),
    "deflate bomb": (packed("deflate", zlib.compress(ZEROS)), LARGE),
    "raw deflate bomb": (packed("deflate", RAW_DEFLATE.compress(ZEROS) + RAW_DEFLATE.flush()), LARGE),
    "brotli bomb": (packed("br", brotli.compress(ZEROS, quality=3)), LARGE),
    "zstd bomb": (packed("zstd", zstd.compress(ZEROS)), LARGE),
    "gzip that is none": (packed("gzip", b"not gzip at all"), "unreadable|no text|not html"),
    "gzip cut off": (packed("gzip", gzip.compress(GOOD)[:-20]), "kept|unreadable|no text"),
    "brotli that is none": (packed("br", b"\xff" * 99), "unreadable|no text|not html"),
    "zstd that is none": (packed("zstd", b"\xff" * 99), "unreadable|no text|not html"),
    "an unknown coding": (packed("lzma", b"\x5d\x00\x00" * 99), "no text|not html"),
    "a body cut off": (answer(GOOD, HTML, "Content-Length: 99999"), OFF),
    "no answer": (b"", OFF),
    "a reset": (reset, OFF),
    "a garbled status": (b"WHAT IS THIS\r\n\r\n" + GOOD, OFF),
    "no status": (GOOD, OFF),
    "an unknown status": (answer(status="999 Odd"), "HTTP 999"),
    "status 0": (answer(status="000 Null"), "HTTP 0|broken off"),
    "headers without end": (endless(OK, b"X-Header: y\r\n" * 999), OFF),
    "a header without end": (endless(OK + b"X: ", b"y" * 65536), OFF),
    "a folded header without end": (endless(OK + b"X: y\r\n", b" y\r\n" * 999), OFF),
    "a negative length": (answer(GOOD, HTML, "Content-Length: -5"), "broken off|kept"),
    "two lengths": (answer(GOOD, HTML, "Content-Length: 5", "Content-Length: 99"), "broken off|kept"),
    "a length of letters": (answer(GOOD, HTML, "Content-Length: many"), "broken off|kept"),
    "a chunk of letters": (answer(b"zz\r\n", HTML, "Transfer-Encoding: chunked"), OFF),
    "a chunk of 2**80": (answer(b"1" + b"0" * 20 + b"\r\n", HTML, "Transfer-Encoding: chunked"), "timed out|broken off|too large"),
    "no content": (answer(b"", status="204 No Content"), "not html|no text"),
    "an empty page": (answer(b""), "no text"),
    "a redirect to itself": (redirect("/page"), "too many redirects"),
    "a redirect without end": (lambda: iter([redirect(f"/page?{time.time_ns()}")]), "too many redirects"),
    "a refresh to itself": (wrapped(b'<meta http-equiv="refresh" content="0;url=/page">'), "too many redirects|no text"),
    "a redirect nowhere": (answer(b"", status="302 Found"), "HTTP 302"),
    "a redirect to a file": (redirect("file:///etc/passwd"), "HTTP 302"),
    "a redirect to ftp": (redirect("ftp://127.0.0.1/x"), "HTTP 302"),
    "a redirect to script": (redirect("javascript:alert(1)"), "HTTP 302|HTTP 404|unreadable"),
    "a redirect to data": (redirect("data:text/html,<p>x"), "HTTP 302"),
    "a redirect to no address": (redirect("http://[::1"), "HTTP 302|unreadable"),
    "a redirect to no port": (redirect("http://127.0.0.1:99999/"), "unreadable|HTTP 302"),
    "a redirect of 15 KB": (redirect("/" + "x" * 15_000), "HTTP 404|unreadable"),
    "a redirect to an unknown host": (redirect("http://no-such-host.invalid/"), "unknown host"),
    "a refresh to a file": (wrapped(b'<meta http-equiv="refresh" content="0;url=file:///etc/passwd">'), "no text"),
    "a charset that is no text": (answer(GOOD, "Content-Type: text/html; charset=zlib"), "kept|unreadable"),
    "a charset for hosts": (answer(GOOD, "Content-Type: text/html; charset=idna"), "kept|no text|unreadable"),
    "a charset of escapes": (answer(GOOD, "Content-Type: text/html; charset=unicode_escape"), KEPT),
    "a charset of 9 KB": (answer(GOOD, "Content-Type: text/html; charset=" + "x" * 9000), KEPT),
    "utf-16 with lone surrogates": (answer(b"\xff\xfe" + b"\x00\xd8" * 999, "Content-Type: text/html"), "no text|not html"),
    "a picture": (answer(b"\x89PNG\r\n\x1a\n", "Content-Type: image/png"), "not html"),
    "a picture as a page": (answer(bytes(range(256)) * 99), "no text|too short|kept"),
    "nothing but NUL": (answer(bytes(99_999)), "no text"),
    "elements 100,000 deep": (wrapped(b"<div>" * 100_000 + TEXT), TEXTLESS),
    "inline elements 100,000 deep": (wrapped(b"<b><i>" * 50_000 + TEXT), TEXTLESS),
    "a table of 20,000 rows": (wrapped(TEXT + b"<table>" + b"<tr><td>1<td>2" * 20_000 + b"</table>"), TEXTLESS),
    "tables 2,000 deep": (wrapped(TEXT + b"<table><tr><td>" * 2_000), TEXTLESS),
    "10,000 links": (wrapped(TEXT + b"<a href=/x>x</a> " * 10_000), TEXTLESS),
    "an attribute of 1 MB": (wrapped(b'<p title="' + b"x" * MIB + b'">' + TEXT), TEXTLESS),
    "5,000 attributes": (wrapped(b"<p " + b" ".join(b"a%d=1" % i for i in range(5_000)) + b">" + TEXT), TEXTLESS),
    "a comment of 1 MB": (wrapped(TEXT + b"<!--" + b"-" * MIB), TEXTLESS),
    "a word of 100 KB": (wrapped(b"<p>" + b"x" * 100_000), TEXTLESS),
    "an open tag of 1 MB": (wrapped(TEXT + b"<" * MIB), TEXTLESS),
    "entities in XHTML": (answer(LAUGHS + b"<html><body><p>&a9;</p></body></html>", "Content-Type: application/xhtml+xml"), TEXTLESS),
    "5,000 cookies": (answer(GOOD, HTML, *["Set-Cookie: a=b"] * 5000), "kept|broken off"),
    "later, in a year": (answer(b"", "Retry-After: 31536000", status="429 Too Many"), "HTTP 429"),
    "later, in 10**30 s": (answer(b"", "Retry-After: " + "9" * 30, status="503 Busy"), "HTTP 503"),
    "later, some day": (answer(b"", "Retry-After: soon", status="503 Busy"), "HTTP 503"),
    "a login": (answer(b"", 'WWW-Authenticate: Basic realm="x"', status="401 No"), "HTTP 401"),
    "a login at a proxy": (answer(b"", status="407 No"), "HTTP 407"),
}  # fmt: skip

# What the robots.txt of a host with a good page answers, and what becomes of that page.
ROBOTS: Mapping[str, tuple[Pieces, str]] = {
    "none": (answer(b"", status="404 Not Found"), KEPT),
    "an error": (answer(b"", status="500 Oops"), "robots.txt unavailable: HTTP 500"),
    "busy": (answer(b"", status="503 Busy"), "robots.txt unavailable: HTTP 503"),
    "too many": (answer(b"", "Retry-After: 0", status="429 No"), "robots.txt unavailable: HTTP 429"),
    "silence": (silence, "robots.txt unavailable: timed out"),
    "a body without end": (endless(OK + b"\r\n", b"#" * 65536), "robots.txt unavailable: too large|robots.txt unavailable: timed out"),
    "a bomb": (packed("gzip", gzip.compress(ZEROS)), "robots.txt unavailable: too large"),
    "a redirect to itself": (redirect("/robots.txt"), "robots.txt unavailable: too many redirects"),
    "a redirect to a file": (redirect("file:///etc/passwd"), "robots.txt unavailable: HTTP 302"),
    "noise": (answer(bytes(range(256)) * 999), KEPT),
    "a page": (answer(GOOD), KEPT),
    "a delay of a year": (answer(b"User-agent: *\nCrawl-delay: 31536000"), "crawl delay too long"),
    "a delay that is none": (answer(b"User-agent: *\nCrawl-delay: nan\nCrawl-delay: -9"), KEPT),
    "a pattern without end": (
        answer(b"User-agent: *\nDisallow: /" + b"*a" * 40 + b"$"),
        "robots.txt unreadable|kept",
    ),
    "20,000 rules": (answer(b"User-agent: *\n" + b"Disallow: /x*y$\n" * 20_000), KEPT),
}  # fmt: skip


def items(n: int, text: bytes = b"") -> bytes:
    return b"".join(b"<item><link>/page</link>%s</item>" % text for _ in range(n))


def rss(body: bytes, before: bytes = b"") -> bytes:
    document = b'<rss version="2.0"><channel><title>t</title>' + body + b"</channel></rss>"
    return answer(before + document, "Content-Type: application/rss+xml")


# What a feed answers, and what is said of it: "" where its one good page must be kept.
FEEDS: Mapping[str, tuple[Pieces, str]] = {
    "entities in entities": (rss(items(1, b"<title>&a9;</title>"), LAUGHS), ""),
    "an entity many times": (
        rss(
            items(1, b"<title>" + b"&x;" * 50_000 + b"</title>"),
            b'<!DOCTYPE r [<!ENTITY x "' + b"y" * 50_000 + b'">]>',
        ),
        "",
    ),
    "a file as an entity": (
        rss(items(1, b"<title>&f;</title>"), b'<!DOCTYPE r [<!ENTITY f SYSTEM "file:///etc/passwd">]>'),
        "",
    ),
    "an outer DTD": (rss(items(1), b'<!DOCTYPE rss SYSTEM "http://127.0.0.1:1/x.dtd">'), ""),
    "elements 30,000 deep": (rss(b"<a>" * 30_000 + items(1)), "*"),
    "5,000 entries": (rss(items(5_000)), ""),
    "a title of 4 MB": (rss(items(1, b"<title>" + b"x" * 4 * MIB + b"</title>")), ""),
    "1 MB of open brackets": (rss(items(1) + b"<" * MIB), "*"),
    "a description of tags": (
        rss(items(1, b"<description>" + b"&lt;div&gt;" * 50_000 + b"</description>")),
        "",
    ),
    "impossible dates": (rss(items(1, b"<pubDate>Mon, 99 Foo 999999 99:99:99 +9999</pubDate>")), ""),
    "links that are none": (
        rss(
            b"<item><link>javascript:x</link></item><item><link>http://[::1</link></item>"
            b"<item><link>http://127.0.0.1:x/</link></item><item><link>//</link></item>" + items(1)
        ),
        "",
    ),
    "a next page that is itself": (
        rss(b'<atom:link xmlns:atom="http://www.w3.org/2005/Atom" rel="next" href="/feed"/>' + items(1)),
        "",
    ),
    "next pages without end": (
        lambda: iter(
            [
                rss(
                    b'<atom:link xmlns:atom="http://www.w3.org/2005/Atom" rel="next" href="?p=%d"/>'
                    % time.time_ns()
                    + items(1)
                )
            ]
        ),
        "",
    ),
    "a bomb": (packed("gzip", gzip.compress(ZEROS)), "could not be fetched (too large)"),
    "a body without end": (endless(HEAD + b"\r\n", b"<item>" * 9999), "could not be fetched"),
    "silence": (silence, "could not be fetched (timed out)"),
    "JSON 1,000,000 deep": (answer(b'{"a":' + b"[" * 1_000_000), "is no RSS or Atom feed"),
    "JSON of wrong types": (
        answer(b'{"version": "https://jsonfeed.org/version/1.1", "items": [1, null, {"url": 5}, {"url": "/page", "tags": 7, "title": [], "date_published": 1e999}]}'),
        "",
    ),
    "a sitemap of itself": (
        answer(b"<sitemapindex><sitemap><loc>/feed</loc></sitemap></sitemapindex>"),
        "*",
    ),
    "a zipped sitemap bomb": (answer(gzip.compress(b"<urlset>" + ZEROS)), "*"),
    "entities in a sitemap": (answer(LAUGHS + b"<urlset><url><loc>&a9;</loc></url></urlset>"), "*"),
    "a page of 10,000 feeds": (
        wrapped(b"".join(b'<link rel=alternate type="application/rss+xml" href="/f%d">' % i for i in range(10_000))),
        "could not be fetched (HTTP 404)",
    ),
    "a page that names itself": (
        wrapped(b'<link rel=alternate type="application/rss+xml" href="/feed">'),
        "*",
    ),
    "utf-7": (answer(b"+ADw-rss/+AD4-", "Content-Type: text/xml; charset=utf-7"), "is no RSS or Atom feed"),
    "a charset that is no text": (rss(items(1), b'<?xml version="1.0" encoding="hex"?>'), ""),
    "4 MB of declaration": (answer(b"<?xml " + b" " * 4 * MIB), "is no RSS or Atom feed"),
}  # fmt: skip


@dataclass(slots=True)
class Host:
    """What one address answers by path with or without query, or by the name it is called and path; 404 to all else.

    `asked` are the addresses and paths asked for, `heads` the requests.
    """

    answers: Mapping[str, Pieces]
    asked: list[str] = field(default_factory=list)
    by_name: Mapping[str, Mapping[str, Pieces]] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)


@contextmanager
def serve(hosts: Mapping[str, Host], port: int = 0, bind: str = "0.0.0.0") -> Iterator[int]:
    """Serve each host at its address, on one port, which is given; `bind` may be an IPv6 one."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((bind, port))
    listener.listen(256)
    threading.Thread(target=_accept, args=(listener, hosts), daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def _accept(listener: socket.socket, hosts: Mapping[str, Host]) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_talk, args=(connection, hosts), daemon=True).start()


def _talk(connection: socket.socket, hosts: Mapping[str, Host]) -> None:
    connection.settimeout(20)
    with connection, suppress(OSError):
        address = connection.getsockname()[0]
        host = hosts[address]
        head = b""
        while b"\r\n\r\n" not in head and (more := connection.recv(65536)):
            head += more
        path = head.split(b" ")[1].decode() if head.count(b" ") > 1 else ""
        host.asked.append(address + path)
        host.heads.append(head.decode("latin-1"))
        name = re.search(rb"\r\nHost: ([^\r:]*)", head)
        answers = host.by_name.get(name[1].decode() if name else "", host.answers)
        missing = answer(b"", status="404 Not Found")
        pieces = answers.get(path, answers.get(path.partition("?")[0], missing))
        try:
            for piece in pieces() if callable(pieces) else (pieces,):
                connection.sendall(piece)
        except ConnectionResetError:  # ours: a reset instead of an end
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
