"""A corpus in numbers: counts, dates, languages; and the texts of a split as JSON lines."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pressft.corpus.format import SPLITS, Article, Corpus, SplitName
from pressft.errors import UsageError


@dataclass(frozen=True, slots=True)
class Size:
    """Amount of text: articles, words between white space, characters."""

    articles: int
    words: int
    characters: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary that `pressft corpus` shows, ready for `dataclasses.asdict` and JSON.

    `rows` = `used` + `duplicates` + `set_aside`; dates are ISO 8601 days, None without any; dates,
    languages ("" is undeclared) and newsrooms are those of the used articles, most frequent first.
    """

    folder: str
    rows: int
    duplicates: int
    set_aside: int
    used: int
    first: str | None
    last: str | None
    languages: dict[str, int]
    newsrooms: dict[str, int]
    splits: dict[str, Size]
    fingerprint: str


def summary(corpus: Corpus) -> Summary:
    """Counts, dates, languages, splits and fingerprint of a corpus."""
    used = [article for article in corpus.articles if article.group]
    days = sorted(article.published.date().isoformat() for article in used if article.published)
    return Summary(
        folder=str(corpus.folder),
        rows=corpus.n_rows,
        duplicates=corpus.n_duplicates,
        set_aside=corpus.n_set_aside,
        used=len(used),
        first=days[0] if days else None,
        last=days[-1] if days else None,
        languages=_counts(article.language for article in used),
        newsrooms=_counts(article.newsroom for article in used),
        splits={name: _size(corpus.splits.part(name)) for name in SPLITS},
        fingerprint=corpus.fingerprint,
    )


def export_lines(corpus: Corpus, split: str) -> Iterator[str]:
    """JSON lines `{"id": …, "text": …}` of one split, in the order of ids, without line ends.

    Raises:
        UsageError: no such split.
    """
    names: dict[str, SplitName] = {name: name for name in SPLITS}
    if split not in names:
        raise UsageError(f"no split {split!r}: choose {', '.join(SPLITS)}")
    part = corpus.splits.part(names[split])
    return (json.dumps({"id": a.id, "text": a.text}, ensure_ascii=False) for a in part)


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _size(articles: Sequence[Article]) -> Size:
    words = sum(len(article.text.split()) for article in articles)
    return Size(len(articles), words, sum(len(article.text) for article in articles))
