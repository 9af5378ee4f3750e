"""The format of a corpus, its damages, its split."""

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pressft.corpus import format as corpus
from pressft.corpus import summary
from pressft.corpus.format import Article, Shard
from pressft.errors import DataError, UsageError

NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)


def article(name: str, text: str = "", **changes: object) -> Article:
    text = text or f"All about {name}."
    made = Article(
        id=corpus.article_id(f"https://press.example/{name}"),
        url=f"https://press.example/{name}",
        title=name,
        text=text,
        published=NEW_YEAR,
        language="en",
        newsroom="example",
        tags=("one", "two"),
        group=name,
        fetched=NEW_YEAR,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def write(folder: Path, *shards: Iterable[Article]) -> Path:
    folder.mkdir(exist_ok=True)
    described = []
    for number, articles in enumerate(map(list, shards)):
        path = folder / f"articles-{number:05d}.parquet"
        corpus.write_table(articles, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        described.append(Shard(path.name, len(articles), digest))
    (folder / "manifest.json").write_text(corpus.manifest_text(described))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = [f"a{i}" for i in range(50)]
    return write(tmp_path / "c", map(article, names[:30]), map(article, names[30:]))


def test_an_id_is_the_hash_of_host_path_and_query() -> None:
    expected = hashlib.sha256(b"press.example/a/b?c=1").hexdigest()[:16]
    assert corpus.article_id("https://press.example/a/b?c=1") == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://press.example/a", "https://press.example/a", True),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:9000/a", True),
        ("https://press.example/a#top", "https://PRESS.example./a", True),
        ("https://press.example", "https://press.example/", True),
        ("https://press.example/a", "https://press.example/b", False),
        ("https://press.example/a?n=1", "https://press.example/a?n=2", False),
        ("https://press.example/a", "https://press.test/a", False),
    ],
)
def test_an_id_names_a_page_not_a_port(one: str, other: str, same: bool) -> None:
    assert (corpus.article_id(one) == corpus.article_id(other)) is same


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = [
        article("b", "Grüße ☃\n\nzwei", published=None, tags=(), language=""),
        article("a", published=datetime(1899, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ]
    found = corpus.read(write(tmp_path / "c", written))
    assert found.articles == tuple(sorted(written, key=lambda a: a.id))
    assert (found.n_rows, found.n_duplicates, found.n_set_aside) == (2, 0, 0)


def remanifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the second shard, and the manifest with it."""
    path = folder / "articles-00001.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    shards = list(corpus.read_manifest(folder))
    shards[1] = replace(shards[1], sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    (folder / "manifest.json").write_text(corpus.manifest_text(shards))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


SHARD = "articles-00001.parquet"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "holds no manifest.json"),
    "torn manifest": (lambda f: (f / "manifest.json").write_text('{"form'), "manifest.json"),
    "manifest of lists": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json"),
    "binary manifest": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json"),
    "next format": (lambda f: remanifest(f, format=2), "is of format 2"),
    "no articles": (lambda f: remanifest(f, shards=[]), "holds no articles"),
    "path in manifest": (
        lambda f: remanifest(f, shards=[{"name": "../x", "rows": 1, "sha256": ""}]),
        "'../x'",
    ),
    "missing shard": (lambda f: (f / SHARD).unlink(), SHARD),
    "one bit": (lambda f: flip(f / SHARD), f"{SHARD} is damaged"),
    "truncated": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-9]), SHARD),
    "rows": (lambda f: rewrite(f, lambda t: t.slice(1)), f"{SHARD} has 19 rows"),
    "no column": (lambda f: rewrite(f, lambda t: t.drop_columns(["text"])), "'text' is missing"),
    "more columns": (
        lambda f: rewrite(f, lambda t: t.append_column("x", pa.array([1] * 20))),
        "'x' is unknown",
    ),
    "null text": (
        lambda f: rewrite(f, lambda t: column(t, "text", pa.array([None] * 20, pa.string()))),
        "'text' holds 20 nulls",
    ),
    "numbers": (
        lambda f: rewrite(f, lambda t: column(t, "text", pa.array(range(20)))),
        "'text' is int64",
    ),
    "other text": (
        lambda f: rewrite(f, lambda t: column(t, "text", pa.array(["x"] * 20))),
        "does not match its sha256",
    ),
    "same id": (
        lambda f: rewrite(f, lambda t: column(t, "id", pa.array(["x"] * 20))),
        "article x twice",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_corpus_is_refused_by_name(name: str, folder: Path) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(DataError) as caught:
        corpus.read(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_corpus_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="scrapy crawl press -a feed=bmw -a corpus="):
        corpus.read(tmp_path / "none")


def test_of_the_same_text_the_first_published_is_kept_whenever_it_was_fetched(
    tmp_path: Path,
) -> None:
    later = NEW_YEAR + timedelta(days=1)
    prints = set()
    for fetched in (NEW_YEAR, later):  # the order in which a crawl brings pages is chance
        twins = [
            article("a", "Same.", group="g", published=later, fetched=fetched),
            article("b", "Same.", group="g", fetched=NEW_YEAR),
            article("c", "Same.", group="g", published=None, fetched=NEW_YEAR),
            article("d", "Other.", group=""),
        ]
        found = corpus.read(write(tmp_path / fetched.strftime("%d"), twins))
        assert {kept.title for kept in found.articles} == {"b", "d"}
        assert (found.n_rows, found.n_duplicates, found.n_set_aside) == (4, 2, 1)
        assert [kept.title for kept in found.splits.part(corpus.split_of("g"))] == ["b"]
        prints.add(found.fingerprint)
    assert len(prints) == 1


def test_about_eight_one_and_one_of_ten_groups() -> None:
    splits = [corpus.split_of(f"group {i}") for i in range(20_000)]
    assert splits.count("train") / 20_000 == pytest.approx(0.8, abs=0.01)
    assert splits.count("validation") / 20_000 == pytest.approx(0.1, abs=0.01)
    assert splits.count("test") / 20_000 == pytest.approx(0.1, abs=0.01)


@given(st.lists(st.sampled_from(["", *"abcdefghij"]), min_size=1, max_size=30), st.randoms())
def test_a_split_is_a_partition_by_group_unmoved_by_order_and_by_new_articles(
    groups: list[str], rng: random.Random
) -> None:
    rows = [article(f"n{i}", group=group) for i, group in enumerate(groups)]
    whole = corpus.Corpus(Path(), tuple(rows), len(rows), 0, groups.count(""))
    parts = [whole.splits.part(name) for name in corpus.SPLITS]
    assert sorted(a.id for part in parts for a in part) == sorted(a.id for a in rows if a.group)
    for group in set(groups) - {""}:
        assert sum(group in {a.group for a in part} for part in parts) == 1
    some = rng.sample(rows, rng.randint(1, len(rows)))
    fewer = corpus.Corpus(Path(), tuple(some), len(some), 0, 0)
    for name in corpus.SPLITS:
        assert set(fewer.splits.part(name)) == set(whole.splits.part(name)) & set(some)


def test_the_fingerprint_follows_text_and_split_and_nothing_else(tmp_path: Path) -> None:
    rows = [article(f"n{i}") for i in range(9)]

    def fingerprint(*shards: list[Article]) -> str:
        return corpus.read(write(tmp_path / "c", *shards)).fingerprint

    whole = fingerprint(rows)
    lines = sorted(f"{a.id} {a.sha256} {corpus.split_of(a.group)}\n" for a in rows)
    assert whole == hashlib.sha256(("pressft corpus 1\n" + "".join(lines)).encode()).hexdigest()
    assert fingerprint(rows[4:], rows[:4][::-1]) == whole
    assert fingerprint([replace(a, title="other", tags=()) for a in rows]) == whole
    assert fingerprint([*rows, article("aside", group="")]) == whole
    assert fingerprint(rows[1:]) != whole
    assert fingerprint([article("n0", "Other text."), *rows[1:]]) != whole


def test_a_summary_adds_up(tmp_path: Path) -> None:
    rows = [
        article("a", "one two three", published=NEW_YEAR.replace(year=2019), group="g0"),
        article("b", "four", language="de", group="g0"),
        article("c", "four", group="g0"),
        article("d", "five", published=None, group=""),
    ]
    found = summary.summary(corpus.read(write(tmp_path / "c", rows)))
    assert (found.rows, found.duplicates, found.set_aside, found.used) == (4, 1, 1, 2)
    assert found.first == "2019-01-01"
    assert sum(found.languages.values()) == sum(found.newsrooms.values()) == 2
    assert found.splits[corpus.split_of("g0")] == summary.Size(2, 4, 17)


def test_an_export_is_json_lines_of_id_and_text(folder: Path) -> None:
    found = corpus.read(folder)
    lines = [json.loads(line) for name in corpus.SPLITS for line in export(found, name)]
    assert {(line["id"], line["text"]) for line in lines} == {
        (a.id, a.text) for a in found.articles
    }
    with pytest.raises(UsageError, match="train, validation, test"):
        export(found, "dev")


def export(found: corpus.Corpus, split: str) -> list[str]:
    return list(summary.export_lines(found, split))
