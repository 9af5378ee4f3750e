"""The database of a crawl, `crawl.db`: the state of every URL, and each page as it was fetched.

A page is stored before anything is made of it, so that a crawl killed at any moment can be resumed,
and extraction repeated offline (law 11). Left to others: what is made of the pages.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crawler.arguments import DATABASE
from crawler.feeds import Entry
from crawler.items import FetchedFeed, FetchedPage, FoundEntries, UnusablePage
from pressft.corpus.format import article_id
from pressft.errors import MissingError

# found → fetched → dropped (nothing usable on it), or failed (to be tried again by the next crawl)
_TABLE = """
CREATE TABLE IF NOT EXISTS urls (
    id TEXT PRIMARY KEY,
    newsroom TEXT NOT NULL,
    entry TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('found', 'fetched', 'dropped', 'failed')),
    reason TEXT NOT NULL DEFAULT '',
    fetched INTEGER,
    encoding TEXT,
    etag TEXT,
    last_modified TEXT,
    body BLOB
) STRICT
"""
_FEEDS = """
CREATE TABLE IF NOT EXISTS feeds (
    url TEXT PRIMARY KEY,
    content_type TEXT NOT NULL,
    etag TEXT NOT NULL,
    last_modified TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT
"""
_FOUND = """
INSERT INTO urls (id, newsroom, entry, state) VALUES (?, ?, ?, 'found')
ON CONFLICT (id) DO UPDATE SET entry = excluded.entry WHERE state IN ('found', 'failed')
"""
_FETCHED = """
UPDATE urls SET state = 'fetched', reason = '', fetched = ?, encoding = ?, etag = ?,
    last_modified = ?, body = ? WHERE id = ?
"""
_FEED = """
INSERT OR REPLACE INTO feeds (url, content_type, etag, last_modified, body) VALUES (?, ?, ?, ?, ?)
"""


class Store:
    """The database of one corpus folder; every call is one transaction.

    It is created in `folder` where there is none; None keeps it in memory, for a dry run.

    Raises:
        MissingError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(folder / DATABASE if folder else ":memory:")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._db:
                self._db.execute(_TABLE)
                self._db.execute(_FEEDS)
        except (OSError, sqlite3.Error) as error:
            why = f"corpus folder {folder} cannot be written ({error})"
            raise MissingError(f"{why}: choose a writable folder, -a corpus=DIR") from None

    def close(self) -> None:
        """Write the log back and close."""
        self._db.close()

    def found(self, found: FoundEntries) -> None:
        """Remember entries; one seen before is only updated while its page is not fetched."""
        rows = [(article_id(entry.url), found.newsroom, _dump(entry)) for entry in found.entries]
        with self._db:
            self._db.executemany(_FOUND, rows)

    def wants(self, url: str) -> bool:
        """Whether the page of this URL is still to be fetched."""
        query = "SELECT state IN ('found', 'failed') FROM urls WHERE id = ?"
        row = self._db.execute(query, (article_id(url),)).fetchone()
        return row is None or bool(row[0])

    def pending(self, newsrooms: Iterable[str]) -> list[tuple[Entry, str]]:
        """Entries of these newsrooms whose page is still to be fetched, each with its newsroom.

        A page that did not exist at the last request is left out.
        """
        query = (
            "SELECT entry, newsroom FROM urls WHERE state = 'found'"
            " OR state = 'failed' AND reason NOT IN ('HTTP 404', 'HTTP 410') ORDER BY rowid"
        )
        wanted = set(newsrooms)
        return [(_entry(entry), name) for entry, name in self._db.execute(query) if name in wanted]

    def feed(self, url: str) -> FetchedFeed | None:
        """The page of a feed as it was last fetched, None before the first time."""
        query = "SELECT content_type, etag, last_modified, body FROM feeds WHERE url = ?"
        row = self._db.execute(query, (url,)).fetchone()
        if row is None:
            return None
        content_type, etag, last_modified, body = row
        return FetchedFeed(url, content_type, etag, last_modified, zlib.decompress(body))

    def save_feed(self, feed: FetchedFeed) -> None:
        """Keep a page of a feed, compressed, in place of the one before."""
        body = zlib.compress(feed.body)
        values = (feed.url, feed.content_type, feed.etag, feed.last_modified, body)
        with self._db:
            self._db.execute(_FEED, values)

    def save(self, page: FetchedPage) -> None:
        """Keep a fetched page, compressed."""
        moment, body = int(page.fetched.timestamp()), zlib.compress(page.body)
        values = (moment, page.encoding, page.etag, page.last_modified, body, page.id)
        with self._db:
            self._db.execute(_FETCHED, values)

    def set_usable(self, page: FetchedPage) -> None:
        """Note that there is an article on a fetched page."""
        self._set(page.entry, "fetched", "")

    def set_unusable(self, page: UnusablePage) -> None:
        """Note why there is no article: the next crawl fetches a failed page, no dropped one."""
        self._set(page.entry, page.state, page.reason)

    def is_worth_keeping(self) -> bool:
        """Whether it holds a page of use, which took time to fetch."""
        query = "SELECT EXISTS (SELECT 1 FROM urls WHERE state = 'fetched')"
        return bool(self._db.execute(query).fetchone()[0])

    def n_pages(self) -> int:
        """How many pages are stored, of use or not."""
        return int(self._db.execute("SELECT COUNT(body) FROM urls").fetchone()[0])

    def pages(self, but: set[str], *, dropped: bool = False) -> Iterator[FetchedPage]:
        """Every page of use, `dropped` ones too, in the order of ids, but for these ids."""
        which = "body IS NOT NULL" if dropped else "state = 'fetched'"
        ids = self._db.execute(f"SELECT id FROM urls WHERE {which} ORDER BY id").fetchall()
        for (page_id,) in ids:
            if page_id not in but:
                query = (
                    "SELECT entry, newsroom, fetched, body, encoding, etag, last_modified"
                    " FROM urls WHERE id = ?"
                )
                yield _load(self._db.execute(query, (page_id,)).fetchone())

    def _set(self, entry: Entry, state: str, reason: str) -> None:
        query = "UPDATE urls SET state = ?, reason = ? WHERE id = ?"
        with self._db:
            self._db.execute(query, (state, reason, article_id(entry.url)))


def remove(folder: Path) -> None:
    """Remove the database from a folder that a failed crawl created."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            (folder / f"{DATABASE}{suffix}").unlink()


def _dump(entry: Entry) -> str:
    return json.dumps(asdict(entry), default=datetime.isoformat)


def _entry(text: str) -> Entry:
    values = json.loads(text)
    published = values["published"] and datetime.fromisoformat(values["published"])
    return Entry(**{**values, "published": published, "tags": tuple(values["tags"])})


def _load(row: tuple[Any, ...]) -> FetchedPage:
    entry, newsroom, fetched, body, encoding, etag, last_modified = row
    moment = datetime.fromtimestamp(fetched, UTC)
    body = zlib.decompress(body)
    return FetchedPage(_entry(entry), newsroom, moment, body, encoding, etag, last_modified)
