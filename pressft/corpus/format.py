"""A corpus on disk: its columns, its manifest, and reading it back verified and split.

The format lives here and nowhere else: a folder of `articles-NNNNN.parquet` shards (zstd, page
checksums) and a `manifest.json`, written last, with the sha256 and the rows of every shard; beside
them, no part of the corpus, `dropped.jsonl`.
Left to others: fetching and writing articles (`crawler`), finding near duplicates (`duplicates`),
tokens and blocks (`blocks`).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pressft.errors import DataError

FORMAT = 1  # of manifest, columns and split; part of the fingerprint
MANIFEST = "manifest.json"
DROPPED = "dropped.jsonl"  # beside the shards and none of them: what cleaning left out
AT_ONCE = 1000  # rows read or written: what is decoded is held twice meanwhile
SHARD_NAME = re.compile(
    r"articles-\d{5}\.parquet"
)  # no separators: a manifest cannot point outside

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # a text without a date was fetched then

_TIME = pa.timestamp("s", tz="UTC")
_TIME_STORED = pa.timestamp("ms", tz="UTC")  # parquet has no seconds: they come back as these
_COLUMNS: dict[str, Any] = {
    "id": pa.string(),
    "url": pa.string(),
    "title": pa.string(),
    "text": pa.string(),
    "published": _TIME,
    "language": pa.string(),
    "newsroom": pa.string(),
    "tags": pa.list_(pa.string()),
    "group": pa.string(),
    "fetched": _TIME,
    "sha256": pa.string(),
}
SCHEMA = pa.schema([pa.field(n, t, nullable=n == "published") for n, t in _COLUMNS.items()])


@dataclass(frozen=True, slots=True)
class Article:
    """One article; times are aware and UTC, to the second.

    `id` is the `article_id` of the address it was found at; `url` may be the page's own name for
    it, which differs in the query at most. `text` has paragraphs separated by a blank line,
    `sha256` is that of the UTF-8 text, `published` is None and `language` "" where nothing tells
    them, `group` names the set of near duplicates and is "" for an article set aside.
    """

    id: str
    url: str
    title: str
    text: str
    published: datetime | None
    language: str
    newsroom: str
    tags: tuple[str, ...]
    group: str
    fetched: datetime
    sha256: str


@dataclass(frozen=True, slots=True)
class Shard:
    """One parquet file as the manifest knows it: sha256 in hex of the whole file."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DroppedParagraph:
    """A paragraph, or sentences of one, left out of article `id`, which may be left out as well."""

    id: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Splits:
    """A partition of the used articles, each part in the order of ids."""

    train: tuple[Article, ...]
    validation: tuple[Article, ...]
    test: tuple[Article, ...]

    def part(self, name: SplitName) -> tuple[Article, ...]:
        """The part called `name`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True)
class Corpus:
    """A verified corpus: `articles` by id, exact duplicates dropped, those set aside included.

    `n_rows` counts the rows of all shards, `n_duplicates` those dropped because another article
    has the very same text, `n_set_aside` the articles that belong to no split.
    """

    folder: Path
    articles: tuple[Article, ...]
    n_rows: int
    n_duplicates: int
    n_set_aside: int

    @cached_property
    def splits(self) -> Splits:
        """About 80% train, 10% validation, 10% test: whole groups, moved by nothing (law 5)."""
        parts: dict[SplitName, list[Article]] = {name: [] for name in SPLITS}
        for article in self.articles:
            if article.group:
                parts[split_of(article.group)].append(article)
        return Splits(*(tuple(parts[name]) for name in SPLITS))

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 in hex of what a result depends on: id, text and split of each used article."""
        digest = hashlib.sha256(f"pressft corpus {FORMAT}\n".encode())
        for article in self.articles:
            if article.group:
                line = f"{article.id} {article.sha256} {split_of(article.group)}\n"
                digest.update(line.encode())
        return digest.hexdigest()


def in_memory(name: str, articles: Iterable[Article]) -> Corpus:
    """A corpus that stands in no folder."""
    ordered = tuple(sorted(articles, key=lambda article: article.id))
    return Corpus(Path(name), ordered, len(ordered), 0, 0)


def single(
    url: str,
    text: str,
    *,
    title: str = "",
    published: datetime | None = None,
    language: str = "",
    tags: Sequence[str] = (),
) -> Article:
    """An article that is a group of its own."""
    return Article(
        id=article_id(url),
        url=url,
        title=title,
        text=text,
        published=published,
        language=language,
        newsroom=urlsplit(url).hostname or "",
        tags=tuple(tags),
        group=article_id(url),
        fetched=published or EPOCH,
        sha256=text_sha256(text),
    )


def article_id(url: str) -> str:
    """16 hex digits naming the page at `url`: its host, path and query.

    Scheme, port and fragment are ignored: http and https serve the same page, a newsroom on
    loopback moves its port from one run to the next, and a fragment is a place within a page.
    """
    parts = urlsplit(url)
    page = f"{(parts.hostname or '').rstrip('.')}{parts.path or '/'}"
    if parts.query:
        page += f"?{parts.query}"
    return hashlib.sha256(page.encode(errors="surrogatepass")).hexdigest()[:16]


def text_sha256(text: str) -> str:
    """Sha256 in hex of the UTF-8 bytes of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(group: str) -> SplitName:
    """The split of a group: a pure function of its name, so nothing else can move it (law 5)."""
    tenth = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) % 10
    return "test" if tenth == 9 else "validation" if tenth == 8 else "train"


def write_table(articles: Sequence[Article], path: Path) -> None:
    """Write one shard of `SCHEMA` to `path`; not atomic: the caller names, syncs and moves it."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, len(articles), AT_ONCE):
            rows = [asdict(article) for article in articles[start : start + AT_ONCE]]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def dropped_text(paragraphs: Iterable[DroppedParagraph]) -> str:
    """The text of `dropped.jsonl`: a JSON object a line."""
    return "".join(f"{json.dumps(asdict(p), ensure_ascii=False)}\n" for p in paragraphs)


def read_dropped(folder: Path) -> list[DroppedParagraph]:
    """The articles and texts left out of the corpus in `folder`, by id; none without a file.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / DROPPED
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [DroppedParagraph(**json.loads(line)) for line in lines if line]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        cure = f"make it anew with `scrapy crawl press -a corpus={folder} -a reextract=1`"
        raise DataError(f"{path} is damaged ({why}): {cure}") from None


def manifest_text(shards: Sequence[Shard]) -> str:
    """The text of `manifest.json` for these shards."""
    body = {
        "format": FORMAT,
        "rows": sum(shard.rows for shard in shards),
        "shards": [asdict(shard) for shard in shards],
    }
    return json.dumps(body, indent=2) + "\n"


def read_manifest(folder: Path) -> tuple[Shard, ...]:
    """The shards the manifest of `folder` names, in its order.

    Raises:
        DataError: no such folder, no manifest, or one that is not ours.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise DataError(f"no corpus folder {folder}: {_how_to_crawl(folder)}")
    try:
        body = json.loads(path.read_bytes())
        if body["format"] != FORMAT:
            raise DataError(
                f"{path} is of format {body['format']!r}, this version reads {FORMAT}: "
                f"use the version that wrote it, or crawl into a new folder"
            )
        shards = tuple(Shard(s["name"], int(s["rows"]), s["sha256"]) for s in body["shards"])
        strange = [s.name for s in shards if not SHARD_NAME.fullmatch(s.name)]
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {MANIFEST}: {_how_to_crawl(folder)}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is damaged ({why}): {_how_to_crawl(folder)}") from None
    if strange:
        raise DataError(f"{path} names a shard {strange[0]!r}: expected articles-NNNNN.parquet")
    return shards


def read(folder: Path) -> Corpus:
    """The corpus in `folder`, every file verified, the same whatever the order of its rows.

    Of articles with the very same text the one published first is kept, then the smallest id: two
    crawls bring the same pages in another order, and must give the same corpus.

    Raises:
        DataError: a missing or damaged manifest or shard, or no articles; it names the file.
    """
    rows = [article for shard in read_manifest(folder) for article in read_shard(folder, shard)]
    if not rows:
        raise DataError(f"{folder} holds no articles: {_how_to_crawl(folder)}")
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"{folder} holds article {twice[0]} twice: {_how_to_crawl(folder)}")
    kept: dict[str, Article] = {}
    for article in sorted(rows, key=_age):
        kept.setdefault(article.sha256, article)
    articles = tuple(sorted(kept.values(), key=lambda article: article.id))
    n_aside = sum(not article.group for article in articles)
    return Corpus(folder, articles, len(rows), len(rows) - len(articles), n_aside)


def read_shard(folder: Path, shard: Shard) -> list[Article]:
    """The articles of one shard, after its sha256, page checksums, columns and texts are checked.

    Raises:
        DataError: the file is missing, or not what the manifest or `SCHEMA` says.
    """
    path = folder / shard.name
    cure = "restore it from a copy, or delete the folder and crawl again"
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DataError(f"{path} is damaged: its sha256 is not the manifest's; {cure}")
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        n_rows = file.metadata.num_rows
        if n_rows != shard.rows:
            raise DataError(f"{path} has {n_rows} rows, the manifest says {shard.rows}: {cure}")
        if wrong := _difference(file.schema_arrow):
            raise DataError(f"{path} is no shard of ours, {wrong}: {cure}")
        articles = []
        for batch in file.iter_batches(AT_ONCE):
            if wrong := _nulls(batch):
                raise DataError(f"{path} is no shard of ours, {wrong}: {cure}")
            articles += [_article(row) for row in batch.to_pylist()]
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read ({reason}): {cure}") from None
    for article in articles:
        if article.sha256 != text_sha256(article.text):
            raise DataError(f"{path}: the text of {article.id} does not match its sha256; {cure}")
    return articles


def _age(article: Article) -> tuple[bool, float, str]:
    """Sorts by the day of publishing, articles without one last, then by id."""
    moment = article.published.timestamp() if article.published else 0.0
    return article.published is None, moment, article.id


def _article(row: dict[str, Any]) -> Article:
    return Article(**{**row, "tags": tuple(row["tags"])})


def _difference(schema: pa.Schema) -> str:
    """The reason why columns cannot be used as articles, "" where there is none."""
    for field in SCHEMA:
        if field.name not in schema.names:
            return f"column {field.name!r} is missing"
        kind = schema.field(field.name).type
        stored = _TIME_STORED if field.type == _TIME else field.type
        if kind != stored:
            return f"column {field.name!r} is {kind} instead of {stored}"
    extra = sorted(set(schema.names) - set(SCHEMA.names))
    return f"column {extra[0]!r} is unknown" if extra else ""


def _nulls(rows: pa.RecordBatch) -> str:
    """Which column lacks values that it must have, "" if none does."""
    for field in SCHEMA:
        n_nulls = rows.column(field.name).null_count
        if n_nulls and not field.nullable:
            return f"column {field.name!r} holds {n_nulls} nulls"
    return ""


def _how_to_crawl(folder: Path) -> str:
    return f"crawl one with `scrapy crawl press -a feed=bmw -a corpus={folder}`"
