"""Groups of near duplicates: who belongs with whom, so that a split never leaks (law 5).

Two texts are near twins when the Jaccard index of their sets of word 5-grams is at least 0.8.
MinHash (Broder 1997) proposes pairs, the exact index decides. Left to others: dropping exact
duplicates and mapping a group to its split (`corpus`), storing groups (`crawler.exporter`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from datasketch import MinHash

from pressft.corpus.format import Article, split_of

SHINGLE_WORDS = 5
THRESHOLD = 0.8  # in 273 real releases a random split left 10% of the test set with such a twin
PERMUTATIONS = 128
# 32 bands of 4 rows propose a pair at the threshold with probability 1 - (1 - 0.8^4)^32, all but
# 5 in 10^8; the library's own choice for 0.8 would miss about a third of them.
BANDS = (32, 4)
Sketch = np.ndarray[tuple[int], np.dtype[np.uint32]]
Sketches = np.ndarray[tuple[int, int], np.dtype[np.uint32]]  # (articles, PERMUTATIONS)
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
    placed = sorted((a for a in old if a.group), key=lambda article: article.id)
    n_old = len(placed)
    placed += sorted(new, key=lambda article: (article.published or _NEVER, article.id))
    proposed = _proposed(np.array([_sketch(article.text) for article in placed]))
    for i in range(n_old, len(placed)):
        near = {row for rows, n in proposed.get(i, ()) for row in rows[:n]}
        groups = _groups_near(placed[i], [placed[row] for row in near])
        splits = {split_of(group) for group in groups}
        group = min(groups, default=placed[i].id) if len(splits) < 2 else ""
        placed[i] = replace(placed[i], group=group)
    return tuple(placed[n_old:])


def _groups_near(article: Article, others: Iterable[Article]) -> set[str]:
    """Groups of those of the others that are its near twins; some may be set aside."""
    groups: set[str] = set()
    for other in others:
        known = not other.group or other.group in groups  # one twin is enough: it may be large
        if not known and jaccard(shingles(article.text), shingles(other.text)) >= THRESHOLD:
            groups.add(other.group)
    return groups


def _proposed(sketches: Sketches) -> dict[int, list[tuple[list[int], int]]]:
    """For each row that agrees with others in a whole band: the rows that agree, ascending, and
    how many of them come before it; one entry for each band.

    Sorted band by band: a table of buckets, as datasketch's, takes 12 kB an article.
    """
    found: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
    n_bands, width = BANDS
    for start in range(0, n_bands * width, width) if len(sketches) else ():
        band = sketches[:, start : start + width]
        order = np.lexsort(band.T)  # stable: rows that agree stay in their order
        agree = (band[order[1:]] == band[order[:-1]]).all(axis=1)
        bucket = [-1]
        for at in np.flatnonzero(agree).tolist():  # place of a row that the next one agrees with
            row, following = order[at : at + 2].tolist()
            if bucket[-1] != row:
                bucket = [row]
            found[following].append((bucket, len(bucket)))
            bucket.append(following)
    return found


def _sketch(text: str) -> Sketch:
    """The PERMUTATIONS smallest hashes, which fit into 32 bits."""
    sketch = _EMPTY.copy()
    sketch.update_batch([shingle.encode() for shingle in shingles(text)])
    return np.asarray(sketch.hashvalues, dtype=np.uint32)
