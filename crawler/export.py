"""Writing articles to the corpus folder, so that readers see it before or after, never between.

A new shard is written under a temporary name, synced and renamed; then the dataset card; last the
manifest, which alone says what counts. What a killed crawl leaves is overwritten by the next one.
What cleaning left out is written beside the shards, to `dropped.jsonl`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crawler.card import card
from crawler.extract import repeats
from crawler.extract.article import MIN_WORDS
from crawler.extract.clean import Drop
from pressft._files import replacing, write_atomically
from pressft.corpus.format import (
    DROPPED,
    MANIFEST,
    SHARD_NAME,
    Article,
    DroppedParagraph,
    Shard,
    dropped_text,
    manifest_text,
    read_dropped,
    read_manifest,
    read_shard,
    write_table,
)
from pressft.errors import DataError, MissingError

CARD = "README.md"


def assign(new: Iterable[Article], old: Iterable[Article]) -> tuple[Article, ...]:
    """The new articles with their groups, by `pressft.corpus.dedup`."""
    from pressft.corpus import dedup  # 0.3 s of scipy, for nothing until the end of a crawl

    return dedup.assign(new, old)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: new articles, all articles, repeated paragraphs left out."""

    new: int
    total: int
    repeats: int = 0


def existing(folder: Path) -> list[Article]:
    """The articles a corpus folder holds, none where it is no corpus yet.

    Raises:
        DataError: it is damaged.
    """
    if not (folder / MANIFEST).exists():
        return []
    return [a for shard in read_manifest(folder) for a in read_shard(folder, shard)]


def export(
    folder: Path,
    articles: Iterable[Article],
    drops: Mapping[str, Sequence[Drop]] | None = None,
    min_words: int = MIN_WORDS,
    old: Sequence[Article] | None = None,
) -> Exported:
    """Add the articles whose id the corpus does not hold yet, as one new shard.

    `drops` are the paragraphs left out so far, by the id of the page; what repeats over the corpus
    is left out here. No shard is written where there are none. `old` are the articles of the
    corpus, where they are read already.

    Raises:
        DataError: the corpus is damaged.
        MissingError: it cannot be written.
    """
    old = existing(folder) if old is None else old
    known = {article.id for article in old}
    fresh = [article for article in articles if article.id not in known]
    before = read_dropped(folder)
    cleaned = _cleaned(fresh, old, before, min_words)
    new = assign(cleaned.articles, old) if cleaned.drops else tuple(cleaned.articles)
    dropped = _merged(before, drops or {}, cleaned.drops)
    if new or (old and dropped != before):
        shards = list(read_manifest(folder)) if old else []
        with _writing(folder):
            if new:
                name = _next_name(shards)
                shards.append(Shard(name, len(new), _write_shard(new, folder / name)))
            _conclude(folder, [*old, *new], shards, dropped)
    return Exported(len(new), len(old) + len(new), cleaned.n_drops)


def export_anew(
    folder: Path,
    articles: Iterable[Article],
    drops: Mapping[str, Sequence[Drop]],
    min_words: int = MIN_WORDS,
) -> Exported:
    """Replace the corpus by these articles; older ones without a stored page are carried over.

    Groups are found in the order in which the articles came first, so that unchanged texts stay in
    their splits. The old shards are removed once the manifest names the new one.

    Raises:
        DataError: the corpus is damaged, or nothing would be left of it.
        MissingError: it cannot be written.
    """
    old = existing(folder)
    found = {article.id: article for article in articles}
    ids = {article.id for article in old}
    carried = [a for a in old if a.id not in found and a.id not in drops]
    cleaned = _cleaned([*found.values(), *carried], [], [], min_words)
    if not cleaned.articles:
        raise DataError(f"{folder}: no page gives an article: ask for fewer words or any language")
    by_id = {article.id: article for article in cleaned.articles}
    placed: list[Article] = []
    for batch in _batches(folder, by_id):
        placed += assign(batch, placed)
    stale = {path for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name)}
    name = _next_name(read_manifest(folder) if old else [])
    kept_drops = [d for d in read_dropped(folder) if d.id in {a.id for a in carried}]
    with _writing(folder):
        shards = [Shard(name, len(placed), _write_shard(placed, folder / name))]
        _conclude(folder, placed, shards, _merged(kept_drops, drops, cleaned.drops))
        for path in stale - {folder / name}:
            path.unlink()
    return Exported(len(found.keys() - ids), len(placed), cleaned.n_drops)


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """Articles without what repeats over the corpus, and what was left out, by article id."""

    articles: list[Article]
    drops: dict[str, list[Drop]]

    @property
    def n_drops(self) -> int:
        return sum(map(len, self.drops.values()))


def _cleaned(
    new: Sequence[Article],
    old: Sequence[Article],
    before: Iterable[DroppedParagraph],
    min_words: int,
) -> _Cleaned:
    """The new articles without what repeats over old and new ones, or did so before."""
    known = [paragraph.text for paragraph in before if paragraph.reason == repeats.REASON]
    grouped = assign(new, old) if new else ()
    repeated = repeats.learn([*old, *grouped], known) if new else frozenset()
    texts, drops = repeats.without(grouped, repeated)
    kept = []
    for article, before_it in zip(texts, grouped, strict=True):
        if len(article.text.split()) < min_words:  # nothing else in it: no article is lost
            drops.pop(article.id, None)
            article = before_it
        kept.append(article)
    return _Cleaned(kept, drops)


def _next_name(shards: Iterable[Shard]) -> str:
    """The name of a shard that the manifest does not know, the first free number upwards."""
    last = max((int(shard.name[9:14]) for shard in shards), default=-1)
    return f"articles-{last + 1:05d}.parquet"


def _batches(folder: Path, articles: Mapping[str, Article]) -> Iterator[list[Article]]:
    """The articles of each old shard in its order, then those of none."""
    left = dict(articles)
    for shard in read_manifest(folder) if (folder / MANIFEST).exists() else ():
        ids = [article.id for article in read_shard(folder, shard)]
        yield [left.pop(name) for name in ids if name in left]
    yield list(left.values())


def _merged(
    before: Iterable[DroppedParagraph], *drops: Mapping[str, Sequence[Drop]]
) -> list[DroppedParagraph]:
    """What was left out: of pages extracted now, and of the others as noted before."""
    now = {page_id for found in drops for page_id in found}
    rows = [paragraph for paragraph in before if paragraph.id not in now]
    rows += [
        DroppedParagraph(page_id, drop.reason, drop.text)
        for found in drops
        for page_id, left_out in found.items()
        for drop in left_out
    ]
    return sorted(rows, key=lambda row: row.id)


def _conclude(
    folder: Path,
    articles: Sequence[Article],
    shards: Sequence[Shard],
    dropped: Sequence[DroppedParagraph],
) -> None:
    """Write the files beside the shards, the manifest last."""
    if dropped:
        write_atomically(folder / DROPPED, dropped_text(dropped), alone=True)
    else:
        (folder / DROPPED).unlink(missing_ok=True)
    write_atomically(folder / CARD, card(articles, shards, dropped), alone=True)
    write_atomically(folder / MANIFEST, manifest_text(shards), alone=True)


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
    with replacing(path, alone=True) as part:
        write_table(articles, part)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
