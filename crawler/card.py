"""The dataset card of a corpus: how to load it, and a report of its quality in numbers."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from pressft.corpus.format import Article, DroppedParagraph, Shard

_MOST = 20  # tags shown


def card(
    articles: Sequence[Article], shards: Sequence[Shard], dropped: Sequence[DroppedParagraph]
) -> str:
    """A Hugging Face dataset card; it names the shards, so that strays are not read."""
    files = "\n".join(f"      - {shard.name}" for shard in shards)
    days = sorted(a.published.date().isoformat() for a in articles if a.published)
    span = f" from {days[0]} to {days[-1]}" if days else ""
    counts = {
        "newsroom": Counter(article.newsroom for article in articles),
        "language": Counter(article.language or "undeclared" for article in articles),
        "year": Counter(day[:4] for day in days),
        "tag": Counter(dict(Counter(t for a in articles for t in a.tags).most_common(_MOST))),
    }
    rows = "\n".join(_rows(name, counted) for name, counted in counts.items() if counted)
    return f"""---
pretty_name: Newsroom articles
task_categories:
  - text-generation
configs:
  - config_name: default
    data_files:
{files}
---

# Newsroom articles

{len(articles)} articles{span}, crawled by pressft.
The texts belong to the newsrooms that published them; look up their terms before passing them on.

| | articles |
| --- | --- |
{rows}

## Quality

{_lengths(articles)} {_duplicates(articles)}

{_dropped(articles, dropped)}
"""


def _rows(name: str, counts: Counter[str]) -> str:
    return "\n".join(f"| {name} {_cell(key)} | {counts[key]} |" for key in sorted(counts))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _lengths(articles: Iterable[Article]) -> str:
    words = sorted(len(article.text.split()) for article in articles)
    tenths = statistics.quantiles(words, n=10, method="inclusive") if len(words) > 1 else words * 9
    return (
        f"{sum(words):,} words; {statistics.median(words):,.0f} in the median article, "
        f"{tenths[0]:,.0f} to {tenths[-1]:,.0f} in four of five."
    )


def _duplicates(articles: Sequence[Article]) -> str:
    n_exact = len(articles) - len({article.sha256 for article in articles})
    sizes = Counter(article.group for article in articles if article.group)
    n_near = sum(size for size in sizes.values() if size > 1)
    n_aside = sum(not article.group for article in articles)
    return (
        f"{n_exact} exact duplicates, which readers drop; {n_near} articles with a near duplicate, "
        f"which share a split; {n_aside} set aside, as they have one in two splits."
    )


def _dropped(articles: Iterable[Article], dropped: Sequence[DroppedParagraph]) -> str:
    """Paragraphs left out, and their share of all characters, by reason."""
    if not dropped:
        return "Cleaning left nothing out."
    n_kept = sum(len(article.text) for article in articles)
    n_all = n_kept + sum(len(paragraph.text) for paragraph in dropped)
    counts = Counter(paragraph.reason for paragraph in dropped)
    characters: Counter[str] = Counter()
    for paragraph in dropped:
        characters[paragraph.reason] += len(paragraph.text)
    rows = "\n".join(
        f"| {_cell(reason)} | {n:,} | {characters[reason] / n_all:.1%} |"
        for reason, n in counts.most_common()
    )
    return (
        "Left out, shown by `pressft corpus DIR --dropped`:\n\n"
        f"| reason | paragraphs | of all characters |\n| --- | --- | --- |\n{rows}"
    )
