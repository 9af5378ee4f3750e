"""The corpus on disk, as its readers find it: ours, pyarrow's and Hugging Face's."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from crawler.export import Exported, existing, export
from pressft.corpus import format as corpus
from pressft.corpus.format import Article, article_id
from pressft.errors import DataError, MissingError

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)


def article(name: str, text: str = "") -> Article:
    url = f"https://press.example/{name}"
    text = text or " ".join(f"{name}{i}" for i in range(30))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Article(article_id(url), url, name, text, NOW, "en", "press", ("t",), "", NOW, digest)


def test_a_second_export_adds_a_shard_of_the_new_alone(tmp_path: Path) -> None:
    assert export(tmp_path, []) == Exported(0, 0)
    assert list(tmp_path.iterdir()) == []
    assert export(tmp_path, [article("a"), article("b")]) == Exported(2, 2)
    first = (tmp_path / "articles-00000.parquet").read_bytes()
    assert export(tmp_path, [article("b", "changed since")]) == Exported(0, 2)
    (tmp_path / "articles-00001.parquet").write_text("left by a crawl that was killed")
    (tmp_path / ".articles-00001.parquet.part").write_text("this, too")
    assert export(tmp_path, [article("c"), article("a")]) == Exported(1, 3)
    assert (tmp_path / "articles-00000.parquet").read_bytes() == first
    assert {a.title for a in corpus.read(tmp_path).articles} == set("abc")
    assert not list(tmp_path.glob(".*"))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [2, 1]
    assert manifest["rows"] == 3


def test_near_duplicates_share_a_group_over_exports(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(99)]
    export(tmp_path, [article("a", " ".join(words))])
    export(tmp_path, [article("b", " ".join([*words, "more"])), article("c")])
    groups = {a.title: a.group for a in existing(tmp_path)}
    assert groups["a"] == groups["b"] != groups["c"]


def test_a_corpus_loads_with_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "corpora" / "name"
    folder.mkdir(parents=True)
    export(folder, [article("a"), article("b")])
    export(folder, [article("c")])
    (folder / "articles-00002.parquet").write_text("a stray that the card does not name")
    (folder / "crawl.db").write_bytes(b"no data file")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(loaded["title"]) == ["a", "b", "c"]
    assert set(loaded.column_names) == set(corpus.SCHEMA.names)
    assert loaded[0]["published"] == NOW
    assert loaded[0]["tags"] == ["t"]


def test_pages_of_a_shard_carry_checksums(tmp_path: Path) -> None:
    export(tmp_path, [article("a")])
    path = tmp_path / "articles-00000.parquet"
    data = bytearray(path.read_bytes())
    data[60] ^= 1  # within the first page
    with pytest.raises(OSError, match=r"CRC|integrity"):
        pa.parquet.read_table(pa.BufferReader(bytes(data)), page_checksum_verification=True)


def test_a_damaged_corpus_is_not_added_to(tmp_path: Path) -> None:
    export(tmp_path, [article("a")])
    (tmp_path / "articles-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"articles-00000\.parquet"):
        export(tmp_path, [article("b")])


def test_a_corpus_that_cannot_be_written_is_an_error_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / ".articles-00000.parquet.part").mkdir()  # also for root, who may write anywhere
    with pytest.raises(MissingError, match="crawl again"):
        export(tmp_path, [article("a")])
    assert not (tmp_path / "manifest.json").exists()
