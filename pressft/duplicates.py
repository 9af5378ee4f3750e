"""Groups of near duplicates: who belongs with whom, so that a split never leaks (law 5).

Two texts are near twins when the Jaccard index of their sets of word 5-grams is at least 0.8.
MinHash (Broder 1997) proposes pairs, the exact index decides. Left to others: dropping exact
duplicates and mapping a group to its split (`corpus`), storing groups (`crawler.exporter`).
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

from datasketch import MinHash, MinHashLSH

from pressft.corpus import Article, split_of

SHINGLE_WORDS = 5
THRESHOLD = 0.8  # in 273 real releases a random split left 10% of the test set with such a twin
PERMUTATIONS = 128
# 32 bands of 4 rows propose a pair at the threshold with probability 1 - (1 - 0.8^4)^32, all but
# 5 in 10^8; the library's own choice for 0.8 would miss about a third of them.
BANDS = (32, 4)
_EMPTY = MinHash(num_perm=PERMUTATIONS, seed=1)

_WORD = re.compile(r"\w+")
_NEVER = datetime.max.replace(tzinfo=UTC)  # articles without a date come last


@lru_cache(8)  # of the article at hand it is asked twice; more would hold long texts many times
def shingles(text: str) -> frozenset[str]:
    """The set of word 5-grams, lower case, punctuation ignored.

    A text of fewer words is one shingle: it has only exact twins. One without words is its own
    characters.
    """
    words = _WORD.findall(text.lower())
    if len(words) <= SHINGLE_WORDS:
        return frozenset([" ".join(words) or text.strip()])
    starts = range(len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[i : i + SHINGLE_WORDS]) for i in starts)


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared over all shingles of two sets that are not both empty."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def assign(new: Iterable[Article], old: Iterable[Article]) -> tuple[Article, ...]:
    """The `new` articles with their groups, by publication and id; `old` ones keep theirs.

    Each joins the group of its near twins (the first by name, where they are of several in one
    split), or founds one named by its own id; one with twins in two splits is set aside
    (group ""), and has no say about those after it.
    """
    index = _Index()
    for article in sorted(old, key=lambda article: article.id):
        if article.group:
            index.add(article, _sketch(article.text))
    placed = []
    for article in sorted(new, key=lambda article: (article.published or _NEVER, article.id)):
        sketch = _sketch(article.text)
        groups = index.groups_near(article.text, sketch)
        splits = {split_of(group) for group in groups}
        group = min(groups, default=article.id) if len(splits) < 2 else ""
        placed.append(replace(article, group=group))
        if group:
            index.add(placed[-1], sketch)
    return tuple(placed)


class _Index:
    """Finds the groups of near twins among the articles added so far."""

    def __init__(self) -> None:
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=BANDS)
        self._articles: dict[str, Article] = {}

    def add(self, article: Article, sketch: MinHash) -> None:
        self._lsh.insert(article.id, sketch)
        self._articles[article.id] = article

    def groups_near(self, text: str, sketch: MinHash) -> set[str]:
        own = shingles(text)
        groups: set[str] = set()
        for article in (self._articles[i] for i in self._lsh.query(sketch)):
            known = article.group in groups  # one twin is enough: a group may be large
            if not known and jaccard(own, shingles(article.text)) >= THRESHOLD:
                groups.add(article.group)
        return groups


def _sketch(text: str) -> MinHash:
    sketch = _EMPTY.copy()
    sketch.update_batch([shingle.encode() for shingle in shingles(text)])
    return sketch
