"""General text: the openings of a hundred English Wikipedia articles, out of a PyPI wheel.

What a model forgets while it learns a newsroom is measured on text that has nothing to do with it.
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
OPENING_WORDS = 400  # of each article: many topics in little text
NO_PROSE = {"ref", "table", "gallery"}
_BROKEN = re.compile(r"\s*\((?:[;,][^()]*)?\)")  # a pronunciation stood there
PARAGRAPH_WORDS = 20  # less is a caption, a list or a remnant of a table


def corpus(progress: _assets.Progress) -> Corpus:
    """The openings as a corpus in memory, each article its own group.

    Raises:
        MissingError: no package index reachable.
    """
    return in_memory(NAME, _articles(_assets.fetch(_assets.WIKIPEDIA, progress)))


def _articles(dump: Path) -> Iterator[Article]:
    """Every page that is an article and opens with prose."""
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
    """The first paragraphs of prose of an article, up to OPENING_WORDS, one at least."""
    code = mwparserfromhell.parse(markup.split("\n==", 1)[0])
    for tag in code.filter_tags(recursive=False):
        if str(tag.tag) in NO_PROSE:
            code.remove(tag)
    paragraphs: list[str] = []
    left = OPENING_WORDS
    for line in code.strip_code().splitlines():
        words = _BROKEN.sub("", line).split()
        if len(words) >= PARAGRAPH_WORDS and words[-1][-1] in '."”)' and "|" not in line:
            left -= len(words)
            if paragraphs and left < 0:
                break
            paragraphs.append(" ".join(words))
    return "\n\n".join(paragraphs)
