"""Law 5 where groups are made. The oracle is the Jaccard index of every pair, by plain sets."""

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pressft.corpus.dedup import assign, jaccard, shingles
from pressft.corpus.format import Article, split_of

START = datetime(2024, 1, 1, tzinfo=UTC)


def article(number: int, words: list[str], group: str = "") -> Article:
    text = " ".join(words)
    name = f"{number:03d}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    day = START + timedelta(days=number)
    return Article(name, name, name, text, day, "en", "x", (), group, START, digest)


def are_twins(a: Article, b: Article) -> bool:
    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    one, other = grams(a.text.split()), grams(b.text.split())
    return len(one & other) / len(one | other) >= 0.8


@st.composite
def related_articles(draw: st.DrawFn) -> list[Article]:
    """Articles of 80 words from three originals, some words replaced: one edit costs 0.12."""
    articles = []
    for number in range(draw(st.integers(2, 9))):
        original = draw(st.integers(0, 2))
        words = [f"w{original}x{i}" for i in range(80)]
        for position in draw(st.lists(st.sampled_from([0, 20, 40, 60, 79]), max_size=3)):
            words[position] = f"edit{draw(st.integers(0, 1))}"
        articles.append(article(number, words))
    return articles


@settings(max_examples=60, deadline=None)
@given(related_articles(), st.integers(0, 9), st.randoms())
def test_no_near_twins_in_two_splits_and_no_old_article_moves(
    articles: list[Article], cut: int, rng: random.Random
) -> None:
    shuffled = rng.sample(articles, len(articles))
    old = assign(shuffled[:cut], [])
    placed = {a.id: a for a in (*old, *assign(shuffled[cut:], old))}
    assert placed.keys() == {a.id for a in articles}
    assert all(placed[a.id] == a for a in old)
    used = [a for a in placed.values() if a.group]
    for one, other in combinations(used, 2):
        if are_twins(one, other):
            assert split_of(one.group) == split_of(other.group)
    for lone in placed.values():
        if not any(are_twins(lone, other) for other in placed.values() if other.id != lone.id):
            assert lone.group == lone.id


@settings(max_examples=30, deadline=None)
@given(related_articles(), st.randoms())
def test_groups_are_unmoved_by_the_order_of_rows(
    articles: list[Article], rng: random.Random
) -> None:
    assert assign(rng.sample(articles, len(articles)), []) == assign(articles, [])


def test_one_that_would_join_two_old_groups_of_different_splits_is_set_aside() -> None:
    words = [f"w{i}" for i in range(80)]
    left, right = list(words), list(words)
    left[20], right[60] = "left", "right"  # each near the middle, too far from each other
    groups = [f"g{i}" for i in range(99)]
    train = next(g for g in groups if split_of(g) == "train")
    test = next(g for g in groups if split_of(g) == "test")
    also_train = next(g for g in groups if split_of(g) == "train" and g > train)
    old = [article(1, left, train), article(2, right, test)]
    assert not are_twins(*old)
    (placed,) = assign([article(3, words)], old)
    assert placed.group == ""
    (joined,) = assign([article(3, words)], [old[0], replace(old[1], group=also_train)])
    assert joined.group == train
    (again,) = assign([article(4, [f"v{i}" for i in range(80)])], [placed])
    assert again.group == again.id


def test_one_set_aside_has_no_say() -> None:
    words = [f"w{i}" for i in range(80)]
    (placed,) = assign([article(2, words)], [article(1, words, "")])
    assert placed.group == "002"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a b c d e f", "a b c d e f", 1.0),
        ("a b c d e f", "A, b / c d e; f!", 1.0),
        ("a b c d e f", "b c d e f g", 1 / 3),
        ("short", "short", 1.0),
        ("short", "other", 0.0),
        ("???", "!!!", 0.0),
        ("a b c d e", "a b c d e f", 0.5),
    ],
)
def test_the_index_by_hand(one: str, other: str, expected: float) -> None:
    assert jaccard(shingles(one), shingles(other)) == pytest.approx(expected)
