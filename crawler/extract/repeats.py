"""Boilerplate: paragraphs found in three or more texts of a newsroom.

Found on the whole corpus when it is written. Near duplicates count as one text: a release that
several clubs publish is no boilerplate. Left to others: finding groups (`pressft.corpus.dedup`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from crawler.extract.clean import Drop
from pressft.corpus.format import Article, text_sha256

REASON = "repeats over the newsroom"
TIMES = 3  # in 273 real releases 15.8% of all characters are in such paragraphs


def learn(articles: Iterable[Article], known: Iterable[str] = ()) -> frozenset[bytes]:
    """Keys of the paragraphs found in at least `TIMES` groups, with those `known` as such before.

    An article that belongs to no group counts as one of its own.
    """
    first: dict[bytes, str] = {}  # nearly all paragraphs are in one group only
    others: dict[bytes, set[str]] = defaultdict(set)
    for article in articles:
        group = article.group or article.id
        for paragraph in article.text.split("\n\n"):
            key = _key(paragraph)
            if first.setdefault(key, group) != group:
                others[key].add(group)
    often = {key for key, found in others.items() if len(found) >= TIMES - 1}
    return frozenset(often | {_key(paragraph) for paragraph in known})


def without(
    articles: Sequence[Article], repeated: frozenset[bytes]
) -> tuple[list[Article], dict[str, list[Drop]]]:
    """The articles without repeated paragraphs, and those by article id; texts may end empty."""
    cleaned = []
    drops: dict[str, list[Drop]] = defaultdict(list)
    for article in articles:
        paragraphs = article.text.split("\n\n")
        kept = [paragraph for paragraph in paragraphs if _key(paragraph) not in repeated]
        lost = [Drop(REASON, p) for p in paragraphs if _key(p) in repeated]
        if lost:
            text = "\n\n".join(kept)
            article = replace(article, text=text, sha256=text_sha256(text))
            drops[article.id] = lost
        cleaned.append(article)
    return cleaned, dict(drops)


def _key(paragraph: str) -> bytes:
    """Short, because the keys of all paragraphs of a corpus are held at once."""
    return hashlib.blake2b(paragraph.casefold().encode(), digest_size=16).digest()
