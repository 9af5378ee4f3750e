"""Stories of our own making, servers that say what a test wants, crawls as people run them."""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pressft.corpus.invented import Story
from pressft.demo.newsroom import FIRST_DAY

ROOT = Path(__file__).parents[2]
LOOPBACK = ("-s", "DOWNLOAD_DELAY=0", "-s", "PRESS_ALLOW_PRIVATE=True")
WHO = "The mayor|A driver|The engineer|Our baker|The old captain|A young nurse|The judge|Nobody"
DID = "repaired|painted|sold|found|borrowed|measured|described|forgot|carried|cleaned"
WHAT = (
    "a bridge|the red lorry|two lamps|the harbour wall|an engine|a map|the ferry|some tea & bread"
)
WHERE = "near the river|in the north|behind the station|at noon|on Tuesday|after the storm"

Answer = tuple[int, dict[str, str], bytes]
Crawl = Callable[..., subprocess.CompletedProcess[str]]
Site = Callable[[Mapping[str, Answer]], AbstractContextManager[str]]


def write_stories(n: int, seed: int = 0) -> list[Story]:
    """`n` distinct stories of three paragraphs of three sentences, an hour apart."""
    rng = random.Random(seed)

    def sentence() -> str:
        parts = [rng.choice(words.split("|")) for words in (WHO, DID, WHAT, WHERE)]
        return (
            f"{' '.join(parts)} with {rng.randint(2, 999)} others of <{rng.randint(2, 99)}> kinds."
        )

    return [
        Story(
            title=f"Story {i} & what <b>came</b> of it",
            paragraphs=tuple(" ".join(sentence() for _ in range(3)) for _ in range(3)),
            published=FIRST_DAY + timedelta(hours=i),
            slug=f"story-{i}",
            tags=("harbour", f"kind {i % 3}"),
        )
        for i in range(n)
    ]


def scrapy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scrapy", *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def serve_answers(answers: Mapping[str, Answer]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers.get(self.path, (404, {}, b"nothing here"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # a client may hang up on what is too large
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rss(*links: str) -> bytes:
    """A feed of these links, titled by them."""
    items = "".join(f"<item><title>{link}</title><link>{link}</link></item>" for link in links)
    return f'<rss version="2.0"><channel><title>t</title>{items}</channel></rss>'.encode()
