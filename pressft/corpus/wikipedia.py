"""General-domain text: openings of a hundred English Wikipedia articles, from a PyPI wheel.

Forgetting during fine-tuning on a newsroom is measured on text unrelated to that newsroom.
gensim ships a shortened Wikipedia dump for its tests; it is fetched by hash and parsed here.
"""

import bz2
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import mwparserfromhell
from lxml import etree

from pressft import _assets
from pressft.corpus.format import Article, Corpus, in_memory, single

NAME = "wikipedia"
OPENING_WORDS = 400  # per article, for many topics in little text
NO_PROSE = {"ref", "table", "gallery"}
_BROKEN = re.compile(r"\s*\((?:[;,][^()]*)?\)")  # what is left of a pronunciation in parentheses
PARAGRAPH_WORDS = 20  # at least; shorter ones are captions, lists or remnants of tables


def corpus(progress: _assets.Progress) -> Corpus:
    """The openings as a corpus in memory, each article its own group.

    Raises:
        MissingError: no package index reachable.
    """
    return in_memory(NAME, _articles(_assets.fetch(_assets.WIKIPEDIA, progress)))


def _articles(dump: Path) -> Iterator[Article]:
    """Every page of the dump that is an article and opens with prose."""
    with bz2.open(dump) as file:
        for _, page in etree.iterparse(file, tag="{*}page", recover=True):
            title = page.findtext("{*}title")
            edited = datetime.fromisoformat(page.findtext("{*}revision/{*}timestamp"))
            markup = page.findtext("{*}revision/{*}text") or ""
            redirect = page.find("{*}redirect") is not None
            page.clear()
            if not redirect and (text := opening(markup)):
                url = f"https://en.wikipedia.org/wiki/{quote(title.replace(' ', '_'))}"
                when = edited.astimezone(UTC)
                yield single(url, text, title=title, published=when, language="en")


def opening(markup: str) -> str:
    """The first paragraphs of prose, up to OPENING_WORDS words; at least one paragraph."""
    code = mwparserfromhell.parse(markup.split("\n==", 1)[0])
    for tag in code.filter_tags(recursive=False):
        if str(tag.tag) in NO_PROSE:
            code.remove(tag)
    paragraphs: list[str] = []
    words_left = OPENING_WORDS
    for line in code.strip_code().splitlines():
        words = _BROKEN.sub("", line).split()
        if len(words) >= PARAGRAPH_WORDS and words[-1][-1] in '."”)' and "|" not in line:
            words_left -= len(words)
            if paragraphs and words_left < 0:
                break
            paragraphs.append(" ".join(words))
    return "\n\n".join(paragraphs)
