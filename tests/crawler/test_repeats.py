"""What repeats over a newsroom goes, and no article eats itself."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crawler.export import Exported, existing, export, export_anew
from crawler.extract import repeats
from crawler.extract.clean import Drop
from pressft.corpus import format as corpus
from pressft.corpus.format import Article, single
from pressft.errors import DataError

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
SLOGAN = "Our mills have ground flour by the river for a hundred years."


def words(seed: str, n: int = 40) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=5)) for _ in range(n))


def article(name: str, *paragraphs: str, day: int = 0) -> Article:
    url = f"https://press.example/{name}"
    text = "\n\n".join(paragraphs)
    return single(url, text, title=name, published=NOW + timedelta(days=day))


def texts(folder: Path) -> dict[str, str]:
    return {one.title: one.text for one in existing(folder)}


def test_a_paragraph_in_three_documents_goes_from_all_new_ones(tmp_path: Path) -> None:
    found = [article(name, words(name), SLOGAN, words(name * 2)) for name in "abc"]
    receipt = export(tmp_path, found)
    assert receipt == Exported(3, 3, 3)
    assert texts(tmp_path) == {name: f"{words(name)}\n\n{words(name * 2)}" for name in "abc"}
    left_out = corpus.read_dropped(tmp_path)
    assert {(one.reason, one.text) for one in left_out} == {(repeats.REASON, SLOGAN)}
    assert {one.id for one in left_out} == {one.id for one in found}


def test_two_documents_are_too_few(tmp_path: Path) -> None:
    export(tmp_path, [article(name, words(name), SLOGAN) for name in "ab"])
    assert all(SLOGAN in text for text in texts(tmp_path).values())


def test_near_duplicates_are_no_repetitions(tmp_path: Path) -> None:
    shared = [words(f"shared {i}") for i in range(4)]
    found = [article(name, *shared, words(name, 3), day=i) for i, name in enumerate("abcde")]
    export(tmp_path, found)
    assert texts(tmp_path) == {one.title: one.text for one in found}
    assert len({one.group for one in existing(tmp_path)}) == 1


def test_what_repeated_once_stays_known_though_it_is_no_longer_in_the_texts(tmp_path: Path) -> None:
    export(tmp_path, [article(name, words(name), SLOGAN) for name in "abc"])
    export(tmp_path, [article("d", words("d"), SLOGAN)])
    assert texts(tmp_path)["d"] == words("d")
    assert len(corpus.read_dropped(tmp_path)) == 4


def test_an_article_of_nothing_but_repetitions_keeps_them(tmp_path: Path) -> None:
    short = article("short", SLOGAN, "Three more words.")
    export(tmp_path, [*(article(n, words(n), SLOGAN) for n in "abc"), short])
    assert texts(tmp_path)["short"] == short.text
    assert short.id not in {one.id for one in corpus.read_dropped(tmp_path)}


def test_an_export_anew_cleans_old_ones_keeps_splits_and_loses_nobody(tmp_path: Path) -> None:
    twins = [words(f"twin {i}") for i in range(5)]
    first = [article("b", *twins, words("b", 3), day=2), article("n", words("n"), SLOGAN)]
    export(tmp_path, first)
    export(tmp_path, [article("a", *twins, words("a", 3), day=1), article("o", words("o"), SLOGAN)])
    export(tmp_path, [article("p", words("p"), SLOGAN)], {"gone": [Drop("no text", "x")]})
    before = {one.title: one.group for one in existing(tmp_path)}
    assert SLOGAN in texts(tmp_path)["n"]  # told apart only later
    again = [*first, article("o", words("o"), SLOGAN), article("p", words("p"), SLOGAN)]
    receipt = export_anew(tmp_path, again, {one.id: [] for one in again})
    assert (receipt.new, receipt.total, receipt.repeats) == (0, 5, 3)
    assert {one.title: one.group for one in existing(tmp_path)} == before
    assert texts(tmp_path)["n"] == words("n")
    assert corpus.read(tmp_path).n_rows == 5  # `a`, which no page gave again, is carried over
    assert [path.name for path in tmp_path.glob("articles-*")] == ["articles-00003.parquet"]


def test_an_export_anew_of_nothing_leaves_the_corpus_as_it_was(tmp_path: Path) -> None:
    found = article("a", words("a"))
    export(tmp_path, [found])
    with pytest.raises(DataError, match="ask for fewer words"):
        export_anew(tmp_path, [], {found.id: []})
    assert texts(tmp_path) == {"a": words("a")}
