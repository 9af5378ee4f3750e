"""Articles into the corpus folder, so that a reader sees the corpus before or after, never between.

A new shard is written under a temporary name, synced and renamed; then the dataset card; last the
manifest, which alone says what counts. What a killed crawl leaves is overwritten by the next one.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pressft.corpus import (
    MANIFEST,
    Article,
    Shard,
    manifest_text,
    read_manifest,
    read_shard,
    write_table,
)
from pressft.errors import MissingError

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Exported:
    """The receipt of an export, in articles: written now, in the corpus altogether, set aside."""

    new: int
    total: int
    set_aside: int


def existing(folder: Path) -> list[Article]:
    """The articles a corpus folder holds, none where it is no corpus yet.

    Raises:
        DataError: it is damaged.
    """
    if not (folder / MANIFEST).exists():
        return []
    return [a for shard in read_manifest(folder) for a in read_shard(folder, shard)]


def export(folder: Path, articles: Iterable[Article]) -> Exported:
    """Add the articles whose id the corpus does not hold yet, as one new shard.

    Nothing is written where there are none.

    Raises:
        DataError: the corpus is damaged.
        MissingError: it cannot be written.
    """
    from pressft.duplicates import assign  # 0.3 s of scipy, for nothing until the end of a crawl

    old = existing(folder)
    known = {article.id for article in old}
    new = assign((article for article in articles if article.id not in known), old)
    if new:
        shards = list(read_manifest(folder)) if old else []
        name = f"articles-{len(shards):05d}.parquet"
        with _writing(folder):
            shards.append(Shard(name, len(new), _write_shard(new, folder / name)))
            _write(folder / CARD, _card([*old, *new], shards).encode())
            _write(folder / MANIFEST, manifest_text(shards).encode())
    aside = sum(not article.group for article in (*old, *new))
    return Exported(len(new), len(old) + len(new), aside)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = f"corpus {folder} cannot be written ({error.strerror or error})"
        raise MissingError(
            f"{why}: free space or choose another folder, then crawl again"
        ) from None


def _write_shard(articles: Sequence[Article], path: Path) -> str:
    """Write a shard atomically; its sha256 in hex."""
    temporary = _temporary(path)
    write_table(articles, temporary)
    _commit(temporary, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    temporary.write_bytes(data)
    _commit(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _commit(temporary: Path, path: Path) -> None:
    """Make a written file durable, then visible under its name."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _card(articles: Sequence[Article], shards: Sequence[Shard]) -> str:
    """A Hugging Face dataset card; it names the shards, so that strays are not read."""
    files = "\n".join(f"      - {shard.name}" for shard in shards)
    days = sorted(a.published.date().isoformat() for a in articles if a.published)
    years = Counter(day[:4] for day in days)
    rooms = Counter(article.newsroom for article in articles)
    languages = Counter(article.language or "undeclared" for article in articles)
    return f"""---
pretty_name: Newsroom articles
task_categories:
  - text-generation
configs:
  - config_name: default
    data_files:
{files}
---

# Newsroom articles

{len(articles)} articles{f" from {days[0]} to {days[-1]}" if days else ""}, crawled by pressft.
The texts belong to the newsrooms that published them; look up their terms before passing them on.

| | articles |
| --- | --- |
{_rows("newsroom", rooms)}
{_rows("language", languages)}
{_rows("year", years)}
"""


def _rows(name: str, counts: Counter[str]) -> str:
    return "\n".join(f"| {name} {key} | {counts[key]} |" for key in sorted(counts))
